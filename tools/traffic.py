"""`make traffic`: clients go on working while the migrations go up and down, and lose no row.

Client processes sign in, read and write scores, read the view and write events at a steady rate. Meanwhile the real
commands migrate up, backfill, migrate down, and so on; after that the same clients work alone, for comparison.
"""

import argparse
import datetime
import gc
import hashlib
import itertools
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa

from momentum.connect.engine import create_engine, execute_script
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.settings import IDLE_TIMEOUT
from momentum.connect.url import as_text
from momentum.errors import DatabaseUnreachableError
from momentum.migrate.locks import LOCK_TIMEOUTS
from momentum.testing import Server, running_server
from tests.samples import LEGACY_SCORES, PRODUCTION_SCORES

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent

CLIENTS = 4
# Statements per second and client: enough to meet every lock, and few enough for two cores to bear.
RATE = 60
DAYS = 100
# One day in ten has no score yet, for the backfill to fill.
ROWS_PER_USER = DAYS * 9 // 10
DUPLICATES = 300
# How often a client writes a second score of a day, where no key refuses it yet.
SHARE_OF_DUPLICATES = 1 / 500

UP = ("alembic", "upgrade", "head")
DOWN = ("alembic", "downgrade", "base")
FILL = ("momentum-backfill", "--no-discrepancies", "--quiet", "--days")

# Seconds that a statement may take beyond the lock timeout and its time without migrations: the machine is busy.
SLACK = 0.25
UNDEFINED_TABLE = "42P01"
# The exit code of a command whose session the server has ended.
CONNECTION_LOST = DatabaseUnreachableError.exit_code

USERS, SCORES, VIEW, TABLES = KINDS = ("auth.users", "the score table", "the view", "our tables")
# These are always there; the others come and go with the revisions.
PERMANENT = (USERS, SCORES)


@dataclass(frozen=True)
class Layout:
    """A score table to adopt, and the statements of its clients.

    Attributes:
        relation: The table's name.
        tables: A script that makes it.
        load: A script that fills it; it reads the accounts and the days from ``loaded``.
        moment: The column that tells a user's rows apart.
        score: The column of the score.
        breakdown: The column of the breakdown, which marks the rows that were loaded.
        writes: How a client writes a score: the first of these that changes a row.
        read: How a client reads a user's latest scores.
    """

    relation: str
    tables: str
    load: str
    moment: str
    score: str
    breakdown: str
    writes: tuple[str, ...]
    read: str


SEED = Layout(
    relation="legacy.daily_engagement_scores",
    tables=LEGACY_SCORES.format(schema="legacy"),
    load=f"""
        insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
        select user_id, (day + interval '9 hours') at time zone 'UTC', 50, '{{"loaded": true}}' from loaded;
        insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
        select user_id, score_ts - interval '3 hours', 20, '{{"loaded": true}}'
        from legacy.daily_engagement_scores limit {DUPLICATES};
        create index scores_by_user on legacy.daily_engagement_scores (user_id, score_ts);
    """,
    moment="score_ts",
    score="score",
    breakdown="pillar_breakdown",
    writes=(
        """
        update legacy.daily_engagement_scores set score = %(score)s
        where user_id = %(user)s and score_ts >= %(day)s and score_ts < %(day)s + interval '1 day'
        returning score_ts, score
        """,
        """
        insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
        values (%(user)s, %(moment)s, %(score)s, '{}')
        on conflict do nothing
        returning score_ts, score
        """,
    ),
    read="""
        select score_ts, score from legacy.daily_engagement_scores
        where user_id = %(user)s order by score_ts desc limit 7
    """,
)

