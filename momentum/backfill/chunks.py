"""A walk through all users in ranges of their ids, so that no statement reads too much or takes too long."""

import functools
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from momentum.backfill.days import DayRange
from momentum.backfill.faults import Fault, classify
from momentum.backfill.pages import KeyRange, Pages
from momentum.backfill.session import BY_SCAN, BY_USER, Session
from momentum.scores import ScoreTable

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class ReadUsers(Protocol[Result_co]):
    """Reads the users of a range of ids."""

    def __call__(
        self, connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool
    ) -> Result_co | None:
        """Return what came of it, or None if there is too much of it.

        Args:
            connection: Where to read.
            keys: Which users.
            by_scan: Whether one scan of the score table is cheaper than looking up user by user.
            divisible: Whether there could be fewer users; if not, there is never too much.
        """


# What a statement looks up at most: a second or two, where a server's limit may be two minutes.
USERS = 20_000
USER_DAYS = 1_500_000

# For how many users the table is scanned at most.
SCANNED_USERS = 1_000_000
# For how many times as many users as the step before a scan may be.
GROWTH = 4

# What a read costs in microseconds, measured: a page of the table when all of it is scanned; a user, and a row of a
# user, when each is looked up. Where the table is larger than the server's buffers, a row brings its page along.
SCANNED_PAGE = 10.0
LOOKED_UP_USER = 8.0
LOOKED_UP_ROW = 0.7
LOOKED_UP_ROW_UNBUFFERED = 3.5


def never(_: object) -> bool:
    """Tell of no result that it is little: reading it costs more than the scan."""
    return False


def always(_: object) -> bool:
    """Tell of each result that it is little: it is a few numbers for however many users."""
    return True


class Step(NamedTuple):
    """What is read next.

    Attributes:
        upto: Up to which id; None if there are no users after these.
        number: For how many users.
        by_scan: Whether one scan of the score table is cheaper than looking up user by user.
    """

    upto: uuid.UUID | None
    number: int
    by_scan: bool


class Chunks:
    """A walk through all users, by their ids.

    Args:
        pages: The statements.
        scores: The score table.
        days: The range that is read of each user.

    Attributes:
        is_done: Whether there are no more users.
        looked_up: How many users a statement may look up.
    """

    def __init__(self, pages: Pages, scores: ScoreTable, days: DayRange) -> None:
        self.is_done = False
        self.looked_up = max(1, min(USERS, USER_DAYS // len(days)))
        self._pages = pages
        self._scores = scores
        self._length = len(days)
        self._number = self.looked_up
        self._most = SCANNED_USERS
        self._after: uuid.UUID | None = None

    def step(self, session: Session, read: ReadUsers[Result], is_little: Callable[[Result], bool] = never) -> Result:
        """Read the next users and return what came of it; if that takes too long or is too much, fewer of them.

        Args:
            session: Where to read.
            read: Reads them.
            is_little: Tells whether what came of it is so little that a scan may be for more users.

        Raises:
            sqlalchemy.exc.DBAPIError: The server refused.
        """
        limit = session.limits.statement_timeout
        while True:
            number = self._number
            started = time.monotonic()
            try:
                upto, number, by_scan = session.read(functools.partial(self._look_ahead, limit=limit))
                reading = functools.partial(
                    read, keys=KeyRange(self._after, upto), by_scan=by_scan, divisible=number > 1
                )
                result = session.read(reading, BY_SCAN if by_scan else BY_USER)
            except DBAPIError as error:
                if classify(error) is not Fault.SLOW or number == 1:
                    raise
                result = None
            if result is None:
                # What was too much is not tried again.
                self._number = self._most = self._fewer(number)
                continue
            if is_little(result) and (time.monotonic() - started) * GROWTH < limit / 2:
                self._number = min(self._number * GROWTH, self._most)
            self._after = upto
            self.is_done = upto is None
            return result

    def _fewer(self, number: int) -> int:
        """Return for how many users to try after so many were too many."""
        return max(self.looked_up, number // GROWTH) if number > self.looked_up else max(1, number // 2)

    def _look_ahead(self, connection: Connection, *, limit: float) -> Step:
        """Return what to read next, where a statement may take so many seconds.

        The decision rests on sizes, which are facts, while the planner's statistics may be old. A scan costs the same
        for however many users; looking them up costs the more.
        """
        table = connection.execute(
            text("""
                select size / cast(current_setting('block_size') as int) as pages,
                  size <= pg_size_bytes(current_setting('shared_buffers')) as buffered
                from pg_relation_size(to_regclass(:relation)) as size
            """),
            {"relation": self._scores.relation},
        ).one()
        scan = SCANNED_PAGE * int(table.pages or 0)
        look_up = LOOKED_UP_USER + (LOOKED_UP_ROW if table.buffered else LOOKED_UP_ROW_UNBUFFERED) * self._length
        may_scan = self._pages.may_scan and scan < limit / 2 * 1e6

        def is_scanned(number: int) -> bool:
            return may_scan and scan < number * look_up

        if is_scanned(self._number):
            upto = self._pages.next_key(connection, self._after, self._number)
            if upto is not None or self._number <= self.looked_up:
                return Step(upto, self._number, by_scan=True)
            # There are fewer left, and so there will be.
            self._number = self._most = max(self.looked_up, self._pages.count_after(connection, self._after))
            if is_scanned(self._number):
                return Step(None, self._number, by_scan=True)
        number = min(self._number, self.looked_up)
        return Step(self._pages.next_key(connection, self._after, number), number, by_scan=False)
