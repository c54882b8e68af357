"""The tables that are hidden from another service's autogenerate; no database."""

import pytest
import sqlalchemy as sa

from momentum.migrate.filters import is_our_table


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
