"""The undo: delete the rows that a run inserted and nobody has changed since, and no others."""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from momentum.backfill.eligibility import Eligibility
from momentum.backfill.faults import classify, sqlstate
from momentum.backfill.fill import ATTEMPTS_OF_A_PIECE, Failure, Statements
from momentum.backfill.manifest import read_manifest
from momentum.backfill.pages import Pages, UserDay
from momentum.backfill.report import NAMED_FAILURES, add_pause, error_rate, is_too_many, pauses_as_json, reasons_as_json
from momentum.backfill.run import logged, look_at_rows, pages_for
from momentum.backfill.session import Session, sleep_until
from momentum.backfill.settings import Settings
from momentum.backfill.throttle import Signals, Throttle
from momentum.backfill.triggers import Trigger
from momentum.connect.engine import reason
from momentum.retries import Fault
from momentum.wording import counted

logger = logging.getLogger("momentum.backfill")


@dataclass
class UndoReport:
    """The counts of an undo; rows count once the server has confirmed their commit.

    ``listed`` is always the sum of ``deleted``, ``kept``, ``absent`` and ``failed``.

    Attributes:
        manifest: The file that lists the rows.
        dry_run: Whether nothing was deleted; ``deleted`` counts the rows that would have been deleted.
        torn: Lines of the manifest that are not whole, and were left out.
        listed: Rows that the manifest lists and the run has looked at, each once.
        deleted: Rows that were still the untouched default, and are gone.
        kept: Rows that have since got a score or changed otherwise, and stay.
        absent: Rows that don't exist any more.
        failed: Rows that still exist, because the server refused to delete them.
        reasons: How many failed for each reason: a SQLSTATE and a message.
        commits: Commits of at least one page.
        retries: Transactions that were tried again.
        paused: In a gentle undo, the seconds that it paused because somebody could not keep up, by the signal.
        elapsed_seconds: The seconds that it took.
        triggers: The triggers that fire for a deleted row.
        interrupted: Whether it was stopped before it had finished.
        gave_up: Whether it stopped because more rows had failed than allowed.
    """

    manifest: Path
    dry_run: bool
    torn: int = 0
    listed: int = 0
    deleted: int = 0
    kept: int = 0
    absent: int = 0
    failed: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    commits: int = 0
    retries: int = 0
    paused: dict[str, float] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    triggers: tuple[Trigger, ...] = field(default=())
    interrupted: bool = False
    gave_up: bool = False

    @property
    def committed(self) -> int:
        """The rows that the run has committed."""
        return 0 if self.dry_run else self.deleted

    @property
    def attempted(self) -> int:
        """The rows that the run tried to delete."""
        return self.deleted + self.failed

    @property
    def to_delete(self) -> int:
        """The rows that should be gone: those that have not changed, and those that an earlier undo has deleted."""
        return self.deleted + self.absent + self.failed

    @property
    def error_rate(self) -> float:
        """The share of the rows to delete that failed, 0 to 1."""
        return error_rate(self.failed, self.to_delete)

    @property
    def unfinished(self) -> bool:
        """Whether anything is left for another run."""
        return self.interrupted or self.gave_up or bool(self.failed)

    def as_json(self, resume: str | None) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "undo": str(self.manifest),
            "dry_run": self.dry_run,
            "torn": self.torn,
            "listed": self.listed,
            "deleted": self.deleted,
            "kept": self.kept,
            "absent": self.absent,
            "failed": self.failed,
            "reasons": reasons_as_json(self.reasons),
            "error_rate": round(self.error_rate, 6),
            "retries": self.retries,
            "commits": self.commits,
            "paused_s": pauses_as_json(self.paused),
            "elapsed_s": round(self.elapsed_seconds, 3),
            "triggers": [str(trigger) for trigger in self.triggers],
            "interrupted": self.interrupted,
            "resume": resume,
        }


