-- momentum_internal: the schema of the migrations themselves, which no client may use.
begin;

select plan(16);

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

-- With a changed version table or score_table the next migration or backfill would touch the wrong table.
select is(
  (
    select
      jsonb_build_object(
        'granted to others', to_jsonb(array(
          select coalesce(r.rolname, 'public') || ' ' || a.privilege_type
          from aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as a
          left join pg_catalog.pg_roles as r on a.grantee = r.oid
          where a.grantee <> n.nspowner
        )),
        'comment', obj_description(n.oid, 'pg_namespace')
      )
    from pg_catalog.pg_namespace as n
    where n.nspname = 'momentum_internal'
  ),
  '{
    "granted to others": [],
    "comment": "Private to the momentum migrations: clients have no access."
  }'::jsonb,
  'schema momentum_internal is open to nobody but its owner'
);

-- The privileges in the catalog are proved by being refused.
select set_eq(
  $$
    select pg_temp.attempt(actor, statement)
    from
      unnest(array['anon', 'authenticated', 'service_role']) as actor,
      unnest(array[
        'select from momentum_internal.alembic_version',
        'insert into momentum_internal.alembic_version values (''none'')',
        'update momentum_internal.alembic_version set version_num = ''none'' where true',
        'delete from momentum_internal.alembic_version where true',
        'truncate momentum_internal.alembic_version',
        'select from momentum_internal.score_table',
        'insert into momentum_internal.score_table default values',
        'update momentum_internal.score_table set layout = ''production'' where true',
        'delete from momentum_internal.score_table where true',
        'truncate momentum_internal.score_table',
        'select momentum_internal.set_updated_at()',
        'create table momentum_internal.mine ()'
      ]) as statement
  $$,
  $$values ('permission denied for schema momentum_internal')$$,
  'no client gets into momentum_internal'
);

-- The migrations' role may do everything that it has to with them. Each holds one row.
select results_eq(
  $$
    select pg_temp.attempt(pg_temp.owner(), statement)
    from unnest(array[
      'select from momentum_internal.alembic_version',
      'insert into momentum_internal.alembic_version values (''none'')',
      'update momentum_internal.alembic_version set version_num = ''none'' where true',
      'delete from momentum_internal.alembic_version where true',
      'truncate momentum_internal.alembic_version',
      'select from momentum_internal.score_table',
      'insert into momentum_internal.score_table select * from momentum_internal.score_table',
      'update momentum_internal.score_table set created_schema = false where true',
      'delete from momentum_internal.score_table where true',
      'truncate momentum_internal.score_table'
    ]) as statement
  $$,
  $$
    values
      ('1 rows'), ('1 rows'), ('1 rows'), ('1 rows'), ('0 rows'),
      ('1 rows'),
      ('duplicate key value violates unique constraint "pk_score_table"'),
      ('1 rows'), ('1 rows'), ('0 rows')
  $$,
  'the owner may do everything in momentum_internal that its keys allow'
);

-- Should the schema ever be opened by mistake, its tables and its function stay closed.
select results_eq(
  $$
    select
      c.relname::text collate "default",
      c.relkind::text,
      c.relpersistence::text,
      c.relowner = n.nspowner,
      exists (select from pg_catalog.pg_inherits where c.oid in (inhparent, inhrelid)),
      obj_description(c.oid, 'pg_class') collate "default",
      to_jsonb(array(
        select coalesce(r.rolname, 'public') || ' ' || a.privilege_type
        from aclexplode(c.relacl) as a
        left join pg_catalog.pg_roles as r on a.grantee = r.oid
        where a.grantee <> c.relowner
        union all
        select p.attname || ' ' || a.privilege_type
        from pg_catalog.pg_attribute as p
        cross join lateral aclexplode(p.attacl) as a
        where p.attrelid = c.oid
      ))
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    where c.oid in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
    order by c.relname
  $$,
  $$
    values
      ('alembic_version', 'r', 'p', true, false, null, '[]'::jsonb),
      (
        'score_table',
        'r',
        'p',
        true,
        false,
        'Record of the score table, kept by the migrations: one row.',
        '[]'
      )
  $$,
  'the tables of momentum_internal are granted to nobody'
);

