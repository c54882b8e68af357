"""The command through its real entry point: options, exit codes, what is printed where, and no secret anywhere."""

import csv
import datetime
import json
import os
import pty
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum import __version__
from momentum.backfill import cli
from momentum.backfill.display import Display
from momentum.connect.engine import create_engine
from momentum.connect.url import written
from momentum.testing import Server
from tests.backfilling import HANGS, PASSWORD, PROGRAM, after_database, backfill, call, one_error_line, with_password
from tests.migrating import fetch, wait_until
from tests.processes import Process
from tests.samples import LONG_AGO, add_users, refuse_rows
from tests.server import engine_of

DAY = "2026-03-05"
JSON_KEYS = [
    "database",
    "version",
    "started_at",
    "finished_at",
    "exit_code",
    "dry_run",
    "from",
    "to",
    "workers",
    "users",
    "eligible",
    "present",
    "inserted",
    "raced",
    "failed",
    "failures",
    "reasons",
    "error_rate",
    "retries",
    "pages",
    "commits",
    "paused_s",
    "slowest_page_s",
    "elapsed_s",
    "phases_s",
    "rows_per_s",
    "left_over",
    "discrepancies",
    "triggers",
    "interrupted",
    "resume",
]


@pytest.fixture
def engine(url: sa.URL) -> sa.Engine:
    return engine_of(url)


def add_discrepancies(engine: sa.Engine, users: list[uuid.UUID]) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text("""
                insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
                select u, '2026-03-05 12:00:00+00', 90, '{"sleep": 40}' from unnest(cast(:users as uuid[])) as u
            """),
            {"users": users},
        )


def count_scores(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.text("select count(*) from legacy.daily_engagement_scores")) or 0)


def test_help_names_every_option_groups_them_and_lists_the_exit_codes() -> None:
    done = backfill("--help", COLUMNS="200", NO_COLOR="1", TERM="dumb")
    assert done.returncode == 0
    options = (
        "database-url env-file days from to user active-within dry-run workers page-size commit-every pause-ms gentle "
        "lock-timeout statement-timeout attempts allow-webhooks allow-other-owners max-error-rate manifest undo "
        "discrepancy-threshold discrepancies no-discrepancies failures report metrics json log-format quiet "
        "verbose version"
    )
    for option in options.split():
        assert re.search(rf"--{option}\b", done.stdout), f"--{option} is in the help"
    assert "Examples" in done.stdout
    assert "130 interrupted" in done.stdout


def test_version_is_the_packages() -> None:
    done = backfill("--version")
    assert (done.returncode, done.stdout) == (0, f"momentum-backfill {__version__}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nope"], "--nope"),
        (["--days", "many"], "--days"),
        (["--from", "2026-03-05", "--days", "3"], "not both"),
        (["--days", "99999999"], "calendar"),
        (["--to", "0001-01-01"], "--days 30 reaches back beyond the calendar"),
        (["--env-file", ""], "env file"),
        (["--env-file", "~no_such_user/supabase.env"], "home directory"),
        (["--user", "somebody"], "--user"),
        (["--discrepancy-threshold", "nan"], "--discrepancy-threshold"),
        (["--max-error-rate", "nan"], "--max-error-rate"),
        (["--lock-timeout", "nan"], "--lock-timeout"),
        (["--discrepancies", "/nowhere/x.csv"], "cannot be written"),
        (["--env-file", "/nowhere/supabase.env"], "/nowhere/supabase.env"),
        ([], "No database URL: give --database-url or set MOMENTUM_DATABASE_URL or DATABASE_URL, or write "),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    needs_url = arguments[:1] == ["--discrepancies"]
    done = backfill(*arguments, url="postgresql://u@127.0.0.1:1/x" if needs_url else None)
    assert done.returncode == 2
    assert says in one_error_line(done)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://root:{PASSWORD}@127.0.0.1/x",
        f"postgresql://root:{PASSWORD}@127.0.0.1:port/x",
        f"root:{PASSWORD}@127.0.0.1/x",
        f"postgresql://root:{PASSWORD}@127.0.0.1",
        f"postgresql://root:a@{PASSWORD}@127.0.0.1/x",
        f"postgresql://root:{PASSWORD}@127.0.0.1/x?dbname=y",
        f"postgresql://root:{PASSWORD}@127.0.0.1/x?host=y",
        f"postgresql://root:{PASSWORD}@127.0.0.1:5432/x?port=6543",
        f"postgresql://root:{PASSWORD}@127.0.0.1/x?hostaddr=127.0.0.2",
        f"postgresql://root:Pa@55/{PASSWORD}@127.0.0.1/x",
        f"postgresql://root:Pa/{PASSWORD}@127.0.0.1/x",
        f"postgresql://root:{PASSWORD}@127.0.0.1/x?prepare_threshold=often",
        f"postgresql://root:{PASSWORD}@127.0.0.1/x?autocommit=true",
        f"postgresql://root:{PASSWORD}@127.0.0.1/x?service=unknown",
    ],
)
def test_a_url_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    done = backfill("--database-url", url)
    assert done.returncode == 2
    assert "--database-url" in one_error_line(done)
    assert "from MOMENTUM_DATABASE_URL" in one_error_line(backfill(url=url))


