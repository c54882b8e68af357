"""Comparison of a migrated database with what the migrations make: ``python -m momentum.verify``.

``alembic check`` sees tables, columns and keys. It doesn't see views, row-level security, grants, functions, triggers,
or whether a constraint or an index is valid. So the last revision has a fingerprint for each kind of score table in
``fingerprints/``: the facts about our objects in the catalogs, one per line. It is the same on every server from
PostgreSQL 15 on.

Only objects of the migrations are compared, and of an adopted score table only what the view and the backfill need. A
few facts about the platform are compared too: the grants and policies rely on them, and nothing of ours makes them.
Storage parameters, statistics targets and publications are left to the owner of the database, and parked columns wait
for the next upgrade: none of these is compared.
"""

import json
import logging
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from momentum.connect.settings import ENDING, PINNED, change_settings
from momentum.distribution import find_distributed
from momentum.errors import ConfigurationError, NotMigratedError, PreflightError, VerificationError
from momentum.history import read_history
from momentum.inventory import (
    FRESH_SCHEMA,
    KEPT_ACCESS,
    PARKED_PREFIX,
    PREDECESSOR_PREFIX,
    PREDECESSOR_ROWS,
    PREDECESSORS,
    PRIVATE_FUNCTIONS,
    PRIVATE_SCHEMA,
    PRIVATE_TABLES,
    SCORE_RECORD,
    SUPERSEDED,
    TABLES,
    VERSION_TABLE,
    VIEW,
    private,
)
from momentum.scores import LAYOUTS, TABLE_NAME
from momentum.trust import find_untrusted
from momentum.verify.kept import Kept, expect_kept, read_kept
from momentum.wording import advise, counted

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger("momentum.migrations")

FOLDER = Path(__file__).parent
FINGERPRINTS = FOLDER / "fingerprints"

# The relations that the migrations always create, and the one that they create if there is no score table.
RELATIONS = (*map(private, PRIVATE_TABLES), *(f"public.{name}" for name in (*TABLES, VIEW)))
FRESH_TABLE = f"{FRESH_SCHEMA}.{TABLE_NAME}"
USAGE_OF_FRESH_SCHEMA = f"schema {FRESH_SCHEMA}, grant to service_role"

# The name of an adopted table in facts, the same in any schema.
SCORE_TABLE = "score table"

# The relations whose rows are read: what they run would run with the rights of the role that compares. The owners
# of all others are facts.
READ = tuple(map(private, (VERSION_TABLE, SCORE_RECORD, KEPT_ACCESS)))

# The columns of its record that the comparison needs.
RECORDED = ("relation", "layout", "created_table")
RECORD = f"table {private(SCORE_RECORD)}, row"

# The row of the version table is a fact only where it contradicts the rest.
VERSION = f"table {private(VERSION_TABLE)}, row"

# What the facts belong to that nothing of ours makes, and the facts about an adopted table that are its owner's.
PLATFORM = "platform"
NOT_OURS = re.compile(rf"{PLATFORM}\b|{SCORE_TABLE}, (child|narrow key|owner|persistence|required column|rule)\b")

# A fact's key says what it belongs to: `table public.habit_index, column id, comment` is one of the column's.
PART = ", "

# A part has no comma of its own, unless in a quoted name or in a function's arguments.
PARTS = re.compile(r'(?:"(?:[^"]|"")*"|\([^()]*\)|[^,"])+')

# The columns of a primary key, and a call that a policy makes once per statement, as the server writes them.
PRIMARY_KEY = re.compile(r"PRIMARY KEY \((.*)\)")
SUBQUERY_OF_POLICY = re.compile(r"\( SELECT (auth\.\w+\(\)) AS \w+\)")

# Differences that a warning before a migration names; it counts the rest.
NAMED = 20

# Escapes that keep a fact on one line.
ESCAPED = {"\\": r"\\", "\n": r"\n", "\r": r"\r"}

