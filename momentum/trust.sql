-- The objects that we rely on and that belong to none of the roles that we trust, each with the statement that hands it
-- over. What an object runs, it would run with the rights of whoever uses it.
with me (oid, name, database_owner) as (
  select
    r.oid,
    r.rolname,
    d.datdba
  from pg_catalog.pg_roles as r
  inner join pg_catalog.pg_database as d on d.datname = pg_catalog.current_database()
  where r.rolname = current_user
),

-- A membership is no trust: on Supabase postgres is a member of anon, and on PostgreSQL 15 any role can make others its
-- members.
trusted (oid) as (
  select r.oid
  from pg_catalog.pg_roles as r
  cross join me
  where r.rolsuper or r.oid in (me.oid, me.database_owner) or r.rolname = 'pg_database_owner'
),

relations (kind, schema, name, owner) as (
  select
    case c.relkind
      when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' when 'f' then 'foreign table'
      else 'table'
    end,
    n.nspname,
    pg_catalog.format('%I.%I', n.nspname, c.relname),
    c.relowner
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
),

routines (oid, kind, schema, name, owner) as (
  select
    p.oid,
    case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
    n.nspname,
    pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)),
    p.proowner
  from pg_catalog.pg_proc as p
  inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
),

objects (number, kind, name, owner, of_platform) as (
  select
    1,
    'schema',
    pg_catalog.quote_ident(n.nspname),
    n.nspowner,
    n.nspname <> cast(:schema as text)
  from pg_catalog.pg_namespace as n
  where
    n.nspname in (cast(:schema as text), 'auth')
    or (n.nspname = 'public' and cast(:whole as boolean))
    -- A schema's owner may drop any table in it, and put another one in its place.
    or exists (
      select
      from pg_catalog.unnest(cast(:relations as text[])) as r (name)
      where pg_catalog.starts_with(r.name, pg_catalog.quote_ident(n.nspname) || '.')
    )
  union all
  select
    2,
    r.kind,
    r.name,
    r.owner,
    r.schema = 'auth'
  from relations as r
  where (r.schema = cast(:schema as text) and cast(:whole as boolean)) or r.name = 'auth.users'
  union all
  select
    3,
    r.kind,
    r.name,
    r.owner,
    r.schema = 'auth'
  from routines as r
  where (r.schema = cast(:schema as text) and cast(:whole as boolean)) or r.name = 'auth.uid()'
  union all
  select
    4,
    case t.typtype when 'd' then 'domain' else 'type' end,
    pg_catalog.format('%I.%I', n.nspname, t.typname),
    t.typowner,
    false
  from pg_catalog.pg_type as t
  inner join pg_catalog.pg_namespace as n on t.typnamespace = n.oid
  -- A table's own type and an array are their owner's, too.
  where n.nspname = cast(:schema as text) and cast(:whole as boolean) and t.typrelid = 0 and t.typcategory <> 'A'
  union all
  select
    5,
    r.kind,
    r.name,
    r.owner,
    false
  from relations as r
  where r.name = any(cast(:relations as text[]))
  union all
  select
    6,
    r.kind,
    r.name,
    r.owner,
    true
  from routines as r
  where r.oid = any(cast(:functions as oid[]))
)

select
  o.kind,
  o.name,
  me.name as role,
  pg_catalog.pg_get_userbyid(o.owner) as owner,
  pg_catalog.format('alter %s %s owner to %I', o.kind, o.name, me.name) as statement
from objects as o
cross join me
where
  o.owner not in (select t.oid from trusted as t)
  -- The accounts, its own functions and the schemas that a project begins with are the platform's by nature.
  and not (
    o.of_platform and pg_catalog.pg_get_userbyid(o.owner) in (
      'supabase_admin',
      'supabase_auth_admin',
      'supabase_functions_admin',
      'supabase_realtime_admin',
      'supabase_storage_admin'
    )
  )
order by o.number, o.name, o.owner
