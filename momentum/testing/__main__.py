"""A local database for development: ``python -m momentum.testing start`` and ``stop``."""

import sys
from pathlib import Path

from momentum.database import create_engine, parse_url
from momentum.errors import MomentumError
from momentum.testing.servers import apply_stand_in, migrate, start_embedded

DIRECTORY = Path.cwd() / ".momentum" / "postgres"
NAME = "momentum"


def start() -> str:
    """Start the server if it is not running, bring its database to the newest revision and return the URL."""
    DIRECTORY.parent.mkdir(exist_ok=True)
    server = start_embedded(DIRECTORY, keep_running=True)
    with create_engine(parse_url(server.get_uri(), "the server"), "momentum-testing").connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        if not connection.exec_driver_sql(f"select from pg_database where datname = '{NAME}'").all():
            connection.exec_driver_sql(f"create database {NAME} template template0 encoding 'utf8'")
    url = parse_url(server.get_uri(database=NAME), "the server")
    with create_engine(url, "momentum-testing").connect() as connection:
        empty = connection.exec_driver_sql("select to_regclass('auth.users') is null").scalar_one()
    if empty:
        apply_stand_in(url)
    migrate(url)
    return url.set(drivername="postgresql").render_as_string(hide_password=False).replace("%2F", "/")


def stop() -> str:
    """Stop the server; its data stay for the next start."""
    if not (DIRECTORY / "postmaster.pid").exists():
        return "No local database is running."
    start_embedded(DIRECTORY, keep_running=True).stop()
    return f"Stopped. The data stay in {DIRECTORY}."


def main(arguments: list[str]) -> int:
    """Carry out a command and return the exit code."""
    commands = {"start": start, "stop": stop}
    if len(arguments) != 1 or arguments[0] not in commands:
        print("Usage: python -m momentum.testing start|stop", file=sys.stderr)  # noqa: T201
        return 2
    try:
        print(commands[arguments[0]]())  # noqa: T201
    except MomentumError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
