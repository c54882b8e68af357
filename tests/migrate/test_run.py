"""The program `alembic` as people run it, and `alembic.command` as services call it."""

import asyncio
import logging
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import alembic.command
import psycopg
import pytest
import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import create_async_engine

from momentum.connect import engine as database
from momentum.connect.engine import create_engine
from momentum.connect.settings import change_settings, read_settings
from momentum.connect.url import as_text, describe
from momentum.errors import (
    ConfigurationError,
    DatabaseUnreachableError,
    MigrationError,
    MomentumError,
    PreflightError,
)
from momentum.migrate import locks
from momentum.migrate.config import SCRIPTS as FOLDER
from momentum.migrate.config import alembic_config
from momentum.migrate.locks import ADVISORY_LOCK, Patience, limited, lock_timeout
from momentum.migrate.operations import unlimited
from momentum.migrate.run import errors_explained, find_url, is_shown, remaining_steps
from momentum.testing import Server
from tests.alembic_program import SECRET, error_of, program, start, text_of
from tests.catalog import differences, snapshot
from tests.migrating import (
    HISTORY,
    JOURNAL,
    KEY,
    REVISIONS,
    SCORES_ADOPTED,
    SCRIPTS,
    WAITING_MIGRATION,
    current,
    database_with_scores,
    entered,
    fetch,
    migrate_to,
    queue_behind_migration,
    run,
    wait_for_attempts,
    wait_until,
)
from tests.processes import DEADLINE
from tests.server import engine_of

HEAD = HISTORY[-1]
NOWHERE = f"postgresql://postgres:{SECRET}@127.0.0.1:1/nowhere"


def write_env_file(home: Path, text: str) -> None:
    (home / ".bee_secrets").mkdir()
    path = home / ".bee_secrets" / "supabase.env"
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


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
    for way in ["-x url=", "MOMENTUM_DATABASE_URL", "DATABASE_URL", f"SUPABASE_DB_URL in {tmp_path}/.bee_secrets"]:
        assert way in message


