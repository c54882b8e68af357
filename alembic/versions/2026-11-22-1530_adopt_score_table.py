"""Adopt the legacy score table where it stands, or create one in the same layout."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision: str = "e1572ab9630c"
down_revision: str | None = "c94d27f1508b"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()

# Tells the preflight to look for what this revision would adopt.
concerns_scores = "adopts"


def upgrade() -> None:
    """Record what there is, then take back or create the table if there is none to adopt.

    An adopted table is left exactly as it is: its grants and policies are not ours to change.
    """
    op.execute("""
do $find_score_table$
declare
  adopted constant regclass := coalesce(
    to_regclass('legacy.daily_engagement_scores'), to_regclass('public.daily_engagement_scores')
  );
begin
  if adopted is null then
    insert into momentum_internal.score_table (relation, layout, created_table, created_schema, granted_usage)
    values ('legacy.daily_engagement_scores', 'seed', true, to_regnamespace('legacy') is null, false);
    return;
  end if;

  -- The preflight says these things in better words; a script made with --sql has no preflight.
  if to_regclass('legacy.daily_engagement_scores') is not null
    and to_regclass('public.daily_engagement_scores') is not null then
    raise exception 'there are two tables daily_engagement_scores, in legacy and in public; keep one';
  end if;
  if to_regclass('momentum_internal.daily_engagement_scores') is not null then
    raise exception 'a score table is parked in momentum_internal, and % stands in its place', adopted;
  end if;
  if 4 <> (
    select count(*)
    from pg_catalog.pg_attribute
    where
      attrelid = adopted
      and attname in ('user_id', 'score_ts', 'score', 'pillar_breakdown')
      and attnum > 0
      and not attisdropped
  ) then
    raise exception '% has not the columns user_id, score_ts, score and pillar_breakdown', adopted;
  end if;

  insert into momentum_internal.score_table (relation, layout, created_table, created_schema, granted_usage)
  select format('%I.%I', n.nspname, c.relname), 'seed', false, false, false
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  where c.oid = adopted;
end
$find_score_table$""")
    op.execute("""
do $open_legacy$
begin
  if (select created_schema from momentum_internal.score_table) then
    create schema legacy;
    comment on schema legacy is 'The scores of before momentum.';
  end if;
  if (select created_table from momentum_internal.score_table)
    and not has_schema_privilege('service_role', 'legacy', 'usage') then
    grant usage on schema legacy to service_role;
    update momentum_internal.score_table set granted_usage = true;
  end if;
end
$open_legacy$""")
    op.take_back_or_create_table(
        "daily_engagement_scores",
        create_daily_engagement_scores,
        schema="legacy",
        only_if="select created_table from momentum_internal.score_table",
    )


def downgrade() -> None:
    """Park the table if we made it; leave an adopted one where it is, as it is."""
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
    -- Somebody may have put something else there meanwhile: then the schema stays for it.
    if found.created_schema and not exists (
      select from pg_catalog.pg_depend
      where refclassid = 'pg_catalog.pg_namespace'::regclass and refobjid = 'legacy'::regnamespace
    ) then
      drop schema legacy;
    end if;
  end if;
  delete from momentum_internal.score_table;
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
            comment="The row's own key, made by the server.",
        ),
        sa.Column(
            "user_id",
            sa.UUID(),
            nullable=False,
            comment="The user whom the row belongs to; it goes when the user goes.",
        ),
        sa.Column(
            "score_ts",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            comment="A moment of the day that is scored; the day is the one in UTC.",
        ),
        sa.Column("score", sa.Numeric(precision=5, scale=2), comment="The score in points, 0 to 100."),
        sa.Column("pillar_breakdown", postgresql.JSONB(), comment="Points by pillar: a JSON object or null."),
        sa.Column("source", sa.Text(), comment="Where the row comes from: backfill, or null for a calculated score."),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row was made.",
        ),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the row last changed; a trigger keeps it, whoever writes.",
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
        comment="Momentum scores: one row a user and UTC day. Clients read it through public.daily_momentum_scores.",
    )
    op.execute("""
create trigger set_updated_at before update on legacy.daily_engagement_scores
  for each row execute function momentum_internal.set_updated_at()""")
    op.execute("alter table legacy.daily_engagement_scores enable row level security")
    # Without this policy the view, which asks with its reader's rights, would show its readers nothing.
    op.execute("""
create policy daily_engagement_scores_select_own on legacy.daily_engagement_scores
  for select to authenticated using ((select auth.uid()) = user_id)""")
    op.execute("revoke all on table legacy.daily_engagement_scores from public, anon, authenticated, service_role")
    op.execute("grant select on table legacy.daily_engagement_scores to authenticated")
    op.execute("grant all on table legacy.daily_engagement_scores to service_role")
