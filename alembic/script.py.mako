"""${message}."""
# The rules of a revision, kept by tests/test_house.py, tests/scenarios/test_lock_budget.py and `make lint`:
# - One change; under 300 lines; imports alembic and sqlalchemy only, never momentum: it must mean the same in ten years.
# - Names every schema in full, and every constraint through op.f().
# - A new table: op.take_back_or_create_table on the way up, op.park_table on the way down. No way down drops a row.
# - A new table revokes all from public, anon and authenticated, then grants what README.md says, row level security on.
# - Anything that `creates` names must not be in the database before; the preflight looks.
#
# How it runs (momentum/migrate/run.py and locks.py), so that no client has to wait for it:
# - One migration at a time, by an advisory lock on a connection of its own. Each revision is a transaction of its own.
# - Its statements wait 0.3 to 2 seconds for a lock and take a minute at most, then the whole revision is tried again.
#   So it changes catalogs only: nothing that reads or writes all rows of a table.
# - What takes longer blocks no client and goes through op.execute_patiently, outside of any transaction: CONCURRENTLY, or
#   a DO block that commits page by page. It must bear being run again: a kill can come at any moment. It has a revision of
#   its own. What it drops on the way back it drops in after_downgrade(), which runs when the version is gone.
# - Nothing takes ACCESS EXCLUSIVE on auth.users or on a score table that was adopted. A foreign key to auth.users belongs
#   into CREATE TABLE; on a table with rows it is added NOT VALID and validated in the next revision.
# - tests/scenarios/lock_budget.txt says what each revision locks; a new one is added there on purpose.

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
