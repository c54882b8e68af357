"""The output of the command: a progress bar on a terminal, occasional lines in a log, and the result."""

import datetime
import json
import logging
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from momentum.wording import counted, printable

if TYPE_CHECKING:
    from momentum.backfill.discrepancies import LargestDiscrepancies
    from momentum.backfill.fill import Progress
    from momentum.backfill.page import Page
    from momentum.backfill.report import Execution, Report
    from momentum.backfill.settings import Settings
    from momentum.backfill.undo import UndoReport

# Reasons of failures that a report for people names.
PRINTED_REASONS = 5

# The columns of a terminal that a bar, the word before it and its percentage take at least.
WIDTH_OF_BAR = 24

# Seconds between two lines of progress in a log.
LOG_INTERVAL = 1.0


class Display:
    """The output while the run goes on: a progress bar on a terminal, occasional lines in a log."""

    def __init__(self, stream: TextIO, *, quiet: bool, verbose: bool, as_json: bool = False) -> None:
        self._report: Report | UndoReport | None = None
        self._stream = stream
        self._quiet = quiet
        self._verbose = verbose
        self._as_json = as_json
        self._started = self._last_line = time.monotonic()
        self._commits = 0
        # Started by the first progress, so that no bar is above an earlier error.
        self._draws_bar = False
        self._database: str | None = None
        self._bar: Any = None
        self._task: Any = None

    @property
    def report(self) -> "Report | UndoReport | None":
        """The counts of the run so far; None if it has counted nothing yet."""
        return self._report

    @property
    def committed(self) -> int:
        """The rows that the run has committed so far."""
        return self._report.committed if self._report else 0

    @property
    def shows_progress(self) -> bool:
        """Whether anybody sees how far the run has come."""
        return not self._quiet

    @classmethod
    @contextmanager
    def open(cls, *, quiet: bool, verbose: bool, as_json: bool) -> Iterator["Display"]:
        """Yield a display on standard error that also shows what the job logs.

        Args:
            quiet: Show errors only.
            verbose: Also show each step.
            as_json: Write one JSON object per line, for machines.
        """
        display = cls(sys.stderr, quiet=quiet, verbose=verbose, as_json=as_json)
        handler = LogHandler(display)
        logger = logging.getLogger("momentum.backfill")
        logger.addHandler(handler)
        level = logger.level
        logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
        try:
            display._draws_bar = sys.stderr.isatty() and not (quiet or as_json)
            yield display
        finally:
            display.finish()
            logger.removeHandler(handler)
            logger.setLevel(level)

    def name_database(self, database: str) -> None:
        """Write which database it is; if only errors are wanted, before the first of them."""
        self._database = database
        if not self._quiet:
            self._write_database()

    def _write_database(self) -> None:
        """Write which database it is, unless that is unknown or has been written."""
        database, self._database = self._database, None
        if database is not None:
            self.write(f"Database: {database}", database=database)

    def _start_bar(self) -> None:
        """Show a bar with the progress, rows per second, the time left and the failures so far."""
        self._draws_bar = False
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}"),
            console=Console(file=self._stream),
            expand=True,
        )
        self._task = self._bar.add_task("Backfill", total=None, said="")
        self._bar.start()

    def _fitting(self, *ways: list[str]) -> str:
        """Return the first of several ways to say how far a run has come that fits on the terminal, next to its bar."""
        room = self._bar.console.width - WIDTH_OF_BAR
        texts = ["  ".join(parts) for parts in ways]
        return next((text for text in texts if len(text) <= room), texts[-1])

    def finish(self) -> None:
        """Stop the bar; while it moves, it captures everything that is printed."""
        if self._bar is not None:
            self._bar.stop()

    def line(self, line: str, level: str = "info", **fields: object) -> str:
        """Return a line as it is written; for machines, as an object that also has the fields."""
        if self._as_json:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            return json.dumps({"time": now, "level": level, "message": line, **fields})
        # A line with fields of its own is laid out already.
        if level in ("info", "progress") or fields:
            return line
        return f"Error: {line}" if level == "error" else f"{level}: {line}"

    def write(self, line: str, level: str = "info", **fields: object) -> None:
        """Write a line, above the bar if there is one; for machines, as an object that also has the fields."""
        self._write_database()
        line = self.line(line, level, **fields)
        if self._bar is None:
            # In a single write, because workers write at the same time.
            print(f"{line}\n", end="", file=self._stream, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Write a warning, unless only errors are wanted."""
        if not self._quiet:
            self.write(printable(message), "warning")

    def complain(self, message: str, exit_code: int) -> int:
        """Write an error and return its exit code."""
        self.write(message, "error")
        return exit_code

    def log(self, line: str) -> None:
        """Write a line that is shown only with ``--verbose``."""
        if self._verbose:
            self.write(printable(line), "debug" if self._as_json else "info")

    def progress(self, progress: "Progress") -> None:
        """Show the progress of a run."""
        if self._draws_bar:
            self._start_bar()
        self._report = report = progress.report
        now = time.monotonic()
        elapsed = max(now - self._started, 1e-6)
        rate = report.inserted / elapsed
        failed = f"{report.failed:,} failed" if report.failed else "none failed"
        done, total = progress.done, progress.total
        left = (total - done) / done * elapsed if total and done else None
        share = counted(done, "user-day")
        if total is not None:
            share = f"{done:,} of {counted(total, 'user-day')}"
        if self._bar is not None:
            speed = f"{rate:,.0f} rows/s"
            time_left = [] if left is None else [f"{datetime.timedelta(seconds=round(left))} left"]
            short = brief(done) if total is None else f"{brief(done)} of {brief(total)}"
            self._bar.update(
                self._task,
                completed=done,
                total=total,
                said=self._fitting(
                    [share, speed, *time_left, failed],
                    [short, speed, *time_left, failed],
                    [*time_left, failed],
                    time_left or [failed],
                ),
                description="Dry run" if report.dry_run else "Backfill",
            )
        elif not self._quiet and report.commits > self._commits and now - self._last_line >= LOG_INTERVAL:
            self._last_line = now
            soon = f", about {datetime.timedelta(seconds=round(left))} left" if left is not None else ""
            self.write(
                f"committed {counted(report.inserted, 'row')}, {share}, {rate:,.0f} rows/s{soon}, {failed}",
                "progress",
                inserted=report.inserted,
                done=done,
                total=total,
                rows_per_s=round(rate, 1),
                left_s=None if left is None else round(left, 1),
                failed=report.failed,
                retries=report.retries,
            )
        self._commits = report.commits

    def undo_progress(self, report: "UndoReport") -> None:
        """Show the progress of an undo."""
        if self._draws_bar:
            self._start_bar()
        self._report = report
        now = time.monotonic()
        if self._bar is not None:
            rate = report.listed / max(now - self._started, 1e-6)
            failed = f"{report.failed:,} failed" if report.failed else "none failed"
            self._bar.update(
                self._task,
                said=self._fitting(
                    [f"{counted(report.listed, 'row')} looked at", f"{rate:,.0f} rows/s", failed], [failed]
                ),
                description="Dry run" if report.dry_run else "Undo",
            )
        elif not self._quiet and now - self._last_line >= LOG_INTERVAL:
            self._last_line = now
            self.write(
                f"deleted {report.deleted:,} of {counted(report.listed, 'row')}, {report.failed:,} failed",
                "progress",
                deleted=report.deleted,
                listed=report.listed,
                failed=report.failed,
            )


class LogHandler(logging.Handler):
    """Passes the log of the job to the display."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as a line."""
        self._display.write(record.getMessage(), record.levelname.lower(), **getattr(record, "fields", {}))


def print_report(report: "Report | UndoReport", settings: "Settings", resume: str | None) -> None:
    """Print a report for people."""
    from momentum.backfill.report import Report  # here, because the help needs no report

    if isinstance(report, Report):
        print_fill_report(report, settings)
    else:
        print_undo_report(report)
    if report.paused:
        paused = ", ".join(f"{seconds:.1f} s for {signal}" for signal, seconds in report.paused.items())
        print_wrapped(f"  paused {paused}")
    if resume:
        print(f"To resume: {resume}")


def print_fill_report(report: "Report", settings: "Settings") -> None:
    """Print the report of a backfill for people."""
    if report.dry_run:
        print(f"Dry run for {report.days} (UTC): nothing was written.")
        for day, count in sorted(report.missing_by_day.items()):
            print(f"  {day}  {count:>12,}")
    elif report.interrupted:
        print(f"Backfill of {report.days} (UTC), interrupted:")
    elif report.gave_up:
        print(f"Backfill of {report.days} (UTC), stopped because too many rows failed:")
    else:
        print(f"Backfill of {report.days} (UTC):")
    print_rows(totals_of(report))
    print_reasons(report.reasons)
    if report.passed_over:
        print_wrapped(f"  {why_nobody(report.passed_over, settings)}")
    if not report.dry_run:
        print_wrapped(
            f"  {counted(report.commits, 'commit')} in {duration(report.elapsed_seconds)}, "
            f"{report.rows_per_second:,.0f} rows/s, slowest page {1000 * report.slowest_page_seconds:,.0f} ms"
        )
    print_wrapped("  " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.phases.items()))


