"""The program `alembic` as people run it, and `alembic.command` as services call it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.util import CommandError

from momentum.database import as_text, create_engine, describe
from momentum.errors import (
    ConfigurationError,
    DatabaseUnreachableError,
    MigrationError,
    MomentumError,
    PreflightError,
)
from momentum.migrations import SCRIPTS, alembic_config
from tests.catalog import snapshot
from tests.migrating import HISTORY, current, migrate_to, run

HEAD = HISTORY[-1]
ROOT = SCRIPTS.parent
ALEMBIC = Path(sys.executable).with_name("alembic")
SECRET = "s3cret-pässword"
NOWHERE = f"postgresql://postgres:{SECRET}@127.0.0.1:1/nowhere"


def write_env_file(home: Path, text: str) -> None:
    (home / ".bee_secrets").mkdir()
    (home / ".bee_secrets" / "supabase.env").write_text(text, encoding="utf-8")


def text_of(url: sa.URL, scheme: str = "postgresql") -> str:
    """Return a URL as people write it; a server that trusts its clients takes any password, the others have one."""
    return url.set(drivername=scheme, password=url.password or SECRET).render_as_string(hide_password=False)


def program(*arguments: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real program; whatever it prints, no secret may be in it, nor a traceback."""
    done = subprocess.run(
        [ALEMBIC, "-c", "alembic.ini", *arguments],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    for output in (done.stdout, done.stderr):
        assert SECRET not in output
        assert "s3cret" not in output
        assert "Traceback" not in output
    return done


def error_of(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line of an error."""
    assert done.returncode == exit_code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Database: ", "Running "))]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith(".")
    return lines[0]


@pytest.mark.parametrize(
    ("way", "scheme"),
    [
        ("-x url=", "postgres"),
        ("MOMENTUM_DATABASE_URL", "postgresql"),
        ("DATABASE_URL", "postgresql+psycopg"),
        ("SUPABASE_DB_URL in the file", "postgres"),
    ],
)
def test_the_url_comes_from_the_first_way_that_has_one(
    supabase_url: sa.URL, tmp_path: Path, way: str, scheme: str
) -> None:
    right = text_of(supabase_url, scheme)
    arguments, environ = [], {}
    if way == "-x url=":
        arguments = ["-x", f"url={right}"]
        environ = {"MOMENTUM_DATABASE_URL": NOWHERE, "DATABASE_URL": NOWHERE}
    elif way == "MOMENTUM_DATABASE_URL":
        environ = {way: right, "DATABASE_URL": NOWHERE}
    elif way == "DATABASE_URL":
        environ = {way: right}
    in_file = right if way.endswith("file") else NOWHERE
    lines = [f"DATABASE_URL={NOWHERE}", f"SUPABASE_DB_URL='{in_file}'", f"SUPABASE_SERVICE_ROLE_KEY={SECRET}"]
    write_env_file(tmp_path, "\n".join(lines))
    done = program(*arguments, "upgrade", HISTORY[1], home=tmp_path, **environ)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == f"Database: {describe(supabase_url)}"
    assert done.stderr.count("Running upgrade") == 1
    assert done.stdout == ""
    assert current(supabase_url) == HISTORY[1]


def test_the_env_file_may_call_the_url_database_url(supabase_url: sa.URL, tmp_path: Path) -> None:
    write_env_file(tmp_path, f"DATABASE_URL={text_of(supabase_url)}\n")
    assert program("current", home=tmp_path).stderr == f"Database: {describe(supabase_url)}\n"


def test_a_downgrade_wants_its_url_said_aloud(url: sa.URL, tmp_path: Path) -> None:
    write_env_file(tmp_path, f"SUPABASE_DB_URL={text_of(url)}\n")
    message = error_of(program("downgrade", "base", home=tmp_path), 2)
    assert "give -x url= or set MOMENTUM_DATABASE_URL or DATABASE_URL" in message
    assert "supabase.env" not in message
    assert current(url) == HEAD
    assert program("-x", f"url={text_of(url)}", "downgrade", "-1", home=tmp_path).returncode == 0
    assert program("downgrade", "-1", home=tmp_path, DATABASE_URL=text_of(url)).returncode == 0
    assert current(url) == HISTORY[-3]


@pytest.mark.parametrize("arguments", [["upgrade", "head"], ["current"]])
def test_without_a_url_the_ways_to_give_one_are_named(tmp_path: Path, arguments: list[str]) -> None:
    message = error_of(program(*arguments, home=tmp_path), 2)
    for way in ["-x url=", "MOMENTUM_DATABASE_URL", "DATABASE_URL", f"SUPABASE_DB_URL into {tmp_path}/.bee_secrets"]:
        assert way in message


@pytest.mark.parametrize("text", ["", f"mysql://root:{SECRET}@localhost/app"])
def test_a_url_that_is_none_of_postgres_is_refused_without_being_repeated(tmp_path: Path, text: str) -> None:
    # An empty -x url= is an unset shell variable: it must not lead to the database of the env file.
    write_env_file(tmp_path, f"SUPABASE_DB_URL={NOWHERE}\n")
    message = error_of(program("-x", f"url={text}", "upgrade", "head", home=tmp_path), 2)
    assert "The database URL from -x url= is not one of Postgres" in message


@pytest.mark.parametrize("command", [["upgrade", "head"], ["current"]])
def test_a_server_that_does_not_answer_is_one_line_with_host_and_port(tmp_path: Path, command: list[str]) -> None:
    message = error_of(program("-x", f"url={NOWHERE}", *command, home=tmp_path), 3)
    assert message.startswith("Error: The database at 127.0.0.1:1/nowhere cannot be reached: ")


def test_a_database_that_is_not_there_is_one_line_too(server_url: str, tmp_path: Path) -> None:
    message = error_of(program("-x", f"url={server_url}", "upgrade", "head", home=tmp_path), 3)
    assert "no_such_database" in message


@pytest.fixture
def server_url(supabase_url: sa.URL) -> str:
    return text_of(supabase_url.set(database="no_such_database"))


def test_an_option_that_the_driver_does_not_know_is_one_line(supabase_url: sa.URL, tmp_path: Path) -> None:
    url = text_of(supabase_url.update_query_dict({"sslmod": SECRET}))
    error_of(program("-x", f"url={url}", "upgrade", "head", home=tmp_path), 2)


def test_a_refusal_of_the_preflight_is_one_line(supabase_url: sa.URL, tmp_path: Path) -> None:
    run(supabase_url, "create table public.habit_index ()")
    before = snapshot(supabase_url)
    message = error_of(program("-x", f"url={text_of(supabase_url)}", "upgrade", "head", home=tmp_path), 1)
    assert "table public.habit_index" in message
    assert snapshot(supabase_url) == before


@contextmanager
def locked(url: sa.URL, table: str) -> Iterator[None]:
    """Hold what somebody's open transaction might hold."""
    with sa.create_engine(url).connect() as connection:
        connection.execute(sa.text(f"lock table {table} in access exclusive mode"))
        yield
        connection.rollback()
    connection.engine.dispose()


def test_a_lock_that_cannot_be_had_stops_a_downgrade_at_a_whole_revision(url: sa.URL, tmp_path: Path) -> None:
    with locked(url, "public.motivation_journal"):
        done = program("downgrade", "base", home=tmp_path, DATABASE_URL=text_of(url))
    message = error_of(done, 1)
    assert "lock timeout" in message
    assert "the ones before it stand" in message
    stopped = current(url)
    assert stopped == HISTORY[3], "parking motivation_journal is the first step that needs its lock"
    # The revision's first step, parking habit_index, was rolled back with it.
    assert snapshot(url, of="relation | public.habit_index |")
    facts = snapshot(url)
    migrate_to(url, HEAD)
    migrate_to(url, stopped)
    assert snapshot(url) == facts


def test_an_interrupted_downgrade_is_one_line_and_stops_at_a_whole_revision(url: sa.URL, tmp_path: Path) -> None:
    waiting = "select exists (select from pg_catalog.pg_locks where not granted and locktype = 'relation')"
    with (
        locked(url, "public.motivation_journal"),
        create_engine(url, "momentum-tests").connect() as connection,
        subprocess.Popen(
            [ALEMBIC, "-c", "alembic.ini", "downgrade", "base"],
            cwd=ROOT,
            env={**os.environ, "HOME": str(tmp_path), "DATABASE_URL": text_of(url)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        while process.poll() is None and not connection.scalar(sa.text(waiting)):
            connection.rollback()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith("Error: Interrupted; ")
    assert "Traceback" not in stderr
    assert current(url) == HISTORY[3]


def test_a_role_that_may_not_look_is_told_that_nothing_has_changed(url: sa.URL, tmp_path: Path) -> None:
    role = f"{url.database}_reader"
    run(url, f"create role {role} login password '{role}'")
    try:
        text = as_text(url.set(username=role, password=role))
        message = error_of(program("current", home=tmp_path, DATABASE_URL=text), 1)
        assert "permission denied" in message
        assert message.endswith("Nothing has changed.")
    finally:
        run(url, f"drop role {role}")


def test_commands_that_only_look_create_nothing(supabase_url: sa.URL, tmp_path: Path) -> None:
    before = snapshot(supabase_url)
    environ = {"DATABASE_URL": text_of(supabase_url)}
    assert program("current", home=tmp_path, **environ).stdout == ""
    check = program("check", home=tmp_path, **environ)
    assert check.returncode != 0
    assert "not up to date" in check.stderr + check.stdout
    assert program("downgrade", "base", home=tmp_path, **environ).returncode == 0
    assert snapshot(supabase_url) == before

    migrate_to(supabase_url, HEAD)
    before = snapshot(supabase_url)
    assert program("current", home=tmp_path, **environ).stdout == f"{HEAD} (head)\n"
    check = program("check", home=tmp_path, **environ)
    assert (check.returncode, check.stdout) == (0, "No new upgrade operations detected.\n")
    assert snapshot(supabase_url) == before


def test_heads_and_history_need_no_database(tmp_path: Path) -> None:
    assert program("heads", home=tmp_path).stdout == f"{HEAD} (head)\n"
    assert program("history", home=tmp_path).stdout.count(" -> ") == len(HISTORY) - 1


def test_with_nothing_to_generate_no_revision_is_written(url: sa.URL, tmp_path: Path) -> None:
    before = sorted(SCRIPTS.rglob("*.py"))
    done = program("revision", "--autogenerate", "-m", "nothing", home=tmp_path, DATABASE_URL=text_of(url))
    assert done.returncode == 0
    assert "there is nothing to generate" in done.stderr
    assert sorted(SCRIPTS.rglob("*.py")) == before


def test_stamp_makes_the_version_table_it_needs(supabase_url: sa.URL, tmp_path: Path) -> None:
    assert program("stamp", HISTORY[1], home=tmp_path, DATABASE_URL=text_of(supabase_url)).returncode == 0
    assert current(supabase_url) == HISTORY[1]


def with_lost_connection(url: sa.URL) -> sa.URL:
    """Return a database whose server ends the connection in the middle of a revision."""
    run(
        url,
        """
        create function public.leave() returns event_trigger language plpgsql as $$
        begin perform pg_terminate_backend(pg_backend_pid()); end $$;
        create event trigger leave on ddl_command_end when tag in ('CREATE TABLE') execute function public.leave();
        """,
    )
    return url


def refused(prepare: Callable[[sa.URL], sa.URL | str], expected: type[MomentumError]) -> object:
    return pytest.param(prepare, expected, id=expected.__name__)


def with_collision(url: sa.URL) -> sa.URL:
    run(url, "create table public.habit_index ()")
    return url


def with_broken_step(url: sa.URL) -> sa.URL:
    """Return a database in which a revision fails although the preflight found nothing."""
    run(
        url,
        """
        create function public.forbid() returns event_trigger language plpgsql as $$
        begin raise exception 'no tables here'; end $$;
        create event trigger forbid on ddl_command_end when tag in ('CREATE TABLE') execute function public.forbid();
        """,
    )
    return url


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        refused(lambda _: "", ConfigurationError),
        refused(lambda _: f"mysql://root:{SECRET}@localhost/app", ConfigurationError),
        refused(lambda _: NOWHERE, DatabaseUnreachableError),
        refused(with_collision, PreflightError),
        refused(with_broken_step, MigrationError),
        refused(with_lost_connection, DatabaseUnreachableError),
    ],
)
def test_a_calling_program_gets_a_typed_exception(
    supabase_url: sa.URL,
    capfd: pytest.CaptureFixture[str],
    prepare: Callable[[sa.URL], sa.URL | str],
    expected: type[MomentumError],
) -> None:
    with pytest.raises(expected) as raised:
        alembic.command.upgrade(alembic_config(prepare(supabase_url)), "head")
    assert type(raised.value) is expected
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    shown_too = None if raised.value.__suppress_context__ else raised.value.__context__
    assert shown_too is None, "the driver's error, shown beside ours, may hold a secret"
    output = capfd.readouterr()
    assert output.out + output.err == "", "a library prints nothing"


def test_alembics_own_errors_stay_what_they_are(url: sa.URL) -> None:
    with pytest.raises(CommandError, match="Can't locate revision"):
        alembic.command.upgrade(alembic_config(url), "no_such_revision")


SETTINGS = (
    "select array(select setting from pg_settings where name ~ '_timeout$' or name = 'search_path' order by name)"
)


@pytest.mark.parametrize("handed_in", ["engine", "connection"])
def test_an_engine_or_a_connection_may_be_handed_in(supabase_url: sa.URL, url: sa.URL, handed_in: str) -> None:
    engine = sa.create_engine(supabase_url)
    config = alembic_config("")
    with engine.connect() as connection:
        connection.execute(sa.text("set lock_timeout = '7s'"))
        connection.commit()
        settings = connection.execute(sa.text(SETTINGS)).one()
        connection.rollback()
        if handed_in == "connection":
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
            assert connection.execute(sa.text(SETTINGS)).one() == settings
    if handed_in == "engine":
        # The pool hands out the very connection that the migrations have used.
        config.attributes["connection"] = engine
        alembic.command.upgrade(config, "head")
        with engine.connect() as connection:
            assert connection.execute(sa.text(SETTINGS)).one() == settings
    engine.dispose()
    assert current(supabase_url) == HEAD
    assert snapshot(supabase_url) == snapshot(url)


def test_a_connection_in_a_transaction_is_neither_committed_nor_changed(supabase_url: sa.URL) -> None:
    before = snapshot(supabase_url)
    engine = sa.create_engine(supabase_url)
    with engine.connect() as connection:
        settings = connection.execute(sa.text(SETTINGS)).one()
        config = alembic_config("")
        config.attributes["connection"] = connection
        assert connection.in_transaction()
        alembic.command.upgrade(config, "head")
        assert connection.in_transaction()
        assert connection.scalar(sa.text("select count(*) from public.daily_momentum_scores")) == 0
        assert connection.execute(sa.text(SETTINGS)).one() == settings
        connection.rollback()
    engine.dispose()
    assert snapshot(supabase_url) == before


def test_a_connection_keeps_its_settings_when_a_migration_fails(supabase_url: sa.URL) -> None:
    with_broken_step(supabase_url)
    engine = sa.create_engine(supabase_url)
    with engine.connect() as connection:
        settings = connection.execute(sa.text(SETTINGS)).one()
        connection.rollback()
        config = alembic_config("")
        config.attributes["connection"] = connection
        with pytest.raises(MigrationError, match="no tables here"):
            alembic.command.upgrade(config, "head")
        assert connection.execute(sa.text(SETTINGS)).one() == settings
    engine.dispose()
