"""How long a migration waits for its locks and between two attempts; no database and no clock."""

import random
import time

import psycopg
import pytest
import sqlalchemy as sa

from momentum.migrate.locks import PAUSES, Patience, can_be_retried, lock_timeout, pause_until


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
