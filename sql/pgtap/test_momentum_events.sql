-- public.momentum_events: what users did that counts towards momentum.
begin;

select plan(33);

-- Says how a statement ends for a role, with a user's token if one is named, and undoes it. pgTAP itself runs as the
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

-- Whom the relations belong to: the role that migrates.
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
    where c.oid = 'public.momentum_events'::regclass
  ),
  '{
    "kind": "r",
    "persistence": "p",
    "row security": true,
    "row security for the owner too": false,
    "replica identity": "d",
    "part of an inheritance": false,
    "owned by the migrations'' role": true,
    "comment": "What users did that counts towards momentum, one row an event."
  }'::jsonb,
  'public.momentum_events is a logged table with row level security'
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
    where a.attrelid = 'public.momentum_events'::regclass and a.attnum > 0 and not a.attisdropped
    order by a.attnum
  $$,
  $$
    values
      ('id uuid not null default gen_random_uuid()', 'The row''s own key, made by the server.'),
      ('user_id uuid not null', 'The user whom the row belongs to; it goes when the user goes.'),
      ('pillar_id uuid', 'The pillar that the event counts for, where it is known.'),
      ('event_type text not null', 'What kind of event it is; not blank.'),
      ('event_ts timestamp with time zone not null default now()', 'When it happened.'),
      ('payload jsonb', 'What else is known of it: a JSON object or null.'),
      ('created_at timestamp with time zone not null default now()', 'When the row was made.'),
      (
        'updated_at timestamp with time zone not null default now()',
        'When the row last changed; a trigger keeps it, whoever writes.'
      ),
      ('deleted_at timestamp with time zone', 'When the row was softly deleted; null means live.')
  $$,
  'public.momentum_events has exactly these columns in this order, each with its comment'
);

-- A key or check that is missing, weaker than it reads, deferrable or not validated lets through what it should refuse.
-- The rules that PostgreSQL 18 keeps for NOT NULL are left out here, because the columns above say them.
select results_eq(
  $$
    select conname::text collate "default", pg_get_constraintdef(oid)
    from pg_catalog.pg_constraint
    where conrelid = 'public.momentum_events'::regclass and contype <> 'n'
    order by conname
  $$,
  $$
    values
      ('ck_momentum_events_event_type_not_blank', 'CHECK ((event_type ~ ''\S''::text))'),
      (
        'ck_momentum_events_payload_is_object',
        'CHECK (((payload IS NULL) OR (jsonb_typeof(payload) = ''object''::text)))'
      ),
      (
        'fk_momentum_events_pillar_id_momentum_pillars',
        'FOREIGN KEY (pillar_id) REFERENCES momentum_pillars(id) ON DELETE RESTRICT'
      ),
      ('fk_momentum_events_user_id_users', 'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE'),
      ('pk_momentum_events', 'PRIMARY KEY (id)')
  $$,
  'public.momentum_events has exactly these keys and checks'
);

-- In PostgreSQL 18 a column can be NOT NULL for new rows only.
select is_empty(
  $$
    select conname
    from pg_catalog.pg_constraint
    where conrelid = 'public.momentum_events'::regclass and not convalidated
  $$,
  'every constraint of public.momentum_events holds for the rows of old too'
);

-- A user's latest events are read in the order of their index; without the one on pillar_id deleting a pillar would
-- read the whole table.
select results_eq(
  $$
    select
      pg_get_indexdef(i.indexrelid),
      i.indisvalid and i.indisready,
      obj_description(i.indexrelid, 'pg_class') collate "default"
    from pg_catalog.pg_index as i
    inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
    where i.indrelid = 'public.momentum_events'::regclass
    order by c.relname
  $$,
  $$
    values
      ('CREATE INDEX ix_momentum_events_pillar_id ON public.momentum_events USING btree (pillar_id)', true, null),
      (
        'CREATE INDEX ix_momentum_events_user_id_event_ts ON public.momentum_events '
        'USING btree (user_id, event_ts DESC)',
        true,
        null
      ),
      ('CREATE UNIQUE INDEX pk_momentum_events ON public.momentum_events USING btree (id)', true, null)
  $$,
  'public.momentum_events has exactly these indexes, all of them usable'
);

-- Without its trigger updated_at would stay as it was wherever the writer does not think of it.
select results_eq(
  $$
    select pg_get_triggerdef(oid), tgenabled::text
    from pg_catalog.pg_trigger
    where tgrelid = 'public.momentum_events'::regclass and not tgisinternal
  $$,
  $$
    values
      (
        'CREATE TRIGGER set_updated_at BEFORE UPDATE ON public.momentum_events '
        'FOR EACH ROW EXECUTE FUNCTION momentum_internal.set_updated_at()',
        'O'
      )
  $$,
  'public.momentum_events has exactly the trigger that keeps updated_at'
);

