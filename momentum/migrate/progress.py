"""A line on an operator's terminal that says what a long step is doing, and for how long, until the step ends."""

import datetime
import functools
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from momentum.migrate.locks import engine_beside
from momentum.wording import printable

# Seconds between two looks; a step that takes less shows nothing.
INTERVAL = 1.0

# The beginning of the line, and what clears the rest of it.
HOME, CLEAR = "\r", "\x1b[K"

# The statements that create or drop an index without blocking clients. All others of this kind work page by page.
INDEX = re.compile(r"\s*(create|drop)\b.*?\bindex concurrently (?:if (?:not )?exists )?(\S+)", flags=re.IGNORECASE)

# What the server says of an index that a session is building.
BUILDING = sa.text("""
    select p.phase, p.lockers_done, p.lockers_total, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total
    from pg_catalog.pg_stat_progress_create_index as p
    where p.pid operator(pg_catalog.=) :pid
""")


def step_of(sql: str) -> str:
    """Return in words what a statement does."""
    if found := INDEX.match(sql):
        return f"{'creating' if found[1].lower() == 'create' else 'dropping'} the index {found[2]}"
    return "moving rows, page by page"


class Line:
    """The line on the terminal.

    Args:
        step: The step, in words.
        ask: Returns how far the step has come, if that is known.
    """

    def __init__(self, step: str, ask: Callable[[], str | None]) -> None:
        self._step = step
        self._ask = ask
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._is_written = False

    def keep_writing(self) -> None:
        """Write it once in a while, until the step has ended."""
        while not self._ended.wait(INTERVAL):
            elapsed = datetime.timedelta(seconds=round(time.monotonic() - self._started))
            step, how_far = self._step, self._ask()
            ways = [f"{step}, {how_far}", how_far, step] if how_far else [step]
            lines = [printable(f"{way}: {elapsed}") for way in ways]
            room = shutil.get_terminal_size().columns - 1
            self._write(next((line for line in lines if len(line) <= room), lines[-1][:room]))

    def end(self) -> None:
        """Clear it for good, even if a question has no answer yet."""
        self._ended.set()
        if self._is_written:
            self._write("", at_end=True)

    def _write(self, line: str, *, at_end: bool = False) -> None:
        with self._lock:
            if at_end or not self._ended.is_set():
                self._is_written = True
                print(f"{HOME}{line}{CLEAR}", end="", file=sys.stderr, flush=True)


@contextmanager
def shown(step: str, connection: sa.Connection, pid: int) -> Iterator[None]:
    """Show a step while it runs.

    Args:
        step: The step, in words.
        connection: The connection that carries it out. Another one asks the server how far the step has come; if there
            is none to be had, the line has the time only.
        pid: The process id of the session that carries it out.
    """
    own = engine_beside(connection)
    line = Line(step, functools.partial(ask, own, pid))
    threading.Thread(target=line.keep_writing, daemon=True).start()
    try:
        yield
    finally:
        line.end()
        own.dispose()


def ask(engine: sa.Engine, pid: int) -> str | None:
    """Return how far a session has come with an index; None if it builds none, or if the server doesn't say."""
    try:
        # A transaction that stayed open would hold up the index.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            row = connection.execute(BUILDING, {"pid": pid}).one_or_none()
    except sa.exc.SQLAlchemyError:
        return None
    return None if row is None else say_how_far(row)


def say_how_far(row: sa.Row[Any]) -> str:
    """Return in words how far the server has come with an index."""
    if row.phase.startswith("waiting") and row.lockers_total:
        return f"{row.phase} ({row.lockers_done} of {row.lockers_total} done)"
    done, total = (row.blocks_done, row.blocks_total) if row.blocks_total else (row.tuples_done, row.tuples_total)
    return f"{row.phase}, {100 * done // total} %" if total else str(row.phase)
