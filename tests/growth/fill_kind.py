"""Fill kind of motivation_journal from motivation_type."""

# An author's own revision, as a rename needs one: the new column is there, the old one is parked after this.

from collections.abc import Sequence

from alembic import op

revision: str = "9a1c0e5b7d31"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()

# A page of 500 rows a commit, and then the next one; it ends when no row is left that lacks a value.
FILL = """
do $fill$
declare
  filled bigint;
begin
  loop
    perform set_config('lock_timeout', '300ms', true), set_config('momentum.keep_updated_at', 'yes', true);
    update public.motivation_journal as j set {to} = j.{source}
    where j.id = any (array(
      select id from public.motivation_journal where {source} is not null and {to} is null
      limit 500 for update skip locked
    ));
    get diagnostics filled = row_count;
    commit;
    exit when filled = 0;
  end loop;
end
$fill$"""


# Where nothing can commit in between, all rows at once.
FILL_AT_ONCE = "update public.motivation_journal set {to} = {source} where {source} is not null and {to} is null"


def upgrade() -> None:
    """Copy each value that is only in the old column into the new one."""
    names = {"source": "motivation_type", "to": "kind"}
    op.execute_patiently(FILL.format(**names), in_one_transaction=FILL_AT_ONCE.format(**names))


def downgrade() -> None:
    """Leave the version; the values that are only in the new column go into the old one after that."""


def after_downgrade() -> None:
    """Copy each value that is only in the new column into the old one."""
    names = {"source": "kind", "to": "motivation_type"}
    op.execute_patiently(FILL.format(**names), in_one_transaction=FILL_AT_ONCE.format(**names))
