"""Every line of docs/milestone.md holds: its command passes, and runs at least one test."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "milestone.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
COMMANDS = sorted({row[-1].strip("`") for row in ROWS if row[-1] != "shown by"})


def test_every_line_has_a_command() -> None:
    assert len(ROWS) > 20
    assert all(len(row) == 3 and re.fullmatch("shown by|`[^`]+`", row[2]) for row in ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_passes(command: str, tmp_path: Path) -> None:
    program, *arguments = shlex.split(command)
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if program == "pytest":
        arguments += ["--basetemp", str(tmp_path / "own")]
    done = subprocess.run([program, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
