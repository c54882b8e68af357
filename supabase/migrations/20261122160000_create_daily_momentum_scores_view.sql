-- Create the view daily_momentum_scores, which shows the legacy scores to their consumers.
-- Made by `make supabase-sql` from alembic/versions/2026-11-22-1600_create_daily_momentum_scores_view.py;
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

do $only_after_07d3e6c8b51f$
declare
  migrated text;
begin
  if to_regclass('momentum_internal.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from momentum_internal.alembic_version' into migrated;
  end if;
  if migrated is distinct from '07d3e6c8b51f' then
    raise exception 'this migration needs a database at revision 07d3e6c8b51f, and this one is at %; migrate it with '
      'alembic upgrade head', coalesce(migrated, 'base');
  end if;
end
$only_after_07d3e6c8b51f$;

-- Running upgrade 07d3e6c8b51f -> b82e4f1690da

do $create_view$
declare
  scores constant momentum_internal.score_table := (select t from momentum_internal.score_table as t);
begin
  if scores.layout = 'production' then
    execute format($view$
create view public.daily_momentum_scores with (security_invoker = true) as
select
  s.user_id,
  s.final_score as score,
  s.score_date,
  s.breakdown as pillar_breakdown
from %s as s
    $view$, scores.relation);
  elsif scores.layout = 'seed' then
    execute format($view$
create view public.daily_momentum_scores with (security_invoker = true) as
select
  s.user_id,
  s.score,
  (s.score_ts at time zone 'UTC')::date as score_date,
  s.pillar_breakdown
from %s as s
    $view$, scores.relation);
  else
    return;
  end if;
  comment on view public.daily_momentum_scores is
    'Momentum scores by UTC day, in the columns that the app has always read.';
  comment on column public.daily_momentum_scores.user_id is 'The user who is scored.';
  comment on column public.daily_momentum_scores.score is 'The score in points, 0 to 100.';
  comment on column public.daily_momentum_scores.score_date is 'The day in UTC.';
  comment on column public.daily_momentum_scores.pillar_breakdown is 'Points by pillar: a JSON object or null.';
  revoke all on table public.daily_momentum_scores from public, anon, authenticated, service_role;
  grant select on table public.daily_momentum_scores to authenticated, service_role;
end
$create_view$;

UPDATE momentum_internal.alembic_version SET version_num='b82e4f1690da' WHERE momentum_internal.alembic_version.version_num = '07d3e6c8b51f';
