"""Comparison of a migrated database with what the migrations make: ``python -m momentum.verify``.

``alembic check`` sees tables, columns and keys. It doesn't see views, row-level security, grants, functions, triggers,
or whether a constraint or an index is valid. So the last revision has a fingerprint for each kind of score table in
``fingerprints/``: the facts about our objects in the catalogs, one per line. It is the same on every server from
PostgreSQL 15 on.

Only objects of the migrations are compared, and of an adopted score table only what the view and the backfill need.
Storage parameters, statistics targets and publications are left to the owner of the database, and parked columns wait
for the next upgrade: none of these is compared.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from momentum.errors import NotMigratedError, VerificationError
from momentum.inventory import (
    FRESH_SCHEMA,
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
from momentum.wording import counted

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

# The columns of its record that the comparison needs.
RECORDED = ("relation", "layout", "created_table")
RECORD = f"table {private(SCORE_RECORD)}, row"

# A fact's key says what it belongs to: `table public.habit_index, column id, comment` is one of the column's.
PART = ", "

# Escapes that keep a fact on one line.
ESCAPED = {"\\": r"\\", "\n": r"\n", "\r": r"\r"}

# Settings that change how the server writes an expression or a name.
PINNED = {
    "search_path": "pg_catalog, pg_temp",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}

FACTS = (FOLDER / "facts.sql").read_text(encoding="utf-8")
ADOPTED_FACTS = (FOLDER / "adopted.sql").read_text(encoding="utf-8")


def differences(connection: "Connection") -> list[str]:
    """Return the differences between a database and what its revision makes, one readable line each.

    Nothing is written, and the session stays as it was, inside a transaction or not.

    Args:
        connection: A connection as the owner of ``momentum_internal``, not in AUTOCOMMIT.

    Raises:
        NotMigratedError: The database is at no revision, or at one without a fingerprint in this version.
    """
    names = {path.name for path in FINGERPRINTS.iterdir()}
    with pinned(connection):
        revision = read_revision(connection)
        known = sorted({name.partition(".")[0] for name in names})
        if revision not in known:
            raise NotMigratedError(
                f"The database is at revision {revision}; this version of the package compares revision "
                f"{' or '.join(known)} only: upgrade the database, or use the version that migrated it."
            )
        record = read_record(connection)
        name = fingerprint_name(revision, record)
        if name not in names or not record.keys() >= set(RECORDED):
            recorded = ", ".join(f"{column} {value}" for column, value in record.items()) or "none"
            return [f"changed: {RECORD}: found {recorded}, expected {', '.join(RECORDED)} of the score table"]
        found = read_facts(connection, record)
        has_predecessors = any(relation_exists(connection, f"{PREDECESSOR_PREFIX}{table}") for table in PREDECESSORS)
    expected = read_fingerprint(name)
    if record.get("created_table") and not record.get("created_schema"):
        # The schema existed before and is somebody else's; all that we need is that service_role may use it.
        ours = f"schema {FRESH_SCHEMA}"
        expected = {k: v for k, v in expected.items() if object_of(k) != ours or k == USAGE_OF_FRESH_SCHEMA}
    if not has_predecessors:
        # The record of their rows is compared only as long as they are parked.
        expected = {k: v for k, v in expected.items() if object_of(k) != f"table {private(PREDECESSOR_ROWS)}"}
    return compare(expected, found)


def check(connection: "Connection") -> None:
    """Compare a database after an upgrade, and log each difference.

    A revision without a fingerprint, such as one before head or one that is being written, passes with a warning.

    Args:
        connection: A connection, as for ``differences``.

    Raises:
        VerificationError: There are differences.
    """
    try:
        found = differences(connection)
    except NotMigratedError as error:
        log.warning("Not verified: %s", error)
        return
    for line in found:
        log.error(line)
    if found:
        raise VerificationError(
            f"The database differs from what its revision makes, in {counted(len(found), 'place')} "
            "that the log names; fix that, or migrate with verify=no."
        )


def compare(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return the differences between two sets of facts as lines.

    Facts that belong to a missing or unexpected object are left out. Objects without expected facts are not ours (yet),
    such as the app's own tables under one of our names.
    """
    # A function's name without its arguments: there should be only one of that name.
    ours = {object_of(key).partition("(")[0] for key in expected}
    found = {key: value for key, value in found.items() if object_of(key).partition("(")[0] in ours}
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        if any((owner in expected) != (owner in found) for owner in owners_of(key)):
            continue
        if key not in found:
            lines.append(f"missing: {key}: {expected[key]}")
        elif key not in expected:
            lines.append(f"unexpected: {key}: {found[key]}")
        elif found[key] != expected[key]:
            lines.append(f"changed: {key}: found {found[key]}, expected {expected[key]}")
    return lines


def object_of(key: str) -> str:
    """Return the schema, table, view or function that a fact belongs to."""
    return key.partition(PART)[0]


def owners_of(key: str) -> Iterator[str]:
    """Yield everything that a fact belongs to, the object first, such as a table and its column."""
    parts = key.split(PART)
    return (PART.join(parts[:length]) for length in range(1, len(parts)))


@contextmanager
def pinned(connection: "Connection") -> Iterator[None]:
    """Pin the settings that change how the server writes facts, and leave the session as it was."""
    owned = not connection.in_transaction()
    savepoint = connection.begin_nested()
    try:
        for name, value in PINNED.items():
            connection.execute(
                text("select pg_catalog.set_config(:name, :value, true)"), {"name": name, "value": value}
            )
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


def read_fingerprint(name: str) -> dict[str, str]:
    """Return the facts in a fingerprint's file."""
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
    facts = read(
        connection,
        FACTS,
        schemas=[PRIVATE_SCHEMA, FRESH_SCHEMA] if record.get("created_schema") else [PRIVATE_SCHEMA],
        functions=list(map(private, PRIVATE_FUNCTIONS)),
        relations=[*RELATIONS, FRESH_TABLE] if fresh else list(RELATIONS),
        superseded=private(SUPERSEDED),
        parked_prefix=PARKED_PREFIX,
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
    return facts


def read_adopted_facts(connection: "Connection", record: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts about an adopted score table that the view and the backfill depend on."""
    layout = next(known for known in LAYOUTS if known.name == record["layout"])
    return read(
        connection,
        ADOPTED_FACTS,
        score_table=SCORE_TABLE,
        superseded=private(SUPERSEDED),
        relation=record["relation"],
        columns=list(layout.columns),
        unique_index=record.get("unique_index"),
        created_index=bool(record.get("created_index")),
        user_and_day=f"user_id and {layout.indexed_day}",
    )


def read(connection: "Connection", sql: str, **parameters: Any) -> dict[str, str]:
    """Return the rows of a query as facts, each on one line."""
    rows = connection.execute(text(sql), parameters)
    return {row.key: re.sub(r"[\\\n\r]", lambda found: ESCAPED[found[0]], row.value) for row in rows}
