-- Everything that runs for a row, as a text that changes if any of it does: the triggers, rules, defaults, keys,
-- checks, indexes, policies and children of the relations that were followed, the functions, and whatever has a name
-- that was looked up. What belongs to the server itself, with an oid below 16384, stays as it is. No value is written
-- in a way that a setting changes.
with
-- Not kept by the lock of a table:
types (oids) as materialized (
  select
    array(
      select t.oid
      from pg_catalog.pg_type as t
      where t.typname = any(cast(:types as name[])) and t.oid >= 16384
      union all
      select a.atttypid
      from pg_catalog.pg_attribute as a
      where a.attrelid = any(:followed) and a.attnum > 0 and a.atttypid >= 16384
    )
),

-- That is all of it.
facts (fact) as (
  select pg_catalog.concat_ws(' ', t.oid, t.tgfoid, t.tgtype, t.tgenabled, t.tgqual)
  from pg_catalog.pg_trigger as t
  where t.tgrelid = any(:followed)
  union all
  select pg_catalog.concat_ws(' ', w.oid, w.ev_type, w.ev_enabled, w.ev_action, w.ev_qual)
  from pg_catalog.pg_rewrite as w
  where w.ev_class = any(:followed)
  union all
  select pg_catalog.concat_ws(' ', d.oid, d.adnum, d.adbin)
  from pg_catalog.pg_attrdef as d
  where d.adrelid = any(:followed)
  union all
  select pg_catalog.concat_ws(' ', c.oid, c.conbin)
  from pg_catalog.pg_constraint as c
  where c.conrelid = any(:followed)
  union all
  select pg_catalog.concat_ws(' ', i.indexrelid, i.indexprs, i.indpred)
  from pg_catalog.pg_index as i
  where i.indrelid = any(:followed)
  union all
  select pg_catalog.concat_ws(' ', p.oid, p.polqual, p.polwithcheck)
  from pg_catalog.pg_policy as p
  where p.polrelid = any(:followed)
  union all
  select pg_catalog.concat_ws(' ', i.inhrelid)
  from pg_catalog.pg_inherits as i
  where i.inhparent = any(:followed)
  union all
  select pg_catalog.concat_ws(' ', c.oid, c.relnamespace)
  from pg_catalog.pg_class as c
  where c.relname = any(cast(:relations as name[])) and c.oid >= 16384
  -- Not kept by the lock of a table:
  union all
  select pg_catalog.concat_ws(' ', c.oid, c.conbin)
  from pg_catalog.pg_constraint as c
  where c.contypid = any(cast((select t.oids from types as t) as oid[]))
  union all
  select
    pg_catalog.concat_ws(
      ' ', p.oid, p.proowner, p.prolang, p.prosecdef, p.proconfig, p.prosrc, p.probin, p.prosqlbody
    )
  from pg_catalog.pg_proc as p
  where p.oid = any(:called)
  union all
  select
    pg_catalog.concat_ws(
      ' ', p.oid, p.proowner, p.prolang, p.prosecdef, p.proconfig, p.prosrc, p.probin, p.prosqlbody
    )
  from pg_catalog.pg_proc as p
  where p.proname = any(cast(:functions as name[])) and p.oid >= 16384
  union all
  select pg_catalog.concat_ws(' ', o.oid, cast(o.oprcode as oid))
  from pg_catalog.pg_operator as o
  where o.oprname = any(cast(:operators as name[])) and o.oid >= 16384
  union all
  select pg_catalog.concat_ws(' ', c.oid, c.castfunc)
  from pg_catalog.pg_cast as c
  where
    c.oid >= 16384
    and (
      c.castsource = any(cast((select t.oids from types as t) as oid[]))
      or c.casttarget = any(cast((select t.oids from types as t) as oid[]))
    )
-- That is all of it.
)

select
  pg_catalog.md5(
    pg_catalog.concat(pg_catalog.string_agg(f.fact, ' ' order by f.fact collate "C")) -- noqa: RF02, RF03
  ) as fingerprint
from facts as f
