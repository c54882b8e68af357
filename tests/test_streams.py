"""Programs whose standard streams are closed, full or read by nobody: the work is done, and nothing else is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.backfilling import HANGS, PASSWORD, with_password
from tests.migrating import execute
from tests.samples import LONG_AGO, add_users
from tests.server import engine_of

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent
DAY = "2026-03-05"
PROGRAMS = {
    "backfill": [str(SCRIPTS / "momentum-backfill"), "--to", DAY, "--days", "2", "--json"],
    "help": [str(SCRIPTS / "momentum-backfill"), "--help"],
    "verify": [sys.executable, "-m", "momentum.verify"],
    "current": [str(SCRIPTS / "alembic"), "current"],
    "upgrade": [str(SCRIPTS / "alembic"), "upgrade", "head"],
    "script": [str(SCRIPTS / "alembic"), "upgrade", "head", "--sql"],
}
FULL = "Error: Standard output cannot be written (No space left on device), so the result is not complete there."


def run(url: sa.URL, program: str, streams: str) -> tuple[int, str, str]:
    """Run a program with redirections of a shell, and return its exit code and what it said elsewhere."""
    done = subprocess.run(
        ["bash", "-c", f'{{ "$@"; echo "exit $?" >&3; }} {streams}', "bash", *PROGRAMS[program]],
        cwd=ROOT,
        env={**os.environ, "MOMENTUM_DATABASE_URL": with_password(url)},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    for said in (done.stdout, done.stderr):
        for unwanted in ("Traceback", "Exception ignored", "Logging error", PASSWORD):
            assert unwanted not in said
    *_, code = (line for line in (done.stdout + done.stderr).splitlines() if line.startswith("exit "))
    return int(code.split()[1]), done.stdout, done.stderr


@pytest.fixture
def url(url: sa.URL) -> sa.URL:
    """A database with users to fill."""
    add_users(engine_of(url), 5, created_at=LONG_AGO)
    return url


def count(url: sa.URL) -> int:
    return int(execute(url, "select count(*) from legacy.daily_engagement_scores"))


@pytest.mark.slow
@pytest.mark.parametrize("program", ["backfill", "verify", "current", "upgrade", "script"])
@pytest.mark.parametrize(
    "streams", ["3>&1 2>&-", "3>&1 2>/dev/full", "3>&2 >&- 2>&- <&-", "3>&2 | true", "3>&2 | head -1"]
)
def test_the_work_is_done_and_the_exit_code_is_its_own(url: sa.URL, program: str, streams: str) -> None:
    code, _, said = run(url, program, streams)
    assert code == 0, said
    assert "Error" not in said
    assert count(url) == (10 if program == "backfill" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["backfill", "help", "verify", "current", "script"])
def test_a_full_disk_is_said_when_the_work_is_done(url: sa.URL, program: str) -> None:
    code, _, said = run(url, program, "3>&2 >/dev/full")
    assert code == 1
    assert FULL in said.splitlines()
    assert count(url) == (10 if program == "backfill" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["3>&1 2>&-", "3>&1 2>/dev/full"])
def test_an_error_that_cannot_be_shown_is_not_shown_elsewhere(url: sa.URL, streams: str) -> None:
    execute(url, "drop table momentum_internal.score_table")
    code, shown, _ = run(url, "backfill", streams)
    assert code == 3
    assert shown == "exit 3\n"


def test_a_file_name_that_is_no_text_and_a_terminal_of_few_letters_cost_no_line(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path / "m") + b"\xff")
    done = subprocess.run(
        [str(SCRIPTS / "momentum-backfill"), "--env-file", f"{name}é"],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.decode("ascii").endswith(r"m\udcff\xe9; name another with --env-file." + "\n")
