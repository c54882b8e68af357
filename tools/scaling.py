"""`make scaling`: measure how the backfill's cost grows, and rewrite the table in docs/scaling.md.

On copies of one database in which half of the user-days are missing, one statement and the command fill the gaps: the
statement's rate is the limit. On another one, in which nothing is missing, the command looks; and then, as at night,
one user in a hundred lacks the last day. Where a size would need more disk or time than is available, users are left
out, and the table says how many remain.
"""

import argparse
import datetime
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa

from momentum.connect.engine import create_engine
from momentum.connect.url import as_text
from momentum.testing import Server, running_server
from tools import marked
from tools.bench import DAY, DAYS, FIRST, LAST, SCORES, backfill, connect_without_limit, execute, limit

PATH = Path(__file__).parents[1] / "docs" / "scaling.md"

# The most users whose gaps are filled: five million rows show the rate. The others are deleted accounts meanwhile.
MOST_FILLED = 166_666

# One user in so many lacks a row at night.
ONE_IN = 100

# The share of the free disk that a size may take; the rest is for the server's log and temporary files.
SHARE_OF_DISK = 0.5

HEADER = (
    "| user-days | measured with | table and indexes | filled | limit, rows/s | fill, rows/s | share of the limit | "
    "find, all days | recount | a night | to find, by one anti-join | its buffers, by one anti-join | peak memory |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)

# The last day's gaps, counted in one statement.
NIGHT = f"""
select count(*) from auth.users as u
where
  u.deleted_at is null
  and not exists (select from {SCORES} as s where s.user_id = u.id and (s.{DAY[1:]} = date '{LAST}')
"""


@dataclass(frozen=True)
class Cost:
    """The cost of a user-day, measured or assumed: bytes on disk, and seconds to load and to run."""

    size: float
    seconds: float


ASSUMED = Cost(300.0, 60e-6)


class Filled(NamedTuple):
    """A fill: the rows per second of one statement, and the report of the command."""

    limit: float
    report: dict[str, Any]

    @property
    def rate(self) -> float:
        """The command's rows per second, its start and its recount included, as that of the statement."""
        return float(self.report["inserted"] / self.report["wall_s"])


class Looked(NamedTuple):
    """The reports of a run with nothing missing and of a night.

    The seconds and buffers of the night's dry run are by those of one anti-join, which only counts as well; no buffers
    if that finds all in memory.
    """

    all_days: dict[str, Any]
    night: dict[str, Any]
    seconds: float
    buffers: float | None


@dataclass(frozen=True)
class Measured:
    """A size and what was measured; ``thinned`` says why users were left out, if some were."""

    user_days: int
    users: int
    thinned: str
    size: int
    filled: Filled
    looked: Looked

    def __str__(self) -> str:
        filled, looked = self.filled, self.looked
        phases = looked.all_days["phases_s"]
        cells = (
            f"{self.user_days / 1e6:g} M",
            f"{self.users:,} users x {DAYS} days{' *' if self.thinned else ''}",
            f"{self.size / 2**20:,.0f} MiB",
            f"{filled.report['inserted']:,}",
            f"{filled.limit:,.0f}",
            f"{filled.rate:,.0f}",
            f"{filled.rate / filled.limit:.2f}",
            f"{phases['fill']:.2f} s",
            f"{phases['recount']:.2f} s",
            f"{looked.night['phases_s']['fill']:.2f} s",
            f"{looked.seconds:.2f}",
            "" if looked.buffers is None else f"{looked.buffers:.2f}",
            f"{max(report['peak_mb'] for report in (filled.report, looked.all_days, looked.night)):.0f} MiB",
        )
        return f"| {' | '.join(cells)} |"


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


def load(admin_url: sa.URL, users: int, share: float) -> None:
    """Fill a migrated database with accounts and a share of their user-days, in the order of time.

    Keys and indexes are made after the rows, by a superuser who does without the checks of the foreign key: a hundred
    million rows would take hours otherwise.
    """
    engine = create_engine(admin_url, application_name="momentum-scaling")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in (
            "set session_replication_role = replica",
            "set maintenance_work_mem = '1GB'",
            "select setseed(0.5)",
            "insert into auth.users (id, created_at) select gen_random_uuid(), '2020-01-01' "
            f"from generate_series(1, {users})",
        ):
            connection.exec_driver_sql(statement)
        made_again = connection.execute(
            sa.text("""
                select
                  case
                    when c.oid is null then format('drop index %s', i.indexrelid::regclass)
                    else format('alter table %s drop constraint %I', i.indrelid::regclass, c.conname)
                  end,
                  case
                    when c.oid is null then pg_get_indexdef(i.indexrelid)
                    else concat(
                      format('alter table %s add constraint %I ', i.indrelid::regclass, c.conname),
                      pg_get_constraintdef(c.oid)
                    )
                  end
                from pg_catalog.pg_index as i
                left join pg_catalog.pg_constraint as c on i.indexrelid = c.conindid and c.contype in ('p', 'u')
                where i.indrelid = cast(:relation as regclass)
            """),
            {"relation": SCORES},
        ).all()
        for drop, _ in made_again:
            connection.exec_driver_sql(drop)
        for number in range(DAYS):
            connection.execute(
                sa.text(f"""
                    insert into {SCORES} (user_id, score_ts, score)
                    select id, (cast(:day as timestamp) + interval '9 hours') at time zone 'UTC', 50 from auth.users
                    where random() < :share
                """),
                {"day": FIRST + datetime.timedelta(days=number), "share": share},
            )
        for _, make in made_again:
            connection.exec_driver_sql(make)
        connection.exec_driver_sql("vacuum analyze")


def leave_out_most(url: sa.URL) -> None:
    """Delete the accounts of all but the first users, for the time being; their rows stay."""
    execute(
        url,
        f"""
        update auth.users set deleted_at = now()
        where id >= (select id from auth.users order by id offset {MOST_FILLED} limit 1)
        """,
        "vacuum analyze auth.users",
    )


@contextmanager
def copied(server: Server, template: sa.URL) -> Iterator[sa.URL]:
    """Yield a copy of a large database, made by copying its files."""
    url = template.set(database=f"{template.database}_copy")
    name, owner = url.database, server.url.username
    execute(
        server.admin_url,
        "checkpoint",
        f"create database {name} template {template.database} strategy file_copy owner {owner}",
    )
    try:
        yield url
    finally:
        server.drop_database(url)


def measure_fill(server: Server, users: int) -> tuple[Filled, int]:
    """Fill gaps by one statement and by the command; return the figures, and the size of the full table."""
    with server.database() as template:
        load(server.as_admin(template), users, 0.5)
        if users > MOST_FILLED:
            leave_out_most(server.as_admin(template))
        with copied(server, template) as url:
            rows, seconds = limit(url)
        with copied(server, template) as url:
            report = backfill(url, "--no-discrepancies")
            with psycopg.connect(as_text(url)) as connection:
                [(size,)] = connection.execute("select pg_total_relation_size(%s)", [SCORES]).fetchall()
    if report["inserted"] != rows:
        raise RuntimeError(f"the command inserted {report['inserted']:,} rows, and one statement {rows:,}")
    return Filled(rows / seconds, report), size


def measure_look(server: Server, users: int) -> Looked:
    """Look for gaps where there are none, and where one user in a hundred lacks the last day."""
    with server.database() as url:
        load(server.as_admin(url), users, 1.0)
        all_days = backfill(url, "--no-discrepancies")
        last = f"(score_ts at time zone 'UTC')::date = date '{LAST}'"
        numbered = "select id, row_number() over (order by id) as n from auth.users"
        execute(
            server.as_admin(url),
            f"""
            delete from {SCORES}
            where {last} and user_id in (select id from ({numbered}) as u where n % {ONE_IN} = 0)
            """,
            "vacuum analyze",
        )
        night = ("--from", str(LAST), "--no-discrepancies")
        with connect_without_limit(url) as connection:
            connection.autocommit = True
            connection.execute(NIGHT)  # neither of the two is to pay for a cold start
            started = time.monotonic()
            connection.execute(NIGHT)
            seconds = time.monotonic() - started
            before = blocks_of(connection)
            connection.execute(NIGHT)
            by_one = blocks_of(connection) - before
            counted = backfill(url, *night, "--dry-run")
            by_ours = blocks_of(connection) - before - by_one
        report = backfill(url, *night)
    if all_days["inserted"] or report["inserted"] != users // ONE_IN:
        raise RuntimeError(f"a run inserted {all_days['inserted']:,} rows, and a night {report['inserted']:,}")
    return Looked(all_days, report, counted["phases_s"]["fill"] / seconds, by_ours / by_one if by_one else None)


def blocks_of(connection: psycopg.Connection[Any]) -> int:
    """Return how many blocks sessions have read into the buffers of a database, once those that ended have told."""
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    while connection.execute(others).fetchone() != (0,):
        time.sleep(0.1)
    connection.execute("select pg_stat_force_next_flush()")
    row = connection.execute("select blks_read from pg_stat_database where datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def measure(server: Server, user_days: int, cost: Cost, seconds: float) -> tuple[Measured, Cost]:
    """Measure one size, and return it with the cost of a user-day."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    users, thinned = thin(user_days, cost, free, seconds)
    started = time.monotonic()
    filled, size = measure_fill(server, users)
    looked = measure_look(server, users)
    number = users * DAYS
    spent = Cost(max(size / number, ASSUMED.size), (time.monotonic() - started) / number)
    return Measured(user_days, users, thinned, size, filled, looked), spent


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
    parser.add_argument("--night", action="store_true", help="only look for gaps, as at night, and write nothing")
    given = parser.parse_args(arguments)
    cost = ASSUMED
    measured: list[Measured] = []
    with running_server(on_disk=True) as server:
        sizes = "" if given.sizes == [1, 10, 100] else f" SIZES='{' '.join(f'{size:g}' for size in given.sizes)}'"
        says = environment(server, sizes)
        if given.night:
            for size in given.sizes:
                looked = measure_look(server, round(size * 1e6) // DAYS)
                seconds, buffers = looked.night["phases_s"]["fill"], looked.buffers
                print(
                    f"{size:g} M: {seconds:.2f} s; to find them, {looked.seconds:.2f} by one anti-join"
                    + ("" if buffers is None else f"; its buffers {buffers:.2f}"),
                    flush=True,
                )
            return
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
