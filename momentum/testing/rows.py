"""Users and scores for tests, in any database that has Supabase's users and the migrations."""

import datetime
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from momentum.scores import DAY_OF_ROW, read_score_table
from momentum.types import Day


def add_user(
    connection: Connection | Session, /, *, created_at: datetime.datetime | None = None, **columns: object
) -> uuid.UUID:
    """Add a user as Supabase's auth service does, which names the id and every moment, and return the id.

    With asyncio: ``await session.run_sync(add_user)``. The caller commits.

    Args:
        connection: A connection or a session.
        created_at: When the account was created; now by default.
        columns: Other columns of ``auth.users``, such as ``id``, ``email`` or ``deleted_at``.
    """
    now = datetime.datetime.now(datetime.UTC)
    made = {
        "instance_id": uuid.UUID(int=0),
        "id": uuid.uuid4(),
        "aud": "authenticated",
        "role": "authenticated",
        "raw_app_meta_data": "{}",
        "raw_user_meta_data": "{}",
        "created_at": created_at or now,
        "updated_at": created_at or now,
    }
    # Tables that stand in for Supabase's elsewhere have fewer columns.
    there = connection.execute(
        text("select attname from pg_catalog.pg_attribute where attrelid = 'auth.users'::regclass and attnum > 0")
    )
    names = {row[0] for row in there}
    values = {**{name: value for name, value in made.items() if name in names}, **columns}
    placeholders = ", ".join(f":{name}" for name in values)
    statement = text(f"insert into auth.users ({', '.join(values)}) values ({placeholders}) returning id")
    user_id: uuid.UUID = connection.execute(statement, values).scalar_one()
    return user_id


def add_scores(
    connection: Connection | Session,
    /,
    user_id: uuid.UUID,
    scores: Mapping[datetime.date, Decimal | float],
    *,
    breakdown: Mapping[str, Any] | None = None,
) -> None:
    """Add a user's scores to the score table behind the view, as the app does, whatever its layout.

    With asyncio: ``await session.run_sync(add_scores, user_id, scores)``. The caller commits.

    Args:
        connection: A connection or a session, to a migrated database.
        user_id: The user.
        scores: The points from 0 to 100 by UTC day.
        breakdown: The points by pillar, the same for each of these days.

    Raises:
        AmbiguousTimeError: A day is a datetime.
        NotMigratedError: There is no score table, or it is not as the migrations leave it.
    """
    table = read_score_table(connection.connection() if isinstance(connection, Session) else connection)
    layout = table.layout
    # All columns that a row needs, except those that would mark it as made by the backfill.
    row = {name: value for name, value in layout.default_row.items() if "'backfill'" not in value}
    row[layout.moment] = DAY_OF_ROW.sub("cast(:day as date)", row[layout.moment])
    row |= {"user_id": ":user_id", layout.score: ":score", layout.breakdown: ":breakdown"}
    statement = text(f"insert into {table.relation} ({', '.join(row)}) values ({', '.join(row.values())})")
    statement = statement.bindparams(bindparam("day", type_=Day()), bindparam("breakdown", type_=JSONB()))
    shared = {"user_id": user_id, "breakdown": dict(breakdown or {})}
    for day, score in scores.items():
        connection.execute(statement, {**shared, "day": day, "score": score})
