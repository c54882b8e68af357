"""Parked tables and columns: list them, drop them on request, and check what else a downgrade drops."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from momentum.base import NAMING_CONVENTION
from momentum.errors import PreflightError
from momentum.inventory import (
    KEPT_ACCESS,
    PARKED_PREFIX,
    PREDECESSOR_ROWS,
    PRIVATE_SCHEMA,
    SCORE_RECORD,
    SUPERSEDED,
    TRIGGER_FUNCTION,
    VERSION_TABLE,
    VIEW,
    private,
)
from momentum.migrate.dependents import dependents_of
from momentum.migrate.locks import READING_TIMEOUT, Patience
from momentum.migrate.operations import quoted
from momentum.models import Base
from momentum.scores import TABLE_NAME, find_score_table
from momentum.wording import counted

# The records of the migrations, which are dropped when nothing else is left.
RECORDS = (PREDECESSOR_ROWS, KEPT_ACCESS, SUPERSEDED)

log = logging.getLogger("momentum.migrations")


@dataclass(frozen=True)
class Parkable:
    """Tables and columns that the migrations may have parked.

    Attributes:
        tables: The names of the tables, each before the ones that it refers to.
        columns: Each column with its table, as they are called when they are not parked.
    """

    tables: tuple[str, ...]
    columns: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, scripts: ScriptDirectory) -> "Parkable":
        """Return the tables and columns of the current and earlier models, which the revisions may have parked.

        Args:
            scripts: The revisions. A revision's ``creates`` names its tables, and its ``parks`` the columns that it
                takes away, as ``table.column``.
        """
        modules = [revision.module for revision in scripts.walk_revisions()]
        created = [name for module in modules for name in reversed(getattr(module, "creates", ()))]
        keys = tuple(f"{kind}_" for kind in NAMING_CONVENTION)
        tables = [name for name in created if name != VIEW and not name.startswith(keys)]
        parks = {tuple(name.split(".")) for module in modules for name in getattr(module, "parks", ())}
        columns = {(table.name, column.name) for table in Base.metadata.sorted_tables for column in table.columns}
        return cls((TABLE_NAME, *tables), frozenset(columns | parks))


def find_parked(connection: Connection, parkable: Parkable, *, at_base: bool) -> dict[str, str]:
    """Return the parked tables and columns, each with the statement that drops it.

    Args:
        connection: A connection; nothing is written through it.
        parkable: What may be parked.
        at_base: Whether the database is at base, where the records of the migrations are no longer needed.
    """
    names = [*(RECORDS if at_base else ()), *parkable.tables]
    tables = connection.scalars(
        text("""
            select name
            from unnest(cast(:names as text[])) with ordinality as given (name, position)
            inner join pg_catalog.pg_class as c on c.relname = name and c.relkind = 'r'
            where c.relnamespace = to_regnamespace(:schema)
            order by position
        """),
        {"names": names, "schema": PRIVATE_SCHEMA},
    )
    found = {private(name): f"drop table if exists {private(name)}" for name in tables}
    for table, column in find_parked_columns(connection, parkable):
        found[f"{table}.{column}"] = f"alter table {table} drop column if exists {quoted(column)}"
    return found


def find_parked_columns(connection: Connection, parkable: Parkable) -> list[tuple[str, str]]:
    """Return the parked columns of tables that are not parked themselves, each with its table."""
    rows = connection.execute(
        text("""
            select c.relname as table, a.attname as column
            from pg_catalog.pg_class as c
            inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
            where
              c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname = any(:tables)
              and starts_with(a.attname, :prefix)
            order by c.relname, a.attnum
        """),
        {"tables": list(parkable.tables), "prefix": PARKED_PREFIX},
    )
    return [
        (f"public.{row.table}", row.column)
        for row in rows
        # Somebody else's column may have such a name too.
        if (row.table, row.column.removeprefix(PARKED_PREFIX)) in parkable.columns
    ]


def count_parked(
    connection: Connection, parkable: Parkable, patience: Patience, *, at_base: bool
) -> dict[str, tuple[str, str]]:
    """Return the parked tables and columns, each with how much it holds and the statement that drops it."""
    found = {}

    def count() -> None:
        for name, statement in find_parked(connection, parkable, at_base=at_base).items():
            found[name] = (count_held(connection, name, statement), statement)

    patience.run(connection, count, statement_timeout=READING_TIMEOUT)
    return found


def count_held(connection: Connection, name: str, statement: str) -> str:
    """Return in words how much a parked table or column holds.

    Args:
        connection: A connection; nothing is written through it.
        name: The table or column.
        statement: The statement that drops it.
    """
    table, column = (name, "*") if "drop table" in statement else name.rsplit(".", 1)
    quoted_column = column if column == "*" else quoted(column)
    held: int = connection.execute(text(f"select count({quoted_column}) from {table}")).scalar_one()
    return counted(held, "row" if column == "*" else "value")


def log_parked(connection: Connection, parkable: Parkable, patience: Patience) -> None:
    """Log what a database at base still holds, and how to remove it."""
    parked = count_parked(connection, parkable, patience, at_base=True)
    if parked:
        held = ", ".join(f"{name} ({amount})" for name, (amount, _) in parked.items())
        log.info(
            "Parked: %s; %s also holds their trigger function set_updated_at and an empty alembic_version.",
            held,
            PRIVATE_SCHEMA,
        )
        log.info("The next upgrade takes them back; a downgrade to base with purge=yes drops them for good.")


def find_dependents(
    connection: Connection, parkable: Parkable, created: Collection[str] = (), *, at_base: bool
) -> list[str]:
    """Return the objects of others that keep a purge from dropping something, each with what it depends on.

    Args:
        connection: A connection; nothing is written through it, and no table is locked.
        parkable: What may be parked.
        created: The relations in ``public`` that revisions have created, which a downgrade parks or drops first.
        at_base: Whether the database will be at base by then.
    """
    standing = {name: f"public.{name}" for name in parkable.tables if name in created}
    scores = find_score_table(connection) if at_base else None
    if scores and scores.created:
        standing[TABLE_NAME] = scores.relation
    # In the order in which they are dropped.
    relations = [f"public.{VIEW}"] if VIEW in created else []
    relations += [private(SCORE_RECORD)] if at_base else []
    names = [*RECORDS, *parkable.tables, VERSION_TABLE] if at_base else parkable.tables
    relations += [standing.get(name, private(name)) for name in names]
    columns = [(f"public.{table}", f"{PARKED_PREFIX}{column}") for table, column in sorted(parkable.columns)]
    return dependents_of(connection, relations, columns=columns, schema=PRIVATE_SCHEMA if at_base else None)


def check_downgrade(connection: Connection, created: Collection[str], *, drops_key: bool, to_base: bool) -> None:
    """Refuse a downgrade that would stop halfway, because other objects depend on a relation or key that it drops.

    Args:
        connection: A connection; nothing is written through it.
        created: The relations in ``public`` that its revisions have created.
        drops_key: Whether it goes back past the score table's unique key.
        to_base: Whether it goes back past the first revision.

    Raises:
        PreflightError: Other objects depend on those that would be dropped.
    """
    relations = [f"public.{VIEW}"] if VIEW in created else []
    relations += [private(SCORE_RECORD)] if to_base else []
    scores = find_score_table(connection)
    # The next downgrade also drops a key that an interrupted one removed from the record but did not drop.
    if scores and not scores.created and scores.created_index and (drops_key or scores.unique_index is None):
        relations.append(scores.own_key)
    # The trigger function stays in its schema.
    if dependents := dependents_of(connection, relations):
        raise PreflightError(
            "Nothing has changed, because other objects depend on those that the downgrade would drop: "
            f"{', '.join(dependents)}; drop the dependent ones first, then run the command again."
        )


def check_purge(connection: Connection, parkable: Parkable, created: Collection[str] = (), *, at_base: bool) -> None:
    """Refuse a purge that would stop halfway, with some tables dropped, because other objects depend on the rest.

    Args:
        connection: A connection; nothing is written through it.
        parkable: What may be parked.
        created: The relations in ``public`` that revisions have created, which a downgrade parks or drops first.
        at_base: Whether the database will be at base by then.

    Raises:
        PreflightError: Other objects depend on those that would be dropped.
    """
    if dependents := find_dependents(connection, parkable, created, at_base=at_base):
        raise PreflightError(
            "Nothing was dropped, because other objects depend on those that the purge would drop: "
            f"{', '.join(dependents)}; drop the dependent ones first, then run the command again."
        )


def purge(connection: Connection, parkable: Parkable, patience: Patience, *, at_base: bool) -> None:
    """Drop the parked tables and columns, one per transaction; nothing else here loses a row or a value.

    A drop may lock auth.users for a moment, so it is given up and tried again if it can't get that lock in time.

    Args:
        connection: A connection.
        parkable: What may be parked.
        patience: How often and how long to try.
        at_base: Whether the database is at base, where the migrations' own schema is dropped as well.

    Raises:
        PreflightError: Other objects depend on parked ones; nothing is dropped.
        sqlalchemy.exc.DBAPIError: A table could not be dropped; those before it are gone, and the rest is untouched.
    """
    parked = count_parked(connection, parkable, patience, at_base=at_base)
    for name, (held, _) in parked.items():
        log.info("To be dropped: %s (%s)", name, held)
    # Others may have created something during the downgrade and the counting.
    patience.run(connection, lambda: check_purge(connection, parkable, at_base=at_base))
    for name, (_, statement) in parked.items():
        execute(connection, patience, statement)
        log.info("Dropped: %s", name)
    if at_base:
        drop_private_schema(connection, patience)


def drop_private_schema(connection: Connection, patience: Patience) -> None:
    """Drop what is left of the migrations at base, and their schema unless others have created something in it."""
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
        log.warning("The schema %s stays, because it holds objects that are not ours.", PRIVATE_SCHEMA)
    else:
        execute(connection, patience, f"drop schema if exists {PRIVATE_SCHEMA}")
        log.info("Dropped: the schema %s; nothing of these migrations is left.", PRIVATE_SCHEMA)


def execute(connection: Connection, patience: Patience, sql: str) -> None:
    """Execute a statement in a transaction of its own."""

    def action() -> None:
        connection.execute(text(sql))

    patience.run(connection, action)
