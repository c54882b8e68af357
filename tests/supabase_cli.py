"""The Supabase CLI from npm, run as people run it, but without telemetry and without a login."""

import os
import subprocess
import tempfile
from pathlib import Path

import sqlalchemy as sa

from momentum.connect.url import as_text

ROOT = Path(__file__).parents[1]


def find_cli() -> Path:
    """Return the CLI's program for this machine. The script that npm puts into .bin only starts it, and needs node."""
    programs = sorted((ROOT / "node_modules" / "@supabase").glob("cli-*/bin/supabase*"))
    assert programs, "the Supabase CLI is not installed; run `make install`"
    return programs[0]


def remote_url(url: sa.URL) -> str:
    """Return a URL as the CLI reads it: it requires a host before the path, even for a server with only a socket."""
    return as_text(url if url.host else url.set(host="localhost"))


def supabase(*arguments: str, url: sa.URL) -> subprocess.CompletedProcess[str]:
    """Run the CLI against a database, with arguments that don't name it."""
    with tempfile.TemporaryDirectory(prefix="momentum-") as home:
        quiet = {"HOME": home, "SUPABASE_TELEMETRY_DISABLED": "1", "SUPABASE_NO_UPDATE_NOTIFIER": "1"}
        return subprocess.run(
            [find_cli(), *arguments, f"--remote={remote_url(url)}", f"--workdir={ROOT}"],
            env={**os.environ, **quiet},
            capture_output=True,
            text=True,
            check=False,
        )
