"""Active users, and the days on which each is eligible.

A user is active if the account exists and is neither deleted nor banned at the moment of the run. An active user is
eligible on every day of the range from the UTC day the account was created or, if the run is limited to recent
activity, on those of these days that the activity covers. Accounts created after the run began are left for the next
run, so that new users can't prolong this one.
"""

import datetime
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ARRAY,
    UUID,
    BigInteger,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    Exists,
    FromClause,
    Integer,
    Interval,
    Select,
    Subquery,
    TableValuedAlias,
    cast,
    column,
    exists,
    false,
    func,
    literal,
    literal_column,
    select,
    text,
    true,
)
from sqlalchemy import table as table_clause

from momentum.backfill.days import ONE_DAY, DayRange
from momentum.connect.pipeline import Answer, ask

# Supabase has them all; in older stand-ins for it, auth.users has fewer columns.
OPTIONAL_COLUMNS = ("created_at", "banned_until", "deleted_at", "last_sign_in_at")

ACCOUNTS = table_clause("users", column("id", UUID), *(column(name) for name in OPTIONAL_COLUMNS), schema="auth")
EVENTS = table_clause(
    "momentum_events",
    column("user_id", UUID),
    column("event_ts", DateTime(timezone=True)),
    column("created_at", DateTime(timezone=True)),
    column("deleted_at"),
    schema="public",
)


# The longest range of which a number has a bit for each day, and one more for what comes after the last.
MOST_BITS = 62
ONE: ColumnElement[int] = literal_column("bigint '1'", BigInteger)
NO_BITS: ColumnElement[int] = literal_column("bigint '0'", BigInteger)

UTC: ColumnElement[str] = literal_column("'UTC'")
EVERY_DAY: ColumnElement[datetime.timedelta] = literal_column("interval '1 day'", Interval)


def numbers_up_to(last: ColumnElement[Any]) -> TableValuedAlias:
    """Return the numbers from 0 as a table ``days (number)``: the server adds up moments more slowly."""
    return (
        func.generate_series(literal_column("0"), last)
        .table_valued(column("number", Integer))
        .render_derived(name="days")
    )


def read_account_columns(connection: Connection) -> Answer[frozenset[str]]:
    """Return the optional columns that auth.users has."""
    found = ask(
        connection,
        text("""
            select attname
            from pg_catalog.pg_attribute
            where attrelid = to_regclass('auth.users') and attname = any(:names) and not attisdropped
        """),
        {"names": list(OPTIONAL_COLUMNS)},
    )
    return found.then(lambda rows: frozenset(row.attname for row in rows))


