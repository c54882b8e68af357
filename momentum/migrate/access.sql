-- What clients have on the app's own versions of our tables and view, one item per row: what they would lose, what
-- access=keep does about it, and what stands in its way. The items of a relation are in the order in which they are
-- carried over. The parameter "ours" describes our own tables and view, and "prefix" says where the app's are now.
with given as (
  select
    o.ours,
    o.position,
    c.oid,
    c.relkind,
    c.relowner,
    c.relacl,
    c.relrowsecurity,
    c.relforcerowsecurity,
    c.relreplident,
    c.reloptions,
    format('public.%I', o.ours ->> 'name') as relation
  from jsonb_array_elements(cast(:ours as jsonb)) with ordinality as o (ours, position)
  inner join pg_catalog.pg_class as c on to_regclass(:prefix || (o.ours ->> 'name')) = c.oid
),

columns as (
  select
    g.*,
    a.attnum,
    a.attname,
    a.atttypid,
    a.attacl,
    a.attgenerated,
    g.ours -> 'columns' -> cast(a.attname as text) as counterpart,
    pg_get_expr(d.adbin, d.adrelid) as value
  from given as g
  inner join pg_catalog.pg_attribute as a on g.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
  left join pg_catalog.pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
),

acl as (
  select
    g.oid,
    cast(null as name) as attname,
    a.grantee,
    a.privilege_type as privilege,
    bool_or(a.is_grantable) as grantable
  from given as g
  cross join lateral aclexplode(coalesce(g.relacl, acldefault('r', g.relowner))) as a
  where a.grantee <> g.relowner
  group by g.oid, a.grantee, a.privilege_type
  union all
  select
    c.oid,
    c.attname,
    a.grantee,
    a.privilege_type,
    bool_or(a.is_grantable) as grantable
  from columns as c
  cross join lateral aclexplode(c.attacl) as a
  where a.grantee <> c.relowner
  group by c.oid, c.attname, a.grantee, a.privilege_type
),

