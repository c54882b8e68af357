-- Distributes a migrated database over the workers of a Citus cluster, each user's rows on one of them.
--
-- For the layout that the migrations create if there is no score table (legacy.daily_engagement_scores). Run it on the
-- coordinator, in the migrated database, after `create extension citus`, while no client is working: it locks every
-- table until it is done.
--
--   psql -v ON_ERROR_STOP=1 -f sql/citus/distribute.sql "$MOMENTUM_DATABASE_URL"
--
-- Made by `make citus-sql` from the models and tools/citus_distribute.sql: change those, not this file.
--
-- It is one transaction: if anything is refused, nothing has changed. sql/citus/undistribute.sql undoes it.
begin;

-- Names without a schema mean the server's own and Citus', and never what somebody has put into public.
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;

-- Checks first: anything that Citus would refuse halfway through is refused here, in one sentence.
do $look_first$
declare
  name text;
  other record;
begin
  if to_regclass('pg_dist_partition') is null then
    raise exception 'this database has no Citus; install it on every node and run: create extension citus';
  end if;
  foreach name in array array[
{names}
  ] loop
    if to_regclass(name) is null then
      raise exception 'there is no table %; run `alembic upgrade head` where there was no score table before', name;
    end if;
    if exists (select from pg_dist_partition where logicalrelid = to_regclass(name)) then
      raise exception '% is distributed already; run sql/citus/undistribute.sql to start over', name;
    end if;
  end loop;
  if not exists (select from momentum_internal.score_table where created_table and layout = 'seed') then
    raise exception 'the score table was adopted; this script is for the one that the migrations create';
  end if;

  -- A table that stays where it is can't refer to one that is distributed.
  for other in
    select
      conname,
      conrelid::regclass as referring,
      confrelid::regclass as referred
    from pg_catalog.pg_constraint
    where
      contype = 'f'
      and confrelid in (
{regclasses}
      )
      and conrelid not in (
{regclasses}
      )
  loop
    raise exception '% refers to % (%), which is to be distributed; drop that foreign key first',
      other.referring, other.referred, other.conname;
  end loop;

  -- And one that is distributed can't refer to a table that stays.
  for other in
    select
      conname,
      conrelid::regclass as referring,
      confrelid::regclass as referred
    from pg_catalog.pg_constraint
    where
      contype = 'f'
      and conrelid in (
{regclasses}
      )
      and confrelid not in (
{regclasses}
      )
  loop
    raise exception '% refers to %, which is not distributed (%); drop that foreign key first',
      other.referring, other.referred, other.conname;
  end loop;

  -- A worker can't see whether a value is unique among the users of the others. Our primary keys are widened below.
  for other in
    select
      i.indexrelid::regclass as key,
      t.relation
    from (
      values
{owners}
    ) as t (relation, owner)
    inner join pg_catalog.pg_index as i on t.relation = i.indrelid and (i.indisunique or i.indisexclusion)
    inner join pg_catalog.pg_attribute as a on t.relation = a.attrelid and t.owner = a.attname
    inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
    where
      a.attnum <> all(i.indkey::smallint [])
      and not (i.indisprimary and t.relation <> 'auth.users'::regclass and starts_with(c.relname, 'pk_'))
  loop
    raise exception '% of % does not contain the user, as Citus demands of a unique key; drop it first',
      other.key, other.relation;
  end loop;

  -- Citus refuses a policy with a subquery; those of our own are replaced below.
  for other in
    select
      polname,
      polrelid::regclass as relation
    from pg_catalog.pg_policy
    where
      polrelid in (
{regclasses}
      )
      and concat(polqual, polwithcheck) like '%{SUBLINK %'
      and (polrelid::regclass::text, polname) not in (
{policies_of_ours}
      )
  loop
    raise exception 'the policy % of % has a subquery, which Citus refuses; drop it first, or write it without one',
      other.polname, other.relation;
  end loop;
end
$look_first$;

