"""Autogenerate writes revisions whose way back loses nothing, and refuses what could not be undone."""

import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from momentum.errors import MigrationError, PreflightError, RevisionError
from momentum.migrate import environment, filters
from momentum.migrate.autogenerate import docstring
from momentum.migrate.config import SCRIPTS, alembic_config
from momentum.migrate.operations import check_addable
from momentum.testing import Server
from tests.growth import FILE_TEMPLATE, copy_of_models
from tests.migrating import HISTORY, execute, run
from tests.samples import add_user, write_rows
from tests.server import engine_of

Autogenerate = Callable[[str], list[str]]


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> sa.MetaData:
    """A copy of the models' MetaData in their place, which the test may change."""
    changed = copy_of_models()
    for module in (environment, filters):
        monkeypatch.setattr(module, "Base", SimpleNamespace(metadata=changed))
    return changed


@pytest.fixture
def config(url: sa.URL, tmp_path: Path) -> Config:
    """The configuration of a history that may grow, with a database at head."""
    config = alembic_config(url)
    config.set_main_option("script_location", str(copytree(SCRIPTS, tmp_path / "alembic")))
    config.set_main_option("file_template", FILE_TEMPLATE)
    config.set_main_option("timezone", "UTC")
    return config


@pytest.fixture
def autogenerate(config: Config) -> Autogenerate:
    """Writes revisions for what has changed, and returns the texts of the files."""
    folder = Path(str(config.get_main_option("script_location"))) / "versions"

    def write(message: str) -> list[str]:
        before = set(folder.glob("*.py"))
        alembic.command.revision(config, message, autogenerate=True)
        return [path.read_text(encoding="utf-8") for path in sorted(set(folder.glob("*.py")) - before)]

    return write


def steps(text: str) -> list[str]:
    """Return the operations of a revision's file."""
    return re.findall(r"^    (?:    )?op\.(\w+)", text, flags=re.MULTILINE)


def test_a_column_is_taken_back_with_its_values(
    url: sa.URL, config: Config, metadata: sa.MetaData, autogenerate: Autogenerate
) -> None:
    metadata.tables["motivation_journal"].append_column(sa.Column("weather", sa.Text, comment="How the user felt."))
    [text] = autogenerate("add weather to motivation journal")
    assert text.startswith('"""Add weather to motivation journal."""')
    assert steps(text) == ["take_back_or_add_column", "park_column"]
    with engine_of(url).begin() as connection:
        write_rows(connection, add_user(connection), 1)
    alembic.command.upgrade(config, "head")
    run(url, "update public.motivation_journal set weather = 'glad'")
    for stop in ("base", "head", HISTORY[-1], "head"):
        (alembic.command.upgrade if stop == "head" else alembic.command.downgrade)(config, stop)
    assert execute(url, "select weather from public.motivation_journal") == "glad"
    described = "select col_description(attrelid, attnum) from pg_attribute where attname = 'weather'"
    assert execute(url, described) == "How the user felt."


def test_a_parked_column_keeps_everything_and_gives_new_rows_its_default(
    url: sa.URL, config: Config, metadata: sa.MetaData, autogenerate: Autogenerate
) -> None:
    energy = sa.Column("energy", sa.SmallInteger, server_default="5", nullable=False, comment="0 to 10.")
    metadata.tables["motivation_journal"].append_column(energy)
    autogenerate("add energy")
    alembic.command.upgrade(config, "head")
    alembic.command.downgrade(config, HISTORY[-1])
    with engine_of(url).begin() as connection:
        write_rows(connection, add_user(connection), 1)
    alembic.command.upgrade(config, "head")
    assert execute(url, "select energy from public.motivation_journal") == 5
    defined = "select (attnotnull, attnum) from pg_attribute where attrelid = 'public.motivation_journal'::regclass"
    assert execute(url, f"{defined} and attname = 'energy'") == execute(url, f"{defined} order by attnum desc limit 1")


