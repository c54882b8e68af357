"""The strength of a user's habits, one score per day."""

import uuid

from sqlalchemy import CheckConstraint, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from momentum.base import Base
from momentum.mixins import Audited, Identified, OwnedByUser, SoftDeleted
from momentum.models.momentum_pillar import MomentumPillar
from momentum.types import JsonObject, Points, UtcDay


class HabitIndex(Identified, OwnedByUser, Audited, SoftDeleted, Base):
    """A user's habit score for a day, from 0 to 100 points."""

    __tablename__ = "habit_index"
    __table_args__ = (
        UniqueConstraint("user_id", "index_date"),
        CheckConstraint("habit_score between 0 and 100", name="habit_score_in_range"),
        CheckConstraint("details is null or jsonb_typeof(details) = 'object'", name="details_is_object"),
        {"comment": "Strength of users' habits: one score per user and day."},
    )

    pillar_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey(MomentumPillar.id, ondelete="RESTRICT"),
        default=None,
        index=True,
        comment="The pillar that the score is about, if any.",
    )
    index_date: Mapped[UtcDay] = mapped_column(comment="The score's day in UTC.")
    habit_score: Mapped[Points] = mapped_column(comment="The score in points, 0 to 100.")
    details: Mapped[JsonObject | None] = mapped_column(
        default=None, comment="Details of the calculation: a JSON object or null."
    )

    pillar: Mapped[MomentumPillar | None] = relationship(default=None)
