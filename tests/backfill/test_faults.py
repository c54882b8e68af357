"""Whatever goes wrong meanwhile, a run fills what can be filled, counts what can't, and says how to go on."""

import contextlib
import datetime
import json
import os
import random
import secrets
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Observers, Report, Settings, display, run_backfill
from momentum.backfill.fill import Failure, Progress
from momentum.backfill.pages import Row
from momentum.backfill.settings import Limits
from momentum.backfill.undo import run_undo
from momentum.connect.engine import create_engine
from momentum.connect.url import as_text
from momentum.retries import Backoff
from momentum.testing import Server
from momentum.testing.servers import embedded_server
from tests.backfilling import (
    COMMIT,
    DAY,
    HANGS,
    ONE_DAY,
    SHAPES,
    Proxy,
    Scores,
    after_database,
    backfill,
    call,
    keys_of,
    lines_of,
    messages_of,
    resumed,
    run_out_of_time,
    started,
    statements_of,
    sums_hold,
)
from tests.migrating import execute, fetch, run, wait_until
from tests.samples import add_users
from tests.server import engine_of

THREE_DAYS = DayRange(DAY - datetime.timedelta(days=2), DAY)
QUICK = Limits(lock_timeout=0.05, attempts=2, backoff=Backoff(0.01, 2, 1))
KILLS_SEED = int(os.environ.get("MOMENTUM_KILLS_SEED", secrets.randbelow(1_000_000)))


def fill(
    engine: sa.Engine, settings: Settings, on_progress: Callable[[Progress], None] = lambda _: None
) -> tuple[Report, list[Failure], list[Row]]:
    """Run and return the report, what failed, and the rows of which the run said that they are inserted."""
    failures: list[Failure] = []
    inserted: list[Row] = []
    report = run_backfill(engine, settings, observers=Observers(on_progress, inserted.extend, failures.append))
    assert sums_hold(report)
    assert report.left_over == report.failed or report.gave_up or report.interrupted
    assert len(failures) == report.failed
    assert len(inserted) == len(set(inserted)) == report.inserted
    return report, failures, inserted


def errors_of(engine: sa.Engine) -> list[str]:
    """Return a list that gets the SQLSTATE of every error that the engine meets from now on."""
    seen: list[str] = []

    @sa.event.listens_for(engine, "handle_error")
    def note(context: sa.engine.ExceptionContext) -> None:
        seen.append(str(getattr(context.original_exception, "sqlstate", None)))

    return seen


def test_a_server_that_is_not_there_is_tried_once(tmp_path: Path) -> None:
    manifest = tmp_path / "rows.jsonl"
    manifest.touch()
    engine = create_engine(sa.make_url("postgresql+psycopg://u@127.0.0.1:1/x"), application_name="momentum-tests")
    tries: list[object] = []
    sa.event.listen(engine, "do_connect", lambda *_: tries.append(_))
    with pytest.raises(sa.exc.OperationalError):
        run_backfill(engine, Settings(ONE_DAY))
    with pytest.raises(sa.exc.OperationalError):
        run_undo(engine, manifest, Settings(ONE_DAY))
    assert len(tries) == 2


@pytest.mark.slow
def test_a_user_who_stays_locked_costs_only_his_own_days(scores: Scores) -> None:
    users = add_users(scores.engine, 60)
    locked = users[33]
    engine = scores.engine
    errors = errors_of(engine)
    with scores.engine.begin() as holder:
        holder.execute(sa.text("select from auth.users where id = :user for update"), {"user": locked})
        report, failures, _ = fill(engine, Settings(THREE_DAYS, limits=QUICK, max_error_rate=1.0))
    assert report.inserted == 59 * 3
    assert sorted((one.user_id, one.day, one.sqlstate) for one in failures) == [
        (locked, day, "55P03") for day in THREE_DAYS
    ]
    assert failures[0].message == "canceling statement due to lock timeout"
    assert report.retries > 0, "a transaction is tried again before its rows are looked at one by one"
    assert set(errors) == {"55P03"}


def test_a_user_who_is_locked_for_a_moment_costs_nothing(scores: Scores) -> None:
    users = add_users(scores.engine, 20)
    engine = scores.engine
    holder = scores.engine.connect()
    holder.execute(sa.text("select from auth.users where id = :user for update"), {"user": users[7]})

    @sa.event.listens_for(engine, "handle_error")
    def let_go(_context: sa.engine.ExceptionContext) -> None:
        holder.close()

    report, _, _ = fill(engine, Settings(THREE_DAYS, limits=QUICK))
    assert (report.inserted, report.failed, report.retries) == (60, 0, 1)


