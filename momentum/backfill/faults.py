"""What can go wrong with a transaction, by class: what another try heals, what smaller pieces do."""

import enum
import random
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from momentum.connect.engine import lost_connection

# https://www.postgresql.org/docs/current/errcodes-appendix.html
LOCK_NOT_AVAILABLE = "55P03"
BUSY = (LOCK_NOT_AVAILABLE, "40P01", "40001")
# The statement timeout; more temporary files than temp_file_limit allows.
TOO_LARGE = ("57014", "53400")
TOO_MANY_CONNECTIONS = "53300"
# A value that does not fit (22), a broken constraint (23), a trigger's objection (P0001).
DATA_ERRORS = ("22", "23", "P0001")


class Fault(enum.Enum):
    """The classes of errors, named by what helps."""

    BUSY = "somebody else held what was needed, or was in the way: try again a little later"
    LOST = "the connection is gone: connect again, then try again"
    SLOW = "the statement took too long, or too much room: try a smaller one"
    DATA = "the server objects to a row: find it"
    FATAL = "nothing that this program could do heals it"


def classify(error: DBAPIError) -> Fault:
    """Return the class of an error."""
    code = sqlstate(error)
    if code in BUSY:
        return Fault.BUSY
    if code in TOO_LARGE:
        return Fault.SLOW
    if code.startswith(DATA_ERRORS):
        return Fault.DATA
    if code == TOO_MANY_CONNECTIONS or (
        isinstance(error, OperationalError | InterfaceError) and lost_connection(error)
    ):
        return Fault.LOST
    return Fault.FATAL


def sqlstate(error: DBAPIError) -> str:
    """Return the error's SQLSTATE, empty if the server never answered."""
    code: str | None = getattr(error.orig, "sqlstate", None)
    return code or ""


@dataclass(frozen=True)
class Retries:
    """How often, and after which pauses, a transaction is tried.

    Attributes:
        attempts: How often at most.
        first_pause: Seconds before the second attempt; each pause is twice as long as the one before.
        longest_pause: Seconds that no pause exceeds.
    """

    attempts: int = 8
    first_pause: float = 0.05
    longest_pause: float = 5.0

    def pause(self, failed: int) -> float:
        """Return the seconds to pause after so many failed attempts."""
        # The jitter keeps two who met from meeting again.
        longest = min(self.first_pause * 2.0 ** (failed - 1), self.longest_pause)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311
