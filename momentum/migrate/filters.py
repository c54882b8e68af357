"""Filters for autogenerate: it sees only our objects here, and none of them in another service's environment."""

import re
from functools import cached_property

from alembic.runtime.environment import IncludeObjectFn, NameFilterType
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, Table
from sqlalchemy.schema import ColumnCollectionConstraint, SchemaItem

from momentum.base import external_metadata
from momentum.inventory import PARKED_PREFIX, PRIVATE_SCHEMA, SCORE_KEYS
from momentum.models import Base
from momentum.scores import SCHEMAS, TABLE_NAME

# The tables that the models map or refer to. A table without a schema is in the first schema of the search path.
DECLARED = {
    (table.schema or "public", table.name)
    for metadata in (Base.metadata, external_metadata)
    for table in metadata.tables.values()
}


def hide_momentum_tables(include_object: IncludeObjectFn | None = None) -> IncludeObjectFn:
    """Return an ``include_object`` for ``context.configure`` that hides this package's tables from autogenerate.

    It hides the tables of the models, the view, ``auth.users`` and the private schema, and also the score table and its
    key unless the service has its own model of it. Autogenerate would otherwise drop them, because they are in the
    database and not in the service's models.

    Args:
        include_object: The service's own function, which is asked about everything else.
    """

    def include(
        obj: SchemaItem, name: str | None, kind: NameFilterType, reflected: bool, compare_to: SchemaItem | None
    ) -> bool:
        if isinstance(obj, Table) and is_our_table(obj, found=reflected):
            return False
        if isinstance(obj, Index) and reflected and is_our_key(obj):
            return False
        return include_object is None or include_object(obj, name, kind, reflected, compare_to)

    return include


def is_our_table(table: Table, *, found: bool) -> bool:
    """Return whether a table is ours; the score table is if it was found in the database and no model maps it."""
    schema = table.schema or "public"
    return (
        (schema, table.name) in DECLARED
        or schema == PRIVATE_SCHEMA
        or (found and schema in SCHEMAS and table.name == TABLE_NAME)
    )


def is_our_key(index: Index) -> bool:
    """Return whether an index is the key that the migrations give a score table."""
    return index.table is not None and index.table.name == TABLE_NAME and index.name in SCORE_KEYS.values()


class OurObjects:
    """Filter that limits autogenerate to our tables, without their parked columns: it would drop anything else.

    Args:
        scripts: The revisions, which name the tables that no model has any more.
    """

    def __init__(self, scripts: ScriptDirectory) -> None:
        self._scripts = scripts

    @cached_property
    def _tables(self) -> set[str]:
        """The names of our tables, read when autogenerate first asks: an upgrade never does."""
        revisions = self._scripts.walk_revisions()
        return {name for each in revisions for name in getattr(each.module, "creates", ())} | set(Base.metadata.tables)

    def __call__(
        self, obj: SchemaItem, name: str | None, kind: NameFilterType, reflected: bool, compare_to: SchemaItem | None
    ) -> bool:
        """Return whether autogenerate should compare an object; Alembic calls it for each one."""
        del compare_to
        if kind == "table":
            return name in self._tables
        return not (reflected and any(column.startswith(PARKED_PREFIX) for column in columns_of(obj)))


def columns_of(obj: SchemaItem) -> set[str]:
    """Return the columns that an object is or refers to; for a check or an expression, every word in it."""
    match obj:
        case Column():
            return {obj.name}
        case CheckConstraint():
            return set(re.findall(r"\w+", str(obj.sqltext)))
        case ForeignKeyConstraint():
            return set(obj.column_keys)
        case ColumnCollectionConstraint():
            return set(obj.columns.keys())
        case Index():
            return {word for each in obj.expressions for word in re.findall(r"\w+", str(each).rpartition(".")[2])}
    return set()
