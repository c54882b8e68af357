"""The wheel, as other services install it: what is in it, and that it can migrate without its repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.database import as_text, create_engine

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the wheel is unpacked, as pip would do it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("momentum_schema-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_the_package_and_the_migrations_and_no_tests(installed: Path) -> None:
    names = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    revisions = {f"momentum/_alembic/versions/{path.name}" for path in (ROOT / "alembic" / "versions").glob("*.py")}
    assert revisions <= names
    fingerprints = {f"momentum/fingerprints/{path.name}" for path in (ROOT / "momentum" / "fingerprints").iterdir()}
    assert fingerprints <= names, "an installed package can verify too"
    assert {"momentum/py.typed", "momentum/testing/supabase.sql", "momentum/_alembic/env.py"} <= names
    assert not [name for name in names if "test_" in name or name.startswith("tests")]


def test_the_wheel_migrates_a_database_without_the_repository(
    installed: Path, supabase_url: sa.URL, tmp_path: Path
) -> None:
    text = as_text(supabase_url)
    code = (
        "import sys, alembic.command, momentum; from momentum.migrations import alembic_config; "
        "print(momentum.__file__); alembic.command.upgrade(alembic_config(sys.argv[1]), 'head')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, text],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed)), "it was the wheel that ran"
    with create_engine(supabase_url, application_name="momentum-tests").connect() as connection:
        assert connection.scalar(sa.text("select count(*) from public.daily_momentum_scores")) == 0
