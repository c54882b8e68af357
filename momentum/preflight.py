"""What a database must be like before the migrations touch it; read-only.

``alembic/env.py`` calls ``check_upgrade`` before anything is created. Every refusal is one sentence that names what was
found and what to do.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, text

from momentum.errors import PreflightError
from momentum.scores import SEEDS_LAYOUT, UTC_DAY, find_candidates, find_layout

OLDEST_SERVER = 15
ROLES = ("anon", "authenticated", "service_role")
NOT_SUPABASE = "this is no Supabase database; `make db` gives a local one to try things on."


def check_upgrade(connection: Connection, creates: Iterable[str], *, adopts_scores: bool, indexes_scores: bool) -> None:
    """Refuse a database that the pending revisions could not migrate completely.

    Args:
        connection: A connection; nothing is written through it.
        creates: The names of the relations that the pending revisions make in ``public``.
        adopts_scores: Whether a pending revision takes over or creates the score table.
        indexes_scores: Whether a pending revision makes the score table's unique key.

    Raises:
        PreflightError: With the first thing that is wrong.
    """
    check_server(connection)
    check_supabase(connection)
    check_collisions(connection, creates)
    if adopts_scores:
        check_score_table(connection)
    if indexes_scores:
        check_duplicate_days(connection)


def check_server(connection: Connection) -> None:
    """Refuse a server that is too old for security_invoker views."""
    number = connection.scalar(text("select current_setting('server_version_num')::int")) or 0
    if number < OLDEST_SERVER * 10_000:
        raise PreflightError(
            f"The server is PostgreSQL {number // 10_000}; version {OLDEST_SERVER} or newer is needed: upgrade the server."
        )


def check_supabase(connection: Connection) -> None:
    """Refuse a database without what Supabase gives every project."""
    if connection.scalar(text("select to_regclass('auth.users')")) is None:
        raise PreflightError(f"There is no table auth.users: {NOT_SUPABASE}")
    found = connection.scalars(text("select rolname from pg_roles where rolname = any(:roles)"), {"roles": list(ROLES)})
    missing = sorted(set(ROLES) - set(found))
    if missing:
        raise PreflightError(f"There is no role {', '.join(missing)}: {NOT_SUPABASE}")
    if connection.scalar(text("select to_regprocedure('auth.uid()')")) is None:
        raise PreflightError(f"There is no function auth.uid(): {NOT_SUPABASE}")


def check_collisions(connection: Connection, creates: Iterable[str]) -> None:
    """Refuse names in public that are taken, by earlier versions of our own tables above all."""
    taken = connection.execute(
        text("""
            select c.relname as name, case c.relkind
              when 'r' then 'table' when 'p' then 'table' when 'v' then 'view' when 'm' then 'materialized view'
              when 'i' then 'index' when 'S' then 'sequence' when 'f' then 'foreign table' else 'type' end as kind
            from pg_catalog.pg_class c
            where c.relnamespace = to_regnamespace('public') and c.relname = any(:names)
            union
            select t.typname, 'type'
            from pg_catalog.pg_type t
            where t.typnamespace = to_regnamespace('public') and t.typname = any(:names) and t.typrelid = 0
            order by name
        """),
        {"names": list(creates)},
    ).all()
    if taken:
        names = ", ".join(f"{row.kind} public.{row.name}" for row in taken)
        raise PreflightError(
            f"Already there, and not made by these migrations: {names}; rename or move what is in the way, then try again."
        )


def check_score_table(connection: Connection) -> None:
    """Refuse what cannot be taken over as the score table."""
    parked = connection.scalar(text("select to_regclass('momentum_internal.daily_engagement_scores')")) is not None
    candidates = find_candidates(connection)
    if len(candidates) + parked > 1:
        names = ", ".join([*candidates, *(["momentum_internal.daily_engagement_scores (parked)"] if parked else [])])
        raise PreflightError(
            f"There is more than one score table: {names}; rename or move all but the one that holds the scores."
        )
    for relation in candidates:
        if find_layout(connection, relation) is not SEEDS_LAYOUT:
            raise PreflightError(
                f"{relation} is in the app's production layout (score_date, final_score, breakdown), which this version "
                "cannot take over; the layout with score_ts, score and pillar_breakdown is expected."
            )


def check_duplicate_days(connection: Connection) -> None:
    """Refuse a score table in which a user has two rows on a UTC day: the unique key would fail."""
    known = None
    if connection.scalar(text("select to_regclass('momentum_internal.score_table')")) is not None:
        known = connection.scalar(text("select relation from momentum_internal.score_table"))
    for relation in [known] if known else find_candidates(connection) or parked_scores(connection):
        pairs = connection.scalar(
            text(f"""
                select count(*)
                from (select from {relation} group by user_id, {UTC_DAY} having count(*) > 1) as duplicate_days
            """)  # noqa: S608 - the relation is one of ours, the expression a constant
        )
        if pairs:
            raise PreflightError(
                f"{relation} has {pairs} days on which a user has more than one row (in UTC); keep one row a user and "
                "day, then try again."
            )


def parked_scores(connection: Connection) -> list[str]:
    """Return the parked score table, if there is one."""
    relation = "momentum_internal.daily_engagement_scores"
    return [relation] if connection.scalar(text("select to_regclass(:name)"), {"name": relation}) else []
