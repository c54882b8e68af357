"""`--report`, and what else a person sees of a run: the page's figures are the run's, whatever the run came to."""

import csv
import datetime
import json
import os
import pty
import re
import subprocess
import uuid
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Observers, Report, Settings, run_backfill
from momentum.backfill.discrepancies import Discrepancy, LargestDiscrepancies, as_lines
from momentum.backfill.display import (
    duration,
    outcome_of,
    page_of,
    print_report,
    settings_of,
)
from momentum.backfill.report import Execution, add_reason, error_rate, is_too_many
from momentum.backfill.triggers import Trigger
from momentum.testing import Server
from momentum.testing.servers import migrate
from tests.backfilling import HANGS, PROGRAM, backfill, one_error_line, run_out_of_time, with_password
from tests.migrating import run
from tests.samples import SCORE_TABLES, add_users, refuse_rows
from tests.server import engine_of

FIRST, LAST = datetime.date(2026, 3, 1), datetime.date(2026, 3, 5)
DAYS = DayRange(FIRST, LAST)
NOW = datetime.datetime(2026, 3, 6, 0, 20, tzinfo=datetime.UTC)
EXECUTION = Execution("db.example.com:5432/postgres", NOW, NOW + datetime.timedelta(seconds=75), 0)


@pytest.fixture
def engine(url: sa.URL) -> sa.Engine:
    return engine_of(url)


def discrepancy(score: int, number: int = 0) -> Discrepancy:
    return Discrepancy(uuid.UUID(int=number), LAST, Decimal(score), Decimal(50))


def test_the_page_of_a_run_has_its_counts_its_failures_and_the_command_for_the_rest(
    url: sa.URL, engine: sa.Engine, tmp_path: Path
) -> None:
    users = add_users(engine, 3)
    with engine.begin() as connection:
        connection.execute(
            sa.text("""
                insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
                values (:user, '2026-03-02 12:00:00+00', 90, '{"sleep": 40}')
            """),
            {"user": users[0]},
        )
    refuse_rows(engine, f"new.user_id = '{users[1]}' and new.score_ts = '2026-03-04'", "raise exception '<b>no</b>';")
    path = tmp_path / "page.html"
    done = backfill("--from", str(FIRST), "--to", str(LAST), "--max-error-rate", "0.5", "--report", str(path), url=url)
    assert done.returncode == 0
    page = path.read_text(encoding="utf-8")
    assert "Done, except for 1 row that failed." in page
    text = re.sub(r"<[^>]+>", "", page)
    assert f"momentum-backfill --from {FIRST} --to {LAST} --max-error-rate 0.5 --report {path}" in text
    assert str(users[0]) in page, "the discrepancy is there to review"
    assert "<b>no</b>" not in page
    reasons = page.split("<h2>Why rows failed</h2>")[1].split("</table>")[0]
    assert re.search(r"<td>1</td>.*>P0001<.*>&lt;b&gt;no&lt;/b&gt;<", reasons), "why the row failed"
    assert re.search(r"<dt>elapsed time</dt><dd>[\d.]+ s</dd>", page)
    assert "<dt>transactions tried again</dt><dd>0</dd>" in page
    assert re.search(r"^  1 failed: P0001 <b>no</b>$", done.stdout, re.MULTILINE)
    assert str(url.database) in page


@pytest.mark.parametrize("active_within", [None, 2])
def test_by_day_present_filled_and_failed_add_up_to_the_totals(engine: sa.Engine, active_within: int | None) -> None:
    users = add_users(engine, 4, last_sign_in_at=datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC))
    # Never seen, and with a score all the same: eligible where activity plays no part.
    [stranger] = add_users(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.text("""
                insert into legacy.daily_engagement_scores (user_id, score_ts, score)
                select u, '2026-03-02 12:00:00+00', 50 from unnest(cast(:users as uuid[])) as u
            """),
            {"users": [*users[:2], stranger]},
        )
    refuse_rows(engine, f"new.user_id = '{users[3]}' and new.score_ts = '2026-03-05'", "raise exception 'no';")
    settings = Settings(DAYS, active_within=active_within, count_by_day=True)
    report = run_backfill(engine, settings)
    everybody = 5 if active_within is None else 4
    for day in DAYS:
        counts = (report.present_by_day[day], report.inserted_by_day[day], report.failed_by_day[day])
        assert sum(counts) == everybody, day
    assert report.present_by_day[datetime.date(2026, 3, 2)] == (3 if active_within is None else 2)
    assert report.present_by_day.total() == report.present
    assert report.inserted_by_day.total() == report.inserted
    assert report.failed_by_day.total() == report.failed == 1
    assert report.reasons == {("P0001", "no"): 1}
    page = page_of(report, settings, EXECUTION, LargestDiscrepancies(5), None)
    assert [(day.day, day.total) for day in page.days] == [(day, everybody) for day in DAYS]


