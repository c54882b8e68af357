-- public.momentum_pillars: what the catalog says of it, compared with the model MomentumPillar.
-- Made by `make pgtap-sql` from momentum/models/momentum_pillar.py
-- and momentum/grants.py: change these, not this file.
begin;

select plan(10);

-- The model as a temporary table, so that the server, whichever version it is, spells the facts of both alike.
create temporary table model (
  id uuid default gen_random_uuid() not null,
  name text not null,
  description text,
  created_at timestamp with time zone default now() not null,
  updated_at timestamp with time zone default now() not null,
  deleted_at timestamp with time zone,
  constraint ck_momentum_pillars_name_not_blank check (name ~ '\S'),
  constraint pk_momentum_pillars primary key (id),
  constraint uq_momentum_pillars_name unique (name)
);
comment on table pg_temp.model is 'The pillars that momentum points are given for, such as sleep or movement.';
comment on column pg_temp.model.id is 'The row''s own key, made by the server.';
comment on column pg_temp.model.name is 'What the pillar is called; unique and not blank.';
comment on column pg_temp.model.description is 'What the pillar stands for, for people to read.';
comment on column pg_temp.model.created_at is 'When the row was made.';
comment on column pg_temp.model.updated_at is 'When the row last changed; a trigger keeps it, whoever writes.';
comment on column pg_temp.model.deleted_at is 'When the row was softly deleted; null means live.';
create trigger set_updated_at before update on pg_temp.model
for each row execute function momentum_internal.set_updated_at();
alter table pg_temp.model enable row level security;
revoke all on table pg_temp.model from public, anon, authenticated, service_role;
grant select, insert, update, delete on table pg_temp.model to authenticated;
grant all on table pg_temp.model to service_role;

-- An unlogged table would lose its rows in a crash; without row level security every client would see every row. A
-- temporary table is neither lost nor another role's.
create function pg_temp.properties(relation regclass) returns setof text language sql stable
as $$
  select p.key || ': ' || coalesce(p.value, 'null')
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on n.nspname = 'momentum_internal'
  cross join lateral jsonb_each_text(jsonb_build_object(
    'kind', c.relkind,
    'logged', c.relpersistence <> 'u',
    'row security', c.relrowsecurity,
    'row security for the owner too', c.relforcerowsecurity,
    'replica identity', c.relreplident,
    'options', c.reloptions,
    'part of an inheritance', exists (
      select from pg_catalog.pg_inherits as i
      where c.oid in (i.inhparent, i.inhrelid)
    ),
    'owned by the migrations'' role', c.relpersistence = 't' or c.relowner = n.nspowner,
    'comment', obj_description(c.oid, 'pg_class')
  )) as p
  where c.oid = relation
  order by 1
$$;

select results_eq(
  $$select pg_temp.properties('public.momentum_pillars')$$,
  $$select pg_temp.properties('pg_temp.model')$$,
  'public.momentum_pillars is of the right kind, with the right owner, row security and comment'
);

-- Notices a column that is added, dropped or renamed, and one whose type, NOT NULL, default or comment drifts. A view
-- has its columns in a fixed order; a column that is added to a table comes last, wherever the model has it. A parked
-- column, with its keys and indexes, waits for the way back and belongs to no model.
create function pg_temp.columns(relation regclass) returns setof text language sql stable
as $$
  select
    concat_ws(
      ' ',
      case when exists (select from pg_catalog.pg_class where oid = relation and relkind = 'v') then a.attnum end,
      a.attname,
      format_type(a.atttypid, a.atttypmod),
      'collate ' || l.collname,
      case when a.attnotnull then 'not null' end,
      'identity ' || nullif(a.attidentity::text, ''),
      case a.attgenerated when '' then 'default ' else 'generated as ' end || pg_get_expr(d.adbin, d.adrelid),
      '-- ' || col_description(a.attrelid, a.attnum)
    )
  from pg_catalog.pg_attribute as a
  left join pg_catalog.pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
  left join pg_catalog.pg_collation as l on a.attcollation = l.oid and l.collname <> 'default'
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and not starts_with(a.attname, 'parked_')
  order by 1
$$;

select results_eq(
  $$select pg_temp.columns('public.momentum_pillars')$$,
  $$select pg_temp.columns('pg_temp.model')$$,
  'public.momentum_pillars has exactly these columns, each with its comment'
);

-- A rule could turn a read or write into another one, or into none. That of a view is its query.
create function pg_temp.rules(relation regclass) returns setof text language sql stable
as $$
  select rulename || ' ' || ev_enabled::text
  from pg_catalog.pg_rewrite
  where ev_class = relation
  order by 1
$$;

