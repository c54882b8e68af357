"""Autogenerate: turns differences between the models and a database into revisions whose downgrade loses nothing.

Tables and columns that Alembic would drop are parked, in both directions. A change that reads every row goes into a
revision of its own and runs outside of transactions, so that it blocks no client. A change that can't be made or undone
without a loss is refused, with a sentence that says what to do instead.
"""

import datetime
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alembic import context
from alembic.autogenerate import Rewriter, render_python_code, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op_text
from alembic.operations import MigrateOperation, MigrationScript, ops
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import rev_id
from sqlalchemy import Column, ForeignKeyConstraint, MetaData, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.schema import SchemaItem, conv

from momentum.base import NAMING_CONVENTION, auth_users
from momentum.errors import RevisionError
from momentum.grants import CLIENT_TABLE, grant_statements
from momentum.inventory import TRIGGER_FUNCTION, private
from momentum.migrate.filters import columns_of
from momentum.migrate.operations import (
    CreateIndexConcurrently,
    CreateUniqueConstraintConcurrently,
    DropIndexConcurrently,
    ParkColumn,
    ParkTable,
    TakeBackOrAddColumn,
    ValidateConstraint,
    check_addable,
)

# Alembic's own comparisons, and its comparison of check constraints by name.
PLUGINS = ("alembic.autogenerate.*", "alembic.ext.checkconstraint_byname")

# The attribute of Alembic's configuration that gives script.py.mako the parts of a revision that Alembic doesn't have.
PARTS = "momentum_revisions"

PAGE = "docs/changing_the_schema.md"

# The beginning of a revision's file name.
MINUTE = "%Y-%m-%d-%H%M"

MAX_LINE = 120
# A line minus its indentation and the quotes of a docstring.
MAX_SUMMARY = MAX_LINE - 10


class CreateWholeTable(MigrateOperation):
    """A new table with everything that belongs to it: indexes, trigger, row-level security, grants."""

    def __init__(self, table: Table, indexes: Sequence[ops.CreateIndexOp]) -> None:
        self.name = table.name
        self.table = table
        self.indexes = indexes

    @property
    def creates(self) -> list[str]:
        """The relations that it creates in public: the table, its primary key, its unique keys, its indexes."""
        keys = [key for key in self.table.constraints if isinstance(key, PrimaryKeyConstraint | UniqueConstraint)]
        keys.sort(key=lambda key: (isinstance(key, UniqueConstraint), str(key.name)))
        return [self.name, *(str(key.name) for key in keys), *(str(index.index_name) for index in self.indexes)]


@renderers.dispatch_for(CreateWholeTable)
def render_whole_table(autogen_context: AutogenContext, operation: CreateWholeTable) -> str:
    """Write a function that creates the table, and the operation that calls it."""
    autogen_context.imports.add("from alembic.operations import Operations")
    relation = f"public.{operation.name}"
    steps = [ops.CreateTableOp.from_table(operation.table), *operation.indexes]
    lines = [line for step in steps for line in render_op_text(autogen_context, step).splitlines()]
    if "updated_at" in operation.table.columns:
        lines += [
            "op.execute(",
            f'    "create trigger {TRIGGER_FUNCTION} before insert or update on {relation} "',
            f'    "for each row execute function {private(TRIGGER_FUNCTION)}()"',
            ")",
        ]
    statements = [f"alter table {relation} enable row level security", *grant_statements(relation, CLIENT_TABLE)]
    lines += [f'op.execute("{each}")' for each in statements]
    head = [f"def create_{operation.name}(op: Operations) -> None:", f'    """Create {relation}."""']
    end = ["", f"op.take_back_or_create_table({operation.name!r}, create_{operation.name})"]
    return "\n".join([*head, *(f"    {line}" for line in lines), *end])


@renderers.dispatch_for(ParkTable)
def render_park_table(_: AutogenContext, operation: ParkTable) -> str:
    """Write the operation."""
    return f"op.park_table({operation.name!r})"


@renderers.dispatch_for(TakeBackOrAddColumn)
def render_take_back_or_add_column(autogen_context: AutogenContext, operation: TakeBackOrAddColumn) -> str:
    """Write the operation; Alembic writes the column."""
    added = render_op_text(autogen_context, ops.AddColumnOp(operation.table, operation.column))
    return added.replace("op.add_column(", "op.take_back_or_add_column(", 1)