PRODUCTION = Layout(
    relation="public.daily_engagement_scores",
    # With this trigger of the app's no upsert of a day that has a score would succeed, migrations or not.
    tables=f"""
        {PRODUCTION_SCORES.format(schema="public")}
        drop trigger prevent_duplicate_daily_scores_trigger on public.daily_engagement_scores;
    """,
    load="""
        insert into public.daily_engagement_scores (user_id, score_date, final_score, momentum_state, breakdown)
        select user_id, day, 50, 'Steady', '{"loaded": true}' from loaded;
    """,
    moment="score_date",
    score="final_score",
    breakdown="breakdown",
    writes=(
        """
        insert into public.daily_engagement_scores (user_id, score_date, final_score, momentum_state)
        values (%(user)s, %(day)s, %(score)s, 'Steady')
        on conflict (user_id, score_date) do update set final_score = excluded.final_score
        returning score_date, final_score
        """,
    ),
    read="""
        select score_date, final_score from public.daily_engagement_scores
        where user_id = %(user)s order by score_date desc limit 7
    """,
)

LAYOUTS = {"seed": SEED, "production": PRODUCTION}

SIGN_IN = "update auth.users set last_sign_in_at = now() where id = %(user)s"
READ_USER = "select id, last_sign_in_at from auth.users where id = %(user)s"
CLAIMS = "select set_config('request.jwt.claims', json_build_object('sub', %(user)s::uuid)::text, false)"
READ_DAY = """
    select score, score_date, pillar_breakdown from public.daily_momentum_scores
    where user_id = %(user)s and score_date = %(day)s
"""
READ_DAYS = """
    select score, score_date, pillar_breakdown from public.daily_momentum_scores
    where user_id = %(user)s and score_date > %(day)s::date - %(days)s order by score_date
"""
ADD_EVENT = "insert into public.momentum_events (id, user_id, event_type) values (%(id)s, %(user)s, 'walk')"
READ_EVENTS = """
    select event_type, event_ts from public.momentum_events
    where user_id = %(user)s and event_ts > now() - interval '1 day' order by event_ts desc limit 10
"""
WRITE_HABIT = """
    insert into public.habit_index (user_id, index_date, habit_score) values (%(user)s, %(day)s, %(score)s)
    on conflict (user_id, index_date) do update set habit_score = excluded.habit_score
"""


class Statement(NamedTuple):
    """A client's statement: its kind, start and end on the machine's monotonic clock, and its SQLSTATE if it failed."""

    kind: str
    started: float
    ended: float
    sqlstate: str | None

    @property
    def seconds(self) -> float:
        """How long the client waited for it."""
        return self.ended - self.started


@dataclass
class Work:
    """The work that clients have done.

    Attributes:
        statements: Every statement.
        scores: The last acknowledged score of each user and moment.
        events: The ids of the acknowledged events.
    """

    statements: list[Statement] = field(default_factory=list)
    scores: dict[tuple[uuid.UUID, str], float] = field(default_factory=dict)
    events: list[uuid.UUID] = field(default_factory=list)

    def add(self, other: "Work") -> None:
        """Add work that was done later, or by a client with other users."""
        self.statements += other.statements
        self.scores |= other.scores
        self.events += other.events


@dataclass
class Command:
    """A command that ran: its words, when it started and ended, its exit code and its last line of output."""

    words: Sequence[str]
    started: float
    ended: float = math.inf
    exit_code: int | None = None
    output: str = ""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


@dataclass
class Run:
    """The result of one run; ``problems`` and ``stalls`` judge it.

    Attributes:
        name: A title for people to read.
        commands: The commands, in their order.
        migrating: The clients' work meanwhile.
        alone: Their work after that, without migrations.
        superseded: The number of scores that had moved away in the end, because the day had a later one.
        lost: Sentences on rows that are not there as they were acknowledged.
    """

    name: str
    commands: list[Command] = field(default_factory=list)
    migrating: Work = field(default_factory=Work)
    alone: Work = field(default_factory=Work)
    superseded: int = 0
    lost: list[str] = field(default_factory=list)

    def times_at_head(self) -> list[tuple[float, float]]:
        """Return when the database was at the newest revision, with no command changing that."""
        times: list[tuple[float, float]] = []
        since = None
        for command in self.commands:
            if command.words == UP:
                since = command.ended
            elif command.words == DOWN and since is not None:
                times.append((since, command.started))
                since = None
        return [*times, (since, math.inf)] if since is not None else times

    def failed(self, kind: str) -> list[Statement]:
        """Return the statements that a client could blame the migrations for."""
        return [s for s in self.migrating.statements if s.kind == kind and s.sqlstate and not self.may_be_missing(s)]

    def missing(self, kind: str) -> list[Statement]:
        """Return the statements that failed because the revision did not have their object."""
        return [s for s in self.migrating.statements if s.kind == kind and s.sqlstate and self.may_be_missing(s)]

    def may_be_missing(self, statement: Statement) -> bool:
        """Return whether a statement failed on an object that the revision at that time may not have had."""
        if statement.kind in PERMANENT or statement.sqlstate != UNDEFINED_TABLE:
            return False
        return not any(since <= statement.started and statement.ended <= to for since, to in self.times_at_head())


