"""The migrations as a program calls them, and their history."""

import time
from typing import Any

import alembic.command
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from momentum.connect.engine import execute_script
from momentum.migrate.config import SCORES, alembic_config
from momentum.testing import Server
from tests.samples import LEGACY_SCORES, PREDECESSOR_VIEW, PREDECESSORS, PRODUCTION_SCORES, read_rows
from tests.server import engine_of

SCRIPTS = ScriptDirectory.from_config(alembic_config("postgresql://localhost/unused"))

# The revisions in the order of the history, oldest first.
REVISIONS = list(SCRIPTS.walk_revisions())[::-1]
HISTORY = ["base", *(revision.revision for revision in REVISIONS)]

# What there can be before the first revision: which scores, and whether the app's own versions of our tables.
WAYS = [*((scores, False) for scores in SCORES), ("fresh", True), ("public.production", True)]


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
    """Return the facts that clients can see: what a downgrade leaves in the private schema is none."""
    return [fact for fact in facts if "momentum_internal" not in fact]


def wait_until(url: sa.URL, condition: str, **parameters: Any) -> None:
    """Ask the database until a condition holds.

    Raises:
        TimeoutError: It doesn't within a minute.
    """
    deadline = time.monotonic() + 60
    engine = engine_of(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(sa.text(f"select {condition}"), parameters):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after a minute still not: {condition}")
            # The processors are for what is waited for.
            time.sleep(0.005)


def database_with_scores(server: Server, scores: str, *, predecessors: bool = False) -> sa.URL:
    """Return a new database, not migrated, with a score table to adopt, or none.

    Args:
        server: Where to make it.
        scores: One of ``momentum.migrate.config.SCORES``.
        predecessors: Whether the app's own versions of our tables stand there too, and its view over production scores.
    """
    schema, _, layout = scores.partition(".")

    def prepare(url: sa.URL) -> None:
        if layout:
            run(url, {"seed": LEGACY_SCORES, "production": PRODUCTION_SCORES}[layout].format(schema=schema))
        if predecessors:
            run(url, PREDECESSORS)
        if predecessors and layout == "production":
            run(url, PREDECESSOR_VIEW.format(schema=schema))

    key = f"scores-{scores}{'-predecessors' if predecessors else ''}"
    template = server.template(key, lambda: server.create_database(server.supabase_template()), prepare)
    return server.create_database(template)
