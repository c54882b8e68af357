"""Rehearsals: statements that the server tries in a savepoint, which is rolled back at once.

Only the server knows everything that it would refuse: because of publications, constraints and event triggers.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, TextClause, text
from sqlalchemy.exc import DBAPIError

from momentum.connect.engine import lost_connection, reason, without_secrets
from momentum.errors import PreflightError
from momentum.inventory import PRIVATE_SCHEMA, private
from momentum.migrate.locks import can_be_retried
from momentum.migrate.operations import quoted
from momentum.migrate.rights import missing_schemas
from momentum.scores import TABLE_NAME

# The table that has the columns and constraints of another one while a rehearsal lasts.
STAGE = private("rehearsal")

# The columns that rows of a table can be given when they come back to it, each with its type before and after.
COLUMNS = """
select
  pg_catalog.quote_ident(s.attname) as name,
  pg_catalog.format_type(s.atttypid, s.atttypmod) as before,
  pg_catalog.format_type(t.atttypid, t.atttypmod) as after
from pg_catalog.pg_attribute as s
inner join pg_catalog.pg_attribute as t on s.attname = t.attname
where
  s.attrelid = pg_catalog.to_regclass(:kept) and t.attrelid = pg_catalog.to_regclass(:relation)
  and s.attnum > 0 and t.attnum > 0 and not s.attisdropped and not t.attisdropped and t.attgenerated = ''
order by t.attnum
"""

# The checks of a table. Those that aren't enforced are new in PostgreSQL 18.
CHECKS = """
select c.conname as name, pg_catalog.pg_get_expr(c.conbin, c.conrelid) as condition
from pg_catalog.pg_constraint as c
where
  c.conrelid = pg_catalog.to_regclass(:relation) and c.contype = 'c'
  and coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
order by c.conname
"""

# The unique indexes and exclusion constraints of a table, with their parts as it knows them, and with the operators of
# the latter.
KEYS = """
select
  coalesce(k.conname, c.relname) as name,
  pg_catalog.pg_get_expr(i.indpred, i.indrelid) as predicate,
  i.indnullsnotdistinct as nulls_are_equal,
  array(
    select pg_catalog.pg_get_indexdef(i.indexrelid, n, true)
    from pg_catalog.generate_series(1, i.indnkeyatts) as n
    order by n
  ) as parts,
  array(
    select pg_catalog.format('operator(%I.%s)', s.nspname, o.oprname)
    from pg_catalog.unnest(k.conexclop) with ordinality as e (oid, n)
    inner join pg_catalog.pg_operator as o on e.oid = o.oid
    inner join pg_catalog.pg_namespace as s on o.oprnamespace = s.oid
    order by e.n
  ) as operators
from pg_catalog.pg_index as i
inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
left join pg_catalog.pg_constraint as k
  on c.oid = k.conindid and i.indrelid = k.conrelid and k.contype in ('p', 'u', 'x')
where
  i.indrelid = pg_catalog.to_regclass(:relation) and i.indisready and (i.indisunique or i.indisexclusion)
  and i.indexrelid is distinct from pg_catalog.to_regclass(:key)
order by name
"""

# The foreign keys of a table, each as the condition of a row that breaks it.
FOREIGN_KEYS = """
select
  c.conname as name,
  pg_catalog.format(
    '(%s and not exists (select from %s as r where %s))%s',
    pg_catalog.string_agg(pg_catalog.format('s.%I is not null', a.attname), ' and '),
    c.confrelid::regclass,
    pg_catalog.string_agg(
      pg_catalog.format('r.%I operator(%I.%s) s.%I', b.attname, n.nspname, o.oprname, a.attname), ' and '
    ),
    case
      when c.confmatchtype = 'f' then
        pg_catalog.format(
          ' or pg_catalog.num_nulls(%1$s) between 1 and %2$s - 1',
          pg_catalog.string_agg(pg_catalog.format('s.%I', a.attname), ', '), pg_catalog.count(*)
        )
    end
  ) as broken
from pg_catalog.pg_constraint as c
cross join unnest(c.conkey, c.confkey, c.conpfeqop) as k (own, other, operator)
inner join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.own
inner join pg_catalog.pg_attribute as b on b.attrelid = c.confrelid and b.attnum = k.other
inner join pg_catalog.pg_operator as o on k.operator = o.oid
inner join pg_catalog.pg_namespace as n on o.oprnamespace = n.oid
where
  c.conrelid = pg_catalog.to_regclass(:relation) and c.contype = 'f'
  and not pg_catalog.row_security_active(c.confrelid)
  and coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
  and not coalesce((pg_catalog.to_jsonb(c) ->> 'conperiod')::boolean, false)
