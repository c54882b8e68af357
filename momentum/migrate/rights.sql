-- The first right that a migration needs and its role lacks, in the order in which they are given, with the owner of
-- the object and the statement with which that owner gives the right. An object that doesn't exist needs none.
with objects as (
  select
    'database' as kind,
    cast(d.datname as text) as name,
    d.oid,
    d.datdba as owner
  from pg_catalog.pg_database as d
  union all
  select
    'schema' as kind,
    cast(n.nspname as text) as name,
    n.oid,
    n.nspowner as owner
  from pg_catalog.pg_namespace as n
  union all
  select
    case c.relkind when 'v' then 'view' else 'table' end as kind,
    n.nspname || '.' || c.relname as name,
    c.oid,
    c.relowner as owner
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  where c.relkind in ('r', 'p', 'v')
  union all
  select
    'function' as kind,
    n.nspname || '.' || p.proname || '()' as name,
    p.oid,
    p.proowner as owner
  from pg_catalog.pg_proc as p
  inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
  where p.pronargs = 0
  union all
  select
    'language' as kind,
    cast(l.lanname as text) as name,
    l.oid,
    l.lanowner as owner
  from pg_catalog.pg_language as l
)

select
  needed.kind,
  needed.name,
  needed.privilege,
  current_user as role,
  -- A new database's public belongs to a role that stands for the owner of the database.
  pg_catalog.pg_get_userbyid(
    case when pg_catalog.pg_get_userbyid(o.owner) = 'pg_database_owner' then d.datdba else o.owner end
  ) as owner,
  pg_catalog.format(
    case
      when needed.privilege = 'owner' then 'alter %1$s %2$s owner to %4$I' else 'grant %3$s on %1$s %2$s to %4$I'
    end,
    needed.kind, needed.name, needed.privilege, current_user
  ) as statement
from
  unnest(cast(:kinds as text[]), cast(:names as text[]), cast(:privileges as text[]))
  with ordinality as needed (kind, name, privilege, number)
inner join objects as o on needed.kind = o.kind and needed.name = o.name
inner join pg_catalog.pg_database as d on d.datname = current_database()
where
  not case
    when needed.privilege = 'owner' then pg_catalog.pg_has_role(o.owner, 'usage')
    when needed.kind = 'database' then pg_catalog.has_database_privilege(o.oid, needed.privilege)
    when needed.kind = 'schema' then pg_catalog.has_schema_privilege(o.oid, needed.privilege)
    when needed.kind = 'language' then pg_catalog.has_language_privilege(o.oid, needed.privilege)
    -- What we refer to is the key of the accounts.
    when needed.privilege = 'references' then pg_catalog.has_column_privilege(o.oid, 'id', needed.privilege)
    else pg_catalog.has_table_privilege(o.oid, needed.privilege)
  end
order by needed.number
limit 1
