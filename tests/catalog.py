"""The facts in a database's catalogs about its schema, to compare before and after."""

import re
import subprocess

import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.inventory import PARKED_PREFIX
from momentum.verify import compare as verify
from tests.server import engine_of, find_program

# One line per fact. Everything that belongs to Postgres itself is left out.
FACTS = """
with ours as (
  select oid, nspname, nspowner, nspacl
  from pg_namespace
  where nspname !~ '^pg_' and nspname <> 'information_schema'
), relations as (
  select c.*, s.nspname || '.' || c.relname as name
  from pg_class c
  inner join ours s on c.relnamespace = s.oid
)
select concat_ws(' | ', 'schema', nspname, nspowner::regrole, nspacl, obj_description(oid, 'pg_namespace')) from ours
union all
select concat_ws(' | ', 'relation', name, relkind, relowner::regrole, relacl, relrowsecurity, relforcerowsecurity,
  reloptions, relpersistence, relreplident, obj_description(oid, 'pg_class'))
from relations
union all
select concat_ws(' | ', 'column', r.name, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
  pg_get_expr(d.adbin, d.adrelid), a.attacl, col_description(r.oid, a.attnum))
from relations r
inner join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
union all
select concat_ws(' | ', 'constraint', r.name, c.conname, c.convalidated, pg_get_constraintdef(c.oid))
from relations r
inner join pg_constraint c on c.conrelid = r.oid
union all
select concat_ws(' | ', 'index', r.name, pg_get_indexdef(r.oid), i.indisvalid, i.indisprimary)
from relations r
inner join pg_index i on i.indexrelid = r.oid
union all
select concat_ws(' | ', 'policy', r.name, p.polname, p.polcmd, p.polpermissive, p.polroles::regrole[],
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
from relations r
inner join pg_policy p on p.polrelid = r.oid
union all
select concat_ws(' | ', 'trigger', r.name, t.tgenabled, pg_get_triggerdef(t.oid))
from relations r
inner join pg_trigger t on t.tgrelid = r.oid and not t.tgisinternal
union all
select concat_ws(' | ', 'view', name, pg_get_viewdef(oid)) from relations where relkind in ('v', 'm')
union all
select concat_ws(' | ', 'function', p.oid::regprocedure, p.proowner::regrole, p.proacl, pg_get_functiondef(p.oid),
  obj_description(p.oid, 'pg_proc'))
from pg_proc p
inner join ours s on p.pronamespace = s.oid and p.prokind <> 'a'
union all
select concat_ws(' | ', 'publication', p.pubname, p.pubowner::regrole, p.puballtables, p.pubinsert, p.pubupdate,
  p.pubdelete, p.pubtruncate, p.pubviaroot, t.relation, pg_get_expr(t.prqual, t.prrelid), t.prattrs)
from pg_publication p
left join (
  select pr.*, r.name as relation from pg_publication_rel pr inner join relations r on pr.prrelid = r.oid
) as t on t.prpubid = p.oid
union all
select concat_ws(' | ', 'type', s.nspname, t.typname, t.typtype)
from pg_type t
inner join ours s on t.typnamespace = s.oid
order by 1
"""


def snapshot(url: sa.URL, *, of: str = "") -> list[str]:
    """Return the facts of a database's schema, one per line.

    Args:
        url: The database.
        of: Only the facts that contain this text, such as the name of a table.
    """
    with engine_of(url).connect() as connection:
        # Without a search path every name is written in full.
        connection.exec_driver_sql("set local search_path = pg_catalog")
        return [fact for fact in connection.exec_driver_sql(FACTS).scalars() if of in fact]


def differences(url: sa.URL) -> list[str]:
    """Return the differences between a database and what head makes, as ``momentum.verify.compare`` names them."""
    with engine_of(url).connect() as connection:
        return verify.differences(connection)


# Newer servers (15.20 is one) note a column's version in an option of it that an older pg_dump takes for ours.
RANDOM = re.compile(r"\\(un)?restrict |ALTER TABLE ONLY \S+ ALTER COLUMN \S+ SET \(pg_attver=\d+\);")


def dump(url: sa.URL, *options: str) -> str:
    """Return the output of pg_dump with some options, without its random lines and without parked columns."""
    done = subprocess.run(
        [find_program("pg_dump"), *options, as_text(url)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # The lines around a comment of pg_dump's own say nothing.
    lines = [line for line in done.stdout.splitlines() if line not in ("", "--") and not RANDOM.match(line)]
    # A parked column may have been the last of its table.
    return "\n".join(line.rstrip(",") for line in lines if not re.search(rf"\b{PARKED_PREFIX}", line))