def test_the_page_of_a_dry_run_shows_what_would_be_filled(url: sa.URL, engine: sa.Engine, tmp_path: Path) -> None:
    add_users(engine, 2)
    path = tmp_path / "page.html"
    done = backfill("--to", str(LAST), "--days", "2", "--dry-run", "--no-discrepancies", "--report", str(path), url=url)
    assert done.returncode == 0
    page = path.read_text(encoding="utf-8")
    assert "Dry run; nothing was written." in page
    assert "would be filled" in page


def test_a_page_that_could_not_be_written_is_refused_before_anything_is_filled(url: sa.URL, engine: sa.Engine) -> None:
    add_users(engine, 2)
    for option in ("--report", "--manifest", "--failures"):
        done = backfill("--to", str(LAST), "--days", "2", option, "/nowhere/file", url=url)
        assert done.returncode == 2
        assert f"{option} /nowhere/file cannot be written" in one_error_line(done)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("select count(*) from legacy.daily_engagement_scores")) == 0


def test_a_manifest_that_cannot_be_written_on_the_way_stops_the_run(url: sa.URL, engine: sa.Engine) -> None:
    add_users(engine, 2)
    done = backfill("--to", str(LAST), "--days", "2", "--manifest", "/dev/full", url=url)
    assert done.returncode == 2
    assert "--manifest /dev/full could not be written" in done.stderr


def test_the_largest_differences_are_kept_and_the_others_counted() -> None:
    largest = LargestDiscrepancies(2)
    for number, score in enumerate((56, 10, 20, 57, 90, 90, 10)):
        largest.add(discrepancy(score, (7 - number) % 7))
    assert [found.score for found in largest] == [10, 90], "and of equal differences those of the first users"
    assert [found.user_id.int for found in largest] == [1, 2]
    assert largest.left_out == 5
    for number, odd in enumerate(("NaN", "-Infinity", "Infinity")):
        largest.add(Discrepancy(uuid.UUID(int=number), LAST, Decimal(odd), Decimal(50)))
    assert [str(found.score) for found in largest] == ["NaN", "-Infinity"], "a number without an order is a large one"
    assert largest.left_out == 8
    none = LargestDiscrepancies(0)
    none.add(discrepancy(1))
    assert (list(none), none.left_out) == ([], 1)


@pytest.mark.parametrize(
    ("score", "breakdown_score", "said"),
    [
        ("90.00", "75", "90 - 75 = +15"),
        ("33.333333", "66.6666666", "33.33 - 66.67 = -33.33"),
        ("100.00", "-9999.999", "100 - -10,000 = +10,100"),
        ("9999.99", "-9999.99", "9,999.99 - -9,999.99 = +2.00e+4"),
        ("99999.99", "-99999.99", "1.00e+5 - -1.00e+5 = +2.00e+5"),
        ("-Infinity", "1E+300", "-Infinity - 1e+300 = -Infinity"),
        ("0", "-123456789E+30", "0 - -1.23457e+38 = +1.23457e+38"),
    ],
)
def test_a_line_of_a_score_to_review_fits_on_a_terminal(score: str, breakdown_score: str, said: str) -> None:
    [line] = as_lines([Discrepancy(uuid.UUID(int=7), LAST, Decimal(score), Decimal(breakdown_score))])
    assert line == f"{LAST} {uuid.UUID(int=7)} {said}"
    assert len(line) <= 80


def test_lines_of_scores_to_review_are_aligned() -> None:
    lines = as_lines([discrepancy(100, 1), discrepancy(5, 2), discrepancy(-1000, 3)])
    assert [line[48:] for line in lines] == ["-1,000 - 50 = -1,050", "   100 - 50 =    +50", "     5 - 50 =    -45"]
    assert as_lines([]) == []


