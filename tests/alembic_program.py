"""The program `alembic`, run as people run it."""

import os
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from momentum.migrations import SCRIPTS

ROOT = SCRIPTS.parent
ALEMBIC = Path(sys.executable).with_name("alembic")
SECRET = "s3cret-pässword"


def text_of(url: sa.URL, scheme: str = "postgresql") -> str:
    """Return a URL as people write it; a server that trusts its clients takes any password, the others have one."""
    return url.set(drivername=scheme, password=url.password or SECRET).render_as_string(hide_password=False)


def program(*arguments: str, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real program; whatever it prints, no secret may be in it, nor a traceback."""
    done = subprocess.run(
        [ALEMBIC, "-c", "alembic.ini", *arguments],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    for output in (done.stdout, done.stderr):
        assert SECRET not in output
        assert "s3cret" not in output
        assert "Traceback" not in output
    return done


def start(*arguments: str, home: Path, **environ: str) -> subprocess.Popen[str]:
    """Start the real program."""
    return subprocess.Popen(
        [ALEMBIC, "-c", "alembic.ini", *arguments],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def error_of(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line of an error."""
    assert done.returncode == exit_code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Database: ", "Running "))]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith(".")
    return lines[0]
