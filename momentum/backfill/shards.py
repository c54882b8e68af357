"""The statements of the backfill where Citus has distributed the score table over several servers, by user.

Citus passes a statement on only if each server can do its part alone. So every one is a join whose users are named on
both sides, and a transaction writes to a single shard. Citus takes no lateral query but a set of days for each user, no
EXISTS together with such a set, and neither LIMIT nor a volatile function in INSERT ... SELECT: with one of them, it
would carry every row through the coordinator, ten times slower.
"""

import datetime
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    UUID,
    ColumnElement,
    Connection,
    Executable,
    FromClause,
    Integer,
    Select,
    Subquery,
    TableValuedAlias,
    and_,
    bindparam,
    func,
    select,
    text,
    true,
)

from momentum.backfill.eligibility import ACCOUNTS, EVENTS, NO_BITS, Eligibility
from momentum.backfill.ids import id_of
from momentum.backfill.pages import (
    BY_ID,
    Gaps,
    KeyRange,
    Named,
    Outcome,
    Pages,
    Row,
    UserDay,
    UserGap,
    Written,
    bind_rows,
    in_parameter,
    named_rows,
    written,
)
from momentum.connect.pipeline import Answer, Rows, ask
from momentum.scores import ScoreTable


class ShardedPages(Pages):
    """The statements for one score table and one range.

    Args:
        scores: The score table.
        eligibility: The users who should have rows, and on which days.
        takes_ids: Whether the rows' ids are made here, and not by the table's default, which Citus calls volatile.
    """

    def __init__(self, scores: ScoreTable, eligibility: Eligibility, *, takes_ids: bool = False) -> None:
        # Citus fires no triggers that might look at other rows, and takes no statement that changes rows in a query.
        super().__init__(scores, eligibility, own_path=False, takes_ids=takes_ids)
        self._insert_unkeyed = self._page_statement(self._conditions(), keyed=False)

    @property
    def is_spread(self) -> bool:
        """Whether other servers write the rows, each in a transaction of its own."""
        return True

    @property
    def rows_name_their_transaction(self) -> bool:
        """Whether ``find_written`` finds the rows of a transaction: each server numbers its own."""
        return self._takes_ids

    @property
    def may_scan(self) -> bool:
        """Whether ``find_by_scan`` returns the same: a scan would be another server's work."""
        return False

    def find_by_user(self, connection: Connection, keys: KeyRange | Sequence[uuid.UUID]) -> Answer[Gaps]:
        """Return the gaps of some users, by shard, and by user within each."""
        found = super().find_by_user(connection, keys).value
        statement = text("""
            select u.id, pg_catalog.get_shard_id_for_distribution_column(cast(:relation as regclass), u.id) as shard
            from pg_catalog.unnest(cast(:ids as uuid[])) as u (id)
        """)
        parameters = {"relation": self.relation, "ids": [gap.user_id for gap in found.gaps]}

        def by_shard(rows: Rows) -> Gaps:
            shards = {row.id: row.shard for row in rows}
            gaps = [gap._replace(shard=shards[gap.user_id]) for gap in found.gaps]
            return found._replace(gaps=sorted(gaps, key=lambda gap: (gap.shard, BY_ID(gap))))

        return ask(connection, statement, parameters).then(by_shard)

    def insert_page(
        self, connection: Connection, gaps: Sequence[UserGap], token: uuid.UUID, *, keyed: bool, is_first: bool
    ) -> Answer[Written]:
        """Insert the rows that some users of one shard lack; of the last one, as many as are known."""
        del is_first  # The server looks at no triggers.
        self._prepare(connection)
        # Keys that are missed later are found by the ids that were made here.
        keyed = keyed or not self._takes_ids
        parameters = {**self._gaps(gaps), **self._token(token)}
        if not self._eligibility.has_bits:
            last = gaps[-1].user_id
            parameters |= {"last": last, "most": sum(gap.missing for gap in gaps if gap.user_id == last)}
        # Such a statement can't say when the server began with it.
        clock = self.read_clock(connection)
        answer = ask(connection, self._insert_page if keyed else self._insert_unkeyed, parameters)
        return answer.then(lambda rows: Written(*read_rows(rows, keyed=keyed), clock.value))

    def look_again(self, connection: Connection, rows: Sequence[UserDay]) -> list[Outcome]:
        """Return for each user-day whether it has a row and whether the user is still active."""
        active = self.list_active(connection, [row.user_id for row in rows]).value
        present = self._present(connection, rows)
        return [Outcome(*row, row in present, row.user_id in active) for row in rows]

    def is_kept(self, connection: Connection, rows: Iterable[Row], transaction: int) -> bool:
        """Return whether the rows that a transaction inserted are there: each server has ids of its own."""
        del transaction
        expected = {UserDay(*row) for row in rows}
        return expected <= self._present(connection, sorted(expected))

    def find_written(
        self, connection: Connection, ids: Sequence[uuid.UUID], transaction: int, token: uuid.UUID
    ) -> Written | None:
        """Return the rows of some users that the transaction of a token inserted; None if there are none."""
        del transaction
        rows = self._rows(in_parameter)
        own = select(rows.c.user_id, rows.c.day).where(rows.c.id == id_of(rows.c.user_id, rows.c.day))
        found = ask(connection, own, {"ids": list(ids), **self._token(token)}).value
        return Written(*read_rows(found), 0.0) if found else None

    def _present(self, connection: Connection, rows: Sequence[UserDay]) -> set[UserDay]:
        """Return those of some user-days that have a row."""
        return {UserDay(*row) for row in connection.execute(self._look_again, bind_rows(rows))}

    def _counted(self, named: Named) -> Select[Any]:
        """Count each user's days, the eligible ones, and those of these without a row, by a join."""
        active = self._eligibility.active_users(*named(ACCOUNTS.c.id))
        rows = self._rows(named)
        days = self._eligibility.candidate_days(active)
        if not self._day_by_day:
            there = and_(rows.c.user_id == active.c.id, rows.c.day >= active.c.first_day)
            return (
                select(
                    active.c.id,
                    days,
                    days.label("eligible"),
                    (days - func.count(rows.c.user_id)).label("missing"),
                    self._eligibility.missing_bits(active, self._eligibility.bits_of(rows.c.day)),
                )
                .select_from(active.outerjoin(rows, there))
                .group_by(active.c.id, active.c.first_day)
            )
        source, day, is_eligible = self._with_days(active, named)
        return (
            select(
                active.c.id,
                days,
                func.count().filter(is_eligible).label("eligible"),
                func.count().filter(is_eligible & rows.c.user_id.is_(None)).label("missing"),
                NO_BITS.label("bits"),
            )
            .select_from(source.outerjoin(rows, and_(rows.c.user_id == active.c.id, rows.c.day == day)))
            .group_by(active.c.id, active.c.first_day)
        )

    def _present_by_day(self, named: Named) -> Select[Any]:
        """Return the query behind ``count_present_by_day``."""
        active = self._eligibility.active_users(*named(ACCOUNTS.c.id))
        rows = self._rows(named)
        source, day, is_eligible = self._with_days(active, named)
        there = and_(rows.c.user_id == active.c.id, rows.c.day == day)
        counted = select(rows.c.day, func.count().label("present")).select_from(source.join(rows, there))
        return counted.where(is_eligible).group_by(rows.c.day)

    def _missing(self) -> Select[Any]:
        """Return the anti-join: the user-days without a row of the users in the parameter, by user and day."""
        active = self._eligibility.active_users(*in_parameter(ACCOUNTS.c.id))
        rows = self._rows(in_parameter)
        source, day, is_eligible = self._with_days(active, in_parameter)
        return (
            select(active.c.id.label("user_id"), day.label("day"))
            .select_from(source.outerjoin(rows, and_(rows.c.user_id == active.c.id, rows.c.day == day)))
            .where(is_eligible, rows.c.user_id.is_(None))
            .order_by(active.c.id, day)
        )

    def _page_statement(self, conditions: Sequence[ColumnElement[bool]], *, keyed: bool = True) -> Executable:
        """Return the statement behind ``insert_page``, which returns the rows that it inserts, or only their days."""
        if self._eligibility.has_bits:
            return written(self._insert_statement(self._known(), keyed=keyed), conditions)
        found = self._missing().order_by(None).subquery("found")
        number = func.row_number().over(partition_by=found.c.user_id, order_by=found.c.day).label("number")
        numbered = select(found.c.user_id, found.c.day, number).subquery("numbered")
        is_known = (numbered.c.user_id != bindparam("last", type_=UUID)) | (
            numbered.c.number <= bindparam("most", type_=Integer)
        )
        missing = select(numbered.c.user_id, numbered.c.day).where(is_known)
        ordered = missing.order_by(numbered.c.user_id, numbered.c.day)
        return written(self._insert_statement(ordered, keyed=keyed), conditions)

    def _named_rows(self) -> Select[uuid.UUID, datetime.date]:
        """Return the user-days in the parameters whose users exist, by user and day."""
        rows = named_rows()
        return (
            select(ACCOUNTS.c.id.label("user_id"), rows.c.day)
            .select_from(rows.join(ACCOUNTS, ACCOUNTS.c.id == rows.c.user_id))
            .where(*in_parameter(ACCOUNTS.c.id, "user_ids"))
            .order_by(ACCOUNTS.c.id, rows.c.day)
        )

    def _look_again_statement(self) -> Select[Any]:
        """Return the query of those of the user-days in the parameters that have a row."""
        rows = named_rows()
        return select(self._table.c.user_id, rows.c.day).where(*self._is(rows))

    def _is(self, rows: TableValuedAlias) -> list[ColumnElement[bool]]:
        """Return the conditions of a named row."""
        return [*super()._is(rows), *in_parameter(self._table.c.user_id, "user_ids")]

    def _rows(self, named: Named) -> Subquery:
        """Return the rows of some users in the range as a table ``rows (user_id, day)``, with ids if there are any."""
        last = self._eligibility.last
        first = self._eligibility.first
        more = [self._table.c.id] if self._takes_ids else []
        rows = select(self._table.c.user_id, self._day.label("day"), *more)
        return rows.where(*named(self._table.c.user_id), self._day.between(first, last)).subquery("rows")

    def _with_days(
        self, active: FromClause, named: Named
    ) -> tuple[FromClause, ColumnElement[Any], ColumnElement[bool]]:
        """Return active users with their days since they joined, the day, and whether it is eligible."""
        days = replace(self._eligibility, active_within=None).days_of(active).correlate(active).lateral("days")
        source: FromClause = active.join(days, true())
        if not self._day_by_day:
            return source, days.c.day, true()
        by_event = self._eligibility.days_by_event(*named(EVENTS.c.user_id)).subquery("by_event")
        source = source.outerjoin(by_event, and_(by_event.c.user_id == active.c.id, by_event.c.day == days.c.day))
        return source, days.c.day, active.c.recently_seen | by_event.c.user_id.is_not(None)


def read_rows(rows: Rows, *, keyed: bool = True) -> tuple[Counter[datetime.date], list[Row] | None]:
    """Return the number of rows by day, and the rows if their keys are there."""
    return Counter(row.day for row in rows), [tuple(row) for row in rows] if keyed else None
