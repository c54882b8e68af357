"""The pillars of momentum: areas of life in which points are earned."""

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
        {"comment": "Areas of life in which users earn momentum points, such as sleep or movement."},
    )

    name: Mapped[String] = mapped_column(unique=True, comment="The pillar's name; unique and not blank.")
    description: Mapped[String | None] = mapped_column(default=None, comment="A description of the pillar for people.")
