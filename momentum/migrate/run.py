"""Runs of Alembic: the database, the checks before a change, and how each revision is carried out."""

import functools
import logging
import sys
from collections.abc import Iterator
from configparser import InterpolationError
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationContext, RevisionStep

from momentum import inventory
from momentum.connect import engine as database
from momentum.connect import env_file
from momentum.connect.settings import (
    CORRECTED,
    PINNED,
    REFLECTING_PATH,
    SILENT,
    change_settings,
    corrected,
    read_settings,
)
from momentum.connect.url import describe, refuse_transaction_pooler
from momentum.errors import ConfigurationError, DatabaseUnreachableError, MigrationError, MomentumError
from momentum.migrate import access, event_triggers, locks, operations, parking, preflight, rights
from momentum.migrate.environment import AUTOGENERATING, CREATING, LIMITS, MIGRATING, Environment
from momentum.migrate.script import write_script
from momentum.scores import find_score_table
from momentum.verify import compare as verify
from momentum.wording import counted

INTERRUPTED = "Interrupted; the running revision is not done, but the ones before it are; run the command again."

# Why nothing can commit in between, and what to do.
HANDED_IN = "the connection was handed in inside a transaction; commit it first, or hand in an engine"

log = logging.getLogger("momentum.migrations")


def is_shown(record: logging.LogRecord) -> bool:
    """Return whether an operator needs to see a log record: of Alembic's own, only the revisions that run."""
    return not record.name.startswith("alembic") or record.getMessage().startswith("Running")


def run() -> None:
    """Migrate, inspect or write a script, depending on the command that Alembic was called with.

    Raises:
        MomentumError: The command was refused or failed; the message is one sentence.
    """
    environment = Environment.current()
    if context.is_offline_mode():
        write_script(environment)
    else:
        run_online(environment)


def running_command() -> str:
    """Return the name of the function that Alembic will call: upgrade, downgrade or another."""
    context.configure(dialect_name="postgresql")
    return str(context.get_context().opts["fn"].__name__)


def find_url(environment: Environment, command: str) -> sa.URL:
    """Return the URL from ``-x url=``, from a calling program's configuration, the environment or the env file.

    A downgrade doesn't use the env file: forgetting to name a database must not roll production back.
    """
    given, option = environment.options.url, "-x url="
    try:
        if given is None and (given := environment.config.get_main_option("sqlalchemy.url")) is not None:
            option = "sqlalchemy.url"
    except InterpolationError:
        # Its message repeats the URL, with its password.
        raise ConfigurationError(
            "The database URL from sqlalchemy.url has a % that starts an interpolation; write it as %%."
        ) from None
    return env_file.find_url(given, option=option, use_env_file=command != "downgrade")


@contextmanager
def connect(environment: Environment, command: str) -> Iterator[sa.Connection]:
    """Yield the connection that a calling program handed in, or one of our own.

    Raises:
        MomentumError: There is no URL, the server doesn't answer, or it refused a statement.
    """
    handed_in = environment.config.attributes.get("connection")
    if hasattr(handed_in, "sync_engine"):
        raise ConfigurationError(
            "An asynchronous engine or connection was handed in; hand in a synchronous one, inside of run_sync."
        )
    if handed_in is not None:
        refuse_transaction_pooler(handed_in.engine.url)
    if isinstance(handed_in, sa.Connection):
        yield handed_in
    elif handed_in is not None:
        with database.connection_errors(handed_in.engine.url), handed_in.connect() as connection:
            yield connection
    else:
        url = find_url(environment, command)
        refuse_transaction_pooler(url)
        if environment.on_command_line:
            print(f"Database: {describe(url)}", file=sys.stderr)
        engine = database.create_engine(url, application_name="momentum-migrations")
        with database.connection_errors(url), engine.connect() as connection:
            yield connection


