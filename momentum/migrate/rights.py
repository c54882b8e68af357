"""The rights that a migration needs, asked for before anything is changed."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, text

from momentum.errors import PreflightError
from momentum.inventory import (
    FRESH_SCHEMA,
    KEPT_ACCESS,
    PREDECESSOR_PREFIX,
    PRIVATE_FUNCTIONS,
    PRIVATE_SCHEMA,
    PRIVATE_TABLES,
    VIEW,
    private,
)
from momentum.scores import SCHEMAS, TABLE_NAME, ScoreTable
from momentum.trust import find_untrusted
from momentum.wording import advise

MISSING = Path(__file__).with_name("rights.sql").read_text(encoding="utf-8")


class Right(NamedTuple):
    """A right on an object, or its ownership.

    Attributes:
        kind: ``database``, ``schema``, ``table``, ``view``, ``function`` or ``language``.
        name: Its name, with the schema.
        privilege: The privilege as GRANT writes it, or ``owner``.
    """

    kind: str
    name: str
    privilege: str


def check_rights(connection: Connection, rights: Iterable[Right]) -> None:
    """Refuse a role that lacks a right.

    Args:
        connection: A connection; nothing is written through it.
        rights: The rights. An object that doesn't exist needs none.

    Raises:
        PreflightError: A right is missing; the message names the first one, and who can give it.
    """
    kinds, names, privileges = (list(column) for column in zip(*rights, strict=True))
    parameters = {"kinds": kinds, "names": names, "privileges": privileges}
    missing = connection.execute(text(MISSING), parameters).first()
    if missing is None:
        return
    if missing.privilege == "owner":
        lack = f"The {missing.kind} {missing.name} belongs to {missing.owner}, and you are {missing.role}"
    else:
        right = f"{missing.privilege.upper()} on the {missing.kind} {missing.name}"
        lack = f"The migration needs {right}, which {missing.role} lacks"
    raise PreflightError(f"{lack}; {advise(missing.owner, missing.statement)}, then try again.")


def check_owners(connection: Connection, relations: Iterable[str] = (), scores: ScoreTable | None = None) -> None:
    """Refuse what belongs to a role that could borrow our rights through it.

    Args:
        connection: A connection; nothing is written through it.
        relations: The relations that the migration relies on, besides the private schema and the accounts.
        scores: The score table that the migrations recorded, which is one of them.

    Raises:
        PreflightError: Something does; the message names it, its owner, and what to do.
    """
    if found := find_untrusted(connection, [*relations, *([scores.relation] if scores else [])]).value:
        raise PreflightError(str(found))


# Without these, not even the names in the schemas can be looked up.
TO_LOOK = tuple(Right("schema", name, "usage") for name in ("auth", "public", *SCHEMAS, PRIVATE_SCHEMA))


def to_change(names: Collection[str], scores: ScoreTable | None) -> Iterator[Right]:
    """Yield the rights on everything that the migrations have made or parked, which only its owner can change.

    Args:
        names: The names of the relations that revisions create in ``public``.
        scores: The score table that the migrations recorded.
    """
    yield Right("schema", PRIVATE_SCHEMA, "owner")
    yield Right("schema", PRIVATE_SCHEMA, "create")
    for name in PRIVATE_FUNCTIONS:
        yield Right("function", f"{private(name)}()", "owner")
    for name in (*PRIVATE_TABLES, KEPT_ACCESS, TABLE_NAME, *names, *(f"{PREDECESSOR_PREFIX}{name}" for name in names)):
        yield Right("view" if name.endswith(VIEW) else "table", private(name), "owner")
    if scores is not None and scores.created:
        yield Right("table", scores.relation, "owner")


def to_upgrade(
    connection: Connection, creates: Collection[str], *, creates_scores: bool, adopted: str | None
) -> Iterator[Right]:
    """Yield the rights that an upgrade needs to create what is not there yet.

    Args:
        connection: A connection; nothing is written through it.
        creates: The names of the relations that the pending revisions create in ``public``.
        creates_scores: Whether they create a score table, or take back a parked one.
        adopted: The score table that they adopt or index, with its schema.
    """
    yield Right("language", "plpgsql", "usage")
    wanted = [PRIVATE_SCHEMA, *([FRESH_SCHEMA] if creates_scores else [])]
    if missing_schemas(connection, wanted):
        yield Right("database", str(connection.scalar(text("select current_database()"))), "create")
    if creates:
        yield Right("schema", "public", "create")
    if creates_scores:
        yield Right("schema", FRESH_SCHEMA, "create")
    if adopted is not None:
        # An index is created in the schema of its table.
        yield Right("schema", adopted.partition(".")[0], "create")
    if creates or creates_scores or adopted is not None:
        yield Right("table", "auth.users", "references")


def missing_schemas(connection: Connection, names: Iterable[str]) -> list[str]:
    """Return those of some schemas that don't exist.

    CREATE SCHEMA IF NOT EXISTS asks for CREATE on the database even if the schema exists.
    """
    wanted = sorted(set(names))
    there = connection.scalars(
        text("select nspname from pg_catalog.pg_namespace where nspname = any(cast(:names as text[]))"),
        {"names": wanted},
    ).all()
    return [name for name in wanted if name not in there]


def to_downgrade(connection: Connection, created: Collection[str], scores: ScoreTable | None) -> Iterator[Right]:
    """Yield the rights that a downgrade needs on what it parks or drops, and to put predecessors back.

    Args:
        connection: A connection; nothing is written through it.
        created: The names of the relations that its revisions have created in ``public``.
        scores: The score table that the migrations recorded.
    """
    for name in created:
        yield Right("view" if name == VIEW else "table", f"public.{name}", "owner")
    if scores is not None and scores.created_index:
        yield Right("table", scores.relation, "owner")
    parked = connection.scalars(
        text("""
            select relname from pg_catalog.pg_class
            where relnamespace = to_regnamespace(:schema) and relname = any(cast(:names as text[]))
        """),
        {"schema": PRIVATE_SCHEMA, "names": [f"{PREDECESSOR_PREFIX}{name}" for name in created]},
    ).all()
    if parked:
        yield Right("schema", "public", "create")
