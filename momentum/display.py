"""What a person sees of the command: a bar on a terminal, a line now and then in a log, and the result."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from momentum.backfill.report import Report
    from momentum.backfill.run import Progress

# Seconds between two lines of progress in a log.
LOG_INTERVAL = 1.0


class Display:
    """What a person sees while the run is going on: a bar on a terminal, a line now and then in a log."""

    def __init__(self, stream: TextIO, *, quiet: bool, verbose: bool) -> None:
        self.inserted = 0
        self._stream = stream
        self._quiet = quiet
        self._verbose = verbose
        self._started = self._last_line = time.monotonic()
        self._commits = 0
        self._bar: Any = None
        self._task: Any = None

    @classmethod
    @contextmanager
    def open(cls, *, quiet: bool, verbose: bool) -> Iterator["Display"]:
        """Yield a display on standard error that also shows what the job logs."""
        display = cls(sys.stderr, quiet=quiet, verbose=verbose)
        handler = LogHandler(display)
        logger = logging.getLogger("momentum.backfill")
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
        try:
            if sys.stderr.isatty() and not quiet:
                display.start_bar()
            yield display
        finally:
            if display._bar is not None:
                display._bar.stop()
            logger.removeHandler(handler)

    def start_bar(self) -> None:
        """Show a bar with rows a second and the time left."""
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s"),
            TimeRemainingColumn(),
            console=Console(file=self._stream),
        )
        self._task = self._bar.add_task("Backfill", total=None, rows=0, rate=0.0)
        self._bar.start()

    def write(self, line: str) -> None:
        """Write a line, above the bar if there is one."""
        if self._bar is None:
            print(line, file=self._stream, flush=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def log(self, line: str) -> None:
        """Write a line that only ``--verbose`` wants."""
        if self._verbose:
            self.write(line)

    def progress(self, progress: "Progress") -> None:
        """Show how far the run is."""
        report = progress.report
        self.inserted = 0 if report.dry_run else report.inserted
        now = time.monotonic()
        rate = report.inserted / max(now - self._started, 1e-6)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=progress.users_done,
                total=progress.users_total,
                rows=report.inserted,
                rate=rate,
                description="Dry run" if report.dry_run else "Backfill",
            )
        elif not self._quiet and report.commits > self._commits and now - self._last_line >= LOG_INTERVAL:
            self._last_line = now
            share = progress.users_done / max(progress.users_total, 1)
            self.write(f"committed {report.inserted} rows, {share:.0%} of the users, {rate:.0f} rows/s")
        self._commits = report.commits


class LogHandler(logging.Handler):
    """Hands the job's log to the display."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as a line."""
        self._display.write(f"{record.levelname.lower()}: {record.getMessage()}")


def print_report(report: "Report", resume: str | None) -> None:
    """Print a report for people."""
    if report.dry_run:
        print(f"Dry run for {report.days} (UTC): nothing was written.")
        for day, count in sorted(report.missing_by_day.items()):
            print(f"  {day}  {count:>12,}")
    elif report.interrupted:
        print(f"Backfill of {report.days} (UTC), interrupted:")
    else:
        print(f"Backfill of {report.days} (UTC):")
    rows: list[tuple[str, object]] = [
        ("active users", report.users),
        ("eligible user-days", report.eligible),
        ("already there", report.present),
        ("would be inserted" if report.dry_run else "inserted", report.inserted),
    ]
    if not report.dry_run:
        rows += [("inserted by others meanwhile", report.raced), ("failed", report.failed)]
    if report.left_over is not None:
        rows += [("without a row, recounted", report.left_over)]
    if report.discrepancies is not None:
        rows += [("to review (discrepancies)", report.discrepancies)]
    for name, value in rows:
        print(f"  {name:<30}{value:>12,}")
    if not report.dry_run:
        print(f"  {report.commits:,} commits in {report.elapsed_seconds:.1f} s, {report.rows_per_second:,.0f} rows/s")
    if resume:
        print(f"To do the rest: {resume}")
