"""What is missing before a version may be published: `python -m tools.release`, which the workflow calls for a tag."""

import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from momentum import __version__
from tools.contract import CONTRACTS, broken_seals, compare, head, numbers_of, read

ROOT = Path(__file__).parents[1]

# In the workflow: the tag.
TAG = "GITHUB_REF_NAME"


def missing(version: str, tag: str | None, root: Path = ROOT) -> Iterator[str]:
    """Yield what keeps a version from being published, as sentences.

    Args:
        version: The version at head.
        tag: The tag, if there is one yet.
        root: The repository.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    addresses = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    for name in ("repository", "site"):
        if "//example.org/" in addresses[name]:
            yield f"pyproject.toml doesn't say yet where the {name} is."
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"{version} is not the version of a release."
        return
    if tag is not None and tag != f"v{version}":
        yield f"The tag is {tag}, but the version is {version}."
    statuses = [line for line in project["project"]["classifiers"] if line.startswith("Development Status")]
    if numbers_of(version) >= (1, 0, 0) and statuses != ["Development Status :: 5 - Production/Stable"]:
        yield f"pyproject.toml calls version {version} {statuses[0].rpartition(' ')[2]}."
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n"
    entry = re.search(rf"{heading}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if entry is None:
        yield f"CHANGELOG.md has no entry with a date for {version}."
    elif not re.search(r"^### Migrations\n\n- ", entry[1], re.MULTILINE):
        yield f"The entry for {version} in CHANGELOG.md has no line on its migrations."
    folder = root / CONTRACTS / version
    if not folder.exists():
        yield f"There is no {CONTRACTS}/{version}: python -m tools.contract --write."
    elif compare(read(folder), head(root)) or broken_seals(folder, root):
        yield f"{CONTRACTS}/{version} is not what head has."


def main() -> int:
    found = list(missing(__version__, os.environ.get(TAG)))
    print("\n".join(found) or f"Version {__version__} may be published.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
