"""What clients have on the app's own versions of our tables: looked at first, then carried over or taken away.

A new table of ours is closed: it has row-level security and no policy, and grants to authenticated and service_role
only. An app whose tables are replaced by ``-x existing=adopt`` may rely on its grants, policies, triggers, keys and
publications. So the upgrade names what clients would lose, and is refused unless ``-x access=keep`` or
``-x access=close`` says what is to happen. With keep, everything is carried over in the transaction that parks the
app's table, noted in ``momentum_internal.kept_access``, and taken back by a downgrade.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from momentum.errors import PreflightError
from momentum.grants import CLIENT_TABLE, CLIENT_VIEW, POLICIES
from momentum.inventory import (
    KEPT_ACCESS,
    PREDECESSOR_PREFIX,
    PREDECESSORS,
    PRIVATE_SCHEMA,
    TRIGGER_FUNCTION,
    VIEW,
    column_types,
    private,
)
from momentum.migrate.config import Access
from momentum.models import Base, DailyMomentumScore
from momentum.wording import counted

ACCESS = (Path(__file__).with_name("access.sql")).read_text(encoding="utf-8")

# Our relations of which the app may have versions of its own, in the order in which these are parked.
ADOPTED = (*PREDECESSORS, VIEW)

# The number of losses that are named one by one when access=close takes them away.
NAMED = 20

CHOICE = "access=keep carries this over to the new tables, and access=close takes it away"
OBSTACLES = "access=keep cannot carry everything over"
HIDDEN = "so they would not be copied: migrate as a role with bypassrls"
REMEDY = "change that first, or give access=close, which takes everything away"


def described(name: str) -> dict[str, Any]:
    """Return a description of our table or view of that name, for access.sql."""
    position = ADOPTED.index(name)
    table: Any = DailyMomentumScore.__table__ if name == VIEW else Base.metadata.tables[name]
    types = column_types(table)
    keys = [
        [column.name for column in constraint.columns]
        for constraint in table.constraints
        if name != VIEW and isinstance(constraint, sa.PrimaryKeyConstraint | sa.UniqueConstraint)
    ]
    # In the order of the key: a column stands in it by itself or in an expression such as `event_ts desc`.
    indexes = [[column.name for column in index.columns] for index in table.indexes]
    unique = [columns for index, columns in zip(table.indexes, indexes, strict=True) if index.unique]
    names = [constraint.name for constraint in table.constraints if constraint.name]
    clients = CLIENT_VIEW if name == VIEW else CLIENT_TABLE
    return {
        "name": name,
        "columns": {
            column.name: {"type": types[column.name], "has_default": column.server_default is not None}
            for column in table.columns
        },
        "unique": [*keys, *unique],
        "indexes": [*keys, *indexes],
        "foreign_keys": [
            [key.parent.name, f"{key.column.table.schema or 'public'}.{key.column.table.name}"]
            for key in table.foreign_keys
        ],
        # Names that are taken on our table.
        "names": sorted({*map(str, names), TRIGGER_FUNCTION, *POLICIES.get(name, ())}),
        "clients": {role: granted.split(", ") for role, granted in clients.items()},
        "earlier": [f"public.{other}" for other in ADOPTED[:position]],
        "later": [f"public.{other}" for other in ADOPTED[position + 1 :]],
    }


def access_of(names: Iterable[str], prefix: str = "public.") -> str:
    """Return the query for what clients have on the app's versions of some tables, with its values written out.

    The server runs the same query in scripts made with ``--sql``, where nothing can be handed over.

    Args:
        names: Tables of ours, and the view. Those that don't exist are ignored.
        prefix: What comes before a name where the app's version is now.
    """
    alternatives = "|".join(ADOPTED)
    values = {
        "ours": json.dumps([described(name) for name in ADOPTED if name in names]),
        "prefix": prefix,
        "parked": rf"\m{PRIVATE_SCHEMA}\.{PREDECESSOR_PREFIX}({alternatives})\M",
        "renamed": rf"\m{PREDECESSOR_PREFIX}({alternatives})\M",
    }
    # Not the second colon of a cast.
    return re.sub(r"(?<![:\w]):(\w+)", lambda found: "'" + values[found[1]].replace("'", "''") + "'", ACCESS)


def read_access(connection: Connection, names: Iterable[str]) -> Sequence[sa.Row[Any]]:
    """Return what clients have on the app's versions of some tables; nothing is written."""
    return connection.execute(sa.text(access_of(names).replace(":", "\\:"))).all()


def check_access(connection: Connection, names: Collection[str], access: Access) -> Iterator[str]:
    """Refuse to take something from clients unasked; otherwise yield what to tell the operator.

    Args:
        connection: A connection; nothing is written through it.
        names: The relations that the pending revisions create.
        access: What is to happen to what clients have.

    Raises:
        PreflightError: Clients would lose something and nobody has said that they may, or it can't be carried over.
    """
    found = read_access(connection, names)
    lost = {row.position: (row.relation, row.loss) for row in found if row.loss}
    if access == "refuse" and lost:
        raise PreflightError(
            f"Clients would lose what they have on tables that are replaced: {by_table(lost.values())}; {CHOICE}."
        )
    if access == "keep":
        obstacles = []
        for row in found:
            broken = f"rows of {parked(row.relation)} break it" if row.probe and breaks(connection, row) else None
            if reason := row.obstacle or broken:
                obstacles.append((row.relation, f"{row.loss or row.keys[0]} ({reason})"))
        if obstacles:
            raise PreflightError(f"{OBSTACLES}: {by_table(obstacles)}; {REMEDY}.")
        for relation, opened in dict.fromkeys((row.relation, row.open_to_anon) for row in found if row.open_to_anon):
            yield f"With access=keep, {relation} stays open to anon, whom anybody can be: {opened}."
    if access == "close":
        lines = [f"With access=close, clients lose on {relation}: {loss}." for relation, loss in lost.values()]
        yield from lines[:NAMED]
        if len(lines) > NAMED:
            yield f"With access=close, clients lose {counted(len(lines) - NAMED, 'more thing')}."


