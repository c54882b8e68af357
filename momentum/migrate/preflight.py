"""Checks of a database before the migrations touch it; read-only.

``check_upgrade`` and ``check_downgrade`` run before anything is created or changed. Every refusal is one sentence that
names what was found and what to do.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from types import ModuleType
from typing import NoReturn

from sqlalchemy import Connection, text

from momentum.base import auth_users
from momentum.distribution import find_distributed
from momentum.errors import PreflightError
from momentum.inventory import (
    FRESH_SCHEMA,
    FRESH_SCORES,
    PREDECESSORS,
    SUPERSEDED,
    TABLES,
    VIEW,
    column_types,
    private,
    required_columns,
)
from momentum.migrate import rights
from momentum.migrate.dependents import dependents_of
from momentum.migrate.operations import quoted
from momentum.migrate.rehearsal import find_misfit, find_obstacle_to_delete
from momentum.migrate.rights import Right, check_owners, check_rights
from momentum.models import Base
from momentum.scores import (
    FRESH_LAYOUT,
    RELATION_KINDS,
    SCHEMAS,
    TABLE_NAME,
    Layout,
    ScoreTable,
    find_candidates,
    find_interference,
    find_layout,
    find_score_table,
)
from momentum.wording import advise, counted

# Returns why a relation can't be migrated in steps that commit, and what to do; None if it can.
Obstacle = Callable[[str], str | None]

OLDEST_SERVER = 15
MOST_COLUMNS = 1600
ROLES = ("anon", "authenticated", "service_role")

# The column that rows of a predecessor have while they are copied, and the one of superseded rows that says how much
# their scores differ from those that stay.
FINGERPRINT = "momentum_fingerprint"
DIFFERENCE = "momentum_difference"

NOT_SUPABASE = "this is not a Supabase database; `python -m momentum.testing start` starts a local one for trials."


def check_not_distributed(connection: Connection) -> None:
    """Refuse a database whose tables Citus has distributed: revisions know one server.

    Raises:
        PreflightError: One of our tables is distributed, or the users are.
    """
    tables = (str(auth_users.fullname), *(f"public.{name}" for name in TABLES), *find_candidates(connection))
    distributed = find_distributed(connection).value
    if found := [name for name in tables if name in distributed]:
        more = f" and {counted(len(found) - 1, 'more table')}" if len(found) > 1 else ""
        raise PreflightError(
            f"Citus has distributed {found[0]}{more}, and the migrations know one server only; bring everything back "
            "to the coordinator with sql/citus/undistribute.sql, then try again."
        )


def without_other_layouts(connection: Connection, modules: Iterable[ModuleType]) -> list[ModuleType]:
    """Return the revisions that do something in a database, leaving out those for score tables of other layouts.

    A revision with the attribute ``layouts`` does nothing where the recorded score table has another layout. As long as
    none is recorded, every revision counts.

    Args:
        connection: A connection; nothing is written through it.
        modules: The modules of revisions.
    """
    scores = find_score_table(connection)
    return [
        module
        for module in modules
        if scores is None or not hasattr(module, "layouts") or scores.layout.name in module.layouts
    ]


def layouts_of(modules: Iterable[ModuleType], concern: str) -> set[str]:
    """Return the layouts of the score table that some revisions adopt or index.

    Args:
        modules: The modules of revisions.
        concern: ``adopts`` or ``indexes``, as in a revision's ``concerns_scores``.
    """
    return {
        layout for module in modules if concern in getattr(module, "concerns_scores", ()) for layout in module.layouts
    }


def check_upgrade(
    connection: Connection,
    pending: Collection[ModuleType],
    ahead: Collection[ModuleType],
    done: Collection[ModuleType],
    *,
    adopts_existing: bool,
    obstacle: Obstacle,
) -> None:
    """Refuse a database that the pending revisions could not migrate completely.

    Args:
        connection: A connection; nothing is written through it.
        pending: The modules of the revisions that are going to run.
        ahead: The modules of all revisions after the one that the database is at: the pending ones and later ones.
        done: The modules of the revisions up to the one that the database is at.
        adopts_existing: Whether existing tables under our names are to be parked and their rows copied.
        obstacle: Returns why a relation can't be migrated in steps that commit, and what to do; None if it can.

    Raises:
        PreflightError: The migration is refused; the message names the first thing that is wrong.
    """
    check_server(connection)
    check_supabase(connection)
    scores = find_score_table(connection)
    adopts = layouts_of(pending, "adopts")
    creates = [name for module in pending for name in getattr(module, "creates", ())]
    created = [name for module in done for name in getattr(module, "creates", ())]
    candidates = find_candidates(connection)
    adopted = next(iter(candidates), None) if scores is None else None if scores.created else scores.relation
    creates_scores = scores is None and not candidates and FRESH_LAYOUT.name in adopts
    fresh = [f"{FRESH_SCHEMA}.{TABLE_NAME}"] if creates_scores else []
    check_owners(connection, [*(f"public.{name}" for name in created), *candidates, *fresh], scores)
    check_rights(
        connection,
        [
            *rights.to_change([*created, *creates], scores),
            *(Right("table", f"public.{name}", "owner") for name in created),
            *rights.to_upgrade(
                connection,
                creates,
                creates_scores=creates_scores,
                adopted=adopted if adopts or layouts_of(pending, "indexes") else None,
            ),
        ],
    )
    check_collisions(connection, creates, own_tables=created, adopts_existing=adopts_existing, obstacle=obstacle)
    if scores is not None:
        check_recorded_table(connection, scores)
    elif adopts:
        check_score_table(connection, adopts, layouts_of(ahead, "adopts"))
    if indexes := layouts_of(pending, "indexes"):
        check_score_key(connection, scores, indexes, obstacle=obstacle)


def score_table_of(connection: Connection, pending: Collection[ModuleType]) -> tuple[str | None, str | None]:
    """Return the score table that revisions adopt or index, and the name of the key that they may give it, if any."""
    scores = find_score_table(connection)
    if (scores is not None and scores.created) or not (layouts_of(pending, "adopts") or layouts_of(pending, "indexes")):
        return None, None
    relation = scores.relation if scores else next(iter(find_candidates(connection)), None)
    return (relation, find_layout(connection, relation).key) if relation else (None, None)


def check_downgrade(connection: Connection, *, obstacle: Obstacle) -> None:
    """Refuse a database in which a downgrade past the score table's unique key could not be completed.

    Args:
        connection: A connection; nothing is written through it.
        obstacle: Returns why a relation can't be migrated in steps that commit, and what to do; None if it can.

    Raises:
        PreflightError: The migration is refused; the message names the first thing that is wrong.
    """
    scores = find_score_table(connection)
    if scores is None or scores.created:
        return
    rows = 0
    if connection.scalar(text("select to_regclass('momentum_internal.superseded_scores')")) is not None:
        rows = connection.scalar(text("select count(*) from momentum_internal.superseded_scores")) or 0
    if not scores.exists:
        if rows:
            raise PreflightError(
                f"The score table {scores.relation} is gone, and {rows} superseded rows belong in it; give it its "
                "name back, then try again."
            )
        return
    if scores.created_index:
        check_committable(scores.relation, obstacle)
    if rows:
        check_columns_fit(connection, scores.relation)
        check_rows_come_back(connection, scores)
        check_rows_can_move(connection, scores.relation)


def check_rows_come_back(connection: Connection, scores: ScoreTable) -> None:
    """Refuse a score table that would not take its superseded rows back, because of changes since they were moved."""
    relation, kept = scores.relation, private(SUPERSEDED)
    check_interference(connection, relation)
    check_all_rows_visible(connection, relation, "superseded rows could not be put back")
    if misfit := find_misfit(connection, relation, kept, key=scores.own_key):
        raise PreflightError(
            f"Superseded rows, which belong in {relation}, break {misfit}; change them in {kept}, or remove the "
            "obstacle, then try again."
        )


def check_columns_fit(connection: Connection, relation: str) -> None:
    """Refuse a score table that has lost a column for which superseded rows hold values."""
    kept = "momentum_internal.superseded_scores"
    held = read_columns(connection, kept).keys() - {DIFFERENCE}
    for column in sorted(held - read_columns(connection, relation).keys()):
        name = quoted(column).replace(":", "\\:")
        if connection.scalar(text(f"select exists (select from {kept} where {name} is not null)")):
            raise PreflightError(
                f"{relation} has no column {column} any more, but superseded rows hold values for it; rename or drop "
                f"that column in {kept} too, then try again."
            )


def check_server(connection: Connection) -> None:
    """Refuse a server that is too old for security_invoker views."""
    version = connection.scalar(text("select current_setting('server_version_num')::int / 10000"))
    if version < OLDEST_SERVER:
        raise PreflightError(
            f"The server is PostgreSQL {version}; version {OLDEST_SERVER} or newer is needed: upgrade the server."
        )


def check_supabase(connection: Connection) -> None:
    """Refuse a database that lacks the table, roles and function that every Supabase project has."""
    if connection.scalar(text("select to_regclass('auth.users')")) is None:
        raise PreflightError(f"There is no table auth.users: {NOT_SUPABASE}")
    found = connection.scalars(text("select rolname from pg_roles where rolname = any(:roles)"), {"roles": list(ROLES)})
    missing = sorted(set(ROLES) - set(found))
    if missing:
        raise PreflightError(f"There is no role {', '.join(missing)}: {NOT_SUPABASE}")
    if connection.scalar(text("select to_regprocedure('auth.uid()')")) is None:
        raise PreflightError(f"There is no function auth.uid(): {NOT_SUPABASE}")


def check_collisions(
    connection: Connection,
    names: Iterable[str],
    schema: str = "public",
    *,
    own_tables: Collection[str] = (),
    adopts_existing: bool = False,
    obstacle: Obstacle = lambda _: None,
) -> None:
    """Refuse names that are taken, typically by earlier versions of our own tables in public.

    Args:
        connection: A connection; nothing is written through it.
        names: The names of the relations that are going to be created.
        schema: Their schema.
        own_tables: Tables that the migrations have created. An index of one of them was left by an interrupted run.
        adopts_existing: Whether existing tables under our names are to be parked and their rows copied.
        obstacle: Returns why a relation can't be migrated in steps that commit, and what to do; None if it can.

    Raises:
        PreflightError: A name is taken.
    """
    taken = connection.execute(
        text("""
            select c.relname as name, c.relkind as kind
            from pg_catalog.pg_class c
            where
              c.relnamespace = to_regnamespace(:schema) and c.relname = any(:names)
              and not exists (
                select from pg_catalog.pg_index as i
                inner join pg_catalog.pg_class as t on i.indrelid = t.oid
                where
                  i.indexrelid = c.oid and t.relnamespace = c.relnamespace and t.relname = any(:own_tables)
              )
            union
            select t.typname, 'c'
            from pg_catalog.pg_type t
            where t.typnamespace = to_regnamespace(:schema) and t.typname = any(:names) and t.typrelid = 0
            order by name
        """),
        {"schema": schema, "names": list(names), "own_tables": list(own_tables)},
    ).all()
    predecessors = [
        row.name
        for row in taken
        if schema == "public" and (row.name in PREDECESSORS if row.kind == "r" else (row.name, row.kind) == (VIEW, "v"))
    ]
    in_the_way = [row for row in taken if not (adopts_existing and row.name in predecessors)]
    if in_the_way:
        found = ", ".join(f"{RELATION_KINDS.get(row.kind, 'relation')} {schema}.{row.name}" for row in in_the_way)
        advice = "rename or move what is in the way, then try again"
        if len(predecessors) == len(in_the_way):
            advice = "existing=adopt parks them and copies their rows; or " + advice
        raise PreflightError(f"Already in the database, but not created by these migrations: {found}; {advice}.")
    tables = [name for name in predecessors if name in PREDECESSORS]
    for name in tables:
        check_predecessor(connection, name, obstacle=obstacle)
    # All predecessors are parked sooner or later, and so they may depend on each other.
    along = [f"public.{name}" for name in PREDECESSORS]
    if dependents := dependents_of(connection, [f"public.{name}" for name in tables], along=along):
        raise PreflightError(
            f"Other objects depend on tables that would be parked, and would keep using those: {', '.join(dependents)}"
            "; drop them, and create them again on the new tables."
        )


def check_predecessor(connection: Connection, name: str, *, obstacle: Obstacle) -> None:
    """Refuse an earlier version of one of our tables if its rows could not be copied."""
    relation = f"public.{name}"
    found = read_columns(connection, relation)
    table = Base.metadata.tables[name]
    for column in required_columns(table):
        if column not in found:
            raise PreflightError(
                f"{relation} has no column {column}, so its rows cannot be copied; rename or move the table, then try "
                "again."
            )
    if FINGERPRINT in found:
        raise PreflightError(
            f"{relation} has a column {FINGERPRINT}, which the migrations give to rows while they copy them; rename "
            "it, then try again."
        )
    for column, expected in column_types(table).items():
        if found.get(column, expected) != expected:
            raise PreflightError(
                f"{relation}.{column} is of type {found[column]}, but {expected} is expected, so its rows cannot be "
                "copied; rename or move the table, then try again."
            )
    unique = connection.scalar(
        text("""
            select exists (
              select from pg_catalog.pg_index
              where
                indrelid = to_regclass(:relation) and indisunique and indisvalid and indpred is null
                and indnkeyatts = 1 and pg_get_indexdef(indexrelid, 1, false) = 'id'
            )
        """),
        {"relation": relation},
    )
    if not unique:
        raise PreflightError(
            f"{relation} has no unique key on id, so its rows could not be told apart; rename or move the table, then "
            "try again."
        )
    check_owner(connection, relation, "could not park it")
    check_owners(connection, [relation])
    check_all_rows_visible(connection, relation, "its rows would not all be copied")
    check_committable(relation, obstacle)


def read_columns(connection: Connection, relation: str) -> dict[str, str]:
    """Return the columns of a relation with their types."""
    rows = connection.execute(
        text("""
            select attname as name, pg_catalog.format_type(atttypid, null) as type
            from pg_catalog.pg_attribute
            where attrelid = to_regclass(:relation) and attnum > 0 and not attisdropped
        """),
        {"relation": relation},
    )
    return {row.name: row.type for row in rows}


def check_committable(relation: str, obstacle: Obstacle) -> None:
    """Refuse a relation that is migrated in steps that commit, where something prevents that."""
    if reason := obstacle(relation):
        raise PreflightError(f"{relation} is migrated in steps that commit, and {reason}.")


def check_score_table(connection: Connection, adopts: Collection[str], adoptable: Collection[str]) -> None:
    """Refuse a score table that cannot be adopted.

    Args:
        connection: A connection; nothing is written through it.
        adopts: The names of the layouts that the pending revisions adopt.
        adoptable: The same, including later revisions, to which such a table is left.
    """
    candidates = find_candidates(connection)
    parked = parked_scores(connection)
    if len(candidates) + len(parked) > 1:
        names = ", ".join([*candidates, *(f"{relation} (parked)" for relation in parked)])
        raise PreflightError(
            f"There is more than one score table: {names}; rename or move all but the one that holds the scores."
        )
    for relation in candidates:
        layout = find_layout(connection, relation)
        if layout.name not in adoptable:
            raise PreflightError(
                f"{relation} has the layout {layout.name}, which no revision after the one of this database adopts; "
                "use a version of the package that does, or downgrade to base first."
            )
        if layout.moves_superseded and len(read_columns(connection, relation)) >= MOST_COLUMNS:
            raise PreflightError(
                f"{relation} has {MOST_COLUMNS} columns, and the table of its superseded rows has one more than it, "
                "which is too many for Postgres; drop a column, then try again."
            )
    if candidates:
        return
    if FRESH_LAYOUT.name not in adopts:
        raise PreflightError(
            f"There is no table {TABLE_NAME} in {' or '.join(SCHEMAS)}, where an earlier upgrade left one for "
            "the revisions that are pending now; give it its name back, then try again."
        )
    for relation in parked:
        check_interference(connection, relation)
    # A parked table brings its indexes with it.
    check_collisions(connection, FRESH_SCORES, schema="legacy")


def check_owner(connection: Connection, relation: str, consequence: str) -> None:
    """Refuse a table of another owner, where only its owner can make the change."""
    row = connection.execute(
        text("""
            select pg_get_userbyid(relowner) as owner, current_user as migrating, quote_ident(current_user) as quoted
            from pg_catalog.pg_class
            where oid = to_regclass(:relation) and not pg_has_role(relowner, 'usage')
        """),
        {"relation": relation},
    ).one_or_none()
    if row:
        raise PreflightError(
            f"{relation} belongs to {row.owner}, and you are {row.migrating}, who {consequence}; "
            f"{advise(row.owner, f'alter table {relation} owner to {row.quoted}')}, then try again."
        )


def check_all_rows_visible(connection: Connection, relation: str, consequence: str) -> None:
    """Refuse a table of which the migrating role may not see every row."""
    hidden_from = connection.scalar(
        text("select current_user where row_security_active(cast(:relation as text))"), {"relation": relation}
    )
    if hidden_from:
        raise PreflightError(
            f"Row-level security hides rows of {relation} from {hidden_from}, so {consequence}; migrate as a role with "
            f"bypassrls, or as the owner after: alter table {relation} no force row level security."
        )


def find_warnings(connection: Connection) -> Iterator[str]:
    """Yield warnings for the owner of a score table that will be adopted; they don't keep it from being adopted.

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
                f"{relation} has no row-level security, and authenticated may select from it: every signed-in user can "
                f"read everyone's scores; close it with: alter table {relation} enable row level security; "
                f"create policy {TABLE_NAME}_select_own on {relation} for select to authenticated "
                "using ((select auth.uid()) = user_id);"
            )