def test_a_refused_url_is_named_by_where_it_comes_from() -> None:
    url = f"mysql://root:{PASSWORD}@127.0.0.1/x"
    assert "from --database-url is" in one_error_line(call("--database-url", url))
    assert "from MOMENTUM_DATABASE_URL is" in one_error_line(call(url=url))
    assert "from --database-url is" in one_error_line(call("--database-url", url, url="postgresql:///other"))


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
STOPPING = "Stopping after this page; interrupt again to abort at once.\n"


@pytest.mark.parametrize(("number", "exit_code"), SIGNALS)
def test_a_signal_is_remembered_and_the_next_one_aborts(
    capfd: pytest.CaptureFixture[str], number: signal.Signals, exit_code: int
) -> None:
    before = [signal.getsignal(each) for each, _ in SIGNALS]
    with cli.stop_signals(Display(sys.stderr, quiet=False, verbose=False)) as stopped:
        assert (stopped.asked(), stopped.aborted, stopped.exit_code) == (False, False, 130)
        signal.raise_signal(number)
        assert (stopped.asked(), stopped.aborted, stopped.exit_code) == (True, False, exit_code)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert (stopped.asked(), stopped.aborted, stopped.exit_code) == (True, True, exit_code)
    assert [signal.getsignal(each) for each, _ in SIGNALS] == before
    assert capfd.readouterr().err == STOPPING


def test_the_end_of_a_terminal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with cli.stop_signals(Display(sys.stderr, quiet=False, verbose=False)) as stopped:
            signal.raise_signal(signal.SIGHUP)
            assert not stopped.asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "exit_code"), SIGNALS)
