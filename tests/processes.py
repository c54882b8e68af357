"""The programs of this package as processes of their own, without the wait for a new Python that imports everything.

Python's fork server imports it all once and then forks a process for each program: 0.05 s instead of 0.7 s. A process
has its own environment, folder, output and signals. tests/test_packaging.py runs the programs as they are installed.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from typing import TextIO

# The functions that the scripts of the package and of Alembic call, and those of the modules that `python -m` runs.
PROGRAMS = {
    "alembic": "alembic.config:main",
    "momentum": "momentum.cli:main",
    "momentum-backfill": "momentum.backfill.cli:main",
    "momentum.testing": "momentum.testing.__main__:main",
    "momentum.verify": "momentum.verify.__main__:main",
}
ROOT = Path(__file__).parents[1]
# Seconds after which a program counts as hanging. No test measures by it: however slow the machine, none comes near.
DEADLINE = 120.0

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    [
        "alembic.config",
        "momentum.backfill",
        "momentum.backfill.cli",
        "momentum.migrate.config",
        "momentum.models",
        "momentum.testing.servers",
        "momentum.verify.compare",
        "psycopg",
        "rich.progress",
        "rich.table",
        "sqlalchemy.dialects.postgresql.psycopg",
        __name__,
    ]
)


class Process:
    """A running program with its output in two pipes. Its methods are those of ``subprocess.Popen``."""

    def __init__(self, program: str, *arguments: str | Path, env: Mapping[str, str], cwd: Path = ROOT) -> None:
        self.args = [program, *map(str, arguments)]
        ends = [_FORKING.Pipe(duplex=False) for _ in ("stdout", "stderr")]
        self.stdout, self.stderr = (as_text_file(reading) for reading, _ in ends)
        writing = [end for _, end in ends]
        self._process = _FORKING.Process(target=become, args=(self.args, dict(env), str(cwd), *writing), daemon=True)
        self._process.start()
        for end in writing:
            end.close()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float = DEADLINE) -> int:
        """Return the exit code when it has ended.

        Raises:
            subprocess.TimeoutExpired: It is still running after that many seconds.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float = DEADLINE) -> tuple[str, str]:
        """Wait for the end, and return the rest of standard output and standard error."""
        said = ["", ""]

        def read(number: int, stream: TextIO) -> None:
            said[number] = stream.read()

        readers = [threading.Thread(target=read, args=each) for each in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            for reader in readers:
                reader.join()
            self.close()
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.returncode is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def halt(self) -> None:
        """Stop it, until it gets SIGCONT, and return once none of its threads runs any more."""
        self.send_signal(signal.SIGSTOP)
        threads = list(Path(f"/proc/{self._process.pid}/task").iterdir())
        while not all((each / "stat").read_text().rpartition(")")[2].split()[0] in "Tt" for each in threads):
            pass

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close this side of the pipes."""
        self.stdout.close()
        self.stderr.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self.close()


def run(
    program: str, *arguments: str | Path, env: Mapping[str, str], cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and return its exit code and output."""
    process = Process(program, *arguments, env=env, cwd=cwd)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.wait(), stdout, stderr)


def as_text_file(connection: Connection) -> TextIO:
    """Return a pipe as a text file."""
    descriptor = os.dup(connection.fileno())
    connection.close()
    return os.fdopen(descriptor, encoding="utf-8")


def become(arguments: list[str], environ: dict[str, str], cwd: str, stdout: Connection, stderr: Connection) -> None:
    """Become a program, in the process that was forked."""
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    earlier = sys.stdout
    for number, name, connection in ((1, "stdout", stdout), (2, "stderr", stderr)):
        os.dup2(connection.fileno(), number)
        connection.close()
        # Standard error is flushed after each line, as Python does it.
        setattr(sys, name, os.fdopen(number, "w", 1 if number == 2 else -1, encoding="utf-8", closefd=False))
    # As in a terminal, although the tests may have been started where interrupts are ignored, as in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = arguments
    try:
        with contextlib.closing(sys.stdout):
            sys.exit(resolve_name(PROGRAMS[arguments[0]])())
    finally:
        # What was imported before, such as Alembic's commands, writes there; a forked process doesn't flush it.
        with contextlib.suppress(OSError):
            earlier.flush()
