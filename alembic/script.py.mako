<%!
import re


def finished(steps):
    """Return the steps without the comments in which Alembic asks for a review."""
    return re.sub(r"(?m)^ *# ###.*\n?", "", steps).strip()
%><%
parts = config.attributes.get("momentum_revisions", {}).get(up_revision, {})
%>"""${message[0].upper()}${message[1:]}."""

# docs/changing_the_schema.md has the upgrade and downgrade of each kind of change, and why. In short, and tested:
# - One change; under 300 lines; imports alembic and sqlalchemy only, never momentum: it must mean the same in ten
#   years. It names every schema in full, and every constraint through op.f(). `creates` names what it adds to public.
# - Neither direction drops a table or a column: op.park_table, op.park_column, and op.take_back_or_... to undo them.
# - It changes catalogs only. A statement that reads or writes all rows has a revision of its own, outside of
#   transactions, blocks no client, and can be run again, because a kill can come at any moment. Its downgrade drops
#   things in after_downgrade(), which runs after the version is removed.
# - Nothing takes ACCESS EXCLUSIVE on auth.users or on an adopted score table; tests/scenarios/lock_budget.txt lists
#   the locks of each revision.

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}

# The relations that this revision adds to public.
creates: tuple[str, ...] = ${repr(parts.get("creates", ()))}
% if parts.get("parks"):
# The columns that it parks, which a purge may therefore drop.
parks: tuple[str, ...] = ${repr(parts["parks"])}
% endif


def upgrade() -> None:
    """${parts.get("upgrade", "Say what the change is for.")}"""
    ${finished(upgrades) if upgrades else "pass"}


def downgrade() -> None:
    """${parts.get("downgrade", "Say what stays where.")}"""
    ${finished(downgrades) if downgrades else "pass"}
% if parts.get("after_downgrade"):


def after_downgrade() -> None:
    """Run the steps that block no client, after the revision's version is removed."""
    ${finished(parts["after_downgrade"])}
% endif
