"""Databases to fill, in each layout of the score table, and the command that fills them as people run it."""

import contextlib
import datetime
import io
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Report, cli
from momentum.connect.engine import create_engine
from momentum.connect.url import as_text
from momentum.testing import Server
from tests import processes
from tests.migrating import HISTORY, database_with_scores, execute, fetch, migrate_to, run

PROGRAM = Path(sys.executable).with_name("momentum-backfill")
PASSWORD = "pa55-word"

# Seconds after which a process hangs and is ended; nothing that is tested depends on it.
HANGS = 60

DAY = datetime.date(2026, 3, 5)
ONE_DAY = DayRange(DAY, DAY)

# Where the score table stands, its UTC day, and what a client writes into it. Said once more than in the code, and in
# other words.
SHAPES = {
    "fresh": ("legacy.daily_engagement_scores", "(score_ts at time zone 'UTC')::date", "score_ts, score"),
    "legacy.seed": ("legacy.daily_engagement_scores", "(score_ts at time zone 'UTC')::date", "score_ts, score"),
    "public.production": (
        "public.daily_engagement_scores",
        "score_date",
        "score_date, final_score, momentum_state",
    ),
}

# The table as a new project gets it, and the app's own with everything that stands on it.
BOTH = ("fresh", "public.production")


@dataclass
class Scores:
    """A migrated database with a score table.

    Attributes:
        url: Where it is.
        layout: One of ``SHAPES``.
        relation: The score table.
        day: The SQL expression of a row's UTC day.
    """

    url: sa.URL
    layout: str
    relation: str
    day: str

    @property
    def engine(self) -> sa.Engine:
        """A new engine, on which a test may listen."""
        return create_engine(self.url, application_name="momentum-tests")

    def add(self, user: uuid.UUID, day: datetime.date, score: float) -> None:
        """Write a row as a client does, in the midst of the day."""
        columns = SHAPES[self.layout][2]
        moment = ":day" if self.day == "score_date" else "cast(:day as timestamp) at time zone 'UTC' + interval '14 h'"
        more = ", 'Steady'" if self.day == "score_date" else ""
        execute(
            self.url,
            f"insert into {self.relation} (user_id, {columns}) values (:user, {moment}, :score{more})",
            user=user,
            day=day,
            score=score,
        )

    def rows(self) -> list[str]:
        """Return every row as text."""
        return fetch(self.url, f"select s::text from {self.relation} as s order by 1")

    def filled(self) -> list[tuple[uuid.UUID, datetime.date]]:
        """Return the user and the day of every row."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.text(f"select user_id, {self.day} from {self.relation} order by 1, 2"))
            return [(row[0], row[1]) for row in rows]

    def count(self) -> int:
        """Return how many rows there are."""
        return int(execute(self.url, f"select count(*) from {self.relation}"))

    def interfere(self, condition: str, action: str, event: str = "insert") -> None:
        """Give the table a trigger that does something before rows on which a condition holds."""
        row = "old" if event == "delete" else "new"
        run(
            self.url,
            f"""
            create sequence if not exists public.seen;
            create or replace function public.interfere() returns trigger language plpgsql as $$
            begin
              if {condition} then {action} end if;
              return {row};
            end $$;
            create or replace trigger interfere before {event} on {self.relation}
              for each row execute function public.interfere();
            """,
        )

    def leave_in_peace(self) -> None:
        """Take that trigger away again."""
        run(self.url, f"drop trigger interfere on {self.relation}")


@contextlib.contextmanager
def scores_in(server: Server, layout: str) -> Iterator[Scores]:
    """Yield a migrated database whose score table has a layout, dropped after."""

    def prepare(url: sa.URL) -> None:
        migrate_to(url, HISTORY[-1], existing="adopt")

    template = server.template(f"filled-{layout}", lambda: database_with_scores(server, layout), prepare)
    url = server.create_database(template)
    relation, day, _ = SHAPES[layout]
    try:
        yield Scores(url, layout, relation, day)
    finally:
        server.drop_database(url)


@contextlib.contextmanager
def at_a_pause(act: Callable[[], None], why: str = "") -> Iterator[list[str]]:
    """Yield what a run in this process logs, and call a function where it says that it pauses, and how that begins."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            if said[-1].startswith(f"pausing: {why}"):
                act()

    listener, logger = Listener(), logging.getLogger("momentum.backfill")
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


def statements_of(engine: sa.Engine) -> list[str]:
    """Return a list that gets every statement that the engine executes from now on."""
    seen: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def note(
        _connection: sa.Connection, _cursor: object, statement: str, _parameters: object, _context: object, _many: bool
    ) -> None:
        seen.append(statement)

    return seen


def messages_of(engine: sa.Engine) -> list[None]:
    """Return a list that gets longer with each message that a connection in pipeline mode sends from now on."""
    seen: list[None] = []

    @sa.event.listens_for(engine, "connect")
    def watch(driver: Any, _record: object) -> None:
        send = driver.send

        def note() -> None:
            if driver.has_noted:
                seen.append(None)
            send()

        driver.send = note

    return seen


def run_out_of_time(connection: sa.Connection) -> None:
    """Have the server end the running transaction because a statement took too long, however fast the machine is."""
    connection.exec_driver_sql("set local statement_timeout = 1")
    connection.exec_driver_sql("select pg_sleep(60)")


