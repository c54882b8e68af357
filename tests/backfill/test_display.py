"""What a run says: lines in a log, a bar on a terminal, its report, and what its page is made of."""

import datetime
import io
import json
import logging
import re
import sys
import time
import uuid
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from momentum.backfill import DayRange, Report, Settings, display
from momentum.backfill.discrepancies import Discrepancy, LargestDiscrepancies
from momentum.backfill.display import Display, page_of, print_report, settings_of, why_nobody
from momentum.backfill.fill import Progress
from momentum.backfill.report import Execution
from momentum.backfill.settings import Limits
from momentum.backfill.triggers import Trigger
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


def test_each_line_for_machines_has_the_figures(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Display(stream, quiet=False, verbose=True, as_json=True)
    clock[0] += 2.0
    report = Report(DAYS, dry_run=False, inserted=3000, failed=1, commits=1, retries=4)
    shown.progress(Progress(report, 3001, 4001))
    clock[0] += 1.1
    report.commits = 2
    shown.progress(Progress(report, 3001, None))
    clock[0] += 1.0
    shown.undo_progress(UndoReport(Path("rows"), dry_run=False, listed=5, deleted=3, failed=1))
    shown.log("a step")
    assert shown.complain("all is lost", 3) == 3
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line in lines:
        assert datetime.datetime.fromisoformat(line.pop("time")).utcoffset() == datetime.timedelta(0)
    figures = {"level": "progress", "inserted": 3000, "done": 3001, "failed": 1, "retries": 4}
    said = "committed 3,000 rows, 3,001{} user-days, {} rows/s{}, 1 failed"
    left = ", about 0:00:01 left"
    assert lines == [
        {
            **figures,
            "message": said.format(" of 4,001", "1,500", left),
            "total": 4001,
            "rows_per_s": 1500.0,
            "left_s": 0.7,
        },
        {**figures, "message": said.format("", "968", ""), "total": None, "rows_per_s": 967.7, "left_s": None},
        {"level": "progress", "message": "deleted 3 of 5 rows, 1 failed", "deleted": 3, "listed": 5, "failed": 1},
        {"level": "debug", "message": "a step"},
        {"level": "error", "message": "all is lost"},
    ]


def test_an_undo_in_a_log_gets_at_most_one_line_per_interval(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Display(stream, quiet=False, verbose=False)
    for seconds, listed in ((0.9, 0), (0.1, 1), (0.9, 3), (0.1, 4)):
        clock[0] += seconds
        shown.undo_progress(UndoReport(Path("rows"), dry_run=False, listed=listed, deleted=1))
    assert stream.getvalue().splitlines() == ["deleted 1 of 1 row, 0 failed", "deleted 1 of 4 rows, 0 failed"]
    assert [Display(stream, quiet=quiet, verbose=False).shows_progress for quiet in (False, True)] == [True, False]
    Display(stream, quiet=True, verbose=False).undo_progress(UndoReport(Path("rows"), dry_run=False, listed=5))
    assert stream.getvalue().count("\n") == 2


def test_a_line_says_what_it_is_unless_it_only_informs() -> None:
    stream = io.StringIO()
    shown = Display(stream, quiet=False, verbose=False)
    shown.log("only with --verbose")
    shown.write("a step")
    shown.write("a delay", "warning")
    shown.write("a count", "progress")
    assert shown.complain("all is lost", 2) == 2
    Display(stream, quiet=False, verbose=True).log("a detail")
    assert stream.getvalue() == "a step\nwarning: a delay\na count\nError: all is lost\na detail\n"


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_display_knows_what_has_been_committed(dry_run: bool) -> None:
    shown = Display(io.StringIO(), quiet=True, verbose=False)
    assert shown.committed == 0
    shown.progress(Progress(Report(DAYS, dry_run=dry_run, inserted=7), 7, 7))
    assert shown.committed == (0 if dry_run else 7)
    shown.undo_progress(UndoReport(Path("rows"), dry_run=dry_run, deleted=3))
    assert shown.committed == (0 if dry_run else 3)


def test_a_quiet_log_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LOG_INTERVAL", 0.0)
    stream = io.StringIO()
    Display(stream, quiet=True, verbose=False).progress(Progress(Report(DAYS, dry_run=False, commits=1), 1, 1))
    assert stream.getvalue() == ""


REPORT = Report(
    DAYS,
    dry_run=False,
    users=3,
    eligible=4015,
    present=10,
    inserted=4000,
    raced=3,
    failed=2,
    reasons=Counter({("P0001", "no"): 2}),
    retries=1,
    commits=4,
    left_over=2,
    discrepancies=5,
    slowest_page_seconds=0.714,
    elapsed_seconds=2.5,
    phases={"prepare": 0.46, "fill": 2.0, "recount": 0.09},
)
TOLD = [
    "  active users                             3",
    "  eligible user-days                   4,015",
    "  already present                         10",
    "  inserted                             4,000",
    "  inserted by others meanwhile             3",
    "  failed                                   2",
    "  transactions tried again                 1",
    "  without a row, recounted                 2",
    "  to review (discrepancies)                5",
    "  2 failed: P0001 no",
    "  4 commits in 2.5 s, 2,000 rows/s, slowest page 714 ms",
    "  prepare 0.5 s, fill 2.0 s, recount 0.1 s",
]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, ":"),
        ({"interrupted": True}, ", interrupted:"),
        ({"gave_up": True}, ", stopped because too many rows failed:"),
    ],
)
def test_a_report_is_told_whole(changes: dict[str, bool], state: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(replace(REPORT, **changes), Settings(DAYS), None)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [f"Backfill of 2026-03-01 to 2026-03-05 (UTC){state}", *TOLD]


def test_a_report_has_no_line_for_what_was_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(Report(DAYS, dry_run=False, commits=1, phases={"fill": 0.0}), Settings(DAYS), None)
    assert capsys.readouterr().out.splitlines() == [
        "Backfill of 2026-03-01 to 2026-03-05 (UTC):",
        "  active users                             0",
        "  eligible user-days                       0",
        "  already present                          0",
        "  inserted                                 0",
        "  inserted by others meanwhile             0",
        "  failed                                   0",
        "  transactions tried again                 0",
        "  1 commit in 0.0 s, 0 rows/s, slowest page 0 ms",
        "  fill 0.0 s",
    ]


def test_a_dry_run_is_told_by_day(capsys: pytest.CaptureFixture[str]) -> None:
    missing = Counter({DAYS.last: 1499, DAYS.first: 1})
    report = Report(DAYS, dry_run=True, eligible=1500, inserted=1500, passed_over=2, missing_by_day=missing)
    report.phases = {"count": 0.1}
    print_report(report, Settings(DAYS), None)
    assert capsys.readouterr().out.splitlines() == [
        "Dry run for 2026-03-01 to 2026-03-05 (UTC): nothing was written.",
        "  2026-03-01             1",
        "  2026-03-05         1,499",
        "  active users                             0",
        "  eligible user-days                   1,500",
        "  already present                          0",
        "  would be inserted                    1,500",
        "  2 accounts exist; each was created after 2026-03-05, is deleted or is banned.",
        "  count 0.1 s",
    ]


@pytest.mark.parametrize(
    ("accounts", "active_within", "told"),
    [
        (1, None, "1 account exists; it was created after 2026-03-05, is deleted or is banned."),
        (2, None, "2 accounts exist; each was created after 2026-03-05, is deleted or is banned."),
        (
            1200,
            3,
            "1,200 accounts exist; each was created after 2026-03-05, is deleted, is banned or was not seen within 3 "
            "days.",
        ),
    ],
)
def test_a_report_says_why_nobody_was_active(accounts: int, active_within: int | None, told: str) -> None:
    assert why_nobody(accounts, Settings(DAYS, active_within=active_within)) == told


UNDONE = [
    "  torn lines, left out                     1",
    "  rows of the manifest                 1,005",
    "  deleted                              1,000",
    "  changed since, kept                      3",
    "  already gone                             1",
    "  failed                                   1",
    "  1 failed: P0001 no",
]
FAILED = {"failed": 1, "reasons": Counter({("P0001", "no"): 1})}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({**FAILED, "torn": 1}, ["Undo of rows:", *UNDONE]),
        ({**FAILED, "torn": 1, "interrupted": True}, ["Undo of rows, interrupted:", *UNDONE]),
        ({}, ["Undo of rows:", *UNDONE[1:5], "  failed                                   0"]),
        (
            {**FAILED, "torn": 1, "paused": {"replication lag": 2.25, "archiving": 0.5}},
            ["Undo of rows:", *UNDONE, "  paused 2.2 s for replication lag, 0.5 s for archiving"],
        ),
        (
            {"dry_run": True},
            [
                "Dry run of the undo of rows: nothing was deleted.",
                UNDONE[1],
                "  would be deleted                     1,000",
                *UNDONE[3:5],
            ],
        ),
    ],
)
def test_an_undo_is_told_whole(changes: dict[str, Any], told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    report = UndoReport(Path("rows"), dry_run=False, listed=1005, deleted=1000, kept=3, absent=1)
    print_report(replace(report, **changes), Settings(DAYS), "momentum-backfill --undo rows")
    assert capsys.readouterr().out.splitlines() == [*told, "To resume: momentum-backfill --undo rows"]


def test_a_page_has_what_the_run_has_found() -> None:
    report = replace(
        REPORT,
        present_by_day=Counter({DAYS.first: 10, DAYS.last: -1}),
        inserted_by_day=Counter({DAYS.last: 4000}),
        failed_by_day=Counter({DAYS.last: 2}),
        missing_by_day=Counter({DAYS.first: 9}),
        triggers=(Trigger("t", "after insert for each row", "public.f", (), calls_out=False),),
    )
    largest = LargestDiscrepancies(1)
    for score in (60, 90):
        largest.add(Discrepancy(uuid.UUID(int=score), DAYS.first, Decimal(score), Decimal(50)))
    settings = Settings(DAYS)
    execution = Execution.ending_now("here", datetime.datetime.now(datetime.UTC), 0)
    page = page_of(report, settings, execution, largest, "momentum-backfill")
    assert (page.title, page.outcome) == (
        "Backfill of 2026-03-01 to 2026-03-05",
        "Done, except for 2 rows that failed.",
    )
    assert (page.execution, page.resume, page.dry_run) == (execution, "momentum-backfill", False)
    assert [(day.day.day, day.present, day.filled, day.failed) for day in page.days] == [
        (1, 10, 0, 0),
        (2, 0, 0, 0),
        (3, 0, 0, 0),
        (4, 0, 0, 0),
        (5, 0, 4000, 2),
    ]
    assert [f"  {name:<30}{value:>12}" for name, value in page.totals[:-1]] == TOLD[:9]
    assert page.totals[-1] == ("elapsed time", "2.5 s")
    assert page.reasons == [("P0001", "no", 2)]
    assert page.settings == settings_of(settings)
    assert page.triggers == [str(trigger) for trigger in report.triggers]
    assert [found.score for found in page.discrepancies or ()] == [90]
    assert page.discrepancies_left_out == 1
    dry = page_of(replace(report, dry_run=True, discrepancies=None), settings, execution, LargestDiscrepancies(1), None)
    assert (dry.title, dry.dry_run, dry.discrepancies, dry.resume) == (f"Dry run of {DAYS}", True, None, None)
    assert [day.filled for day in dry.days] == [9, 0, 0, 0, 0]


def test_every_setting_is_told() -> None:
    limits = Limits(lock_timeout=0.5, statement_timeout=30, attempts=3)
    settings = Settings(
        DAYS, page_size=40, commit_every=80, workers=2, pause=0.25, limits=limits, discrepancy_threshold=Decimal("7.5")
    )
    assert settings_of(replace(settings, users=(uuid.UUID(int=1),) * 1200, max_error_rate=0.025)) == [
        ("days (UTC)", "2026-03-01 to 2026-03-05"),
        ("users", "1,200 named"),
        ("workers", "2"),
        ("rows per page", "40"),
        ("rows per commit", "80"),
        ("pause after a commit", "250 ms"),
        ("lock timeout", "0.5 s"),
        ("statement timeout", "30 s"),
        ("attempts", "3"),
        ("allowed error rate", "2.50%"),
        ("discrepancies from", "more than 7.5 points"),
    ]


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


def drawn(terminal: Terminal) -> str:
    """Return what is on a terminal, without colours and movements."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", terminal.getvalue())


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 200) -> Terminal:
    """Make standard error a terminal of that width."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    return terminal


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
    terminal = on_terminal(monkeypatch, columns)
    with Display.open(quiet=False, verbose=False, as_json=False) as shown:
        clock[0] += 10.0
        shown.progress(Progress(Report(DAYS, dry_run=False, failed=failed), done, total))
    frames = [line for line in re.split(r"[\r\n]", drawn(terminal)) if line.strip()]
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


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (UndoReport(Path("rows"), dry_run=False, listed=600), "Undo .* 600 rows looked at  1,200 rows/s  none failed"),
        (
            UndoReport(Path("rows"), dry_run=True, listed=9, failed=1),
            "Dry run .* 9 rows looked at  18 rows/s  1 failed",
        ),
    ],
)
def test_an_undo_has_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], report: UndoReport, told: str
) -> None:
    terminal = on_terminal(monkeypatch)
    with Display.open(quiet=False, verbose=False, as_json=False) as shown:
        clock[0] += 0.5
        shown.undo_progress(report)
    assert "deleted" not in drawn(terminal), "no line of a log"
    assert re.fullmatch(f"{told}\n", drawn(terminal).split("\r")[-1])


