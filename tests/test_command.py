"""An unexpected error of a command: one line, or with --verbose a traceback that holds no secret."""

import json

import psycopg
import pytest
import sqlalchemy as sa

from momentum.backfill import cli

PASSWORD = "pa55 w%rd'"
WRITTEN = "pa55%20w%25rd%27"
URL = f"postgresql://me:{WRITTEN}@127.0.0.1:1/app"
DATA = "ann@example.com"


def fail(*_: object, **__: object) -> None:
    """Fail as a bug would, with everything in the texts that no log may have."""
    try:
        try:
            raise psycopg.errors.UniqueViolation(f"duplicate key\nDETAIL:  Key (email)=({DATA}) already exists.")
        except psycopg.Error as error:
            raise sa.exc.IntegrityError("insert into people ...", {"email": DATA}, error) from error
    except sa.exc.IntegrityError as error:
        raise KeyError(f"{PASSWORD}, {WRITTEN} and\n{URL}") from error


@pytest.fixture(autouse=True)
def bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the backfill."""
    monkeypatch.setattr("momentum.backfill.run.read_today", fail)


REPORTED = "Unexpected KeyError; please report it with the command that you gave."


def test_it_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--database-url", URL]) == 1
    assert capsys.readouterr().err == f"Database: 127.0.0.1:1/app\nError: {REPORTED}\n"


def test_verbose_shows_where_it_happened_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--database-url", URL, "--verbose"]) == 1
    shown = capsys.readouterr().err
    assert f"Error: {REPORTED}\nTraceback (most recent call last):\n" in shown
    assert "in fail" in shown
    assert "sqlalchemy.exc.IntegrityError: duplicate key" in shown
    assert shown.rstrip().endswith("me:***@127.0.0.1:1/app'") or shown.rstrip().endswith('me:***@127.0.0.1:1/app"')
    for secret in ("pa55", "w%rd", "w%25rd", DATA):
        assert secret not in shown


def test_for_machines_it_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--database-url", URL, "--verbose", "--log-format", "json"]) == 1
    *_, last = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert last["level"] == "error"
    assert last["message"].startswith(f"{REPORTED}\nTraceback")
    assert "pa55" not in last["message"]
