"""Let users read their journal, and note who wrote it."""

# An author's own revision: autogenerate sees no policy, function, trigger or grant.

from collections.abc import Sequence

from alembic import op

revision: str = "4be2d90c6f17"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()


def upgrade() -> None:
    """Make the policy, the function and its trigger, and take a grant away."""
    op.execute("""
create policy motivation_journal_select_own on public.motivation_journal
  for select to authenticated using ((select auth.uid()) = user_id)""")
    op.execute("""
create function momentum_internal.trim_prompt() returns trigger
language plpgsql
set search_path = ''
as $function$
begin
  new.prompt := btrim(new.prompt);
  return new;
end
$function$""")
    op.execute("revoke all on function momentum_internal.trim_prompt() from public, anon, authenticated, service_role")
    op.execute("""
create trigger trim_prompt before insert on public.motivation_journal
  for each row execute function momentum_internal.trim_prompt()""")
    op.execute("revoke delete on table public.motivation_journal from authenticated")


def downgrade() -> None:
    """Drop what was made, and give the grant back: no row is in any of it."""
    op.execute("grant delete on table public.motivation_journal to authenticated")
    op.execute("drop trigger trim_prompt on public.motivation_journal")
    op.execute("drop function momentum_internal.trim_prompt()")
    op.execute("drop policy motivation_journal_select_own on public.motivation_journal")