-- Downgrade, backfill and verify trust score_table: a value that it cannot hold cannot mislead them.
select results_eq(
  $$
    select
      concat_ws(
        ' ',
        a.attrelid::regclass,
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
    where
      a.attrelid in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
      and a.attnum > 0
      and not a.attisdropped
    order by a.attrelid::regclass::text, a.attnum
  $$,
  $$
    values
      ('momentum_internal.alembic_version version_num character varying(32) not null', null),
      (
        'momentum_internal.score_table only_row boolean not null default true',
        'Always true: as the key it keeps the table at one row.'
      ),
      ('momentum_internal.score_table relation text not null', 'The score table, with its schema.'),
      ('momentum_internal.score_table layout text not null', 'The layout of its columns, such as seed or production.'),
      ('momentum_internal.score_table created_table boolean not null', 'Whether the migrations created the table; if not, they adopted it.'),
      ('momentum_internal.score_table created_schema boolean not null', 'Whether the migrations created its schema.'),
      ('momentum_internal.score_table granted_usage boolean not null', 'Whether the migrations granted service_role usage on its schema.'),
      (
        'momentum_internal.score_table unique_index text',
        'The unique index over user and day, with its schema; null until there is one.'
      ),
      (
        'momentum_internal.score_table created_index boolean not null default false',
        'Whether the migrations create that index, and so drop it on the way back.'
      )
  $$,
  'the tables of momentum_internal have exactly these columns in this order'
);

-- Two rows could contradict each other. The constraints that PostgreSQL 18 has for NOT NULL are in the columns above.
select results_eq(
  $$
    select conname::text collate "default", pg_get_constraintdef(oid)
    from pg_catalog.pg_constraint
    where
      conrelid in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
      and contype <> 'n'
    order by conname
  $$,
  $$
    values
      ('alembic_version_pkc', 'PRIMARY KEY (version_num)'),
      ('ck_score_table_only_row', 'CHECK (only_row)'),
      ('pk_score_table', 'PRIMARY KEY (only_row)')
  $$,
  'the tables of momentum_internal have exactly these keys and checks'
);

-- In PostgreSQL 18 a column can be NOT NULL for new rows only.
select is_empty(
  $$
    select conname
    from pg_catalog.pg_constraint
    where
      conrelid in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
      and not convalidated
  $$,
  'every constraint of momentum_internal holds for old rows too'
);

-- The keys need their indexes, and such small tables no others.
select results_eq(
  $$
    select pg_get_indexdef(i.indexrelid), i.indisvalid and i.indisready
    from pg_catalog.pg_index as i
    inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
    where i.indrelid in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
    order by c.relname
  $$,
  $$
    values
      (
        'CREATE UNIQUE INDEX alembic_version_pkc ON momentum_internal.alembic_version USING btree (version_num)',
        true
      ),
      ('CREATE UNIQUE INDEX pk_score_table ON momentum_internal.score_table USING btree (only_row)', true)
  $$,
  'the tables of momentum_internal have exactly these indexes, all of them usable'
);

-- A trigger, rule, policy or row security here could make the migrations misread what they wrote.
select is_empty(
  $$
    select tgname
    from pg_catalog.pg_trigger
    where tgrelid in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
    union all
    select rulename
    from pg_catalog.pg_rewrite
    where ev_class in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
    union all
    select polname
    from pg_catalog.pg_policy
    where polrelid in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
    union all
    select relname
    from pg_catalog.pg_class
    where
      oid in ('momentum_internal.alembic_version'::regclass, 'momentum_internal.score_table'::regclass)
      and (relrowsecurity or relforcerowsecurity)
  $$,
  'the tables of momentum_internal have no trigger, rule, policy or row security'
);

-- A database without a version, or with two, could not be migrated any further.
select is((select count(*) from momentum_internal.alembic_version), 1::bigint, 'the database is at one revision');

-- In a database that had no score table the migrations made all of it, and a downgrade may take all of it away. An
-- adopted table and its schema are not ours, and its unique key may be.
select results_eq(
  'select * from momentum_internal.score_table',
  case
    when (select created_table from momentum_internal.score_table)
      then $$
        values (
          true, 'legacy.daily_engagement_scores', 'seed', true, true, true,
          'legacy.uq_daily_engagement_scores_user_id_utc_day', true
        )
      $$
    else $$
      select
        true, format('%I.%I', n.nspname, c.relname) collate "default", s.layout, false, false, false, s.unique_index,
        s.created_index
      from momentum_internal.score_table as s
      inner join pg_catalog.pg_index as i on to_regclass(s.unique_index) = i.indexrelid and i.indisunique
      inner join pg_catalog.pg_class as c on i.indrelid = c.oid
      inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    $$
  end,
  'score_table says which of the score table and what belongs to it are ours'
);

select throws_ok(
  $$
    insert into momentum_internal.score_table (relation, layout, created_table, created_schema, granted_usage)
    values ('public.daily_engagement_scores', 'seed', false, false, false)
  $$,
  '23505',
  'duplicate key value violates unique constraint "pk_score_table"',
  'score_table holds one row'
);

select throws_ok(
  $$
    insert into momentum_internal.score_table (only_row, relation, layout, created_table, created_schema, granted_usage)
    values (false, 'public.daily_engagement_scores', 'seed', false, false, false)
  $$,
  '23514',
  'new row for relation "score_table" violates check constraint "ck_score_table_only_row"',
  'score_table holds no other row either'
);

-- A trigger function that could be called, replaced or led astray by a search path would run with its writer's rights.
select is(
  (
    select
      jsonb_build_object(
        'language', l.lanname,
        'returns', p.prorettype::regtype,
        'arguments', p.pronargs,
        'security definer', p.prosecdef,
        'settings', p.proconfig,
        'volatility', p.provolatile,
        'parallel', p.proparallel,
        'strict', p.proisstrict,
        'leakproof', p.proleakproof,
        'owned by the migrations'' role', p.proowner = n.nspowner,
        'granted to others', to_jsonb(array(
          select coalesce(r.rolname, 'public')
          from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
          left join pg_catalog.pg_roles as r on a.grantee = r.oid
          where a.grantee <> p.proowner
        )),
        'comment', obj_description(p.oid, 'pg_proc')
      )
    from pg_catalog.pg_proc as p
    inner join pg_catalog.pg_language as l on p.prolang = l.oid
    inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
    where p.oid = 'momentum_internal.set_updated_at()'::regprocedure
  ),
  '{
    "language": "plpgsql",
    "returns": "trigger",
    "arguments": 0,
    "security definer": false,
    "settings": ["search_path=\"\""],
    "volatility": "v",
    "parallel": "u",
    "strict": false,
    "leakproof": false,
    "owned by the migrations'' role": true,
    "granted to others": [],
    "comment": "Sets updated_at for every writer: the app through PostgREST, a service or a person."
  }'::jsonb,
  'set_updated_at runs as its caller with an empty path, and nobody else may call it'
);

