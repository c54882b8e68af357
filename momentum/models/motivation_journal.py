"""The journal of a user's motivation, one entry per day."""

import uuid

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from momentum.base import Base
from momentum.mixins import Audited, Identified, OwnedByUser, SoftDeleted
from momentum.models.momentum_pillar import MomentumPillar
from momentum.types import String, UtcDay


class MotivationJournal(Identified, OwnedByUser, Audited, SoftDeleted, Base):
    """A user's answer to the day's prompt.

    The unique key is full, not partial on live rows, because supabase-js ``upsert`` cannot name a partial index: an
    upsert on a softly deleted day revives it when it sets ``deleted_at`` to null.
    """

    __tablename__ = "motivation_journal"
    __table_args__ = (
        UniqueConstraint("user_id", "date"),
        {"comment": "Motivation in users' own words: one entry per user and day."},
    )

    pillar_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey(MomentumPillar.id, ondelete="RESTRICT"),
        default=None,
        index=True,
        comment="The pillar that the entry is about, if any.",
    )
    entry_date: Mapped[UtcDay] = mapped_column("date", comment="The entry's day in UTC.")
    prompt: Mapped[String | None] = mapped_column(default=None, comment="The question that the user was asked.")
    response: Mapped[String | None] = mapped_column(default=None, comment="The user's answer.")
    motivation_type: Mapped[String | None] = mapped_column(
        default=None, comment="The kind of motivation that the answer shows."
    )

    pillar: Mapped[MomentumPillar | None] = relationship(default=None)
