"""The recount at the end of a run: how many eligible user-days have no row.

It is written as plain SQL and apart from the statements that filled them, so that a mistake there is not made here too.
"""

import datetime
from collections.abc import Sequence

from sqlalchemy import Connection, text

from momentum.backfill.days import DayRange
from momentum.backfill.eligibility import ActiveUser
from momentum.scores import ScoreTable

# Users in one statement, so that none comes near a server's limit of two minutes.
USERS_A_STATEMENT = 20_000


def count_missing(
    connection: Connection,
    scores: ScoreTable,
    users: Sequence[ActiveUser],
    days: DayRange,
    *,
    started_at: datetime.datetime,
    active_within: int | None,
) -> int:
    """Return how many eligible user-days, of those users of the run who still exist, have no row."""
    statement = text(f"""
        select count(*)
        from unnest(cast(:ids as uuid[]), cast(:first_days as date[]), cast(:seen as boolean[]))
          as fixed (id, first_day, seen)
        inner join auth.users as account on fixed.id = account.id
        inner join generate_series(0, :length - 1) as series (number) on cast(:first as date) + number >= first_day
        where
          (
            fixed.seen
            or exists (
              select from public.momentum_events as e
              where
                e.user_id = fixed.id
                and e.deleted_at is null
                and e.created_at <= :started_at
                and cast(e.event_ts at time zone 'UTC' as date)
                  between cast(:first as date) + number - :active_within + 1 and cast(:first as date) + number
            )
          )
          and not exists (
            select from {scores.relation} as s
            where s.user_id = fixed.id and {scores.layout.day} = cast(:first as date) + number
          )
    """)
    missing = 0
    for start in range(0, len(users), USERS_A_STATEMENT):
        some = users[start : start + USERS_A_STATEMENT]
        missing += connection.execute(
            statement,
            {
                "ids": [user.id for user in some],
                "first_days": [user.first_day for user in some],
                "seen": [user.recently_seen for user in some],
                "first": days.first,
                "length": len(days),
                "started_at": started_at,
                "active_within": active_within or 0,
            },
        ).scalar_one()
    return missing
