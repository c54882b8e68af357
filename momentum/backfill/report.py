"""What a run did, counted."""

import datetime
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from momentum.backfill.days import DayRange


@dataclass
class Report:
    """The counts of a run, in user-days; rows count once the server has confirmed their commit.

    ``eligible`` is always the sum of ``present``, ``inserted``, ``raced`` and ``failed``.

    Attributes:
        days: The range.
        dry_run: Whether nothing was written; ``inserted`` is then what would have been.
        users: Users with at least one eligible day.
        eligible: User-days that should have a row.
        present: Had a row already.
        inserted: Got their row from this run.
        raced: Got their row from somebody else meanwhile.
        failed: Have no row, because the server refused it.
        pages: Pages that were inserted.
        commits: Commits of at least one page.
        fill_seconds: How long finding and inserting took.
        elapsed_seconds: How long the whole run took.
        missing_by_day: In a dry run, the rows that would be inserted by day.
        discrepancies: Rows that differ from their breakdown; None if nobody looked.
        left_over: What the recount found: eligible user-days without a row; None if it was not made.
        interrupted: Whether the run was stopped before it was through; the rest is still to do.
    """

    days: DayRange
    dry_run: bool
    users: int = 0
    eligible: int = 0
    present: int = 0
    inserted: int = 0
    raced: int = 0
    failed: int = 0
    pages: int = 0
    commits: int = 0
    fill_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    missing_by_day: Counter[datetime.date] = field(default_factory=Counter)
    discrepancies: int | None = None
    left_over: int | None = None
    interrupted: bool = False

    @property
    def error_rate(self) -> float:
        """The share of the rows that were tried and failed, 0 to 1."""
        tried = self.inserted + self.raced + self.failed
        return self.failed / tried if tried else 0.0

    @property
    def rows_per_second(self) -> float:
        """Rows inserted a second while filling."""
        return self.inserted / self.fill_seconds if self.fill_seconds else 0.0

    @property
    def recount_disagrees(self) -> bool:
        """Whether the recount found more user-days without a row than this report admits."""
        return self.left_over is not None and self.left_over > self.failed

    def as_json(self, resume: str | None) -> dict[str, Any]:
        """Return the report for machines.

        Args:
            resume: The command that does the rest, if there is a rest.
        """
        return {
            "dry_run": self.dry_run,
            "from": self.days.first.isoformat(),
            "to": self.days.last.isoformat(),
            "users": self.users,
            "eligible": self.eligible,
            "present": self.present,
            "inserted": self.inserted,
            "raced": self.raced,
            "failed": self.failed,
            "error_rate": round(self.error_rate, 6),
            "pages": self.pages,
            "commits": self.commits,
            "elapsed_s": round(self.elapsed_seconds, 3),
            "rows_per_s": round(self.rows_per_second, 1),
            "discrepancies": self.discrepancies,
            "resume": resume,
        }
