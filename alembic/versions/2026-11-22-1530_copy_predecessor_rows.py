"""Copy the rows of the tables that the app's earlier migrations made, where they were parked as predecessors."""

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "d3a5b1c8260f"
down_revision: str | None = "c94d27f1508b"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()

# Each after the one that it refers to.
TABLES = ("momentum_pillars", "momentum_events", "motivation_journal", "habit_index")

# For every row of a predecessor that was processed: its fingerprint, and the reason if it could not be copied. The
# fingerprint distinguishes a row that was written to a predecessor between a downgrade and the next upgrade from one
# that was copied before and may have been changed in our table since.
BOOKKEEPING = """
create table if not exists momentum_internal.predecessor_rows (
  relation text not null,
  id uuid not null,
  fingerprint uuid not null,
  refused text,
  constraint pk_predecessor_rows primary key (relation, id)
)"""

# Rows are copied in pages of 500, in the order of the ids, with a commit after each page. If a row violates a
# constraint of our table, its page is copied again row by row, and that row stays where it is.
COPY = r"""
do $copy_predecessor_rows$
declare
  -- First of all, because behind a pooler the session may have any path, and so names that others have planted.
  path constant pg_catalog.text := pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  source constant pg_catalog.regclass := to_regclass('momentum_internal.predecessor_{table}');
  columns pg_catalog.text;
  assignments pg_catalog.text;
  unchanged pg_catalog.text;
  merge pg_catalog.text;
  page pg_catalog.uuid[];
  row_id pg_catalog.uuid;
  last_id pg_catalog.uuid;
  disable pg_catalog.text;
  enable pg_catalog.text;
begin
  if source is null then
    return;
  end if;
  -- The preflight refuses this, but a script has no preflight.
  if row_security_active(source) then
    raise exception
      'row-level security hides rows of % from %, so that they would not be copied; migrate as a role with bypassrls',
      source, current_user;
  end if;

  -- The columns that both tables have. Where ours is narrower, a value that would be rounded is not copied.
  select
    string_agg(format('%I', s.attname), ', '),
    string_agg(format('%1$I = excluded.%1$I', s.attname), ', ') filter (where s.attname <> 'id'),
    coalesce(
      string_agg(
        format('c.%1$I::%2$s is not distinct from c.%1$I', s.attname, format_type(t.atttypid, t.atttypmod)), ' and '
      ) filter (where s.atttypmod <> t.atttypmod),
      'true'
    )
  into columns, assignments, unchanged
  from pg_catalog.pg_attribute as s
  inner join pg_catalog.pg_attribute as t on s.attname = t.attname
  where
    s.attrelid = source and t.attrelid = 'public.{table}'::regclass
    and s.attnum > 0 and t.attnum > 0 and not s.attisdropped and not t.attisdropped;

  merge := format($merge$
    with changed as (
      select s.*, md5((s.*)::text)::uuid as momentum_fingerprint
      from %1$s as s
      where s.id = any ($1) and not exists (
        select from momentum_internal.predecessor_rows as r
        where r.relation = '{table}' and r.id = s.id and r.refused is null and r.fingerprint = md5((s.*)::text)::uuid
      )
    ), copied as (
      insert into public.{table} (%2$s)
      select %2$s from changed as c where %4$s
      -- A row of ours with the same id that did not come from here is left as it is.
      on conflict (id) do update set %3$s
      where exists (
        select from momentum_internal.predecessor_rows as r where r.relation = '{table}' and r.id = excluded.id
      )
      returning id
    )
    insert into momentum_internal.predecessor_rows (relation, id, fingerprint, refused)
    select
      '{table}', c.id, c.momentum_fingerprint,
      case
        when copied.id is not null then null
        when %4$s then 'there is another row with this id'
        else 'a value would be rounded'
      end
    from changed as c
    left join copied on c.id = copied.id
    on conflict (relation, id) do update set fingerprint = excluded.fingerprint, refused = excluded.refused
  $merge$, source, columns, assignments, unchanged);

  loop
    -- For this page only: while it holds locks on users, it must not wait long for another. The trigger of our table
    -- reads the next setting, and a row's text, from which the fingerprint is made, depends on the others.
    {corrections} perform set_config('lock_timeout', '300ms', true);
    perform set_config('momentum.keep_updated_at', 'yes', true), set_config('timezone', 'UTC', true),
      set_config('datestyle', 'ISO', true), set_config('intervalstyle', 'postgres', true),
      set_config('extra_float_digits', '1', true);
    execute format(
      'select array_agg(id order by id) '
      'from (select id from %s where $1 is null or id > $1 order by id limit 500) as page', source
    ) into page using last_id;
    exit when page is null;
    -- A constraint that was carried over may be deferred, and would stop the commit instead of refusing its row.
    set constraints all immediate;
    -- Triggers that were carried over must not fire for copied rows, but must for those of clients, and what somebody
    -- else has added must not run with our rights: they are disabled within the page's transaction, whose lock lets
    -- nobody else write or add one meanwhile.
    lock table public.{table} in row exclusive mode;
    select
      string_agg(format('disable trigger %I', tgname), ', '),
      string_agg(
        format(
          'enable %s trigger %I', case tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, tgname
        ),
        ', '
      )
    into disable, enable
    from pg_catalog.pg_trigger
    where
      tgrelid = 'public.{table}'::regclass and not tgisinternal and tgenabled <> 'D' and tgname <> 'set_updated_at'
      and (
        tgname in (select tgname from pg_catalog.pg_trigger where tgrelid = source)
        or tgfoid not in (
          select p.oid
          from pg_catalog.pg_proc as p
          inner join pg_catalog.pg_roles as r on p.proowner = r.oid
          where r.rolsuper or r.rolname = current_user or r.oid in (
            select datdba from pg_catalog.pg_database where datname = current_database()
          )
        )
      );
    if disable is not null then
      execute 'alter table public.{table} ' || disable;
    end if;
    begin
      execute merge using page;
    exception when integrity_constraint_violation or data_exception then
      foreach row_id in array page loop
        begin
          execute merge using array[row_id];
        exception when integrity_constraint_violation or data_exception then
          execute format(
            'insert into momentum_internal.predecessor_rows '
            'select %L, s.id, md5((s.*)::text)::uuid, $2 from %s as s where s.id = $1 '
            'on conflict (relation, id) do update set fingerprint = excluded.fingerprint, refused = excluded.refused',
            '{table}', source
          ) using row_id, sqlerrm;
        end;
      end loop;
    end;
    if enable is not null then
      execute 'alter table public.{table} ' || enable;
    end if;
    commit;
    perform pg_catalog.set_config('search_path', path, true);
    last_id := page[cardinality(page)];
  end loop;
end
$copy_predecessor_rows$"""

