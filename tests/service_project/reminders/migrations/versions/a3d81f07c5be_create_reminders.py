"""create reminders."""

import sqlalchemy as sa
from alembic import op

revision: str = "a3d81f07c5be"
down_revision: str | None = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reminders",
        sa.Column("id", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("remind_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["event_id"], ["momentum_events.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_reminders_event_id"), "reminders", ["event_id"], unique=False)
    # Supabase gives anon every right on what is new in public, Alembic's version table included.
    op.execute("alter table reminders enable row level security")
    op.execute("alter table alembic_version enable row level security")


def downgrade() -> None:
    op.drop_index(op.f("ix_reminders_event_id"), table_name="reminders")
    op.drop_table("reminders")