@contextmanager
def errors_explained(
    environment: Environment, connection: sa.Connection, what: str, consequence: str
) -> Iterator[None]:
    """Turn the driver's errors into a sentence that says what happened and one that says what state the database is in.

    Raises:
        DatabaseUnreachableError: The connection was lost.
        MigrationError: The server refused a statement.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        reason = database.reason(error, connection.engine.url)
        if database.lost_connection(error):
            # The driver's own words tell more if a connection was refused, for example because there are too many.
            why = f" ({reason})" if reason.startswith(("connection ", SILENT)) else ""
            raise DatabaseUnreachableError(
                f"The connection to the database was lost{why}; run the command again."
            ) from database.without_secrets(error, connection.engine.url)
        patience = environment.patience
        spent = f" ({counted(patience.failed, 'time')} in {counted(round(patience.spent), 'second')})"
        tries = spent if locks.can_be_retried(error) else ""
        raise MigrationError(f"{what}: {reason}{tries}. {consequence}") from database.without_secrets(
            error, connection.engine.url
        )


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


def planned_steps(environment: Environment, connection: sa.Connection, command: str) -> list[RevisionStep]:
    """Return what an upgrade or a downgrade is about to do, without doing it."""
    context.configure(connection=connection, **environment.settings(command))
    migrations = context.get_context()
    return list(migrations.opts["fn"](migrations.get_current_heads(), migrations))


def check_before(
    environment: Environment, connection: sa.Connection, command: str, *, obstacle: preflight.Obstacle
) -> list[RevisionStep]:
    """Check the database before anything is created or changed in it, and return the steps to run.

    Args:
        environment: The run.
        connection: A connection; nothing is written through it.
        command: ``upgrade`` or ``downgrade``.
        obstacle: Returns why a relation can't be migrated in steps that commit, and what to do; None if it can.

    Raises:
        PreflightError: The pending revisions could not all be applied, or a purge would stop halfway.
        ConfigurationError: An upgrade was asked to purge.
    """
    rights.check_rights(connection, rights.TO_LOOK)
    rights.check_owners(connection)
    steps = planned_steps(environment, connection, command)
    if steps or environment.options.purge:
        preflight.check_not_distributed(connection)
    to_base = command == "downgrade" and not (steps[-1].to_revisions if steps else current_heads())
    if environment.options.purge and command != "downgrade":
        raise ConfigurationError("purge=yes drops parked tables and columns, and is for downgrades only.")
    parkable = parking.Parkable.of(context.script)
    pending = preflight.without_other_layouts(connection, [step.revision.module for step in steps])
    creates = [name for module in pending for name in getattr(module, "creates", ())]
    scores = find_score_table(connection)
    if command == "downgrade" and (steps or environment.options.purge):
        ours = [*rights.to_change(parkable.tables, scores), *rights.to_downgrade(connection, creates, scores)]
        rights.check_rights(connection, ours)
        rights.check_owners(connection, [f"public.{name}" for name in creates], scores)
    if environment.options.purge:
        parking.check_purge(connection, parkable, creates, at_base=to_base)
    if steps or environment.options.purge:
        check_drift(environment, connection, command)
    if not steps:
        return steps
    if command == "downgrade":
        drops_key = bool(preflight.layouts_of(pending, "indexes"))
        parking.check_downgrade(connection, creates, drops_key=drops_key, to_base=to_base)
        event_triggers.check_downgrade(
            connection,
            creates,
            drops_key=drops_key and scores is not None and scores.created_index and not scores.created,
            drops_scores=bool(preflight.layouts_of(pending, "adopts")),
            to_base=to_base,
            purges=environment.options.purge,
        )
        if drops_key:
            preflight.check_downgrade(connection, obstacle=obstacle)
        return steps
    here = current_heads() or "base"
    ahead = context.script.iterate_revisions("heads", here)
    done = context.script.iterate_revisions(here, "base")
    preflight.check_upgrade(
        connection,
        pending,
        [revision.module for revision in ahead],
        [revision.module for revision in done],
        adopts_existing=environment.options.existing == "adopt",
        obstacle=obstacle,
    )
    if environment.options.existing == "adopt":
        for warning in access.check_access(connection, creates, environment.options.access):
            log.warning(warning)
    adopted, key = preflight.score_table_of(connection, pending)
    event_triggers.check_event_triggers(
        connection, command, (), event_triggers.of_upgrade(connection, creates, adopted, key)
    )
    if preflight.layouts_of(pending, "adopts"):
        for warning in preflight.find_warnings(connection):
            log.warning(warning)
    return steps


def check_drift(environment: Environment, connection: sa.Connection, command: str) -> None:
    """Compare the database with what its revision makes, and refuse one that differs if that is asked for.

    Raises:
        PreflightError: The database differs, and such a one is refused.
    """
    refuses = environment.options.drift == "refuse"
    try:
        verify.check_drift(connection, current_heads(), command, refuses=refuses)
    except sa.exc.DBAPIError as error:
        if refuses or not locks.can_be_retried(error):
            raise
        # Whoever is in the way may be gone before the revision that needs the lock.
        log.warning("Not compared before the %s: %s", command, database.reason(error, connection.engine.url))


def current_heads() -> tuple[str, ...]:
    """Return the database's revision as Alembic does, in a tuple that is empty at base."""
    return tuple(context.get_context().get_current_heads())


