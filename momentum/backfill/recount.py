"""The recount at the end of a run: the number of eligible user-days without a row.

It is plain SQL, independent of the statements that fill, so that a mistake there isn't repeated here: it adds up the
days that should have a row and subtracts the rows that exist.
"""

from sqlalchemy import Connection, text

from momentum.backfill.eligibility import Eligibility
from momentum.backfill.pages import KeyRange
from momentum.connect.pipeline import Answer, ask
from momentum.scores import ScoreTable


def count_missing(connection: Connection, scores: ScoreTable, eligibility: Eligibility, keys: KeyRange) -> Answer[int]:
    """Return the number of eligible user-days without a row, of the active users in a range of ids."""
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
        statement = f"""
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
    return ask(connection, text(statement), parameters).then(lambda rows: int(rows[0][0] or 0))
