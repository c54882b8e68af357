"""Databases for development: ``python -m momentum.testing start``, ``stop``, ``url``, ``status``, ``run COMMAND``."""

import os
import subprocess
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
import typer

from momentum.command import run_app, run_process
from momentum.connect.engine import create_engine
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text
from momentum.errors import ConfigurationError, DatabaseUnreachableError
from momentum.testing.servers import (
    admin_of,
    apply_stand_in,
    migrate,
    prepare_roles,
    running_server,
    start_embedded,
)
from momentum.wording import holds_credentials

COMMAND = "python -m momentum.testing"
DIRECTORY = Path.cwd() / ".momentum" / "postgres"
NAME = "momentum"
NOT_RUNNING = "No local database is running."

app = typer.Typer(
    help="Databases for development, on a server in .momentum/postgres of the current folder.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def owned_database(admin_url: sa.URL) -> sa.URL:
    """Return the URL of the local database as its owner; create it if there is none yet."""
    owner = prepare_roles(admin_url).username
    asked = f"select pg_get_userbyid(datdba) from pg_catalog.pg_database where datname = '{NAME}'"
    with create_engine(admin_url, "momentum-testing").connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        if found := connection.exec_driver_sql(asked).scalar():
            # In a directory of an earlier version, everything belongs to a superuser called postgres.
            owner = found
        else:
            connection.exec_driver_sql(f"create database {NAME} template template0 encoding 'utf8' owner {owner}")
    admin_url = admin_url.set(database=NAME)
    with create_engine(admin_url, "momentum-testing").connect() as connection:
        empty = connection.exec_driver_sql("select to_regclass('auth.users') is null").scalar_one()
    if empty:
        apply_stand_in(admin_url)
    return admin_url.set(username=owner)


def is_running() -> bool:
    """Return whether the local server has been started and not been stopped."""
    return (DIRECTORY / "postmaster.pid").exists()


def url_of_running() -> str:
    """Return the URL of the local database.

    Raises:
        DatabaseUnreachableError: Its server is not running.
    """
    if not is_running():
        raise DatabaseUnreachableError(f"{NOT_RUNNING[:-1]}; start it first.")
    return readable(owned_database(admin_of(start_embedded(DIRECTORY, keep_running=True))))


def readable(url: sa.URL) -> str:
    """Return a URL as text, with a socket's folder as people write it."""
    return as_text(url).replace("%2F", "/")


@app.command()
def start() -> None:
    """Start the server if it is not running, upgrade its database to head and print the URL."""
    DIRECTORY.parent.mkdir(exist_ok=True)
    # The folder ignores itself, in case the repository's own .gitignore doesn't list it.
    (DIRECTORY.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    url = owned_database(admin_of(start_embedded(DIRECTORY, keep_running=True)))
    migrate(url)
    print(readable(url))


@app.command()
def stop() -> None:
    """Stop the server; its data is kept for the next start."""
    if not is_running():
        print(NOT_RUNNING)
        return
    start_embedded(DIRECTORY, keep_running=True).stop()
    print(f"Stopped. The data is kept in {DIRECTORY}.")


@app.command()
def url() -> None:
    """Print the URL of the running database."""
    print(url_of_running())


@app.command()
def status() -> int:
    """Say whether the server is running: exit code 0 if it is, and 3 if not."""
    if not is_running():
        print(NOT_RUNNING)
        return DatabaseUnreachableError.exit_code
    print(f"Running: {url_of_running()}")
    return 0


# The options after the command are its own.
@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command and its arguments.")]) -> int:
    """Run a command with the URL of a migrated database in the environment, and drop the database afterwards."""
    with running_server() as server, server.database() as url:
        # Every variable that may be read, so that no part of the command uses another database.
        env = {**os.environ, **dict.fromkeys(URL_VARIABLES, as_text(url))}
        try:
            return subprocess.run(command, env=env, check=False).returncode
        except OSError as error:
            named = "The command" if holds_credentials(command[0]) else command[0]
            raise ConfigurationError(f"{named} cannot be run: {error.strerror}.") from error


def before_run(arguments: list[str]) -> list[str]:
    """Return the arguments without the command that ``run`` runs, in which there may be a URL."""
    return arguments[: arguments.index("run")] if "run" in arguments else arguments


def main() -> None:
    """Run the command and end the process with its exit code."""
    run_process(lambda arguments: run_app(app, COMMAND, arguments, repeated=before_run(arguments)))


if __name__ == "__main__":
    main()
