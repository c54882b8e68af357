"""How long a migration waits for its locks and between two attempts, by no clock; and how migrations take turns."""

import random
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from momentum.connect.settings import read_settings
from momentum.errors import MigrationError
from momentum.migrate.locks import (
    PAUSES,
    HeldError,
    OvertakenError,
    Patience,
    can_be_retried,
    limited,
    lock_timeout,
    obstacle_to_second_session,
    pause_until,
    take_turn,
    turn_kept,
    wait_for_turn,
)
from tests.migrating import HISTORY, fetch, wait_until
from tests.server import engine_of

# A statement that finds somebody in its way.
BUSY = "do $$ begin raise exception using errcode = '55P03'; end $$"


def test_a_statement_waits_a_little_longer_for_its_lock_in_each_attempt() -> None:
    waits = [lock_timeout(failed, remaining=300) for failed in range(10)]
    assert [round(wait, 3) for wait in waits[:4]] == [0.3, 0.39, 0.507, 0.659]
    assert waits[7:] == [pytest.approx(1.882, abs=0.001), 2.0, 2.0]


def test_no_statement_waits_for_its_lock_beyond_the_deadline() -> None:
    assert lock_timeout(0, remaining=0.2) == 0.2
    assert lock_timeout(20, remaining=1.5) == 1.5


def test_the_pauses_between_two_attempts_grow_up_to_a_limit() -> None:
    assert [round(PAUSES.seconds(failed), 3) for failed in (1, 2, 3, 9, 10)] == [0.15, 0.225, 0.337, 3.844, 5.0]


@pytest.mark.parametrize(
    ("remaining", "pause"), [(10.0, 3.0), (3.01, 3.0), (3.0, None), (2.0, None)], ids=lambda value: str(value)
)
def test_a_pause_that_would_reach_the_deadline_is_none(remaining: float, pause: float | None) -> None:
    assert pause_until(remaining, 4.0, chance=0.5) == pause


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, of which none takes any time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(made))
    monkeypatch.setattr(random, "random", lambda: 1.0)
    return made


def test_a_run_gives_up_after_its_last_attempt(pauses: list[float]) -> None:
    patience = Patience(attempts=3)
    patience.start()
    assert [patience.try_again() for _ in range(3)] == [True, True, False]
    assert pauses == [0.15, pytest.approx(0.225)]
    assert patience.failed == 3


def test_a_run_gives_up_before_its_deadline(pauses: list[float]) -> None:
    patience = Patience(seconds=1.0)
    patience.start()
    while patience.try_again():
        assert patience.spent < 1.0
    assert pauses == [pytest.approx(pause) for pause in (0.15, 0.225, 0.3375)]
    assert patience.remaining == pytest.approx(1.0 - 0.7125)
    patience.start()
    assert (patience.spent, patience.remaining) == (0, 1.0), "it begins again"


def test_the_time_that_remains_is_never_zero_which_would_be_no_limit(pauses: list[float]) -> None:
    patience = Patience(seconds=2)
    patience.start()
    pauses.append(5.0)
    assert (patience.spent, patience.remaining) == (5.0, 0.001)


@pytest.mark.parametrize(
    ("sqlstate", "retried"),
    [("55P03", True), ("40P01", True), ("40001", True), ("57014", False), ("57P01", False), (None, False)],
)
def test_only_locks_that_somebody_else_holds_are_tried_again(sqlstate: str | None, retried: bool) -> None:
    refusal = psycopg.Error()
    refusal.sqlstate = sqlstate
    assert can_be_retried(sa.exc.OperationalError("", {}, refusal)) is retried


def test_an_interrupt_behind_an_error_is_not_lost() -> None:
    refusal = psycopg.Error()
    refusal.__context__ = ValueError()
    refusal.__context__.__context__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        can_be_retried(sa.exc.OperationalError("", {}, refusal))


@pytest.mark.parametrize(("chance", "seconds", "pause"), [(0.0, 9.0, 0.05), (1.0, 9.0, 0.2), (1.0, 0.1, 0.1)])
def test_the_advisory_lock_is_looked_at_some_times_a_second_until_the_deadline(
    connection: sa.Connection,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
    chance: float,
    seconds: float,
    pause: float,
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: low + chance * (high - low))
    patience = Patience(seconds=seconds)
    patience.start()
    patience.wait_for_holder(connection)
    assert pauses == [pytest.approx(pause)]
    pauses[:] = [seconds]
    with pytest.raises(MigrationError, match=f"has held the lock for {round(seconds)} second"):
        patience.wait_for_holder(connection)
    assert pauses == [seconds]


@pytest.fixture
def other(url: sa.URL) -> Iterator[sa.Connection]:
    """A connection of another migration."""
    with engine_of(url).connect() as other:
        yield other


def test_an_action_is_repeated_in_a_new_transaction_while_somebody_is_in_its_way(
    url: sa.URL, connection: sa.Connection, pauses: list[float]
) -> None:
    in_transaction = []

    def action() -> None:
        in_transaction.append(connection.in_transaction())
        connection.exec_driver_sql("create table public.made ()")
        if len(in_transaction) < 3:
            connection.exec_driver_sql(BUSY)

    Patience().run(connection, action, takes_lock=False)
    assert in_transaction == [False] * 3
    assert len(pauses) == 2
    assert fetch(url, "select to_regclass('public.made') is not null") == [True], "it was committed"


