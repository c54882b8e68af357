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
-- the old one with everything that depends on it. So the view and all comments are saved, and restored at the end.
create temporary table remembered on commit drop as
select
  1 as turn,
  format(
    'create view public.daily_momentum_scores with (security_invoker = true) as %s',
    pg_get_viewdef('public.daily_momentum_scores'::regclass)
  ) as command
union all
select
  2 as turn,
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
  and coalesce(i.indrelid, c.oid) in (
{regclasses_and_view}
  );
drop view public.daily_momentum_scores;

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
-- On Supabase everything new in public is granted to clients, and these tables are new. So all is revoked before
-- anything is granted, as in the migrations.
do $say_again$
declare
  command text;
begin
  for command in select r.command from remembered as r order by r.turn loop
    execute command;
  end loop;
end
$say_again$;
{grants}
revoke all on table legacy.daily_engagement_scores from public, anon, authenticated, service_role;
grant select on table legacy.daily_engagement_scores to authenticated;
grant all on table legacy.daily_engagement_scores to service_role;

commit;
