"""The statements of the backfill: find the missing user-days of some users, insert a page of them, look again."""

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import (
    ARRAY,
    UUID,
    Column,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    Interval,
    MetaData,
    Select,
    Table,
    TableValuedAlias,
    bindparam,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.selectable import LateralFromClause

from momentum.backfill.days import ONE_DAY, DayRange
from momentum.backfill.eligibility import ACCOUNTS, ActiveUser, bind_users, had_event, users_parameter
from momentum.database import reason
from momentum.scores import ScoreTable

# Errors in the data of a row: a value that does not fit (22), a broken constraint (23), a trigger's objection (P0001).
DATA_ERRORS = ("22", "23", "P0001")


class UserDay(NamedTuple):
    """A user on a UTC day."""

    user_id: uuid.UUID
    day: datetime.date


@dataclass(frozen=True)
class Gaps:
    """What some users lack.

    Attributes:
        users: How many of them have an eligible day at all.
        eligible: On how many user-days they are eligible.
        missing: Which of these have no row.
    """

    users: int
    eligible: int
    missing: list[UserDay]


@dataclass
class PageResult:
    """What became of the rows of a page; each of its user-days is counted once.

    Attributes:
        inserted: Rows inserted.
        raced: Rows that somebody else had inserted by then.
        gone: User-days of users who were removed meanwhile and so are eligible no more.
        failed: User-days that have no row, with the reason.
    """

    inserted: int = 0
    raced: int = 0
    gone: int = 0
    failed: list[tuple[UserDay, str]] = field(default_factory=list)

    def add(self, other: "PageResult") -> None:
        """Add what became of other rows."""
        self.inserted += other.inserted
        self.raced += other.raced
        self.gone += other.gone
        self.failed += other.failed


class Pages:
    """The statements for one score table and one range."""

    def __init__(
        self, scores: ScoreTable, days: DayRange, *, started_at: datetime.datetime, active_within: int | None
    ) -> None:
        schema, _, name = scores.relation.partition(".")
        self._day = literal_column(scores.layout.day, Date)
        self._table = Table(
            name, MetaData(), Column("user_id", UUID), *(Column(name) for name in scores.default_row), schema=schema
        )
        self._default_row = scores.default_row
        self._find = self._find_statement(days, started_at, active_within)
        self._insert = self._insert_statement()
        self._look_again = self._look_again_statement()

    def find_missing(self, connection: Connection, users: Sequence[ActiveUser]) -> Gaps:
        """Return what some users lack; who was removed since the start of the run is left out."""
        rows = connection.execute(self._find, bind_users(users)).all()
        missing = [UserDay(row.id, day) for row in rows for day in row.missing or ()]
        return Gaps(len(rows), sum(row.eligible for row in rows), missing)

    def insert(self, connection: Connection, rows: Sequence[UserDay]) -> PageResult:
        """Insert the default rows of a page inside the open transaction.

        A row that exists by now is skipped. If the server objects to the data of a row, the page is halved until that
        row is alone; any other error is raised.

        Raises:
            sqlalchemy.exc.DBAPIError: The server refused for another reason than the data of a row.
        """
        try:
            with connection.begin_nested():
                inserted = {UserDay(row.user_id, row.day) for row in connection.execute(self._insert, bind_rows(rows))}
        except DBAPIError as error:
            code = getattr(error.orig, "sqlstate", None) or ""
            if not code.startswith(DATA_ERRORS):
                raise
            if len(rows) == 1:
                return self._explain(connection, rows, f"{code} {reason(error, connection.engine.url)}")
            half = len(rows) // 2
            result = self.insert(connection, rows[:half])
            result.add(self.insert(connection, rows[half:]))
            return result
        result = PageResult()
        if len(inserted) < len(rows):
            result = self._explain(connection, [row for row in rows if row not in inserted], "not inserted, no error")
        result.inserted = len(inserted)
        return result

    def _insert_statement(self) -> ReturningInsert[tuple[uuid.UUID, datetime.date]]:
        """Return the INSERT of a page's default rows; it returns the user-days that it inserted."""
        missing = rows_parameter()
        row: dict[str, ColumnElement[object]] = {"user_id": missing.c.user_id}
        row |= {name: literal_column(expression) for name, expression in self._default_row.items()}
        source = select(*row.values()).select_from(missing.join(ACCOUNTS, ACCOUNTS.c.id == missing.c.user_id))
        return (
            insert(self._table)
            .from_select(list(row), source, include_defaults=False)
            .on_conflict_do_nothing(index_elements=[self._table.c.user_id, text(str(self._day))])
            .returning(self._table.c.user_id, self._day.label("day"))
        )

    def _explain(self, connection: Connection, rows: Sequence[UserDay], message: str) -> PageResult:
        """Look at rows that were not inserted, and say what became of each."""
        result = PageResult()
        for row in connection.execute(self._look_again, bind_rows(rows)):
            if row.present:
                result.raced += 1
            elif row.user_exists:
                result.failed.append((UserDay(row.user_id, row.day), message.strip()))
            else:
                result.gone += 1
        return result

    def _present(self, user_id: ColumnElement[uuid.UUID], day: ColumnElement[datetime.date]) -> LateralFromClause:
        """Return a lateral query with one row where a user has a score on a day.

        The LIMIT is a fence: it makes the planner look up each user-day in the unique index. Without it a plan that
        reads the whole table for every page looks cheaper, above all when the table's statistics are old.
        """
        found = select(literal(True).label("found")).select_from(self._table)
        found = found.where(self._table.c.user_id == user_id, self._day == day).limit(1)
        return found.lateral("present")

    def _find_statement(
        self, days: DayRange, started_at: datetime.datetime, active_within: int | None
    ) -> Select[tuple[uuid.UUID, int, list[datetime.date] | None]]:
        """Return the anti-join: for each user the number of eligible days, and the days without a row."""
        users = users_parameter()
        # Without a time zone, so that no session's summer time can stretch or shrink a day.
        moments = (
            func.generate_series(
                cast(users.c.first_day, DateTime), cast(literal(days.last, Date), DateTime), literal(ONE_DAY, Interval)
            )
            .table_valued(column("moment"))
            .render_derived(name="days")
        )
        day = cast(moments.c.moment, Date)
        present = self._present(users.c.id, day)
        statement = (
            select(
                users.c.id,
                func.count().label("eligible"),
                func.array_agg(aggregate_order_by(day, day)).filter(present.c.found.is_(None)).label("missing"),
            )
            .select_from(
                users.join(ACCOUNTS, ACCOUNTS.c.id == users.c.id).join(moments, true()).outerjoin(present, true())
            )
            .group_by(users.c.id)
            .order_by(users.c.id)
        )
        if active_within is not None:
            statement = statement.where(users.c.recently_seen | had_event(users.c.id, day, active_within, started_at))
        return statement

    def _look_again_statement(self) -> Select[tuple[uuid.UUID, datetime.date, bool, bool]]:
        """Return the query that tells, of user-days, whether they have a row and whether the user is still there."""
        rows = rows_parameter()
        present = self._present(rows.c.user_id, rows.c.day)
        return select(
            rows.c.user_id,
            rows.c.day,
            present.c.found.is_not(None).label("present"),
            ACCOUNTS.c.id.is_not(None).label("user_exists"),
        ).select_from(rows.outerjoin(ACCOUNTS, ACCOUNTS.c.id == rows.c.user_id).outerjoin(present, true()))


def rows_parameter() -> TableValuedAlias:
    """Return user-days as a table ``missing (user_id, day)``, to be bound by ``bind_rows``."""
    return (
        func.unnest(bindparam("user_ids", type_=ARRAY(UUID)), bindparam("days", type_=ARRAY(Date)))
        .table_valued(column("user_id", UUID), column("day", Date))
        .render_derived(name="missing")
    )


def bind_rows(rows: Sequence[UserDay]) -> dict[str, list[object]]:
    """Return the parameters of ``rows_parameter``."""
    return {"user_ids": [row.user_id for row in rows], "days": [row.day for row in rows]}
