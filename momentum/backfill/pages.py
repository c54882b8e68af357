"""The statements of the backfill: find users with gaps, insert a page of their rows, look again, delete."""

import datetime
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    UUID,
    BigInteger,
    Boolean,
    Column,
    ColumnClause,
    ColumnElement,
    Connection,
    Date,
    Executable,
    FromClause,
    Integer,
    MetaData,
    Select,
    Table,
    TableValuedAlias,
    and_,
    bindparam,
    case,
    column,
    delete,
    func,
    literal,
    literal_column,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import array, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert

from momentum.backfill.eligibility import ACCOUNTS, NO_BITS, Eligibility
from momentum.backfill.ids import bind_token, id_of, new_token
from momentum.backfill.triggers import Fingerprint
from momentum.connect.pipeline import Answer, Rows, ask
from momentum.connect.settings import OWN_PATH, SEARCH_PATH, changes, own_path
from momentum.scores import ScoreTable


class UserDay(NamedTuple):
    """A user on a UTC day."""

    user_id: uuid.UUID
    day: datetime.date


# A user and a UTC day, as the driver returns them.
Row = tuple[uuid.UUID, datetime.date]


class Written(NamedTuple):
    """What a page has inserted.

    Attributes:
        by_day: The number of rows, by day.
        rows: The rows; None if their keys weren't asked for. A single server gives them all the same if it has
            inserted more or fewer than were expected.
        began: When the server began, in seconds by its clock.
    """

    by_day: Mapping[datetime.date, int]
    rows: Sequence[Row] | None
    began: float


class UserGap(NamedTuple):
    """A user and the number of eligible days without a row.

    Attributes:
        user_id: The user.
        missing: The number.
        bits: The days, the lowest bit being the first of the range; 0 if they can't be told by bits.
        shard: Where the rows are, if the score table is distributed: a transaction writes to one shard only.
    """

    user_id: uuid.UUID
    missing: int
    bits: int = 0
    shard: int = 0


class KeyRange(NamedTuple):
    """The users whose ids come after one id, up to and including another; None means no bound."""

    after: uuid.UUID | None
    upto: uuid.UUID | None


EVERYBODY = KeyRange(None, None)

# The key by which gaps are sorted by user: ten times as fast as comparing UUIDs.
BY_ID = attrgetter("user_id.int")

# The conditions of users, on any column that holds their ids.
Named = Callable[[ColumnElement[uuid.UUID]], list[ColumnElement[bool]]]


class Gaps(NamedTuple):
    """The gaps of some users.

    Attributes:
        users: How many of them have an eligible day.
        candidates: Their days in the range from the day each account was created, eligible or not.
        eligible: Their eligible user-days.
        gaps: Those with gaps and the number of days that each lacks, by id.
    """

    users: int
    candidates: int
    eligible: int
    gaps: list[UserGap]

    @property
    def missing(self) -> int:
        """The number of eligible user-days without a row."""
        return sum(gap.missing for gap in self.gaps)

    def and_also(self, others: "Gaps") -> "Gaps":
        """Return the gaps of these users and of others."""
        return Gaps(
            self.users + others.users,
            self.candidates + others.candidates,
            self.eligible + others.eligible,
            sorted(self.gaps + others.gaps, key=BY_ID),
        )


class Outcome(NamedTuple):
    """The state of a user-day that was not inserted: whether it has a row, and whether the user is active."""

    user_id: uuid.UUID
    day: datetime.date
    present: bool
    eligible: bool


