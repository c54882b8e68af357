"""A database's URL: read from text, resolved as libpq does it, described and written without its password."""

import re
from collections.abc import Mapping
from itertools import zip_longest
from urllib.parse import parse_qsl, quote

from sqlalchemy import URL

from momentum.errors import ConfigurationError
from momentum.wording import holds_credentials

FORM = "the form is postgresql://USER:PASSWORD@HOST:PORT/NAME"
ESCAPES = "write @ / ? % in the user or password as %40 %2F %3F %25"

TRANSACTION_POOLER_PORT = "6543"

# The one option in a URL that is psycopg's and not libpq's.
PREPARE_THRESHOLD = "prepare_threshold"

# Options that libpq reads as whole numbers, but only once it connects.
NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "tcp_user_timeout",
)
# In these, SQLAlchemy can't write a host before the path of a URL: several hosts, a folder, an abstract socket.
NOT_IN_PLACE = re.compile("[,/@]")

# Options whose values no output may show.
SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")

# Where a secret is in a URL or among options: what is before it, and what follows.
PLACES_OF_SECRETS = (
    (rf"(?i:{'|'.join(SECRETS)})['\"]?\s*[=:]\s*['\"]?", r"\W|\Z"),
    (":", "@"),
)
# Where else a library repeats what it was given.
QUOTED = ("['\"`:]", "['\"`@]")

# A secret with fewer characters may be part of any text, and a word has fewer than the other number.
SHORT, LONG = 6, 20

# Options whose values messages show.
SHOWN = ("user", "host", "hostaddr", "dbname")

# The options that libpq checks last, after it has resolved all others: the newest that it knows comes first.
CHECKED_LAST = ("max_protocol_version", "load_balance_hosts", "target_session_attrs")
# A value that libpq refuses, so that it stops before it looks up a host or opens a socket.
STOP = "resolve-and-stop"


def parse_url(text: str, origin: str) -> URL:
    """Return a URL for psycopg 3 from ``postgresql://`` or ``postgres://``, the form that Supabase shows.

    Args:
        text: The URL as it was given, which is read as libpq reads it.
        origin: Where it came from, for the error, which never repeats the URL: it may hold a password.

    Raises:
        ConfigurationError: It is not the URL of a Postgres database, names another driver, can be read in two ways, or
            libpq would refuse one of its options, or of those that the environment or a service file adds.
    """
    subject = f"The database URL from {origin}"
    known = ("postgresql", "postgres", "postgresql+psycopg")
    scheme, _, rest = text.strip().partition("://")
    if scheme.startswith("postgresql+") and scheme not in known:
        raise ConfigurationError(
            f"{subject} names a driver other than psycopg 3, which is used here; write it without "
            "a driver: postgresql://USER:PASSWORD@HOST:PORT/NAME."
        )
    user, place, query = split(rest)
    if "@" in place or "@" in query.replace("host=@", "host="):
        # Somewhere in it is a part of a password, which must not be taken for a host, a database or an option.
        raise ConfigurationError(f"{subject} has an @ or / that can be read in two ways; {ESCAPES}.")
    before, after = read_by_libpq(user + place), options_in(query)
    if scheme not in known or before is None or after is None:
        raise ConfigurationError(f"{subject} is not a Postgres URL; {FORM}, and {ESCAPES}.")
    # libpq would use the later value, and most readers see the first.
    names = [name for name, _ in after]
    if twice := sorted({name for name in names if name in before or names.count(name) > 1}):
        raise ConfigurationError(f"{subject} repeats {' and '.join(twice)} in its query; give it once.")
    if "hostaddr" in names and "host" in {*before, *names}:
        raise ConfigurationError(f"{subject} gives both a host and a hostaddr; give one of them.")
    given = {**before, **dict(after)}
    if reason := objection_to(given):
        raise ConfigurationError(f"{subject} cannot be used: {reason}.")
    if "dbname" not in given and not names_database(given):
        raise ConfigurationError(f"{subject} is not a Postgres URL; {FORM}, and this one has no NAME.")
    return url_of(given)


