"""${message}."""
# The rules of a revision, kept by tests/test_house.py:
# - One change; under 300 lines; imports alembic and sqlalchemy only, never momentum: it must mean the same in ten years.
# - Names every schema in full, and every constraint through op.f().
# - A new table: op.take_back_or_create_table on the way up, op.park_table on the way down. No way down drops a row.
# - A new table revokes all from public, anon and authenticated, then grants what README.md says, row level security on.
# - Anything that `creates` names must not be in the database before; the preflight looks.

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()


def upgrade() -> None:
    """Say what the change is for."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Say what stays where."""
    ${downgrades if downgrades else "pass"}