-- A foreign key whose own triggers are disabled still reads as valid, and checks nothing.
select is_empty(
  $$
    select tgname
    from pg_catalog.pg_trigger
    where 'public.momentum_events'::regclass in (tgrelid, tgconstrrelid) and tgenabled <> 'O'
  $$,
  'no trigger of public.momentum_events or of its keys is disabled'
);

-- A rule could turn a write into another one, or into none.
select is_empty(
  $$select rulename from pg_catalog.pg_rewrite where ev_class = 'public.momentum_events'::regclass$$,
  'public.momentum_events has no rule'
);

-- A policy opens rows to clients: the first one must be a decision, and this test changes with it.
select is_empty(
  $$select polname from pg_catalog.pg_policy where polrelid = 'public.momentum_events'::regclass$$,
  'public.momentum_events has no policy yet'
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
    where c.oid = 'public.momentum_events'::regclass
    group by holder
    order by holder
  $$,
  $$
    values
      ('authenticated', 'DELETE, INSERT, SELECT, UPDATE'),
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
  'exactly these privileges on public.momentum_events are granted'
);

-- A privilege on one column is not in the list of the table's privileges.
select is_empty(
  $$
    select a.attname, p.grantee::regrole, p.privilege_type
    from pg_catalog.pg_attribute as a
    cross join lateral aclexplode(a.attacl) as p
    where a.attrelid = 'public.momentum_events'::regclass
  $$,
  'no column of public.momentum_events is granted by itself'
);

-- The people of the tests below, by name.
create function pg_temp.ann() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000a'::uuid$$;

create function pg_temp.ben() returns uuid language sql immutable
as $$select '10000000-0000-4000-8000-00000000000b'::uuid$$;

create function pg_temp.pillar() returns uuid language sql immutable
as $$select '20000000-0000-4000-8000-000000000001'::uuid$$;

insert into auth.users (id) values (pg_temp.ann()), (pg_temp.ben());

insert into public.momentum_pillars (id, name) values (pg_temp.pillar(), 'pgTAP: a pillar');

-- A client that sends the least must get a whole row.
select lives_ok(
  $$insert into public.momentum_events (user_id, event_type) values (pg_temp.ann(), 'pgTAP')$$,
  'a row needs no more than user_id, event_type'
);

select results_eq(
  $$
    select id is not null, created_at = now(), updated_at = now(), event_ts = now(), deleted_at is null
    from public.momentum_events
    where user_id = pg_temp.ann()
  $$,
  $$values (true, true, true, true, true)$$,
  'the server gives a new row its key and its times'
);

-- A full row, so that the rules below are known not to refuse everything.
select lives_ok(
  $$
    insert into public.momentum_events (user_id, pillar_id, event_type, payload)
    values (pg_temp.ben(), pg_temp.pillar(), 'pgTAP', '{"steps": 9000}')
  $$,
  'an event may have a pillar and a payload'
);

-- Each rule is proved by being refused: a rule that is misspelt and ignored would still read well.
select throws_ok(
  $$insert into public.momentum_events (id, user_id, event_type) values (null, pg_temp.ben(), 'x')$$,
  '23502',
  'null value in column "id" of relation "momentum_events" violates not-null constraint',
  'an event has a key'
);

select throws_ok(
  $$insert into public.momentum_events (event_type) values ('x')$$,
  '23502',
  'null value in column "user_id" of relation "momentum_events" violates not-null constraint',
  'an event belongs to a user'
);

select throws_ok(
  $$insert into public.momentum_events (user_id) values (pg_temp.ben())$$,
  '23502',
  'null value in column "event_type" of relation "momentum_events" violates not-null constraint',
  'an event has a type'
);

select throws_ok(
  $$insert into public.momentum_events (user_id, event_type, event_ts) values (pg_temp.ben(), 'x', null)$$,
  '23502',
  'null value in column "event_ts" of relation "momentum_events" violates not-null constraint',
  'an event has a time'
);

select throws_ok(
  $$insert into public.momentum_events (user_id, event_type, created_at) values (pg_temp.ben(), 'x', null)$$,
  '23502',
  'null value in column "created_at" of relation "momentum_events" violates not-null constraint',
  'an event has a time of creation'
);

select throws_ok(
  $$insert into public.momentum_events (user_id, event_type, updated_at) values (pg_temp.ben(), 'x', null)$$,
  '23502',
  'null value in column "updated_at" of relation "momentum_events" violates not-null constraint',
  'an event has a time of its last change'
);