def test_a_parked_column_of_another_type_is_not_taken_back(
    url: sa.URL, config: Config, metadata: sa.MetaData, autogenerate: Autogenerate
) -> None:
    run(url, "alter table public.motivation_journal add column parked_weather integer")
    metadata.tables["motivation_journal"].append_column(sa.Column("weather", sa.Text, comment="How the user felt."))
    autogenerate("add weather")
    with pytest.raises(MigrationError, match=r"parked_weather of public\.motivation_journal is of type integer"):
        alembic.command.upgrade(config, "head")


def test_a_name_that_needs_quotes_is_quoted(
    url: sa.URL, config: Config, metadata: sa.MetaData, autogenerate: Autogenerate
) -> None:
    for name in ("Order", "user", "it's 100 %"):
        metadata.tables["motivation_journal"].append_column(sa.Column(name, sa.Text, comment="It's 100 % of :it."))
    [text] = autogenerate("add odd names")
    compile(text, "odd names", "exec")
    alembic.command.upgrade(config, "head")
    with engine_of(url).begin() as connection:
        write_rows(connection, add_user(connection), 1)
    run(url, """update public.motivation_journal set "Order" = 'a', "user" = 'b', "it's 100 %" = 'c'""")
    alembic.command.downgrade(config, "base")
    alembic.command.upgrade(config, "head")
    values = """select "Order" || "user" || "it's 100 %" from public.motivation_journal"""
    assert execute(url, values) == "abc"


def test_nothing_is_dropped_in_either_direction(metadata: sa.MetaData, autogenerate: Autogenerate) -> None:
    events = metadata.tables["momentum_events"]
    events._columns.remove(events.c.payload)
    events.constraints = {rule for rule in events.constraints if "payload" not in str(getattr(rule, "sqltext", ""))}
    metadata.remove(metadata.tables["habit_index"])
    sa.Table("momentum_trials", metadata, sa.Column("id", sa.UUID, primary_key=True, comment="Key."), comment="Goals.")
    written = "".join(autogenerate("change much"))
    assert not re.search(r"op\.drop_(table|column)\b", written)
    assert '"momentum_events.payload"' in written.replace("'", '"'), "`parks` tells a purge what is ours"
    assert "op.park_table('habit_index')" in written
    assert "op.take_back_or_create_table('momentum_trials'" in written
    # A check of the parked column alone stays with it.
    assert "payload_is_object" not in written.split("def downgrade")[0]


