"""The database in which pytest runs the files of this folder: migrated, with pgTAP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from momentum.connect.engine import create_engine
from momentum.connect.url import as_text
from momentum.testing import install_pgtap
from tests.server import shared_server


@pytest.fixture(scope="session")
def pgtap_connection(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A connection for pytest-pgtap to a database of its own."""
    with shared_server(request.config).database() as url:
        with create_engine(url, application_name="momentum-pgtap").begin() as connection:
            install_pgtap(connection, Path(__file__).parents[2])
        conninfo = as_text(url)
        with psycopg.connect(conninfo) as pgtap_connection:
            yield pgtap_connection
