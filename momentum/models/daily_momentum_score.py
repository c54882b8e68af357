"""The view over the legacy scores, mapped for reading."""

import uuid
from typing import NoReturn

from sqlalchemy import event
from sqlalchemy.orm import Mapped, mapped_column

from momentum.base import Base, external_metadata
from momentum.errors import ReadOnlyError
from momentum.types import JsonObject, Points, UtcDay


class DailyMomentumScore(Base):
    """A user's momentum score for a UTC day, in points from 0 to 100, read from the view ``daily_momentum_scores``.

    The view shows the score table, whatever its layout. It is read-only: flushing an instance raises
    ``ReadOnlyError``.
    """

    __tablename__ = "daily_momentum_scores"
    __table_args__ = {"comment": "Momentum scores by UTC day, in the columns that the app has always read."}  # noqa: RUF012
    metadata = external_metadata

    user_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, comment="The user who is scored.")
    score: Mapped[Points | None] = mapped_column(default=None, comment="The score in points, 0 to 100.")
    score_date: Mapped[UtcDay] = mapped_column(primary_key=True, comment="The day in UTC.")
    pillar_breakdown: Mapped[JsonObject | None] = mapped_column(
        default=None, comment="Points by pillar: a JSON object or null."
    )


@event.listens_for(DailyMomentumScore, "before_insert")
@event.listens_for(DailyMomentumScore, "before_update")
@event.listens_for(DailyMomentumScore, "before_delete")
def refuse_to_write(*_: object) -> NoReturn:
    """Refuse the flush of an instance, before any SQL is sent."""
    raise ReadOnlyError(
        "DailyMomentumScore maps the view daily_momentum_scores and is read-only; write to the score table behind it."
    )
