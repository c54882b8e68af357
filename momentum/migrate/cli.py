"""The commands ``momentum upgrade``, ``downgrade`` and ``purge``, which call Alembic's own."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Unpack

import typer
from alembic import command
from alembic.util import CommandError
from sqlalchemy.engine import URL

from momentum.command import URL_OPTION, EnvFile, Url
from momentum.connect.engine import connection_errors, create_engine
from momentum.connect.env_file import find_url
from momentum.connect.settings import PINNED, change_settings
from momentum.connect.url import describe
from momentum.errors import ConfigurationError
from momentum.migrate.config import SCORES, Access, Drift, Existing, MigrationOptions, alembic_config
from momentum.migrate.locks import ATTEMPTS, SECONDS, read_heads
from momentum.migrate.rights import TO_LOOK, check_owners, check_rights
from momentum.migrate.run import INTERRUPTED, is_shown
from momentum.scores import ScoresOption
from momentum.streams import complain

DEADLINE = round(SECONDS)
MOST = 10**6 - 1

# A script needs no database.
NO_DATABASE = URL.create("postgresql")

Attempts = Annotated[
    int, typer.Option(min=1, max=MOST, metavar="N", help="How often to try to get locks that others hold.")
]
Deadline = Annotated[
    int,
    typer.Option(
        min=1, max=MOST, metavar="SECONDS", help="How long to wait for locks, and for another migration to end."
    ),
]
OnDrift = Annotated[
    Drift,
    typer.Option(
        "--drift",
        metavar="warn|refuse",
        help="What to do if the database differs from what its revision makes, before anything changes.",
    ),
]
Sql = Annotated[
    bool, typer.Option("--sql", metavar="", help="Print a script for psql instead; the revision may be FROM:TO.")
]
Scores = Annotated[
    ScoresOption,
    typer.Option(
        metavar="WHERE", help=f"With --sql: where the score table is: {', '.join(SCORES[:-1])} or {SCORES[-1]}."
    ),
]
Revision = Annotated[str, typer.Argument(metavar="REVISION", help="Where to go, such as +1, -1 or base.")]


def upgrade(
    revision: Revision = "head",
    database_url: Url = None,
    env_file: EnvFile = None,
    existing: Annotated[
        Existing,
        typer.Option(
            metavar="refuse|adopt", help="What to do with tables that the app's own migrations made under our names."
        ),
    ] = "refuse",
    access: Annotated[
        Access,
        typer.Option(
            metavar="refuse|keep|close",
            help="With --existing adopt, if clients would lose something: refuse, keep what they have, or close the "
            "tables to them.",
        ),
    ] = "refuse",
    drift: OnDrift = "warn",
    no_verify: Annotated[
        bool, typer.Option("--no-verify", metavar="", help="Don't compare the database at head with what was made.")
    ] = False,
    attempts: Attempts = ATTEMPTS,
    deadline: Deadline = DEADLINE,
    sql: Sql = False,
    scores: Scores = "fresh",
) -> int:
    """Upgrade a database to head, or to another revision.

    Each revision is a transaction of its own. Nothing changes if the upgrade could not finish.
    """
    options: MigrationOptions = {
        "existing": existing,
        "drift": drift,
        "verify": not no_verify,
        "attempts": attempts,
        "deadline": deadline,
        "scores": scores,
    }
    if access != "refuse" or existing == "adopt":
        options["access"] = access
    url = NO_DATABASE if sql else named(find_url(database_url, option=URL_OPTION, env_file=env_file))
    return migrate("upgrade", url, revision, sql=sql, **options)


def downgrade(
    revision: Revision,
    database_url: Url = None,
    env_file: EnvFile = None,
    purge: Annotated[
        bool, typer.Option("--purge", metavar="", help="Then drop what is parked: the only way to lose a row.")
    ] = False,
    drift: OnDrift = "warn",
    attempts: Attempts = ATTEMPTS,
    deadline: Deadline = DEADLINE,
    sql: Sql = False,
    scores: Scores = "fresh",
) -> int:
    """Downgrade a database to a revision.

    Tables and columns are parked with their rows and values, and the next upgrade takes them back. The default env file
    is not used: forgetting to name a database must not roll production back.
    """
    url = NO_DATABASE if sql else named(find_url_explicitly(database_url, env_file))
    options: MigrationOptions = {
        "purge": purge,
        "drift": drift,
        "attempts": attempts,
        "deadline": deadline,
        "scores": scores,
    }
    return migrate("downgrade", url, revision, sql=sql, **options)


def purge(
    database_url: Url = None,
    env_file: EnvFile = None,
    attempts: Attempts = ATTEMPTS,
    deadline: Deadline = DEADLINE,
) -> int:
    """Drop what is parked, and stay at the current revision: the only way to lose a row.

    At base, this removes the last trace of the migrations. The default env file is not used.
    """
    url = named(find_url_explicitly(database_url, env_file))
    with connection_errors(url), create_engine(url, application_name="momentum-migrations").connect() as connection:
        # In place of the version table there may be a view that runs somebody else's function.
        change_settings(connection, PINNED)
        check_rights(connection, TO_LOOK)
        check_owners(connection)
        here = ",".join(read_heads(connection)) or "base"
    return migrate("downgrade", url, here, purge=True, attempts=attempts, deadline=deadline)


def find_url_explicitly(database_url: str | None, env_file: str | None) -> URL:
    """Return the URL of a database that somebody has named, and never the one in the default env file."""
    return find_url(database_url, option=URL_OPTION, env_file=env_file, use_env_file=env_file is not None)


def named(url: URL) -> URL:
    """Say which database a URL leads to, before anything is done there, and return the URL."""
    print(f"Database: {describe(url)}", file=sys.stderr)
    return url


def migrate(run: str, url: URL, revision: str, *, sql: bool = False, **options: Unpack[MigrationOptions]) -> int:
    """Run one of Alembic's commands and return the exit code.

    Args:
        run: ``upgrade`` or ``downgrade``.
        url: The database.
        revision: Where to go.
        sql: Whether to print a script instead.
        options: The options of the migrations.

    Raises:
        MomentumError: The command was refused or failed.
    """
    try:
        config = alembic_config(url, **options)
        config.attributes["on_command_line"] = True
        with steps_shown():
            getattr(command, run)(config, revision, sql=sql)
    except CommandError as error:
        raise ConfigurationError(f"{str(error).rstrip('.')}.") from error
    except KeyboardInterrupt:
        return complain(INTERRUPTED, 130)
    return 0


@contextmanager
def steps_shown() -> Iterator[None]:
    """Write what the migrations log to standard error during the block, as ``alembic`` does."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(is_shown)
    loggers = [logging.getLogger(name) for name in ("momentum", "alembic.runtime.migration")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