def check_recorded_table(connection: Connection, scores: ScoreTable) -> None:
    """Refuse a score table that an earlier revision recorded, and that is gone or can't be relied on any more."""
    if not scores.exists:
        raise PreflightError(
            f"The score table {scores.relation}, which the migrations recorded, is gone; give it its name back, then "
            "try again."
        )
    check_interference(connection, scores.relation)


def check_interference(connection: Connection, relation: str) -> None:
    """Refuse a table with whose rows something interferes."""
    if interference := find_interference(connection, relation).value:
        raise PreflightError(interference)


def check_score_key(
    connection: Connection, scores: ScoreTable | None, indexes: Collection[str], *, obstacle: Obstacle
) -> None:
    """Refuse an adopted score table whose unique key could not be created.

    Args:
        connection: A connection; nothing is written through it.
        scores: The score table that the migrations recorded.
        indexes: The names of the layouts that the pending revisions index.
        obstacle: Returns why a relation can't be migrated in steps that commit, and what to do; None if it can.
    """
    if scores is not None and scores.created:
        return
    standing = [scores.relation] if scores is not None else find_candidates(connection)
    if not standing:
        return
    relation = standing[0]
    layout = find_layout(connection, relation)
    if layout.name not in indexes:
        return
    check_deferrable_key(connection, relation, layout)
    if has_own_key(connection, relation, layout):
        return
    # After an interrupted run, the index with this name is ours.
    if scores is None or not scores.created_index:
        check_collisions(connection, [layout.key], schema=relation.partition(".")[0])
    check_owner(connection, relation, "could not create its unique key")
    check_committable(relation, obstacle)
    check_all_rows_visible(connection, relation, "duplicate days could not be seen")
    if layout.moves_superseded:
        if DIFFERENCE in read_columns(connection, relation):
            raise PreflightError(
                f"{relation} has a column {DIFFERENCE}, which the migrations give to the rows that they move aside; "
                "rename it, then try again."
            )
        rows_move = functools.cache(lambda: count_duplicate_days(connection, relation, layout) > 0)
        check_rows_can_move(connection, relation, rows_move)
        check_rows_can_go(connection, relation, layout, rows_move)
        check_users_exist(connection, relation, layout)
    elif pairs := count_duplicate_days(connection, relation, layout):
        raise PreflightError(
            f"{relation} has {counted(pairs, 'day')} on which a user has more than one row, and no unique index on "
            f"user_id and {layout.day}; keep one row per user and day, then try again."
        )


