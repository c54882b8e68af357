"""Objects that depend on others: asked before anything is parked or dropped."""

from collections.abc import Collection, Sequence
from pathlib import Path

from sqlalchemy import Connection, text

DEPENDENTS = Path(__file__).with_name("dependents.sql").read_text(encoding="utf-8")


def dependents_of(
    connection: Connection,
    relations: Sequence[str],
    *,
    columns: Collection[tuple[str, str]] = (),
    schema: str | None = None,
    along: Sequence[str] = (),
) -> list[str]:
    """Return what depends on relations and columns and doesn't go along with them, each with what it depends on.

    Args:
        connection: A connection; nothing is written through it, and no table is locked.
        relations: The relations with their schemas, in the order in which they go. Those that don't exist are left out.
        columns: Each column with its table, which go before the relations.
        schema: The schema from which the trigger function goes too, after the relations.
        along: Relations that go first. Objects that go with them count as gone, and those that depend on them don't.
    """
    parameters = {
        "relations": list(relations),
        "tables": [table for table, _ in columns],
        "columns": [column for _, column in columns],
        "schema": schema,
        "along": list(along),
    }
    return list(connection.scalars(text(DEPENDENTS), parameters))
