"""pgTAP, assertions for tests inside the database, on servers with and without the extension."""

import tarfile
from pathlib import Path

from sqlalchemy import Connection, text

from momentum.connect.engine import execute_script
from momentum.errors import ConfigurationError

# The npm package that contains pgTAP's SQL; the lock file pins it.
PACKAGE = Path("node_modules") / "@electric-sql" / "pglite-pgtap" / "dist" / "pgtap.tar.gz"
SCHEMA = "pgtap"


def install_pgtap(connection: Connection, project: Path) -> None:
    """Install pgTAP into its own schema and append that to the role's search path in the database.

    Args:
        connection: A connection to the database, as the role that the assertions run as. The caller commits; later
            sessions of the role see pgTAP.
        project: The folder in which npm installed the package, for servers without the extension.

    Raises:
        ConfigurationError: Neither the extension nor the package is available.
    """
    connection.execute(text(f"create schema {SCHEMA}"))
    if connection.scalar(text("select count(*) from pg_available_extensions where name = 'pgtap'")):
        connection.execute(text(f"create extension pgtap schema {SCHEMA}"))
    else:
        connection.execute(text(f"set local search_path = {SCHEMA}"))
        execute_script(connection, read_sql(project))
        connection.execute(text("set local search_path to default"))
    database = connection.scalar(text("select current_database()"))
    path = f'"$user", public, extensions, {SCHEMA}'
    # A setting of the database would yield to one that the role has everywhere, as Supabase's postgres does.
    connection.execute(text(f'alter role current_user in database "{database}" set search_path = {path}'))


def read_sql(project: Path) -> str:
    """Return pgTAP's SQL from the npm package.

    Raises:
        ConfigurationError: The package is not installed.
    """
    if not (project / PACKAGE).exists():
        raise ConfigurationError(
            "The server has no extension pgtap, and pgTAP's SQL is not installed either: run `npm ci` in "
            f"{project} (`make install` does), or install the extension on the server (Debian: postgresql-15-pgtap)."
        )
    with tarfile.open(project / PACKAGE) as archive:
        scripts = [
            m for m in archive.getmembers() if Path(m.name).name.startswith("pgtap--") and m.name.endswith(".sql")
        ]
        # pgtap--1.3.5.sql is all of pgTAP; pgtap--1.3.4--1.3.5.sql would be an update.
        whole = [m for m in scripts if Path(m.name).name.count("--") == 1]
        content = archive.extractfile(whole[0])
        assert content is not None
        sql = content.read().decode()
    # The first line is a psql command that keeps people from loading the file by hand.
    return "\n".join(line for line in sql.splitlines() if not line.startswith("\\"))