@renderers.dispatch_for(ParkColumn)
def render_park_column(_: AutogenContext, operation: ParkColumn) -> str:
    """Write the operation."""
    return f"op.park_column({operation.table!r}, {operation.name!r})"


@renderers.dispatch_for(CreateIndexConcurrently)
def render_create_index_concurrently(autogen_context: AutogenContext, operation: CreateIndexConcurrently) -> str:
    """Write the operation; Alembic writes the index."""
    plain = ops.CreateIndexOp(**{**arguments_of(operation), "schema": None})
    return render_op_text(autogen_context, plain).replace("op.create_index(", "op.create_index_concurrently(", 1)


@renderers.dispatch_for(DropIndexConcurrently)
def render_drop_index_concurrently(_: AutogenContext, operation: DropIndexConcurrently) -> str:
    """Write the operation."""
    return f"op.drop_index_concurrently({operation.index_name!r})"


@renderers.dispatch_for(CreateUniqueConstraintConcurrently)
def render_create_unique_constraint(_: AutogenContext, operation: CreateUniqueConstraintConcurrently) -> str:
    """Write the operation."""
    columns = list(operation.columns)
    return f"op.create_unique_constraint_concurrently({operation.name!r}, {operation.table!r}, {columns!r})"


@renderers.dispatch_for(ValidateConstraint)
def render_validate_constraint(_: AutogenContext, operation: ValidateConstraint) -> str:
    """Write the operation."""
    tolerant = ", tolerate_rows=True" if operation.tolerate_rows else ""
    return f"op.validate_constraint({operation.name!r}, {operation.table!r}{tolerant})"


def arguments_of(operation: ops.CreateIndexOp) -> dict[str, Any]:
    """Return the arguments to make an index operation again, with the schema that the models leave out."""
    return {
        "index_name": operation.index_name,
        "table_name": operation.table_name,
        "columns": operation.columns,
        "schema": "public",
        "unique": operation.unique,
        **operation.kw,
    }


def in_public(table: Table) -> Table:
    """Return a copy of a table as revisions write it, with the schema that the models leave out."""
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    auth_users.to_metadata(metadata)
    copy = table.to_metadata(metadata, schema="public", referred_schema_fn=referred_schema)
    for column in copy.columns:
        # Reflection has set it to something else on each column.
        column.autoincrement = "auto"
    return copy


def referred_schema(_table: Table, _schema: str | None, key: ForeignKeyConstraint, _referred: str | None) -> str:
    """Return the schema of the table that a foreign key refers to: public where the models leave it out."""
    schema, _, _ = key.elements[0].target_fullname.rpartition(".")[0].rpartition(".")
    return schema or "public"


@dataclass
class Revision:
    """A revision in the making.

    Attributes:
        suffix: Words that are added to the message that was given.
        up: The operations of the upgrade.
        down: The operations of the downgrade, in reverse order.
        after: The operations that a downgrade runs after the revision's version is removed, in reverse order.
        creates: The relations that it adds to public.
        parks: The columns that its upgrade parks, as ``table.column``.
        said: A sentence about each operation, for the upgrade and for the downgrade.
    """

    suffix: str = ""
    up: list[MigrateOperation] = field(default_factory=list)
    down: list[MigrateOperation] = field(default_factory=list)
    after: list[MigrateOperation] = field(default_factory=list)
    creates: list[str] = field(default_factory=list)
    parks: list[str] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)

    def add(
        self,
        make: tuple[MigrateOperation, str],
        unmake: tuple[MigrateOperation, str],
        *,
        is_new: bool,
        undo_after: bool = False,
    ) -> None:
        """Add a pair of operations that undo each other, each with a sentence about it.

        Args:
            make: The operation that creates an object.
            unmake: The operation that parks or drops it.
            is_new: Whether the upgrade creates the object; if not, the downgrade does.
            undo_after: Whether the operation is undone only after the revision's version is removed.
        """
        (up, said_up), (down, said_down) = (make, unmake) if is_new else (unmake, make)
        self.up.append(up)
        (self.after if undo_after else self.down).append(down)
        self.said.append((said_up, said_down))


