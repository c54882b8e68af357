"""`make bench`: compare the backfill with one statement, and with the costs that it promises.

The limit is the INSERT ... SELECT that one would write by hand, in one transaction. The two run in turn, on copies of
the same database, so that a busy machine slows both: only the ratios mean anything. The figures are written to
docs/benchmarks.md, with the machine, the versions and the command.
"""

import argparse
import asyncio
import datetime
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from momentum.backfill import DayRange, Settings, run_backfill
from momentum.connect.engine import create_engine, execute_script
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text, parse_url
from momentum.connect.watch import WatchedConnection
from momentum.testing import Server, running_server
from momentum.testing.servers import migrate
from tools import marked
from tools.matrix import NotAvailableError, debian

PROGRAM = Path(sys.executable).parent / "momentum-backfill"
FIGURES = Path(__file__).parents[1] / "docs" / "benchmarks.md"
USERS = 20_000
DAYS = 60
PAIRS = 5
LAST = datetime.date(2026, 3, 31)
FIRST = LAST - datetime.timedelta(days=DAYS - 1)
RANGE = f"generate_series('{FIRST}'::timestamp, '{LAST}'::timestamp, '1 day') as d (day)"
SCORES = "legacy.daily_engagement_scores"
DAY = "(score_ts at time zone 'UTC')::date"

# The settings of a production server. No checkpoint may fall into a measurement: after one, the next change of each
# page logs the whole page, at the expense of the statement that happens to make it.
SETTINGS = ("fsync = on", "max_wal_size = '32GB'", "checkpoint_timeout = '1h'")

MISSING = f"not exists (select from {SCORES} as s where s.user_id = u.id and (s.{DAY[1:]} = d.day::date)"
ANTI_JOIN = f"select count(*) from auth.users as u cross join {RANGE} where {MISSING}"
LIMIT = f"""
insert into {SCORES} (user_id, score_ts, score, pillar_breakdown, source)
select u.id, d.day at time zone 'UTC', 0, '{{}}', 'backfill'
from auth.users as u
cross join {RANGE}
where u.deleted_at is null and {MISSING}
on conflict (user_id, ({DAY})) do nothing
"""
# Ids next to each other, as the backfill makes them.
ASCENDING_ID = """
(
  (
    select left(digits, 8) || '-' || right(digits, 4) || '-7' || substr(gen_random_uuid()::text, 16, 15)
    from lpad(to_hex((1000 * extract(epoch from statement_timestamp()))::bigint), 12, '0') as digits
  ) || to_hex(1048576 + row_number() over ())
)::uuid
"""
LIMIT_WITH_IDS = LIMIT.replace("(user_id,", "(id, user_id,", 1).replace(
    "select u.id,", f"select {ASCENDING_ID}, u.id,", 1
)

# Runs a command and prints its peak memory in KiB. This is a process of its own, because the system counts the parent's
# memory at the start as the child's, and ours is more than the command may use.
WATCH = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1), file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass
class Figure:
    """A measured figure and its bound.

    Attributes:
        name: Its name.
        value: The figure; the median of several measurements.
        least: The lower bound; None if there is none.
        most: The upper bound; None if there is none.
        unit: Its unit; empty for a ratio.
        note: A remark.
    """

    name: str
    value: float
    least: float | None = None
    most: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether it is within its bound."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def bound(self) -> str:
        """The bound, for people to read."""
        if self.least is not None:
            return f"at least {self.least:g}"
        return "" if self.most is None else f"at most {self.most:g}"


