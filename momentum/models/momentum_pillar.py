"""The pillars of momentum: what the points are given for."""

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from momentum.base import Base
from momentum.mixins import Audited, Identified, SoftDeleted
from momentum.types import String


class MomentumPillar(Identified, Audited, SoftDeleted, Base):
    """A pillar, such as sleep or movement, that events, journal entries and habit scores can belong to."""

    __tablename__ = "momentum_pillars"
    __table_args__ = (
        CheckConstraint(r"name ~ '\S'", name="name_not_blank"),
        {"comment": "The pillars that momentum points are given for, such as sleep or movement."},
    )

    name: Mapped[String] = mapped_column(unique=True, comment="What the pillar is called; unique and not blank.")
    description: Mapped[String | None] = mapped_column(
        default=None, comment="What the pillar stands for, for people to read."
    )
