"""The catalog half of sql/pgtap/ is fresh, and a grown model needs nothing but that it is written again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from momentum import grants
from momentum.base import auth_users
from momentum.connect.url import as_text
from momentum.models import Base, MotivationJournal
from momentum.testing import install_pgtap
from tests.pgtap.scripts import run_script, without_transaction
from tests.server import engine_of
from tools.erd import ROOT
from tools.pgtap_sql import FOLDER, documents, quote, write_file

JOURNAL = Base.metadata.tables[MotivationJournal.__tablename__]


@pytest.fixture
def connection(url: sa.URL) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a migrated database with pgTAP, whose transaction is never committed."""
    with engine_of(url).begin() as setup:
        install_pgtap(setup, ROOT)
    with psycopg.connect(as_text(url)) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def journal() -> sa.Table:
    """A copy of a model's table, for a test to change."""
    metadata = sa.MetaData(naming_convention=JOURNAL.metadata.naming_convention)
    for table in [*Base.metadata.sorted_tables, auth_users]:
        table.to_metadata(metadata)
    return metadata.tables[JOURNAL.name]


def complaints(connection: psycopg.Connection[Any], table: sa.Table) -> list[str]:
    """Return what the catalog file of a table complains of in the database as it is; both stay as they are."""
    connection.execute("savepoint before")
    try:
        said = run_script(connection, without_transaction(write_file("table", table, "Model", "model.py")))
        return [text for text in said if not text.startswith("# Looks like you failed")]
    finally:
        connection.execute("rollback to before")


def test_the_catalog_files_are_those_of_the_models() -> None:
    committed = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("test_*_catalog.sql")}
    written = documents()
    stale = [path.name for path in sorted({*committed, *written}) if committed.get(path) != written.get(path)]
    assert not stale, f"{stale} in sql/pgtap/ do not say what the models and momentum/grants.py say: make pgtap-sql"


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_model_has_a_file_for_its_behaviour(path: Path) -> None:
    behaviour = path.with_name(path.name.replace("_catalog", ""))
    assert behaviour.exists(), (
        f"sql/pgtap/{behaviour.name} is missing: write by hand what an insert is refused for, and who sees which rows"
    )


# A column with all that a column can have, and one without anything, as revisions add them: each to the table's end.
COMMENT = "How the user feels, in the user's own words or in one of ours. " * 3
MOOD = f"""
alter table public.motivation_journal add column note text;
alter table public.motivation_journal
  add column aura varchar(20) not null default 'glad' constraint ck_motivation_journal_mood_is_known
    check (aura in ('glad', 'sad', 'neither glad nor sad', 'both', 'tired', 'awake', 'sleepy', 'anxious'));
create unique index ix_motivation_journal_lower_mood on public.motivation_journal (lower(aura), date)
  where deleted_at is null;
comment on column public.motivation_journal.aura is {quote(COMMENT)};
"""


def add_mood(journal: sa.Table) -> None:
    """Add the same to a model, in the order in which it reads well."""
    aura = sa.Column("aura", sa.String(20), nullable=False, server_default="glad", comment=COMMENT)
    journal.append_column(aura)
    journal.append_column(sa.Column("note", sa.Text))
    known = "aura in ('glad', 'sad', 'neither glad nor sad', 'both', 'tired', 'awake', 'sleepy', 'anxious')"
    journal.append_constraint(sa.CheckConstraint(known, name="mood_is_known"))
    live = journal.c.deleted_at.is_(None)
    over = (sa.func.lower(aura), journal.c.date)
    sa.Index("ix_motivation_journal_lower_mood", *over, unique=True, postgresql_where=live)


def test_a_new_column_needs_nothing_but_to_be_written_again(
    connection: psycopg.Connection[Any], journal: sa.Table
) -> None:
    assert complaints(connection, journal) == []
    add_mood(journal)
    failed = complaints(connection, journal)
    for fact in (
        "aura character varying(20) not null default 'glad'",
        "ck_motivation_journal_mood_is_known",
        "lower_mood",
    ):
        assert any(fact in text for text in failed), f"{fact} is missing, and no failure names it: {failed}"
    connection.execute(MOOD.encode())
    assert complaints(connection, journal) == []
    connection.execute("alter table public.motivation_journal alter column aura set default 'sad'")
    [failed_once] = complaints(connection, journal)
    assert "default 'sad'" in failed_once
    assert "default 'glad'" in failed_once


def test_long_comments_and_checks_fit_into_the_lines_that_the_linter_allows(journal: sa.Table) -> None:
    add_mood(journal)
    assert max(map(len, write_file("table", journal, "Model", "model.py").splitlines())) <= 120


def test_a_parked_column_is_not_the_models(connection: psycopg.Connection[Any], journal: sa.Table) -> None:
    connection.execute(MOOD.encode())
    assert len(complaints(connection, journal)) == 3, "the column, its check and its index"
    for name in ("aura", "note"):
        connection.execute(f"alter table public.motivation_journal rename {name} to parked_{name}".encode())
    assert complaints(connection, journal) == []


def test_a_policy_is_declared_with_the_grants(
    connection: psycopg.Connection[Any], journal: sa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, rest = "motivation_journal_select_own", "for select to authenticated using ((select auth.uid()) = user_id)"
    monkeypatch.setitem(grants.POLICIES, "motivation_journal", {name: rest})
    [failed] = complaints(connection, journal)
    assert name in failed
    connection.execute(f"create policy {name} on public.motivation_journal {rest}".encode())
    assert complaints(connection, journal) == []


def test_a_grant_that_is_not_in_the_table_is_named(connection: psycopg.Connection[Any], journal: sa.Table) -> None:
    connection.execute("grant truncate on public.motivation_journal to authenticated")
    [failed] = complaints(connection, journal)
    assert "authenticated TRUNCATE" in failed