-- The tables keep their trigger set_updated_at. Citus calls triggers unsafe, because they might look at other shards'
-- rows; this one changes nothing but its own row.
select set_config('citus.enable_unsafe_triggers', 'on', true);

-- One connection per worker, so that each statement sees what earlier ones in this transaction created.
select set_config('citus.multi_shard_modify_mode', 'sequential', true);

-- The foreign keys go first, because for a moment one of their two sides would be distributed and the other not.
{drop_foreign_keys}
alter table legacy.daily_engagement_scores
drop constraint fk_daily_engagement_scores_user_id_users;

-- A unique key must include the distribution column, because a worker can't see the rows of the others. The other
-- unique keys already include the user.
{widen_primary_keys}
alter table legacy.daily_engagement_scores
drop constraint pk_daily_engagement_scores,
add constraint pk_daily_engagement_scores primary key (user_id, id);

-- Citus refuses a policy with a subquery. The rule is the same; it is only evaluated for each row.
drop policy daily_engagement_scores_select_own on legacy.daily_engagement_scores;
create policy daily_engagement_scores_select_own on legacy.daily_engagement_scores
for select to authenticated using (auth.uid() = user_id);
{policies}
-- Each worker gets all rows that belong to no user, such as the pillars, and its own share of the users with theirs.
{create_reference_tables}
select create_distributed_table('auth.users', 'id', colocate_with => 'none');
{create_distributed_tables}
select create_distributed_table('legacy.daily_engagement_scores', 'user_id', colocate_with => 'auth.users');

-- The foreign keys are added again under their names: between rows on the same worker they hold as before.
{add_foreign_keys}
alter table legacy.daily_engagement_scores
add constraint fk_daily_engagement_scores_user_id_users
foreign key (user_id) references auth.users (id) on delete cascade;

-- What clients need on the workers. A query of a shard names the schema, so that its reader must have USAGE; and the
-- coordinator logs in there as the client's role. It is the workers' roles alone that may log in afterwards.
grant usage on schema legacy to authenticated;
do $let_clients_in$
declare
  client record;
begin
  for client in
    select
      r.rolname as name,
      me.rolsuper
      or (me.rolcreaterole and (
        current_setting('server_version_num')::int < 160000 or pg_has_role(r.oid, 'member with admin option')
      )) as may_change
    from pg_catalog.pg_roles as r
    cross join pg_catalog.pg_roles as me
    where r.rolname in ('anon', 'authenticated', 'service_role') and not r.rolcanlogin and me.rolname = current_user
    order by r.rolname
  loop
    if client.may_change then
      perform set_config('citus.enable_alter_role_propagation', 'on', true);
      execute format('alter role %I login', client.name);
      perform set_config('citus.enable_alter_role_propagation', 'off', true);
      execute format('alter role %I nologin', client.name);
    else
      raise warning 'the workers have to let the role % log in, and you may not change it; run there: alter role % login',
        client.name, client.name;
    end if;
  end loop;
end
$let_clients_in$;

-- Policies are evaluated on the workers, which learn of a setting made by SET LOCAL, but not of one by set_config(), by
-- which PostgREST sets the claims. So it has to call this before each request (db-pre-request).
create or replace function public.share_claims_with_workers() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $share_claims$
begin
  set local citus.propagate_set_commands = 'local';
  execute format('set local request.jwt.claims = %L', coalesce(current_setting('request.jwt.claims', true), ''));
end
$share_claims$;
comment on function public.share_claims_with_workers() is
'Makes the claims of a request known to the workers of the cluster, whose policies need them.';
revoke all on function public.share_claims_with_workers() from public;
grant execute on function public.share_claims_with_workers() to anon, authenticated, service_role;

-- The rows are on the workers now, and the coordinator still has them on its disk, where nobody sees them.
do $offer$
declare
  held text := (
    select pg_size_pretty(sum(pg_total_relation_size(t.relation)))
    from unnest(array[
{regclasses_less_deep}
    ]) as t (relation)
  );
begin
  raise notice 'the coordinator still holds % of the rows that were distributed; free that with: %', held,
    '{free}';
end
$offer$;

commit;
