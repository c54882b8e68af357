"""What a database must be like before the migrations touch it; read-only.

``alembic/env.py`` calls ``check_upgrade`` before anything is created. Every refusal is one sentence that names what was
found and what to do.
"""

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, text

from momentum.errors import PreflightError
from momentum.scores import RELATION_KINDS, SEEDS_LAYOUT, TABLE_NAME, UTC_DAY, find_candidates, find_layout

OLDEST_SERVER = 15
ROLES = ("anon", "authenticated", "service_role")

# What the revisions make in legacy, or beside an adopted score table.
FRESH_SCORES = (TABLE_NAME, f"pk_{TABLE_NAME}")
SCORE_KEY = f"uq_{TABLE_NAME}_user_id_utc_day"

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
    else:
        check_recorded_table(connection)
    if indexes_scores:
        check_score_key(connection)


def check_server(connection: Connection) -> None:
    """Refuse a server that is too old for security_invoker views."""
    number = connection.scalar(text("select current_setting('server_version_num')::int")) or 0
    if number < OLDEST_SERVER * 10_000:
        raise PreflightError(
            f"The server is PostgreSQL {number // 10_000}; version {OLDEST_SERVER} or newer is needed: upgrade the "
            "server."
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


def check_collisions(connection: Connection, names: Iterable[str], schema: str = "public") -> None:
    """Refuse names that are taken, in public by earlier versions of our own tables above all."""
    taken = connection.execute(
        text("""
            select c.relname as name, c.relkind as kind
            from pg_catalog.pg_class c
            where c.relnamespace = to_regnamespace(:schema) and c.relname = any(:names)
            union
            select t.typname, 'c'
            from pg_catalog.pg_type t
            where t.typnamespace = to_regnamespace(:schema) and t.typname = any(:names) and t.typrelid = 0
            order by name
        """),
        {"schema": schema, "names": list(names)},
    ).all()
    if taken:
        found = ", ".join(f"{RELATION_KINDS.get(row.kind, 'relation')} {schema}.{row.name}" for row in taken)
        raise PreflightError(
            f"Already there, and not made by these migrations: {found}; rename or move what is in the way, then try "
            "again."
        )


def check_score_table(connection: Connection) -> None:
    """Refuse what cannot be taken over as the score table."""
    candidates = find_candidates(connection)
    parked = parked_scores(connection)
    if len(candidates) + len(parked) > 1:
        names = ", ".join([*candidates, *(f"{relation} (parked)" for relation in parked)])
        raise PreflightError(
            f"There is more than one score table: {names}; rename or move all but the one that holds the scores."
        )
    for relation in candidates:
        if find_layout(connection, relation) is not SEEDS_LAYOUT:
            raise PreflightError(
                f"{relation} is in the app's production layout (score_date, final_score, breakdown), which this "
                "version cannot take over; the layout with score_ts, score and pillar_breakdown is expected."
            )
        check_owner(connection, relation)
    if not candidates:
        check_collisions(connection, FRESH_SCORES, schema="legacy")


def check_owner(connection: Connection, relation: str) -> None:
    """Refuse a score table that is somebody else's: only its owner can make its unique key."""
    row = connection.execute(
        text("""
            select pg_get_userbyid(relowner) as owner, current_user as migrating
            from pg_catalog.pg_class
            where oid = to_regclass(:relation) and not pg_has_role(relowner, 'usage')
        """),
        {"relation": relation},
    ).one_or_none()
    if row:
        raise PreflightError(
            f"{relation} belongs to {row.owner}, and you are {row.migrating}, who could not make its unique key; "
            "migrate as its owner."
        )


def find_warnings(connection: Connection) -> Iterator[str]:
    """Yield what an owner should know of a score table that will be adopted, although it is no obstacle.

    We don't close an open table ourselves: its grants and policies are not ours, and its readers may rely on them.
    """
    for relation in find_candidates(connection):
        is_open = connection.scalar(
            text("""
                select not relrowsecurity and has_any_column_privilege('authenticated', oid, 'select')
                from pg_catalog.pg_class
                where oid = to_regclass(:relation)
            """),
            {"relation": relation},
        )
        if is_open:
            yield (
                f"{relation} has no row level security, and authenticated may select from it: every signed-in user can "
                f"read the scores of all; close it with: alter table {relation} enable row level security; "
                f"create policy {TABLE_NAME}_select_own on {relation} for select to authenticated "
                "using ((select auth.uid()) = user_id);"
            )


def check_recorded_table(connection: Connection) -> None:
    """Refuse to go on where the score table that an earlier revision recorded is not there any more."""
    relation = recorded_table(connection)
    if relation and connection.scalar(text("select to_regclass(:relation)"), {"relation": relation}) is None:
        raise PreflightError(
            f"The score table {relation}, which the migrations recorded, is gone; give it its name back, then try "
            "again."
        )


def check_score_key(connection: Connection) -> None:
    """Refuse what would keep the score table's unique key from being made."""
    recorded = recorded_table(connection)
    standing = [recorded] if recorded else find_candidates(connection)
    check_collisions(connection, [SCORE_KEY], schema=standing[0].partition(".")[0] if standing else "legacy")
    for relation in standing or parked_scores(connection):
        pairs = connection.scalar(
            text(f"""
                select count(*)
                from (
                  -- A unique key lets through any number of nulls.
                  select from {relation}
                  where user_id is not null and score_ts is not null
                  group by user_id, {UTC_DAY}
                  having count(*) > 1
                ) as duplicate_days
            """)
        )
        if pairs:
            raise PreflightError(
                f"{relation} has {pairs} {'day' if pairs == 1 else 'days'} on which a user has more than one row (in "
                "UTC); keep one row a user and day, then try again."
            )


def recorded_table(connection: Connection) -> str | None:
    """Return the score table that the migrations recorded, if they have come that far."""
    if connection.scalar(text("select to_regclass('momentum_internal.score_table')")) is None:
        return None
    relation: str | None = connection.scalar(text("select relation from momentum_internal.score_table"))
    return relation


def parked_scores(connection: Connection) -> list[str]:
    """Return the parked score table, if there is one."""
    relation = "momentum_internal.daily_engagement_scores"
    return [relation] if connection.scalar(text("select to_regclass(:name)"), {"name": relation}) else []
