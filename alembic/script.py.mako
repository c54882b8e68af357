<%!
import re


def finished(steps):
    """Return the steps without the comments in which Alembic asks for a look."""
    return re.sub(r"(?m)^ *# ###.*\n?", "", steps).strip()
%><%
parts = config.attributes.get("momentum_revisions", {}).get(up_revision, {})
%>"""${message[0].upper()}${message[1:]}."""

# How each kind of change goes up and back, and why: docs/changing_the_schema.md. In short, and kept by tests:
# - One change; under 300 lines; imports alembic and sqlalchemy only, never momentum: it must mean the same in ten
#   years. It names every schema in full, and every constraint through op.f(). `creates` names what it adds to public.
# - Neither way drops a table or a column: op.park_table, op.park_column, and op.take_back_or_... the other way.
# - It changes catalogs only. What reads or writes all rows has a revision of its own, outside of transactions, blocks
#   no client, and bears being run again, because a kill can come at any moment. What that drops on the way back it
#   drops in after_downgrade(), which runs when the version is gone.
# - Nothing takes ACCESS EXCLUSIVE on auth.users or on an adopted score table; tests/scenarios/lock_budget.txt has the
#   locks of each revision.

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
# The columns that it parks, which a purge may so drop.
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
    """Undo what blocks no client, when the revision's version is gone."""
    ${finished(parts["after_downgrade"])}
% endif
