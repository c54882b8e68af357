"""The number of users that the next statement reads, and whether it scans: decisions that need no database.

They rest on sizes and times that were measured during the run; the planner's statistics may be old.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

# The most that a statement looks up: a second or two, where a server's limit may be two minutes.
USERS = 15_000
USER_DAYS = 1_500_000

# The most users that one scan of the table may cover.
SCANNED_USERS = 4_000_000
# By how much less a statement looks up in a gentle run: 60 days of so few take 7 ms, and 14 next to others at work.
GENTLER = 160
# By how many times as many users the last scan may cover: another one, for the few who would be left, costs as much. A
# step aims at half of what may be found, so there is room.
LAST_SCAN = 1.5
# The factor by which a step is at least larger than the one before, if it is, and by which one that failed is made
# smaller.
GROWTH = 4
# The users of the first step, which shows how much is missing; with room for it, the next looks up as many as it may.
SAMPLE = USERS // GROWTH

# The measured cost of reading, in microseconds: of a page when the whole table is scanned; of a user, and of a user's
# row, when each is looked up. Where the table is larger than the server's buffers, a row costs a page as well.
SCANNED_PAGE = 10.0
LOOKED_UP_USER = 8.0
LOOKED_UP_ROW = 0.7
LOOKED_UP_ROW_UNBUFFERED = 3.5


class TableSize(NamedTuple):
    """The size of the score table.

    Attributes:
        pages: Its pages on disk.
        is_buffered: Whether the server's buffers can hold all of it.
    """

    pages: int
    is_buffered: bool


@dataclass(frozen=True)
class Pace:
    """The number of users to read next, and how it may change.

    Attributes:
        looked_up: The most users that a statement may look up one by one.
        number: The users to read next.
        most: The most users that any later step may read.
    """

    looked_up: int
    number: int
    most: int

    @property
    def most_at_last(self) -> int:
        """The most users that the next scan may cover if it is the last one."""
        return min(int(self.number * LAST_SCAN), self.most)

    @classmethod
    def at_first(cls, days: int, *, sampled: bool, gentle: bool = False) -> "Pace":
        """Return the pace at which a walk over a number of days begins.

        Args:
            days: The number of days.
            sampled: Whether the first step is to show how much later ones would find; if not, it may be the only one.
            gentle: Whether each statement is to be a short one, next to which others hardly wait.
        """
        looked_up = max(1, min(USERS, USER_DAYS // days) // (GENTLER if gentle else 1))
        most = looked_up if gentle else SCANNED_USERS
        return cls(looked_up, min(looked_up, SAMPLE) if sampled else most, most)

    def after(self, tried: int, seconds: float, limit: float, room: float) -> "Pace":
        """Return the pace after a step: faster, unless the next one might find too much or come near the limit.

        A scan costs the same for any number of users. So there are to be few, and the first step shows how few. How
        long that took matters only for looking up more users, of whom there are never more than GROWTH times as many.

        Args:
            tried: The users that it read.
            seconds: How long it took.
            limit: The statement timeout in seconds.
            room: How many times as many users might be read without finding too much.
        """
        if seconds * GROWTH >= limit / 2 or room < GROWTH:
            return self
        return replace(self, number=max(self.number, int(min(tried * room, self.most))))

    def after_too_many(self, tried: int) -> "Pace":
        """Return the pace after a step that took too long or found too much: slower, and never that fast again."""
        fewer = max(self.looked_up, tried // GROWTH) if tried > self.looked_up else max(1, tried // 2)
        return replace(self, number=fewer, most=fewer)

    def with_left(self, left: int) -> "Pace":
        """Return the pace if a scan would cover more users than there are left."""
        number = max(self.looked_up, left)
        return replace(self, number=number, most=number)


def is_divisible(number: int) -> bool:
    """Return whether fewer users could be read instead of a number of them."""
    return number > 1


def is_scan_cheaper(number: int, days: int, table: TableSize, limit: float) -> bool:
    """Return whether one scan of the table is cheaper than looking up users one by one, and ends in time.

    A scan costs the same for any number of users.

    Args:
        number: The users to read.
        days: The days to read for each.
        table: The table's size.
        limit: The statement timeout in seconds.
    """
    scan = SCANNED_PAGE * table.pages
    look_up = LOOKED_UP_USER + days * (LOOKED_UP_ROW if table.is_buffered else LOOKED_UP_ROW_UNBUFFERED)
    return scan < limit / 2 * 1e6 and scan < number * look_up
