-- Create the updated_at trigger function and the record of the score table, in the private schema momentum_internal.
-- Made by `make supabase-sql` from alembic/versions/2026-11-22-1500_create_private_schema.py;
-- change that file, not this one.
set local lock_timeout = '2s';
set local statement_timeout = '1min';
set local search_path = pg_catalog, pg_temp;
set local quote_all_identifiers = 'off';
set local standard_conforming_strings = 'on';
set local transform_null_equals = 'off';
set local array_nulls = 'on';
set local DateStyle = 'ISO, MDY';
set local IntervalStyle = 'postgres';
set local TimeZone = 'UTC';
set local extra_float_digits = '1';
set local bytea_output = 'hex';
set local default_table_access_method = 'heap';

do $owners$
declare
  untrusted record;
begin
  for untrusted in
    -- The objects that we rely on and that belong to none of the roles that we trust, each with the statement that hands it
    -- over. What an object runs, it would run with the rights of whoever uses it.
    with me (oid, name, database_owner) as (
      select
        r.oid,
        r.rolname,
        d.datdba
      from pg_catalog.pg_roles as r
      inner join pg_catalog.pg_database as d on d.datname = pg_catalog.current_database()
      where r.rolname = current_user
    ),

    -- A membership is no trust: on Supabase postgres is a member of anon, and on PostgreSQL 15 any role can make others its
    -- members.
    trusted (oid) as (
      select r.oid
      from pg_catalog.pg_roles as r
      cross join me
      where r.rolsuper or r.oid in (me.oid, me.database_owner) or r.rolname = 'pg_database_owner'
    ),

    relations (kind, schema, name, owner) as (
      select
        case c.relkind
          when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' when 'f' then 'foreign table'
          else 'table'
        end,
        n.nspname,
        pg_catalog.format('%I.%I', n.nspname, c.relname),
        c.relowner
      from pg_catalog.pg_class as c
      inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
      where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
    ),

    routines (oid, kind, schema, name, owner) as (
      select
        p.oid,
        case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
        n.nspname,
        pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)),
        p.proowner
      from pg_catalog.pg_proc as p
      inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
    ),

    objects (number, kind, name, owner, of_platform) as (
      select
        1,
        'schema',
        pg_catalog.quote_ident(n.nspname),
        n.nspowner,
        n.nspname <> cast('momentum_internal' as text)
      from pg_catalog.pg_namespace as n
      where
        n.nspname in (cast('momentum_internal' as text), 'auth')
        or (n.nspname = 'public' and cast(true as boolean))
        -- A schema's owner may drop any table in it, and put another one in its place.
        or exists (
          select
          from pg_catalog.unnest(cast('{}' as text[])) as r (name)
          where pg_catalog.starts_with(r.name, pg_catalog.quote_ident(n.nspname) || '.')
        )
      union all
      select
        2,
        r.kind,
        r.name,
        r.owner,
        r.schema = 'auth'
      from relations as r
      where (r.schema = cast('momentum_internal' as text) and cast(true as boolean)) or r.name = 'auth.users'
      union all
      select
        3,
        r.kind,
        r.name,
        r.owner,
        r.schema = 'auth'
      from routines as r
      where (r.schema = cast('momentum_internal' as text) and cast(true as boolean)) or r.name = 'auth.uid()'
      union all
      select
        4,
        case t.typtype when 'd' then 'domain' else 'type' end,
        pg_catalog.format('%I.%I', n.nspname, t.typname),
        t.typowner,
        false
      from pg_catalog.pg_type as t
      inner join pg_catalog.pg_namespace as n on t.typnamespace = n.oid
      -- A table's own type and an array are their owner's, too.
      where n.nspname = cast('momentum_internal' as text) and cast(true as boolean) and t.typrelid = 0 and t.typcategory <> 'A'
      union all
      select
        5,
        r.kind,
        r.name,
        r.owner,
        false
      from relations as r
      where r.name = any(cast('{}' as text[]))
      union all
      select
        6,
        r.kind,
        r.name,
        r.owner,
        true
      from routines as r
      where r.oid = any(cast('{}' as oid[]))
    )

    select
      o.kind,
      o.name,
      me.name as role,
      pg_catalog.pg_get_userbyid(o.owner) as owner,
      pg_catalog.format('alter %s %s owner to %I', o.kind, o.name, me.name) as statement
    from objects as o
    cross join me
    where
      o.owner not in (select t.oid from trusted as t)
      -- The accounts, its own functions and the schemas that a project begins with are the platform's by nature.
      and not (
        o.of_platform and pg_catalog.pg_get_userbyid(o.owner) in (
          'supabase_admin',
          'supabase_auth_admin',
          'supabase_functions_admin',
          'supabase_realtime_admin',
          'supabase_storage_admin'
        )
      )
    order by o.number, o.name, o.owner
  loop
    raise exception
      'The % % belongs to %, and you are %; what it runs would have your rights, so only what belongs to you, the '
      'database''s owner or a superuser is used; let % run `%`, then try again.',
      untrusted.kind, untrusted.name, untrusted.owner, untrusted.role, untrusted.owner, untrusted.statement;
  end loop;
end
$owners$;

