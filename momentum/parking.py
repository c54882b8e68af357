"""What a downgrade leaves behind in ``momentum_internal``: to name it, and to drop it when that is asked for."""

import logging

from sqlalchemy import Connection, text

from momentum.locks import READING_TIMEOUT, Patience
from momentum.operations import PARKING_SCHEMA

# What refers to another table comes before it. Nothing else in the schema is dropped.
PARKED = (
    "predecessor_rows",
    "superseded_scores",
    "daily_engagement_scores",
    "habit_index",
    "motivation_journal",
    "momentum_events",
    "momentum_pillars",
)

log = logging.getLogger("momentum.migrations")


def find_parked(connection: Connection, patience: Patience) -> dict[str, int]:
    """Return the parked tables, with the number of their rows."""
    found = {}

    def count() -> None:
        for name in PARKED:
            relation = f"{PARKING_SCHEMA}.{name}"
            if connection.scalar(text("select to_regclass(:relation)"), {"relation": relation}) is not None:
                found[relation] = connection.execute(text(f"select count(*) from {relation}")).scalar_one()

    patience.run(connection, count, statement_timeout=READING_TIMEOUT)
    return found


def log_parked(connection: Connection, patience: Patience) -> None:
    """Say what a database at base still holds, and how to remove it."""
    parked = find_parked(connection, patience)
    if parked:
        held = ", ".join(f"{relation} ({count_rows(rows)})" for relation, rows in parked.items())
        log.info(
            "Parked: %s; beside them %s holds their trigger function set_updated_at and an empty alembic_version.",
            held,
            PARKING_SCHEMA,
        )
        log.info("The next upgrade takes them back; `alembic -x purge=yes downgrade base` drops them for good.")


def purge(connection: Connection, patience: Patience) -> None:
    """Drop what is parked, one table a transaction: the only thing here that loses a row.

    A drop locks auth.users for a moment, and so is given up and tried again where it can't have that lock in time.

    Args:
        connection: A connection to a database at base.
        patience: How often and how long to try.

    Raises:
        sqlalchemy.exc.DBAPIError: A table could not be dropped; those before it are gone, and the rest is untouched.
    """
    parked = find_parked(connection, patience)
    for relation, rows in parked.items():
        log.info("To be dropped: %s (%s)", relation, count_rows(rows))
    for relation in parked:
        execute(connection, patience, f"drop table if exists {relation}")
        log.info("Dropped: %s", relation)
    execute(connection, patience, f"drop table if exists {PARKING_SCHEMA}.alembic_version")
    execute(connection, patience, f"drop function if exists {PARKING_SCHEMA}.set_updated_at()")
    left = connection.scalar(
        text("""
            select count(*) from pg_catalog.pg_depend
            where refclassid = 'pg_catalog.pg_namespace'::regclass and refobjid = to_regnamespace(:schema)
        """),
        {"schema": PARKING_SCHEMA},
    )
    if left:
        log.warning("The schema %s stays, because it holds what is not ours.", PARKING_SCHEMA)
    else:
        execute(connection, patience, f"drop schema if exists {PARKING_SCHEMA}")
        log.info("Dropped: the schema %s; nothing of these migrations is left.", PARKING_SCHEMA)


def execute(connection: Connection, patience: Patience, sql: str) -> None:
    """Execute a statement in a transaction of its own."""

    def action() -> None:
        connection.execute(text(sql))

    patience.run(connection, action)


def count_rows(rows: int) -> str:
    """Return a number of rows in words."""
    return f"{rows:,} {'row' if rows == 1 else 'rows'}"