group by c.oid, c.conname, c.confrelid, c.confmatchtype
order by c.conname
"""

# The event triggers that fire.
ENABLED = """
select
  pg_catalog.quote_ident(evtname) as name,
  evtfoid::regprocedure::text as function,
  evtevent = 'ddl_command_start' and (evttags is null or 'DROP INDEX' = any(evttags)) as before_drop_index
from pg_catalog.pg_event_trigger
where evtenabled in ('O', 'A')
order by evtname
"""


class Key(NamedTuple):
    """A unique index or an exclusion constraint.

    Attributes:
        name: Its name.
        predicate: The condition of the rows that it is for; all if there is none.
        nulls_are_equal: Whether two rows with nulls collide.
        parts: The columns and expressions that it is over.
        operators: The operators by which two rows collide, one for each part; none if they collide by being equal.
    """

    name: str
    predicate: str | None
    nulls_are_equal: bool
    parts: Sequence[str]
    operators: Sequence[str]


@contextmanager
def rehearsed(connection: Connection) -> Iterator[None]:
    """Undo everything that is done inside, and let go of its locks."""
    savepoint = connection.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()


def is_no_answer(error: DBAPIError) -> bool:
    """Return whether an error says nothing about the statement: something was in its way, or the connection is lost."""
    return lost_connection(error) or can_be_retried(error)


def refusing_event_trigger(triggers: Iterable[Row[Any]], error: DBAPIError) -> str | None:
    """Return the name of the event trigger whose function made the server refuse a statement; None if none did."""
    context = getattr(getattr(error.orig, "diag", None), "context", None) or ""
    return next((row.name for row in triggers if f"function {row.function} " in context), None)


def let_pass(trigger: str) -> str:
    """Return what to do about an event trigger that refuses something."""
    return (
        "let it pass what the migrations do, or disable it in the meantime with: "
        f"alter event trigger {trigger} disable; then try again"
    )


def find_obstacle_to_delete(connection: Connection, relation: str) -> str | None:
    """Return why no row of a table could be deleted, such as a publication with a row filter; None if rows can be."""
    try:
        with rehearsed(connection):
            # Explained only: no trigger fires. The server checks the replica identity even so.
            connection.exec_driver_sql(f"explain delete from {relation} where false")
    except DBAPIError as error:
        if is_no_answer(error):
            raise
        published = connection.scalars(
            text("""
                select pg_catalog.quote_ident(p.pubname)
                from pg_catalog.pg_publication_tables as t
                inner join pg_catalog.pg_publication as p on t.pubname = p.pubname and p.pubdelete
                where (t.schemaname, t.tablename) = (
                  select n.nspname, c.relname
                  from pg_catalog.pg_class as c
                  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
                  where c.oid = pg_catalog.to_regclass(:relation)
                )
                order by p.pubname
            """),
            {"relation": relation},
        ).all()
        # DETAIL is about the publication here, and names no data.
        detail = getattr(getattr(error.orig, "diag", None), "message_detail", None)
        because = f"because of the publication {', '.join(published)}: " if published else ""
        return f"no row could be deleted, {because}{(detail or reason(error, connection.engine.url)).rstrip('.')}"
    return None


def find_misfit(connection: Connection, relation: str, kept: str, *, only: str = "true", key: str | None) -> str | None:
    """Return which constraint of a table keeps rows from being put back into it; None if they can be.

    Args:
        connection: A connection; nothing is left in the database.
        relation: The table.
        kept: The table that has the rows, which may be the same one.
        only: An SQL condition on the rows.
        key: The unique index that is dropped before they are put back, if they come from another table.

    Raises:
        PreflightError: That can't be tried.
    """
    parameters = {"relation": relation, "kept": kept}
    columns = connection.execute(text(COLUMNS), parameters).all()
    names = ", ".join(column.name for column in columns)
    try:
        with rehearsed(connection):
            make_stage(connection, relation, kept)
            connection.execute(escaped(f"insert into {STAGE} ({names}) select {names} from {kept} where {only}"))
            for column in columns:
                if column.before != column.after and changes(connection, kept, *column):
                    return f"its column {column.name}, now of type {column.after}, which changes their values"
            for check in connection.execute(text(CHECKS), parameters).all():
                # It may name the table.
                broken = f"select exists (select from {STAGE} as {TABLE_NAME} where not ({check.condition}))"
                if connection.scalar(escaped(broken)):
                    return f"its constraint {quoted(check.name)}"
            if kept != relation:
                for unique in connection.execute(text(KEYS), {"relation": relation, "key": key}).all():
                    if connection.scalar(escaped(collision(relation, Key(*unique)))):
                        return f"its key {quoted(unique.name)}"
            for foreign in connection.execute(text(FOREIGN_KEYS), parameters).all():
                if connection.scalar(escaped(f"select exists (select from {STAGE} as s where {foreign.broken})")):
                    return f"its foreign key {quoted(foreign.name)}"
    except DBAPIError as error:
        if is_no_answer(error):
            raise
        diagnosis = getattr(error.orig, "diag", None)
        if name := getattr(diagnosis, "column_name", None):
            return f"NOT NULL of its column {quoted(name)}"
        return f"a rule of the server ({reason(error, connection.engine.url)})"
    return None


def make_stage(connection: Connection, relation: str, kept: str) -> None:
    """Make the table in which rows of one table are tried as rows of another.

    Raises:
        PreflightError: The server or an event trigger refuses it.
    """
    triggers = connection.execute(text(ENABLED)).all()
    try:
        for name in missing_schemas(connection, [PRIVATE_SCHEMA]):
            connection.exec_driver_sql(f"create schema {name}")
        connection.exec_driver_sql(
            f"create unlogged table {STAGE} (like {relation} including defaults including generated)"
        )
        for identity in missing_identities(connection, relation, kept):
            connection.execute(escaped(f"alter table {STAGE} alter column {identity} drop not null"))
    except DBAPIError as error:
        if is_no_answer(error):
            raise
        why, advice = reason(error, connection.engine.url).rstrip("."), "remove the cause, then try again"
        if trigger := refusing_event_trigger(triggers, error):
            why, advice = f"the event trigger {trigger} refuses a table for the trial: {why}", let_pass(trigger)
        raise PreflightError(
            f"Whether rows of {kept} can be put into {relation} could not be tried, because {why}; {advice}."
        ) from without_secrets(error, connection.engine.url)


def missing_identities(connection: Connection, relation: str, kept: str) -> list[str]:
    """Return the identity columns of a table for which the kept rows have no values: they get new ones."""
    found = connection.scalars(
        text("""
            select pg_catalog.quote_ident(t.attname)
            from pg_catalog.pg_attribute as t
            where
              t.attrelid = pg_catalog.to_regclass(:relation) and t.attidentity <> '' and not t.attisdropped
              and not exists (
                select from pg_catalog.pg_attribute as s
                where s.attrelid = pg_catalog.to_regclass(:kept) and s.attname = t.attname and not s.attisdropped
              )
        """),
        {"relation": relation, "kept": kept},
    )
    return list(found)


def changes(connection: Connection, kept: str, name: str, before: str, after: str) -> bool:
    """Return whether values would not be the same after a cast to another type and back."""
    through = f"({name}::{after})::{before}"
    query = f"select exists (select from {kept} where {through}::text is distinct from {name}::text)"
    return bool(connection.scalar(escaped(query)))


def collision(relation: str, key: Key) -> str:
    """Return the query for whether staged rows collide with each other or with rows of a table on one of its keys."""
    predicate = f"where {key.predicate}" if key.predicate else ""
    names = [f"part_{number}" for number in range(len(key.parts))]
    listed = ", ".join(f"{part} as {name}" for part, name in zip(key.parts, names, strict=True))
    # An expression may name the table.
    staged = f"select ctid as place, {listed} from {STAGE} as {TABLE_NAME} {predicate}"
    standing = f"select null::tid as place, {listed} from {relation} as {TABLE_NAME} {predicate}"
    if key.operators:
        meet = " and ".join(f"a.{name} {op} b.{name}" for name, op in zip(names, key.operators, strict=True))
        return (
            f"select exists (select from ({staged}) as a inner join ({standing}) as b on {meet}) "
            f"or exists (select from ({staged}) as a inner join ({staged}) as b on a.place < b.place and {meet})"
        )
    distinct = "" if key.nulls_are_equal else " and ".join(f"{name} is not null" for name in names)
    return (
        f"select exists (select from ({staged} union all {standing}) as both_of_them "
        f"{'where ' + distinct if distinct else ''} group by {', '.join(names)} having pg_catalog.count(*) > 1)"
    )


def escaped(sql: str) -> TextClause:
    """Return SQL in which no colon begins a parameter."""
    return text(sql.replace(":", "\\:"))
