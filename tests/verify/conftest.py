"""The database that the tests of momentum.verify share."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from momentum.testing import Server
from tests.server import connect_as_owner


@pytest.fixture(scope="module")
def fresh(server: Server) -> Iterator[sa.Connection]:
    """A connection to a migrated database that a module's tests share, because none of them commits."""
    with server.database() as url, connect_as_owner(server, url) as connection:
        yield connection
