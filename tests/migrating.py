"""The migrations as a program calls them, and their history."""

import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import alembic.command
import sqlalchemy as sa
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from momentum.connect.engine import execute_script
from momentum.inventory import PARKED_PREFIX
from momentum.migrate.config import SCORES, alembic_config
from momentum.migrate.environment import Environment
from momentum.scores import LAYOUTS, SCHEMAS
from momentum.testing import Server
from momentum.testing.servers import Kind
from tests.processes import DEADLINE, Process
from tests.samples import PREDECESSOR_VIEW, PREDECESSORS, SCORE_TABLES, read_rows
from tests.server import engine_of

SCRIPTS = ScriptDirectory.from_config(alembic_config("postgresql://localhost/unused"))

# The revisions in the order of the history, oldest first.
REVISIONS = list(SCRIPTS.walk_revisions())[::-1]
HISTORY = ["base", *(revision.revision for revision in REVISIONS)]

# Revisions that tests are about, whatever comes after them: the journal and the habit index, the copy of predecessors'
# rows, the score table, its unique key, and the view.
JOURNAL, COPY, SCORES_ADOPTED, KEY, VIEW = HISTORY[3:8]

# No score table, and one of each layout, in one schema and then in the other.
ONE_OF_EACH = ("fresh", *(f"{SCHEMAS[n % len(SCHEMAS)]}.{layout.name}" for n, layout in enumerate(LAYOUTS)))

# The databases from which migrations start: which scores they have, and whether the app's own versions of our tables.
WAYS = [*((scores, False) for scores in SCORES), ("fresh", True), ("public.production", True)]


@contextmanager
def entered(typed: dict[str, Any] | None = None, **attributes: Any) -> Iterator[Environment]:
    """Yield Alembic's environment for a command that was typed with some arguments, or for a function without any."""
    config = alembic_config("postgresql://localhost/unused", verify=False)
    if typed is not None:
        config.cmd_opts = Namespace(**{"x": None, **typed})
    config.attributes.update(attributes)
    with EnvironmentContext(config, SCRIPTS):
        yield Environment.current()


def migrate_to(url: sa.URL, revision: str, **options: Any) -> None:
    """Bring a database to a revision, up or down from where it is, with the options that ``-x`` takes."""
    here = current(url)
    if HISTORY.index(revision) > HISTORY.index(here):
        alembic.command.upgrade(alembic_config(url, **options), revision)
    elif revision != here:
        alembic.command.downgrade(alembic_config(url, **options), revision)


def current(url: sa.URL) -> str:
    """Return the revision that a database is at."""
    with engine_of(url).connect() as connection:
        if connection.scalar(sa.text("select to_regclass('momentum_internal.alembic_version')")) is None:
            return "base"
        return connection.scalar(sa.text("select version_num from momentum_internal.alembic_version")) or "base"


def run(url: sa.URL, sql: str) -> None:
    """Execute a script and commit."""
    with engine_of(url).begin() as connection:
        execute_script(connection, sql)


def execute(url: sa.URL, sql: str, **parameters: Any) -> Any:
    """Execute a statement, commit, and return the first value of its first row, if it returns rows."""
    with engine_of(url).begin() as connection:
        result = connection.execute(sa.text(sql), parameters)
        return result.scalar() if result.returns_rows else None


def fetch(url: sa.URL, sql: str, **parameters: Any) -> list[Any]:
    """Return the first value of every row of a query."""
    with engine_of(url).connect() as connection:
        return list(connection.scalars(sa.text(sql), parameters))


def rows_of(url: sa.URL) -> dict[str, list[str]]:
    """Return every row of every table of ours and of the score table, as the server writes it."""
    with engine_of(url).connect() as connection:
        return read_rows(connection)


def visible(facts: list[str]) -> list[str]:
    """Return the facts that clients can see and name: without the private schema and parked columns."""
    return [fact for fact in facts if not re.search(rf"momentum_internal|\b{PARKED_PREFIX}", fact)]


Found = TypeVar("Found")


