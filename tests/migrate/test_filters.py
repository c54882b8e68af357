"""What is hidden from another service's autogenerate and what ours looks at; no database."""

from typing import Any

import pytest
import sqlalchemy as sa

from momentum.migrate.filters import OurObjects, hide_momentum_tables, is_our_table
from tests.migrating import SCRIPTS

KEY = "uq_daily_engagement_scores_user_id_utc_day"


@pytest.mark.parametrize(
    ("name", "schema", "found", "ours"),
    [
        ("habit_index", None, False, True),
        ("habit_index", "public", True, True),
        ("habit_index", "reminders", True, False),
        ("users", "auth", False, True),
        ("users", None, False, False),
        ("anything", "momentum_internal", True, True),
        ("daily_engagement_scores", "legacy", True, True),
        ("daily_engagement_scores", None, True, True),
        ("daily_engagement_scores", "legacy", False, False),
        ("daily_engagement_scores", "reminders", True, False),
    ],
)
def test_our_tables_are_known_by_schema_and_name(name: str, schema: str | None, found: bool, ours: bool) -> None:
    assert is_our_table(sa.Table(name, sa.MetaData(), schema=schema), found=found) is ours


def index(name: str, table: str) -> sa.Index:
    """Return an index of a table in public."""
    return sa.Index(name, sa.Table(table, sa.MetaData(), sa.Column("c", sa.Integer)).c.c)


@pytest.mark.parametrize(
    ("obj", "reflected", "shown"),
    [
        (sa.Table("habit_index", sa.MetaData()), True, False),
        (sa.Table("notes", sa.MetaData()), True, True),
        (sa.Table("daily_engagement_scores", sa.MetaData()), True, False),
        (sa.Table("daily_engagement_scores", sa.MetaData()), False, True),
        (index(KEY, "daily_engagement_scores"), True, False),
        (index(KEY, "daily_engagement_scores"), False, True),
        (index("another", "daily_engagement_scores"), True, True),
        (index(KEY, "notes"), True, True),
        (sa.Index(KEY, sa.text("c")), True, True),
        (sa.Column("habit_index", sa.Text), True, True),
    ],
)
def test_tables_and_the_key_of_ours_are_hidden_and_a_service_is_asked_about_the_rest(
    obj: Any, reflected: bool, shown: bool
) -> None:
    assert hide_momentum_tables()(obj, obj.name, "table", reflected, None) is shown
    for answer in (True, False):
        asked: list[object] = []

        def include(*given: object, answer: bool = answer, asked: list[object] = asked) -> bool:
            asked.append(given)
            return answer

        assert hide_momentum_tables(include)(obj, obj.name, "table", reflected, None) is (shown and answer)
        assert asked == [(obj, obj.name, "table", reflected, None)] * shown


TABLE = sa.Table(
    "habit_index",
    sa.MetaData(),
    sa.Column("kept", sa.Integer),
    sa.Column("parked_old", sa.Integer),
    sa.Column("other", sa.Integer),
)
COLUMNS = TABLE.c


@pytest.mark.parametrize(
    ("obj", "looked_at"),
    [
        (COLUMNS.kept, True),
        (COLUMNS.parked_old, False),
        (sa.CheckConstraint("kept > other"), True),
        (sa.CheckConstraint("kept > parked_old"), False),
        (sa.UniqueConstraint(COLUMNS.kept, COLUMNS.other), True),
        (sa.UniqueConstraint(COLUMNS.kept, COLUMNS.parked_old), False),
        (sa.ForeignKeyConstraint(["kept"], ["notes.id"]), True),
        (sa.ForeignKeyConstraint(["kept", "parked_old"], ["notes.id", "notes.n"]), False),
        (sa.Index("i", COLUMNS.kept, COLUMNS.other), True),
        (sa.Index("i", COLUMNS.kept, COLUMNS.parked_old), False),
        (sa.Index("i", sa.func.abs(COLUMNS.parked_old) + 1), False),
        (sa.Sequence("parked_old"), True),
    ],
)
def test_what_is_about_a_parked_column_is_not_compared_with_the_models(obj: Any, looked_at: bool) -> None:
    ours = OurObjects(SCRIPTS)
    assert ours(obj, "a name", "column", True, None) is looked_at
    assert ours(obj, "a name", "column", False, None) is True


def test_only_tables_that_a_model_or_a_revision_has_made_are_compared() -> None:
    ours = OurObjects(SCRIPTS)
    assert ours(TABLE, "habit_index", "table", True, None) is True
    assert ours(TABLE, "notes", "table", True, None) is False
