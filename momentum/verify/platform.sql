-- Facts about the platform that our grants and policies rely on: the roles that clients get, auth.uid(), the schema
-- public, and settings that would switch rules off. The last ones are facts only where something is wrong.
with clients (oid, name, superuser, bypasses, others) as (
  select
    r.oid,
    r.rolname,
    r.rolsuper,
    r.rolbypassrls,
    concat_ws(
      ', ',
      case when r.rolcreaterole then 'may create roles' end,
      case when r.rolcanlogin then 'may log in' end,
      case when r.rolreplication then 'may replicate' end
    )
  from pg_catalog.pg_roles as r
  where r.rolname in ('anon', 'authenticated', 'service_role')
),

-- The roles whose rights no client may have: they pass row-level security, own what is ours, or rule the server.
strong (oid, name) as (
  select
    r.oid,
    pg_catalog.quote_ident(r.rolname)
  from pg_catalog.pg_roles as r
  inner join pg_catalog.pg_database as d on d.datname = pg_catalog.current_database()
  where
    r.rolname in ('authenticated', 'service_role')
    or r.rolsuper or r.rolbypassrls or r.rolcreaterole
    or pg_catalog.starts_with(r.rolname, 'pg_') or pg_catalog.starts_with(r.rolname, 'supabase_')
    or r.oid = d.datdba
    or r.oid in (
      select n.nspowner
      from pg_catalog.pg_namespace as n
      where n.nspname = 'momentum_internal'
    )
),

uid (oid, source, plain) as (
  select
    p.oid,
    p.prosrc,
    l.lanname = 'sql' and p.provolatile <> 'i'
  from pg_catalog.pg_proc as p
  inner join pg_catalog.pg_language as l on p.prolang = l.oid
  inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
  where n.nspname = 'auth' and p.proname = 'uid' and p.pronargs = 0
),

-- A superuser has every right and is a member of every role.
facts (key, value) as (
  select
    'platform, role ' || c.name,
    case
      when c.superuser then 'superuser'
      else concat_ws(
        ', ',
        case when c.bypasses then 'bypasses row level security' else 'subject to row level security' end,
        'member of ' || (
          select string_agg(s.name, ' and ' order by s.name)
          from strong as s
          where s.oid <> c.oid and pg_catalog.pg_has_role(c.oid, s.oid, 'member')
        ),
        nullif(c.others, '')
      )
    end
  from clients as c
  where c.name <> 'service_role'
  union all
  select
    'platform, role ' || c.name,
    'subject to row level security'
  from clients as c
  where c.name = 'service_role' and not (c.superuser or c.bypasses)
  union all
  select
    'platform, rights of ' || c.name || ' in schema public',
    case
      when c.superuser then 'USAGE'
      else coalesce(
        nullif(
          concat_ws(
            ', ',
            case when pg_catalog.has_schema_privilege(c.oid, n.oid, 'usage') then 'USAGE' end,
            case
              when c.name = 'service_role' or not pg_catalog.has_schema_privilege(c.oid, n.oid, 'create') then null
              when pg_catalog.has_schema_privilege('public', n.oid, 'create') then 'CREATE as everybody'
              else 'CREATE'
            end
          ),
          ''
        ),
        'none'
      )
    end
  from clients as c
  inner join pg_catalog.pg_namespace as n on n.nspname = 'public'
  union all
  select
    'platform, rights of ' || c.name || ' in the database',
    'CREATE'
  from clients as c
  where
    c.name <> 'service_role' and not c.superuser
    and pg_catalog.has_database_privilege(c.oid, pg_catalog.current_database(), 'create')
  union all
  select
    'platform, function auth.uid(), calls by ' || c.name,
    'refused'
  from clients as c
  cross join uid as u
  where not pg_catalog.has_function_privilege(c.oid, u.oid, 'execute')
  union all
  -- All of the platform's versions are made of this. Anything else could be a second way to say who the user is.
  select
    'platform, function auth.uid(), body',
    u.source
  from uid as u
  where
    not u.plain
    or pg_catalog.regexp_replace(
      u.source,
      '\m(select|coalesce|nullif|current_setting|true|jsonb?|uuid|text|cast|as|pg_catalog)\M'
      || '|''request\.jwt\.claims''|''request\.jwt\.claim\.sub''|''sub''|''''|->>|::|[(),;.\s]',
      '',
      'gi'
    ) <> ''
  union all
  select
    'platform, setting ' || split_part(o.setting, '=', 1) || ' of ' || coalesce('role ' || r.rolname, 'every role'),
    o.setting
  from pg_catalog.pg_db_role_setting as s
  cross join unnest(s.setconfig) as o (setting)
  left join pg_catalog.pg_roles as r on s.setrole = r.oid
  inner join pg_catalog.pg_database as d on d.datname = pg_catalog.current_database()
  where
    s.setdatabase in (0, d.oid)
    and (s.setrole = 0 or r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator'))
    and (
      o.setting in ('session_replication_role=replica', 'session_replication_role=local')
      or pg_catalog.starts_with(o.setting, 'request.jwt.')
    )
  union all
  select
    'platform, setting session_replication_role, grant to ' || c.name,
    'SET'
  from clients as c
  where not c.superuser and pg_catalog.has_parameter_privilege(c.oid, 'session_replication_role', 'set')
)

select
  key,
  value
from facts
