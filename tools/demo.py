"""`make demo`: the whole path on a Postgres of its own, with the commands that an operator would run."""

import argparse
import datetime
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from momentum.connect.engine import create_engine
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text
from momentum.testing import running_server
from tests.fixture import DAYS, USERS, load_fixture

PROGRAMS = Path(sys.executable).parent
REPORT = Path(".momentum") / "demo.html"

LAST_DAYS = """
select score_date, score, pillar_breakdown
from public.daily_momentum_scores
where user_id = :user_id and score_date between :last - 2 and :last
order by score_date
"""


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(*command: str, url: sa.URL) -> None:
    """Show a command and run it, with the database's URL in the environment."""
    print(f"$ {' '.join(command)}", flush=True)
    text = as_text(url)
    environment = {**os.environ, URL_VARIABLES[0]: text}
    subprocess.run([PROGRAMS / command[0], *command[1:]], env=environment, check=True)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.demo")
    parser.add_argument("report", nargs="?", type=Path, default=REPORT, help="where the HTML report is written")
    report = parser.parse_args(arguments).report
    report.parent.mkdir(parents=True, exist_ok=True)
    last = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
    say(f"1. Start a temporary Postgres with {USERS:,} users and {DAYS} days of legacy scores, with gaps")
    with running_server("embedded") as server, server.database(migrated=False) as url:
        print(f"{server}, with the roles and tables of every Supabase project")
        load_fixture(url, last=last)

        say("2. Migrate: the legacy scores stay where they are")
        run("alembic", "upgrade", "head", url=url)

        say("3. Fill every missing day, and write a report")
        run("momentum-backfill", "--days", str(DAYS), "--report", str(report), url=url)

        say("4. Look again: nothing is missing")
        run("momentum-backfill", "--days", str(DAYS), "--dry-run", "--no-discrepancies", url=url)

        say("5. Read one user's last 3 days from the view public.daily_momentum_scores")
        with create_engine(url, application_name="momentum-demo").connect() as connection:
            user_id = connection.scalar(sa.text("select md5('user 3')::uuid"))
            statement = sa.text(LAST_DAYS).bindparams(sa.bindparam("last", type_=sa.Date))
            rows = connection.execute(statement, {"user_id": user_id, "last": last})
            for row in rows:
                print(f"  {row.score_date}  {row.score:>6}  {row.pillar_breakdown}")
    say(f"Done. The server is gone; open {report} in a browser to see the report.")


if __name__ == "__main__":
    main(sys.argv[1:])