def check_users_exist(connection: Connection, relation: str, layout: Layout) -> None:
    """Refuse superseded rows of users who don't exist: they could not be kept, because each refers to its user."""
    has_key = connection.scalar(
        text("""
            select exists (
              select
              from pg_catalog.pg_constraint as c
              inner join pg_catalog.pg_attribute as a on c.conrelid = a.attrelid and c.conkey = array[a.attnum]
              where
                c.conrelid = to_regclass(:relation) and c.confrelid = 'auth.users'::regclass
                and c.contype = 'f' and c.convalidated and a.attname = 'user_id'
            )
        """),
        {"relation": relation},
    )
    if has_key:
        return
    users = connection.scalar(
        text(f"""
            select count(distinct s.user_id)
            from (
              select user_id
              from {relation}
              where user_id is not null and {layout.day} is not null
              group by user_id, {layout.day}
              having count(*) > 1
            ) as s
            where not exists (select from auth.users as u where u.id = s.user_id)
        """)
    )
    if users:
        raise PreflightError(
            f"{relation} has days with more than one row of {counted(users, 'user')} who "
            f"{'is' if users == 1 else 'are'} not in auth.users, which could not be moved aside; keep one row per "
            "user and day, then try again."
        )


def has_own_key(connection: Connection, relation: str, layout: Layout) -> bool:
    """Return whether a score table has a unique index of its own over user and day."""
    return bool(
        connection.scalar(
            text("""
                select exists (
                  select
                  from pg_catalog.pg_index as i
                  inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
                  where
                    i.indrelid = to_regclass(:relation) and i.indisunique and i.indisvalid and i.indimmediate
                    and i.indpred is null and i.indnkeyatts = 2 and c.relname <> :ours
                    and array[pg_get_indexdef(i.indexrelid, 1, false), pg_get_indexdef(i.indexrelid, 2, false)]
                      @> array['user_id', :day]
                )
            """),
            {
                "relation": relation,
                "ours": layout.key,
                "day": layout.indexed_day,
            },
        )
    )


