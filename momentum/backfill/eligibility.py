"""Who is active: the users of a run, fixed at its start, and the days on which each is eligible.

A user is active whose account exists, is not deleted, and is not banned at the moment of the run. Such a user is
eligible on every day of the range before whose end, in UTC, the account was created; where the run is narrowed to
recent activity, on the days that the activity covers.
"""

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ARRAY,
    UUID,
    Boolean,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    Exists,
    TableValuedAlias,
    bindparam,
    cast,
    column,
    exists,
    false,
    func,
    literal,
    select,
    text,
    true,
)
from sqlalchemy import table as table_clause

from momentum.backfill.days import ONE_DAY, DayRange

# Supabase has them all; older stand-ins of it have auth.users with fewer columns.
OPTIONAL_COLUMNS = ("created_at", "banned_until", "deleted_at", "last_sign_in_at")

ACCOUNTS = table_clause("users", column("id", UUID), schema="auth")
EVENTS = table_clause(
    "momentum_events",
    column("user_id", UUID),
    column("event_ts", DateTime(timezone=True)),
    column("created_at", DateTime(timezone=True)),
    column("deleted_at", DateTime(timezone=True)),
    schema="public",
)


@dataclass(frozen=True)
class ActiveUser:
    """A user of the run.

    Attributes:
        id: The user's id.
        first_day: The first day of the range on which the account existed.
        recently_seen: Whether the latest sign-in makes the user eligible on all days; true where the run is not
            narrowed to recent activity.
    """

    id: uuid.UUID
    first_day: datetime.date
    recently_seen: bool


def account_columns(connection: Connection) -> set[str]:
    """Return which of the optional columns auth.users has."""
    found = connection.scalars(
        text("""
            select attname
            from pg_catalog.pg_attribute
            where attrelid = to_regclass('auth.users') and attname = any(:names) and not attisdropped
        """),
        {"names": list(OPTIONAL_COLUMNS)},
    )
    return set(found)


def read_active_users(
    connection: Connection,
    days: DayRange,
    *,
    started_at: datetime.datetime,
    users: Sequence[uuid.UUID] = (),
    active_within: int | None = None,
) -> list[ActiveUser]:
    """Return the users of the run in the order of their ids.

    They are read once: who comes later is left for the next run, so that newcomers can't prolong this one.

    Args:
        connection: A connection.
        days: The range.
        started_at: The moment of the run, on the server's clock.
        users: Only these; everybody if empty.
        active_within: Whether, and by how many days, a sign-in before the range still counts as recent.
    """
    there = account_columns(connection)
    accounts = table_clause("users", column("id", UUID), *(column(name) for name in there), schema="auth")
    has = accounts.c

    first_day: ColumnElement[datetime.date] = literal(days.first, Date)
    conditions: list[ColumnElement[bool]] = []
    if "created_at" in there:
        # An account of unknown age counts as always there.
        created = func.coalesce(cast(func.timezone("UTC", has.created_at), Date), literal(days.first, Date))
        first_day = func.greatest(created, first_day)
        conditions.append(created <= days.last)
    if "deleted_at" in there:
        conditions.append(has.deleted_at.is_(None))
    if "banned_until" in there:
        conditions.append(has.banned_until.is_(None) | (has.banned_until <= started_at))
    if users:
        conditions.append(has.id == func.any(literal(list(users), ARRAY(UUID))))

    recently_seen: ColumnElement[bool] = true()
    if active_within is not None:
        try:
            since_day = days.first - ONE_DAY * active_within
        except OverflowError:
            since_day = datetime.date.min
        since = datetime.datetime.combine(since_day, datetime.time(), datetime.UTC)
        recently_seen = func.coalesce(has.last_sign_in_at >= since, false()) if "last_sign_in_at" in there else false()

    statement = (
        select(has.id, first_day.label("first_day"), recently_seen.label("recently_seen"))
        .where(*conditions)
        .order_by(has.id)
    )
    return [ActiveUser(row.id, row.first_day, row.recently_seen) for row in connection.execute(statement)]


def users_parameter() -> TableValuedAlias:
    """Return some users as a table ``some_users (id, first_day, recently_seen)``, to be bound by ``bind_users``."""
    return (
        func.unnest(
            bindparam("ids", type_=ARRAY(UUID)),
            bindparam("first_days", type_=ARRAY(Date)),
            bindparam("recently_seen", type_=ARRAY(Boolean)),
        )
        .table_valued(column("id", UUID), column("first_day", Date), column("recently_seen", Boolean))
        .render_derived(name="some_users")
    )


def bind_users(users: Sequence[ActiveUser]) -> dict[str, list[object]]:
    """Return the parameters of ``users_parameter``."""
    return {
        "ids": [user.id for user in users],
        "first_days": [user.first_day for user in users],
        "recently_seen": [user.recently_seen for user in users],
    }


def had_event(
    user_id: ColumnElement[uuid.UUID],
    day: ColumnElement[datetime.date],
    active_within: int,
    started_at: datetime.datetime,
) -> Exists:
    """Return whether a user had a live momentum event in the days up to and including a day.

    Events recorded after the run's start don't count, so that the recount at its end sees what the run saw.
    """
    event = EVENTS.alias("event")
    # A date must become a timestamp before it gets a time zone, or the session's time zone would creep in.
    first_moment = func.timezone("UTC", cast(day - literal(active_within - 1), DateTime))
    end = func.timezone("UTC", cast(day + literal(1), DateTime))
    return exists().where(
        event.c.user_id == user_id,
        event.c.event_ts >= first_moment,
        event.c.event_ts < end,
        event.c.created_at <= started_at,
        event.c.deleted_at.is_(None),
    )
