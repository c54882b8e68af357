-- Everything that this database could run when rows are written, except for the server's own parts: its functions, its
-- relations with what is attached to them, and its operators. Each fact is an object that says of what kind it is.
with schemas (oid, name) as (
  select
    n.oid,
    n.nspname
  from pg_catalog.pg_namespace as n
  where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
),

functions (oid, fact) as (
  select
    p.oid,
    pg_catalog.jsonb_build_object(
      'is', 'function', 'oid', p.oid, 'schema', s.name, 'name', p.proname, 'language', l.lanname,
      'extension', e.extname, 'settings', p.proconfig,
      'of a row', p.pronargs >= 1 and exists (
        select from pg_catalog.pg_type as t
        where t.oid = p.proargtypes[0] and (t.typtype = 'c' or t.typname in ('record', 'anyelement', 'any'))
      ),
      'signature', pg_catalog.format(
        '%I.%I(%s)', s.name, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)
      ),
      'source', case
        when l.lanname in ('sql', 'plpgsql') then coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc)
      end
    )
  from pg_catalog.pg_proc as p
  inner join schemas as s on p.pronamespace = s.oid
  inner join pg_catalog.pg_language as l on p.prolang = l.oid
  left join pg_catalog.pg_depend as d
    on d.classid = cast('pg_catalog.pg_proc' as regclass) and p.oid = d.objid and d.deptype = 'e'
  left join pg_catalog.pg_extension as e
    on d.refclassid = cast('pg_catalog.pg_extension' as regclass) and d.refobjid = e.oid
),

-- The functions that, as far as the server knows, an expression, a rule or an SQL-standard body uses. An operator
-- counts as its function.
uses (class, oid, function) as (
  select
    d.classid,
    d.objid,
    coalesce(cast(o.oprcode as oid), d.refobjid)
  from pg_catalog.pg_depend as d
  left join pg_catalog.pg_operator as o
    on d.refclassid = cast('pg_catalog.pg_operator' as regclass) and d.refobjid = o.oid
  where
    d.refclassid in (cast('pg_catalog.pg_proc' as regclass), cast('pg_catalog.pg_operator' as regclass))
    and d.deptype in ('n', 'a')
),

-- The functions that are evaluated when a value of a type is made: those of a domain's checks, and the casts from and
-- to the type.
types (oid, name, schema, function) as (
  select
    t.oid,
    t.typname,
    s.name,
    u.function
  from pg_catalog.pg_type as t
  inner join schemas as s on t.typnamespace = s.oid
  inner join pg_catalog.pg_constraint as c on t.oid = c.contypid
  inner join uses as u on u.class = cast('pg_catalog.pg_constraint' as regclass) and c.oid = u.oid
  union
  select
    t.oid,
    t.typname,
    s.name,
    c.castfunc
  from pg_catalog.pg_type as t
  inner join schemas as s on t.typnamespace = s.oid
  inner join pg_catalog.pg_cast as c on t.oid in (c.castsource, c.casttarget)
  where c.castfunc <> 0
),

attached (relation, kind, name, function) as (
  select
    d.adrelid,
    case a.attgenerated when '' then 'default' else 'generated column' end,
    a.attname,
    u.function
  from pg_catalog.pg_attrdef as d
  inner join pg_catalog.pg_attribute as a on d.adrelid = a.attrelid and d.adnum = a.attnum
  inner join uses as u on u.class = cast('pg_catalog.pg_attrdef' as regclass) and d.oid = u.oid
  union all
  select
    c.conrelid,
    'check',
    c.conname,
    u.function
  from pg_catalog.pg_constraint as c
  inner join uses as u on u.class = cast('pg_catalog.pg_constraint' as regclass) and c.oid = u.oid
  where c.contype = 'c' and c.conrelid <> 0
  union all
  select
    i.indrelid,
    'index',
    c.relname,
    u.function
  from pg_catalog.pg_index as i
  inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
  inner join uses as u on u.class = cast('pg_catalog.pg_class' as regclass) and i.indexrelid = u.oid
  union all
  select
    a.attrelid,
    'type of the column',
    a.attname,
    t.function
  from types as t
  inner join pg_catalog.pg_attribute as a on t.oid = a.atttypid
  where a.attnum > 0 and not a.attisdropped
  union all
  select
    p.polrelid,
    'policy',
    p.polname,
    u.function
  from pg_catalog.pg_policy as p
  inner join uses as u on u.class = cast('pg_catalog.pg_policy' as regclass) and p.oid = u.oid
  where pg_catalog.row_security_active(p.polrelid)
  union all
  select
    w.ev_class,
    'view',
    w.rulename,
    u.function
  from pg_catalog.pg_rewrite as w
  inner join uses as u on u.class = cast('pg_catalog.pg_rewrite' as regclass) and w.oid = u.oid
  where w.rulename = '_RETURN'
),