select throws_ok(
  $$insert into public.momentum_events (user_id, event_type) values (pg_temp.ben(), e' \t\n')$$,
  '23514',
  'new row for relation "momentum_events" violates check constraint "ck_momentum_events_event_type_not_blank"',
  'an event type is more than white space'
);

select throws_ok(
  $$insert into public.momentum_events (user_id, event_type, payload) values (pg_temp.ben(), 'x', '[1]')$$,
  '23514',
  'new row for relation "momentum_events" violates check constraint "ck_momentum_events_payload_is_object"',
  'a payload is no array'
);

select throws_ok(
  $$insert into public.momentum_events (user_id, event_type, payload) values (pg_temp.ben(), 'x', 'null')$$,
  '23514',
  'new row for relation "momentum_events" violates check constraint "ck_momentum_events_payload_is_object"',
  'a payload is not JSON''s own null'
);

select throws_ok(
  $$insert into public.momentum_events (user_id, event_type) values (gen_random_uuid(), 'x')$$,
  '23503',
  'insert or update on table "momentum_events" violates foreign key constraint "fk_momentum_events_user_id_users"',
  'the user exists'
);

select throws_ok(
  $$
    insert into public.momentum_events (user_id, event_type, pillar_id)
    values (pg_temp.ben(), 'x', gen_random_uuid())
  $$,
  '23503',
  'insert or update on table "momentum_events" violates foreign key constraint '
  '"fk_momentum_events_pillar_id_momentum_pillars"',
  'the pillar exists'
);

select throws_ok(
  $$
    insert into public.momentum_events (id, user_id, event_type)
    select id, user_id, event_type from public.momentum_events where user_id = pg_temp.ben()
  $$,
  '23505',
  'duplicate key value violates unique constraint "pk_momentum_events"',
  'two events never share a key'
);

-- Whoever holds the public key must get nowhere, and TRUNCATE is the action that row level security does not stop.
select set_eq(
  $$
    select pg_temp.attempt('anon', statement)
    from unnest(array[
      'select from public.momentum_events',
      'insert into public.momentum_events default values',
      'update public.momentum_events set payload = null',
      'delete from public.momentum_events',
      'truncate public.momentum_events'
    ]) as statement
  $$,
  $$values ('permission denied for table momentum_events')$$,
  'anon is refused every action on public.momentum_events'
);

-- Signed-in users have the privileges that the policies of later will need; until then row security shows them no row,
-- not even their own.
select set_eq(
  $$
    select array_agg(pg_temp.attempt('authenticated', statement, signed_in) order by place)
    from unnest(array[null, pg_temp.ann(), pg_temp.ben()]) as signed_in
    cross join unnest(array[
      'select from public.momentum_events',
      'insert into public.momentum_events (user_id, event_type) values (pg_temp.ben(), ''x'')',
      'update public.momentum_events set payload = null',
      'delete from public.momentum_events',
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
  'authenticated meets no row of public.momentum_events, adds none and may not truncate'
);

-- The backend works with the service role's key.
select set_eq(
  $$
    select array_agg(pg_temp.attempt(actor, statement) order by place)
    from unnest(array['service_role', pg_temp.owner()]) as actor
    cross join unnest(array[
      'select from public.momentum_events where user_id = pg_temp.ann()',
      'insert into public.momentum_events (user_id, event_type) values (pg_temp.ben(), ''x'')',
      'update public.momentum_events set payload = null where user_id = pg_temp.ann()',
      'delete from public.momentum_events where user_id = pg_temp.ann()',
      'truncate public.momentum_events'
    ]) with ordinality as statements (statement, place)
    group by actor
  $$,
  $$values (array['1 rows', '1 rows', '1 rows', '1 rows', '0 rows'])$$,
  'service_role and the owner may do everything with public.momentum_events'
);

-- The app writes through PostgREST too, and may send a time of its own.
select results_eq(
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

-- PostgreSQL 18 words the refusal differently.
select throws_matching(
  $$delete from public.momentum_pillars where id = pg_temp.pillar()$$,
  'violates (RESTRICT setting of )?foreign key constraint "fk_momentum_events_pillar_id_momentum_pillars"',
  'a pillar that public.momentum_events refers to cannot be deleted'
);

-- A user who leaves takes the rows along.
select lives_ok(
  $$delete from auth.users where id = pg_temp.ann()$$,
  'a user with rows in public.momentum_events can be deleted'
);

select is_empty(
  $$select id from public.momentum_events where user_id = pg_temp.ann()$$,
  'the rows of public.momentum_events go with their user'
);

select * from finish();

rollback;
