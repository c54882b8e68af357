-- Give an adopted score table its unique key, one row per user and UTC day; a table that we created has it already.
-- Made by `make supabase-sql` from alembic/versions/2026-11-22-1550_create_score_unique_key.py;
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

do $only_after_e1572ab9630c$
declare
  migrated text;
begin
  if to_regclass('momentum_internal.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from momentum_internal.alembic_version' into migrated;
  end if;
  if migrated is distinct from 'e1572ab9630c' then
    raise exception 'this migration needs a database at revision e1572ab9630c, and this one is at %; migrate it with '
      'alembic upgrade head', coalesce(migrated, 'base');
  end if;
end
$only_after_e1572ab9630c$;

-- Running upgrade e1572ab9630c -> 07d3e6c8b51f

UPDATE momentum_internal.alembic_version SET version_num='07d3e6c8b51f' WHERE momentum_internal.alembic_version.version_num = 'e1572ab9630c';
