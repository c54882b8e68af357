"""Access that ``-x access=keep`` has carried over: our tables are expected to have it as the parked predecessors do."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from momentum.inventory import KEPT_ACCESS, PREDECESSOR_PREFIX, PREDECESSORS, PRIVATE_SCHEMA, VIEW, private

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A predecessor's name in a fact, with or without its schema.
PARKED = re.compile(
    rf"\b(?P<schema>{PRIVATE_SCHEMA}\.)?{PREDECESSOR_PREFIX}(?P<name>{'|'.join((*PREDECESSORS, VIEW))})\b"
)


class Kept(NamedTuple):
    """Something that was carried over.

    Attributes:
        name: The name of our table or view.
        part: The key of the fact about it.
        state: The end of a trigger's fact, if it is not simply enabled; while they are parked, the others are disabled.
    """

    name: str
    part: str
    state: str


def read_kept(connection: "Connection") -> list[Kept]:
    """Return what was carried over to this database."""
    there = connection.scalar(text("select to_regclass(:name) is not null"), {"name": private(KEPT_ACCESS)})
    if not there:
        return []
    rows = connection.execute(
        text(f"""
            select relation, key, state
            from {private(KEPT_ACCESS)}
            cross join lateral unnest(keys) with ordinality as k (key, number)
            order by relation, position, number
        """)
    )
    return [Kept(*row) for row in rows]


def describe_kept(kept: Iterable[Kept]) -> list[str]:
    """Return what was carried over as lines, one for each table or view."""
    parts: dict[str, list[str]] = {}
    for each in kept:
        parts.setdefault(each.name, []).append(each.part)
    return [f"Kept by access=keep on public.{name}: {', '.join(keys)}." for name, keys in parts.items()]


def expect_kept(
    kept: Iterable[Kept], expected: Mapping[str, str], found: Mapping[str, str], theirs: Mapping[str, str]
) -> dict[str, str]:
    """Return the expected facts, with those that were carried over as the predecessors have them.

    Args:
        kept: What was carried over.
        expected: The facts of a database to which nothing was carried over.
        found: The facts of this database. What was carried over from a predecessor that is gone is taken as it is.
        theirs: The facts of the parked predecessors.
    """
    facts = dict(expected)
    for name, part, state in kept:
        kind = "view" if name == VIEW else "table"
        key = f"{kind} public.{name}, {part}"
        predecessor = f"{kind} {private(PREDECESSOR_PREFIX + name)}"
        value = theirs.get(f"{predecessor}, {part}")
        if predecessor not in theirs:
            value = found.get(key)
        elif value is not None and re.fullmatch(r'column (\w+|"([^"]|"")+")', part):
            # Only the default was carried over.
            value = expected[key] + "".join(value.partition(" default ")[1:])
        elif value is not None:
            value = PARKED.sub(lambda found: f"{'public.' if found['schema'] else ''}{found['name']}", value)
            if part.startswith("constraint "):
                value = value.replace("PRIMARY KEY", "UNIQUE", 1)
                value = value.removesuffix(", its triggers disabled") + (", its triggers disabled" if state else "")
            if part.startswith("trigger "):
                value = re.sub(", (disabled|on replicas (only|too))$", "", value) + state
        if value is None:
            facts.pop(key, None)
        else:
            facts[key] = value
    return facts
