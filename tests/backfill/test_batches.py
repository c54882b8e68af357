"""The rows of a transaction, a page or a second look; no database."""

import datetime
import uuid
from collections import deque

import pytest

from momentum.backfill.batches import (
    Differences,
    compare,
    cut,
    is_low,
    is_piece,
    may_go_ahead,
    pages_at_once,
    put_back,
    refill,
    rows_of,
    rows_per_page,
    split,
    take,
    take_rest,
)
from momentum.backfill.pages import Gaps, UserDay, UserGap
from momentum.retries import Fault

A, B, C = (uuid.UUID(int=number) for number in (1, 2, 3))
DAY = datetime.date(2026, 3, 5)


def gaps(*missing: int) -> deque[UserGap]:
    """Return the gaps of A, B and C, as far as numbers are given."""
    return deque(UserGap(user, number) for user, number in zip((A, B, C), missing, strict=False))


def test_a_transaction_takes_whole_users_and_a_part_of_the_last_one() -> None:
    queue = gaps(3, 4, 5)
    assert take(queue, 5) == [UserGap(A, 3), UserGap(B, 2)]
    assert list(queue) == [UserGap(B, 2), UserGap(C, 5)]
    assert take(queue, 2) == [UserGap(B, 2)]
    assert list(queue) == [UserGap(C, 5)]
    assert take(queue, 100) == [UserGap(C, 5)]
    assert take(queue, 100) == []


def test_the_days_of_a_user_are_divided_in_their_order() -> None:
    queue = deque([UserGap(A, 4, 0b101101)])
    assert take(queue, 3) == [UserGap(A, 3, 0b001101)]
    assert list(queue) == [UserGap(A, 1, 0b100000)]
    assert split(UserGap(B, 4, shard=7), 1) == (UserGap(B, 1, shard=7), UserGap(B, 3, shard=7))


def test_a_transaction_of_no_rows_takes_nobody() -> None:
    queue = gaps(1)
    assert take(queue, 0) == []
    assert list(queue) == [UserGap(A, 1)]


def test_users_of_two_shards_are_not_taken_together() -> None:
    queue = deque([UserGap(B, 2, shard=1), UserGap(C, 3, shard=1), UserGap(A, 4, shard=2)])
    assert take(queue, 100) == [UserGap(B, 2, shard=1), UserGap(C, 3, shard=1)]
    assert list(queue) == [UserGap(A, 4, shard=2)]
    assert take(queue, 3) == [UserGap(A, 3, shard=2)]
    put_back(queue, [UserGap(C, 3, shard=1), UserGap(A, 3, shard=2), UserGap(B, 2, shard=1)])
    assert list(queue) == [
        UserGap(B, 2, shard=1),
        UserGap(C, 3, shard=1),
        UserGap(A, 1, shard=2),
        UserGap(A, 3, shard=2),
    ]


def test_a_second_look_takes_the_rest_of_the_user_who_was_taken_last() -> None:
    queue = deque([UserGap(B, 2), UserGap(B, 1), UserGap(C, 5), UserGap(B, 9)])
    assert take_rest(queue, UserGap(A, 1)) == []
    assert take_rest(queue, UserGap(B, 4)) == [UserGap(B, 2), UserGap(B, 1)]
    assert list(queue) == [UserGap(C, 5), UserGap(B, 9)]
    assert take_rest(deque(), UserGap(B, 4)) == []


@pytest.mark.parametrize(
    ("has", "wanted", "moved", "own", "queue"),
    [
        ((), 1, 3, [A], [B, C]),
        ((), 3, 3, [A], [B, C]),
        ((), 4, 7, [A, B], [C]),
        ((), 100, 12, [A, B, C], []),
        ((6,), 6, 0, [A], [A, B, C]),
        ((6,), 7, 3, [A, A], [B, C]),
    ],
)
def test_a_worker_takes_users_until_they_lack_enough_rows_for_a_transaction(
    has: tuple[int, ...], wanted: int, moved: int, own: list[uuid.UUID], queue: list[uuid.UUID]
) -> None:
    mine, shared = gaps(*has), gaps(3, 4, 5)
    assert refill(mine, shared, wanted) == moved
    assert [gap.user_id for gap in mine] == own
    assert [gap.user_id for gap in shared] == queue
    assert rows_of(mine) == sum(has) + moved


@pytest.mark.parametrize(("queued", "workers", "low"), [(3999, 1, True), (4000, 1, False), (4000, 2, True)])
def test_a_queue_is_low_with_less_than_four_transactions_for_each_worker(queued: int, workers: int, low: bool) -> None:
    assert is_low(queued, 1000, workers) is low


@pytest.mark.parametrize(
    ("users", "fault", "piece"),
    [
        ([A], Fault.DATA, True),
        ([A, A], Fault.DATA, False),
        ([A, A], Fault.SLOW, False),
        ([A, A], Fault.BUSY, True),
        ([A, A, B], Fault.BUSY, False),
        ([A, B], Fault.BUSY, False),
    ],
)
def test_rows_are_halved_unless_they_are_one_or_a_user_is_locked(
    users: list[uuid.UUID], fault: Fault, piece: bool
) -> None:
    assert is_piece([UserDay(user, DAY) for user in users], fault) is piece


