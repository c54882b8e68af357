-- public.daily_momentum_scores: the scores by UTC day, in the columns that the app has always read.
begin;

-- These are facts about the table that the migrations create, and about clients who have what ours gives. Where one was
-- adopted, or access=keep has carried over more, the plan says so and skips them. ts_stat runs no query where nothing
-- was ever carried over.
select
  case
    when (select not created_table from momentum_internal.score_table)
      then '1..0 # SKIP the score table was adopted: python -m momentum.verify compares it'
    when
      exists (
        select from
          ts_stat(
            'select array_to_tsvector(array[relation]) from ' || to_regclass('momentum_internal.kept_access')
          )
        where word = 'daily_momentum_scores'
      )
      then '1..0 # SKIP access=keep carried over what clients had: python -m momentum.verify compares it'
    else plan(8)
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

-- In a function, because names in its body are only looked up when it runs.
create function pg_temp.tests() returns setof text language plpgsql
as $tests$
begin
if
  (select not created_table from momentum_internal.score_table)
  or exists (
    select from ts_stat(
      'select array_to_tsvector(array[relation]) from ' || to_regclass('momentum_internal.kept_access')
    )
    where word = 'daily_momentum_scores'
  )
then
  return;
end if;

-- PostgreSQL 15 prints the table's alias before each column and later versions don't, so it is taken out.
return next is(
  regexp_replace(
    regexp_replace(pg_get_viewdef('public.daily_momentum_scores'::regclass), '\ms\.', '', 'g'),
    '\s+',
    ' ',
    'g'
  ),
  ' SELECT user_id, score, ((score_ts AT TIME ZONE ''UTC''::text))::date AS score_date, pillar_breakdown'
  ' FROM legacy.daily_engagement_scores s;',
  'public.daily_momentum_scores shows every row of the score table'
);

-- The users of the tests below, by name.
create function pg_temp.ann() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000a'::uuid$$;

create function pg_temp.ben() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000b'::uuid$$;

insert into auth.users (id) values (pg_temp.ann()), (pg_temp.ben());
insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown) values
(pg_temp.ann(), '2026-03-01 23:30+00', 0, null),
(pg_temp.ann(), '2026-03-02 00:30+00', 100, '{}'),
(pg_temp.ann(), '2026-03-03 12:00+00', null, '{"sleep": 1.5}'),
(pg_temp.ben(), '2026-03-01 12:00+00', 50.25, null);

-- A score of 0, no score and no breakdown are shown too. A plain cast to date would move a day here.
set local time zone 'Pacific/Kiritimati';

return next results_eq(
  $$
    select user_id, score, score_date, pillar_breakdown
    from public.daily_momentum_scores
    where user_id in (pg_temp.ann(), pg_temp.ben())
    order by user_id, score_date
  $$,
  $$
    values
      (pg_temp.ann(), 0.00, '2026-03-01'::date, null),
      (pg_temp.ann(), 100.00, '2026-03-02'::date, '{}'::jsonb),
      (pg_temp.ann(), null, '2026-03-03'::date, '{"sleep": 1.5}'::jsonb),
      (pg_temp.ben(), 50.25, '2026-03-01'::date, null)
  $$,
  'every row is shown under its day in UTC, also to a session in the far east'
);

-- A plain cast would move another day here.
set local time zone 'Pacific/Pago_Pago';

return next results_eq(
  $$
    select user_id, score, score_date, pillar_breakdown
    from public.daily_momentum_scores
    where user_id in (pg_temp.ann(), pg_temp.ben())
    order by user_id, score_date
  $$,
  $$
    values
      (pg_temp.ann(), 0.00, '2026-03-01'::date, null),
      (pg_temp.ann(), 100.00, '2026-03-02'::date, '{}'::jsonb),
      (pg_temp.ann(), null, '2026-03-03'::date, '{"sleep": 1.5}'::jsonb),
      (pg_temp.ben(), 50.25, '2026-03-01'::date, null)
  $$,
  'every row is shown under its day in UTC, also to a session in the far west'
);

set local time zone 'UTC';

