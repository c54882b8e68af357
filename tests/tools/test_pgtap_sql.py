"""The generated parts of sql/pgtap/ are fresh, and a grown model needs nothing but that they are written again."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from momentum import grants
from momentum.base import auth_users
from momentum.connect.url import as_text
from momentum.models import Base, MotivationJournal
from momentum.testing import install_pgtap
from tests import samples
from tests.pgtap.scripts import run_script, without_transaction
from tests.server import engine_of
from tools import pgtap_behaviour
from tools.erd import ROOT
from tools.pgtap_behaviour import part_by_hand
from tools.pgtap_sql import FOLDER, documents, quote, write_file, written

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


def test_the_files_are_those_of_the_models() -> None:
    committed, generated = written(), documents()
    stale = [path.name for path in sorted({*committed, *generated}) if committed.get(path) != generated.get(path)]
    assert not stale, f"{stale} in sql/pgtap/ do not say what the models and momentum/grants.py say: make pgtap-sql"


def by_hand(table: sa.Table) -> str:
    """Return the part by hand of the file about a table's behaviour."""
    return part_by_hand((FOLDER / f"test_{table.name}.sql").read_text(encoding="utf-8"))


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: table.name)
def test_what_each_check_refuses_and_what_policies_show_is_said_by_hand(table: sa.Table) -> None:
    checks = {str(rule.name) for rule in table.constraints if isinstance(rule, sa.CheckConstraint)}
    unproved = sorted(name for name in checks if f'check constraint "{name}"' not in by_hand(table))
    assert not unproved, f"sql/pgtap/test_{table.name}.sql: say by hand which rows {' and '.join(unproved)} refuses"
    clients = ("anon", "authenticated") if grants.POLICIES.get(table.name) else ()
    unseen = [role for role in clients if f"'{role}'" not in by_hand(table)]
    assert not unseen, (
        f"sql/pgtap/test_{table.name}.sql: say by hand which rows {' and '.join(unseen)} may see and change"
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


# A table of each kind of column and key that the models don't have yet.
GOALS = """
create table public.goals (
  id uuid not null default gen_random_uuid() constraint pk_goals primary key,
  title text not null constraint uq_goals_title unique,
  pillar_id uuid not null constraint fk_goals_pillar_id_momentum_pillars
    references public.momentum_pillars (id) on delete restrict,
  journal_id uuid constraint fk_goals_journal_id_motivation_journal
    references public.motivation_journal (id) on delete set null,
  state text not null default 'new',
  created_at timestamptz not null default now()
);
alter table public.goals enable row level security;
revoke all on table public.goals from public, anon, authenticated, service_role;
grant select, insert, update, delete on table public.goals to authenticated;
grant all on table public.goals to service_role;
"""


@pytest.fixture
def goals(journal: sa.Table, monkeypatch: pytest.MonkeyPatch) -> sa.Table:
    """The same table as a model, with its samples."""
    sample = "'it''s goal ' || :ordinal || ', a rather long sample, which does not fit into a line next to the others'"
    monkeypatch.setitem(samples.ROWS, "goals", {"title": sample, "pillar_id": "null"})
    pillars = journal.metadata.tables["momentum_pillars"]
    return sa.Table(
        "goals",
        journal.metadata,
        sa.Column("id", sa.UUID, primary_key=True, server_default=sa.text("gen_random_uuid()")),
        sa.Column("title", sa.Text, nullable=False, unique=True),
        sa.Column("pillar_id", sa.ForeignKey(pillars.c.id, ondelete="RESTRICT"), nullable=False),
        sa.Column("journal_id", sa.ForeignKey(journal.c.id, ondelete="SET NULL")),
        sa.Column("state", sa.Text, nullable=False, server_default="new"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    )


def failures_of_goals(connection: psycopg.Connection[Any], goals: sa.Table, change: str = "") -> list[str]:
    """Return the failed assertions about the table's behaviour, after a change that is undone."""
    script = without_transaction(pgtap_behaviour.write_file(goals))
    try:
        connection.execute(f"{GOALS}; {change}".encode())
        return re.findall(r"^not ok \d+ - (.*)", "\n".join(run_script(connection, script)), re.MULTILINE)
    finally:
        connection.rollback()


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ("alter table public.goals alter title drop not null", "title is never null"),
        ("alter table public.goals alter title set default ''", "title is never null"),
        ("alter table public.goals alter state drop not null", "state is never null"),
        ("alter table public.goals alter state set default 'old'", "the server fills in id, state, created_at"),
        ("alter table public.goals drop constraint uq_goals_title", "no two rows have the same title"),
        ("alter table public.goals drop constraint pk_goals", "no two rows have the same key"),
        (
            "alter table public.goals drop constraint fk_goals_pillar_id_momentum_pillars",
            "a row of public.momentum_pillars that public.goals refers to cannot be deleted",
        ),
        (
            "alter table public.goals drop constraint fk_goals_journal_id_motivation_journal",
            "journal_id refers to a row of motivation_journal",
        ),
        ("grant truncate on public.goals to authenticated", "authenticated may select, insert, update, delete in"),
        ("grant select on public.goals to anon", "anon may do nothing in public.goals"),
        ("revoke update on public.goals from service_role", "service_role may select, insert, update, delete, trunc"),
        ("create policy added on public.goals using (true)", "authenticated may select, insert, update, delete in"),
    ],
)
def test_the_behaviour_of_a_new_table_is_written_and_each_change_of_it_noticed(
    connection: psycopg.Connection[Any], goals: sa.Table, change: str, noticed: str
) -> None:
    assert failures_of_goals(connection, goals) == []
    failed = failures_of_goals(connection, goals, change)
    assert [says for says in failed if says.startswith(noticed)], failed
    assert max(map(len, pgtap_behaviour.write_file(goals).splitlines())) <= 120


def test_with_policies_the_rights_of_clients_are_by_hand(goals: sa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'authenticated may select" in pgtap_behaviour.write_file(goals)
    monkeypatch.setitem(grants.POLICIES, "goals", {"everybody": "for select to authenticated using (true)"})
    text = pgtap_behaviour.write_file(goals)
    assert "'authenticated may" not in text
    assert "'service_role may" in text


def test_a_table_without_samples_and_a_file_without_a_part_by_hand_are_named(
    goals: sa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = "\nselect '{name}';\n"
    assert part_by_hand(pgtap_behaviour.write_file(goals, mine)) == mine
    monkeypatch.delitem(samples.ROWS, "goals")
    with pytest.raises(LookupError, match=r"give goals values for pillar_id, title in ROWS of tests/samples\.py"):
        pgtap_behaviour.write_file(goals)
    with pytest.raises(ValueError, match=r'file that begins with "-- public\.goals", restore the lines above the part'):
        part_by_hand("-- public.goals\nbegin;\n")