def test_the_victim_of_a_deadlock_tries_again(server: Server, scores: Scores) -> None:
    users = sorted(add_users(scores.engine, 20), key=lambda user: user.hex)
    # The run looks for a deadlock, and so is the one who finds it.
    admin_url = server.as_admin(scores.url)
    run(admin_url, f"alter database {scores.url.database} set deadlock_timeout = '700ms'")
    engine = scores.engine
    errors = errors_of(engine)
    other_has_both = threading.Event()

    @sa.event.listens_for(engine, "handle_error")
    def let_the_other_have_both(_: sa.engine.ExceptionContext) -> None:
        # Another try may get a lock before the one who waits for it is awake, and that would be another deadlock.
        other_has_both.wait(HANGS)

    lock = sa.text("select from auth.users where id = :user for update")
    done: list[Report] = []
    worker = threading.Thread(target=lambda: done.append(fill(engine, Settings(ONE_DAY, limits=Limits(30)))[0]))
    with engine_of(admin_url).begin() as other:
        other.exec_driver_sql("set deadlock_timeout = '1min'")
        other.execute(lock, {"user": users[-1]})
        worker.start()
        wait_until(
            scores.url,
            "exists (select from pg_locks l join pg_stat_activity a using (pid) "
            "where not l.granted and a.datname = current_database())",
        )
        other.execute(lock, {"user": users[0]})
        other_has_both.set()
    worker.join()
    assert errors == ["40P01"]
    assert (done[0].inserted, done[0].retries, done[0].failed) == (20, 1, 0)


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03"])
def test_what_another_try_heals_is_tried_again(scores: Scores, code: str) -> None:
    add_users(scores.engine, 20)
    scores.interfere("nextval('public.seen') in (7, 40)", f"raise exception 'busy' using errcode = '{code}';")
    report, _, _ = fill(scores.engine, Settings(ONE_DAY, limits=QUICK))
    assert (report.inserted, report.failed) == (20, 0)
    assert report.retries in (1, 2)


def test_a_statement_that_takes_too_long_is_tried_with_fewer_rows(scores: Scores) -> None:
    add_users(scores.engine, 60)
    engine = scores.engine
    tried: list[int] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def slow_down(
        connection: sa.Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
    ) -> None:
        if "INSERT INTO" in statement:
            tried.append(len(parameters.get("ids") or parameters["user_ids"]))
            if tried[-1] > 20:
                run_out_of_time(connection)

    report, _, _ = fill(engine, Settings(ONE_DAY))
    assert (report.inserted, report.failed, report.pages) == (60, 0, 4)
    # The page, its rows by name, and halves of these.
    assert tried == [60, 60, 30, 15, 15, 30, 15, 15]


def test_a_dry_run_whose_count_takes_too_long_counts_fewer_users_at_once(scores: Scores) -> None:
    add_users(scores.engine, 40)
    engine = scores.engine
    counted: list[int] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def slow_down(
        connection: sa.Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
    ) -> None:
        if "GROUP BY missing.day" in statement:
            counted.append(len(parameters["ids"]))
            if counted[-1] > 10:
                run_out_of_time(connection)

    dry = run_backfill(engine, Settings(THREE_DAYS, dry_run=True))
    assert counted == [40, 20, 10, 10, 20, 10, 10]
    assert (dry.inserted, dry.failed, sums_hold(dry)) == (120, 0, True)
    assert dry.missing_by_day == dict.fromkeys(THREE_DAYS, 40)


def test_one_bad_row_of_500_costs_that_row_and_nineteen_statements(scores: Scores) -> None:
    users = add_users(scores.engine, 500)
    bad = users[321]
    scores.interfere(f"new.user_id = '{bad}'", "raise exception 'bad' using errcode = '23514';")
    engine = scores.engine
    statements = statements_of(engine)
    report, failures, _ = fill(engine, Settings(ONE_DAY, look_for_discrepancies=False))
    assert (report.inserted, report.failed) == (499, 1)
    assert failures == [Failure(bad, DAY, "23514", "bad")]
    inserts = [statement for statement in statements if "INSERT INTO" in statement]
    assert len(inserts) - 1 <= 19, "the page itself is one more"


@pytest.mark.parametrize(
    ("bad", "inserted_failed_and_done"),
    [
        (0, [(0, 0, 0), (0, 1, 1), (1, 1, 2), (3, 1, 4), (7, 1, 8)]),
        (7, [(0, 0, 0), (4, 0, 4), (6, 0, 6), (7, 0, 7), (7, 1, 8)]),
    ],
)
def test_the_progress_is_told_after_each_piece_of_a_page_with_a_bad_row(
    scores: Scores, bad: int, inserted_failed_and_done: list[tuple[int, int, int]]
) -> None:
    users = sorted(add_users(scores.engine, 8), key=lambda user: user.hex)
    scores.interfere(f"new.user_id = '{users[bad]}'", "raise exception 'bad' using errcode = '23514';")
    told: list[tuple[int, int, int]] = []
    fill(
        scores.engine,
        Settings(ONE_DAY),
        lambda each: told.append((each.report.inserted, each.report.failed, each.done)),
    )
    assert list(dict.fromkeys(told)) == inserted_failed_and_done


@pytest.mark.parametrize("code", ["40P01", "57014", "23514"])
@pytest.mark.parametrize("at", [15, 40, 89])
def test_a_transaction_that_fails_once_leaves_the_next_one_its_own_users(scores: Scores, code: str, at: int) -> None:
    """The next one is on its way by then, and inserts what its users lack, whatever became of the one before."""
    users = add_users(scores.engine, 30)
    scores.interfere(f"nextval('public.seen') = {at}", f"raise exception 'once' using errcode = '{code}';")
    report, _, inserted = fill(scores.engine, Settings(THREE_DAYS, page_size=5, commit_every=10))
    assert (report.inserted, report.raced, report.failed, report.left_over) == (90, 0, 0, 0)
    assert len(inserted) == scores.count() == 3 * len(users)
    assert sums_hold(report)


