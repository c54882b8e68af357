"""A standby of the server, made with its own programs: it is read, and never written to."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.backfill import Settings, gentle, run_backfill
from momentum.backfill.session import Session
from momentum.backfill.settings import Limits
from momentum.backfill.throttle import Signals
from momentum.connect.engine import create_engine
from momentum.connect.url import as_text
from momentum.errors import DatabaseUnreachableError
from momentum.migrate.config import alembic_config
from momentum.testing import Server
from momentum.testing.servers import place_in_memory
from tests.alembic_program import error_of, program, text_of
from tests.backfilling import ONE_DAY, at_a_pause, backfill, one_error_line, started
from tests.migrating import execute, wait_until
from tests.processes import Process
from tests.samples import add_users
from tests.server import engine_of

pytestmark = pytest.mark.slow

DAY = "2026-03-05"


@contextmanager
def running_copy(server: Server, *options: str, settings: str = "") -> Iterator[Path]:
    """Yield the folder of the socket of a copy of the whole server, which runs.

    Args:
        server: The server.
        options: Options of pg_basebackup.
        settings: Lines for the copy's configuration.
    """
    with engine_of(server.admin_url).connect() as connection:
        data = Path(connection.exec_driver_sql("show data_directory").scalar_one())
        # A standby needs as much room for connections as its primary has.
        most = connection.exec_driver_sql("show max_connections").scalar_one()
    try:
        programs = Path(f"/proc/{(data / 'postmaster.pid').read_text().split()[0]}/exe").readlink().parent
    except OSError:
        pytest.skip("the server's programs are not on this machine")
    as_owner: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    if os.geteuid() == 0:
        owner = data.stat()
        as_owner |= {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": ()}

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run([programs / program, *arguments], cwd=folder, **as_owner)
        assert done.returncode == 0, done.stderr

    place = place_in_memory()
    folder = Path(tempfile.mkdtemp(prefix="momentum-standby-", dir=place))
    if os.geteuid() == 0:
        os.chown(folder, owner.st_uid, owner.st_gid)
    control = ("-D", "data", "-w", "-l", "log", "-s")
    with wal_kept(server):
        call("pg_basebackup", "-D", "data", "-c", "fast", "-d", as_text(server.admin_url), *options)
    with (folder / "data" / "postgresql.auto.conf").open("a", encoding="utf-8") as configuration:
        configuration.write(settings)
    call("pg_ctl", *control, "-o", f"-p 5432 -k {folder} -c listen_addresses= -c max_connections={most}", "start")
    try:
        yield folder
    finally:
        call("pg_ctl", *control, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def urls(server: Server) -> Iterator[tuple[sa.URL, sa.URL]]:
    """A migrated database and one that isn't, on a standby."""
    with server.database() as migrated, server.database(migrated=False) as empty:
        add_users(engine_of(migrated), 5)
        with running_copy(server, "-R") as folder:
            yield on_standby(migrated, folder), on_standby(empty, folder)


@contextmanager
def wal_kept(server: Server) -> Iterator[None]:
    """Have the server keep what the backup needs, however much other tests write meanwhile."""
    with engine_of(server.admin_url).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("alter system set wal_keep_size = '2GB'")
        connection.exec_driver_sql("select pg_reload_conf()")
        try:
            yield
        finally:
            connection.exec_driver_sql("alter system reset wal_keep_size")
            connection.exec_driver_sql("select pg_reload_conf()")


def on_standby(url: sa.URL, folder: Path) -> sa.URL:
    """Return the URL of a database on the copy whose socket is in a folder."""
    return sa.URL.create(url.drivername, url.username, url.password, database=url.database, query={"host": str(folder)})


def said_of(url: sa.URL) -> re.Pattern[str]:
    """Return the sentence about a database of a standby."""
    return re.compile(
        rf"Error: The server of \S+/{url.database} is a standby, which can only be read; "
        r"connect to its primary(, \S+:\d+)?\."
    )


@pytest.mark.parametrize("arguments", [("upgrade", "head"), ("upgrade", "+1"), ("stamp", "head")])
def test_nothing_is_migrated_on_a_standby(urls: tuple[sa.URL, sa.URL], home: Path, arguments: tuple[str, ...]) -> None:
    for url in urls:
        assert said_of(url).fullmatch(error_of(program("-x", f"url={text_of(url)}", *arguments, home=home), 3))


@pytest.mark.parametrize("purge", ["yes", "no"])
def test_nothing_is_migrated_back_on_a_standby(urls: tuple[sa.URL, sa.URL], home: Path, purge: str) -> None:
    done = program("-x", f"url={text_of(urls[0])}", "-x", f"purge={purge}", "downgrade", "base", home=home)
    assert said_of(urls[0]).fullmatch(error_of(done, 3))


@pytest.mark.parametrize("begun", [True, False])
def test_a_connection_to_a_standby_that_is_handed_in_is_refused(urls: tuple[sa.URL, sa.URL], begun: bool) -> None:
    with engine_of(urls[0]).connect() as connection:
        if begun:
            connection.begin()
        config = alembic_config(urls[0])
        config.attributes["connection"] = connection
        with pytest.raises(DatabaseUnreachableError, match="is a standby"):
            alembic.command.upgrade(config, "head")
        assert connection.in_transaction() == begun


def test_a_real_run_and_a_real_undo_are_refused_and_dry_ones_are_not(urls: tuple[sa.URL, sa.URL]) -> None:
    for options in (("--to", DAY, "--days", "2"), ("--undo", os.devnull)):
        done = backfill(*options, url=urls[0])
        assert done.returncode == 3
        assert said_of(urls[0]).fullmatch(one_error_line(done))
        assert backfill(*options, "--dry-run", url=urls[0]).returncode == 0
        assert backfill(*options, "--dry-run", "--gentle", url=urls[0]).returncode == 0


