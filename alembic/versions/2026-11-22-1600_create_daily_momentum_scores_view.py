"""Create the view daily_momentum_scores, which shows the legacy scores to their consumers."""

from collections.abc import Sequence

from alembic import op

revision: str = "b82e4f1690da"
down_revision: str | None = "07d3e6c8b51f"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ("daily_momentum_scores",)

# The layouts of the score table over which this revision creates the view.
layouts: tuple[str, ...] = ("seed", "production")

RECORDED = "exists (select from momentum_internal.score_table where layout in ('seed', 'production'))"


def upgrade() -> None:
    """Create the view over the recorded score table; for a table of another layout, a later revision does.

    The day is always in UTC; a plain cast to date would depend on the session's time zone. The view checks
    rights and policies as its reader (security_invoker), so that users see their own rows only.
    """
    op.park_predecessor("daily_momentum_scores", only_if=RECORDED)
    op.execute("""
do $create_view$
declare
  scores constant momentum_internal.score_table := (select t from momentum_internal.score_table as t);
begin
  if scores.layout = 'production' then
    execute format($view$
create view public.daily_momentum_scores with (security_invoker = true) as
select
  s.user_id,
  s.final_score as score,
  s.score_date,
  s.breakdown as pillar_breakdown
from %s as s
    $view$, scores.relation);
  elsif scores.layout = 'seed' then
    execute format($view$
create view public.daily_momentum_scores with (security_invoker = true) as
select
  s.user_id,
  s.score,
  (s.score_ts at time zone 'UTC')::date as score_date,
  s.pillar_breakdown
from %s as s
    $view$, scores.relation);
  else
    return;
  end if;
  comment on view public.daily_momentum_scores is
    'Momentum scores by UTC day, in the columns that the app has always read.';
  comment on column public.daily_momentum_scores.user_id is 'The user who is scored.';
  comment on column public.daily_momentum_scores.score is 'The score in points, 0 to 100.';
  comment on column public.daily_momentum_scores.score_date is 'The day in UTC.';
  comment on column public.daily_momentum_scores.pillar_breakdown is 'Points by pillar: a JSON object or null.';
  revoke all on table public.daily_momentum_scores from public, anon, authenticated, service_role;
  grant select on table public.daily_momentum_scores to authenticated, service_role;
end
$create_view$""")
    op.keep_access("daily_momentum_scores")


def downgrade() -> None:
    """Drop the view, which holds no rows of its own."""
    op.take_back_access("daily_momentum_scores")
    op.execute(f"""
do $drop_view$
begin
  if {RECORDED} then
    -- If an adopted score table was dropped with cascade, the view is gone too.
    drop view if exists public.daily_momentum_scores;
  end if;
end
$drop_view$""")
    op.restore_predecessor("daily_momentum_scores", only_if=RECORDED)
