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

  -- A worker can't see whether a value is unique among the users of the others. Primary keys are widened below.
  for other in
    select
      i.indexrelid::regclass as key,
      t.relation
    from (
      values
{owners}
    ) as t (relation, owner)
    inner join pg_catalog.pg_index as i on t.relation = i.indrelid and i.indisunique and not i.indisprimary
    inner join pg_catalog.pg_attribute as a on t.relation = a.attrelid and t.owner = a.attname
    where a.attnum <> all(i.indkey::smallint [])
  loop
    raise exception '% of % does not contain the user, as Citus demands of a unique key', other.key, other.relation;
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

commit;
