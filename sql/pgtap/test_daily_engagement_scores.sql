-- legacy.daily_engagement_scores: the score table where the migrations made it, behind the view daily_momentum_scores.
begin;

select plan(37);

-- Returns how a statement ends for a role, with a user's token if one is named, and undoes it. pgTAP itself runs as the
-- session's own user only, so the role is set around the statement alone; the exception takes back the role together
-- with what the statement did.
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

-- An unlogged table would lose its rows in a crash; without row level security every client would see every row.
select is(
  (
    select
      jsonb_build_object(
        'kind', c.relkind,
        'persistence', c.relpersistence,
        'row security', c.relrowsecurity,
        'row security for the owner too', c.relforcerowsecurity,
        'replica identity', c.relreplident,
        'part of an inheritance', exists (
          select from pg_catalog.pg_inherits as i
          where c.oid in (i.inhparent, i.inhrelid)
        ),
        'owned by the migrations'' role', c.relowner = n.nspowner,
        'comment', obj_description(c.oid, 'pg_class')
      )
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on n.nspname = 'momentum_internal'
    where c.oid = 'legacy.daily_engagement_scores'::regclass
  ),
  '{
    "kind": "r",
    "persistence": "p",
    "row security": true,
    "row security for the owner too": false,
    "replica identity": "d",
    "part of an inheritance": false,
    "owned by the migrations'' role": true,
    "comment": "Momentum scores: one row per user and UTC day. Clients read it through public.daily_momentum_scores."
  }'::jsonb,
  'legacy.daily_engagement_scores is a logged table with row level security'
);

-- Notices a column that is added, dropped, renamed or moved, and one whose type, NOT NULL, default or comment drifts.
select results_eq(
  $$
    select
      concat_ws(
        ' ',
        a.attname,
        format_type(a.atttypid, a.atttypmod),
        'collate ' || l.collname,
        case when a.attnotnull then 'not null' end,
        case a.attgenerated when '' then 'default ' else 'generated as ' end || pg_get_expr(d.adbin, d.adrelid)
      ) collate "default",
      col_description(a.attrelid, a.attnum)
    from pg_catalog.pg_attribute as a
    left join pg_catalog.pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
    left join pg_catalog.pg_collation as l on a.attcollation = l.oid and l.collname <> 'default'
    where a.attrelid = 'legacy.daily_engagement_scores'::regclass and a.attnum > 0 and not a.attisdropped
    order by a.attnum
  $$,
  $$
    values
      ('id uuid not null default gen_random_uuid()', 'The row''s own key, made by the server.'),
      ('user_id uuid not null', 'The user whom the row belongs to; it goes when the user goes.'),
      ('score_ts timestamp with time zone not null', 'A moment of the day that is scored; the day is the one in UTC.'),
      ('score numeric(5,2)', 'The score in points, 0 to 100.'),
      ('pillar_breakdown jsonb', 'Points by pillar: a JSON object or null.'),
      ('source text', 'Where the row comes from: backfill, or null for a calculated score.'),
      ('created_at timestamp with time zone not null default now()', 'When the row was made.'),
      (
        'updated_at timestamp with time zone not null default now()',
        'When the row last changed; a trigger keeps it, whoever writes.'
      )
  $$,
  'legacy.daily_engagement_scores has exactly these columns in this order, each with its comment'
);

-- A key or check that is missing, weaker than it reads, deferrable or not validated lets through what it should refuse.
-- The rules that PostgreSQL 18 keeps for NOT NULL are left out here, because the columns above say them.
select results_eq(
  $$
    select conname::text collate "default", pg_get_constraintdef(oid)
    from pg_catalog.pg_constraint
    where conrelid = 'legacy.daily_engagement_scores'::regclass and contype <> 'n'
    order by conname
  $$,
  $$
    values
      (
        'ck_daily_engagement_scores_pillar_breakdown_is_object',
        'CHECK (((pillar_breakdown IS NULL) OR (jsonb_typeof(pillar_breakdown) = ''object''::text)))'
      ),
      ('ck_daily_engagement_scores_score_in_range', 'CHECK (((score >= (0)::numeric) AND (score <= (100)::numeric)))'),
      ('ck_daily_engagement_scores_source_is_known', 'CHECK ((source = ''backfill''::text))'),
      ('fk_daily_engagement_scores_user_id_users', 'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE'),
      ('pk_daily_engagement_scores', 'PRIMARY KEY (id)')
  $$,
  'legacy.daily_engagement_scores has exactly these keys and checks'
);

