"""Whenever a migration is killed, the next `alembic upgrade head` finishes it and no row is lost.

A moment is a message from the program to the server. The program is killed once it has sent it; the message is lost, or
still gets there. `MOMENTUM_KILLS=50` kills as often as a release wants; without it, a short form runs with the other
tests. The moments are random; `MOMENTUM_KILLS_SEED` repeats those of a run that failed.
"""

import contextlib
import os
import random
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.testing import Server
from tests.backfilling import Proxy
from tests.catalog import snapshot
from tests.migrating import (
    HISTORY,
    ONE_OF_EACH,
    current,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    rows_of,
    run,
    until,
    visible,
)
from tests.processes import Process
from tests.samples import add_user, write_rows
from tests.server import engine_of

HEAD = HISTORY[-1]
TARGETS = {"up": HEAD, "down": "base"}
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
    """A database at base and at head when nobody interrupts, and how many messages each way takes."""

    base: list[str]
    rows_at_base: Rows
    head: list[str]
    rows_at_head: Rows
    private_at_head: Rows
    messages: dict[str, int]


class Gate(Proxy):
    """Counts what a program sends to the server, and lets nothing through after a certain message.

    Args:
        url: Where the server is.
        last: The number of that message; none if everything is let through.
        forwarded: Whether that message itself still gets there.
    """

    def __init__(self, url: sa.URL, last: int | None = None, *, forwarded: bool = True) -> None:
        super().__init__(url, b"", forwarded=forwarded)
        self.sent = 0
        self.closed = threading.Event()
        self._last = last
        self._counting = threading.Lock()
        self._leaving = threading.Event()

    def __enter__(self) -> "Gate":
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._leaving.set()
        super().__exit__(*exception)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on the client's messages, one at a time: the client awaits the answer to each."""
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                with self._counting:
                    self.sent += 1
                    number = self.sent
                if self._last is None or number < self._last or (number == self._last and self._forwarded):
                    server.sendall(data)
                if self._last is not None and number >= self._last:
                    self.closed.set()
                    self._leaving.wait()
        self._cut(server)


def prepare(server: Server, layout: str) -> sa.URL:
    """Return a database at base with rows in it, which are parked where there was no score table to adopt."""
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


def start(url: sa.URL, direction: str, *, ini: str = "alembic.ini", target: str | None = None) -> Process:
    """Start the real program."""
    command = {"up": "upgrade", "down": "downgrade"}[direction]
    arguments = ("-c", ini, "-x", "existing=adopt", "-x", "access=close", command, target or TARGETS[direction])
    return Process("alembic", *arguments, env={**os.environ, "MOMENTUM_DATABASE_URL": as_text(url)})


def measure(url: sa.URL) -> Reference:
    """Go up, down and up with the real program, and note what there is and how many messages it sends."""
    base, rows_at_base = visible(snapshot(url)), rows_of(url)
    messages = {}
    for direction in ("up", "down", "up"):
        with Gate(url) as gate, start(gate.url, direction) as process:
            assert process.wait() == 0, f"{direction} fails even when nobody interrupts"
        messages[direction] = gate.sent
        assert current(url) == TARGETS[direction]
        if direction == "down":
            rows_at_base = check_rows(rows_of(url), rows_at_base, "down, undisturbed")
    return Reference(base, rows_at_base, snapshot(url), rows_of(url), private_rows(url), messages)


def check_rows(found: Rows, expected: Rows, what: str) -> Rows:
    """Compare rows at base, where our own empty tables may be parked or not have been made yet."""
    assert {name: rows for name, rows in found.items() if name in expected or rows} == expected, what
    return expected


def private_rows(url: sa.URL) -> Rows:
    """Return every row of the private schema: rows that were moved or parked, and the records of that."""
    tables = "select relname from pg_class where relnamespace = 'momentum_internal'::regnamespace and relkind = 'r'"
    return {
        name: fetch(url, f"select t::text from momentum_internal.{name} as t order by 1") for name in fetch(url, tables)
    }


def kill(url: sa.URL, direction: str, message: int, *, forwarded: bool, **history: Any) -> bool:
    """Kill a migration at a message, and return whether it got that far."""
    with Gate(url, message, forwarded=forwarded) as gate, start(gate.url, direction, **history) as process:
        until(lambda: gate.closed.is_set() or process.poll() is not None, f"{direction} comes to message {message}")
        process.kill()
        return process.wait() < 0


def moments(layout: str, reference: Reference) -> Iterator[tuple[str, int, bool]]:
    """Yield directions and random moments without end: a message, and whether it still gets to the server."""
    chance = random.Random(f"{SEED} {layout}")  # noqa: S311
    while True:
        for direction in ("up", "down"):
            yield direction, chance.randint(1, reference.messages[direction]), chance.random() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("layout", ONE_OF_EACH)
def test_a_migration_may_be_killed_at_any_moment(
    server: Server, layout: str, record_property: Callable[[str, object], None]
) -> None:
    original = prepare(server, layout)
    undisturbed = server.create_database(original)
    url = server.create_database(original)
    wanted = KILLS // len(ONE_OF_EACH) + (ONE_OF_EACH.index(layout) < KILLS % len(ONE_OF_EACH))
    stops: list[str] = []
    try:
        reference = measure(undisturbed)
        for tries, (direction, message, forwarded) in enumerate(moments(layout, reference)):
            if len(stops) == wanted:
                break
            assert tries < 4 * wanted + 4, "most moments came too late to interrupt anything"
            moment = f"message {message} of {reference.messages[direction]}{'' if forwarded else ', lost'}"
            what = f"{direction}, killed at {moment} (MOMENTUM_KILLS_SEED={SEED})"
            migrate_to(url, "base" if direction == "up" else HEAD, existing="adopt", access="close")
            if not kill(url, direction, message, forwarded=forwarded):
                continue
            stops.append(f"{direction} at {current(url)}, {moment}")

            migrate_to(url, HEAD, existing="adopt", access="close")
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
