"""Scores that differ from their own breakdown, for people to review.

The score of a breakdown is its numeric ``final_score`` if it has one, otherwise the sum of its numeric top-level
values. A row whose breakdown has neither, or that has no score, can't be compared.
"""

import datetime
import heapq
import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, text

from momentum.backfill.days import DayRange
from momentum.backfill.pages import EVERYBODY, KeyRange
from momentum.scores import ScoreTable

# The columns of a terminal that a line takes at most.
WIDTH_OF_LINE = 80


@dataclass(frozen=True)
class Discrepancy:
    """A score that differs from its breakdown.

    Attributes:
        user_id: The user.
        day: The UTC day.
        score: The score, in points.
        breakdown_score: The score of the breakdown, in points.
    """

    user_id: uuid.UUID
    day: datetime.date
    score: Decimal
    breakdown_score: Decimal

    @property
    def difference(self) -> Decimal:
        """The score minus that of the breakdown, in points."""
        return self.score - self.breakdown_score

    @property
    def size(self) -> Decimal:
        """The difference without its sign, to compare discrepancies by: NaN, which has no order, counts as infinite."""
        return Decimal("Infinity") if self.difference.is_nan() else abs(self.difference)

    @property
    def rank(self) -> tuple[Decimal, datetime.date, uuid.UUID]:
        """What discrepancies are sorted by: the largest difference first, then day and user."""
        return -self.size, self.day, self.user_id

    def as_json(self) -> dict[str, str]:
        """Return the discrepancy as an object for machines, whose numbers keep all their digits."""
        return {
            "user_id": str(self.user_id),
            "day": self.day.isoformat(),
            "score": str(self.score),
            "breakdown_score": str(self.breakdown_score),
            "difference": str(self.difference),
        }


class LargestDiscrepancies:
    """The discrepancies with the largest differences, and the number of the others.

    Args:
        most: How many to keep.

    Attributes:
        left_out: How many others there were.
    """

    def __init__(self, most: int) -> None:
        self.left_out = 0
        self._most = most
        # The last number keeps discrepancies that are alike from being compared.
        self._heap: list[tuple[Decimal, int, int, int, Discrepancy]] = []
        self._count = itertools.count()

    def add(self, found: Discrepancy) -> None:
        """Add a discrepancy."""
        # The first of the heap is the last in rank.
        entry = (found.size, -found.day.toordinal(), -found.user_id.int, -next(self._count), found)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
            return
        self.left_out += 1
        if self._heap:
            heapq.heappushpop(self._heap, entry)

    def __iter__(self) -> Iterator[Discrepancy]:
        """Yield the discrepancies that were kept, the largest difference first."""
        return iter(sorted((found for *_, found in self._heap), key=lambda found: found.rank))


def in_columns(
    discrepancies: Iterable[Discrepancy], *, decimals: int = 4, digits: int = 15
) -> list[tuple[str, str, str, str, str]]:
    """Return user, day, score, score of the breakdown and difference as text, the largest difference first.

    Args:
        discrepancies: The discrepancies, in any order.
        decimals: The most decimals of a number.
        digits: The most digits before them; a larger number is shortened.
    """
    ordered = sorted(discrepancies, key=lambda found: found.rank)
    columns = [
        points([found.score for found in ordered], decimals, digits),
        points([found.breakdown_score for found in ordered], decimals, digits),
        points([found.difference for found in ordered], decimals, digits, sign="+"),
    ]
    return [
        (str(found.user_id), found.day.isoformat(), *numbers)
        for found, numbers in zip(ordered, zip(*columns, strict=True), strict=True)
    ]


def points(numbers: Sequence[Decimal], decimals: int, digits: int, *, sign: str = "-") -> list[str]:
    """Return the numbers of a column with the decimals that one of them needs, so that they are aligned."""
    # A number in JSON can have more digits than anyone has room for.
    plain = [number.is_finite() and abs(number) < Decimal(10) ** digits for number in numbers]
    rounded = [round(number, decimals) for number, is_plain in zip(numbers, plain, strict=True) if is_plain]
    needed = max((-int(number.normalize().as_tuple().exponent) for number in rounded), default=0)
    return [
        f"{number:{sign},.{max(needed, 0)}f}" if is_plain else f"{number.normalize():{sign}.{min(digits - 1, 6)}g}"
        for number, is_plain in zip(numbers, plain, strict=True)
    ]


def as_lines(discrepancies: Iterable[Discrepancy]) -> list[str]:
    """Return a line for each discrepancy, the largest difference first: day, user, score - breakdown = difference.

    Large numbers are shortened if a line would not fit on a terminal with 80 columns otherwise.
    """
    found = list(discrepancies)
    lines: list[str] = []
    for digits in (15, 4):
        rows = in_columns(found, decimals=2, digits=digits)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{day} {user} {score:>{widths[2]}} - {breakdown:>{widths[3]}} = {difference:>{widths[4]}}"
            for user, day, score, breakdown, difference in rows
        ]
        if max(map(len, lines), default=0) <= WIDTH_OF_LINE:
            break
    return lines


def find_discrepancies(
    connection: Connection,
    scores: ScoreTable,
    days: DayRange,
    threshold: Decimal,
    *,
    users: Sequence[uuid.UUID] = (),
    keys: KeyRange = EVERYBODY,
    limit: int | None = None,
) -> list[Discrepancy]:
    """Return the rows of the range that differ from their breakdown by more than the threshold, by user and day.

    Args:
        connection: A connection.
        scores: The score table.
        days: The range.
        threshold: In points; a difference of exactly this much doesn't count.
        users: Only these users; everyone if empty.
        keys: Only the users in this range of ids.
        limit: The most rows to return.
    """
    layout = scores.layout
    conditions = [layout.within_days]
    conditions += ["s.user_id = any(cast(:users as uuid[]))"] if users else []
    conditions += ["s.user_id > :after"] if keys.after else []
    conditions += ["s.user_id <= :upto"] if keys.upto else []
    rows = connection.execute(
        text(f"""
            select found.user_id, found.day, found.score, found.breakdown_score
            from (
              select compared.*
              from (
                select s.user_id, {layout.day} as day, {layout.score} as score,
                  case
                    when jsonb_typeof({layout.breakdown} -> 'final_score') = 'number'
                      then ({layout.breakdown} ->> 'final_score')::numeric
                    -- An empty breakdown has nothing to add up, and one that is not an object would be an error here.
                    when jsonb_typeof({layout.breakdown}) = 'object' and {layout.breakdown} <> '{{}}'
                      then (
                        select sum(points::numeric)
                        from jsonb_path_query({layout.breakdown}, 'strict $.* ? (@.type() == "number")') as points
                      )
                  end as breakdown_score
                from {scores.relation} as s
                where {" and ".join(conditions)}
              ) as compared
              where abs(compared.score - compared.breakdown_score) > :threshold
              -- Otherwise all rows would be read in an index's order, a third slower, for the few that differ.
              offset 0
            ) as found
            order by found.user_id, found.day
            limit :limit
        """),
        {
            "first": days.first,
            "last": days.last,
            "users": list(users),
            "after": keys.after,
            "upto": keys.upto,
            "threshold": threshold,
            "limit": limit,
        },
    )
    return [Discrepancy(row.user_id, row.day, row.score, row.breakdown_score) for row in rows]
