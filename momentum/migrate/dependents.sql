-- Objects that depend on some relations, columns and the trigger function, and would not be dropped with them: those
-- for which a DROP would need CASCADE. See https://www.postgresql.org/docs/current/catalog-pg-depend.html.
with recursive targets (classid, objid, subid, target, position) as (
  select
    c.tableoid,
    c.oid,
    0,
    given.relation,
    given.position
  from unnest(cast(:relations as text[])) with ordinality as given (relation, position)
  inner join pg_catalog.pg_class as c on to_regclass(given.relation) = c.oid
  union all
  select
    c.tableoid,
    c.oid,
    a.attnum,
    format('%s.%I', given.relation, a.attname),
    0
  from unnest(cast(:tables as text[]), cast(:columns as text[])) as given (relation, attname)
  inner join pg_catalog.pg_class as c on to_regclass(given.relation) = c.oid
  inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid and given.attname = a.attname and not a.attisdropped
  union all
  -- These go too, but objects that depend on them are not reported.
  select
    c.tableoid,
    c.oid,
    0,
    null,
    0
  from unnest(cast(:along as text[])) as given (relation)
  inner join pg_catalog.pg_class as c on to_regclass(given.relation) = c.oid
  union all
  select
    p.tableoid,
    p.oid,
    0,
    :schema || '.set_updated_at',
    cardinality(cast(:relations as text[])) + 1
  from pg_catalog.pg_proc as p
  where p.pronamespace = to_regnamespace(:schema) and p.proname = 'set_updated_at' and p.pronargs = 0
),

dropped as (
  select
    classid,
    objid,
    subid,
    target,
    position
  from targets
  union
  -- Objects that are part of a dropped one, or can't exist without it.
  select
    d.classid,
    d.objid,
    d.objsubid,
    p.target,
    p.position
  from dropped as p
  inner join pg_catalog.pg_depend as d
    on p.classid = d.refclassid and p.objid = d.refobjid and (p.subid = 0 or p.subid = d.refobjsubid)
  where d.deptype <> 'n'
)

select distinct format('%s %s depends on %s', named.type, named.identity, p.target) as dependent
from dropped as p
inner join pg_catalog.pg_depend as d
  on
    p.classid = d.refclassid and p.objid = d.refobjid and (p.subid = 0 or p.subid = d.refobjsubid)
    and d.deptype = 'n'
-- A view is named instead of its rule, which is part of it.
left join pg_catalog.pg_depend as whole
  on d.classid = whole.classid and d.objid = whole.objid and d.objsubid = whole.objsubid and whole.deptype = 'i'
cross join
  pg_catalog.pg_identify_object(
    coalesce(whole.refclassid, d.classid), coalesce(whole.refobjid, d.objid), coalesce(whole.refobjsubid, d.objsubid)
  ) as named
where
  p.target is not null
  -- An object that is dropped only with a later one would still exist.
  and not exists (
    select from dropped as q
    where
      q.classid = d.classid and q.objid = d.objid and (q.subid = 0 or q.subid = d.objsubid)
      and q.position <= p.position
  )
  -- A partition inherits its key from the partitioned table, which is named.
  and not exists (
    select from pg_catalog.pg_depend as part
    where part.classid = d.classid and part.objid = d.objid and part.deptype = 'P'
  )
order by dependent
