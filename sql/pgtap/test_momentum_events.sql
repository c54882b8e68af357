-- public.momentum_events: what a writer of its rows may rely on.
-- User activity that counts towards momentum: one row per event.
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
        where word = 'momentum_events'
      )
      then '1..0 # SKIP access=keep carried over what clients had: python -m momentum.verify compares it'
    else plan(25)
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
  where word = 'momentum_events'
) then
  return;
end if;

-- The users of the tests below, and a row of each table that this one refers to.
create function pg_temp.ann() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000a'::uuid$$;

create function pg_temp.ben() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000b'::uuid$$;

create function pg_temp.momentum_pillars() returns uuid language sql immutable
as $$select '20000000-0000-4000-8000-000000000001'::uuid$$;

insert into auth.users (id) values (pg_temp.ann()), (pg_temp.ben());

insert into public.momentum_pillars (id, name) values (pg_temp.momentum_pillars(), 'pillar ' || 2002);

-- A client that sends the minimum must get a complete row.
return next lives_ok(
  $$insert into public.momentum_events (user_id, event_type) values (pg_temp.ann(), 'walk')$$,
  'a row needs no more than user_id, event_type'
);

return next results_eq(
  $$
    select id is not null, event_ts = now(), created_at = now(), updated_at = now(), deleted_at is null
    from public.momentum_events
    where user_id = pg_temp.ann()
  $$,
  $$values (true, true, true, true, true)$$,
  'the server fills in id, event_ts, created_at, updated_at, deleted_at'
);

-- Each constraint is proved by a refusal: one that is misspelt and has no effect would still read well.
return next throws_ok(
  $$insert into public.momentum_events (user_id, event_type, id) values (pg_temp.ben(), 'walk', null)$$,
  '23502',
  'null value in column "id" of relation "momentum_events" violates not-null constraint',
  'id is never null'
);

return next throws_ok(
  $$insert into public.momentum_events (event_type) values ('walk')$$,
  '23502',
  'null value in column "user_id" of relation "momentum_events" violates not-null constraint',
  'user_id is never null'
);

return next throws_ok(
  $$insert into public.momentum_events (user_id) values (pg_temp.ben())$$,
  '23502',
  'null value in column "event_type" of relation "momentum_events" violates not-null constraint',
  'event_type is never null'
);

return next throws_ok(
  $$insert into public.momentum_events (user_id, event_type, event_ts) values (pg_temp.ben(), 'walk', null)$$,
  '23502',
  'null value in column "event_ts" of relation "momentum_events" violates not-null constraint',
  'event_ts is never null'
);

return next throws_ok(
  $$insert into public.momentum_events (user_id, event_type, created_at) values (pg_temp.ben(), 'walk', null)$$,
  '23502',
  'null value in column "created_at" of relation "momentum_events" violates not-null constraint',
  'created_at is never null'
);

return next throws_ok(
  $$insert into public.momentum_events (user_id, event_type, updated_at) values (pg_temp.ben(), 'walk', null)$$,
  '23502',
  'null value in column "updated_at" of relation "momentum_events" violates not-null constraint',
  'updated_at is never null'
);

return next throws_ok(
  $$
    insert into public.momentum_events (id, user_id, event_type)
    select id, pg_temp.ben(), 'walk'
    from public.momentum_events
    where user_id = pg_temp.ann()
  $$,
  '23505',
  'duplicate key value violates unique constraint "pk_momentum_events"',
  'no two rows have the same key'
);

return next throws_ok(
  $$
    insert into public.momentum_events (user_id, event_type, pillar_id)
    values (pg_temp.ben(), 'walk', gen_random_uuid())
  $$,
  '23503',
  'insert or update on table "momentum_events" violates foreign key constraint '
  '"fk_momentum_events_pillar_id_momentum_pillars"',
  'pillar_id refers to a row of momentum_pillars'
);

return next throws_ok(
  $$insert into public.momentum_events (user_id, event_type) values (gen_random_uuid(), 'walk')$$,
  '23503',
  'insert or update on table "momentum_events" violates foreign key constraint "fk_momentum_events_user_id_users"',
  'user_id refers to a row of auth.users'
);

-- Anyone who holds the public key must get nowhere, and row-level security does not stop TRUNCATE.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('anon', statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_events where true',
      'insert into public.momentum_events (user_id, event_type) values (pg_temp.ben(), ''walk'')',
      'update public.momentum_events set pillar_id = null where true',
      'delete from public.momentum_events where true',
      'truncate public.momentum_events'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      'permission denied for table momentum_events',
      'permission denied for table momentum_events',
      'permission denied for table momentum_events',
      'permission denied for table momentum_events',
      'permission denied for table momentum_events'
    ])
  $$,
  'anon may do nothing in public.momentum_events, and meets no row'
);

