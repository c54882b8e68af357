"""The SQL of the operations that revisions use, and what a patient one does when it fails."""

import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from momentum.errors import MigrationError, RevisionError
from momentum.migrate import operations
from momentum.migrate.locks import HeldError, Patience, take_turn
from momentum.migrate.operations import check_addable, obstacle_to_patience
from tests.migrating import execute, fetch, run
from tests.server import engine_of

OPTIONS = {
    "existing": "refuse",
    "access": "refuse",
    "patience": Patience(seconds=7),
    "protection": "the protection",
    "guard": "the guard",
    "timeouts": ["the timeouts"],
    "shows_progress": False,
}
# What surrounds a statement in a script.
OUTSIDE = ["COMMIT", "set lock_timeout = '7000ms'", "set statement_timeout = '0'", "the protection"]
INSIDE = ["reset default_transaction_read_only", "BEGIN", "the timeouts", "the guard"]


def script(step: Callable[[Any], None], **options: object) -> list[str]:
    """Return the statements that operations write, each on one line."""
    written: list[str] = []
    buffer = SimpleNamespace(write=written.append, flush=lambda: None)
    given = {"as_sql": True, "output_buffer": buffer, **OPTIONS, **options}
    named = {"paramstyle": "named"}
    step(Operations(MigrationContext.configure(dialect_name="postgresql", dialect_opts=named, opts=given)))
    return [" ".join(each.rstrip().removesuffix(";").split()) for each in written if each.strip()]


def blocks(statements: list[str]) -> list[str]:
    """Return the names of the DO blocks among statements, and other statements as they are."""
    return [each.split("$")[1] if each.startswith("do $") else each for each in statements]


@pytest.mark.parametrize(
    ("name", "schema", "options", "made"),
    [
        ("habit_index", "public", {}, ["take_back_or_create"]),
        ("habit_index", "public", {"access": "keep"}, ["take_back_or_create"]),
        ("habit_index", "public", {"existing": "adopt"}, ["park_predecessor", "take_back_or_create"]),
        (
            "habit_index",
            "public",
            {"existing": "adopt", "access": "keep"},
            ["park_predecessor", "take_back_or_create", "keep_access"],
        ),
        (
            "others",
            "public",
            {"existing": "adopt", "access": "keep"},
            ["park_predecessor", "take_back_or_create"],
        ),
        ("habit_index", "legacy", {"existing": "adopt", "access": "keep"}, ["take_back_or_create"]),
    ],
)
def test_a_table_of_the_app_makes_room_for_ours_and_only_in_public(
    name: str, schema: str, options: dict[str, str], made: list[str]
) -> None:
    def create(op: Any) -> None:
        op.create_table(name, sa.Column("note", sa.Text, server_default="100 %: a"), schema=schema)

    statements = script(lambda op: op.take_back_or_create_table(name, create, schema=schema), **options)
    assert blocks(statements) == made
    [sql] = [each for each in statements if "take_back_or_create" in each]
    assert f"CREATE TABLE {schema}.{name} ( note TEXT DEFAULT '100 %: a' );" in sql
    assert f"alter table momentum_internal.{name} set schema {schema};" in sql


@pytest.mark.parametrize(
    ("name", "schema", "made"),
    [
        ("habit_index", "public", ["take_back_access", "", "restore_predecessor"]),
        ("others", "public", ["", "restore_predecessor"]),
        ("habit_index", "legacy", [""]),
    ],
)
def test_a_parked_table_makes_room_for_the_one_of_the_app(name: str, schema: str, made: list[str]) -> None:
    parked = f"alter table {schema}.{name} set schema momentum_internal"
    statements = script(lambda op: op.park_table(name, schema=schema))
    assert blocks(statements) == [each or parked for each in made]


def test_a_column_is_parked_under_another_name_in_quotes_where_it_needs_them() -> None:
    made = script(lambda op: op.park_column("Tab", "order"))
    assert made == ['alter table public."Tab" rename column "order" to parked_order']
    [sql] = script(lambda op: op.take_back_or_add_column("tab", sa.Column("it's", sa.Text), schema="legacy"))
    assert "attrelid = to_regclass('legacy.tab') and attname = 'parked_it''s'" in sql
    assert 'alter table legacy.tab rename column "parked_it\'s" to "it\'s";' in sql
    assert 'ALTER TABLE legacy.tab ADD COLUMN "it\'s" TEXT;' in sql


