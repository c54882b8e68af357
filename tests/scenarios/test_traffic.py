"""Clients go on working while the migrations go up and down.

This is the short form of `make traffic`, without its bounds on seconds: these depend on the machine and on what else
runs on it. Here the server is the witness. A migration that waits for a lock gives up its place in the queue, again and
again, and the clients behind it are answered while the lock is still held. How long it keeps its place is its
lock_timeout, which the server enforces. No statement fails, and no row is lost.
"""

import functools
import threading

import psycopg
import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.testing import Server
from tests.migrating import execute, until, wait_until
from tests.server import engine_of
from tools.traffic import (
    DUPLICATES,
    SCORES,
    TABLES,
    UP,
    USERS,
    VIEW,
    Layout,
    Run,
    Statement,
    Work,
    grown,
    migrate_up_and_down,
    problems,
    run_traffic,
    stalls,
)
from tools.traffic import execute as run_command

ROWS = 2_000
ATTEMPTS = 3

# Every session, with the sessions that it waits for.
SESSIONS = """
select
  pid, application_name, query_start, wait_event, state = 'active' as is_active, pg_blocking_pids(pid) as blockers
from pg_catalog.pg_stat_activity
where datname = current_database()
"""


class Holder:
    """Holds on until a migration has given up a few times, and a client has been answered that had queued behind it."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, url: sa.URL, pid: int, over: threading.Event) -> None:
        """Return when that has been seen, when the migration is over, or when it needs the end of this transaction.

        CONCURRENTLY waits for every older transaction and does not give up, but no client queues behind it. The second
        upgrade drops its index in this way if a client has written a duplicate while the index was built.
        """
        attempts: set[object] = set()
        queued: set[tuple[int, object]] = set()

        def seen() -> str | None:
            sessions = connection.execute(sa.text(SESSIONS)).all()
            migrations = {session.pid for session in sessions if session.application_name == "momentum-migrations"}
            blocked = [session for session in sessions if session.pid in migrations and pid in session.blockers]
            attempts.update(session.query_start for session in blocked)
            for session in sessions:
                if session.application_name == "traffic" and migrations & set(session.blockers):
                    queued.add((session.pid, session.query_start))
            active = {(session.pid, session.query_start) for session in sessions if session.is_active}
            if len(attempts) >= ATTEMPTS and queued - active:
                return "answered"
            concurrently = any(session.wait_event == "virtualxid" for session in blocked)
            return "over" if over.is_set() or concurrently else None

        with engine_of(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            what = f"{ATTEMPTS} attempts of the migration, and an answer for a client that queued behind one"
            self.times += until(seen, what) == "answered"


@pytest.mark.slow
def test_clients_behind_a_waiting_migration_are_answered_while_the_lock_is_still_held(server: Server) -> None:
    hold = Holder()
    run = run_traffic(
        server, "seed", ROWS, seconds=0, migrate=functools.partial(migrate_up_and_down, idle="holding", hold=hold)
    )
    assert problems(run) == []
    # The second upgrade takes parked tables back, and needs nothing that is held.
    assert hold.times == 2, "the first upgrade and the downgrade had to wait"
    assert run.superseded >= DUPLICATES, "duplicate days have moved while their users were at work"
    for kind in (VIEW, TABLES):
        assert run.missing(kind), f"clients asked for {kind} while the revision did not have it: the count is honest"


@pytest.mark.slow
def test_beside_an_idle_reader_of_accounts_nothing_fails_and_no_row_is_lost(server: Server) -> None:
    migrate = functools.partial(migrate_up_and_down, idle="reading")
    assert problems(run_traffic(server, "production", ROWS, seconds=0, migrate=migrate)) == []


def wait_for_client(url: sa.URL, query: str) -> None:
    """Return once a client has run a query that it began after now; whether it failed does not matter."""
    now = execute(url, "select clock_timestamp()")
    wait_until(
        url,
        "exists (select from pg_stat_activity where datname = current_database() and application_name = 'traffic' "
        "and state = 'idle' and query like :query and query_start > :now)",
        query=f"%{query}%",
        now=now,
    )


def migrate_badly(run: Run, url: sa.URL, layout: Layout, seconds: float) -> None:
    """Break every promise once."""
    del seconds
    run.commands += [run_command(UP, url), run_command(("alembic", "upgrade", "nowhere"), url)]
    with psycopg.connect(as_text(url), autocommit=True) as connection:
        connection.execute("alter view public.daily_momentum_scores rename to hidden")
        wait_for_client(url, "from public.daily_momentum_scores")
        connection.execute("alter view public.hidden rename to daily_momentum_scores")
        connection.execute(f"alter table {layout.relation} add constraint full_ check ({layout.score} > 100) not valid")
        wait_for_client(url, f"insert into {layout.relation}")
        connection.execute(f"alter table {layout.relation} drop constraint full_")
        wait_for_client(url, "insert into public.momentum_events")
        connection.execute(
            f"delete from {layout.relation} where ctid in (select ctid from {layout.relation} "
            f"where {layout.breakdown} @> '{{\"loaded\": true}}' limit 3)"
        )
        # At the very last, so that no client writes it again.
        connection.execute("delete from public.momentum_events")


@pytest.mark.slow
def test_what_clients_suffer_is_noticed(server: Server) -> None:
    found = problems(run_traffic(server, "production", ROWS, seconds=0, migrate=migrate_badly))
    for expected in (
        "`alembic upgrade nowhere` ended with ",
        "statements on the score table failed (23514)",
        "statements on the view failed (42P01)",
        "events are not there",
        "3 scores of before are not there",
    ):
        assert any(expected in sentence for sentence in found), f"{expected!r} is not in {found}"


def run_with(name: str, **seconds: float) -> Run:
    """Return a run in which statements took n seconds: on accounts and scores while migrating, on accounts alone."""
    alone = Work([Statement(USERS, 0, seconds["alone"], None)])
    migrating = Work([Statement(kind, 0, seconds[name], None) for kind, name in ((USERS, "users"), (SCORES, "scores"))])
    return Run(name, migrating=migrating, alone=alone)


def test_a_wait_beyond_the_lock_timeout_is_named() -> None:
    """Bounds on the clock are tested with figures that were never measured."""
    assert stalls(run_with("quick", alone=0.5, users=2.7, scores=2.2)) == []
    assert stalls(run_with("slow", alone=0.5, users=2.8, scores=2.3)) == [
        "slow: a statement on auth.users took 2.80 s, more than 2.75 s",
        "slow: a statement on the score table took 2.30 s, more than 2.25 s",
    ]


def test_a_wait_that_grows_with_the_table_is_named() -> None:
    small = run_with("small", alone=0, users=0.1, scores=0.1)
    assert grown(small, run_with("big", alone=0, users=0.3, scores=0.3)) == []
    (sentence,) = grown(small, run_with("big", alone=0, users=0.1, scores=0.4))
    assert sentence.startswith("big: a statement on the score table took 0.40 s, and 0.10 s with fewer rows")
