"""Shadows of everything that our SQL could call without a schema, as a role with CREATE on public may plant them.

A function with more exact argument types than the server's own, or in a schema that comes first in the search path, is
the one that is called, with the rights of whoever calls it. Each shadow says as whom it was called.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from momentum.testing import Server
from tests.migrating import run
from tests.server import engine_of

ROOT = Path(__file__).parents[1]
PLANTER = "momentum_planter"

# Every word in these may be a function that our SQL calls.
SOURCES = ("momentum/**/*.py", "momentum/**/*.sql", "alembic/versions/*.py", "sql/citus/*.sql")
# Functions that SQLAlchemy and the driver call.
OF_OTHERS = {"current_schema", "version", "pg_table_is_visible", "pg_get_expr", "to_regtype", "format_type"}

# The types that a call may have where the server's function takes another one.
TEXTS = ("text", "varchar", "name", "bpchar")
NUMBERS = ("int4", "int8", "int2", "numeric", "oid", "float8")
MOMENTS = ("timestamptz", "timestamp", "date")
OTHERS = ("uuid", "bool", "jsonb", "regclass", "interval", "char")
ARRAYS = ("_text", "_varchar", "_name", "_uuid", "_int2", "_int4", "_oid", "_date", "_regclass")
ANY = (*TEXTS, *NUMBERS, *MOMENTS, *OTHERS)
INSTEAD = {
    **dict.fromkeys(("text", "name", "bpchar", "varchar", "cstring"), TEXTS),
    **dict.fromkeys(("int4", "int8", "int2", "numeric", "float8", "oid"), NUMBERS),
    **dict.fromkeys(MOMENTS, MOMENTS),
    **dict.fromkeys(("any", "anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray"), ANY),
    **dict.fromkeys(("anyarray", "anycompatiblearray"), ARRAYS),
    "regclass": ("regclass", "text", "oid", "varchar"),
    "char": ("char", "text", "varchar"),
}
# With more arguments, fewer types of each: otherwise there would be millions of combinations.
FEWER = {3: 4, 4: 2, 5: 1}

# A catalog in public comes first where the path says so.
CATALOGS = (
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_database",
    "pg_dist_partition",
    "pg_index",
    "pg_namespace",
    "pg_proc",
    "pg_roles",
    "pg_settings",
    "pg_trigger",
    "pg_type",
)
# A type in public is what `::date` means where the path says so; each has a check that is called.
TYPES = ("bigint", "date", "int4", "int8", "jsonb", "name", "numeric", "oid", "regclass", "text", "timestamptz", "uuid")

CAUGHT = "shadow_that_ran"
SHADOW = f"""
create sequence public.shadows_that_ran;
create function public.{CAUGHT}(what pg_catalog.text) returns pg_catalog.bool language plpgsql as $$
begin
  begin
    -- A sequence stays advanced when the transaction is rolled back.
    perform pg_catalog.nextval('public.shadows_that_ran'::pg_catalog.regclass);
  exception when others then null;  -- in a read-only transaction
  end;
  raise exception 'the shadow of % was run as %', what, current_user using errcode = 'P9999';
end $$;
"""


def plant(server: Server, url: sa.URL) -> None:
    """Plant the shadows in a database, as a role that may do nothing but create objects in public."""
    admin = server.as_admin(url)
    run(
        admin,
        f"""
        do $$ begin
          create role {PLANTER} nosuperuser;
        exception when duplicate_object then null;
        end $$;
        grant create, usage on schema public to {PLANTER};
        """,
    )
    with engine_of(admin).connect() as connection:
        # All at once, because a role that plants some of them would run them itself.
        script = "\n".join((SHADOW, *functions(connection), *operators(connection), *casts(), *relations()))
        run(admin, f"set local search_path = pg_catalog; set local role {PLANTER}; {script}")


def count_shadows(server: Server, url: sa.URL) -> int:
    """Return how many shadows of functions and operators there are in a database."""
    with engine_of(server.as_admin(url)).connect() as connection:
        return int(
            connection.exec_driver_sql(
                "select (select count(*) from pg_catalog.pg_proc where proowner = planter.oid) "
                "+ (select count(*) from pg_catalog.pg_operator where oprowner = planter.oid) "
                f"from pg_catalog.pg_roles as planter where rolname = '{PLANTER}'"
            ).scalar_one()
        )


def that_ran(server: Server, url: sa.URL) -> bool:
    """Return whether a shadow was run."""
    with engine_of(server.as_admin(url)).connect() as connection:
        return bool(connection.exec_driver_sql("select is_called from public.shadows_that_ran").scalar())


def words() -> set[str]:
    """Return every word of the sources."""
    texts = (path.read_text(encoding="utf-8") for pattern in SOURCES for path in ROOT.glob(pattern))
    return OF_OTHERS.union(*(re.findall(r"[a-z_][a-z0-9_]*", text) for text in texts))


def typed(name: str) -> str:
    """Return a type of the server's as SQL names it."""
    return f'pg_catalog."{name}"'


