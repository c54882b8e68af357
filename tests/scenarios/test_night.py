"""The nightly script of docs/operations.md, as it is there: what it leaves, and what its health check hears."""

import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.backfilling import PROGRAM, with_password
from tests.migrating import execute
from tests.samples import add_users
from tests.server import engine_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
[SCRIPT] = re.findall(r"```\n(#!/bin/bash\n# /usr/local/bin/momentum-night\n.*?)```", DOCUMENT, flags=re.DOTALL)

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the script needs curl")


@pytest.fixture
def check() -> Iterator[tuple[str, list[str]]]:
    """The URL of a health check, and the paths on which it has been called."""
    called: list[str] = []

    class Check(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            called.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing on standard error."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Check) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/check", called
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("reachable", [True, False], ids=["filled", "unreachable"])
def test_the_nightly_script_tells_its_health_check_how_it_ended(
    url: sa.URL, tmp_path: Path, check: tuple[str, list[str]], reachable: bool
) -> None:
    address, called = check
    add_users(engine_of(url), 3)
    script = SCRIPT
    for before, after in (
        ("https://hc-ping.com/<uuid>", address),
        ("/opt/momentum/.venv/bin", str(PROGRAM.parent)),
        ("/var/lib/momentum", str(tmp_path)),
    ):
        assert before in script
        script = script.replace(before, after)
    database = with_password(url) if reachable else "postgresql://u@127.0.0.1:1/x"
    env = {**os.environ, "MOMENTUM_DATABASE_URL": database, "no_proxy": "127.0.0.1"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (tmp_path / "finished").exists() == reachable
    assert execute(url, "select count(*) from legacy.daily_engagement_scores") == (9 if reachable else 0)
    if reachable:
        assert (done.returncode, done.stdout, done.stderr, called) == (0, "", "", ["/check"])
    else:
        assert (done.returncode, done.stdout, called) == (3, "", ["/check/fail"])
        assert "127.0.0.1:1/x cannot be reached" in done.stderr