def test_scores_that_are_no_finite_numbers_are_discrepancies_like_others(server: Server, tmp_path: Path) -> None:
    page, review = tmp_path / "page.html", tmp_path / "review.csv"
    table = SCORE_TABLES["seed"].format(schema="legacy").replace("numeric(5, 2)", "numeric")
    with server.database(migrated=False) as url:
        run(url, table)
        for user, score in zip(add_users(engine_of(url), 4), ("NaN", "Infinity", "-Infinity", "90"), strict=True):
            run(
                url,
                "insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown) "
                f"values ('{user}', '{LAST} 12:00+00', '{score}', '{{\"sleep\": 40}}')",
            )
        migrate(url)
        options = ("--to", str(LAST), "--days", "1", "--json", "--report", str(page), "--discrepancies", str(review))
        done = backfill(*options, url=url)
    assert (done.returncode, json.loads(done.stdout)["discrepancies"]) == (0, 4), done.stderr
    with review.open(newline="") as stream:
        rows = [(row["score"], row["difference"]) for row in csv.DictReader(stream)]
    expected = {("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("90", "50")}
    assert set(rows) == expected
    assert all(f">{score}<" in page.read_text(encoding="utf-8") for score in ("NaN", "Infinity", "-Infinity", "90"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "Done; every eligible user-day has a row."),
        ({"dry_run": True}, "Dry run; nothing was written."),
        ({"interrupted": True}, "Interrupted; committed rows stay, and the run can be resumed."),
        ({"gave_up": True, "failed": 30, "inserted": 1}, "30 rows failed, more than the allowed share of 1.00%."),
        ({"failed": 2, "eligible": 199}, "2 rows failed, more than the allowed share of 1.00%."),
        ({"failed": 1, "eligible": 1}, "1 row failed, more than the allowed share of 1.00%."),
        ({"failed": 1, "eligible": 100}, "Done, except for 1 row that failed."),
        ({"failed": 2, "eligible": 200}, "Done, except for 2 rows that failed."),
        ({"left_over": 1}, "The recount found 1 eligible user-day without a row; run it again."),
        ({"left_over": 4}, "The recount found 4 eligible user-days without a row; run it again."),
    ],
)
def test_a_run_says_in_a_sentence_how_it_ended(changes: dict[str, int], says: str) -> None:
    report = Report(DAYS, dry_run=False)
    for name, value in changes.items():
        setattr(report, name, value)
    assert outcome_of(report, Settings(DAYS)) == says


def test_settings_and_triggers_are_told_in_words() -> None:
    told = dict(settings_of(Settings(DAYS, users=(uuid.uuid4(),), active_within=7, look_for_discrepancies=False)))
    assert told["users"] == "1 named, seen within 7 days"
    assert dict(settings_of(Settings(DAYS, active_within=1)))["users"] == "all active, seen within 1 day"
    assert "discrepancies from" not in told
    assert dict(settings_of(Settings(DAYS)))["discrepancies from"] == "more than 5 points"
    trigger = Trigger("t", "after insert for each row", "public.f", (), calls_out=False)
    assert str(trigger).endswith("public.f() changes nothing outside the row")


EMPTY = {
    "dry_run": False,
    "from": "2026-03-01",
    "to": "2026-03-05",
    "workers": 1,
    "users": 0,
    "eligible": 0,
    "present": 0,
    "inserted": 0,
    "raced": 0,
    "failed": 0,
    "failures": [],
    "reasons": [],
    "error_rate": 0.0,
    "retries": 0,
    "pages": 0,
    "commits": 0,
    "paused_s": {},
    "slowest_page_s": 0.0,
    "elapsed_s": 0.0,
    "phases_s": {},
    "rows_per_s": 0.0,
    "left_over": None,
    "discrepancies": None,
    "triggers": [],
    "interrupted": False,
    "resume": None,
}


def test_a_report_begins_with_nothing_and_rounds_its_figures_for_machines_only() -> None:
    empty = Report(DAYS, dry_run=False)
    assert empty.as_json(None) == EMPTY
    assert (empty.passed_over, empty.uncounted, empty.gave_up, empty.unfinished) == (0, False, False, False)
    trigger = Trigger("t", "after insert", "public.f", ("notifies",), calls_out=True)
    report = Report(
        DAYS,
        dry_run=False,
        eligible=7,
        inserted=2,
        raced=3,
        failed=1,
        slowest_page_seconds=1.23456789,
        elapsed_seconds=2.3456789,
        phases={"fill": 1.7654321, "recount": 0.00049},
        triggers=(trigger,),
    )
    assert report.as_json("the rest") == {
        **EMPTY,
        "eligible": 7,
        "inserted": 2,
        "raced": 3,
        "failed": 1,
        "error_rate": 0.142857,
        "slowest_page_s": 1.2346,
        "elapsed_s": 2.346,
        "phases_s": {"fill": 1.765, "recount": 0.0},
        "rows_per_s": 1.1,
        "triggers": [
            {"name": "t", "fires": "after insert", "function": "public.f", "effects": ["notifies"], "calls_out": True}
        ],
        "resume": "the rest",
    }
    assert (report.attempted, report.committed) == (6, 2)
    assert Report(DAYS, dry_run=True, inserted=2).committed == 0


@pytest.mark.parametrize(
    ("changes", "unfinished"),
    [
        ({}, False),
        ({"failed": 1}, True),
        ({"interrupted": True}, True),
        ({"gave_up": True}, True),
        ({"left_over": 0}, False),
        ({"left_over": 1}, True),
        ({"left_over": 2, "failed": 2}, True),
    ],
)
def test_a_run_that_leaves_something_is_unfinished(changes: dict[str, int], unfinished: bool) -> None:
    report = Report(DAYS, dry_run=False, **changes)  # type: ignore[arg-type]
    assert report.unfinished is unfinished
    assert report.recount_disagrees is (changes.get("left_over", 0) > changes.get("failed", 0))


@pytest.mark.parametrize(
    ("failed", "attempted", "too_many"),
    [(0, 0, False), (999, 999, False), (10, 1000, False), (11, 1000, True), (1000, 1000, True), (11, 1101, False)],
)
def test_a_share_of_failures_is_too_many_once_enough_rows_were_tried(
    failed: int, attempted: int, too_many: bool
) -> None:
    assert is_too_many(failed, attempted, 0.01) is too_many
    assert error_rate(failed, attempted) == (failed / attempted if attempted else 0.0)


def test_an_execution_ends_when_it_is_reported() -> None:
    before = datetime.datetime.now(datetime.UTC)
    ended = Execution.ending_now("db", NOW, 3)
    assert before <= ended.finished_at <= datetime.datetime.now(datetime.UTC)
    assert (ended.database, ended.started_at, ended.exit_code) == ("db", NOW, 3)


def test_reasons_beyond_what_is_held_are_counted_together(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(DAYS, dry_run=False)
    for number in range(150):
        add_reason(report.reasons, "P0001", f"no {number}")
        add_reason(report.reasons, "P0001", "no 7")
    assert len(report.reasons) == 101
    assert report.reasons.total() == 300
    assert report.as_json(None)["reasons"][:3] == [
        {"sqlstate": "P0001", "message": "no 7", "failed": 151},
        {"sqlstate": "", "message": "other reasons", "failed": 50},
        {"sqlstate": "P0001", "message": "no 0", "failed": 1},
    ]
    print_report(report, Settings(DAYS), None)
    shown = capsys.readouterr().out.splitlines()
    told = shown[shown.index("  151 failed: P0001 no 7") :]
    assert told[1:6] == [
        "  50 failed: other reasons",
        *(f"  1 failed: P0001 no {number}" for number in range(3)),
        "  96 failed for further reasons",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "0:01:00"), (75, "0:01:15"), (90_000, "1 day, 1:00:00")],
)
def test_a_time_is_told_in_the_units_in_which_people_read_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.slow
def test_an_undo_draws_a_bar_on_a_terminal(url: sa.URL, engine: sa.Engine, tmp_path: Path) -> None:
    add_users(engine, 3)
    manifest = tmp_path / "rows.jsonl"
    assert backfill("--to", str(LAST), "--days", "2", "--manifest", str(manifest), url=url).returncode == 0
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "--undo", str(manifest)],
        env={**os.environ, "MOMENTUM_DATABASE_URL": with_password(url), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 4096):
            shown += chunk
    except OSError:
        pass  # The terminal is gone when the program has ended.
    os.close(controller)
    stdout, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0
    assert b"6 rows looked at" in shown
    assert b"none failed" in shown
    assert re.search(rb"deleted +6\n", stdout)


