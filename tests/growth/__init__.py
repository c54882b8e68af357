"""The next revisions: one of each kind of change, put on top of head in a copy of the script directory; never shipped.

Autogenerate writes most of them from models that have grown. The others, which it leaves to an author, are files of
this folder.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.dialects.postgresql import TIMESTAMP

from momentum.base import auth_users
from momentum.migrate import environment, filters, parking
from momentum.migrate.autogenerate import MINUTE
from momentum.migrate.config import SCRIPTS, alembic_config
from momentum.models import Base
from tests import samples
from tests.migrating import current

HERE = Path(__file__).parent

# As in alembic.ini, which a program that calls Alembic does not read.
FILE_TEMPLATE = "%%(year)d-%%(month).2d-%%(day).2d-%%(hour).2d%%(minute).2d_%%(slug)s"

TEXT = sa.Text()


def add_columns(metadata: sa.MetaData) -> None:
    """Add a nullable column, and one with a constant default, a check, a unique key, an index and a key to others."""
    journal, pillars = metadata.tables["motivation_journal"], metadata.tables["momentum_pillars"]
    journal.append_column(sa.Column("weather", TEXT, comment="How the user felt, in a word."))
    energy = sa.Column("energy", sa.BigInteger, server_default="5", nullable=False, comment="Energy, 0 to 10: 100 %.")
    journal.append_column(energy)
    journal.append_constraint(sa.CheckConstraint("energy between 0 and 10", name="energy_in_range"))
    pillars.append_column(sa.Column("code", TEXT, unique=True, comment="A short code; unique."))
    other = sa.ForeignKey(pillars.c.id, ondelete="RESTRICT")
    metadata.tables["habit_index"].append_column(sa.Column("other_id", sa.UUID, other, index=True, comment="Another."))


def add_table(metadata: sa.MetaData) -> None:
    """Add a table that refers to users and to pillars."""
    pillars = metadata.tables["momentum_pillars"]
    now = sa.func.now()
    sa.Table(
        "momentum_trials",
        metadata,
        sa.Column("id", sa.UUID, primary_key=True, server_default=sa.text("gen_random_uuid()"), comment="Its key."),
        sa.Column(
            "user_id", sa.UUID, sa.ForeignKey("auth.users.id", ondelete="CASCADE"), nullable=False, comment="Whose."
        ),
        sa.Column(
            "pillar_id",
            sa.UUID,
            sa.ForeignKey(pillars.c.id, ondelete="RESTRICT"),
            index=True,
            comment="Of which pillar.",
        ),
        sa.Column("goal", TEXT, nullable=False, comment="The goal's \"words\", 100 %: the user's."),
        sa.Column("created_at", TIMESTAMP(timezone=True), server_default=now, nullable=False, comment="When made."),
        sa.Column("updated_at", TIMESTAMP(timezone=True), server_default=now, nullable=False, comment="When changed."),
        sa.CheckConstraint("goal ~ '\\S'", name="goal_not_blank"),
        sa.UniqueConstraint("user_id", "goal"),
        comment="What users want to reach.",
    )


def add_rules(metadata: sa.MetaData) -> None:
    """Add an index and a check over rows that are there, and change a default and a comment."""
    events = metadata.tables["momentum_events"]
    sa.Index("ix_momentum_events_event_type", events.c.event_type)
    events.append_constraint(sa.CheckConstraint("length(event_type) < 100", name="event_type_is_short"))
    events.c.event_type.comment = "The kind of event: a short word."
    metadata.tables["motivation_journal"].c.energy.server_default = sa.DefaultClause("6")


def drop_things(metadata: sa.MetaData) -> None:
    """Take away a column with its check, a column with its key and index, a table, an index and a check."""
    journal, habits = metadata.tables["motivation_journal"], metadata.tables["habit_index"]
    journal._columns.remove(journal.c.energy)
    habits._columns.remove(habits.c.other_id)
    habits.constraints = {key for key in habits.constraints if "other_id" not in str(getattr(key, "column_keys", ""))}
    habits.indexes = {index for index in habits.indexes if "other_id" not in str(index.name)}
    journal.constraints = {key for key in journal.constraints if "energy" not in str(getattr(key, "sqltext", ""))}
    metadata.remove(metadata.tables["momentum_trials"])
    events = metadata.tables["momentum_events"]
    events.indexes = {index for index in events.indexes if index.name != "ix_momentum_events_event_type"}
    events.constraints = {key for key in events.constraints if "length" not in str(getattr(key, "sqltext", ""))}


def add_kind(metadata: sa.MetaData) -> None:
    """Add the column that a column is renamed to."""
    metadata.tables["motivation_journal"].append_column(sa.Column("kind", TEXT, comment="The kind of motivation."))


def drop_motivation_type(metadata: sa.MetaData) -> None:
    """Take the column away that was renamed."""
    journal = metadata.tables["motivation_journal"]
    journal._columns.remove(journal.c.motivation_type)


# In the order of the history: the message and the change of the models, or the file of an author's revision.
STEPS: tuple[tuple[str, Callable[[sa.MetaData], None] | None], ...] = (
    ("add weather and more", add_columns),
    ("add momentum trials", add_table),
    ("add rules for events", add_rules),
    ("let_users_read", None),
    ("add kind", add_kind),
    ("fill_kind", None),
    ("park motivation type", drop_motivation_type),
    ("drop things", drop_things),
)

# The sample rows, with values in the new columns and rows of the new table.
NEW_VALUES: dict[str, dict[str, str]] = {
    "motivation_journal": {"weather": "'glad ' || :ordinal", "energy": ":ordinal % 10", "kind": "'new'"},
    "momentum_pillars": {"code": "'code ' || :ordinal"},
    "habit_index": {"other_id": "(select id from {pillars} limit 1)"},
    "momentum_trials": {
        "user_id": ":user",
        "pillar_id": "(select id from {pillars} limit 1)",
        "goal": "'walk ' || :ordinal",
    },
}


ROWS = {name: {**samples.ROWS.get(name, {}), **NEW_VALUES.get(name, {})} for name in {**samples.ROWS, **NEW_VALUES}}


@dataclass
class Growth:
    """A history that has grown.

    Attributes:
        folder: The script directory.
        scripts: Its revisions.
        history: The identifiers from base to the grown head, in their order.
    """

    folder: Path
    scripts: ScriptDirectory
    history: list[str]

    def config(self, url: sa.URL | str, **options: Any) -> Config:
        """Return a configuration of Alembic for this history."""
        config = alembic_config(url, **options)
        config.set_main_option("script_location", str(self.folder))
        return config

    def migrate(self, url: sa.URL, revision: str, **options: Any) -> None:
        """Bring a database to a revision, up or down from where it is."""
        here, there = self.history.index(current(url)), self.history.index(revision)
        command = alembic.command.upgrade if there > here else alembic.command.downgrade
        if there != here or options:
            command(self.config(url, **options), revision)


def copy_of_models() -> sa.MetaData:
    """Return a copy of the models' MetaData, which may grow."""
    metadata = sa.MetaData(naming_convention=Base.metadata.naming_convention)
    for table in (auth_users, *Base.metadata.sorted_tables):
        table.to_metadata(metadata)
    return metadata