# A psql that continues after an error must not record a version whose rows have not been copied.
CHECK = """
do $check_predecessor_rows$
declare
  missing bigint;
begin
  if to_regclass('momentum_internal.predecessor_{table}') is null then
    return;
  end if;
  select count(*) into missing
  from momentum_internal.predecessor_{table} as s
  where not exists (
    select from momentum_internal.predecessor_rows as r where r.relation = '{table}' and r.id = s.id
  );
  if missing > 0 then
    raise exception '% rows of momentum_internal.predecessor_{table} have not been copied', missing;
  end if;
end
$check_predecessor_rows$"""

REFUSED = """
select
  relation, refused, count(*) as rows, (array_agg(id::text order by id))[1:5] as first_ids
from momentum_internal.predecessor_rows
where refused is not null
group by relation, refused
order by relation, rows desc"""

log = logging.getLogger("momentum.migrations")


def upgrade() -> None:
    """Copy the rows that fit into our tables; log the others, which stay parked. Does nothing without predecessors."""
    context = op.get_context()
    if context.as_sql:
        tables = TABLES if context.opts["existing"] == "adopt" else ()
    else:
        found = [f"momentum_internal.predecessor_{table}" for table in TABLES]
        there = op.get_bind().scalars(
            sa.text("select to_regclass(name) is not null from unnest(cast(:found as text[])) as name"),
            {"found": found},
        )
        tables = tuple(table for table, is_there in zip(TABLES, there, strict=True) if is_there)
    if not tables:
        return
    op.execute(BOOKKEEPING)
    op.execute(
        "comment on table momentum_internal.predecessor_rows is "
        "'Rows of the parked predecessors that were copied, and the reasons why others were not.'"
    )
    op.execute("revoke all on table momentum_internal.predecessor_rows from public, anon, authenticated, service_role")
    for table in tables:
        op.execute_patiently(COPY.replace("{table}", table))
    for table in tables:
        op.execute(CHECK.format(table=table))
    if not context.as_sql:
        for row in op.get_bind().execute(sa.text(REFUSED)):
            log.warning(
                "%s %s of public.%s could not be copied (%s) and stay in momentum_internal.predecessor_%s: %s%s",
                row.rows,
                "row" if row.rows == 1 else "rows",
                row.relation,
                row.refused,
                row.relation,
                ", ".join(row.first_ids),
                " and more" if row.rows > len(row.first_ids) else "",
            )


def downgrade() -> None:
    """Do nothing: copied rows stay in our tables, and the predecessors are put back when those are parked."""
