"""Alembic operations of this project, which revisions use as ``op.park_table`` and so on.

A revision parks the tables and columns that it would otherwise drop. A parked table is in ``momentum_internal``, where
nobody but the owner sees it, with its rows, indexes, keys, triggers, grants and policies; a parked column is called
``parked_<name>``, and nothing else about it changes. The opposite direction takes them back. That loses no value, and
unlike a DROP it takes no lock on auth.users. In the same way, an upgrade with ``-x existing=adopt`` parks the tables
that the app's earlier migrations created under our names, as ``predecessor_...``.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import CreateIndexOp
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from momentum.connect.engine import keeps_session
from momentum.connect.settings import (
    CORRECTED,
    PINNED,
    as_statements,
    change_settings,
    corrected,
    corrections_in_block,
    read_settings,
)
from momentum.errors import MigrationError, RevisionError
from momentum.inventory import PARKED_PREFIX, PREDECESSOR_PREFIX, PRIVATE_SCHEMA
from momentum.migrate import access, locks, progress
from momentum.migrate.locks import Patience, can_be_retried
from momentum.retries import milliseconds

TIMEOUTS = ("lock_timeout", "statement_timeout")

# Seconds between two attempts of a statement that blocks no client.
PAUSE = 0.5

# The seconds that cleaning up after a failure may take, even if the run's deadline is nearer.
CLEANING_UP = 10

# The bytes of a table that even a slow server indexes, or moves aside, in a second.
BYTES_PER_SECOND = 2**20

# With named parameters a per cent sign is written as itself.
DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]

# Defaults that are the same for every row, so that adding the column changes the catalog only.
CONSTANT = re.compile(
    r"\(*(e?'(''|[^'])*'|[-+]?\d+(\.\d+)?|true|false|null)\)*(::[\w \"\[\](),.]+)?", flags=re.IGNORECASE
)
# Defaults that the server evaluates once for all existing rows.
STABLE = re.compile(r"now\(\)|current_timestamp|current_date|current_user|statement_timestamp\(\)", flags=re.IGNORECASE)

# The server's session behind a connection, and its time limit for statements outside of our transactions. It is asked
# for outside of them, under any search path and DateStyle.
SESSION = sa.text("""
    select a.pid, cast(a.backend_start as pg_catalog.text) as backend_start, s.reset_val as time_limit
    from pg_catalog.pg_stat_activity as a, pg_catalog.pg_settings as s
    where
      a.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()
      and s.name operator(pg_catalog.=) 'statement_timeout'
""")

SIZE = sa.text("""
    select size as bytes, pg_catalog.pg_size_pretty(size) as pretty
    from coalesce(pg_catalog.pg_total_relation_size(pg_catalog.to_regclass(:relation)), 0) as size
