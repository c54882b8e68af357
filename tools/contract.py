"""The promise of a release, and whether head keeps it: `python -m tools.contract`, or with `--write` the next one.

`contracts/<version>/` has the facts that others rest on, as text: the schema as momentum.verify reads it, for each kind
of score table; the public names of the package; the commands. `sealed.txt` has the hashes of the files that no later
version may change.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from momentum import __version__
from momentum.history import read_history
from momentum.verify.compare import FINGERPRINTS, read_fingerprint, write_fingerprint
from momentum.wording import counted
from tools.contract_facts import command_facts, package_facts, python_facts
from tools.contract_rules import Change, Facts, Kind, compare_contracts

ROOT = Path(__file__).parents[1]
CONTRACTS = "contracts"
SEALED = "sealed.txt"

# Files that a release seals: databases have been made with them.
SEALING = ("alembic/versions/*.py", "supabase/migrations/*.sql")


def head(root: Path = ROOT) -> dict[str, Facts]:
    """Return the facts at head, by the file of a contract that has them."""
    revision = read_history()[-1]
    return {
        **{path.name: read_fingerprint(path) for path in sorted(FINGERPRINTS.glob(f"{revision}.*.txt"))},
        "python.txt": python_facts(root) | package_facts(root),
        "commands.txt": command_facts(),
    }


def released(root: Path = ROOT) -> list[Path]:
    """Return the folders of the releases, oldest first."""
    return sorted((root / CONTRACTS).glob("*.*.*"), key=lambda path: numbers_of(path.name))


def revisions_of(folder: Path) -> set[str]:
    """Return the revision to which a release migrates."""
    return {found[1] for path in folder.iterdir() if (found := re.fullmatch(r"(\w+)\.\w+\.txt", path.name))}


def numbers_of(version: str) -> tuple[int, ...]:
    """Return a version's numbers, by which versions are compared; what follows them is left out."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    assert found, f"{version} is not a version"
    return tuple(map(int, found.groups()))


def read(folder: Path) -> dict[str, Facts]:
    """Return the facts of a release, by file."""
    return {path.name: read_fingerprint(path) for path in sorted(folder.glob("*.txt")) if path.name != SEALED}


def part_of(name: str) -> str:
    """Return the part of a contract that a file has, whatever its revision."""
    return ".".join(name.split(".")[-2:])


def compare(old: Mapping[str, Facts], new: Mapping[str, Facts]) -> list[Change]:
    """Return what differs between two contracts, each change once, the worst first."""
    before, after = ({part_of(name): facts for name, facts in each.items()} for each in (old, new))
    changes = [
        change
        for part in sorted(before.keys() | after.keys())
        for change in compare_contracts(before.get(part, {}), after.get(part, {}))
    ]
    return sorted({str(change): change for change in changes}.values(), key=lambda each: list(Kind).index(each.kind))


def objection(changes: Iterable[Change], last: str, version: str, changelog: str) -> str | None:
    """Return why a version may not be the next one, or None if it may.

    Args:
        changes: What differs.
        last: The version of the last release.
        version: The version at head.
        changelog: The changelog.
    """
    if not any(change.kind is Kind.BREAKING for change in changes):
        return None
    if numbers_of(version)[0] <= numbers_of(last)[0]:
        return f"A change breaks what {last} promised: take it back, or raise the major version ({version})."
    since = changelog.split(f"## [{last}]")[0]
    if not re.search(r"^### Breaking\n\n- ", since, flags=re.MULTILINE):
        return 'A change is breaking: CHANGELOG.md must say so under "### Breaking".'
    return None


def seals(root: Path = ROOT) -> dict[str, str]:
    """Return the hashes of the files that a release seals, by path."""
    paths = sorted(path for pattern in SEALING for path in root.glob(pattern))
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def broken_seals(folder: Path, root: Path = ROOT) -> list[str]:
    """Return the files of a release that have changed or are gone."""
    lines = (folder / SEALED).read_text(encoding="utf-8").splitlines()
    now = seals(root)
    return [path for digest, path in (line.split("  ") for line in lines) if now.get(path) != digest]


def write(folder: Path, facts: Mapping[str, Facts], sealed: Mapping[str, str]) -> None:
    """Write a contract."""
    folder.mkdir(parents=True)
    for name, each in facts.items():
        (folder / name).write_text(write_fingerprint(each), encoding="utf-8")
    lines = "".join(f"{digest}  {path}\n" for path, digest in sealed.items())
    (folder / SEALED).write_text(lines, encoding="utf-8")


def refusal(changes: Iterable[Change], last: str | None, version: str) -> str | None:
    """Return why the contract of a version may not be written, or None if it may."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return f"{version} is not the version of a release."
    if last is None:
        return None
    if numbers_of(version) <= numbers_of(last):
        return f"{version} is not above the last release, {last}."
    if any(change.kind is Kind.ADDITIVE for change in changes) and numbers_of(version)[:2] == numbers_of(last)[:2]:
        return f"Something is new since {last}: raise the minor version ({version})."
    return None


def report(changes: list[Change], last: str) -> str:
    """Return what has changed, class by class."""
    lines = []
    for kind in Kind:
        if of_kind := [str(change) for change in changes if change.kind is kind]:
            lines += [f"{kind}:", *(f"  {line}" for line in "\n".join(of_kind).split("\n")), ""]
    counts = ", ".join(f"{sum(change.kind is kind for change in changes)} {kind}" for kind in Kind)
    return "\n".join([*lines, f"{counted(len(changes), 'change')} since {last}: {counts}."])


def main(arguments: list[str], root: Path = ROOT, version: str = __version__) -> str | None:
    """Compare head with the last release, or write the next one; return the error, if any.

    Args:
        arguments: None, or ``--write``.
        root: The folder that has the contracts and the changelog.
        version: The version of head.
    """
    if arguments not in ([], ["--write"]):
        return "Error: the only option is --write."
    facts = head()
    last = next(reversed(released(root)), None)
    changes: list[Change] = []
    error = None
    if last is None:
        print("There is no release yet.")
    else:
        changes = compare(read(last), facts)
        print(report(changes, last.name))
        error = objection(changes, last.name, version, (root / "CHANGELOG.md").read_text(encoding="utf-8"))
    if arguments and not error:
        error = refusal(changes, last.name if last else None, version)
    if error:
        return f"Error: {error}"
    if arguments:
        write(root / CONTRACTS / version, facts, seals())
        print(f"Wrote {CONTRACTS}/{version}.")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
