"""What a downgrade drops, and what it leaves in ``momentum_internal``: to name it, and to drop that when asked to."""

import logging
from collections.abc import Collection

from sqlalchemy import Connection, text

from momentum.errors import PreflightError
from momentum.inventory import (
    PREDECESSOR_ROWS,
    PRIVATE_SCHEMA,
    SCORE_KEYS,
    SCORE_RECORD,
    SUPERSEDED,
    TABLES,
    TRIGGER_FUNCTION,
    VERSION_TABLE,
    VIEW,
    private,
)
from momentum.migrate.locks import READING_TIMEOUT, Patience
from momentum.migrate.preflight import adopted_table, recorded_table
from momentum.scores import TABLE_NAME
from momentum.wording import counted

# Each before the tables that it refers to. Nothing else in the schema is dropped.
PARKED = (PREDECESSOR_ROWS, SUPERSEDED, TABLE_NAME, *reversed(TABLES))

# What a DROP would refuse to drop along: https://www.postgresql.org/docs/current/catalog-pg-depend.html
DEPENDENTS = """
with recursive targets as (
  select 'pg_catalog.pg_class'::regclass::oid as classid, to_regclass(relation)::oid as objid, relation, position
  from unnest(cast(:relations as text[])) with ordinality as given (relation, position)
  where to_regclass(relation) is not null
  union all
  select tableoid, oid, :schema || '.set_updated_at', cardinality(cast(:relations as text[])) + 1
  from pg_catalog.pg_proc
  where pronamespace = to_regnamespace(:schema) and proname = 'set_updated_at' and pronargs = 0
), dropped as (
  select classid, objid, relation, position from targets
  union
  -- What is part of something, or can't be without it, goes with it.
  select d.classid, d.objid, p.relation, p.position
  from dropped as p
  inner join pg_catalog.pg_depend as d on d.refclassid = p.classid and d.refobjid = p.objid
  where d.deptype <> 'n'
)
select distinct format('%s %s depends on %s', named.type, named.identity, p.relation) as dependent
from dropped as p
inner join pg_catalog.pg_depend as d on d.refclassid = p.classid and d.refobjid = p.objid and d.deptype = 'n'
-- Instead of a view's rule the view is named, which it is part of.
left join pg_catalog.pg_depend as whole
  on whole.classid = d.classid and whole.objid = d.objid and whole.objsubid = d.objsubid and whole.deptype = 'i'
cross join lateral pg_catalog.pg_identify_object(
  coalesce(whole.refclassid, d.classid), coalesce(whole.refobjid, d.objid), coalesce(whole.refobjsubid, d.objsubid)
) as named
where
  -- One that goes with a target after it would still be there.
  not exists (
    select from dropped as q where q.classid = d.classid and q.objid = d.objid and q.position <= p.position
  )
  -- A partition has its key from the whole table, which is named.
  and not exists (
    select from pg_catalog.pg_depend as part
    where part.classid = d.classid and part.objid = d.objid and part.deptype = 'P'
  )
order by dependent
"""

log = logging.getLogger("momentum.migrations")


def find_parked(connection: Connection, patience: Patience) -> dict[str, int]:
    """Return the parked tables, with the number of their rows."""
    found = {}

    def count() -> None:
        for name in PARKED:
            relation = private(name)
            if connection.scalar(text("select to_regclass(:relation)"), {"relation": relation}) is not None:
                found[relation] = connection.execute(text(f"select count(*) from {relation}")).scalar_one()

    patience.run(connection, count, statement_timeout=READING_TIMEOUT)
    return found


def log_parked(connection: Connection, patience: Patience) -> None:
    """Say what a database at base still holds, and how to remove it."""
    parked = find_parked(connection, patience)
    if parked:
        held = ", ".join(f"{relation} ({counted(rows, 'row')})" for relation, rows in parked.items())
        log.info(
            "Parked: %s; beside them %s holds their trigger function set_updated_at and an empty alembic_version.",
            held,
            PRIVATE_SCHEMA,
        )
        log.info("The next upgrade takes them back; a downgrade to base with purge=yes drops them for good.")


