"""A health app's database before momentum: accounts and legacy scores in the seed's layout, the same in every run."""

import datetime

import sqlalchemy as sa

from momentum.connect.engine import create_engine, execute_script

USERS = 2_000
DAYS = 60


def load_fixture(url: sa.URL, *, users: int = USERS, days: int = DAYS, last: datetime.date) -> None:
    """Fill a database that is like a new Supabase project.

    One user in ten joins in the middle of the range, one in forty has left, one in fifty is banned. Three days in ten
    have no score, and one breakdown in two hundred disagrees with its score.

    Args:
        url: The database.
        users: The number of accounts.
        days: The number of days with scores.
        last: The last of these days.
    """
    with create_engine(url, application_name="momentum-fixture").begin() as connection:
        execute_script(
            connection,
            f"""
            select setseed(0.5);

            insert into auth.users (id, email, created_at, deleted_at, banned_until, last_sign_in_at)
            select
              md5('user ' || n)::uuid,
              'user' || n || '@example.com',
              case when n % 10 = 0
                then ('{last}'::date - (random() * {days - 1})::int)::timestamp at time zone 'UTC' + interval '9 hours'
                else '2020-01-01 00:00:00+00'
              end,
              case when n % 40 = 1 then ('{last}'::date - 3)::timestamp at time zone 'UTC' end,
              case when n % 50 = 2 then 'infinity'::timestamptz end,
              ('{last}'::date - (random() * 20)::int)::timestamp at time zone 'UTC'
            from generate_series(1, {users}) as n;

            create schema legacy;

            create table legacy.daily_engagement_scores (
              user_id uuid not null references auth.users (id) on delete cascade,
              score_ts timestamptz not null,
              score numeric(5, 2) check (score between 0 and 100),
              pillar_breakdown jsonb
            );

            insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
            select
              u.id,
              d.day::timestamp at time zone 'UTC' + interval '1 minute' * floor(random() * 1440),
              points.movement + points.sleep + case when random() < 0.005 then 15 else 0 end,
              jsonb_build_object('movement', points.movement, 'sleep', points.sleep)
            from auth.users as u
            cross join lateral (
              select '{last}'::date - n as day from generate_series(0, {days - 1}) as n
            ) as d
            cross join lateral (
              -- Naming the row makes the server draw new numbers for each one.
              select floor(random() * 40) as movement, floor(random() * 40) as sleep
              where u.id is not null and d.day is not null
            ) as points
            where d.day >= (u.created_at at time zone 'UTC')::date and random() < 0.7;

            analyze legacy.daily_engagement_scores;
            """,
        )