select results_eq(
  $$select pg_temp.rules('public.momentum_pillars')$$,
  $$select pg_temp.rules('pg_temp.model')$$,
  'public.momentum_pillars has no rules of its own'
);

-- Without its trigger updated_at would stay as it was wherever a writer does not think of it.
create function pg_temp.triggers(relation regclass) returns setof text language sql stable
as $$
  select regexp_replace(pg_get_triggerdef(oid), ' ON \S+', '') || ' ' || tgenabled::text
  from pg_catalog.pg_trigger
  where tgrelid = relation and not tgisinternal
  order by 1
$$;

select results_eq(
  $$select pg_temp.triggers('public.momentum_pillars')$$,
  $$select pg_temp.triggers('pg_temp.model')$$,
  'public.momentum_pillars has exactly these triggers'
);

-- Supabase gives clients everything on a new table, and row level security does not stop TRUNCATE. A privilege on one
-- column is not in the list of the table's privileges.
create function pg_temp.privileges(relation regclass) returns setof text language sql stable
as $$
  select
    concat_ws(
      ' ',
      case p.grantee when c.relowner then 'owner' when 0 then 'public' else p.grantee::regrole::text end,
      p.privilege_type,
      'of ' || g.attname,
      case when p.is_grantable then 'with grant option' end
    )
  from pg_catalog.pg_class as c
  cross join lateral (
    select null as attname, coalesce(c.relacl, acldefault('r', c.relowner)) as acl
    union all
    select a.attname, a.attacl from pg_catalog.pg_attribute as a where a.attrelid = c.oid
  ) as g
  cross join lateral aclexplode(g.acl) as p
  where c.oid = relation
  order by 1
$$;

select results_eq(
  $$select pg_temp.privileges('public.momentum_pillars')$$,
  $$select pg_temp.privileges('pg_temp.model')$$,
  'exactly these privileges on public.momentum_pillars are granted'
);

-- A key or check that is missing, weaker than it reads, deferrable or not valid lets through what it should refuse.
-- PostgreSQL 18 has a constraint for each NOT NULL too: the columns show it, but not whether it is valid for old rows.
create function pg_temp.keys(relation regclass) returns setof text language sql stable
as $$
  select conname || ' ' || pg_get_constraintdef(oid)
  from pg_catalog.pg_constraint
  where
    conrelid = relation
    and contype <> 'f'
    and (contype <> 'n' or not convalidated)
    and strpos(pg_get_constraintdef(oid), 'parked_') = 0
  order by 1
$$;

select results_eq(
  $$select pg_temp.keys('public.momentum_pillars')$$,
  $$select pg_temp.keys('pg_temp.model')$$,
  'public.momentum_pillars has exactly these keys and checks'
);

-- A temporary table can't refer to a lasting one, so the foreign keys are written out.
select results_eq(
  $$
    select concat(conname, ' ', pg_get_constraintdef(oid)) collate "default"
    from pg_catalog.pg_constraint
    where
      conrelid = 'public.momentum_pillars'::regclass
      and contype = 'f'
      and strpos(pg_get_constraintdef(oid), 'parked_') = 0
    order by conname
  $$,
  array[

  ]::text[],
  'public.momentum_pillars has exactly these foreign keys'
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

-- A query without its index reads the whole table; an index that no query needs slows every write down.
create function pg_temp.indexes(relation regclass) returns setof text language sql stable
as $$
  select
    concat_ws(
      ' ',
      regexp_replace(pg_get_indexdef(indexrelid), ' ON \S+', ''),
      case when not (indisvalid and indisready) then 'unusable' end,
      '-- ' || obj_description(indexrelid, 'pg_class')
    )
  from pg_catalog.pg_index
  where indrelid = relation and strpos(pg_get_indexdef(indexrelid), 'parked_') = 0
  order by 1
$$;

select results_eq(
  $$select pg_temp.indexes('public.momentum_pillars')$$,
  $$select pg_temp.indexes('pg_temp.model')$$,
  'public.momentum_pillars has exactly these indexes, all of them usable'
);

-- A policy opens rows to clients.
create function pg_temp.policies(relation regclass) returns setof text language sql stable
as $$
  select
    concat_ws(
      ' ',
      polname,
      case when polpermissive then 'permissive' else 'restrictive' end,
      polcmd,
      polroles::regrole[],
      'using ' || pg_get_expr(polqual, polrelid),
      'with check ' || pg_get_expr(polwithcheck, polrelid)
    )
  from pg_catalog.pg_policy
  where polrelid = relation
  order by 1
$$;

select results_eq(
  $$select pg_temp.policies('public.momentum_pillars')$$,
  $$select pg_temp.policies('pg_temp.model')$$,
  'public.momentum_pillars has exactly these policies'
);

select * from finish();

rollback;
