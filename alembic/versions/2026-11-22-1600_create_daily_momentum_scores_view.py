"""Create the view daily_momentum_scores, which shows the legacy scores to their consumers."""

from collections.abc import Sequence

from alembic import op

revision: str = "b82e4f1690da"
down_revision: str | None = "07d3e6c8b51f"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ("daily_momentum_scores",)


def upgrade() -> None:
    """Make the view over the score table wherever that stands.

    The day is always the one in UTC; a plain cast to date would depend on the time zone of whoever asks. The view
    checks rights and policies as its reader (security_invoker), so that a user sees the user's own rows only.
    """
    op.park_predecessor("daily_momentum_scores")
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
  else
    execute format($view$
create view public.daily_momentum_scores with (security_invoker = true) as
select
  s.user_id,
  s.score,
  (s.score_ts at time zone 'UTC')::date as score_date,
  s.pillar_breakdown
from %s as s
    $view$, scores.relation);
  end if;
end
$create_view$""")
    op.execute(
        "comment on view public.daily_momentum_scores is "
        "'Momentum scores by UTC day, in the columns that the app has always read.'"
    )
    op.execute("comment on column public.daily_momentum_scores.user_id is 'The user who is scored.'")
    op.execute("comment on column public.daily_momentum_scores.score is 'The score in points, 0 to 100.'")
    op.execute("comment on column public.daily_momentum_scores.score_date is 'The day in UTC.'")
    op.execute(
        "comment on column public.daily_momentum_scores.pillar_breakdown is 'Points by pillar: a JSON object or null.'"
    )
    op.execute("revoke all on table public.daily_momentum_scores from public, anon, authenticated, service_role")
    op.execute("grant select on table public.daily_momentum_scores to authenticated, service_role")


def downgrade() -> None:
    """Drop the view, which holds no rows of its own."""
    # Whoever has dropped an adopted score table with cascade has dropped the view with it.
    op.execute("drop view if exists public.daily_momentum_scores")
    op.restore_predecessor("daily_momentum_scores")