def parked(relation: str) -> str:
    """Return the name of a table of ours when a downgrade has parked it."""
    return private(relation.removeprefix("public."))


def breaks(connection: Connection, item: sa.Row[Any]) -> bool:
    """Return whether our table, if it is parked, has rows that break a rule of the predecessor."""
    if not connection.scalar(sa.text("select to_regclass(:name) is not null"), {"name": parked(item.relation)}):
        return False
    return bool(connection.scalar(sa.text(f"select exists ({item.probe})".replace(":", "\\:"))))


def by_table(found: Iterable[tuple[str, str]]) -> str:
    """Return things that belong to tables as one text, in which each table is named once."""
    tables: dict[str, list[str]] = {}
    for relation, thing in found:
        tables.setdefault(relation, []).append(thing)
    return "; ".join(f"{relation}: {', '.join(things)}" for relation, things in tables.items())


def check_on_server(names: Iterable[str], access: Access) -> str:
    """Return statements that check the same in a script, as a part of its guard.

    Args:
        names: The relations that the script creates.
        access: What is to happen to what clients have.
    """
    hidden = f"""
      select format('public.%s', given.name) as relation, current_user::text as told, given.position
      from unnest(array{sorted(names)}::text[]) with ordinality as given (name, position)
      where to_regclass('public.' || given.name) is not null and row_security_active('public.' || given.name)"""
    items = f"select * from (\n{access_of(names)}) as found where"
    losses = f"{items} loss is not null"
    checks = summary(hidden, "told", "row-level security hides rows from the migrating role: %", HIDDEN)
    if access == "refuse":
        losing = "clients would lose what they have on tables that are replaced: %"
        return checks + summary(losses, "loss", losing, CHOICE)
    if access == "keep":
        told = "format('%s (%s)', coalesce(loss, keys[1]), obstacle)"
        checks += summary(f"{items} obstacle is not null", told, f"{OBSTACLES}: %", REMEDY)
        warnings = f"""
declare
  item record;
begin
  for item in
    select distinct relation, open_to_anon from (\n{access_of(names)}) as found where open_to_anon is not null
  loop
    raise warning 'with access=keep, % stays open to anon, whom anybody can be: %', item.relation, item.open_to_anon;
  end loop;
end;
"""
        return checks + warnings
    warnings = f"""
declare
  item record;
  number bigint := 0;
begin
  for item in {losses} order by found.position loop
    number := number + 1;
    if number <= {NAMED} then
      raise warning 'with access=close, clients lose on %: %', item.relation, item.loss;
    end if;
  end loop;
  if number > {NAMED} then
    raise warning 'with access=close, clients lose % more things', number - {NAMED};
  end if;
end;
"""
    return checks + warnings


def summary(items: str, told: str, message: str, advice: str) -> str:
    """Return a block that fails with a message if there are such items."""
    return f"""
declare
  found constant text := (
    select string_agg(relation || ': ' || things, '; ' order by first)
    from (
      select relation, string_agg({told}, ', ' order by position) as things, min(position) as first
      from (\n{items}) as found
      group by relation
    ) as by_table
  );
begin
  if found is not null then
    raise exception '{message}; %', found, '{advice}';
  end if;
end;
"""


def keep(name: str) -> str:
    """Return the body of a DO block that carries over what clients had on the predecessor of a table or view."""
    return f"""declare
  item record;
  before constant text[] := array[current_setting('search_path'), current_setting('quote_all_identifiers')];
begin
  if to_regclass('{private(PREDECESSOR_PREFIX + name)}') is null or to_regclass('public.{name}') is null then
    return;
  end if;
  create table if not exists {private(KEPT_ACCESS)} (
    relation text not null,
    position bigint not null,
    keys text[] not null,
    undo text not null,
    state text not null,
    constraint pk_kept_access primary key (relation, position)
  );
  comment on table {private(KEPT_ACCESS)} is
    'Access to the parked predecessors that access=keep has carried over, and the statements that take it back.';
  revoke all on table {private(KEPT_ACCESS)} from public, anon, authenticated, service_role;
  -- If a purge has dropped our table, there is nothing to take back.
  delete from {private(KEPT_ACCESS)} where relation = '{name}';
  -- So that every name is written in full, and in the same way.
  perform set_config('search_path', '', true), set_config('quote_all_identifiers', 'off', true);
  for item in
{access_of([name], private(PREDECESSOR_PREFIX))}
  loop
    if item.make is not null then
      execute item.make;
      insert into {private(KEPT_ACCESS)} (relation, position, keys, undo, state)
      values ('{name}', item.position, item.keys, item.undo, coalesce(item.state, ''));
    end if;
  end loop;
  perform set_config('search_path', before[1], true), set_config('quote_all_identifiers', before[2], true);
end"""


def take_back(name: str) -> str:
    """Return the body of a DO block that takes from our table or view what was carried over to it."""
    return f"""declare
  item record;
begin
  if to_regclass('{private(KEPT_ACCESS)}') is null then
    return;
  end if;
  for item in select undo from {private(KEPT_ACCESS)} where relation = '{name}' order by position desc loop
    begin
      execute item.undo;
    exception when undefined_object or undefined_table then
      -- Somebody has dropped the publication or the predecessor, or taken the table out of the publication.
      null;
    end;
  end loop;
  delete from {private(KEPT_ACCESS)} where relation = '{name}';
end"""
