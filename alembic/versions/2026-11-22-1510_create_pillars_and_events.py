"""Create momentum_pillars and momentum_events."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql

revision: str = "a3b86e04c17d"
down_revision: str | None = "5f0c1a7d92e4"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = (
    "momentum_pillars",
    "pk_momentum_pillars",
    "uq_momentum_pillars_name",
    "momentum_events",
    "pk_momentum_events",
    "ix_momentum_events_pillar_id",
    "ix_momentum_events_user_id_event_ts",
)


def upgrade() -> None:
    """Take the tables back with their rows if a downgrade parked them, else create them."""
    op.take_back_or_create_table("momentum_pillars", create_momentum_pillars)
    op.take_back_or_create_table("momentum_events", create_momentum_events)


def downgrade() -> None:
    """Park the tables: no row is lost, and no lock on auth.users is taken."""
    op.park_table("momentum_events")
    op.park_table("momentum_pillars")


def create_momentum_pillars(op: Operations) -> None:
    """Create public.momentum_pillars."""
    op.create_table(
        "momentum_pillars",
        sa.Column(
            "id",
            sa.UUID(),
            server_default=sa.text("gen_random_uuid()"),
            nullable=False,
            comment="The row's own key, made by the server.",
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="What the pillar is called; unique and not blank."),
        sa.Column("description", sa.Text(), nullable=True, comment="What the pillar stands for, for people to read."),
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
        sa.CheckConstraint("name ~ '\\S'", name=op.f("ck_momentum_pillars_name_not_blank")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_momentum_pillars")),
        sa.UniqueConstraint("name", name=op.f("uq_momentum_pillars_name")),
        schema="public",
        comment="The pillars that momentum points are given for, such as sleep or movement.",
    )
    finish_table(op, "momentum_pillars")


def create_momentum_events(op: Operations) -> None:
    """Create public.momentum_events."""
    op.create_table(
        "momentum_events",
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
            "pillar_id", sa.UUID(), nullable=True, comment="The pillar that the event counts for, where it is known."
        ),
        sa.Column("event_type", sa.Text(), nullable=False, comment="What kind of event it is; not blank."),
        sa.Column(
            "event_ts",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it happened.",
        ),
        sa.Column(
            "payload",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
            comment="What else is known of it: a JSON object or null.",
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
        sa.CheckConstraint("event_type ~ '\\S'", name=op.f("ck_momentum_events_event_type_not_blank")),
        sa.CheckConstraint(
            "payload is null or jsonb_typeof(payload) = 'object'", name=op.f("ck_momentum_events_payload_is_object")
        ),
        sa.ForeignKeyConstraint(
            ["pillar_id"],
            ["public.momentum_pillars.id"],
            name=op.f("fk_momentum_events_pillar_id_momentum_pillars"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["auth.users.id"], name=op.f("fk_momentum_events_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_momentum_events")),
        schema="public",
        comment="What users did that counts towards momentum, one row an event.",
    )
    op.create_index(
        op.f("ix_momentum_events_pillar_id"), "momentum_events", ["pillar_id"], unique=False, schema="public"
    )
    op.create_index(
        "ix_momentum_events_user_id_event_ts",
        "momentum_events",
        ["user_id", sa.literal_column("event_ts DESC")],
        unique=False,
        schema="public",
    )
    finish_table(op, "momentum_events")


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
