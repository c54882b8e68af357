"""The triggers that fire for each row, and their effects.

A trigger that calls out of the database can't be undone: in the app's production layout one pushes a notification to a
user's phone for every row that is inserted.
"""

import re
from dataclasses import dataclass

from sqlalchemy import Connection, text

# The bits of pg_trigger.tgtype: https://www.postgresql.org/docs/current/catalog-pg-trigger.html
FOR_EACH_ROW = 1
BEFORE = 2
EVENTS = {"insert": 4, "delete": 8, "update": 16}

# Calls that leave the database: pg_net's schema, the extension http, and Supabase's database webhooks.
CALLS_OUT = re.compile(r"\bnet\s*\.|http|\bsupabase_functions\s*\.", re.IGNORECASE)
EFFECTS = {
    "notifies listeners": re.compile(r"\bpg_notify\b|^\s*notify\b", re.IGNORECASE | re.MULTILINE),
    "writes to other rows": re.compile(
        r"\binsert\s+into\b|\bdelete\s+from\b|\bupdate\s+[\w.\"]+\s+set\b|\bmerge\s+into\b", re.IGNORECASE
    ),
    "may refuse the row": re.compile(r"\braise\s+(exception\b|')", re.IGNORECASE),
}


@dataclass(frozen=True)
class Trigger:
    """A trigger of the score table.

    Attributes:
        name: Its name.
        fires: When it fires, such as ``after insert or update for each row``.
        function: The function that it executes, with its schema.
        effects: The effects of that function, as far as its source shows them.
        calls_out: Whether the function, or one that it calls, calls out of the database.
    """

    name: str
    fires: str
    function: str
    effects: tuple[str, ...]
    calls_out: bool

    def __str__(self) -> str:
        does = ", ".join(self.effects) or "changes nothing outside the row"
        return f"{self.name}, {self.fires}: {self.function}() {does}"


def read_triggers(connection: Connection, relation: str, event: str) -> list[Trigger]:
    """Return the triggers of a table that fire on an event, by name.

    They include those that fire once per statement, which may call out for each of its rows as well.

    Args:
        connection: A connection.
        relation: The table.
        event: ``insert`` or ``delete``.
    """
    rows = connection.execute(
        text("""
            select t.tgname as name, t.tgtype as type, p.oid as function, format('%s.%s', n.nspname, p.proname) as named
            from pg_catalog.pg_trigger as t
            inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
            inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
            where
              t.tgrelid = to_regclass(:relation) and not t.tgisinternal and t.tgenabled in ('O', 'A')
              and t.tgtype & :event <> 0
            order by t.tgname
        """),
        {"relation": relation, "event": EVENTS[event]},
    ).all()
    if not rows:
        return []
    functions = {
        row.oid: (row.schema, row.name, f"{row.schema}.{row.name} {row.source}")
        for row in connection.execute(
            text("""
                select p.oid, n.nspname as schema, p.proname as name,
                  coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc, '') as source
                from pg_catalog.pg_proc as p
                inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
                where n.nspname not in ('pg_catalog', 'information_schema')
            """)
        )
    }
    return [Trigger(row.name, when(row.type), row.named, *effects_of(row.function, functions)) for row in rows]


def when(bits: int) -> str:
    """Return when a trigger fires, in the words of CREATE TRIGGER."""
    moment = "before" if bits & BEFORE else "after"
    events = " or ".join(event for event, bit in EVENTS.items() if bits & bit)
    return f"{moment} {events} for each {'row' if bits & FOR_EACH_ROW else 'statement'}"


def effects_of(function: int, functions: dict[int, tuple[str, str, str]]) -> tuple[tuple[str, ...], bool]:
    """Return the effects of a function and whether it calls out of the database.

    Both are read from its source and from that of the functions that it calls.
    """
    by_name: dict[str, list[int]] = {}
    for oid, (_, name, _) in functions.items():
        by_name.setdefault(name, []).append(oid)
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        oid = waiting.pop()
        if oid in seen or oid not in functions:
            continue
        seen.add(oid)
        for called in set(re.findall(r"\b(\w+)\"?\s*\(", functions[oid][2])):
            waiting += by_name.get(called, [])
    texts = [functions[oid][2] for oid in seen]
    calls_out = any(CALLS_OUT.search(text) for text in texts)
    effects = [name for name, pattern in EFFECTS.items() if any(pattern.search(text) for text in texts)]
    return tuple((["calls out of the database"] if calls_out else []) + effects), calls_out
