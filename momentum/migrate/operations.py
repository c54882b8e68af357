"""Alembic operations of this project, which revisions use as ``op.park_table`` and so on.

A downgrade parks the tables that it would otherwise drop: it moves them into ``momentum_internal``, where nobody but
the owner sees them, with their rows, indexes, keys, triggers, grants and policies. An upgrade takes them back. That
loses no row, and unlike a DROP it takes no lock on auth.users. In the same way an upgrade with ``-x existing=adopt``
parks what the app's earlier migrations have made under our names, as ``predecessor_...``.
"""

import io
from collections.abc import Callable

import sqlalchemy as sa
from alembic.operations import MigrateOperation, Operations
from alembic.runtime.migration import MigrationContext

from momentum.errors import MigrationError
from momentum.inventory import PREDECESSOR_PREFIX, PRIVATE_SCHEMA
from momentum.migrate.locks import Patience, can_be_retried, milliseconds

TIMEOUTS = ("lock_timeout", "statement_timeout")

# Seconds between two attempts of what blocks no client.
PAUSE = 0.5


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
    operations.execute(f"alter table {operation.schema}.{operation.name} set schema {PRIVATE_SCHEMA}")
    if operation.schema == "public":
        operations.invoke(RestorePredecessor(operation.name))


@Operations.register_operation("park_predecessor")
class ParkPredecessor(MigrateOperation):
    """Park a table or view that an earlier migration of the app has made in public under a name of ours."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def park_predecessor(cls, operations: Operations, name: str) -> None:
        """Move what stands in public under a name of ours out of the way, if the run was asked to.

        Without ``-x existing=adopt`` nothing is moved, and the revision fails where something is in its way.

        Args:
            operations: Alembic's ``op``.
            name: The name of the table or view.
        """
        operations.invoke(cls(name))


@Operations.implementation_for(ParkPredecessor)
def park_predecessor(operations: Operations, operation: ParkPredecessor) -> None:
    """Carry out the operation."""
    name = operation.name
    if operations.get_context().opts.get("existing") == "adopt":
        operations.execute(f"""
do $park_predecessor$
begin
  if to_regclass('public.{name}') is not null then
    -- Renamed first: a table of ours may be parked under the old name.
    alter table public.{name} rename to {PREDECESSOR_PREFIX}{name};
    alter table public.{PREDECESSOR_PREFIX}{name} set schema {PRIVATE_SCHEMA};
  end if;
end
$park_predecessor$""")


@Operations.register_operation("restore_predecessor")
class RestorePredecessor(MigrateOperation):
    """Put a parked predecessor back."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def restore_predecessor(cls, operations: Operations, name: str) -> None:
        """Move a predecessor back to where it stood, if there is one.

        Args:
            operations: Alembic's ``op``.
            name: The name of the table or view.
        """
        operations.invoke(cls(name))


@Operations.implementation_for(RestorePredecessor)
def restore_predecessor(operations: Operations, operation: RestorePredecessor) -> None:
    """Carry out the operation."""
    name = operation.name
    operations.execute(f"""
do $restore_predecessor$
begin
  if to_regclass('{PRIVATE_SCHEMA}.{PREDECESSOR_PREFIX}{name}') is not null then
    alter table {PRIVATE_SCHEMA}.{PREDECESSOR_PREFIX}{name} set schema public;
    alter table public.{PREDECESSOR_PREFIX}{name} rename to {name};
  end if;
end
$restore_predecessor$""")


@Operations.register_operation("execute_patiently")
class ExecutePatiently(MigrateOperation):
    """Execute a statement that blocks no client: one with CONCURRENTLY, or one that commits page by page."""

    def __init__(self, sql: str, at_least: float) -> None:
        self.sql = sql
        self.at_least = at_least

    @classmethod
    def execute_patiently(cls, operations: Operations, sql: str, *, at_least: float = 0) -> None:
        """Commit, then execute a statement outside of any transaction; it may wait until the run's deadline.

        CREATE INDEX CONCURRENTLY waits for every transaction that is older than it. A short lock_timeout or a
        statement_timeout would end it each time and leave an invalid index; and nobody queues behind it.

        Args:
            operations: Alembic's ``op``.
            sql: The statement. It must bear being executed again, because lock timeouts and deadlocks are retried.
            at_least: The seconds that it may wait even if the deadline is nearer: what cleans up comes late.

        Raises:
            MigrationError: The migration runs inside a transaction that is not Alembic's to commit.
        """
        operations.invoke(cls(sql, at_least))


@Operations.implementation_for(ExecutePatiently)
def execute_patiently(operations: Operations, operation: ExecutePatiently) -> None:
    """Carry out the operation."""
    context = operations.get_context()
    patience: Patience = context.opts["patience"]
    if context._in_external_transaction:
        raise MigrationError(
            "This database needs a migration that commits in between, and the connection was handed in inside a "
            "transaction; commit it first, or hand in an engine."
        )
    statement = sa.text(operation.sql.replace(":", "\\:"))
    if context.as_sql:
        with context.autocommit_block():
            for setting in timeouts(milliseconds(patience.seconds), "0"):
                operations.execute(setting)
            # A psql that goes on after an error must not get here and do what no transaction guards.
            operations.execute(context.opts["protection"])
            operations.execute(statement)
            operations.execute("reset default_transaction_read_only")
        for setting in context.opts["timeouts"]:
            operations.execute(setting)
        operations.execute(context.opts["guard"])
        return
    while not try_patiently(operations, statement, patience, operation.at_least):
        pass


def try_patiently(operations: Operations, statement: sa.TextClause, patience: Patience, at_least: float) -> bool:
    """Execute a statement outside of any transaction; false after a failure that is worth another attempt."""
    failure: sa.exc.DBAPIError | None = None
    try:
        with operations.get_context().autocommit_block():
            connection = operations.get_bind()
            before = [connection.exec_driver_sql(f"show {name}").scalar_one() for name in TIMEOUTS]
            try:
                for setting in timeouts(milliseconds(max(patience.remaining, at_least)), "0"):
                    operations.execute(setting)
                operations.execute(statement)
            except sa.exc.DBAPIError as error:
                failure = error
            if not connection.invalidated:
                for setting in timeouts(*before):
                    operations.execute(setting)
    except sa.exc.PendingRollbackError:
        # Alembic can't commit on a connection that is lost; what matters is how it was lost.
        assert failure is not None
    if failure is None:
        return True
    # These keep nobody waiting, and so are not counted.
    if can_be_retried(failure) and patience.pause(PAUSE):
        return False
    raise failure


def timeouts(lock_timeout: str, statement_timeout: str, *, local: bool = False) -> list[str]:
    """Return SQL that limits how long each statement may wait for a lock, and how long it may take."""
    values = zip(TIMEOUTS, (lock_timeout, statement_timeout), strict=True)
    return [f"set {'local ' if local else ''}{name} = '{value}'" for name, value in values]