def totals_of(report: "Report") -> list[tuple[str, int]]:
    """Return the counts of a report, each with a name for people."""
    rows = [
        ("active users", report.users),
        ("eligible user-days", report.eligible),
        ("already present", report.present),
        ("would be inserted" if report.dry_run else "inserted", report.inserted),
    ]
    if not report.dry_run:
        rows += [("inserted by others meanwhile", report.raced), ("failed", report.failed)]
    if report.retries or not report.dry_run:
        rows += [("transactions tried again", report.retries)]
    if report.left_over is not None:
        rows += [("without a row, recounted", report.left_over)]
    if report.discrepancies is not None:
        rows += [("to review (discrepancies)", report.discrepancies)]
    return rows


def why_nobody(accounts: int, settings: "Settings") -> str:
    """Return a sentence that says why none of the accounts is an active user of the range."""
    reasons = f"was created after {settings.days.last}, is deleted"
    if settings.active_within is None:
        reasons += " or is banned"
    else:
        reasons += f", is banned or was not seen within {counted(settings.active_within, 'day')}"
    one = accounts == 1
    return f"{counted(accounts, 'account')} {'exists; it' if one else 'exist; each'} {reasons}."


def print_undo_report(report: "UndoReport") -> None:
    """Print the report of an undo for people."""
    title = "Dry run of the undo of" if report.dry_run else "Undo of"
    state = ": nothing was deleted." if report.dry_run else ", interrupted:" if report.interrupted else ":"
    print(f"{title} {printable(str(report.manifest))}{state}")
    rows = [
        *([("torn lines, left out", report.torn)] if report.torn else []),
        ("rows of the manifest", report.listed),
        ("would be deleted" if report.dry_run else "deleted", report.deleted),
        ("changed since, kept", report.kept),
        ("already gone", report.absent),
    ]
    if not report.dry_run:
        rows += [("failed", report.failed)]
    print_rows(rows)
    print_reasons(report.reasons)