def find_dependents(connection: Connection, created: Collection[str] = ()) -> list[str]:
    """Return what others made that keeps a purge from dropping something, each with what it depends on.

    Args:
        connection: A connection; nothing is written through it, and no table is locked.
        created: The relations in ``public`` that revisions have made, which a downgrade parks or drops before.
    """
    standing = {name: f"public.{name}" for name in PARKED if name in created}
    scores = recorded_table(connection)
    if scores and not adopted_table(connection):
        standing[TABLE_NAME] = scores
    # In the order in which they are dropped.
    relations = [f"public.{VIEW}"] if VIEW in created else []
    relations.append(private(SCORE_RECORD))
    relations += [standing.get(name, private(name)) for name in (*PARKED, VERSION_TABLE)]
    return list(connection.scalars(text(DEPENDENTS), {"relations": relations, "schema": PRIVATE_SCHEMA}))


def check_downgrade(connection: Connection, created: Collection[str], *, drops_key: bool, to_base: bool) -> None:
    """Refuse a downgrade that would stop halfway, because others depend on the view, a key or a table that it drops.

    Args:
        connection: A connection; nothing is written through it.
        created: The relations in ``public`` that its revisions have made.
        drops_key: Whether it goes back past the score table's unique key.
        to_base: Whether it goes back past the first revision.

    Raises:
        PreflightError: Others depend on what would be dropped.
    """
    relations = [f"public.{VIEW}"] if VIEW in created else []
    relations += [private(SCORE_RECORD)] if to_base else []
    if adopted := adopted_table(connection):
        record = connection.execute(
            text("select layout, unique_index from momentum_internal.score_table where created_index")
        ).first()
        # A key that an interrupted downgrade has forgotten, but not dropped, is dropped by whichever comes next.
        if record and (drops_key or record.unique_index is None):
            relations.append(f"{adopted.partition('.')[0]}.{SCORE_KEYS[record.layout]}")
    # The trigger function stays in its schema.
    dependents = connection.scalars(text(DEPENDENTS), {"relations": relations, "schema": None}).all()
    if dependents:
        raise PreflightError(
            f"Nothing has changed, because the downgrade would stop where others depend on what it drops: "
            f"{', '.join(dependents)}; drop those first, then run the command again."
        )


def check_purge(connection: Connection, created: Collection[str] = ()) -> None:
    """Refuse a purge that would stop halfway, with some tables dropped, because others depend on one of the rest.

    Args:
        connection: A connection; nothing is written through it.
        created: The relations in ``public`` that revisions have made, which a downgrade parks or drops before.

    Raises:
        PreflightError: Others depend on what would be dropped.
    """
    if dependents := find_dependents(connection, created):
        raise PreflightError(
            f"Nothing is dropped as long as others depend on it: {', '.join(dependents)}; drop those first, then run "
            "the command again."
        )


def purge(connection: Connection, patience: Patience) -> None:
    """Drop what is parked, one table a transaction: the only thing here that loses a row.

    A drop locks auth.users for a moment, and so is given up and tried again where it can't have that lock in time.

    Args:
        connection: A connection to a database at base.
        patience: How often and how long to try.

    Raises:
        PreflightError: Others depend on what is parked; nothing is dropped.
        sqlalchemy.exc.DBAPIError: A table could not be dropped; those before it are gone, and the rest is untouched.
    """
    parked = find_parked(connection, patience)
    for relation, rows in parked.items():
        log.info("To be dropped: %s (%s)", relation, counted(rows, "row"))
    # The downgrade, and counting, may have taken long enough for others to make something.
    patience.run(connection, lambda: check_purge(connection))
    for relation in parked:
        execute(connection, patience, f"drop table if exists {relation}")
        log.info("Dropped: %s", relation)
    execute(connection, patience, f"drop table if exists {private(VERSION_TABLE)}")
    execute(connection, patience, f"drop function if exists {private(TRIGGER_FUNCTION)}()")
    left = connection.scalar(
        text("""
            select count(*) from pg_catalog.pg_depend
            where refclassid = 'pg_catalog.pg_namespace'::regclass and refobjid = to_regnamespace(:schema)
        """),
        {"schema": PRIVATE_SCHEMA},
    )
    if left:
        log.warning("The schema %s stays, because it holds what is not ours.", PRIVATE_SCHEMA)
    else:
        execute(connection, patience, f"drop schema if exists {PRIVATE_SCHEMA}")
        log.info("Dropped: the schema %s; nothing of these migrations is left.", PRIVATE_SCHEMA)


def execute(connection: Connection, patience: Patience, sql: str) -> None:
    """Execute a statement in a transaction of its own."""

    def action() -> None:
        connection.execute(text(sql))

    patience.run(connection, action)