@pytest.mark.parametrize("code", ["22003", "23503", "23514", "P0001"])
def test_each_kind_of_data_error_costs_its_rows_alone(scores: Scores, code: str) -> None:
    users = sorted(add_users(scores.engine, 30), key=lambda user: user.hex)
    bad = {users[0], users[29], users[11]}
    named = ", ".join(f"'{user}'" for user in bad)
    scores.interfere(f"new.user_id in ({named})", f"raise exception 'bad' using errcode = '{code}';")
    report, failures, _ = fill(scores.engine, Settings(THREE_DAYS, max_error_rate=1.0))
    assert (report.inserted, report.failed) == (81, 9)
    assert {(one.user_id, one.sqlstate) for one in failures} == {(user, code) for user in bad}


def test_a_row_that_a_trigger_skips_is_a_failure_without_a_code(scores: Scores) -> None:
    users = add_users(scores.engine, 30)
    scores.interfere(f"new.user_id = '{users[4]}'", "return null;")
    report, failures, _ = fill(scores.engine, Settings(THREE_DAYS, max_error_rate=1.0, workers=2))
    assert (report.inserted, report.failed) == (87, 3)
    assert {(one.user_id, one.sqlstate, one.message) for one in failures} == {
        (users[4], "", "skipped without an error")
    }


