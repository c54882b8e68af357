"""Alembic's environment: which database, what is looked at first, how each revision runs, what autogenerate sees."""

import functools
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext, RevisionStep

from momentum import inventory
from momentum.connect import engine as database
from momentum.errors import ConfigurationError, DatabaseUnreachableError, MigrationError, MomentumError
from momentum.migrate import locks, operations, parking, preflight
from momentum.migrate.config import read_options
from momentum.models import Base
from momentum.verify import compare as verify
from momentum.wording import counted

config = context.config

# The version table stands in the private schema: in public it could be read and written with Supabase's anon key.
VERSION_TABLE = {"version_table": inventory.VERSION_TABLE, "version_table_schema": inventory.PRIVATE_SCHEMA}
# What a statement may wait for a lock and take where there is no second attempt: in a script made with --sql, and in a
# transaction that was handed in.
LIMITS = {"lock_timeout": "2s", "statement_timeout": locks.STATEMENT_TIMEOUT}

# The functions that Alembic calls for commands that may create the version table; all others only look.
CREATING = ("upgrade", "do_stamp", "do_ensure_version")
MIGRATING = ("upgrade", "downgrade")

# The session's note in a script made with --sql that it may go on.
ACCEPTED = "momentum.script_accepted"
REFUSE = f"""if current_setting('{ACCEPTED}', true) is distinct from 'yes' then
    raise exception 'this script was refused where it begins';
  end if;"""

log = logging.getLogger("momentum.migrations")
on_command_line = config.cmd_opts is not None


