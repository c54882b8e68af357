"""Whenever a migration is killed, the next `alembic upgrade head` finishes it and no row is lost.

`MOMENTUM_KILLS=50` kills as many times as a release wants; without it a short form runs with the other tests. The
moments are random; `MOMENTUM_KILLS_SEED` repeats those of a run that failed.
"""

import contextlib
import os
import random
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.testing import Server
from tests.catalog import snapshot
from tests.migrating import (
    HISTORY,
    current,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    rows_of,
    run,
    visible,
    wait_until,
)
from tests.processes import Process
from tests.samples import add_user, write_rows
from tests.server import engine_of

HEAD = HISTORY[-1]
TARGETS = {"up": HEAD, "down": "base"}
LAYOUTS = ("fresh", "legacy.seed", "public.production")
KILLS = int(os.environ.get("MOMENTUM_KILLS", "9"))
SEED = int(os.environ.get("MOMENTUM_KILLS_SEED", secrets.randbelow(1_000_000)))

# So that there is something to interrupt: several pages of duplicate days, and of rows in the app's own tables.
DUPLICATES = """
insert into auth.users (id) select gen_random_uuid() from generate_series(1, 800);
insert into legacy.daily_engagement_scores (user_id, score_ts, score, note)
select id, timestamptz '2024-03-01 12:00+00' - n * interval '1 h', n, n from auth.users, generate_series(0, 2) as n;
"""
APP_ROWS = """
insert into auth.users (id) select gen_random_uuid() from generate_series(1, 50);
insert into public.momentum_events (user_id, event_type, event_ts)
select id, 'walk', timestamptz '2024-03-01' + n * interval '1 h' from auth.users, generate_series(1, 30) as n;
insert into public.momentum_events (event_type) select 'of nobody' from generate_series(1, 700);
insert into public.habit_index (user_id, index_date, habit_score)
select id, date '2024-03-01' + n, n + 0.5 from auth.users, generate_series(1, 20) as n;
"""


Rows = dict[str, list[str]]


@dataclass
class Reference:
    """What a database is like at base and at head when nobody interrupts, and how long the ways take."""

    base: list[str]
    rows_at_base: Rows
    head: list[str]
    rows_at_head: Rows
    private_at_head: Rows
    seconds: dict[str, float]


def prepare(server: Server, layout: str) -> sa.URL:
    """Return a database at base with rows in it, in a fresh one parked."""
    url = database_with_scores(server, layout, predecessors=layout == "public.production")
    if layout == "fresh":
        migrate_to(url, HEAD)
    with engine_of(url).begin() as connection:
        user = add_user(connection)
        for ordinal in range(3):
            write_rows(connection, user, ordinal)
    if layout == "legacy.seed":
        run(url, DUPLICATES)
    if layout == "public.production":
        run(url, APP_ROWS)
    migrate_to(url, "base")
    return url


def start(url: sa.URL, direction: str) -> Process:
    """Start the real program and return once it is connected and about to migrate."""
    command = {"up": "upgrade", "down": "downgrade"}[direction]
    arguments = ("-c", "alembic.ini", "-x", "existing=adopt", command, TARGETS[direction])
    process = Process("alembic", *arguments, env={**os.environ, "MOMENTUM_DATABASE_URL": as_text(url)})
    wait_until(
        url,
        "exists (select from pg_stat_activity "
        "where datname = current_database() and application_name = 'momentum-migrations')",
    )
    return process


def measure(url: sa.URL) -> Reference:
    """Go up, down and up with the real program, and note what there is and how long it takes."""
    base, rows_at_base = visible(snapshot(url)), rows_of(url)
    seconds = {}
    for direction in ("up", "down", "up"):
        with start(url, direction) as process:
            began = time.monotonic()
            while current(url) != TARGETS[direction]:
                assert process.poll() in (None, 0), f"{direction} fails even when nobody interrupts"
            # What comes after, such as the end of Python, is not worth a kill.
            seconds[direction] = time.monotonic() - began
            assert process.wait(timeout=120) == 0
        if direction == "down":
            rows_at_base = check_rows(rows_of(url), rows_at_base, "down, undisturbed")
    assert current(url) == HEAD
    return Reference(base, rows_at_base, snapshot(url), rows_of(url), private_rows(url), seconds)


def check_rows(found: Rows, expected: Rows, what: str) -> Rows:
    """Compare rows at base, where our own empty tables may be parked or not have been made yet."""
    assert {name: rows for name, rows in found.items() if name in expected or rows} == expected, what
    return expected


def private_rows(url: sa.URL) -> Rows:
    """Return every row of the private schema: what was moved aside or parked, and what was recorded of it."""
    tables = "select relname from pg_class where relnamespace = 'momentum_internal'::regnamespace and relkind = 'r'"
    return {
        name: fetch(url, f"select t::text from momentum_internal.{name} as t order by 1") for name in fetch(url, tables)
    }


def kill(url: sa.URL, direction: str, seconds: float) -> bool:
    """Kill a migration after some seconds; tell whether it was still at work by then."""
    with start(url, direction) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
        process.kill()
        return process.wait(timeout=30) < 0


def moments(layout: str, reference: Reference) -> Iterator[tuple[str, float]]:
    """Yield ever new directions and random moments of the real migration, not of the start of Python."""
    chance = random.Random(f"{SEED} {layout}")  # noqa: S311
    while True:
        for direction in ("up", "down"):
            # A little longer, because what is measured alone may take longer beside other tests.
            yield direction, chance.uniform(0, 1.3 * reference.seconds[direction])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_migration_may_be_killed_at_any_moment(
    server: Server, layout: str, record_property: Callable[[str, object], None]
) -> None:
    original = prepare(server, layout)
    undisturbed = server.create_database(original)
    url = server.create_database(original)
    wanted = KILLS // len(LAYOUTS) + (LAYOUTS.index(layout) < KILLS % len(LAYOUTS))
    stops: list[str] = []
    try:
        reference = measure(undisturbed)
        for tries, (direction, seconds) in enumerate(moments(layout, reference)):
            if len(stops) == wanted:
                break
            assert tries < 4 * wanted + 4, "most moments came too late to interrupt anything"
            what = f"{direction}, killed after {seconds:.3f} s (MOMENTUM_KILLS_SEED={SEED})"
            migrate_to(url, "base" if direction == "up" else HEAD, existing="adopt")
            if not kill(url, direction, seconds):
                continue
            stops.append(f"{direction} at {current(url)} after {seconds:.3f} s")

            migrate_to(url, HEAD, existing="adopt")
            assert current(url) == HEAD, what
            assert snapshot(url) == reference.head, what
            assert not execute(url, "select exists (select from pg_index where not indisvalid)"), what
            assert rows_of(url) == reference.rows_at_head, what
            assert private_rows(url) == reference.private_at_head, what
            migrate_to(url, "base")
            assert visible(snapshot(url)) == reference.base, what
            check_rows(rows_of(url), reference.rows_at_base, what)
    finally:
        for each in (url, undisturbed, original):
            server.drop_database(each)
        record_property("summary", f"{layout}, seed {SEED}: {len(stops)} of {wanted} killed: {', '.join(stops)}")