def check_deferrable_key(connection: Connection, relation: str, layout: Layout) -> None:
    """Refuse a deferrable unique constraint over user and day, because no upsert would work.

    Postgres refuses ON CONFLICT (user_id, score_date) if such a constraint is among those that match it.
    """
    name = connection.scalar(
        text("""
            select conname
            from pg_catalog.pg_constraint as c
            inner join pg_catalog.pg_index as i on c.conindid = i.indexrelid
            where
              c.conrelid = to_regclass(:relation) and c.contype in ('p', 'u') and c.condeferrable and i.indnkeyatts = 2
              and array[pg_get_indexdef(i.indexrelid, 1, false), pg_get_indexdef(i.indexrelid, 2, false)]
                @> array['user_id', :day]
        """),
        {"relation": relation, "day": layout.indexed_day},
    )
    if name:
        raise PreflightError(
            f"The unique constraint {name} of {relation} is deferrable, so no upsert on user_id and {layout.day} "
            "would work; make it not deferrable, then try again."
        )


def count_duplicate_days(connection: Connection, relation: str, layout: Layout) -> int:
    """Return the number of user-days with more than one row."""
    count: int = connection.execute(
        text(f"""
            select count(*)
            from (
              -- A unique key lets through any number of nulls.
              select from {relation}
              where user_id is not null and {layout.day} is not null
              group by user_id, {layout.day}
              having count(*) > 1
            ) as duplicate_days
        """)
    ).scalar_one()
    return count


