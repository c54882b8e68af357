-- A project's "automatic RLS": row-level security is enabled on every new table in public. Only a superuser makes event
-- triggers, and the platform makes this one.

create function public.rls_auto_enable() returns event_trigger
language plpgsql security definer
set search_path = pg_catalog
as $$
declare
  made record;
begin
  for made in
    select object_identity
    from pg_event_trigger_ddl_commands()
    where schema_name = 'public' and object_type in ('table', 'partitioned table')
  loop
    execute format('alter table if exists %s enable row level security', made.object_identity);
  end loop;
end
$$;

do $trigger$
begin
  create event trigger ensure_rls
    on ddl_command_end
    when tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO')
    execute function public.rls_auto_enable();
end
$trigger$;
