"""The connection to a database, and the translation of the driver's errors."""

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from momentum.connect.settings import KEEPALIVES_OF_CLIENT
from momentum.connect.supabase import is_session_pooler, primary_of, require_tls
from momentum.connect.url import describe, prepare_threshold, redact, resolve, server_of
from momentum.errors import ConfigurationError, DatabaseUnreachableError, MomentumError
from momentum.retries import LOST_CONNECTION
from momentum.wording import PROJECT_OWNER

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

# Seconds after which an attempt to connect is given up: a wrong host is an error, not a wait.
CONNECT_TIMEOUT = 10

INSUFFICIENT_PRIVILEGE = "42501"

# The SQLSTATEs of an internal error and of input or output, under which a server that works through others, such as a
# coordinator of Citus, reports that it has lost one of them; and its message, which is mostly the driver's own.
FROM_ANOTHER_SERVER = ("XX000", "58030")
LOST_ANOTHER_SERVER = re.compile(
    r"server closed the connection|SSL SYSCALL error|connection has been closed|no connection to the server"
    r"|connection (not open|pointer is NULL|to server |reset by peer|refused|timed out)|(send|receive) data (to|from) "
    r"|failed to COPY to shard|could not commit transaction (for shard|on any active node)",
    re.IGNORECASE,
)


def connect_arguments(url: "URL", application_name: str) -> dict[str, Any]:
    """Return the driver's arguments besides the URL, which takes precedence."""
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "application_name": application_name,
        **KEEPALIVES_OF_CLIENT,
    }
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    # Text is exact in UTF-8 only, whatever PGCLIENTENCODING says.
    return {**arguments, "client_encoding": "utf8", **prepare_threshold(url)}


def certificate_of(url: "URL") -> dict[str, str]:
    """Return the driver's argument for no certificate if the home, where libpq looks for one, is another user's.

    libpq would refuse to connect with TLS. Where the home can be read, or a certificate is named, nothing changes.
    """
    if resolve(url).get("sslcert"):
        return {}
    try:
        Path("~/.postgresql/postgresql.crt").expanduser().stat()
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        return {}
    except OSError:
        return {"sslcert": f"{os.devnull}/none"}
    return {}


def create_engine(url: "URL", application_name: str, *, keeps_connection: bool = False) -> "Engine":
    """Return an engine that opens a connection for each use and closes it afterwards, with TLS to Supabase.

    Args:
        url: Where the database is.
        application_name: The name by which its sessions are known.
        keeps_connection: Whether one connection is kept for the next use, until the engine is disposed of. Such an
            engine asks the server nothing at first, so it doesn't know the default schema, which reflection needs.
    """
    pool: dict[str, Any] = {"poolclass": NullPool}
    if keeps_connection:
        # As many as are wanted at the same time, of which one is kept.
        pool = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": -1, "pool_use_lifo": True}
    engine = sqlalchemy.create_engine(
        require_tls(url),
        hide_parameters=True,
        # We have no hstore column, and looking for the type costs every engine a round trip.
        use_native_hstore=False,
        connect_args={**connect_arguments(url, application_name), **server_of(url), **certificate_of(url)},
        **pool,
    )
    # Before its first transaction SQLAlchemy asks for the version, which the driver knows, for the default schema, by a
    # function without its schema, for the isolation level, and whether strings take backslashes, which they never do in
    # a transaction of ours.
    dialect: Any = engine.dialect
    dialect._get_server_version_info = functools.partial(version_of, asked=dialect._get_server_version_info)
    dialect._get_default_schema_name = lambda connection: (
        None if keeps_connection else connection.scalar(sqlalchemy.select(sqlalchemy.func.pg_catalog.current_schema()))
    )
    if keeps_connection:
        dialect.get_default_isolation_level = lambda _: "READ COMMITTED"
    dialect._set_backslash_escapes = lambda _: None
    dialect.connect = connect_watched
    return engine


def version_of(connection: "Connection", asked: "Callable[[Connection], tuple[int, ...]]") -> tuple[int, ...]:
    """Return the server's version, as it told the driver; a pooler may have left it out, and then it is asked for."""
    driver: Any = connection.connection.driver_connection
    number: int = driver.info.server_version
    return divmod(number, 10_000) if number else asked(connection)


