"""Create motivation_journal and habit_index."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision: str = "c94d27f1508b"
down_revision: str | None = "a3b86e04c17d"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = (
    "motivation_journal",
    "pk_motivation_journal",
    "uq_motivation_journal_user_id_date",
    "ix_motivation_journal_pillar_id",
    "habit_index",
    "pk_habit_index",
    "uq_habit_index_user_id_index_date",
    "ix_habit_index_pillar_id",
)


def upgrade() -> None:
    """Take the tables back with their rows if a downgrade parked them, else create them."""
    op.take_back_or_create_table("motivation_journal", create_motivation_journal)
    op.take_back_or_create_table("habit_index", create_habit_index)


def downgrade() -> None:
    """Park the tables: no row is lost, and no lock on auth.users is taken."""
    op.park_table("habit_index")
    op.park_table("motivation_journal")


def create_motivation_journal(op: Operations) -> None:
    """Create public.motivation_journal."""
    op.create_table(
        "motivation_journal",
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
            "pillar_id", sa.UUID(), nullable=True, comment="The pillar that the entry is about, where there is one."
        ),
        sa.Column("date", sa.Date(), nullable=False, comment="The entry's day in UTC."),
        sa.Column("prompt", sa.Text(), nullable=True, comment="The question that the user was asked."),
        sa.Column("response", sa.Text(), nullable=True, comment="What the user answered."),
        sa.Column("motivation_type", sa.Text(), nullable=True, comment="The kind of motivation that the answer shows."),
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
        sa.Column(
            "deleted_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When the row was softly deleted; null means live.",
        ),
        sa.ForeignKeyConstraint(
            ["pillar_id"],
            ["public.momentum_pillars.id"],
            name=op.f("fk_motivation_journal_pillar_id_momentum_pillars"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["auth.users.id"], name=op.f("fk_motivation_journal_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_motivation_journal")),
        sa.UniqueConstraint("user_id", "date", name=op.f("uq_motivation_journal_user_id_date")),
        schema="public",
        comment="What moves a user, in the user's own words: one entry a user and day.",
    )
    op.create_index(
        op.f("ix_motivation_journal_pillar_id"), "motivation_journal", ["pillar_id"], unique=False, schema="public"
    )
    finish_table(op, "motivation_journal")


def create_habit_index(op: Operations) -> None:
    """Create public.habit_index."""
    op.create_table(
        "habit_index",
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
            "pillar_id", sa.UUID(), nullable=True, comment="The pillar that the score is about, where there is one."
        ),
        sa.Column("index_date", sa.Date(), nullable=False, comment="The score's day in UTC."),
        sa.Column(
            "habit_score", sa.Numeric(precision=5, scale=2), nullable=False, comment="The score in points, 0 to 100."
        ),
        sa.Column(
            "details",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
            comment="How the score came about: a JSON object or null.",
        ),
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
        sa.Column(
            "deleted_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When the row was softly deleted; null means live.",
        ),
        sa.CheckConstraint(
            "details is null or jsonb_typeof(details) = 'object'", name=op.f("ck_habit_index_details_is_object")
        ),
        sa.CheckConstraint("habit_score between 0 and 100", name=op.f("ck_habit_index_habit_score_in_range")),
        sa.ForeignKeyConstraint(
            ["pillar_id"],
            ["public.momentum_pillars.id"],
            name=op.f("fk_habit_index_pillar_id_momentum_pillars"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["auth.users.id"], name=op.f("fk_habit_index_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_habit_index")),
        sa.UniqueConstraint("user_id", "index_date", name=op.f("uq_habit_index_user_id_index_date")),
        schema="public",
        comment="How firm a user's habits are: one score a user and day.",
    )
    op.create_index(op.f("ix_habit_index_pillar_id"), "habit_index", ["pillar_id"], unique=False, schema="public")
    finish_table(op, "habit_index")


def finish_table(op: Operations, table: str) -> None:
    """Give a table its trigger, row level security and grants.

    Supabase gives anon and authenticated everything on a new table, and row level security does not stop TRUNCATE: so
    all is revoked before anything is granted. There is no policy yet, and so clients see no row until a later revision.
    """
    op.execute(f"""
create trigger set_updated_at before update on public.{table}
  for each row execute function momentum_internal.set_updated_at()""")
    op.execute(f"alter table public.{table} enable row level security")
    op.execute(f"revoke all on table public.{table} from public, anon, authenticated, service_role")
    op.execute(f"grant select, insert, update, delete on table public.{table} to authenticated")
    op.execute(f"grant all on table public.{table} to service_role")
