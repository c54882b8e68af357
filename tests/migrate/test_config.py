"""The options of the migrations as Alembic's command line gives them, and the settings that it reads."""

import os
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
import sqlalchemy as sa

from momentum.errors import ConfigurationError
from momentum.history import SCRIPTS
from momentum.migrate.config import alembic_config, read_options
from tests import processes
from tests.alembic_program import error_of, text_of
from tests.migrating import HISTORY

ROOT = SCRIPTS.parent
PASSWORD = "s3cret%s"


@pytest.mark.parametrize("name", ["attempts", "deadline"])
@pytest.mark.parametrize("number", [1, 300, 999_999])
def test_a_number_is_read_as_it_is_written(name: str, number: int) -> None:
    assert getattr(read_options({name: str(number)}), name) == number


@pytest.mark.parametrize("name", ["attempts", "deadline"])
@pytest.mark.parametrize("text", ["0", "1000000", "-1", "1.5", "", "٣"])
def test_a_text_that_is_no_number_or_too_large_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^The option {name}= takes a whole number"):
        read_options({name: text})


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of everything that migrates, in a folder whose name ConfigParser would take for an interpolation."""
    folder = tmp_path / "50% off %(here)s %s"
    for name in ("alembic", "momentum"):
        copytree(ROOT / name, folder / name, ignore=ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "pyproject.toml"):
        copy(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
def test_the_path_of_an_installation_may_have_a_per_cent_sign(installed: Path, supabase_url: sa.URL) -> None:
    url = text_of(supabase_url)
    environ = {**os.environ, "PYTHONPATH": str(installed), "DATABASE_URL": url}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=installed, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("alembic", "heads") == f"{HISTORY[-1]} (head)\n"
    assert "create table momentum_internal" in run("alembic", "upgrade", "head", "--sql").lower()
    run("alembic", "upgrade", "+1")
    run("momentum.cli", "upgrade")
    assert run("alembic", "current") == f"{HISTORY[-1]} (head)\n"
    run("alembic", "downgrade", "base")
    run("alembic", "revision", "-m", "do nothing")
    assert list(installed.glob("alembic/versions/*_do_nothing.py"))


def test_an_installation_with_a_per_cent_sign_is_found_by_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/opt/50% off %(here)s")
    monkeypatch.setattr("momentum.migrate.config.SCRIPTS", folder)
    assert alembic_config("postgresql:///app").get_main_option("script_location") == str(folder)


def test_a_url_in_the_settings_with_an_interpolation_is_refused_without_its_password(
    tmp_path: Path, home: Path
) -> None:
    ini = tmp_path / "own.ini"
    settings = (ROOT / "alembic.ini").read_text(encoding="utf-8")
    line = f"sqlalchemy.url = postgresql://me:{PASSWORD}@127.0.0.1:1/app"
    ini.write_text(settings.replace("[alembic]\n", f"[alembic]\n{line}\n"), encoding="utf-8")
    done = processes.run("alembic", "-c", ini, "current", env={**os.environ, "HOME": str(home)})
    assert PASSWORD not in done.stdout + done.stderr
    assert error_of(done, 2).endswith("has a % that starts an interpolation; write it as %%.")
