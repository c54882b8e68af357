"""Adopt the legacy score table in place, or create one in the same layout."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision: str = "e1572ab9630c"
down_revision: str | None = "d3a5b1c8260f"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()

# The layouts of the score table that this revision adopts, for the preflight. A table of another layout is left to the
# later revision that adopts that one.
layouts: tuple[str, ...] = ("seed", "production")
concerns_scores: tuple[str, ...] = ("adopts",)

# The layout is recognized by the columns, in either schema.
FIND = """
do $find_score_table$
declare
  adopted constant regclass := coalesce(
    to_regclass('legacy.daily_engagement_scores'), to_regclass('public.daily_engagement_scores')
  );
  columns constant text[] := array(
    select attname::text from pg_catalog.pg_attribute where attrelid = adopted and attnum > 0 and not attisdropped
  );
  found_schema constant text := (
    select n.nspname
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    where c.oid = adopted
  );
  found_layout constant text := case
    when columns @> array['user_id', 'score_ts', 'score', 'pillar_breakdown'] then 'seed'
    when columns @> array[
      'user_id', 'score_date', 'final_score', 'breakdown', 'momentum_state', 'calculation_metadata'
    ] then 'production'
    else {other_layout}
  end;
  -- The score table that a script made with --sql is for; null where the migration can look for itself.
  expected constant text := {expected};
  found constant text := case when adopted is null then 'fresh' else found_schema || '.' || found_layout end;
begin
  -- The preflight has better messages for these cases, but a script has no preflight.
  if to_regclass('legacy.daily_engagement_scores') is not null
    and to_regclass('public.daily_engagement_scores') is not null then
    raise exception 'there are two tables daily_engagement_scores, in legacy and in public; keep one';
  end if;
  if adopted is not null and to_regclass('momentum_internal.daily_engagement_scores') is not null then
    raise exception 'a score table is parked in momentum_internal, and % is in its place', adopted;
  end if;
  if expected is not null and found is null then
    raise exception
      '% has neither the columns user_id, score_ts, score and pillar_breakdown, nor user_id, score_date, final_score, '
      'breakdown, momentum_state and calculation_metadata', adopted;
  end if;
  if found <> expected then
    raise exception
      'this script was made with -x scores=%, and daily_engagement_scores here needs one made with -x scores=%',
      expected, found;
  end if;

  insert into momentum_internal.score_table
    (relation, layout, created_table, created_schema, granted_usage, unique_index, created_index)
  select
    coalesce(found_schema, 'legacy') || '.daily_engagement_scores', coalesce(found_layout, 'seed'),
    adopted is null, adopted is null and to_regnamespace('legacy') is null, false,
    case when adopted is null then 'legacy.uq_daily_engagement_scores_user_id_utc_day' end, adopted is null
  -- A table of another layout is left to the revision that adopts it.
  where adopted is null or found_layout in ('seed', 'production');
end
$find_score_table$"""

# Rows of an adopted table that share a user and a day with a later one move here, and back in a downgrade. The table
# stays when it is empty: dropping it would take an ACCESS EXCLUSIVE lock on auth.users. It has the columns that the
# adopted table has now, which may differ from those before an earlier downgrade.
KEEP_SUPERSEDED = """
do $keep_superseded_scores$
declare
  adopted constant regclass := (
    select relation::regclass from momentum_internal.score_table where not created_table and layout = 'seed'
  );
  missing record;
begin
  if adopted is null then
    return;
  end if;
  if to_regclass('momentum_internal.superseded_scores') is null then
    -- Without the constraints of the adopted table: it may drop one, and then these rows need not satisfy it either.
    execute format('create table momentum_internal.superseded_scores as table %s with no data', adopted);
    -- Otherwise, with a publication for all tables, no row could be deleted, nor any user who has one.
    alter table momentum_internal.superseded_scores replica identity full;
    alter table momentum_internal.superseded_scores
      add constraint fk_superseded_scores_user_id_users
      foreign key (user_id) references auth.users (id) on delete cascade;
    create index ix_superseded_scores_user_id on momentum_internal.superseded_scores (user_id);
    comment on table momentum_internal.superseded_scores is
      'Scores replaced by a later one of the same user and day; a downgrade puts them back.';
    revoke all on table momentum_internal.superseded_scores from public, anon, authenticated, service_role;
  end if;
  alter table momentum_internal.superseded_scores add column if not exists momentum_difference numeric;
  comment on column momentum_internal.superseded_scores.momentum_difference is
    'The score minus that of the row that superseded it, in points.';
  for missing in
    select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, s.attname is not null as changed
    from pg_catalog.pg_attribute as a
    left join pg_catalog.pg_attribute as s
      on s.attrelid = 'momentum_internal.superseded_scores'::regclass and s.attname = a.attname and not s.attisdropped
    where
      a.attrelid = adopted and a.attnum > 0 and not a.attisdropped
      and (s.attname is null or (s.atttypid, s.atttypmod) <> (a.atttypid, a.atttypmod))
  loop
    if missing.changed then
      execute format(
        'alter table momentum_internal.superseded_scores alter column %1$I type %2$s using %1$I::%2$s',
        missing.name, missing.type
      );
    else
      execute format('alter table momentum_internal.superseded_scores add column %I %s', missing.name, missing.type);
    end if;
  end loop;
