"""Every fact of the catalog with a statement that changes it.

The mutations are made from the catalog, so that a new column, key, index or privilege is mutated, and must be noticed,
without any change here.
"""

from typing import Any, NamedTuple

import psycopg

from momentum.models import Base

VIEW = "public.daily_momentum_scores"
SCORES = "legacy.daily_engagement_scores"
INTERNAL = ("momentum_internal.alembic_version", "momentum_internal.score_table")
RELATIONS = (*(f"public.{name}" for name in Base.metadata.tables), SCORES, VIEW, *INTERNAL)

# Everybody, and the roles to which Supabase grants privileges by default.
ROLES = "unnest(array['public', 'anon', 'authenticated', 'service_role'])"

# The queries below read these views. A mutation belongs to the file that must notice it.
CATALOG = """
create temporary view relation as
select
  c.*,
  n.nspname,
  format('%I.%I', n.nspname, c.relname) as name,
  case n.nspname when 'momentum_internal' then 'momentum_internal' else c.relname end as file
from pg_class as c
inner join pg_namespace as n on c.relnamespace = n.oid
where format('%I.%I', n.nspname, c.relname) = any (RELATIONS);

create temporary view tables as
select * from relation where relkind = 'r';

create temporary view keys as
select
  t.name as relation,
  t.file,
  c.*,
  regexp_replace(pg_get_constraintdef(c.oid), ' ON DELETE .*', '') as without_action,
  pg_get_constraintdef(c.oid) as definition,
  format('alter table %s drop constraint %I cascade; alter table %1$s add constraint %2$I ', t.name, c.conname)
    as replaced_by,
  exists (select from pg_constraint as f where f.contype = 'f' and f.conindid = c.conindid) and c.contype <> 'f'
    as referenced,
  array(
    select quote_ident(a.attname)
    from unnest(c.conkey) with ordinality as k (attnum, place)
    inner join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.attnum
    order by k.place
  ) as columns
from pg_constraint as c
inner join tables as t on c.conrelid = t.oid;

create temporary view indexes as
select
  t.name as relation,
  t.file,
  i.*,
  c.relname as index,
  format('%I.%I', t.nspname, c.relname) as name,
  pg_get_indexdef(i.indexrelid) as definition,
  format('drop index %I.%I; ', t.nspname, c.relname) as dropped,
  exists (select from pg_constraint as k where k.conindid = i.indexrelid and k.contype <> 'f') as of_constraint
from pg_index as i
inner join tables as t on i.indrelid = t.oid
inner join pg_class as c on i.indexrelid = c.oid;
"""

