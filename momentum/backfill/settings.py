"""What a run shall do."""

import uuid
from dataclasses import dataclass, field
from decimal import Decimal

from momentum.backfill.days import DayRange
from momentum.backfill.discrepancies import DEFAULT_THRESHOLD
from momentum.backfill.session import Limits

PAGE_SIZE = 500
COMMIT_EVERY = 1000
MAX_ERROR_RATE = 0.01


@dataclass(frozen=True)
class Settings:
    """What a run shall do.

    Attributes:
        days: The range of UTC days.
        users: Only these users; everybody if empty.
        active_within: Narrow the run to users who signed in on or after the range's first day less so many days, or
            who had a momentum event in the so many days up to and including the day. None: all active users.
        page_size: Rows an INSERT holds at most.
        commit_every: Rows after which there is a commit.
        workers: How many connections fill at once.
        pause: Seconds to pause after a commit, outside of a transaction.
        limits: What a transaction may cost, and how often it is tried.
        max_error_rate: The share of failed rows, 0 to 1, above which a run stops; judged from the 1,000th row on.
        allow_webhooks: Whether triggers may fire that call out of the database.
        dry_run: Count what would be inserted, in a read-only transaction.
        count_by_day: Whether to count at the end how many rows there are by day, for the report's picture.
        look_for_discrepancies: Whether to compare scores with their breakdowns.
        discrepancy_threshold: The points by which they may differ.
    """

    days: DayRange
    users: tuple[uuid.UUID, ...] = ()
    active_within: int | None = None
    page_size: int = PAGE_SIZE
    commit_every: int = COMMIT_EVERY
    workers: int = 1
    pause: float = 0.0
    limits: Limits = field(default_factory=Limits)
    max_error_rate: float = MAX_ERROR_RATE
    allow_webhooks: bool = False
    dry_run: bool = False
    count_by_day: bool = False
    look_for_discrepancies: bool = True
    discrepancy_threshold: Decimal = DEFAULT_THRESHOLD
