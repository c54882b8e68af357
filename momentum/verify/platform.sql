-- Facts about the platform that our grants and policies rely on: the roles that clients get, and the schema public.
with clients (oid, name, superuser, bypasses) as (
  select
    r.oid,
    r.rolname,
    r.rolsuper,
    r.rolbypassrls
  from pg_catalog.pg_roles as r
  where r.rolname in ('anon', 'authenticated', 'service_role')
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
        case when pg_catalog.pg_has_role(c.oid, s.oid, 'member') then 'member of service_role' end
      )
    end
  from clients as c
  left join clients as s on s.name = 'service_role'
  where c.name <> 'service_role'
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
)

select
  key,
  value
from facts
