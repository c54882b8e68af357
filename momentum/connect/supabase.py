"""A project on Supabase: its reference, its database's URL, TLS, and its service-role key."""

import datetime
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from momentum.connect.url import is_transaction_pooler, resolve, written
from momentum.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import URL

# A project's database is at db.<reference>.supabase.co, its poolers are at <region>.pooler.supabase.com. In the names
# of a read replica, the reference is followed by -rr-<region>-<letters>.
HOST = re.compile(r"(.+\.)?supabase\.(co|com|in|net)")
DIRECT_HOST = re.compile(r"db\.([a-z0-9]+)(?:-[a-z0-9-]+)?\.supabase\.(?:co|in|net)")
POOLER_HOST = re.compile(r"(.+\.)?pooler\.supabase\.com")
PROJECT_URL = re.compile(r"https://([a-z0-9]+)(?:-[a-z0-9-]+)?\.supabase\.(?:co|in|net)/?")

# sslmode=require, and the stricter modes.
STRICT_TLS = ("require", "verify-ca", "verify-full")

SECRET_KEY = re.compile(r"sb_secret_[\w-]+")
PUBLISHABLE_KEY = "sb_publishable_"


def hosts(url: "URL") -> list[str]:
    """Return the hosts that a URL leads to, normalized as DNS compares them."""
    return [host.lower().rstrip(".") for host in resolve(url).get("host", "").split(",") if host]


def is_supabase(url: "URL") -> bool:
    """Return whether a database is hosted by Supabase. A local stack is not."""
    return any(HOST.fullmatch(host) for host in hosts(url))


def is_session_pooler(url: "URL") -> bool:
    """Return whether a URL leads to a pooler of Supabase's that keeps a session for each connection."""
    named = hosts(url)
    return bool(named) and all(POOLER_HOST.fullmatch(host) for host in named) and not is_transaction_pooler(url)


def project_of(url: "URL") -> str | None:
    """Return the reference of the project that a database belongs to; None if the URL has none.

    The direct host has it in its name; a pooler finds the project by the user, ``postgres.<reference>``.
    """
    found = set()
    user = resolve(url).get("user", "")
    for host in hosts(url):
        if direct := DIRECT_HOST.fullmatch(host):
            found.add(direct[1])
        elif POOLER_HOST.fullmatch(host):
            found.add(user.partition(".")[2].partition("-")[0])
        else:
            found.add("")
    return found.pop() or None if len(found) == 1 else None


def primary_of(url: "URL") -> list[str]:
    """Return how the primary of a project is named where a URL leads to its read replica; nothing if it doesn't."""
    project = project_of(url)
    if project is None:
        return []
    if any(POOLER_HOST.fullmatch(host) for host in hosts(url)):
        user = resolve(url).get("user", "").partition(".")[0]
        return [f"as the user {user}.{project}"]
    return [f"db.{project}.supabase.co"]


def project_named(project_url: str) -> str | None:
    """Return the reference in SUPABASE_URL; None if the project's custom domain hides it."""
    match = PROJECT_URL.fullmatch(project_url.strip().lower())
    return match[1] if match else None


def database_url(values: Mapping[str, str], origin: str) -> str:
    """Return the URL of a project's database from SUPABASE_URL and SUPABASE_DB_PASSWORD.

    Args:
        values: The env file's variables, with SUPABASE_DB_PASSWORD. SUPABASE_DB_HOST may name the session pooler, for
            machines that can't reach the direct host, which has only an IPv6 address.
        origin: Where the variables were found, for the error.

    Raises:
        ConfigurationError: SUPABASE_URL is missing, or contains no reference.
    """
    from sqlalchemy import URL

    project = project_named(values.get("SUPABASE_URL", ""))
    if project is None:
        raise ConfigurationError(
            f"SUPABASE_DB_PASSWORD in {origin} needs SUPABASE_URL=https://REFERENCE.supabase.co next to it; or "
            "set the whole URL as SUPABASE_DB_URL."
        )
    host = values.get("SUPABASE_DB_HOST", f"db.{project}.supabase.co")
    user = f"postgres.{project}" if POOLER_HOST.fullmatch(host.lower()) else "postgres"
    url = URL.create("postgresql", user, values["SUPABASE_DB_PASSWORD"], host, 5432, "postgres")
    return written(url)


def require_tls(url: "URL") -> "URL":
    """Return the URL with ``sslmode=require`` if it leads to Supabase and asks for less."""
    if not is_supabase(url) or resolve(url).get("sslmode") in STRICT_TLS:
        return url
    return url.update_query_dict({"sslmode": "require"})


def objection_to_key(key: str, project: str, now: datetime.datetime) -> str | None:
    """Return what is wrong with a key, as the end of a sentence that repeats no part of it; None if it is right.

    Args:
        key: A secret key, or a JWT, its predecessor. A secret key doesn't say which project it is for. The
            signature of a JWT can't be verified without the project's secret, and is not checked here.
        project: The reference of the database's project.
        now: The time at which the key must still be valid.
    """
    if SECRET_KEY.fullmatch(key):
        return None
    if key.startswith(PUBLISHABLE_KEY):
        return "is a publishable key, which anyone may have, not a secret one"

    import jwt  # here, because most callers have no such key

    try:
        claims = jwt.decode(key, options={"verify_signature": False})
    except jwt.PyJWTError:
        return "is neither a secret key nor a JWT"
    if claims.get("role") == "anon":
        return "is the anon key, which anyone may have: its role is anon, not service_role"
    if claims.get("role") != "service_role":
        return "has a role other than service_role"
    if claims.get("ref") != project:
        return "belongs to a project other than the database's"
    try:
        expires = datetime.datetime.fromtimestamp(claims["exp"], datetime.UTC)
    except KeyError:
        return None
    except (TypeError, ValueError, OverflowError, OSError):
        return "does not say when it expires"
    return f"expired on {expires:%Y-%m-%d}" if expires <= now else None
