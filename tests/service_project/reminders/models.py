"""The service's own table, with a key into one of momentum-schema's."""

import datetime
import uuid

from sqlalchemy import TIMESTAMP, UUID, ForeignKey, MetaData, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from momentum import MomentumEvent


class Base(DeclarativeBase):
    """Base of the service's models, with a MetaData of its own."""

    metadata = MetaData()


class Reminder(Base):
    """A reminder of something that the user did."""

    __tablename__ = "reminders"

    id: Mapped[uuid.UUID] = mapped_column(UUID, primary_key=True, server_default=text("gen_random_uuid()"))
    # A key into another MetaData is given as the column itself, not as a text.
    event_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(MomentumEvent.id, ondelete="CASCADE"), index=True)
    remind_at: Mapped[datetime.datetime] = mapped_column(TIMESTAMP(timezone=True))
    note: Mapped[str | None] = mapped_column(Text)

    event: Mapped[MomentumEvent] = relationship()
