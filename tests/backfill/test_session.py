"""How a session sleeps; no database, and no time passes."""

import time

import pytest

from momentum.backfill.session import sleep_until


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pieces in which something has slept, of which none takes any time."""
    pieces: list[float] = []
    monkeypatch.setattr(time, "sleep", pieces.append)
    monkeypatch.setattr(time, "monotonic", lambda: 1000 + sum(pieces))
    return pieces


def test_a_sleep_is_as_long_as_it_should_be(slept: list[float]) -> None:
    sleep_until(lambda: False, 0.12)
    assert slept == [0.05, 0.05, pytest.approx(0.02)]


def test_a_sleep_ends_soon_after_the_run(slept: list[float]) -> None:
    sleep_until(lambda: len(slept) == 2, 60)
    assert slept == [0.05, 0.05]


def test_no_sleep_begins_after_the_run_or_for_no_time(slept: list[float]) -> None:
    sleep_until(lambda: True, 60)
    sleep_until(lambda: False, 0)
    assert slept == []