def split(rest: str) -> tuple[str, str, str]:
    """Return the user with an @, the host, port and name, and the query of a URL, divided where libpq divides it."""
    found = re.match(r"([^@/]*@)?([^?]*)\??(.*)", rest, re.DOTALL)
    assert found is not None
    return found[1] or "", found[2], found[3]


def read_by_libpq(address: str) -> dict[str, str] | None:
    """Return the options that a URL without a query has for libpq; None if it is none, not in UTF-8, or has no port."""
    from psycopg import Error, pq

    try:
        # SQLAlchemy leaves a space in a password as it is.
        options = pq.Conninfo.parse(f"postgresql://{address.replace(' ', '%20')}".encode())
        found = {option.keyword.decode(): option.val.decode() for option in options if option.val is not None}
    except (Error, UnicodeError):
        return None
    return found if all(port.isdecimal() for port in found.get("port", "").split(",") if port) else None


def options_in(query: str) -> list[tuple[str, str]] | None:
    """Return the options in a URL's query; None if it can't be decoded.

    Hosts with their ports, as in SQLAlchemy's ``host=one:1&host=two:2``, become the lists that libpq reads.
    """
    try:
        options = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        return None
    if any("\0" in value for _, value in options):
        return None
    # As JDBC writes it; in a URL, libpq understands it too.
    options = [("sslmode", "require") if option == ("ssl", "true") else option for option in options]
    places = [value for name, value in options if name == "host"]
    pairs = [found.groups() if (found := re.fullmatch(r"([^:]*):(\d+)", each)) else (each, "") for each in places]
    hosts, ports = (",".join(values) for values in zip(*pairs, strict=True)) if pairs else ("", "")
    rest = [option for option in options if option[0] != "host"]
    rest += [("host", hosts)] if places else []
    return rest + ([("port", ports)] if ports.strip(",") else [])


def objection_to(given: Mapping[str, str]) -> str | None:
    """Return the reason why a URL's options cannot be used, without connecting; None if they can."""
    from psycopg import pq

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {PREPARE_THRESHOLD}
    if unknown := [name for name in given if name not in known]:
        # A name that looks like none may be a part of a password.
        named = [name if name.isidentifier() else "without a proper name" for name in unknown]
        return f"there is no option {' or '.join(named)} for a URL"
    if not re.fullmatch(r"\d{1,9}|none", given.get(PREPARE_THRESHOLD, "none"), re.ASCII | re.IGNORECASE):
        return f"{PREPARE_THRESHOLD} is a whole number, or none"
    if given.get("client_encoding", "utf8").lower().replace("-", "") not in ("utf8", "unicode", "auto"):
        return "client_encoding is UTF8 here, because text is exact in no other"
    options, objection = ask_libpq(given)
    if objection:
        return "libpq refuses an option that may hold a password" if holds_credentials(objection) else objection
    if held := [name for name in SHOWN if holds_credentials(options.get(name, ""))]:
        return f"its {' and '.join(held)} may be a whole URL, which messages would show; give a name only"
    if "replication" in options:
        return "a connection with the option replication runs no ordinary statements"
    ports = [port.strip() for port in options.get("port", "").split(",")]
    if not all(re.fullmatch(r"\d{1,5}|", port, re.ASCII) and 0 < int(port or 5432) < 65536 for port in ports):
        return "a port is a number from 1 to 65535"
    if "," in given.get("port", "") and given["port"].count(",") != given.get("host", "").count(","):
        # libpq would take them for PGHOST or hostaddr, but SQLAlchemy can't pass them on.
        return "it lists several ports without as many hosts"
    for name in NUMBERS:
        if not re.fullmatch(r"\s*[-+]?\d{1,9}\s*|", options.get(name, ""), re.ASCII):
            return f"{name} is a whole number"
    return None


