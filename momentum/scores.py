"""The layouts of the legacy score table: its day, score and breakdown columns, its key, its default row.

A new layout takes one more ``Layout`` in ``LAYOUTS`` and one revision that adopts, indexes and shows such a table. The
revisions carry their own sealed SQL; all other code uses the attributes of a layout and never asks which one it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, text

from momentum.connect.pipeline import Answer, ask
from momentum.errors import NotMigratedError, PreflightError

TABLE_NAME = "daily_engagement_scores"
SCHEMAS = ("legacy", "public")

# The schema and layout of a score table, for scripts, which can't look for themselves; ``fresh`` is a database without
# one. These are LAYOUTS in SCHEMAS, written out because type checkers can't compute them.
ScoresOption = Literal["fresh", "legacy.seed", "public.seed", "legacy.production", "public.production"]

# Kinds of relations, as pg_class abbreviates them.
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

# The name of the row's day in the expressions of a default row.
DAY_OF_ROW = re.compile(r"\bday\b")

# The same expression as in the unique index and in the view, so that a search by day is an index scan.
UTC_DAY = "((score_ts at time zone 'UTC')::date)"


@dataclass(frozen=True)
class Layout:
    """The columns of a score table and their meaning.

    Attributes:
        name: The layout's name in ``momentum_internal.score_table`` and in the option ``scores=``.
        columns: The columns that the view and the backfill depend on, with their types.
        moment: The column that the day is derived from.
        day: The SQL expression of a row's UTC day, as in the unique key.
        indexed_day: The same expression as the server prints it in the definition of an index.
        key: The name of the unique key over user and day, if the migrations make it.
        score: The column of the score in points, 0 to 100.
        breakdown: The column with the JSON object that explains the score.
        default_row: The columns of the row that the backfill inserts, with an SQL expression for each; ``day`` in an
            expression is the day of the row.
        moves_superseded: Whether an upgrade may move rows aside, all but the latest per user and day, to make the key.
            If not, a table with several rows per user and day is refused.
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
    moves_superseded: bool

    def day_in(self, relation: str) -> str:
        """Return ``day`` qualified with a relation's name, for queries in which another relation has such a column."""
        return re.sub(rf"\b{self.moment}\b", f"{relation}.{self.moment}", self.day)

    @property
    def within_days(self) -> str:
        """The SQL condition of a row of the days from ``:first`` to ``:last``.

        It is for a scan: its bounds are computed once, whereas ``day`` has to be computed for each row.
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
    moves_superseded=True,
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
    # raw_score and normalized_score are 0 by default. The metadata is the layout's place for the origin of a row.
    default_row={
        "score_date": "day",
        "final_score": "0",
        "momentum_state": "'NeedsCare'",
        "breakdown": "'{}'::jsonb",
        "calculation_metadata": "jsonb_build_object('source', 'backfill')",
    },
    # The app's insert triggers would fire when the rows come back: each user would get push notifications again.
    moves_superseded=False,
)

LAYOUTS = (SEEDS_LAYOUT, PRODUCTION_LAYOUT)

# The layout of the table that the migrations create if there is none to adopt.
FRESH_LAYOUT = SEEDS_LAYOUT


@dataclass(frozen=True)
class ScoreTable:
    """The score table of a migrated database, as ``momentum_internal.score_table`` records it.

    Attributes:
        relation: Its name, with the schema.
        layout: Its layout.
        created: Whether the migrations created it.
        unique_index: The unique index over user and day, with the schema; none until there is one.
        created_index: Whether the migrations create or have created that index.
        exists: Whether a table of this name exists.
        audited: Whether it has the columns ``created_at`` and ``updated_at``, and both are moments.
    """

    relation: str
    layout: Layout
    created: bool
    unique_index: str | None
    created_index: bool
    exists: bool
    audited: bool

    @property
    def schema(self) -> str:
        """The schema that it is in."""
        return self.relation.partition(".")[0]

    @property
    def own_key(self) -> str:
        """The name, with the schema, of the unique key that the migrations create."""
        return f"{self.schema}.{self.layout.key}"

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
    """Return the relations that have the score table's name, in the schemas where it may be."""
    return [
        f"{schema}.{TABLE_NAME}"
        for schema in SCHEMAS
        if connection.scalar(text("select to_regclass(:name)"), {"name": f"{schema}.{TABLE_NAME}"})
    ]


