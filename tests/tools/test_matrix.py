"""The runs of `make test-matrix`: those that are not available are named as skipped, and failures are not."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from momentum.connect.url import as_text
from momentum.testing import Server
from tools import bench, matrix

THIS = "this server"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the runs' output. One of the runs uses the server that is already running."""
    monkeypatch.setattr(matrix, "KEPT", tmp_path)
    variables = {"MOMENTUM_TEST_BACKEND": "url", "MOMENTUM_TEST_DATABASE_URL": as_text(server.admin_url)}
    monkeypatch.setitem(matrix.RUNS, THIS, (lambda: nullcontext(variables), matrix.this_python))
    # One test file instead of all, in one process, whose coverage must not be measured twice.
    monkeypatch.setenv("PYTEST_ADDOPTS", "--numprocesses 0 --no-cov tests/backfill/test_display.py")
    return tmp_path


def test_a_server_that_is_not_available_is_named_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "DEBIAN", Path("/nowhere/bin"))
    assert matrix.main(["PostgreSQL 15"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("PostgreSQL 15 skipped: not available: there is no /nowhere/bin")
    assert last == "test-matrix: PostgreSQL 15 skipped"


@pytest.mark.slow
def test_a_run_says_its_server_its_python_and_its_closing_line(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert matrix.main([THIS]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{THIS} passed: PostgreSQL {server.version} (url), Python 3.")
    assert " passed in " in first
    assert last == f"test-matrix: {THIS} passed"


@pytest.mark.slow
def test_a_run_that_fails_ends_with_1(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--numprocesses 0 --no-cov -k nothing_there tests/backfill/test_display.py")
    assert matrix.main([THIS]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{THIS} failed: ")
    assert first.endswith(f"see {kept / 'this-server.log'}")
    assert last == f"test-matrix: {THIS} failed"


def test_a_run_that_cannot_begin_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def install() -> Path:
        matrix.call(["sh", "-c", "echo 'ERROR: they exclude each other'; echo 'read about it'; exit 1"])
        raise AssertionError("unreachable")

    monkeypatch.setitem(matrix.RUNS, THIS, (matrix.RUNS[THIS][0], install))
    assert matrix.main([THIS]) == 1
    assert capsys.readouterr().out.startswith(f"{THIS} failed: not begun: sh: ERROR: they exclude each other\n")


@pytest.mark.slow
@pytest.mark.skipif(not (matrix.DEBIAN / "initdb").exists(), reason="there is no PostgreSQL 15 of Debian")
def test_a_server_of_some_programs_runs_and_is_gone_after() -> None:
    with matrix.running(matrix.DEBIAN) as variables:
        url = variables["MOMENTUM_TEST_DATABASE_URL"]
        psql = [shutil.which("psql") or matrix.DEBIAN / "psql", "-X", "-At", url, "-c", "select 15"]
        matrix.call(psql)
    with pytest.raises(RuntimeError, match="psql"):
        matrix.call(psql)


@pytest.mark.slow
@pytest.mark.skipif(not (matrix.DEBIAN / "initdb").exists(), reason="there is no PostgreSQL 15 of Debian")
def test_the_bench_may_set_the_settings_under_which_it_measures() -> None:
    names = [setting.partition(" = ")[0] for setting in bench.SETTINGS]
    with matrix.debian(on_disk=True) as variables, psycopg.connect(variables["MOMENTUM_TEST_DATABASE_URL"]) as server:
        # What the command line says stands above what ALTER SYSTEM does.
        query = "select name from pg_settings where name = any(%s) and source <> 'command line' order by name"
        assert server.execute(query, [names]).fetchall() == [(name,) for name in sorted(names)]


def test_every_supported_postgres_and_python_has_a_run() -> None:
    assert [name for name in matrix.RUNS if name != THIS] == [
        *(f"PostgreSQL {version}" for version in (15, 16, 17)),
        "PostgreSQL 18, oldest Python",
        "newest Python",
        "lowest versions",
    ]


def test_the_lowest_versions_are_exact() -> None:
    lowest = matrix.lowest_versions().splitlines()
    assert "sqlalchemy==2.1.4" in lowest
    assert all("==" in version and ">" not in version and "[" not in version for version in lowest)