def test_an_undo_that_a_signal_stops_ends_with_the_signals_exit_code(
    monkeypatch: pytest.MonkeyPatch, url: sa.URL, tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    """The signal comes with the first question whether to stop."""
    engine = engine_of(url)
    add_users(engine, 3)
    manifest = tmp_path / "rows.jsonl"
    assert call("--to", DAY, "--days", "1", "--manifest", str(manifest), url=url).returncode == 0
    asked = cli.StopSignals.asked

    def ask(stopped: cli.StopSignals) -> bool:
        if not asked(stopped):
            signal.raise_signal(number)
        return asked(stopped)

    monkeypatch.setattr(cli.StopSignals, "asked", ask)
    done = call("--undo", str(manifest), url=url)
    assert done.returncode == exit_code
    assert ", interrupted:" in done.stdout
    assert "To resume: momentum-backfill " in done.stdout
    assert re.search(rf"deleted +{3 - count_scores(engine)}\n", done.stdout)


@pytest.mark.parametrize(
    "before",
    [[], ["--env-file"], ["--days"], ["--report"], ["--manifest"], ["--user"], ["--nope"], ["--"], ["--env-file="]],
    ids=str,
)
@pytest.mark.parametrize("url", [f"postgresql://root:Pa@55/{PASSWORD}@127.0.0.1/x", f"mysql://root:{PASSWORD} b@h/x"])
def test_a_url_in_a_wrong_place_is_not_repeated(before: list[str], url: str) -> None:
    joined = before == ["--env-file="]
    done = backfill(*([f"--env-file={url}"] if joined else [*before, url]))
    assert done.returncode == 2
    assert one_error_line(done) == "Error: A URL belongs after --database-url only; see momentum-backfill --help."


def test_an_unreachable_server_is_one_line_with_host_and_port_and_exit_code_3() -> None:
    done = backfill(url=f"postgresql://root:{PASSWORD}@127.0.0.1:1/x")
    assert done.returncode == 3
    assert "127.0.0.1:1/x" in one_error_line(done)


def test_a_database_is_named_as_the_environment_has_it() -> None:
    done = backfill(url="postgresql:///t0", PGHOST="127.0.0.1", PGPORT="1")
    assert done.returncode == 3
    assert "127.0.0.1:1/t0" in one_error_line(done)


@pytest.mark.parametrize("threshold", ["0", "none"])
def test_the_url_says_when_statements_are_prepared(url: sa.URL, threshold: str) -> None:
    said = written(url.update_query_dict({"prepare_threshold": threshold}))
    done = backfill("--days", "1", url=said)
    assert done.returncode == 0, done.stderr


def test_a_database_that_is_not_migrated_is_one_line_and_exit_code_3(supabase_url: sa.URL) -> None:
    done = backfill(url=supabase_url)
    assert done.returncode == 3
    assert "upgrade it to head with the momentum migrations" in one_error_line(done)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_both_spellings_of_the_url_work(url: sa.URL, scheme: str) -> None:
    done = backfill("--database-url", with_password(url).replace("postgresql", scheme, 1), "--days", "1")
    assert done.returncode == 0


def test_a_named_env_file_beats_the_environment_and_the_environment_the_default_one(
    url: sa.URL, home: Path, tmp_path: Path
) -> None:
    dead = f"postgresql://root:{PASSWORD}@127.0.0.1:1/x"
    alive = with_password(url)
    default = home / ".bee_secrets" / "supabase.env"
    default.parent.mkdir(exist_ok=True)
    default.touch(mode=0o600)
    default.write_text(f"SUPABASE_SERVICE_ROLE_KEY={PASSWORD}\nSUPABASE_DB_URL='{alive}'\nDATABASE_URL={dead}\n")
    try:
        assert backfill("--days", "1").returncode == 0
        assert backfill("--days", "1", DATABASE_URL=dead).returncode == 3
        assert backfill("--days", "1", url=alive, DATABASE_URL=dead).returncode == 0
        assert backfill("--days", "1", "--database-url", dead, url=alive).returncode == 3
        other = tmp_path / "other.env"
        other.touch(mode=0o600)
        other.write_text(f'DATABASE_URL="{dead}"\n')
        assert backfill("--days", "1", "--env-file", str(other)).returncode == 3
        for variable in ("MOMENTUM_DATABASE_URL", "DATABASE_URL"):
            done = backfill("--days", "1", "--env-file", str(other), **{variable: alive})
            assert (done.returncode, done.stderr.splitlines()[0]) == (3, "Database: 127.0.0.1:1/x")
        assert backfill("--days", "1", "--env-file", str(other), "--database-url", alive).returncode == 0
        other.write_text("NOTHING=here\n")
        assert backfill("--days", "1", "--env-file", str(other), url=alive).returncode == 0
        done = backfill("--days", "1", "--env-file", str(other))
        assert done.returncode == 2
        assert str(other) in one_error_line(done)
    finally:
        default.unlink()


def test_json_is_one_object_with_the_promised_keys_and_sums(url: sa.URL, engine: sa.Engine) -> None:
    users = add_users(engine, 3)
    add_discrepancies(engine, users[:1])
    done = backfill("--from", "2026-03-01", "--to", DAY, "--json", url=url)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    assert list(report) == JSON_KEYS
    assert report["eligible"] == report["present"] + report["inserted"] + report["raced"] + report["failed"] == 15
    assert (report["dry_run"], report["from"], report["to"]) == (False, "2026-03-01", DAY)
    assert (report["users"], report["inserted"], report["discrepancies"]) == (3, 14, 1)
    assert (report["pages"], report["commits"], report["error_rate"], report["resume"]) == (1, 1, 0.0, None)
    assert report["elapsed_s"] > 0
    assert report["rows_per_s"] > 0
    assert count_scores(engine) == 15
    again = json.loads(backfill("--from", "2026-03-01", "--to", DAY, "--json", url=url).stdout)
    assert (again["inserted"], again["present"]) == (0, 15)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_first_line_of_standard_error_names_the_database(
    url: sa.URL, engine: sa.Engine, tmp_path: Path, form: str
) -> None:
    add_users(engine)
    manifest = tmp_path / "rows.jsonl"
    file = tmp_path / "env"
    file.touch(mode=0o644)
    file.write_text(f"SUPABASE_DB_URL={with_password(url)}\n")
    options = ("--log-format", form, "--env-file", str(file))
    for arguments in (("--manifest", str(manifest)), ("--dry-run",), ("--undo", str(manifest)), ("--json",)):
        done = call(*arguments, *options)
        first, second = done.stderr.splitlines()[:2]
        database = json.loads(first)["database"] if form == "json" else first.removeprefix("Database: ")
        assert database.endswith(f"/{url.database}"), arguments
        assert "can be read by other users" in second
    assert json.loads(done.stdout)["database"] == database


def test_a_quiet_run_names_the_database_only_before_an_error(url: sa.URL, engine: sa.Engine) -> None:
    add_users(engine)
    options = ("--days", "1", "--quiet")
    assert call(*options, url=url).stderr == ""
    done = call("--to", "2999-01-01", *options, url=url)
    first, second = done.stderr.splitlines()
    assert first.startswith("Database: ")
    assert first.endswith(f"/{url.database}")
    assert second.startswith("Error: ")


def test_json_says_what_ran_when_and_how_it_ended(url: sa.URL, engine: sa.Engine) -> None:
    [user, *_] = add_users(engine, 2)
    refuse_rows(engine, f"new.user_id = '{user}'", "raise exception 'refused';")
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
    done = call("--to", DAY, "--days", "1", "--json", "--quiet", url=url)
    report = json.loads(done.stdout)
    assert (report["version"], report["exit_code"], done.returncode) == (__version__, 1, 1)
    started, finished = (datetime.datetime.fromisoformat(report[name]) for name in ("started_at", "finished_at"))
    assert before <= started <= finished <= datetime.datetime.now(datetime.UTC)
    report = json.loads(call("--to", DAY, "--days", "1", "--max-error-rate", "1", "--json", url=url).stdout)
    assert report["exit_code"] == 0


def test_the_default_range_is_the_30_days_until_yesterday(url: sa.URL) -> None:
    before = datetime.datetime.now(datetime.UTC).date()
    report = json.loads(backfill("--json", url=url).stdout)
    yesterday = datetime.date.fromisoformat(report["to"])
    assert before - yesterday in (datetime.timedelta(days=1), datetime.timedelta(days=0))
    assert yesterday - datetime.date.fromisoformat(report["from"]) == datetime.timedelta(days=29)
    report = json.loads(backfill("--json", "--to", DAY, "--days", "5", url=url).stdout)
    assert (report["from"], report["to"]) == ("2026-03-01", DAY)


SHIFTED = """
import datetime, sys
import psycopg  # which knows the size of the class

class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds={seconds})

datetime.datetime = Shifted
from momentum.backfill.cli import run
sys.exit(run({arguments}))
"""


def backfill_with_clock(seconds: float, *arguments: str, url: sa.URL) -> subprocess.CompletedProcess[str]:
    """Run the command on a machine whose clock is ahead by a number of seconds."""
    script = SHIFTED.format(seconds=seconds, arguments=[*arguments])
    env = {**os.environ, "MOMENTUM_DATABASE_URL": with_password(url)}
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)


