"""Compare a database with what the migrations make: ``python -m momentum.verify``."""

import sys
from typing import Annotated

import typer
from sqlalchemy import text

from momentum.command import complain, run_app
from momentum.connect.engine import connection_errors, create_engine
from momentum.connect.env_file import find_url
from momentum.connect.environment import DEFAULT_ENV_FILE, URL_VARIABLES
from momentum.connect.url import describe
from momentum.verify.compare import differences, read_revision

COMMAND = "python -m momentum.verify"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    epilog="Exit codes: 0 as expected; 1 something differs; 2 usage or configuration; 3 database unreachable, not "
    "migrated, or at a revision that this version doesn't compare; 130 interrupted."
)
def verify(
    database_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"The database. Default: {' or '.join(URL_VARIABLES)} in the environment, then the env file.",
        ),
    ] = None,
    env_file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A file with SUPABASE_DB_URL or DATABASE_URL in it; the environment takes precedence. "
            f"Default: {DEFAULT_ENV_FILE}.",
        ),
    ] = None,
) -> int:
    """Compare a database with what the migrations make, and print the differences, one per line.

    It is read-only. A fact is missing if it should be there, unexpected if not, and changed if it should be different.
    """
    url = find_url(database_url, option="--database-url", env_file=env_file)
    print(f"Database: {describe(url)}", file=sys.stderr)
    try:
        with connection_errors(url), create_engine(url, application_name="momentum-verify").connect() as connection:
            connection = connection.execution_options(postgresql_readonly=True)
            # A session that holds a lock on a whole table is changing it, so there is nothing to compare yet.
            connection.execute(text("set lock_timeout = '10s'"))
            revision = read_revision(connection)
            found = differences(connection)
    except KeyboardInterrupt:
        return complain("Interrupted.", 130)
    print("\n".join(found) or f"{describe(url)} matches revision {revision}.")
    return 1 if found else 0


def main() -> None:
    """Run the command and end the process with its exit code."""
    sys.exit(run_app(app, COMMAND, sys.argv[1:]))


if __name__ == "__main__":
    main()
