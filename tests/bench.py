"""What `make bench` measures: the backfill beside the fastest way there is, one INSERT ... SELECT in one transaction.

Both run on copies of the same database, in turn, so that a busy machine slows both: only the ratio means anything.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from momentum.database import as_text, create_engine, execute_script
from momentum.environment import URL_VARIABLES
from momentum.testing import running_server

PROGRAM = Path(sys.executable).parent / "momentum-backfill"
USERS = 20_000
DAYS = 60
PAIRS = 3
LAST = datetime.date(2026, 3, 31)
FIRST = LAST - datetime.timedelta(days=DAYS - 1)

LIMIT = f"""
insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown, source)
select u.id, d.day at time zone 'UTC', 0, '{{}}', 'backfill'
from auth.users as u
cross join generate_series('{FIRST}'::timestamp, '{LAST}'::timestamp, '1 day') as d (day)
where not exists (
  select from legacy.daily_engagement_scores as s
  where s.user_id = u.id and (s.score_ts at time zone 'UTC')::date = d.day::date
)
on conflict (user_id, ((score_ts at time zone 'UTC')::date)) do nothing
"""


def load(url: sa.URL) -> None:
    """Fill a migrated database with accounts, and half of their user-days at random."""
    engine = create_engine(url, application_name="momentum-bench")
    with engine.begin() as connection:
        execute_script(
            connection,
            f"""
            select setseed(0.5);
            insert into auth.users (created_at) select '2020-01-01' from generate_series(1, {USERS});
            insert into legacy.daily_engagement_scores (user_id, score_ts, score)
            select u.id, (d.day + interval '9 hours') at time zone 'UTC', 50
            from auth.users as u
            cross join generate_series('{FIRST}'::timestamp, '{LAST}'::timestamp, '1 day') as d (day)
            where random() < 0.5;
            """,
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("vacuum analyze")


def limit(url: sa.URL) -> tuple[int, float]:
    """Return the rows and seconds of the one statement."""
    started = time.monotonic()
    with create_engine(url, application_name="momentum-bench").begin() as connection:
        rows = connection.exec_driver_sql(LIMIT).rowcount
    return rows, time.monotonic() - started


def ours(url: sa.URL) -> tuple[int, float]:
    """Return the rows and seconds of the command, its start and its recount included."""
    started = time.monotonic()
    text = as_text(url)
    done = subprocess.run(
        [PROGRAM, "--from", str(FIRST), "--to", str(LAST), "--no-discrepancies", "--json", "--quiet"],
        env={**os.environ, URL_VARIABLES[0]: text},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)["inserted"], time.monotonic() - started


def main() -> None:
    ratios = []
    with running_server() as server:
        print(f"{server}; {USERS:,} users x {DAYS} days, half missing; {PAIRS} pairs; {os.cpu_count()} cores")
        loaded = server.template("bench", lambda: server.create_database(server.migrated_template()), load)
        for number in range(PAIRS):
            rates = {}
            for way in (limit, ours) if number % 2 else (ours, limit):
                url = server.create_database(loaded)
                rows, seconds = way(url)
                server.drop_database(url)
                rates[way.__name__] = rows / seconds
                print(f"  {way.__name__:<6}{rows:>9,} rows in {seconds:6.1f} s{rates[way.__name__]:>10,.0f} rows/s")
            ratios.append(rates["ours"] / rates["limit"])
    print(f"ours is {statistics.median(ratios):.2f} of the limit (median; {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
