"""Adopt a score table in the layout of days and points, give it its unique key, and show it in the view."""

# An author's own revision for one more layout of the score table; tests/scenarios/test_layouts.py puts it on top.

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0b5e7c21d8aa"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ("daily_momentum_scores",)

# The layouts of the score table that this revision adopts and indexes, for the preflight.
layouts: tuple[str, ...] = ("points",)
concerns_scores: tuple[str, ...] = ("adopts", "indexes")

KEY = "uq_daily_engagement_scores_user_id_day"

RECORDED = "exists (select from momentum_internal.score_table where layout = 'points')"

# Nothing is found where the table has another layout, which an earlier revision has recorded.
FIND = """
insert into momentum_internal.score_table (relation, layout, created_table, created_schema, granted_usage)
select format('%I.%I', n.nspname, c.relname), 'points', false, false, false
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where
  n.nspname in ('legacy', 'public') and c.relname = 'daily_engagement_scores'
  and array(
    select attname::text from pg_catalog.pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped
  ) @> array['user_id', 'day', 'points', 'parts']
-- A run that was interrupted has recorded it already.
on conflict (only_row) do nothing"""

# A unique index of the table's own that serves as well: over user and day, for every row, checked immediately.
OWN_KEY = f"""
select format('%I.%I', n.nspname, c.relname)
from pg_catalog.pg_index as i
inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where
  i.indrelid = to_regclass(:relation) and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
  and i.indnkeyatts = 2
  and array[pg_get_indexdef(i.indexrelid, 1, false), pg_get_indexdef(i.indexrelid, 2, false)] @> array['user_id', 'day']
  and c.relname <> '{KEY}'
order by c.relname
limit 1"""

# For scripts too: a psql that goes on after an error must not arrive at a version without its changes.
RECORD = """
do $record_unique_key$
begin
  if not exists (select from pg_catalog.pg_index where indexrelid = to_regclass('{index}') and indisvalid) then
    raise exception 'there is no valid unique index {index}';
  end if;
  update momentum_internal.score_table set unique_index = '{index}', created_index = {created} where layout = 'points';
end
$record_unique_key$"""

VIEW = """
create view public.daily_momentum_scores with (security_invoker = true) as
select
  s.user_id,
  s.points as score,
  s.day as score_date,
  s.parts as pillar_breakdown
from {relation} as s"""


def upgrade() -> None:
    """Record the table, use its own unique index or make one while clients go on, and make the view over it."""
    op.execute(FIND)
    relation = find_adopted()
    if relation is None:
        return
    schema = relation.partition(".")[0]
    own = None if op.get_context().as_sql else op.get_bind().scalar(sa.text(OWN_KEY), {"relation": relation})
    if own is None:
        # Recorded before it is done: an index that is found under this name after a kill is ours.
        op.execute("update momentum_internal.score_table set created_index = true where layout = 'points'")
        op.create_index_concurrently(KEY, "daily_engagement_scores", ["user_id", "day"], schema=schema, unique=True)
    index = own or f"{schema}.{KEY}"
    op.execute(RECORD.format(index=index, created="false" if own else "true"))
    op.park_predecessor("daily_momentum_scores")
    op.execute(VIEW.format(relation=relation))
    op.execute(
        "comment on view public.daily_momentum_scores is "
        "'Momentum scores by UTC day, in the columns that the app has always read.'"
    )
    op.execute("revoke all on table public.daily_momentum_scores from public, anon, authenticated, service_role")
    op.execute("grant select on table public.daily_momentum_scores to authenticated, service_role")
    op.keep_access("daily_momentum_scores")


def downgrade() -> None:
    """Drop the view and forget the key, which is dropped after that; a view over another layout stays."""
    op.take_back_access("daily_momentum_scores")
    op.execute(f"""
do $drop_view$
begin
  if {RECORDED} then
    drop view if exists public.daily_momentum_scores;
  end if;
end
$drop_view$""")
    op.restore_predecessor("daily_momentum_scores", only_if=RECORDED)
    op.execute("update momentum_internal.score_table set unique_index = null where layout = 'points'")


def after_downgrade() -> None:
    """Drop the key if we made it, while clients go on, and forget the table."""
    relation = find_adopted()
    if relation is None:
        return
    created = sa.text("select created_index from momentum_internal.score_table")
    if op.get_context().as_sql or op.get_bind().scalar(created):
        op.drop_index_concurrently(KEY, schema=relation.partition(".")[0])
    op.execute("delete from momentum_internal.score_table where layout = 'points'")


def find_adopted() -> str | None:
    """Return the score table if it has this revision's layout."""
    context = op.get_context()
    if context.as_sql:
        schema, _, layout = context.opts["scores"].partition(".")
        return f"{schema}.daily_engagement_scores" if layout in layouts else None
    adopted = sa.text("select relation from momentum_internal.score_table where layout = 'points'")
    relation: str | None = op.get_bind().scalar(adopted)
    return relation