@pytest.mark.parametrize("code", ["42P01", "42501", "XX000", "53100"])
def test_what_nothing_heals_stops_the_run_at_once(scores: Scores, code: str) -> None:
    add_users(scores.engine, 30)
    scores.interfere("nextval('public.seen') > 12", f"raise exception 'hopeless' using errcode = '{code}';")
    engine = scores.engine
    statements = statements_of(engine)
    with pytest.raises(sa.exc.DBAPIError, match="hopeless"):
        run_backfill(engine, Settings(ONE_DAY, page_size=5, commit_every=10))
    assert scores.count() == 10, "what was committed stays"
    # One transaction may be on its way while the answer about another one is.
    assert sum("INSERT INTO" in statement for statement in statements) in (3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("passed", range(3))
@pytest.mark.parametrize("message", [b"INSERT INTO", COMMIT])
@pytest.mark.parametrize("forwarded", [True, False], ids=["forwarded", "not forwarded"])
def test_a_connection_lost_in_a_page_or_in_a_commit_loses_and_doubles_no_row(
    scores: Scores, message: bytes, passed: int, forwarded: bool
) -> None:
    users = add_users(scores.engine, 100)
    with Proxy(scores.url, message, passed=passed, forwarded=forwarded) as proxy:
        engine = create_engine(proxy.url, application_name="momentum-tests")
        report, _, inserted = fill(engine, Settings(ONE_DAY, page_size=20, commit_every=40))
    assert proxy.cuts == 1
    assert (report.inserted, report.raced, report.failed, report.commits) == (100, 0, 0, 3)
    # A commit that goes along with the next transaction takes it with it, and is tried again itself if it got lost.
    assert report.retries <= 2
    assert sorted(inserted) == scores.filled() == [(user, DAY) for user in sorted(users)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_commit_that_the_server_refuses_costs_the_rows_at_fault_alone(scores: Scores, workers: int) -> None:
    users = add_users(scores.engine, 100)
    bad = users[33]
    run(
        scores.url,
        f"""
        create function public.refuse() returns trigger language plpgsql as $$
        begin
          if new.user_id = '{bad}' then raise exception 'bad' using errcode = '23514'; end if;
          return null;
        end $$;
        create constraint trigger refuse after insert on {scores.relation} deferrable initially deferred
          for each row execute function public.refuse();
        """,
    )
    report, failures, inserted = fill(scores.engine, Settings(ONE_DAY, page_size=10, commit_every=20, workers=workers))
    assert (report.inserted, report.failed) == (99, 1)
    assert failures == [Failure(bad, DAY, "23514", "bad")]
    assert sorted(inserted) == scores.filled()


@pytest.mark.parametrize("length", [1, 61, 62, 63, 64, 100])
def test_every_day_of_a_range_is_filled_however_many_bits_it_takes(scores: Scores, length: int) -> None:
    days = DayRange(DAY - datetime.timedelta(days=length - 1), DAY)
    new, *users = sorted(add_users(scores.engine, 4))
    execute(scores.url, "update auth.users set created_at = :now where id = :user", now=DAY, user=new)
    for user, day in zip(users, (days.first, days.first + (DAY - days.first) // 2, DAY), strict=True):
        scores.add(user, day, 50)
    report, failures, inserted = fill(scores.engine, Settings(days, page_size=7, commit_every=20))
    assert not failures
    assert report.inserted == len(set(inserted)) == 1 + 3 * (length - 1)
    assert set(scores.filled()) == {(new, DAY), *((user, day) for user in users for day in days)}


@pytest.mark.parametrize("missed", [3, 30], ids=["in one transaction", "in several"])
def test_what_somebody_else_inserts_meanwhile_is_counted_once_also_where_users_are_in_two_transactions(
    scores: Scores, missed: int
) -> None:
    """A user's days end in the next transaction, which is on its way before the first one is looked at."""
    users = sorted(add_users(scores.engine, 30))
    days = DayRange(DAY - datetime.timedelta(days=6), DAY)
    raced = False

    def race(_: Progress) -> None:
        nonlocal raced
        if not raced:
            raced = True
            for user in users[:missed]:
                scores.add(user, DAY, 50)

    report, _, _ = fill(scores.engine, Settings(days, page_size=5, commit_every=10, look_for_discrepancies=False), race)
    assert (report.inserted, report.raced, report.failed) == (30 * 7 - missed, missed, 0)


def test_a_run_waits_once_for_each_transaction(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("momentum.backfill.fill.pages_at_once", lambda _: 8)
    monkeypatch.setattr("momentum.backfill.fill.LONGEST_SETTLING", 60)
    waits: list[int] = []
    for users in (100, 300):
        add_users(scores.engine, users)
        engine = create_engine(scores.url, application_name="momentum-tests", keeps_connection=True)
        seen = messages_of(engine)
        report = run_backfill(engine, Settings(ONE_DAY, page_size=5, commit_every=10))
        assert report.commits == users // 10
        waits.append(len(seen))
        engine.dispose()
    assert waits[0] <= 25 + 10, "what a run with nothing missing takes, and the transactions"
    assert waits[1] - waits[0] == 20, "a commit goes along with the next transaction"


# The message that executes a statement, for all of its rows.
EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"


class Refuser(Proxy):
    """A pooler that doesn't take a statement before the last one is answered: it says so, or only hangs up."""

    def __init__(self, url: sa.URL, answer: bytes) -> None:
        super().__init__(url, b"sent by nobody", forwarded=True)
        self.refused = 0
        self._answer = answer

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if data.count(EXECUTE) > 1:
                    self.refused += 1
                    client.sendall(self._answer)
                    break
                server.sendall(data)
        self._cut(client)
        self._cut(server)


FATAL = b"SFATAL\0C08P01\0Mno pipelines here\0\0"


@pytest.mark.parametrize(
    "answer", [b"", b"E" + (len(FATAL) + 4).to_bytes(4, "big") + FATAL], ids=["hangs up", "says so"]
)
def test_where_no_pipeline_is_borne_each_answer_is_waited_for(scores: Scores, answer: bytes) -> None:
    users = add_users(scores.engine, 30)
    with Refuser(scores.url, answer) as proxy:
        engine = create_engine(proxy.url, application_name="momentum-tests")
        report, _, inserted = fill(engine, Settings(ONE_DAY, page_size=5, commit_every=10))
    assert proxy.refused > 0
    assert (report.inserted, report.commits, report.retries) == (30, 3, 0)
    assert sorted(inserted) == [(user, DAY) for user in sorted(users)]


@pytest.mark.parametrize("readable", [True, False], ids=["readable", "not readable"])
@pytest.mark.parametrize("forwarded", [True, False], ids=["forwarded", "not forwarded"])
def test_where_the_server_may_have_forgotten_a_transaction_its_rows_say_whether_it_was_committed(
    server: Server, scores: Scores, forwarded: bool, readable: bool
) -> None:
    users = add_users(scores.engine, 100)
    admin = engine_of(server.as_admin(scores.url))
    if not readable:
        with admin.begin() as connection:
            connection.exec_driver_sql("revoke execute on function pg_catalog.pg_control_checkpoint() from public")

    def forget() -> None:
        with admin.connect() as connection:
            connection.exec_driver_sql("checkpoint")

    with Proxy(scores.url, COMMIT, forwarded=forwarded, meanwhile=forget) as proxy:
        engine = create_engine(proxy.url, application_name="momentum-tests")
        statements = statements_of(engine)
        report, _, inserted = fill(engine, Settings(ONE_DAY, commit_every=40))
    assert (report.inserted, report.raced, report.failed) == (100, 0, 0)
    assert report.retries == (0 if forwarded else 1), "what got lost"
    assert sorted(inserted) == scores.filled() == [(user, DAY) for user in sorted(users)]
    assert any("pg_xact_status" in statement for statement in statements)
    # An id that the server gave to somebody else would be no proof.
    assert any("xmin" in statement for statement in statements) == forwarded


@pytest.mark.parametrize("forwarded", [True, False], ids=["forwarded", "not forwarded"])
def test_where_the_server_may_have_forgotten_an_undo_the_rows_that_are_gone_say_that_it_was_committed(
    server: Server, scores: Scores, tmp_path: Path, forwarded: bool
) -> None:
    add_users(scores.engine, 100)
    manifest = tmp_path / "rows.jsonl"
    call("--to", str(DAY), "--days", "1", "--manifest", str(manifest), url=scores.url)

    def forget() -> None:
        with engine_of(server.as_admin(scores.url)).connect() as connection:
            connection.exec_driver_sql("checkpoint")

    with Proxy(scores.url, COMMIT, forwarded=forwarded, meanwhile=forget) as proxy:
        engine = create_engine(proxy.url, application_name="momentum-tests")
        report = run_undo(engine, manifest, Settings(ONE_DAY, commit_every=40))
    assert (report.listed, report.deleted, report.absent, scores.count()) == (100, 100, 0, 0)
    assert report.retries == (0 if forwarded else 1)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True], ids=["to the end", "stopped"])
def test_a_transaction_that_a_crash_took_back_is_not_believed_where_somebody_else_has_got_its_id(stopped: bool) -> None:
    with embedded_server(on_disk=False) as admin_url:
        server = Server(admin_url, "embedded")
        url = server.create_database(server.migrated_template())
        admin = engine_of(server.as_admin(url))
        add_users(admin, 20)
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Nothing reaches the disk before a commit, so that a crash takes back the ids as well.
            for setting in ("wal_writer_delay = '10s'", "autovacuum = off"):
                connection.exec_driver_sql(f"alter system set {setting}")
            connection.exec_driver_sql("select pg_reload_conf()")

        def crash() -> None:
            lost = "select pid, backend_xid::text from pg_stat_activity where application_name = 'momentum-crashed'"
            with admin.connect() as connection:
                pid, transaction = connection.exec_driver_sql(f"{lost} and backend_xid is not null").one()
                os.kill(pid, signal.SIGKILL)
                # The server notices soon, and ends every connection.
                with contextlib.suppress(sa.exc.OperationalError):
                    while True:
                        connection.exec_driver_sql("select")
            while True:
                # The server is recovering, and then gives the same ids again.
                with contextlib.suppress(sa.exc.OperationalError), admin.begin() as connection:
                    if int(connection.exec_driver_sql("select pg_current_xact_id()::text").scalar_one()) >= int(
                        transaction
                    ):
                        break
            status = f"select pg_xact_status('{transaction}'::xid8)"
            assert fetch(server.as_admin(url), status) == ["committed"], "it is somebody else's now"

        with Proxy(url, COMMIT, forwarded=False, meanwhile=crash) as proxy:
            engine = create_engine(proxy.url, application_name="momentum-crashed")
            inserted: list[Row] = []
            # A run that is to stop asks whether its commit took place, and doesn't try again what was taken back.
            report = run_backfill(
                engine,
                Settings(ONE_DAY),
                observers=Observers(on_inserted=inserted.extend),
                should_stop=lambda: stopped and proxy.cuts > 0,
            )
        assert (report.inserted, report.interrupted) == ((0, True) if stopped else (20, False))
        kept = fetch(url, "select user_id from legacy.daily_engagement_scores order by user_id")
        assert len(kept) == (0 if stopped else 20)
        assert sorted(user for user, _ in inserted) == kept
        with contextlib.suppress(sa.exc.OperationalError):
            server.close()  # Its connection was lost in the crash.


def test_a_run_that_is_stopped_and_cut_off_while_it_counts_again_reports_what_it_committed(scores: Scores) -> None:
    add_users(scores.engine, 20)
    with Proxy(scores.url, b"as not materialized", forwarded=False) as proxy:
        engine = create_engine(proxy.url, application_name="momentum-tests")
        report = run_backfill(engine, Settings(ONE_DAY), should_stop=lambda: proxy.cuts > 0)
    assert (report.inserted, scores.count(), report.left_over, report.interrupted) == (20, 20, None, True)


def test_a_commit_whose_confirmation_got_lost_is_in_the_manifest(scores: Scores, tmp_path: Path) -> None:
    add_users(scores.engine, 100)
    manifest = tmp_path / "rows.jsonl"
    with Proxy(scores.url, COMMIT, forwarded=True) as proxy:
        done = call(
            *("--to", str(DAY), "--days", "1", "--commit-every", "40", "--manifest", str(manifest), "--json"),
            url=as_text(proxy.url),
        )
    assert (done.returncode, json.loads(done.stdout)["inserted"]) == (0, 100)
    assert keys_of(manifest) == scores.filled()


def test_an_error_rate_of_exactly_the_limit_passes(scores: Scores) -> None:
    users = add_users(scores.engine, 1000)
    named = ", ".join(f"'{user}'" for user in users[:10])
    scores.interfere(f"new.user_id in ({named})", "return null;")
    done = call("--to", str(DAY), "--days", "1", "--json", "--quiet", url=scores.url)
    report = json.loads(done.stdout)
    assert (done.returncode, report["failed"], report["error_rate"]) == (0, 10, 0.01)


def test_rows_that_fail_every_night_are_judged_by_all_eligible_ones(scores: Scores) -> None:
    users = add_users(scores.engine, 300)
    named = ", ".join(f"'{user}'" for user in users[:3])
    scores.interfere(f"new.user_id in ({named})", "return null;")
    options = ("--to", str(DAY), "--days", "1", "--json", "--quiet")
    for inserted in (297, 0):
        done = call(*options, url=scores.url)
        report = json.loads(done.stdout)
        assert (done.returncode, done.stderr) == (0, "")
        assert (report["inserted"], report["failed"], report["error_rate"]) == (inserted, 3, 0.01)
    done = call(*options, "--max-error-rate", "0.0099", url=scores.url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1] == (
        "Error: 3 of 300 eligible user-days failed (1.00%), above the limit of 0.99%; --failures PATH lists them in a "
        "file."
    )


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ([], "the log names them"),
        (["--quiet"], "--failures PATH lists them in a file"),
        (["--failures", "{folder}/failed"], "{folder}/failed lists them"),
        (["--failures", "{folder}/failed", "--quiet"], "{folder}/failed lists them"),
    ],
    ids=["log", "quiet", "file", "quiet file"],
)
def test_an_error_says_where_the_failures_are_listed(
    url: sa.URL, tmp_path: Path, options: list[str], place: str
) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    [user] = add_users(scores.engine)
    scores.interfere("true", "return null;")
    given = [option.format(folder=tmp_path) for option in options]
    done = call("--to", str(DAY), "--days", "1", "--json", *given, url=url)
    assert done.returncode == 1
    error = f"Error: 1 of 1 eligible user-day failed (100.00%), above the limit of 1.00%; {place}."
    assert done.stderr.splitlines()[-1] == error.format(folder=tmp_path)
    listed = (tmp_path / "failed").read_text() if "--failures" in options else done.stderr.rpartition("Error")[0]
    assert (str(user) in listed) == (place != "--failures PATH lists them in a file")


def test_an_error_rate_above_the_limit_is_judged_at_the_end_of_a_small_run(scores: Scores) -> None:
    add_users(scores.engine, 999)
    scores.interfere("nextval('public.seen') <= 600", "return null;")
    done = call(
        "--to", str(DAY), "--days", "1", "--page-size", "100", "--commit-every", "100", "--json", url=scores.url
    )
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["failed"] > 100
    assert report["eligible"] == report["inserted"] + report["failed"] == 999, "it went on to the end"


def test_an_error_rate_above_the_limit_stops_a_run_after_a_thousand_rows(scores: Scores) -> None:
    add_users(scores.engine, 3000)
    scores.interfere("true", "return null;")
    done = call("--to", str(DAY), "--days", "1", "--json", url=scores.url)
    report = json.loads(done.stdout)
    assert (done.returncode, report["failed"], report["inserted"]) == (1, 1000, 0)
    assert report["resume"] == f"momentum-backfill --from {DAY} --to {DAY} --json"
    assert done.stderr.splitlines()[-1] == (
        "Error: 1,000 of the first 1,000 rows failed, above the limit of 1.00%, and the run has stopped; the log names "
        "the first 20."
    )
    scores.leave_in_peace()
    rest = call(*resumed(report["resume"]), url=scores.url)
    assert (rest.returncode, json.loads(rest.stdout)["inserted"]) == (0, 3000)


def test_a_pause_between_two_commits_is_outside_of_a_transaction(
    scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_users(scores.engine, 30)
    pauses: list[tuple[float, list[str]]] = []
    state = "select state from pg_stat_activity where datname = current_database() and application_name = :name"

    def look(is_over: Callable[[], bool], seconds: float) -> None:
        """Note what the run's connection is doing instead of pausing."""
        assert not is_over()
        pauses.append((seconds, fetch(scores.url, state, name="momentum-watched")))

    monkeypatch.setattr("momentum.backfill.fill.sleep_until", look)
    engine = create_engine(scores.url, application_name="momentum-watched")
    report, _, _ = fill(engine, Settings(ONE_DAY, commit_every=10, pause=0.1))
    assert report.commits == 3
    assert pauses == [(0.1, ["idle"])] * 2


def test_a_run_leaves_no_setting_and_no_prepared_statement_in_a_session(scores: Scores) -> None:
    add_users(scores.engine, 300)
    engine = sa.create_engine(
        scores.url,
        poolclass=sa.pool.NullPool,
        connect_args={"application_name": "momentum-tests", "prepare_threshold": None},
    )
    left: list[list[tuple[str, str]]] = []
    prepared: list[int] = []

    @sa.event.listens_for(engine, "checkin")
    def look(driver: Any, _record: object) -> None:
        settings = (
            "select name, setting from pg_catalog.pg_settings where source = 'session' and name !~ '^transaction_'"
        )
        left.append(driver.execute(settings, prepare=False).fetchall())
        count = "select count(*) from pg_catalog.pg_prepared_statements"
        prepared.append(driver.execute(count, prepare=False).fetchone()[0])
        driver.rollback()

    report, _, _ = fill(engine, Settings(THREE_DAYS, page_size=10, commit_every=20, workers=2, active_within=None))
    assert report.inserted == 900
    assert len(left) >= 4
    assert [settings for settings in left if settings] == []
    assert not any(prepared)


BLOCKER = 4711
WAITING = """
    exists (
      select from pg_catalog.pg_locks as l inner join pg_catalog.pg_database as d on l.database = d.oid
      where l.locktype = 'advisory' and not l.granted and d.datname = current_database()
    )
"""


@contextlib.contextmanager
def held_up(scores: Scores, row: int) -> Iterator[Callable[[], None]]:
    """Hold up the transaction that inserts the n-th row; yield a function that lets it go on."""
    scores.interfere(f"nextval('public.seen') = {row}", f"perform pg_advisory_xact_lock({BLOCKER});")
    with scores.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"select pg_advisory_lock({BLOCKER})")
        yield lambda: connection.exec_driver_sql(f"select pg_advisory_unlock({BLOCKER})").close()


HELD_UP = ("--to", str(DAY), "--days", "1", "--lock-timeout", "60", "--page-size", "50", "--commit-every", "100")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGTERM, 143, "2"), (signal.SIGINT, 130, "1"), (signal.SIGHUP, 129, "1")]
)
def test_a_signal_lets_the_page_commit_and_the_command_that_is_printed_does_the_rest(
    scores: Scores, number: signal.Signals, code: int, workers: str
) -> None:
    add_users(scores.engine, 1000)
    with held_up(scores, 320) as let_go, started(scores.url, *HELD_UP, "--workers", workers) as process:
        wait_until(scores.url, WAITING)
        process.send_signal(number)
        assert process.stderr is not None
        assert any("Stopping after this page" in line for line in iter(process.stderr.readline, ""))
        let_go()
        stdout, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == code, stderr
    inserted = scores.count()
    assert inserted % 50 == 0, "pages are inserted as a whole"
    assert 0 < inserted < 1000
    assert f"inserted {inserted} " in " ".join(stdout.split()) + " "
    [line] = [line for line in stdout.splitlines() if line.startswith("To resume: ")]
    command = line.removeprefix("To resume: ")
    assert command.startswith(f"momentum-backfill --from {DAY} --to {DAY} ")
    rest = call(*resumed(command), "--json", url=scores.url)
    assert (rest.returncode, json.loads(rest.stdout)["inserted"]) == (0, 1000 - inserted)
    assert scores.count() == 1000