grants as (
  select
    a.*,
    g.position,
    g.relation,
    g.relkind,
    g.relrowsecurity,
    case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as who,
    coalesce(r.rolsuper, false) as is_superuser,
    coalesce(r.rolsuper or r.rolbypassrls, false) as sees_all,
    -- The command as policies name it; null for a privilege that row-level security doesn't restrict.
    case a.privilege when 'SELECT' then 'r' when 'INSERT' then 'a' when 'UPDATE' then 'w' when 'DELETE' then 'd' end
      as command,
    array_position(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'], a.privilege) as rank,
    coalesce(
      g.ours -> 'clients' -> cast(pg_get_userbyid(a.grantee) as text) ?| array[lower(a.privilege), 'all'], false
    ) as ours_too
  from acl as a
  inner join given as g on a.oid = g.oid
  left join pg_catalog.pg_roles as r on a.grantee = r.oid
),

-- The privileges that take effect, each with the policies by which it does.
effective as (
  select
    a.*,
    p.oid as policy
  from grants as a
  left join pg_catalog.pg_policy as p
    on
      a.oid = p.polrelid and a.relrowsecurity and not a.sees_all and p.polpermissive and p.polcmd in ('*', a.command)
      and exists (
        select
        from unnest(p.polroles) as m (role)
        left join pg_catalog.pg_roles as r on m.role = r.oid
        where
          case
            when m.role = 0 then true
            when a.grantee = 0 then not r.rolbypassrls
            else pg_has_role(a.grantee, m.role, 'usage')
          end
      )
  where
    case
      when a.is_superuser then false
      -- The API has no such command.
      when a.command is null then a.who not in ('public', 'anon', 'authenticated', 'service_role')
      else not a.relrowsecurity or a.sees_all or p.oid is not null
    end
),

-- Those that our own table or view doesn't give; our tables have row-level security and no policy.
lost as (
  select *
  from effective
  where not (ours_too and (sees_all or relkind = 'v'))
),

lost_by_role as (
  select
    oid,
    who,
    string_agg(privilege, ', ' order by rank, privilege) as privileges
  from (
    select distinct
      oid,
      who,
      rank,
      lower(privilege) as privilege
    from lost
  ) as each_once
  group by oid, who
),

keys as (
  select
    g.*,
    c.oid as index_oid,
    c.relname,
    k.conname,
    k.contype,
    k.oid as constraint_oid,
    i.indisunique,
    i.indisreplident,
    names.columns,
    a.amname = 'btree' and i.indpred is null and not (0 = any(cast(i.indkey as smallint[]))) as is_plain,
    i.indisunique and not (0 = any(cast(i.indkey as smallint[]))) as is_target
  from given as g
  inner join pg_catalog.pg_index as i on g.oid = i.indrelid and i.indisvalid
  inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
  inner join pg_catalog.pg_am as a on c.relam = a.oid
  left join pg_catalog.pg_constraint as k
    on i.indexrelid = k.conindid and g.oid = k.conrelid and k.contype in ('p', 'u', 'x')
  cross join lateral (
    select to_jsonb(array_agg(cast(t.attname as text) order by u.n)) as columns
    from unnest(cast(i.indkey as smallint[])) with ordinality as u (attnum, n)
    inner join pg_catalog.pg_attribute as t on i.indrelid = t.attrelid and u.attnum = t.attnum
    where u.n <= i.indnkeyatts
  ) as names
),

-- Indexes and keys to which none of ours corresponds. As the target of an upsert a unique one needs the same columns;
-- any other is as good as one of ours that begins with its columns.
extra_keys as (
  select
    k.*,
    coalesce(quote_ident(k.conname), quote_ident(k.relname)) as key_name
  from keys as k
  where
    case
      when k.contype = 'x' then true
      when k.is_target
        then
          not exists (
            select from jsonb_array_elements(k.ours -> 'unique') as o (columns)
            where o.columns @> k.columns and o.columns <@ k.columns
          )
      when k.indisunique or not k.is_plain then true
      else not exists (
        select from jsonb_array_elements(k.ours -> 'indexes') as o (columns)
        where
          k.columns = (
            select jsonb_agg(e.name order by e.n)
            from jsonb_array_elements(o.columns) with ordinality as e (name, n)
            where e.n <= jsonb_array_length(k.columns)
          )
      )
    end
),

foreign_keys as (
  select
    g.*,
    k.oid as constraint_oid,
    k.conname,
    k.confrelid,
    f.relation as target,
    f.relation <> all(array(select jsonb_array_elements_text(g.ours -> 'later' || (g.ours -> 'earlier')))) as is_free,
    g.ours -> 'foreign_keys' @> jsonb_build_array(jsonb_build_array(a.attname, f.relation))
    and cardinality(k.conkey) = 1 as is_ours
  from given as g
  inner join pg_catalog.pg_constraint as k on g.oid = k.conrelid and k.contype = 'f' and k.conparentid = 0
  inner join pg_catalog.pg_class as t on k.confrelid = t.oid
  inner join pg_catalog.pg_namespace as n on t.relnamespace = n.oid
  inner join pg_catalog.pg_attribute as a on g.oid = a.attrelid and k.conkey[1] = a.attnum
  cross join lateral regexp_replace(n.nspname || '.' || t.relname, :parked, 'public.\1') as f (relation)
),

policies as (
  select
    g.*,
    p.oid as policy_oid,
    p.polname,
    p.polpermissive,
    p.polcmd,
    p.polroles,
    pg_get_expr(p.polqual, p.polrelid) as polqual,
    pg_get_expr(p.polwithcheck, p.polrelid) as polwithcheck,
    exists(
      select
      from pg_catalog.pg_depend as d
      cross join lateral jsonb_array_elements_text(g.ours -> 'later') as later (relation)
      where
        d.classid = cast('pg_catalog.pg_policy' as regclass) and d.objid = p.oid
        and d.refclassid = cast('pg_catalog.pg_class' as regclass) and d.refobjid = to_regclass(later.relation)
    ) as reads_later
  from given as g
  inner join pg_catalog.pg_policy as p on g.oid = p.polrelid
),

triggers as (
  select
    g.*,
    t.oid as trigger_oid,
    t.tgname,
    t.tgenabled,
    t.tgconstraint,
    t.tgfoid
  from given as g
  inner join pg_catalog.pg_trigger as t on g.oid = t.tgrelid and not t.tgisinternal
),

items (oid, step, name, keys, make, undo, loss, obstacle) as (
  -- What each role can no longer do. The grants and policies behind it are items of their own.
  select
    oid,
    1,
    privileges,
    cast(null as text[]),
    null,
    null,
    'rights of ' || string_agg(who, ' and ' order by who) || ' (' || privileges || ')',
    null
  from lost_by_role
  group by oid, privileges
  union all
  select
    g.oid,
    2,
    pg_get_userbyid(g.relowner),
    null,
    null,
    null,
    'the rights of its owner ' || pg_get_userbyid(g.relowner),
    'the new table belongs to ' || current_user
  from given as g
  inner join pg_catalog.pg_roles as r on g.relowner = r.oid
  where r.rolname <> current_user and not r.rolsuper
  union all
  select
    c.oid,
    3,
    c.attname,
    null,
    null,
    null,
    'column ' || quote_ident(c.attname),
    case
      when c.counterpart is null then 'there is no such column any more'
      else 'it is of type ' || (c.counterpart ->> 'type') || ' now'
    end
  from columns as c
  where c.counterpart is null or c.counterpart ->> 'type' <> format_type(c.atttypid, null)
  union all
  -- A role that the app's table gives other privileges than ours gets those of the app's.
  select
    g.oid,
    4,
    w.who,
    array['grant to ' || w.who],
    concat_ws('; ', case when w.who <> 'service_role' then w.revoke end, w.granting),
    w.revoke || coalesce(
      '; grant ' || (
        select string_agg(o.privilege, ', ')
        from jsonb_array_elements_text(g.ours -> 'clients' -> w.who) as o (privilege)
      ) || format(' on table %s to %s', g.relation, w.who),
      ''
    ),
    null,
    null
  from given as g
  cross join
    lateral (
      select
        named.who,
        format('revoke all on table %s from %s', g.relation, named.who) as revoke,
        array_agg(lower(a.privilege) order by a.privilege) as privileges,
        bool_or(a.grantable) as grantable,
        nullif(
          concat_ws(
            '; ',
            'grant ' || string_agg(a.privilege, ', ') filter (where not a.grantable)
            || format(' on table %s to %s', g.relation, named.who),
            'grant ' || string_agg(a.privilege, ', ') filter (where a.grantable)
            || format(' on table %s to %s with grant option', g.relation, named.who)
          ),
          ''
        ) as granting
      from (
        select each.who from grants as each
        where each.oid = g.oid
        union
        select jsonb_object_keys(g.ours -> 'clients')
        union
        -- Where ours is there, default privileges may have granted more.
        select case granted.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(granted.grantee)) end
        from pg_catalog.pg_class as t
        cross join lateral aclexplode(t.relacl) as granted
        where to_regclass(g.relation) = t.oid and granted.grantee <> t.relowner
      ) as named
      left join grants as a on g.oid = a.oid and named.who = a.who and a.attname is null
      group by named.who
    ) as w
  where
    case
      -- Whatever the app's table gives it, services rely on what ours gives.
      when w.who = 'service_role'
        then
          not (g.ours -> 'clients' -> w.who ? 'all') and w.privileges @> array['select']
          and w.privileges <> array['select']
      else
        w.grantable or coalesce(w.privileges, '{}') is distinct from array(
          select o.privilege
          from jsonb_array_elements_text(g.ours -> 'clients' -> w.who) as o (privilege)
          order by o.privilege
        )
    end
  union all
  select
    oid,
    5,
    attname || ' ' || who,
    array[format('column %I, grant to %s', attname, who)],
    concat_ws(
      '; ',
      'grant ' || string_agg(format('%s (%I)', privilege, attname), ', ') filter (where not grantable)
      || format(' on table %s to %s', relation, who),
      'grant ' || string_agg(format('%s (%I)', privilege, attname), ', ') filter (where grantable)
      || format(' on table %s to %s with grant option', relation, who)
    ),
    format('revoke all (%I) on table %s from %s', attname, relation, who),
    null,
    null
  from grants
  where attname is not null
  group by oid, relation, attname, who
  union all
  select
    oid,
    6,
    attname,
    array['column ' || quote_ident(attname)],
    format('alter table %s alter column %I set default %s', relation, attname, value),
    format('alter table %s alter column %I drop default', relation, attname),
    format('default of column %I', attname),
    case when attgenerated <> '' then 'the column is generated' end
  from columns
  where value is not null and counterpart is not null and not cast((counterpart -> 'has_default') as boolean)
  union all
  -- A check takes nothing from clients, but the rows that they write under access=keep have always satisfied it.
  select
    g.oid,
    7,
    k.conname,
    array['constraint ' || quote_ident(k.conname)],
    format('alter table %s add constraint %I %s', g.relation, k.conname, pg_get_constraintdef(k.oid)),
    format('alter table %s drop constraint if exists %I', g.relation, k.conname),
    null,
    null
  from given as g
  inner join pg_catalog.pg_constraint as k on g.oid = k.conrelid and k.contype = 'c'
  where not (g.ours -> 'names' ? cast(k.conname as text))
  union all
  select
    oid,
    7,
    conname,
    array['constraint ' || quote_ident(conname)],
    format('alter table %s add constraint %I %s', relation, conname, pg_get_constraintdef(constraint_oid)),
    format('alter table %s drop constraint if exists %I', relation, conname),
    format('foreign key %I to %s', conname, target),
    case
      when not is_free then target || ' is replaced too'
      when ours -> 'names' ? cast(conname as text) then 'the new table has a constraint of this name'
      when not has_table_privilege(confrelid, 'references') then current_user || ' may not refer to ' || target
    end
  from foreign_keys
  where not is_ours
  union all
  select
    oid,
    8,
    key_name,
    array[case when conname is null then 'index ' else 'constraint ' end || key_name],
    case
      when conname is null then replace(pg_get_indexdef(index_oid), ' ON ONLY ', ' ON ')
      else
        format('alter table %s add constraint %I ', relation, conname)
        || regexp_replace(pg_get_constraintdef(constraint_oid), '^PRIMARY KEY', 'UNIQUE')
    end,
    case
      when conname is null then format('drop index if exists public.%I', relname)
      else format('alter table %s drop constraint if exists %I', relation, conname)
    end,
    case when contype = 'x' then 'constraint ' when indisunique then 'unique key ' else 'index ' end || key_name,
    null
  from extra_keys
  union all
  select
    g.oid,
    9,
    '',
    array['replica identity'],
    format(
      'alter table %s replica identity %s', g.relation,
      case g.relreplident
        when 'f' then 'full'
        else
          'using index ' || coalesce(
            (
              select quote_ident(e.relname) from extra_keys as e
              where e.oid = g.oid and e.indisreplident
            ),
            (
              -- The same columns in the index of ours, which is found by the columns where the table is there.
              select quote_ident(c.relname)
              from pg_catalog.pg_index as i
              inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
              inner join keys as k on g.oid = k.oid and k.indisreplident
              where
                i.indrelid = to_regclass(g.relation) and i.indisunique and i.indpred is null
                and jsonb_array_length(k.columns) = i.indnkeyatts
                and k.columns @> (
                  select to_jsonb(array_agg(cast(a.attname as text)))
                  from pg_catalog.pg_attribute as a
                  where a.attrelid = i.indrelid and a.attnum = any(cast(i.indkey as smallint[]))
                )
              order by c.relname
              limit 1
            )
          )
      end
    ),
    format('alter table %s replica identity default', g.relation),
    'replica identity (old values of changed rows)',
    null
  from given as g
  where g.relkind = 'r' and g.relreplident in ('f', 'i')
  union all
  select
    oid,
    10,
    polname,
    array['policy ' || quote_ident(polname)],
    format(
      'create policy %I on %s as %s for %s to %s', polname, relation,
      case when polpermissive then 'permissive' else 'restrictive' end,
      case polcmd
        when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all'
      end,
      (
        select string_agg(case m.role when 0 then 'public' else quote_ident(pg_get_userbyid(m.role)) end, ', ')
        from unnest(polroles) as m (role)
      )
    )
    || coalesce(' using (' || polqual || ')', '') || coalesce(' with check (' || polwithcheck || ')', ''),
    format('drop policy if exists %I on %s', polname, relation),
    case when policy_oid in (select lost.policy from lost) then 'policy ' || quote_ident(polname) end,
    case when reads_later then 'it reads a table that is replaced later' end
  from policies
  union all
  select
    oid,
    11,
    '',
    array['row level security'],
    format(
      'alter table %s %s row level security, %s row level security', relation,
      case when relrowsecurity then 'enable' else 'disable' end,
      case when relforcerowsecurity then 'force' else 'no force' end
    ),
    format('alter table %s enable row level security, no force row level security', relation),
    null,
    null
  from given
  where relkind = 'r' and (not relrowsecurity or relforcerowsecurity)
  union all
  select
    oid,
    12,
    tgname,
    array['trigger ' || quote_ident(tgname)]
    || case when tgconstraint <> 0 then array['constraint ' || quote_ident(tgname)] else '{}' end,
    pg_get_triggerdef(trigger_oid)
    || case
      when tgenabled = 'O' then ''
      else
        format(
          '; alter table %s %s trigger %I', relation,
          case tgenabled when 'D' then 'disable' when 'R' then 'enable replica' else 'enable always' end, tgname
        )
    end,
    format('drop trigger if exists %I on %s', tgname, relation),
    case when tgenabled <> 'D' then 'trigger ' || quote_ident(tgname) end,
    case
      when ours -> 'names' ? cast(tgname as text) then 'the new table has a trigger of this name: rename it'
      when not has_function_privilege(tgfoid, 'execute')
        then format('%s may not execute its function %s', current_user, cast(tgfoid as regproc))
    end
  from triggers
  union all
  -- When a user is deleted, the rows of both tables are, and only one trigger should hear of it.
  select
    oid,
    16,
    tgname,
    '{}',
    format('alter table %s disable trigger %I', cast(oid as regclass), tgname),
    format(
      'alter table %s enable %s trigger %I', cast(oid as regclass),
      case tgenabled when 'R' then 'replica' when 'A' then 'always' else '' end, tgname
    ),
    null,
    null
  from triggers
  where relkind = 'r' and tgenabled <> 'D'
  union all
  select
    g.oid,
    13,
    w.rulename,
    null,
    null,
    null,
    'rule ' || quote_ident(w.rulename),
    'rules stay with the old one'
  from given as g
  inner join pg_catalog.pg_rewrite as w on g.oid = w.ev_class and w.rulename <> '_RETURN'
  union all
  select
    g.oid,
    13,
    cast(cast(i.inhparent as regclass) as text),
    null,
    null,
    null,
    'its rows in ' || cast(i.inhparent as regclass),
    'the new table has no parent'
  from given as g
  inner join pg_catalog.pg_inherits as i on g.oid = i.inhrelid
  union all
  select
    g.oid,
    14,
    p.pubname,
    array['publication ' || quote_ident(p.pubname)],
    format('alter publication %I add table %s', p.pubname, g.relation)
    || coalesce(
      (
        select ' (' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) || ')'
        from pg_catalog.pg_attribute as a
        where a.attrelid = g.oid and a.attnum = any(cast(r.prattrs as smallint[]))
      ),
      ''
    )
    || coalesce(' where (' || pg_get_expr(r.prqual, r.prrelid) || ')', ''),
    format('alter publication %I drop table %s', p.pubname, g.relation),
    'publication ' || quote_ident(p.pubname),
    case
      when not pg_has_role(p.pubowner, 'usage')
        then format('it belongs to %s, and you are %s', pg_get_userbyid(p.pubowner), current_user)
      when (p.pubupdate or p.pubdelete) and g.relreplident = 'd' and r.prattrs is not null and not exists (
        select from pg_catalog.pg_attribute as a
        where a.attrelid = g.oid and a.attname = 'id' and a.attnum = any(cast(r.prattrs as smallint[]))
      ) then 'its columns lack id, the key of the new table'
    end
  from given as g
  inner join pg_catalog.pg_publication_rel as r on g.oid = r.prrelid
  inner join pg_catalog.pg_publication as p on r.prpubid = p.oid
  union all
  -- Ours is queried with the rights of its reader.
  select
    g.oid,
    15,
    '',
    array['options'],
    format('alter view %s reset (security_invoker)', g.relation)
    || coalesce('; alter view ' || g.relation || ' set (' || array_to_string(g.reloptions, ', ') || ')', ''),
    format('alter view %s set (security_invoker = true)', g.relation),
    'rows that readers see by the rights of its owner',
    -- With any other query ours would show them rows or values that the app's view withholds.
    case
      when q.query not in (
        'SELECT user_id, final_score AS score, score_date, breakdown AS pillar_breakdown FROM daily_engagement_scores;',
        'SELECT user_id, score, ((score_ts AT TIME ZONE ''UTC''::text))::date AS score_date, pillar_breakdown '
        'FROM daily_engagement_scores;'
      ) then 'its query is not that of the new view: set security_invoker = true on it'
    end
  from given as g
  -- Before PostgreSQL 16 every column is written with its table.
  cross join
    regexp_replace(
      regexp_replace(btrim(pg_get_viewdef(g.oid)), '\s+', ' ', 'g'),
      '\m(public|legacy|daily_engagement_scores)\.', '', 'g'
    ) as q (query)
  where
    g.relkind = 'v'
    and not exists (
      select from pg_options_to_table(g.reloptions) as o
      where o.option_name = 'security_invoker' and cast(o.option_value as boolean)
    )
    and g.oid in (
      select grants.oid from grants
      where not grants.is_superuser
    )
),

