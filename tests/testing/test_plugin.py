"""The fixtures that pytest finds where the package is installed, in projects that use them and in others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from momentum.connect.url import as_text
from momentum.testing import Server
from tests.scenarios.test_services import PROJECT
from tests.testing.test_servers import names_of

# Each starts a pytest of its own.
pytestmark = pytest.mark.slow


def run_pytest(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a project's folder."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def on_server(server: Server) -> dict[str, str]:
    return {"MOMENTUM_TEST_BACKEND": "url", "MOMENTUM_TEST_DATABASE_URL": as_text(server.admin_url)}


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_services_tests_get_databases_with_our_tables(server: Server, processes: str) -> None:
    done = run_pytest(PROJECT, "--numprocesses", processes, **on_server(server))
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b8 passed in", done.stdout)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose only test prints its server and its database."""
    (tmp_path / "test_own.py").write_text(
        """
def test_own(momentum_server, momentum_session):
    from sqlalchemy import text

    assert momentum_session.scalar(text("select count(*) from public.daily_momentum_scores")) == 0
    print("server:", momentum_server)
    print("database:", momentum_session.scalar(text("select current_database()")))
    print("directory:", momentum_session.scalar(text("show data_directory")))
"""
    )
    return tmp_path


def said(done: subprocess.CompletedProcess[str], name: str) -> str:
    [value] = re.findall(rf"{name}: (.*)", done.stdout)
    return str(value)


def test_on_a_server_that_runs_already_what_a_run_has_made_is_dropped(server: Server, project: Path) -> None:
    done = run_pytest(project, "-s", "-W", "error", **on_server(server))
    assert "1 passed" in done.stdout, done.stdout
    assert said(done, "server").endswith("(url)")
    made = said(done, "database").rpartition("_")[0]
    assert made.startswith("momentum_test_")
    assert not [name for name in names_of(server) if name.startswith(made)]


def test_a_server_of_the_runs_own_is_gone_at_the_end(project: Path) -> None:
    done = run_pytest(project, "-s", "-W", "error", MOMENTUM_TEST_BACKEND="embedded")
    assert "1 passed" in done.stdout, done.stdout
    assert said(done, "server").endswith("(embedded)")
    directory = Path(said(done, "directory"))
    assert directory.name == "data"
    assert not directory.exists()


def test_a_server_that_is_not_to_be_had_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "test_none.py").write_text("def test_none(momentum_database_url): pass\n")
    done = run_pytest(tmp_path, MOMENTUM_TEST_BACKEND="embedded", MOMENTUM_TEST_POSTGRES="12")
    assert done.returncode == 1
    assert "There is no embedded PostgreSQL 12; MOMENTUM_TEST_POSTGRES is 16 or 18." in done.stdout
    assert "Traceback" not in done.stdout
    assert "plugin.py" not in done.stdout


def test_installed_and_unused_it_loads_nothing() -> None:
    code = """
import sys
from importlib.metadata import entry_points
import pytest

[plugin] = entry_points(group="pytest11", name="momentum")
before = set(sys.modules)
plugin.load()
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["momentum", "momentum.testing", "momentum.testing.plugin"]


def test_pytest_lists_the_fixtures_with_what_they_are(tmp_path: Path) -> None:
    shown = run_pytest(tmp_path, "--fixtures").stdout
    for name in ("momentum_server", "momentum_database_url", "momentum_session"):
        assert re.search(rf"^{name}\b.*\n    \w", shown, flags=re.MULTILINE), shown


def test_an_unknown_name_is_an_attribute_error() -> None:
    import momentum.testing

    with pytest.raises(AttributeError, match=r"'momentum\.testing' has no attribute 'Servers'"):
        momentum.testing.Servers  # noqa: B018