-- Row-level security shows signed-in users no row until there is a policy, not even their own.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('authenticated', statement, signed_in) order by place)
    from unnest(array[null, pg_temp.ann(), pg_temp.ben()]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_events where true',
      'insert into public.momentum_events (user_id, event_type) values (pg_temp.ben(), ''walk'')',
      'update public.momentum_events set pillar_id = null where true',
      'delete from public.momentum_events where true',
      'truncate public.momentum_events'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      '0 rows',
      'new row violates row-level security policy for table "momentum_events"',
      '0 rows',
      '0 rows',
      'permission denied for table momentum_events'
    ])
  $$,
  'authenticated may select, insert, update, delete in public.momentum_events, and meets no row'
);

-- The backend works with the service role's key.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('service_role', statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_events where user_id = pg_temp.ann()',
      'insert into public.momentum_events (user_id, event_type) values (pg_temp.ben(), ''walk'')',
      'update public.momentum_events set pillar_id = null where user_id = pg_temp.ann()',
      'delete from public.momentum_events where user_id = pg_temp.ann()',
      'truncate public.momentum_events'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      '1 rows',
      '1 rows',
      '1 rows',
      '1 rows',
      '0 rows'
    ])
  $$,
  'service_role may select, insert, update, delete, truncate in public.momentum_events'
);

-- The migrations work as the owner.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt(pg_temp.owner(), statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_events where user_id = pg_temp.ann()',
      'insert into public.momentum_events (user_id, event_type) values (pg_temp.ben(), ''walk'')',
      'update public.momentum_events set pillar_id = null where user_id = pg_temp.ann()',
      'delete from public.momentum_events where user_id = pg_temp.ann()',
      'truncate public.momentum_events'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      '1 rows',
      '1 rows',
      '1 rows',
      '1 rows',
      '0 rows'
    ])
  $$,
  'owner may select, insert, update, delete, truncate in public.momentum_events'
);

-- The app writes through PostgREST too, and may send a time of its own.
return next results_eq(
  $$
    with told as (
      update public.momentum_events
      set created_at = '2000-01-01 00:00+00', updated_at = '2000-01-01 00:00+00'
      where user_id = pg_temp.ann()
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
      'insert into public.momentum_events (user_id, event_type, updated_at) values (pg_temp.ben(), ''walk'', null)'
    )
  $$,
  $$values ('1 rows')$$,
  'a client''s insert sets updated_at, whatever the client says'
);

return next lives_ok(
  $$
    insert into public.momentum_events (user_id, event_type, pillar_id)
    values (pg_temp.ben(), 'walk', pg_temp.momentum_pillars())
  $$,
  'pillar_id may refer to a row of public.momentum_pillars'
);

-- PostgreSQL 18 words the refusal differently.
return next throws_matching(
  $$delete from public.momentum_pillars where id = pg_temp.momentum_pillars()$$,
  'violates (RESTRICT setting of )?foreign key constraint "fk_momentum_events_pillar_id_momentum_pillars"',
  'a row of public.momentum_pillars that public.momentum_events refers to cannot be deleted'
);

delete from public.momentum_events where pillar_id = pg_temp.momentum_pillars();

-- Deleting a user deletes the user's rows.
return next lives_ok(
  $$delete from auth.users where id = pg_temp.ann()$$,
  'a user with rows in public.momentum_events can be deleted'
);

return next is_empty(
  $$select from public.momentum_events where user_id = pg_temp.ann()$$,
  'the rows of public.momentum_events go with their user'
);

-- Up to here `make pgtap-sql` has made this file from the model, momentum/grants.py and tests/samples.py: change those.
-- From here on it is written by hand: what is special for the table, such as the rows that each CHECK refuses.

-- A complete row, to show that the constraints below don't refuse everything.
return next lives_ok(
  $$
    insert into public.momentum_events (user_id, pillar_id, event_type, payload)
    values (pg_temp.ben(), pg_temp.momentum_pillars(), 'pgTAP', '{"steps": 9000}')
  $$,
  'an event may have a pillar and a payload'
);

return next throws_ok(
  $$insert into public.momentum_events (user_id, event_type) values (pg_temp.ben(), e' \t\n')$$,
  '23514',
  'new row for relation "momentum_events" violates check constraint "ck_momentum_events_event_type_not_blank"',
  'an event type is more than white space'
);

return next throws_ok(
  $$insert into public.momentum_events (user_id, event_type, payload) values (pg_temp.ben(), 'x', '[1]')$$,
  '23514',
  'new row for relation "momentum_events" violates check constraint "ck_momentum_events_payload_is_object"',
  'a payload is no array'
);

return next throws_ok(
  $$insert into public.momentum_events (user_id, event_type, payload) values (pg_temp.ben(), 'x', 'null')$$,
  '23514',
  'new row for relation "momentum_events" violates check constraint "ck_momentum_events_payload_is_object"',
  'a payload is not JSON''s own null'
);

return query select * from finish();
end
$tests$;

select * from pg_temp.tests();

rollback;
