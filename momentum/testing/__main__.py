"""Databases for development: ``python -m momentum.testing start``, ``stop`` and ``run COMMAND...``."""

import os
import subprocess
import sys
from pathlib import Path

from momentum.connect.engine import create_engine
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text
from momentum.errors import ConfigurationError, MomentumError
from momentum.testing.servers import (
    admin_of,
    apply_stand_in,
    migrate,
    prepare_roles,
    running_server,
    start_embedded,
)

DIRECTORY = Path.cwd() / ".momentum" / "postgres"
NAME = "momentum"


def start() -> str:
    """Start the server if it is not running, upgrade its database to head and return the URL."""
    DIRECTORY.parent.mkdir(exist_ok=True)
    # The folder ignores itself, in case the repository's own .gitignore doesn't list it.
    (DIRECTORY.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    admin_url = admin_of(start_embedded(DIRECTORY, keep_running=True))
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
    url = admin_url.set(username=owner)
    migrate(url)
    return as_text(url).replace("%2F", "/")


def stop() -> str:
    """Stop the server; its data is kept for the next start."""
    if not (DIRECTORY / "postmaster.pid").exists():
        return "No local database is running."
    start_embedded(DIRECTORY, keep_running=True).stop()
    return f"Stopped. The data is kept in {DIRECTORY}."


def run(command: list[str]) -> int:
    """Run a command with the URL of its own migrated database in the environment, and return its exit code."""
    with running_server() as server, server.database() as url:
        # Every variable that may be read, so that no part of the command uses another database.
        env = {**os.environ, **dict.fromkeys(URL_VARIABLES, as_text(url))}
        try:
            return subprocess.run(command, env=env, check=False).returncode
        except OSError as error:
            raise ConfigurationError(f"{command[0]} cannot be run: {error.strerror}.") from error


def main() -> int:
    """Run the command given by the program's arguments and return the exit code."""
    try:
        match sys.argv[1:]:
            case ["start"]:
                print(start())
            case ["stop"]:
                print(stop())
            case ["run", *command] if command:
                return run(command)
            case _:
                raise ConfigurationError("Say python -m momentum.testing start, stop or run COMMAND...")
    except MomentumError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