class Pages:
    """The statements for one score table and one range.

    Args:
        scores: The score table.
        eligibility: The users who should have rows, and on which days.
        own_path: Whether code that isn't ours may run for a row, and so has to run under the session's own path.
        fingerprint: The state of everything that runs for a row: nothing is written once it has changed.
        takes_ids: Whether the rows' ids are made here, and not by the table's default.

    Attributes:
        relation: The score table, with its schema.
    """

    def __init__(
        self,
        scores: ScoreTable,
        eligibility: Eligibility,
        *,
        own_path: bool = True,
        fingerprint: Fingerprint | None = None,
        takes_ids: bool = False,
    ) -> None:
        self._own_path = own_path
        self._fingerprint = fingerprint
        self.relation = scores.relation
        schema, _, name = scores.relation.partition(".")
        self._layout = scores.layout
        self._day = literal_column(self._layout.day_in(name), Date)
        self._moment: ColumnClause[Any] = literal_column(scores.layout.moment)
        self._within = text(scores.layout.within_days).bindparams(
            first=eligibility.days.first, last=eligibility.days.last
        )
        self._table = Table(
            name,
            MetaData(),
            Column("id", UUID),
            Column("user_id", UUID),
            *(Column(name) for name in scores.default_row),
            schema=schema,
        )
        self._default_row = scores.default_row
        self._takes_ids = takes_ids
        self._untouched: list[ColumnElement[bool]] = [
            literal_column(f"({condition})") for condition in scores.untouched("named.day")
        ]
        self._eligibility = eligibility
        self._day_by_day = eligibility.active_within is not None
        self._insert_page = self._insert_next = self._page_statement(self._conditions())
        if fingerprint and fingerprint.is_kept_by_lock:
            self._insert_next = self._page_statement(self._conditions(is_first=False))
        self._insert_rows = written(self._insert_statement(self._named_rows()), self._conditions())
        self._list = self._missing()
        self._look_again = self._look_again_statement()
        self._delete = self._delete_statement()

    @property
    def state(self) -> str | None:
        """The state of everything that runs for a row, in which alone rows are written; None if it doesn't matter."""
        return self._fingerprint.found if self._fingerprint else None

    @property
    def is_spread(self) -> bool:
        """Whether other servers write the rows, each in a transaction of its own."""
        return False

    @property
    def rows_name_their_transaction(self) -> bool:
        """Whether ``find_written`` finds the rows of a transaction."""
        return True

    @property
    def may_scan(self) -> bool:
        """Whether ``find_by_scan`` returns the same: it does if users are eligible on all days since they joined."""
        return not self._day_by_day

    def new_token(self) -> uuid.UUID:
        """Return a token for a transaction, of which the ids of its rows are made."""
        return new_token(self._eligibility.now)

    def next_key(self, connection: Connection, after: uuid.UUID | None, number: int) -> uuid.UUID | None:
        """Return the id that comes a number of users after another one; None if there are fewer left."""
        statement = select(ACCOUNTS.c.id).order_by(ACCOUNTS.c.id).offset(number - 1).limit(1)
        statement = statement.where(*self._among_users())
        return connection.scalar(statement.where(*self._in_range(ACCOUNTS.c.id, KeyRange(after, None))))

    def count_after(self, connection: Connection, after: uuid.UUID | None, most: int) -> int:
        """Return the number of users after an id, but no more than a number."""
        users = select(ACCOUNTS.c.id).where(*self._among_users(), *self._in_range(ACCOUNTS.c.id, KeyRange(after, None)))
        return connection.scalar(select(func.count()).select_from(users.limit(most).subquery())) or 0

    def count_candidates(self, connection: Connection) -> Answer[int]:
        """Return the number of user-days of the range on which active users have an account, eligible or not."""
        active = self._eligibility.active_users()
        total = func.coalesce(func.sum(self._eligibility.candidate_days(active)), 0)
        return ask(connection, select(total)).then(lambda rows: int(rows[0][0]))

    def find_by_user(self, connection: Connection, keys: KeyRange | Sequence[uuid.UUID]) -> Answer[Gaps]:
        """Return the gaps of some users, looked up one by one; the cost grows with their rows in the range."""

        def named(key: ColumnElement[uuid.UUID]) -> list[ColumnElement[bool]]:
            if isinstance(keys, KeyRange):
                return self._in_range(key, keys)
            return [key == func.any(literal(list(keys), ARRAY(UUID)))]

        # A fence, so that the server computes each column once per user, and not in each sum.
        users = self._counted(named).offset(literal_column("0")).subquery("counted")
        lacking = users.c.missing > 0
        sums = select(
            func.count().filter(users.c.eligible > 0),
            func.coalesce(func.sum(users.c.candidate_days), 0),
            func.coalesce(func.sum(users.c.eligible), 0),
            func.array_agg(users.c.id).filter(lacking),
            func.array_agg(users.c.missing).filter(lacking),
            func.array_agg(users.c.bits).filter(lacking),
        )
        return ask(connection, sums).then(read_gaps)

    def find_by_scan(
        self, connection: Connection, keys: KeyRange, limit: int | None
    ) -> Answer[tuple[Gaps, list[uuid.UUID]] | None]:
        """Return the gaps of some users by one scan of the score table, and the users who must be looked up instead.

        The latter have rows on days before their account was created, which don't count. None if there are more than
        the limit of either.
        """
        active = self._eligibility.active_users(*self._in_range(ACCOUNTS.c.id, keys))
        days = self._eligibility.candidate_days(active)
        # Of a single day a user has one row, so there is nothing to group, and the server's parallel workers do all of
        # it. Where there is, a fence keeps each of them from grouping the whole table.
        is_grouped = len(self._eligibility.days) > 1
        present = func.count() if is_grouped else literal(1)
        moment = func.min(self._moment) if is_grouped else self._moment
        bits = self._eligibility.bits_of(self._day) if is_grouped else self._eligibility.bit_of(self._day)
        # Named like the column, so that the expression of the day applies to it as well.
        found = select(
            self._table.c.user_id, present.label("present"), moment.label(self._moment.name), bits.label("bits")
        ).where(self._within, *self._in_range(self._table.c.user_id, keys))
        rows = (found.group_by(self._table.c.user_id) if is_grouped else found).subquery("rows")
        first_day = literal_column(self._layout.day_in(rows.name), Date)
        each = select(
            active.c.id,
            days,
            (days - func.coalesce(rows.c.present, 0)).label("missing"),
            self._eligibility.missing_bits(active, rows.c.bits),
            func.coalesce(first_day >= active.c.first_day, true()).label("sure"),
        ).select_from(active.outerjoin(rows, rows.c.user_id == active.c.id))
        counted = (each.offset(literal_column("0")) if is_grouped else each).subquery("counted")
        unsure = ~counted.c.sure
        lacking = counted.c.sure & (counted.c.missing > 0)
        fits: ColumnElement[bool] = true()
        if limit is not None:
            fits = (func.count().filter(lacking) <= limit) & (func.count().filter(unsure) <= limit)
        everybody = select(array([func.count(), func.coalesce(func.sum(days), 0)]))
        # The sums over everybody are taken without the rows, so that only the few with gaps are passed on.
        kept = select(
            everybody.scalar_subquery(),
            func.coalesce(func.sum(counted.c.candidate_days).filter(unsure), 0),
            case((fits, func.array_agg(counted.c.id).filter(lacking))),
            case((fits, func.array_agg(counted.c.missing).filter(lacking))),
            case((fits, func.array_agg(counted.c.bits).filter(lacking))),
            case((fits, func.array_agg(counted.c.id).filter(unsure))),
            fits,
        ).where(lacking | unsure)
        return ask(connection, kept).then(read_scanned)

    def insert_page(
        self, connection: Connection, gaps: Sequence[UserGap], token: uuid.UUID, *, keyed: bool, is_first: bool
    ) -> Answer[Written]:
        """Insert rows that some users lack: on the days that are known, or else the first ones, by user and day.

        Args:
            connection: A connection.
            gaps: The users, with the number of rows that are expected of each.
            token: The token of the transaction.
            keyed: Whether the keys of the rows are wanted even if all of them are inserted.
            is_first: Whether it is the first page of its transaction.
        """
        self._prepare(connection)
        parameters = {
            **self._gaps(gaps),
            "limit": sum(gap.missing for gap in gaps),
            "keyed": keyed,
            **self._token(token),
        }
        statement = self._insert_page if is_first else self._insert_next
        return ask(connection, statement, parameters).then(read_written)

    def read_clock(self, connection: Connection) -> Answer[float]:
        """Return the time by the server's clock, in seconds."""
        return ask(connection, CLOCK).then(lambda rows: float(rows[0][0]))

    def list_missing(self, connection: Connection, ids: Sequence[uuid.UUID]) -> Answer[list[UserDay]]:
        """Return the user-days that some users lack."""
        return ask(connection, self._list, {"ids": list(ids)}).then(lambda rows: [UserDay(*row) for row in rows])

    def count_by_day(self, connection: Connection, ids: Sequence[uuid.UUID]) -> Answer[dict[datetime.date, int]]:
        """Return the number of rows that some users lack by day, with the query by which a run would insert them."""
        missing = self._list.subquery("missing")
        counted = select(missing.c.day, func.count().label("missing")).group_by(missing.c.day)
        return ask(connection, counted, {"ids": list(ids)}).then(dict)

    def list_active(self, connection: Connection, ids: Sequence[uuid.UUID]) -> Answer[set[uuid.UUID]]:
        """Return those of some users who are still active."""
        active = self._eligibility.active_users(*in_parameter(ACCOUNTS.c.id))
        return ask(connection, select(active.c.id), {"ids": list(ids)}).then(lambda rows: {row.id for row in rows})

    def insert_rows(self, connection: Connection, rows: Sequence[UserDay]) -> set[UserDay]:
        """Insert the default rows of some user-days, and return those that were inserted."""
        self._prepare(connection)
        parameters = {**bind_rows(rows), **self._token(self.new_token())}
        return {UserDay(*row) for row in connection.execute(self._insert_rows, parameters)}

    def look_again(self, connection: Connection, rows: Sequence[UserDay]) -> list[Outcome]:
        """Return for each user-day whether it has a row and whether the user is still active."""
        return [Outcome(*row) for row in connection.execute(self._look_again, bind_rows(rows))]

    def delete_untouched(self, connection: Connection, rows: Sequence[UserDay]) -> set[UserDay]:
        """Delete the rows of some user-days that are still the untouched default, and return these."""
        self._prepare(connection)
        return {UserDay(*row) for row in connection.execute(self._delete, bind_rows(rows))}

    def list_untouched(self, connection: Connection, rows: Sequence[UserDay]) -> set[UserDay]:
        """Return the rows that ``delete_untouched`` would delete."""
        named = named_rows()
        statement = select(named.c.user_id, named.c.day).where(*self._is(named), *self._untouched)
        return {UserDay(*row) for row in connection.execute(statement, bind_rows(rows))}

    def find_written(
        self, connection: Connection, ids: Sequence[uuid.UUID], transaction: int, token: uuid.UUID
    ) -> Written | None:
        """Return the rows of some users that a transaction wrote, and nobody since; None if there are none.

        A row records the transaction that wrote it last.

        Args:
            connection: A connection.
            ids: The users.
            transaction: Its id.
            token: Its token.
        """
        del token
        own = select(self._table.c.user_id, self._day.label("day")).where(
            *in_parameter(self._table.c.user_id),
            self._day.between(self._eligibility.first, self._eligibility.last),
            self._written_by(transaction),
        )
        rows = [(row.user_id, row.day) for row in ask(connection, own, {"ids": list(ids)}).value]
        return Written(Counter(day for _, day in rows), rows, 0.0) if rows else None

    def is_kept(self, connection: Connection, rows: Iterable[Row], transaction: int) -> bool:
        """Return whether the rows that a transaction inserted are there and, where that can be known, are its own.

        Args:
            connection: A connection.
            rows: All rows that it inserted.
            transaction: Its id.
        """
        named = named_rows()
        own = select(literal(1)).where(*self._is(named), self._written_by(transaction))
        return bool(connection.scalar(select(own.exists()), bind_rows([UserDay(*row) for row in rows])))

    def _written_by(self, transaction: int) -> ColumnElement[bool]:
        """Return the condition of a row that a transaction wrote; a row has only the last 32 bits of an id."""
        return literal_column(f"cast({self._table.name}.xmin as text)") == str(transaction % (1 << 32))

    def count_present_by_day(
        self, connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool
    ) -> Answer[dict[datetime.date, int]]:
        """Return the number of eligible user-days of some users that have a row, by day."""
        del by_scan, divisible  # The session sets the planner, and the result has one number per day.
        counted = self._present_by_day(lambda key: self._in_range(key, keys))
        return ask(connection, counted).then(dict)

    def _present_by_day(self, named: Named) -> Select[datetime.date, int]:
        """Return the query behind ``count_present_by_day``."""
        active = self._eligibility.active_users(*named(ACCOUNTS.c.id))
        day = self._day.label("day")
        there = and_(*self._rows_of(active))
        source: FromClause = active.join(self._table, there)
        if self._day_by_day:
            days = self._eligibility.days_of(active).correlate(active).lateral("eligible")
            source = active.join(days, true()).join(self._table, and_(there, self._day == days.c.day))
        return select(day, func.count().label("present")).select_from(source).group_by(day)

    def _counted(self, named: Named) -> Select[Any]:
        """Count each user's days, the eligible ones, and those of these without a row."""
        active = self._eligibility.active_users(*named(ACCOUNTS.c.id))
        if self._day_by_day:
            return self._counted_day_by_day(active)
        days = self._eligibility.candidate_days(active)
        # By a search in the unique index; the aggregate keeps it from becoming a join.
        bits = self._eligibility.missing_bits(active, self._eligibility.bits_of(self._day))
        rows = (
            select((days - func.count()).label("missing"), bits)
            .select_from(self._table)
            .where(*self._rows_of(active))
            .correlate(active)
            .lateral("rows")
        )
        return select(active.c.id, days, days.label("eligible"), rows.c.missing, rows.c.bits).select_from(
            active.join(rows, true())
        )

    def _counted_day_by_day(self, active: FromClause) -> Select[Any]:
        """Count each user's eligible days, and those without a row."""
        day = self._eligibility.days_of(active).correlate(active).subquery("day")
        present = (
            select(literal(1))
            .select_from(self._table)
            .where(self._table.c.user_id == active.c.id, self._day == day.c.day)
            .correlate(active, day)
            .exists()
        )
        counts = (
            select(func.count().label("eligible"), func.count().filter(~present).label("missing"))
            .select_from(day)
            .lateral("counts")
        )
        days = self._eligibility.candidate_days(active)
        return select(active.c.id, days, counts.c.eligible, counts.c.missing, NO_BITS.label("bits")).select_from(
            active.join(counts, true())
        )

    def _rows_of(self, active: FromClause) -> list[ColumnElement[bool]]:
        """Return the conditions of a user's rows on the days of the range from the day the account was created."""
        last = self._eligibility.last
        return [self._table.c.user_id == active.c.id, self._day.between(active.c.first_day, last)]

    def _missing(self) -> Select[uuid.UUID, datetime.date]:
        """Return the anti-join: the user-days without a row of the users in the parameter, by user and day.

        The order is the same in every run, so that two runs at once wait for each other, but never in a circle.
        """
        active = self._eligibility.active_users(*in_parameter(ACCOUNTS.c.id))
        eligible = self._eligibility.days_of(active)
        rows = select(self._day).select_from(self._table).where(*self._rows_of(active))
        days = eligible.correlate(active).except_(rows.correlate(active)).lateral("eligible")
        found = select(active.c.id.label("user_id"), days.c.day).select_from(active.join(days, true()))
        return found.order_by(active.c.id, days.c.day)

    def _known(self) -> Select[uuid.UUID, datetime.date]:
        """Return the user-days that the users in the parameters are known to lack, by user and day."""
        active = self._eligibility.active_users(*in_parameter(ACCOUNTS.c.id))
        found = self._eligibility.days_by_bits(active, known_gaps())
        return found.order_by(active.c.id, found.selected_columns.day)

    def _gaps(self, gaps: Sequence[UserGap]) -> dict[str, object]:
        """Return the parameters of a page's gaps."""
        bits = {"bits": [gap.bits for gap in gaps]} if self._eligibility.has_bits else {}
        return {"ids": [gap.user_id for gap in gaps], **bits}

    def _page_statement(self, conditions: Sequence[ColumnElement[bool]]) -> Executable:
        """Return the statement behind ``insert_page``, whose result is one row, whatever it inserts."""
        limit = bindparam("limit", type_=Integer)
        missing = self._known() if self._eligibility.has_bits else self._missing().limit(limit)
        rows = self._insert_statement(missing).cte("written")
        # Here alone, because this is what the server evaluates first.
        per_day = (
            select(rows.c.day, func.count().label("number")).where(*conditions).group_by(rows.c.day).subquery("per_day")
        )
        days = select(
            func.array_agg(per_day.c.day).label("days"),
            func.array_agg(per_day.c.number).label("numbers"),
            func.coalesce(func.sum(per_day.c.number), 0).label("number"),
        ).subquery("days")
        keys = (
            select(func.array_agg(rows.c.user_id).label("user_ids"), func.array_agg(rows.c.day).label("days"))
            .where(bindparam("keyed", type_=Boolean) | (days.c.number != limit))
            .correlate(days)
            .lateral("keys")
        )
        return select(
            days.c.days, days.c.numbers, keys.c.user_ids, keys.c.days, seconds_of("statement_timestamp")
        ).select_from(days.join(keys, true()))

    def _insert_statement(
        self, missing: Select[uuid.UUID, datetime.date], *, keyed: bool = True
    ) -> ReturningInsert[Any]:
        """Return the INSERT of the default rows of some user-days, which returns those that it inserted.

        Args:
            missing: The query of the user-days.
            keyed: Whether it returns their users, or only their days.
        """
        source = missing.subquery("missing")
        row = self._row_of(source)
        return (
            insert(self._table)
            .from_select(list(row), select(*row.values()).select_from(source), include_defaults=False)
            .on_conflict_do_nothing(index_elements=[self._table.c.user_id, text(self._layout.day)])
            .returning(*([self._table.c.user_id] if keyed else []), self._day.label("day"))
        )

    def _token(self, token: uuid.UUID) -> dict[str, object]:
        """Return the parameters of the ids of a transaction's rows."""
        return bind_token(token) if self._takes_ids else {}

    def _row_of(self, missing: FromClause) -> dict[str, ColumnElement[Any]]:
        """Return the columns of the default row of a missing user-day, with their values."""
        row: dict[str, ColumnElement[Any]] = {"user_id": missing.c.user_id}
        row |= {name: literal_column(expression) for name, expression in self._default_row.items()}
        return {"id": id_of(missing.c.user_id, missing.c.day), **row} if self._takes_ids else row

    def _named_rows(self) -> Select[uuid.UUID, datetime.date]:
        """Return the user-days in the parameters whose users exist, by user and day."""
        rows = named_rows()
        return (
            select(rows.c.user_id, rows.c.day)
            .select_from(rows.join(ACCOUNTS, ACCOUNTS.c.id == rows.c.user_id))
            .order_by(rows.c.user_id, rows.c.day)
        )

    def _look_again_statement(self) -> Select[Any]:
        """Return the query behind ``look_again``."""
        rows = named_rows()
        active = self._eligibility.active_users(*in_parameter(ACCOUNTS.c.id, "user_ids"))
        found = select(literal(True).label("found")).select_from(self._table).where(*self._is(rows))
        present = found.limit(1).lateral("present")
        return select(rows.c.user_id, rows.c.day, present.c.found.is_not(None), active.c.id.is_not(None)).select_from(
            rows.outerjoin(active, active.c.id == rows.c.user_id).outerjoin(present, true())
        )

    def _is(self, rows: TableValuedAlias) -> list[ColumnElement[bool]]:
        """Return the conditions of a named row."""
        return [self._table.c.user_id == rows.c.user_id, self._day == rows.c.day]

    def _delete_statement(self) -> Executable:
        """Return the DELETE behind ``delete_untouched``."""
        rows = named_rows()
        statement = (
            delete(self._table)
            .where(*self._is(rows), *self._untouched)
            .returning(self._table.c.user_id, self._day.label("day"))
        )
        return written(statement, self._conditions())

    def _conditions(self, *, is_first: bool = True) -> list[ColumnElement[bool]]:
        """Return the conditions of every statement that changes rows.

        Args:
            is_first: Whether no other one of its transaction has found that what runs for a row hasn't changed.
        """
        conditions = [self._fingerprint.is_unchanged()] if self._fingerprint and is_first else []
        return [*conditions, own_path()] if self._own_path else conditions

    def _prepare(self, connection: Connection) -> None:
        """Pin the path again if a statement of this transaction has run under ``own_path``, before another one does."""
        if self._own_path:
            if OWN_PATH in connection.info:
                ask(connection, select(*changes({"search_path": SEARCH_PATH})))
            connection.info[OWN_PATH] = True

    def _among_users(self) -> list[ColumnElement[bool]]:
        """Return the conditions of the users to whom the run is limited."""
        users = self._eligibility.users
        return [ACCOUNTS.c.id == func.any(literal(list(users), ARRAY(UUID)))] if users else []

    @staticmethod
    def _in_range(key: ColumnElement[uuid.UUID], keys: KeyRange) -> list[ColumnElement[bool]]:
        """Return the conditions of a key in a range."""
        conditions = []
        if keys.after is not None:
            conditions.append(key > keys.after)
        if keys.upto is not None:
            conditions.append(key <= keys.upto)
        return conditions


