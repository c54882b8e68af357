"""Scores that differ from their own breakdown, for people to review.

The score of a breakdown is its numeric ``final_score`` if it has one, otherwise the sum of its numeric top-level
values. A row whose breakdown has neither, or that has no score, can't be compared.
"""

import datetime
import heapq
import itertools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, text

from momentum.backfill.days import DayRange
from momentum.backfill.pages import EVERYBODY, KeyRange
from momentum.scores import ScoreTable


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

    def __str__(self) -> str:
        return (
            f"{self.day} {self.user_id}: score {self.score}, its breakdown says {self.breakdown_score} "
            f"({self.difference:+})"
        )


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
        # The number in the middle keeps discrepancies with equal differences from being compared.
        self._heap: list[tuple[Decimal, int, Discrepancy]] = []
        self._count = itertools.count()

    def add(self, found: Discrepancy) -> None:
        """Add a discrepancy."""
        entry = (found.size, -next(self._count), found)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
            return
        self.left_out += 1
        if self._heap:
            heapq.heappushpop(self._heap, entry)

    def __iter__(self) -> Iterator[Discrepancy]:
        """Yield the discrepancies that were kept, the largest difference first."""
        return (entry[2] for entry in sorted(self._heap, reverse=True))


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
