"""`make scaling`: measure how the backfill's cost grows, and rewrite the table in docs/scaling.md.

Half of the user-days are missing. The command runs three times on each database: it fills; it looks again where nothing
is missing; and it looks at the last day alone, as it does at night. Where a size would need more disk or time than is
available, users are left out, and the table says how many remain.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from momentum.connect.engine import create_engine
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text
from momentum.testing import Server, running_server
from tools import marked

PATH = Path(__file__).parents[1] / "docs" / "scaling.md"
PROGRAM = Path(sys.executable).parent / "momentum-backfill"
DAYS = 60
LAST = datetime.date(2026, 3, 31)
FIRST = LAST - datetime.timedelta(days=DAYS - 1)
USERS_A_LOAD = 10_000

# The share of the free disk that a size may take; the rest is for the server's log and temporary files.
SHARE_OF_DISK = 0.5

# Runs a command and prints its peak memory. This is a process of its own, because the system counts the parent's memory
# at the start as the child's, and ours is more than the command may use.
WATCH = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""

HEADER = (
    "| user-days | measured with | table and indexes | filled | fill, rows/s | find, all days | recount | "
    "find, last day | peak memory |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Cost:
    """The cost of a user-day, measured or assumed: bytes on disk, and seconds to load and to run."""

    size: float
    seconds: float


ASSUMED = Cost(300.0, 150e-6)


@dataclass(frozen=True)
class Run:
    """The report of a run of the command, and the peak memory of its process in bytes."""

    report: dict[str, Any]
    memory: int


@dataclass(frozen=True)
class Measured:
    """A size and its runs; ``thinned`` says why users were left out, if some were."""

    user_days: int
    users: int
    thinned: str
    size: int
    fill: Run
    look: Run
    night: Run

    def __str__(self) -> str:
        phases = self.fill.report["phases_s"]
        memory = max(run.memory for run in (self.fill, self.look, self.night))
        return (
            f"| {self.user_days / 1e6:g} M | {self.users:,} users x {DAYS} days{' *' if self.thinned else ''} "
            f"| {self.size / 2**20:,.0f} MiB | {self.fill.report['inserted']:,} "
            f"| {self.fill.report['rows_per_s']:,.0f} | {self.look.report['phases_s']['fill']:.2f} s "
            f"| {phases['recount']:.2f} s | {self.night.report['phases_s']['fill']:.2f} s | {memory / 2**20:.0f} MiB |"
        )


def thin(user_days: int, cost: Cost, free: float, seconds: float) -> tuple[int, str]:
    """Return the number of users that disk and time allow, and why they are fewer than requested.

    Args:
        user_days: The requested size.
        cost: The expected cost of a user-day.
        free: Free bytes on the disk.
        seconds: The time that a size may take.
    """
    asked = max(user_days // DAYS, 1)
    by_disk = int(free * SHARE_OF_DISK / cost.size / DAYS)
    by_time = int(seconds / cost.seconds / DAYS)
    users = max(min(asked, by_disk, by_time), 1)
    if users == asked:
        return users, ""
    reason = f"{free / 2**30:,.0f} GiB are free" if by_disk < by_time else f"a size may take {seconds / 3600:g} h"
    return users, f"{user_days / 1e6:g} M was thinned to {users:,} of {asked:,} users, because {reason}"


def load(url: sa.URL, users: int) -> None:
    """Fill a migrated database with accounts and half of their user-days."""
    with create_engine(url, application_name="momentum-scaling").connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("select setseed(0.5)")
        for first in range(0, users, USERS_A_LOAD):
            connection.execute(
                sa.text("""
                    with accounts as (
                      insert into auth.users (id, created_at)
                      select gen_random_uuid(), '2020-01-01' from generate_series(1, :users)
                      returning id
                    )
                    insert into legacy.daily_engagement_scores (user_id, score_ts, score)
                    select id, (moment + interval '9 hours') at time zone 'UTC', 50
                    from accounts
                    cross join generate_series(cast(:first as timestamp), cast(:last as timestamp), '1 day') as moment
                    where random() < 0.5
                """),
                {"users": min(USERS_A_LOAD, users - first), "first": FIRST, "last": LAST},
            )
        connection.exec_driver_sql("vacuum analyze")


def run(url: sa.URL, first: datetime.date) -> Run:
    """Run the command from a day to the last one.

    Raises:
        RuntimeError: It failed.
    """
    text = as_text(url)
    command = [str(PROGRAM), "--from", str(first), "--to", str(LAST), "--no-discrepancies", "--json", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *command],
        env={**os.environ, URL_VARIABLES[0]: text},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"momentum-backfill ended with exit code {done.returncode}: {done.stderr}")
    return Run(json.loads(done.stdout), int(done.stderr.splitlines()[-1]) * (1 if sys.platform == "darwin" else 1024))


def measure(server: Server, user_days: int, cost: Cost, seconds: float) -> tuple[Measured, Cost]:
    """Measure one size, and return it with the cost of a user-day."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    users, thinned = thin(user_days, cost, free, seconds)
    started = time.monotonic()
    with server.database() as url:
        load(url, users)
        fill = run(url, FIRST)
        with create_engine(url, application_name="momentum-scaling").connect() as connection:
            relation = sa.text("select pg_total_relation_size('legacy.daily_engagement_scores')")
            size = int(connection.scalar(relation) or 0)
        look, night = run(url, FIRST), run(url, LAST)
    for later in (look, night):
        if later.report["inserted"]:
            raise RuntimeError(f"a run after the first one inserted {later.report['inserted']} rows")
    number = users * DAYS
    spent = Cost(size / number, (time.monotonic() - started) / number)
    return Measured(user_days, users, thinned, size, fill, look, night), spent


def environment(server: Server, arguments: str) -> str:
    """Return the machine, the versions and the command behind the figures, on one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("SQLAlchemy", "psycopg"))
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"`make scaling{arguments}` on {today}: {server}, {versions}, {os.cpu_count()} cores, {memory:.0f} GiB of "
        "memory; one worker; the server on the same machine, with its default settings and fsync off."
    )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.scaling")
    parser.add_argument("sizes", nargs="*", type=float, default=[1, 10, 100], help="millions of user-days, 1 10 100")
    parser.add_argument("--hours", type=float, default=3.0, help="hours per size, beyond which users are left out")
    given = parser.parse_args(arguments)
    cost = ASSUMED
    measured: list[Measured] = []
    with running_server(on_disk=True) as server:
        sizes = "" if given.sizes == [1, 10, 100] else f" SIZES='{' '.join(f'{size:g}' for size in given.sizes)}'"
        says = environment(server, sizes)
        print(f"{says}\n\n{HEADER}", flush=True)
        for size in given.sizes:
            one, cost = measure(server, round(size * 1e6), cost, given.hours * 3600)
            measured.append(one)
            print(one, flush=True)
    notes = "".join(f"\n\n\\* {one.thinned}." for one in measured if one.thinned)
    print(notes)
    table = "\n".join([f"{says}\n", HEADER, *map(str, measured)]) + notes
    PATH.write_text(marked.rewrite(PATH.read_text(encoding="utf-8"), "SCALING", table), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