def ask_libpq(given: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """Return the options with which libpq would connect, and its objection to them. Nothing is looked up or sent.

    What isn't given comes from the service file, then from the environment, then from libpq's defaults. If libpq stops
    at the first step, because it doesn't know an option or a service, only the given options are returned.
    """
    from psycopg import Error, pq
    from psycopg.conninfo import make_conninfo

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    last = next(name for name in CHECKED_LAST if name in known)
    own = {name: value for name, value in given.items() if name != PREPARE_THRESHOLD}
    # No password file, of whose permissions libpq would warn on standard error each time.
    ended = {**own, "passfile": STOP, last: STOP}
    try:
        asked = pq.PGconn.connect_start(make_conninfo("", **ended).encode())
    except (Error, UnicodeError) as error:
        return own, str(error).strip().partition("\n")[0]
    said = asked.get_error_message().strip().partition("\n")[0]
    values = {each.keyword.decode(): each.val.decode(errors="replace") for each in asked.info if each.val is not None}
    asked.finish()
    found = {name: value for name, value in values.items() if ended.get(name) != STOP}
    return {**own, **found}, None if STOP in said else said


def names_database(given: Mapping[str, str]) -> bool:
    """Return whether the environment or a service names a database; if not, libpq uses the user's name for it."""
    options, _ = ask_libpq({**given, "user": STOP})
    return options.get("dbname", STOP) != STOP


def options_of(url: URL) -> dict[str, str]:
    """Return the options that a URL itself gives to the driver, under libpq's names."""
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    _, given = PGDialect_psycopg().create_connect_args(url)  # type: ignore[no-untyped-call]
    options = {name: str(value) for name, value in given.items()}
    # For several hosts without ports, SQLAlchemy writes a list of none, which would hide the environment's.
    return {name: value for name, value in options.items() if name != "port" or value.strip(",")}


def url_of(options: Mapping[str, str]) -> URL:
    """Return a URL for psycopg 3 with some options of libpq's."""
    rest = dict(options)
    host, port = rest.pop("host", None), rest.pop("port", None)
    own = {name: rest.pop(key, None) for name, key in (("username", "user"), ("database", "dbname"))}
    password = rest.pop("password", None)
    if host is not None and (not host or NOT_IN_PLACE.search(host)):
        rest["host"], host = host, None
    if port is not None and ("host" in rest or not port.isdecimal()):
        rest["port"], port = port if "," in port else ",".join([port] * len(rest.get("host", "").split(","))), None
    return URL.create(
        "postgresql+psycopg", password=password, host=host, port=int(port) if port else None, query=rest, **own
    )


def resolve(url: URL) -> dict[str, str]:
    """Return all options with which libpq connects to a URL's database, secrets included: never log it.

    They are the URL's own, then those of a service file, then those of the environment, then libpq's defaults.
    """
    return ask_libpq(options_of(url))[0]


def server_of(url: URL) -> dict[str, str]:
    """Return the resolved host, address and port of a URL as arguments of the driver.

    Without them it would take those of the environment before those of a service, unlike libpq.
    """
    options = resolve(url)
    return {name: options[name] for name in ("host", "hostaddr", "port") if options.get(name)}


def prepare_threshold(url: URL) -> dict[str, int | None]:
    """Return the driver's argument ``prepare_threshold`` if a URL gives it, or leads to a transaction pooler.

    Behind a transaction pooler no statement is prepared, because the next transaction may have another session.
    """
    if given := options_of(url).get(PREPARE_THRESHOLD):
        return {PREPARE_THRESHOLD: None if given.lower() == "none" else int(given)}
    return {PREPARE_THRESHOLD: None} if is_transaction_pooler(url) else {}


def describe(url: URL) -> str:
    """Return host, port and database as libpq resolves a URL, never its user or password."""
    options = resolve(url)
    ports = [port.strip() or "5432" for port in options.get("port", "").split(",")]
    lists = (options.get(name, "").split(",") for name in ("host", "hostaddr"))
    servers = [place(host, address) for host, address in zip_longest(*lists, fillvalue="")]
    if len(set(ports)) == 1:
        where = f"{','.join(servers)}:{ports[0]}"
    else:
        where = ",".join(f"{server}:{port}" for server, port in zip(servers, ports, strict=False))
    said = f"{where}/{options.get('dbname', '')}"
    return "".join(letter if letter.isprintable() else "?" for letter in said)


def place(host: str, address: str) -> str:
    """Return one host as people write it, with the address at which libpq looks for it instead of its name."""
    shown = [f"[{each}]" if ":" in each else each for each in (host or address, address)]
    return f"{shown[0]} ({shown[1]})" if host and address and host != address else shown[0] or "local socket"


def is_transaction_pooler(url: URL) -> bool:
    """Return whether a URL leads to a transaction pooler, judged by the port of Supabase's."""
    return TRANSACTION_POOLER_PORT in re.split(r"[,\s]+", resolve(url).get("port", ""))


def refuse_transaction_pooler(url: URL) -> None:
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


def written(url: URL) -> str:
    """Return a URL as text that ``parse_url`` reads, including the password: never log it."""
    if not url.host or NOT_IN_PLACE.search(url.host):
        url = url_of(options_of(url))
    name = url.host or ""
    password = f":{quote(str(url.password), safe='')}" if url.password else ""
    user = f"{quote(url.username or '', safe='')}{password}"
    # An IPv6 address may end with % and an interface.
    host = f"[{quote(name, safe=':')}]" if ":" in name else quote(name, safe="")
    port = f":{url.port}" if url.port else ""
    pairs = [(key, value) for key, values in sorted(url.normalized_query.items()) for value in values]
    query = "&".join(f"{key}={quote(value, safe='')}" for key, value in pairs)
    return (
        f"postgresql://{user}{'@' if user else ''}{host}{port}/{quote(url.database or '', safe='')}"
        f"{'?' if query else ''}{query}"
    )


def as_text(url: URL) -> str:
    """Return a URL as libpq and other programs read it, including the password: never log it."""
    return written(url.difference_update_query([PREPARE_THRESHOLD]))


def blot_out(text: str, url: URL) -> str:
    """Return a text with the URL's secrets blotted out in every encoding, in case a library has echoed one.

    A secret that may be a word, or that is also a name that messages show, is blotted out only where it is an echo. A
    text with holes in all of its other places could not be read, and would give the secret away.
    """
    options = resolve(url)
    names = {options.get(name) for name in (*SHOWN, "port")}
    ways = {way: secret for name in SECRETS if (secret := options.get(name)) for way in ways_to_write(secret)}
    # The longest first, because one spelling may be part of another.
    for way in sorted(ways, key=len, reverse=True):
        is_name = ways[way] in names
        if not is_name and text.strip() == way:
            return "***"
        if not is_name and not may_be_a_word(ways[way]):
            text = text.replace(way, "***")
            continue
        for before, after in PLACES_OF_SECRETS if is_name else (*PLACES_OF_SECRETS, QUOTED):
            text = re.sub(f"({before}){re.escape(way)}(?={after})", r"\1***", text)
    return text


def may_be_a_word(secret: str) -> bool:
    """Return whether a text that has nothing to do with a secret may contain it: it is short, a word or a number."""
    if len(secret) < SHORT or secret.isdecimal():
        return True
    return secret.isalpha() and secret in (secret.lower(), secret.upper(), secret.capitalize()) and len(secret) < LONG


def ways_to_write(password: str) -> tuple[str, ...]:
    """Return a password as it is, as URLs encode it, and as Python's repr shows it."""
    return password, quote(password, safe=""), quote(password, safe=" +"), repr(password)[1:-1]


def redact(text: str, url: URL) -> str:
    """Return the first line of a text with the URL's passwords blotted out."""
    return blot_out(text.strip().partition("\n")[0], url)