def body(what: str) -> str:
    """Return the rest of a function's definition that says that it was called."""
    quoted = what.replace("'", "''")
    return f"language plpgsql as $$ begin perform public.{CAUGHT}('{quoted}'::pg_catalog.text); end $$;"


def functions(connection: sa.Connection) -> Iterator[str]:
    """Yield a shadow of each function that our SQL may call, for each combination of types."""
    rows = connection.execute(
        sa.text("""
            select p.proname as name, pg_catalog.quote_ident(p.proname) as quoted, p.provariadic <> 0 as variadic,
              p.pronargdefaults as defaults,
              array(
                select t.typname
                from pg_catalog.unnest(p.proargtypes) with ordinality as a (type, number)
                inner join pg_catalog.pg_type as t on a.type = t.oid
                order by a.number
              ) as types,
              p.prorettype = any (array['trigger', 'event_trigger', 'internal']::pg_catalog.regtype[]) as special
            from pg_catalog.pg_proc as p
            where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace and p.proname = any (:names)
            order by p.proname, p.oid
        """),
        {"names": sorted(words())},
    )
    planted: set[tuple[str, ...]] = set()
    for row in rows:
        types = list(row.types)
        if row.special or "internal" in types:
            continue
        if row.variadic:
            # Called with one, two or three of them.
            element = "text" if types[-1] == "_text" else "any"
            ways = [types[:-1] + [element] * number for number in (1, 2, 3)]
        else:
            ways = [types[: len(types) - left_out] for left_out in range(row.defaults + 1)]
        for way in ways:
            choices = [INSTEAD.get(name, (name,))[: FEWER.get(len(way))] for name in way]
            for chosen in itertools.product(*choices):
                if len(way) > 5 or (row.name, *chosen) in planted:
                    continue
                planted.add((row.name, *chosen))
                arguments = ", ".join(map(typed, chosen))
                signature = f"{row.quoted}({', '.join(chosen)})"
                yield f"create function public.{row.quoted}({arguments}) returns pg_catalog.text {body(signature)}"


def operators(connection: sa.Connection) -> Iterator[str]:
    """Yield a shadow of each of the server's operators between each two types."""
    names = connection.exec_driver_sql("""
        select distinct oprname from pg_catalog.pg_operator
        where oprname = any (array[
          '=', '<>', '<', '>', '<=', '>=', '+', '-', '*', '/', '||', '->', '->>', '#>>', '@>', '&', '~', '~*', '!~',
          '~~', '~~*', '!~~', '?', '%%', '<<', '|'
        ])
        order by 1
    """).scalars()
    pairs = [*itertools.product(ANY, ANY), *zip(ARRAYS, ARRAYS, strict=True)]
    kinds = {"yes": "pg_catalog.bool", "left": ""}
    for left, right in pairs:
        for kind, returned in kinds.items():
            yield (
                f"create function public.{kind}_operator({typed(left)}, {typed(right)}) "
                f"returns {returned or typed(left)} {body(f'an operator between {left} and {right}')}"
            )
    for name in names:
        kind = "left" if name in {"+", "-", "*", "/", "||", "%", "&", "<<", "|"} else "yes"
        for left, right in pairs:
            yield (
                f"create operator public.{name} (leftarg = {typed(left)}, rightarg = {typed(right)}, "
                f"function = public.{kind}_operator);"
            )


def casts() -> Iterator[str]:
    """Yield a type of the planter's own, into which the server's are cast by themselves, and functions that take it."""
    yield "create type public.bait as (taken pg_catalog.text);"
    for name in ("text", "varchar", "name", "int4", "int8", "uuid", "date", "timestamptz", "regclass", "numeric"):
        taken = typed(name)
        yield f"create function public.bait({taken}) returns public.bait {body(f'a cast from {name}')}"
        yield f"create cast ({taken} as public.bait) with function public.bait({taken}) as implicit;"
    for name in ("set_config", "timezone", "format", "count", "to_regclass", "current_setting", "quote_ident"):
        for number in (1, 2, 3):
            arguments = ", ".join(["public.bait"] * number)
            yield f'create function public."{name}"({arguments}) returns pg_catalog.text {body(f"{name} with bait")}'


def relations() -> Iterator[str]:
    """Yield relations that are called like the server's catalogs, and types that are called like its types."""
    for name in CATALOGS:
        yield f"create view public.{name} as select public.{CAUGHT}('{name}'::pg_catalog.text) as oid;"
    for name in TYPES:
        base = "pg_catalog.int8" if name == "bigint" else f"pg_catalog.{name}"
        yield f"create domain public.{name} as {base} check (public.{CAUGHT}('the type {name}'::pg_catalog.text));"
