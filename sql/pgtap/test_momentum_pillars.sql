-- public.momentum_pillars: what momentum points are given for.
begin;

select plan(25);

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
    where c.oid = 'public.momentum_pillars'::regclass
  ),
  '{
    "kind": "r",
    "persistence": "p",
    "row security": true,
    "row security for the owner too": false,
    "replica identity": "d",
    "part of an inheritance": false,
    "owned by the migrations'' role": true,
    "comment": "The pillars that momentum points are given for, such as sleep or movement."
  }'::jsonb,
  'public.momentum_pillars is a logged table with row level security'
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
    where a.attrelid = 'public.momentum_pillars'::regclass and a.attnum > 0 and not a.attisdropped
    order by a.attnum
  $$,
  $$
    values
      ('id uuid not null default gen_random_uuid()', 'The row''s own key, made by the server.'),
      ('name text not null', 'What the pillar is called; unique and not blank.'),
      ('description text', 'What the pillar stands for, for people to read.'),
      ('created_at timestamp with time zone not null default now()', 'When the row was made.'),
      (
        'updated_at timestamp with time zone not null default now()',
        'When the row last changed; a trigger keeps it, whoever writes.'
      ),
      ('deleted_at timestamp with time zone', 'When the row was softly deleted; null means live.')
  $$,
  'public.momentum_pillars has exactly these columns in this order, each with its comment'
);

-- A key or check that is missing, weaker than it reads, deferrable or not validated lets through what it should refuse.
-- The rules that PostgreSQL 18 keeps for NOT NULL are left out here, because the columns above say them.
select results_eq(
  $$
    select conname::text collate "default", pg_get_constraintdef(oid)
    from pg_catalog.pg_constraint
    where conrelid = 'public.momentum_pillars'::regclass and contype <> 'n'
    order by conname
  $$,
  $$
    values
      ('ck_momentum_pillars_name_not_blank', 'CHECK ((name ~ ''\S''::text))'),
      ('pk_momentum_pillars', 'PRIMARY KEY (id)'),
      ('uq_momentum_pillars_name', 'UNIQUE (name)')
  $$,
  'public.momentum_pillars has exactly these keys and checks'
);

-- In PostgreSQL 18 a column can be NOT NULL for new rows only.
select is_empty(
  $$
    select conname
    from pg_catalog.pg_constraint
    where conrelid = 'public.momentum_pillars'::regclass and not convalidated
  $$,
  'every constraint of public.momentum_pillars holds for the rows of old too'
);

-- Both keys need theirs; any further index would slow writes down for nothing.
select results_eq(
  $$
    select
      pg_get_indexdef(i.indexrelid),
      i.indisvalid and i.indisready,
      obj_description(i.indexrelid, 'pg_class') collate "default"
    from pg_catalog.pg_index as i
    inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
    where i.indrelid = 'public.momentum_pillars'::regclass
    order by c.relname
  $$,
  $$
    values
      ('CREATE UNIQUE INDEX pk_momentum_pillars ON public.momentum_pillars USING btree (id)', true, null),
      ('CREATE UNIQUE INDEX uq_momentum_pillars_name ON public.momentum_pillars USING btree (name)', true, null)
  $$,
  'public.momentum_pillars has exactly these indexes, all of them usable'
);

-- Without its trigger updated_at would stay as it was wherever the writer does not think of it.
select results_eq(
  $$
    select pg_get_triggerdef(oid), tgenabled::text
    from pg_catalog.pg_trigger
    where tgrelid = 'public.momentum_pillars'::regclass and not tgisinternal
  $$,
  $$
    values
      (
        'CREATE TRIGGER set_updated_at BEFORE UPDATE ON public.momentum_pillars '
        'FOR EACH ROW EXECUTE FUNCTION momentum_internal.set_updated_at()',
        'O'
      )
  $$,
  'public.momentum_pillars has exactly the trigger that keeps updated_at'
);

-- A foreign key whose own triggers are disabled still reads as valid, and checks nothing.
select is_empty(
  $$
    select tgname
    from pg_catalog.pg_trigger
    where 'public.momentum_pillars'::regclass in (tgrelid, tgconstrrelid) and tgenabled <> 'O'
  $$,
  'no trigger of public.momentum_pillars or of its keys is disabled'
);

-- A rule could turn a write into another one, or into none.
select is_empty(
  $$select rulename from pg_catalog.pg_rewrite where ev_class = 'public.momentum_pillars'::regclass$$,
  'public.momentum_pillars has no rule'
);

-- A policy opens rows to clients: the first one must be a decision, and this test changes with it.
select is_empty(
  $$select polname from pg_catalog.pg_policy where polrelid = 'public.momentum_pillars'::regclass$$,
  'public.momentum_pillars has no policy yet'
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
    where c.oid = 'public.momentum_pillars'::regclass
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
  'exactly these privileges on public.momentum_pillars are granted'
);

-- A privilege on one column is not in the list of the table's privileges.
select is_empty(
  $$
    select a.attname, p.grantee::regrole, p.privilege_type
    from pg_catalog.pg_attribute as a
    cross join lateral aclexplode(a.attacl) as p
    where a.attrelid = 'public.momentum_pillars'::regclass
  $$,
  'no column of public.momentum_pillars is granted by itself'
);

