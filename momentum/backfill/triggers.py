"""The triggers that fire for each row, anything else that runs for it, and their effects.

A trigger that calls out of the database can't be undone: in the app's production layout one pushes a notification to a
user's phone for every row that is inserted. All of them run with the rights of the role that fills.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, ScalarSelect, case, cast, literal_column, select
from sqlalchemy.dialects.postgresql import REGCLASS

from momentum.backfill.effects import EVENTS, NAMED, Catalog, Effects, Walk, reaction
from momentum.connect.pipeline import Answer, ask
from momentum.trust import untrusted_functions

# The bits of pg_trigger.tgtype: https://www.postgresql.org/docs/current/catalog-pg-trigger.html
FOR_EACH_ROW = 1
BEFORE = 2

# The SQLSTATE with which a page fails if something else runs for its rows than what was looked at: an invalid name.
CHANGED = "42602"


@dataclass(frozen=True)
class Trigger:
    """A trigger of the score table, or something else of it that runs for each row.

    Attributes:
        name: Its name.
        fires: When it fires, such as ``after insert or update for each row``.
        function: The function that it executes, with its schema.
        effects: The effects of that function, as far as its source shows them.
        calls_out: Whether the function, or what it leads to, calls out of the database, or that can't be known.
        unknown: Why it can't be known.
        of_others: The functions among them that belong to a role that isn't trusted, each with its owner.
        kind: ``trigger``, or ``default``, ``check``, ``index`` and so on.
    """

    name: str
    fires: str
    function: str
    effects: tuple[str, ...]
    calls_out: bool
    unknown: tuple[str, ...] = ()
    of_others: tuple[str, ...] = ()
    kind: str = "trigger"

    def __str__(self) -> str:
        does = ", ".join(self.effects) or "changes nothing outside the row"
        return f"{self.name}, {self.fires}: {self.function}() {does}"


@dataclass(frozen=True)
class Fingerprint:
    """The state of everything that runs for a row.

    Attributes:
        query: The query for it.
        found: The state that was looked at.
        is_kept_by_lock: Whether it stays the same until the end of a transaction that has found it unchanged.
    """

    query: ScalarSelect[str]
    found: str
    is_kept_by_lock: bool

    @classmethod
    def read(cls, connection: Connection, catalog: Catalog) -> "Answer[Fingerprint]":
        """Read that of everything in a catalog that has been followed or looked up.

        The transaction has to see the same state as when the catalog was read.
        """
        query, is_kept_by_lock = catalog.fingerprint(), catalog.is_kept_by_lock
        return ask(connection, select(query)).then(lambda rows: cls(query, rows[0][0], is_kept_by_lock))

    def is_unchanged(self) -> ColumnElement[bool]:
        """Return a condition of a query that writes rows, which fails with ``CHANGED`` before it has written any.

        A query locks its table before it looks at the catalogs, so that no trigger can be added in between. To fail is
        all that it can do: where a condition is false, the server would still write the rows, and return none.
        """
        name = case((self.query == self.found, literal_column("'pg_catalog.pg_class'")), else_=literal_column("''"))
        return select(cast(name, REGCLASS)).scalar_subquery().is_not(None)


def read_triggers(
    connection: Connection, relation: str, event: str, given: Collection[str] = ()
) -> Answer[list[Trigger]]:
    """Return what ``find_triggers`` finds in the catalog as it is now."""
    return Catalog.read(connection).then(lambda catalog: find_triggers(connection, catalog, relation, event, given))


def find_triggers(
    connection: Connection, catalog: Catalog, relation: str, event: str, given: Collection[str] = ()
) -> list[Trigger]:
    """Return the triggers of a table that fire on an event, by name, and what else runs for its rows.

    They include those that fire once per statement, which may call out for each of its rows as well. Defaults, checks
    and so on are included if they call out, or run functions of roles that aren't trusted.

    Args:
        connection: A connection.
        catalog: Everything that the database could run.
        relation: The table.
        event: ``insert`` or ``delete``.
        given: The columns to which the rows give a value, so that their defaults don't matter.
    """
    oid = catalog.relation(relation)
    if oid is None:
        return []
    catalog.followed.add(oid)
    found = [*triggers_in(catalog, oid, event), *others_in(catalog, oid, event, given)]
    functions = {function for _, _, _, _, effects in found for function in effects.functions}
    owners = {each.name: each.owner for each in untrusted_functions(connection, functions)} if functions else {}
    of_others = {
        function: f"{signature}, which belongs to {owners[signature]}"
        for function in functions
        if (signature := catalog.functions[function]["signature"]) in owners
    }
    triggers = [
        Trigger(name, fires, function, *described(effects, of_others), kind)
        for kind, name, fires, function, effects in found
    ]
    return [trigger for trigger in triggers if trigger.kind == "trigger" or trigger.calls_out or trigger.of_others]


# The kind, the name, when it runs, the function and the effects.
Found = tuple[str, str, str, str, Effects]


def triggers_in(catalog: Catalog, relation: str, event: str) -> Iterator[Found]:
    """Yield the triggers of a table that fire on an event."""
    for trigger in catalog.triggers.get(relation, []):
        if trigger["type"] & EVENTS[event]:
            walk = Walk(catalog)
            walk.fire(trigger)
            yield "trigger", trigger["name"], when(trigger["type"]), trigger["called"], walk.effects


def others_in(catalog: Catalog, relation: str, event: str, given: Collection[str]) -> Iterator[Found]:
    """Yield what else runs when a row of a table without rules and children is written, function by function."""
    for each in catalog.attached.get(relation, []):
        called = catalog.functions.get(each["function"])
        evaluated = each["kind"] not in {"view", "policy"}
        needless = each["kind"] == "default" and each["name"] in given
        if event == "insert" and called is not None and evaluated and not needless:
            walk = Walk(catalog)
            walk.call(each["function"])
            yield each["kind"], each["name"], "for each row", f"{called['schema']}.{called['name']}", walk.effects
    for reference in catalog.references.get(relation, []):
        if action := reaction(reference, event):
            walk = Walk(catalog)
            walk.write(reference["from"], action, catalog.path)
            name = relation_name(catalog, reference["from"])
            yield "reference from", name, f"{action} of each row", name, walk.effects


def relation_name(catalog: Catalog, relation: str) -> str:
    """Return the name of a relation, with its schema."""
    fact = catalog.relations[relation]
    return f"{fact['schema']}.{fact['name']}"


def described(
    effects: Effects, of_others: dict[str, str]
) -> tuple[tuple[str, ...], bool, tuple[str, ...], tuple[str, ...]]:
    """Return effects as a trigger has them.

    Args:
        effects: The effects.
        of_others: The functions that belong to a role that isn't trusted, by oid, each with its owner.
    """
    unknown = () if effects.calls_out else tuple(effects.unknown)
    others = tuple(of_others[function] for function in effects.functions if function in of_others)
    said = [
        *(["calls out of the database"] if effects.calls_out else []),
        *(f"may call out of the database, which can't be known because {reason}" for reason in unknown),
        *(name for name in NAMED if name in effects.named),
        *(f"runs {function}" for function in others),
    ]
    return tuple(said), effects.calls_out or bool(unknown), unknown, others


def when(bits: int) -> str:
    """Return when a trigger fires, in the words of CREATE TRIGGER."""
    moment = "before" if bits & BEFORE else "after"
    events = " or ".join(event for event, bit in EVENTS.items() if bits & bit)
    return f"{moment} {events} for each {'row' if bits & FOR_EACH_ROW else 'statement'}"
