-- Copy the rows of the tables that the app's earlier migrations made, where they were parked as predecessors.
-- Made by `make supabase-sql` from alembic/versions/2026-11-22-1530_copy_predecessor_rows.py;
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

do $only_after_c94d27f1508b$
declare
  migrated text;
begin
  if to_regclass('momentum_internal.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from momentum_internal.alembic_version' into migrated;
  end if;
  if migrated is distinct from 'c94d27f1508b' then
    raise exception 'this migration needs a database at revision c94d27f1508b, and this one is at %; migrate it with '
      'alembic upgrade head', coalesce(migrated, 'base');
  end if;
end
$only_after_c94d27f1508b$;

-- Running upgrade c94d27f1508b -> d3a5b1c8260f

UPDATE momentum_internal.alembic_version SET version_num='d3a5b1c8260f' WHERE momentum_internal.alembic_version.version_num = 'c94d27f1508b';