""")

VALID_INDEX = sa.text("select indisvalid from pg_catalog.pg_index where indexrelid = to_regclass(:name)")


def render_sql(steps: Callable[[Operations], None]) -> str:
    """Return the SQL of some operations instead of executing it, so that it can go into a DO block."""
    buffer = io.StringIO()
    # With named parameters a per cent sign is rendered as itself; for the driver it would be doubled here and once more
    # when the DO block is executed.
    options = {"as_sql": True, "output_buffer": buffer}
    context = MigrationContext.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, opts=options)
    steps(Operations(context))
    return buffer.getvalue()


def execute_text(operations: Operations, sql: str) -> None:
    """Execute SQL as it is, with colons escaped: SQLAlchemy would take one before a word for a parameter."""
    operations.execute(sa.text(sql.replace(":", "\\:")))


def execute_block(operations: Operations, name: str, body: str) -> None:
    """Execute a DO block, so that the server decides, online and in scripts made with ``--sql`` alike."""
    execute_text(operations, f"\ndo ${name}$\n{body}\n${name}$")


def in_one_transaction(context: MigrationContext) -> bool:
    """Return whether nothing can commit in between, because a caller or the Supabase CLI owns the transaction."""
    return context._in_external_transaction or bool(context.opts.get("one_transaction"))


def quoted(name: str) -> str:
    """Return a name as an identifier, in quotes where it needs them."""
    return str(DIALECT.identifier_preparer.quote(name))


def qualified(schema: str | None, name: str) -> str:
    """Return a name as an identifier with its schema."""
    return f"{quoted(schema or 'public')}.{quoted(name)}"


def literal(value: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def check_addable(column: sa.Column[Any], name: str) -> None:
    """Refuse a column that could not be added to a table with rows, parked and taken back within moments.

    Args:
        column: The column.
        name: Its name with its table and schema, for the message.

    Raises:
        RevisionError: The column is refused; the message says what to do instead.
    """
    default = column.server_default
    text = ""
    if isinstance(default, sa.DefaultClause):
        text = default.arg if isinstance(default.arg, str) else str(default.arg.compile(dialect=DIALECT))
        constant = isinstance(default.arg, str) or CONSTANT.fullmatch(text)
    if len(PARKED_PREFIX + column.name) > DIALECT.max_identifier_length:
        raise RevisionError(
            f"{name} has too long a name: as a parked column it would be {PARKED_PREFIX}{column.name}; shorten it to "
            f"{DIALECT.max_identifier_length - len(PARKED_PREFIX)} characters."
        )
    if isinstance(default, sa.Computed | sa.Identity) or column.computed is not None or column.identity is not None:
        raise RevisionError(
            f"{name} is a generated column, which the server would compute for every row under a lock that blocks "
            "every client; make it a plain column, fill it in pages, and keep it up to date with a trigger."
        )
    if not column.nullable and not (default is not None and constant):
        raise RevisionError(
            f"{name} is NOT NULL without a constant default, which existing rows, and rows that are written while it "
            "is parked, would violate; make it nullable first, fill it in a revision of its own, then add a NOT VALID "
            "check that it is not null, and validate it in the next revision."
        )
    if default is not None and not constant and not STABLE.fullmatch(text):
        raise RevisionError(
            f"{name} has the default {text}, which the server would evaluate for every row under a lock that blocks "
            "every client; add the column without it, then set the default in a revision of its own."
        )


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
        """Move a parked table with all its rows back to where it was, or create it.

        The server decides which in a DO block, so that ``alembic upgrade`` and ``alembic upgrade --sql`` run
        the same SQL.

        Args:
            operations: Alembic's ``op``.
            name: The table's name.
            create: Creates the table and everything that belongs to it, with the operations that it is given.
            schema: The schema that the table belongs in.
            only_if: An SQL condition; nothing happens unless it is true.
        """
        operations.invoke(cls(name, create, schema, only_if))


@Operations.implementation_for(TakeBackOrCreateTable)
def take_back_or_create_table(operations: Operations, operation: TakeBackOrCreateTable) -> None:
    """Carry out the operation."""
    name, schema = operation.name, operation.schema
    if schema == "public":
        operations.invoke(ParkPredecessor(name))
    sql = f"""
do $take_back_or_create$
begin
  if not ({operation.only_if}) then
    return;
  end if;
  if to_regclass('{PRIVATE_SCHEMA}.{name}') is not null then
    alter table {PRIVATE_SCHEMA}.{name} set schema {schema};
    return;
  end if;