@dataclass
class Bench:
    """A server to measure on, and the figures so far."""

    server: Server
    figures: list[Figure] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        """Keep a figure and show it."""
        self.figures.append(figure)
        verdict = "" if not figure.bound else f"  {figure.bound}" + ("" if figure.kept else "  <-- beyond its bound")
        print(f"{figure.name}: {figure.value:.2f} {figure.unit}{verdict}  {figure.note}".rstrip(), flush=True)

    @contextmanager
    def copy_of(self, template: sa.URL) -> Iterator[sa.URL]:
        """Yield a copy of a database, whose pages have all been logged since the last checkpoint."""
        execute(self.server.admin_url, "checkpoint")
        url = self.server.create_database(template)
        try:
            yield url
        finally:
            self.server.drop_database(url)

    def half_missing(self, users: int = USERS) -> sa.URL:
        """Return a database in which half of the user-days have a score, at random."""
        return self.server.template(
            f"half of {users}", self.migrated, lambda url: self.load(url, users, "random() < 0.5")
        )

    def migrated(self) -> sa.URL:
        """Return a copy of a migrated database."""
        return self.server.create_database(self.server.migrated_template())

    def load(self, url: sa.URL, users: int, condition: str, *, vacuum: bool = True) -> None:
        """Fill a migrated database with accounts, and with scores for the user-days that meet a condition."""
        # Only a superuser does without the checks of foreign keys.
        admin_url = self.server.as_admin(url)
        with create_engine(admin_url, application_name="momentum-bench").begin() as connection:
            execute_script(
                connection,
                f"""
                {add_accounts(users)};
                select setseed(0.5);
                set local session_replication_role = replica;
                insert into {SCORES} (user_id, score_ts, score, pillar_breakdown)
                select u.id, (d.day + interval '9 hours') at time zone 'UTC', 50, '{{"sleep": 20, "move": 30}}'
                from auth.users as u cross join {RANGE}
                where {condition};
                """,
            )
        if vacuum:
            execute(admin_url, "vacuum analyze")


def add_accounts(users: int) -> str:
    """Return the statement that adds accounts that have always existed."""
    made = f"select md5('user ' || n)::uuid, '2020-01-01' from generate_series(1, {users}) as n"
    return f"insert into auth.users (id, created_at) {made}"