class Writer:
    """Sorts differences into two revisions, and writes the downgrade of each.

    Attributes:
        quick: The revision with the changes that take a moment.
        patient: The revision after it, with the changes that read every row, outside of transactions.
    """

    def __init__(self) -> None:
        self.quick = Revision()
        self.patient = Revision(suffix="keys and indexes")
        # The index operations of tables that are created or parked, and the names of columns that are parked.
        self._indexes: dict[str, list[Any]] = {}
        self._parked: set[tuple[str, str]] = set()

    def write(self, upgrade: ops.UpgradeOps) -> list[Revision]:
        """Return the revisions that have any operations.

        Args:
            upgrade: The differences that Alembic has found.

        Raises:
            RevisionError: A change can't be made or undone without a loss.
        """
        found = list(flattened(upgrade))
        whole = [each.table_name for each in found if isinstance(each, ops.CreateTableOp | ops.DropTableOp)]
        self._indexes = {table: [each for each in found if is_index_of(each, table)] for table in whole}
        self._parked = {(each.table_name, each.column_name) for each in found if isinstance(each, ops.DropColumnOp)}
        with_tables = [id(index) for indexes in self._indexes.values() for index in indexes]
        for change in found:
            if id(change) not in with_tables and not self._stays_with_parked_columns(change):
                self._write_change(change)
        return [revision for revision in (self.quick, self.patient) if revision.up]

    def _write_change(self, change: MigrateOperation) -> None:
        match change:
            case ops.CreateTableOp() | ops.DropTableOp():
                self._write_table(change)
            case ops.AddColumnOp() | ops.DropColumnOp():
                self._write_column(change)
            case ops.CreateIndexOp() | ops.DropIndexOp():
                self._write_index(change)
            case ops.CreateUniqueConstraintOp() | ops.DropConstraintOp(constraint_type="unique"):
                self._write_unique_key(change)
            case ops.CreateForeignKeyOp() | ops.CreateCheckConstraintOp() | ops.DropConstraintOp():
                self._write_rule(change)
            case ops.AlterColumnOp() | ops.CreateTableCommentOp() | ops.DropTableCommentOp():
                self._write_description(change)
            case _:
                raise RevisionError(f"Autogenerate can't write {type(change).__name__}; write it by hand ({PAGE}).")

    def _write_table(self, change: ops.CreateTableOp | ops.DropTableOp) -> None:
        is_new = isinstance(change, ops.CreateTableOp)
        table = in_public((change if isinstance(change, ops.CreateTableOp) else change.reverse()).to_table())
        indexes = [index if is_new else index.reverse() for index in self._indexes[table.name]]
        make = CreateWholeTable(table, [ops.CreateIndexOp(**arguments_of(index)) for index in indexes])
        park = ParkTable(table.name, "public")
        self.quick.creates += make.creates if is_new else []
        self.quick.add(
            (make, f"Take {table.name} back with its rows if it is parked, else create it."),
            (park, f"Park {table.name}: no row is lost, and no lock on auth.users is taken."),
            is_new=is_new,
        )

    def _write_column(self, change: ops.AddColumnOp | ops.DropColumnOp) -> None:
        added = change if isinstance(change, ops.AddColumnOp) else change.reverse()
        column, table = plain_column(added.column), change.table_name
        name = f"{table}.{column.name}"
        is_new = added is change
        if is_new:
            check_addable(column, name)
        elif not column.nullable and column.server_default is None:
            raise RevisionError(
                f"{name} is NOT NULL and has no default, so no row could be written while it is parked; give it a "
                f"default or make it nullable in an earlier revision ({PAGE})."
            )
        self.quick.parks += [] if is_new else [name]
        back, park = TakeBackOrAddColumn(table, column, "public"), ParkColumn(table, column.name, "public")
        self.quick.add(
            (back, f"Take {name} back with its values if it is parked, else add it."),
            (park, f"Park {name}: no value is lost."),
            is_new=is_new,
        )

    def _write_index(self, change: ops.CreateIndexOp | ops.DropIndexOp) -> None:
        made = change if isinstance(change, ops.CreateIndexOp) else change.reverse()
        name, is_new = str(made.index_name), made is change
        self.patient.creates += [name] if is_new else []
        self.patient.add(
            (CreateIndexConcurrently(**arguments_of(made)), f"Create {name} without blocking clients{when(is_new)}."),
            (DropIndexConcurrently(name, "public"), f"Drop {name} without blocking clients{when(not is_new)}."),
            is_new=is_new,
            undo_after=True,
        )

    def _write_unique_key(self, change: ops.CreateUniqueConstraintOp | ops.DropConstraintOp) -> None:
        made = change if isinstance(change, ops.CreateUniqueConstraintOp) else change.reverse()
        assert isinstance(made, ops.CreateUniqueConstraintOp)
        name, table, is_new = str(made.constraint_name), made.table_name, made is change
        columns = [str(getattr(column, "name", column)) for column in made.columns]
        self.patient.creates += [name] if is_new else []
        make = CreateUniqueConstraintConcurrently(name, table, columns, "public")
        self.patient.add(
            (make, f"Create {name} without blocking clients{when(is_new)}."),
            (ops.DropConstraintOp(conv(name), table, type_="unique", schema="public", if_exists=True), f"Drop {name}."),
            is_new=is_new,
            undo_after=not is_new,
        )

    def _write_rule(self, change: MigrateOperation) -> None:
        is_new = not isinstance(change, ops.DropConstraintOp)
        made: Any = change.reverse() if isinstance(change, ops.DropConstraintOp) else change
        is_key = isinstance(made, ops.CreateForeignKeyOp)
        name, table = str(made.constraint_name), made.source_table if is_key else made.table_name
        made.constraint_name, kind = conv(name), "foreignkey" if is_key else "check"
        self.quick.add(
            (for_new_rows(made), f"Add {name} for new rows only."),
            (
                ops.DropConstraintOp(conv(name), table, type_=kind, schema="public", if_exists=True),
                f"Drop {name}.",
            ),
            is_new=is_new,
        )
        validate = ValidateConstraint(name, table, "public", tolerate_rows=not is_new)
        if is_new:
            self.patient.up.append(validate)
            self.patient.said.append(
                (f"Validate {name} without blocking clients.", f"{name} is dropped by the previous revision.")
            )
        else:
            self.quick.after.append(validate)

    def _write_description(self, change: Any) -> None:
        name = change.table_name
        if isinstance(change, ops.AlterColumnOp):
            name = f"{name}.{change.column_name}"
            check_alterable(change, name)
        change.schema = "public"
        self.quick.add(
            (change, f"Change the default or comment of {name}."),
            (change.reverse(), f"Restore the default or comment of {name}."),
            is_new=True,
        )

    def _stays_with_parked_columns(self, change: MigrateOperation) -> bool:
        """Return whether a change would drop a constraint or index on parked columns only, which stays with them."""
        if not isinstance(change, ops.DropIndexOp | ops.DropConstraintOp):
            return False
        made: Any = change.reverse()
        dropped: SchemaItem = made.to_index() if isinstance(change, ops.DropIndexOp) else made.to_constraint()
        columns = {(change.table_name, column) for column in columns_of(dropped)}
        table = context.get_context().opts["target_metadata"].tables.get(change.table_name)
        kept = {(change.table_name, column) for column in table.c.keys()} if table is not None else set()  # noqa: SIM118
        return bool(columns & self._parked) and not columns & kept


