"""A Supabase project, its service-role key, and TLS: all of it before any connection."""

import datetime
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from momentum.connect.supabase import (
    hosts,
    is_supabase,
    objection_to_key,
    primary_of,
    project_named,
    project_of,
    require_tls,
)
from tests import processes
from tests.alembic_program import error_of, program
from tests.connect.project import (
    DIRECT,
    GOOD,
    OTHER,
    PASSWORD,
    POOLER,
    POOLER_HOST,
    PROJECT,
    PROJECT_URL,
    env_file,
    token,
)
from tests.server import engine_of

NOW = datetime.datetime(2026, 3, 5, 12, tzinfo=datetime.UTC)


SECRET_KEY = "sb_secret_Xk3f9-Qw7_ZrT2mN8vLp4A_1b2c3d4e"


@pytest.mark.parametrize(
    ("url", "is_one", "project"),
    [
        (DIRECT, True, PROJECT),
        (DIRECT.replace("db.", "DB.").replace(".co:", ".CO.:"), True, PROJECT),
        (DIRECT.replace(":5432", ":6543"), True, PROJECT),
        (f"postgresql:///postgres?host=db.{PROJECT}.supabase.co&user=postgres", True, PROJECT),
        (POOLER, True, PROJECT),
        (POOLER.replace("postgres.", "momentum_job."), True, PROJECT),
        (f"postgresql:///postgres?host={POOLER_HOST}:5432&user=postgres.{PROJECT}", True, PROJECT),
        (DIRECT.replace(".supabase", "-rr-eu-west-1-abcde.supabase"), True, PROJECT),
        (POOLER.replace(PROJECT, f"{PROJECT}-rr-eu-west-1-abcde"), True, PROJECT),
        (
            f"postgresql://postgres@db.{PROJECT}.supabase.co,db.{PROJECT}-rr-eu-west-1-abcde.supabase.co/x",
            True,
            PROJECT,
        ),
        (POOLER.replace(f".{PROJECT}", ""), True, None),
        (f"postgresql://postgres@{PROJECT}.supabase.co/postgres", True, None),
        (f"postgresql:///postgres?host=db.{PROJECT}.supabase.co,db.{OTHER}.supabase.co", True, None),
        (f"postgresql:///postgres?host=db.{PROJECT}.supabase.co,elsewhere.example", True, None),
        ("postgresql://postgres:postgres@127.0.0.1:54322/postgres", False, None),
        ("postgresql://postgres@[::1]:54322/postgres", False, None),
        (f"postgresql://postgres.{PROJECT}@db.example/postgres", False, None),
        (f"postgresql://postgres@db.{PROJECT}.supabase.co.example/postgres", False, None),
        ("postgresql://postgres@db.notsupabase.co/postgres", False, None),
        ("postgresql:///postgres?host=/run/postgresql", False, None),
        ("postgresql:///postgres", False, None),
    ],
)
def test_a_url_tells_whether_it_is_supabases_and_of_which_project(url: str, is_one: bool, project: str | None) -> None:
    assert is_supabase(make_url(url)) == is_one
    assert project_of(make_url(url)) == project


def test_what_the_url_leaves_to_the_environment_is_looked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", POOLER_HOST)
    monkeypatch.setenv("PGUSER", f"postgres.{PROJECT}")
    assert project_of(make_url("postgresql:///postgres")) == PROJECT
    assert not is_supabase(make_url("postgresql://localhost/postgres"))


