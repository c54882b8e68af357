"""The runs of `make test-matrix`: what can't be had is named as skipped, and what fails is not."""

import shutil
from pathlib import Path

import pytest

from tests import matrix


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runs keep what they print."""
    monkeypatch.setattr(matrix, "KEPT", tmp_path)
    # One file of tests instead of all, in this process's place, whose coverage must not be measured twice.
    monkeypatch.setenv("PYTEST_ADDOPTS", "--numprocesses 0 --no-cov tests/test_database.py")
    return tmp_path


def test_what_cannot_be_had_is_named_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "DEBIAN", Path("/nowhere/bin"))
    assert matrix.main(["PostgreSQL 15"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("PostgreSQL 15: skipped, not to be had (there is no /nowhere/bin")
    assert last == "test-matrix: PostgreSQL 15 skipped"


def test_a_run_says_its_server_its_python_and_its_closing_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(["PostgreSQL 16"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("PostgreSQL 16: PostgreSQL 16.")
    assert ", Python 3." in first
    assert " passed in " in first
    assert last == "test-matrix: PostgreSQL 16 passed"


def test_a_run_that_fails_ends_with_1(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--numprocesses 0 --no-cov -k nothing_of_that_name tests/test_database.py")
    assert matrix.main(["PostgreSQL 18"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith(f"see {kept / 'postgresql-18.log'}")
    assert last == "test-matrix: PostgreSQL 18 failed"


@pytest.mark.skipif(not (matrix.DEBIAN / "initdb").exists(), reason="there is no PostgreSQL 15 of Debian")
def test_a_server_of_some_programs_runs_and_is_gone_after() -> None:
    with matrix.running(matrix.DEBIAN) as variables:
        url = variables["MOMENTUM_TEST_DATABASE_URL"]
        psql = [shutil.which("psql") or matrix.DEBIAN / "psql", "-X", "-At", url, "-c", "select 15"]
        matrix.call(psql)
    with pytest.raises(RuntimeError, match="psql"):
        matrix.call(psql)


def test_the_lowest_versions_are_exact() -> None:
    lowest = matrix.lowest_versions().splitlines()
    assert "sqlalchemy==2.1.0" in lowest
    assert all("==" in version and ">" not in version and "[" not in version for version in lowest)