def grow(url: sa.URL, folder: Path, patch: pytest.MonkeyPatch) -> Growth:
    """Write the next revisions into a copy of the script directory.

    Args:
        url: A database at head, which is migrated along.
        folder: Where to put the copy.
        patch: Puts the models that have grown into the place of ours, for as long as it lasts.
    """
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = copy_of_models()
    for module in (environment, filters, parking):
        patch.setattr(module, "Base", SimpleNamespace(metadata=metadata))
    config = alembic_config(url, verify=False)
    for name, value in (("script_location", str(folder)), ("timezone", "UTC"), ("file_template", FILE_TEMPLATE)):
        config.set_main_option(name, value)
    for name, change in STEPS:
        if change is None:
            place(name, ScriptDirectory.from_config(config))
        else:
            change(metadata)
            alembic.command.revision(config, name, autogenerate=True)
        alembic.command.upgrade(config, "head")
        # The grown models and the database agree.
        alembic.command.check(config)
    scripts = ScriptDirectory.from_config(config)
    return Growth(folder, scripts, ["base", *(each.revision for each in list(scripts.walk_revisions())[::-1])])


def place(name: str, scripts: ScriptDirectory) -> None:
    """Put an author's revision on top of a history."""
    head = scripts.get_revision("head")
    last = datetime.strptime(Path(head.path).name[:15], MINUTE).replace(tzinfo=UTC)
    text = (HERE / f"{name}.py").read_text(encoding="utf-8")
    text = text.replace("down_revision: str | None = None", f'down_revision: str | None = "{head.revision}"')
    path = Path(scripts.versions) / f"{last + timedelta(minutes=1):{MINUTE}}_{name}.py"
    path.write_text(text, encoding="utf-8")
