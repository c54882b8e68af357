"""`alembic -x purge=yes downgrade base` removes what a downgrade has parked; nothing else ever drops a row."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.database import create_engine
from momentum.errors import ConfigurationError, MigrationError
from momentum.migrations import alembic_config
from momentum.testing import Server
from tests.alembic_program import error_of, program, text_of
from tests.catalog import snapshot
from tests.migrating import (
    HISTORY,
    current,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    rows_of,
    run,
    visible,
    wait_until,
)
from tests.samples import add_user, write_rows

HEAD = HISTORY[-1]
PURGE = ("-x", "purge=yes", "downgrade", "base")

# Everything in the private schema but Alembic's own table.
LEFT = """
select relname from pg_class
where relnamespace = to_regnamespace('momentum_internal') and relkind in ('r', 'v') and relname <> 'alembic_version'
union all
select proname from pg_proc where pronamespace = to_regnamespace('momentum_internal')
order by 1
"""


def purge(url: sa.URL, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return program(*options, *PURGE, home=home, MOMENTUM_DATABASE_URL=text_of(url))


@pytest.fixture(params=["fresh", "legacy.seed", "public.production with predecessors"])
def full_url(server: Server, request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """A database with three rows in each table and superseded ones, not migrated where there is something to adopt."""
    scores, _, predecessors = request.param.partition(" ")
    url = database_with_scores(server, scores, predecessors=bool(predecessors))
    if scores == "fresh":
        migrate_to(url, HEAD)
    with create_engine(url, application_name="momentum-tests").begin() as connection:
        user = add_user(connection)
        for ordinal in range(3):
            write_rows(connection, user, ordinal)
        if scores == "legacy.seed":
            connection.execute(
                sa.text("insert into legacy.daily_engagement_scores select * from legacy.daily_engagement_scores")
            )
    yield url
    server.drop_database(url)


def test_a_downgrade_to_base_names_what_it_leaves_and_how_to_remove_it(full_url: sa.URL, tmp_path: Path) -> None:
    migrate_to(full_url, HEAD, existing="adopt")
    done = program("downgrade", "base", home=tmp_path, MOMENTUM_DATABASE_URL=text_of(full_url))
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    left = fetch(full_url, LEFT)
    assert "set_updated_at" in left
    assert [name for name in left if name not in said] == [], said
    assert "-x purge=yes downgrade base" in said


def test_a_downgrade_to_another_revision_says_nothing_of_it(url: sa.URL, tmp_path: Path) -> None:
    done = program("downgrade", "-1", home=tmp_path, MOMENTUM_DATABASE_URL=text_of(url))
    assert "purge" not in done.stdout + done.stderr


@pytest.mark.parametrize("at", ["head", "base"])
def test_purge_removes_what_was_parked_and_nothing_else(full_url: sa.URL, tmp_path: Path, at: str) -> None:
    before = (visible(snapshot(full_url)), rows_of(full_url)) if current(full_url) == "base" else None
    migrate_to(full_url, HEAD, existing="adopt")
    counts = {name: len(rows) for name, rows in rows_of(full_url).items()}
    if at == "base":
        migrate_to(full_url, "base")
    done = purge(full_url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert fetch(full_url, LEFT) == []
    assert current(full_url) == "base"
    said = done.stdout + done.stderr
    if before is None:
        # Counts are printed before anything is dropped.
        for name, count in counts.items():
            assert [line for line in said.splitlines() if name in line and str(count) in line], said
        assert rows_of(full_url) == {}
    else:
        # The app's own tables stand again, and are not ours to drop.
        assert visible(snapshot(full_url)) == before[0]
        assert rows_of(full_url) == before[1]
    migrate_to(full_url, HEAD, existing="adopt")
    if before is None:
        assert all(rows == [] for rows in rows_of(full_url).values())


def test_purge_can_be_said_twice(url: sa.URL, tmp_path: Path) -> None:
    assert purge(url, tmp_path).returncode == 0
    facts = snapshot(url)
    assert purge(url, tmp_path).returncode == 0
    assert snapshot(url) == facts


def test_purge_of_a_database_that_was_never_migrated_does_nothing(supabase_url: sa.URL, tmp_path: Path) -> None:
    before = snapshot(supabase_url)
    assert purge(supabase_url, tmp_path).returncode == 0
    assert snapshot(supabase_url) == before


@pytest.mark.parametrize(
    ("at", "command", "said"),
    [
        ("head", ["upgrade", "head"], "downgrade base"),
        ("base", ["upgrade", "head"], "downgrade base"),
        ("head", ["downgrade", "-1"], "downgrade base"),
        ("head", ["downgrade", HISTORY[1]], "downgrade base"),
        ("head", ["downgrade", f"{HEAD}:base", "--sql"], "leave out --sql"),
        ("base", ["downgrade", f"{HEAD}:base", "--sql"], "leave out --sql"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_purge_is_for_a_downgrade_to_base_only(
    url: sa.URL, tmp_path: Path, at: str, command: list[str], said: str
) -> None:
    migrate_to(url, HEAD if at == "head" else "base")
    before = snapshot(url)
    done = program("-x", "purge=yes", *command, home=tmp_path, MOMENTUM_DATABASE_URL=text_of(url))
    assert said in error_of(done, 2)
    assert done.stdout == ""
    assert snapshot(url) == before


@pytest.mark.parametrize("word", ["", "true", "YES"])
def test_purge_is_said_with_yes(url: sa.URL, tmp_path: Path, word: str) -> None:
    before = snapshot(url)
    done = program("-x", f"purge={word}", "downgrade", "base", home=tmp_path, MOMENTUM_DATABASE_URL=text_of(url))
    assert "-x purge= takes yes or no" in error_of(done, 2)
    assert snapshot(url) == before


def test_purge_takes_no_url_from_the_env_file(url: sa.URL, tmp_path: Path) -> None:
    (tmp_path / ".bee_secrets").mkdir()
    (tmp_path / ".bee_secrets" / "supabase.env").write_text(f"DATABASE_URL={text_of(url)}\n", encoding="utf-8")
    assert "give -x url= or set MOMENTUM_DATABASE_URL or DATABASE_URL" in error_of(program(*PURGE, home=tmp_path), 2)
    assert current(url) == HEAD


def test_a_program_purges_too(url: sa.URL) -> None:
    alembic.command.downgrade(alembic_config(url, purge="yes"), "base")
    assert fetch(url, LEFT) == []


def test_purge_waits_for_auth_users_no_longer_than_its_lock_timeout_and_can_be_repeated(url: sa.URL) -> None:
    """Dropping a table with a key to auth.users takes ACCESS EXCLUSIVE on that too: every sign-in would queue."""
    with create_engine(url, application_name="momentum-tests").begin() as connection:
        user = add_user(connection)
        write_rows(connection, user, 0)
    migrate_to(url, "base")
    read = "select count(*) from auth.users"
    waiting = (
        "exists (select from pg_locks where not granted and relation = 'auth.users'::regclass "
        "and mode = 'AccessExclusiveLock')"
    )
    engine = create_engine(url, application_name="momentum-tests")
    with engine.connect() as reader, engine.connect() as client, ThreadPoolExecutor(1) as operator:
        reader.execute(sa.text(read))
        purging = operator.submit(alembic.command.downgrade, alembic_config(url, purge="yes", attempts="3"), "base")
        wait_until(url, waiting)
        # It queues behind the purge, and for that no longer than the purge itself waits.
        client.execute(sa.text("set statement_timeout = '2500ms'"))
        assert client.scalar(sa.text(read)) == 1
        client.rollback()
        with pytest.raises(MigrationError, match="lock timeout"):
            purging.result(timeout=60)
        assert "set_updated_at" in fetch(url, LEFT), "the trigger function goes last"
        left = rows_of(url)
        assert left, "a table that could not be dropped is there"
    # Whatever was dropped is gone whole; the rest can still be taken back or be purged.
    alembic.command.downgrade(alembic_config(url, purge="yes"), "base")
    assert fetch(url, LEFT) == []


def test_an_interrupted_purge_leaves_whole_tables(url: sa.URL) -> None:
    with create_engine(url, application_name="momentum-tests").begin() as connection:
        user = add_user(connection)
        write_rows(connection, user, 0)
    migrate_to(url, "base")
    rows = rows_of(url)
    run(
        url,
        """
        create function public.stop() returns event_trigger language plpgsql as $$
        begin
          if exists (select from pg_event_trigger_dropped_objects() where object_name = 'motivation_journal') then
            perform pg_terminate_backend(pg_backend_pid());
          end if;
        end $$;
        create event trigger stop on sql_drop execute function public.stop();
        """,
    )
    with pytest.raises(Exception, match="lost"):
        alembic.command.downgrade(alembic_config(url, purge="yes"), "base")
    left = rows_of(url)
    assert "motivation_journal" in left
    assert left == {name: rows[name] for name in left}
    run(url, "drop event trigger stop")
    alembic.command.downgrade(alembic_config(url, purge="yes"), "base")
    assert fetch(url, LEFT) == []


def test_what_others_hung_on_a_parked_table_is_not_dropped_with_it(url: sa.URL) -> None:
    migrate_to(url, "base")
    run(url, "create view public.theirs as select id from momentum_internal.habit_index")
    with pytest.raises(MigrationError, match="habit_index"):
        alembic.command.downgrade(alembic_config(url, purge="yes"), "base")
    assert execute(url, "select count(*) from public.theirs") == 0


def test_the_private_schema_stays_for_what_others_put_there(url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    run(url, "create table momentum_internal.theirs ()")
    alembic.command.downgrade(alembic_config(url, purge="yes"), "base")
    assert fetch(url, LEFT) == ["theirs"]
    assert "momentum_internal stays" in caplog.text


def test_purge_is_refused_inside_a_transaction(url: sa.URL) -> None:
    migrate_to(url, "base")
    rows = rows_of(url)
    with create_engine(url, application_name="momentum-tests").connect() as connection:
        connection.execute(sa.text("select 1"))
        config = alembic_config("", purge="yes")
        config.attributes["connection"] = connection
        with pytest.raises(ConfigurationError, match="handed in inside a transaction"):
            alembic.command.downgrade(config, "base")
        connection.commit()
    assert rows_of(url) == rows
