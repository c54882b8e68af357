"""The lines about a run in a log, where there is no terminal for a bar."""

import datetime
import io

import pytest

from momentum.backfill import DayRange, Report, Settings, display
from momentum.backfill.display import Display, print_report
from momentum.backfill.fill import Progress

DAYS = DayRange(datetime.date(2026, 3, 1), datetime.date(2026, 3, 5))


def test_a_log_gets_a_line_a_commit_and_at_most_one_in_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    shown = Display(stream, quiet=False, verbose=False)
    report = Report(DAYS, dry_run=False, inserted=1000, commits=1)
    shown.progress(Progress(report, 1, 4))
    assert stream.getvalue() == "", "the interval has only begun"
    monkeypatch.setattr(display, "LOG_INTERVAL", 0.0)
    shown.progress(Progress(report, 2, 4))
    assert stream.getvalue() == "", "there was no commit since"
    report.commits, report.inserted = 2, 2000
    shown.progress(Progress(report, 2, 4))
    assert stream.getvalue().startswith("committed 2,000 rows, 2 of 4 user-days, ")
    report.commits, report.inserted = 3, 1
    shown.progress(Progress(report, 1, 1))
    assert stream.getvalue().splitlines()[1].startswith("committed 1 row, 1 of 1 user-day, ")


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
