"""How the walk through all users grows and shrinks; no database."""

import math

import pytest

from momentum.backfill.fill import MOST_GAPS
from momentum.backfill.pace import SAMPLE, SCANNED_USERS, USERS, Pace, TableSize, is_divisible, is_scan_cheaper

LIMIT = 60.0


@pytest.mark.parametrize(
    ("days", "looked_up", "number"),
    [
        (1, 15_000, 3_750),
        (100, 15_000, 3_750),
        (101, 14_851, 3_750),
        (150, 10_000, 3_750),
        (500, 3_000, 3_000),
        (1_500_000, 1, 1),
        (9_999_999, 1, 1),
    ],
)
def test_a_walk_begins_with_a_sample_no_larger_than_what_a_statement_may_look_up(
    days: int, looked_up: int, number: int
) -> None:
    assert Pace.at_first(days, sampled=True) == Pace(looked_up=looked_up, number=number, most=SCANNED_USERS)


def test_a_walk_whose_results_are_never_too_many_needs_no_sample() -> None:
    assert Pace.at_first(30, sampled=False) == Pace(USERS, SCANNED_USERS, SCANNED_USERS)
    assert Pace.at_first(30, sampled=False, gentle=True) == Pace.at_first(30, sampled=True, gentle=True)


def test_where_everybody_in_the_sample_has_a_gap_a_walk_goes_on_with_as_many_as_can_be_looked_up() -> None:
    room = MOST_GAPS / (2 * SAMPLE)
    assert Pace.at_first(30, sampled=True).after(SAMPLE, 0.1, LIMIT, room).number == USERS


@pytest.mark.parametrize(("days", "looked_up"), [(1, 93), (100, 93), (150, 62), (1_500_000, 1)])
def test_a_gentle_walk_looks_up_less_and_grows_no_further(days: int, looked_up: int) -> None:
    pace = Pace.at_first(days, sampled=True, gentle=True)
    assert pace == pace.after(looked_up, 0.0, LIMIT, math.inf) == Pace(looked_up, looked_up, looked_up)


@pytest.mark.parametrize(
    ("room", "number"),
    [(0.0, 3_750), (3.99, 3_750), (4.0, 15_000), (299, 1_121_250), (math.inf, 4_000_000)],
)
def test_a_walk_goes_on_with_as_many_users_as_there_is_room_for_by_what_was_found(room: float, number: int) -> None:
    assert Pace.at_first(30, sampled=True).after(3_750, 0.1, LIMIT, room) == Pace(15_000, number, SCANNED_USERS)


@pytest.mark.parametrize(
    ("seconds", "number"),
    [(0.0, 4_000_000), (0.5, 4_000_000), (7.49, 4_000_000), (7.5, 3_750), (59.0, 3_750)],
)
def test_a_walk_does_not_grow_where_more_users_could_take_half_of_the_limit(seconds: float, number: int) -> None:
    assert Pace.at_first(30, sampled=True).after(3_750, seconds, LIMIT, math.inf).number == number


def test_a_step_that_read_fewer_users_makes_a_walk_no_slower() -> None:
    pace = Pace(20_000, 500_000, SCANNED_USERS)
    assert pace.after(20_000, 0.1, LIMIT, 10.0) == pace
    assert pace.after(20_000, 0.1, LIMIT, 30.0).number == 600_000


def test_a_scan_that_was_too_much_is_for_a_fourth_of_the_users_and_never_for_more_again() -> None:
    pace = Pace(USERS, 320_000, SCANNED_USERS).after_too_many(320_000)
    assert pace == Pace(USERS, 80_000, 80_000)
    assert pace.after(80_000, 0.0, LIMIT, math.inf) == pace
    assert pace.after_too_many(4 * USERS) == Pace(USERS, USERS, USERS)
    assert pace.after_too_many(50_000).number == USERS, "never fewer than can be looked up"


@pytest.mark.parametrize(
    ("number", "most", "at_last"), [(1_000, 4_000, 1_500), (3_000, 4_000, 4_000), (80_000, 80_000, 80_000), (1, 9, 1)]
)
def test_the_last_scan_may_be_for_half_as_many_users_more_but_not_for_too_many(
    number: int, most: int, at_last: int
) -> None:
    assert Pace(USERS, number, most).most_at_last == at_last


def test_a_look_up_that_was_too_much_is_for_half_of_the_users_down_to_one() -> None:
    pace = Pace(USERS, USERS, SCANNED_USERS)
    tried = []
    while pace.number > 1:
        pace = pace.after_too_many(pace.number)
        tried.append(pace.number)
    assert tried == [7_500, 3_750, 1_875, 937, 468, 234, 117, 58, 29, 14, 7, 3, 1]
    assert pace.after_too_many(1) == Pace(USERS, 1, 1)
    assert pace.after(1, 0.0, LIMIT, math.inf).number == 1


def test_one_user_is_the_least_that_is_read() -> None:
    assert [is_divisible(number) for number in (1, 2, 100)] == [False, True, True]


@pytest.mark.parametrize(("left", "number"), [(500_000, 500_000), (15_000, 15_000), (3, 15_000), (0, 15_000)])
def test_the_last_scan_is_for_the_users_who_are_left(left: int, number: int) -> None:
    assert Pace(USERS, SCANNED_USERS, SCANNED_USERS).with_left(left) == Pace(USERS, number, number)


@pytest.mark.parametrize(
    ("number", "days", "pages", "is_buffered", "cheaper"),
    [
        # 20,000 users of 30 days cost 580 ms by look-up from buffers: as much as 58,000 pages.
        (20_000, 30, 57_999, True, True),
        (20_000, 30, 58_000, True, False),
        # Twice the users, or rows that bring their pages along, make a scan of more pages worth while.
        (40_000, 30, 115_999, True, True),
        (40_000, 30, 116_000, True, False),
        (20_000, 30, 225_999, False, True),
        (20_000, 30, 226_000, False, False),
        (1, 1, 0, True, True),
        # However many users there are, a scan must end within half of the limit: here 3 million pages.
        (1_000_000, 3_650, 2_999_999, False, True),
        (1_000_000, 3_650, 3_000_000, False, False),
    ],
)
def test_a_scan_is_chosen_where_it_is_cheaper_and_ends_in_time(
    number: int, days: int, pages: int, is_buffered: bool, cheaper: bool
) -> None:
    assert is_scan_cheaper(number, days, TableSize(pages, is_buffered), LIMIT) is cheaper


def test_a_slower_server_has_a_smaller_limit_for_scans() -> None:
    table = TableSize(100_000, is_buffered=True)
    assert is_scan_cheaper(1_000_000, 30, table, limit=2.1)
    assert not is_scan_cheaper(1_000_000, 30, table, limit=2.0)
