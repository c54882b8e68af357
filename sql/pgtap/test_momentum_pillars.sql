-- public.momentum_pillars: what a writer of its rows may rely on.
-- Areas of life in which users earn momentum points, such as sleep or movement.
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
        where word = 'momentum_pillars'
      )
      then '1..0 # SKIP access=keep carried over what clients had: python -m momentum.verify compares it'
    else plan(18)
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
  where word = 'momentum_pillars'
) then
  return;
end if;

-- The users of the tests below, and a row of each table that this one refers to.
create function pg_temp.ann() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000a'::uuid$$;

create function pg_temp.ben() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000b'::uuid$$;

insert into auth.users (id) values (pg_temp.ann()), (pg_temp.ben());

-- A client that sends the minimum must get a complete row.
return next lives_ok(
  $$insert into public.momentum_pillars (name) values ('pillar ' || 2001)$$,
  'a row needs no more than name'
);

return next results_eq(
  $$
    select id is not null, created_at = now(), updated_at = now(), deleted_at is null
    from public.momentum_pillars
    where name = 'pillar ' || 2001
  $$,
  $$values (true, true, true, true)$$,
  'the server fills in id, created_at, updated_at, deleted_at'
);

-- Each constraint is proved by a refusal: one that is misspelt and has no effect would still read well.
return next throws_ok(
  $$insert into public.momentum_pillars (name, id) values ('pillar ' || 2002, null)$$,
  '23502',
  'null value in column "id" of relation "momentum_pillars" violates not-null constraint',
  'id is never null'
);

return next throws_ok(
  $$insert into public.momentum_pillars (name) values (null)$$,
  '23502',
  'null value in column "name" of relation "momentum_pillars" violates not-null constraint',
  'name is never null'
);

return next throws_ok(
  $$insert into public.momentum_pillars (name, created_at) values ('pillar ' || 2002, null)$$,
  '23502',
  'null value in column "created_at" of relation "momentum_pillars" violates not-null constraint',
  'created_at is never null'
);

return next throws_ok(
  $$insert into public.momentum_pillars (name, updated_at) values ('pillar ' || 2002, null)$$,
  '23502',
  'null value in column "updated_at" of relation "momentum_pillars" violates not-null constraint',
  'updated_at is never null'
);

return next throws_ok(
  $$insert into public.momentum_pillars (name, deleted_at) values ('pillar ' || 2001, now())$$,
  '23505',
  'duplicate key value violates unique constraint "uq_momentum_pillars_name"',
  'no two rows have the same name, deleted or not'
);

return next throws_ok(
  $$
    insert into public.momentum_pillars (id, name)
    select id, 'pillar ' || 2002
    from public.momentum_pillars
    where name = 'pillar ' || 2001
  $$,
  '23505',
  'duplicate key value violates unique constraint "pk_momentum_pillars"',
  'no two rows have the same key'
);

-- The app's upserts name the key, and revive a deleted row only because the key is not partial.
return next lives_ok(
  $$
    insert into public.momentum_pillars (name, deleted_at)
    values ('pillar ' || 2001, null)
    on conflict (name) do update set deleted_at = excluded.deleted_at
  $$,
  'an upsert on name works'
);

-- Anyone who holds the public key must get nowhere, and row-level security does not stop TRUNCATE.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('anon', statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_pillars where true',
      'insert into public.momentum_pillars (name) values (''pillar '' || 2002)',
      'update public.momentum_pillars set description = null where true',
      'delete from public.momentum_pillars where true',
      'truncate public.momentum_pillars'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      'permission denied for table momentum_pillars',
      'permission denied for table momentum_pillars',
      'permission denied for table momentum_pillars',
      'permission denied for table momentum_pillars',
      'permission denied for table momentum_pillars'
    ])
  $$,
  'anon may do nothing in public.momentum_pillars, and meets no row'
);

