"""Where the database's URL comes from, and how to connect to it."""

import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from momentum.connect.environment import DEFAULT_ENV_FILE, ENV_FILE_VARIABLES, URL_VARIABLES
from momentum.connect.supabase import database_url, require_tls
from momentum.errors import ConfigurationError, DatabaseUnreachableError, MomentumError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

# Seconds until an attempt to connect is given up, so that a wrong host is an error and not a wait.
CONNECT_TIMEOUT = 10

# A psycopg error with no SQLSTATE, or of class 08 or 57P, has lost its connection or never had one.
LOST_CONNECTION = ("08", "57P")

INSUFFICIENT_PRIVILEGE = "42501"

TRANSACTION_POOLER_PORT = "6543"

# What Supabase's dashboard writes where the password belongs.
TO_FILL_IN = "[YOUR-PASSWORD]"

log = logging.getLogger("momentum.database")


def parse_url(text: str, origin: str) -> "URL":
    """Return a URL for psycopg 3 from ``postgresql://`` or ``postgres://``, which Supabase prints.

    Args:
        text: The URL as it was given.
        origin: Where it was given, for the error, which never repeats the URL, because it may hold a password.

    Raises:
        ConfigurationError: It is not the URL of a Postgres database, or one for another driver.
    """
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError):
        url = None
    known = ("postgresql", "postgres", "postgresql+psycopg")
    if url is not None and url.drivername.startswith("postgresql+") and url.drivername not in known:
        raise ConfigurationError(
            f"The database URL from {origin} names another driver than psycopg, version 3, which is used here; write "
            "it without one: postgresql://USER:PASSWORD@HOST:PORT/NAME."
        )
    if url is None or url.drivername not in known or not url.database:
        raise ConfigurationError(
            f"The database URL from {origin} is not one of Postgres; it reads "
            "postgresql://USER:PASSWORD@HOST:PORT/NAME."
        )
    if "@" in (url.host or ""):
        raise ConfigurationError(f"The database URL from {origin} has two @; one in the password is written %40.")
    # The driver would take these from the query, and what we print before anything happens would not be true.
    twice = [name for name, value in (("host", url.host), ("port", url.port)) if value and name in url.query]
    twice += [name for name in ("dbname", "hostaddr") if name in url.query]
    if twice:
        raise ConfigurationError(
            f"The database URL from {origin} says {' and '.join(twice)} in its query too; say it once, before the ?."
        )
    return url.set(drivername="postgresql+psycopg")


class EnvFile:
    """The operator's env file, read when a value of it is asked for.

    Args:
        name: The file if one was named; it must exist then. Otherwise the default one, if it exists.
        warn: What is done with a warning.
    """

    def __init__(self, name: str | None = None, warn: Callable[[str], None] = log.warning) -> None:
        self._name = name
        self._warn = warn

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def path(self) -> Path:
        """Where the file is.

        Raises:
            ConfigurationError: In a home directory that doesn't exist.
        """
        try:
            return Path(DEFAULT_ENV_FILE if self._name is None else self._name).expanduser()
        except RuntimeError:
            raise ConfigurationError(f"There is no home directory for the env file {self._name}.") from None

    @cached_property
    def values(self) -> dict[str, str]:
        """What the file says, nothing if it does not exist and was not named.

        Raises:
            ConfigurationError: It was named and is missing, or cannot be read.
        """
        from dotenv import dotenv_values  # here, because most callers have no such file

        # A line that it cannot read is skipped, as the shell would not; that needs no line of its own.
        logging.getLogger("dotenv").setLevel(logging.ERROR)
        try:
            with self.path.open(encoding="utf-8") as stream:
                if os.fstat(stream.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH):
                    self._warn(f"The env file {self} can be read by other users of this machine; chmod 600 {self}.")
                return {key: value for key, value in dotenv_values(stream=stream, interpolate=False).items() if value}
        except FileNotFoundError:
            if self._name is None:
                return {}
            raise ConfigurationError(f"There is no env file {self}; name another with --env-file.") from None
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(f"The env file {self} cannot be read ({type(error).__name__}).") from None

    def url(self) -> "URL | None":
        """Return the database's URL that the file has, or that its password and its project make.

        Raises:
            ConfigurationError: What it has is not the URL of a Postgres database, or makes none.
        """
        for name in ENV_FILE_VARIABLES:
            if self.values.get(name):
                url = parse_url(self.values[name], f"{name} in {self}")
                if url.password not in (None, "", TO_FILL_IN):
                    return url
                if password := self.values.get("SUPABASE_DB_PASSWORD"):
                    return url.set(password=password)
                if url.password == TO_FILL_IN:
                    raise ConfigurationError(
                        f"{name} in {self} has {TO_FILL_IN} for a password; fill it in, or write it as "
                        "SUPABASE_DB_PASSWORD."
                    )
                return url
        if self.values.get("SUPABASE_DB_PASSWORD"):
            return parse_url(database_url(self.values, str(self)), f"SUPABASE_DB_HOST in {self}")
        return None


