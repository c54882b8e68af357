"""The service's own Alembic environment: its version table is public.alembic_version, as Alembic makes it."""

import os

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from momentum import hide_momentum_tables
from reminders.models import Base

with create_engine(os.environ["DATABASE_URL"], poolclass=NullPool).connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_object=hide_momentum_tables(),
    )
    with context.begin_transaction():
        context.run_migrations()