-- A client that sends the least must get a whole row.
select lives_ok(
  $$insert into public.momentum_pillars (name) values ('pgTAP: sleep')$$,
  'a row needs no more than name'
);

select results_eq(
  $$
    select id is not null, created_at = now(), updated_at = now(), deleted_at is null
    from public.momentum_pillars
    where name = 'pgTAP: sleep'
  $$,
  $$values (true, true, true, true)$$,
  'the server gives a new row its key and its times'
);

-- Each rule is proved by being refused: a rule that is misspelt and ignored would still read well.
select throws_ok(
  $$insert into public.momentum_pillars (id, name) values (null, 'pgTAP: food')$$,
  '23502',
  'null value in column "id" of relation "momentum_pillars" violates not-null constraint',
  'a pillar has a key'
);

select throws_ok(
  $$insert into public.momentum_pillars (description) values ('Eating well.')$$,
  '23502',
  'null value in column "name" of relation "momentum_pillars" violates not-null constraint',
  'a pillar has a name'
);

select throws_ok(
  $$insert into public.momentum_pillars (name, created_at) values ('pgTAP: food', null)$$,
  '23502',
  'null value in column "created_at" of relation "momentum_pillars" violates not-null constraint',
  'a pillar has a time of creation'
);

select throws_ok(
  $$insert into public.momentum_pillars (name, updated_at) values ('pgTAP: food', null)$$,
  '23502',
  'null value in column "updated_at" of relation "momentum_pillars" violates not-null constraint',
  'a pillar has a time of its last change'
);

select throws_ok(
  $$insert into public.momentum_pillars (name) values ('')$$,
  '23514',
  'new row for relation "momentum_pillars" violates check constraint "ck_momentum_pillars_name_not_blank"',
  'a name is not empty'
);

select throws_ok(
  $$insert into public.momentum_pillars (name) values (e' \t\n')$$,
  '23514',
  'new row for relation "momentum_pillars" violates check constraint "ck_momentum_pillars_name_not_blank"',
  'a name is more than white space'
);

select throws_ok(
  $$insert into public.momentum_pillars (name, deleted_at) values ('pgTAP: sleep', now())$$,
  '23505',
  'duplicate key value violates unique constraint "uq_momentum_pillars_name"',
  'two pillars never share a name, deleted or not'
);

select throws_ok(
  $$
    insert into public.momentum_pillars (id, name)
    select id, 'pgTAP: food' from public.momentum_pillars where name = 'pgTAP: sleep'
  $$,
  '23505',
  'duplicate key value violates unique constraint "pk_momentum_pillars"',
  'two pillars never share a key'
);

-- Whoever holds the public key must get nowhere, and TRUNCATE is the action that row level security does not stop.
select set_eq(
  $$
    select pg_temp.attempt('anon', statement)
    from unnest(array[
      'select from public.momentum_pillars',
      'insert into public.momentum_pillars default values',
      'update public.momentum_pillars set description = ''Rest.''',
      'delete from public.momentum_pillars',
      'truncate public.momentum_pillars'
    ]) as statement
  $$,
  $$values ('permission denied for table momentum_pillars')$$,
  'anon is refused every action on public.momentum_pillars'
);

-- Signed-in users have the privileges that the policies of later will need; until then row security shows them no row,
-- not even their own.
select set_eq(
  $$
    select array_agg(pg_temp.attempt('authenticated', statement, signed_in) order by place)
    from unnest(array[
      null,
      '10000000-0000-4000-8000-00000000000a',
      '10000000-0000-4000-8000-00000000000b'
    ]::uuid[]) as signed_in
    cross join unnest(array[
      'select from public.momentum_pillars',
      'insert into public.momentum_pillars (name) values (''pgTAP: food'')',
      'update public.momentum_pillars set description = ''Rest.''',
      'delete from public.momentum_pillars',
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
  'authenticated meets no row of public.momentum_pillars, adds none and may not truncate'
);

-- The backend works with the service role's key; the tables that refer to pillars keep even it from emptying this one.
select set_eq(
  $$
    select array_agg(pg_temp.attempt(actor, statement) order by place)
    from unnest(array['service_role', pg_temp.owner()]) as actor
    cross join unnest(array[
      'select from public.momentum_pillars where name = ''pgTAP: sleep''',
      'insert into public.momentum_pillars (name) values (''pgTAP: food'')',
      'update public.momentum_pillars set description = ''Rest.'' where name = ''pgTAP: sleep''',
      'delete from public.momentum_pillars where name = ''pgTAP: sleep''',
      'truncate public.momentum_pillars'
    ]) with ordinality as statements (statement, place)
    group by actor
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
  'service_role and the owner may do everything with public.momentum_pillars that its keys allow'
);

-- The app writes through PostgREST too, and may send a time of its own.
select results_eq(
  $$
    with told as (
      update public.momentum_pillars
      set created_at = '2000-01-01 00:00+00', updated_at = '2000-01-01 00:00+00'
      where name = 'pgTAP: sleep'
      returning created_at, updated_at
    )

    select created_at, updated_at = now() from told
  $$,
  $$values ('2000-01-01 00:00+00'::timestamptz, true)$$,
  'an update sets updated_at, whatever the writer says, and nothing else'
);

select * from finish();

rollback;