-- Every table's updated_at depends on this body.
select is(
  (
    select prosrc
    from pg_catalog.pg_proc
    where oid = 'momentum_internal.set_updated_at()'::regprocedure
  ),
  '
begin
  -- The table''s owner may insert rows with the times that they had elsewhere, as a dump''s data has them; with the setting
  -- also update them, as where rows of a parked predecessor are merged. Anyone can change the setting, so this holds for
  -- the owner only, and not in a function of the owner''s that somebody else calls.
  if tg_op = ''INSERT'' or current_setting(''momentum.keep_updated_at'', true) = ''yes'' then
    if (
      select pg_has_role(current_user, relowner, ''member'') and pg_has_role(session_user, relowner, ''member'')
      from pg_catalog.pg_class
      where oid = tg_relid
    ) then
      return new;
    end if;
  end if;
  new.updated_at := now();
  return new;
end
',
  'set_updated_at does what it says and nothing else'
);

-- A second function here would be one that nobody has reviewed.
select results_eq(
  $$
    select oid::regprocedure::text
    from pg_catalog.pg_proc
    where pronamespace = 'momentum_internal'::regnamespace
  $$,
  $$values ('momentum_internal.set_updated_at()')$$,
  'momentum_internal has exactly one function'
);

select * from finish();

rollback;