_stop: Event
_ready: Barrier


def prepare_client(stop: Event, ready: Barrier) -> None:
    """Keep the objects that a client process shares with the others."""
    global _stop, _ready
    _stop, _ready = stop, ready


def run_client(url: str, layout: str, number: int, users: int) -> Work:
    """Work at a steady rate until told to stop, in a process of its own.

    Args:
        url: The database, for the driver.
        layout: The name of the score table's layout.
        number: Which client it is: each writes the scores of users of its own.
        users: How many users there are.
    """
    with Client(url, LAYOUTS[layout], number, users) as client:
        _ready.wait(timeout=60)
        # A collection of garbage would look like a stall.
        gc.disable()
        due = time.monotonic()
        while not _stop.is_set():
            client.do_something()
            # A client that was held up doesn't catch up: people don't either.
            due = max(due + 1 / RATE, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0))
        return client.work


class Client:
    """A client, which works as the app's backend and as a signed-in user."""

    def __init__(self, url: str, layout: Layout, number: int, users: int) -> None:
        def connect(options: str = "") -> psycopg.Connection:
            return psycopg.connect(
                url, autocommit=True, application_name="traffic", options=f"-c statement_timeout=2min {options}"
            )

        self.layout = layout
        self.work = Work()
        self.random = random.Random()  # noqa: S311
        self.users = [user_id(n) for n in range(1, users + 1)]
        self.own_users = self.users[number::CLIENTS]
        self.backend = connect()
        self.reader = connect("-c role=authenticated")
        self.actions: list[Callable[[], None]] = [
            *[self.sign_in, self.read_user] * 2,
            *[self.write_score] * 3,
            self.read_scores,
            *[self.read_view] * 3,
            *[self.write_event] * 2,
            self.read_events,
            self.write_habit,
        ]

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()
        self.reader.close()

    def do_something(self) -> None:
        """Carry out a random action; the list has the more frequent ones several times."""
        self.random.choice(self.actions)()

    def execute(self, connection: psycopg.Connection, kind: str, sql: str, **parameters: object) -> list[Any] | None:
        """Execute and record a statement, and return its rows, or None if it failed."""
        started = time.monotonic()
        sqlstate = None
        rows = None
        try:
            cursor = connection.execute(sql, parameters)
            rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            sqlstate = error.sqlstate or type(error).__name__
        self.work.statements.append(Statement(kind, started, time.monotonic(), sqlstate))
        return rows

    def any_user(self) -> uuid.UUID:
        """Return a user that the other clients use as well."""
        return self.random.choice(self.users)

    def sign_in(self) -> None:
        """Sign in, as the auth server does it."""
        self.execute(self.backend, USERS, SIGN_IN, user=self.any_user())

    def read_user(self) -> None:
        """Read an account."""
        self.execute(self.backend, USERS, READ_USER, user=self.any_user())

    def write_score(self) -> None:
        """Write the score of one of the last ten days."""
        user = self.random.choice(self.own_users)
        day = today() - datetime.timedelta(days=self.random.randint(1, 10))
        moment = day + datetime.timedelta(seconds=self.random.random() * 86_000)
        score = self.random.randint(0, 100)
        doubles = self.random.random() < SHARE_OF_DUPLICATES
        for sql in self.layout.writes[-1:] if doubles else self.layout.writes:
            rows = self.execute(self.backend, SCORES, sql, user=user, day=day, moment=moment, score=score)
            for written, value in rows or []:
                self.work.scores[user, written.isoformat()] = float(value)
            if rows:
                break

    def read_scores(self) -> None:
        """Read a user's latest scores from the score table."""
        self.execute(self.backend, SCORES, self.layout.read, user=self.any_user())

    def read_view(self) -> None:
        """Read as the app's screens do: a day, the last 7 or the last 30 days of the user who is signed in."""
        user = self.any_user()
        self.reader.execute(CLAIMS, {"user": user})
        days = self.random.choice((1, 7, 30))
        sql = READ_DAY if days == 1 else READ_DAYS
        day = today().date() - datetime.timedelta(days=1)
        self.execute(self.reader, VIEW, sql, user=user, day=day, **({"days": days} if days > 1 else {}))

    def write_event(self) -> None:
        """Write an event."""
        event = uuid.uuid4()
        if self.execute(self.backend, TABLES, ADD_EVENT, id=event, user=self.any_user()) is not None:
            self.work.events.append(event)

    def read_events(self) -> None:
        """Read a user's latest events."""
        self.execute(self.backend, TABLES, READ_EVENTS, user=self.any_user())

    def write_habit(self) -> None:
        """Write a habit score."""
        day = today().date() - datetime.timedelta(days=self.random.randint(1, 10))
        self.execute(
            self.backend, TABLES, WRITE_HABIT, user=self.any_user(), day=day, score=self.random.randint(0, 100)
        )