ONE_DAY = 86_400


@pytest.mark.parametrize(
    ("seconds", "warning"),
    [
        (-365.5 * ONE_DAY, "365 days, 1[0-2]:..:.. behind the server's"),
        (-2.5 * ONE_DAY, "2 days, 1[0-2]:..:.. behind the server's"),
        (-7200, "[0-2]:..:.. behind the server's"),
        (-30, None),
        (30, None),
        (1.5 * ONE_DAY, "1 day, 1[0-2]:..:.. ahead of the server's"),
    ],
)
def test_the_servers_clock_chooses_the_days_and_a_clock_that_differs_is_named(
    url: sa.URL, engine: sa.Engine, seconds: float, warning: str | None
) -> None:
    add_users(engine, 1)
    day = "select (now() at time zone 'UTC')::date - 1"
    before = fetch(url, day)
    done = backfill_with_clock(seconds, "--days", "2", "--json", url=url)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    yesterday = datetime.date.fromisoformat(report["to"])
    assert yesterday in before + fetch(url, day), "the test may run over midnight"
    assert datetime.date.fromisoformat(report["from"]) == yesterday - datetime.timedelta(days=1)
    assert report["inserted"] == count_scores(engine) == 2
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    said = [] if warning is None else [rf"warning: this machine's clock is {warning}, which says what day it is"]
    assert len(warnings) == len(said), done.stderr
    assert all(map(re.fullmatch, said, warnings)), done.stderr


