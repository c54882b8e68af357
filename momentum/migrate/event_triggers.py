"""Event triggers that would stop a migration, found by a rehearsal of each kind of its statements.

They see each statement that changes the schema, and may refuse it. Only they know which: so one of each kind is tried,
with the names of the migration where they are free, in a savepoint that is rolled back.
"""

from collections.abc import Collection, Iterable, Iterator

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from momentum.connect.engine import reason
from momentum.errors import PreflightError
from momentum.inventory import FRESH_SCHEMA, PRIVATE_SCHEMA, SCORE_RECORD, SUPERSEDED, VIEW, private
from momentum.migrate.operations import quoted
from momentum.migrate.rehearsal import ENABLED, escaped, is_no_answer, let_pass, refusing_event_trigger, rehearsed
from momentum.migrate.rights import missing_schemas

# Takes the place of tables that exist already.
STAND_IN = "momentum_rehearsal"

# DROP INDEX CONCURRENTLY is refused where something has been written before in its transaction.
DROP_INDEX = f"drop index if exists {private(STAND_IN)}_index"
WRITTEN = "select pg_catalog.pg_current_xact_id_if_assigned() is not null"


def check_event_triggers(
    connection: Connection, command: str, needed: Iterable[str], statements: Iterable[str]
) -> None:
    """Refuse a database with an event trigger that refuses a statement.

    Args:
        connection: A connection; nothing is left in the database.
        command: ``upgrade`` or ``downgrade``.
        needed: Statements without which the others can't be tried, and which the migration itself doesn't execute.
        statements: Statements of the kinds that the migration executes.

    Raises:
        PreflightError: An event trigger refuses one of them.
    """
    triggers = connection.execute(text(ENABLED)).all()
    if not triggers:
        return
    tried = ""
    begun = False
    try:
        with rehearsed(connection):
            for tried in needed:
                connection.execute(escaped(tried))
            begun = True
            for tried in statements:
                connection.execute(escaped(tried))
    except DBAPIError as error:
        if is_no_answer(error):
            raise
        name = refusing_event_trigger(triggers, error)
        if begun and name is not None:
            raise PreflightError(
                f"The event trigger {name} refuses {kind_of(tried)}, which the {command} needs: "
                f"{reason(error, connection.engine.url).rstrip('.')}; {let_pass(name)}."
            ) from None


def check_index_can_be_dropped(connection: Connection) -> None:
    """Refuse a database with an event trigger that writes something when an index is dropped.

    Raises:
        PreflightError: There is one.
    """
    names = [row.name for row in connection.execute(text(ENABLED)).all() if row.before_drop_index]
    if not names or connection.scalar(text(WRITTEN)):
        return
    writes = False
    try:
        with rehearsed(connection):
            connection.execute(text(DROP_INDEX))
            writes = bool(connection.scalar(text(WRITTEN)))
    except DBAPIError as error:
        if is_no_answer(error):
            raise
        # The rehearsal of all statements says who refuses it.
    if writes:
        raise PreflightError(
            f"The event trigger {' or '.join(names)} writes something before an index is dropped, so DROP INDEX "
            f"CONCURRENTLY can't run; disable it in the meantime with: alter event trigger {names[0]} disable; then "
            "try again."
        )


def kind_of(statement: str) -> str:
    """Return the kind of a statement, in the words that event triggers get."""
    first, second, *_ = statement.replace(" unique ", " ").upper().split()
    return first if first in ("COMMENT", "GRANT", "REVOKE") else f"{first} {second}"


