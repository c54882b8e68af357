"""Before a version is published, everything that is missing is named."""

import shutil
from pathlib import Path

import pytest

from tools import contract
from tools.contract import CONTRACTS, ROOT, head, seals
from tools.release import missing

VERSION = "1.2.3"
CHANGELOG = f"## [Unreleased]\n\n## [{VERSION}] - 2026-12-01\n\n### Added\n\n- A.\n\n### Migrations\n\n- None.\n"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which nothing is missing."""
    root = tmp_path_factory.mktemp("ready")
    for name in ("alembic", "supabase", "momentum"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = settings.replace("//example.org/", "//git.example.com/")
    settings = settings.replace("Development Status :: 4 - Beta", "Development Status :: 5 - Production/Stable")
    (root / "pyproject.toml").write_text(settings, encoding="utf-8")
    (root / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    contract.write(root / CONTRACTS / VERSION, head(root), seals(root))
    return root


@pytest.fixture
def root(ready: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(ready, tmp_path / "copy")


@pytest.mark.parametrize("tag", [None, f"v{VERSION}"])
def test_where_nothing_is_missing_nothing_is_named(root: Path, tag: str | None) -> None:
    assert list(missing(VERSION, tag, root)) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pyproject.toml", "git.example.com", "example.org", "pyproject.toml doesn't say yet where the repository is."),
        ("pyproject.toml", "5 - Production/Stable", "4 - Beta", "pyproject.toml calls version 1.2.3 Beta."),
        ("CHANGELOG.md", " - 2026-12-01", "", "CHANGELOG.md has no entry with a date for 1.2.3."),
        (
            "CHANGELOG.md",
            "### Migrations\n\n- None.\n",
            "",
            "The entry for 1.2.3 in CHANGELOG.md has no line on its migrations.",
        ),
        ("contracts/1.2.3/commands.txt", "command alembic: group\n", "", "contracts/1.2.3 is not what head has."),
        ("alembic/versions/*.py", "revision", "revision ", "contracts/1.2.3 is not what head has."),
    ],
)
def test_what_is_missing_is_named(root: Path, file: str, old: str, new: str, said: str) -> None:
    path = min(root.glob(file))
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert list(missing(VERSION, f"v{VERSION}", root)) == [said]


def test_a_tag_names_the_version(root: Path) -> None:
    assert list(missing(VERSION, "v1.2.4", root)) == ["The tag is v1.2.4, but the version is 1.2.3."]


def test_a_version_without_a_contract_is_not_published(root: Path) -> None:
    shutil.rmtree(root / CONTRACTS)
    assert list(missing(VERSION, None, root)) == ["There is no contracts/1.2.3: python -m tools.contract --write."]


def test_a_version_that_is_no_release_is_not_published(root: Path) -> None:
    assert list(missing("1.2.3.dev1", None, root)) == ["1.2.3.dev1 is not the version of a release."]