def check_rows_can_move(connection: Connection, relation: str, rows_move: Callable[[], bool] = lambda: True) -> None:
    """Refuse a score table whose superseded rows could not be moved aside and back unchanged.

    Args:
        connection: A connection.
        relation: The score table.
        rows_move: Returns whether there are such rows; called only if something would prevent their move.
    """
    obstacle = connection.scalar(
        text("""
            select 'the trigger ' || quote_ident(tgname) || ' of ' || :relation || ' would fire'
            from pg_catalog.pg_trigger
            where
              -- Bits 4 and 8 are INSERT and DELETE: https://www.postgresql.org/docs/current/catalog-pg-trigger.html
              tgrelid = to_regclass(:relation) and not tgisinternal and tgenabled in ('O', 'A') and tgtype & 12 <> 0
            union all
            select format('rows of %I.%I that refer to %s would be in the way', n.nspname, t.relname, :relation)
            from pg_catalog.pg_constraint as c
            inner join pg_catalog.pg_class as t on c.conrelid = t.oid
            inner join pg_catalog.pg_namespace as n on t.relnamespace = n.oid
            where c.contype = 'f' and c.confrelid = to_regclass(:relation)
            union all
            select
              'no row could be deleted, because it has no replica identity for the publication '
              || quote_ident(p.pubname)
            from pg_catalog.pg_publication_tables as t
            inner join pg_catalog.pg_publication as p on t.pubname = p.pubname and p.pubdelete
            inner join pg_catalog.pg_class as c on c.oid = to_regclass(:relation)
            inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
            where
              t.schemaname = n.nspname and t.tablename = c.relname
              and (
                c.relreplident = 'n'
                or (
                  c.relreplident = 'd'
                  and not exists (select from pg_catalog.pg_index where indrelid = c.oid and indisprimary)
                )
              )
            limit 1
        """),
        {"relation": relation},
    )
    if obstacle and rows_move():
        refuse_to_move(relation, obstacle)


