"""What a run did, counted."""

import datetime
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from momentum.backfill.days import DayRange
from momentum.backfill.triggers import Trigger

# Failures that a report names, and a log; what comes after is only counted.
NAMED_FAILURES = 20


@dataclass
class Report:
    """The counts of a run, in user-days; rows count once the server has confirmed their commit.

    ``eligible`` is always the sum of ``present``, ``inserted``, ``raced`` and ``failed``.

    Attributes:
        days: The range.
        dry_run: Whether nothing was written; ``inserted`` is then what would have been.
        workers: How many connections filled at once.
        users: Users with at least one eligible day.
        passed_over: Where there is none, the accounts that exist all the same.
        eligible: User-days that should have a row.
        present: Had a row already.
        inserted: Got their row from this run.
        raced: Got their row from somebody else meanwhile.
        failed: Have no row, because the server refused it.
        pages: Pages that were inserted.
        commits: Commits of at least one page.
        failures: The first of those that failed, each as a user, a day, a SQLSTATE and a message.
        retries: Transactions that were tried again, after a lock timeout, a deadlock or a lost connection.
        slowest_page_seconds: How long the slowest page took.
        phases: How many seconds each phase took, in their order.
        elapsed_seconds: How long the whole run took.
        missing_by_day: In a dry run, the rows that would be inserted by day.
        inserted_by_day: The rows that were inserted by day.
        failed_by_day: The rows that failed by day.
        present_by_day: The rows that were there already, or came from somebody else meanwhile, by day; empty unless
            they were asked for.
        triggers: The triggers of the score table that fire for the run's rows.
        discrepancies: Rows that differ from their breakdown; None if nobody looked.
        left_over: What the recount found: eligible user-days without a row; None if it was not made.
        interrupted: Whether the run was stopped before it was through; the rest is still to do.
        gave_up: Whether it stopped itself, because more rows had failed than are allowed.
    """

    days: DayRange
    dry_run: bool
    workers: int = 1
    users: int = 0
    passed_over: int = 0
    eligible: int = 0
    present: int = 0
    inserted: int = 0
    raced: int = 0
    failed: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    pages: int = 0
    commits: int = 0
    retries: int = 0
    slowest_page_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    missing_by_day: Counter[datetime.date] = field(default_factory=Counter)
    inserted_by_day: Counter[datetime.date] = field(default_factory=Counter)
    failed_by_day: Counter[datetime.date] = field(default_factory=Counter)
    present_by_day: Counter[datetime.date] = field(default_factory=Counter)
    triggers: tuple[Trigger, ...] = ()
    discrepancies: int | None = None
    left_over: int | None = None
    interrupted: bool = False
    gave_up: bool = False

    @property
    def attempted(self) -> int:
        """The rows that were tried."""
        return self.inserted + self.raced + self.failed

    @property
    def error_rate(self) -> float:
        """The share of the rows that were tried and failed, 0 to 1."""
        return self.failed / self.attempted if self.attempted else 0.0

    @property
    def rows_per_second(self) -> float:
        """Rows inserted a second while filling."""
        seconds = self.phases.get("fill")
        return self.inserted / seconds if seconds else 0.0

    @property
    def recount_disagrees(self) -> bool:
        """Whether the recount found more user-days without a row than this report admits."""
        return self.left_over is not None and self.left_over > self.failed

    @property
    def unfinished(self) -> bool:
        """Whether something is left that another run could do."""
        return self.interrupted or self.gave_up or self.recount_disagrees or bool(self.failed)

    def as_json(self, resume: str | None) -> dict[str, Any]:
        """Return the report for machines.

        Args:
            resume: The command that does the rest, if there is a rest.
        """
        return {
            "dry_run": self.dry_run,
            "from": self.days.first.isoformat(),
            "to": self.days.last.isoformat(),
            "workers": self.workers,
            "users": self.users,
            "eligible": self.eligible,
            "present": self.present,
            "inserted": self.inserted,
            "raced": self.raced,
            "failed": self.failed,
            "failures": self.failures,
            "error_rate": round(self.error_rate, 6),
            "retries": self.retries,
            "pages": self.pages,
            "commits": self.commits,
            "slowest_page_s": round(self.slowest_page_seconds, 4),
            "elapsed_s": round(self.elapsed_seconds, 3),
            "phases_s": {name: round(seconds, 3) for name, seconds in self.phases.items()},
            "rows_per_s": round(self.rows_per_second, 1),
            "left_over": self.left_over,
            "discrepancies": self.discrepancies,
            "triggers": [
                {
                    "name": trigger.name,
                    "fires": trigger.fires,
                    "function": trigger.function,
                    "effects": list(trigger.effects),
                    "calls_out": trigger.calls_out,
                }
                for trigger in self.triggers
            ],
            "interrupted": self.interrupted,
            "resume": resume,
        }
