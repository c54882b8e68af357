"""The rules of retrying that the migrations and the backfill share; no database and no clock."""

import pytest

from momentum.retries import Backoff, Fault, fault_of, jittered, milliseconds

DOUBLING = Backoff(first=0.05, factor=2.0, longest=5.0)


@pytest.mark.parametrize(
    ("sqlstate", "lost", "fault"),
    [
        ("55P03", False, Fault.BUSY),
        ("40P01", False, Fault.BUSY),
        ("40001", False, Fault.BUSY),
        ("57014", False, Fault.SLOW),
        ("53400", False, Fault.SLOW),
        ("22003", False, Fault.DATA),
        ("23505", False, Fault.DATA),
        ("P0001", False, Fault.DATA),
        ("P0002", False, Fault.FATAL),
        ("53300", False, Fault.LOST),
        ("57P01", True, Fault.LOST),
        ("08006", True, Fault.LOST),
        ("", True, Fault.LOST),
        ("", False, Fault.FATAL),
        ("42P01", False, Fault.FATAL),
        ("53100", False, Fault.FATAL),
        ("40002", False, Fault.FATAL),
        # The server cancelled the statement, and the connection went with it: a smaller one is what helps.
        ("57014", True, Fault.SLOW),
    ],
)
def test_an_error_is_classified_by_its_sqlstate(sqlstate: str, lost: bool, fault: Fault) -> None:
    assert fault_of(sqlstate, lost=lost) is fault


def test_only_a_busy_server_and_a_lost_connection_may_pass() -> None:
    assert {fault for fault in Fault if fault.may_pass} == {Fault.BUSY, Fault.LOST}


def test_each_wait_is_a_factor_longer_than_the_one_before() -> None:
    assert [DOUBLING.seconds(failed) for failed in range(1, 9)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert [Backoff(2, 1.5, 100).seconds(failed) for failed in (1, 2, 3)] == [2, 3, 4.5]


def test_no_wait_is_longer_than_the_longest_however_many_attempts_have_failed() -> None:
    assert [DOUBLING.seconds(failed) for failed in (100, 101, 1100, 10**6)] == [5.0] * 4


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 2.0), (0.25, 2.5), (0.5, 3.0), (1.0, 4.0)])
def test_the_jitter_takes_away_half_of_a_wait_at_most(chance: float, seconds: float) -> None:
    assert jittered(4.0, chance) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2000ms"), (0.3, "300ms"), (0.0014, "1ms"), (0.0016, "2ms"), (0.0001, "1ms")]
)
def test_a_time_limit_is_whole_milliseconds_and_never_zero(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text