def refuse_to_move(relation: str, obstacle: str) -> NoReturn:
    """Refuse a score table with duplicate days."""
    raise PreflightError(
        f"{relation} has days on which a user has more than one row (in UTC), and when all but the latest are "
        f"moved aside, or back, {obstacle}; keep one row per user and day, or remove the obstacle first."
    )


def check_rows_can_go(connection: Connection, relation: str, layout: Layout, rows_move: Callable[[], bool]) -> None:
    """Refuse a score table from which the server would delete no row, or to which a superseded one can't come back.

    Only a constraint that isn't validated lets rows stay that it would not let in.
    """
    if (obstacle := find_obstacle_to_delete(connection, relation)) and rows_move():
        refuse_to_move(relation, obstacle)
    lenient = connection.scalar(
        text("""
            select exists (
              select from pg_catalog.pg_constraint
              where conrelid = pg_catalog.to_regclass(:relation) and not convalidated
            )
        """),
        {"relation": relation},
    )
    if lenient and rows_move():
        doubled = (
            f"(user_id, {layout.day}) in (select user_id, {layout.day} from {relation} "
            f"group by user_id, {layout.day} having pg_catalog.count(*) > 1)"
        )
        if misfit := find_misfit(connection, relation, relation, only=doubled, key=None):
            refuse_to_move(relation, f"they would break {misfit}")


def parked_scores(connection: Connection) -> list[str]:
    """Return the parked score table, if there is one."""
    relation = "momentum_internal.daily_engagement_scores"
    return [relation] if connection.scalar(text("select to_regclass(:name)"), {"name": relation}) else []