def sums_hold(report: Report) -> bool:
    """Return whether a report has counted every user-day once, by day too."""
    by_day = (report.inserted_by_day, report.inserted), (report.failed_by_day, report.failed)
    return report.eligible == report.present + report.inserted + report.raced + report.failed and (
        report.dry_run or all(sum(counter.values()) == total for counter, total in by_day)
    )


def with_password(url: sa.URL) -> str:
    """Return a URL as people write it; a server that trusts its clients takes any password, the others have one."""
    return as_text(url.set(password=url.password or PASSWORD))


def backfill(*arguments: str, url: sa.URL | str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, with the database's URL in the environment if there is one."""
    if isinstance(url, sa.URL):
        url = with_password(url)
    env = {**os.environ, **({"MOMENTUM_DATABASE_URL": url} if url else {}), **environment}
    done = processes.run(PROGRAM.name, *arguments, env=env)
    assert PASSWORD not in done.stdout + done.stderr, "no output shows a password"
    assert "Traceback" not in done.stderr, "no output shows a traceback"
    return done


def call(*arguments: str, url: sa.URL | str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command within this process, which is quicker: for what needs no process of its own."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        if url is not None:
            patch.setenv("MOMENTUM_DATABASE_URL", with_password(url) if isinstance(url, sa.URL) else url)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            exit_code = cli.run(list(arguments))
    done = subprocess.CompletedProcess(["momentum-backfill"], exit_code, stdout.getvalue(), stderr.getvalue())
    assert PASSWORD not in done.stdout + done.stderr, "no output shows a password"
    return done


@contextlib.contextmanager
def started(url: sa.URL, *arguments: str) -> Iterator[processes.Process]:
    """Yield the command while it runs; it is killed if the test ends before it does."""
    env = {**os.environ, "MOMENTUM_DATABASE_URL": with_password(url)}
    with processes.Process(PROGRAM.name, *arguments, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def one_error_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the only line on standard error but for one that names the database; standard output must be empty."""
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    if lines[0].startswith("Database: "):
        del lines[0]
    assert len(lines) == 1, f"an error is one line, not: {done.stderr}"
    assert lines[0].startswith("Error: ")
    return lines[0]


def after_database(done: subprocess.CompletedProcess[str], *, as_json: bool = False) -> str:
    """Return what follows on standard error after its first line, which names the database.

    Lines of progress are left out: on a slow machine a run says now and then how far it has come.
    """
    first, *rest = done.stderr.splitlines(keepends=True)
    assert (json.loads(first)["message"] if as_json else first).startswith("Database: ")
    return "".join(line for line in rest if not line.startswith("committed "))


def resumed(command: str) -> Sequence[str]:
    """Return the arguments of a command for the rest, which a person would paste into a shell."""
    name, *arguments = shlex.split(command)
    assert name == "momentum-backfill"
    return arguments


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file that has one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def keys_of(path: Path) -> list[tuple[uuid.UUID, datetime.date]]:
    """Return the users and days of a manifest or of a file of failures, in order."""
    return sorted((uuid.UUID(line["user_id"]), datetime.date.fromisoformat(line["day"])) for line in lines_of(path))


# The end of a transaction of the backfill, as it goes over the network; a setting is called synchronous_commit.
COMMIT = b"commit\0"


class Proxy:
    """Stands between a client and the server, and cuts one connection where a certain message goes by.

    Args:
        url: Where the server is.
        message: The bytes to look for in what the client sends.
        passed: How often the message goes by unharmed first.
        forwarded: Whether the server still gets the message, and its answer is awaited, before the cut.
        meanwhile: Called before that.
    """

    def __init__(
        self,
        url: sa.URL,
        message: bytes,
        *,
        forwarded: bool,
        passed: int = 0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self.cuts = self.accepted = 0
        self._left = passed
        self._meanwhile = meanwhile
        self._server = url
        self._message = message
        self._forwarded = forwarded
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._unheard: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        port = self._listener.getsockname()[1]
        self.url = url.set(host="127.0.0.1", port=port, query={"sslmode": "disable", "gssencmode": "disable"})

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        # A thread that accepts is not woken by a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            self._cut(each)
        for thread in self._threads:
            thread.join(HANGS)

    def _start(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        """Take connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                server = self._connect()
                self._open += [client, server]
                self._start(self._forward, client, server)
                self._start(self._return, server, client)

    def _connect(self) -> socket.socket:
        """Connect to the server, whose URL names a host or the directory of its socket."""
        host = self._server.host or str(self._server.query.get("host", ""))
        port = self._server.port or 5432
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _passes(self) -> bool:
        """Return whether the message goes by unharmed this time."""
        self._left -= 1
        return self._left >= 0

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on what the client sends; cut at the message."""
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self._message in data and not self.cuts and not self._passes():
                    self.cuts += 1
                    self._meanwhile()
                    if not self._forwarded:
                        self._cut(client)
                        break
                    # The server has it before the client, which might connect again at once, knows of anything.
                    self._unheard.append(client)
                    server.sendall(data)
                    self._cut(client)
                    return  # The other thread ends it, when the answer has come.
                server.sendall(data)
        self._cut(server)

    def _return(self, server: socket.socket, client: socket.socket) -> None:
        """Pass on what the server answers, as long as the client is there."""
        with contextlib.suppress(OSError):
            while (data := server.recv(65536)) and client not in self._unheard:
                client.sendall(data)
        self._cut(client)
        self._cut(server)

    @staticmethod
    def _cut(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