def written(
    statement: ReturningInsert[Any] | ReturningDelete[Any], conditions: Sequence[ColumnElement[bool]]
) -> Executable:
    """Return a statement that changes rows if what runs for them hasn't changed, and runs that under its own path.

    The conditions are the same for all rows, so the server evaluates them before it fires the first trigger.
    """
    return select(statement.cte("written")).where(*conditions) if conditions else statement


def in_parameter(key: ColumnElement[uuid.UUID], name: str = "ids") -> list[ColumnElement[bool]]:
    """Return the condition of a user in a parameter."""
    return [key == func.any(bindparam(name, type_=ARRAY(UUID)))]


def named_rows() -> TableValuedAlias:
    """Return user-days as a table ``named (user_id, day)``, bound by ``bind_rows``."""
    return unnested("named", ("user_ids", "user_id", UUID), ("days", "day", Date))


def known_gaps() -> TableValuedAlias:
    """Return the gaps in the parameters as a table ``gaps (id, bits)``."""
    return unnested("gaps", ("ids", "id", UUID), ("bits", "bits", BigInteger))


def unnested(alias: str, *columns: tuple[str, str, type[Any]]) -> TableValuedAlias:
    """Return arrays in parameters as a table; each column is a parameter, a name and a type."""
    arrays = [bindparam(parameter, type_=ARRAY(of)) for parameter, _, of in columns]
    return func.unnest(*arrays).table_valued(*(column(name, of) for _, name, of in columns)).render_derived(name=alias)