{render_sql(operation.create).strip()}
end
$take_back_or_create$"""
    execute_text(operations, sql)
    if schema == "public":
        operations.invoke(KeepAccess(name))


@Operations.register_operation("park_table")
class ParkTable(MigrateOperation):
    """Park a table instead of dropping it."""

    def __init__(self, name: str, schema: str) -> None:
        self.name = name
        self.schema = schema

    @classmethod
    def park_table(cls, operations: Operations, name: str, *, schema: str = "public") -> None:
        """Move a table with all its rows to the private schema.

        Args:
            operations: Alembic's ``op``.
            name: The table's name.
            schema: The schema that the table is in.
        """
        operations.invoke(cls(name, schema))


@Operations.implementation_for(ParkTable)
def park_table(operations: Operations, operation: ParkTable) -> None:
    """Carry out the operation."""
    if operation.schema == "public":
        operations.invoke(TakeBackAccess(operation.name))
    operations.execute(f"alter table {operation.schema}.{operation.name} set schema {PRIVATE_SCHEMA}")
    if operation.schema == "public":
        operations.invoke(RestorePredecessor(operation.name))


@Operations.register_operation("take_back_or_add_column")
class TakeBackOrAddColumn(MigrateOperation):
    """Take back a parked column, or add it where none is parked."""

    def __init__(self, table: str, column: sa.Column[Any], schema: str) -> None:
        self.table = table
        self.column = column
        self.schema = schema

    @classmethod
    def take_back_or_add_column(
        cls, operations: Operations, table: str, column: sa.Column[Any], *, schema: str = "public"
    ) -> None:
        """Give a parked column its name back, with all its values, or add the column.

        The server decides which in a DO block, as for tables.

        Args:
            operations: Alembic's ``op``.
            table: The table's name.
            column: The column. Its index, unique key or foreign key is created by other operations.
            schema: The table's schema.

        Raises:
            RevisionError: The column could not be added without reading every row, or could not be parked.
        """
        name = f"{schema}.{table}.{column.name}"
        check_addable(column, name)
        if column.foreign_keys or column.index or column.unique or column.primary_key:
            raise RevisionError(
                f"{name} declares a key or an index; create these with operations of their own: op.create_foreign_key "
                "with postgresql_not_valid, op.create_index_concurrently, op.create_unique_constraint_concurrently."
            )
        operations.invoke(cls(table, column, schema))


@Operations.implementation_for(TakeBackOrAddColumn)
def take_back_or_add_column(operations: Operations, operation: TakeBackOrAddColumn) -> None:
    """Carry out the operation."""
    table, column = qualified(operation.schema, operation.table), operation.column
    parked = PARKED_PREFIX + column.name
    sql_type = column.type.compile(DIALECT)

    def add(to: Operations) -> None:
        to.add_column(operation.table, column, schema=operation.schema)

    execute_block(
        operations,
        "take_back_or_add_column",
        f"""declare
  found constant regtype := (
    select atttypid from pg_catalog.pg_attribute
    where attrelid = to_regclass({literal(table)}) and attname = {literal(parked)} and not attisdropped
  );
begin
  if found <> {literal(sql_type)}::regtype then
    raise exception
      'the parked column % of % is of type %, but % is expected; drop it if nobody needs its values',
      {literal(parked)}, {literal(table)}, found, {literal(sql_type)};
  end if;
  if found is not null then
    alter table {table} rename column {quoted(parked)} to {quoted(column.name)};
    return;
  end if;

