"""Create the score table's unique key: one row a user and UTC day."""

from collections.abc import Sequence

from alembic import op

revision: str = "07d3e6c8b51f"
down_revision: str | None = "e1572ab9630c"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()

# Tells the preflight to look for days on which a user has two rows.
concerns_scores = "indexes"


def upgrade() -> None:
    """Make the key over the day in UTC, the same expression as in the view, so that a search by day can use it."""
    op.execute("""
do $create_score_unique_key$
begin
  execute format(
    'create unique index uq_daily_engagement_scores_user_id_utc_day on %s '
    '(user_id, ((score_ts at time zone ''UTC'')::date))',
    (select relation from momentum_internal.score_table)
  );
  execute format(
    'comment on index %I.uq_daily_engagement_scores_user_id_utc_day is %L',
    split_part((select relation from momentum_internal.score_table), '.', 1),
    'One row a user and UTC day; finds a user''s scores of a day or a range of days.'
  );
  update momentum_internal.score_table set created_index = true;
end
$create_score_unique_key$""")


def downgrade() -> None:
    """Drop the key; the rows stay."""
    op.execute("""
do $drop_score_unique_key$
begin
  execute format(
    'drop index %I.uq_daily_engagement_scores_user_id_utc_day',
    split_part((select relation from momentum_internal.score_table), '.', 1)
  );
  update momentum_internal.score_table set created_index = false;
end
$drop_score_unique_key$""")
