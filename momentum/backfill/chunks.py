"""A walk through all users in ranges of their ids, so that no statement reads too much or takes too long."""

import functools
import uuid
from typing import Protocol, TypeVar

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

    def __call__(self, connection: Connection, /, *, keys: KeyRange, by_scan: bool) -> Result_co | None:
        """Return what came of it, or None if there is too much of it.

        Args:
            connection: Where to read.
            keys: Which users.
            by_scan: Whether one scan of the score table is cheaper than looking up user by user.
        """


# What a statement reads at most: a second or two, where a server's limit may be two minutes.
USERS = 20_000
USER_DAYS = 1_500_000

# What a read costs in microseconds, measured: a page of the table when all of it is scanned; a user, and a row of a
# user, when each is looked up.
SCANNED_PAGE = 10.0
LOOKED_UP_USER = 8.0
LOOKED_UP_ROW = 0.7


class Chunks:
    """A walk through all users, by their ids.

    Args:
        pages: The statements.
        scores: The score table.
        days: The range that is read of each user.

    Attributes:
        is_done: Whether there are no more users.
    """

    def __init__(self, pages: Pages, scores: ScoreTable, days: DayRange) -> None:
        self.is_done = False
        self._pages = pages
        self._scores = scores
        self._length = len(days)
        self._number = max(1, min(USERS, USER_DAYS // len(days)))
        self._after: uuid.UUID | None = None

    def step(self, session: Session, read: ReadUsers[Result]) -> Result:
        """Read the next users and return what came of it; if that takes too long or is too much, fewer of them.

        Args:
            session: Where to read.
            read: Reads them.

        Raises:
            sqlalchemy.exc.DBAPIError: The server refused.
        """
        while True:
            upto, by_scan = session.read(self._look_ahead)
            keys = KeyRange(self._after, upto)
            planner = BY_SCAN if by_scan else BY_USER
            try:
                result = session.read(functools.partial(read, keys=keys, by_scan=by_scan), planner)
            except DBAPIError as error:
                if classify(error) is not Fault.SLOW or self._number == 1:
                    raise
                result = None
            if result is None:
                self._number = max(1, self._number // 2)
                continue
            self._after = upto
            self.is_done = upto is None
            return result

    def _look_ahead(self, connection: Connection) -> tuple[uuid.UUID | None, bool]:
        """Return up to which id the next users reach, and whether to scan for them.

        The decision rests on the table's size on disk, which is a fact, while the planner's statistics may be old.
        """
        upto = self._pages.next_key(connection, self._after, self._number)
        scanned_pages = connection.scalar(
            text("select pg_relation_size(to_regclass(:relation)) / cast(current_setting('block_size') as int)"),
            {"relation": self._scores.relation},
        )
        scan = SCANNED_PAGE * int(scanned_pages or 0)
        return upto, self._pages.may_scan and scan < self._number * (LOOKED_UP_USER + LOOKED_UP_ROW * self._length)