facts (fact) as (
  select
    pg_catalog.jsonb_build_object(
      'is', 'path', 'schemas', pg_catalog.current_schemas(true), 'default', p.reset_val,
      'single byte', (
        select pg_catalog.pg_encoding_max_length(d.encoding) = 1
        from pg_catalog.pg_database as d
        where d.datname = pg_catalog.current_database()
      ),
      -- As a trigger finds it: only the transactions that read change it.
      'conforming', (
        select s.reset_val
        from pg_catalog.pg_settings as s
        where s.name = 'standard_conforming_strings'
      )
    )
  from pg_catalog.pg_settings as p
  where p.name = 'search_path'
  union all
  select f.fact
  from functions as f
  union all
  select pg_catalog.jsonb_build_object('is', 'use', 'function', u.oid, 'used', u.function)
  from uses as u
  where u.class = cast('pg_catalog.pg_proc' as regclass)
  union all
  select
    pg_catalog.jsonb_build_object(
      'is', 'operator', 'schema', s.name, 'name', o.oprname, 'function', cast(o.oprcode as oid)
    )
  from pg_catalog.pg_operator as o
  inner join schemas as s on o.oprnamespace = s.oid
  union all
  select pg_catalog.jsonb_build_object('is', 'type', 'schema', t.schema, 'name', t.name, 'function', t.function)
  from types as t
  union all
  select
    pg_catalog.jsonb_build_object(
      'is', 'relation', 'oid', c.oid, 'schema', s.name, 'name', c.relname, 'kind', c.relkind,
      'own types', exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = c.oid and a.attnum > 0 and a.atttypid >= 16384
      )
    )
  from pg_catalog.pg_class as c
  inner join schemas as s on c.relnamespace = s.oid
  where c.relkind in ('r', 'p', 'v', 'm', 'f')
  union all
  select
    pg_catalog.jsonb_build_object(
      'is', 'attached', 'relation', a.relation, 'kind', a.kind, 'name', a.name, 'function', a.function
    )
  from attached as a
  union all
  select
    pg_catalog.jsonb_build_object(
      'is', 'trigger', 'relation', t.tgrelid, 'name', t.tgname, 'type', t.tgtype, 'function', t.tgfoid,
      'called', pg_catalog.format('%s.%s', n.nspname, p.proname),
      'conditions', array(
        select u.function
        from uses as u
        where u.class = cast('pg_catalog.pg_trigger' as regclass) and t.oid = u.oid and u.function <> t.tgfoid
      )
    )
  from pg_catalog.pg_trigger as t
  inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
  inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
  where not t.tgisinternal and t.tgenabled in ('O', 'A')
  union all
  select
    pg_catalog.jsonb_build_object(
      'is', 'rule', 'relation', w.ev_class, 'name', w.rulename, 'event', w.ev_type, 'instead', w.is_instead,
      'text', pg_catalog.pg_get_ruledef(w.oid),
      'uses', array(
        select u.function
        from uses as u
        where u.class = cast('pg_catalog.pg_rewrite' as regclass) and w.oid = u.oid
      )
    )
  from pg_catalog.pg_rewrite as w
  where w.rulename <> '_RETURN' and w.ev_enabled in ('O', 'A')
  union all
  -- A view writes to what it reads, unless a trigger or a rule of its own does the writing.
  select distinct pg_catalog.jsonb_build_object('is', 'reading', 'view', w.ev_class, 'relation', d.refobjid)
  from pg_catalog.pg_rewrite as w
  inner join pg_catalog.pg_depend as d
    on d.classid = cast('pg_catalog.pg_rewrite' as regclass) and w.oid = d.objid
  where
    w.rulename = '_RETURN' and d.refclassid = cast('pg_catalog.pg_class' as regclass) and w.ev_class <> d.refobjid
  union all
  select
    pg_catalog.jsonb_build_object(
      'is', 'reference', 'relation', c.confrelid, 'from', c.conrelid, 'delete', c.confdeltype, 'update', c.confupdtype
    )
  from pg_catalog.pg_constraint as c
  where c.contype = 'f'
  union all
  select pg_catalog.jsonb_build_object('is', 'child', 'relation', i.inhparent, 'child', i.inhrelid)
  from pg_catalog.pg_inherits as i
),

-- Following them takes a while, in which this transaction is idle.
limited (longest) as (select pg_catalog.set_config('idle_in_transaction_session_timeout', '60s', true))

select f.fact
from facts as f
cross join limited