@pytest.mark.parametrize("seconds", [0, -3 * ONE_DAY, 3 * ONE_DAY])
def test_a_last_day_may_be_the_servers_today_and_not_later(url: sa.URL, engine: sa.Engine, seconds: float) -> None:
    add_users(engine, 1)
    [today] = fetch(url, "select (now() at time zone 'UTC')::date")
    done = backfill_with_clock(seconds, "--to", str(today), "--days", "1", "--json", "--quiet", url=url)
    assert (done.returncode, json.loads(done.stdout)["inserted"], done.stderr) == (0, 1, "")
    for later in (today + datetime.timedelta(days=2), datetime.date(2999, 1, 1)):
        done = backfill_with_clock(seconds, "--to", str(later), "--quiet", url=url)
        assert done.returncode == 2
        assert f"--to {later} is in the future; the current UTC day is" in one_error_line(done)
    done = backfill_with_clock(seconds, "--from", str(today + datetime.timedelta(days=2)), "--quiet", url=url)
    assert done.returncode == 2
    assert "before it begins" in one_error_line(done)


def test_a_dry_run_prints_counts_by_day_and_writes_nothing(url: sa.URL, engine: sa.Engine) -> None:
    add_users(engine, 4)
    done = backfill("--from", "2026-03-04", "--to", DAY, "--dry-run", url=url)
    assert done.returncode == 0
    assert re.search(r"2026-03-04 +4\n +2026-03-05 +4\n", done.stdout)
    assert "nothing was written" in done.stdout
    assert count_scores(engine) == 0
    report = json.loads(backfill("--from", "2026-03-04", "--to", DAY, "--dry-run", "--json", url=url).stdout)
    assert (report["dry_run"], report["inserted"], report["commits"]) == (True, 8, 0)


def test_users_and_recent_activity_narrow_the_run(url: sa.URL, engine: sa.Engine) -> None:
    first, second, _ = add_users(engine, 3)
    done = backfill("--to", DAY, "--days", "2", "--user", str(first), "--user", str(second), "--json", url=url)
    assert json.loads(done.stdout)["inserted"] == 4
    done = backfill("--to", DAY, "--days", "2", "--active-within", "7", "--json", url=url)
    assert json.loads(done.stdout)["eligible"] == 0