@pytest.mark.parametrize(("statement", "attempts"), [(BUSY, 2), ("select 1 / 0", 1)])
def test_an_error_is_raised_after_the_last_attempt_and_at_once_if_no_attempt_would_help(
    connection: sa.Connection, pauses: list[float], statement: str, attempts: int
) -> None:
    made = []

    def action() -> None:
        made.append(1)
        connection.exec_driver_sql(statement)

    with pytest.raises(sa.exc.DBAPIError):
        Patience(attempts=2).run(connection, action)
    assert (len(made), len(pauses)) == (attempts, attempts - 1)


def test_an_action_waits_outside_of_a_transaction_until_no_other_migration_holds_the_lock(
    connection: sa.Connection, other: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_transaction: list[bool] = []

    def let_go(_seconds: float) -> None:
        in_transaction.append(connection.in_transaction())
        other.rollback()

    monkeypatch.setattr(time, "sleep", let_go)
    take_turn(other)
    Patience().run(connection, lambda: in_transaction.append(connection.in_transaction()))
    assert in_transaction == [False, True]
    take_turn(other)


def test_an_action_is_refused_if_another_migration_has_changed_the_revision_since(connection: sa.Connection) -> None:
    actions: list[int] = []
    with pytest.raises(MigrationError, match="changed the database's revision; run the command again"):
        Patience(heads=HISTORY[-2:-1]).run(connection, lambda: actions.append(1))
    assert not actions
    assert not connection.in_transaction()
    Patience(heads=HISTORY[-1:]).run(connection, lambda: actions.append(1))
    assert actions


def test_an_action_that_looks_itself_looks_again_if_another_migration_has_changed_the_revision(
    connection: sa.Connection,
) -> None:
    in_transaction = []

    def action() -> None:
        in_transaction.append(connection.in_transaction())
        take_turn(connection, [] if len(in_transaction) == 1 else HISTORY[-1:])

    Patience().run(connection, action, takes_lock=False)
    assert in_transaction == [False, False]


def test_the_settings_of_a_run_end_with_each_transaction_and_nothing_is_prepared_meanwhile(
    connection: sa.Connection,
) -> None:
    names = ("transaction_isolation", "statement_timeout", "search_path")
    connection.exec_driver_sql("set default_transaction_isolation = 'serializable'")
    connection.commit()
    before = read_settings(connection, names)
    connection.commit()
    driver: Any = connection.connection.driver_connection
    driver.prepare_threshold = 3
    with limited(connection, Patience(statement_timeout="7s")):
        assert driver.prepare_threshold is None
        assert [*read_settings(connection, names).values()] == ["read committed", "7s", "pg_catalog, pg_temp"]
    with pytest.raises(sa.exc.DataError), limited(connection, Patience()):
        connection.exec_driver_sql("select 1 / 0")
    assert not connection.in_transaction()
    assert driver.prepare_threshold == 3
    assert read_settings(connection, names) == before


@pytest.mark.parametrize(
    ("heads", "overtaken"), [(None, False), (HISTORY[-1:], False), ([], True), (HISTORY[-2:-1], True)]
)
def test_one_migration_at_a_time_has_its_turn_at_the_revision_that_it_expects(
    connection: sa.Connection, other: sa.Connection, heads: list[str] | None, overtaken: bool
) -> None:
    if overtaken:
        with pytest.raises(OvertakenError):
            take_turn(connection, heads)
    else:
        take_turn(connection, heads)
    with pytest.raises(HeldError):
        take_turn(other, heads)
    connection.rollback()
    take_turn(other)


def test_a_turn_is_waited_for_until_the_deadline_and_its_holder_is_named(
    connection: sa.Connection, other: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_turn(other)
    pid = other.exec_driver_sql("select pg_backend_pid()").scalar_one()
    with pytest.raises(MigrationError, match=rf"pid {pid} \(application momentum-tests\) has held the lock"):
        wait_for_turn(connection, Patience(seconds=0), HISTORY[-1:])
    monkeypatch.setattr(time, "sleep", lambda _seconds: other.rollback())
    wait_for_turn(connection, Patience(), HISTORY[-1:])
    with pytest.raises(HeldError):
        take_turn(other)


def test_a_second_session_keeps_the_turn_and_goes_with_it(
    url: sa.URL, connection: sa.Connection, other: sa.Connection
) -> None:
    keeper = "select pid from pg_stat_activity where datname = current_database() and application_name ~ '-lock$'"
    with turn_kept(connection, Patience(), HISTORY[-1:]):
        assert not connection.in_transaction()
        with pytest.raises(HeldError):
            take_turn(other)
        other.rollback()
        [pid] = fetch(url, keeper)
    take_turn(other)
    wait_until(url, "not exists (select from pg_stat_activity where pid = :pid)", pid=pid)
    other.rollback()
    with pytest.raises(sa.exc.DBAPIError), turn_kept(connection, Patience(), HISTORY[-1:]):
        assert fetch(url, f"select pg_terminate_backend(pid) from ({keeper}) as keeper") == [True]
    with pytest.raises(OvertakenError), turn_kept(connection, Patience(), []):
        raise AssertionError("another migration has changed the revision")


def test_while_a_second_session_is_looked_for_the_own_one_may_be_idle(connection: sa.Connection) -> None:
    assert obstacle_to_second_session(connection, 60) is None
    assert connection.exec_driver_sql("show idle_in_transaction_session_timeout").scalar() == "62s"