def execute(url: sa.URL, *statements: str) -> None:
    """Execute statements, each in a transaction of its own."""
    with psycopg.connect(as_text(url), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


# The command on connections that wait for each answer, because they can't be put into pipeline mode.
ONE_BY_ONE = """
from momentum.backfill.cli import main
from momentum.connect import engine
from momentum.connect.watch import WatchedConnection

engine.connect_watched = WatchedConnection.connect
main()
"""


def backfill(url: sa.URL, *arguments: str, program: Sequence[str] = (str(PROGRAM),)) -> dict[str, Any]:
    """Return the report of the command over the whole range; ``wall_s`` and ``peak_mb`` are of its process."""
    started = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            WATCH,
            *program,
            "--from",
            str(FIRST),
            "--to",
            str(LAST),
            "--json",
            "--quiet",
            *arguments,
        ],
        # An installed package is compiled when it first runs.
        env={**os.environ, URL_VARIABLES[0]: as_text(url), "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.monotonic() - started
    return {**json.loads(done.stdout), "wall_s": seconds, "peak_mb": int(done.stderr.splitlines()[-1]) / 1024}


# Each way returns the rows that it inserted and the seconds that it took.
Way = Callable[[sa.URL], tuple[int, float]]


def connect_without_limit(url: sa.URL) -> psycopg.Connection[Any]:
    """Return a connection whose statements may take longer than the role's own limit, as those of a large table do."""
    return psycopg.connect(as_text(url), options="-c statement_timeout=0")


def limit(url: sa.URL, statement: str = LIMIT) -> tuple[int, float]:
    """Insert everything in one statement."""
    with connect_without_limit(url) as connection:
        started = time.monotonic()
        rows = connection.execute(statement).rowcount
        connection.commit()
        return rows, time.monotonic() - started


def ours(*arguments: str) -> Way:
    """Return the command, its start and its recount included."""

    def fill(url: sa.URL) -> tuple[int, float]:
        report = backfill(url, "--page-size", "500", "--commit-every", "1000", "--no-discrepancies", *arguments)
        return report["inserted"], report["wall_s"]

    return fill


def insert_many_values(url: sa.URL) -> tuple[int, float]:
    """Read the gaps, make the rows in Python, and insert them with SQLAlchemy: 500 per page, 1000 per commit."""
    schema, name = SCORES.split(".")
    columns: list[sa.Column[Any]] = [sa.Column(name) for name in ("user_id", "score_ts", "score", "source")]
    table = sa.Table(name, sa.MetaData(), *columns, schema=schema)
    started = time.monotonic()
    engine = create_engine(url, application_name="momentum-bench").execution_options(insertmanyvalues_page_size=500)
    with engine.connect() as reading, engine.connect() as writing:
        found = reading.execution_options(yield_per=1000).execute(
            sa.text(
                f"select u.id, d.day at time zone 'UTC' as day from auth.users as u cross join {RANGE} where {MISSING}"
            )
        )
        rows = 0
        for page in found.partitions():
            values = [{"user_id": user, "score_ts": day, "score": 0, "source": "backfill"} for user, day in page]
            writing.execute(sa.insert(table).returning(table.c.user_id), values).all()
            writing.commit()
            rows += len(values)
    return rows, time.monotonic() - started


def limit_and_offset(url: sa.URL) -> tuple[int, float]:
    """Page through each day's gaps by LIMIT and OFFSET, which skips a gap for each one that it fills."""
    rows = 0
    started = time.monotonic()
    with psycopg.connect(as_text(url)) as connection:
        for number in range(DAYS):
            day = FIRST + datetime.timedelta(days=number)
            for offset in range(0, USERS, 500):
                inserted = connection.execute(
                    f"""
                    insert into {SCORES} (user_id, score_ts, score, pillar_breakdown, source)
                    select u.id, d.day at time zone 'UTC', 0, '{{}}', 'backfill'
                    from auth.users as u cross join (values ('{day}'::timestamp)) as d (day)
                    where {MISSING} order by u.id limit 500 offset {offset}
                    on conflict (user_id, ({DAY})) do nothing
                    """
                ).rowcount
                rows += inserted
                connection.commit()
                if not inserted:
                    break
    return rows, time.monotonic() - started


def measure_ways(bench: Bench, template: sa.URL, ways: Mapping[str, Way], pairs: int) -> dict[str, list[float]]:
    """Return for each way its rows per second, as shares of the limit's in the same round."""
    shares: dict[str, list[float]] = {name: [] for name in ways}
    with bench.copy_of(template) as url:
        limit(url)  # The first run makes log files that later ones reuse.
    for number in range(pairs):
        rates: dict[str, float] = {}
        turn = [("limit", limit), *ways.items()]
        for name, way in turn if number % 2 else reversed(turn):
            with bench.copy_of(template) as url:
                rows, seconds = way(url)
                rates[name] = rows / seconds
                print(f"  {name:<42}{rows:>9,} rows{seconds:>7.1f} s{rates[name]:>9,.0f} rows/s", flush=True)
        for name in ways:
            shares[name].append(rates[name] / rates["limit"])
    return shares


def spread(values: Sequence[float]) -> str:
    """Return the smallest and the largest of some figures."""
    return f"{min(values):.2f} to {max(values):.2f}"


def measure_workers(bench: Bench, server: str = "") -> None:
    """Measure how fast gaps are filled where a random half of all user-days is missing."""
    ways = {"1 worker": ours(), "2 workers": ours("--workers", "2")}
    bounds = {"1 worker": 0.80, "2 workers": 1.45}
    for name, shares in measure_ways(bench, bench.half_missing(), ways, PAIRS).items():
        note = f"{spread(shares)}, whole command"
        figure = Figure(f"share of the limit, {name}{server}", statistics.median(shares), least=bounds[name], note=note)
        bench.add(figure)


def measure_oldest(bench: Bench) -> None:
    """Measure the same on the oldest server that is supported, where it is installed."""
    try:
        with debian(on_disk=True) as variables:
            server = Server(parse_url(variables["MOMENTUM_TEST_DATABASE_URL"], "the server's URL"), "Debian's package")
            tune(server)
            measure_workers(Bench(server, bench.figures), f", {server}")
    except NotAvailableError as error:
        print(f"not measured: {error}")


def measure_speed(bench: Bench) -> None:
    """Measure how fast gaps are filled, by ourselves and in the ways that people use instead."""
    measure_workers(bench)
    others: dict[str, Way] = {
        "the limit's statement with ascending ids": lambda url: limit(url, LIMIT_WITH_IDS),
        "insertmanyvalues": insert_many_values,
        "LIMIT and OFFSET": limit_and_offset,
    }
    smaller = bench.half_missing(USERS // 5)
    for name, shares in measure_ways(bench, smaller, others, PAIRS).items():
        note = f"{spread(shares)}, for comparison"
        if name == "LIMIT and OFFSET":
            with bench.copy_of(smaller) as url:
                limit_and_offset(url)
                with psycopg.connect(as_text(url)) as connection:
                    left = connection.execute(ANTI_JOIN).fetchone()
            assert left is not None
            note += f"; leaves {left[0]:,} of {USERS // 5 * DAYS // 2:,} rows unfilled"
        bench.add(Figure(f"share of the limit, {name}", statistics.median(shares), note=note))


def measure_sparse(bench: Bench) -> None:
    """Measure the cost of finding gaps where few or none are left, compared with one counting anti-join."""
    for name, condition, bound in (
        ("0.1 % missing", "random() < 0.999", 1.3),
        ("nothing missing", "true", 1.1),
    ):

        def fill_it(url: sa.URL, condition: str = condition) -> None:
            bench.load(url, USERS, condition)

        template = bench.server.template(name, bench.migrated, fill_it)
        ratios, phases = [], []
        for _ in range(PAIRS):
            with bench.copy_of(template) as url, psycopg.connect(as_text(url), autocommit=True) as connection:
                # A warm-up, so that neither of the two pays for a cold copy.
                connection.execute(ANTI_JOIN)
                started = time.monotonic()
                connection.execute(ANTI_JOIN)
                anti_join = time.monotonic() - started
                report = backfill(url)
                phases.append(report["phases_s"])
                ratios.append(report["phases_s"]["fill"] / anti_join)
        others = ", ".join(
            f"{phase} {statistics.median(p[phase] for p in phases):.2f} s" for phase in ("recount", "discrepancies")
        )
        note = f"{spread(ratios)}; {report['inserted']:,} rows inserted; apart from that {others}"
        bench.add(Figure(f"fill phase, {name}, by anti-joins", statistics.median(ratios), most=bound, note=note))


def measure_pages(bench: Bench) -> None:
    """Measure whether pages become slower during a run, with fresh statistics and with those of an empty table."""

    def load_stale(url: sa.URL) -> None:
        tables = (SCORES, "auth.users")
        off = [f"alter table {table} set (autovacuum_enabled = off)" for table in tables]
        execute(bench.server.as_admin(url), *off, f"analyze {', '.join(tables)}")
        bench.load(url, USERS, "random() < 0.5", vacuum=False)

    stale = bench.server.template("stale", bench.migrated, load_stale)
    for name, template in (("fresh", bench.half_missing()), ("stale", stale)):
        ratios = []
        for _ in range(3):
            with bench.copy_of(template) as url:
                pages = time_pages(url)
            seconds = [seconds for seconds, _ in pages]
            costs = [seconds / probe for seconds, probe in pages]
            quarter = len(costs) // 4
            ratios.append(statistics.median(costs[-quarter:]) / statistics.median(costs[:quarter]))
        note = f"{spread(ratios)}; median page {1000 * statistics.median(seconds):.1f} ms, {len(seconds):,} pages"
        bench.add(
            Figure(
                f"last quarter of pages by the first, {name} statistics", statistics.median(ratios), most=1.1, note=note
            )
        )


# A statement that reads no table takes as long throughout a run, unless the machine has become slower.
PROBE = "select sum(hashint4(n)) from generate_series(1, 10000) as n"


def time_pages(url: sa.URL) -> list[tuple[float, float]]:
    """Return how long each page of a run took, and the probe after it, in their order."""
    engine = create_engine(url, application_name="momentum-bench")
    # Pages that are sent together couldn't be told apart.
    engine.dialect.connect = WatchedConnection.connect  # type: ignore[method-assign, assignment]
    pages: list[tuple[float, float]] = []
    started = 0.0

    @sa.event.listens_for(engine, "before_cursor_execute")
    def begin(_connection: Any, _cursor: Any, _statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        nonlocal started
        started = time.monotonic()

    @sa.event.listens_for(engine, "after_cursor_execute")
    def end(connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        if "INSERT INTO" in statement:
            ended = time.monotonic()
            connection.connection.driver_connection.execute(PROBE)
            pages.append((ended - started, time.monotonic() - ended))

    run_backfill(engine, Settings(DayRange(FIRST, LAST), look_for_discrepancies=False))
    return pages


def measure_memory(bench: Bench) -> None:
    """Measure the process's peak memory at 0.6 and at 12 million user-days, where every user has a gap."""
    peaks = {}
    for users in (10_000, 200_000):
        url = bench.server.create_database(bench.server.supabase_template())
        # An adopted table without a key of its own, because that is filled fast.
        with create_engine(url, application_name="momentum-bench").begin() as connection:
            execute_script(
                connection,
                f"""
                create schema legacy;
                create table {SCORES} (
                  user_id uuid not null, score_ts timestamptz not null, score numeric(5, 2), pillar_breakdown jsonb
                );
                {add_accounts(users)};
                insert into {SCORES}
                select u.id, d.day at time zone 'UTC', 50, '{{}}' from auth.users as u cross join {RANGE}
                where (hashtext(u.id::text) + extract(day from d.day)::int) % 30 <> 0;
                """,
            )
        migrate(url)
        report = backfill(url, "--no-discrepancies")
        peaks[users] = report["peak_mb"]
        note = f"{report['eligible']:,} user-days, {report['inserted']:,} rows inserted"
        bench.add(
            Figure(
                f"peak memory, {users * DAYS / 1e6:g} million user-days", peaks[users], most=80, unit="MB", note=note
            )
        )
        bench.server.drop_database(url)
    small, big = peaks.values()
    bench.add(Figure("peak memory, difference of the two", abs(big - small), most=5, unit="MB"))


class Network:
    """A TCP proxy that delays every message and counts the client's round trips."""

    def __init__(self, url: sa.URL, seconds: float) -> None:
        self.round_trips = 0
        self._target = url
        self._delay = seconds / 2
        self._client_spoke = False
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.set(host="127.0.0.1", port=self._listener.getsockname()[1]).difference_update_query(["host"])

    def __enter__(self) -> "Network":
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener)
        await self._ended.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # As the server does; otherwise an answer would wait until the client has acknowledged the one before.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        directory = self._target.query.get("host")
        if directory:
            port = self._target.port or 5432
            server = await asyncio.open_unix_connection(f"{directory}/.s.PGSQL.{port}")
        else:
            server = await asyncio.open_connection(self._target.host, self._target.port or 5432)
        # The end of the measurement is no error of a connection that is still open.
        with suppress(asyncio.CancelledError):
            await asyncio.gather(self._pass(reader, server[1], True), self._pass(server[0], writer, False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool) -> None:
        while data := await reader.read(65_536):
            if from_client and not self._client_spoke:
                self.round_trips += 1
            self._client_spoke = from_client
            self._loop.call_later(self._delay, writer.write, data)
        self._loop.call_later(self._delay, writer.close)


def measure_latency(bench: Bench) -> None:
    """Measure the round trips per page and per commit, and their cost over a slow network."""

    def run(condition: str, users: int, milliseconds: int, *, one_by_one: bool = False) -> tuple[int, int, float]:
        """Return the round trips of a run, its commits, and its rows per second from its first connection on."""
        template = bench.server.template(
            f"{users} where {condition}", bench.migrated, lambda url: bench.load(url, users, condition)
        )
        program = (sys.executable, "-c", ONE_BY_ONE) if one_by_one else (str(PROGRAM),)
        with bench.copy_of(template) as url, Network(url, milliseconds / 1000) as network:
            report = backfill(network.url, "--no-discrepancies", program=program)
            return network.round_trips, report["commits"], report["rows_per_s"]

    trips, _, _ = run("true", 200, 0)
    bench.add(Figure("round trips of a run with nothing missing", trips, most=25))
    # Subtracting a shorter run leaves out the work that every run does once, however many commits it has.
    half = "random() < 0.5"
    once, once_commits, _ = run(half, 200, 0)
    for milliseconds, bound in ((5, None), (20, 3.5), (50, 3.5)):
        trips, commits, _ = run(half, 1000, milliseconds)
        per_commit = (trips - once) / (commits - once_commits)
        bench.add(Figure(f"round trips per commit at {milliseconds} ms", per_commit, most=2))
        ratios = []
        for _ in range(PAIRS):
            _, _, rate = run(half, 1000, milliseconds)
            _, _, slower = run(half, 1000, milliseconds, one_by_one=True)
            ratios.append(rate / slower)
        note = f"{spread(ratios)}; {rate:,.0f} rows/s where waiting for each answer gives {slower:,.0f}"
        name = f"rows/s at {milliseconds} ms, by waiting for each answer"
        bench.add(Figure(name, statistics.median(ratios), least=bound, note=note))


def measure_start(bench: Bench) -> None:
    """Measure how long the help takes, compared with the import of SQLAlchemy."""
    environment = {**os.environ, "COLUMNS": "100"}

    def seconds(*words: str | Path) -> float:
        started = time.monotonic()
        subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.monotonic() - started

    pairs = [(seconds(PROGRAM, "--help"), seconds(sys.executable, "-c", "import sqlalchemy")) for _ in range(11)]
    ratios = [ours / theirs for ours, theirs in pairs[1:]]
    bench.add(Figure("--help by `import sqlalchemy`", statistics.median(ratios), most=1.5, note=spread(ratios)))


MEASURES = {
    "start": measure_start,
    "latency": measure_latency,
    "speed": measure_speed,
    "oldest": measure_oldest,
    "sparse": measure_sparse,
    "pages": measure_pages,
    "memory": measure_memory,
}


def tune(server: Server) -> None:
    """Give a server the settings under which it is measured."""
    execute(server.admin_url, *(f"alter system set {setting}" for setting in SETTINGS), "select pg_reload_conf()")


def describe_machine(server: Server) -> str:
    """Return a description of the machine and the versions."""
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({cpus[0] if cpus else platform.machine()}), {memory:.0f} GiB of memory; "
        f"{server}, with fsync and synchronous_commit on; Python {platform.python_version()}, SQLAlchemy "
        f"{sa.__version__}, psycopg {psycopg.__version__}; {datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    )


def write_figures(machine: str, figures: Sequence[Figure]) -> None:
    """Replace the table in docs/benchmarks.md."""
    rows = [f"| {f.name} | {f.value:.2f} {f.unit} | {f.bound} | {f.note} |".replace("  ", " ") for f in figures]
    table = "\n".join(
        [
            f"{machine}.\n",
            "| figure | median | bound | range, and what else |",
            "|---|---:|---|---|",
            *rows,
        ]
    )
    FIGURES.write_text(marked.rewrite(FIGURES.read_text(encoding="utf-8"), "FIGURES", table), encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Take the measurements that were asked for; 1 if a figure is beyond its bound."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "measures",
        nargs="*",
        choices=[[], *MEASURES],
        help="what to measure (all, written to docs/benchmarks.md)",
    )
    wanted = parser.parse_args(arguments).measures or list(MEASURES)
    with running_server(on_disk=True) as server:
        tune(server)
        machine = describe_machine(server)
        print(f"{machine}\n{USERS:,} users x {DAYS} days; {PAIRS} pairs")
        bench = Bench(server)
        for name in wanted:
            print(f"\n{name}")
            MEASURES[name](bench)
    if wanted == list(MEASURES):
        write_figures(machine, bench.figures)
    beyond = [figure.name for figure in bench.figures if not figure.kept]
    for name in beyond:
        print(f"Beyond its bound: {name}", file=sys.stderr)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
