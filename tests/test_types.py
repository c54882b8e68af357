"""Moments and days mean the same in every session, or are refused before they are sent."""

import asyncio
import datetime
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import render_python_code
from alembic.operations import ops
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, aliased

from momentum import DailyMomentumScore, HabitIndex, MomentumEvent, MotivationJournal
from momentum.errors import AmbiguousTimeError
from momentum.migrate.environment import render_item
from momentum.testing import Server
from momentum.types import Day, Moment
from tests.samples import add_user
from tests.server import engine_of

NAIVE = datetime.datetime(2024, 2, 29, 12)  # noqa: DTZ001 - that it has no time zone is what is refused
AWARE = datetime.datetime(2024, 2, 29, 23, tzinfo=datetime.timezone(datetime.timedelta(hours=-5)))
DAY = datetime.date(2024, 2, 29)
USER = uuid.UUID(int=1)

Write = Callable[[Session], object]


@pytest.fixture(scope="module")
def engine(server: Server) -> Iterator[sa.Engine]:
    with server.database() as url:
        yield engine_of(url)


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    """A session on a database that these tests share, because none of them commits."""
    with Session(engine) as session:
        yield session


def event(**values: Any) -> MomentumEvent:
    return MomentumEvent(user_id=USER, event_type="walk", **values)


def set_later(session: Session, name: str, value: Any) -> None:
    row = event()
    setattr(row, name, value)
    session.add(row)


EVENT = {"user_id": USER, "event_type": "walk"}

