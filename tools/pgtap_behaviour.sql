-- {relation}: what a writer of its rows may rely on.
-- {comment}
begin;

-- These are facts about clients who have what our table gives. Where access=keep has carried over what they had on the
-- app's, the plan says so and skips them. ts_stat runs no query where nothing was ever carried over.
select
  case
    when
      exists (
        select from
          ts_stat(
            'select array_to_tsvector(array[relation]) from ' || to_regclass('momentum_internal.kept_access')
          )
        where word = '{name}'
      )
      then '1..0 # SKIP access=keep carried over what clients had: python -m momentum.verify compares it'
    else plan({count})
  end;

-- Returns the outcome of a statement for a role, with a user's token if one is given, and undoes it. pgTAP itself runs
-- as the session's own user only, so the role is set around the statement alone; the exception rolls back the role
-- and the statement's effects.
create function pg_temp.attempt(actor text, statement text, signed_in uuid default null) returns text
language plpgsql
as $$
declare
  affected bigint;
begin
  perform set_config('request.jwt.claims', jsonb_build_object('sub', signed_in)::text, true);
  perform set_config('role', actor, true);
  execute statement;
  get diagnostics affected = row_count;
  raise exception '% rows', affected;
exception when others then
  return sqlerrm;
end
$$;

-- The owner of the relations: the role that migrates.
create function pg_temp.owner() returns text language sql stable
as $$select pg_get_userbyid(nspowner)::text from pg_catalog.pg_namespace where nspname = 'momentum_internal'$$;

-- In a function, so that it can end before the first assertion.
create function pg_temp.tests() returns setof text language plpgsql
as $tests$
begin
if exists (
  select from ts_stat(
    'select array_to_tsvector(array[relation]) from ' || to_regclass('momentum_internal.kept_access')
  )
  where word = '{name}'
) then
  return;
end if;