@pytest.mark.parametrize(
    ("report", "total", "told"),
    [
        (Report(DAYS, dry_run=False, inserted=600), None, "Backfill .* 600 user-days  1,200 rows/s  none failed"),
        (
            Report(DAYS, dry_run=True, inserted=600, failed=1),
            801,
            "Dry run .* 75% 600 of 801 user-days  1,200 rows/s  0:00:00 left  1 failed",
        ),
    ],
)
def test_a_run_has_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], report: Report, total: int | None, told: str
) -> None:
    terminal = on_terminal(monkeypatch)
    with Display.open(quiet=False, verbose=False, as_json=False) as shown:
        shown.write("before it")
        assert terminal.getvalue() == "before it\n", "there is no bar yet"
        clock[0] += 0.5
        report.commits = 1
        shown.progress(Progress(report, 600, total))
        shown.write("[bold]above it")
        shown.progress(Progress(report, 600, total))
    assert terminal.getvalue().count("\x1b[?25l") == 1, "the cursor is hidden once, for the one bar"
    assert "[bold]above it\n" in drawn(terminal)
    assert "committed" not in drawn(terminal), "no line of a log"
    assert re.fullmatch(f"{told}\n", drawn(terminal).split("\r")[-1])


@pytest.mark.parametrize("how", [{"quiet": True}, {"as_json": True}])
def test_no_bar_is_drawn_for_machines_or_if_only_errors_are_wanted(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]
) -> None:
    terminal = on_terminal(monkeypatch)
    with Display.open(**{"quiet": False, "verbose": False, "as_json": False, **how}) as shown:
        shown.progress(Progress(Report(DAYS, dry_run=False), 1, 1))
        shown.undo_progress(UndoReport(Path("rows"), dry_run=False))
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("quiet", "verbose", "told"),
    [(False, False, ["info", "error"]), (False, True, ["debug", "info", "error"]), (True, False, ["error"])],
)
def test_a_display_shows_as_much_of_the_log_as_is_wanted(
    capsys: pytest.CaptureFixture[str], quiet: bool, verbose: bool, told: list[str]
) -> None:
    with Display.open(quiet=quiet, verbose=verbose, as_json=True):
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            logging.getLogger("momentum.backfill.fill").log(level, "a step")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [(level, "a step") for level in told]


def test_an_error_is_in_words_unless_machines_are_to_read_it() -> None:
    stream = io.StringIO()
    Display(stream, quiet=False, verbose=False).complain("It is wrong.", 2)
    assert stream.getvalue() == "Error: It is wrong.\n"
