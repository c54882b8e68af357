"""A process that is stopped, or whose network goes silent, holds nobody up, and notices it itself."""

import contextlib
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.connect import watch
from momentum.connect.engine import create_engine
from momentum.connect.settings import IDLE_TIMEOUT, SILENT
from momentum.errors import DatabaseUnreachableError
from momentum.migrate.config import alembic_config
from momentum.testing import Server
from tests.alembic_program import error_of, program, start, text_of
from tests.backfilling import COMMIT, DAY, PASSWORD, Proxy, Scores, backfill, call, started, with_password
from tests.migrating import HISTORY, WAITING_MIGRATION, current, database_with_scores, execute, fetch, run, wait_until
from tests.processes import DEADLINE
from tests.samples import add_users
from tests.server import engine_of

FILL = ("--from", f"{DAY}", "--to", f"{DAY}")

# The sessions of a program that are in a transaction and wait for its next statement.
IDLE = """
exists (
  select from pg_catalog.pg_stat_activity
  where datname = current_database() and application_name = :program and state = 'idle in transaction'
)
"""


def is_let_through(url: sa.URL, sql: str, **parameters: object) -> None:
    """Assert that a client's statement succeeds, however long it has to wait for a lock meanwhile."""
    with engine_of(url).begin() as connection:
        connection.exec_driver_sql(f"set local statement_timeout = '{DEADLINE:.0f}s'")
        connection.execute(sa.text(sql), parameters)


@pytest.mark.slow
def test_a_migration_that_is_stopped_with_locks_lets_clients_through(supabase_url: sa.URL, tmp_path: Path) -> None:
    (user,) = add_users(engine_of(supabase_url))
    sign_in = "update auth.users set last_sign_in_at = now() where id = :user"
    with engine_of(supabase_url).connect() as holder:
        holder.execute(sa.text("lock table auth.users in row exclusive mode"))
        upgrade = ("-x", "deadline=600", "upgrade", "head")
        with start(*upgrade, home=tmp_path, MOMENTUM_DATABASE_URL=text_of(supabase_url)) as process:
            wait_until(supabase_url, WAITING_MIGRATION, process=process)
            process.halt()
            try:
                holder.rollback()
                # It may have given up its place before it was stopped; then it holds nothing.
                is_let_through(supabase_url, sign_in, user=user)
                wait_until(supabase_url, f"not {IDLE}", program="momentum-migrations")
            finally:
                process.send_signal(signal.SIGCONT)
            _, stderr = process.communicate()
    assert process.returncode == 3, stderr
    assert stderr.splitlines()[-1] == "Error: The connection to the database was lost; run the command again."
    assert "Traceback" not in stderr
    assert program("upgrade", "head", home=tmp_path, MOMENTUM_DATABASE_URL=text_of(supabase_url)).returncode == 0


@pytest.mark.slow
def test_a_backfill_that_is_stopped_with_locks_lets_clients_through_and_resumes(scores: Scores) -> None:
    users = add_users(scores.engine, 5)
    with engine_of(scores.url).connect() as holder:
        holder.execute(sa.text("select from auth.users where id = :user for update"), {"user": max(users)})
        # With a pause it waits for the page before it sends the commit.
        with started(scores.url, *FILL, "--lock-timeout", "600", "--pause-ms", "1") as process:
            wait_until(
                scores.url,
                "exists (select from pg_stat_activity where datname = current_database() "
                "and application_name = 'momentum-backfill' and wait_event_type = 'Lock')",
                process=process,
            )
            process.halt()
            try:
                holder.rollback()
                # The page has this row too, and nobody commits it: the client waits until the server has given it up.
                scores.add(min(users), DAY, 50)
            finally:
                process.send_signal(signal.SIGCONT)
            _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert scores.filled() == [(user, DAY) for user in sorted(users)]
    assert execute(scores.url, f"select count(*) from {scores.relation} where {scores_column(scores)} = 50") == 1


