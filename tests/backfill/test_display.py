"""The lines about a run in a log, where there is no terminal for a bar."""

import datetime
import io
import time

import pytest

from momentum.backfill import DayRange, Report, Settings, display
from momentum.backfill.display import Display, print_report
from momentum.backfill.fill import Progress

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