@pytest.mark.parametrize(
    ("accounts", "arguments", "says"),
    [
        ([{}], [], "1 account exists; it was created after {last}, is deleted or is banned."),
        ([{}, {}], ["--dry-run"], "2 accounts exist; each was created after {last}, is deleted or is banned."),
        (
            [{"created_at": LONG_AGO, "deleted_at": LONG_AGO}, {}],
            ["--active-within", "1"],
            "2 accounts exist; each was created after {last}, is deleted, is banned or was not seen within 1 day.",
        ),
        ([], [], None),
        ([{}], ["--to", "{today}"], None),
        ([{}, {"created_at": LONG_AGO}], [], None),
        ([{}], ["--user", str(uuid.UUID(int=1))], None),
        ([{}], ["--quiet"], None),
        ([{}], ["--json"], None),
    ],
)
def test_a_run_that_finds_nobody_says_why(
    url: sa.URL, engine: sa.Engine, accounts: list[dict[str, datetime.datetime]], arguments: list[str], says: str | None
) -> None:
    today = datetime.datetime.now(datetime.UTC)
    for columns in accounts:
        add_users(engine, 1, **{"created_at": today, **columns})
    done = call(*(argument.format(today=today.date()) for argument in arguments), url=url)
    assert done.returncode == 0
    told = [line.strip() for line in done.stdout.splitlines() if "account" in line]
    assert told == ([] if says is None else [says.format(last=today.date() - datetime.timedelta(days=1))])
    if "--quiet" in arguments:
        assert done.stdout + done.stderr == ""
    if "--json" in arguments:
        assert list(json.loads(done.stdout)) == JSON_KEYS


def test_a_run_over_a_single_user_day_counts_in_the_singular(url: sa.URL, engine: sa.Engine, tmp_path: Path) -> None:
    add_users(engine)
    manifest, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    files = ("--manifest", str(manifest), "--report", str(page))
    done = call("--to", DAY, "--days", "1", "--verbose", *files, url=url)
    told = done.stdout + done.stderr + page.read_text(encoding="utf-8")
    done = call("--undo", str(manifest), "--verbose", url=url)
    assert after_database(done).startswith(f"Undo of {manifest}.\n")
    told += done.stdout + done.stderr
    assert "commit 1: 1 row inserted" in told
    assert "  1 commit in " in told
    assert "each of 1 day from" in told
    assert not re.findall(r"\b1 [a-z-]*(?:rows|commits|days|users|accounts)\b", told)


def test_page_and_commit_sizes_are_obeyed(url: sa.URL, engine: sa.Engine) -> None:
    add_users(engine, 10)
    done = backfill("--to", DAY, "--days", "1", "--page-size", "3", "--commit-every", "5", "--json", url=url)
    report = json.loads(done.stdout)
    assert (report["pages"], report["commits"], report["inserted"]) == (4, 2, 10)


def test_discrepancies_are_logged_and_all_of_them_written_to_the_csv(
    url: sa.URL, engine: sa.Engine, tmp_path: Path
) -> None:
    users = add_users(engine, 22)
    add_discrepancies(engine, users)
    path = tmp_path / "review.csv"
    done = backfill("--to", DAY, "--days", "1", "--discrepancies", str(path), url=url)
    assert done.returncode == 0
    first, *lines = after_database(done).splitlines()
    assert first == "warning: review: 22 scores differ from their breakdown; the 20 largest:"
    assert lines == [f"{DAY} {user} 90 - 40 = +50" for user in sorted(users)[:20]]
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["user_id"] for row in rows} == {str(user) for user in users}
    assert {(row["day"], row["score"], row["breakdown_score"], row["difference"]) for row in rows} == {
        (DAY, "90.00", "40", "50.00")
    }
    assert after_database(backfill("--to", DAY, "--days", "1", "--discrepancy-threshold", "50", url=url)) == ""
    done = backfill("--to", DAY, "--days", "1", "--no-discrepancies", "--json", url=url)
    assert (after_database(done), json.loads(done.stdout)["discrepancies"]) == ("", None)


def test_a_list_that_cannot_be_written_does_not_cost_the_report(url: sa.URL, engine: sa.Engine) -> None:
    add_discrepancies(engine, add_users(engine, 2))
    done = backfill("--to", DAY, "--days", "2", "--discrepancies", "/dev/full", "--json", url=url)
    assert done.returncode == 0
    assert json.loads(done.stdout)["inserted"] == 2
    assert done.stderr.splitlines()[-1].startswith("Error: --discrepancies /dev/full could not be written")


