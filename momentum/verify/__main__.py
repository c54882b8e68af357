"""Compare a database with what the migrations make: ``python -m momentum.verify``."""

import sys
from typing import Annotated

import typer
from sqlalchemy import text

from momentum.command import URL_OPTION, EnvFile, Url, run_app, run_process
from momentum.connect.engine import check_server, connection_errors, create_engine
from momentum.connect.env_file import find_url
from momentum.connect.url import describe
from momentum.streams import complain
from momentum.verify.compare import compare_database
from momentum.verify.kept import describe_kept
from momentum.verify.repairs import write_script
from momentum.wording import printable

COMMAND = "python -m momentum.verify"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


EXIT_CODES = (
    "Exit codes: 0 as expected; 1 something differs; 2 usage or configuration; 3 database unreachable, not migrated, "
    "or at a revision that this version doesn't compare; 130 interrupted."
)


@app.command(epilog=EXIT_CODES)
def verify(
    database_url: Url = None,
    env_file: EnvFile = None,
    sql: Annotated[
        bool,
        typer.Option("--sql", help="Print the statements that remove the differences, as a script for psql."),
    ] = False,
) -> int:
    """Compare a database with what the migrations make, and print the differences, one per line.

    It is read-only. A fact is missing if it should be there, unexpected if not, and changed if it should be different.
    A warning names what the role that compares can't change, with the reason; it is not a difference.
    """
    url = find_url(database_url, option=URL_OPTION, env_file=env_file)
    print(f"Database: {describe(url)}", file=sys.stderr)
    try:
        with connection_errors(url), create_engine(url, application_name="momentum-verify").connect() as connection:
            connection = connection.execution_options(postgresql_readonly=True)
            check_server(connection, writes=False)
            # A session that holds a lock on a whole table is changing it, so there is nothing to compare yet.
            connection.execute(text("set lock_timeout = '10s'"))
            comparison = compare_database(connection)
    except KeyboardInterrupt:
        return complain("Interrupted.", 130)
    for line in describe_kept(comparison.kept):
        print(printable(line), file=sys.stderr)
    for warning in comparison.warnings:
        print(f"Warning: {printable(warning)}", file=sys.stderr)
    if sql and comparison.differences:
        print(write_script(comparison))
    else:
        matches = f"{'-- ' if sql else ''}{describe(url)} matches revision {comparison.revision}."
        print("\n".join(printable(str(each)) for each in comparison.differences) or matches)
    return 1 if comparison.differences else 0


def main() -> None:
    """Run the command and end the process with its exit code."""
    run_process(lambda arguments: run_app(app, COMMAND, arguments))


if __name__ == "__main__":
    main()