-- Row-level security shows signed-in users no row until there is a policy, not even their own.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('authenticated', statement, signed_in) order by place)
    from unnest(array[null, pg_temp.ann(), pg_temp.ben()]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_pillars where true',
      'insert into public.momentum_pillars (name) values (''pillar '' || 2002)',
      'update public.momentum_pillars set description = null where true',
      'delete from public.momentum_pillars where true',
      'truncate public.momentum_pillars'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      '0 rows',
      'new row violates row-level security policy for table "momentum_pillars"',
      '0 rows',
      '0 rows',
      'permission denied for table momentum_pillars'
    ])
  $$,
  'authenticated may select, insert, update, delete in public.momentum_pillars, and meets no row'
);

-- The backend works with the service role's key.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('service_role', statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_pillars where name = ''pillar '' || 2001',
      'insert into public.momentum_pillars (name) values (''pillar '' || 2002)',
      'update public.momentum_pillars set description = null where name = ''pillar '' || 2001',
      'delete from public.momentum_pillars where name = ''pillar '' || 2001',
      'truncate public.momentum_pillars'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      '1 rows',
      '1 rows',
      '1 rows',
      '1 rows',
      'cannot truncate a table referenced in a foreign key constraint'
    ])
  $$,
  'service_role may select, insert, update, delete, truncate in public.momentum_pillars'
);

-- The migrations work as the owner.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt(pg_temp.owner(), statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_pillars where name = ''pillar '' || 2001',
      'insert into public.momentum_pillars (name) values (''pillar '' || 2002)',
      'update public.momentum_pillars set description = null where name = ''pillar '' || 2001',
      'delete from public.momentum_pillars where name = ''pillar '' || 2001',
      'truncate public.momentum_pillars'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      '1 rows',
      '1 rows',
      '1 rows',
      '1 rows',
      'cannot truncate a table referenced in a foreign key constraint'
    ])
  $$,
  'owner may select, insert, update, delete, truncate in public.momentum_pillars'
);

-- The app writes through PostgREST too, and may send a time of its own.
return next results_eq(
  $$
    with told as (
      update public.momentum_pillars
      set created_at = '2000-01-01 00:00+00', updated_at = '2000-01-01 00:00+00'
      where name = 'pillar ' || 2001
      returning created_at, updated_at
    )

    select created_at, updated_at = now() from told
  $$,
  $$values ('2000-01-01 00:00+00'::timestamptz, true)$$,
  'an update sets updated_at, whatever the writer says, and nothing else'
);

-- Null would be refused.
return next results_eq(
  $$
    select pg_temp.attempt(
      'service_role',
      'insert into public.momentum_pillars (name, updated_at) values (''pillar '' || 2002, null)'
    )
  $$,
  $$values ('1 rows')$$,
  'a client''s insert sets updated_at, whatever the client says'
);

-- Up to here `make pgtap-sql` has made this file from the model, momentum/grants.py and tests/samples.py: change those.
-- From here on it is written by hand: what is special for the table, such as the rows that each CHECK refuses.

return next throws_ok(
  $$insert into public.momentum_pillars (name) values ('')$$,
  '23514',
  'new row for relation "momentum_pillars" violates check constraint "ck_momentum_pillars_name_not_blank"',
  'a name is not empty'
);

return next throws_ok(
  $$insert into public.momentum_pillars (name) values (e' \t\n')$$,
  '23514',
  'new row for relation "momentum_pillars" violates check constraint "ck_momentum_pillars_name_not_blank"',
  'a name is more than white space'
);

-- The migrations keep updated_at where they merge rows. A client may change the setting that says so, and gains nothing.
return next results_eq(
  $$
    select pg_temp.attempt(actor, $do$
      do $update$
      declare
        told timestamptz;
      begin
        perform set_config('momentum.keep_updated_at', 'yes', true);
        update public.momentum_pillars set updated_at = '2000-01-01 00:00+00' where name = 'pillar ' || 2001
        returning updated_at into told;
        raise exception '%', case when told = now() then 'set' else 'kept' end;
      end
      $update$
    $do$)
    from unnest(array['service_role', pg_temp.owner()]) as actor
  $$,
  $$values ('set'), ('kept')$$,
  'nobody but the owner can keep updated_at from being set'
);

return query select * from finish();
end
$tests$;

select * from pg_temp.tests();

rollback;