{render_sql(add).strip()}
end""",
    )


@Operations.register_operation("park_column")
class ParkColumn(MigrateOperation):
    """Park a column instead of dropping it."""

    def __init__(self, table: str, name: str, schema: str) -> None:
        self.table = table
        self.name = name
        self.schema = schema

    @classmethod
    def park_column(cls, operations: Operations, table: str, name: str, *, schema: str = "public") -> None:
        """Rename a column to ``parked_<name>``, and change nothing else.

        Its values, default, NOT NULL, checks, indexes and its place in the table stay. Rows that are written while it
        is parked get its default.

        Args:
            operations: Alembic's ``op``.
            table: The table's name.
            name: The column's name.
            schema: The table's schema.
        """
        operations.invoke(cls(table, name, schema))


@Operations.implementation_for(ParkColumn)
def park_column(operations: Operations, operation: ParkColumn) -> None:
    """Carry out the operation."""
    table = qualified(operation.schema, operation.table)
    parked = PARKED_PREFIX + operation.name
    execute_text(operations, f"alter table {table} rename column {quoted(operation.name)} to {quoted(parked)}")


@Operations.register_operation("create_index_concurrently")
class CreateIndexConcurrently(CreateIndexOp):
    """Create an index on a table that may hold rows, without blocking clients."""

    @classmethod
    def create_index_concurrently(
        cls,
        operations: Operations,
        index_name: str,
        table_name: str,
        columns: Sequence[str | sa.TextClause | sa.ColumnElement[Any]],
        *,
        schema: str = "public",
        unique: bool = False,
        **kw: Any,
    ) -> None:
        """Create an index with CONCURRENTLY, outside of any transaction; an unfinished one is dropped first.

        Args:
            operations: Alembic's ``op``.
            index_name: The index's name.
            table_name: The table's name.
            columns: The columns or expressions.
            schema: The table's schema.
            unique: Whether the index is unique.
            kw: Further arguments that ``op.create_index`` takes, such as ``postgresql_where``.
        """
        operations.invoke(cls(index_name, table_name, columns, schema=schema, unique=unique, **kw))


@Operations.implementation_for(CreateIndexConcurrently)
def create_index_concurrently(operations: Operations, operation: CreateIndexConcurrently) -> None:
    """Carry out the operation."""
    context = operations.get_context()
    index = operation.to_index(context)
    name = qualified(operation.schema, str(operation.index_name))
    if in_one_transaction(context):
        execute_text(operations, str(CreateIndex(index).compile(dialect=DIALECT)))
        return
    index.dialect_options["postgresql"]["concurrently"] = True
    if not context.as_sql and operations.get_bind().scalar(VALID_INDEX, {"name": name}):
        return
    # An interrupted attempt leaves an invalid index.
    operations.invoke(ExecutePatiently(f"drop index concurrently if exists {name}", 0))
    try:
        operations.invoke(ExecutePatiently(str(CreateIndex(index).compile(dialect=DIALECT)), 0))
    except sa.exc.DBAPIError as error:
        if not error.connection_invalidated:
            # An invalid unique index would still reject rows.
            operations.invoke(ExecutePatiently(f"drop index concurrently if exists {name}", CLEANING_UP))
        raise


@Operations.register_operation("drop_index_concurrently")
class DropIndexConcurrently(MigrateOperation):
    """Drop an index of a table that may hold rows, without blocking clients."""

    def __init__(self, index_name: str, schema: str) -> None:
        self.index_name = index_name
        self.schema = schema

    @classmethod
    def drop_index_concurrently(cls, operations: Operations, index_name: str, *, schema: str = "public") -> None:
        """Drop an index with CONCURRENTLY, outside of any transaction.

        Args:
            operations: Alembic's ``op``.
            index_name: The index's name.
            schema: The index's schema.
        """
        operations.invoke(cls(index_name, schema))


@Operations.implementation_for(DropIndexConcurrently)
def drop_index_concurrently(operations: Operations, operation: DropIndexConcurrently) -> None:
    """Carry out the operation."""
    name = qualified(operation.schema, operation.index_name)
    operations.invoke(ExecutePatiently(f"drop index concurrently if exists {name}", 0, f"drop index if exists {name}"))


@Operations.register_operation("create_unique_constraint_concurrently")
class CreateUniqueConstraintConcurrently(MigrateOperation):
    """Create a unique key on a table that may hold rows, without blocking clients."""

    def __init__(self, name: str, table: str, columns: Sequence[str], schema: str) -> None:
        self.name = name
        self.table = table
        self.columns = columns
        self.schema = schema

    @classmethod
    def create_unique_constraint_concurrently(
        cls, operations: Operations, name: str, table: str, columns: Sequence[str], *, schema: str = "public"
    ) -> None:
        """Create the key's index with CONCURRENTLY, then the constraint that uses it.

        Args:
            operations: Alembic's ``op``.
            name: The constraint's name.
            table: The table's name.
            columns: The columns.
            schema: The table's schema.
        """
        operations.invoke(cls(name, table, columns, schema))


@Operations.implementation_for(CreateUniqueConstraintConcurrently)
def create_unique_constraint_concurrently(
    operations: Operations, operation: CreateUniqueConstraintConcurrently
) -> None:
    """Carry out the operation."""
    name, schema = operation.name, operation.schema
    operations.invoke(CreateIndexConcurrently(name, operation.table, operation.columns, schema=schema, unique=True))
    table = qualified(schema, operation.table)
    # A patient operation after this one commits it before the revision's version: an interrupted run may have left it.
    execute_block(
        operations,
        "add_unique_constraint",
        f"""begin
  if not exists (
    select from pg_catalog.pg_constraint where conrelid = to_regclass({literal(table)}) and conname = {literal(name)}
  ) then
    alter table {table} add constraint {quoted(name)} unique using index {quoted(name)};
  end if;
