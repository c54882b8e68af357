-- public.habit_index: what a writer of its rows may rely on.
-- Strength of users' habits: one score per user and day.
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
        where word = 'habit_index'
      )
      then '1..0 # SKIP access=keep carried over what clients had: python -m momentum.verify compares it'
    else plan(28)
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
  where word = 'habit_index'
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
  $$
    insert into public.habit_index (user_id, index_date, habit_score)
    values (pg_temp.ann(), date '2020-02-28' + 2001, 99.95)
  $$,
  'a row needs no more than user_id, index_date, habit_score'
);

return next results_eq(
  $$
    select id is not null, created_at = now(), updated_at = now(), deleted_at is null
    from public.habit_index
    where user_id = pg_temp.ann()
  $$,
  $$values (true, true, true, true)$$,
  'the server fills in id, created_at, updated_at, deleted_at'
);

-- Each constraint is proved by a refusal: one that is misspelt and has no effect would still read well.
return next throws_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, id)
    values (pg_temp.ben(), date '2020-02-28' + 2002, 99.95, null)
  $$,
  '23502',
  'null value in column "id" of relation "habit_index" violates not-null constraint',
  'id is never null'
);

return next throws_ok(
  $$insert into public.habit_index (index_date, habit_score) values (date '2020-02-28' + 2002, 99.95)$$,
  '23502',
  'null value in column "user_id" of relation "habit_index" violates not-null constraint',
  'user_id is never null'
);

return next throws_ok(
  $$insert into public.habit_index (user_id, habit_score) values (pg_temp.ben(), 99.95)$$,
  '23502',
  'null value in column "index_date" of relation "habit_index" violates not-null constraint',
  'index_date is never null'
);

return next throws_ok(
  $$insert into public.habit_index (user_id, index_date) values (pg_temp.ben(), date '2020-02-28' + 2002)$$,
  '23502',
  'null value in column "habit_score" of relation "habit_index" violates not-null constraint',
  'habit_score is never null'
);

return next throws_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, created_at)
    values (pg_temp.ben(), date '2020-02-28' + 2002, 99.95, null)
  $$,
  '23502',
  'null value in column "created_at" of relation "habit_index" violates not-null constraint',
  'created_at is never null'
);

return next throws_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, updated_at)
    values (pg_temp.ben(), date '2020-02-28' + 2002, 99.95, null)
  $$,
  '23502',
  'null value in column "updated_at" of relation "habit_index" violates not-null constraint',
  'updated_at is never null'
);

return next throws_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, deleted_at)
    values (pg_temp.ann(), date '2020-02-28' + 2001, 99.95, now())
  $$,
  '23505',
  'duplicate key value violates unique constraint "uq_habit_index_user_id_index_date"',
  'no two rows have the same user_id and index_date, deleted or not'
);

return next throws_ok(
  $$
    insert into public.habit_index (id, user_id, index_date, habit_score)
    select id, pg_temp.ben(), date '2020-02-28' + 2002, 99.95
    from public.habit_index
    where user_id = pg_temp.ann()
  $$,
  '23505',
  'duplicate key value violates unique constraint "pk_habit_index"',
  'no two rows have the same key'
);

return next throws_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, pillar_id)
    values (pg_temp.ben(), date '2020-02-28' + 2002, 99.95, gen_random_uuid())
  $$,
  '23503',
  'insert or update on table "habit_index" violates foreign key constraint '
  '"fk_habit_index_pillar_id_momentum_pillars"',
  'pillar_id refers to a row of momentum_pillars'
);

return next throws_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score)
    values (gen_random_uuid(), date '2020-02-28' + 2002, 99.95)
  $$,
  '23503',
  'insert or update on table "habit_index" violates foreign key constraint "fk_habit_index_user_id_users"',
  'user_id refers to a row of auth.users'
);

-- The app's upserts name the key, and revive a deleted row only because the key is not partial.
return next lives_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, deleted_at)
    values (pg_temp.ann(), date '2020-02-28' + 2001, 99.95, null)
    on conflict (user_id, index_date) do update set deleted_at = excluded.deleted_at
  $$,
  'an upsert on user_id and index_date works'
);

-- Anyone who holds the public key must get nowhere, and row-level security does not stop TRUNCATE.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('anon', statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.habit_index where true',
      'insert into public.habit_index (user_id, index_date, habit_score) values (pg_temp.ben(), date '
      '''2020-02-28'' + 2002, 99.95)',
      'update public.habit_index set pillar_id = null where true',
      'delete from public.habit_index where true',
      'truncate public.habit_index'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      'permission denied for table habit_index',
      'permission denied for table habit_index',
      'permission denied for table habit_index',
      'permission denied for table habit_index',
      'permission denied for table habit_index'
    ])
  $$,
  'anon may do nothing in public.habit_index, and meets no row'
);

-- Row-level security shows signed-in users no row until there is a policy, not even their own.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('authenticated', statement, signed_in) order by place)
    from unnest(array[null, pg_temp.ann(), pg_temp.ben()]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.habit_index where true',
      'insert into public.habit_index (user_id, index_date, habit_score) values (pg_temp.ben(), date '
      '''2020-02-28'' + 2002, 99.95)',
      'update public.habit_index set pillar_id = null where true',
      'delete from public.habit_index where true',
      'truncate public.habit_index'
    ]) with ordinality as statements (statement, place)
    group by signed_in
  $$,
  $$
    values (array[
      '0 rows',
      'new row violates row-level security policy for table "habit_index"',
      '0 rows',
      '0 rows',
      'permission denied for table habit_index'
    ])
  $$,
  'authenticated may select, insert, update, delete in public.habit_index, and meets no row'
);