def scores_column(scores: Scores) -> str:
    """Return the column of the score."""
    return "final_score" if scores.layout.endswith("production") else "score"


def test_the_server_ends_each_transaction_of_a_client_that_stops(scores: Scores) -> None:
    add_users(scores.engine, 3)
    run(
        scores.url,
        f"""
        create table public.seen (idle text);
        grant all on public.seen to public;
        create function public.note() returns trigger language plpgsql as $$ begin
          insert into public.seen values (current_setting('idle_in_transaction_session_timeout'));
          return new;
        end $$;
        create trigger note before insert on {scores.relation} for each row execute function public.note();
        """,
    )
    assert backfill(*FILL, url=scores.url).returncode == 0
    assert fetch(scores.url, "select distinct idle from public.seen") == [f"{IDLE_TIMEOUT}s"]


class SilentProxy(Proxy):
    """Forwards nothing more, and closes nothing, from when a certain message has gone by."""

    def __init__(self, url: sa.URL, message: bytes) -> None:
        super().__init__(url, message, forwarded=True)
        self.silent = threading.Event()

    def _pass_on(self, source: socket.socket, target: socket.socket, *, looks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                was_silent = self.silent.is_set()
                if looks and self._message in data:
                    # Before the server can answer.
                    self.silent.set()
                if not was_silent:
                    target.sendall(data)
        if not self.silent.is_set():
            self._cut(target)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        self._pass_on(client, server, looks=True)

    def _return(self, server: socket.socket, client: socket.socket) -> None:
        self._pass_on(server, client, looks=False)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a network for silent soon; by how much is no part of these tests."""
    for name, seconds in (("SILENCE", 0.3), ("ARRIVAL", 0.3), ("ANSWER", 2)):
        monkeypatch.setattr(watch, name, seconds)
    monkeypatch.setattr("momentum.backfill.settings.SECONDS_OF_RECONNECTING", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("message", [b"INSERT INTO", COMMIT, b"pg_dist_partition"])
def test_a_silent_network_ends_a_backfill(scores: Scores, message: bytes) -> None:
    add_users(scores.engine, 3)
    with SilentProxy(scores.url, message) as proxy:
        done = call(*FILL, "--attempts", "1", url=proxy.url.update_query_dict({"connect_timeout": "2"}))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("message", [b"CREATE TABLE public.habit_index", b"CONCURRENTLY", b"COMMIT", b"pg_constraint"])
def test_a_silent_network_ends_a_migration(server: Server, message: bytes) -> None:
    url = database_with_scores(server, "legacy.seed")
    with SilentProxy(url, message) as proxy:
        with pytest.raises(DatabaseUnreachableError) as raised:
            alembic.command.upgrade(alembic_config(proxy.url), "head")
        assert "\n" not in str(raised.value)
        assert proxy.silent.is_set()
    # What was at work may still be: it holds the lock of the migrations until it is done.
    alembic.command.upgrade(alembic_config(url), "head")
    assert current(url) == HISTORY[-1]
    server.drop_database(url)


@pytest.fixture
def login(server: Server, supabase_url: sa.URL) -> Iterator[sa.URL]:
    """The URL of a login that is a member of another role, and those who administer the server may change it."""
    admin, name = server.as_admin(supabase_url), f"login_{uuid.uuid4().hex[:8]}"
    run(admin, f"create role {name}_owner; create role {name} login password '{PASSWORD}' in role {name}_owner")
    yield supabase_url.set(username=name, password=PASSWORD)
    run(admin, f"drop role {name}; drop role {name}_owner")


HEALTHY = {
    "as it is": ("", "", "select"),
    "in a role that doesn't see its own login": ("options", "-c role={name}_owner", "select"),
    "where no state is recorded": ("", "", "alter database {database} set track_activities = off"),
    "whose login may no longer connect": ("", "", "alter role {name} nologin"),
    "whose role may run no statement for long": ("", "", "alter role {name} set statement_timeout = 1"),
}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("case", HEALTHY)
def test_a_statement_that_takes_long_is_waited_for(
    server: Server, login: sa.URL, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    option, value, change = (each.format(name=login.username, database=login.database) for each in HEALTHY[case])
    admin = server.as_admin(login)
    if "database" in change:
        run(admin, change)
    with waiting(server, login.update_query_dict({option: value} if option else {}), monkeypatch) as answers:
        run(admin, change)
    assert answers == [True] * 3


@contextlib.contextmanager
def waiting(server: Server, url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Wait for a lock, from when the block ends until the server was asked three times, and fill in its answers."""
    answers: list[bool] = []
    ask = watch.WatchedConnection._server_is_at_work
    lock = sa.text("select pg_advisory_xact_lock(1)")
    with engine_of(server.as_admin(url)).connect() as holder:
        holder.execute(lock)

        def ask_and_let_go(connection: watch.WatchedConnection) -> bool:
            answers.append(ask(connection))
            if len(answers) == 3:
                holder.rollback()
            return answers[-1]

        monkeypatch.setattr(watch.WatchedConnection, "_server_is_at_work", ask_and_let_go)
        with create_engine(url, "momentum-tests").connect() as connection:
            connection.execute(sa.text("select"))
            yield answers
            connection.execute(lock)


@pytest.mark.usefixtures("soon")
def test_of_several_servers_the_one_that_was_reached_is_asked(
    server: Server, supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other, Proxy(supabase_url, b"sent by nobody", forwarded=True) as proxy:
        other.bind(("127.0.0.1", 0))
        hosts = f"127.0.0.1:{other.getsockname()[1]}", f"127.0.0.1:{proxy.url.port}"
        url = proxy.url.set(host=None, port=None).update_query_dict({"host": hosts})
        with waiting(server, url, monkeypatch) as answers:
            other.listen()
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert answers == [True] * 3


class MutedProxy(Proxy):
    """Returns nothing more, and closes nothing, to the client that has sent a certain message; others are served."""

    def __init__(self, url: sa.URL, message: bytes) -> None:
        super().__init__(url, message, forwarded=True)
        self._muted: socket.socket | None = None

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._message in data:
                    self._muted = client
                server.sendall(data)
        self._cut(server)

    def _return(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if client is not self._muted:
                    client.sendall(data)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("work", ["1", "pg_terminate_backend(pg_backend_pid())"], ids=["done", "gone"])
def test_an_answer_that_got_lost_is_not_waited_for(supabase_url: sa.URL, work: str) -> None:
    with (
        MutedProxy(supabase_url, b"muted") as proxy,
        create_engine(proxy.url, "momentum-tests").connect() as connection,
        pytest.raises(sa.exc.OperationalError, match=SILENT),
    ):
        connection.execute(sa.text(f"select {work} as muted"))


@pytest.mark.slow
def test_one_signal_ends_a_backfill_whose_network_is_silent(scores: Scores) -> None:
    add_users(scores.engine, 3)
    with SilentProxy(scores.url, b"INSERT INTO") as proxy, started(proxy.url, *FILL) as process:
        assert proxy.silent.wait(DEADLINE)
        before = proxy.accepted
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
    # It is the error of the page that it was finishing.
    assert (process.returncode, stderr.endswith(f" cannot be reached: {SILENT}.\n")) == (3, True), stderr
    assert "Traceback" not in stderr
    assert proxy.accepted == before + 1, "it has asked whether the server is there, and has not connected again"


@pytest.mark.slow
def test_one_line_says_that_the_network_is_silent(supabase_url: sa.URL, tmp_path: Path) -> None:
    with SilentProxy(supabase_url, b"CREATE TABLE public.habit_index") as proxy:
        done = program("upgrade", "head", home=tmp_path, MOMENTUM_DATABASE_URL=with_password(proxy.url))
    assert "answer" in error_of(done, 3)
