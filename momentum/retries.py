"""Retries: which errors another attempt may get past, and how long to wait before it.

The migrations and the backfill share these rules. They are plain functions of the server's answer, the number of
failed attempts and a random number, so that a test of them needs neither a database nor a clock.
"""

import enum
from dataclasses import dataclass

# SQLSTATEs, or their first characters: https://www.postgresql.org/docs/current/errcodes-appendix.html
# A lock timeout, a deadlock, a serialization failure.
BUSY = ("55P03", "40P01", "40001")
# The statement timeout; more temporary files than temp_file_limit allows.
TOO_LARGE = ("57014", "53400")
# A connection exception; a server that is shutting down, has crashed or is starting; a session that the server ended
# because it was idle in a transaction, or too long in one.
LOST_CONNECTION = ("08", "57P", "25P03", "25P04")
TOO_MANY_CONNECTIONS = "53300"
# A value that doesn't fit (22), a broken constraint (23), an exception raised by a trigger (P0001).
DATA_ERRORS = ("22", "23", "P0001")

# By this step a wait has long reached its limit; a larger power of a float could overflow.
LAST_STEP = 100


class Fault(enum.Enum):
    """The classes of errors, by what helps."""

    BUSY = "another transaction was in the way: try again a little later"
    LOST = "the connection is gone: connect again, then try again"
    SLOW = "the statement took too long or too much space: try a smaller one"
    DATA = "the server rejects a row: find it"
    FATAL = "no other attempt would help"

    @property
    def may_pass(self) -> bool:
        """Whether the same transaction may succeed in another attempt."""
        return self in (Fault.BUSY, Fault.LOST)


def fault_of(sqlstate: str, *, lost: bool) -> Fault:
    """Return the class of an error.

    Args:
        sqlstate: Its SQLSTATE; empty if the server never answered.
        lost: Whether the driver says that the connection is gone.
    """
    if sqlstate in BUSY:
        return Fault.BUSY
    if sqlstate in TOO_LARGE:
        return Fault.SLOW
    if sqlstate.startswith(DATA_ERRORS):
        return Fault.DATA
    if lost or sqlstate == TOO_MANY_CONNECTIONS or sqlstate.startswith(LOST_CONNECTION):
        return Fault.LOST
    return Fault.FATAL


@dataclass(frozen=True)
class Backoff:
    """A wait that grows with each failed attempt.

    Attributes:
        first: Seconds after the first failed attempt.
        factor: The ratio of each later wait to the one before.
        longest: Seconds that no wait exceeds.
    """

    first: float
    factor: float
    longest: float

    def seconds(self, failed: int) -> float:
        """Return the wait after a number of failed attempts, from 1 on."""
        return min(self.first * self.factor ** min(failed - 1, LAST_STEP), self.longest)


def jittered(seconds: float, chance: float) -> float:
    """Return a random share of a wait, at least half, so that two transactions that collided don't collide again.

    Args:
        seconds: The wait.
        chance: A random number, 0 to 1.
    """
    return seconds * (0.5 + chance / 2)


def milliseconds(seconds: float) -> str:
    """Return a time limit as Postgres reads it: never 0, which would mean none."""
    return f"{max(round(seconds * 1000), 1)}ms"