@pytest.mark.parametrize(
    ("typed", "in_settings", "command", "host"),
    [
        ({"x": ["url=postgresql://typed/x"]}, "postgresql://settings/x", "upgrade", "typed"),
        (None, "postgresql://settings/x", "upgrade", "settings"),
        (None, "postgresql://settings/x", "downgrade", "settings"),
        (None, None, "upgrade", "file"),
        (None, None, "current", "file"),
        (None, None, "downgrade", None),
    ],
)
def test_what_was_typed_beats_the_settings_and_those_beat_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: dict[str, Any] | None,
    in_settings: str | None,
    command: str,
    host: str | None,
) -> None:
    write_env_file(tmp_path, "SUPABASE_DB_URL=postgresql://file/x\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with entered(typed) as environment:
        environment.config.remove_main_option("sqlalchemy.url")
        if in_settings is not None:
            environment.config.set_main_option("sqlalchemy.url", in_settings)
        if host is None:
            with pytest.raises(ConfigurationError, match="No database URL"):
                find_url(environment, command)
        else:
            assert find_url(environment, command).host == host


@pytest.mark.parametrize(
    ("typed", "said"),
    [(None, "sqlalchemy.url"), ({"x": ["url=mysql://typed/x"]}, "-x url=")],
    ids=["settings", "typed"],
)
def test_a_url_that_is_none_of_postgres_is_refused_by_where_it_came_from(
    typed: dict[str, Any] | None, said: str
) -> None:
    with entered(typed) as environment:
        environment.config.set_main_option("sqlalchemy.url", "mysql://settings/x")
        with pytest.raises(ConfigurationError, match=said):
            find_url(environment, "upgrade")


@pytest.mark.parametrize(
    ("logger", "message", "shown"),
    [
        ("momentum.migrations", "At revision x", True),
        ("alembic.runtime.migration", "Running upgrade a -> b", True),
        ("alembic.runtime.migration", "Context impl PostgresqlImpl.", False),
    ],
)
def test_of_alembics_own_records_only_the_revisions_that_run_are_shown(logger: str, message: str, shown: bool) -> None:
    assert is_shown(logging.LogRecord(logger, logging.INFO, "", 1, message, (), None)) is shown


@pytest.mark.parametrize(
    ("plan", "left"),
    [
        ([], []),
        (["1 2", "2 3"], []),
        (["1 2", "2 3", "3 4"], ["3 4"]),
        (["3 4", "4 5"], ["3 4", "4 5"]),
        (["3 2", "2 1"], ["3 2", "2 1"]),
        (["1 2"], None),
        (["4 5", "5 6"], None),
    ],
)
def test_a_plan_goes_on_where_the_database_is_or_is_given_up(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch, plan: list[str], left: list[str] | None
) -> None:
    at: list[str] = ["3"]
    monkeypatch.setattr(locks, "read_heads", lambda _connection: at)
    steps: list[Any] = [SimpleNamespace(name=each, from_revisions=(each[0],), to_revisions=(each[2],)) for each in plan]
    migrations: Any = SimpleNamespace(connection=connection)

    def done() -> Iterator[str]:
        for step in remaining_steps(steps, "upgrade", ("3",), migrations):
            assert steps[0] is step, "it is in the plan until it is done"
            at[:] = step.to_revisions
            yield step.name

    if left is None:
        with pytest.raises(MigrationError, match="meanwhile taken the database to 3; run the command again"):
            list(done())
    else:
        assert list(done()) == left
        assert steps == []


def test_a_step_waits_for_the_revision_that_it_begins_at(connection: sa.Connection) -> None:
    step: Any = SimpleNamespace(from_revisions=("another",), to_revisions=("next",))
    migrations: Any = SimpleNamespace(connection=connection)
    with pytest.raises(locks.OvertakenError):
        next(remaining_steps([step], "upgrade", ("another",), migrations))
    with pytest.raises(MigrationError, match=f"taken the database to {HEAD}"):
        next(remaining_steps([step], "upgrade", (HEAD,), migrations))
    first: Any = SimpleNamespace(from_revisions=(HEAD,), to_revisions=("another",))
    steps = remaining_steps([first, step], "upgrade", (HEAD,), migrations)
    assert next(steps) is first
    with pytest.raises(locks.OvertakenError):
        next(steps)


def test_a_downgrade_first_finishes_the_step_that_an_interrupted_one_has_left(
    url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate_to(url, HISTORY[-2])
    finished: list[bool] = []
    module = SCRIPTS.get_revision(HEAD).module
    monkeypatch.setattr(module, "after_downgrade", lambda: finished.append(True), raising=False)
    with entered() as environment, engine_of(url).connect() as connection:
        context.configure(connection=connection, **environment.settings("downgrade"))
        for command, count in (("upgrade", 0), ("downgrade", 1)):
            assert list(remaining_steps([], command, (HISTORY[-2],), context.get_context())) == []
            assert len(finished) == count


@pytest.mark.parametrize(
    ("sqlstate", "message", "said"),
    [
        (None, "server closed the connection unexpectedly", "The connection to the database was lost; run the command"),
        (
            None,
            "connection refused: too many clients",
            "The connection to the database was lost (connection refused: too many clients); run the command again.",
        ),
        ("57P01", "terminating connection", "The connection to the database was lost; run the command again."),
        ("55P03", "a lock timeout", "The upgrade stopped: a lock timeout (2 times in 3 seconds). The rest."),
        ("42501", "permission denied", "The upgrade stopped: permission denied. The rest."),
    ],
)
def test_an_error_of_the_server_is_a_sentence_and_what_has_become_of_the_database(
    monkeypatch: pytest.MonkeyPatch, sqlstate: str | None, message: str, said: str
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    environment: Any = SimpleNamespace(patience=Patience(failed=2, _started=2.0))
    connection: Any = SimpleNamespace(engine=SimpleNamespace(url=sa.make_url("postgresql://me:s3cret@host/db")))
    refusal = psycopg.OperationalError(message)
    refusal.sqlstate = sqlstate
    kind = MigrationError if said.startswith("The upgrade") else DatabaseUnreachableError
    with (
        pytest.raises(kind) as raised,
        errors_explained(environment, connection, "The upgrade stopped", "The rest."),
    ):
        raise sa.exc.OperationalError("", {}, refusal)
    assert str(raised.value).startswith(said)


def test_only_a_downgrade_that_may_commit_drops_what_is_parked(url: sa.URL) -> None:
    before = snapshot(url)
    with pytest.raises(ConfigurationError, match=r"purge=yes drops .* is for downgrades only"):
        alembic.command.upgrade(alembic_config(url, purge=True), "head")
    with engine_of(url).connect() as connection:
        connection.execute(sa.text("select 1"))
        config = alembic_config("", purge=True)
        config.attributes["connection"] = connection
        with pytest.raises(ConfigurationError, match="purge=yes commits, but the connection was handed in"):
            alembic.command.downgrade(config, "base")
    assert snapshot(url) == before


def test_a_run_ends_with_what_it_has_come_to(url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "momentum.migrations")
    alembic.command.downgrade(alembic_config(url), "-1")
    assert caplog.messages == [], "there is nothing to say of a step back"
    for verify, said in ((False, "not verified"), (True, "verified")):
        caplog.clear()
        alembic.command.upgrade(alembic_config(url, verify=verify), "head")
        assert re.fullmatch(rf"At revision {HEAD}, {said}, after \d+\.\d seconds\.", caplog.messages[-1])
    caplog.clear()
    alembic.command.downgrade(alembic_config(url), "base")
    parked, advice = caplog.messages
    assert parked.startswith("Parked: momentum_internal.daily_engagement_scores (0 rows), ")
    assert advice.startswith("The next upgrade takes them back;")
    caplog.clear()
    alembic.command.upgrade(alembic_config(url), "base")
    assert re.fullmatch(r"At revision base, not verified, after \d+\.\d seconds\.", caplog.messages[-1])


@pytest.mark.parametrize(("command", "waits"), [("upgrade", True), ("stamp", True), ("current", False)])
def test_a_transaction_that_was_handed_in_does_not_wait_for_another_migration(
    url: sa.URL, command: str, waits: bool
) -> None:
    with engine_of(url).begin() as holder, engine_of(url).connect() as connection:
        locks.take_turn(holder)
        connection.execute(sa.text("select 1"))
        config = alembic_config("")
        config.attributes["connection"] = connection
        arguments = () if command == "current" else ("head",)
        refused = pytest.raises(MigrationError, match=r"Another migration is running: .* holds the lock; let it finish")
        with refused if waits else nullcontext():
            getattr(alembic.command, command)(config, *arguments)


def test_no_transaction_of_a_run_takes_the_lock_without_limits(
    supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[str] = []
    # As behind a pooler, where the server itself must be asked.
    monkeypatch.setattr(database, "check_server", lambda connection, **_: connection.exec_driver_sql("select"))

    def look(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        if "advisory" in statement:
            driver: Any = connection.connection.driver_connection
            limits.extend(driver.execute("select current_setting('lock_timeout')").fetchone())

    engine = sa.create_engine(supabase_url, poolclass=sa.NullPool)
    sa.event.listen(engine, "after_cursor_execute", look)
    config = alembic_config("")
    config.attributes["connection"] = engine
    alembic.command.upgrade(config, "head")
    assert limits
    assert "0" not in limits


@pytest.mark.parametrize("text", ["", f"mysql://root:{SECRET}@localhost/app"])
def test_a_url_that_is_none_of_postgres_is_refused_without_being_repeated(tmp_path: Path, text: str) -> None:
    # An empty -x url= is an unset shell variable: it must not lead to the database of the env file.
    write_env_file(tmp_path, f"SUPABASE_DB_URL={NOWHERE}\n")
    message = error_of(program("-x", f"url={text}", "upgrade", "head", home=tmp_path), 2)
    assert "The database URL from -x url= is not a Postgres URL" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"postgresql://me:Pa@55/{SECRET}@localhost/app", "has an @ or / that can be read in two ways"),
        ("postgresql:///app?prepare_threshold=often", "cannot be used: prepare_threshold is a whole number, or none"),
        ("postgresql:///app?autocommit=true", "cannot be used: there is no option autocommit for a URL"),
        ("postgresql:///app?service=unknown", 'cannot be used: definition of service "unknown" not found'),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_a_connection(tmp_path: Path, text: str, said: str) -> None:
    services = tmp_path / "services"
    services.touch()
    done = program("-x", f"url={text}", "upgrade", "head", home=tmp_path, PGSERVICEFILE=str(services))
    assert error_of(done, 2).startswith(f"Error: The database URL from -x url= {said}")


def test_a_url_in_place_of_a_revision_is_not_repeated(tmp_path: Path) -> None:
    done = program("stamp", f"postgresql://me:{SECRET}@localhost/app", home=tmp_path)
    assert error_of(done, 2) == ("Error: A URL is given in place of a revision; the database's is given as -x url=URL.")


def test_the_database_is_named_as_the_environment_has_it(tmp_path: Path) -> None:
    done = program("-x", "url=postgresql:///t0", "current", home=tmp_path, PGHOST="127.0.0.1", PGPORT="1")
    assert done.stderr.splitlines()[0] == "Database: 127.0.0.1:1/t0"
    assert "The database at 127.0.0.1:1/t0 cannot be reached" in error_of(done, 3)


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
    """Hold a lock, as somebody's open transaction might."""
    with sa.create_engine(url).connect() as connection:
        connection.execute(sa.text(f"lock table {table} in access exclusive mode"))
        yield
        connection.rollback()
    connection.engine.dispose()


@pytest.mark.slow
def test_a_lock_that_cannot_be_had_stops_a_downgrade_at_a_whole_revision(url: sa.URL, tmp_path: Path) -> None:
    with locked(url, "public.motivation_journal"):
        done = program("-x", "attempts=3", "downgrade", "base", home=tmp_path, DATABASE_URL=text_of(url))
    warning = "Not compared before the downgrade: canceling statement due to lock timeout\n"
    assert warning in done.stderr
    done.stderr = done.stderr.replace(warning, "")
    message = error_of(done, 1)
    assert "lock timeout (3 times in " in message
    assert "the ones before it are" in message
    stopped = current(url)
    # A later revision may have to lock the journal first.
    assert stopped in HISTORY[HISTORY.index(JOURNAL) :], "parking motivation_journal needs its lock"
    # The revision's first step, parking habit_index, was rolled back with it.
    assert snapshot(url, of="relation | public.habit_index |")
    facts = snapshot(url)
    migrate_to(url, HEAD)
    migrate_to(url, stopped)
    assert snapshot(url) == facts


def test_an_interrupted_downgrade_is_one_line_and_stops_at_a_whole_revision(url: sa.URL, tmp_path: Path) -> None:
    stops: list[str] = []
    with (
        locked(url, "public.motivation_journal"),
        start("downgrade", "base", home=tmp_path, DATABASE_URL=text_of(url)) as process,
    ):
        wait_until(url, WAITING_MIGRATION, process=process)
        stops.append(current(url))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith("Error: Interrupted; ")
    assert "Traceback" not in stderr
    # The first revision that has to lock the journal is not undone.
    assert [current(url)] == stops
    assert stops[0] in HISTORY[HISTORY.index(JOURNAL) :]


def test_a_lock_that_is_let_go_of_in_time_is_waited_for(url: sa.URL, tmp_path: Path) -> None:
    """Nobody queues behind a migration for long: it gives up its place, and tries again."""
    with locked(url, "public.motivation_journal"):
        process = start("downgrade", "base", home=tmp_path, DATABASE_URL=text_of(url))
        wait_for_attempts(url, 2)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert current(url) == "base"


@pytest.mark.slow
def test_a_relative_revision_is_counted_from_where_the_run_began(url: sa.URL) -> None:
    migrate_to(url, HISTORY[3])
    with ThreadPoolExecutor(1) as operator, engine_of(url).connect() as connection:
        # This stops the second of the two steps for a few attempts.
        connection.execute(sa.text("select from public.momentum_events"))
        downgrade = operator.submit(alembic.command.downgrade, alembic_config(url), "-2")
        wait_for_attempts(url, 2)
        connection.rollback()
        downgrade.result(timeout=DEADLINE)
    assert current(url) == HISTORY[1]


@pytest.mark.slow
def test_a_client_behind_a_waiting_migration_waits_no_longer_than_it(url: sa.URL, tmp_path: Path) -> None:
    with engine_of(url).connect() as reader:
        reader.execute(sa.text("select from public.habit_index"))
        process = start("downgrade", HISTORY[2], home=tmp_path, DATABASE_URL=text_of(url))
        queue_behind_migration(url, "select from public.habit_index")
        assert process.poll() is None, "the migration goes on trying"
        reader.rollback()
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert current(url) == HISTORY[2]


def test_no_attempt_keeps_clients_waiting_for_more_than_two_seconds() -> None:
    """The server ends an attempt at its lock_timeout: no test has to measure that."""
    timeouts = [lock_timeout(failed, remaining=300) for failed in range(100)]
    assert timeouts == sorted(timeouts), "a later attempt waits longer, and so gets its lock at last"
    assert (timeouts[0], timeouts[-1]) == (0.3, 2)


@contextmanager
def advisory_lock(url: sa.URL) -> Iterator[int]:
    """Hold the lock of a migration, and yield the pid of the session that holds it."""
    with create_engine(url, "another-deploy").connect().execution_options(isolation_level="AUTOCOMMIT") as holder:
        holder.execute(sa.text("select pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        yield holder.exec_driver_sql("select pg_backend_pid()").scalar_one()


@pytest.mark.slow
def test_who_holds_the_lock_of_a_migration_is_named(supabase_url: sa.URL, tmp_path: Path) -> None:
    before = snapshot(supabase_url)
    with advisory_lock(supabase_url) as pid:
        done = program("-x", "deadline=1", "upgrade", "head", home=tmp_path, DATABASE_URL=text_of(supabase_url))
        assert program("current", home=tmp_path, DATABASE_URL=text_of(supabase_url)).returncode == 0
    message = error_of(done, 1)
    assert f"pid {pid} (application another-deploy)" in message
    assert snapshot(supabase_url) == before


def test_the_advisory_lock_is_waited_for_until_the_deadline(supabase_url: sa.URL) -> None:
    with engine_of(supabase_url).connect() as connection:
        Patience(seconds=60).wait_for_holder(connection)
        with pytest.raises(MigrationError, match="Another migration is running: another session has held the lock for"):
            Patience(seconds=0).wait_for_holder(connection)


@pytest.mark.parametrize("count", [2, 5])
def test_several_upgrades_at_once_all_end_well_and_each_revision_runs_once(
    supabase_url: sa.URL, url: sa.URL, tmp_path: Path, count: int
) -> None:
    processes = [start("upgrade", "head", home=tmp_path, DATABASE_URL=text_of(supabase_url)) for _ in range(count)]
    outputs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    assert sum(output.count("Running upgrade") for output in outputs) == len(REVISIONS)
    assert snapshot(supabase_url) == snapshot(url)


@pytest.mark.parametrize("where", ["port", "query", "host in query", "hosts", "PGPORT", "service", "PGSERVICE"])
def test_a_transaction_pooler_is_refused_and_the_right_port_is_named(tmp_path: Path, where: str) -> None:
    url = {
        "port": f"postgresql://postgres:{SECRET}@pooler.example.com:6543/postgres",
        "query": f"postgresql://postgres:{SECRET}@/postgres?host=a,b&port=5432,6543",
        "host in query": f"postgresql://postgres:{SECRET}@/postgres?host=a:5432&host=b:6543",
        "hosts": f"postgresql://postgres:{SECRET}@a:5432,b:6543/postgres",
        "service": f"postgresql://postgres:{SECRET}@/?service=pooler",
    }.get(where, f"postgresql://postgres:{SECRET}@/postgres")
    services = tmp_path / "services"
    services.write_text("[pooler]\nhost=pooler.example.com\nport=6543\ndbname=postgres\n", encoding="utf-8")
    environ = {"PGPORT": {"PGPORT": "6543"}, "PGSERVICE": {"PGSERVICE": "pooler"}}.get(where, {})
    done = program("-x", f"url={url}", "upgrade", "head", home=tmp_path, PGSERVICEFILE=str(services), **environ)
    message = error_of(done, 2)
    assert "Port 6543 is a transaction pooler" in message
    assert "use port 5432" in message


def test_a_transaction_pooler_is_refused_of_an_engine_too() -> None:
    config = alembic_config("")
    config.attributes["connection"] = sa.create_engine(f"postgresql://postgres:{SECRET}@127.0.0.1:6543/postgres")
    with pytest.raises(ConfigurationError, match="use port 5432"):
        alembic.command.upgrade(config, "head")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "exsting=adopt",
            "have no option exsting; the options are url, existing, access, drift, scores, verify, purge, attempts, "
            "deadline",
        ),
        ("existing=yes", "existing= takes refuse or adopt"),
        ("access=open", "access= takes refuse, keep or close"),
        ("access=keep", "access= says what happens to clients of tables that existing=adopt replaces"),
        ("verify=0", "verify= takes yes or no"),
        ("purge", "purge= takes yes or no"),
        ("attempts=many", "attempts= takes a whole number"),
        ("deadline=0", "deadline= takes a whole number of seconds"),
        (f"{SECRET}=1", "have no option this name;"),
    ],
)
def test_an_option_that_is_misspelt_is_not_passed_over(
    supabase_url: sa.URL, tmp_path: Path, option: str, said: str
) -> None:
    before = snapshot(supabase_url)
    done = program("-x", option, "upgrade", "head", home=tmp_path, DATABASE_URL=text_of(supabase_url))
    assert said in error_of(done, 2)
    assert snapshot(supabase_url) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"exsting": "adopt"}, "The migrations have no option exsting; the options are url, existing, access, "),
        ({"existing": True}, "The option existing= takes refuse or adopt."),
        ({"existing": "adopt", "access": "yes"}, "The option access= takes refuse, keep or close."),
        ({"purge": "true"}, "The option purge= takes yes or no."),
        ({"attempts": 0}, "The option attempts= takes a whole number from 1 to 999999."),
    ],
)
def test_a_program_learns_of_a_misspelt_option_where_it_says_it(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        alembic_config("postgresql://localhost/unused", **options)
    assert str(raised.value).startswith(said)


def test_an_interrupt_is_not_lost_where_the_lock_timeout_comes_before_its_cancellation(url: sa.URL) -> None:
    def wait(connection: sa.Connection) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            # As the driver does: it asks the server to cancel the statement, and waits for the outcome.
            connection.execute(sa.text("lock table public.habit_index in access exclusive mode"))
            raise

    patience = Patience()
    with (
        locked(url, "public.habit_index"),
        engine_of(url).connect() as connection,
        limited(connection, patience),
    ):
        with pytest.raises(KeyboardInterrupt):
            patience.run(connection, lambda: wait(connection))
        connection.rollback()


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
    before = sorted(FOLDER.rglob("*.py"))
    done = program("revision", "--autogenerate", "-m", "nothing", home=tmp_path, DATABASE_URL=text_of(url))
    assert done.returncode == 0
    assert "there is nothing to generate" in done.stderr
    assert sorted(FOLDER.rglob("*.py")) == before


def test_stamp_makes_the_version_table_it_needs(supabase_url: sa.URL, tmp_path: Path) -> None:
    assert program("stamp", HISTORY[1], home=tmp_path, DATABASE_URL=text_of(supabase_url)).returncode == 0
    assert current(supabase_url) == HISTORY[1]


def with_lost_connection(server: Server, url: sa.URL) -> sa.URL:
    """Return a database whose server ends the connection in the middle of a revision."""
    run(
        server.as_admin(url),
        """
        create function public.leave() returns event_trigger language plpgsql as $$
        begin perform pg_terminate_backend(pg_backend_pid()); end $$;
        create event trigger leave on ddl_command_end when tag in ('CREATE TABLE') execute function public.leave();
        """,
    )
    return url


def refused(prepare: Callable[[Server, sa.URL], sa.URL | str], expected: type[MomentumError]) -> object:
    return pytest.param(prepare, expected, id=expected.__name__)


def with_collision(_: Server, url: sa.URL) -> sa.URL:
    run(url, "create table public.habit_index ()")
    return url


def with_broken_step(server: Server, url: sa.URL) -> sa.URL:
    """Return a database in which a revision fails although the preflight found nothing."""
    run(
        server.as_admin(url),
        """
        create function public.forbid() returns event_trigger language plpgsql as $$
        begin
          -- Only in the table itself, and not in the preflight's rehearsal of it.
          if exists (
            select from pg_event_trigger_ddl_commands() as c
            inner join pg_attribute as a on c.objid = a.attrelid and a.attname = 'payload'
          ) then
            raise exception 'no tables here';
          end if;
        end $$;
        create event trigger forbid on ddl_command_end when tag in ('CREATE TABLE') execute function public.forbid();
        """,
    )
    return url


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        refused(lambda *_: "", ConfigurationError),
        refused(lambda *_: f"mysql://root:{SECRET}@localhost/app", ConfigurationError),
        refused(lambda *_: NOWHERE, DatabaseUnreachableError),
        refused(with_collision, PreflightError),
        refused(with_broken_step, MigrationError),
        refused(with_lost_connection, DatabaseUnreachableError),
    ],
)
def test_a_calling_program_gets_a_typed_exception(
    server: Server,
    supabase_url: sa.URL,
    capfd: pytest.CaptureFixture[str],
    prepare: Callable[[Server, sa.URL], sa.URL | str],
    expected: type[MomentumError],
) -> None:
    with pytest.raises(expected) as raised:
        alembic.command.upgrade(alembic_config(prepare(server, supabase_url)), "head")
    assert type(raised.value) is expected
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    shown_too = None if raised.value.__suppress_context__ else raised.value.__context__
    assert shown_too is None, "the driver's error, shown next to ours, may hold a secret"
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


