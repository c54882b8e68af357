"""The lines about a run in a log, where there is no terminal for a bar."""

import datetime
import io
import logging
import sys
import time
from pathlib import Path

import pytest

from momentum.backfill import DayRange, Report, Settings, display
from momentum.backfill.display import Display, print_report
from momentum.backfill.fill import Progress
from momentum.backfill.undo import UndoReport

DAYS = DayRange(datetime.date(2026, 3, 1), datetime.date(2026, 3, 5))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a display believes have passed, which only the test changes."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_per_commit_and_at_most_one_per_interval(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Display(stream, quiet=False, verbose=False)
    report = Report(DAYS, dry_run=False, inserted=1000, commits=1)
    clock[0] += 0.9
    shown.progress(Progress(report, 1, 4))
    clock[0] += 0.1
    shown.progress(Progress(report, 2, 4))
    assert stream.getvalue() == "", "the interval has only begun, and then there was no commit"
    clock[0] += 1.0
    report.commits, report.inserted = 2, 4000
    shown.progress(Progress(report, 1, 4))
    clock[0] += 0.9
    report.commits = 3
    shown.progress(Progress(report, 1, 4))
    clock[0] += 0.1
    report.commits, report.inserted, report.failed = 4, 1, 2
    shown.progress(Progress(report, 1, None))
    assert stream.getvalue().splitlines() == [
        "committed 4,000 rows, 1 of 4 user-days, 2,000 rows/s, about 0:00:06 left, none failed",
        "committed 1 row, 1 user-day, 0 rows/s, 2 failed",
    ]


def test_a_quiet_log_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LOG_INTERVAL", 0.0)
    stream = io.StringIO()
    Display(stream, quiet=True, verbose=False).progress(Progress(Report(DAYS, dry_run=False, commits=1), 1, 1))
    assert stream.getvalue() == ""


def test_an_interrupted_run_says_so_and_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(Report(DAYS, dry_run=False, interrupted=True), Settings(DAYS), "momentum-backfill --from 2026-03-01")
    shown = capsys.readouterr().out
    assert shown.startswith("Backfill of 2026-03-01 to 2026-03-05 (UTC), interrupted:\n")
    assert shown.endswith("To resume: momentum-backfill --from 2026-03-01\n")


def test_a_display_shows_what_the_job_logs_only_while_it_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("momentum.backfill")
    before = (list(logger.handlers), logger.level)
    with Display.open(quiet=False, verbose=False, as_json=False):
        logger.info("while it is open")
    assert (logger.handlers, logger.level) == before
    logger.warning("afterwards")
    assert capsys.readouterr().err == "while it is open\n"


@pytest.mark.parametrize(("quiet", "shown"), [(False, "warning: take care\n"), (True, "")])
def test_a_warning_is_shown_unless_only_errors_are_wanted(quiet: bool, shown: str) -> None:
    stream = io.StringIO()
    Display(stream, quiet=quiet, verbose=False).warn("take care")
    assert stream.getvalue() == shown


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        """Return whether it is one."""
        return True


def test_an_undo_has_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Display.open(quiet=False, verbose=False, as_json=False) as shown:
        shown.undo_progress(UndoReport(Path("rows"), dry_run=False, listed=1200, deleted=1200))
    assert "Undo" in terminal.getvalue()
    assert "1,200 rows looked at" in terminal.getvalue()
