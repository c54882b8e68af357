"""The naming convention, the two MetaData objects and the base of the models."""

import uuid
from typing import Any, ClassVar, dataclass_transform

from sqlalchemy import (
    UUID,
    Column,
    ForeignKeyConstraint,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    inspect,
)
from sqlalchemy.orm import DeclarativeBase, MappedAsDataclass, mapped_column, relationship

# Every constraint and index gets its name from here, so that errors, tests and DROP statements are readable. A
# CHECK is named by hand.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# Relations that are read or referenced but created elsewhere: Supabase creates auth.users, a raw-SQL revision creates
# the view. They have a MetaData of their own, so that no create_all and no autogenerate of the models can touch it.
external_metadata = MetaData()

auth_users = Table(
    "users",
    external_metadata,
    Column("id", UUID, primary_key=True, comment="The user's key, which every user_id refers to."),
    schema="auth",
    comment="Supabase's users; the migrations refer to them and leave them as they are.",
)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(mapped_column, relationship))
class Promise(MappedAsDataclass, kw_only=True, eq=False, repr=False):
    """Base of the models and mixins: a table's columns are typed keyword arguments of the constructor.

    A column that may be left out has ``default=None``: it is then not sent, and the server's default applies.
    """


class Base(Promise, DeclarativeBase):
    """Base of the models; its ``metadata`` has exactly our tables.

    The tables carry no schema name: ``public`` is the first schema of the search path, and naming it would make
    ``alembic check`` see every table twice.
    """

    __table__: ClassVar[Table]

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {uuid.UUID: UUID()}  # noqa: RUF012 - SQLAlchemy reads it as a plain attribute

    def __repr__(self) -> str:
        """Show what identifies the row: the columns of its keys and indexes, as far as they are loaded.

        No key or index holds text that a user has written, so the result may be logged.
        """
        mapper, loaded = inspect(type(self)), inspect(self).dict
        names = [mapper.get_property_by_column(column).key for column in identifying_columns(self.__table__)]
        return f"{type(self).__name__}({', '.join(f'{name}={loaded[name]}' for name in names if name in loaded)})"


def identifying_columns(table: Table) -> list[Column[Any]]:
    """Return the columns of a table's keys and indexes, in the table's order."""
    keys = (PrimaryKeyConstraint, UniqueConstraint, ForeignKeyConstraint)
    parts = [*(key for key in table.constraints if isinstance(key, keys)), *table.indexes]
    return [column for column in table.columns if any(column.key in part.columns for part in parts)]