HOLDS = {
    "paused": (["select pg_wal_replay_pause()"], ["select pg_wal_replay_resume()"]),
    "delayed": (
        ["alter system set recovery_min_apply_delay = '1h'", "select pg_reload_conf()"],
        ["alter system reset recovery_min_apply_delay", "select pg_reload_conf()"],
    ),
}
# More than a second's work, by its pauses alone.
GENTLE = ("--to", DAY, "--days", "50", "--no-discrepancies", "--json", "--commit-every", "10", "--pause-ms", "50")


@contextmanager
def held_back(server: Server, standby: sa.URL, how: str) -> Iterator[Callable[[], None]]:
    """Hold back the replay of a standby; yield a function that lets it go on."""
    admin = on_standby(server.as_admin(standby), Path(str(standby.query["host"])))
    with engine_of(admin).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")

        def call(statements: Sequence[str]) -> None:
            for statement in statements:
                connection.exec_driver_sql(statement).close()

        hold, let_go = HOLDS[how]
        call(hold)
        try:
            yield lambda: call(let_go)
        finally:
            call(let_go)


def wait_for_pause(url: sa.URL, process: Process) -> int:
    """Wait until a gentle run pauses and looks again, and return how many rows there are."""
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("pausing: the replica "):
            break
    else:
        pytest.fail(f"it never paused: {said}")
    count = "select count(*) from legacy.daily_engagement_scores"
    rows = execute(url, count)
    own = "datname = current_database() and application_name = 'momentum-backfill'"
    looked = execute(url, f"select max(query_start) from pg_stat_activity where {own}")
    looked_again = f"(select max(query_start) > :looked from pg_stat_activity where {own})"
    wait_until(url, looked_again, process=process, looked=looked)
    assert execute(url, f"select count(*) from pg_stat_activity where {own} and backend_xid is not null") == 0
    assert execute(url, count) == rows
    return int(rows)


@pytest.mark.parametrize("how", HOLDS)
def test_a_gentle_run_stops_while_a_replica_is_held_back_and_goes_on_after(
    server: Server, urls: tuple[sa.URL, sa.URL], how: str
) -> None:
    with server.database() as url:
        add_users(engine_of(url), 20)
        with held_back(server, urls[0], how) as let_go, started(url, *GENTLE, "--gentle") as process:
            assert 0 < wait_for_pause(url, process) < 1000
            let_go()
            stdout, stderr = process.communicate()
        report = json.loads(stdout)
        assert (process.wait(), report["inserted"], report["left_over"]) == (0, 1000, 0), stderr
        assert report["paused_s"]["replication lag"] > 0
        assert "going on" in stderr


def test_a_gentle_run_that_pauses_can_be_stopped(server: Server, urls: tuple[sa.URL, sa.URL]) -> None:
    with server.database() as url:
        add_users(engine_of(url), 20)
        with held_back(server, urls[0], "paused"), started(url, *GENTLE, "--gentle") as process:
            rows = wait_for_pause(url, process)
            process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate()
        report = json.loads(stdout)
        assert (process.wait(), report["inserted"], report["interrupted"]) == (143, rows, True)
        assert " --gentle " in report["resume"]


def test_a_gentle_run_waits_for_the_archive(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gentle, "MOST_UNARCHIVED", 1 << 20)
    # It keeps nothing, and fails while there is a certain file.
    archive = "archive_mode = on\narchive_command = 'test ! -e ../full'\n"
    with server.database() as original:
        add_users(engine_of(original), 200)
        with running_copy(server, settings=archive) as folder:
            url = on_standby(original, folder)
            admin = on_standby(server.as_admin(original), folder)
            full = folder / "full"

            def finish_a_file() -> str:
                execute(admin, "create table public.something (n int)")
                execute(admin, "drop table public.something")
                return str(execute(admin, "select pg_walfile_name(pg_switch_wal())"))

            def let_go() -> None:
                full.unlink()
                finish_a_file()

            def unarchived() -> int:
                with Session(create_engine(url, "tests"), Limits(), read_only=True, sleep=lambda _: None) as session:
                    waiting = Signals().read(session).unarchived
                assert waiting is not None
                return waiting

            last = finish_a_file()
            wait_until(admin, "(select last_archived_wal >= :last from pg_stat_archiver)", last=last)
            assert unarchived() <= 0
            full.touch()
            last = [finish_a_file() for _ in range(3)][-1]
            size = execute(admin, "select pg_size_bytes(current_setting('wal_segment_size'))")
            assert 2 * size <= unarchived() <= 3 * size
            with at_a_pause(let_go) as said:
                report = run_backfill(create_engine(url, "tests"), Settings(ONE_DAY, commit_every=20, gentle=True))
            assert (report.inserted, report.left_over, list(report.paused)) == (200, 0, ["archiving"])
            assert any(re.fullmatch(r"pausing: \d+ MiB of WAL wait to be archived", line) for line in said)
            assert execute(admin, "select last_archived_wal >= :last from pg_stat_archiver", last=last)


def test_a_standby_is_compared_and_looked_at(urls: tuple[sa.URL, sa.URL], home: Path) -> None:
    assert "(head)" in program("-x", f"url={text_of(urls[0])}", "current", home=home).stdout
    done = program("-x", f"url={text_of(urls[0])}", "check", home=home)
    assert done.returncode == 0, done.stderr