end
$keep_superseded_scores$"""


def upgrade() -> None:
    """Record the score table, then take back or create one if there is none to adopt.

    An adopted table stays exactly as it is: its grants and policies are not ours to change. If the schema of a new
    table belongs to another role, that role may have to let service_role in.
    """
    context = op.get_context()
    layout = context.opts["scores"].partition(".")[2]
    other_layout = f"'{layout}'" if context.as_sql and layout not in ("", *layouts) else "null"
    expected = f"'{context.opts['scores']}'" if context.as_sql else "null::text"
    op.execute(FIND.replace("{expected}", expected).replace("{other_layout}", other_layout))
    op.execute(KEEP_SUPERSEDED)
    op.execute("""
do $open_legacy$
begin
  if exists (select from momentum_internal.score_table where created_schema) then
    create schema legacy;
    comment on schema legacy is 'Scores from before momentum.';
  end if;
  if exists (select from momentum_internal.score_table where created_table)
    and not has_schema_privilege('service_role', 'legacy', 'usage') then
    if has_schema_privilege('legacy', 'usage with grant option') then
      grant usage on schema legacy to service_role;
      update momentum_internal.score_table set granted_usage = true where only_row;
    else
      raise warning 'service_role may not use the schema legacy; its owner, %, can: '
        'grant usage on schema legacy to service_role',
        (select nspowner::regrole from pg_catalog.pg_namespace where nspname = 'legacy');
    end if;
  end if;
end
$open_legacy$""")
    op.take_back_or_create_table(
        "daily_engagement_scores",
        create_daily_engagement_scores,
        schema="legacy",
        only_if="exists (select from momentum_internal.score_table where created_table)",
    )


def downgrade() -> None:
    """Park the table if we created it; leave an adopted one as it is."""
    op.execute("""
do $leave_score_table$
declare
  found constant momentum_internal.score_table := (select s from momentum_internal.score_table as s);
begin
  if found.created_table then
    alter table legacy.daily_engagement_scores set schema momentum_internal;
    if found.granted_usage then
      revoke usage on schema legacy from service_role;
    end if;
    -- If others have created something in it meanwhile, the schema stays.
    if found.created_schema and not exists (
      select from pg_catalog.pg_depend
      where refclassid = 'pg_catalog.pg_namespace'::regclass and refobjid = 'legacy'::regnamespace
    ) then
      drop schema legacy;
    end if;
  end if;
  delete from momentum_internal.score_table where only_row;
end
$leave_score_table$""")


def create_daily_engagement_scores(op: Operations) -> None:
    """Create legacy.daily_engagement_scores in the seed's layout.

    It has no deleted_at, because the view shows every row and could not hide a softly deleted one.
    """
    op.create_table(
        "daily_engagement_scores",
        sa.Column(
            "id",
            sa.UUID(),
            server_default=sa.text("gen_random_uuid()"),
            nullable=False,
            comment="The row's key, generated by the server.",
        ),
        sa.Column(
            "user_id",
            sa.UUID(),
            nullable=False,
            comment="The user who owns the row; deleted with the user.",
        ),
        sa.Column(
            "score_ts",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="A moment in the UTC day that is scored.",
        ),
        sa.Column("score", sa.Numeric(precision=5, scale=2), comment="The score in points, 0 to 100."),
        sa.Column("pillar_breakdown", postgresql.JSONB(), comment="Points by pillar: a JSON object or null."),
        sa.Column("source", sa.Text(), comment="Origin of the row: backfill, or null for a calculated score."),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was created.",
        ),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row last changed; set by a trigger.",
        ),
        sa.CheckConstraint("score between 0 and 100", name=op.f("ck_daily_engagement_scores_score_in_range")),
        sa.CheckConstraint(
            "pillar_breakdown is null or jsonb_typeof(pillar_breakdown) = 'object'",
            name=op.f("ck_daily_engagement_scores_pillar_breakdown_is_object"),
        ),
        sa.CheckConstraint("source = 'backfill'", name=op.f("ck_daily_engagement_scores_source_is_known")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["auth.users.id"], name=op.f("fk_daily_engagement_scores_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_daily_engagement_scores")),
        schema="legacy",
        comment="Momentum scores: one row per user and UTC day. Clients read it through public.daily_momentum_scores.",
    )
    # Created, parked and taken back with the table: on a full table it would take a while.
    op.create_index(
        op.f("uq_daily_engagement_scores_user_id_utc_day"),
        "daily_engagement_scores",
        ["user_id", sa.text("((score_ts at time zone 'UTC')::date)")],
        unique=True,
        schema="legacy",
    )
    op.execute(
        "comment on index legacy.uq_daily_engagement_scores_user_id_utc_day is "
        "'One row per user and UTC day; finds a user''s scores of a day or a range of days.'"
    )
    op.execute("""
create trigger set_updated_at before update on legacy.daily_engagement_scores
  for each row execute function momentum_internal.set_updated_at()""")
    op.execute("alter table legacy.daily_engagement_scores enable row level security")
    # Without this policy the view, which queries with its reader's rights, would show its readers nothing.
    op.execute("""
create policy daily_engagement_scores_select_own on legacy.daily_engagement_scores
  for select to authenticated using ((select auth.uid()) = user_id)""")
    op.execute("revoke all on table legacy.daily_engagement_scores from public, anon, authenticated, service_role")
    op.execute("grant select on table legacy.daily_engagement_scores to authenticated")
    op.execute("grant all on table legacy.daily_engagement_scores to service_role")
