-- The roles of which those of clients are members, who granted that, and whether the current role may revoke it.
select
  pg_catalog.pg_get_userbyid(m.member) as member,
  pg_catalog.quote_ident(s.rolname) as role,
  pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(m.grantor)) as grantor,
  me.rolsuper
  or case
    -- Since PostgreSQL 16 each grant of a membership is its grantor's.
    when pg_catalog.current_setting('server_version_num')::integer >= 160000
      then
        pg_catalog.pg_has_role(m.roleid, 'member with admin option') and pg_catalog.pg_has_role(m.grantor, 'usage')
    else me.rolcreaterole or pg_catalog.pg_has_role(m.roleid, 'member with admin option')
  end as revocable
from pg_catalog.pg_auth_members as m
inner join pg_catalog.pg_roles as s on m.roleid = s.oid
inner join pg_catalog.pg_roles as c on m.member = c.oid and c.rolname in ('anon', 'authenticated')
inner join pg_catalog.pg_roles as me on me.rolname = current_user
order by member, role, grantor
