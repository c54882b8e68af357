"""The layouts of the legacy score table: which column is the day, the score, the breakdown; its key and default row.

The revisions carry their own sealed SQL; this is what the preflight and the backfill go by. A new layout is one more
``Layout`` here, one more branch in the revision that finds the score table, and one more in the view's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from momentum.errors import NotMigratedError, PreflightError

TABLE_NAME = "daily_engagement_scores"
SCHEMAS = ("legacy", "public")

# What pg_class calls the kinds of relations.
RELATION_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "i": "index",
    "I": "index",
    "S": "sequence",
    "f": "foreign table",
    "c": "type",
}

# What an expression of a default row calls the day of the row.
DAY_OF_ROW = re.compile(r"\bday\b")

# The same expression as in the unique index and in the view, so that a search by day is an index scan.
UTC_DAY = "((score_ts at time zone 'UTC')::date)"


@dataclass(frozen=True)
class Layout:
    """What a score table of a layout looks like.

    Attributes:
        name: What ``momentum_internal.score_table`` calls it.
        columns: The columns that the view and the backfill rest on, with their types.
        moment: The column that the day is told by.
        day: The SQL expression of a row's UTC day, as the unique key has it.
        indexed_day: The same as the server writes it when it is asked for an index's columns.
        key: What the unique key is called if the migrations make it.
        score: The column of the score in points, 0 to 100.
        breakdown: The column of the JSON object that says how the score came about.
        default_row: The columns of the row that the backfill inserts, with the SQL expression of each; ``day`` in an
            expression is the day of the row.
    """

    name: str
    columns: Mapping[str, str]
    moment: str
    day: str
    indexed_day: str
    key: str
    score: str
    breakdown: str
    default_row: Mapping[str, str]

    def day_in(self, relation: str) -> str:
        """Return ``day`` with the name of its relation, for a query where another relation has such a column too."""
        return re.sub(rf"\b{self.moment}\b", f"{relation}.{self.moment}", self.day)

    @property
    def within_days(self) -> str:
        """The SQL condition of a row of the days from ``:first`` to ``:last``.

        It is for a scan: its bounds are worked out once, while ``day`` has to be worked out for each row.
        """
        days = ("cast(:first as date)", "(cast(:last as date) + 1)")
        begin, end = (DAY_OF_ROW.sub(day, self.default_row[self.moment]) for day in days)
        return f"({self.moment} >= {begin} and {self.moment} < {end})"


SEEDS_LAYOUT = Layout(
    name="seed",
    columns={
        "user_id": "uuid",
        "score_ts": "timestamp with time zone",
        "score": "numeric",
        "pillar_breakdown": "jsonb",
    },
    moment="score_ts",
    day=UTC_DAY,
    indexed_day="(((score_ts AT TIME ZONE 'UTC'::text))::date)",
    key=f"uq_{TABLE_NAME}_user_id_utc_day",
    score="score",
    breakdown="pillar_breakdown",
    default_row={
        "score_ts": "(day::timestamp at time zone 'UTC')",
        "score": "0",
        "pillar_breakdown": "'{}'::jsonb",
    },
)

PRODUCTION_LAYOUT = Layout(
    name="production",
    columns={
        "user_id": "uuid",
        "score_date": "date",
        "final_score": "numeric",
        "breakdown": "jsonb",
        "momentum_state": "text",
        "calculation_metadata": "jsonb",
    },
    moment="score_date",
    day="score_date",
    indexed_day="score_date",
    key=f"uq_{TABLE_NAME}_user_id_score_date",
    score="final_score",
    breakdown="breakdown",
    # raw_score and normalized_score are 0 by default. The metadata is the layout's place for where a row comes from.
    default_row={
        "score_date": "day",
        "final_score": "0",
        "momentum_state": "'NeedsCare'",
        "breakdown": "'{}'::jsonb",
        "calculation_metadata": "jsonb_build_object('source', 'backfill')",
    },
)

LAYOUTS = (SEEDS_LAYOUT, PRODUCTION_LAYOUT)


@dataclass(frozen=True)
class ScoreTable:
    """The score table of a migrated database, as ``momentum_internal.score_table`` records it.

    Attributes:
        relation: Where it stands.
        layout: How it looks.
        created: Whether the migrations made it.
        audited: Whether it says when a row was made and when it last changed.
    """

    relation: str
    layout: Layout
    created: bool
    audited: bool

    @property
    def default_row(self) -> dict[str, str]:
        """The columns and expressions of a default row; a table of our own also says that the backfill made it."""
        return {**self.layout.default_row, **({"source": "'backfill'"} if self.created else {})}

    def untouched(self, day: str) -> list[str]:
        """Return the SQL conditions of a row that is still the default row of a day.

        Args:
            day: The SQL expression of that day.
        """
        still = [f"{TABLE_NAME}.{name} = {DAY_OF_ROW.sub(day, value)}" for name, value in self.default_row.items()]
        return [*still, f"{TABLE_NAME}.updated_at = {TABLE_NAME}.created_at"] if self.audited else still


def find_candidates(connection: Connection) -> list[str]:
    """Return the relations that are named like the score table, in the schemas where one may stand."""
    return [
        f"{schema}.{TABLE_NAME}"
        for schema in SCHEMAS
        if connection.scalar(text("select to_regclass(:name)"), {"name": f"{schema}.{TABLE_NAME}"})
    ]


def find_layout(connection: Connection, relation: str) -> Layout:
    """Return the layout of a relation, told by its columns.

    Raises:
        PreflightError: It is not a table, has the layout of none, a column has the wrong type, or a default row could
            not be inserted.
    """
    kind = connection.scalar(
        text("select relkind from pg_catalog.pg_class where oid = to_regclass(:r)"), {"r": relation}
    )
    if kind == "p":
        raise PreflightError(
            f"{relation} is a partitioned table, on which a unique key over user and day cannot be relied on; put its "
            "rows into one plain table, then try again."
        )
    if kind != "r":
        raise PreflightError(
            f"{relation} is a {RELATION_KINDS.get(str(kind), 'relation')} and no table; move what is in the way, then "
            "try again."
        )
    rows = connection.execute(
        text("""
            select a.attname as name, pg_catalog.format_type(a.atttypid, null) as type,
              a.attnotnull or t.typnotnull as not_null,
              a.atthasdef or a.attidentity <> '' or t.typdefault is not null as has_default,
              a.attgenerated <> '' as generated
            from pg_catalog.pg_attribute as a
            inner join pg_catalog.pg_type as t on a.atttypid = t.oid
            where a.attrelid = to_regclass(:relation) and a.attnum > 0 and not a.attisdropped
            order by a.attnum
        """),
        {"relation": relation},
    ).all()
    found = {row.name: row.type for row in rows}
    layout = next((known for known in LAYOUTS if known.columns.keys() <= found.keys()), None)
    if layout is None:
        expected = " or ".join(", ".join(known.columns) for known in LAYOUTS)
        columns = f"the columns {', '.join(found)}" if found else "no columns"
        raise PreflightError(f"{relation} has {columns}, which is no known layout; expected are at least {expected}.")
    for column, expected in layout.columns.items():
        if found[column] != expected:
            raise PreflightError(f"{relation}.{column} is of type {found[column]}; {expected} is expected.")
    generated = [row.name for row in rows if row.generated and row.name in layout.columns]
    if generated:
        raise PreflightError(
            f"{relation}.{generated[0]} is a generated column, into which nothing can be written; make it a plain "
            "column, then try again."
        )
    needed = [r.name for r in rows if r.not_null and not r.has_default and r.name not in layout.columns]
    if needed:
        raise PreflightError(
            f"{relation}.{needed[0]} is not null and has no default, so no default row could be inserted; give it "
            "a default, then try again."
        )
    return layout


def read_score_table(connection: Connection) -> ScoreTable:
    """Return what the migrations recorded of the score table.

    Raises:
        NotMigratedError: They have not run, or not up to the score table's unique key.
    """
    row = None
    if connection.scalar(text("select to_regclass('momentum_internal.score_table')")) is not None:
        row = connection.execute(
            text("""
                select s.relation, s.layout, s.created_table,
                  to_regclass(s.relation) is not null and s.unique_index is not null as there,
                  (
                    select count(*) = 2
                    from pg_catalog.pg_attribute as a
                    where a.attrelid = to_regclass(s.relation) and a.attname in ('created_at', 'updated_at')
                  ) as audited
                from momentum_internal.score_table as s
            """)
        ).one_or_none()
    if row is None or not row.there:
        raise NotMigratedError("The database is not migrated; upgrade it to head with the momentum migrations first.")
    layout = next(known for known in LAYOUTS if known.name == row.layout)
    return ScoreTable(row.relation, layout, row.created_table, row.audited)