-- The backend works with the service role's key.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt('service_role', statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.habit_index where user_id = pg_temp.ann()',
      'insert into public.habit_index (user_id, index_date, habit_score) values (pg_temp.ben(), date '
      '''2020-02-28'' + 2002, 99.95)',
      'update public.habit_index set pillar_id = null where user_id = pg_temp.ann()',
      'delete from public.habit_index where user_id = pg_temp.ann()',
      'truncate public.habit_index'
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
  'service_role may select, insert, update, delete, truncate in public.habit_index'
);

-- The migrations work as the owner.
return next set_eq(
  $$
    select array_agg(pg_temp.attempt(pg_temp.owner(), statement, signed_in) order by place)
    from unnest(array[null]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.habit_index where user_id = pg_temp.ann()',
      'insert into public.habit_index (user_id, index_date, habit_score) values (pg_temp.ben(), date '
      '''2020-02-28'' + 2002, 99.95)',
      'update public.habit_index set pillar_id = null where user_id = pg_temp.ann()',
      'delete from public.habit_index where user_id = pg_temp.ann()',
      'truncate public.habit_index'
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
  'owner may select, insert, update, delete, truncate in public.habit_index'
);

-- The app writes through PostgREST too, and may send a time of its own.
return next results_eq(
  $$
    with told as (
      update public.habit_index
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
      'insert into public.habit_index (user_id, index_date, habit_score, updated_at) values (pg_temp.ben(),'
      ' date ''2020-02-28'' + 2002, 99.95, null)'
    )
  $$,
  $$values ('1 rows')$$,
  'a client''s insert sets updated_at, whatever the client says'
);

return next lives_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, pillar_id)
    values (pg_temp.ben(), date '2020-02-28' + 2002, 99.95, pg_temp.momentum_pillars())
  $$,
  'pillar_id may refer to a row of public.momentum_pillars'
);

-- PostgreSQL 18 words the refusal differently.
return next throws_matching(
  $$delete from public.momentum_pillars where id = pg_temp.momentum_pillars()$$,
  'violates (RESTRICT setting of )?foreign key constraint "fk_habit_index_pillar_id_momentum_pillars"',
  'a row of public.momentum_pillars that public.habit_index refers to cannot be deleted'
);

delete from public.habit_index where pillar_id = pg_temp.momentum_pillars();

-- Deleting a user deletes the user's rows.
return next lives_ok(
  $$delete from auth.users where id = pg_temp.ann()$$,
  'a user with rows in public.habit_index can be deleted'
);

return next is_empty(
  $$select from public.habit_index where user_id = pg_temp.ann()$$,
  'the rows of public.habit_index go with their user'
);

-- Up to here `make pgtap-sql` has made this file from the model, momentum/grants.py and tests/samples.py: change those.
-- From here on it is written by hand: what is special for the table, such as the rows that each CHECK refuses.

-- A complete row, to show that the constraints below don't refuse everything.
return next lives_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, pillar_id, details)
    values (pg_temp.ben(), '2026-03-01', 100, pg_temp.momentum_pillars(), '{"streak": 3}')
  $$,
  'a score of another user on the same day may be 100 and have a pillar and details'
);

return next throws_ok(
  $$insert into public.habit_index (user_id, index_date, habit_score) values (pg_temp.ben(), '2026-03-02', -0.01)$$,
  '23514',
  'new row for relation "habit_index" violates check constraint "ck_habit_index_habit_score_in_range"',
  'a score is not below 0'
);

return next throws_ok(
  $$insert into public.habit_index (user_id, index_date, habit_score) values (pg_temp.ben(), '2026-03-02', 100.01)$$,
  '23514',
  'new row for relation "habit_index" violates check constraint "ck_habit_index_habit_score_in_range"',
  'a score is not above 100'
);

return next throws_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, details)
    values (pg_temp.ben(), '2026-03-02', 1, '[1]')
  $$,
  '23514',
  'new row for relation "habit_index" violates check constraint "ck_habit_index_details_is_object"',
  'details are no array'
);

return next throws_ok(
  $$
    insert into public.habit_index (user_id, index_date, habit_score, details)
    values (pg_temp.ben(), '2026-03-02', 1, 'null')
  $$,
  '23514',
  'new row for relation "habit_index" violates check constraint "ck_habit_index_details_is_object"',
  'details are not JSON''s own null'
);

return query select * from finish();
end
$tests$;

select * from pg_temp.tests();

rollback;
