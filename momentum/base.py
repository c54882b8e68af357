"""The naming convention, the two MetaData and the base of the models."""

import uuid

from sqlalchemy import UUID, Column, MetaData, Table
from sqlalchemy.orm import DeclarativeBase

# Every constraint and index gets its name from here, so that errors, tests and drops read well. A CHECK is named by
# hand.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# What is read or referenced but made elsewhere: Supabase makes auth.users, a raw-SQL revision makes the view. It is a
# MetaData of its own, so that no create_all and no autogenerate of the models can touch it.
external_metadata = MetaData()

auth_users = Table(
    "users",
    external_metadata,
    Column("id", UUID, primary_key=True, comment="The user's key, which every user_id refers to."),
    schema="auth",
    comment="Supabase's users; the migrations refer to them and change nothing of them.",
)


class Base(DeclarativeBase):
    """Base of the models.

    The tables carry no schema name: ``public`` is the first schema of the search path, and naming it would make
    ``alembic check`` see every table twice.
    """

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {uuid.UUID: UUID()}  # noqa: RUF012 - SQLAlchemy reads it as a plain attribute