def print_rows(rows: list[tuple[str, int]]) -> None:
    """Print counts with their names, the numbers aligned."""
    for name, value in rows:
        print(f"  {name:<30}{value:>12,}")


def brief(number: int) -> str:
    """Return a number in few characters, rounded down, for a terminal that has no room for all of its digits."""
    if number < 100_000:
        return f"{number:,}"
    return f"{number // 1000}k" if number < 1_000_000 else f"{number // 100_000 / 10:,.1f}M"


def print_wrapped(text: str) -> None:
    """Print an indented text; on a terminal, break its lines between words."""
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        text = textwrap.fill(text, columns, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    print(text)


def duration(seconds: float) -> str:
    """Return a time for people: in seconds below a minute, otherwise with minutes and hours."""
    return f"{seconds:.1f} s" if seconds < 59.95 else str(datetime.timedelta(seconds=round(seconds)))


def print_reasons(reasons: Counter[tuple[str, str]]) -> None:
    """Print the most frequent reasons of failures, each with its number."""
    for (sqlstate, message), failed in reasons.most_common(PRINTED_REASONS):
        print_wrapped(f"  {failed:,} failed: {printable(f'{sqlstate} {message}'.strip())}")
    if others := reasons.total() - sum(failed for _, failed in reasons.most_common(PRINTED_REASONS)):
        print(f"  {others:,} failed for further reasons")


def page_of(
    report: "Report",
    settings: "Settings",
    execution: "Execution",
    discrepancies: "LargestDiscrepancies",
    resume: str | None,
) -> "Page":
    """Return the content of the page of a run.

    Args:
        report: The counts.
        settings: The settings of the run.
        execution: The database, and when the run began and ended.
        discrepancies: The largest ones.
        resume: The command that resumes the run, if anything is left.
    """
    from momentum.backfill.page import DayCounts, Page

    filled = report.missing_by_day if report.dry_run else report.inserted_by_day
    return Page(
        title=f"{'Dry run' if report.dry_run else 'Backfill'} of {report.days}",
        outcome=outcome_of(report, settings),
        execution=execution,
        days=[
            DayCounts(day, max(report.present_by_day[day], 0), filled[day], report.failed_by_day[day])
            for day in report.days
        ],
        totals=[
            *((name, f"{value:,}") for name, value in totals_of(report)),
            ("elapsed time", duration(report.elapsed_seconds)),
        ],
        reasons=[(sqlstate, message, failed) for (sqlstate, message), failed in report.reasons.most_common()],
        settings=settings_of(settings),
        triggers=[str(trigger) for trigger in report.triggers],
        discrepancies=None if report.discrepancies is None else list(discrepancies),
        discrepancies_left_out=discrepancies.left_out,
        resume=resume,
        dry_run=report.dry_run,
    )


def outcome_of(report: "Report", settings: "Settings") -> str:
    """Return a sentence that says how a run ended."""
    if report.dry_run:
        return "Dry run; nothing was written."
    if report.interrupted:
        return "Interrupted; committed rows stay, and the run can be resumed."
    if report.gave_up or report.error_rate > settings.max_error_rate:
        return f"{counted(report.failed, 'row')} failed, more than the allowed share of {settings.max_error_rate:.2%}."
    if report.recount_disagrees:
        return f"The recount found {counted(report.left_over or 0, 'eligible user-day')} without a row; run it again."
    if report.failed:
        return f"Done, except for {counted(report.failed, 'row')} that failed."
    return "Done; every eligible user-day has a row."


def settings_of(settings: "Settings") -> list[tuple[str, str]]:
    """Return the settings of a run, each with a name for people."""
    limits = settings.limits
    users = f"{len(settings.users):,} named" if settings.users else "all active"
    if settings.active_within is not None:
        users += f", seen within {counted(settings.active_within, 'day')}"
    rows = [
        ("days (UTC)", str(settings.days)),
        ("users", users),
        ("workers", f"{settings.workers}"),
        ("rows per page", f"{settings.page_size}"),
        ("rows per commit", f"{settings.commit_every}"),
        ("pause after a commit", f"{1000 * settings.pause:g} ms"),
        *([("gentle", "yes")] if settings.gentle else []),
        ("lock timeout", f"{limits.lock_timeout:g} s"),
        ("statement timeout", f"{limits.statement_timeout:g} s"),
        ("attempts", f"{limits.attempts}"),
        ("allowed error rate", f"{settings.max_error_rate:.2%}"),
    ]
    if settings.look_for_discrepancies:
        rows.append(("discrepancies from", f"more than {settings.discrepancy_threshold} points"))
    return rows
