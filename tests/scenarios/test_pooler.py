"""A real PgBouncer in between: the next transaction gets another session of the server, on a port that says nothing."""

import contextlib
import datetime
import os
import pwd
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Settings, run_backfill
from momentum.connect.engine import create_engine
from momentum.connect.url import as_text
from momentum.migrate.locks import ADVISORY_LOCK
from momentum.testing import Server
from tests.alembic_program import error_of, program, start
from tests.backfilling import BOTH, Scores, backfill, scores_in
from tests.catalog import snapshot
from tests.migrating import HISTORY, REVISIONS, current, database_with_scores, migrate_to, rows_of, run, until
from tests.samples import add_users
from tests.server import engine_of

POOLER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
HEAD = HISTORY[-1]
# Sessions of the server, which take turns.
SESSIONS = 3

# The state of a session that the transactions of its other clients would find.
STATE = """
select
  array(select name || ' = ' || setting from pg_catalog.pg_settings where source = 'session' order by name),
  array(select name from pg_catalog.pg_prepared_statements),
  array(
    select locktype from pg_catalog.pg_locks
    where pid = pg_backend_pid() and locktype = 'advisory' and objsubid = 1
  )
"""
# The driver and the pooler agree on these; each client has its own.
OF_THE_CLIENT = ("application_name = ", "client_encoding = ")

# Several pages of duplicate days, or of rows in the app's own tables.
DUPLICATES = """
insert into legacy.daily_engagement_scores (user_id, score_ts, score, note)
select id, timestamptz '2024-03-01 12:00+00' - n * interval '1 h', n, n from auth.users, generate_series(0, 2) as n
"""
APP_ROWS = "insert into public.momentum_events (event_type) select 'of nobody' from generate_series(1, 700)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(POOLER is None, reason="there is no pgbouncer: apt-get install pgbouncer"),
]


@dataclass
class Pooler:
    """A running pooler.

    Attributes:
        url: The database through it.
        direct: The database itself.
    """

    url: sa.URL
    direct: sa.URL

    @contextmanager
    def clients(self) -> Iterator[list[Any]]:
        """Let other clients work during the block; yields what they have found in their sessions that is not theirs."""
        found: list[Any] = []
        over = threading.Event()

        def work() -> int:
            with psycopg.connect(as_text(self.url), prepare_threshold=None, autocommit=True) as connection:
                looks = 0
                while not over.is_set():
                    found.extend(left_in(connection))
                    looks += 1
                return looks

        with ThreadPoolExecutor(2) as threads:
            working = [threads.submit(work) for _ in range(2)]
            try:
                yield found
            finally:
                over.set()
            assert all(client.result() for client in working), "the clients were at work"

    def leftovers(self) -> list[Any]:
        """Return what is left in the sessions of the pool, each held by a transaction until all have been seen."""
        with ExitStack() as stack:
            seen: dict[int, list[Any]] = {}
            for _ in range(SESSIONS):
                connection = stack.enter_context(psycopg.connect(as_text(self.url), prepare_threshold=None))
                left = left_in(connection)
                seen[connection.execute("select pg_backend_pid()").fetchone()[0]] = left  # type: ignore[index]
            assert len(seen) == SESSIONS
            return [each for left in seen.values() for each in left]


def left_in(connection: psycopg.Connection[Any]) -> list[Any]:
    """Return the settings, prepared statements and advisory locks of a session, except those of its present client."""
    row = connection.execute(STATE, prepare=False).fetchone()
    assert row is not None
    return [each for state in row for each in state if not each.startswith(OF_THE_CLIENT)]


