"""The service's own Alembic environment: its version table is public.alembic_version, as Alembic makes it."""

import os
from logging.config import fileConfig

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from momentum import hide_momentum_tables
from reminders.models import Base

if context.config.config_file_name is not None:
    # Alembic logs each revision as alembic.ini says; other loggers of the program stay as they are.
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

with create_engine(os.environ["DATABASE_URL"], poolclass=NullPool).connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_object=hide_momentum_tables(),
    )
    with context.begin_transaction():
        context.run_migrations()