def user_id(number: int) -> uuid.UUID:
    """Return the id of a user, as ``load`` makes it."""
    return uuid.UUID(hashlib.md5(f"user {number}".encode(), usedforsecurity=False).hexdigest())


def today() -> datetime.datetime:
    """Return the beginning of the day in UTC."""
    return datetime.datetime.now(datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def load(server: Server, url: sa.URL, layout: Layout, rows: int) -> int:
    """Fill a database that is like a new Supabase project, and return the number of users."""
    users = max(rows // ROWS_PER_USER, CLIENTS)
    with create_engine(url, application_name="traffic-load").begin() as connection:
        execute_script(connection, layout.tables)
    # Only a superuser does without the checks of foreign keys and the app's triggers, which take minutes.
    with create_engine(server.as_admin(url), application_name="traffic-load").begin() as connection:
        execute_script(
            connection,
            f"""
            insert into auth.users (id, created_at)
            select md5('user ' || n)::uuid, '2020-01-01' from generate_series(1, {users}) as n;
            create temporary view loaded as
            select md5('user ' || n)::uuid as user_id, '{today():%Y-%m-%d}'::date - d as day
            from generate_series(1, {users}) as n cross join generate_series(1, {DAYS}) as d
            where (n + d) % 10 <> 0;
            set local session_replication_role = replica;
            {layout.load}
            """,
        )
    engine = create_engine(server.as_admin(url), "traffic-load")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # A new server has no log files to reuse and fills each new one with zeros, for which everybody waits a tenth of
        # a second, with or without locks. A server that has been running for a while doesn't.
        connection.exec_driver_sql(f"alter database {url.database} set wal_init_zero = off")
        connection.exec_driver_sql("vacuum analyze")
    return users


@contextmanager
def clients_at_work(url: sa.URL, layout: str, users: int) -> Iterator[Work]:
    """Run the clients during the block; their work is complete at its end."""
    # Spawned, because a fork would share our connections, and processes, because threads would wait for each other.
    processes = multiprocessing.get_context("spawn")
    stop, ready = processes.Event(), processes.Barrier(CLIENTS + 1)
    work = Work()
    with ProcessPoolExecutor(CLIENTS, processes, prepare_client, (stop, ready)) as pool:
        futures: list[Future[Work]] = [
            pool.submit(run_client, as_text(url), layout, number, users) for number in range(CLIENTS)
        ]
        try:
            ready.wait(timeout=60)
            yield work
        finally:
            stop.set()
        for future in futures:
            work.add(future.result())


MIGRATION_WAITS = """
    select exists (
      select from pg_catalog.pg_stat_activity
      where datname = current_database() and application_name = 'momentum-migrations' and wait_event_type = 'Lock'
    )
"""

# Returns when an idle transaction is to end, given the database, the pid of its session, and an event that is set when
# nobody needs it any more.
Hold = Callable[[sa.URL, int, threading.Event], None]


def hold_to_the_end(_url: sa.URL, _pid: int, over: threading.Event) -> None:
    """Hold on as long as the transaction is needed."""
    over.wait()


def hold_for_15_seconds(url: sa.URL, _pid: int, over: threading.Event) -> None:
    """Hold on for 15 s from when a migration begins to wait."""
    with psycopg.connect(as_text(url), autocommit=True, application_name="traffic-watch") as watch:
        while not over.wait(0.02):
            if watch.execute(MIGRATION_WAITS).fetchone() == (True,):
                over.wait(15)
                return


@contextmanager
def idle_transaction(url: sa.URL, statements: Iterable[str], hold: Hold = hold_to_the_end) -> Iterator[None]:
    """Keep a transaction open for as long as ``hold`` says, at most until the end of the block."""
    over = threading.Event()

    def let_go() -> None:
        try:
            hold(url, connection.info.backend_pid, over)
        finally:
            connection.rollback()

    with (
        ThreadPoolExecutor(1) as holder,
        psycopg.connect(as_text(url), application_name="traffic-idle") as connection,
    ):
        for statement in statements:
            connection.execute(statement)
        holding = holder.submit(let_go)
        try:
            yield
        finally:
            over.set()
            holding.result()


# Reading an account is what every request does; some client never ends its transaction.
READS_USER = ["select from auth.users limit 1"]


def touch_everything(url: sa.URL, layout: Layout) -> list[str]:
    """Return statements that lock everything that the other clients use too, as a client's long transaction does."""
    with create_engine(url, application_name="traffic").connect() as connection:
        there = [
            name
            for name in ("daily_momentum_scores", "momentum_events", "habit_index")
            if connection.scalar(sa.text("select to_regclass(:name)"), {"name": f"public.{name}"})
        ]
    return [
        *(f"select from public.{name} limit 1" for name in there),
        f"select from {layout.relation} limit 1",
        # A row of its own: waiting for a row isn't waiting for a migration.
        "insert into auth.users (id) values (gen_random_uuid())",
    ]


def execute(words: Sequence[str], url: sa.URL, *more: str) -> Command:
    """Run a command with the database's URL in the environment, and return its outcome."""
    command = Command(words, time.monotonic())
    done = subprocess.run(
        [PROGRAMS / words[0], *words[1:], *more],
        cwd=ROOT,
        env={**os.environ, URL_VARIABLES[0]: as_text(url)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    command.ended = time.monotonic()
    command.exit_code = done.returncode
    command.output = (done.stderr.strip().splitlines() or [""])[-1]
    return command


# Whether a command holds a lock for which a client may have to wait.
HOLDS_LOCK = """
    select exists (
      select from pg_catalog.pg_stat_activity as a
      inner join pg_catalog.pg_locks as l on a.pid = l.pid
      where
        a.datname = current_database() and a.application_name in ('momentum-migrations', 'momentum-backfill')
        and l.granted and l.relation > 16383
        and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock')
    )
"""
# Seconds for which a command is stopped: longer than the server waits for it.
STOPPED = IDLE_TIMEOUT + 2
# How often a command is stopped at most, each time in another run of it.
STOPS = 3


def execute_with_stops(words: Sequence[str], url: sa.URL, *more: str) -> Command:
    """Run a command, stop it while it holds locks, and run it again if that has ended it.

    Returns:
        The last run, which began with the first one.
    """
    started = time.monotonic()
    for _ in range(STOPS):
        environ = {**os.environ, URL_VARIABLES[0]: as_text(url)}
        command = [str(PROGRAMS / words[0]), *words[1:], *more]
        with (
            psycopg.connect(as_text(url), autocommit=True, application_name="traffic-watch") as watch,
            subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process,
        ):
            # A random moment: the program takes a second or so to begin.
            until = time.monotonic() + random.uniform(0.5, 3)  # noqa: S311
            while process.poll() is None:
                if time.monotonic() >= until and watch.execute(HOLDS_LOCK).fetchone() == (True,):
                    process.send_signal(signal.SIGSTOP)
                    time.sleep(STOPPED)
                    process.send_signal(signal.SIGCONT)
                    process.wait()
            if process.returncode != CONNECTION_LOST:
                return Command(words, started, time.monotonic(), process.returncode)
    last = execute(words, url, *more)
    last.started = started
    return last


def migrate_up_and_down(
    run: Run,
    url: sa.URL,
    layout: Layout,
    seconds: float,
    *,
    idle: str | None = None,
    hold: Hold = hold_for_15_seconds,
) -> None:
    """Migrate up, fill, migrate down, up, and again until the time is over; it ends at the head.

    Args:
        run: Where the commands are recorded.
        url: The database.
        layout: The layout of its score table.
        seconds: The least duration.
        idle: ``reading`` for a transaction that has read auth.users and stays open all the time, ``holding`` for one
            that holds a lock on everything, ``stopped`` if it is the commands that stop in the middle.
        hold: When the latter lets go.
    """
    carry_out = execute_with_stops if idle == "stopped" else execute

    def migrate(words: Sequence[str]) -> None:
        with idle_transaction(url, touch_everything(url, layout), hold) if idle == "holding" else nullcontext():
            run.commands.append(carry_out(words, url))

    started = time.monotonic()
    with idle_transaction(url, READS_USER) if idle == "reading" else nullcontext():
        migrate(UP)
        for days in itertools.count(10, 10):
            run.commands.append(carry_out(FILL, url, str(min(days, DAYS))))
            migrate(DOWN)
            migrate(UP)
            if time.monotonic() - started >= seconds:
                return


def find_lost(url: sa.URL, layout: Layout, work: Work, loaded: int) -> list[str]:
    """Return sentences on acknowledged rows that are not there exactly once and as they were acknowledged last.

    The database must be at base, where the scores that the migrations had moved are back in the score table.
    """
    with psycopg.connect(as_text(url), application_name="traffic", options="-c timezone=UTC") as connection:
        connection.execute("create temporary table event (id uuid)")
        with connection.cursor().copy("copy event from stdin") as copy:
            for event in work.events:
                copy.write_row([event])
        connection.execute("create temporary table acknowledged (user_id uuid, moment timestamptz, score numeric)")
        with connection.cursor().copy("copy acknowledged from stdin") as copy:
            for (user, moment), score in work.scores.items():
                copy.write_row([user, moment, score])
        counts = {
            "events": """
                select count(*) from event as e
                where not exists (select from momentum_internal.momentum_events as m where m.id = e.id)
            """,
            "scores that clients wrote": f"""
                select count(*) from acknowledged as a
                where (
                  select count(*) from {layout.relation} as s
                  where s.user_id = a.user_id and s.{layout.moment} = a.moment and s.{layout.score} = a.score
                ) <> 1
            """,
            "scores of before": f"""
                select {loaded} - count(*) from {layout.relation} where {layout.breakdown} @> '{{"loaded": true}}'
            """,
        }
        lost = {what: connection.execute(sql).fetchone()[0] for what, sql in counts.items()}  # type: ignore[index]
    return [f"{count} {what} are not there as they were acknowledged" for what, count in lost.items() if count]


def run_traffic(
    server: Server,
    layout_name: str,
    rows: int,
    seconds: float,
    *,
    alone: float = 0,
    migrate: Callable[[Run, sa.URL, Layout, float], None] = migrate_up_and_down,
    name: str = "",
) -> Run:
    """Run clients while a database migrates, then alone, and look for rows that they have lost.

    Args:
        server: Where to make the database.
        layout_name: ``seed`` or ``production``.
        rows: The approximate number of scores.
        seconds: How long to migrate up and down.
        alone: How long the clients then work alone.
        migrate: Runs the migrations.
        name: The title of the run.
    """
    layout = LAYOUTS[layout_name]
    run = Run(name or f"{layout_name}, {rows:,} rows")
    with server.database(migrated=False) as url:
        users = load(server, url, layout, rows)
        loaded = count_rows(url, layout)
        with clients_at_work(url, layout_name, users) as work:
            migrate(run, url, layout, seconds)
        run.migrating = work
        everything = Work()
        everything.add(work)
        if alone:
            with clients_at_work(url, layout_name, users) as work:
                time.sleep(alone)
            run.alone = work
            everything.add(work)
        run.superseded = count_superseded(url)
        run.commands.append(execute(DOWN, url))
        run.lost = find_lost(url, layout, everything, loaded)
    return run


def count_rows(url: sa.URL, layout: Layout) -> int:
    """Return the number of rows in the score table."""
    with create_engine(url, application_name="traffic").connect() as connection:
        return int(connection.exec_driver_sql(f"select count(*) from {layout.relation}").scalar_one())


def count_superseded(url: sa.URL) -> int:
    """Return the number of scores that have moved away because the same user and day had a later one."""
    with create_engine(url, application_name="traffic").connect() as connection:
        if connection.scalar(sa.text("select to_regclass('momentum_internal.superseded_scores')")) is None:
            return 0
        return int(connection.exec_driver_sql("select count(*) from momentum_internal.superseded_scores").scalar_one())


def problems(run: Run) -> list[str]:
    """Return a sentence for each command and statement that failed, and for each row that was lost."""
    found = [
        f"`{' '.join(command.words)}` ended with {command.exit_code}: {command.output}"
        for command in run.commands
        if command.exit_code != 0
    ]
    for kind in KINDS:
        if not any(s.kind == kind and not s.sqlstate for s in run.migrating.statements):
            found.append(f"no statement on {kind} succeeded")
        if failed := run.failed(kind):
            states = ", ".join(sorted({str(s.sqlstate) for s in failed}))
            found.append(f"{len(failed)} statements on {kind} failed ({states})")
    return [f"{run.name}: {sentence}" for sentence in [*found, *run.lost]]


def stalls(run: Run, *, stopped: bool = False) -> list[str]:
    """Return a sentence for each kind of statement that took longer than a migration may keep a client waiting.

    Args:
        run: The run.
        stopped: Whether the commands were stopped, so that clients had to wait until the server noticed.
    """
    found = []
    for kind in KINDS:
        bound = LOCK_TIMEOUTS.longest + longest(run.alone, kind) + SLACK + (IDLE_TIMEOUT if stopped else 0)
        if (stall := longest(run.migrating, kind)) > bound:
            found.append(f"{run.name}: a statement on {kind} took {stall:.2f} s, more than {bound:.2f} s")
    return found


def grown(smaller: Run, bigger: Run) -> list[str]:
    """Return a sentence for each kind of statement whose longest stall is longer where there are more rows."""
    return [
        f"{bigger.name}: a statement on {kind} took {longest(bigger.migrating, kind):.2f} s, "
        f"and {longest(smaller.migrating, kind):.2f} s with fewer rows: the stall grows with the table"
        for kind in KINDS
        if longest(bigger.migrating, kind) > longest(smaller.migrating, kind) + SLACK
    ]


def seconds_of(work: Work, kind: str) -> list[float]:
    """Return the seconds that the statements of a kind took, shortest first."""
    return sorted(s.seconds for s in work.statements if s.kind == kind)


def longest(work: Work, kind: str) -> float:
    """Return the seconds that the longest statement of a kind took; 0 if there is none."""
    return max(seconds_of(work, kind), default=0.0)


COLUMNS = (
    "Statements on",
    "number",
    "failed",
    "not there",
    "median ms",
    "99 % ms",
    "longest ms",
    "alone: median",
    "99 %",
    "longest",
)


def table_of(run: Run) -> list[tuple[str, ...]]:
    """Return a row of figures for each kind of statement."""
    table = []
    for kind in KINDS:
        while_migrating = seconds_of(run.migrating, kind)
        figures = [
            f"{1000 * times[min(int(share * len(times)), len(times) - 1)]:,.1f}" if times else "-"
            for times in (while_migrating, seconds_of(run.alone, kind))
            for share in (0.5, 0.99, 1)
        ]
        counts = [len(while_migrating), len(run.failed(kind)), len(run.missing(kind))]
        table.append((kind, *(f"{count:,}" for count in counts), *figures))
    return table


def summary_of(run: Run) -> str:
    """Return a summary of the commands, on one line."""
    words = []
    for what, command in (("up", UP), ("filled", FILL), ("down", DOWN)):
        times = [done.seconds for done in run.commands if done.words == command]
        if times:
            words.append(f"{len(times)} x {what} (longest {max(times):.1f} s)")
    if run.superseded:
        words.append(f"{run.superseded:,} scores had moved")
    return f"{run.name}: {', '.join(words)}"


def show(run: Run, *, markdown: bool) -> None:
    """Print the figures of a run."""
    table = table_of(run)
    if markdown:
        print(f"\n{summary_of(run)}.\n")
        print(f"| {' | '.join(COLUMNS)} |")
        print(f"|---|{'---:|' * (len(COLUMNS) - 1)}")
        for row in table:
            print(f"| {' | '.join(row)} |")
    else:
        print(f"\n{summary_of(run)}")
        for name, *figures in (COLUMNS, *table):
            print(f"  {name:<16}{''.join(f'{figure:>14}' for figure in figures)}")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Make the runs that were asked for, and return the exit code: 1 if a bound was broken."""
    parser = argparse.ArgumentParser(prog="python -m tools.traffic", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long each run migrates (60)")
    parser.add_argument("--rows", type=int, action="append", help="scores to begin with (10000 and 2000000)")
    parser.add_argument("--layout", choices=LAYOUTS, action="append", help="layout of the score table (both)")
    parser.add_argument(
        "--idle",
        choices=("no", "reading", "holding", "stopped"),
        action="append",
        help="an idle transaction, or commands that stop",
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables for a document")
    options = parser.parse_args(arguments)
    everything = not (options.rows or options.layout or options.idle)
    cases = list(
        itertools.product(
            options.layout or LAYOUTS, options.idle or ["no"], sorted(options.rows or [10_000, 2_000_000])
        )
    )
    if everything:
        cases += [("seed", "reading", 10_000), ("seed", "holding", 10_000)]
        cases += [(layout, "stopped", 10_000) for layout in LAYOUTS]
    found: list[str] = []
    runs: dict[tuple[str, str], Run] = {}
    with running_server(on_disk=True) as server:
        print(f"{server}; {CLIENTS} clients, {RATE} statements per second each; {os.cpu_count()} cores")
        for layout, idle, rows in cases:

            def migrate(run: Run, url: sa.URL, layout: Layout, seconds: float, idle: str = idle) -> None:
                migrate_up_and_down(run, url, layout, seconds, idle=idle)

            others = {
                "no": "",
                "reading": ", next to an idle reader of auth.users",
                "holding": ", next to a holder",
                "stopped": ", with commands that stop in the middle",
            }
            run = run_traffic(
                server,
                layout,
                rows,
                options.seconds if idle == "no" else options.seconds / 2,
                alone=options.seconds / 4,
                migrate=migrate,
                name=f"{layout} layout, {rows:,} rows{others[idle]}",
            )
            show(run, markdown=options.markdown)
            found += problems(run) + stalls(run, stopped=idle == "stopped")
            if (layout, idle) in runs:
                found += grown(runs[layout, idle], run)
            runs[layout, idle] = run
    for sentence in found:
        print(f"Broken: {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