@pytest.mark.parametrize("way", ["service=", "PGSERVICE"])
def test_a_service_that_leads_to_supabase_is_supabases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = tmp_path / "services"
    host = f"{POOLER_HOST.upper()}."
    path.write_text(f"[ours]\nhost={host}\nuser=postgres.{PROJECT}\ndbname=postgres\n", encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    if way == "PGSERVICE":
        monkeypatch.setenv("PGSERVICE", "ours")
    url = make_url("postgresql:///" if way == "PGSERVICE" else "postgresql:///?service=ours")
    assert is_supabase(url)
    assert project_of(url) == PROJECT
    assert require_tls(url).query["sslmode"] == "require"
    with path.open("a", encoding="utf-8") as file:
        file.write("sslmode=verify-full\n")
    assert "sslmode" not in require_tls(url).query
    monkeypatch.delenv("PGSERVICE", raising=False)
    listed = make_url(f"postgresql://one.example,db.{PROJECT}.supabase.co/postgres")
    assert require_tls(listed).query["sslmode"] == "require"


@pytest.mark.parametrize(
    ("url", "primary"),
    [
        (DIRECT.replace(".supabase", "-rr-eu-west-1-abcde.supabase"), [f"db.{PROJECT}.supabase.co"]),
        (POOLER.replace(PROJECT, f"{PROJECT}-rr-eu-west-1-abcde"), [f"as the user postgres.{PROJECT}"]),
        ("postgresql://postgres@db.example/postgres", []),
    ],
)
def test_the_primary_of_a_read_replica_is_known_by_its_project(url: str, primary: list[str]) -> None:
    assert primary_of(make_url(url)) == primary


def test_hosts_are_read_without_their_ports() -> None:
    assert hosts(make_url("postgresql:///app?host=One:1&host=two:2")) == ["one", "two"]
    assert hosts(make_url("postgresql://three.:3/app")) == ["three"]


def test_supabase_url_has_the_reference_unless_the_project_has_a_domain_of_its_own() -> None:
    assert project_named(f" https://{PROJECT}.supabase.co/ ") == PROJECT
    assert project_named(f"https://{PROJECT}-rr-eu-west-1-abcde.supabase.co") == PROJECT
    assert project_named("https://api.example.com") is None
    assert project_named(f"https://{PROJECT}.supabase.co.example.com") is None


@pytest.mark.parametrize(
    ("key", "objection"),
    [
        (GOOD, None),
        (SECRET_KEY, None),
        (token(exp=None), None),
        (token(exp=NOW.timestamp() + 1), None),
        (token(role="anon"), "is the anon key, which anyone may have: its role is anon, not service_role"),
        (token(role="anon", ref=OTHER, exp=1), "is the anon key"),
        (token(role="authenticated"), "has a role other than service_role"),
        (token(role=None), "has a role other than service_role"),
        (token(role=["service_role"]), "has a role other than service_role"),
        (token(ref=OTHER), "belongs to a project other than the database's"),
        (token(ref=None), "belongs to a project other than the database's"),
        (token(exp=NOW.timestamp()), "expired on 2026-03-05"),
        (token(exp=1735689600), "expired on 2025-01-01"),
        (token(exp="soon"), "does not say when it expires"),
        (token(exp=1e300), "does not say when it expires"),
        (SECRET_KEY.replace("secret", "publishable"), "is a publishable key, which anyone may have"),
        ("sb_secret_", "is neither a secret key nor a JWT"),
        (f"{SECRET_KEY} and more", "is neither a secret key nor a JWT"),
        (GOOD.rpartition(".")[0], "is neither a secret key nor a JWT"),
        (GOOD[3:], "is neither a secret key nor a JWT"),
        ("eyJhbGciOiJIUzI1NiJ9.WzFd.c2ln", "is neither a secret key nor a JWT"),  # its payload is a list
        (PASSWORD, "is neither a secret key nor a JWT"),
        (f"sbp_{'0' * 40}", "is neither a secret key nor a JWT"),  # a personal access token
    ],
)
def test_a_key_is_the_projects_service_role_key_or_objected_to(key: str, objection: str | None) -> None:
    said = objection_to_key(key, PROJECT, NOW)
    if objection is None:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(objection)
        assert_no_part_of(key, said)


def assert_no_part_of(key: str, text: str) -> None:
    """Assert that a text has no eight consecutive letters of a key, except for its kind, which is no secret."""
    secret = re.sub(r"^sb_(secret|publishable)_", "", key)
    assert not [part for n in range(len(secret) - 7) if (part := secret[n : n + 8]) in text]


# The URL and the lines of the env file, and the message. Each of these stops the command before it connects.
REFUSALS = {
    "no key": (DIRECT, [], f"project {PROJECT} may be changed only with its service-role key: write it as"),
    "an empty key": (POOLER, ["SUPABASE_SERVICE_ROLE_KEY="], "may be changed only with its service-role key"),
    "the anon key": (DIRECT, [f"SUPABASE_SERVICE_ROLE_KEY={token(role='anon')}"], "is the anon key"),
    "another role": (DIRECT, [f"SUPABASE_SERVICE_ROLE_KEY={token(role='x')}"], "has a role other than service_role"),
    "another project's": (POOLER, [f"SUPABASE_SERVICE_ROLE_KEY={token(ref=OTHER)}"], "belongs to a project other than"),
    "an expired key": (DIRECT, [f"SUPABASE_SERVICE_ROLE_KEY={token(exp=1735689600)}"], "expired on 2025-01-01"),
    "a publishable key": (
        DIRECT,
        [f"SUPABASE_SERVICE_ROLE_KEY={SECRET_KEY.replace('secret', 'publishable')}"],
        "is a publishable key",
    ),
    "no key at all": (DIRECT, [f"SUPABASE_SERVICE_ROLE_KEY={PASSWORD}"], "is neither a secret key nor a JWT"),
    "a pooler that hides the project": (
        POOLER.replace(f".{PROJECT}", ""),
        [f"SUPABASE_SERVICE_ROLE_KEY={GOOD}"],
        "doesn't say which Supabase project it belongs to",
    ),
    "another project's URL": (
        DIRECT,
        [f"SUPABASE_URL=https://{OTHER}.supabase.co", f"SUPABASE_SERVICE_ROLE_KEY={SECRET_KEY}"],
        f"SUPABASE_URL belongs to project {OTHER}, but the database belongs to project {PROJECT}",
    ),
}


def backfill(path: Path, *arguments: str, port: int, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command. Whatever its host, the driver connects to a port of this machine, if it connects at all."""
    env = {**os.environ, "PGHOSTADDR": "127.0.0.1", "PGPORT": str(port), "PGCONNECT_TIMEOUT": "5", **environ}
    done = processes.run("momentum-backfill", "--env-file", path, "--days", "1", *arguments, env=env)
    for key in re.findall(r"KEY=(.+)", path.read_text(encoding="utf-8")):
        assert_no_part_of(key, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
    return done


class Listener:
    """A server without TLS that keeps what its clients send."""

    def __init__(self, listening: socket.socket) -> None:
        self.port: int = listening.getsockname()[1]
        self.received: list[bytes] = []
        self._socket = listening
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> list[bytes]:
        """Accept no more clients, and return what they have sent once the last one is gone."""
        if self._thread.is_alive():
            # Wakes the thread; a close alone would not.
            self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join()
        return self.received

    def _serve(self) -> None:
        """Answer each client as a Postgres without TLS does, until the socket is closed."""
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                self.received.append(client.recv(1024))
                client.sendall(b"N")
                self.received.append(client.recv(1024))


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as found:
        yield found


@contextmanager
def listening() -> Iterator[Listener]:
    with socket.create_server(("127.0.0.1", 0)) as listening_socket:
        listener = Listener(listening_socket)
        try:
            yield listener
        finally:
            listener.stop()


@pytest.mark.slow
@pytest.mark.parametrize("refusal", REFUSALS)
def test_the_backfill_refuses_in_one_sentence_before_it_connects(
    tmp_path: Path, listener: Listener, refusal: str
) -> None:
    url, lines, said = REFUSALS[refusal]
    local = url.replace(":5432", f":{listener.port}")
    done = backfill(env_file(tmp_path, f"SUPABASE_DB_URL={local}", *lines), port=listener.port)
    assert (done.returncode, done.stdout) == (2, "")
    database, line = done.stderr.splitlines()
    assert database.startswith("Database: ")
    assert line.startswith("Error: ")
    assert said in line
    assert line.endswith(".")
    assert listener.stop() == []


# The first message of libpq where it wants TLS: a length of 8 and the code of an SSLRequest.
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


@pytest.mark.parametrize("key", [GOOD, SECRET_KEY], ids=["JWT", "secret key"])
@pytest.mark.parametrize("way", ["the file", "the environment"])
def test_with_the_right_key_it_connects_with_tls_only_and_keeps_the_key(
    tmp_path: Path, listener: Listener, key: str, way: str
) -> None:
    local = POOLER.replace(":5432", f":{listener.port}")
    variable = {"SUPABASE_SERVICE_ROLE_KEY": key}
    lines = [f"{name}={text}" for name, text in variable.items()] if way == "the file" else []
    path = env_file(tmp_path, f"SUPABASE_DB_URL={local}", PROJECT_URL, *lines)
    done = backfill(path, port=listener.port, **({} if lines else variable))
    assert done.returncode == 3, done.stderr
    assert "server does not support SSL, but SSL was required" in done.stderr
    assert set(listener.stop()) == {SSL_REQUEST, b""}, "only the request for TLS was sent"
    assert_no_part_of(key, done.stdout + done.stderr)


def test_the_migrations_and_other_hosts_want_no_key(tmp_path: Path, listener: Listener) -> None:
    local = f"postgresql://postgres@localhost:{listener.port}/postgres"
    done = backfill(env_file(tmp_path, f"SUPABASE_DB_URL={local}"), port=listener.port)
    assert done.returncode == 3
    assert listener.received[0] == SSL_REQUEST
    assert listener.received[1] != b"", "the client went on without TLS, as it may on this machine"
    listener.received.clear()
    supabases = POOLER.replace(":5432", f":{listener.port}")
    done = program("-x", f"url={supabases}", "current", home=tmp_path, PGHOSTADDR="127.0.0.1")
    assert "SSL was required" in error_of(done, 3)


@pytest.mark.parametrize("way", ["a service", "PGHOST"])
def test_what_leads_to_supabase_by_the_environment_needs_the_key_and_tls(
    tmp_path: Path, listener: Listener, way: str
) -> None:
    services = tmp_path / "services"
    services.write_text(f"[ours]\nhost=db.{PROJECT}.supabase.co\nuser=postgres\n", encoding="utf-8")
    ways = {
        "a service": {"PGSERVICEFILE": str(services), "PGSERVICE": "ours"},
        "PGHOST": {"PGHOST": f"DB.{PROJECT}.supabase.co.", "PGUSER": "postgres"},
    }
    path = env_file(tmp_path, "SUPABASE_DB_URL=postgresql:///postgres")
    done = backfill(path, port=listener.port, **ways[way])
    assert done.returncode == 2
    assert "may be changed only with its service-role key" in done.stderr
    assert listener.received == []
    done = backfill(path, port=listener.port, **ways[way], SUPABASE_SERVICE_ROLE_KEY=GOOD)
    assert done.returncode == 3, done.stderr
    host = {"a service": f"db.{PROJECT}.supabase.co", "PGHOST": f"DB.{PROJECT}.supabase.co."}[way]
    assert f"The database at {host} (127.0.0.1):{listener.port}/postgres cannot be reached" in done.stderr
    assert set(listener.stop()) == {SSL_REQUEST, b""}, "only the request for TLS was sent"


def test_a_file_that_others_can_read_is_warned_of_unless_the_run_is_quiet(tmp_path: Path, listener: Listener) -> None:
    path = env_file(tmp_path, f"SUPABASE_DB_URL={DIRECT}", mode=0o644)
    database, warning, error = backfill(path, port=listener.port).stderr.splitlines()
    assert database.startswith(f"Database: db.{PROJECT}.supabase.co")
    assert warning == f"warning: The env file {path} can be read by other users of this machine; chmod 600 {path}."
    assert error.startswith("Error: Supabase project ")
    assert backfill(path, "--quiet", port=listener.port).stderr.splitlines() == [database, error]


@pytest.mark.parametrize(
    ("url", "environ", "sslmode"),
    [
        (DIRECT, {}, "require"),
        (POOLER, {}, "require"),
        (f"{DIRECT}?sslmode=disable", {}, "require"),
        (f"{DIRECT}?sslmode=allow", {}, "require"),
        (f"{DIRECT}?sslmode=prefer", {}, "require"),
        (f"{DIRECT}?sslmode=require", {}, "require"),
        (f"{DIRECT}?sslmode=verify-ca", {}, "verify-ca"),
        (f"{POOLER}?sslmode=verify-full", {}, "verify-full"),
        (DIRECT, {"PGSSLMODE": "prefer"}, "require"),
        (DIRECT, {"PGSSLMODE": "verify-full"}, None),
        (DIRECT, {"PGSSLROOTCERT": "system"}, None),
        (f"{DIRECT}?sslmode=prefer", {"PGSSLROOTCERT": "system"}, "require"),
        ("postgresql:///postgres", {"PGHOST": f"db.{PROJECT}.supabase.co"}, "require"),
        (f"{DIRECT}?sslmode=disable", {"PGSSLMODE": "verify-full"}, "require"),
        (f"{DIRECT}?sslrootcert=system", {}, None),
        (f"{DIRECT}?sslrootcert=/etc/supabase.crt", {}, "require"),
        ("postgresql://postgres@127.0.0.1:54322/postgres", {}, None),
        ("postgresql://postgres@db.example/postgres?sslmode=disable", {}, "disable"),
    ],
)
def test_a_connection_to_supabase_has_tls_or_more(
    monkeypatch: pytest.MonkeyPatch, url: str, environ: dict[str, str], sslmode: str | None
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert require_tls(make_url(url)).query.get("sslmode") == sslmode


def test_every_engine_of_ours_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert engine_of(make_url(DIRECT)).url.query["sslmode"] == "require"
