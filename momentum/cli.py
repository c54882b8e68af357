"""The command ``momentum``: everything that an operator needs, from an installed package alone."""

import importlib.metadata
import platform
from typing import Annotated

import typer

from momentum import __version__, status
from momentum.backfill import cli as backfill
from momentum.command import run_app, run_process
from momentum.migrate import cli as migrations
from momentum.testing import __main__ as databases
from momentum.verify import __main__ as verify

COMMAND = "momentum"

EXIT_CODES = (
    "Exit codes: 0 done; 1 refused or failed; 2 usage or configuration; 3 database unreachable; 130 interrupted."
)

# The libraries whose versions matter in a report of an error.
LIBRARIES = ("sqlalchemy", "alembic", "psycopg")

app = typer.Typer(
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def show_version(wanted: bool) -> None:
    """Print the versions of this package, of Python and of the libraries, and exit, if asked for."""
    if wanted:
        versions = [f"Python {platform.python_version()}"]
        versions += [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
        print(f"{COMMAND} {__version__} ({', '.join(versions)})")
        raise typer.Exit


@app.callback()
def momentum(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the versions and exit.")
    ] = False,
) -> None:
    """The Postgres schema of momentum and motivation scores: migrate it, compare it, fill it."""
    del version


app.command(epilog=status.EXIT_CODES)(status.status)
app.command(epilog=EXIT_CODES)(migrations.upgrade)
# A revision such as -1 is no option.
app.command(epilog=EXIT_CODES, context_settings={"ignore_unknown_options": True})(migrations.downgrade)
app.command(epilog=EXIT_CODES)(migrations.purge)
app.command(epilog=verify.EXIT_CODES)(verify.verify)
app.command(epilog=backfill.EXIT_CODES)(backfill.backfill)
app.add_typer(databases.app, name="db")


def main() -> None:
    """Run the command and end the process with its exit code."""
    run_process(run)


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code; every error is one line on standard error.

    Args:
        arguments: The arguments after the command's name.
    """
    if arguments[:1] == ["backfill"]:
        # It also writes its errors in the format of its log.
        return backfill.run(arguments[1:], f"{COMMAND} backfill")
    repeated = databases.before_run(arguments) if arguments[:1] == ["db"] else arguments
    return run_app(app, COMMAND, arguments, repeated=repeated)


if __name__ == "__main__":
    main()
