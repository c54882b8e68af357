"""Alembic's environment: which database, what is looked at first, how each revision runs, what autogenerate sees."""

import functools
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import RevisionStep

from momentum import database, operations, preflight
from momentum.errors import DatabaseUnreachableError, MigrationError, MomentumError
from momentum.models import Base

config = context.config

# The version table stands in the private schema: in public it could be read and written with Supabase's anon key.
VERSION_TABLE = {"version_table": "alembic_version", "version_table_schema": operations.PARKING_SCHEMA}
# No statement of a revision waits longer for a lock, and so nobody queues longer behind it.
LOCK_TIMEOUT = "2s"
# A revision changes catalogs only, but for the score table's unique key, whose build time grows with the table.
STATEMENT_TIMEOUT = "15min"

# The functions that Alembic calls for commands that may create the version table; all others only look.
CREATING = ("upgrade", "do_stamp", "do_ensure_version")

# The session's note in a script made with --sql that it may go on.
ACCEPTED = "momentum.script_accepted"

log = logging.getLogger("momentum.migrations")
on_command_line = config.cmd_opts is not None


def include_object(obj: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Let autogenerate see our tables only: it would drop every other table it finds."""
    del obj, reflected, compare_to
    return kind != "table" or name in Base.metadata.tables


def settings(command: str) -> dict[str, Any]:
    """Return what online and offline mode configure alike."""
    return {
        # Alembic would make the version table for `check` and `downgrade` too.
        "dont_mutate": command not in CREATING,
        "target_metadata": Base.metadata,
        "include_object": include_object,
        "compare_server_default": True,
        "transaction_per_migration": True,
        **VERSION_TABLE,
    }


def running_command() -> str:
    """Return the name of the function that Alembic will call: upgrade, downgrade or another."""
    context.configure(dialect_name="postgresql")
    return str(context.get_context().opts["fn"].__name__)


def find_url(command: str) -> sa.URL:
    """Return the URL from ``-x url=``, from a calling program's configuration, the environment or the env file.

    A downgrade doesn't take it from the env file: nobody should roll production back by forgetting to say where.
    """
    given = context.get_x_argument(as_dictionary=True).get("url")
    option = "-x url="
    if given is None and (given := config.get_main_option("sqlalchemy.url")) is not None:
        option = "sqlalchemy.url"
    return database.find_url(given, option=option, use_env_file=command != "downgrade")


@contextmanager
def connect(command: str) -> Iterator[sa.Connection]:
    """Yield the connection that a calling program handed in, or one of our own.

    Raises:
        MomentumError: No URL, no server behind it, or the server refused a statement.
    """
    handed_in = config.attributes.get("connection")
    if isinstance(handed_in, sa.Connection):
        yield handed_in
    elif handed_in is not None:
        with handed_in.connect() as connection:
            yield connection
    else:
        url = find_url(command)
        if on_command_line:
            print(f"Database: {database.describe(url)}", file=sys.stderr)
        engine = database.create_engine(url, application_name="momentum-migrations")
        with database.connection_errors(url), engine.connect() as connection:
            yield connection


@contextmanager
def timeouts(connection: sa.Connection) -> Iterator[None]:
    """Limit what each statement waits and takes, and leave the connection as it was: it may go back to a pool."""
    ours = {"lock_timeout": LOCK_TIMEOUT, "statement_timeout": STATEMENT_TIMEOUT}
    before = {name: connection.scalar(sa.text("select current_setting(:name)"), {"name": name}) for name in ours}
    set_all(connection, ours)
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.rollback()
            set_all(connection, before)


def set_all(connection: sa.Connection, values: Mapping[str, str]) -> None:
    """Change settings of the session."""
    for name, value in values.items():
        connection.execute(sa.text("select set_config(:name, :value, false)"), {"name": name, "value": value})
    connection.commit()


def planned_steps(connection: sa.Connection) -> list[RevisionStep]:
    """Return what the upgrade is about to do, without doing it."""
    context.configure(connection=connection, **settings("upgrade"))
    migrations = context.get_context()
    return list(migrations.opts["fn"](migrations.get_current_heads(), migrations))


def check_before_upgrade(connection: sa.Connection) -> None:
    """Look at the database before anything is created in it.

    Raises:
        PreflightError: The pending revisions could not all be applied.
    """
    steps = planned_steps(connection)
    if not steps:
        return
    pending = [step.revision.module for step in steps]
    creates = [name for module in pending for name in getattr(module, "creates", ())]
    concerns = {getattr(module, "concerns_scores", None) for module in pending}
    preflight.check_upgrade(
        connection, creates, adopts_scores="adopts" in concerns, indexes_scores="indexes" in concerns
    )
    if "adopts" in concerns:
        for warning in preflight.find_warnings(connection):
            log.warning(warning)


def refuse_empty_revision(_context: Any, _revision: Any, directives: list[MigrationScript]) -> None:
    """Write no revision file when autogenerate found nothing to do."""
    autogenerated = getattr(config.cmd_opts, "autogenerate", False)
    if autogenerated and directives and (ops := directives[0].upgrade_ops) is not None and ops.is_empty():
        directives[:] = []
        print("The models and the database agree: there is nothing to generate.", file=sys.stderr)


def run_online() -> None:
    """Migrate, or inspect, a database."""
    command = running_command()
    with connect(command) as connection:
        # A connection inside a transaction belongs to its owner: then we neither commit nor change its settings.
        owned = not connection.in_transaction()
        migrating = False
        try:
            if command == "upgrade":
                check_before_upgrade(connection)
            if owned:
                connection.rollback()
            with timeouts(connection) if owned else nullcontext():
                if command in CREATING:
                    connection.execute(sa.text(f"create schema if not exists {operations.PARKING_SCHEMA}"))
                if owned:
                    connection.commit()
                context.configure(
                    connection=connection, process_revision_directives=refuse_empty_revision, **settings(command)
                )
                migrating = command in ("upgrade", "downgrade")
                with context.begin_transaction():
                    context.run_migrations()
        except sa.exc.DBAPIError as error:
            if database.lost_connection(error):
                raise DatabaseUnreachableError(
                    "The connection to the database was lost; run the command again."
                ) from None
            message = database.reason(error, connection.engine.url)
            if not migrating:
                raise MigrationError(f"The database refused a statement: {message}. Nothing has changed.") from None
            raise MigrationError(
                f"The {command} stopped: {message}. Its revision was rolled back, the ones before it stand; "
                "mend the cause, then run the command again."
            ) from None


def run_offline() -> None:
    """Write the SQL of a migration to standard output, for psql and other tools."""
    start = context.get_starting_revision_argument()
    options = {"dialect_opts": {"paramstyle": "named"}, "literal_binds": True, **settings("upgrade")}
    context.configure(dialect_name="postgresql", **options)
    steps = context.get_context().opts["fn"]
    context.configure(dialect_name="postgresql", fn=lambda *heads: map(guarded, steps(*heads)), **options)
    revision = context.script.get_revision(start) if isinstance(start, str) else None
    # Alembic makes the version table where a script starts at the base; an online downgrade leaves an empty one.
    remove = "" if revision else f"drop table if exists {operations.PARKING_SCHEMA}.alembic_version;\n  "
    # Withdrawn first: an earlier script of the same session may have been accepted.
    context.execute(f"set {ACCEPTED} = 'no'")
    context.execute(
        guard(revision.revision if revision else None, f"{remove}perform set_config('{ACCEPTED}', 'yes', false);")
    )
    if revision is None:
        context.execute(f"create schema if not exists {operations.PARKING_SCHEMA}")
    with context.begin_transaction():
        context.run_migrations()


def guarded(step: RevisionStep) -> RevisionStep:
    """Put the guard into a step's transaction too: a psql that goes on after an error would go on with the next one."""
    migrate = step.migration_fn

    @functools.wraps(migrate)
    def migrate_guarded(**options: Any) -> None:
        context.execute(
            guard(
                next(iter(step.from_revisions), None),
                f"""if current_setting('{ACCEPTED}', true) is distinct from 'yes' then
    raise exception 'this script was refused where it begins';
  end if;""",
            )
        )
        migrate(**options)

    step.migration_fn = migrate_guarded
    return step


def guard(expected: str | None, then: str) -> str:
    """Return SQL that fails unless the database is at a revision, and does something more if it is."""
    version_table = f"{operations.PARKING_SCHEMA}.alembic_version"
    literal = f"'{expected}'" if expected else "null"
    return f"""
do $guard$
declare
  found text;
begin
  if to_regclass('{version_table}') is not null then
    execute 'select string_agg(version_num, '', '') from {version_table}' into found;
  end if;
  if found is distinct from {literal} then
    raise exception 'this script needs a database at revision %, and this one is at %', coalesce({literal}, 'base'),
      coalesce(found, 'base');
  end if;
  {then}
end
$guard$"""


if on_command_line and config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)
    # Of what Alembic logs, an operator wants to see which revisions run, and nothing of how.
    logging.getLogger("alembic.runtime.migration").addFilter(lambda record: record.getMessage().startswith("Running"))

try:
    if context.is_offline_mode():
        run_offline()
    else:
        run_online()
except MomentumError as error:
    if not on_command_line:
        raise
    # A program that calls alembic.command gets the exception; a person gets one line and an exit code.
    print(f"Error: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code) from None
except KeyboardInterrupt:
    if not on_command_line:
        raise
    print(
        "Error: Interrupted; the revision that was running is rolled back, the ones before it stand.", file=sys.stderr
    )
    raise SystemExit(130) from None