@contextmanager
def pooler_to(url: sa.URL, folder: Path, **options: object) -> Iterator[Pooler]:
    """Run PgBouncer in front of a database, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host = url.host or url.query["host"]
    server = {"host": host, "port": url.port or 5432, "user": url.username, "password": url.password}
    line = " ".join(f"{name}='{value}'" for name, value in server.items() if value)
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "server_round_robin": 1,
        "default_pool_size": SESSIONS,
        "min_pool_size": SESSIONS,
        **options,
    }
    lines = [f"[databases]\n{url.database} = {line}\n[pgbouncer]", *(f"{name} = {it}" for name, it in settings.items())]
    file = folder / "pgbouncer.ini"
    file.write_text("\n".join(lines))
    command = [str(POOLER), str(file)]
    if os.geteuid() == 0:
        # It refuses to run as root, and the embedded server's folder is its own user's.
        owner = pwd.getpwuid(Path(str(host)).stat().st_uid).pw_name if str(host).startswith("/") else "nobody"
        command += ["-u", owner]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        through = url.set(host="127.0.0.1", port=port, password=None, query={})

        def answers() -> bool:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(as_text(through)):
                return True
            return False

        try:
            until(answers, "pgbouncer answers")
            yield Pooler(through, url)
        finally:
            process.terminate()
            process.communicate()


def database_with_rows(server: Server, scores: str, *, predecessors: bool = False) -> sa.URL:
    """Return a new database, not migrated, whose rows the migrations move in pages."""
    url = database_with_scores(server, scores, predecessors=predecessors)
    add_users(engine_of(url), 400)
    if scores == "legacy.seed":
        run(url, DUPLICATES)
    if predecessors:
        run(url, APP_ROWS)
    return url


@contextmanager
def pooled(server: Server, scores: str, folder: Path, *, predecessors: bool = False) -> Iterator[Pooler]:
    """Yield a pooler to a new database, not migrated."""
    url = database_with_rows(server, scores, predecessors=predecessors)
    try:
        with pooler_to(url, folder) as pooler:
            yield pooler
    finally:
        server.drop_database(url)


@pytest.mark.parametrize(
    ("scores", "predecessors"),
    [("fresh", False), ("legacy.seed", False), ("public.production", False), ("fresh", True)],
)
def test_a_migration_is_exact_and_leaves_nothing_in_the_sessions_of_others(
    server: Server, tmp_path: Path, scores: str, predecessors: bool
) -> None:
    options = {"existing": "adopt", "access": "close"} if predecessors else {}
    with pooled(server, scores, tmp_path, predecessors=predecessors) as pooler:
        before, rows = snapshot(pooler.direct), rows_of(pooler.direct)
        with pooler.clients() as found:
            migrate_to(pooler.url, HEAD, **options)
            at_head, rows_at_head = snapshot(pooler.direct), rows_of(pooler.direct)
            migrate_to(pooler.url, "base")
            found_rows = rows_of(pooler.direct)
            migrate_to(pooler.url, HEAD, **options)
            migrate_to(pooler.url, "base", purge=True)
        assert {name: found_rows[name] for name in rows} == rows
        assert snapshot(pooler.direct) == before
        assert rows_of(pooler.direct) == rows
        assert found == []
        assert pooler.leftovers() == []
        migrate_to(pooler.direct, HEAD, **options)
        assert (at_head, rows_at_head) == (snapshot(pooler.direct), rows_of(pooler.direct)), "as without a pooler"


@pytest.mark.parametrize("scores", ["fresh", "legacy.seed"])
def test_migrations_at_once_are_exclusive_through_the_pooler_and_beside_it(
    server: Server, tmp_path: Path, scores: str
) -> None:
    with pooled(server, scores, tmp_path) as pooler:
        urls = [pooler.url, pooler.direct, pooler.url, pooler.direct]
        processes = [start("upgrade", "head", home=tmp_path, DATABASE_URL=as_text(url)) for url in urls]
        outputs = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(urls), outputs
        ran = [line for output in outputs for line in output.splitlines() if line.startswith("Running upgrade")]
        assert len(set(ran)) == len(REVISIONS)
        # Another migration may take over a revision while it is between a transaction and a patient statement.
        assert len(ran) == len(REVISIONS) or scores != "fresh"
        assert current(pooler.direct) == HEAD
        assert pooler.leftovers() == []


def test_a_lock_that_a_client_of_the_pool_holds_is_waited_for_and_its_session_is_named(
    server: Server, tmp_path: Path
) -> None:
    with pooled(server, "fresh", tmp_path) as pooler, psycopg.connect(as_text(pooler.url)) as other:
        other.execute(f"select pg_advisory_xact_lock({ADVISORY_LOCK})")
        pid = other.execute("select pg_backend_pid()").fetchone()
        assert pid is not None
        done = program("-x", "deadline=1", "upgrade", "head", home=tmp_path, DATABASE_URL=as_text(pooler.url))
        assert f"Another migration is running: pid {pid[0]} " in error_of(done, 1)
        assert current(pooler.direct) == "base"


@pytest.mark.parametrize("step", ["upgrade", "downgrade"])
def test_a_table_that_is_too_large_for_the_pools_time_limit_is_refused_before_anything_has_changed(
    server: Server, tmp_path: Path, step: str
) -> None:
    url = database_with_rows(server, "legacy.seed")
    if step == "downgrade":
        migrate_to(url, HEAD)
    run(url, f"alter role {url.username} in database {url.database} set statement_timeout = '50ms'")
    before = snapshot(url)
    with pooler_to(url, tmp_path) as pooler:
        target = "head" if step == "upgrade" else "base"
        done = program("-x", f"url={as_text(pooler.url)}", step, target, home=tmp_path)
    message = error_of(done, 1)
    assert re.search(
        r"legacy\.daily_engagement_scores is migrated in steps that commit, and with its \d+ kB some", message
    )
    assert "the statement_timeout of 0.05 s, which can't be lifted because a pooler is in between" in message
    assert snapshot(url) == before
    server.drop_database(url)


def one_session_of_the_pool(url: sa.URL, folder: Path) -> AbstractContextManager[Pooler]:
    return pooler_to(url, folder, default_pool_size=1, min_pool_size=1)


def one_session_of_the_pool_that_is_not_waited_for(url: sa.URL, folder: Path) -> AbstractContextManager[Pooler]:
    return pooler_to(url, folder, default_pool_size=1, min_pool_size=1, query_wait_timeout=1)


@contextmanager
def one_session_of_the_database(url: sa.URL, _: Path) -> Iterator[Pooler]:
    run(url, f"alter database {url.database} connection limit 1")
    try:
        yield Pooler(url, url)
    finally:
        run(url, f"alter database {url.database} connection limit -1")


@pytest.mark.parametrize("step", ["upgrade", "downgrade"])
@pytest.mark.parametrize(
    ("ground", "reason"),
    [
        (one_session_of_the_pool, "none was free within 5 seconds"),
        (one_session_of_the_pool_that_is_not_waited_for, "query_wait_timeout"),
        (one_session_of_the_database, "too many connections for database"),
    ],
)
def test_ground_with_one_session_only_is_refused_before_anything_has_changed(
    server: Server, tmp_path: Path, step: str, ground: Callable[..., AbstractContextManager[Pooler]], reason: str
) -> None:
    url = database_with_rows(server, "legacy.seed")
    if step == "downgrade":
        migrate_to(url, HEAD)
    before, rows = snapshot(url), rows_of(url)
    with ground(url, tmp_path) as pooler:
        target = "head" if step == "upgrade" else "base"
        done = program("-x", f"url={as_text(pooler.url)}", step, target, home=tmp_path)
    message = error_of(done, 1)
    assert "legacy.daily_engagement_scores is migrated in steps that commit, and they need a second session" in message
    assert reason in message
    assert (snapshot(url), rows_of(url)) == (before, rows)
    server.drop_database(url)


def test_a_pool_of_one_session_is_enough_for_what_needs_no_second_one(server: Server, tmp_path: Path) -> None:
    url = database_with_rows(server, "fresh")
    with one_session_of_the_pool(url, tmp_path) as pooler:
        migrate_to(pooler.url, HEAD)
        assert current(url) == HEAD
        filled = backfill("--days", "3", url=pooler.url)
        assert filled.returncode == 0, filled.stderr
        migrate_to(pooler.url, "base", purge=True)
    assert current(url) == "base"
    server.drop_database(url)


def test_a_pooler_that_bears_no_transaction_is_refused_before_anything_has_changed(
    server: Server, tmp_path: Path
) -> None:
    url = database_with_rows(server, "legacy.seed")
    before, rows = snapshot(url), rows_of(url)
    with pooler_to(url, tmp_path, pool_mode="statement") as pooler:
        done = program("-x", f"url={as_text(pooler.url)}", "upgrade", "head", home=tmp_path)
    assert "transaction blocks not allowed in statement pooling mode" in error_of(done, 3)
    assert (snapshot(url), rows_of(url)) == (before, rows)
    server.drop_database(url)


def test_a_pooler_that_keeps_sessions_serves_everything(server: Server, tmp_path: Path) -> None:
    url = database_with_rows(server, "legacy.seed")
    before, rows = snapshot(url), rows_of(url)
    with pooler_to(url, tmp_path, pool_mode="session") as pooler:
        migrate_to(pooler.url, HEAD)
        assert current(url) == HEAD
        migrate_to(pooler.url, "base", purge=True)
    assert (snapshot(url), rows_of(url)) == (before, rows)
    server.drop_database(url)


@pytest.mark.parametrize("layout", BOTH)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_backfill_is_exact_and_leaves_nothing_in_the_sessions_of_others(
    server: Server, tmp_path: Path, layout: str, workers: int
) -> None:
    with scores_in(server, layout) as scores, pooler_to(scores.url, tmp_path) as pooler:
        users = add_users(scores.engine, 300)
        through = Scores(pooler.url, layout, scores.relation, scores.day)
        with pooler.clients() as found:
            month = ("--from", "2024-03-01", "--to", "2024-03-30")
            done = backfill(*month, "--workers", str(workers), "--page-size", "100", url=through.url)
            assert done.returncode == 0, done.stderr
            again = backfill(*month, "--workers", str(workers), url=through.url)
            assert again.returncode == 0, again.stderr
        assert found == []
        assert scores.count() == 30 * len(users)
        assert len(set(scores.filled())) == 30 * len(users)
        assert pooler.leftovers() == []


def test_a_backfill_goes_on_without_prepared_statements_once_an_error_says_so(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler that passes on the process id of a session of the server looks like the server itself."""
    monkeypatch.setattr("momentum.backfill.session.keeps_session", lambda *_: True)
    refused: list[str] = []
    with scores_in(server, "fresh") as scores, pooler_to(scores.url, tmp_path) as pooler:
        users = add_users(scores.engine, 100)
        # Now there are several sessions, which take turns.
        assert pooler.leftovers() == []
        engine = create_engine(pooler.url.update_query_dict({"prepare_threshold": "0"}), "momentum-tests")

        @sa.event.listens_for(engine, "handle_error")
        def note(context: sa.ExceptionContext) -> None:
            refused.append(getattr(context.original_exception, "sqlstate", ""))

        today = datetime.datetime.now(datetime.UTC).date()
        days = DayRange(today - datetime.timedelta(days=20), today - datetime.timedelta(days=1))
        report = run_backfill(engine, Settings(days, page_size=50, commit_every=100))
        assert report.inserted == scores.count() == 20 * len(users)
        assert report.failed == 0
    assert refused, "no statement was prepared"
    assert set(refused) <= {"26000", "42P05"}
