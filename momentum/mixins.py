"""Promises of a table, one per class."""

import uuid
from typing import TYPE_CHECKING

from sqlalchemy import FetchedValue, ForeignKey
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from momentum.base import Promise, auth_users
from momentum.types import DefaultNow, RandomKey, Timestamp


class Identified(Promise):
    """Has a random key of its own."""

    id: Mapped[RandomKey] = mapped_column(
        default=None, sort_order=-20, comment="The row's own key, made by the server."
    )


class Audited(Promise):
    """Says when the row was made and when it last changed; a trigger in the database keeps updated_at."""

    # An UPDATE returns what the trigger made of updated_at, so that an instance is never behind its row.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - SQLAlchemy reads it as a plain attribute

    created_at: Mapped[DefaultNow] = mapped_column(default=None, sort_order=100, comment="When the row was made.")
    updated_at: Mapped[DefaultNow] = mapped_column(
        default=None,
        sort_order=101,
        server_onupdate=FetchedValue(),
        comment="When the row last changed; a trigger keeps it, whoever writes.",
    )


class SoftDeleted(Promise):
    """Can be deleted without being removed."""

    deleted_at: Mapped[Timestamp | None] = mapped_column(
        default=None, sort_order=102, comment="When the row was softly deleted; null means live."
    )


class OwnedByUser(Promise):
    """Belongs to one user and goes with that user.

    NOT NULL is stricter than the first draft of the schema: the key cascades, so null would have no meaning, and a
    unique key over (user_id, day) would not hold for nulls.
    """

    # Type checkers read the argument from an annotation, and SQLAlchemy the column from a function, because its key
    # points into another MetaData, so that each table needs a column of its own and not a copy.
    if TYPE_CHECKING:
        user_id: Mapped[uuid.UUID]
    else:

        @declared_attr
        def user_id(cls) -> Mapped[uuid.UUID]:  # noqa: N805 - it is called with the class
            """Return a new column."""
            return mapped_column(
                ForeignKey(auth_users.c.id, ondelete="CASCADE"),
                sort_order=-10,
                comment="The user whom the row belongs to; it goes when the user goes.",
            )
