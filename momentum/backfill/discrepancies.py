"""Scores that differ from what their own breakdown says, for people to review.

A breakdown says what the score should be by its numeric ``final_score`` if it has one, else by the sum of its numeric
top-level values. A row whose breakdown has neither, or that has no score, is not comparable.
"""

import datetime
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import ARRAY, UUID, Connection, Date, Numeric, bindparam, text

from momentum.backfill.days import DayRange
from momentum.scores import ScoreTable

DEFAULT_THRESHOLD = Decimal(5)


@dataclass(frozen=True)
class Discrepancy:
    """A score that differs from its breakdown.

    Attributes:
        user_id: Whose score it is.
        day: The UTC day.
        score: The score, in points.
        breakdown_score: What the breakdown says, in points.
    """

    user_id: uuid.UUID
    day: datetime.date
    score: Decimal
    breakdown_score: Decimal

    @property
    def difference(self) -> Decimal:
        """The score less what the breakdown says, in points."""
        return self.score - self.breakdown_score

    def __str__(self) -> str:
        return (
            f"{self.day} {self.user_id}: score {self.score}, its breakdown says {self.breakdown_score} "
            f"({self.difference:+})"
        )


def find_discrepancies(
    connection: Connection, scores: ScoreTable, days: DayRange, threshold: Decimal, users: Sequence[uuid.UUID] = ()
) -> Generator[Discrepancy, None, None]:
    """Yield the rows of the range that differ by more than the threshold, by day and user.

    Args:
        connection: A connection; the rows are read as they are asked for.
        scores: The score table.
        days: The range.
        threshold: In points; a difference of exactly this much is none.
        users: Only these; everybody if empty.
    """
    layout = scores.layout
    statement = text(f"""
        select compared.user_id, compared.day, compared.score, compared.breakdown_score
        from (
          select s.user_id, {layout.day} as day, {layout.score} as score,
            case
              when jsonb_typeof({layout.breakdown} -> 'final_score') = 'number'
                then ({layout.breakdown} ->> 'final_score')::numeric
              else (
                -- A breakdown that is no object would be an error here and has no values to add up.
                select sum(case when jsonb_typeof(value) = 'number' then (value #>> '{{}}')::numeric end)
                from jsonb_each(
                  case when jsonb_typeof({layout.breakdown}) = 'object' then {layout.breakdown} else '{{}}' end
                )
              )
            end as breakdown_score
          from {scores.relation} as s
          where
            {layout.day} between :first and :last
            and (cardinality(:users) = 0 or s.user_id = any(:users))
        ) as compared
        where abs(compared.score - compared.breakdown_score) > :threshold
        order by compared.day, compared.user_id
    """).bindparams(
        bindparam("first", days.first, Date),
        bindparam("last", days.last, Date),
        bindparam("users", list(users), ARRAY(UUID)),
        bindparam("threshold", threshold, Numeric),
    )
    with connection.execution_options(yield_per=1000).execute(statement) as rows:
        for row in rows:
            yield Discrepancy(row.user_id, row.day, row.score, row.breakdown_score)
