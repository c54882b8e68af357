-- The roles of a Supabase project. They belong to the whole server: those that it has already are left as they are.
-- The caller names the password of the role that migrates, and reads that role's name, in settings of the transaction.

-- Two runs may begin on the same server at the same moment.
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('momentum.testing'));

do $roles$
declare
  is_superuser boolean := (select rolsuper from pg_catalog.pg_roles where rolname = current_user);
  owner text := current_user;
  role text;
  attributes text;
  settings text[];
  setting text;
begin
  for role, attributes, settings in
    values
      ('anon', 'nologin', array['statement_timeout = ''3s''']),
      ('authenticated', 'nologin', array['statement_timeout = ''8s''']),
      ('service_role', 'nologin bypassrls', array[]::text[]),
      -- PostgREST logs in as it, and then sets the role of its client.
      ('authenticator', 'login noinherit', array['statement_timeout = ''8s''', 'lock_timeout = ''8s''']),
      -- The platform's own. On a server that we start, supabase_admin is the first superuser and exists.
      ('supabase_admin', 'nologin', array[]::text[]),
      (
        'supabase_auth_admin', 'login noinherit createrole', array['idle_in_transaction_session_timeout = ''60s''']
      )
  loop
    -- A role that is no superuser makes the three that clients have, and goes without the platform's.
    if to_regrole(role) is null and (is_superuser or role in ('anon', 'authenticated', 'service_role')) then
      execute format('create role %I %s', role, attributes);
      foreach setting in array settings loop
        execute format('alter role %I set %s', role, setting);
      end loop;
      if role = 'authenticator' then
        grant anon, authenticated, service_role to authenticator;
      end if;
    end if;
  end loop;

  -- All that the owner of a project can be is postgres, which is no superuser there.
  if is_superuser then
    owner := 'postgres';
    if (select rolsuper from pg_catalog.pg_roles where rolname = owner) then
      owner := 'momentum_postgres';
    end if;
    if to_regrole(owner) is null then
      execute format(
        'create role %I login createdb createrole replication bypassrls password %L',
        owner,
        nullif(current_setting('momentum_testing.password'), '')
      );
      execute format(
        'grant anon, authenticated, service_role, pg_monitor, pg_read_all_data, pg_signal_backend to %I', owner
      );
      execute format('alter role %I set search_path = "$user", public, extensions', owner);
      -- On the platform this is a setting of the server.
      execute format('alter role %I set statement_timeout = ''120s''', owner);
    end if;
  end if;
  perform set_config('momentum_testing.owner', owner, true);
end
$roles$;