def bind_rows(rows: Sequence[UserDay]) -> dict[str, list[object]]:
    """Return the parameters of ``named_rows``."""
    return {"user_ids": [row.user_id for row in rows], "days": [row.day for row in rows]}


def seconds_of(clock: str) -> ColumnElement[float]:
    """Return a time of the server in seconds."""
    return literal_column(f"pg_catalog.date_part('epoch', pg_catalog.{clock}())").label("seconds")


# Made once, because each transaction asks for it.
CLOCK = select(seconds_of("clock_timestamp"))


def read_written(rows: Rows) -> Written:
    """Return what a page has inserted."""
    days, numbers, user_ids, days_of_users, began = rows[0]
    keys = None if user_ids is None and days else list(zip(user_ids or (), days_of_users or (), strict=True))
    return Written(dict(zip(days or (), numbers or (), strict=True)), keys, began)


def read_gaps(rows: Rows) -> Gaps:
    """Return the gaps of users; sorted here, because the server would sort all users, and not only those with gaps."""
    users, candidates, eligible, ids, missing, bits = rows[0]
    gaps = [UserGap(*gap) for gap in zip(ids or (), missing or (), bits or (), strict=True)]
    return Gaps(int(users), int(candidates), int(eligible), sorted(gaps, key=BY_ID))


def read_scanned(rows: Rows) -> tuple[Gaps, list[uuid.UUID]] | None:
    """Return the gaps of users and the users in doubt; None if there are too many of either."""
    (users, candidates), unsure_candidates, ids, missing, bits, unsure, fits = rows[0]
    if not fits:
        return None
    sure = candidates - unsure_candidates
    return read_gaps([(users - len(unsure or ()), sure, sure, ids, missing, bits)]), list(unsure or ())