FACTS = (FOLDER / "facts.sql").read_text(encoding="utf-8")
ADOPTED_FACTS = (FOLDER / "adopted.sql").read_text(encoding="utf-8")
PLATFORM_FACTS = (FOLDER / "platform.sql").read_text(encoding="utf-8")

SESSION = (FOLDER / "session.sql").read_text(encoding="utf-8")
MEMBERSHIPS = (FOLDER / "memberships.sql").read_text(encoding="utf-8")

AUTH_UID = f"{PLATFORM}, function auth.uid()"
AUTH_UID_BODY = f"{AUTH_UID}, body"
RIGHT_USER = "returns the user whom the token names"


class Difference(NamedTuple):
    """A fact that is not as expected: no found value means that it is missing, no expected one that it is too much."""

    key: str
    found: str | None
    expected: str | None

    def __str__(self) -> str:
        key = one_line(self.key)  # a name may have line breaks
        if self.found is None:
            return f"missing: {key}: {self.expected}"
        if self.expected is None:
            return f"unexpected: {key}: {self.found}"
        return f"changed: {key}: found {self.found}, expected {self.expected}"


class Session(NamedTuple):
    """The role that compares, and the server.

    Attributes:
        role: The current role.
        acts_as: The roles whose rights it has, its own included, as SQL writes their names.
        alters: The roles of clients whose attributes it may change, such as the right to bypass row-level security.
        memberships: The roles of clients that are members of others: each with that role and the one that granted it,
            as SQL writes their names, and whether the session may revoke it.
        owner: The owner of ``momentum_internal``, as SQL writes its name.
        public: The same of the schema ``public``; None if there is none.
        server: The server's version, such as 180001.
    """

    role: str
    acts_as: frozenset[str]
    alters: frozenset[str]
    memberships: list[tuple[str, str, str, bool]]
    owner: str
    public: str | None
    server: int


@dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison.

    Attributes:
        revision: The revision that the database was compared with.
        record: The row that the migrations recorded about the score table.
        expected: The facts that its fingerprint has.
        found: The facts in the database.
        kept: What ``-x access=keep`` carried over to it, which the expected facts include.
        differences: The facts that are not as expected.
        warnings: Sentences about what is not as it should be, and can't be changed by the role that compares.
        session: The role that compares, and the server.
    """

    revision: str
    record: Mapping[str, Any]
    expected: Mapping[str, str]
    found: Mapping[str, str]
    kept: Sequence[Kept]
    differences: list[Difference]
    warnings: list[str]
    session: Session


def differences(connection: "Connection") -> list[str]:
    """Return the differences between a database and what its revision makes, one readable line each.

    Args:
        connection: A connection, as for ``compare_database``.

    Raises:
        NotMigratedError: As for ``compare_database``.
    """
    return list(map(str, compare_database(connection).differences))


def compare_database(connection: "Connection") -> Comparison:
    """Compare a database with what its revision makes.

    Nothing is written, and the session stays as it was, inside a transaction or not.

    Args:
        connection: A connection as the owner of ``momentum_internal``, not in AUTOCOMMIT.

    Raises:
        NotMigratedError: The database is at no revision, or at one without a fingerprint in this version.
        ConfigurationError: What would have to be read or called belongs to a role that could borrow our rights.
    """
    names = {path.name for path in FINGERPRINTS.iterdir()}
    known = known_revisions()
    with pinned(connection):
        if untrusted := find_untrusted(connection, READ, only_these=True).value:
            raise ConfigurationError(str(untrusted))
        revision = read_revision(connection)
        compared = revision
        if revision not in known:
            # The facts may tell that only the version is an older one.
            head = read_history()[-1]
            if revision not in read_history() or head not in known:
                raise NotMigratedError(not_compared(revision, known))
            compared = head
        record = read_record(connection)
        name = fingerprint_name(compared, record)
        is_recorded = name in names and record.keys() >= set(RECORDED)
        found = read_facts(connection, record) if is_recorded else {}
        distributed = find_distributed(connection).value
        kept = read_kept(connection)
        theirs = read_facts_of(
            connection, [private(f"{PREDECESSOR_PREFIX}{name}") for name in {each.name for each in kept}]
        )
        session = read_session(connection)
        has_predecessors = any(relation_exists(connection, f"{PREDECESSOR_PREFIX}{table}") for table in PREDECESSORS)
        warnings = list(find_warnings(connection, record, session)) if is_recorded else []
    if not is_recorded:
        if compared != revision:
            raise NotMigratedError(not_compared(revision, known))
        recorded = ", ".join(f"{column} {value}" for column, value in record.items()) or "none"
        lost = Difference(RECORD, recorded, f"{', '.join(RECORDED)} of the score table")
        return Comparison(revision, record, {}, {}, [], [lost], warnings, session)
    expected = read_fingerprint(name)
    if record.get("created_table") and not record.get("created_schema"):
        # The schema existed before and is somebody else's; all that we need is that service_role may use it.
        ours = f"schema {FRESH_SCHEMA}"
        expected = {
            k: v for k, v in expected.items() if object_of(k) != ours or (k == USAGE_OF_FRESH_SCHEMA and not warnings)
        }
    if not has_predecessors:
        # The record of their rows is compared only as long as they are parked.
        expected = {k: v for k, v in expected.items() if object_of(k) != f"table {private(PREDECESSOR_ROWS)}"}
    expected = expect_distributed(distributed, expect_kept(kept, expected, found, theirs))
    lines = compare(expected, found)
    if compared != revision:
        if not all(NOT_OURS.match(line.key) for line in lines):
            raise NotMigratedError(not_compared(revision, known))
        lines.insert(0, Difference(VERSION, revision, compared))
    return Comparison(compared, record, expected, found, kept, lines, warnings, session)


def expect_distributed(distributed: Mapping[str, str | None], expected: Mapping[str, str]) -> dict[str, str]:
    """Return the facts that are expected where Citus has distributed tables, which demands some things of each.

    A unique key has the distribution column, so that a primary key without it is widened; and the rule of a policy has
    no subquery.

    Args:
        distributed: The tables that Citus manages, with the column that each is distributed by.
        expected: The facts that are expected of one server.
    """
    found = dict(expected)
    if FRESH_TABLE in distributed:
        # A query of a shard names the schema.
        found[f"schema {FRESH_SCHEMA}, grant to authenticated"] = "USAGE"
    for key, value in expected.items():
        relation, _, part = key.removeprefix("table ").partition(PART)
        if (column := distributed.get(relation)) is None:
            continue
        if part.startswith("constraint ") and (listed := PRIMARY_KEY.fullmatch(value)):
            columns = listed[1].split(", ")
            found[key] = f"PRIMARY KEY ({', '.join([column, *(name for name in columns if name != column)])})"
        elif part.startswith("policy "):
            found[key] = SUBQUERY_OF_POLICY.sub(r"\1", value)
    return found


def known_revisions() -> list[str]:
    """Return the revisions that have fingerprints."""
    return sorted({path.name.partition(".")[0] for path in FINGERPRINTS.iterdir()})


def not_compared(revision: str, known: list[str]) -> str:
    """Return why a database at a revision can't be compared."""
    return (
        f"The database is at revision {revision}; this version of the package compares revision "
        f"{' or '.join(known)} only: upgrade the database, or use the version that migrated it."
    )


def find_warnings(connection: "Connection", record: Mapping[str, Any], session: Session) -> Iterator[str]:
    """Yield what is not as it should be, and can't be changed by the role that compares."""
    if not record["created_table"] or record.get("created_schema"):
        return
    owner = connection.scalar(
        text("""
            select pg_get_userbyid(n.nspowner)
            from pg_catalog.pg_namespace as n
            where
              n.nspname = :schema
              and not has_schema_privilege('service_role', n.oid, 'usage')
              and not has_schema_privilege(n.oid, 'usage with grant option')
        """),
        {"schema": FRESH_SCHEMA},
    )
    if owner is not None:
        statement = f"grant usage on schema {FRESH_SCHEMA} to service_role"
        yield (
            f"service_role may not use the schema {FRESH_SCHEMA} and so can't read or write {FRESH_TABLE}; the schema "
            f"belongs to {owner}, and you are {session.role}: {advise(owner, statement)}."
        )