end""",
    )


@Operations.register_operation("validate_constraint")
class ValidateConstraint(MigrateOperation):
    """Validate a check or a foreign key that was added NOT VALID, without blocking clients."""

    def __init__(self, name: str, table: str, schema: str, tolerate_rows: bool) -> None:
        self.name = name
        self.table = table
        self.schema = schema
        self.tolerate_rows = tolerate_rows

    @classmethod
    def validate_constraint(
        cls, operations: Operations, name: str, table: str, *, schema: str = "public", tolerate_rows: bool = False
    ) -> None:
        """Check all rows against a constraint that has applied to new rows only so far.

        Args:
            operations: Alembic's ``op``.
            name: The constraint's name.
            table: The table's name.
            schema: The table's schema.
            tolerate_rows: Whether rows that violate the constraint leave it NOT VALID, with a warning, instead of
                failing: for downgrades, because they may have been written while there was no such constraint.
        """
        operations.invoke(cls(name, table, schema, tolerate_rows))


@Operations.implementation_for(ValidateConstraint)
def validate_constraint(operations: Operations, operation: ValidateConstraint) -> None:
    """Carry out the operation."""
    table, name = qualified(operation.schema, operation.table), operation.name
    sql = f"alter table {table} validate constraint {quoted(name)}"
    if operation.tolerate_rows:
        sql = f"""
do $validate_constraint$
begin
  {sql};
exception when check_violation or foreign_key_violation then
  raise warning
    'rows of % violate %, so it stays NOT VALID and applies to new rows only', {literal(table)}, {literal(name)};
end
$validate_constraint$"""
    operations.invoke(ExecutePatiently(sql, 0, sql))


@Operations.register_operation("park_predecessor")
class ParkPredecessor(MigrateOperation):
    """Park a table or view that an earlier migration of the app created in public under one of our names."""

    def __init__(self, name: str, only_if: str = "true") -> None:
        self.name = name
        self.only_if = only_if

    @classmethod
    def park_predecessor(cls, operations: Operations, name: str, *, only_if: str = "true") -> None:
        """Move a relation in public that has one of our names out of the way, if the run was asked to.

        Without ``-x existing=adopt`` nothing is moved, and the revision fails if something is in its way.

        Args:
            operations: Alembic's ``op``.
            name: The name of the table or view.
            only_if: An SQL condition; nothing happens unless it is true.
        """
        operations.invoke(cls(name, only_if))


@Operations.implementation_for(ParkPredecessor)
def park_predecessor(operations: Operations, operation: ParkPredecessor) -> None:
    """Carry out the operation."""
    name = operation.name
    if operations.get_context().opts.get("existing") == "adopt":
        operations.execute(f"""
do $park_predecessor$
begin
  if to_regclass('public.{name}') is not null and {operation.only_if} then
    -- Renamed first: a table of ours may be parked under the old name.
    alter table public.{name} rename to {PREDECESSOR_PREFIX}{name};
    alter table public.{PREDECESSOR_PREFIX}{name} set schema {PRIVATE_SCHEMA};
  end if;
end
$park_predecessor$""")


@Operations.register_operation("restore_predecessor")
class RestorePredecessor(MigrateOperation):
    """Put a parked predecessor back."""

    def __init__(self, name: str, only_if: str = "true") -> None:
        self.name = name
        self.only_if = only_if

    @classmethod
    def restore_predecessor(cls, operations: Operations, name: str, *, only_if: str = "true") -> None:
        """Move a predecessor back to where it was, if there is one.

        Args:
            operations: Alembic's ``op``.
            name: The name of the table or view.
            only_if: An SQL condition; nothing happens unless it is true.
        """
        operations.invoke(cls(name, only_if))


@Operations.implementation_for(RestorePredecessor)
def restore_predecessor(operations: Operations, operation: RestorePredecessor) -> None:
    """Carry out the operation."""
    name = operation.name
    operations.execute(f"""
do $restore_predecessor$
begin
  if to_regclass('{PRIVATE_SCHEMA}.{PREDECESSOR_PREFIX}{name}') is not null and {operation.only_if} then
    alter table {PRIVATE_SCHEMA}.{PREDECESSOR_PREFIX}{name} set schema public;
    alter table public.{PREDECESSOR_PREFIX}{name} rename to {name};
  end if;
end
$restore_predecessor$""")


@Operations.register_operation("keep_access")
class KeepAccess(MigrateOperation):
    """Carry over what clients had on a parked predecessor."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def keep_access(cls, operations: Operations, name: str) -> None:
        """Give our table or view the grants, policies, triggers and so on of its predecessor, if the run was asked to.

        Args:
            operations: Alembic's ``op``.
            name: The name of the table or view in public, which has been created. ``take_back_or_create_table`` does
                the same for a table.
        """
        operations.invoke(cls(name))


