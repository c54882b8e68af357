"""Objects that depend on others, looked up before anything is parked or dropped."""

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
    """Return the objects for which dropping relations and columns would need CASCADE, each with what it depends on.

    Args:
        connection: A connection; nothing is written through it, and no table is locked.
        relations: The relations with their schemas, in the order in which they go. Those that don't exist are ignored.
        columns: Columns, each with its table, which go before the relations.
        schema: The schema whose trigger function goes too, after the relations.
        along: Relations that go first. Objects that go with them count as gone; those that depend on them are ignored.
    """
    parameters = {
        "relations": list(relations),
        "tables": [table for table, _ in columns],
        "columns": [column for _, column in columns],
        "schema": schema,
        "along": list(along),
    }
    return list(connection.scalars(text(DEPENDENTS), parameters))
