"""The signals of a real server, and a run that goes by them; a replica is in tests/scenarios/test_standby.py."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from momentum.backfill import Settings, gentle, run_backfill
from momentum.backfill.gentle import Load, judge_load
from momentum.backfill.session import Session
from momentum.backfill.settings import Limits
from momentum.backfill.throttle import SIGNALS, Signals
from momentum.connect.engine import create_engine
from momentum.testing import Server
from tests.backfilling import ONE_DAY, Scores, at_a_pause
from tests.migrating import execute, run, wait_until
from tests.samples import add_users
from tests.server import engine_of

LOGGER = "momentum.backfill"


@contextmanager
def session_of(url: sa.URL) -> Iterator[Session]:
    """Yield a session as the backfill has it."""
    engine = create_engine(url, application_name="momentum-backfill")
    with Session(engine, Limits(), read_only=True, sleep=lambda _: None) as session:
        yield session


def test_a_reading_says_how_much_is_written_and_that_nobody_waits(url: sa.URL) -> None:
    with session_of(url) as session:
        signals = Signals()
        first = signals.read(session)
        execute(url, "create table public.something (n int)")
        second = signals.read(session)
    assert first.flushed is not None
    assert second.flushed is not None
    assert second.flushed > first.flushed
    assert second.at > first.at
    assert None not in (second.replayed, second.kept, second.unarchived, second.active)


def test_a_session_that_waits_for_a_lock_strains_a_server(url: sa.URL) -> None:
    run(url, "create table public.something (n int)")
    with engine_of(url).connect() as holder, engine_of(url).connect() as waiter, session_of(url) as session:
        holder.exec_driver_sql("lock table public.something")
        pid = waiter.exec_driver_sql("select pg_backend_pid()").scalar_one()
        driver = waiter.connection.driver_connection
        assert driver is not None
        driver.pgconn.send_query(b"select from public.something")
        wait_until(url, "exists (select from pg_locks where pid = :pid and not granted)", pid=pid)
        reading = Signals().read(session)
        holder.rollback()
        while driver.pgconn.get_result():
            pass
    assert reading.waiting_for_locks
    assert judge_load(reading, is_slow=False) is Load.STRAINED


def test_a_role_that_does_not_see_others_is_told_so_once(url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    signals = Signals()
    with session_of(url.update_query_dict({"options": "-c role=service_role"})) as session:
        readings = [signals.read(session) for _ in range(3)]
    for reading in readings:
        assert (reading.active, reading.waiting_for_locks, reading.waiting_for_wal) == (None, None, None)
        assert None not in (reading.flushed, reading.kept, reading.unarchived)
        assert judge_load(reading, is_slow=False) is Load.SHARED
    assert "a gentle run can't see who has to wait here: grant pg_monitor to this role" in caplog.messages
    assert len(caplog.messages) == len(set(caplog.messages))


def test_a_signal_that_the_server_refuses_is_named_once_and_the_others_are_read(
    url: sa.URL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    broken = SIGNALS["kept"]._replace(query="select slots from pg_catalog.no_such_view")
    monkeypatch.setitem(SIGNALS, "kept", broken)
    signals = Signals()
    with session_of(url) as session:
        readings = [signals.read(session) for _ in range(3)]
    assert [(reading.kept, reading.flushed is None, reading.active is None) for reading in readings] == [
        (None, False, False)
    ] * 3
    [line] = caplog.messages
    assert line.startswith("a gentle run can't see what replication slots keep here: ")
    assert 'relation "pg_catalog.no_such_view" does not exist' in line


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gentle_run_fills_everything(scores: Scores, workers: int) -> None:
    add_users(scores.engine, 100)
    report = run_backfill(scores.engine, Settings(ONE_DAY, commit_every=20, workers=workers, gentle=True))
    assert (report.inserted, report.left_over) == (100, 0)
    assert report.commits >= 100 // 20


def test_a_gentle_run_waits_for_a_slot_that_keeps_what_it_writes(
    server: Server, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gentle, "MOST_KEPT", 1000)
    add_users(scores.engine, 200)
    slot = f"kept_{scores.url.database}"
    execute(server.admin_url, "select pg_create_physical_replication_slot(:slot, true)", slot=slot)

    def let_go() -> None:
        held = execute(
            scores.url,
            "select count(*) from pg_stat_activity where datname = current_database() and backend_xid is not null",
        )
        assert (held, 0 < scores.count() < 200) == (0, True), "no transaction is open during a pause"
        execute(server.admin_url, "select pg_drop_replication_slot(:slot)", slot=slot)

    # The server may be shared with other tests, which have slots of their own.
    own = f"the slot {slot} keeps "
    with at_a_pause(let_go, own) as said:
        report = run_backfill(scores.engine, Settings(ONE_DAY, commit_every=20, gentle=True))
    assert (report.inserted, report.left_over) == (200, 0)
    assert report.paused["replication slots"] > 0
    [line] = [line for line in said if own in line]
    assert re.fullmatch(r"pausing: .* \d+ MiB more WAL than at first", line)
    assert "going on" in said