def check_server(connection: "Connection", *, writes: bool) -> None:
    """Refuse a server on which the work can't be done.

    Args:
        connection: A connection, on which nothing has been done yet.
        writes: Whether anything is to be written.

    Raises:
        ConfigurationError: The server doesn't know the encoding of its text, so it can't convert it to ours.
        DatabaseUnreachableError: The server is a standby, and something is to be written.
    """
    # The server reports both to the driver; a pooler may report neither, or what was true once.
    told = getattr(getattr(connection.connection.driver_connection, "info", None), "parameter_status", lambda _: None)
    if told("in_hot_standby") == "off" and told("server_encoding") not in (None, "SQL_ASCII"):
        return
    row = connection.exec_driver_sql(
        "select pg_catalog.current_setting('server_encoding'), pg_catalog.pg_is_in_recovery()"
    ).one()
    encoding, standby = row
    url = connection.engine.url
    if encoding == "SQL_ASCII":
        raise ConfigurationError(
            f"The encoding of the database at {describe(url)} is SQL_ASCII, in which nothing says what characters "
            "its text has; move it to a database with the encoding UTF8."
        )
    if standby and writes:
        # Most roles may not see where a standby gets its changes from.
        sender = connection.exec_driver_sql("select sender_host, sender_port from pg_catalog.pg_stat_wal_receiver")
        seen = [f"{host}:{port}" for host, port in sender if host]
        primary = next(iter([*primary_of(url), *seen]), "")
        raise DatabaseUnreachableError(
            f"The server of {describe(url)} is a standby, which can only be read; connect to its primary"
            f"{f', {primary}' if primary else ''}."
        )


def connect_watched(*arguments: Any, **options: Any) -> Any:
    """Make a connection that notices a silent network, and can be put into pipeline mode."""
    from momentum.connect.pipeline import PipelinedConnection  # here, because the driver takes a while to import

    return PipelinedConnection.connect(*arguments, **options)


def keeps_session(connection: "Connection", pid: int) -> bool:
    """Return whether a connection is known to stay with one session of the server.

    The driver knows the process id of its session from the server. A pooler sends one of its own making instead.

    Args:
        connection: A connection.
        pid: The process id of the session that it is in now.
    """
    info = getattr(connection.connection.driver_connection, "info", None)
    return getattr(info, "backend_pid", None) == pid or is_session_pooler(connection.engine.url)


def stop_preparing(connection: "Connection") -> None:
    """Prepare no more statements on a connection, because they would stay in the session, which may be another's."""
    driver_connection: Any = connection.connection.driver_connection
    if hasattr(driver_connection, "prepare_threshold"):
        driver_connection.prepare_threshold = None


def execute_script(connection: "Connection", sql: str) -> None:
    """Execute a script of several statements as it is: SQLAlchemy would look for parameters in it."""
    driver_connection = connection.connection.driver_connection
    assert driver_connection is not None
    driver_connection.execute(sql)


def lost_connection(error: DBAPIError) -> bool:
    """Return whether an error means that there is no connection, or no longer one, or none between servers."""
    code = getattr(error.orig, "sqlstate", None)
    if code is None:
        # The server didn't answer. Errors of other classes are the driver's own, such as for a date that Python lacks.
        operational = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
        return error.connection_invalidated or isinstance(error, operational)
    if error.connection_invalidated or code.startswith(LOST_CONNECTION):
        return True
    message = getattr(getattr(error.orig, "diag", None), "message_primary", None) or ""
    return code in FROM_ANOTHER_SERVER and LOST_ANOTHER_SERVER.search(message) is not None


def reason(error: DBAPIError, url: "URL") -> str:
    """Return the message of the server or driver, on one line, without DETAIL (which may hold data) or the password."""
    return message_of(error.orig, url)


def message_of(driver_error: BaseException | None, url: "URL") -> str:
    """Return the first line of a driver's error, without the password."""
    primary = getattr(getattr(driver_error, "diag", None), "message_primary", None)
    return redact(primary or str(driver_error), url)


def without_secrets(error: DBAPIError, url: "URL") -> DBAPIError:
    """Return an error after removing data and passwords from its texts, to be the cause of one of ours.

    A program still finds the SQLSTATE: ``error.__cause__.orig.sqlstate``.
    """
    error.hide_parameters = True
    error.args = (reason(error, url),)
    if error.orig is not None:
        error.orig.args = error.args
    return error


@contextmanager
def connection_errors(url: "URL") -> Iterator[None]:
    """Turn the driver's errors into ours, and keep each as the cause, without data and passwords.

    Raises:
        ConfigurationError: The URL has an option that the driver doesn't know, or its role lacks a right.
        DatabaseUnreachableError: There is no connection to the database.
        MomentumError: The server refused a statement.
    """
    try:
        yield
    except DBAPIError as error:
        if lost_connection(error):
            raise DatabaseUnreachableError(
                f"The database at {describe(url)} cannot be reached: {reason(error, url)}."
            ) from without_secrets(error, url)
        if isinstance(error, sqlalchemy.exc.ProgrammingError) and getattr(error.orig, "sqlstate", None) is None:
            raise ConfigurationError(
                f"The URL of {describe(url)} cannot be used: {reason(error, url)}."
            ) from without_secrets(error, url)
        if getattr(error.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE:
            raise ConfigurationError(
                f"The role may not do this at {describe(url)}: {reason(error, url)}; connect as the role that migrates "
                f"the database (on Supabase: {PROJECT_OWNER}), or let that role or the object's owner grant it."
            ) from without_secrets(error, url)
        raise MomentumError(
            f"The database at {describe(url)} refused a statement: {reason(error, url)}."
        ) from without_secrets(error, url)
