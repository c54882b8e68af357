"""The settings of a run, with the defaults that the command, its help and the documentation use.

It imports no SQLAlchemy, so that the command's help needn't wait for that.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from momentum.backfill.days import DayRange
from momentum.retries import Backoff, milliseconds

# The largest values that the command accepts.
MOST_ROWS_PER_PAGE = 500
MOST_ROWS_PER_COMMIT = 1000
MOST_WORKERS = 16
MOST_DAYS_OF_ACTIVITY = 36_500

# The number of rows from which the error rate is judged during a run; fewer are no sample.
SAMPLE = 1000


# The pauses between two attempts of a transaction.
BACKOFF = Backoff(first=0.05, factor=2.0, longest=5.0)

# The seconds that an attempt lasts after a lost connection.
SECONDS_OF_RECONNECTING = 10


@dataclass(frozen=True)
class Limits:
    """The limits of a transaction.

    Attributes:
        lock_timeout: Seconds that a statement may wait for a lock.
        statement_timeout: Seconds that a statement may take.
        attempts: How often a transaction is tried at most. After a lost connection an attempt lasts 10 seconds, however
            often it connects meanwhile: a server that restarts refuses one connection after another.
        backoff: The pause before each further attempt.
    """

    lock_timeout: float = 2.0
    statement_timeout: float = 60.0
    attempts: int = 8
    backoff: Backoff = BACKOFF

    @property
    def reconnecting(self) -> float:
        """The seconds after which a transaction is given up if its connection was lost and can't be made again."""
        return self.attempts * SECONDS_OF_RECONNECTING

    def for_transaction(self, planner: Mapping[str, str]) -> dict[str, str]:
        """Return the settings of a transaction, as the server reads them.

        Args:
            planner: Settings of the planner, which go with these limits.
        """
        return {
            "lock_timeout": milliseconds(self.lock_timeout),
            "statement_timeout": milliseconds(self.statement_timeout),
            **planner,
        }


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        days: The range of UTC days.
        users: Only these users; everyone if empty.
        active_within: N, to fill only users who signed in on or after the range's first day minus N days, or had a
            momentum event in the N days up to and including the day. None: all active users.
        page_size: The most rows in an INSERT; on a cluster the default stands for ``commit_every``.
        commit_every: The most rows between two commits.
        workers: Connections that fill at the same time.
        pause: Seconds to pause after a commit, outside of a transaction.
        gentle: Whether it makes room for others: smaller transactions, rests, and pauses while a replica is behind.
        limits: The limits of a transaction, and how often it is tried.
        max_error_rate: The share of eligible user-days, 0 to 1, that may fail. A run stops early if more than this
            share of the rows that it has tried have failed; judged from the 1,000th row on.
        allow_webhooks: Whether triggers that call out of the database, or may do so, may fire.
        allow_other_owners: Whether triggers that run functions of roles that aren't trusted may fire.
        dry_run: Count the rows that would be inserted, in a read-only transaction.
        count_by_day: Whether to count at the end how many rows there are on each day, for the report's picture.
        look_for_discrepancies: Whether to compare scores with their breakdowns.
        discrepancy_threshold: The points by which they may differ.
    """

    days: DayRange
    users: tuple[uuid.UUID, ...] = ()
    active_within: int | None = None
    page_size: int = MOST_ROWS_PER_PAGE
    commit_every: int = MOST_ROWS_PER_COMMIT
    workers: int = 1
    pause: float = 0.0
    gentle: bool = False
    limits: Limits = field(default_factory=Limits)
    max_error_rate: float = 0.01
    allow_webhooks: bool = False
    allow_other_owners: bool = False
    dry_run: bool = False
    count_by_day: bool = False
    look_for_discrepancies: bool = True
    discrepancy_threshold: Decimal = Decimal(5)
