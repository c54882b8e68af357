"""The lines about a run in a log, where there is no terminal for a bar."""

import datetime
import io
import logging
import re
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


SCREEN = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


@pytest.mark.parametrize(
    ("columns", "done", "total", "failed", "said"),
    [
        (120, 6_812_345, 10_852_200, 0, "6,812,345 of 10,852,200 user-days  0 rows/s  0:00:06 left  none failed"),
        (80, 6_812_345, 10_852_200, 0, "6.8M of 10.8M  0 rows/s  0:00:06 left  none failed"),
        (80, 999_999, 1_000_000, 123_456, "999k of 1.0M  0 rows/s  0:00:00 left  123,456 failed"),
        (80, 12, 99_999, 0, "12 of 99,999  0 rows/s  23:08:42 left  none failed"),
        (80, 5, None, 0, "5 user-days  0 rows/s  none failed"),
        (50, 6_812_345, 10_852_200, 0, "0:00:06 left  none failed"),
        (38, 6_812_345, 10_852_200, 9, "0:00:06 left"),
    ],
)
def test_a_bar_fills_the_terminal_and_nothing_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
    clock: list[float],
    columns: int,
    done: int,
    total: int | None,
    failed: int,
    said: str,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    with Display.open(quiet=False, verbose=False, as_json=False) as shown:
        clock[0] += 10.0
        shown.progress(Progress(Report(DAYS, dry_run=False, failed=failed), done, total))
    frames = [line for line in re.split(r"[\r\n]", SCREEN.sub("", terminal.getvalue())) if line.strip()]
    assert frames
    assert "…" not in frames[-1]
    assert frames[-1].endswith(said)
    assert len(frames[-1]) == columns


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (100_000, "100k"),
        (999_999, "999k"),
        (6_999_999, "6.9M"),
        (1_234_567_890, "1,234.5M"),
    ],
)
def test_a_large_number_is_brief_and_never_rounded_up(number: int, said: str) -> None:
    assert display.brief(number) == said


@pytest.mark.parametrize("columns", [60, 80])
def test_a_report_breaks_lines_between_words_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    phases = {"preflight": 0.1, "fill": 3.5, "recount": 12.0, "discrepancies": 10.2, "count by day": 10.1}
    report = Report(DAYS, dry_run=False, passed_over=2, phases=phases)
    report.reasons["P0001", "a message of many words " * 10] = 1
    monkeypatch.setenv("COLUMNS", str(columns))
    print_report(report, Settings(DAYS), None)
    in_a_log = capsys.readouterr().out
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_report(report, Settings(DAYS), None)
    on_a_terminal = terminal.getvalue()
    assert max(map(len, in_a_log.splitlines())) > columns >= max(map(len, on_a_terminal.splitlines()))
    assert on_a_terminal.split() == in_a_log.split()


def test_an_undo_has_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Display.open(quiet=False, verbose=False, as_json=False) as shown:
        shown.undo_progress(UndoReport(Path("rows"), dry_run=False, listed=1200, deleted=1200))
    assert "Undo" in terminal.getvalue()
    assert "1,200 rows looked at" in terminal.getvalue()