# Each row: the file that must notice, the changed fact, its object, and the SQL that changes it.
FACTS = {
    "table": """
select t.file, what, t.name, format(statement, t.name)
from tables as t
cross join (values
  ('dropped', 'drop table %s cascade'),
  ('renamed', 'alter table %s rename to renamed'),
  ('moved', 'create schema moved; alter table %s set schema moved'),
  ('owner', 'alter table %s owner to service_role'),
  ('row security forced', 'alter table %s force row level security'),
  ('comment changed', 'comment on table %s is ''Changed.'''),
  ('column added', 'alter table %s add column added text'),
  ('check added', 'alter table %s add constraint added check (true)'),
  ('rule added', 'create rule added as on update to %s do also notify added'),
  ('trigger added', 'create trigger added before insert on %s for each row execute function '
    'momentum_internal.set_updated_at()'),
  ('child added', 'create table added () inherits (%s)'),
  ('parent added', 'create table added (); alter table %s inherit added'),
  ('policy for all added', 'create policy added on %s using (true)'),
  ('policy for select added', 'create policy added on %s for select to authenticated using (true)'),
  ('policy for insert added', 'create policy added on %s for insert to authenticated with check (true)'),
  ('policy for no row added', 'create policy added on %s as restrictive to anon using (false)')
) as m (what, statement)
union all
select t.file, 'comment removed', t.name, format('comment on table %s is null', t.name)
from tables as t
where obj_description(t.oid, 'pg_class') is not null
union all
select
  t.file,
  'row security toggled',
  t.name,
  format('alter table %s %s row level security', t.name, case when t.relrowsecurity then 'disable' else 'enable' end)
from tables as t
union all
-- A logged table cannot refer to an unlogged one.
select t.file, 'unlogged', t.name, format('alter table %s set unlogged', t.name)
from tables as t
where not exists (select from pg_constraint where confrelid = t.oid)
union all
select t.file, 'replica identity', t.name, format('alter table %s replica identity full', t.name)
from tables as t
where t.nspname <> 'momentum_internal'
union all
select
  t.file, 'key added', t.name, format('alter table %s add foreign key (user_id) references auth.users', t.name)
from tables as t
where exists (select from pg_attribute where attrelid = t.oid and attname = 'user_id')
""",
    "column": """
with columns as (
  select
    r.*,
    a.attname,
    a.attnotnull,
    a.atthasdef,
    format_type(a.atttypid, a.atttypmod) as type,
    y.typcategory,
    col_description(a.attrelid, a.attnum) as comment,
    exists (
      select from pg_constraint where conrelid = r.oid and contype = 'p' and a.attnum = any (conkey)
    ) as in_key,
    format('alter table %s alter column %I ', r.name, a.attname) as altered,
    -- The type of a column that a view or policy uses cannot be changed. The file of the table has no eye on the view.
    concat(
      case r.name when 'legacy.daily_engagement_scores' then 'drop view public.daily_momentum_scores; ' end, p.freed
    ) as freed,
    p.bound
  from relation as r
  inner join pg_attribute as a on r.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
  inner join pg_type as y on a.atttypid = y.oid
  cross join lateral (
    select
      string_agg(format('drop policy %I on %s; ', policyname, r.name), '') as freed,
      string_agg(
        concat(
          format('; create policy %I on %s for %s to %s', policyname, r.name, cmd, array_to_string(roles, ', ')),
          ' using (' || qual || ')',
          ' with check (' || with_check || ')'
        ),
        ''
      ) as bound
    from pg_policies
    where schemaname = r.nspname and tablename = r.relname
  ) as p
)

select file, 'dropped', name || '.' || attname, format('alter table %s drop column %I cascade', name, attname)
from columns
where relkind = 'r'
union all
select file, 'renamed', name || '.' || attname, format('alter table %s rename column %I to renamed', name, attname)
from columns
union all
select
  file,
  'type changed',
  name || '.' || attname,
  concat('create domain public.other as ', type, '; ', freed, altered, 'type ', case type
    when 'text' then 'varchar(255)'
    when 'character varying(32)' then 'text'
    when 'timestamp with time zone' then 'timestamptz(3)'
    when 'numeric(5,2)' then 'numeric(6,2)'
    when 'date' then 'timestamp'
    else 'public.other'
  end, bound)
from columns
where relkind = 'r'
union all
select file, 'collation changed', name || '.' || attname, concat(freed, altered, 'type ', type, ' collate "C"', bound)
from columns
where relkind = 'r' and type in ('text', 'character varying(32)')
union all
select
  file,
  'not null toggled',
  name || '.' || attname,
  altered || case when attnotnull then 'drop not null' else 'set not null' end
from columns
where relkind = 'r' and not in_key
union all
select file, 'default dropped', name || '.' || attname, altered || 'drop default'
from columns
where atthasdef
union all
select
  file,
  case when atthasdef then 'default changed' else 'default added' end,
  name || '.' || attname,
  altered || 'set default ' || case type
    when 'uuid' then '''00000000-0000-0000-0000-000000000000'''
    when 'timestamp with time zone' then 'clock_timestamp()'
    when 'boolean' then 'random() < 0.5'
    else case typcategory
      when 'D' then 'now()'
      when 'E' then format('enum_first(null::%s)', type)
      when 'I' then '''127.0.0.1'''
      when 'N' then '0'
      when 'R' then '''empty'''
      when 'S' then ''''''
      when 'T' then '''1 day'''
      else '''{}'''
    end
  end
from columns
union all
select file, 'comment changed', name || '.' || attname, format('comment on column %s.%I is ''Changed.''', name, attname)
from columns
union all
select file, 'comment removed', name || '.' || attname, format('comment on column %s.%I is null', name, attname)
from columns
where comment is not null
union all
select
  file,
  'granted to ' || role,
  name || '.' || attname,
  format('grant references (%I) on %s to %s', attname, name, role)
from columns
cross join ROLES as role
""",
    "constraint": """
select file, 'dropped', conname::text, format('alter table %s drop constraint %I cascade', relation, conname)
from keys
where contype <> 'n'
union all
select file, 'renamed', conname, format('alter table %s rename constraint %I to renamed', relation, conname)
from keys
where contype <> 'n'
union all
select file, 'not valid', conname, replaced_by || definition || ' not valid'
from keys
where contype in ('c', 'f')
union all
select file, 'not inherited', conname, replaced_by || definition || ' no inherit'
from keys
where contype = 'c'
union all
select file, 'lets everything through', conname, replaced_by || replace(definition, 'CHECK (', 'CHECK (true or ')
from keys
where contype = 'c'
union all
select file, 'on delete ' || action, conname, replaced_by || without_action || ' on delete ' || action
from keys
cross join (values ('a', 'no action'), ('r', 'restrict'), ('c', 'cascade'), ('n', 'set null')) as a (code, action)
where contype = 'f' and confdeltype::text <> code
union all
select file, 'on update cascade', conname, replaced_by || definition || ' on update cascade'
from keys
where contype = 'f'
union all
select
  file, 'refers to another table', conname, replaced_by || regexp_replace(definition, 'REFERENCES \\S+', other)
from keys
inner join (values
  ('auth.users'::regclass, 'references public.momentum_pillars (id)'),
  ('public.momentum_pillars'::regclass, 'references auth.users (id)')
) as r (referred, other) on confrelid = referred
union all
select file, 'match full', conname, replaced_by || replace(definition, ' ON DELETE', ' match full on delete')
from keys
where contype = 'f'
union all
-- A key that is referred to cannot be deferrable.
select file, 'deferrable', conname, replaced_by || definition || ' deferrable'
from keys
where contype in ('f', 'p', 'u') and not referenced
union all
select
  file, 'over more columns', conname, format('%sunique (%s, created_at)', replaced_by, array_to_string(columns, ', '))
from keys
where contype = 'u'
union all
select file, 'over the first column', conname, format('%sunique (%s)', replaced_by, columns[1])
from keys
where contype = 'u' and cardinality(columns) > 1
union all
select file, 'columns swapped', conname, format('%sunique (%s, %s)', replaced_by, columns[2], columns[1])
from keys
where contype = 'u' and cardinality(columns) > 1
union all
select file, 'nulls not distinct', conname, replaced_by || replace(definition, 'UNIQUE', 'unique nulls not distinct')
from keys
where contype = 'u'
union all
select file, 'unique instead of primary', conname, replaced_by || replace(definition, 'PRIMARY KEY', 'unique')
from keys
where contype = 'p'
union all
select distinct file, 'triggers disabled', relation, format('alter table %s disable trigger all', relation)
from keys
where contype = 'f'
union all
select file, 'not enforced', conname, replaced_by || definition || ' not enforced'
from keys
where contype in ('c', 'f') and current_setting('server_version_num')::integer >= 180000
union all
select file, 'not valid', conname, replaced_by || definition || ' not valid'
from keys
where contype = 'n' and not columns[1] = any (array['id', 'only_row', 'version_num'])
""",
    "index": """
select file, 'dropped', name, dropped
from indexes
where not of_constraint
union all
select file, 'renamed', name, format('alter index %s rename to renamed', name)
from indexes
where not of_constraint
union all
select file, 'invalid', name, format('update pg_index set indisvalid = false where indexrelid = %s', indexrelid)
from indexes
union all
select file, 'not ready', name, format('update pg_index set indisready = false where indexrelid = %s', indexrelid)
from indexes
union all
select file, 'comment changed', name, format('comment on index %s is ''Changed.''', name)
from indexes
where file <> 'momentum_internal'
union all
select file, 'comment removed', name, format('comment on index %s is null', name)
from indexes
where obj_description(indexrelid, 'pg_class') is not null
union all
select
  file,
  'unique toggled',
  name,
  dropped || case
    when indisunique then replace(definition, 'UNIQUE ', '')
    else replace(definition, 'CREATE INDEX', 'create unique index')
  end
from indexes
where not of_constraint
union all
select file, 'partial', name, dropped || definition || ' where user_id is not null'
from indexes
where not of_constraint
union all
select file, 'order reversed', name, dropped || case
  when definition like '% DESC)' then replace(definition, ' DESC)', ')')
  else regexp_replace(definition, '\\)$', ' desc)')
end
from indexes
where not of_constraint
union all
select file, 'another column', name, dropped || regexp_replace(definition, '\\((\\w+)', '(id')
from indexes
where not of_constraint
union all
select file, 'a column more', name, dropped || regexp_replace(definition, '\\)$', ', id)')
from indexes
where not of_constraint
union all
select file, 'a column included', name, dropped || definition || ' include (id)'
from indexes
where not of_constraint
union all
select file, 'first column alone', name, dropped || regexp_replace(definition, '\\((\\w+).*', '(\\1)')
from indexes
where not of_constraint and indnatts > 1
union all
select file, 'another method', name, dropped || replace(definition, 'USING btree', 'using hash')
from indexes
where not of_constraint and indnatts = 1
union all
select file, 'another fill factor', name, dropped || definition || ' with (fillfactor = 50)'
from indexes
where not of_constraint
union all
select file, 'the day of another zone', name, dropped || replace(definition, 'UTC', 'Europe/Berlin')
from indexes
where definition like '%UTC%'
union all
select file, 'nulls not distinct', name, dropped || definition || ' nulls not distinct'
from indexes
where not of_constraint and indisunique
union all
select t.file, 'added on ' || a.attname, t.name, format('create index added on %s (%I)', t.name, a.attname)
from tables as t
inner join pg_attribute as a on t.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
""",
    "trigger": """
with triggers as (
  select t.name, t.file, g.tgname, pg_get_triggerdef(g.oid) as definition,
    format('drop trigger %I on %s; ', g.tgname, t.name) as dropped
  from pg_trigger as g
  inner join tables as t on g.tgrelid = t.oid
  where not g.tgisinternal
)

select file, 'dropped', name, dropped
from triggers
union all
select file, 'renamed', name, format('alter trigger %I on %s rename to renamed', tgname, name)
from triggers
union all
select file, state, name, format('alter table %s %s trigger %I', name, state, tgname)
from triggers
cross join unnest(array['disable', 'enable always', 'enable replica']) as state
union all
select file, 'fires differently: ' || new, name, dropped || replace(definition, old, new)
from triggers
cross join (values
  ('BEFORE INSERT OR UPDATE', 'after insert or update'),
  ('BEFORE INSERT OR UPDATE', 'before insert'),
  ('BEFORE INSERT OR UPDATE', 'before update'),
  ('BEFORE UPDATE', 'after update'),
  ('BEFORE UPDATE', 'before insert'),
  ('BEFORE UPDATE', 'before insert or update'),
  ('BEFORE ', 'before delete or '),
  ('UPDATE', 'update of created_at'),
  ('FOR EACH ROW', 'for each statement'),
  ('FOR EACH ROW', 'for each row when (new.updated_at is not null)'),
  ('EXECUTE FUNCTION momentum_internal.set_updated_at()', 'execute function suppress_redundant_updates_trigger()')
) as c (old, new)
where strpos(definition, old) > 0
""",
    "policy": """
with policies as (
  select t.name, t.file, p.policyname, p.qual, format('alter policy %I on %s ', p.policyname, t.name) as altered,
    format('drop policy %I on %s; create policy %1$I on %2$s ', p.policyname, t.name) as replaced_by
  from pg_policies as p
  inner join tables as t on p.schemaname = t.nspname and p.tablename = t.relname
)

select file, 'dropped', policyname, format('drop policy %I on %s', policyname, name)
from policies
union all
select file, 'renamed', policyname, altered || 'rename to renamed'
from policies
union all
select file, 'using ' || other, policyname, altered || format('using (%s)', other)
from policies
cross join unnest(array['true', 'false', '(select auth.uid()) is not null', 'auth.uid() = user_id']) as other
union all
select file, 'to ' || role, policyname, altered || 'to ' || role
from policies
cross join unnest(array['public', 'anon', 'service_role', 'authenticated, anon']) as role
union all
select file, 'for all', policyname, replaced_by || format('for all to authenticated using (%s)', qual)
from policies
union all
select file, 'for update', policyname, replaced_by || format('for update to authenticated using (%s)', qual)
from policies
union all
select file, 'for delete', policyname, replaced_by || format('for delete to authenticated using (%s)', qual)
from policies
union all
select
  file, 'restrictive', policyname, replaced_by || format('as restrictive for select to authenticated using (%s)', qual)
from policies
""",
    "privilege": """
with grants as (
  select r.name, r.file, r.relowner, p.privilege_type, role,
    exists (
      select from aclexplode(r.relacl)
      where grantee <> 0 and grantee::regrole::text = role and privilege_type = p.privilege_type
    ) as granted
  from relation as r
  cross join lateral aclexplode(acldefault('r', r.relowner)) as p
  cross join ROLES as role
)

select
  file,
  privilege_type || case when granted then ' revoked from ' else ' granted to ' end || role,
  name,
  format(case when granted then 'revoke %s on %s from %s' else 'grant %s on %s to %s' end, privilege_type, name, role)
from grants
union all
select
  file, privilege_type || ' with grant option to ' || role, name,
  format('grant %s on %s to %s with grant option', privilege_type, name, role)
from grants
where granted
union all
select distinct file, privilege_type || ' revoked from the owner', name,
  format('revoke %s on %s from %s', privilege_type, name, relowner::regrole)
from grants
where file <> 'momentum_internal'
""",
    "schema": """
with schemas as (
  select nspname, nspacl, case nspname when 'legacy' then 'daily_engagement_scores' else nspname end as file
  from pg_namespace
  where nspname in ('legacy', 'momentum_internal')
), grants as (
  select s.*, role, privilege, exists (
    select from aclexplode(nspacl)
    where grantee <> 0 and grantee::regrole::text = role and privilege_type = privilege
  ) as granted
  from schemas as s
  cross join ROLES as role
  cross join unnest(array['USAGE', 'CREATE']) as privilege
)

select
  file,
  privilege || case when granted then ' revoked from ' else ' granted to ' end || role,
  nspname,
  format(
    case when granted then 'revoke %s on schema %s from %s' else 'grant %s on schema %s to %s' end,
    privilege,
    nspname,
    role
  )
from grants
union all
select file, 'owner ' || role, nspname, format('alter schema %I owner to %I', nspname, role)
from schemas
cross join unnest(array['anon', 'authenticated', 'service_role']) as role
union all
select file, 'renamed', nspname, format('alter schema %I rename to renamed', nspname)
from schemas
union all
select file, 'comment changed', nspname, format('comment on schema %I is ''Changed.''', nspname)
from schemas
union all
select file, 'comment removed', nspname, format('comment on schema %I is null', nspname)
from schemas
""",
    "function": """
with functions as (
  select p.*, oid::regprocedure::text as name, pg_get_functiondef(oid) as definition
  from pg_proc as p
  where pronamespace = 'momentum_internal'::regnamespace
)

select 'momentum_internal', what, name, format(statement, name)
from functions
cross join (values
  ('dropped', 'drop function %s cascade'),
  ('renamed', 'alter function %s rename to renamed'),
  ('security definer', 'alter function %s security definer'),
  ('search path reset', 'alter function %s reset search_path'),
  ('search path opened', 'alter function %s set search_path = public'),
  ('setting added', 'alter function %s set work_mem = ''64MB'''),
  ('stable', 'alter function %s stable'),
  ('strict', 'alter function %s strict'),
  ('leakproof', 'alter function %s leakproof'),
  ('parallel safe', 'alter function %s parallel safe'),
  ('owner', 'alter function %s owner to authenticated'),
  ('comment changed', 'comment on function %s is ''Changed.'''),
  ('comment removed', 'comment on function %s is null'),
  ('another one added', 'create function momentum_internal.added() returns void language sql as ''''')
) as m (what, statement)
union all
select 'momentum_internal', 'granted to ' || role, name, format('grant execute on function %s to %s', name, role)
from functions
cross join ROLES as role
union all
select 'momentum_internal', 'body: ' || new, name, replace(definition, old, new)
from functions
cross join (values
  ('now()', 'clock_timestamp()'),
  ('new.updated_at :=', 'new.created_at :='),
  ('return new', 'return old'),
  ('new.updated_at := now();', ''),
  ('new.updated_at := now();', 'new.updated_at := greatest(new.updated_at, now());')
) as c (old, new)
""",
    "row": """
select
  'momentum_internal', 'changed', 'score_table.' || c, format('update momentum_internal.score_table set %s = %s', c, v)
from (values
  ('relation', '''public.daily_engagement_scores'''),
  ('layout', '''production'''),
  ('created_table', 'not created_table'),
  ('created_schema', 'not created_schema'),
  ('granted_usage', 'not granted_usage'),
  ('created_index', 'not created_index')
) as x (c, v)
union all
values
  ('momentum_internal', 'deleted', 'score_table', 'delete from momentum_internal.score_table'),
  ('momentum_internal', 'deleted', 'alembic_version', 'delete from momentum_internal.alembic_version'),
  ('momentum_internal', 'added', 'alembic_version', 'insert into momentum_internal.alembic_version values (''added'')')
""",
}

