"""Create the updated_at trigger function and the record of the score table, in the private schema momentum_internal."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "5f0c1a7d92e4"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()


def upgrade() -> None:
    """Create the function and the table; the schema already exists, because the version table is in it."""
    op.execute("comment on schema momentum_internal is 'Private to the momentum migrations: clients have no access.'")
    op.execute("revoke all on schema momentum_internal from public, anon, authenticated, service_role")
    op.execute("revoke all on table momentum_internal.alembic_version from public, anon, authenticated, service_role")
    # A downgrade leaves the function behind, because parked tables keep their triggers, so it may already exist.
    op.execute("""
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
$function$""")
    op.execute(
        "revoke all on function momentum_internal.set_updated_at() from public, anon, authenticated, service_role"
    )
    op.execute(
        "comment on function momentum_internal.set_updated_at() is "
        "'Sets updated_at for every writer: the app through PostgREST, a service or a person.'"
    )
    op.create_table(
        "score_table",
        sa.Column(
            "only_row",
            sa.Boolean(),
            server_default=sa.text("true"),
            nullable=False,
            comment="Always true: as the key it keeps the table at one row.",
        ),
        sa.Column("relation", sa.Text(), nullable=False, comment="The score table, with its schema."),
        sa.Column(
            "layout", sa.Text(), nullable=False, comment="The layout of its columns, such as seed or production."
        ),
        sa.Column(
            "created_table",
            sa.Boolean(),
            nullable=False,
            comment="Whether the migrations created the table; if not, they adopted it.",
        ),
        sa.Column("created_schema", sa.Boolean(), nullable=False, comment="Whether the migrations created its schema."),
        sa.Column(
            "granted_usage",
            sa.Boolean(),
            nullable=False,
            comment="Whether the migrations granted service_role usage on its schema.",
        ),
        sa.Column(
            "unique_index",
            sa.Text(),
            nullable=True,
            comment="The unique index over user and day, with its schema; null until there is one.",
        ),
        sa.Column(
            "created_index",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Whether the migrations create that index, and so drop it on the way back.",
        ),
        sa.CheckConstraint("only_row", name=op.f("ck_score_table_only_row")),
        sa.PrimaryKeyConstraint("only_row", name=op.f("pk_score_table")),
        schema="momentum_internal",
        comment="Record of the score table, kept by the migrations: one row.",
    )
    op.execute("revoke all on table momentum_internal.score_table from public, anon, authenticated, service_role")


def downgrade() -> None:
    """Drop score_table, which holds no row by now; the function stays for the parked tables' triggers."""
    op.drop_table("score_table", schema="momentum_internal")
