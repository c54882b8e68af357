-- The parts of a Supabase project that a plain Postgres lacks and this schema depends on. For development and test
-- databases only, never applied by a migration.

do $stand_in$
declare
  role text;
begin
  if to_regclass('auth.users') is not null then
    raise exception 'auth.users already exists: this is a Supabase database, or the stand-in was applied before';
  end if;

  -- Roles belong to the whole server, and two databases may be created at the same moment.
  foreach role in array array['anon', 'authenticated', 'service_role'] loop
    begin
      execute format('create role %I nologin', role);
    exception when duplicate_object or unique_violation then
      null;
    end;
  end loop;
  begin
    if not (select rolbypassrls from pg_catalog.pg_roles where rolname = 'service_role') then
      alter role service_role bypassrls;
    end if;
  exception when others then
    if sqlerrm not like 'tuple concurrently updated%' then
      raise;
    end if;
  end;
end
$stand_in$;

create schema auth;
create schema extensions;

create table auth.users (
  id uuid primary key default gen_random_uuid(),
  email text,
  last_sign_in_at timestamptz,
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  banned_until timestamptz,
  deleted_at timestamptz,
  is_anonymous boolean not null default false
);

-- The signed-in user, from the token that PostgREST has checked.
create function auth.uid() returns uuid
language sql stable
as $$
  select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;

grant usage on schema auth, extensions, public to anon, authenticated, service_role;

-- The trap that the migrations must close: all privileges on everything new in public are granted to clients.
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
