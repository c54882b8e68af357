-- The default privileges of a project made since 30 May 2026, after those of an older one in supabase.sql: of all that
-- clients were given, references, trigger and truncate on new tables remain.

do $newer$
declare
  owner text := (
    select pg_get_userbyid(datdba) from pg_catalog.pg_database where datname = current_database()
  );
  privileges text;
begin
  foreach privileges in array array['select, insert, update, delete on tables', 'all on sequences', 'all on functions'] loop
    execute format(
      'alter default privileges for role %I in schema public revoke %s from anon, authenticated, service_role',
      owner,
      privileges
    );
  end loop;
end
$newer$;
