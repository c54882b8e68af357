-- Moves a database that sql/citus/distribute.sql has distributed back to the coordinator, as the migrations made it.
--
-- Run it there while no client is working: it locks every table until it is done, and the coordinator's disk must hold
-- all rows.
--
--   psql -v ON_ERROR_STOP=1 -f sql/citus/undistribute.sql "$MOMENTUM_DATABASE_URL"
--
-- Made by `make citus-sql` from the models and tools/citus_undistribute.sql: change those, not this file.
--
-- It is one transaction: if anything is refused, nothing has changed. Afterwards `python -m momentum.verify` finds no
-- differences.
begin;

-- Names without a schema mean the server's own and Citus', and never what somebody has put into public.
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;

do $look_first$
declare
  name text;
begin
  if to_regclass('pg_dist_partition') is null then
    raise exception 'this database has no Citus, so nothing in it is distributed';
  end if;
  foreach name in array array[
{names}
  ] loop
    if to_regclass(name) is null then
      raise exception 'there is no table %; sql/citus/distribute.sql has not distributed this database', name;
    end if;
    if not exists (select from pg_dist_partition where logicalrelid = to_regclass(name)) then
      raise exception '% is not distributed; sql/citus/distribute.sql has not distributed this database', name;
    end if;
  end loop;
end
$look_first$;

select set_config('citus.enable_unsafe_triggers', 'on', true);
select set_config('citus.multi_shard_modify_mode', 'sequential', true);

-- Citus recreates each table with its rows, keys, indexes, triggers and policies, but without its comments, and drops
-- the old one with everything that depends on it. It would recreate views too, for clients to read whatever their
-- owners had revoked. So all views of these tables, ours and those of others, are saved with their owners, options,
-- grants and comments, and made again at the end.
create temporary table saved_views on commit drop as
with recursive found as (
  select
    w.ev_class as relation,
    1 as depth
  from pg_catalog.pg_depend as d
  inner join pg_catalog.pg_rewrite as w on d.objid = w.oid and d.classid = 'pg_catalog.pg_rewrite'::regclass
  where
    d.refclassid = 'pg_catalog.pg_class'::regclass
    and d.refobjid in (
{regclasses_less_deep}
    )
  union
  select
    w.ev_class as relation,
    f.depth + 1 as depth
  from found as f
  inner join pg_catalog.pg_depend as d on f.relation = d.refobjid and d.refclassid = 'pg_catalog.pg_class'::regclass
  inner join pg_catalog.pg_rewrite as w on d.objid = w.oid and d.classid = 'pg_catalog.pg_rewrite'::regclass
  where w.ev_class <> f.relation
)

select
  c.oid as relation,
  format('%I.%I', c.relnamespace::regnamespace::text, c.relname) as name,
  max(f.depth) as depth
from found as f
inner join pg_catalog.pg_class as c on f.relation = c.oid
group by c.oid, c.relnamespace, c.relname;

do $look_at_views$
declare
  other record;
begin
  for other in
    select
      v.name,
      case
        when c.relkind <> 'v' then 'is no plain view'
        when exists (select from pg_catalog.pg_trigger as t where t.tgrelid = c.oid) then 'has a trigger'
        when exists (
          select from pg_catalog.pg_rewrite as w where w.ev_class = c.oid and w.rulename <> '_RETURN'
        ) then 'has a rule'
        else 'belongs to ' || pg_get_userbyid(c.relowner) || ', whom you can''t act as'
      end as reason
    from saved_views as v
    inner join pg_catalog.pg_class as c on v.relation = c.oid
    where
      c.relkind <> 'v'
      or not pg_has_role(c.relowner, 'member')
      or exists (select from pg_catalog.pg_trigger as t where t.tgrelid = c.oid)
      or exists (select from pg_catalog.pg_rewrite as w where w.ev_class = c.oid and w.rulename <> '_RETURN')
    order by v.name
  loop
    raise exception '% shows a distributed table and %, so that it can''t be made again; drop it first',
      other.name, other.reason;
  end loop;
end
$look_at_views$;

create temporary table saved on commit drop as
select
  1 as turn,
  v.depth,
  0 as place,
  format(
    'create view %s%s as %s',
    v.name,
    ' with (' || array_to_string(c.reloptions, ', ') || ')',
    pg_get_viewdef(c.oid)
  ) as command
from saved_views as v
inner join pg_catalog.pg_class as c on v.relation = c.oid
union all
select
  2 as turn,
  v.depth,
  0 as place,
  format('alter view %s owner to %I', v.name, pg_get_userbyid(c.relowner)) as command
from saved_views as v
inner join pg_catalog.pg_class as c on v.relation = c.oid
union all
-- Turn 3 revokes what default privileges have granted: see below.
select
  4 as turn,
  v.depth,
  a.place,
  format(
    'grant %s on table %s to %s%s',
    a.privilege_type,
    v.name,
    case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end,
    case when a.is_grantable then ' with grant option' end
  ) as command