def of_upgrade(connection: Connection, creates: Collection[str], adopted: str | None, key: str | None) -> Iterator[str]:
    """Yield statements of the kinds that an upgrade executes.

    Args:
        connection: A connection.
        creates: The names of the relations that the pending revisions create in ``public``.
        adopted: The score table that they adopt or index, with its schema; if there is none, they may create one.
        key: The name of the unique key that they may give it.
    """
    schemas = {"public", adopted.partition(".")[0] if adopted else FRESH_SCHEMA}
    yield from (f"create schema {name}" for name in missing_schemas(connection, {PRIVATE_SCHEMA, *schemas}))
    yield f"comment on schema {PRIVATE_SCHEMA} is 'a rehearsal'"
    yield f"revoke all on schema {PRIVATE_SCHEMA} from anon"
    function = private(STAND_IN)
    yield f"create function {function}() returns trigger language plpgsql as 'begin return new; end'"
    yield f"comment on function {function}() is 'a rehearsal'"
    yield f"revoke all on function {function}() from public"
    yield f"create table if not exists {private(SCORE_RECORD)} (only_row boolean)"
    for schema in sorted(schemas):
        table = f"{schema}.{STAND_IN}"
        yield f"create table {table} (id uuid primary key, user_id uuid)"
        yield f"comment on table {table} is 'a rehearsal'"
        yield (
            f"create trigger set_updated_at before insert or update on {table} "
            f"for each row execute function {function}()"
        )
        yield f"alter table {table} enable row level security"
        yield f"create policy own on {table} for select to authenticated using (user_id is null)"
        yield f"revoke all on table {table} from public, anon"
        yield f"grant select on table {table} to authenticated"
    if adopted:
        schema = adopted.partition(".")[0]
        superseded = private(SUPERSEDED)
        yield f"create table if not exists {superseded} as table {adopted} with no data"
        # An unfinished one is dropped first.
        yield f"drop index if exists {schema}.{STAND_IN}_index"
        yield f"create unique index if not exists {key} on {schema}.{STAND_IN} (user_id)"
        yield f"comment on index {schema}.{key} is 'a rehearsal'"
    yield from of_names(connection, creates)
    yield f"alter table public.{STAND_IN} set schema {PRIVATE_SCHEMA}"


def of_names(connection: Connection, creates: Collection[str]) -> Iterator[str]:
    """Yield statements that create relations of certain names in ``public``, as far as the names are free."""
    taken = set(
        connection.scalars(
            text("""
                select relname from pg_catalog.pg_class
                where relnamespace = 'public'::regnamespace and relname = any(cast(:names as text[]))
            """),
            {"names": list(creates)},
        )
    )
    for name in creates:
        if name in taken or name.startswith("pk_"):
            continue
        if name.startswith(("ix_", "uq_")):
            yield f"create index {quoted(name)} on public.{STAND_IN} (user_id)"
        elif name == VIEW:
            yield f"create view public.{VIEW} with (security_invoker = true) as select user_id from public.{STAND_IN}"
            yield f"comment on view public.{VIEW} is 'a rehearsal'"
            yield f"grant select on table public.{VIEW} to authenticated"
        else:
            yield f"create table public.{quoted(name)} (id uuid primary key, user_id uuid)"


def check_downgrade(
    connection: Connection,
    creates: Collection[str],
    *,
    drops_key: bool,
    drops_scores: bool,
    to_base: bool,
    purges: bool,
) -> None:
    """Refuse a database with an event trigger that would stop a downgrade.

    Args:
        connection: A connection; nothing is left in the database.
        creates: The names of the relations that its revisions have created in ``public``.
        drops_key: Whether it drops the unique key of an adopted score table.
        drops_scores: Whether it goes back past the revision that adopts or creates the score table.
        to_base: Whether it goes back past the first revision.
        purges: Whether it drops what is parked.

    Raises:
        PreflightError: There is one.
    """
    if drops_key:
        check_index_can_be_dropped(connection)
    # In place of the real tables, because even a moment's lock would keep clients waiting.
    needed = [
        f"create table public.{STAND_IN} (id uuid primary key)",
        f"create index {STAND_IN}_index on public.{STAND_IN} (id)",
        f"create table {private(STAND_IN)}_record ()",
        f"create function {private(STAND_IN)}() returns trigger language plpgsql as 'begin return new; end'",
        f"create schema {STAND_IN}",
    ]
    record = f"select created_schema, granted_usage from {private(SCORE_RECORD)}"
    made = (connection.execute(text(record)).first() if drops_scores else None) or (False, False)
    statements = {
        f"drop index public.{STAND_IN}_index": drops_key,
        f"drop view if exists public.{VIEW}": VIEW in creates,
        f"alter table public.{STAND_IN} set schema {PRIVATE_SCHEMA}": bool(creates),
        f"revoke usage on schema {STAND_IN} from service_role": made[1],
        f"drop table {private(STAND_IN)}_record": to_base or purges,
        f"drop function {private(STAND_IN)}()": to_base and purges,
        f"drop schema {STAND_IN}": (to_base and purges) or made[0],
    }
    check_event_triggers(connection, "downgrade", needed, [sql for sql, executed in statements.items() if executed])
