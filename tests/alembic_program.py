"""The program `alembic`, run as people run it."""

import os
import subprocess
from pathlib import Path

import sqlalchemy as sa

from tests import processes

ALEMBIC = ("alembic", "-c", "alembic.ini")
SECRET = "s3cret-pässword"


def text_of(url: sa.URL, scheme: str = "postgresql") -> str:
    """Return a URL as people write it, with a password: a server that trusts its clients takes any."""
    return url.set(drivername=scheme, password=url.password or SECRET).render_as_string(hide_password=False)


def program(*arguments: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real program, and assert that its output has no secret and no traceback."""
    done = processes.run(*ALEMBIC, *arguments, env={**os.environ, "HOME": str(home), **environ})
    for output in (done.stdout, done.stderr):
        assert SECRET not in output
        assert "s3cret" not in output
        assert "Traceback" not in output
    return done


def start(*arguments: str, home: Path, **environ: str) -> processes.Process:
    """Start the real program."""
    return processes.Process(*ALEMBIC, *arguments, env={**os.environ, "HOME": str(home), **environ})


def error_of(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line of an error message."""
    assert done.returncode == exit_code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Database: ", "Running "))]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith(".")
    return lines[0]