def remaining_steps(
    plan: list[RevisionStep], command: str, heads: tuple[str, ...], migrations: MigrationContext
) -> Iterator[RevisionStep]:
    """Yield the remaining steps of a plan, each after its transaction has the advisory lock.

    Alembic would count ``+2`` or ``-1`` again from where an attempt has stopped, and so go too far. Before a downgrade,
    the step that an interrupted one left undone is finished.

    Args:
        plan: The steps; those that are done are removed, also if another migration has done them.
        command: ``upgrade`` or ``downgrade``.
        heads: The revision that the database is at.
        migrations: Alembic's context.

    Raises:
        MigrationError: Another migration has taken the database to a revision that is not ahead in the plan.
    """
    connection = migrations.connection
    assert connection is not None
    locks.take_turn(connection, heads)
    done = next((n for n, step in enumerate(plan) if set(step.from_revisions) == set(heads)), len(plan))
    if done == len(plan) and plan and set(plan[-1].to_revisions) != set(heads):
        raise MigrationError(
            f"Another migration has meanwhile taken the database to {', '.join(heads) or 'base'}; run the command "
            "again if that is not where it should be."
        )
    del plan[:done]
    if command == "downgrade":
        for head in heads:
            for above in context.script.get_revision(head).nextrev:
                with migrations.begin_transaction(_per_migration=True):
                    module = context.script.get_revision(above).module
                    getattr(module, "after_downgrade", lambda: None)()
    while plan:
        locks.take_turn(connection, plan[0].from_revisions)
        yield plan[0]
        del plan[0]


def migrate(environment: Environment, connection: sa.Connection, command: str, plan: list[RevisionStep]) -> None:
    """Run the revisions of a plan, or whatever else the command does."""
    given = {"connection": connection, **environment.settings(command)}
    if command in MIGRATING:
        given["fn"] = functools.partial(remaining_steps, plan, command)
    context.configure(**given)
    with context.begin_transaction():
        context.run_migrations()


def run_online(environment: Environment) -> None:
    """Migrate, or inspect, a database."""
    command = running_command()
    with connect(environment, command) as connection:
        explained = functools.partial(errors_explained, environment, connection)
        callers = connection.in_transaction()
        try:
            with explained("The database refused a statement", "Nothing has changed."):
                database.check_server(connection, writes=command in (*CREATING, *MIGRATING))
        finally:
            if not callers:
                connection.rollback()
        if callers:
            # The transaction belongs to the caller: we don't commit, and leave its settings as they are.
            with explained("The database refused a statement", "Roll the transaction back."):
                run_inside_transaction(environment, connection, command)
        elif command in (*CREATING, *MIGRATING):
            refuse_autocommit(connection)
            with (
                explained("The database refused a statement", "Nothing has changed."),
                locks.limited(connection, environment.patience),
            ):
                run_with_retries(environment, connection, command)
        else:
            if command == AUTOGENERATING:
                environment.patience.search_path = REFLECTING_PATH
            with (
                explained("The database refused a statement", "Nothing has changed."),
                locks.limited(connection, environment.patience),
            ):
                rights.check_owners(connection)
                migrate(environment, connection, command, [])