def test_a_new_table_is_closed_before_it_is_opened(metadata: sa.MetaData, autogenerate: Autogenerate) -> None:
    key = sa.Column("id", sa.UUID, primary_key=True, comment="Key.")
    changed = sa.Column("updated_at", sa.TIMESTAMP(timezone=True), comment="When.")
    sa.Table("momentum_trials", metadata, key, changed, comment="Goals.")
    [text] = autogenerate("add goals")
    order = [
        "create trigger set_updated_at",
        "enable row level security",
        "revoke all",
        "to authenticated",
        "grant all",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "creates: tuple[str, ...] = ('momentum_trials', 'pk_momentum_trials')" in text


def test_what_reads_every_row_has_a_revision_of_its_own(metadata: sa.MetaData, autogenerate: Autogenerate) -> None:
    events = metadata.tables["momentum_events"]
    sa.Index("ix_momentum_events_event_type", events.c.event_type, postgresql_where=events.c.deleted_at.is_(None))
    events.append_constraint(sa.CheckConstraint("length(event_type) < 100", name="event_type_is_short"))
    quick, patient = autogenerate("add rules")
    assert steps(quick) == ["create_check_constraint", "drop_constraint"]
    assert "postgresql_not_valid=True" in quick
    assert sorted(steps(patient)) == ["create_index_concurrently", "drop_index_concurrently", "validate_constraint"]
    assert "postgresql_where" in patient
    assert patient.index("def after_downgrade") < patient.index("drop_index_concurrently")
    assert "('ix_momentum_events_event_type',)" in patient, "`creates` tells the preflight what must not be there yet"


def test_a_docstring_is_one_sentence_if_that_fits_or_a_summary_and_wrapped_lines() -> None:
    fits, too_long = f"{'a' * 109}.", f"{'a' * 50} {'b' * 59}."
    assert docstring([fits], "Change.") == fits
    assert docstring([too_long], "Change.") == f"Change.\n\n    {too_long}\n    "
    lines = docstring(["one word after another"] * 20, "Change.").splitlines()
    assert lines[:2] == ["Change.", ""]
    assert 110 < max(map(len, lines)) <= 120
    fills = f"aa{' a' * 57}"
    assert docstring([f"{fills} b."], "Change.") == f"Change.\n\n    {fills}\n    b.\n    ", "120 columns are filled"
    assert docstring(["One.", "Two."], "Change.") == "Change.\n\n    One. Two.\n    "


def test_a_unique_key_is_made_and_dropped_in_a_revision_of_its_own(
    metadata: sa.MetaData, autogenerate: Autogenerate
) -> None:
    key = sa.UniqueConstraint("user_id", "event_ts", name="uq_momentum_events_user_id_event_ts")
    metadata.tables["momentum_events"].append_constraint(key)
    [made] = autogenerate("add a key")
    assert steps(made) == ["create_unique_constraint_concurrently", "drop_constraint"]
    assert "('uq_momentum_events_user_id_event_ts',)" in made
    assert "'momentum_events', ['user_id', 'event_ts'])" in made
    assert "def after_downgrade" not in made, "the key is dropped at once"


def test_a_unique_key_that_is_dropped_is_made_again_on_the_way_back(
    metadata: sa.MetaData, autogenerate: Autogenerate
) -> None:
    pillars = metadata.tables["momentum_pillars"]
    pillars.constraints = {rule for rule in pillars.constraints if not isinstance(rule, sa.UniqueConstraint)}
    [dropped] = autogenerate("drop a key")
    assert steps(dropped) == ["drop_constraint", "create_unique_constraint_concurrently"]
    assert "('uq_momentum_pillars_name', 'momentum_pillars', ['name'])" in dropped
    assert dropped.index("def after_downgrade") < dropped.index("create_unique_constraint_concurrently")


def test_an_index_on_a_parked_column_stays_with_it_unless_it_has_others_too(
    url: sa.URL, autogenerate: Autogenerate
) -> None:
    run(
        url,
        "alter table public.habit_index add column old text; create index ix_old on public.habit_index (old); "
        "create index ix_both on public.habit_index (old, user_id)",
    )
    quick, patient = autogenerate("remove old")
    assert steps(quick) == ["park_column", "take_back_or_add_column"]
    assert steps(patient) == ["drop_index_concurrently", "create_index_concurrently"]
    assert "ix_old" not in quick + patient
    assert "'ix_both'" in patient


def test_an_index_that_an_interrupted_run_has_left_is_finished_and_no_other(
    server: Server, url: sa.URL, config: Config, metadata: sa.MetaData, autogenerate: Autogenerate
) -> None:
    events = metadata.tables["momentum_events"]
    sa.Index("ix_momentum_events_event_type", events.c.event_type)
    autogenerate("find events by type")
    run(url, "create table public.theirs (name text)")
    run(url, "create index ix_momentum_events_event_type on public.theirs (name)")
    with pytest.raises(PreflightError, match=r"index public\.ix_momentum_events_event_type"):
        alembic.command.upgrade(config, "head")
    run(url, "drop table public.theirs")
    run(url, "create index ix_momentum_events_event_type on public.momentum_events (event_type)")
    index = "indexrelid = 'public.ix_momentum_events_event_type'::regclass"
    run(server.as_admin(url), f"update pg_index set indisvalid = false where {index}")
    alembic.command.upgrade(config, "head")
    assert execute(url, f"select indisvalid from pg_index where {index}")


def test_each_file_has_a_minute_of_its_own_after_the_last(
    config: Config, metadata: sa.MetaData, autogenerate: Autogenerate
) -> None:
    folder = Path(str(config.get_main_option("script_location"))) / "versions"
    last = max(folder.glob("*.py"))
    last.rename(folder / "2199-01-01-0000_far_in_the_future.py")
    metadata.tables["momentum_events"].append_column(sa.Column("note", sa.Text, index=True, comment="A note."))
    autogenerate("add note")
    assert [path.name for path in sorted(folder.glob("*.py"))][-2:] == [
        "2199-01-01-0001_add_note.py",
        "2199-01-01-0002_add_note_keys_and_indexes.py",
    ]


def change_type(metadata: sa.MetaData) -> None:
    metadata.tables["habit_index"].c.habit_score.type = sa.Integer()


def require(metadata: sa.MetaData) -> None:
    metadata.tables["momentum_pillars"].c.description.nullable = False


def no_longer_require(metadata: sa.MetaData) -> None:
    metadata.tables["habit_index"].c.habit_score.nullable = True


def take_away_what_is_required(metadata: sa.MetaData) -> None:
    habits = metadata.tables["habit_index"]
    habits._columns.remove(habits.c.habit_score)


def add(**options: Any) -> Callable[[sa.MetaData], None]:
    def change(metadata: sa.MetaData) -> None:
        metadata.tables["momentum_events"].append_column(sa.Column("extra", comment="New.", **options))

    return change


REFUSED: dict[str, tuple[Callable[[sa.MetaData], None], str]] = {
    "a type": (change_type, "habit_score changes its type"),
    "not null": (require, "description becomes NOT NULL"),
    "null": (no_longer_require, "habit_score becomes nullable"),
    "a column that rows need": (take_away_what_is_required, "habit_score is NOT NULL and has no default"),
    "not null, no default": (add(type_=sa.Text, nullable=False), "extra is NOT NULL without a constant default"),
    "not null, now()": (
        add(type_=sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        "extra is NOT NULL without a constant default",
    ),
    "a random default": (add(type_=sa.UUID, server_default=sa.text("gen_random_uuid()")), "for every row"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_change_that_could_lose_something_is_refused_and_no_file_is_written(
    config: Config, metadata: sa.MetaData, autogenerate: Autogenerate, kind: str
) -> None:
    change, said = REFUSED[kind]
    change(metadata)
    folder = Path(str(config.get_main_option("script_location"))) / "versions"
    before = sorted(folder.glob("*.py"))
    with pytest.raises(RevisionError, match=re.escape(said)) as refused:
        autogenerate("change something")
    assert str(refused.value).endswith(".")
    assert sorted(folder.glob("*.py")) == before


@pytest.mark.parametrize(
    "default",
    ["5", "'glad'", "'it''s'", "'{}'::jsonb", "true", "-1.5", "('x'::text)", "'a'::character varying(10)", sa.false()],
)
def test_a_constant_default_is_told_from_others(default: Any) -> None:
    server_default = sa.text(default) if isinstance(default, str) else default
    check_addable(sa.Column("new", sa.Text, nullable=False, server_default=server_default), "public.t.new")


@pytest.mark.parametrize(
    "column",
    [
        sa.Column("new", sa.Text, nullable=False, server_default=sa.text("lower('X')")),
        sa.Column("new", sa.Text, nullable=False, server_default=sa.text("'a' || random()")),
        sa.Column("new", sa.Text, server_default=sa.text("clock_timestamp()")),
        sa.Column("new", sa.Integer, sa.Computed("1 + 1")),
        sa.Column("new", sa.Integer, sa.Identity()),
        sa.Column("n" * 57, sa.Text),
    ],
    ids=lambda column: str(column.server_default or column.name)[:20],
)
def test_a_column_that_could_not_be_added_or_parked_is_refused(column: sa.Column[Any]) -> None:
    with pytest.raises(RevisionError):
        check_addable(column, "public.t.new")


@pytest.mark.parametrize("options", [{"index": True}, {"unique": True}, {"primary_key": True}])
def test_the_operation_refuses_a_column_that_brings_a_key_along(options: dict[str, Any]) -> None:
    operations = Operations(MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True}))
    column = sa.Column("new", sa.Text, server_default="x", **options)
    with pytest.raises(RevisionError, match="declares a key or an index"):
        operations.take_back_or_add_column("motivation_journal", column)  # type: ignore[attr-defined]