def test_a_second_signal_aborts_at_once_with_two_workers_too(scores: Scores) -> None:
    add_users(scores.engine, 1000)
    with held_up(scores, 320), started(scores.url, *HELD_UP, "--workers", "2") as process:
        wait_until(scores.url, WAITING)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert any("interrupt again to abort" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=HANGS)
        assert process.returncode == 143
        assert (stdout, stderr) == ("", "Error: Interrupted; uncommitted work is rolled back.\n")
        # The session that waited is gone from the server too, although the lock is still held.
        wait_until(scores.url, f"not {WAITING}")
    assert scores.count() % 50 == 0
    assert scores.count() < 1000


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_may_be_killed_at_any_moment(scores: Scores, tmp_path: Path, workers: str) -> None:
    users = add_users(scores.engine, 400)
    for user in users[::40]:
        scores.add(user, DAY, 42)
    before = set(scores.rows())
    manifest = tmp_path / "rows.jsonl"
    options = ("--to", str(DAY), "--days", "4", "--page-size", "10", "--commit-every", "20", "--workers", workers)
    chance = random.Random(f"{KILLS_SEED} {scores.layout} {workers}")  # noqa: S311
    for _ in range(2):
        committed = scores.count() + chance.randint(1, 500)
        # It can't end before it is killed: sooner or later a worker gets to a row that is held up.
        with (
            held_up(scores, committed + 100),
            started(scores.url, *options, "--lock-timeout", "60", "--manifest", str(manifest)) as process,
        ):
            wait_until(scores.url, f"(select count(*) from {scores.relation}) >= {committed}")
            process.kill()
            assert process.wait() < 0
        assert before <= set(scores.rows()), f"no existing row is changed (MOMENTUM_KILLS_SEED={KILLS_SEED})"
    scores.leave_in_peace()
    done = call(*options, "--manifest", str(manifest), "--json", url=scores.url)
    assert (done.returncode, json.loads(done.stdout)["left_over"]) == (0, 0)
    keys = scores.filled()
    assert len(keys) == len(set(keys)) == 400 * 4
    assert before <= set(scores.rows())
    # A kill between a commit and its lines may cost these, so the manifest lists nothing that is not there, at least.
    listed = keys_of(manifest)
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(keys)
    assert len(listed) >= len(keys) - len(before) - 2 * 20 * int(workers)


