"""The image of the Dockerfile, and what examples/ shows to run it with."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from typer.main import get_command

from momentum import __version__
from momentum.cli import app
from momentum.connect.url import as_text
from tests.backfilling import Proxy
from tests.migrating import HISTORY, current, run

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
CRON_JOB = ROOT / "examples" / "kubernetes.yaml"
COMPOSE = ROOT / "examples" / "compose.yaml"

# The image of Python to build on: another one where that of the Dockerfile can't be had.
BASE = os.environ.get("MOMENTUM_TEST_PYTHON_IMAGE") or re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE, re.MULTILINE)[0]


def find_engine() -> str | None:
    """Return the program of a container engine that runs, if there is one."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    return None


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def engine() -> str:
    """A container engine with the image of Python."""
    engine = find_engine()
    if engine is None:
        pytest.skip("there is no container engine to build the image with: Docker or podman")
    there = (
        call(engine, "image", "inspect", BASE).returncode == 0 or call(engine, "pull", "--quiet", BASE).returncode == 0
    )
    if not there:
        pytest.skip(f"the image {BASE} can't be had; name another one in MOMENTUM_TEST_PYTHON_IMAGE")
    return engine


def build(engine: str, tag: str) -> None:
    """Build the image anew, with the network and the certificates of this machine."""
    certificates = "/etc/ssl/certs"
    mount = ["--volume", f"{certificates}:{certificates}:ro"] if engine == "podman" else []
    options = ["--network", "host", "--no-cache", *mount, "--build-arg", f"PYTHON={BASE}", "--tag", tag]
    done = call(engine, "build", *options, ".")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def image(engine: str) -> Iterator[str]:
    """The image, built for the tests."""
    tag = f"momentum-test:{os.getpid()}"
    build(engine, tag)
    yield tag
    call(engine, "image", "rm", "--force", tag)


@pytest.mark.slow
def test_the_command_runs_in_the_image_with_no_rights_and_nothing_to_write_to(
    engine: str, image: str, supabase_url: sa.URL
) -> None:
    run(supabase_url, "insert into auth.users (id, created_at) values (gen_random_uuid(), '2020-01-01')")
    # The server may listen at a socket that only its own account can reach.
    with Proxy(supabase_url, b"\0never", forwarded=True) as server:
        hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host"]
        environ = {**os.environ, "MOMENTUM_DATABASE_URL": as_text(server.url)}

        def momentum(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [engine, "run", "--rm", *hardened, "--env", "MOMENTUM_DATABASE_URL", image, *arguments]
            return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

        assert momentum("--version").stdout.startswith(f"momentum {__version__} (Python ")
        upgraded = momentum("upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        assert current(supabase_url) == HISTORY[-1]
        [container] = yaml.safe_load(CRON_JOB.read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"][
            "containers"
        ]
        filled = momentum(*container["args"])
        assert filled.returncode == 0, filled.stderr
        assert json.loads(filled.stdout)["inserted"] == 3
        status = momentum("status", "--json")
        assert (status.returncode, json.loads(status.stdout)["missing"]) == (1, 4)


@pytest.mark.slow
def test_the_image_has_an_account_without_rights_and_no_secret(engine: str, image: str) -> None:
    [about] = json.loads(call(engine, "image", "inspect", image).stdout)
    assert about["Config"]["User"] == "10001:10001"
    assert about["Config"]["Entrypoint"] == ["momentum"]
    variables = [variable.partition("=")[0] for variable in about["Config"]["Env"]]
    assert not [name for name in variables if re.search("URL|KEY$|PASSWORD|TOKEN", name.replace("GPG_KEY", ""))]
    listed = call(engine, "run", "--rm", "--entrypoint", "ls", image, "/opt/momentum/bin").stdout.split()
    assert {"alembic", "momentum", "momentum-backfill"} <= set(listed)
    assert "pip" not in listed
    assert call(engine, "run", "--rm", "--entrypoint", "ls", image, "/source").returncode != 0


@pytest.mark.slow
def test_the_same_commit_makes_the_same_files(engine: str, image: str) -> None:
    again = f"{image}-again"
    build(engine, again)
    code = "cd /opt/momentum && find . -mindepth 1 -printf '%p %m %T@ %l\\n' -type f -exec sha256sum {} ';' | sort"
    try:
        first, second = (
            call(engine, "run", "--rm", "--entrypoint", "sh", tag, "-c", code).stdout for tag in (image, again)
        )
    finally:
        call(engine, "image", "rm", "--force", again)
    assert len(first.splitlines()) > 1000
    assert first == second


def test_the_context_has_what_the_image_copies_and_nothing_else() -> None:
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    assert {line.removeprefix("!/") for line in lines if line.startswith("!")} == copied


def arguments_are_known(arguments: list[str]) -> bool:
    """Return whether the command has what is called, with these options."""
    name, *rest = arguments
    commands: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009 - the class has no such attribute
    known = {option for parameter in commands[name].params for option in parameter.opts}
    return all(argument in known for argument in rest if argument.startswith("-"))


def test_the_job_at_night_is_run_with_options_that_exist_and_without_rights() -> None:
    job = yaml.safe_load(CRON_JOB.read_text(encoding="utf-8"))
    assert (job["kind"], job["spec"]["timeZone"], job["spec"]["concurrencyPolicy"]) == ("CronJob", "Etc/UTC", "Forbid")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert arguments_are_known(container["args"])
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all("secretKeyRef" in variable["valueFrom"] for variable in container["env"])


def test_the_composition_has_no_secret_and_builds_the_image() -> None:
    [service] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"].values()
    assert (COMPOSE.parent / service["build"] / "Dockerfile").exists()
    assert arguments_are_known(service["command"])
    assert all(re.fullmatch(r"\$\{\w+:[?-].*\}", value) for value in service["environment"].values())
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
