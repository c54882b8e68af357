"""Users and scores that tests make are as Supabase and the app make them."""

import asyncio
import datetime
import uuid
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from momentum import DailyMomentumScore
from momentum.errors import AmbiguousTimeError, NotMigratedError
from momentum.testing import Server, add_scores, add_user
from tests.backfilling import Scores
from tests.migrating import execute, fetch, run
from tests.server import engine_of

DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)


def test_a_user_is_there_since_now_unless_the_test_says_otherwise(connection: sa.Connection) -> None:
    before = datetime.datetime.now(datetime.UTC)
    user, ann, ben = add_user(connection), add_user(connection, email="ann@example.com"), uuid.UUID(int=2)
    after = datetime.datetime.now(datetime.UTC)
    assert add_user(connection, id=ben, created_at=NOON, banned_until=NOON) == ben
    found = connection.execute(sa.text("select id, email, created_at, banned_until from auth.users"))
    rows = {row.id: row for row in found}
    assert set(rows) == {user, ann, ben}
    assert before <= rows[user].created_at <= rows[ann].created_at <= after
    assert (rows[user].email, rows[ann].email) == (None, "ann@example.com")
    assert (rows[ben].created_at, rows[ben].banned_until) == (NOON, NOON)


def test_a_user_is_made_as_supabases_auth_service_does(supabase_url: sa.URL) -> None:
    with Session(engine_of(supabase_url)) as session:
        user = add_user(session, created_at=NOON)
        session.commit()
    made = fetch(
        supabase_url,
        """
        select array[
          id::text, aud, role, created_at::text, updated_at::text, raw_app_meta_data::text, instance_id::text, email
        ]
        from auth.users
        """,
    )
    noon = "2024-02-29 12:00:00+00"
    assert made == [[str(user), "authenticated", "authenticated", noon, noon, "{}", str(uuid.UUID(int=0)), None]]


def test_a_user_is_made_where_the_users_table_has_fewer_columns(server: Server) -> None:
    url = server.create_database()
    try:
        run(url, "create schema auth; create table auth.users (id uuid primary key, created_at timestamptz)")
        with Session(engine_of(url)) as session:
            user = add_user(session, created_at=NOON)
            assert session.execute(sa.text("select * from auth.users")).all() == [(user, NOON)]
    finally:
        server.drop_database(url)


def test_scores_are_read_through_the_view_whichever_layout_the_table_has(scores: Scores) -> None:
    with Session(scores.engine) as session:
        session.execute(sa.text("set local time zone 'Pacific/Kiritimati'"))
        user = add_user(session)
        add_scores(session, user, {DAY: 72.5, DAY - datetime.timedelta(days=1): Decimal(0)}, breakdown={"sleep": 72.5})
        add_scores(session.connection(), user, {DAY - datetime.timedelta(days=2): 100})
        session.commit()
        found = session.scalars(sa.select(DailyMomentumScore).order_by(DailyMomentumScore.score_date.desc()))
        assert [(row.user_id, row.score_date, row.score, row.pillar_breakdown) for row in found] == [
            (user, DAY, Decimal("72.50"), {"sleep": 72.5}),
            (user, DAY - datetime.timedelta(days=1), Decimal("0.00"), {"sleep": 72.5}),
            (user, DAY - datetime.timedelta(days=2), Decimal("100.00"), {}),
        ]
    assert not [row for row in scores.rows() if "backfill" in row], "these are the app's rows, which no undo takes back"


def test_they_work_with_asyncio(url: sa.URL) -> None:
    async def write() -> uuid.UUID:
        engine = create_async_engine(url)
        try:
            async with AsyncSession(engine) as session:
                user = await session.run_sync(add_user)
                await session.run_sync(add_scores, user, {DAY: 1})
                await session.commit()
                return user
        finally:
            await engine.dispose()

    user = asyncio.run(write())
    assert execute(url, "select user_id from public.daily_momentum_scores") == user


def test_a_datetime_is_no_day_and_a_new_project_has_no_scores(connection: sa.Connection, supabase_url: sa.URL) -> None:
    user = add_user(connection)
    with pytest.raises(AmbiguousTimeError, match="takes a date without a time"):
        add_scores(connection, user, {NOON: 1})
    with engine_of(supabase_url).begin() as unmigrated, pytest.raises(NotMigratedError):
        add_scores(unmigrated, user, {DAY: 1})