RANGES = {
    "the same days": (("--to", "2026-03-05", "--days", "6"), ("--to", "2026-03-05", "--days", "6")),
    "overlapping days": (("--to", "2026-03-05", "--days", "5"), ("--to", "2026-03-03", "--days", "5")),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranges", "workers"),
    [("the same days", ("3", "2")), ("overlapping days", ("1", "2"))],
    ids=["the same days", "overlapping days"],
)
def test_the_inserts_of_two_runs_at_once_add_up(scores: Scores, ranges: str, workers: Sequence[str]) -> None:
    add_users(scores.engine, 400)
    options = ("--page-size", "50", "--commit-every", "100", "--lock-timeout", "60", "--no-discrepancies", "--json")
    with contextlib.ExitStack() as stack:
        with scores.engine.begin() as holder:
            # Neither run inserts until both are about to.
            holder.exec_driver_sql(f"lock table {scores.relation} in exclusive mode")
            runs = [
                stack.enter_context(started(scores.url, *days, *options, "--workers", number))
                for days, number in zip(RANGES[ranges], workers, strict=True)
            ]
            waiting = sum(map(int, workers))
            wait_until(
                scores.url,
                "(select count(*) from pg_catalog.pg_locks as l "
                f"where l.relation = to_regclass('{scores.relation}') and not l.granted) >= {min(waiting, 4)}",
            )
        outputs = [process.communicate(timeout=HANGS) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], outputs
    reports = [json.loads(stdout) for stdout, _ in outputs]
    assert [report["failed"] for report in reports] == [0, 0]
    assert sum(report["inserted"] for report in reports) == scores.count() == 400 * (6 if "same" in ranges else 7)
    assert all(report["eligible"] == report["present"] + report["inserted"] + report["raced"] for report in reports)
    assert "deadlock" not in outputs[0][1] + outputs[1][1]
    deadlocks = "select deadlocks from pg_catalog.pg_stat_database where datname = current_database()"
    assert fetch(scores.url, deadlocks) == [0]


