-- The parts of a Supabase project that a plain Postgres lacks and this schema depends on, in a database that belongs to
-- the role that migrates. For development and test databases only, never applied by a migration.

do $stand_in$
begin
  if to_regclass('auth.users') is not null then
    raise exception 'auth.users already exists: this is a Supabase database, or the stand-in was applied before';
  end if;
end
$stand_in$;

create schema auth;
create schema extensions;

-- No column has a default that would make a user: the auth service names the id and every moment.
create table auth.users (
  instance_id uuid,
  id uuid primary key,
  aud varchar(255),
  role varchar(255),
  email varchar(255),
  encrypted_password varchar(255),
  email_confirmed_at timestamptz,
  invited_at timestamptz,
  confirmation_token varchar(255),
  confirmation_sent_at timestamptz,
  recovery_token varchar(255),
  recovery_sent_at timestamptz,
  email_change_token_new varchar(255),
  email_change varchar(255),
  email_change_sent_at timestamptz,
  last_sign_in_at timestamptz,
  raw_app_meta_data jsonb,
  raw_user_meta_data jsonb,
  is_super_admin boolean,
  created_at timestamptz,
  updated_at timestamptz,
  phone text,
  phone_confirmed_at timestamptz,
  phone_change text default '',
  phone_change_token varchar(255) default '',
  phone_change_sent_at timestamptz,
  confirmed_at timestamptz generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
  email_change_token_current varchar(255) default '',
  email_change_confirm_status smallint default 0 check (email_change_confirm_status between 0 and 2),
  banned_until timestamptz,
  reauthentication_token varchar(255) default '',
  reauthentication_sent_at timestamptz,
  is_sso_user boolean not null default false,
  deleted_at timestamptz,
  is_anonymous boolean not null default false
);

-- There is no policy: clients see no row.
alter table auth.users enable row level security;

-- The signed-in user, from the token that PostgREST has checked.
create function auth.uid() returns uuid
language sql stable
as $$
  select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;

grant usage on schema auth, extensions, public to anon, authenticated, service_role;

-- The trap that the migrations must close: all privileges on everything new in public are granted to clients.
do $owner$
declare
  owner text := (
    select pg_get_userbyid(datdba) from pg_catalog.pg_database where datname = current_database()
  );
  kind text;
begin
  foreach kind in array array['tables', 'sequences', 'functions'] loop
    execute format(
      'alter default privileges for role %I in schema public grant all on %s to anon, authenticated, service_role',
      owner,
      kind
    );
  end loop;

  -- auth belongs to roles that nobody outside the platform can be. Only a superuser can hand it to them.
  if (select rolsuper from pg_catalog.pg_roles where rolname = current_user) then
    execute format('grant usage on schema auth to %I', owner);
    grant usage, create on schema auth to supabase_auth_admin;
    execute format('grant usage, create on schema extensions to %I', owner);
    execute format('grant select on auth.users to %I with grant option', owner);
    execute format('grant insert, update, delete, truncate, references, trigger on auth.users to %I', owner);
    alter schema auth owner to supabase_admin;
    alter schema extensions owner to supabase_admin;
    alter table auth.users owner to supabase_auth_admin;
    alter function auth.uid() owner to supabase_auth_admin;
  end if;
end
$owner$;
