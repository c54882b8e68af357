"""Engagement events, the raw material of a momentum score."""

import uuid

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from momentum.base import Base
from momentum.mixins import Audited, Identified, OwnedByUser, SoftDeleted
from momentum.models.momentum_pillar import MomentumPillar
from momentum.types import DefaultNow, JsonObject, String


class MomentumEvent(Identified, OwnedByUser, Audited, SoftDeleted, Base):
    """Something a user did that counts towards momentum."""

    __tablename__ = "momentum_events"
    __table_args__ = (
        CheckConstraint(r"event_type ~ '\S'", name="event_type_not_blank"),
        CheckConstraint("payload is null or jsonb_typeof(payload) = 'object'", name="payload_is_object"),
        {"comment": "User activity that counts towards momentum: one row per event."},
    )

    pillar_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey(MomentumPillar.id, ondelete="RESTRICT"),
        default=None,
        index=True,
        comment="The pillar that the event counts towards, if known.",
    )
    event_type: Mapped[String] = mapped_column(comment="The kind of event; not blank.")
    event_ts: Mapped[DefaultNow] = mapped_column(default=None, comment="When it happened.")
    payload: Mapped[JsonObject | None] = mapped_column(default=None, comment="Further details: a JSON object or null.")

    pillar: Mapped[MomentumPillar | None] = relationship(default=None)


# A user's latest events, newest first, are read in the order of this index.
Index("ix_momentum_events_user_id_event_ts", MomentumEvent.user_id, MomentumEvent.event_ts.desc())