def find_interference(connection: Connection, relation: str) -> Answer[str | None]:
    """Return what interferes with the rows of a table, and what to do about it; None if nothing does.

    The rows of a child are rows of its parent too, but no unique key covers both, and a row of one may have the ctid of
    a row of the other. A partition takes rows of its part only. A rule replaces a statement with another.
    """
    found = ask(
        connection,
        text("""
            select found.sentence
            from (
              select
                1 as place,
                i.inhseqno as number,
                pg_catalog.format(
                  '%1$s inherits from it, so that its rows are rows of both, and no unique key covers both; separate '
                  'them with: alter table %1$s no inherit %2$s',
                  cast(i.inhrelid as regclass), i.inhparent::regclass
                ) as sentence
              from pg_catalog.pg_inherits as i
              where i.inhparent = pg_catalog.to_regclass(:relation)
              union all
              select
                2,
                i.inhseqno,
                pg_catalog.format(
                  'it is a partition of %1$s, and takes only the rows of its part; detach it with: '
                  'alter table %1$s detach partition %2$s',
                  i.inhparent::regclass, i.inhrelid::regclass
                )
              from pg_catalog.pg_inherits as i
              inner join pg_catalog.pg_class as c on i.inhrelid = c.oid and c.relispartition
              where i.inhrelid = pg_catalog.to_regclass(:relation)
              union all
              -- Even a disabled rule for updates keeps INSERT ... ON CONFLICT from working.
              select
                3,
                0,
                pg_catalog.format(
                  'its rule %1$I would replace statements with others; drop it with: drop rule %1$I on %2$s',
                  w.rulename, w.ev_class::regclass
                )
              from pg_catalog.pg_rewrite as w
              where w.ev_class = pg_catalog.to_regclass(:relation)
            ) as found
            order by found.place, found.number, found.sentence
            limit 1
        """),
        {"relation": relation},
    )
    return found.then(
        lambda rows: f"{relation} can't be relied on: {rows[0].sentence}; then try again." if rows else None
    )


def find_layout(connection: Connection, relation: str) -> Layout:
    """Return the layout of a relation, recognized by its columns.

    Raises:
        PreflightError: It is not a plain table, its layout is unknown, a column has the wrong type, or no default row
            could be inserted.
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
            f"{relation} is a {RELATION_KINDS.get(str(kind), 'relation')}, not a table; move what is in the way, then "
            "try again."
        )
    if interference := find_interference(connection, relation).value:
        raise PreflightError(interference)
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
        raise PreflightError(f"{relation} has {columns}, which is no known layout; at least {expected} are expected.")
    for column, expected in layout.columns.items():
        if found[column] != expected:
            raise PreflightError(f"{relation}.{column} is of type {found[column]}; {expected} is expected.")
    generated = [row.name for row in rows if row.generated and row.name in layout.columns]
    if generated:
        raise PreflightError(
            f"{relation}.{generated[0]} is a generated column, which cannot be written to; make it a plain column, "
            "then try again."
        )
    needed = [r.name for r in rows if r.not_null and not r.has_default and r.name not in layout.columns]
    if needed:
        raise PreflightError(
            f"{relation}.{needed[0]} is not null and has no default, so no default row could be inserted; give it "
            "a default, then try again."
        )
    return layout


def find_score_table(connection: Connection) -> ScoreTable | None:
    """Return the score table that the migrations recorded; None if they have not got that far.

    Raises:
        NotMigratedError: Its layout is one that this version does not know.
    """
    if connection.scalar(text("select to_regclass('momentum_internal.score_table')")) is None:
        return None
    row = connection.execute(
        text("""
            select
              s.relation, s.layout, s.created_table, s.unique_index, s.created_index,
              to_regclass(s.relation) is not null as there,
              (
                select count(*) = 2
                from pg_catalog.pg_attribute as a
                where
                  a.attrelid = to_regclass(s.relation) and a.attname in ('created_at', 'updated_at')
                  -- Others can't be compared.
                  and a.atttypid in ('timestamp'::regtype, 'timestamptz'::regtype)
              ) as audited
            from momentum_internal.score_table as s
        """)
    ).one_or_none()
    if row is None:
        return None
    layout = next((known for known in LAYOUTS if known.name == row.layout), None)
    if layout is None:
        raise NotMigratedError(
            f"The score table {row.relation} has the layout {row.layout}, which this version does not know; use the "
            "version of the package that migrated the database."
        )
    return ScoreTable(
        row.relation, layout, row.created_table, row.unique_index, row.created_index, row.there, row.audited
    )


def read_score_table(connection: Connection) -> ScoreTable:
    """Return the score table that the migrations recorded, with its unique key.

    Raises:
        NotMigratedError: The migrations have not run, or not up to the score table's unique key.
    """
    scores = find_score_table(connection)
    if scores is None or not scores.exists or scores.unique_index is None:
        raise NotMigratedError("The database is not migrated; upgrade it to head with the momentum migrations first.")
    return scores
