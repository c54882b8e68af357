"""The view of the legacy scores, mapped for reading."""

import datetime
import uuid
from decimal import Decimal
from typing import Any, NoReturn

from sqlalchemy import UUID, Column, Date, Numeric, Table, event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped

from momentum.base import Base, external_metadata
from momentum.errors import ReadOnlyError


class DailyMomentumScore(Base):
    """A user's momentum score of a UTC day, in points from 0 to 100, read from the view ``daily_momentum_scores``.

    The view shows the score table, whichever layout that has. It is read-only: flushing an instance raises
    ``ReadOnlyError``.
    """

    __table__ = Table(
        "daily_momentum_scores",
        external_metadata,
        Column("user_id", UUID, primary_key=True, comment="The user who is scored."),
        Column("score", Numeric(5, 2), comment="The score in points, 0 to 100."),
        Column("score_date", Date, primary_key=True, comment="The day in UTC."),
        Column("pillar_breakdown", JSONB, comment="Points by pillar: a JSON object or null."),
        comment="Momentum scores by UTC day, in the columns that the app has always read.",
    )

    user_id: Mapped[uuid.UUID]
    score: Mapped[Decimal | None]
    score_date: Mapped[datetime.date]
    pillar_breakdown: Mapped[dict[str, Any] | None]


@event.listens_for(DailyMomentumScore, "before_insert")
@event.listens_for(DailyMomentumScore, "before_update")
@event.listens_for(DailyMomentumScore, "before_delete")
def refuse_to_write(*_: object) -> NoReturn:
    """Refuse the flush of an instance, before any SQL is sent."""
    raise ReadOnlyError(
        "DailyMomentumScore maps the view daily_momentum_scores and is read-only; write to the score table behind it."
    )
