"""Annotated column types: each defines once what all columns of its kind share."""

import datetime
import uuid
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import Column, Date, Dialect, Numeric, Text, TypeDecorator, event, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.orm import mapped_column

from momentum.errors import AmbiguousTimeError


class RefusedTimeError(AmbiguousTimeError, DontWrapMixin):
    """The same error, which SQLAlchemy doesn't wrap in one of its own."""


class Unambiguous(TypeDecorator[Any]):
    """A type that refuses, before sending it, a value whose meaning would depend on the session's time zone."""

    cache_ok = True
    # An explicit None is sent as null and doesn't mean the server's default, as in a Core statement.
    should_evaluate_none = True
    column: Column[Any] | None = None
    takes: str

    def accepts(self, value: object) -> bool:
        """Return whether a value means the same in every session."""
        raise NotImplementedError

    @property
    def python_type(self) -> type[Any]:
        """The Python type of the values that are read."""
        return self.impl_instance.python_type

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the value as it is, to be sent.

        Raises:
            AmbiguousTimeError: The value is not of this kind; the message doesn't repeat it.
        """
        del dialect
        if value is None or self.accepts(value):
            return value
        given = f"a {type(value).__name__}"
        if isinstance(value, datetime.datetime):
            given = "a naive datetime" if value.utcoffset() is None else "a datetime"
        raise RefusedTimeError(
            f"{'The value' if self.column is None else self.column} takes {self.takes}, not {given}: it would be read "
            "in the time zone of the session."
        )

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Return this type for a date or datetime on an operator's other side, and a suitable one for anything else."""
        return self if isinstance(value, datetime.date) else self.impl_instance.coerce_compared_value(op, value)


@event.listens_for(Unambiguous, "after_parent_attach", propagate=True)
def name_column(column_type: Unambiguous, column: Column[Any]) -> None:
    """Store a type's column in it, so that the error can name it."""
    column_type.column = column


class Moment(Unambiguous):
    """``timestamptz``."""

    impl = TIMESTAMP(timezone=True)
    cache_ok = True
    takes = "a datetime with a time zone, such as datetime.now(UTC)"

    def accepts(self, value: object) -> bool:
        """Return whether a value is a datetime with an offset from UTC."""
        return isinstance(value, datetime.datetime) and value.utcoffset() is not None


class Day(Unambiguous):
    """``date``."""

    impl = Date
    cache_ok = True
    takes = "a date without a time, such as datetime.now(UTC).date()"

    def accepts(self, value: object) -> bool:
        """Return whether a value is a date and nothing more."""
        return isinstance(value, datetime.date) and not isinstance(value, datetime.datetime)


# An instant, always with its time zone: the schema uses UTC only.
Timestamp = Annotated[datetime.datetime, mapped_column(Moment)]

# An instant that the server sets if the writer does not.
DefaultNow = Annotated[datetime.datetime, mapped_column(Moment, server_default=func.now())]

# A calendar day in UTC.
UtcDay = Annotated[datetime.date, mapped_column(Day)]

# Points from 0 to 100 with two decimals.
Points = Annotated[Decimal, mapped_column(Numeric(5, 2))]

# A JSON object. Python's None becomes SQL's null: JSON's own null is not an object, and the table would refuse it.
JsonObject = Annotated[dict[str, Any], mapped_column(JSONB(none_as_null=True))]

# Text without a limit, as Postgres and Supabase recommend.
String = Annotated[str, mapped_column(Text)]

# A random key made by the server, so that clients of every kind get one.
RandomKey = Annotated[uuid.UUID, mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))]
