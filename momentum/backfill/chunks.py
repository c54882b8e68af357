"""A walk through all users in ranges of their ids, so that no statement reads too much or takes too long."""

import math
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from momentum.backfill.days import DayRange
from momentum.backfill.faults import classify
from momentum.backfill.pace import Pace, TableSize, is_divisible, is_scan_cheaper
from momentum.backfill.pages import KeyRange, Pages
from momentum.backfill.session import BY_SCAN, BY_USER, Session
from momentum.connect.pipeline import Answer, ask
from momentum.connect.settings import changes
from momentum.retries import Fault
from momentum.scores import ScoreTable

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class ReadUsers(Protocol[Result_co]):
    """A function that reads the users of a range of ids."""

    def __call__(
        self, connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool
    ) -> Answer[Result_co | None]:
        """Return the result, or None if it is too large.

        Args:
            connection: Where to read.
            keys: The range of ids.
            by_scan: Whether one scan of the score table is cheaper than looking up users one by one.
            divisible: Whether fewer users could be read instead; if not, no result is too large.
        """


def none(_: object) -> float:
    """Leave no room for a larger result: reading it costs more than the scan."""
    return 0.0


def any_number(_: object) -> float:
    """Leave room for any number of users: the result is a few numbers."""
    return math.inf


class Step(NamedTuple):
    """The users to read next.

    Attributes:
        upto: The last id of the range; None if no users come after it.
        number: How many users these are at most.
        by_scan: Whether one scan of the score table is cheaper than looking up users one by one.
    """

    upto: uuid.UUID | None
    number: int
    by_scan: bool


class Chunks:
    """A walk through all users, by their ids.

    Args:
        pages: The statements.
        scores: The score table.
        days: The range that is read for each user.
        sampled: Whether the first users are to show how many the next scan may cover.
        gentle: Whether each statement is to be a short one.

    Attributes:
        is_done: Whether there are no more users.
    """

    def __init__(self, pages: Pages, scores: ScoreTable, days: DayRange, *, sampled: bool, gentle: bool) -> None:
        self.is_done = False
        self._pages = pages
        self._scores = scores
        self._length = len(days)
        self._pace = Pace.at_first(len(days), sampled=sampled, gentle=gentle)
        self._after: uuid.UUID | None = None

    @property
    def looked_up(self) -> int:
        """The most users that a statement may look up one by one."""
        return self._pace.looked_up

    def step(self, session: Session, read: ReadUsers[Result], room: Callable[[Result], float] = none) -> Result:
        """Read the next users and return the result; if that takes too long or is too much, read fewer of them.

        Args:
            session: Where to read.
            read: Reads them.
            room: Returns how many times as many users the next scan may cover, by the result.

        Raises:
            sqlalchemy.exc.DBAPIError: The server refused.
        """
        limit = session.limits.statement_timeout
        while True:
            ahead = Step(None, self._pace.number, by_scan=False)

            def look_and_read(connection: Connection) -> Answer[Result | None]:
                nonlocal ahead
                ahead = step = self._look_ahead(connection, limit=limit)
                if step.by_scan:
                    change_planner(connection)
                keys = KeyRange(self._after, step.upto)
                return read(connection, keys=keys, by_scan=step.by_scan, divisible=is_divisible(step.number))

            started = time.monotonic()
            try:
                result = session.read(look_and_read)
            except DBAPIError as error:
                if classify(error) is not Fault.SLOW or not is_divisible(ahead.number):
                    raise
                result = None
            if result is None:
                self._pace = self._pace.after_too_many(ahead.number)
                continue
            self._pace = self._pace.after(ahead.number, time.monotonic() - started, limit, room(result))
            self._after = ahead.upto
            self.is_done = ahead.upto is None
            return result

    def _look_ahead(self, connection: Connection, *, limit: float) -> Step:
        """Return what to read next, if a statement may take ``limit`` seconds."""
        table = self._measure(connection)

        def is_scanned() -> bool:
            return self._pages.may_scan and is_scan_cheaper(self._pace.number, self._length, table, limit)

        if is_scanned():
            number, most = self._pace.number, self._pace.most_at_last
            left = math.inf if number <= self.looked_up else self._pages.count_after(connection, self._after, most + 1)
            if left > most:
                return Step(self._next_key(connection, number), number, by_scan=True)
            self._pace = self._pace.with_left(int(left))
            if is_scanned():
                return Step(None, self._pace.number, by_scan=True)
        number = min(self._pace.number, self.looked_up)
        return Step(self._next_key(connection, number), number, by_scan=False)

    def _next_key(self, connection: Connection, number: int) -> uuid.UUID | None:
        """Return the id that is a number of users further; None if there are fewer left."""
        return self._pages.next_key(connection, self._after, number)

    def _measure(self, connection: Connection) -> TableSize:
        """Return the current size of the score table."""
        size = ask(
            connection,
            text("""
                select size / cast(current_setting('block_size') as int) as pages,
                  size <= pg_size_bytes(current_setting('shared_buffers')) as buffered
                from pg_relation_size(to_regclass(:relation)) as size
            """),
            {"relation": self._scores.relation},
        ).value[0]
        return TableSize(int(size.pages or 0), bool(size.buffered))


def change_planner(connection: Connection) -> None:
    """Change the planner's settings from those for looking up users to those for a scan, within a transaction."""
    back = "select set_config(name, reset_val, true) from pg_catalog.pg_settings where name = any(:names)"
    ask(connection, text(back), {"names": list(BY_USER)})
    ask(connection, select(*changes(BY_SCAN)))
