"""The server's settings that our transactions change: those that alter what our SQL means, and those that end a wait.

A role, a database or a server may have any of them set to something else. They are changed until the end of a
transaction only, because a pooler may give the next one to somebody else. Every other setting that a role may change is
harmless: it makes a statement slower or a message longer, or refuses a statement without changing its meaning.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

# Our SQL names everything else with its schema: a name without one must mean the server's own function or operator, and
# not one that a role with CREATE on public has put there.
SEARCH_PATH = "pg_catalog, pg_temp"

# Alembic compares the models with what it sees without a schema. That is for the database of a developer.
REFLECTING_PATH = "pg_catalog, public, pg_temp"

# Settings that change what a statement means, or how the server writes a name, an expression or a value.
PINNED = {
    "search_path": SEARCH_PATH,
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    # ctid and xmin tell rows apart while they are moved, and every key is made CONCURRENTLY: other methods lack these.
    "default_table_access_method": "heap",
}

# Settings that are changed only where they have a certain value: the first must not be weakened, and only a superuser
# may change the second.
CORRECTED = (
    # A commit that the server has confirmed must survive its crash; stronger values stay.
    ("synchronous_commit", "off", "on"),
    # Keys and triggers would not be checked.
    ("session_replication_role", "replica", "origin"),
)

# Seconds after which the server ends a transaction whose client has stopped, and with it the locks that it holds. Our
# own transactions wait for nobody between two statements.
IDLE_TIMEOUT = 2

# Seconds after which either end of a connection considers a silent network lost.
SILENCE = 11
SILENT = "the server has stopped answering"

# The same limits for the kernel of the client and for that of the server: probes after 5 seconds of silence, every 2
# seconds, 3 of them; and the same time for what was sent to be acknowledged.
KEEPALIVES = {"idle": 5, "interval": 2, "count": 3}
KEEPALIVES_OF_CLIENT = {
    "keepalives": 1,
    **{f"keepalives_{name}": value for name, value in KEEPALIVES.items()},
    "tcp_user_timeout": SILENCE * 1000,
}
ENDING = {
    "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT}s",
    **{f"tcp_keepalives_{name}": str(value) for name, value in KEEPALIVES.items()},
    "tcp_user_timeout": f"{SILENCE}s",
}

# Where a transaction keeps the session's own path, to give it back to an adopted table's triggers.
OWN_PATH = "momentum.search_path"


def read_settings(connection: "Connection", names: Iterable[str]) -> dict[str, str]:
    """Return settings as the server shows them, which is also how it takes them back."""
    names = tuple(names)
    current_setting = sqlalchemy.func.pg_catalog.current_setting
    row = connection.execute(sqlalchemy.select(*(current_setting(name) for name in names))).one()
    return dict(zip(names, row, strict=True))


def change_settings(connection: "Connection", settings: Mapping[str, str], *, local: bool = True) -> None:
    """Change settings, in one statement.

    Args:
        connection: A connection.
        settings: The values by name.
        local: Whether they end with the transaction; if not, they stay for the session.
    """
    connection.execute(sqlalchemy.select(*changes(settings, local=local)))


def as_statements(settings: Mapping[str, str], *, local: bool = True) -> list[str]:
    """Return the statements that change settings, for a script."""
    how = "set local" if local else "set"
    # In quotes a list of schemas would be the name of one.
    values = {name: value if name == "search_path" else f"'{value}'" for name, value in settings.items()}
    return [f"{how} {name} = {value}" for name, value in values.items()]


def changes(settings: Mapping[str, str], *, local: bool = True) -> "list[ColumnElement[Any]]":
    """Return the columns of a query that changes settings."""
    set_config = sqlalchemy.func.pg_catalog.set_config
    return [set_config(name, value, local) for name, value in settings.items()]


def written_changes(settings: Mapping[str, str]) -> "list[ColumnElement[Any]]":
    """Return the same until the end of the transaction, for values of our own, with these in the text of the query.

    That is for a query which each transaction begins with: the driver takes as long for forty parameters as for all
    other statements of a transaction.
    """
    return [
        sqlalchemy.literal_column(f"pg_catalog.set_config('{name}', '{value}', true)")
        for name, value in settings.items()
    ]


def corrections() -> "list[ColumnElement[Any]]":
    """Return the columns of a query that corrects settings, until the end of the transaction, where they are wrong."""
    return [
        sqlalchemy.literal_column(
            f"case when pg_catalog.current_setting('{name}') operator(pg_catalog.=) '{wrong}' "
            f"then pg_catalog.set_config('{name}', '{right}', true) end"
        )
        for name, wrong, right in CORRECTED
    ]


def in_block(settings: Mapping[str, str]) -> str:
    """Return a single statement that changes settings until the end of the transaction."""
    return f"do $$ begin {'; '.join(as_statements(settings))}; end $$"


def corrections_in_block() -> str:
    """Return the statements of a DO block that correct settings, until the end of its transaction."""
    return " ".join(
        f"perform pg_catalog.set_config('{name}', '{right}', true) "
        f"where pg_catalog.current_setting('{name}') operator(pg_catalog.=) '{wrong}';"
        for name, wrong, right in CORRECTED
    )


def corrected(found: Mapping[str, str]) -> dict[str, str]:
    """Return the right values of those settings that have a wrong one."""
    return {name: right for name, wrong, right in CORRECTED if found[name] == wrong}


def keep_own_path() -> "ColumnElement[Any]":
    """Return the column of a query that keeps the session's own path; it must come before the change of the path."""
    set_config, current_setting = sqlalchemy.func.pg_catalog.set_config, sqlalchemy.func.pg_catalog.current_setting
    return set_config(OWN_PATH, current_setting("search_path"), True)


def own_path() -> "ColumnElement[bool]":
    """Return a condition of a query that writes rows as a statement of ours; its triggers run as a client's would.

    Triggers, defaults and checks of an adopted table may name functions and tables without their schemas, and mean the
    path that the role or the database has. The path is changed after our own names have been looked up, and before the
    first trigger fires: the condition is the same for all rows, so the server evaluates it before it writes any.
    """
    set_config, current_setting = sqlalchemy.func.pg_catalog.set_config, sqlalchemy.func.pg_catalog.current_setting
    # Where nothing was kept, null stands for the path with which the session began.
    kept = sqlalchemy.func.nullif(current_setting(OWN_PATH, True), "")
    return sqlalchemy.select(set_config("search_path", kept, True)).scalar_subquery().is_not(None)
