"""The Supabase CLI from npm, run as people run it, but for its telemetry and without anybody's login."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa

from momentum.database import as_text

ROOT = Path(__file__).parents[1]
CLI = ROOT / "node_modules" / ".bin" / "supabase"


def remote_url(url: sa.URL) -> str:
    """Return a URL as the CLI reads it: it wants a host before the path, also where the server has a socket only."""
    return as_text(url if url.host else url.set(host="localhost"))


def supabase(*arguments: str, url: sa.URL) -> subprocess.CompletedProcess[str]:
    """Run the CLI against a database, with arguments that don't name it."""
    assert CLI.exists(), "the Supabase CLI is not installed; run `make install`"
    with tempfile.TemporaryDirectory(prefix="momentum-") as home:
        environ = {
            **os.environ,
            "HOME": home,
            # Where the machine has no node, the virtual environment has one.
            "PATH": os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)]),
            "SUPABASE_TELEMETRY_DISABLED": "1",
            "SUPABASE_NO_UPDATE_NOTIFIER": "1",
        }
        return subprocess.run(
            [CLI, *arguments, f"--remote={remote_url(url)}", f"--workdir={ROOT}"],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