-- In PostgreSQL 18 a column can be NOT NULL for new rows only.
select is_empty(
  $$
    select conname
    from pg_catalog.pg_constraint
    where conrelid = 'legacy.daily_engagement_scores'::regclass and not convalidated
  $$,
  'every constraint of legacy.daily_engagement_scores holds for the rows of old too'
);

-- The unique index counts days by the very expression of the view, so that a search by day can use it.
select results_eq(
  $$
    select
      pg_get_indexdef(i.indexrelid),
      i.indisvalid and i.indisready,
      obj_description(i.indexrelid, 'pg_class') collate "default"
    from pg_catalog.pg_index as i
    inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
    where i.indrelid = 'legacy.daily_engagement_scores'::regclass
    order by c.relname
  $$,
  $$
    values
      (
        'CREATE UNIQUE INDEX pk_daily_engagement_scores ON legacy.daily_engagement_scores USING btree (id)',
        true,
        null
      ),
      (
        'CREATE UNIQUE INDEX uq_daily_engagement_scores_user_id_utc_day ON legacy.daily_engagement_scores '
        'USING btree (user_id, (((score_ts AT TIME ZONE ''UTC''::text))::date))',
        true,
        'One row per user and UTC day; finds a user''s scores of a day or a range of days.'
      )
  $$,
  'legacy.daily_engagement_scores has exactly these indexes, all of them usable'
);

-- Without its trigger updated_at would stay as it was wherever the writer does not think of it.
select results_eq(
  $$
    select pg_get_triggerdef(oid), tgenabled::text
    from pg_catalog.pg_trigger
    where tgrelid = 'legacy.daily_engagement_scores'::regclass and not tgisinternal
  $$,
  $$
    values
      (
        'CREATE TRIGGER set_updated_at BEFORE UPDATE ON legacy.daily_engagement_scores '
        'FOR EACH ROW EXECUTE FUNCTION momentum_internal.set_updated_at()',
        'O'
      )
  $$,
  'legacy.daily_engagement_scores has exactly the trigger that keeps updated_at'
);

-- A foreign key whose own triggers are disabled still reads as valid, and checks nothing.
select is_empty(
  $$
    select tgname
    from pg_catalog.pg_trigger
    where 'legacy.daily_engagement_scores'::regclass in (tgrelid, tgconstrrelid) and tgenabled <> 'O'
  $$,
  'no trigger of legacy.daily_engagement_scores or of its keys is disabled'
);

-- A rule could turn a write into another one, or into none.
select is_empty(
  $$select rulename from pg_catalog.pg_rewrite where ev_class = 'legacy.daily_engagement_scores'::regclass$$,
  'legacy.daily_engagement_scores has no rule'
);

-- The view asks with its reader's rights: without this policy it would show nothing, and with a wider one too much.
select results_eq(
  $$
    select
      polname::text collate "default",
      polcmd::text,
      polpermissive,
      polroles::regrole[]::text,
      pg_get_expr(polqual, polrelid) collate "default",
      pg_get_expr(polwithcheck, polrelid) collate "default"
    from pg_catalog.pg_policy
    where polrelid = 'legacy.daily_engagement_scores'::regclass
    order by polname
  $$,
  $$
    values
      (
        'daily_engagement_scores_select_own',
        'r',
        true,
        '{authenticated}',
        '(( SELECT auth.uid() AS uid) = user_id)',
        null
      )
  $$,
  'legacy.daily_engagement_scores has exactly the policy that lets users see their own rows'
);

