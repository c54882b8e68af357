-- Facts about an adopted score table: the columns and the unique key that the view and the backfill depend on, and
-- whatever could turn their rows away, or add others.
with tables (key, oid, kind) as (
  select
    case when format('%I.%I', n.nspname, c.relname) = :relation then :score_table else 'table ' || :superseded end,
    c.oid,
    c.relkind
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  where format('%I.%I', n.nspname, c.relname) in (:relation, :superseded)
),

indexes (name, value) as (
  select
    format('%I.%I', n.nspname, c.relname),
    concat_ws(
      ', ',
      case when i.indisunique then 'unique' else 'not unique' end,
      case when i.indisvalid and i.indisready and i.indislive then 'valid' else 'invalid' end,
      case when i.indimmediate then 'immediate' else 'deferrable' end,
      case when i.indpred is null then 'of all rows' else 'partial' end,
      'over ' || (
        select string_agg(d.part, ' and ' order by d.part collate "C" desc) -- noqa: RF02, RF03
        from generate_series(1, i.indnkeyatts) as k, pg_get_indexdef(i.indexrelid, k, false) as d (part)
      )
    )
  from tables as t
  inner join pg_catalog.pg_index as i on t.oid = i.indrelid
  inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  where t.key = :score_table
),

keys (name, definition, parts) as (
  select
    c.relname,
    pg_get_indexdef(i.indexrelid),
    array(
      select pg_get_indexdef(i.indexrelid, k, false)
      from generate_series(1, i.indnkeyatts) as k
    )
  from tables as t
  inner join pg_catalog.pg_index as i on t.oid = i.indrelid and (i.indisunique or i.indisexclusion)
  inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
  where t.key = :score_table and t.kind = 'r' and i.indpred is null
),

facts (key, value) as (
  select
    key,
    case kind when 'r' then 'table' else 'not a plain table' end
  from tables
  where key = :score_table
  union all
  select
    t.key || ', column ' || quote_ident(a.attname),
    format_type(a.atttypid, null) || case a.attgenerated when '' then '' else ', generated' end
  from tables as t
  inner join pg_catalog.pg_attribute as a on t.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
  where a.attname = any(:columns)
  union all
  -- Without a value for it no default row can be inserted. That of a column that they need is in the default row.
  select
    t.key || ', required column ' || quote_ident(a.attname),
    'not null, without a default'
  from tables as t
  inner join pg_catalog.pg_attribute as a on t.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
  inner join pg_catalog.pg_type as y on a.atttypid = y.oid
  where
    t.key = :score_table and t.kind = 'r' and a.attname <> all(:columns)
    and (a.attnotnull or y.typnotnull)
    and not (a.atthasdef or a.attidentity <> '' or y.typdefault is not null)
  union all
  select
    t.key || ', child ' || cast(i.inhrelid as regclass),
    'its rows are rows of this table too, and belong to ' || quote_ident(pg_get_userbyid(c.relowner))
  from tables as t
  inner join pg_catalog.pg_inherits as i on t.oid = i.inhparent
  inner join pg_catalog.pg_class as c on i.inhrelid = c.oid
  where t.key = :score_table and t.kind = 'r'
  union all
  select
    t.key || ', rule ' || quote_ident(w.rulename),
    pg_get_ruledef(w.oid)
  from tables as t
  inner join pg_catalog.pg_rewrite as w on t.oid = w.ev_class
  where t.key = :score_table and t.kind = 'r' and w.ev_enabled <> 'D'
  union all
  -- A crash empties it.
  select
    t.key || ', persistence',
    'unlogged'
  from tables as t
  inner join pg_catalog.pg_class as c on t.oid = c.oid
  where t.key = :score_table and t.kind = 'r' and c.relpersistence = 'u'
  union all
  -- All default rows have the same score and breakdown: such a key lets one of them in, or one per user or day.
  select
    :score_table || ', narrow key ' || quote_ident(k.name),
    k.definition
  from keys as k
  where
    k.parts <@ (cast(:columns as text[]) || cast(:days as text[]))
    and not (array['user_id'] <@ k.parts and k.parts && cast(:days as text[]))
  union all
  -- The unique index is the recorded one or, if the table had its own, any suitable one, whatever its name.
  (
    select
      :score_table || ', unique index',
      value
    from indexes
    where
      name = :unique_index
      or (
        cast(:unique_index as text) is not null and not :created_index
        and value like 'unique, %' and split_part(value, ', over ', 2) = :user_and_day
      )
    order by value <> 'unique, valid, immediate, of all rows, over ' || :user_and_day, name <> :unique_index, name
    limit 1
  )
)

select
  key,
  value
from facts