# The view's text, and parts of it, each with a replacement.
VIEW_QUERY = f"""
select s.user_id, s.score, (s.score_ts at time zone 'UTC')::date as score_date, s.pillar_breakdown
from {SCORES} as s where true"""
VIEW_TEXTS = {
    "the session's day": ("(s.score_ts at time zone 'UTC')::date", "s.score_ts::date"),
    "another zone's day": ("'UTC'", "'Europe/Berlin'"),
    "the day of the row's creation": ("s.score_ts at", "s.created_at at"),
    "scores of 0 hidden": ("where true", "where s.score <> 0"),
    "scores of 0 and missing ones hidden": ("where true", "where s.score > 0"),
    "missing scores hidden": ("where true", "where s.score is not null"),
    "missing breakdowns hidden": ("where true", "where s.pillar_breakdown is not null"),
    "the future hidden": ("where true", "where s.score_ts <= now()"),
    "backfilled rows hidden": ("where true", "where s.source is null"),
    "rows limited": ("where true", "limit 1000000"),
    "rows ordered": ("where true", "order by s.score_ts"),
    "rows made distinct": ("select ", "select distinct "),
    "children of the table left out": ("from legacy", "from only legacy"),
    "joined": (" as s where true", " as s inner join auth.users as u on s.user_id = u.id"),
    "missing scores shown as 0": ("s.score,", "coalesce(s.score, 0)::numeric(5, 2) as score,"),
    "missing breakdowns shown as empty": (
        "s.pillar_breakdown",
        "coalesce(s.pillar_breakdown, '{}') as pillar_breakdown",
    ),
    "breakdown left empty": ("s.pillar_breakdown", "null::jsonb as pillar_breakdown"),
    "column added": ("s.pillar_breakdown", "s.pillar_breakdown, s.source"),
    "columns swapped": ("s.user_id, s.score,", "s.score, s.user_id,"),
    "user_id as text": ("s.user_id", "s.user_id::text as user_id"),
    "score without its scale": ("s.score,", "s.score::numeric as score,"),
    "score as a float": ("s.score,", "s.score::float8 as score,"),
    "day as a timestamp": ("::date", ""),
    "breakdown as json": ("s.pillar_breakdown", "s.pillar_breakdown::json as pillar_breakdown"),
}
VIEW_STATEMENTS = {
    "dropped": f"drop view {VIEW}",
    "renamed": f"alter view {VIEW} rename to renamed",
    "column left out": f"drop view {VIEW}; create view {VIEW} as select user_id, score, score_ts::date from {SCORES}",
    "materialized": f"drop view {VIEW}; create materialized view {VIEW} as {VIEW_QUERY}",
    "security_invoker reset": f"alter view {VIEW} reset (security_invoker)",
    "security_invoker off": f"alter view {VIEW} set (security_invoker = false)",
    "security_barrier set": f"alter view {VIEW} set (security_barrier = true)",
    "check option set": f"alter view {VIEW} set (check_option = local)",
    "owner": f"alter view {VIEW} owner to authenticated",
    "comment changed": f"comment on view {VIEW} is 'Changed.'",
    "comment removed": f"comment on view {VIEW} is null",
    "rule added": f"create rule added as on insert to {VIEW} do instead nothing",
    "trigger added": f"create trigger added instead of insert on {VIEW} for each row "
    "execute function momentum_internal.set_updated_at()",
}

