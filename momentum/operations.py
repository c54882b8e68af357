"""Alembic operations of this project, which revisions use as ``op.park_table`` and ``op.take_back_or_create_table``.

A downgrade parks the tables that it would otherwise drop: it moves them into ``momentum_internal``, where nobody but
the owner sees them, with their rows, indexes, keys, triggers, grants and policies. An upgrade takes them back. That
loses no row, and unlike a DROP it takes no lock on auth.users.
"""

import io
from collections.abc import Callable

import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations
from alembic.runtime.migration import MigrationContext

PARKING_SCHEMA = "momentum_internal"


def render_sql(steps: Callable[[Operations], None]) -> str:
    """Return the SQL of some operations instead of executing it, so that it can stand inside a DO block."""
    buffer = io.StringIO()
    # With named parameters a per cent sign is rendered as itself; for the driver it would be doubled here and once more
    # when the DO block is executed.
    options = {"as_sql": True, "output_buffer": buffer}
    context = MigrationContext.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, opts=options)
    steps(Operations(context))
    return buffer.getvalue()


@Operations.register_operation("take_back_or_create_table")
class TakeBackOrCreateTable(MigrateOperation):
    """Take back a parked table, or create it where none is parked."""

    def __init__(self, name: str, create: Callable[[Operations], None], schema: str, only_if: str) -> None:
        self.name = name
        self.create = create
        self.schema = schema
        self.only_if = only_if

    @classmethod
    def take_back_or_create_table(
        cls,
        operations: Operations,
        name: str,
        create: Callable[[Operations], None],
        *,
        schema: str = "public",
        only_if: str = "true",
    ) -> None:
        """Move a parked table with all its rows to where it was, or create it.

        The decision is taken by the server in a DO block, so that ``alembic upgrade`` and ``alembic upgrade --sql`` run
        the same SQL.

        Args:
            operations: Alembic's ``op``.
            name: The table's name.
            create: Makes the table with everything that belongs to it, with the operations it is given.
            schema: Where the table belongs.
            only_if: An SQL condition without which nothing happens.
        """
        operations.invoke(cls(name, create, schema, only_if))


@Operations.implementation_for(TakeBackOrCreateTable)
def take_back_or_create_table(operations: Operations, operation: TakeBackOrCreateTable) -> None:
    """Carry out the operation."""
    name, schema = operation.name, operation.schema
    sql = f"""
do $take_back_or_create$
begin
  if not ({operation.only_if}) then
    return;
  end if;
  if to_regclass('{PARKING_SCHEMA}.{name}') is not null then
    alter table {PARKING_SCHEMA}.{name} set schema {schema};
    return;
  end if;

{render_sql(operation.create).strip()}
end
$take_back_or_create$"""
    # Unescaped, a colon before a word would be taken for a parameter.
    operations.execute(sa.text(sql.replace(":", "\\:")))


@Operations.register_operation("park_table")
class ParkTable(MigrateOperation):
    """Park a table instead of dropping it."""

    def __init__(self, name: str, schema: str) -> None:
        self.name = name
        self.schema = schema

    @classmethod
    def park_table(cls, operations: Operations, name: str, *, schema: str = "public") -> None:
        """Move a table with all its rows out of sight.

        Args:
            operations: Alembic's ``op``.
            name: The table's name.
            schema: Where the table is.
        """
        operations.invoke(cls(name, schema))


@Operations.implementation_for(ParkTable)
def park_table(operations: Operations, operation: ParkTable) -> None:
    """Carry out the operation."""
    operations.execute(f"alter table {operation.schema}.{operation.name} set schema {PARKING_SCHEMA}")
