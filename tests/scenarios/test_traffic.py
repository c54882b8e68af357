"""Clients go on working while the migrations go up and down: the short form of `make traffic`, with the same bounds."""

import functools
import time

import psycopg
import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.testing import Server
from tools.traffic import (
    DUPLICATES,
    TABLES,
    UP,
    USERS,
    VIEW,
    Layout,
    Run,
    execute,
    longest,
    migrate_up_and_down,
    problems,
    run_traffic,
)

pytestmark = pytest.mark.slow

ROWS = 2_000


def test_beside_one_who_holds_everything_nobody_waits_longer_than_the_lock_timeout(server: Server) -> None:
    migrate = functools.partial(migrate_up_and_down, idle="holding", hold=1.5)
    run = run_traffic(server, "seed", ROWS, seconds=0, migrate=migrate)
    assert problems(run) == []
    assert longest(run.migrating, USERS) > 0.2, "the holder was not in the migrations' way"
    assert run.superseded >= DUPLICATES, "duplicate days have moved while their users were at work"
    for kind in (VIEW, TABLES):
        assert run.missing(kind), f"clients have asked for {kind} while the revision has it not: the count is honest"


def test_beside_an_idle_reader_of_accounts_nothing_fails_and_no_row_is_lost(server: Server) -> None:
    migrate = functools.partial(migrate_up_and_down, idle="reading")
    assert problems(run_traffic(server, "production", ROWS, seconds=0, migrate=migrate)) == []


SOMEBODY_WAITS = """
    select exists (
      select from pg_catalog.pg_locks where relation = 'auth.users'::regclass and locktype = 'relation' and not granted
    )
"""


def wait_until(connection: psycopg.Connection, condition: str) -> None:
    deadline = time.monotonic() + 60
    while connection.execute(condition).fetchone() != (True,):
        assert time.monotonic() < deadline, f"in a minute it has not come true that {condition}"


def migrate_badly(run: Run, url: sa.URL, layout: Layout, seconds: float) -> None:
    """Break every promise once."""
    del seconds
    run.commands += [execute(UP, url), execute(("alembic", "upgrade", "nowhere"), url)]
    with psycopg.connect(as_text(url), autocommit=True) as connection:
        with connection.transaction():
            # It holds up sign-ins only: whoever waits for a foreign key's check would not ask for an account meanwhile.
            connection.execute("lock table auth.users in share mode")
            wait_until(connection, SOMEBODY_WAITS)
            connection.execute("select pg_sleep(2.5)")
        connection.execute("alter view public.daily_momentum_scores rename to hidden")
        connection.execute("select pg_sleep(0.5)")
        connection.execute("alter view public.hidden rename to daily_momentum_scores")
        connection.execute(f"alter table {layout.relation} add constraint full_ check ({layout.score} > 100) not valid")
        connection.execute("select pg_sleep(0.5)")
        connection.execute(f"alter table {layout.relation} drop constraint full_")
        connection.execute(
            f"delete from {layout.relation} where ctid in (select ctid from {layout.relation} "
            f"where {layout.breakdown} @> '{{\"loaded\": true}}' limit 3)"
        )


def test_what_clients_suffer_is_noticed(server: Server) -> None:
    def migrate(run: Run, url: sa.URL, layout: Layout, seconds: float) -> None:
        migrate_badly(run, url, layout, seconds)
        # At the very last, so that no client writes it again.
        with psycopg.connect(as_text(url), autocommit=True) as connection:
            connection.execute("delete from public.momentum_events")

    found = problems(run_traffic(server, "production", ROWS, seconds=0, migrate=migrate))
    for expected in (
        "`alembic upgrade nowhere` ended with ",
        "a statement on auth.users took ",
        "statements on the score table failed (23514)",
        "statements on the view failed (42P01)",
        "events are not there",
        "3 scores of before are not there",
    ):
        assert any(expected in sentence for sentence in found), f"{expected!r} is not in {found}"