@pytest.mark.parametrize("verified", [True, False])
def test_inside_a_transaction_an_upgrade_is_verified_unless_told_otherwise(
    supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch, verified: bool
) -> None:
    checked: list[sa.Connection] = []
    monkeypatch.setattr("momentum.verify.compare.check", checked.append)
    with engine_of(supabase_url).connect() as connection:
        connection.execute(sa.text("select 1"))
        config = alembic_config("", verify=verified)
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
        alembic.command.downgrade(config, "base")
        connection.rollback()
    assert checked == ([connection] if verified else [])


@pytest.mark.parametrize("handed_in", ["engine", "connection"])
def test_a_connection_that_commits_each_statement_is_refused(supabase_url: sa.URL, handed_in: str) -> None:
    before = snapshot(supabase_url)
    engine = sa.create_engine(supabase_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        config = alembic_config("")
        config.attributes["connection"] = engine if handed_in == "engine" else connection
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            alembic.command.upgrade(config, "head")
    engine.dispose()
    assert snapshot(supabase_url) == before


def test_the_connection_of_an_asynchronous_engine_may_be_handed_in(supabase_url: sa.URL) -> None:
    config = alembic_config("")

    def upgrade(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")

    async def migrate() -> None:
        engine = create_async_engine(supabase_url)
        async with engine.connect() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()

    asyncio.run(migrate())
    assert current(supabase_url) == HEAD


def test_an_engine_whose_server_does_not_answer_is_a_typed_exception() -> None:
    config = alembic_config("")
    config.attributes["connection"] = sa.create_engine(NOWHERE.replace("postgresql", "postgresql+psycopg", 1))
    with pytest.raises(DatabaseUnreachableError):
        alembic.command.upgrade(config, "head")


@pytest.mark.slow
def test_the_lock_is_kept_however_soon_the_server_ends_idle_transactions(server: Server) -> None:
    url = database_with_scores(server, "legacy.seed")
    run(url, f"alter database {url.database} set idle_in_transaction_session_timeout = '1s'")
    engine = create_engine(url, "momentum-migrations")
    config = alembic_config("")
    with engine.connect() as connection, ThreadPoolExecutor(1) as operator, engine_of(url).connect() as holder:
        # These may pause on a slow machine; this is about the one that keeps the lock.
        for each in (connection, holder):
            each.exec_driver_sql("set idle_in_transaction_session_timeout = 0")
            each.commit()
        config.attributes["connection"] = connection
        # CREATE INDEX CONCURRENTLY waits for its snapshot.
        holder = holder.execution_options(isolation_level="REPEATABLE READ")
        holder.execute(sa.text("select from auth.users"))
        upgrade = operator.submit(alembic.command.upgrade, config, "head")
        # By the server's clock, which is the one that ends idle transactions.
        wait_until(
            url,
            "exists (select from pg_stat_activity where datname = current_database() and state = 'idle in transaction' "
            "and application_name = 'momentum-migrations-lock' and clock_timestamp() - state_change > '1500ms')",
        )
        holder.rollback()
        upgrade.result(timeout=DEADLINE)
    assert current(url) == HEAD
    server.drop_database(url)


@pytest.mark.parametrize("step", ["upgrade", "downgrade"])
def test_what_needs_commits_is_refused_inside_a_transaction(server: Server, step: str) -> None:
    url = database_with_scores(server, "legacy.seed")
    try:
        if step == "downgrade":
            migrate_to(url, HEAD)
        before = snapshot(url)
        with engine_of(url).connect() as connection:
            connection.execute(sa.text("select 1"))
            config = alembic_config("")
            config.attributes["connection"] = connection
            with pytest.raises(PreflightError, match="in steps that commit, and the connection was handed in inside a"):
                getattr(alembic.command, step)(config, "head" if step == "upgrade" else "base")
            # Up to the first revision that needs a commit.
            getattr(alembic.command, step)(config, SCORES_ADOPTED if step == "upgrade" else KEY)
            connection.rollback()
        assert snapshot(url) == before
    finally:
        server.drop_database(url)


def test_a_refusal_inside_a_transaction_leaves_its_settings_as_they_were(supabase_url: sa.URL) -> None:
    run(supabase_url, "create table public.habit_index ()")
    with engine_of(supabase_url).connect() as connection:
        settings = connection.execute(sa.text(SETTINGS)).one()
        config = alembic_config("")
        config.attributes["connection"] = connection
        with pytest.raises(PreflightError):
            alembic.command.upgrade(config, "head")
        assert connection.execute(sa.text(SETTINGS)).one() == settings


def test_an_asynchronous_engine_is_refused_in_one_sentence(supabase_url: sa.URL) -> None:
    config = alembic_config("")
    config.attributes["connection"] = create_async_engine(supabase_url)
    with pytest.raises(ConfigurationError, match="inside of run_sync"):
        alembic.command.upgrade(config, "head")


def test_a_program_gives_options_as_what_they_are(supabase_url: sa.URL) -> None:
    timed_out = pytest.raises(MigrationError, match=r"lock timeout \(2 times")
    with locked(supabase_url, "auth.users"), timed_out as raised:
        alembic.command.upgrade(alembic_config(supabase_url, attempts=2, verify=False), "head")
    assert isinstance(raised.value.__cause__, sa.exc.DBAPIError)
    assert getattr(raised.value.__cause__.orig, "sqlstate", None) == "55P03", "a program can tell why"


def test_a_score_table_that_was_dropped_with_the_view_does_not_stop_the_way_back(server: Server) -> None:
    url = database_with_scores(server, "public.seed")
    try:
        migrate_to(url, HEAD)
        run(url, "drop table public.daily_engagement_scores cascade")
        migrate_to(url, "base")
        migrate_to(url, HEAD)
    finally:
        server.drop_database(url)


@pytest.mark.slow
def test_a_transaction_that_was_handed_in_waits_for_no_lock_without_end(supabase_url: sa.URL) -> None:
    with (
        locked(supabase_url, "auth.users"),
        engine_of(supabase_url).connect() as connection,
    ):
        connection.execute(sa.text("select 1"))
        config = alembic_config("")
        config.attributes["connection"] = connection
        with pytest.raises(MigrationError, match="lock timeout"):
            alembic.command.upgrade(config, "head")


def test_production_with_its_own_key_is_migrated_inside_a_transaction(server: Server) -> None:
    url = database_with_scores(server, "public.production")
    try:
        with engine_of(url).connect() as connection:
            for step, revision in (("upgrade", "head"), ("downgrade", "base"), ("upgrade", "head")):
                connection.execute(sa.text("select 1"))
                config = alembic_config("")
                config.attributes["connection"] = connection
                getattr(alembic.command, step)(config, revision)
            connection.commit()
        assert current(url) == HEAD
    finally:
        server.drop_database(url)


def test_a_connection_that_is_lost_while_the_key_is_made_is_one_line(server: Server, tmp_path: Path) -> None:
    url = database_with_scores(server, "legacy.seed")
    try:
        with engine_of(url).connect() as writer:
            writer.execute(sa.text("lock table legacy.daily_engagement_scores in row exclusive mode"))
            process = start("upgrade", "head", home=tmp_path, DATABASE_URL=text_of(url))
            pid = wait_until(
                url,
                "(select pid from pg_stat_activity where datname = current_database() "
                "and wait_event_type = 'Lock' and query ilike 'create unique%')",
                process=process,
            )
            fetch(url, "select pg_terminate_backend(:pid)", pid=pid)
            _, stderr = process.communicate()
            writer.rollback()
        assert process.returncode == 3, stderr
        assert stderr.splitlines()[-1] == "Error: The connection to the database was lost; run the command again."
        assert "Traceback" not in stderr
        assert program("upgrade", "head", home=tmp_path, DATABASE_URL=text_of(url)).returncode == 0
        assert current(url) == HEAD
    finally:
        server.drop_database(url)


def test_a_migration_that_has_lost_its_lock_stops_and_leaves_the_key_to_the_next_one(
    server: Server, tmp_path: Path
) -> None:
    """Two that went on beside each other could drop each other's valid key, and head would stay without one."""
    url = database_with_scores(server, "legacy.seed")
    waiting = """
        (
          select count(*) from pg_stat_activity
          where
            datname = current_database() and application_name = 'momentum-migrations'
            and wait_event_type = 'Lock' and query ~* 'index concurrently'
        ) = {}
    """
    try:
        with engine_of(url).connect() as writer:
            writer.execute(sa.text("lock table legacy.daily_engagement_scores in row exclusive mode"))
            first = start("upgrade", "head", home=tmp_path, DATABASE_URL=text_of(url))
            wait_until(url, waiting.format(1), process=first)
            [keeper] = fetch(
                url,
                "select pid from pg_stat_activity where datname = current_database() "
                "and application_name = 'momentum-migrations-lock'",
            )
            fetch(url, "select pg_terminate_backend(:pid)", pid=keeper)
            second = start("upgrade", "head", home=tmp_path, DATABASE_URL=text_of(url))
            wait_until(url, waiting.format(2), process=second)
            writer.rollback()
            _, of_first = first.communicate()
            _, of_second = second.communicate()
        assert (first.returncode, second.returncode) == (3, 0), of_first + of_second
        assert of_first.splitlines()[-1] == "Error: The connection to the database was lost; run the command again."
        assert current(url) == HEAD
        assert differences(url) == []
    finally:
        server.drop_database(url)


@pytest.mark.slow
def test_what_waits_for_old_transactions_gives_up_at_the_deadline_and_leaves_nothing_behind(
    server: Server, tmp_path: Path
) -> None:
    url = database_with_scores(server, "legacy.seed")
    try:
        with engine_of(url).connect() as writer:
            writer.execute(sa.text("lock table legacy.daily_engagement_scores in row exclusive mode"))
            process = start("-x", "deadline=1", "upgrade", "head", home=tmp_path, DATABASE_URL=text_of(url))
            # Cleaning up is given more time than was left, and needs the writer's end as well.
            wait_until(
                url,
                "exists (select from pg_stat_activity where datname = current_database() "
                "and wait_event_type = 'Lock' and query like 'drop index concurrently%')",
                process=process,
            )
            assert snapshot(url, of="index | legacy.uq")
            writer.rollback()
            stdout, stderr = process.communicate()
        done = subprocess.CompletedProcess(process.args, process.wait(), stdout, stderr)
        assert "lock timeout (1 time in " in error_of(done, 1)
        assert current(url) == SCORES_ADOPTED
        assert not snapshot(url, of="index | legacy.uq"), "the invalid index is still there"
        assert program("upgrade", "head", home=tmp_path, DATABASE_URL=text_of(url)).returncode == 0
        assert not [fact for fact in snapshot(url, of="index | legacy") if " | f | " in fact], "an invalid index"
    finally:
        server.drop_database(url)


def test_outside_of_a_transaction_a_statement_takes_its_time_and_the_session_gets_its_settings_back(
    supabase_url: sa.URL,
) -> None:
    theirs = {
        "statement_timeout": "7s",
        "lock_timeout": "3s",
        "search_path": "public",
        "TimeZone": "Asia/Tokyo",
        "synchronous_commit": "off",
    }
    ours = {
        "statement_timeout": "0",
        "search_path": "pg_catalog, pg_temp",
        "TimeZone": "UTC",
        "synchronous_commit": "on",
    }
    with engine_of(supabase_url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        change_settings(connection, theirs, local=False)
        for at_least, seconds, lock_timeout in ((5.0, 0.0, "5s"), (5.0, 10**6, None)):
            with unlimited(connection, Patience(seconds=seconds), at_least):
                found = read_settings(connection, theirs)
            assert found == {**theirs, **ours, "lock_timeout": lock_timeout or found["lock_timeout"]}
            if lock_timeout is None:
                assert found["lock_timeout"].endswith(("min", "s")), "until the deadline"
            assert read_settings(connection, theirs) == theirs
        with pytest.raises(ZeroDivisionError), unlimited(connection, Patience(), 5.0):
            raise ZeroDivisionError
        assert read_settings(connection, theirs) == theirs


def test_a_connection_keeps_its_settings_when_a_migration_fails(server: Server, supabase_url: sa.URL) -> None:
    with_broken_step(server, supabase_url)
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