-- Supabase gives clients everything on a new table, and row level security does not stop TRUNCATE. What ALL is differs
-- between versions of Postgres, so the server says it.
select results_eq(
  $$
    select
      case a.grantee
        when c.relowner then 'owner'
        when 0 then 'public'
        else r.rolname::text collate "default"
      end as holder,
      string_agg(
        a.privilege_type || case when a.is_grantable then ' with grant option' else '' end,
        ', ' order by a.privilege_type
      )
    from pg_catalog.pg_class as c
    cross join lateral aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) as a
    left join pg_catalog.pg_roles as r on a.grantee = r.oid
    where c.oid = 'legacy.daily_engagement_scores'::regclass
    group by holder
    order by holder
  $$,
  $$
    values
      ('authenticated', 'SELECT'),
      (
        'owner',
        (
          select string_agg(privilege_type, ', ' order by privilege_type)
          from aclexplode(acldefault('r', 10))
        )
      ),
      (
        'service_role',
        (
          select string_agg(privilege_type, ', ' order by privilege_type)
          from aclexplode(acldefault('r', 10))
        )
      )
  $$,
  'exactly these privileges on legacy.daily_engagement_scores are granted'
);

-- A privilege on one column is not in the list of the table's privileges.
select is_empty(
  $$
    select a.attname, p.grantee::regrole, p.privilege_type
    from pg_catalog.pg_attribute as a
    cross join lateral aclexplode(a.attacl) as p
    where a.attrelid = 'legacy.daily_engagement_scores'::regclass
  $$,
  'no column of legacy.daily_engagement_scores is granted by itself'
);

-- Clients read through the view, which needs no right on the schema; only the backend may reach the table itself.
select results_eq(
  $$
    select
      case a.grantee
        when n.nspowner then 'owner'
        when 0 then 'public'
        else r.rolname::text collate "default"
      end as holder,
      string_agg(
        a.privilege_type || case when a.is_grantable then ' with grant option' else '' end,
        ', ' order by a.privilege_type
      )
    from pg_catalog.pg_namespace as n
    cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as a
    left join pg_catalog.pg_roles as r on a.grantee = r.oid
    where n.nspname = 'legacy'
    group by holder
    order by holder
  $$,
  $$values ('owner', 'CREATE, USAGE'), ('service_role', 'USAGE')$$,
  'of all clients only service_role may look into schema legacy'
);

-- The comment tells a stranger what the schema is there for.
select is(
  obj_description('legacy'::regnamespace, 'pg_namespace'),
  'The scores of before momentum.',
  'schema legacy says what it holds'
);

-- The people of the tests below, by name.
create function pg_temp.ann() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000a'::uuid$$;

create function pg_temp.ben() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000b'::uuid$$;

insert into auth.users (id) values (pg_temp.ann()), (pg_temp.ben());

-- A writer that sends the least must get a whole row; a score may be missing.
select lives_ok(
  $$insert into legacy.daily_engagement_scores (user_id, score_ts) values (pg_temp.ann(), '2026-03-01 12:00+00')$$,
  'a row needs no more than user_id and score_ts'
);

select results_eq(
  $$
    select id is not null, created_at = now(), updated_at = now(), source is null
    from legacy.daily_engagement_scores
    where user_id = pg_temp.ann()
  $$,
  $$values (true, true, true, true)$$,
  'the server gives a new row its key and its times'
);

-- A full row, so that the rules below are known not to refuse everything.
select lives_ok(
  $$
    insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown, source)
    values (pg_temp.ben(), '2026-03-01 00:00+00', 100, '{"sleep": 100}', 'backfill')
  $$,
  'a score of another user on the same day may be 100 and have a breakdown and a source'
);

-- Each rule is proved by being refused: a rule that is misspelt and ignored would still read well.
select throws_ok(
  $$insert into legacy.daily_engagement_scores (id, user_id, score_ts) values (null, pg_temp.ben(), now())$$,
  '23502',
  'null value in column "id" of relation "daily_engagement_scores" violates not-null constraint',
  'a score has a key'
);

select throws_ok(
  $$insert into legacy.daily_engagement_scores (score_ts) values (now())$$,
  '23502',
  'null value in column "user_id" of relation "daily_engagement_scores" violates not-null constraint',
  'a score belongs to a user'
);

select throws_ok(
  $$insert into legacy.daily_engagement_scores (user_id) values (pg_temp.ben())$$,
  '23502',
  'null value in column "score_ts" of relation "daily_engagement_scores" violates not-null constraint',
  'a score has a moment'
);

