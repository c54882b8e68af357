"""The recount at the end of a run: the number of eligible user-days without a row.

It is plain SQL, independent of the statements that fill, so that a mistake there isn't repeated here: it adds up the
days that should have a row and subtracts the rows that exist.
"""

from sqlalchemy import Connection, text

from momentum.backfill.eligibility import Eligibility
from momentum.backfill.pages import KeyRange
from momentum.connect.pipeline import Answer, ask
from momentum.scores import ScoreTable


def count_missing(
    connection: Connection,
    scores: ScoreTable,
    eligibility: Eligibility,
    keys: KeyRange,
    *,
    distributed: bool = False,
) -> Answer[int]:
    """Return the number of eligible user-days without a row, of the active users in a range of ids.

    Args:
        connection: A connection.
        scores: The score table.
        eligibility: The users who should have rows, and on which days.
        keys: The range of ids.
        distributed: Whether Citus has distributed the table: it can look up no event for each of a set of days.
    """
    has = eligibility.columns
    day = scores.layout.day
    conditions = ["true"]
    first_day = "cast(:first as date)"
    if "created_at" in has:
        created = "coalesce(cast(u.created_at at time zone 'UTC' as date), cast(:first as date))"
        first_day = f"greatest(cast(:first as date), {created})"
        conditions += [f"{created} <= :last", "(u.created_at is null or u.created_at <= :started_at)"]
    if "deleted_at" in has:
        conditions.append("u.deleted_at is null")
    if "banned_until" in has:
        conditions.append("(u.banned_until is null or u.banned_until <= :started_at)")
    if eligibility.users:
        conditions.append("u.id = any(cast(:users as uuid[]))")
    if keys.after is not None:
        conditions.append("u.id > :after")
    if keys.upto is not None:
        conditions.append("u.id <= :upto")
    parameters = {
        "first": eligibility.days.first,
        "last": eligibility.days.last,
        "started_at": eligibility.started_at,
        "users": list(eligibility.users),
        "after": keys.after,
        "upto": keys.upto,
    }
    account = f"select u.id, {first_day} as first_day from auth.users as u where {' and '.join(conditions)}"
    if eligibility.active_within is None:
        statement = f"""
            -- Not materialized, because only then can the server run the join in parallel.
            with account as not materialized ({account})
            select
              (select coalesce(sum(cast(:last as date) - first_day + 1), 0) from account)
              - (
                select count(*)
                from {scores.relation} as s
                inner join account on s.user_id = account.id
                where
                  {scores.layout.within_days}
                  and {day} >= account.first_day
                  and (cast(:after as uuid) is null or s.user_id > :after)
                  and (cast(:upto as uuid) is null or s.user_id <= :upto)
              )
        """
    else:
        seen = "coalesce(u.last_sign_in_at >= :since, false)" if "last_sign_in_at" in has else "false"
        account = account.replace("select u.id,", f"select u.id, {seen} as seen,")
        parameters["since"] = eligibility.since
        parameters["active_within"] = eligibility.active_within
        statement = (
            f"""
            select count(*)
            from (
              select account.id, series.number
              from ({account}) as account
              inner join generate_series(0, :last - cast(:first as date)) as series (number)
                on cast(:first as date) + series.number >= account.first_day
              left join (
                select e.user_id, cast(e.event_ts at time zone 'UTC' as date) as day
                from public.momentum_events as e
                where e.deleted_at is null and e.created_at <= :started_at
              ) as event
                on
                  event.user_id = account.id
                  and event.day between cast(:first as date) + series.number - :active_within + 1
                    and cast(:first as date) + series.number
              left join (
                select s.user_id, {day} as day from {scores.relation} as s where {scores.layout.within_days}
              ) as present
                on present.user_id = account.id and present.day = cast(:first as date) + series.number
              where (account.seen or event.user_id is not null) and present.user_id is null
              group by account.id, series.number
            ) as missing
        """
            if distributed
            else f"""
            with account as materialized ({account})
            select count(*)
            from account
            inner join generate_series(0, :last - cast(:first as date)) as series (number)
              on cast(:first as date) + series.number >= account.first_day
            where
              (
                account.seen
                or exists (
                  select from public.momentum_events as e
                  where
                    e.user_id = account.id
                    and e.deleted_at is null
                    and e.created_at <= :started_at
                    and cast(e.event_ts at time zone 'UTC' as date)
                      between cast(:first as date) + series.number - :active_within + 1
                        and cast(:first as date) + series.number
                )
              )
              and not exists (
                select from {scores.relation} as s
                where s.user_id = account.id and {day} = cast(:first as date) + series.number
              )
        """
        )
    return ask(connection, text(statement), parameters).then(lambda rows: int(rows[0][0] or 0))