-- The app asks for a user's scores of a day or a range of days, which must not read the scores of everybody.
set local enable_seqscan = off;

do $$
declare
  plan text;
begin
  execute '
    explain (format json)
    select score from public.daily_momentum_scores
    where user_id = pg_temp.ann() and score_date between ''2026-03-01'' and ''2026-03-07''
  ' into plan;
  perform set_config('momentum.plan', plan, true);
end
$$;

return next matches(
  current_setting('momentum.plan'),
  '"Index Cond": "\(\(user_id = .* AND .*score_ts.*>= .*score_ts.*<= ',
  'a search by user and days is a search in the unique index'
);

-- Anyone who holds the public key must get nowhere. No role can truncate a view.
return next results_eq(
  $$
    select pg_temp.attempt('anon', statement)
    from unnest(array[
      'select from public.daily_momentum_scores',
      'insert into public.daily_momentum_scores default values',
      'update public.daily_momentum_scores set score = 1 where true',
      'delete from public.daily_momentum_scores where true',
      'truncate public.daily_momentum_scores'
    ]) as statement
  $$,
  $$
    values
      ('permission denied for view daily_momentum_scores'),
      ('permission denied for view daily_momentum_scores'),
      ('permission denied for view daily_momentum_scores'),
      ('permission denied for view daily_momentum_scores'),
      ('"daily_momentum_scores" is not a table')
  $$,
  'anon is refused every action on public.daily_momentum_scores'
);

-- Signed-in users see their own scores, through the policy of the score table, and nobody else's; without a token there
-- is nobody whose rows could be shown. Nobody changes any.
return next results_eq(
  $$
    select signed_in, array_agg(pg_temp.attempt('authenticated', statement, signed_in) order by place)
    from unnest(array[pg_temp.ann(), pg_temp.ben(), null]) as signed_in
    cross join unnest(array[
      'select from public.daily_momentum_scores',
      'select from public.daily_momentum_scores where user_id <> (select auth.uid())',
      'insert into public.daily_momentum_scores (user_id) values ((select auth.uid()))',
      'update public.daily_momentum_scores set score = 1 where user_id = (select auth.uid())',
      'delete from public.daily_momentum_scores where user_id = (select auth.uid())',
      'truncate public.daily_momentum_scores'
    ]) with ordinality as statements (statement, place)
    group by signed_in
    order by signed_in
  $$,
  $$
    select
      signed_in,
      array[
        seen,
        '0 rows',
        'permission denied for view daily_momentum_scores',
        'permission denied for view daily_momentum_scores',
        'permission denied for view daily_momentum_scores',
        '"daily_momentum_scores" is not a table'
      ]
    from (values (pg_temp.ann(), '3 rows'), (pg_temp.ben(), '1 rows'), (null, '0 rows')) as users (signed_in, seen)
  $$,
  'authenticated sees the user''s own rows of public.daily_momentum_scores and changes none'
);

-- The backend reads everybody's scores here and writes them in the score table.
return next results_eq(
  $$
    select pg_temp.attempt('service_role', statement)
    from unnest(array[
      'select from public.daily_momentum_scores where user_id in (pg_temp.ann(), pg_temp.ben())',
      'insert into public.daily_momentum_scores (user_id) values (pg_temp.ann())',
      'update public.daily_momentum_scores set score = 1 where true',
      'delete from public.daily_momentum_scores where true',
      'truncate public.daily_momentum_scores'
    ]) as statement
  $$,
  $$
    values
      ('4 rows'),
      ('permission denied for view daily_momentum_scores'),
      ('permission denied for view daily_momentum_scores'),
      ('permission denied for view daily_momentum_scores'),
      ('"daily_momentum_scores" is not a table')
  $$,
  'service_role sees all rows of public.daily_momentum_scores and changes none'
);

return next is(
  pg_temp.attempt(
    pg_temp.owner(), 'select from public.daily_momentum_scores where user_id in (pg_temp.ann(), pg_temp.ben())'
  ),
  '4 rows',
  'the owner sees all rows of public.daily_momentum_scores'
);

return query select * from finish();
end
$tests$;

select * from pg_temp.tests();

rollback;
