-- The role that compares, what it may do, and the owners of the schemas.
with me (oid, name, superuser, creates_roles, bypasses, server) as (
  select
    r.oid,
    r.rolname,
    r.rolsuper,
    r.rolcreaterole,
    r.rolbypassrls,
    pg_catalog.current_setting('server_version_num')::integer
  from pg_catalog.pg_roles as r
  where r.rolname = current_user
),

owners (schema, owner) as (
  select
    n.nspname,
    pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(n.nspowner))
  from pg_catalog.pg_namespace as n
)

select
  me.name as role,
  me.server,
  ours.owner,
  public.owner as public,
  array(
    select pg_catalog.quote_ident(r.rolname)
    from pg_catalog.pg_roles as r
    where pg_catalog.pg_has_role(r.oid, 'usage')
  ) as acts_as,
  -- Until PostgreSQL 15 only superusers decide who bypasses row-level security.
  array(
    select r.rolname
    from pg_catalog.pg_roles as r
    where
      r.rolname in ('anon', 'authenticated', 'service_role')
      and (
        me.superuser
        or (
          me.server >= 160000
          and me.creates_roles
          and me.bypasses
          and not r.rolsuper
          and pg_catalog.pg_has_role(r.oid, 'member with admin option')
        )
      )
  ) as alters
from me
left join owners as ours on ours.schema = :schema
left join owners as public on public.schema = 'public'
