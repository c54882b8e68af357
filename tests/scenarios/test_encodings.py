"""Databases in other encodings than UTF8: served exactly, or refused before anything has changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.testing import Server
from momentum.testing.servers import apply_stand_in
from tests.alembic_program import error_of, program, text_of
from tests.backfilling import backfill, one_error_line, with_password
from tests.catalog import snapshot
from tests.migrating import execute, fetch
from tests.samples import add_users
from tests.server import engine_of

DAY = "2026-03-05"


@contextmanager
def encoded(server: Server, encoding: str) -> Iterator[sa.URL]:
    """Yield a database like a new project's, in an encoding."""
    url = server.url.set(database=f"momentum_test_{encoding}")
    with engine_of(server.admin_url).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(
            f"create database {url.database} template template0 encoding '{encoding}' locale 'C' owner {url.username}"
        )
        try:
            apply_stand_in(server.as_admin(url))
            yield url
        finally:
            server.drop_database(url)


def test_a_database_that_does_not_know_its_letters_is_refused_before_anything_has_changed(
    server: Server, home: Path
) -> None:
    with encoded(server, "sql_ascii") as url:
        before = snapshot(url)
        said = (
            "Error: The encoding of the database at {} is SQL_ASCII, in which nothing says what characters its text "
            "has; move it to a database with the encoding UTF8."
        )
        for arguments in (("upgrade", "head"), ("current",), ("check",), ("downgrade", "base"), ("stamp", "head")):
            error = error_of(program("-x", f"url={text_of(url)}", *arguments, home=home), 2)
            assert error.startswith(said.partition("{}")[0])
            assert error.endswith(said.partition("{}")[2])
        for options in ((), ("--dry-run",), ("--undo", "/dev/null")):
            done = backfill(*options, url=url)
            assert done.returncode == 2
            assert "is SQL_ASCII" in one_error_line(done)
        assert snapshot(url) == before


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin1", "euc_jp"])
def test_a_database_in_another_encoding_is_served_whatever_the_environment_says(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "sql_ascii")
    with encoded(server, encoding) as url:
        done = program("-x", f"url={text_of(url)}", "upgrade", "head", home=home)
        assert done.returncode == 0, done.stderr
        execute(
            url,
            "insert into public.momentum_pillars (name) values (:name)",
            name="\N{GREEK SMALL LETTER ALPHA}" if encoding == "euc_jp" else "\N{LATIN SMALL LETTER E WITH ACUTE}",
        )
        add_users(engine_of(url), 5)
        done = backfill("--to", DAY, "--days", "2", url=with_password(url))
        assert done.returncode == 0, done.stderr
        assert fetch(url, "select count(*)::int from legacy.daily_engagement_scores") == [10]
        done = program("-x", f"url={text_of(url)}", "downgrade", "base", home=home)
        assert done.returncode == 0, done.stderr
        done = program("-x", f"url={text_of(url)}", "upgrade", "head", home=home)
        assert done.returncode == 0, done.stderr