-- Queries for rows that would break a rule that is carried over. Our own table may have some from before a downgrade.
probes (oid, name, query) as (
  select
    k.oid,
    k.key_name,
    format(
      'select from %s where %s group by %s having count(*) > 1', p.parked,
      concat_ws(
        ' and ', 'true', pg_get_expr(i.indpred, i.indrelid), case when not i.indnullsnotdistinct then e.known end
      ),
      e.expressions
    )
  from extra_keys as k
  inner join pg_catalog.pg_index as i on k.index_oid = i.indexrelid
  cross join
    lateral (
      select
        string_agg(pg_get_indexdef(i.indexrelid, n, true), ', ') as expressions,
        string_agg(pg_get_indexdef(i.indexrelid, n, true) || ' is not null', ' and ') as known
      from generate_series(1, i.indnkeyatts) as n
    ) as e
  cross join lateral concat('momentum_internal.', k.ours ->> 'name') as p (parked)
  where i.indisunique
  union all
  select
    g.oid,
    k.conname,
    format(
      'select from momentum_internal.%s where not (%s)', g.ours ->> 'name', pg_get_expr(k.conbin, k.conrelid)
    )
  from given as g
  inner join pg_catalog.pg_constraint as k on g.oid = k.conrelid and k.contype = 'c' and k.convalidated
  union all
  select
    f.oid,
    f.conname,
    format(
      'select from momentum_internal.%s as t where %s and not exists (select from %s as r where %s)',
      f.ours ->> 'name', p.known, cast(f.confrelid as regclass), p.same
    )
  from foreign_keys as f
  inner join pg_catalog.pg_constraint as k on f.constraint_oid = k.oid and k.convalidated
  cross join lateral (
    select
      string_agg(format('t.%I is not null', a.attname), ' and ') as known,
      string_agg(format('r.%I = t.%I', b.attname, a.attname), ' and ') as same
    from unnest(k.conkey, k.confkey) as u (ours, theirs)
    inner join pg_catalog.pg_attribute as a on k.conrelid = a.attrelid and u.ours = a.attnum
    inner join pg_catalog.pg_attribute as b on k.confrelid = b.attrelid and u.theirs = b.attnum
  ) as p
),