@pytest.mark.parametrize(
    ("inserted", "active", "missing", "found"),
    [
        ({A: 3, B: 4}, {A, B}, 0, Differences(gone=0, raced=0, vanished=0)),
        # The server refused a row, which is still missing.
        ({A: 2, B: 4}, {A, B}, 1, Differences(gone=0, raced=0, vanished=0)),
        # Somebody else inserted two of them.
        ({A: 1, B: 4}, {A, B}, 0, Differences(gone=0, raced=2, vanished=0)),
        # B was deleted after one of four rows.
        ({A: 3, B: 1}, {A}, 0, Differences(gone=3, raced=0, vanished=0)),
        ({}, set(), 0, Differences(gone=7, raced=0, vanished=0)),
        # B was deleted, and a row of A was inserted by somebody else.
        ({A: 2}, {A}, 0, Differences(gone=4, raced=1, vanished=0)),
        # Rows that were there when they were counted are missing too.
        ({A: 1}, {A, B}, 8, Differences(gone=0, raced=0, vanished=2)),
    ],
)
def test_rows_that_were_not_inserted_as_expected_are_accounted_for(
    inserted: dict[uuid.UUID, int], active: set[uuid.UUID], missing: int, found: Differences
) -> None:
    assert compare({A: 3, B: 4}, inserted, active, missing) == found


def test_a_user_who_got_more_rows_than_expected_and_left_is_no_debt() -> None:
    assert compare({A: 3, B: 4}, {A: 5, B: 4}, {B}, 0) == Differences(gone=0, raced=0, vanished=2)


def test_a_transaction_is_cut_into_pages_of_a_number_of_rows() -> None:
    assert cut([UserGap(A, 3), UserGap(B, 5)], 4) == [[UserGap(A, 3), UserGap(B, 1)], [UserGap(B, 4)]]
    assert cut([UserGap(A, 3)], 4) == [[UserGap(A, 3)]]
    assert cut([], 4) == []


@pytest.mark.parametrize(
    ("page_size", "commit_every", "alone", "spread"),
    [(500, 1000, 500, 1000), (500, 100, 500, 100), (499, 1000, 499, 499)],
)
def test_a_transaction_on_a_cluster_is_one_page_unless_pages_are_to_be_smaller(
    page_size: int, commit_every: int, alone: int, spread: int
) -> None:
    assert rows_per_page(page_size, commit_every, is_spread=False) == alone
    assert rows_per_page(page_size, commit_every, is_spread=True) == spread


@pytest.mark.parametrize(
    ("pages", "slowest", "has_open", "is_part", "may"),
    [
        (1, None, False, False, True),
        (2, None, False, False, False),
        (1, None, True, False, False),
        (2, 0.25, True, False, True),
        (2, 0.26, True, False, False),
        (4, 0.25, False, False, True),
        (4, 0.26, False, False, False),
        (5, 0.0, True, False, False),
        (1, 0.0, False, True, False),
    ],
)
def test_the_pages_of_two_transactions_on_their_way_take_no_longer_than_those_of_one_go(
    pages: int, slowest: float | None, has_open: bool, is_part: bool, may: bool
) -> None:
    assert may_go_ahead(pages, slowest, has_open=has_open, is_part=is_part) is may


def test_whole_users_are_taken_unless_the_first_one_alone_lacks_too_many_rows() -> None:
    queue = gaps(3, 5, 2)
    assert take(queue, 4, whole=True) == [UserGap(A, 3)]
    assert take(queue, 4, whole=True) == [UserGap(B, 4)]
    assert take(queue, 3, whole=True) == [UserGap(B, 1), UserGap(C, 2)]
    assert not queue


def test_what_is_put_back_is_in_the_order_of_the_users() -> None:
    queue = gaps(1, 2, 3)
    put_back(queue, [UserGap(B, 5), UserGap(A, 4)])
    assert list(queue) == [UserGap(A, 1), UserGap(A, 4), UserGap(B, 2), UserGap(B, 5), UserGap(C, 3)]


def test_as_many_pages_are_sent_together_as_take_a_second() -> None:
    assert [pages_at_once(seconds) for seconds in (None, 60, 1, 0.99, 0.5, 0.3, 0.125, 0.01)] == [
        1,
        1,
        1,
        1,
        2,
        3,
        8,
        8,
    ]


def test_gaps_are_added_up_in_the_order_of_the_users() -> None:
    some, others = Gaps(2, 30, 20, [UserGap(B, 4)]), Gaps(1, 10, 7, [UserGap(A, 1)])
    assert some.and_also(others) == Gaps(3, 40, 27, [UserGap(A, 1), UserGap(B, 4)])
    assert some.and_also(others).missing == 5