def test_discrepancies_beyond_what_is_held_at_once_are_read_in_smaller_pieces(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = add_users(engine, 9)
    with engine.begin() as connection:
        connection.execute(
            sa.text("""
                insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
                select u, d, 90, '{"a": 1}'
                from unnest(cast(:users as uuid[])) as u, generate_series(timestamptz '2026-03-01 12:00+00',
                  '2026-03-05 12:00+00', '1 day') as d
            """),
            {"users": users},
        )
    monkeypatch.setattr("momentum.backfill.run.DISCREPANCIES_PER_READ", 10)
    found: list[Discrepancy] = []
    report = run_backfill(engine, Settings(DAYS), on_discrepancy=found.append)
    assert report.discrepancies == len(found) == 45
    assert Counter(one.user_id for one in found) == dict.fromkeys(users, 5)


def test_a_count_that_takes_too_long_costs_the_progress_its_total_and_nothing_else(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_users(engine, 2)

    def count(_pages: object, connection: sa.Connection) -> int:
        run_out_of_time(connection)
        raise AssertionError("the server has let it run")

    monkeypatch.setattr("momentum.backfill.pages.Pages.count_candidates", count)
    totals: list[int | None] = []
    report = run_backfill(engine, Settings(DAYS), observers=Observers(lambda progress: totals.append(progress.total)))
    assert report.inserted == 10
    assert set(totals) == {None}
