"""What the Alembic environment of another service sees of this package's tables: nothing."""

from alembic.runtime.environment import IncludeObjectFn, NameFilterType
from sqlalchemy import Index, Table
from sqlalchemy.schema import SchemaItem

from momentum.base import external_metadata
from momentum.inventory import PRIVATE_SCHEMA, SCORE_KEYS
from momentum.models import Base
from momentum.scores import SCHEMAS, TABLE_NAME

# What the models map and what they refer to. A table without a schema stands in the first of the search path.
DECLARED = {
    (table.schema or "public", table.name)
    for metadata in (Base.metadata, external_metadata)
    for table in metadata.tables.values()
}


def hide_momentum_tables(include_object: IncludeObjectFn | None = None) -> IncludeObjectFn:
    """Return an ``include_object`` for ``context.configure`` that hides this package's tables from autogenerate.

    Hidden are the tables of the models, the view, ``auth.users``, the private schema, and the score table with its key
    where the service has no model of its own of it. Autogenerate would otherwise drop what it finds in the database and
    not in the service's models.

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
    """Tell whether a table is ours; the score table counts where it was found in the database and no model has it."""
    schema = table.schema or "public"
    return (
        (schema, table.name) in DECLARED
        or schema == PRIVATE_SCHEMA
        or (found and schema in SCHEMAS and table.name == TABLE_NAME)
    )


def is_our_key(index: Index) -> bool:
    """Tell whether an index is the key that the migrations give a score table."""
    return index.table is not None and index.table.name == TABLE_NAME and index.name in SCORE_KEYS.values()
