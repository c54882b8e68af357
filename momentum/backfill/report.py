"""The report of a run: its counts, and the error rate at which it stops."""

import datetime
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from momentum import __version__
from momentum.backfill.days import DayRange
from momentum.backfill.settings import SAMPLE
from momentum.backfill.triggers import Trigger

# Failures that the report and the log name; later ones are only counted.
NAMED_FAILURES = 20

# Reasons of failures that a report tells apart: a trigger may name each row in its message.
MOST_REASONS = 100
OTHER_REASONS = ("", "other reasons")


def error_rate(failed: int, rows: int) -> float:
    """Return the share of rows that failed, 0 to 1."""
    return failed / rows if rows else 0.0


def is_too_many(failed: int, attempted: int, max_error_rate: float) -> bool:
    """Return whether a run should stop because too many of the rows that it has tried have failed."""
    return attempted >= SAMPLE and error_rate(failed, attempted) > max_error_rate


def add_reason(reasons: Counter[tuple[str, str]], sqlstate: str, message: str) -> None:
    """Count a failure by its reason, or together with others once there are too many reasons to tell apart."""
    reason = (sqlstate, message)
    reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else OTHER_REASONS] += 1


def reasons_as_json(reasons: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return reasons for machines, the most frequent first."""
    return [
        {"sqlstate": sqlstate, "message": message, "failed": failed}
        for (sqlstate, message), failed in reasons.most_common()
    ]


def add_pause(paused: dict[str, float], signal: str, seconds: float) -> None:
    """Add the seconds of a pause to those by signal."""
    paused[signal] = paused.get(signal, 0.0) + seconds


def pauses_as_json(paused: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of pauses, by signal, for machines."""
    return {signal: round(seconds, 3) for signal, seconds in paused.items()}


@dataclass(frozen=True)
class Execution:
    """One execution of the command.

    Attributes:
        database: Host, port and name of the database, as libpq resolves them.
        started_at: When it began, by this machine's clock.
        finished_at: When its work had ended.
        exit_code: Its exit code.
        version: The version of this package.
    """

    database: str
    started_at: datetime.datetime
    finished_at: datetime.datetime
    exit_code: int
    version: str = __version__

    @classmethod
    def ending_now(cls, database: str, started_at: datetime.datetime, exit_code: int) -> "Execution":
        """Return an execution that ends at this moment."""
        return cls(database, started_at, datetime.datetime.now(datetime.UTC), exit_code)

    def as_json(self) -> dict[str, Any]:
        """Return the execution for machines."""
        return {
            "database": self.database,
            "version": self.version,
            "started_at": self.started_at.isoformat(timespec="milliseconds"),
            "finished_at": self.finished_at.isoformat(timespec="milliseconds"),
            "exit_code": self.exit_code,
        }


@dataclass
class Report:
    """The counts of a run, in user-days; rows count once the server has confirmed their commit.

    ``eligible`` is always the sum of ``present``, ``inserted``, ``raced`` and ``failed``.

    Attributes:
        days: The range.
        dry_run: Whether nothing was written; ``inserted`` counts the rows that would have been inserted.
        workers: Connections that filled at the same time.
        users: Users with at least one eligible day.
        passed_over: The accounts that exist, if none of them has an eligible day.
        eligible: User-days that should have a row.
        present: User-days that already had a row.
        inserted: User-days that got their row from this run.
        raced: User-days that got their row from somebody else meanwhile.
        failed: User-days without a row, because the server refused it.
        failures: The first failed ones, each as a user, a day, a SQLSTATE and a message.
        reasons: How many failed for each reason: a SQLSTATE and a message.
        pages: Pages that were inserted.
        commits: Commits of at least one page.
        retries: Transactions that were tried again, after a lock timeout, a deadlock or a lost connection.
        paused: In a gentle run, the seconds that workers paused because somebody could not keep up, by the signal.
        slowest_page_seconds: The seconds that the slowest page took.
        phases: The seconds that each phase took, in their order.
        elapsed_seconds: The seconds that the whole run took.
        missing_by_day: In a dry run, the rows that would be inserted on each day.
        inserted_by_day: The rows that were inserted on each day.
        failed_by_day: The rows that failed on each day.
        present_by_day: The rows on each day that were present or came from somebody else meanwhile; empty unless the
            settings asked for it.
        uncounted: Whether the settings asked for it, and they could not be counted.
        triggers: The triggers of the score table that fire for the run's rows.
        discrepancies: Rows that differ from their breakdown; None if they were not compared.
        left_over: Eligible user-days without a row, recounted at the end; None if there was no recount.
        interrupted: Whether the run was stopped before it had finished; another run can resume it.
        gave_up: Whether it stopped because more rows had failed than allowed.
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
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    pages: int = 0
    commits: int = 0
    retries: int = 0
    paused: dict[str, float] = field(default_factory=dict)
    slowest_page_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    missing_by_day: Counter[datetime.date] = field(default_factory=Counter)
    inserted_by_day: Counter[datetime.date] = field(default_factory=Counter)
    failed_by_day: Counter[datetime.date] = field(default_factory=Counter)
    present_by_day: Counter[datetime.date] = field(default_factory=Counter)
    uncounted: bool = False
    triggers: tuple[Trigger, ...] = ()
    discrepancies: int | None = None
    left_over: int | None = None
    interrupted: bool = False
    gave_up: bool = False

    def count_pause(self, signal: str, seconds: float) -> None:
        """Count a pause of a worker."""
        add_pause(self.paused, signal, seconds)

    @property
    def committed(self) -> int:
        """The rows that the run has committed."""
        return 0 if self.dry_run else self.inserted

    @property
    def attempted(self) -> int:
        """The rows that the run tried to insert."""
        return self.inserted + self.raced + self.failed

    @property
    def error_rate(self) -> float:
        """The share of eligible user-days that failed, 0 to 1.

        Not of attempted rows: once all others have their rows, a run tries only those that fail every night.
        """
        return error_rate(self.failed, self.eligible)

    @property
    def rows_per_second(self) -> float:
        """Rows inserted per second while filling."""
        seconds = self.phases.get("fill")
        return self.inserted / seconds if seconds else 0.0

    @property
    def recount_disagrees(self) -> bool:
        """Whether the recount found more user-days without a row than the report counts as failed."""
        return self.left_over is not None and self.left_over > self.failed

    @property
    def unfinished(self) -> bool:
        """Whether anything is left for another run."""
        return self.interrupted or self.gave_up or self.recount_disagrees or bool(self.failed)

    def as_json(self, resume: str | None) -> dict[str, Any]:
        """Return the report for machines.

        Args:
            resume: The command that resumes the run, if anything is left.
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
            "reasons": reasons_as_json(self.reasons),
            "error_rate": round(self.error_rate, 6),
            "retries": self.retries,
            "pages": self.pages,
            "commits": self.commits,
            "paused_s": pauses_as_json(self.paused),
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
