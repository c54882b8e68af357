-- Adopt the legacy score table in place, or create one in the same layout.
-- Made by `make supabase-sql` from alembic/versions/2026-11-22-1540_adopt_score_table.py;
-- change that file, not this one.
set local lock_timeout = '2s';
set local statement_timeout = '1min';
set local search_path = pg_catalog, pg_temp;
set local quote_all_identifiers = 'off';
set local standard_conforming_strings = 'on';
set local transform_null_equals = 'off';
set local array_nulls = 'on';
set local DateStyle = 'ISO, MDY';
set local IntervalStyle = 'postgres';
set local TimeZone = 'UTC';
set local extra_float_digits = '1';
set local bytea_output = 'hex';
set local default_table_access_method = 'heap';

do $only_after_d3a5b1c8260f$
declare
  migrated text;
begin
  if to_regclass('momentum_internal.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from momentum_internal.alembic_version' into migrated;
  end if;
  if migrated is distinct from 'd3a5b1c8260f' then
    raise exception 'this migration needs a database at revision d3a5b1c8260f, and this one is at %; migrate it with '
      'alembic upgrade head', coalesce(migrated, 'base');
  end if;
end
$only_after_d3a5b1c8260f$;

do $not_where_one_is_parked$
begin
  if to_regclass('momentum_internal.daily_engagement_scores') is not null then
    raise exception 'daily_engagement_scores is parked in momentum_internal; alembic upgrade head takes it back with its rows';
  end if;
end
$not_where_one_is_parked$;

-- Running upgrade d3a5b1c8260f -> e1572ab9630c

do $find_score_table$
declare
  adopted constant regclass := coalesce(
    to_regclass('legacy.daily_engagement_scores'), to_regclass('public.daily_engagement_scores')
  );
  columns constant text[] := array(
    select attname::text from pg_catalog.pg_attribute where attrelid = adopted and attnum > 0 and not attisdropped
  );
  found_schema constant text := (
    select n.nspname
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    where c.oid = adopted
  );
  found_layout constant text := case
    when columns @> array['user_id', 'score_ts', 'score', 'pillar_breakdown'] then 'seed'
    when columns @> array[
      'user_id', 'score_date', 'final_score', 'breakdown', 'momentum_state', 'calculation_metadata'
    ] then 'production'
    else null
  end;
  -- The score table that a script made with --sql is for; null where the migration can look for itself.
  expected constant text := 'fresh';
  found constant text := case when adopted is null then 'fresh' else found_schema || '.' || found_layout end;
begin
  -- The preflight has better messages for these cases, but a script has no preflight.
  if to_regclass('legacy.daily_engagement_scores') is not null
    and to_regclass('public.daily_engagement_scores') is not null then
    raise exception 'there are two tables daily_engagement_scores, in legacy and in public; keep one';
  end if;
  if adopted is not null and to_regclass('momentum_internal.daily_engagement_scores') is not null then
    raise exception 'a score table is parked in momentum_internal, and % is in its place', adopted;
  end if;
  if expected is not null and found is null then
    raise exception
      '% has neither the columns user_id, score_ts, score and pillar_breakdown, nor user_id, score_date, final_score, '
      'breakdown, momentum_state and calculation_metadata', adopted;
  end if;
  if found <> expected then
    raise exception
      'this script was made with -x scores=%, and daily_engagement_scores here needs one made with -x scores=%',
      expected, found;
  end if;

  insert into momentum_internal.score_table
    (relation, layout, created_table, created_schema, granted_usage, unique_index, created_index)
  select
    coalesce(found_schema, 'legacy') || '.daily_engagement_scores', coalesce(found_layout, 'seed'),
    adopted is null, adopted is null and to_regnamespace('legacy') is null, false,
    case when adopted is null then 'legacy.uq_daily_engagement_scores_user_id_utc_day' end, adopted is null
  -- A table of another layout is left to the revision that adopts it.
  where adopted is null or found_layout in ('seed', 'production');
end
$find_score_table$;

do $keep_superseded_scores$
declare
  adopted constant regclass := (
    select relation::regclass from momentum_internal.score_table where not created_table and layout = 'seed'
  );
  missing record;
begin
  if adopted is null then
    return;
  end if;
  if to_regclass('momentum_internal.superseded_scores') is null then
    -- Without the constraints of the adopted table: it may drop one, and then these rows need not satisfy it either.
    execute format('create table momentum_internal.superseded_scores as table %s with no data', adopted);
    -- Otherwise, with a publication for all tables, no row could be deleted, nor any user who has one.
    alter table momentum_internal.superseded_scores replica identity full;
    alter table momentum_internal.superseded_scores
      add constraint fk_superseded_scores_user_id_users
      foreign key (user_id) references auth.users (id) on delete cascade;
    create index ix_superseded_scores_user_id on momentum_internal.superseded_scores (user_id);
    comment on table momentum_internal.superseded_scores is
      'Scores replaced by a later one of the same user and day; a downgrade puts them back.';
    revoke all on table momentum_internal.superseded_scores from public, anon, authenticated, service_role;
  end if;
  alter table momentum_internal.superseded_scores add column if not exists momentum_difference numeric;
  comment on column momentum_internal.superseded_scores.momentum_difference is
    'The score minus that of the row that superseded it, in points.';
  for missing in
    select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, s.attname is not null as changed
    from pg_catalog.pg_attribute as a
    left join pg_catalog.pg_attribute as s
      on s.attrelid = 'momentum_internal.superseded_scores'::regclass and s.attname = a.attname and not s.attisdropped
    where
      a.attrelid = adopted and a.attnum > 0 and not a.attisdropped
      and (s.attname is null or (s.atttypid, s.atttypmod) <> (a.atttypid, a.atttypmod))
  loop
    if missing.changed then
      execute format(
        'alter table momentum_internal.superseded_scores alter column %1$I type %2$s using %1$I::%2$s',
        missing.name, missing.type
      );
    else
      execute format('alter table momentum_internal.superseded_scores add column %I %s', missing.name, missing.type);
    end if;
  end loop;
end
$keep_superseded_scores$;

do $open_legacy$
begin
  if exists (select from momentum_internal.score_table where created_schema) then
    create schema legacy;
    comment on schema legacy is 'Scores from before momentum.';
  end if;
  if exists (select from momentum_internal.score_table where created_table)
    and not has_schema_privilege('service_role', 'legacy', 'usage') then
    if has_schema_privilege('legacy', 'usage with grant option') then
      grant usage on schema legacy to service_role;
      update momentum_internal.score_table set granted_usage = true where only_row;
    else
      raise warning 'service_role may not use the schema legacy; its owner, %, can: '
        'grant usage on schema legacy to service_role',
        (select nspowner::regrole from pg_catalog.pg_namespace where nspname = 'legacy');
    end if;
  end if;
end
$open_legacy$;

CREATE TABLE legacy.daily_engagement_scores (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    user_id UUID NOT NULL,
    score_ts TIMESTAMP WITH TIME ZONE NOT NULL,
    score NUMERIC(5, 2),
    pillar_breakdown JSONB,
    source TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_daily_engagement_scores PRIMARY KEY (id),
    CONSTRAINT ck_daily_engagement_scores_score_in_range CHECK (score between 0 and 100),
    CONSTRAINT ck_daily_engagement_scores_pillar_breakdown_is_object CHECK (pillar_breakdown is null or jsonb_typeof(pillar_breakdown) = 'object'),
    CONSTRAINT ck_daily_engagement_scores_source_is_known CHECK (source = 'backfill'),
    CONSTRAINT fk_daily_engagement_scores_user_id_users FOREIGN KEY(user_id) REFERENCES auth.users (id) ON DELETE CASCADE
);

COMMENT ON TABLE legacy.daily_engagement_scores IS 'Momentum scores: one row per user and UTC day. Clients read it through public.daily_momentum_scores.';

COMMENT ON COLUMN legacy.daily_engagement_scores.id IS 'The row''s key, generated by the server.';

COMMENT ON COLUMN legacy.daily_engagement_scores.user_id IS 'The user who owns the row; deleted with the user.';

COMMENT ON COLUMN legacy.daily_engagement_scores.score_ts IS 'A moment in the UTC day that is scored.';

COMMENT ON COLUMN legacy.daily_engagement_scores.score IS 'The score in points, 0 to 100.';

COMMENT ON COLUMN legacy.daily_engagement_scores.pillar_breakdown IS 'Points by pillar: a JSON object or null.';

COMMENT ON COLUMN legacy.daily_engagement_scores.source IS 'Origin of the row: backfill, or null for a calculated score.';

COMMENT ON COLUMN legacy.daily_engagement_scores.created_at IS 'When the row was created.';

COMMENT ON COLUMN legacy.daily_engagement_scores.updated_at IS 'When the row last changed; set by a trigger.';

CREATE UNIQUE INDEX uq_daily_engagement_scores_user_id_utc_day ON legacy.daily_engagement_scores (user_id, ((score_ts at time zone 'UTC')::date));

comment on index legacy.uq_daily_engagement_scores_user_id_utc_day is 'One row per user and UTC day; finds a user''s scores of a day or a range of days.';

create trigger set_updated_at before update on legacy.daily_engagement_scores
  for each row execute function momentum_internal.set_updated_at();

alter table legacy.daily_engagement_scores enable row level security;

create policy daily_engagement_scores_select_own on legacy.daily_engagement_scores
  for select to authenticated using ((select auth.uid()) = user_id);

revoke all on table legacy.daily_engagement_scores from public, anon, authenticated, service_role;

grant select on table legacy.daily_engagement_scores to authenticated;

grant all on table legacy.daily_engagement_scores to service_role;

UPDATE momentum_internal.alembic_version SET version_num='e1572ab9630c' WHERE momentum_internal.alembic_version.version_num = 'd3a5b1c8260f';