select throws_ok(
  $$insert into legacy.daily_engagement_scores (user_id, score_ts, created_at) values (pg_temp.ben(), now(), null)$$,
  '23502',
  'null value in column "created_at" of relation "daily_engagement_scores" violates not-null constraint',
  'a score has a time of creation'
);

select throws_ok(
  $$insert into legacy.daily_engagement_scores (user_id, score_ts, updated_at) values (pg_temp.ben(), now(), null)$$,
  '23502',
  'null value in column "updated_at" of relation "daily_engagement_scores" violates not-null constraint',
  'a score has a time of its last change'
);

select throws_ok(
  $$insert into legacy.daily_engagement_scores (user_id, score_ts, score) values (pg_temp.ben(), now(), -0.01)$$,
  '23514',
  'new row for relation "daily_engagement_scores" violates check constraint '
  '"ck_daily_engagement_scores_score_in_range"',
  'a score is not below 0'
);

select throws_ok(
  $$insert into legacy.daily_engagement_scores (user_id, score_ts, score) values (pg_temp.ben(), now(), 100.01)$$,
  '23514',
  'new row for relation "daily_engagement_scores" violates check constraint '
  '"ck_daily_engagement_scores_score_in_range"',
  'a score is not above 100'
);

select throws_ok(
  $$
    insert into legacy.daily_engagement_scores (user_id, score_ts, pillar_breakdown)
    values (pg_temp.ben(), now(), '[1]')
  $$,
  '23514',
  'new row for relation "daily_engagement_scores" violates check constraint '
  '"ck_daily_engagement_scores_pillar_breakdown_is_object"',
  'a breakdown is no array'
);

select throws_ok(
  $$
    insert into legacy.daily_engagement_scores (user_id, score_ts, pillar_breakdown)
    values (pg_temp.ben(), now(), 'null')
  $$,
  '23514',
  'new row for relation "daily_engagement_scores" violates check constraint '
  '"ck_daily_engagement_scores_pillar_breakdown_is_object"',
  'a breakdown is not JSON''s own null'
);

select throws_ok(
  $$insert into legacy.daily_engagement_scores (user_id, score_ts, source) values (pg_temp.ben(), now(), 'guess')$$,
  '23514',
  'new row for relation "daily_engagement_scores" violates check constraint '
  '"ck_daily_engagement_scores_source_is_known"',
  'a source is one that we know'
);

select throws_ok(
  $$insert into legacy.daily_engagement_scores (user_id, score_ts) values (gen_random_uuid(), now())$$,
  '23503',
  'insert or update on table "daily_engagement_scores" violates foreign key constraint '
  '"fk_daily_engagement_scores_user_id_users"',
  'the user exists'
);

select throws_ok(
  $$
    insert into legacy.daily_engagement_scores (id, user_id, score_ts)
    select id, user_id, now() from legacy.daily_engagement_scores where user_id = pg_temp.ben()
  $$,
  '23505',
  'duplicate key value violates unique constraint "pk_daily_engagement_scores"',
  'two scores never share a key'
);

-- The key counts the days of UTC, wherever the writer's session thinks it is.
set local time zone 'Pacific/Kiritimati';

select throws_ok(
  $$
    insert into legacy.daily_engagement_scores (user_id, score_ts)
    values (pg_temp.ben(), '2026-03-01 23:59:59.999999+00')
  $$,
  '23505',
  'duplicate key value violates unique constraint "uq_daily_engagement_scores_user_id_utc_day"',
  'a user has one score a UTC day'
);

select lives_ok(
  $$insert into legacy.daily_engagement_scores (user_id, score_ts) values (pg_temp.ben(), '2026-03-02 00:00+00')$$,
  'the next UTC day begins at midnight in UTC'
);

set local time zone 'UTC';

-- The privileges on the table are no way around the closed schema.
select set_eq(
  $$
    select pg_temp.attempt('anon', statement)
    from unnest(array[
      'select from legacy.daily_engagement_scores',
      'insert into legacy.daily_engagement_scores default values',
      'update legacy.daily_engagement_scores set score = 1',
      'delete from legacy.daily_engagement_scores',
      'truncate legacy.daily_engagement_scores'
    ]) as statement
  $$,
  $$values ('permission denied for schema legacy')$$,
  'anon gets nowhere near legacy.daily_engagement_scores'
);