# How a value is given where it doesn't belong, and the column that is named.
REFUSED: dict[str, tuple[str, Write]] = {
    "constructor": ("momentum_events.event_ts", lambda session: session.add(event(event_ts=NAIVE))),
    "attribute": ("momentum_events.event_ts", lambda session: set_later(session, "event_ts", NAIVE)),
    "column of a mixin": ("momentum_events.deleted_at", lambda session: session.add(event(deleted_at=NAIVE))),
    "day for a moment": ("momentum_events.created_at", lambda session: session.add(event(created_at=DAY))),
    "text for a moment": ("momentum_events.event_ts", lambda session: session.add(event(event_ts="2024-02-29"))),
    "aware datetime for a day": (
        "motivation_journal.date",
        lambda session: session.add(MotivationJournal(user_id=USER, entry_date=AWARE)),
    ),
    "naive datetime for a day": (
        "motivation_journal.date",
        lambda session: session.add(MotivationJournal(user_id=USER, entry_date=NAIVE)),
    ),
    "insert": (
        "momentum_events.event_ts",
        lambda session: session.execute(sa.insert(MomentumEvent).values(**EVENT, event_ts=NAIVE)),
    ),
    "insert of many": (
        "momentum_events.event_ts",
        lambda session: session.execute(
            sa.insert(MomentumEvent), [{**EVENT, "event_ts": AWARE}, {**EVENT, "event_ts": NAIVE}]
        ),
    ),
    "insert of many on the connection": (
        "habit_index.index_date",
        lambda session: session.connection().execute(
            sa.insert(HabitIndex), [{"user_id": USER, "index_date": day, "habit_score": 1} for day in (DAY, AWARE)]
        ),
    ),
    "update": (
        "habit_index.index_date",
        lambda session: session.execute(sa.update(HabitIndex).values(index_date=AWARE)),
    ),
    "where": (
        "momentum_events.event_ts",
        lambda session: session.scalars(sa.select(MomentumEvent).where(MomentumEvent.event_ts > NAIVE)),
    ),
    "where of an alias": (
        "momentum_events.event_ts",
        lambda session: session.scalars(sa.select(sa.literal(1)).where(aliased(MomentumEvent).event_ts > NAIVE)),
    ),
    "in": (
        "motivation_journal.date",
        lambda session: session.scalars(
            sa.select(MotivationJournal).where(MotivationJournal.entry_date.in_([DAY, AWARE]))
        ),
    ),
    "between": (
        "daily_momentum_scores.score_date",
        lambda session: session.scalars(
            sa.select(DailyMomentumScore).where(DailyMomentumScore.score_date.between(DAY, AWARE))
        ),
    ),
    "key": (
        "daily_momentum_scores.score_date",
        lambda session: session.get(DailyMomentumScore, (USER, AWARE)),
    ),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_the_sessions_time_zone_would_decide_is_refused_unsent(session: Session, way: str) -> None:
    column, write = REFUSED[way]
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    sa.event.listen(session.connection(), "before_cursor_execute", note)
    with pytest.raises(AmbiguousTimeError) as refusal:  # noqa: PT012 - the flush is a part of writing
        write(session)
        session.flush()
    assert sent == []
    assert str(refusal.value).startswith(f"{column} takes a date")
    assert str(refusal.value).endswith(": it would be read in the time zone of the session.")
    assert "2024" not in str(refusal.value)


def test_the_sentence_says_what_belongs_there_and_what_was_given(session: Session) -> None:
    session.add(event(event_ts=NAIVE))
    with pytest.raises(
        AmbiguousTimeError, match=r"takes a datetime with a time zone, such as .*, not a naive datetime:"
    ):
        session.flush()
    session.rollback()
    with pytest.raises(AmbiguousTimeError, match=r"date takes a date without a time, such as .*, not a datetime:"):
        session.scalar(sa.select(MotivationJournal.id).where(MotivationJournal.entry_date == AWARE))


def test_an_async_session_refuses_it_too(engine: sa.Engine) -> None:
    async def write() -> None:
        asynchronous = create_async_engine(engine.url)
        try:
            async with AsyncSession(asynchronous) as session:
                session.add(event(event_ts=NAIVE))
                await session.commit()
        finally:
            await asynchronous.dispose()

    with pytest.raises(AmbiguousTimeError, match=r"^momentum_events\.event_ts takes"):
        asyncio.run(write())


def test_moments_and_days_are_stored_alike_in_every_session(session: Session) -> None:
    user = add_user(session.connection())
    session.execute(sa.text("set local time zone 'Pacific/Kiritimati'"))
    session.add(MomentumEvent(user_id=user, event_type="walk", event_ts=AWARE))
    session.add(MotivationJournal(user_id=user, entry_date=DAY))
    session.flush()
    session.execute(sa.text("set local time zone 'UTC'"))
    assert session.execute(sa.text("select event_ts::text from momentum_events")).scalar() == "2024-03-01 04:00:00+00"
    assert session.execute(sa.text("select date::text from motivation_journal")).scalar() == "2024-02-29"


def test_calculations_with_moments_and_days_go_on_working(session: Session) -> None:
    user = add_user(session.connection())
    row = MomentumEvent(user_id=user, event_type="walk", event_ts=AWARE)
    entry = MotivationJournal(user_id=user, entry_date=DAY)
    session.add_all([row, entry])
    session.flush()
    hour, later = datetime.timedelta(hours=1), AWARE + datetime.timedelta(hours=2)
    assert session.scalar(sa.select(MomentumEvent.event_ts + hour)) == AWARE + hour
    assert session.scalar(sa.select(later - MomentumEvent.event_ts)) == 2 * hour
    assert session.scalar(sa.select(MomentumEvent.created_at - MomentumEvent.event_ts)) == row.created_at - AWARE
    assert session.scalar(sa.select(MotivationJournal.entry_date - DAY)) == 0
    assert session.scalar(sa.select(MotivationJournal.entry_date + 1)) == DAY + datetime.timedelta(days=1)
    assert session.scalar(sa.select(MomentumEvent.id).where(MomentumEvent.event_ts < sa.func.now())) == row.id
    assert session.scalar(sa.select(MomentumEvent.id).where(MomentumEvent.deleted_at == None)) == row.id  # noqa: E711
    assert session.scalar(sa.select(sa.func.max(MomentumEvent.event_ts))) == AWARE


def test_a_revision_has_the_types_of_postgres_and_imports_no_models() -> None:
    def rendered(column_type: sa.types.TypeEngine[Any]) -> str:
        table = sa.Table("t", sa.MetaData(), sa.Column("c", column_type))
        return render_python_code(ops.UpgradeOps([ops.CreateTableOp.from_table(table)]), render_item=render_item)

    assert "sa.Column('c', postgresql.TIMESTAMP(timezone=True), nullable=True)" in rendered(Moment())
    assert "sa.Column('c', sa.Date(), nullable=True)" in rendered(Day())
    assert "sa.Column('c', sa.UUID(), nullable=True)" in rendered(sa.UUID())