@dataclass(frozen=True)
class Eligibility:
    """The rules of a run, as pieces of SQL.

    Attributes:
        columns: The optional columns that auth.users has.
        days: The range.
        started_at: The moment of the run, by the server's clock.
        users: Only these users; everyone if empty.
        active_within: The days within which a user must have been active; None: activity doesn't matter.
        noticed_at: The seconds that this machine had been running for at that moment.
    """

    columns: frozenset[str]
    days: DayRange
    started_at: datetime.datetime
    users: tuple[uuid.UUID, ...] = ()
    active_within: int | None = None
    noticed_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def now(self) -> datetime.datetime:
        """The time by the server's clock, as far as it is known here."""
        return self.started_at + datetime.timedelta(seconds=time.monotonic() - self.noticed_at)

    # As text and not as parameters, because the driver would send them with each page.
    @property
    def first(self) -> ColumnElement[datetime.date]:
        """The first day of the range."""
        return literal_column(f"date '{self.days.first}'", Date)

    @property
    def last(self) -> ColumnElement[datetime.date]:
        """The last day of the range."""
        return literal_column(f"date '{self.days.last}'", Date)

    @property
    def moment(self) -> ColumnElement[datetime.datetime]:
        """The moment of the run."""
        return literal_column(f"timestamptz '{self.started_at.isoformat()}'", DateTime(timezone=True))

    @property
    def since(self) -> datetime.datetime:
        """The moment from which a sign-in counts as recent, not before the beginning of the calendar."""
        try:
            day = self.days.first - ONE_DAY * (self.active_within or 0)
        except OverflowError:
            day = datetime.date.min
        return datetime.datetime.combine(day, datetime.time(), datetime.UTC)

    def active_users(self, *conditions: ColumnElement[bool]) -> Subquery:
        """Return the active users as a table ``active (id, first_day, recently_seen)``.

        ``first_day`` is the first day of the range on which the account existed, and ``recently_seen`` whether the user
        is eligible on all days from then on regardless of events.
        """
        accounts = ACCOUNTS.c
        first_day: ColumnElement[Any] = self.first
        active = list(conditions)
        if "created_at" in self.columns:
            # An account of unknown age counts as having always existed.
            created = func.coalesce(cast(func.timezone(UTC, accounts.created_at), Date), first_day)
            first_day = func.greatest(created, first_day)
            active.append(created <= self.last)
            active.append(func.coalesce(accounts.created_at <= self.moment, true()))
        if "deleted_at" in self.columns:
            active.append(accounts.deleted_at.is_(None))
        if "banned_until" in self.columns:
            active.append(accounts.banned_until.is_(None) | (accounts.banned_until <= self.moment))
        if self.users:
            active.append(accounts.id == func.any(literal(list(self.users), ARRAY(UUID))))
        return (
            select(
                accounts.id,
                cast(first_day, Date).label("first_day"),
                self._recently_seen().label("recently_seen"),
            )
            .where(*active)
            .subquery("active")
        )

    def candidate_days(self, active: FromClause) -> ColumnElement[int]:
        """Return the number of days of the range on which an active user's account existed, eligible or not."""
        days: ColumnElement[Any] = self.last - active.c.first_day
        return (days + 1).label("candidate_days")

    @property
    def has_bits(self) -> bool:
        """Whether days can be told by bits: the range is short enough, and each day since the account is eligible.

        Whoever looks for gaps has all the rows at hand. A page that is told the days doesn't look for them again.
        """
        return self.active_within is None and len(self.days) <= MOST_BITS

    def bit_of(self, day: ColumnElement[datetime.date]) -> ColumnElement[int]:
        """Return the bit of a day of the range, of which the first one has the lowest."""
        offset: ColumnElement[Any] = day - self.first
        return ONE.bitwise_lshift(offset)

    def bits_of(self, day: ColumnElement[datetime.date]) -> ColumnElement[int]:
        """Return the aggregate of the bits of days."""
        return func.bit_or(self.bit_of(day)) if self.has_bits else NO_BITS

    def missing_bits(self, active: FromClause, present: ColumnElement[int]) -> ColumnElement[int]:
        """Return the bits of the days that an active user lacks; none if days can't be told by bits.

        Args:
            active: The active users.
            present: The bits of the days with a row; null if there are none.
        """
        if not self.has_bits:
            return NO_BITS.label("bits")
        # All bits of the range, without those of the days before the account.
        candidates = literal_column(str(1 << len(self.days)), BigInteger) - self.bit_of(active.c.first_day)
        return candidates.bitwise_and(func.coalesce(present, 0).bitwise_not()).label("bits")

    def days_by_bits(self, active: FromClause, gaps: FromClause) -> Select[Any]:
        """Return the query ``user_id, day`` of the days of active users whose bits are set in ``gaps (id, bits)``."""
        numbers = numbers_up_to(literal_column(str(len(self.days) - 1)))
        day: ColumnElement[Any] = self.first + numbers.c.number
        is_set = gaps.c.bits.bitwise_rshift(numbers.c.number).bitwise_and(ONE) == ONE
        source = active.join(gaps, gaps.c.id == active.c.id).join(numbers, is_set & (day >= active.c.first_day))
        return select(active.c.id.label("user_id"), day.label("day")).select_from(source)

    def _recently_seen(self) -> ColumnElement[bool]:
        """Return whether the latest sign-in makes a user eligible on all days."""
        if self.active_within is None:
            return true()
        if "last_sign_in_at" not in self.columns:
            return false()
        return func.coalesce(ACCOUNTS.c.last_sign_in_at >= self.since, false())

    def days_of(self, active: FromClause) -> Select[datetime.date]:
        """Return the query of a user's eligible days, for a lateral join to ``active_users``."""
        numbers = numbers_up_to(self.last - active.c.first_day)
        day = active.c.first_day + numbers.c.number
        found = select(day.label("day")).select_from(numbers)
        if self.active_within is not None:
            found = found.where(active.c.recently_seen | self._had_event(active.c.id, day, self.active_within))
        return found

    def days_by_event(self, *conditions: ColumnElement[bool]) -> Select[Any]:
        """Return the query ``user_id, day`` of the days of the range on which an event makes a user eligible.

        It is the same as ``days_of`` looks up day by day, for a server that can't.

        Args:
            conditions: The conditions of the users, on ``EVENTS``.
        """
        assert self.active_within is not None
        day = cast(func.timezone(UTC, EVENTS.c.event_ts), Date)
        # Not by numbers: an event's day may be infinite, and can't be subtracted then. Without a time zone, so that the
        # session's daylight saving time can't make a day longer or shorter.
        moments = (
            func.generate_series(
                cast(func.greatest(day, self.first), DateTime),
                cast(func.least(day + literal(self.active_within - 1), self.last), DateTime),
                EVERY_DAY,
            )
            .table_valued(column("moment"))
            .render_derived(name="covered")
        )
        covered = cast(moments.c.moment, Date)
        return (
            select(EVENTS.c.user_id, covered.label("day"))
            .select_from(EVENTS.join(moments, true()))
            .where(*conditions, EVENTS.c.created_at <= self.moment, EVENTS.c.deleted_at.is_(None))
            .group_by(EVENTS.c.user_id, covered)
        )

    def _had_event(
        self, user_id: ColumnElement[uuid.UUID], day: ColumnElement[datetime.date], active_within: int
    ) -> Exists:
        """Return whether a user had a live momentum event in the days up to and including a day.

        Events recorded after the run began don't count, so that the recount at its end sees the same ones.
        """
        event = EVENTS.alias("event")
        # A date must become a timestamp before it gets a time zone, or it would be read in the session's time zone.
        first_moment = func.timezone(UTC, cast(day - literal(active_within - 1), DateTime))
        end = func.timezone(UTC, cast(day + literal(1), DateTime))
        return (
            exists()
            .where(
                event.c.user_id == user_id,
                event.c.event_ts >= first_moment,
                event.c.event_ts < end,
                event.c.created_at <= self.moment,
                event.c.deleted_at.is_(None),
            )
            .correlate_except(event)
        )