DROP = "drop index concurrently if exists legacy.k"
CREATE = "CREATE UNIQUE INDEX CONCURRENTLY k ON legacy.t (a, b)"
VALIDATE = "alter table legacy.t validate constraint c"
IN_LEGACY = {"schema": "legacy"}


@pytest.mark.parametrize(
    ("name", "arguments", "patient", "at_once", "after"),
    [
        ("create_index_concurrently", ("k", "t", ["a", "b"]), [DROP, CREATE.replace(" UNIQUE", "")], None, []),
        ("drop_index_concurrently", ("k",), [DROP], DROP.replace(" concurrently", ""), []),
        ("create_unique_constraint_concurrently", ("k", "t", ["a", "b"]), [DROP, CREATE], None, ["add"]),
        ("validate_constraint", ("c", "t"), [VALIDATE], VALIDATE, []),
    ],
)
def test_a_patient_operation_is_outside_of_the_transaction_unless_all_are_in_one(
    name: str, arguments: tuple[object, ...], patient: list[str], at_once: str | None, after: list[str]
) -> None:
    def step(op: Any) -> None:
        getattr(op, name)(*arguments, **IN_LEGACY)

    made = script(step)
    expected = [line for each in patient for line in (*OUTSIDE, each, *INSIDE)]
    assert made[: len(expected)] == expected
    assert blocks(made[len(expected) :]) == ["add_unique_constraint"] * len(after)
    made = script(step, one_transaction=True)
    assert made[0] == (at_once or patient[-1].replace(" CONCURRENTLY", ""))
    assert blocks(made[1:]) == ["add_unique_constraint"] * len(after)


def test_rows_that_violate_a_constraint_are_tolerated_only_on_the_way_back() -> None:
    made = script(lambda op: op.validate_constraint("c", "t", tolerate_rows=True))
    assert blocks(made) == [*OUTSIDE, "validate_constraint", *INSIDE]


def test_a_block_that_moves_rows_fires_no_triggers_of_others() -> None:
    def statement(**options: str) -> str:
        made = script(lambda op: op.execute_patiently("do $$ begin {corrections} end $$", **options))
        return made[len(OUTSIDE)]

    assert "session_replication_role" in statement()
    assert "lock table" not in statement()
    beginning, _, rest = statement(fires_nothing_of="public.theirs").partition(" lock table public.theirs ")
    assert "session_replication_role" in beginning
    assert "would fire" in rest


def test_what_must_commit_in_between_is_refused_in_one_transaction() -> None:
    with pytest.raises(MigrationError, match="commits in between"):
        script(lambda op: op.execute_patiently("vacuum"), one_transaction=True)
    made = script(lambda op: op.execute_patiently("vacuum", in_one_transaction="a:b"), one_transaction=True)
    assert made == ["a:b"]


def test_a_column_may_have_the_longest_name_under_which_it_can_be_parked() -> None:
    check_addable(sa.Column("c" * 56, sa.Text), "public.t.c")
    with pytest.raises(RevisionError, match=r"too long a name: .* shorten it to 56 characters"):
        check_addable(sa.Column("c" * 57, sa.Text), "public.t.c")


# Fails twice as if somebody were in the way; a sequence forgets no attempt.
THIRD_TIME = """
do $$ begin
  if nextval('public.attempts') < 3 then raise exception using errcode = '55P03'; end if;
end $$
"""


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, of which none takes any time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    return made


def online(connection: sa.Connection, patience: Patience) -> tuple[MigrationContext, Any]:
    """Return Alembic's context and operations for a database."""
    context = MigrationContext.configure(connection=connection, opts={**OPTIONS, "patience": patience})
    return context, Operations(context)