def test_activity_before_the_calendar_began_is_no_error(url: sa.URL) -> None:
    done = backfill("--from", "0050-01-01", "--to", "0050-01-02", "--active-within", "36500", url=url)
    assert (done.returncode, after_database(done)) == (0, "")


def test_quiet_prints_nothing_and_verbose_says_where_and_what(url: sa.URL, engine: sa.Engine) -> None:
    users = add_users(engine, 2)
    add_discrepancies(engine, users)
    done = backfill("--to", DAY, "--days", "3", "--quiet", url=url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = backfill("--to", DAY, "--days", "4", "--verbose", url=url)
    assert f"/{url.database}\nBackfill of 2026-03-02 to {DAY}.\n" in done.stderr
    for step in ("preflight", "commit 1: 2 rows inserted", "recount", "discrepancies"):
        assert step in done.stderr
    assert "already present" in done.stdout


def test_an_unexpected_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"the password is {PASSWORD}")

    monkeypatch.setattr("momentum.backfill.cli.app", fail)
    assert cli.run([]) == 1
    assert capsys.readouterr().err.startswith("Error: Unexpected RuntimeError; ")


def test_an_error_rate_of_exactly_the_limit_passes_and_above_it_is_exit_code_1(url: sa.URL, engine: sa.Engine) -> None:
    users = add_users(engine, 100)
    refuse_rows(engine, f"new.user_id = '{users[42]}'", "raise exception 'refused';")
    done = backfill("--to", DAY, "--days", "1", "--json", url=url)
    report = json.loads(done.stdout)
    assert (done.returncode, report["failed"], report["error_rate"]) == (0, 1, 0.01)
    refused = {"user_id": str(users[42]), "day": DAY, "sqlstate": "P0001", "message": "refused"}
    assert report["failures"] == [refused]
    assert f"--from {DAY} --to {DAY}" in report["resume"]
    assert str(users[42]) in done.stderr
    done = backfill("--to", DAY, "--days", "1", "--json", url=url)
    assert done.returncode == 0, "only the bad row is left, and it counts as the same share of all rows"
    assert json.loads(done.stdout)["error_rate"] == 0.01
    done = backfill("--to", DAY, "--days", "1", "--max-error-rate", "0.009", "--json", url=url)
    assert done.returncode == 1
    assert "above the limit of 0.90%" in done.stderr


def test_a_role_that_may_not_read_the_records_is_told_so(server: Server, url: sa.URL, engine: sa.Engine) -> None:
    assert server.url.database != url.database
    name = f"stranger_{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"create role {name} login password '{PASSWORD}'")
    try:
        done = backfill(url=url.set(username=name, password=PASSWORD))
        assert done.returncode == 2
        assert "permission denied for schema momentum_internal" in one_error_line(done)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"drop role {name}")