def when(on_the_way_up: bool) -> str:
    """Return the words that say when an operation of the patient revision runs."""
    return "" if on_the_way_up else " after the version is removed"


def check_alterable(change: ops.AlterColumnOp, name: str) -> None:
    """Refuse a change to a column that would read every row, or whose downgrade the rows could prevent.

    Raises:
        RevisionError: With what to do instead.
    """
    if change.modify_type is not None:
        raise RevisionError(
            f"{name} changes its type, and the downgrade could lose values; add a new column, fill it in pages, and "
            f"park the old one in a later revision ({PAGE})."
        )
    if change.modify_nullable is False:
        raise RevisionError(
            f"{name} becomes NOT NULL, which existing rows may violate; fill it, then add a NOT VALID check that it is "
            f"not null, and validate it in the next revision ({PAGE})."
        )
    if change.modify_nullable is True:
        raise RevisionError(
            f"{name} becomes nullable, and the downgrade could not refuse nulls that were written in the meantime; add "
            f"a nullable column, and park the old one in a later revision ({PAGE})."
        )


def flattened(container: ops.OpContainer) -> Iterator[MigrateOperation]:
    """Yield the operations, including those that are grouped by table."""
    for each in container.ops:
        if isinstance(each, ops.OpContainer):
            yield from flattened(each)
        else:
            yield each