# The view's comments and privileges, for the mutations that create it again.
VIEW_BELONGINGS = f"""
select format('comment on view %s is %L', '{VIEW}', obj_description('{VIEW}'::regclass, 'pg_class'))
union all
select format('comment on column %s.%I is %L', '{VIEW}', attname, col_description(attrelid, attnum))
from pg_attribute
where attrelid = '{VIEW}'::regclass and attnum > 0
union all
select 'revoke all on {VIEW} from public, anon, authenticated, service_role'
union all
select format('grant %s on %s to %s', privilege_type, '{VIEW}', grantee::regrole)
from pg_class, aclexplode(relacl)
where pg_class.oid = '{VIEW}'::regclass
"""


class Mutation(NamedTuple):
    """One change of one fact, which the file of this name must notice."""

    file: str
    kind: str
    what: str
    subject: str
    statement: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.kind} {self.what}"


def read_rows(connection: psycopg.Connection[Any], text: str) -> list[Any]:
    """Return the rows of a query, in which psycopg looks for no parameters."""
    return connection.execute(text.encode()).fetchall()


def read_mutations(connection: psycopg.Connection[Any]) -> list[Mutation]:
    """Return every mutation, made from the catalog of the database."""
    connection.execute(CATALOG.replace("RELATIONS", f"array{list(RELATIONS)}").encode())
    mutations = [
        Mutation(file, kind, what, subject, statement)
        for kind, text in FACTS.items()
        for file, what, subject, statement in read_rows(connection, text.replace("ROLES", ROLES))
    ]
    belongings = "; ".join(statement for (statement,) in read_rows(connection, VIEW_BELONGINGS))
    connection.rollback()
    statements = dict(VIEW_STATEMENTS)
    for what, (old, new) in VIEW_TEXTS.items():
        assert old in VIEW_QUERY, f"{old!r} is not in the view's text: fix VIEW_TEXTS."
        query = VIEW_QUERY.replace(old, new)
        statements[what] = (
            f"drop view {VIEW}; create view {VIEW} with (security_invoker = true) as {query}; {belongings}"
        )
    file = VIEW.partition(".")[2]
    return [*mutations, *(Mutation(file, "view", what, VIEW, text) for what, text in statements.items())]
