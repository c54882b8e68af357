"""The rules of the pgTAP files, which pytest, pg_prove and ``supabase test db`` run as they are."""

import re
from pathlib import Path

import pytest

from momentum.base import Base
from momentum.models import DailyMomentumScore

FOLDER = Path(__file__).parents[1] / "sql" / "pgtap"
FILES = sorted(FOLDER.glob("*.sql"))


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def script(request: pytest.FixtureRequest) -> str:
    """The text of each file in turn."""
    path: Path = request.param
    return path.read_text(encoding="utf-8")


def test_every_table_and_the_view_have_a_file() -> None:
    relations = {*Base.metadata.tables, DailyMomentumScore.__table__.name}
    missing = relations - {path.stem.removeprefix("test_") for path in FILES}
    assert not missing, f"sql/pgtap lacks a file test_<name>.sql for {sorted(missing)}."


def test_file_names_begin_with_test() -> None:
    others = [path.name for path in FILES if not path.name.startswith("test_")]
    assert not others, f"No runner would find {others}."


def test_file_runs_in_one_transaction_which_it_rolls_back(script: str) -> None:
    statements = [line for line in script.splitlines() if line and not line.startswith("--")]
    assert statements[0] == "begin;", "A file begins a transaction before anything else."
    assert re.fullmatch(r"select plan\([0-9]+\);", statements[1]), "A file plans how many assertions it makes."
    assert statements[-2:] == ["select * from finish();", "rollback;"], "A file leaves nothing behind."
    assert not re.search(r"^\s*commit\b", script, re.MULTILINE), "A file leaves nothing behind."


def test_file_is_sql_for_every_client(script: str) -> None:
    assert not re.search(r"^\s*\\", script, re.MULTILINE), "Only psql knows its own commands."
    assert "search_path =" not in script, "Each runner has a search path of its own, in which pgTAP stands elsewhere."


def test_descriptions_stand_inside_the_parentheses(script: str) -> None:
    # "select ok(...), 'text'" would be an assertion without a name.
    assert not re.search(r"^\)\s*,", script, re.MULTILINE), "An assertion's description is its last argument."
    assert not re.search(r"^select [a-z_]+\(.*\),\s*'", script, re.MULTILINE)
