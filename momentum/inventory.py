"""Inventory of everything that the migrations create in a database, derived from the models where possible.

The preflight, parking, purge, ``momentum.verify`` and autogenerate use it. A table added to the models is in it.
"""

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from momentum.models import Base, DailyMomentumScore
from momentum.scores import FRESH_LAYOUT, LAYOUTS, SCHEMAS, TABLE_NAME

# The schema that no client may use: the migrations' records, the trigger function, and parked tables.
PRIVATE_SCHEMA = "momentum_internal"

# In the private schema: Alembic's version, the record of the score table, the rows that other rows have superseded, and
# the record of which rows of predecessors were copied.
VERSION_TABLE = "alembic_version"
SCORE_RECORD = "score_table"
SUPERSEDED = "superseded_scores"
PREDECESSOR_ROWS = "predecessor_rows"
TRIGGER_FUNCTION = "set_updated_at"
PRIVATE_TABLES = (VERSION_TABLE, SCORE_RECORD, SUPERSEDED, PREDECESSOR_ROWS)
PRIVATE_FUNCTIONS = (TRIGGER_FUNCTION,)

# Also in the private schema, but only after an upgrade with access=keep: the record of what it has carried over.
KEPT_ACCESS = "kept_access"

# Prefixes of the names of parked columns, and of parked predecessors of tables and views.
PARKED_PREFIX = "parked_"
PREDECESSOR_PREFIX = "predecessor_"

# The mapped tables, each after those that it refers to, and the view; they are in public.
TABLES = tuple(table.name for table in Base.metadata.sorted_tables)
VIEW: str = DailyMomentumScore.__table__.name

# The schema and the relations that are created if there is no score table to adopt.
FRESH_SCHEMA = SCHEMAS[0]
FRESH_SCORES = (TABLE_NAME, f"pk_{TABLE_NAME}", FRESH_LAYOUT.key)

# The keys that the migrations give a score table, by the names of the layouts.
SCORE_KEYS = {layout.name: layout.key for layout in LAYOUTS}

# The tables that the app's earlier migrations may have created under our names. That is history, and the revision that
# copies their rows repeats it: a table added later has no predecessor.
PREDECESSORS = ("momentum_pillars", "momentum_events", "motivation_journal", "habit_index")


def private(name: str) -> str:
    """Return the name of something in the private schema, with the schema."""
    return f"{PRIVATE_SCHEMA}.{name}"


def column_types(table: Table) -> dict[str, str]:
    """Return the types of a table's columns as ``format_type`` writes them, without a length or precision."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return {column.name: column.type.compile(dialect).lower().partition("(")[0] for column in table.columns}


def required_columns(table: Table) -> list[str]:
    """Return the columns without which a row of a predecessor can't be copied: the key, and those without a default."""
    return [
        column.name
        for column in table.columns
        if column.primary_key or not (column.nullable or column.server_default is not None)
    ]
