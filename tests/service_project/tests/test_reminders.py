"""The service's tests, on the Postgres of momentum-schema's fixtures."""

import asyncio
import datetime
import uuid
from decimal import Decimal
from pathlib import Path

import alembic.command
import pytest
from alembic.config import Config
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from momentum import DailyMomentumScore, HabitIndex, MomentumEvent, MotivationJournal
from momentum.testing import add_scores, add_user
from reminders.days import delete_events, delete_events_async, log_day
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
    event = MomentumEvent(user_id=add_user(momentum_session), event_type="walk")
    momentum_session.add(event)
    momentum_session.commit()
    return event


def test_the_last_score_is_read(momentum_session: Session) -> None:
    user_id = add_user(momentum_session)
    add_scores(momentum_session, user_id, {NOON.date(): 72.5}, breakdown={"movement": 72.5})
    score = momentum_session.get_one(DailyMomentumScore, (user_id, NOON.date()))
    assert (score.score, score.pillar_breakdown) == (Decimal("72.50"), {"movement": 72.5})


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


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize("table", ["reminders", "alembic_version"])
def test_the_services_own_tables_are_closed_to_anon(
    momentum_session: Session, event: MomentumEvent, table: str
) -> None:
    momentum_session.add(Reminder(event_id=event.id, remind_at=NOON))
    momentum_session.commit()
    assert momentum_session.scalar(text(f"select count(*) from {table}")) == 1
    momentum_session.execute(text("set local role anon"))
    assert momentum_session.scalar(text(f"select count(*) from {table}")) == 0


def test_a_day_is_logged_with_every_model(momentum_session: Session, event: MomentumEvent) -> None:
    log_day(momentum_session, event.user_id, NOON.date())
    momentum_session.commit()
    entry = momentum_session.scalars(select(MotivationJournal)).one()
    habit = momentum_session.scalars(select(HabitIndex)).one()
    assert entry.entry_date == habit.index_date == NOON.date()
    assert entry.pillar is not None
    assert entry.pillar.name == "movement"
    assert momentum_session.scalar(select(func.count()).select_from(MomentumEvent)) == 2


def test_who_deletes_softly_is_told_how_many_went(
    momentum_session: Session, momentum_database_url: str, event: MomentumEvent
) -> None:
    async def delete_again() -> int:
        engine = create_async_engine(momentum_database_url)
        async with AsyncSession(engine) as session:
            session.add(MomentumEvent(user_id=event.user_id, event_type="walk"))
            await session.flush()
            gone = await delete_events_async(session, "walk")
        await engine.dispose()
        return gone

    assert delete_events(momentum_session, "walk") == 1
    assert event.deleted_at is not None
    assert delete_events(momentum_session, "walk") == 0
    momentum_session.commit()
    assert asyncio.run(delete_again()) == 1
