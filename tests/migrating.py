"""The migrations as a program calls them, and their history."""

import alembic.command
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from momentum.database import create_engine, execute_script
from momentum.migrations import alembic_config
from momentum.testing import Server
from tests.samples import LEGACY_SCORES

SCRIPTS = ScriptDirectory.from_config(alembic_config("postgresql://localhost/unused"))

# The revisions in the order of the history, oldest first.
REVISIONS = list(SCRIPTS.walk_revisions())[::-1]
HISTORY = ["base", *(revision.revision for revision in REVISIONS)]

# Where the score table may come from: nowhere, or the schema in which one of the seed's layout stands.
SCORES = ("fresh", "legacy", "public")


def migrate_to(url: sa.URL, revision: str) -> None:
    """Bring a database to a revision, up or down from where it is."""
    if HISTORY.index(revision) > HISTORY.index(current(url)):
        alembic.command.upgrade(alembic_config(url), revision)
    elif revision != current(url):
        alembic.command.downgrade(alembic_config(url), revision)


def current(url: sa.URL) -> str:
    """Return the revision that a database is at."""
    with create_engine(url, application_name="momentum-tests").connect() as connection:
        if connection.scalar(sa.text("select to_regclass('momentum_internal.alembic_version')")) is None:
            return "base"
        return connection.scalar(sa.text("select version_num from momentum_internal.alembic_version")) or "base"


def run(url: sa.URL, sql: str) -> None:
    """Execute a script and commit."""
    with create_engine(url, application_name="momentum-tests").begin() as connection:
        execute_script(connection, sql)


def database_with_scores(server: Server, scores: str) -> sa.URL:
    """Return a new database, not migrated, with a score table of the seed's layout in a schema, or none if fresh."""

    def prepare(url: sa.URL) -> None:
        if scores != "fresh":
            run(url, LEGACY_SCORES.format(schema=scores))

    template = server.template(f"scores-{scores}", lambda: server.create_database(server.supabase_template()), prepare)
    return server.create_database(template)