select set_eq(
  $$
    select pg_temp.attempt('authenticated', statement, signed_in)
    from unnest(array[null, pg_temp.ann(), pg_temp.ben()]) as signed_in
    cross join unnest(array[
      'select from legacy.daily_engagement_scores',
      'insert into legacy.daily_engagement_scores default values',
      'update legacy.daily_engagement_scores set score = 1',
      'delete from legacy.daily_engagement_scores',
      'truncate legacy.daily_engagement_scores'
    ]) as statement
  $$,
  $$values ('permission denied for schema legacy')$$,
  'authenticated gets nowhere near legacy.daily_engagement_scores'
);

-- Should the schema ever be opened, a client still sees no more than the user's own rows, and changes none.
grant usage on schema legacy to anon, authenticated;

select results_eq(
  $$
    select actor, signed_in, array_agg(pg_temp.attempt(actor, statement, signed_in) order by place)
    from
      (
        values
          ('anon', pg_temp.ann()),
          ('authenticated', pg_temp.ann()),
          ('authenticated', pg_temp.ben()),
          ('authenticated', null)
      ) as actors (actor, signed_in)
    cross join unnest(array[
      'select from legacy.daily_engagement_scores where user_id <> coalesce((select auth.uid()), pg_temp.ann())',
      'select from legacy.daily_engagement_scores',
      'insert into legacy.daily_engagement_scores (user_id, score_ts) values (pg_temp.ann(), now())',
      'update legacy.daily_engagement_scores set score = 1',
      'delete from legacy.daily_engagement_scores',
      'truncate legacy.daily_engagement_scores'
    ]) with ordinality as statements (statement, place)
    group by actor, signed_in
    order by actor, signed_in
  $$,
  $$
    select actor, signed_in, array[others, own] || array_fill(refused, array[4])
    from
      (values ('permission denied for table daily_engagement_scores')) as denied (refused)
    cross join lateral (
      values
        ('anon', pg_temp.ann(), refused, refused),
        ('authenticated', pg_temp.ann(), '0 rows', '1 rows'),
        ('authenticated', pg_temp.ben(), '0 rows', '2 rows'),
        ('authenticated', null, '0 rows', '0 rows')
    ) as expected (actor, signed_in, others, own)
  $$,
  'the policy of legacy.daily_engagement_scores shows a user''s own rows only'
);

revoke usage on schema legacy from anon, authenticated;

-- The backend works with the service role's key.
select set_eq(
  $$
    select array_agg(pg_temp.attempt(actor, statement) order by place)
    from unnest(array['service_role', pg_temp.owner()]) as actor
    cross join unnest(array[
      'select from legacy.daily_engagement_scores where user_id = pg_temp.ann()',
      'insert into legacy.daily_engagement_scores (user_id, score_ts) values (pg_temp.ann(), ''2026-03-02 12:00+00'')',
      'update legacy.daily_engagement_scores set score = 1 where user_id = pg_temp.ann()',
      'delete from legacy.daily_engagement_scores where user_id = pg_temp.ann()',
      'truncate legacy.daily_engagement_scores'
    ]) with ordinality as statements (statement, place)
    group by actor
  $$,
  $$values (array['1 rows', '1 rows', '1 rows', '1 rows', '0 rows'])$$,
  'service_role and the owner may do everything with legacy.daily_engagement_scores'
);

-- The app writes through PostgREST too, and may send a time of its own.
select results_eq(
  $$
    with told as (
      update legacy.daily_engagement_scores
      set created_at = '2000-01-01 00:00+00', updated_at = '2000-01-01 00:00+00'
      where user_id = pg_temp.ann()
      returning created_at, updated_at
    )

    select created_at, updated_at = now() from told
  $$,
  $$values ('2000-01-01 00:00+00'::timestamptz, true)$$,
  'an update sets updated_at, whatever the writer says, and nothing else'
);

-- A user who leaves takes the rows along.
select lives_ok($$delete from auth.users where id = pg_temp.ann()$$, 'a user with scores can be deleted');

select is_empty(
  $$select id from legacy.daily_engagement_scores where user_id = pg_temp.ann()$$,
  'the scores go with their user'
);

select * from finish();

rollback;