@contextmanager
def settings_of_caller(connection: sa.Connection) -> Iterator[None]:
    """Change settings in a caller's transaction, timeouts where the caller has set none, and restore them."""
    before = read_settings(connection, (*LIMITS, *PINNED, *(name for name, *_ in CORRECTED)))
    ours = {name: limit for name, limit in LIMITS.items() if before[name] == "0"} | PINNED | corrected(before)
    theirs = {name: before[name] for name in ours}
    change_settings(connection, ours)
    try:
        yield
    except MomentumError:
        change_settings(connection, theirs)
        raise
    # After a server error, the rollback restores them; until then the transaction can do nothing more.
    change_settings(connection, theirs)


def create_private_schema(connection: sa.Connection) -> None:
    """Create the private schema, if there is none."""
    for name in rights.missing_schemas(connection, [inventory.PRIVATE_SCHEMA]):
        connection.execute(sa.text(f"create schema if not exists {name}"))


def run_inside_transaction(environment: Environment, connection: sa.Connection, command: str) -> None:
    """Migrate in a transaction that was handed in: no second attempt, no commit."""
    if environment.options.purge:
        raise ConfigurationError("purge=yes commits, but the connection was handed in inside a transaction.")
    with settings_of_caller(connection):
        rights.check_owners(connection)
        if command in (*CREATING, *MIGRATING):
            try:
                locks.take_turn(connection)
            except locks.HeldError:
                raise locks.another_is_running(connection, "holds the lock") from None
        plan = (
            check_before(environment, connection, command, obstacle=lambda _: HANDED_IN) if command in MIGRATING else []
        )
        if command in CREATING:
            create_private_schema(connection)
        migrate(environment, connection, command, plan)
        if command == "upgrade" and environment.options.verify:
            verify.check(connection)


def run_with_retries(environment: Environment, connection: sa.Connection, command: str) -> None:
    """Migrate, each revision in its own transaction, and try again if a lock was not available in time."""

    def create_version_table() -> None:
        create_private_schema(connection)
        # Somebody may have been faster.
        rights.check_owners(connection)
        # Alembic would create it in a transaction without the advisory lock.
        context.configure(connection=connection, **environment.settings(command))
        context.get_context()._ensure_version_table()

    def look() -> None:
        obstacle = functools.partial(operations.obstacle_to_patience, connection)
        plan[:] = check_before(environment, connection, command, obstacle=obstacle)

    plan: list[RevisionStep] = []
    patience = environment.patience
    explained = functools.partial(errors_explained, environment, connection)
    patience.start()
    if command in MIGRATING:
        patience.run(connection, look, statement_timeout=locks.READING_TIMEOUT)
    with explained(
        f"The {command} stopped" if command in MIGRATING else "The database refused a statement",
        "This revision is not done, but the ones before it are; fix the cause, then run the command again.",
    ):
        if command in CREATING:
            patience.run(connection, create_version_table)
        patience.run(connection, lambda: migrate(environment, connection, command, plan), takes_lock=False)
    if command == "downgrade":
        parkable, patience.heads = parking.Parkable.of(context.script), current_heads()
        at_base = not patience.heads
        if environment.options.purge:
            with explained("The purge stopped", "The rest is still parked; run the command again."):
                parking.purge(connection, parkable, patience, at_base=at_base)
        elif at_base:
            with explained("The parked rows and values could not be counted", "The downgrade is done."):
                parking.log_parked(connection, parkable, patience)
    if command == "upgrade":
        verified = False

        def compare() -> None:
            nonlocal verified
            verified = verify.check(connection)

        if environment.options.verify:
            patience.run(connection, compare)
        here = ", ".join(current_heads()) or "base"
        log.info("At revision %s, %sverified, after %.1f seconds.", here, "" if verified else "not ", patience.spent)