def run_undo(
    engine: Engine,
    manifest: Path,
    settings: Settings,
    *,
    on_progress: Callable[[UndoReport], None] = lambda _: None,
    on_failure: Callable[[Failure], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> UndoReport:
    """Delete the rows of a manifest that are still the untouched default.

    Args:
        engine: Connects to the database as a role that sees all rows.
        manifest: The file that a run with ``--manifest`` has written; read to its end first, so that a bad line changes
            nothing.
        settings: Page size, commits, limits and so on; the range and the users don't matter here.
        on_progress: Called after each commit.
        on_failure: Called with each row that could not be deleted.
        should_stop: Asked before each transaction; once it returns true, the run ends.

    Raises:
        ConfigurationError: The manifest can't be read, the role lacks a right or rows are hidden from it, or a trigger
            would call out of the database or run functions of roles that aren't trusted.
        NotMigratedError: The database lacks something that the undo needs.
        sqlalchemy.exc.DBAPIError: The server refused a statement, and no other attempt would help.
    """
    started = time.monotonic()
    listed = read_manifest(manifest)
    report = UndoReport(manifest, settings.dry_run, torn=len(listed.torn))
    for number in listed.torn[:NAMED_FAILURES]:
        logger.warning(
            "line %s of --undo %s is not whole, because a run was killed or its disk was full; it is left out",
            number,
            manifest,
        )
    if report.torn > NAMED_FAILURES:
        logger.warning("%s like these", counted(report.torn - NAMED_FAILURES, "more line"))

    def sleep(seconds: float) -> None:
        sleep_until(should_stop, seconds)

    def look(attempts: int | None = None) -> Pages:
        database = look_at_rows(engine, settings, "delete", attempts)
        report.triggers = database.triggers
        # Users who have been deleted or banned since still have rows to undo, and the range doesn't matter.
        return pages_for(database, Eligibility(database.account_columns, settings.days, database.now))

    pages = look(attempts=1)
    with Session(
        engine,
        settings.limits,
        read_only=settings.dry_run,
        sleep=sleep,
        is_stopping=should_stop,
        is_spread=pages.is_spread,
    ) as session:
        undoing = Undoing(session, Statements(pages, look), settings, report, logged(on_failure, report.reasons))
        signals = Signals() if settings.gentle else None
        throttle = Throttle(session, settings, signals, sleep, should_stop, partial(add_pause, report.paused))
        left = iter(listed)
        while rows := list(itertools.islice(left, throttle.rows)):
            if should_stop() or report.gave_up:
                report.interrupted = should_stop()
                break
            try:
                undoing.settle(rows)
            finally:
                # Even if a failure can't be written down, what was committed is reported.
                on_progress(report)
            throttle.rest(len(rows))
        report.retries = session.retried
    report.elapsed_seconds = time.monotonic() - started
    return report


class Undoing:
    """Deletes the rows of a manifest, one transaction at a time."""

    def __init__(
        self,
        session: Session,
        statements: Statements,
        settings: Settings,
        report: UndoReport,
        on_failure: Callable[[Failure], None],
    ) -> None:
        self._session = session
        self._statements = statements
        self._settings = settings
        self._report = report
        self._on_failure = on_failure

    @property
    def _pages(self) -> Pages:
        """The statements, as they are now."""
        return self._statements.pages

    def settle(self, rows: Sequence[UserDay], attempts: int | None = None) -> None:
        """Delete the rows of a transaction that are untouched, and count all of them.

        Args:
            rows: The rows; if the server refuses them they are halved, until those at fault are alone.
            attempts: How often the transaction is tried; None means as often as the settings say.
        """
        report = self._report
        if self._settings.dry_run:
            untouched, present = self._session.read(
                lambda connection: (
                    len(self._pages.list_untouched(connection, rows)),
                    sum(row.present for row in self._pages.look_again(connection, rows)),
                )
            )
            report.listed += len(rows)
            report.deleted += untouched
            report.kept += present - untouched
            report.absent += len(rows) - present
            return
        pages = self._pages
        try:
            deleted = self._session.write(
                lambda connection: {
                    row
                    for page in batches(rows, self._settings.page_size)
                    for row in self._pages.delete_untouched(connection, page)
                },
                lambda connection, deleted, _: (
                    not any(row.present for row in self._pages.look_again(connection, sorted(deleted)))
                ),
                attempts,
            )
        except DBAPIError as error:
            if self._statements.are_renewed(pages, error):
                self.settle(rows, attempts)
                return
            fault = classify(error)
            if fault in (Fault.FATAL, Fault.LOST):
                raise
            if len(rows) == 1:
                self._explain(rows, sqlstate(error), reason(error, self._session.url))
                return
            half = len(rows) // 2
            self.settle(rows[:half], ATTEMPTS_OF_A_PIECE)
            self.settle(rows[half:], ATTEMPTS_OF_A_PIECE)
            return
        report.commits += 1
        report.listed += len(deleted)
        report.deleted += len(deleted)
        self._explain([row for row in rows if row not in deleted], "", "skipped without an error")

    def _explain(self, rows: Sequence[UserDay], code: str, message: str) -> None:
        """Count rows that were not deleted: absent, kept because they have changed, or failed."""
        if not rows:
            return
        report = self._report
        outcomes, untouched = self._session.read(
            lambda connection: (self._pages.look_again(connection, rows), self._pages.list_untouched(connection, rows))
        )
        present = sum(row.present for row in outcomes)
        report.listed += len(rows)
        report.absent += len(rows) - present
        report.kept += present - len(untouched)
        report.failed += len(untouched)
        for row in sorted(untouched):
            self._on_failure(Failure(*row, code, message))
        if is_too_many(report.failed, report.attempted, self._settings.max_error_rate):
            report.gave_up = True


def batches(rows: Iterable[UserDay], size: int) -> Iterable[list[UserDay]]:
    """Yield rows in batches of a size."""
    rows = iter(rows)
    while batch := list(itertools.islice(rows, size)):
        yield batch