from saved_views as v
inner join pg_catalog.pg_class as c on v.relation = c.oid
cross join
  aclexplode(coalesce(c.relacl, acldefault('r', c.relowner)))
  with ordinality as a (grantor, grantee, privilege_type, is_grantable, place)
union all
select
  4 as turn,
  v.depth,
  a.place,
  format(
    'grant %s (%I) on table %s to %s%s',
    a.privilege_type,
    t.attname,
    v.name,
    case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end,
    case when a.is_grantable then ' with grant option' end
  ) as command
from saved_views as v
inner join pg_catalog.pg_class as c on v.relation = c.oid
inner join pg_catalog.pg_attribute as t on c.oid = t.attrelid
cross join aclexplode(t.attacl) with ordinality as a (grantor, grantee, privilege_type, is_grantable, place)
union all
select
  5 as turn,
  0 as depth,
  0 as place,
  format(
    'comment on %s %I.%I%s is %L',
    case
      when d.objsubid > 0 then 'column'
      when c.relkind = 'v' then 'view'
      when c.relkind = 'i' then 'index'
      else 'table'
    end,
    c.relnamespace::regnamespace,
    c.relname,
    '.' || quote_ident(a.attname),
    d.description
  ) as command
from pg_catalog.pg_description as d
inner join pg_catalog.pg_class as c on d.objoid = c.oid
left join pg_catalog.pg_index as i on c.oid = i.indexrelid
left join pg_catalog.pg_attribute as a
  on c.oid = a.attrelid and d.objsubid = a.attnum and d.objsubid > 0
where
  d.classoid = 'pg_catalog.pg_class'::regclass
  and (
    coalesce(i.indrelid, c.oid) in (
{regclasses_less_deep}
    )
    or c.oid in (select v.relation from saved_views as v)
  );

do $drop_views$
declare
  name text;
begin
  for name in select v.name from saved_views as v order by v.depth desc loop
    execute 'drop view ' || name;
  end loop;
end
$drop_views$;

-- The foreign keys go first, as in distribute.sql.
{drop_foreign_keys}
alter table legacy.daily_engagement_scores
drop constraint fk_daily_engagement_scores_user_id_users;

select undistribute_table('legacy.daily_engagement_scores');
{undistribute_tables}
select undistribute_table('auth.users');
{undistribute_reference_tables}

{restore_primary_keys}
alter table legacy.daily_engagement_scores
drop constraint pk_daily_engagement_scores,
add constraint pk_daily_engagement_scores primary key (id);

{add_foreign_keys}
alter table legacy.daily_engagement_scores
add constraint fk_daily_engagement_scores_user_id_users
foreign key (user_id) references auth.users (id) on delete cascade;

-- On a single server the subquery is evaluated once per statement.
drop policy daily_engagement_scores_select_own on legacy.daily_engagement_scores;
create policy daily_engagement_scores_select_own on legacy.daily_engagement_scores
for select to authenticated using ((select auth.uid()) = user_id);
{policies}
do $say_again$
declare
  saved record;
  grantee text;
begin
  for saved in select s.command from saved as s where s.turn < 3 order by s.turn, s.depth, s.place loop
    execute saved.command;
  end loop;
  -- Whatever the owner has by default, and others have by default privileges, goes before the saved grants come back.
  for saved in select v.name from saved_views as v loop
    for grantee in
      select distinct case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end
      from pg_catalog.pg_class as c
      cross join aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) as a
      where c.oid = saved.name::regclass
    loop
      execute format('revoke all on table %s from %s', saved.name, grantee);
    end loop;
  end loop;
  for saved in select s.command from saved as s where s.turn > 3 order by s.turn, s.depth, s.place loop
    execute saved.command;
  end loop;
end
$say_again$;

-- On Supabase everything new in public is granted to clients, and these tables are new. So all is revoked before
-- anything is granted, as in the migrations.
{grants}
revoke all on table legacy.daily_engagement_scores from public, anon, authenticated, service_role;
grant select on table legacy.daily_engagement_scores to authenticated;
grant all on table legacy.daily_engagement_scores to service_role;

-- What clients needed on the workers.
revoke usage on schema legacy from authenticated;
drop function if exists public.share_claims_with_workers();
do $let_clients_out$
declare
  name text;
begin
  perform set_config('citus.enable_alter_role_propagation', 'on', true);
  for name in
    select r.rolname
    from pg_catalog.pg_roles as r
    cross join pg_catalog.pg_roles as me
    where
      r.rolname in ('anon', 'authenticated', 'service_role')
      and not r.rolcanlogin
      and me.rolname = current_user
      and (
        me.rolsuper
        or (me.rolcreaterole and (
          current_setting('server_version_num')::int < 160000 or pg_has_role(r.oid, 'member with admin option')
        ))
      )
  loop
    execute format('alter role %I nologin', name);
  end loop;
end
$let_clients_out$;

commit;
