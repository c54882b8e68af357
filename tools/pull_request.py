"""Writes docs/pull_request.md: the results of the consumers' queries on the fixture, for reviewers."""

import datetime
import json
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from momentum.backfill import DayRange, Settings, run_backfill
from momentum.testing import Server, running_server
from momentum.testing.servers import migrate
from tests.fixture import load_fixture
from tests.server import engine_of

PATH = Path(__file__).parents[1] / "docs" / "pull_request.md"
LAST = datetime.date(2026, 3, 31)
USERS = 200
DAYS = 60

QUERIES = {
    "A user's score on one day": """\
select user_id, score, score_date, pillar_breakdown
from public.daily_momentum_scores
where user_id = md5('user 3')::uuid and score_date = '2026-03-31'""",
    "A user's last 7 days": """\
select score_date, score, pillar_breakdown
from public.daily_momentum_scores
where user_id = md5('user 3')::uuid and score_date between '2026-03-25' and '2026-03-31'
order by score_date""",
    "The plan for a user's last 30 days": """\
explain (costs off)
select score_date, score, pillar_breakdown
from public.daily_momentum_scores
where user_id = md5('user 3')::uuid and score_date between '2026-03-02' and '2026-03-31'
order by score_date""",
    "Every eligible user-day has a row": """\
select count(*) as user_days, count(distinct user_id) as users, min(score_date), max(score_date)
from public.daily_momentum_scores""",
    "The migrations' record of the score table": """\
select relation, layout, created_table, created_index
from momentum_internal.score_table""",
}


def write_table(rows: sa.CursorResult[tuple[object, ...]]) -> str:
    """Return rows as a table for a terminal."""
    table = Table(box=None, pad_edge=False)
    for name in rows.keys():  # noqa: SIM118 - it is a method of the result, which is no mapping
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(
            *(value if isinstance(value, str) else json.dumps(value, default=str).strip('"') for value in row)
        )
    console = Console(width=400, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def sample_outputs(server: Server) -> str:
    """Return the page."""
    days = DayRange(LAST - datetime.timedelta(days=DAYS - 1), LAST)
    with server.database(migrated=False) as url:
        load_fixture(url, users=USERS, days=DAYS, last=LAST)
        migrate(url)
        engine = engine_of(url)
        report = run_backfill(engine, Settings(days, look_for_discrepancies=False))
        parts = [
            "# Sample query outputs",
            "",
            f"Written by `make pull-request` from a database with {USERS} users and {DAYS} days of legacy scores, "
            f"migrated and backfilled: {report.present:,} rows were present, {report.inserted:,} were inserted.",
        ]
        with engine.connect() as connection:
            connection.exec_driver_sql("analyze legacy.daily_engagement_scores")
            for title, query in QUERIES.items():
                answer = write_table(connection.execute(sa.text(query)))
                parts += ["", f"## {title}", "", "```sql", query, "```", "", "```", answer, "```"]
    return "\n".join(parts) + "\n"


def main() -> None:
    with running_server() as server:
        PATH.write_text(sample_outputs(server), encoding="utf-8")
    print(f"Wrote {PATH}.")


if __name__ == "__main__":
    main()
