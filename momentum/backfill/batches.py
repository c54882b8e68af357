"""The rows of a transaction, a page or a second look: decisions that need no database."""

import uuid
from collections import deque
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from momentum.backfill.pages import BY_ID, UserDay, UserGap
from momentum.backfill.settings import MOST_ROWS_PER_PAGE
from momentum.retries import Fault

# A worker looks for more users with gaps while there are fewer rows in the queue than this many transactions hold.
LOW_WATER = 4

# A run can be stopped after each page, but not between pages that were sent together: seconds that they may take.
LONGEST_GO = 1.0
MOST_PAGES_AT_ONCE = 8


def is_low(queued: int, per_transaction: int, workers: int) -> bool:
    """Return whether a queue holds so few rows that more users with gaps should be looked for."""
    return queued < LOW_WATER * per_transaction * workers


def refill(own: deque[UserGap], queue: deque[UserGap], wanted: int) -> int:
    """Move users from a queue to a worker's own until those lack enough rows; return how many rows were moved."""
    has = rows_of(own)
    before = has
    while queue and has < wanted:
        own.append(queue.popleft())
        has += own[-1].missing
    return has - before


def rows_of(gaps: Sequence[UserGap]) -> int:
    """Return how many rows some users lack."""
    return sum(gap.missing for gap in gaps)


def take(gaps: deque[UserGap], rows: int, *, whole: bool = False) -> list[UserGap]:
    """Take users of one shard from the front who lack at most a number of rows.

    Args:
        gaps: The users.
        rows: The number.
        whole: Whether part of a user is taken only if this one alone lacks more; otherwise that of the last one is.
    """
    taken: list[UserGap] = []
    while gaps and rows > 0 and (not taken or gaps[0].shard == taken[0].shard):
        if whole and taken and gaps[0].missing > rows:
            break
        gap = gaps.popleft()
        if gap.missing > rows:
            gap, rest = split(gap, rows)
            gaps.appendleft(rest)
        taken.append(gap)
        rows -= gap.missing
    return taken


def split(gap: UserGap, rows: int) -> tuple[UserGap, UserGap]:
    """Return the first days that a user lacks, as many as a number, and the rest."""
    first, rest = 0, gap.bits
    for _ in range(rows):
        lowest = rest & -rest
        first, rest = first | lowest, rest ^ lowest
    return gap._replace(missing=rows, bits=first), gap._replace(missing=gap.missing - rows, bits=rest)


def rows_per_page(page_size: int, commit_every: int, *, is_spread: bool) -> int:
    """Return the most rows in an INSERT.

    Args:
        page_size: The setting.
        commit_every: The most rows in a transaction.
        is_spread: Whether Citus has distributed the score table. It plans every INSERT anew, on the coordinator and on
            the server that writes, which takes a third of the time of 500 rows.
    """
    return commit_every if is_spread and page_size == MOST_ROWS_PER_PAGE else page_size


def cut(taken: Sequence[UserGap], rows: int) -> list[list[UserGap]]:
    """Return what was taken in pages of a number of rows."""
    left = deque(taken)
    pages: list[list[UserGap]] = []
    while left:
        pages.append(take(left, rows))
    return pages


def put_back(gaps: deque[UserGap], taken: Sequence[UserGap]) -> None:
    """Put back what was taken. The users stay in their order, which is the same in every transaction of every run."""
    ordered = sorted([*taken, *gaps], key=lambda gap: (gap.shard, BY_ID(gap), gap.missing))
    gaps.clear()
    gaps.extend(ordered)


def pages_at_once(slowest: float | None) -> int:
    """Return how many pages may be sent together.

    Args:
        slowest: The seconds that the slowest page took so far; None if there was none yet.
    """
    if slowest is None or slowest >= LONGEST_GO:
        return 1
    return min(MOST_PAGES_AT_ONCE, int(LONGEST_GO / max(slowest, LONGEST_GO / MOST_PAGES_AT_ONCE)))


def may_go_ahead(pages: int, slowest: float | None, *, has_open: bool, is_part: bool) -> bool:
    """Return whether a transaction may be sent before the results of the one before are there, and the next one then.

    Args:
        pages: How many pages it has; the one before has about as many.
        slowest: The seconds that the slowest page took so far; None if there was none yet.
        has_open: Whether there is one before, whose results are not there yet.
        is_part: Whether it leaves rows of its last user to the next one. That one would insert the first rows that the
            user lacks, and these are others if this one fails.
    """
    return not is_part and pages * (2 if has_open else 1) <= pages_at_once(slowest)


def take_rest(gaps: deque[UserGap], gap: UserGap) -> list[UserGap]:
    """Take what is left at the front of the user who was taken last."""
    rest: list[UserGap] = []
    while gaps and gaps[0].user_id == gap.user_id:
        rest.append(gaps.popleft())
    return rest


def is_piece(rows: Sequence[UserDay], fault: Fault) -> bool:
    """Return whether failed rows are not worth halving: a single row, or one user's rows if a lock is in the way.

    The rows are ordered by user, and a user who is locked is locked on all days.
    """
    return len(rows) == 1 or (fault is Fault.BUSY and rows[0].user_id == rows[-1].user_id)


class Differences(NamedTuple):
    """Why fewer or more rows were inserted than expected.

    Attributes:
        gone: Expected rows of users who aren't active any more.
        raced: Expected rows that somebody else has inserted meanwhile.
        vanished: Missing rows that were not expected: they were present when they were counted.
    """

    gone: int
    raced: int
    vanished: int


def compare(
    expected: Mapping[uuid.UUID, int], inserted: Mapping[uuid.UUID, int], active: Container[uuid.UUID], missing: int
) -> Differences:
    """Return why the number of inserted rows differs from the expected one.

    Args:
        expected: The rows that each user lacked.
        inserted: The rows that each user got.
        active: The users who are still active.
        missing: The rows that the active ones lack now.
    """
    gone = sum(max(rows - inserted.get(user, 0), 0) for user, rows in expected.items() if user not in active)
    others = sum(expected.values()) - sum(inserted.values()) - gone - missing
    return Differences(gone, max(others, 0), max(-others, 0))