-- What anybody can do who has the project's public key.
open_to_anon as (
  select
    g.oid,
    string_agg(v.privilege || coalesce(' (' || by.policies || ')', ''), ', ' order by v.rank)
    || case when g.relkind = 'r' and not g.relrowsecurity then '; row-level security is off' else '' end as privileges
  from given as g
  cross join (
    values (1, 'select', 'r'), (2, 'insert', 'a'), (3, 'update', 'w'), (4, 'delete', 'd'), (5, 'truncate', null)
  ) as v (rank, privilege, command)
  cross join
    lateral (
      select 'policy ' || string_agg(quote_ident(p.polname), ', ' order by p.polname) as policies
      from pg_catalog.pg_policy as p
      where
        g.relrowsecurity and v.command is not null
        and p.polrelid = g.oid and p.polpermissive and p.polcmd in ('*', v.command)
        and exists (
          select from unnest(p.polroles) as m (role)
          where case when m.role = 0 then true else pg_has_role('anon', m.role, 'usage') end
        )
    ) as by
  where
    case
      when v.command in ('r', 'a', 'w') then has_any_column_privilege('anon', g.oid, v.privilege)
      else has_table_privilege('anon', g.oid, v.privilege)
    end
    and case when v.command is null then g.relkind = 'r' else not g.relrowsecurity or by.policies is not null end
  group by g.oid, g.relkind, g.relrowsecurity
)

select
  g.relation,
  i.keys,
  i.undo,
  i.loss,
  i.obstacle,
  o.privileges as open_to_anon,
  q.query as probe,
  case
    when i.step = 16 then i.make
    else regexp_replace(regexp_replace(i.make, :parked, 'public.\1', 'g'), :renamed, '\1', 'g')
  end as make,
  -- As momentum.verify writes it.
  case t.tgenabled
    when 'O' then '' when 'D' then ', disabled' when 'R' then ', on replicas only' when 'A' then ', on replicas too'
  end as state,
  row_number() over (order by g.position, i.step, i.name, i.make) as position
from given as g
left join items as i on g.oid = i.oid
left join triggers as t on g.oid = t.oid and i.step = 12 and i.name = t.tgname
left join probes as q on g.oid = q.oid and i.step in (7, 8) and i.name = q.name
left join open_to_anon as o on g.oid = o.oid
order by position
