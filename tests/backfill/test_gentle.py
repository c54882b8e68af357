"""When a gentle run pauses, halves its pages and grows back; no database."""

import pytest

from momentum.backfill.gentle import (
    LONGEST_LAG,
    LONGEST_REST,
    MOST_KEPT,
    MOST_POINTS,
    MOST_UNARCHIVED,
    REST,
    Gait,
    Load,
    Memory,
    Obstacle,
    Reading,
    find_obstacle,
    judge_load,
)


def read(memory: Memory, reading: Reading, *, paused: bool = False) -> Obstacle | None:
    """Remember a reading, and return what it says."""
    memory.add(reading)
    return find_obstacle(reading, memory, paused=paused)


def test_a_lag_lasts_from_when_the_log_went_beyond_what_a_replica_has_replayed() -> None:
    memory = Memory()
    for at, flushed, replayed, lag in [
        (0.0, 100, 100, 0.0),
        (1.0, 200, 150, 0.0),  # It may have got the rest a moment ago.
        (1.5, 300, 150, 0.5),
        (9.0, 300, 150, 8.0),
        (9.5, 300, 200, 8.0),
        (9.6, 300, 300, 0.0),
        (9.7, 400, 300, 0.0),
        (9.9, 400, 300, 0.2),
    ]:
        memory.add(Reading(at, flushed, {"one": replayed, "two": flushed}))
        assert memory.lag(replayed, at) == pytest.approx(lag), at
        assert memory.lag(flushed, at) == 0.0


def test_the_beginning_of_a_long_lag_is_remembered_with_few_points() -> None:
    memory = Memory()
    for second in range(10 * MOST_POINTS):
        memory.add(Reading(float(second), 100 + second, {"one": 50}))
    assert len(memory.points) == MOST_POINTS
    assert memory.lag(50, 20_000.0) == 20_000.0


def test_a_replica_that_is_a_second_behind_is_waited_for_until_it_is_half_as_far_behind() -> None:
    memory = Memory()
    assert read(memory, Reading(0.0, 200, {"one": 100, "two": 200})) is None
    assert read(memory, Reading(LONGEST_LAG, 300, {"one": 100, "two": 200})) is None
    found = read(memory, Reading(LONGEST_LAG + 0.1, 300, {"one": 100, "two": 200}))
    assert found == Obstacle("replication lag", "one", "the replica one is 1.1 s behind")
    # Then it has replayed what was written before the second reading.
    behind = Reading(LONGEST_LAG + 0.6, 300, {"one": 250, "two": 300})
    assert read(memory, behind, paused=True) is not None
    assert read(memory, behind, paused=False) is None
    assert read(memory, Reading(LONGEST_LAG + 0.7, 300, {"one": 300, "two": 300}), paused=True) is None


