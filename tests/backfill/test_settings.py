"""The defaults stand once, and the command, its help and the documentation go by them; no database."""

import datetime
import inspect
import json
import re
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
import typer

from momentum.backfill import DayRange, Settings, cli
from momentum.backfill import settings as module
from momentum.backfill.cli import app, backfill
from momentum.backfill.days import DEFAULT_LENGTH
from momentum.backfill.eligibility import Eligibility
from momentum.backfill.report import Report, error_rate, is_too_many
from momentum.backfill.settings import Limits
from momentum.backfill.undo import UndoReport
from tests.backfilling import DAY, after_database, call, one_error_line

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "backfill.md").read_text(encoding="utf-8")


def test_the_help_does_not_wait_for_sqlalchemy_or_alembic() -> None:
    script = """
import json, sys
from momentum.backfill.cli import run
code = run(["--help"])
print(json.dumps([code, sorted({"sqlalchemy", "alembic", "psycopg"} & set(sys.modules))]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    assert any("--page-size" in line for line in shown)
    assert json.loads(last) == [0, []]


def test_a_run_with_and_without_the_command_has_the_same_settings() -> None:
    options = {name: parameter.default for name, parameter in inspect.signature(backfill).parameters.items()}
    settings = Settings(DayRange.choose(None, None, None, DAY))
    assert len(settings.days) == DEFAULT_LENGTH
    for name in (
        "active_within",
        "page_size",
        "commit_every",
        "workers",
        "gentle",
        "max_error_rate",
        "allow_webhooks",
        "allow_other_owners",
        "dry_run",
    ):
        assert options[name] == getattr(settings, name), name
    assert options["pause_ms"] / 1000 == settings.pause
    assert Decimal(str(options["discrepancy_threshold"])) == settings.discrepancy_threshold
    assert settings.limits == Limits(options["lock_timeout"], options["statement_timeout"], options["attempts"])
    assert settings.look_for_discrepancies is not options["no_discrepancies"]


def test_the_documentation_has_every_default_and_every_limit_of_a_number() -> None:
    rows = [line for line in DOCUMENT.splitlines() if line.startswith("| `--")]
    numbers = 0
    for parameter in typer.main.get_command(app).params:
        default = getattr(parameter, "default", None)
        if isinstance(default, bool) or not isinstance(default, int | float):
            continue
        numbers += 1
        [row] = [row for row in rows if f"`{parameter.opts[0]} " in row]
        assert re.search(rf"(default |\(){default:g}\b", row), f"docs/backfill.md: {parameter.opts[0]} is {default:g}"
    assert numbers >= 9
    assert re.search(rf"^\| `--days N` .*default {DEFAULT_LENGTH} \|$", DOCUMENT, re.MULTILINE)
    assert f"From {module.SAMPLE:,} rows on" in DOCUMENT


@pytest.mark.parametrize(
    ("option", "most"),
    [("--workers", 16), ("--page-size", 500), ("--commit-every", 1000), ("--active-within", 36_500)],
)
def test_an_option_has_a_largest_value(option: str, most: int) -> None:
    nowhere = ("--database-url", "postgresql://u@127.0.0.1:1/x")
    assert "cannot be reached" in call(option, str(most), *nowhere).stderr
    done = call(option, str(most + 1), *nowhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"less than or equal to {most};" in done.stderr


@pytest.mark.parametrize(
    ("option", "least", "less"),
    [
        ("--days", "1", "0"),
        ("--active-within", "1", "0"),
        ("--workers", "1", "0"),
        ("--page-size", "1", "0"),
        ("--commit-every", "1", "0"),
        ("--pause-ms", "0", "-1"),
        ("--lock-timeout", "0.001", "0"),
        ("--statement-timeout", "0.001", "0.0009"),
        ("--attempts", "1", "0"),
        ("--max-error-rate", "0", "-0.01"),
        ("--discrepancy-threshold", "0", "-0.01"),
    ],
)
def test_an_option_has_a_smallest_value(option: str, least: str, less: str) -> None:
    nowhere = ("--attempts", "1", "--database-url", "postgresql://u@127.0.0.1:1/x")
    assert "cannot be reached" in call(*nowhere[2:], option, least).stderr
    done = call(*nowhere, option, less)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'{option}': Input should be greater than or equal to {least};" in done.stderr


def test_a_share_of_failed_rows_is_at_most_all_of_them() -> None:
    nowhere = ("--database-url", "postgresql://u@127.0.0.1:1/x")
    assert "cannot be reached" in call("--max-error-rate", "1", *nowhere).stderr
    assert "less than or equal to 1;" in call("--max-error-rate", "1.01", *nowhere).stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--quiet", "--verbose"], "Give --quiet or --verbose, not both."),
        (["--discrepancies", "x.csv", "--no-discrepancies"], "Give --discrepancies or --no-discrepancies, not both."),
        (["--lock-timeout", "inf"], "--lock-timeout inf is not a finite number."),
        (["--statement-timeout", "inf"], "--statement-timeout inf is not a finite number."),
        (["--discrepancy-threshold", "inf"], "--discrepancy-threshold inf is not a finite number."),
        (
            ["--from", "2026-03-05", "--to", "2026-03-04"],
            "The range ends on 2026-03-04, before it begins on 2026-03-05.",
        ),
        (
            ["--from", "5 March"],
            "Invalid value for '--from': '5 March' is not a day; write it as YYYY-MM-DD; see momentum-backfill --help.",
        ),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_options_that_make_no_sense_are_refused_first(options: list[str], says: str) -> None:
    done = call(*options, url="postgresql://u@127.0.0.1:1/x")
    assert (done.returncode, one_error_line(done)) == (2, f"Error: {says}")


RANGE = DayRange(DAY - datetime.timedelta(days=1), DAY)
GIVEN_OPTIONS: list[tuple[tuple[str, ...], Settings]] = [
    (("--active-within", "7"), Settings(RANGE, active_within=7)),
    (
        ("--user", f"{uuid.UUID(int=2)}", "--user", f"{uuid.UUID(int=1)}"),
        Settings(RANGE, (uuid.UUID(int=2), uuid.UUID(int=1))),
    ),
    (("--page-size", "20", "--commit-every", "40"), Settings(RANGE, page_size=20, commit_every=40)),
    (("--workers", "3", "--pause-ms", "250"), Settings(RANGE, workers=3, pause=0.25)),
    (("--gentle",), Settings(RANGE, gentle=True)),
    (
        ("--lock-timeout", "0.5", "--statement-timeout", "9.5", "--attempts", "2"),
        Settings(RANGE, limits=Limits(0.5, 9.5, 2)),
    ),
    (("--max-error-rate", "0.25", "--dry-run"), Settings(RANGE, max_error_rate=0.25, dry_run=True)),
    (("--max-error-rate", "0.1"), Settings(RANGE, max_error_rate=0.1)),
    (("--allow-webhooks",), Settings(RANGE, allow_webhooks=True)),
    (("--allow-other-owners",), Settings(RANGE, allow_other_owners=True)),
    (("--no-discrepancies",), Settings(RANGE, look_for_discrepancies=False)),
    (("--discrepancy-threshold", "2.5"), Settings(RANGE, discrepancy_threshold=Decimal("2.5"))),
    (("--report", "page.html"), Settings(RANGE, count_by_day=True)),
    ((), Settings(RANGE)),
]


@pytest.mark.parametrize(
    ("options", "settings"), GIVEN_OPTIONS, ids=[" ".join(options) for options, _ in GIVEN_OPTIONS]
)
def test_every_option_reaches_the_run_and_the_command_that_resumes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, ...], settings: Settings
) -> None:
    """What a run does with its settings is for other tests: this one has none, only its report."""
    given: list[Settings] = []

    def execute(_url: object, settings: Settings, *_: object) -> Report:
        given.append(settings)
        return Report(settings.days, dry_run=settings.dry_run, eligible=10, inserted=9, failed=1)

    monkeypatch.setattr(cli, "today_of", lambda *_: DAY + datetime.timedelta(days=1))
    monkeypatch.setattr(cli, "execute", execute)
    monkeypatch.chdir(tmp_path)
    done = call("--days", "2", *options, url="postgresql://u@127.0.0.1:1/x")
    assert given == [settings]
    resume = ["momentum-backfill", "--from", str(RANGE.first), "--to", str(RANGE.last), *options]
    told = [line for line in done.stdout.splitlines() if line.startswith("To resume: ")]
    assert told == ([] if settings.dry_run else [f"To resume: {' '.join(resume)}"])
    above = "1 of 10 eligible user-days failed (10.00%), above the limit of 1.00%; the log names them."
    judged = (0, "") if settings.max_error_rate >= 0.1 else (1, f"Error: {above}\n")
    assert (done.returncode, after_database(done)) == judged


@pytest.mark.parametrize(
    ("limits", "settings"),
    [
        (Limits(), {"lock_timeout": "2000ms", "statement_timeout": "60000ms"}),
        (Limits(0.0001, 0.25), {"lock_timeout": "1ms", "statement_timeout": "250ms"}),
    ],
)
def test_a_transaction_gets_its_time_limits_and_the_settings_of_the_planner(
    limits: Limits, settings: dict[str, str]
) -> None:
    assert limits.for_transaction({}) == settings
    assert limits.for_transaction({"jit": "off"}) == {**settings, "jit": "off"}


def test_an_attempt_lasts_ten_seconds_after_a_lost_connection() -> None:
    assert (Limits().reconnecting, Limits(attempts=3).reconnecting) == (80, 30)


@pytest.mark.parametrize(
    ("active_within", "since"),
    [(None, "2026-03-05"), (0, "2026-03-05"), (1, "2026-03-04"), (5, "2026-02-28"), (36_500, "1926-03-30")],
)
def test_a_sign_in_counts_from_the_first_day_minus_a_number_of_days(active_within: int | None, since: str) -> None:
    now = datetime.datetime(2026, 3, 9, tzinfo=datetime.UTC)
    rules = Eligibility(frozenset(), DayRange(DAY, DAY + datetime.timedelta(days=3)), now, active_within=active_within)
    assert rules.since == datetime.datetime.fromisoformat(f"{since} 00:00+00:00")


def test_a_sign_in_counts_from_the_beginning_of_the_calendar_at_the_earliest() -> None:
    day = datetime.date(1, 1, 9)
    now = datetime.datetime(2026, 3, 9, tzinfo=datetime.UTC)
    rules = [Eligibility(frozenset(), DayRange(day, day), now, active_within=days) for days in (8, 9)]
    assert [each.since.date() for each in rules] == [datetime.date.min] * 2


def test_a_page_lists_at_most_5000_discrepancies() -> None:
    assert cli.MOST_ON_A_PAGE == 5000
    assert "the largest discrepancies (at most 5,000)" in DOCUMENT


@pytest.mark.parametrize(("failed", "rows", "rate"), [(0, 0, 0.0), (0, 10, 0.0), (1, 4, 0.25), (4, 4, 1.0)])
def test_the_error_rate_is_the_share_of_rows_that_failed(failed: int, rows: int, rate: float) -> None:
    assert error_rate(failed, rows) == rate


def test_a_report_begins_with_nothing_counted() -> None:
    report, undo = Report(DayRange(DAY, DAY), dry_run=True), UndoReport(ROOT / "rows.jsonl", dry_run=True)
    assert (report.attempted, undo.attempted) == (0, 0)
    counts = {name: value for one in (report, undo) for name, value in vars(one).items() if name not in GIVEN}
    assert counts.pop("workers") == 1
    assert not any(counts.values())


GIVEN = ("days", "manifest", "dry_run")


def test_rows_that_were_inserted_raced_or_failed_were_attempted() -> None:
    report = Report(DayRange(DAY, DAY), dry_run=False, eligible=110, present=100, inserted=5, raced=2, failed=3)
    assert (report.attempted, report.error_rate) == (10, 3 / 110)
    undo = UndoReport(ROOT / "rows.jsonl", dry_run=False, kept=50, absent=30, deleted=9, failed=1)
    assert (undo.attempted, undo.error_rate) == (10, 1 / 40)


@pytest.mark.parametrize(
    ("failed", "attempted", "stops"),
    [(10, 1000, False), (11, 1000, True), (999, 999, False), (1000, 1000, True), (0, 5000, False)],
)
def test_a_run_stops_above_the_error_rate_but_not_before_a_thousand_rows(
    failed: int, attempted: int, stops: bool
) -> None:
    assert is_too_many(failed, attempted, 0.01) is stops


def test_a_run_that_allows_every_row_to_fail_never_stops() -> None:
    assert not is_too_many(5000, 5000, 1.0)


def test_a_page_and_a_commit_have_at_most_500_and_1000_rows() -> None:
    assert (module.MOST_ROWS_PER_PAGE, module.MOST_ROWS_PER_COMMIT) == (500, 1000)


def test_the_rate_for_machines_has_one_decimal() -> None:
    days = DayRange.choose(None, None, 1, DAY)
    report = Report(days, dry_run=False, inserted=1000, phases={"fill": 3.0})
    assert report.as_json(None)["rows_per_s"] == 333.3
