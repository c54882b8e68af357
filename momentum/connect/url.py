"""A database's URL as text: read, described and written without its password."""

from itertools import zip_longest
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from momentum.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

TRANSACTION_POOLER_PORT = "6543"


def parse_url(text: str, origin: str) -> "URL":
    """Return a URL for psycopg 3 from ``postgresql://`` or ``postgres://``, the form that Supabase shows.

    Args:
        text: The URL as it was given.
        origin: Where it came from, for the error, which never repeats the URL: it may hold a password.

    Raises:
        ConfigurationError: It is not the URL of a Postgres database, or names another driver.
    """
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError):
        url = None
    known = ("postgresql", "postgres", "postgresql+psycopg")
    if url is not None and url.drivername.startswith("postgresql+") and url.drivername not in known:
        raise ConfigurationError(
            f"The database URL from {origin} names a driver other than psycopg 3, which is used here; write it without "
            "a driver: postgresql://USER:PASSWORD@HOST:PORT/NAME."
        )
    if url is None or url.drivername not in known or not url.database:
        raise ConfigurationError(
            f"The database URL from {origin} is not a Postgres URL; the form is "
            "postgresql://USER:PASSWORD@HOST:PORT/NAME."
        )
    if "@" in (url.host or ""):
        raise ConfigurationError(f"The database URL from {origin} has two @; write one in the password as %40.")
    # The driver would use the values in the query, and we would announce a different database.
    twice = [name for name, value in (("host", url.host), ("port", url.port)) if value and name in url.query]
    twice += [name for name in ("dbname", "hostaddr") if name in url.query]
    if twice:
        raise ConfigurationError(
            f"The database URL from {origin} repeats {' and '.join(twice)} in its query; give it once, before the ?."
        )
    return url.set(drivername="postgresql+psycopg")


def describe(url: "URL") -> str:
    """Return host, port and database of a URL, never its user or password."""
    hosts = [url.host] if url.host else ",".join(all_of(url, "host")).split(",")
    ports = [str(url.port)] if url.port else ",".join(all_of(url, "port")).split(",")
    servers = [f"[{host}]" if host.count(":") > 1 else host or "local socket" for host in hosts]
    if len(ports) == 1 and not any(host.count(":") == 1 for host in hosts):
        # One port for all hosts; in a list of hosts, each may also have its own.
        return f"{','.join(servers)}:{ports[0] or 5432}/{url.database}"
    named = [f"{host}:{port}" if port else host for host, port in zip_longest(servers, ports, fillvalue="")]
    return f"{','.join(named)}/{url.database}"


def is_transaction_pooler(url: "URL") -> bool:
    """Return whether a URL leads to a transaction pooler, judged by the port of Supabase's."""
    ports = [str(url.port), *",".join(all_of(url, "port")).split(",")]
    ports += [host.rpartition(":")[2] for host in ",".join(all_of(url, "host")).split(",")]
    return TRANSACTION_POOLER_PORT in ports


def refuse_transaction_pooler(url: "URL") -> None:
    """Refuse a URL that leads to a transaction pooler, where each transaction may get another server session.

    Timeouts, advisory locks and CREATE INDEX CONCURRENTLY depend on a session.

    Raises:
        ConfigurationError: The URL leads to a transaction pooler.
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
    """Return a URL as libpq and other programs read it, including the password: never log it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def blot_out(text: str, url: "URL") -> str:
    """Return a text with the URL's passwords blotted out in every encoding, in case a library has echoed one."""
    passwords = (url.password, *all_of(url, "password"), *all_of(url, "sslpassword"))
    ways = {way for password in passwords if password for way in ways_to_write(password)}
    # The longest first, because one spelling may be part of another.
    for written in sorted(ways, key=len, reverse=True):
        text = text.replace(written, "***")
    return text


def ways_to_write(password: str) -> tuple[str, ...]:
    """Return a password as it is, as URLs encode it, and as Python's repr shows it."""
    return password, quote(password, safe=""), quote(password, safe=" +"), repr(password)[1:-1]


def redact(text: str, url: "URL") -> str:
    """Return the first line of a text with the URL's passwords blotted out."""
    return blot_out(text.strip().partition("\n")[0], url)
