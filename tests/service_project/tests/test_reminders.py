"""The service's tests, on the Postgres that momentum-schema's fixtures bring along."""

import asyncio
import datetime
import uuid
from pathlib import Path

import alembic.command
import pytest
from alembic.config import Config
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from momentum import MomentumEvent
from reminders.models import Reminder

NOON = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)


@pytest.fixture
def database_url(momentum_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database with our tables and the service's own, each made by their migrations."""
    monkeypatch.setenv("DATABASE_URL", momentum_database_url)
    alembic.command.upgrade(Config(Path(__file__).parents[1] / "alembic.ini"), "head")
    return momentum_database_url


@pytest.fixture
def event(momentum_session: Session) -> MomentumEvent:
    """An event that a user has logged."""
    user_id = momentum_session.scalar(text("insert into auth.users default values returning id"))
    event = MomentumEvent(user_id=user_id, event_type="walk")
    momentum_session.add(event)
    momentum_session.commit()
    return event


@pytest.mark.usefixtures("database_url")
def test_a_reminder_goes_with_its_event(momentum_session: Session, event: MomentumEvent) -> None:
    momentum_session.add(Reminder(event_id=event.id, remind_at=NOON))
    momentum_session.commit()
    assert momentum_session.scalars(select(Reminder)).one().event is event
    momentum_session.delete(event)
    momentum_session.commit()
    assert momentum_session.scalar(select(func.count()).select_from(Reminder)) == 0


@pytest.mark.usefixtures("database_url")
def test_every_test_has_a_database_of_its_own(momentum_session: Session) -> None:
    assert momentum_session.scalar(select(func.count()).select_from(MomentumEvent)) == 0
    assert momentum_session.scalar(select(func.count()).select_from(Reminder)) == 0


def test_an_async_session_works_on_it_too(database_url: str, event: MomentumEvent) -> None:
    async def remind() -> uuid.UUID:
        engine = create_async_engine(database_url)
        async with AsyncSession(engine) as session:
            session.add(Reminder(event_id=event.id, remind_at=NOON))
            await session.commit()
            event_id = (await session.scalars(select(Reminder.event_id))).one()
        await engine.dispose()
        return event_id

    assert asyncio.run(remind()) == event.id