def test_a_patient_statement_is_tried_until_nobody_is_in_its_way_and_no_migration_comes_in_between(
    supabase_url: sa.URL, pauses: list[float]
) -> None:
    run(supabase_url, "create sequence public.attempts")
    with engine_of(supabase_url).connect() as connection, engine_of(supabase_url).connect() as other:
        context, op = online(connection, Patience())
        with context.begin_transaction():
            op.execute_patiently(THIRD_TIME)
            with pytest.raises(HeldError):
                take_turn(other)
    assert pauses == [0.5, 0.5]
    assert fetch(supabase_url, "select last_value from public.attempts") == [3]


@pytest.mark.parametrize(("statement", "seconds"), [("select 1 / 0", 300.0), (THIRD_TIME, 0.4)])
def test_a_patient_statement_that_cannot_succeed_in_time_has_failed(
    supabase_url: sa.URL, pauses: list[float], statement: str, seconds: float
) -> None:
    run(supabase_url, "create sequence public.attempts")
    with engine_of(supabase_url).connect() as connection:
        context, op = online(connection, Patience(seconds=seconds))
        with pytest.raises(sa.exc.DBAPIError), context.begin_transaction():
            op.execute_patiently(statement)
    assert pauses == []


def test_a_patient_statement_waits_no_longer_than_the_run_except_to_clean_up(
    supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, float]] = []

    def try_patiently(_op: Operations, statement: sa.TextClause, _patience: Patience, at_least: float) -> bool:
        tried.append((statement.text.partition(" ")[0], at_least))
        if tried[-1][0] == "CREATE":
            raise sa.exc.DBAPIError("", {}, Exception())
        return True

    monkeypatch.setattr(operations, "try_patiently", try_patiently)
    with engine_of(supabase_url).connect() as connection:
        _, op = online(connection, Patience())
        op.execute_patiently("vacuum")
        op.drop_index_concurrently("k")
        op.validate_constraint("c", "t")
        with pytest.raises(sa.exc.DBAPIError):
            op.create_index_concurrently("k", "t", ["a"])
    assert tried == [("vacuum", 0), ("drop", 0), ("alter", 0), ("drop", 0), ("CREATE", 0), ("drop", 10)]


def test_an_index_that_could_not_be_made_is_gone_and_a_valid_one_is_left_alone(supabase_url: sa.URL) -> None:
    run(supabase_url, "create table public.t (a integer); insert into public.t values (1), (1)")
    index = "select cast(to_regclass('public.k') as oid)"
    with engine_of(supabase_url).connect() as connection:
        context, op = online(connection, Patience())
        with pytest.raises(sa.exc.IntegrityError), context.begin_transaction():
            op.create_index_concurrently("k", "t", ["a"], unique=True)
        connection.rollback()
        assert fetch(supabase_url, index) == [None]
        run(supabase_url, "create index k on public.t (a)")
        made = fetch(supabase_url, index)
        with context.begin_transaction():
            op.create_index_concurrently("k", "t", ["a"])
    assert fetch(supabase_url, index) == made


@pytest.mark.parametrize(
    ("limit", "keeps", "pages", "refused"),
    [
        ("1s", False, 127, False),
        ("1s", False, 129, True),
        ("2s", False, 129, False),
        ("0", False, 129, False),
        ("1s", True, 129, False),
    ],
)
def test_a_pool_with_a_time_limit_is_refused_for_a_table_of_more_than_a_megabyte_per_second(
    supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch, limit: str, keeps: bool, pages: int, refused: bool
) -> None:
    run(
        supabase_url,
        f"alter role {supabase_url.username} in database {supabase_url.database} set statement_timeout = '{limit}'",
    )
    # A page has room for one of these texts, and a table of pages for nothing else.
    run(supabase_url, "create table public.t (a text); alter table public.t alter a set storage plain")
    execute(supabase_url, "insert into public.t select repeat('x', 8000) from generate_series(1, :pages)", pages=pages)
    monkeypatch.setattr(operations, "keeps_session", lambda *_: keeps)
    monkeypatch.setattr(operations, "SIZE", sa.text(operations.SIZE.text.replace("total_relation", "relation")))
    with sa.create_engine(supabase_url, poolclass=sa.NullPool).connect() as connection:
        reason = obstacle_to_patience(connection, "public.t") or ""
    said = "with its 1032 kB some of them may take longer than the statement_timeout of 1 s"
    assert reason.startswith(said) is refused
