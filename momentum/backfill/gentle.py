"""How a gentle run makes room for others: decisions that need no database.

After each commit it looks at signals of the server. Where somebody can't keep up with its writes, it pauses until that
is over. Next to others at work it halves its transactions, because clients queue for as long as one lasts, and rests
for as long as it works; for longer where somebody has to wait. Both grow back, and on a server that is otherwise idle
it doesn't rest at all.
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

# What a replica may lag behind, in seconds, and what may wait to be archived, in bytes.
LONGEST_LAG = 1.0
MOST_UNARCHIVED = 256 << 20
# What a slot may keep on top of what it kept at the beginning: one that is abandoned keeps all that a run writes.
MOST_KEPT = 1 << 30
# A run goes on once a signal is this good, as a share of the above: otherwise it would stop and go all the time.
GOOD_AGAIN = 0.5

# The factor by which a transaction may take longer than the best of the run, and what one costs apart from its rows,
# in rows, so that those of different sizes can be compared.
SLOWER = 3.0
COST_OF_A_TRANSACTION = 50
# The sessions that must wait for the log, of all that are at work, before it counts: a few always do.
FEWEST_WAITING_FOR_WAL = 3

# The smallest transaction, as a part of the largest, and the part by which it grows again.
SMALLEST = 3
GROWTH = 8
# Seconds of rest for each second of work: next to others at work, and where somebody has to wait.
REST = 1.0
LONGEST_REST = 1.5
# By how much that gets less after each commit during which nobody else was at work.
LESS_REST = 0.1

# Seconds between two looks during a pause.
LOOK_EVERY = 0.25

# The points in time to remember for measuring a lag.
MOST_POINTS = 1000


class Obstacle(NamedTuple):
    """What keeps a run from going on.

    Attributes:
        kind: The signal.
        name: Whose it is; empty if that is the server.
        detail: A clause for people.
    """

    kind: str
    name: str
    detail: str


@dataclass(frozen=True)
class Reading:
    """The signals of the server at one moment; None where one can't be read.

    Attributes:
        at: The seconds on this machine's clock.
        flushed: The position up to which the log is written, in bytes.
        replayed: The position up to which each replica has replayed it.
        kept: The position from which on each replication slot keeps it.
        unarchived: The bytes of finished log files that wait to be archived.
        waiting_for_locks: Other sessions that wait for a lock.
        waiting_for_wal: Other sessions that wait for the log, or for a replica to confirm it.
        active: Other sessions that are at work, those that wait included.
    """

    at: float
    flushed: int | None = None
    replayed: Mapping[str, int] | None = None
    kept: Mapping[str, int] | None = None
    unarchived: int | None = None
    waiting_for_locks: int | None = None
    waiting_for_wal: int | None = None
    active: int | None = None


class Load(enum.Enum):
    """How busy the server is with others."""

    IDLE = "nobody else is at work"
    SHARED = "others are at work, or it is not known"
    STRAINED = "somebody has to wait"


@dataclass
class Memory:
    """What is remembered of earlier readings.

    Attributes:
        points: When the log was first seen to reach a position, the earliest first.
        kept: What each slot kept when it was first seen, in bytes.
        best: The seconds that a row cost in the fastest transaction.
    """

    points: list[tuple[float, int]] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    best: float = math.inf

    def add(self, reading: Reading) -> None:
        """Remember a reading."""
        if reading.flushed is None:
            return
        for slot, position in (reading.kept or {}).items():
            self.kept.setdefault(slot, reading.flushed - position)
        slowest = min((reading.replayed or {}).values(), default=reading.flushed)
        self.points = [point for point in self.points if point[1] > slowest]
        # The earliest say how long a replica has been behind; those that don't fit any more are not needed for that.
        if reading.flushed > slowest and len(self.points) < MOST_POINTS:
            self.points.append((reading.at, reading.flushed))

    def lag(self, replayed: int, at: float) -> float:
        """Return the seconds since the log first went beyond a position."""
        return next((at - then for then, position in self.points if position > replayed), 0.0)

    def is_slow(self, rows: int, seconds: float) -> bool:
        """Return whether a transaction took much longer than the best, and remember it."""
        cost = seconds / (rows + COST_OF_A_TRANSACTION)
        self.best = min(self.best, cost)
        return cost > SLOWER * self.best


def find_obstacle(reading: Reading, memory: Memory, *, paused: bool) -> Obstacle | None:
    """Return who can't keep up with the writes; None if a run may go on.

    Args:
        reading: The signals.
        memory: What is remembered of them, this reading included.
        paused: Whether it pauses already.
    """
    share = GOOD_AGAIN if paused else 1.0
    for replica, position in (reading.replayed or {}).items():
        if (lag := memory.lag(position, reading.at)) > LONGEST_LAG * share:
            return Obstacle("replication lag", replica, f"the replica {replica} is {lag:.1f} s behind")
    for slot, position in (reading.kept or {}).items():
        more = (reading.flushed or 0) - position - memory.kept.get(slot, 0)
        if more > MOST_KEPT * share:
            return Obstacle(
                "replication slots", slot, f"the slot {slot} keeps {mebibytes(more)} more WAL than at first"
            )
    if (reading.unarchived or 0) > MOST_UNARCHIVED * share:
        return Obstacle("archiving", "", f"{mebibytes(reading.unarchived or 0)} of WAL wait to be archived")
    return None


def mebibytes(number: int) -> str:
    """Return a number of bytes for people."""
    return f"{number / (1 << 20):,.0f} MiB"


def judge_load(reading: Reading, *, is_slow: bool) -> Load:
    """Return how busy the server is with others.

    Args:
        reading: The signals.
        is_slow: Whether the last transaction took much longer than the best.
    """
    waiting = reading.waiting_for_wal or 0
    at_the_log = waiting >= FEWEST_WAITING_FOR_WAL and 2 * waiting > (reading.active or 0)
    if is_slow or reading.waiting_for_locks or at_the_log:
        return Load.STRAINED
    return Load.IDLE if reading.active == 0 else Load.SHARED


@dataclass(frozen=True)
class Gait:
    """The size of the next transaction, and the rest after it.

    Attributes:
        most: The most rows that any transaction may have.
        rows: The most rows of the next one.
        rest: Seconds of rest for each second of work.
    """

    most: int
    rows: int
    rest: float

    @classmethod
    def at_first(cls, most: int) -> "Gait":
        """Return the gait before anything is known of the server."""
        return cls(most, max(most // SMALLEST, 1), REST)

    def after(self, load: Load) -> "Gait":
        """Return the gait after a commit under some load."""
        less_rest = self.rest - LESS_REST
        if load is Load.IDLE:
            rows = min(self.rows + max(self.most // GROWTH, 1), self.most)
            return replace(self, rows=rows, rest=max(less_rest, 0.0))
        rows = max(self.rows // 2, self.most // SMALLEST, 1)
        return replace(self, rows=rows, rest=LONGEST_REST if load is Load.STRAINED else max(less_rest, REST))