@pytest.fixture
def blocked(url: sa.URL, engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection that holds up every insert into the score table, once the run has inserted some rows."""
    add_users(engine, 5000)
    with engine.begin() as connection:
        # The trigger waits at the 1,501st row until the advisory lock is released.
        connection.exec_driver_sql("create sequence public.rows_seen")
        connection.exec_driver_sql("""
            create function public.wait() returns trigger language plpgsql as $$
            begin
              if nextval('public.rows_seen') = 1501 then
                perform pg_advisory_xact_lock(4711);
              end if;
              return new;
            end $$""")
        connection.exec_driver_sql(
            "create trigger wait before insert on legacy.daily_engagement_scores "
            "for each row execute function public.wait()"
        )
    with create_engine(url, application_name="momentum-blocker").connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("select pg_advisory_lock(4711)")
        yield connection


# In this database, for the tests share a server.
WAITING = """
    exists (
      select from pg_catalog.pg_locks as l inner join pg_catalog.pg_database as d on l.database = d.oid
      where l.locktype = 'advisory' and not l.granted and d.datname = current_database()
    )
"""


def start(url: sa.URL, *arguments: str) -> Process:
    # Longer than the test takes, so that the one who waits is not tried again meanwhile.
    options = ("--to", DAY, "--days", "1", "--lock-timeout", "60")
    return Process(PROGRAM.name, *options, *arguments, env={**os.environ, "MOMENTUM_DATABASE_URL": with_password(url)})


def test_an_interrupted_run_ends_its_page_commits_and_says_how_to_go_on(
    url: sa.URL, engine: sa.Engine, blocked: sa.Connection
) -> None:
    process = start(url, "--json")
    wait_until(url, WAITING)
    process.send_signal(signal.SIGINT)
    blocked.exec_driver_sql("select pg_advisory_unlock(4711)")
    stdout, stderr = process.communicate(timeout=HANGS)
    report = json.loads(stdout)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    # The transaction that was waiting, and the next one if that was on its way.
    assert report["inserted"] == count_scores(engine)
    assert report["inserted"] in (2000, 3000)
    assert report["eligible"] == report["present"] + report["inserted"] + report["raced"] + report["failed"]
    assert report["resume"] == f"momentum-backfill --from {DAY} --to {DAY} --lock-timeout 60.0 --json"
    assert PASSWORD not in report["resume"]
    rest = backfill(*report["resume"].split()[1:], url=url)
    assert json.loads(rest.stdout)["inserted"] == 5000 - report["inserted"]
    assert count_scores(engine) == 5000


@pytest.mark.usefixtures("blocked")
def test_a_second_interrupt_aborts_at_once_and_keeps_and_lists_what_was_committed(
    url: sa.URL, engine: sa.Engine, tmp_path: Path
) -> None:
    manifest = tmp_path / "rows.jsonl"
    process = start(url, "--manifest", str(manifest))
    wait_until(url, WAITING)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("interrupt again to abort" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "Error: Interrupted; uncommitted work is rolled back."
    assert count_scores(engine) == 1000
    assert len(manifest.read_text(encoding="utf-8").splitlines()) == 1000


# In this database, for the tests share a server.
TERMINATE = """
    select pg_terminate_backend(pid)
    from pg_catalog.pg_stat_activity
    where datname = current_database() and application_name = 'momentum-backfill'
"""


def test_a_connection_lost_on_the_way_is_made_again(url: sa.URL, engine: sa.Engine, blocked: sa.Connection) -> None:
    process = start(url, "--json")
    wait_until(url, WAITING)
    blocked.exec_driver_sql(TERMINATE)
    stdout, _ = process.communicate(timeout=HANGS)
    report = json.loads(stdout)
    assert (process.returncode, report["inserted"], report["raced"], report["failed"]) == (0, 5000, 0, 0)
    assert report["retries"] >= 1
    assert count_scores(engine) == 5000


@pytest.mark.parametrize("stopped", [False, True], ids=["to the end", "stopped"])
def test_a_server_that_stays_away_is_exit_code_3_and_the_run_says_what_was_committed(
    server: Server, url: sa.URL, engine: sa.Engine, blocked: sa.Connection, stopped: bool
) -> None:
    process = start(url, "--attempts", "3")
    wait_until(url, WAITING)
    if stopped:
        process.send_signal(signal.SIGTERM)
        assert any("interrupt again to abort" in line for line in iter(process.stderr.readline, ""))
    with engine_of(server.url).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"alter database {url.database} allow_connections off")
        try:
            blocked.exec_driver_sql(TERMINATE)
            stdout, stderr = process.communicate(timeout=HANGS)
        finally:
            connection.exec_driver_sql(f"alter database {url.database} allow_connections on")
    assert process.returncode == 3
    assert stdout == ""
    assert stderr.splitlines()[-1].endswith("1,000 rows were committed before.")
    assert "Traceback" not in stderr
    assert count_scores(engine) == 1000


def test_a_bar_is_drawn_on_a_terminal_only(url: sa.URL, engine: sa.Engine) -> None:
    add_users(engine, 5)
    done = backfill("--to", DAY, "--days", "1", url=url, FORCE_COLOR="1")
    assert "\x1b" not in done.stderr + done.stdout, "FORCE_COLOR makes no bar where there is no terminal"
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "--to", DAY, "--days", "2"],
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
    stdout, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 0
    assert b"rows/s" in shown
    assert b"100%" in shown
    assert b"inserted" in stdout
