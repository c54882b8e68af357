"""What an operator sees on a terminal while a long step of a migration goes on."""

import os
import pty
import re
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.migrate import progress
from momentum.testing import Server
from tests.migrating import HISTORY, current, database_with_scores, until
from tests.processes import DEADLINE
from tests.server import engine_of

PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def url(server: Server) -> Iterator[sa.URL]:
    """A database with legacy scores that lack their key."""
    url = database_with_scores(server, "legacy.seed")
    yield url
    server.drop_database(url)


def read_until(terminal: int, pattern: str, seen: str = "") -> str:
    """Return what a terminal has shown, once it has shown a pattern."""
    while not re.search(pattern, seen):
        assert select.select([terminal], [], [], DEADLINE)[0], f"it hangs after: {seen}"
        seen += os.read(terminal, 4096).decode()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "step"), [("80", ""), ("140", r"creating the index \S+, ")])
@pytest.mark.parametrize("command", [["alembic", "upgrade", "head"], ["momentum", "upgrade"]], ids=" ".join)
def test_a_long_step_is_shown_on_a_terminal_until_it_ends(
    url: sa.URL, tmp_path: Path, command: list[str], columns: str, step: str
) -> None:
    controller, terminal = pty.openpty()
    env = {**os.environ, "MOMENTUM_DATABASE_URL": as_text(url), "HOME": str(tmp_path), "COLUMNS": columns}
    with engine_of(url).connect() as writer:
        # The index waits for the end of this transaction.
        writer.execute(sa.text("lock table legacy.daily_engagement_scores in row exclusive mode"))
        with subprocess.Popen([PROGRAMS / command[0], *command[1:]], env=env, stderr=terminal) as process:
            os.close(terminal)
            try:
                seen = read_until(controller, r"waiting for writers before build \(0 of 1 done\)")
            finally:
                writer.rollback()
            seen = read_until(controller, "At revision ", seen)
        os.close(controller)
    assert (process.returncode, current(url)) == (0, HISTORY[-1])
    [line, *_] = re.findall(rf"\r({step}waiting for writers [^\r]* done\): \d:\d\d:\d\d)\x1b\[K", seen)
    assert len(line) < int(columns)
    last = seen.rpartition(progress.HOME + progress.CLEAR)[2]
    assert "waiting" not in last, "the line is cleared before the next one is written"


@pytest.mark.parametrize("command", [["alembic", "upgrade", "head"], ["momentum", "upgrade"]], ids=" ".join)
def test_in_a_log_nothing_is_shown(url: sa.URL, tmp_path: Path, command: list[str]) -> None:
    env = {**os.environ, "MOMENTUM_DATABASE_URL": as_text(url), "HOME": str(tmp_path)}
    done = subprocess.run([PROGRAMS / command[0], *command[1:]], env=env, capture_output=True, text=True, check=True)
    assert not {"\r", "\x1b"} & set(done.stderr)
    first, *steps, last = done.stderr.splitlines()
    assert first.startswith("Database: ")
    assert last.startswith("At revision ")
    assert all(step.startswith(("Running upgrade ", "review: ", "superseded")) for step in steps), steps


class Terminal:
    """A stream that remembers what is written to it."""

    def __init__(self) -> None:
        self.text = ""
        self._held_back = ""

    def write(self, text: str) -> int:
        """Hold a text back, because no line ends."""
        self._held_back += text
        return len(text)

    def flush(self) -> None:
        """Show what was held back."""
        self.text, self._held_back = self.text + self._held_back, ""


def test_a_step_that_ends_before_its_first_line_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    line = progress.Line("a step", lambda: None)
    line.end()
    line.keep_writing()
    assert terminal.text == ""


def test_an_answer_that_comes_too_late_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setenv("COLUMNS", "20")
    answers = iter(["45 %", "too late"])

    def ask() -> str:
        answer = next(answers)
        if answer == "too late":
            line.end()
        return answer

    line = progress.Line("creating\nthe index", ask)
    line.keep_writing()
    assert terminal.text == "\r45 %: 0:00:00\x1b[K\r\x1b[K", "what fits on the terminal, and cleared"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ("200", "creating the index, 45 %: 0:00:00"),
        ("34", "creating the index, 45 %: 0:00:00"),
        ("33", "45 %: 0:00:00"),
        ("14", "45 %: 0:00:00"),
        ("13", "creating the"),
    ],
)
def test_as_much_is_shown_as_fits_beside_the_cursor(monkeypatch: pytest.MonkeyPatch, columns: str, line: str) -> None:
    seconds: list[float | None] = []

    def wait(_event: threading.Event, timeout: float | None = None) -> bool:
        seconds.append(timeout)
        return len(seconds) > 1

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(threading.Event, "wait", wait)
    monkeypatch.setenv("COLUMNS", columns)
    progress.Line("creating the index", lambda: "45 %").keep_writing()
    assert terminal.text == f"\r{line}\x1b[K"
    assert seconds == [1.0, 1.0], "once a second"


def test_a_step_is_shown_while_it_runs(connection: sa.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "INTERVAL", 0.001)
    threads = threading.active_count()
    with progress.shown("a step", connection, 1):
        until(lambda: "a step: 0:00:0" in terminal.text, "the step is shown")
    assert terminal.text.endswith(progress.HOME + progress.CLEAR)
    until(lambda: threading.active_count() == threads, "nothing goes on")
    assert terminal.text.endswith(progress.HOME + progress.CLEAR)


def test_a_server_that_does_not_answer_costs_the_share_and_nothing_else() -> None:
    assert progress.ask(sa.create_engine("postgresql+psycopg://u@127.0.0.1:1/x"), 1) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("initializing", 0, 0, 0, 0, 0, 0), "initializing"),
        (("waiting for old snapshots", 1, 3, 9, 9, 0, 0), "waiting for old snapshots (1 of 3 done)"),
        (("building index: scanning table", 2, 2, 450, 1000, 0, 0), "building index: scanning table, 45 %"),
        (("building index: sorting live tuples", 0, 0, 0, 0, 7, 8), "building index: sorting live tuples, 87 %"),
    ],
)
def test_how_far_an_index_is_told_in_words(connection: sa.Connection, values: tuple[object, ...], said: str) -> None:
    names = ("phase", "lockers_done", "lockers_total", "blocks_done", "blocks_total", "tuples_done", "tuples_total")
    columns = ", ".join(f":{name} as {name}" for name in names)
    row = connection.execute(sa.text(f"select {columns}"), dict(zip(names, values, strict=True))).one()
    assert progress.say_how_far(row) == said


@pytest.mark.parametrize(
    ("sql", "step"),
    [
        ('CREATE UNIQUE INDEX CONCURRENTLY "an index" ON a (b)', 'creating the index "an'),
        ("CREATE INDEX CONCURRENTLY ix_a ON public.a (b)", "creating the index ix_a"),
        ("drop index concurrently if exists legacy.uq_a", "dropping the index legacy.uq_a"),
        ("do $$ begin execute 'drop index concurrently x'; end $$", "moving rows, page by page"),
    ],
)
def test_a_step_is_told_in_words(sql: str, step: str) -> None:
    assert progress.step_of(sql) == step