def read_session(connection: "Connection") -> Session:
    """Return the role that compares, and what it may do."""
    row = connection.execute(text(SESSION), {"schema": PRIVATE_SCHEMA}).one()
    memberships = [tuple(row) for row in connection.execute(text(MEMBERSHIPS))]
    return Session(
        row.role, frozenset(row.acts_as), frozenset(row.alters), memberships, row.owner, row.public, row.server
    )


def check(connection: "Connection") -> bool:
    """Compare a database after an upgrade, log each difference, and return whether it could be compared.

    A revision without a fingerprint, such as one before head or one that is being written, passes with a warning.

    Args:
        connection: A connection, as for ``differences``.

    Raises:
        VerificationError: There are differences.
    """
    try:
        comparison = compare_database(connection)
    except NotMigratedError as error:
        log.warning("Not verified: %s", error)
        return False
    for warning in comparison.warnings:
        log.warning(warning)
    ours = [line for line in comparison.differences if not NOT_OURS.match(line.key)]
    for line in comparison.differences:
        # No upgrade makes or changes what is not ours, and so it doesn't fail because of it either.
        log.log(logging.ERROR if line in ours else logging.WARNING, str(line))
    if ours:
        raise VerificationError(
            f"The database differs from what its revision makes, in {counted(len(ours), 'place')} that the log names; "
            "fix that (`python -m momentum.verify --sql` prints the statements), or migrate with verify=no."
        )
    return True


def check_drift(connection: "Connection", heads: Sequence[str], command: str, *, refuses: bool) -> None:
    """Compare a database before a migration, if it is at a revision with a fingerprint: head, or that of a release.

    Args:
        connection: A connection, as for ``differences``.
        heads: The revision that the database is at, as Alembic reads it.
        command: ``upgrade`` or ``downgrade``.
        refuses: Whether to refuse a database that differs, instead of logging the differences.

    Raises:
        PreflightError: The database differs, and such a one is refused.
    """
    if not set(heads) & set(known_revisions()):
        return
    comparison = compare_database(connection)
    found = [str(line) for line in comparison.differences]
    ours = [line for line in comparison.differences if not NOT_OURS.match(line.key)]
    for line in found[:NAMED]:
        log.warning(line)
    if (more := len(found) - NAMED) > 0:
        log.warning("and %s", counted(more, "more difference"))
    if refuses and ours:
        raise PreflightError(
            f"The database differs from what revision {comparison.revision} makes, in {counted(len(ours), 'place')} "
            "that the log names; nothing has changed. Fix that (`python -m momentum.verify --sql` prints the "
            f"statements), or {command} with drift=warn."
        )
    if found:
        log.warning(
            "Before the %s, the database differs from what revision %s makes, in %s; with drift=refuse, nothing would "
            "change.",
            command,
            comparison.revision,
            counted(len(found), "place"),
        )