def is_index_of(change: MigrateOperation, table: str) -> bool:
    """Return whether a change is about an index of a table."""
    return isinstance(change, ops.CreateIndexOp | ops.DropIndexOp) and change.table_name == table


def plain_column(column: Column[Any]) -> Column[Any]:
    """Return a copy of a column without its keys and index, which other operations make."""
    return Column(
        column.name,
        column.type,
        server_default=column.server_default,
        nullable=column.nullable,
        comment=column.comment,
    )


def for_new_rows(rule: Any) -> MigrateOperation:
    """Return the operation that adds a check or a foreign key NOT VALID, with the schemas that the models leave out."""
    rule.kw["postgresql_not_valid"] = True
    if isinstance(rule, ops.CreateForeignKeyOp):
        rule.kw["source_schema"] = "public"
        rule.kw["referent_schema"] = rule.kw.get("referent_schema") or "public"
    else:
        rule.schema = "public"
    return rule  # type: ignore[no-any-return]


def sort_by_minute(scripts: ScriptDirectory) -> None:
    """Give each file that Alembic writes its own minute, later than that of the last revision.

    The minute keeps the folder in the order of the history, and the Supabase CLI identifies a migration by it. Alembic
    has no public way to set it.
    """
    head = scripts.get_revision("head")
    last = datetime.datetime.strptime(Path(head.path).name[:15], MINUTE).replace(tzinfo=datetime.UTC)
    now = datetime.datetime.now(datetime.UTC)

    def next_minute() -> datetime.datetime:
        nonlocal last
        last = max(now, last + datetime.timedelta(minutes=1))
        return last

    scripts._generate_create_date = next_minute  # type: ignore[method-assign]


write_finished_revisions = Rewriter()


@write_finished_revisions.rewrites(ops.MigrationScript)
def finish(_context: MigrationContext, _revision: Any, script: MigrationScript) -> list[MigrationScript]:
    """Replace the operations that Alembic would write with finished revisions.

    Raises:
        RevisionError: A change can't be made or undone without a loss, or no message was given.
    """
    autogenerated = getattr(context.config.cmd_opts, "autogenerate", None)
    upgrade = script.upgrade_ops
    # `alembic check` comes here too, without a message.
    if upgrade is None or (script.message is None and autogenerated is None):
        return [script]
    if script.message is None:
        raise RevisionError("A revision needs a message that says what it changes, such as -m 'add mood to journal'.")
    sort_by_minute(context.script)
    if upgrade.is_empty():
        if not autogenerated:
            return [script]
        print("The models and the database agree: there is nothing to generate.", file=sys.stderr)
        return []
    # The first one keeps what the command was given: its identifier and its place in the history.
    quick, *later = Writer().write(upgrade)
    script.upgrade_ops = ops.UpgradeOps(quick.up)
    script.downgrade_ops = ops.DowngradeOps(quick.down[::-1])
    scripts = [script]
    for revision in later:
        message = f"{script.message}: {revision.suffix}"
        down = ops.DowngradeOps(revision.down[::-1])
        scripts.append(MigrationScript(rev_id(), ops.UpgradeOps(revision.up), down, message=message, head="head"))
    context.config.attributes[PARTS] = {
        each.rev_id: parts_of(revision) for each, revision in zip(scripts, (quick, *later), strict=True)
    }
    return scripts


def parts_of(revision: Revision) -> dict[str, Any]:
    """Return the parts of a revision's file that Alembic doesn't have, for script.py.mako."""
    after = render_python_code(ops.DowngradeOps(revision.after[::-1])) if revision.after else ""
    return {
        "creates": tuple(revision.creates),
        "parks": tuple(revision.parks),
        "upgrade": docstring([up for up, _ in revision.said], "Make the change; anything parked is taken back."),
        "downgrade": docstring([down for _, down in revision.said[::-1]], "Undo the change without losing a value."),
        "after_downgrade": after,
    }


def docstring(sentences: list[str], summary: str) -> str:
    """Return the text of a docstring: a single sentence, or a summary and the sentences."""
    if len(sentences) == 1 and len(sentences[0]) <= MAX_SUMMARY:
        return sentences[0]
    lines = textwrap.wrap(" ".join(sentences), MAX_LINE - 4)
    return "\n    ".join([summary, "", *lines]).replace("\n    \n", "\n\n") + "\n    "