def test_a_file_of_failures_has_user_day_code_and_message(scores: Scores, tmp_path: Path) -> None:
    users = add_users(scores.engine, 20)
    scores.interfere(
        f"new.user_id in ('{users[3]}', '{users[4]}')",
        "raise exception 'not % \"this\"', 'é' using errcode = '23514', detail = 'secret of a user';",
    )
    path = tmp_path / "failed.jsonl"
    options = ("--to", str(DAY), "--days", "2", "--quiet", "--max-error-rate", "1", "--failures", str(path))
    assert call(*options, url=scores.url).returncode == 0
    lines = lines_of(path)
    assert sorted(lines, key=lambda line: (line["user_id"], line["day"])) == [
        {"user_id": str(user), "day": str(day), "sqlstate": "23514", "message": 'not é "this"'}
        for user in sorted(users[3:5])
        for day in (DAY - datetime.timedelta(days=1), DAY)
    ]
    assert call(*options, url=scores.url).returncode == 0
    assert len(lines_of(path)) == 8, "another run appends"


def objects_in(stderr: str) -> list[dict[str, Any]]:
    """Return the lines of a log for machines, each of which is an object with a level and a message."""
    objects: list[dict[str, Any]] = [json.loads(line) for line in stderr.splitlines()]
    for one in objects:
        assert {"time", "level", "message"} <= one.keys()
        assert datetime.datetime.fromisoformat(one["time"]).tzinfo is not None
        assert one["level"] in ("debug", "info", "progress", "warning", "error")
    return objects