def include_object(obj: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Let autogenerate see our tables only: it would drop every other table it finds."""
    del obj, reflected, compare_to
    return kind != "table" or name in Base.metadata.tables


def settings(command: str) -> dict[str, Any]:
    """Return what online and offline mode configure alike."""
    callbacks = config.attributes.get("on_version_apply", ())
    return {
        # Alembic would make the version table for `check` and `downgrade` too.
        "dont_mutate": command not in CREATING,
        "target_metadata": Base.metadata,
        "include_object": include_object,
        "compare_server_default": True,
        "transaction_per_migration": True,
        "on_version_apply": [*(callbacks if isinstance(callbacks, Iterable) else [callbacks]), finish_downgrade],
        # What the revisions and their operations go by.
        "existing": options.existing,
        "scores": options.scores,
        "patience": patience,
        "timeouts": operations.timeouts(*LIMITS.values(), local=True),
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
    given, option = options.url, "-x url="
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
    if hasattr(handed_in, "sync_engine"):
        raise ConfigurationError(
            "An asynchronous engine or connection was handed in; hand in a synchronous one, inside of run_sync."
        )
    if handed_in is not None:
        database.refuse_transaction_pooler(handed_in.engine.url)
    if isinstance(handed_in, sa.Connection):
        yield handed_in
    elif handed_in is not None:
        with database.connection_errors(handed_in.engine.url), handed_in.connect() as connection:
            yield connection
    else:
        url = find_url(command)
        database.refuse_transaction_pooler(url)
        if on_command_line:
            print(f"Database: {database.describe(url)}", file=sys.stderr)
        engine = database.create_engine(url, application_name="momentum-migrations")
        with database.connection_errors(url), engine.connect() as connection:
            yield connection


@contextmanager
def errors_explained(connection: sa.Connection, what: str, consequence: str) -> Iterator[None]:
    """Turn the driver's errors into one sentence that says what happened and one that says what is the case now.

    Raises:
        DatabaseUnreachableError: The connection was lost.
        MigrationError: The server refused a statement.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        if database.lost_connection(error):
            raise DatabaseUnreachableError("The connection to the database was lost; run the command again.") from None
        spent = f" ({counted(patience.failed, 'time')} in {counted(round(patience.spent), 'second')})"
        tries = spent if locks.can_be_retried(error) else ""
        reason = database.reason(error, connection.engine.url)
        raise MigrationError(f"{what}: {reason}{tries}. {consequence}") from None


@contextmanager
def timeouts_restored(connection: sa.Connection) -> Iterator[None]:
    """Leave the connection's timeouts as they were: it may go back to a pool."""
    before = {name: connection.exec_driver_sql(f"show {name}").scalar_one() for name in operations.TIMEOUTS}
    connection.commit()
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.rollback()
            locks.set_all(connection, before)


def refuse_autocommit(connection: sa.Connection) -> None:
    """Refuse a connection on which no revision could be rolled back.

    Raises:
        ConfigurationError: It commits each statement by itself.
    """
    driver_connection = connection.connection.dbapi_connection
    assert driver_connection is not None
    if connection.dialect.detect_autocommit_setting(driver_connection):
        raise ConfigurationError(
            "The connection that was handed in commits each statement by itself (AUTOCOMMIT), so that no revision "
            "could be rolled back; hand in one with another isolation level."
        )


def planned_steps(connection: sa.Connection, command: str) -> list[RevisionStep]:
    """Return what an upgrade or a downgrade is about to do, without doing it."""
    context.configure(connection=connection, **settings(command))
    migrations = context.get_context()
    return list(migrations.opts["fn"](migrations.get_current_heads(), migrations))


def check_before(connection: sa.Connection, command: str, *, may_commit: bool) -> list[RevisionStep]:
    """Look at the database before anything is created or changed in it, and return what is going to be done.

    Raises:
        PreflightError: The pending revisions could not all be applied, or a purge would stop halfway.
        ConfigurationError: What is parked would be dropped without a downgrade to base.
    """
    steps = planned_steps(connection, command)
    to_base = command == "downgrade" and not (steps[-1].to_revisions if steps else current_heads())
    if options.purge and not to_base:
        raise ConfigurationError("purge=yes drops what is parked, and so goes with a downgrade to base only.")
    pending = [step.revision.module for step in steps]
    creates = [name for module in pending for name in getattr(module, "creates", ())]
    if options.purge:
        parking.check_purge(connection, creates)
    if not steps:
        return steps
    concerns = {getattr(module, "concerns_scores", None) for module in pending}
    if command == "downgrade":
        parking.check_downgrade(connection, creates, drops_key="indexes" in concerns, to_base=to_base)
        if "indexes" in concerns:
            preflight.check_downgrade(connection, may_commit=may_commit)
        return steps
    preflight.check_upgrade(
        connection,
        creates,
        adopts_scores="adopts" in concerns,
        indexes_scores="indexes" in concerns,
        adopts_existing=options.existing == "adopt",
        may_commit=may_commit,
    )
    if "adopts" in concerns:
        for warning in preflight.find_warnings(connection):
            log.warning(warning)
    return steps


def current_heads() -> tuple[str, ...]:
    """Return the revision that the database is at, as Alembic has it: none at base."""
    return tuple(context.get_context().get_current_heads())


def refuse_empty_revision(_context: Any, _revision: Any, directives: list[MigrationScript]) -> None:
    """Write no revision file when autogenerate found nothing to do."""
    autogenerated = getattr(config.cmd_opts, "autogenerate", False)
    if autogenerated and directives and (ops := directives[0].upgrade_ops) is not None and ops.is_empty():
        directives[:] = []
        print("The models and the database agree: there is nothing to generate.", file=sys.stderr)


def finish_downgrade(*, step: Any, **_: Any) -> None:
    """Do what a revision leaves for the time after its version is gone, called by Alembic after each step.

    DROP INDEX CONCURRENTLY is such a thing. It can't be part of the transaction that takes the version away; done
    before, a kill in between would leave a database that is said to have the revision and lacks its index.
    """
    finish = getattr(step.up_revision.module, "after_downgrade", None)
    if finish and not step.is_upgrade:
        finish()


def remaining_steps(
    plan: list[RevisionStep], command: str, heads: tuple[str, ...], migrations: MigrationContext
) -> Iterator[RevisionStep]:
    """Yield what is left of a plan, and before a downgrade finish what an interrupted one has left undone.

    Alembic would count ``+2`` or ``-1`` anew from where an attempt has stopped, and so go too far.
    """
    if command == "downgrade":
        for head in heads:
            for above in context.script.get_revision(head).nextrev:
                with migrations.begin_transaction(_per_migration=True):
                    module = context.script.get_revision(above).module
                    getattr(module, "after_downgrade", lambda: None)()
    yield from itertools.dropwhile(lambda step: set(step.from_revisions) != set(heads), plan)


def migrate(connection: sa.Connection, command: str, plan: list[RevisionStep]) -> None:
    """Run the revisions of a plan, or what else the command does."""
    given = {"connection": connection, "process_revision_directives": refuse_empty_revision, **settings(command)}
    if command in MIGRATING:
        given["fn"] = functools.partial(remaining_steps, plan, command)
    context.configure(**given)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Migrate, or inspect, a database."""
    command = running_command()
    with connect(command) as connection:
        if connection.in_transaction():
            # It belongs to its owner: we don't commit, and leave its settings as they are.
            with errors_explained(connection, "The database refused a statement", "Roll the transaction back."):
                run_inside_transaction(connection, command)
        elif command in (*CREATING, *MIGRATING):
            refuse_autocommit(connection)
            with (
                errors_explained(connection, "The database refused a statement", "Nothing has changed."),
                locks.only_migration(connection.engine, patience),
                timeouts_restored(connection),
            ):
                run_with_retries(connection, command)
        else:
            with errors_explained(connection, "The database refused a statement", "Nothing has changed."):
                migrate(connection, command, [])


@contextmanager
def limits_where_there_are_none(connection: sa.Connection) -> Iterator[None]:
    """Limit what statements may wait and take in somebody's transaction, where its owner has set no limits."""
    unlimited = [name for name in operations.TIMEOUTS if connection.exec_driver_sql(f"show {name}").scalar_one() == "0"]

    def restore() -> None:
        for name in unlimited:
            connection.exec_driver_sql(f"set local {name} = 0")

    for name in unlimited:
        connection.exec_driver_sql(f"set local {name} = '{LIMITS[name]}'")
    try:
        yield
    except MomentumError:
        restore()
        raise
    # After an error of the server's the rollback, without which the transaction can do nothing more, restores them.
    restore()


def run_inside_transaction(connection: sa.Connection, command: str) -> None:
    """Migrate in a transaction that was handed in: no advisory lock, no second attempt, no commit."""
    if options.purge:
        raise ConfigurationError("purge=yes commits, and the connection was handed in inside a transaction.")
    with limits_where_there_are_none(connection):
        plan = check_before(connection, command, may_commit=False) if command in MIGRATING else []
        if command in CREATING:
            connection.execute(sa.text(f"create schema if not exists {inventory.PRIVATE_SCHEMA}"))
        migrate(connection, command, plan)
        if command == "upgrade" and options.verify:
            verify.check(connection)


def run_with_retries(connection: sa.Connection, command: str) -> None:
    """Migrate, each revision in its own transaction, and try again where a lock could not be had in time."""

    def create_schema() -> None:
        connection.execute(sa.text(f"create schema if not exists {inventory.PRIVATE_SCHEMA}"))

    def look() -> None:
        plan.extend(check_before(connection, command, may_commit=True))

    plan: list[RevisionStep] = []
    patience.start()
    if command in MIGRATING:
        patience.run(connection, look, statement_timeout=locks.READING_TIMEOUT)
    with errors_explained(
        connection,
        f"The {command} stopped" if command in MIGRATING else "The database refused a statement",
        "Its revision is not done, the ones before it stand; mend the cause, then run the command again.",
    ):
        if command in CREATING:
            patience.run(connection, create_schema)
        patience.run(connection, lambda: migrate(connection, command, plan))
    if command == "downgrade" and not current_heads():
        if options.purge:
            with errors_explained(connection, "The purge stopped", "The rest is parked; run the command again."):
                parking.purge(connection, patience)
        else:
            with errors_explained(connection, "What is parked could not be counted", "The downgrade is done."):
                parking.log_parked(connection, patience)
    if command == "upgrade" and options.verify:
        patience.run(connection, lambda: verify.check(connection))


def run_offline() -> None:
    """Write the SQL of a migration to standard output, for psql and other tools."""
    if options.purge:
        raise ConfigurationError("purge=yes counts what it drops, and so needs the database: leave out --sql.")
    start = context.get_starting_revision_argument()
    given = {"dialect_opts": {"paramstyle": "named"}, "literal_binds": True, **settings("upgrade")}
    context.configure(dialect_name="postgresql", **given)
    steps = context.get_context().opts["fn"]
    context.configure(dialect_name="postgresql", fn=lambda *heads: map(guarded, steps(*heads)), **given)
    revision = context.script.get_revision(start) if isinstance(start, str) else None
    # Alembic makes the version table where a script starts at the base; an online downgrade leaves an empty one.
    remove = "" if revision else f"drop table if exists {inventory.PRIVATE_SCHEMA}.alembic_version;\n  "
    for setting in operations.timeouts(*LIMITS.values()):
        context.execute(setting)
    # Withdrawn first: an earlier script of the same session may have been accepted.
    context.execute(f"do $withdraw$ begin perform set_config('{ACCEPTED}', 'no', false); end $withdraw$")
    context.execute(
        guard(revision.revision if revision else None, f"{remove}perform set_config('{ACCEPTED}', 'yes', false);")
    )
    if revision is None:
        context.execute(f"create schema if not exists {inventory.PRIVATE_SCHEMA}")
    with context.begin_transaction():
        context.run_migrations()
    for name in operations.TIMEOUTS:
        context.execute(f"reset {name}")


def guarded(step: RevisionStep) -> RevisionStep:
    """Put the guard into a step's transaction too: a psql that goes on after an error would go on with the next one."""
    migrate = step.migration_fn

    @functools.wraps(migrate)
    def migrate_guarded(**arguments: Any) -> None:
        lower = next(iter(step.from_revisions if step.is_upgrade else step.to_revisions), None)
        context.get_context().opts |= {"protection": protection(lower), "guard": guard(lower, REFUSE)}
        for setting in settings("upgrade")["timeouts"]:
            context.execute(setting)
        context.execute(guard(next(iter(step.from_revisions), None), REFUSE))
        migrate(**arguments)

    step.migration_fn = migrate_guarded
    return step


def protection(expected: str | None) -> str:
    """Return SQL after which nothing can be written, unless the script was accepted and came to a revision.

    For what stands outside of the transactions, and so outside of their guards.
    """
    return f"""
do $protect$
declare
  found text;
begin
  if to_regclass('{inventory.PRIVATE_SCHEMA}.alembic_version') is not null then
    execute 'select version_num from {inventory.PRIVATE_SCHEMA}.alembic_version' into found;
  end if;
  if current_setting('{ACCEPTED}', true) is distinct from 'yes' or found is distinct from '{expected}' then
    perform set_config('default_transaction_read_only', 'on', false);
  end if;
end
$protect$"""


def guard(expected: str | None, then: str) -> str:
    """Return SQL that fails unless the database is at a revision, and does something more if it is."""
    version_table = f"{inventory.PRIVATE_SCHEMA}.alembic_version"
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
    # What -x says, or what a calling program said to alembic_config.
    options = read_options({**config.attributes.get("options", {}), **context.get_x_argument(as_dictionary=True)})
    patience = locks.Patience(options.attempts, options.deadline)
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
        "Error: Interrupted; the revision that was running is not done, the ones before it stand; run the command "
        "again.",
        file=sys.stderr,
    )
    raise SystemExit(130) from None
