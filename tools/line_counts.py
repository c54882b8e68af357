"""A pytest plugin that counts the lines that each test executes in some folders, in every thread.

``--count-lines FILE`` writes the counts as JSON. ``--line-limit FILE`` reads how many lines each test may execute, and
ends the process when one executes more: an endless loop is recognised by its steps, however slow the machine is.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# The sources whose lines are counted, and the tests that execute them.
FOLDERS = {
    "momentum/backfill": ("tests/backfill", "tests/test_command.py", "tests/test_trust.py"),
    "momentum/migrate": ("tests/migrate", "tests/scenarios", "tests/test_cli.py", "tests/test_trust.py"),
    "momentum/retries.py": ("tests/test_retries.py",),
}
# A test that executes this starts programs, whose lines are executed in other processes and not counted.
PROGRAMS = "tests/processes.py"
ENDLESS = 86


class LineCounts:
    """Counts lines while a test runs.

    Attributes:
        tests: For each test the seconds that it took, and by file and line how often that was executed.
        failed: The tests that failed.
    """

    def __init__(self, limits: dict[str, int]) -> None:
        self.tests: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self._limits = limits
        self._left = sys.maxsize
        self._counts: Counter[tuple[str, int]] = Counter()
        self._folders = tuple(str(ROOT / name) for name in (*FOLDERS, PROGRAMS))

    def _enter(self, frame: FrameType, _event: str, _argument: object) -> Any:
        """Follow a function of the folders, and no other."""
        return self._step if frame.f_code.co_filename.startswith(self._folders) else None

    def _step(self, frame: FrameType, event: str, _argument: object) -> Any:
        """Count a line."""
        if event == "line":
            self._counts[frame.f_code.co_filename, frame.f_lineno] += 1
            self._left -= 1
            if self._left < 0:
                os._exit(ENDLESS)
        return self._step

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Count the lines of a test, its fixtures included."""
        self._counts.clear()
        self._left = self._limits.get(item.nodeid, sys.maxsize)
        started = time.perf_counter()
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            files: dict[str, dict[int, int]] = {}
            for (name, line), count in self._counts.items():
                files.setdefault(str(Path(name).relative_to(ROOT)), {})[line] = count
            self.tests[item.nodeid] = {"seconds": time.perf_counter() - started, "files": files}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure."""
        if report.failed:
            self.failed.add(report.nodeid)

    def as_json(self) -> str:
        """Return the counts of the tests that passed, because a test that fails by itself can't judge anything."""
        return json.dumps({name: counts for name, counts in self.tests.items() if name not in self.failed})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--count-lines", type=Path)
    parser.addoption("--line-limit", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    limit = config.getoption("--line-limit")
    counts = LineCounts(json.loads(limit.read_text(encoding="utf-8")) if limit else {})
    config.pluginmanager.register(counts)
    if path := config.getoption("--count-lines"):
        config.add_cleanup(lambda: path.write_text(counts.as_json(), encoding="utf-8"))
