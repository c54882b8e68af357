"""Calls that are right: type checkers find nothing here."""
# pyright: strict

import datetime
import uuid
from decimal import Decimal

import alembic.command
import sqlalchemy as sa
from alembic.config import Config
from sqlalchemy.orm import Session

from momentum import (
    DailyMomentumScore,
    HabitIndex,
    MomentumEvent,
    MomentumPillar,
    MotivationJournal,
    alembic_config,
    live,
    soft_delete,
)

USER = uuid.UUID(int=1)
DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)


def configure(url: sa.URL) -> list[Config]:
    return [
        alembic_config(url),
        alembic_config("postgresql://localhost/app", existing="adopt", access="keep", verify=False),
        alembic_config(url, scores="legacy.seed", purge=True, attempts=5, deadline=60),
    ]


def write(session: Session) -> None:
    pillar = MomentumPillar(name="sleep", description=None)
    event = MomentumEvent(user_id=USER, event_type="walk", event_ts=NOON, payload={"steps": 3}, pillar=pillar)
    entry = MotivationJournal(user_id=USER, entry_date=DAY, prompt="why?", response=None, motivation_type="inner")
    habit = HabitIndex(id=USER, user_id=USER, index_date=DAY, habit_score=Decimal(7), details=None, pillar_id=USER)
    session.add_all([pillar, event, entry, habit, MomentumEvent(user_id=USER, event_type="run", deleted_at=None)])
    session.execute(soft_delete(MomentumEvent, MomentumEvent.event_type == "walk"))


def read(session: Session) -> tuple[uuid.UUID, datetime.datetime, Decimal | None]:
    event = session.scalars(sa.select(MomentumEvent).where(live(MomentumEvent), MomentumEvent.event_ts > NOON)).one()
    score = session.get_one(DailyMomentumScore, (USER, DAY))
    return event.user_id, event.event_ts, score.score


def migrate(url: sa.URL) -> None:
    alembic.command.upgrade(alembic_config(url), "head")