@Operations.implementation_for(KeepAccess)
def keep_access(operations: Operations, operation: KeepAccess) -> None:
    """Carry out the operation."""
    options = operations.get_context().opts
    if options.get("existing") == "adopt" and options.get("access") == "keep" and operation.name in access.ADOPTED:
        execute_block(operations, "keep_access", access.keep(operation.name))


@Operations.register_operation("take_back_access")
class TakeBackAccess(MigrateOperation):
    """Take back from our table or view what was carried over to it."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def take_back_access(cls, operations: Operations, name: str) -> None:
        """Undo ``keep_access``; nothing happens if nothing was carried over.

        Args:
            operations: Alembic's ``op``.
            name: The name of the table or view in public. ``park_table`` does the same for a table.
        """
        operations.invoke(cls(name))


@Operations.implementation_for(TakeBackAccess)
def take_back_access(operations: Operations, operation: TakeBackAccess) -> None:
    """Carry out the operation."""
    if operation.name in access.ADOPTED:
        execute_block(operations, "take_back_access", access.take_back(operation.name))


@Operations.register_operation("execute_patiently")
class ExecutePatiently(MigrateOperation):
    """Execute a statement that blocks no client: one with CONCURRENTLY, or one that commits page by page."""

    def __init__(
        self, sql: str, at_least: float, in_one_transaction: str | None = None, fires_nothing_of: str | None = None
    ) -> None:
        self.sql = sql
        self.at_least = at_least
        self.in_one_transaction = in_one_transaction
        self.beginning = corrections_in_block() + (no_triggers_in_block(fires_nothing_of) if fires_nothing_of else "")

    @classmethod
    def execute_patiently(
        cls,
        operations: Operations,
        sql: str,
        *,
        at_least: float = 0,
        in_one_transaction: str | None = None,
        fires_nothing_of: str | None = None,
    ) -> None:
        """Commit, then execute a statement outside of any transaction; it may wait until the run's deadline.

        CREATE INDEX CONCURRENTLY waits for every transaction that is older than it. A short lock_timeout or a
        statement_timeout would cancel it each time and leave an invalid index. Nothing queues behind it meanwhile.

        Args:
            operations: Alembic's ``op``.
            sql: The statement. It must be safe to execute again, because lock timeouts and deadlocks are retried. In a
                block that commits, ``{corrections}`` begins each transaction: behind a pooler nothing is set for the
                session, so that keys could be switched off, and a commit lost in a crash.
            at_least: The seconds that it may wait even if the deadline is nearer, for statements that clean up.
            in_one_transaction: The SQL to execute where nothing can commit in between: in a transaction that was
                handed in, and in a migration of the Supabase CLI.
            fires_nothing_of: A table of others of which the block inserts and deletes rows: ``{corrections}`` then also
                fails if anybody has given it a trigger since it was looked at, which would run with our rights.

        Raises:
            MigrationError: Nothing can commit in between, and there is no SQL for that case.
        """
        operations.invoke(cls(sql, at_least, in_one_transaction, fires_nothing_of))


def no_triggers_in_block(relation: str) -> str:
    """Return the statements of a DO block that lock a table, and fail if it has a trigger for inserts or deletes.

    With the lock nobody can add one until the transaction ends.
    """
    triggers = f"""from pg_catalog.pg_trigger as t where
      t.tgrelid = '{relation}'::pg_catalog.regclass and not t.tgisinternal and t.tgenabled in ('O', 'A')
      and t.tgtype & 12 <> 0"""
    return f""" lock table {relation} in row exclusive mode;
    if exists (select {triggers}) then
      raise exception 'the trigger % of {relation} would fire; remove it or disable it, then try again',
        (select t.tgname {triggers} order by t.tgname limit 1);
    end if;"""


@Operations.implementation_for(ExecutePatiently)
def execute_patiently(operations: Operations, operation: ExecutePatiently) -> None:
    """Carry out the operation."""
    context = operations.get_context()
    if in_one_transaction(context):
        if operation.in_one_transaction is None:
            raise MigrationError(
                "This database needs a migration that commits in between, but the connection was handed in inside a "
                "transaction; commit it first, or hand in an engine."
            )
        execute_text(operations, operation.in_one_transaction)
        return
    patience: Patience = context.opts["patience"]
    statement = sa.text(operation.sql.replace("{corrections}", operation.beginning).replace(":", "\\:"))
    if context.as_sql:
        with context.autocommit_block():
            limits = dict(zip(TIMEOUTS, (milliseconds(patience.seconds), "0"), strict=True))
            for setting in as_statements(limits, local=False):
                operations.execute(setting)
            # A psql that continues after an error must not execute a statement that no transaction guards.
            operations.execute(context.opts["protection"])
            operations.execute(statement)
            operations.execute("reset default_transaction_read_only")
        for setting in context.opts["timeouts"]:
            operations.execute(setting)
        operations.execute(context.opts["guard"])
        return
    shown: AbstractContextManager[None] = nullcontext()
    if context.opts["shows_progress"]:
        connection = operations.get_bind()
        shown = progress.shown(progress.step_of(operation.sql), connection, connection.execute(SESSION).one().pid)
    with shown:
        while not try_patiently(operations, statement, patience, operation.at_least):
            pass


def try_patiently(operations: Operations, statement: sa.TextClause, patience: Patience, at_least: float) -> bool:
    """Execute a statement outside of any transaction; return false after a failure that is worth another attempt."""
    failure: sa.exc.DBAPIError | None = None
    heads = locks.read_heads(operations.get_bind())
    # Alembic can't commit on a lost connection; the error to report is the one that lost it.
    with suppress(sa.exc.PendingRollbackError), operations.get_context().autocommit_block():
        connection = operations.get_bind()
        try:
            with locks.turn_kept(connection, patience, heads), unlimited(connection, patience, at_least):
                operations.execute(statement)
        except sa.exc.DBAPIError as error:
            failure = error
    # These attempts block nobody, so they are not counted.
    if failure is not None and not (can_be_retried(failure) and patience.pause(PAUSE)):
        raise failure
    locks.wait_for_turn(operations.get_bind(), patience, heads)
    return failure is None


def obstacle_to_patience(connection: sa.Connection, relation: str) -> str | None:
    """Return why statements outside of a transaction can't change a relation, and what to do; None if they can.

    They need a second session, and time for a relation of that size.

    Args:
        connection: A connection, in a transaction; nothing is written through it.
        relation: The relation, with its schema.
    """
    if reason := locks.obstacle_to_second_session(connection):
        return (
            f"they need a second session, which keeps other migrations out meanwhile, but there is none: {reason}; let "
            "the role, or the pooler that is in between, have two sessions or more, or connect to the database itself"
        )
    session = connection.execute(SESSION).one()
    seconds = int(session.time_limit) / 1000
    if seconds == 0 or keeps_session(connection, session.pid):
        return None
    size = connection.execute(SIZE, {"relation": relation}).one()
    if size.bytes <= seconds * BYTES_PER_SECOND:
        return None
    return (
        f"with its {size.pretty} some of them may take longer than the statement_timeout of {seconds:g} s, which can't "
        "be lifted because a pooler is in between; connect to the database itself, or through Supabase's session pooler"
    )


@contextmanager
def unlimited(connection: sa.Connection, patience: Patience, at_least: float) -> Iterator[None]:
    """Let statements outside of a transaction take their time, and wait for locks until the deadline.

    Outside of a transaction only settings of the session apply. Where the session may be another client's by the next
    statement, nothing is set.

    Raises:
        MigrationError: The session has changed.
    """
    session = connection.execute(SESSION).one()
    if not keeps_session(connection, session.pid):
        yield
        return
    values = (milliseconds(max(patience.remaining, at_least)), "0")
    ours = {**dict(zip(TIMEOUTS, values, strict=True)), **PINNED}
    found = read_settings(connection, (*ours, *(name for name, *_ in CORRECTED)))
    ours |= corrected(found)
    before = {name: found[name] for name in ours}
    change_settings(connection, ours, local=False)
    try:
        yield
    finally:
        if not connection.invalidated:
            change_settings(connection, before, local=False)
    if connection.execute(SESSION).one() != session:
        raise MigrationError(
            "The server's session behind the connection has changed, so a pooler does not keep sessions; connect to "
            "the database itself."
        )