-- Names that this file or a later one takes, so that a push that can't finish changes nothing. A new revision adds its
-- own; a database to which this file has been applied is not concerned.
do $only_a_new_database$
declare
  found constant text := (
    select string_agg(format('%s.%s', n.nspname, c.relname), ', ' order by n.nspname, c.relname)
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    where
      format('%s.%s', n.nspname, c.relname) = any (array[
        'public.momentum_pillars',
        'public.pk_momentum_pillars',
        'public.uq_momentum_pillars_name',
        'public.momentum_events',
        'public.pk_momentum_events',
        'public.ix_momentum_events_pillar_id',
        'public.ix_momentum_events_user_id_event_ts',
        'public.motivation_journal',
        'public.pk_motivation_journal',
        'public.uq_motivation_journal_user_id_date',
        'public.ix_motivation_journal_pillar_id',
        'public.habit_index',
        'public.pk_habit_index',
        'public.uq_habit_index_user_id_index_date',
        'public.ix_habit_index_pillar_id',
        'public.daily_momentum_scores',
        'legacy.daily_engagement_scores',
        'legacy.pk_daily_engagement_scores',
        'legacy.uq_daily_engagement_scores_user_id_utc_day',
        'public.daily_engagement_scores'
      ])
      or (n.nspname = 'momentum_internal' and c.relkind in ('r', 'p') and c.relname <> 'alembic_version')
  );
  migrated text;
begin
  if found is not null then
    raise exception
      'already in this database: %; migrate it with alembic upgrade head, which keeps what is there', found;
  end if;
  -- Alembic leaves an empty one after a downgrade.
  if to_regclass('momentum_internal.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from momentum_internal.alembic_version' into migrated;
    if migrated is not null then
      raise exception 'Alembic has migrated this database to revision %; go on with alembic upgrade head', migrated;
    end if;
    drop table momentum_internal.alembic_version;
  end if;
end
$only_a_new_database$;

create schema if not exists momentum_internal;

CREATE TABLE momentum_internal.alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

-- Running upgrade  -> 5f0c1a7d92e4

comment on schema momentum_internal is 'Private to the momentum migrations: clients have no access.';

revoke all on schema momentum_internal from public, anon, authenticated, service_role;

revoke all on table momentum_internal.alembic_version from public, anon, authenticated, service_role;

create or replace function momentum_internal.set_updated_at() returns trigger
language plpgsql
set search_path = ''
as $function$
begin
  -- The table's owner may insert rows with the times that they had elsewhere, as a dump's data has them; with the setting
  -- also update them, as where rows of a parked predecessor are merged. Anyone can change the setting, so this holds for
  -- the owner only, and not in a function of the owner's that somebody else calls.
  if tg_op = 'INSERT' or current_setting('momentum.keep_updated_at', true) = 'yes' then
    if (
      select pg_has_role(current_user, relowner, 'member') and pg_has_role(session_user, relowner, 'member')
      from pg_catalog.pg_class
      where oid = tg_relid
    ) then
      return new;
    end if;
  end if;
  new.updated_at := now();
  return new;
end
$function$;

revoke all on function momentum_internal.set_updated_at() from public, anon, authenticated, service_role;

comment on function momentum_internal.set_updated_at() is 'Sets updated_at for every writer: the app through PostgREST, a service or a person.';

CREATE TABLE momentum_internal.score_table (
    only_row BOOLEAN DEFAULT true NOT NULL,
    relation TEXT NOT NULL,
    layout TEXT NOT NULL,
    created_table BOOLEAN NOT NULL,
    created_schema BOOLEAN NOT NULL,
    granted_usage BOOLEAN NOT NULL,
    unique_index TEXT,
    created_index BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT pk_score_table PRIMARY KEY (only_row),
    CONSTRAINT ck_score_table_only_row CHECK (only_row)
);

COMMENT ON TABLE momentum_internal.score_table IS 'Record of the score table, kept by the migrations: one row.';

COMMENT ON COLUMN momentum_internal.score_table.only_row IS 'Always true: as the key it keeps the table at one row.';

COMMENT ON COLUMN momentum_internal.score_table.relation IS 'The score table, with its schema.';

COMMENT ON COLUMN momentum_internal.score_table.layout IS 'The layout of its columns, such as seed or production.';

COMMENT ON COLUMN momentum_internal.score_table.created_table IS 'Whether the migrations created the table; if not, they adopted it.';

COMMENT ON COLUMN momentum_internal.score_table.created_schema IS 'Whether the migrations created its schema.';

COMMENT ON COLUMN momentum_internal.score_table.granted_usage IS 'Whether the migrations granted service_role usage on its schema.';

COMMENT ON COLUMN momentum_internal.score_table.unique_index IS 'The unique index over user and day, with its schema; null until there is one.';

COMMENT ON COLUMN momentum_internal.score_table.created_index IS 'Whether the migrations create that index, and so drop it on the way back.';

revoke all on table momentum_internal.score_table from public, anon, authenticated, service_role;

INSERT INTO momentum_internal.alembic_version (version_num) VALUES ('5f0c1a7d92e4') RETURNING momentum_internal.alembic_version.version_num;