def until(ask: Callable[[], Found], what: str) -> Found:
    """Ask until the answer is a true value, and return it.

    Tests wait for states, and this is the one place where they do. The deadline only ends a test that hangs.

    Raises:
        TimeoutError: The answer never came.
    """
    deadline = time.monotonic() + DEADLINE
    while not (found := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {DEADLINE:.0f} s still not: {what}")
        # Leaves the processors to what is waited for.
        time.sleep(0.005)
    return found


def wait_until(url: sa.URL, condition: str, *, process: Process | None = None, **parameters: Any) -> Any:
    """Query the database until a condition holds, and return its value.

    Args:
        url: The database.
        condition: An SQL expression.
        process: A program that must not end before.
        parameters: The expression's parameters.
    """
    with engine_of(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def ask() -> Any:
            assert process is None or process.poll() is None, f"{process.args} has ended, and still not: {condition}"
            return connection.scalar(sa.text(f"select {condition}"), parameters)

        return until(ask, condition)


# The session of a migration that waits for a lock.
WAITING_MIGRATION = """(
  select pid from pg_catalog.pg_stat_activity
  where datname = current_database() and application_name = 'momentum-migrations' and wait_event_type = 'Lock'
)"""


def waits(url: sa.URL) -> list[Any]:
    """Return when the waits for a lock began in which a migration is now: each attempt has a moment of its own."""
    return fetch(
        url,
        """
        select l.waitstart
        from pg_catalog.pg_locks as l
        inner join pg_catalog.pg_stat_activity as a on l.pid = a.pid
        where a.datname = current_database() and a.application_name = 'momentum-migrations' and l.waitstart is not null
        """,
    )


def wait_for_attempts(url: sa.URL, count: int) -> None:
    """Return once a migration has made n attempts to get a lock, which somebody else must hold all the time."""
    seen: set[Any] = set()

    def ask() -> bool:
        seen.update(waits(url))
        return len(seen) >= count

    until(ask, f"{count} attempts to get a lock")


def queue_behind_migration(url: sa.URL, query: str) -> None:
    """Run a client's query until it has once queued behind a waiting migration, and been answered.

    Somebody else must hold the lock all the time: then it was the end of the migration's attempt that let the client
    go first. Behind a migration that went on waiting, the client would wait until the server cancels its query.
    """
    queued = """
        select c.pid
        from pg_catalog.pg_stat_activity as c
        inner join pg_catalog.pg_stat_activity as m on m.pid = any(pg_blocking_pids(c.pid))
        where c.datname = current_database() and m.application_name = 'momentum-migrations'
    """

    def ask() -> None:
        with engine_of(url).connect() as connection:
            connection.exec_driver_sql(f"set statement_timeout = '{DEADLINE:.0f}s'")
            connection.exec_driver_sql(query)

    with ThreadPoolExecutor(1) as client:

        def was_queued() -> bool:
            wait_until(url, WAITING_MIGRATION)
            answer = client.submit(ask)
            # It may also come between two attempts, when nothing is in its way.
            seen = until(lambda: fetch(url, queued) or answer.done(), "the client queues or has its answer")
            answer.result(timeout=2 * DEADLINE)
            return seen is not True

        until(was_queued, "the client queues")


def database_with_scores(server: Server, scores: str, *, predecessors: bool = False, kind: Kind = "older") -> sa.URL:
    """Return a new database, not migrated, with a score table to adopt, or none.

    Args:
        server: Where to make it.
        scores: One of ``momentum.migrate.config.SCORES``.
        predecessors: Whether it has the app's own versions of our tables too, and its view over production scores.
        kind: The kind of Supabase project.
    """
    schema, _, layout = scores.partition(".")

    def prepare(url: sa.URL) -> None:
        if layout:
            run(url, SCORE_TABLES[layout].format(schema=schema))
        if predecessors:
            run(url, PREDECESSORS)
        if predecessors and layout == "production":
            run(url, PREDECESSOR_VIEW.format(schema=schema))

    key = f"scores-{kind}-{scores}{'-predecessors' if predecessors else ''}"
    template = server.template(key, lambda: server.create_database(server.supabase_template(kind)), prepare)
    return server.create_database(template)