JSON_LOG = ("--to", str(DAY), "--log-format", "json")


def test_every_line_of_a_log_for_machines_is_an_object(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LOG_INTERVAL", 0.0)
    users = add_users(scores.engine, 120)
    scores.interfere(f"new.user_id = '{users[3]}'", "raise exception 'not\nthis one';")
    done = call(*JSON_LOG, "--days", "1", "--page-size", "10", "--commit-every", "20", "--verbose", url=scores.url)
    assert done.returncode == 0
    objects = objects_in(done.stderr)
    progress = [one for one in objects if one["level"] == "progress"]
    assert len(progress) >= 6
    assert {"inserted", "done", "total", "rows_per_s", "left_s", "failed", "retries"} <= progress[-1].keys()
    assert (progress[-1]["total"], progress[-1]["inserted"]) == (120, 119)
    assert [one["done"] for one in progress] == sorted(one["done"] for one in progress)
    assert any(str(users[3]) in one["message"] for one in objects if one["level"] == "warning")


def test_a_score_to_review_is_an_object_in_a_log_for_machines(scores: Scores) -> None:
    [user] = add_users(scores.engine)
    scores.add(user, DAY, 50)
    column = "pillar_breakdown" if scores.layout == "fresh" else "breakdown"
    execute(scores.url, f"update {scores.relation} set {column} = '{{\"sleep\": 40.123456}}'")
    first, second = objects_in(after_database(call(*JSON_LOG, "--days", "1", url=scores.url), as_json=True))[-2:]
    assert (first["level"], first["message"]) == ("warning", "review: 1 score differs from its breakdown:")
    assert {name: second[name] for name in ("level", "user_id", "day", "breakdown_score")} == {
        "level": "warning",
        "user_id": str(user),
        "day": str(DAY),
        "breakdown_score": "40.123456",
    }


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--nope"], 2),
        (["--days", "0"], 2),
        (["--days", "3", "--from", "2026-03-01"], 2),
        (["--quiet", "--verbose"], 2),
        (["--env-file", "/nowhere/supabase.env"], 2),
        (["--manifest", "/nowhere/rows.jsonl"], 2),
        (["--database-url", "mysql://u@h/x"], 2),
        (["--database-url", "postgresql://u@127.0.0.1:1/x"], 3),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
@pytest.mark.parametrize("spelling", [["--log-format", "json"], ["--log-format=json"]], ids=" ".join)
def test_an_error_in_a_log_for_machines_is_an_object_too(options: list[str], code: int, spelling: list[str]) -> None:
    done = call(*spelling, *options)
    assert (done.returncode, done.stdout) == (code, "")
    *before, error = objects_in(done.stderr)
    assert [set(one) - {"time", "level", "message"} for one in before] in ([], [{"database"}])
    assert error["level"] == "error"
    assert error["message"].endswith(".")
    assert not error["message"].startswith("Error")


def test_a_signal_is_answered_with_an_object_in_a_log_for_machines(scores: Scores) -> None:
    add_users(scores.engine, 1000)
    with held_up(scores, 320) as let_go, started(scores.url, *HELD_UP, "--log-format", "json") as process:
        wait_until(scores.url, WAITING)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        line = process.stderr.readline()
        while "Stopping" not in line:
            line += process.stderr.readline()
        let_go()
        _, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == 143
    assert objects_in(line + stderr)


def test_a_failure_of_a_user_who_left_meanwhile_is_none(scores: Scores) -> None:
    users = add_users(scores.engine, 50)
    gone: uuid.UUID = users[17]
    engine = scores.engine

    @sa.event.listens_for(engine, "before_cursor_execute")
    def leave(
        _connection: sa.Connection, _cursor: object, statement: str, _parameters: object, _context: object, _many: bool
    ) -> None:
        if "INSERT INTO" in statement:
            execute(scores.url, "update auth.users set deleted_at = now() where id = :user", user=gone)

    report, _, _ = fill(engine, Settings(THREE_DAYS))
    assert (report.inserted, report.eligible, report.failed) == (147, 147, 0)


def test_the_command_as_people_start_it_survives_a_lost_connection(scores: Scores) -> None:
    add_users(scores.engine, 1000)
    with held_up(scores, 320), started(scores.url, *HELD_UP, "--workers", "2", "--json") as process:
        wait_until(scores.url, WAITING)
        execute(
            scores.url,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and application_name = 'momentum-backfill'",
        )
        stdout, _ = process.communicate(timeout=HANGS)
    report = json.loads(stdout)
    assert (process.returncode, report["inserted"], report["raced"], report["failed"]) == (0, 1000, 0, 0)
    assert report["retries"] >= 1
    assert backfill("--to", str(DAY), "--days", "1", "--quiet", url=scores.url).returncode == 0
