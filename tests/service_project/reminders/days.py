"""The rows that the service writes into momentum-schema's tables."""

import datetime
import uuid
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from momentum import HabitIndex, MomentumEvent, MomentumPillar, MotivationJournal, soft_delete


def log_day(session: Session, user_id: uuid.UUID, day: datetime.date) -> None:
    """Record a user's day: an event, the motivation, and the strength of the habit."""
    movement = MomentumPillar(name="movement")
    session.add_all(
        [
            MomentumEvent(user_id=user_id, event_type="walk", payload={"minutes": 20}, pillar=movement),
            MotivationJournal(user_id=user_id, entry_date=day, prompt="Why?", response="My knees.", pillar=movement),
            HabitIndex(user_id=user_id, index_date=day, habit_score=Decimal("72.25"), details={"days": 4}),
        ]
    )


def delete_events(session: Session, event_type: str) -> int:
    """Delete events of a kind softly, and return their number."""
    statement = soft_delete(MomentumEvent, MomentumEvent.event_type == event_type)
    return len(session.scalars(statement.returning(MomentumEvent.id)).all())


async def delete_events_async(session: AsyncSession, event_type: str) -> int:
    """Do the same with asyncio."""
    statement = soft_delete(MomentumEvent, MomentumEvent.event_type == event_type)
    return len((await session.scalars(statement.returning(MomentumEvent.id))).all())
