"""The figures of `make neighbours`, and the bounds by which it ends; no database."""

import pytest

from tools.neighbours import ALONE, FULL_SPEED, GENTLE, WAYS, Latencies, Measured, judge, table_of


def a_round(p99: float, rate: float) -> dict[str, Measured]:
    """Return a round in which the p99 of clients alone is 10 ms, and a backfill at full speed fills 1,000 rows/s."""
    others = dict.fromkeys(WAYS, Measured(Latencies(1, 30, 90), 1000))
    return {**others, ALONE: Measured(Latencies(1, 10, 40)), GENTLE: Measured(Latencies(1, p99, 50), rate)}


def test_the_longest_and_the_slowest_hundredth_are_told_from_the_rest() -> None:
    assert Latencies.of([n / 1000 for n in range(1000, 0, -1)]) == pytest.approx((501, 991, 1000))
    assert Latencies.of([0.002]) == (2, 2, 2)


@pytest.mark.parametrize(
    ("p99", "rate", "beyond"), [(15, 300, 0), (15.1, 300, 1), (15, 299, 1), (100, 0, 2)], ids=lambda value: str(value)
)
def test_a_bound_that_is_not_kept_is_told(p99: float, rate: float, beyond: int) -> None:
    assert len(judge([a_round(p99, rate)])) == beyond
    assert len(judge([a_round(p99, rate), a_round(1, 1000), a_round(1, 1000)])) == 0, "the median counts"


def test_the_table_has_a_line_for_each_way_and_the_shares_of_the_same_round() -> None:
    rounds = [a_round(12, 400)]
    _, _, *lines = table_of(rounds)
    assert lines == [
        f"| {ALONE} | 1.0 ms | 10.0 ms | 40 ms | 1.00 | | |",
        f"| {FULL_SPEED} | 1.0 ms | 30.0 ms | 90 ms | 3.00 | 1,000 | 1.00 |",
        "| 2 workers | 1.0 ms | 30.0 ms | 90 ms | 3.00 | 1,000 | 1.00 |",
        f"| {GENTLE} | 1.0 ms | 12.0 ms | 50 ms | 1.20 | 400 | 0.40 |",
    ]