def find_url(
    given: str | None,
    *,
    option: str,
    env_file: EnvFile | str | None = None,
    use_env_file: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> "URL":
    """Return the URL from the option, the environment or the env file, the first of these that has one.

    Args:
        given: What the option says, if it was used. Empty is an error: where a script's variable was not set, no other
            database may take its place.
        option: What the option is called, such as ``-x url=``, for errors.
        env_file: The env file, or its name if one was named; it must exist then. Otherwise the default one, if it
            exists.
        use_env_file: False where a URL from the env file would be too easy a way to a production database.
        environ: The environment.

    Raises:
        ConfigurationError: No URL was found, or what was found is not one of Postgres.
    """
    if given is not None:
        return parse_url(given, option)
    for name in URL_VARIABLES:
        if environ.get(name):
            return parse_url(environ[name], name)
    ways = [f"{option} or set {' or '.join(URL_VARIABLES)}"]
    if use_env_file:
        file = env_file if isinstance(env_file, EnvFile) else EnvFile(env_file)
        if url := file.url():
            return url
        ways.append(f"write {ENV_FILE_VARIABLES[0]} into {file}")
    raise ConfigurationError(f"No database URL: give {', or '.join(ways)}.")


def describe(url: "URL") -> str:
    """Return host, port and database of a URL, never its user or password."""
    hosts = [url.host] if url.host else ",".join(all_of(url, "host")).split(",")
    ports = [str(url.port)] if url.port else ",".join(all_of(url, "port")).split(",")
    servers = [f"[{host}]" if host.count(":") > 1 else host or "local socket" for host in hosts]
    if len(ports) == 1 and not any(host.count(":") == 1 for host in hosts):
        # One port for all of them; a host of several may also bring its own.
        return f"{','.join(servers)}:{ports[0] or 5432}/{url.database}"
    named = [f"{host}:{port}" if port else host for host, port in zip_longest(servers, ports, fillvalue="")]
    return f"{','.join(named)}/{url.database}"


def is_transaction_pooler(url: "URL") -> bool:
    """Tell whether a URL leads to a transaction pooler, by its port, which is Supabase's."""
    ports = [str(url.port), *",".join(all_of(url, "port")).split(",")]
    ports += [host.rpartition(":")[2] for host in ",".join(all_of(url, "host")).split(",")]
    return TRANSACTION_POOLER_PORT in ports


def refuse_transaction_pooler(url: "URL") -> None:
    """Refuse a URL that leads to a transaction pooler: it gives every transaction another session of the server.

    Timeouts, advisory locks and CREATE INDEX CONCURRENTLY rest on a session.

    Raises:
        ConfigurationError: It does.
    """
    if is_transaction_pooler(url):
        raise ConfigurationError(
            f"Port {TRANSACTION_POOLER_PORT} is a transaction pooler, through which a database cannot be migrated; "
            "use port 5432 of the same host, where sessions are kept."
        )


def all_of(url: "URL", name: str) -> tuple[str, ...]:
    """Return every value of an option in a URL's query."""
    value = url.query.get(name, ())
    return (value,) if isinstance(value, str) else value


def as_text(url: "URL") -> str:
    """Return a URL as libpq and other programs read it, password included, which belongs into no log."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def connect_arguments(url: "URL", application_name: str) -> dict[str, Any]:
    """Return what the driver is told when it connects, beside the URL; what the URL says itself is left to it.

    Behind a transaction pooler no statement is prepared, because the next transaction may have another session.
    """
    arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "application_name": application_name}
    arguments = {name: value for name, value in arguments.items() if name not in url.query}
    return {**arguments, "prepare_threshold": None} if is_transaction_pooler(url) else arguments


def create_engine(url: "URL", application_name: str) -> "Engine":
    """Return an engine that opens a connection when one is asked for and closes it after, with TLS to Supabase."""
    return sqlalchemy.create_engine(
        require_tls(url),
        poolclass=NullPool,
        hide_parameters=True,
        # No column of ours is one, and to look for the type costs every engine a round trip.
        use_native_hstore=False,
        connect_args=connect_arguments(url, application_name),
    )


def execute_script(connection: "Connection", sql: str) -> None:
    """Execute a script of several statements, as it is: SQLAlchemy would look for parameters in it."""
    driver_connection = connection.connection.driver_connection
    assert driver_connection is not None
    driver_connection.execute(sql)


def redact(text: str, url: "URL") -> str:
    """Return the first line of a text with the URL's passwords blotted out, should a library have echoed one."""
    line = text.strip().partition("\n")[0]
    for password in (url.password, *all_of(url, "password"), *all_of(url, "sslpassword")):
        if password:
            line = line.replace(password, "***").replace(quote(password, safe=""), "***")
    return line


def lost_connection(error: DBAPIError) -> bool:
    """Tell whether an error means that there is no connection (any more)."""
    code = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or code is None or code.startswith(LOST_CONNECTION)


def reason(error: DBAPIError, url: "URL") -> str:
    """Return what the server or the driver says, on one line, without DETAIL (which may hold data) or the password."""
    primary = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    return redact(primary or str(error.orig), url)


@contextmanager
def connection_errors(url: "URL") -> Iterator[None]:
    """Turn the driver's errors into ours.

    Raises:
        ConfigurationError: The URL has an option that the driver doesn't know, or its role lacks a right.
        DatabaseUnreachableError: There is no connection to the database.
        MomentumError: The server refused a statement.
    """
    try:
        yield
    except DBAPIError as error:
        if isinstance(error, sqlalchemy.exc.OperationalError) and lost_connection(error):
            raise DatabaseUnreachableError(
                f"The database at {describe(url)} cannot be reached: {reason(error, url)}."
            ) from None
        if isinstance(error, sqlalchemy.exc.ProgrammingError) and getattr(error.orig, "sqlstate", None) is None:
            raise ConfigurationError(f"The URL of {describe(url)} cannot be used: {reason(error, url)}.") from None
        if getattr(error.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE:
            raise ConfigurationError(
                f"The role may not do this at {describe(url)}: {reason(error, url)}; connect as the database's owner."
            ) from None
        raise MomentumError(f"The database at {describe(url)} refused a statement: {reason(error, url)}.") from None
