"""Fixtures for other services' tests, which pytest finds wherever this package is installed.

Pytest loads this module in every run, so it imports nothing before a fixture is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from momentum.testing.servers import Server


@pytest.fixture(scope="session")
def momentum_server() -> Iterator["Server"]:
    """The run's Postgres as a momentum.testing.Server, started on first use and stopped at the end.

    MOMENTUM_TEST_BACKEND chooses it: embedded, container or url. With pytest-xdist, each process has its own.
    """
    from momentum.errors import ConfigurationError
    from momentum.testing.servers import running_server

    try:
        with running_server() as server:
            yield server
    except ConfigurationError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def momentum_database_url(momentum_server: "Server") -> Iterator[str]:
    """The URL (postgresql://...) of the test's own migrated database, with Supabase's roles and auth.users."""
    from momentum.connect.url import as_text

    with momentum_server.database() as url:
        yield as_text(url)


@pytest.fixture
def momentum_session(momentum_database_url: str) -> Iterator["Session"]:
    """A SQLAlchemy session on the database of momentum_database_url, which is dropped after the test."""
    from sqlalchemy.orm import Session

    from momentum.connect.engine import create_engine
    from momentum.connect.url import parse_url

    with Session(create_engine(parse_url(momentum_database_url, "the fixture"), "momentum-testing")) as session:
        yield session
