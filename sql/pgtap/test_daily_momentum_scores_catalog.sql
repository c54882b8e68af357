-- public.daily_momentum_scores: the facts in the catalog, compared with the model DailyMomentumScore.
-- Made by `make pgtap-sql` from momentum/models/daily_momentum_score.py
-- and momentum/grants.py: change these, not this file.
begin;

select plan(5);

-- The model as a temporary view, so that the server, whichever version it is, spells the facts of both alike.
create temporary view model with (security_invoker = true) as
select
  null::uuid as user_id,
  null::numeric(5, 2) as score,
  null::date as score_date,
  null::jsonb as pillar_breakdown;
comment on view pg_temp.model is 'Momentum scores by UTC day, in the columns that the app has always read.';
comment on column pg_temp.model.user_id is 'The user who is scored.';
comment on column pg_temp.model.score is 'The score in points, 0 to 100.';
comment on column pg_temp.model.score_date is 'The day in UTC.';
comment on column pg_temp.model.pillar_breakdown is 'Points by pillar: a JSON object or null.';
revoke all on table pg_temp.model from public, anon, authenticated, service_role;
grant select on table pg_temp.model to authenticated;
grant select on table pg_temp.model to service_role;

-- Whether access=keep has carried something over from the app's own view. Such things are left out on both sides:
-- python -m momentum.verify compares them with the app's.
create function pg_temp.kept(thing text) returns boolean language plpgsql stable
as $$
begin
  if to_regclass('momentum_internal.kept_access') is null then
    return false;
  end if;
  return exists (
    select from momentum_internal.kept_access
    where 'public.' || relation = 'public.daily_momentum_scores' and thing = any(keys)
  );
end
$$;

-- An unlogged table would lose its rows in a crash; without row-level security every client would see every row. A
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
  where
    c.oid = relation
    and not pg_temp.kept(case when starts_with(p.key, 'row security') then 'row level security' else p.key end)
  order by 1
$$;

select results_eq(
  $$select pg_temp.properties('public.daily_momentum_scores')$$,
  $$select pg_temp.properties('pg_temp.model')$$,
  'public.daily_momentum_scores is of the right kind, with the right owner, row security and comment'
);

-- Detects a column that is added, dropped or renamed, and one whose type, NOT NULL, default or comment drifts. A view
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
      case when not pg_temp.kept('column ' || quote_ident(a.attname)) then
        case a.attgenerated when '' then 'default ' else 'generated as ' end || pg_get_expr(d.adbin, d.adrelid)
      end,
      '-- ' || col_description(a.attrelid, a.attnum)
    )
  from pg_catalog.pg_attribute as a
  left join pg_catalog.pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
  left join pg_catalog.pg_collation as l on a.attcollation = l.oid and l.collname <> 'default'
  where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and not starts_with(a.attname, 'parked_')
  order by 1
$$;

select results_eq(
  $$select pg_temp.columns('public.daily_momentum_scores')$$,
  $$select pg_temp.columns('pg_temp.model')$$,
  'public.daily_momentum_scores has exactly these columns, each with its comment'
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
  $$select pg_temp.rules('public.daily_momentum_scores')$$,
  $$select pg_temp.rules('pg_temp.model')$$,
  'public.daily_momentum_scores has no rules of its own'
);

-- Without its trigger, updated_at would stay as it was whenever a writer does not set it.
create function pg_temp.triggers(relation regclass) returns setof text language sql stable
as $$
  select regexp_replace(pg_get_triggerdef(oid), ' ON \S+', '') || ' ' || tgenabled::text
  from pg_catalog.pg_trigger
  where tgrelid = relation and not tgisinternal and not pg_temp.kept('trigger ' || quote_ident(tgname))
  order by 1
$$;

select results_eq(
  $$select pg_temp.triggers('public.daily_momentum_scores')$$,
  $$select pg_temp.triggers('pg_temp.model')$$,
  'public.daily_momentum_scores has exactly these triggers'
);

-- Supabase grants clients everything on a new table, and row-level security does not stop TRUNCATE. A privilege on one
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
  where
    c.oid = relation
    and not pg_temp.kept(
      coalesce('column ' || quote_ident(g.attname) || ', ', '') || 'grant to '
      || case p.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(p.grantee)) end
    )
  order by 1
$$;

select results_eq(
  $$select pg_temp.privileges('public.daily_momentum_scores')$$,
  $$select pg_temp.privileges('pg_temp.model')$$,
  'exactly these privileges on public.daily_momentum_scores are granted'
);

select * from finish();

rollback;
