"""Settings of Alembic's environment that online migrations and SQL scripts share."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from sqlalchemy import TypeDecorator

from momentum import inventory
from momentum.connect.settings import as_statements
from momentum.errors import ConfigurationError
from momentum.migrate import locks
from momentum.migrate.autogenerate import PLUGINS, write_finished_revisions
from momentum.migrate.config import Options, read_options
from momentum.migrate.filters import OurObjects
from momentum.models import Base

# The version table is in the private schema: in public it could be read and written with Supabase's anon key.
VERSION_TABLE = {"version_table": inventory.VERSION_TABLE, "version_table_schema": inventory.PRIVATE_SCHEMA}

# The limits of a statement where there is no second attempt: in a script made with --sql, and in a transaction that was
# handed in.
LIMITS = {"lock_timeout": "2s", "statement_timeout": locks.STATEMENT_TIMEOUT}

# The functions that Alembic calls for commands that may create the version table; all others only read.
CREATING = ("upgrade", "do_stamp", "do_ensure_version")
MIGRATING = ("upgrade", "downgrade")
# The one behind `alembic check` and `alembic revision --autogenerate`.
AUTOGENERATING = "retrieve_migrations"


@dataclass(frozen=True)
class Environment:
    """One run of Alembic's environment.

    Attributes:
        config: Alembic's configuration.
        options: The options given with ``-x`` or to ``alembic_config``.
        patience: How often and how long the run tries to get its locks.
    """

    config: Config
    options: Options
    patience: locks.Patience

    @classmethod
    def current(cls) -> "Environment":
        """Return the environment that Alembic has just entered.

        Raises:
            ConfigurationError: An option is unknown or its value is invalid, or a URL is given as a revision.
        """
        config = context.config
        revision = getattr(config.cmd_opts, "revision", None) or getattr(config.cmd_opts, "revisions", None)
        if any(letter in str(revision) for letter in "/@"):
            # Alembic would repeat it, with its password.
            raise ConfigurationError("A URL is given in place of a revision; the database's is given as -x url=URL.")
        given = {**config.attributes.get("options", {}), **context.get_x_argument(as_dictionary=True)}
        options = read_options(given)
        return cls(config, options, locks.Patience(options.attempts, options.deadline))

    @property
    def on_command_line(self) -> bool:
        """Whether Alembic runs as a command, and not through its functions."""
        return self.config.cmd_opts is not None

    @property
    def shows_progress(self) -> bool:
        """Whether somebody who has typed a command sees on a terminal what a long step is doing."""
        typed = self.on_command_line or self.config.attributes.get("on_command_line", False)
        return bool(typed) and sys.stderr.isatty()

    def settings(self, command: str) -> dict[str, Any]:
        """Return the arguments of ``context.configure`` for a command, online and offline."""
        callbacks = self.config.attributes.get("on_version_apply", ())
        return {
            # Alembic would create the version table for `check` and `downgrade` too.
            "dont_mutate": command not in CREATING,
            "target_metadata": Base.metadata,
            "include_object": OurObjects(context.script),
            "autogenerate_plugins": PLUGINS,
            "process_revision_directives": write_finished_revisions,
            "compare_server_default": True,
            "render_item": render_item,
            "transaction_per_migration": True,
            "on_version_apply": [*(callbacks if isinstance(callbacks, Iterable) else [callbacks]), finish_downgrade],
            # For the revisions and their operations.
            "existing": self.options.existing,
            "access": self.options.access,
            "scores": self.options.scores,
            "patience": self.patience,
            "shows_progress": self.shows_progress,
            "timeouts": as_statements(LIMITS),
            **VERSION_TABLE,
        }


def render_item(kind: str, obj: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Render a type of the models as the Postgres type that it wraps, because no revision imports momentum."""
    if kind != "type" or not isinstance(obj, TypeDecorator):
        return False
    if not type(obj.impl_instance).__module__.startswith("sqlalchemy.dialects.postgresql"):
        return f"sa.{obj.impl_instance!r}"
    autogen_context.imports.add("from sqlalchemy.dialects import postgresql")
    return f"postgresql.{obj.impl_instance!r}"


def finish_downgrade(*, step: Any, **_: Any) -> None:
    """Run a revision's ``after_downgrade`` once its version is removed; Alembic calls this after each step.

    DROP INDEX CONCURRENTLY, for example, can't be part of the transaction that removes the version. If it ran before
    that, a kill in between would leave a database that is at the revision but lacks its index.
    """
    finish = getattr(step.up_revision.module, "after_downgrade", None)
    if finish and not step.is_upgrade:
        finish()