def test_a_slot_is_waited_for_if_it_keeps_much_more_than_when_it_was_first_seen() -> None:
    memory = Memory()
    assert read(memory, Reading(0.0, 9 * MOST_KEPT, kept={"old": 0})) is None, "how it came to that is not our doing"
    assert read(memory, Reading(1.0, 10 * MOST_KEPT, kept={"old": 0, "new": 10 * MOST_KEPT})) is None
    found = read(memory, Reading(2.0, 10 * MOST_KEPT + 1, kept={"old": 0, "new": 10 * MOST_KEPT}))
    assert found == Obstacle("replication slots", "old", "the slot old keeps 1,024 MiB more WAL than at first")
    half = Reading(3.0, 10 * MOST_KEPT + 1, kept={"old": MOST_KEPT // 2, "new": 10 * MOST_KEPT})
    assert read(memory, half, paused=True) is not None
    gone = Reading(4.0, 10 * MOST_KEPT + 1, kept={"new": 10 * MOST_KEPT})
    assert read(memory, gone, paused=True) is None


@pytest.mark.parametrize(
    ("unarchived", "paused", "waits"),
    [
        (MOST_UNARCHIVED, False, False),
        (MOST_UNARCHIVED + 1, False, True),
        (MOST_UNARCHIVED // 2 + 1, True, True),
        (MOST_UNARCHIVED // 2, True, False),
        (-(16 << 20), False, False),
    ],
)
def test_the_archive_is_waited_for(unarchived: int, paused: bool, waits: bool) -> None:
    found = read(Memory(), Reading(0.0, 1 << 40, unarchived=unarchived), paused=paused)
    assert (found is not None) == waits
    assert found is None or found.kind == "archiving"


def test_nothing_that_cannot_be_read_is_waited_for() -> None:
    memory = Memory()
    assert read(memory, Reading(0.0)) is None
    assert judge_load(Reading(0.0), is_slow=False) is Load.SHARED
    assert (memory.points, memory.kept) == ([], {})


@pytest.mark.parametrize(
    ("active", "for_locks", "for_wal", "load"),
    [
        (0, 0, 0, Load.IDLE),
        (1, 0, 0, Load.SHARED),
        (9, 1, 0, Load.STRAINED),
        # Clients that commit wait for the log now and then.
        (2, 0, 2, Load.SHARED),
        (6, 0, 3, Load.SHARED),
        (5, 0, 3, Load.STRAINED),
        (3, 0, 3, Load.STRAINED),
    ],
)
def test_a_server_is_strained_where_sessions_wait_for_locks_or_most_of_them_for_the_log(
    active: int, for_locks: int, for_wal: int, load: Load
) -> None:
    reading = Reading(0.0, active=active, waiting_for_locks=for_locks, waiting_for_wal=for_wal)
    assert judge_load(reading, is_slow=False) is load
    assert judge_load(reading, is_slow=True) is Load.STRAINED


def test_a_transaction_is_slow_if_it_takes_three_times_as_long_as_the_best_for_its_rows() -> None:
    memory = Memory()
    assert not memory.is_slow(950, 0.1)
    assert not memory.is_slow(950, 0.3)
    assert memory.is_slow(950, 0.31)
    assert not memory.is_slow(200, 0.07), "a small one costs something apart from its rows"
    assert not memory.is_slow(950, 0.05)
    assert memory.is_slow(950, 0.16)


def test_a_run_next_to_others_halves_its_transactions_and_rests_for_longer_where_somebody_waits() -> None:
    gait = Gait(1000, 1000, 0.0).after(Load.STRAINED)
    assert gait == Gait(1000, 500, LONGEST_REST)
    assert gait.after(Load.STRAINED) == gait.after(Load.STRAINED).after(Load.STRAINED) == Gait(1000, 333, LONGEST_REST)
    assert Gait(1000, 1000, 0.0).after(Load.SHARED) == Gait(1000, 500, REST)
    rests = []
    for _ in range(6):
        gait = gait.after(Load.SHARED)
        rests.append(round(gait.rest, 1))
    assert rests == [1.4, 1.3, 1.2, 1.1, 1.0, 1.0]
    assert gait == Gait(1000, 333, REST)


def test_a_run_that_is_alone_on_its_server_ends_up_at_full_speed_and_makes_room_at_once() -> None:
    gait = Gait.at_first(1000)
    assert gait == Gait(1000, 333, REST)
    sizes = []
    for _ in range(11):
        gait = gait.after(Load.IDLE)
        sizes.append(gait.rows)
    assert sizes[:7] == [458, 583, 708, 833, 958, 1000, 1000]
    assert gait == Gait(1000, 1000, 0.0)
    assert gait.after(Load.SHARED).rest == REST


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_a_transaction_has_a_row_at_least(most: int) -> None:
    gait = Gait.at_first(most)
    for load in (Load.STRAINED, Load.IDLE, Load.STRAINED, Load.STRAINED):
        gait = gait.after(load)
        assert 1 <= gait.rows <= most