def compare(expected: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    """Return the differences between two sets of facts, as ``changes`` does.

    Objects without expected facts are not ours (yet), such as the app's own tables under one of our names: they are
    left out.
    """
    # A function's name without its arguments: there should be only one of that name.
    ours = {object_of(key).partition("(")[0] for key in expected}
    return changes(expected, {key: value for key, value in found.items() if object_of(key).partition("(")[0] in ours})


def changes(expected: Mapping[str, str], found: Mapping[str, str]) -> list[Difference]:
    """Return the differences between two sets of facts, except those of a missing or unexpected object or part."""
    return [
        Difference(key, found.get(key), expected.get(key))
        for key in sorted(expected.keys() | found.keys())
        if found.get(key) != expected.get(key)
        and not any((owner in expected) != (owner in found) for owner in owners_of(key))
    ]


def parts_of(key: str) -> list[str]:
    """Return the parts of a fact's key, the object first."""
    return [part.removeprefix(" ") for part in PARTS.findall(key)]


def object_of(key: str) -> str:
    """Return the schema, table, view or function that a fact belongs to."""
    return parts_of(key)[0]


def owners_of(key: str) -> Iterator[str]:
    """Yield everything that a fact belongs to, the object first, such as a table and its column."""
    parts = parts_of(key)
    return (PART.join(parts[:length]) for length in range(1, len(parts)))


@contextmanager
def pinned(connection: "Connection") -> Iterator[None]:
    """Pin the settings that change how the server writes facts, and leave the session as it was."""
    owned = not connection.in_transaction()
    savepoint = connection.begin_nested()
    try:
        change_settings(connection, {**PINNED, **ENDING})
        yield
    finally:
        if not connection.invalidated:
            savepoint.rollback()
        if owned:
            connection.rollback()


def read_revision(connection: "Connection") -> str:
    """Return a database's revision.

    Raises:
        NotMigratedError: It has none, or several.
    """
    revisions: list[str] = []
    if relation_exists(connection, VERSION_TABLE):
        # As JSON, because the column itself may be missing.
        sql = "select to_jsonb(v) ->> 'version_num' from momentum_internal.alembic_version as v order by 1"
        revisions += filter(None, connection.scalars(text(sql)))
    if len(revisions) > 1:
        raise NotMigratedError(
            f"momentum_internal.alembic_version names {len(revisions)} revisions ({', '.join(revisions)}); keep only "
            "the one that the database is at."
        )
    if not revisions:
        raise NotMigratedError("The database is not migrated; upgrade it to head with the momentum migrations first.")
    return revisions[0]


def read_record(connection: "Connection") -> dict[str, Any]:
    """Return the row that the migrations recorded about the score table, or an empty one if it is lost."""
    if not relation_exists(connection, SCORE_RECORD):
        return {}
    # As JSON, so that a missing column is a difference and not an error.
    record = connection.scalar(text("select to_jsonb(s) from momentum_internal.score_table as s"))
    return dict(record or {})


def relation_exists(connection: "Connection", name: str) -> bool:
    """Return whether there is a relation of that name in the private schema."""
    found = connection.scalar(
        text("""
            select exists (
              select from pg_catalog.pg_class as c
              inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
              where n.nspname = :schema and c.relname = :name
            )
        """),
        {"schema": PRIVATE_SCHEMA, "name": name},
    )
    return bool(found)


def fingerprint_name(revision: str, record: Mapping[str, Any]) -> str:
    """Return the file of a revision's fingerprint, by where the score table came from."""
    return f"{revision}.{'fresh' if record.get('created_table') else record.get('layout')}.txt"


def read_fingerprint(name: str | Path) -> dict[str, str]:
    """Return the facts in a fingerprint's file: one of ours, or one at another path."""
    lines = (FINGERPRINTS / name).read_text(encoding="utf-8").rstrip("\n").split("\n")
    return {key: value for key, _, value in (line.partition(": ") for line in lines)}


def write_fingerprint(facts: Mapping[str, str]) -> str:
    """Return facts as the text of a fingerprint's file."""
    return "".join(f"{key}: {value}\n" for key, value in sorted(facts.items()))


def read_facts(connection: "Connection", record: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts in the catalogs about our objects.

    Args:
        connection: A connection with the settings pinned.
        record: The row that the migrations recorded about the score table.
    """
    fresh = bool(record.get("created_table"))
    facts = read_facts_of(
        connection,
        [*RELATIONS, FRESH_TABLE] if fresh else RELATIONS,
        schemas=[PRIVATE_SCHEMA, FRESH_SCHEMA] if record.get("created_schema") else [PRIVATE_SCHEMA],
        functions=list(map(private, PRIVATE_FUNCTIONS)),
        shared_schema=FRESH_SCHEMA if fresh and not record.get("created_schema") else None,
    )
    if fresh:
        facts[RECORD] = ", ".join(str(record.get(column)) for column in ("relation", "layout", "unique_index"))
        facts[RECORD] += ", index created" if record.get("created_index") else ", index not created"
    elif record:
        facts[RECORD] = ", ".join(
            f"{made} {'created' if record.get(f'created_{made}') else 'not created'}" for made in ("table", "schema")
        )
        facts = {
            key: value.replace(f"FROM {record['relation']} ", f"FROM <{SCORE_TABLE}> ") for key, value in facts.items()
        }
        facts |= read_adopted_facts(connection, record)
    facts |= read(connection, PLATFORM_FACTS) | {AUTH_UID: try_auth_uid(connection)}
    if facts[AUTH_UID] != RIGHT_USER:
        facts.pop(AUTH_UID_BODY, None)
    return facts


def try_auth_uid(connection: "Connection") -> str:
    """Return what auth.uid(), on which every policy relies, makes of a token.

    It is called, because the platform's versions of it are written differently, and read the token from one setting or
    from both. Its effects are undone.
    """
    # The second one is nobody's, so that a function that knows users is found out too.
    for user in (None, str(uuid.uuid4()), str(uuid.uuid4())):
        claims = {"role": "authenticated", "sub": user} if user else {"role": "anon"}
        settings = {"request.jwt.claims": json.dumps(claims), "request.jwt.claim.sub": user or ""}
        savepoint = connection.begin_nested()
        try:
            change_settings(connection, settings)
            called = connection.scalar(text("select auth.uid()::text"))
        except DBAPIError as error:
            if connection.invalidated:
                raise
            # An old version doesn't take a token without a user.
            if user is None:
                continue
            return f"fails: {error.orig.__class__.__name__}"
        finally:
            if not connection.invalidated:
                savepoint.rollback()
        if called != user:
            return "returns somebody else than the user whom the token names"
    return RIGHT_USER


def read_facts_of(
    connection: "Connection",
    relations: Sequence[str],
    *,
    schemas: Sequence[str] = (),
    functions: Sequence[str] = (),
    shared_schema: str | None = None,
) -> dict[str, str]:
    """Return the facts about some relations, schemas and functions.

    Args:
        connection: A connection with the settings pinned.
        relations: The relations with their schemas.
        schemas: The schemas.
        functions: The functions with their schemas.
        shared_schema: A schema of others that service_role must be able to use.
    """
    return read(
        connection,
        FACTS,
        schemas=list(schemas),
        functions=list(functions),
        relations=list(relations),
        superseded=private(SUPERSEDED),
        parked_prefix=PARKED_PREFIX,
        shared_schema=shared_schema,
    )


def read_adopted_facts(connection: "Connection", record: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts about an adopted score table that the view and the backfill depend on."""
    layout = next(known for known in LAYOUTS if known.name == record["layout"])
    facts = read(
        connection,
        ADOPTED_FACTS,
        score_table=SCORE_TABLE,
        superseded=private(SUPERSEDED),
        relation=record["relation"],
        columns=list(layout.columns),
        unique_index=record.get("unique_index"),
        created_index=bool(record.get("created_index")),
        user_and_day=f"user_id and {layout.indexed_day}",
        days=[layout.indexed_day, layout.moment],
    )
    if untrusted := find_untrusted(connection, [record["relation"]], only_these=True).value:
        facts[f"{SCORE_TABLE}, owner"] = f"{untrusted.owner}, who could borrow the rights of the role that fills it"
    return facts


def read(connection: "Connection", sql: str, **parameters: Any) -> dict[str, str]:
    """Return the rows of a query as facts, each on one line."""
    rows = connection.execute(text(sql), parameters)
    return {row.key: re.sub(r"[\\\n\r]", lambda found: ESCAPED[found[0]], row.value) for row in rows}


def one_line(text: str) -> str:
    """Return a text with its line breaks written as escapes."""
    return text.replace("\n", ESCAPED["\n"]).replace("\r", ESCAPED["\r"])
