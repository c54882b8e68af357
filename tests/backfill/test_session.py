"""How a session sleeps, where no time passes, and when it tries again."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from momentum.backfill import session as session_module
from momentum.backfill.session import Begun, End, Session, sleep_until
from momentum.backfill.settings import Limits
from momentum.connect.engine import create_engine
from momentum.connect.pipeline import Answer, ask
from momentum.testing import Server
from tests.backfilling import COMMIT, Proxy
from tests.migrating import fetch, run

LOCKED = "do $$ begin raise exception 'locked' using errcode = '55P03'; end $$"
LOSE = "select pg_terminate_backend(pg_backend_pid())"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pieces in which something has slept, of which none takes any time."""
    pieces: list[float] = []
    monkeypatch.setattr(time, "sleep", pieces.append)
    monkeypatch.setattr(time, "monotonic", lambda: 1000 + sum(pieces))
    return pieces


def test_a_sleep_is_as_long_as_it_should_be(slept: list[float]) -> None:
    sleep_until(lambda: False, 0.12)
    assert slept == [0.05, 0.05, pytest.approx(0.02)]


def test_a_sleep_ends_soon_after_the_run(slept: list[float]) -> None:
    sleep_until(lambda: len(slept) == 2, 60)
    assert slept == [0.05, 0.05]


def test_no_sleep_begins_after_the_run_or_for_no_time(slept: list[float]) -> None:
    sleep_until(lambda: True, 60)
    sleep_until(lambda: False, 0)
    assert slept == []


def test_a_session_pauses_a_little_longer_after_each_attempt(url: sa.URL) -> None:
    pauses: list[float] = []

    with Session(
        create_engine(url, "momentum-tests"), Limits(attempts=4), read_only=True, sleep=pauses.append
    ) as session:
        with pytest.raises(sa.exc.OperationalError):
            session.read(lambda connection: connection.exec_driver_sql(LOCKED))
        assert session.retried == 3
    assert [0.05 / 2 <= pauses[0] <= 0.05, 0.1 / 2 <= pauses[1] <= 0.1, 0.2 / 2 <= pauses[2] <= 0.2] == [True] * 3
    assert len(pauses) == 3


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> tuple[sa.Engine, list[float]]:
    """An engine whose server is not there, and a list of pauses by which the clock goes."""
    pauses: list[float] = []
    monkeypatch.setattr("momentum.backfill.session.time.monotonic", lambda: sum(pauses))
    return create_engine(sa.make_url("postgresql+psycopg://me@127.0.0.1:1/nowhere"), "momentum-tests"), pauses


def test_a_server_that_is_away_is_waited_for_by_the_clock(nowhere: tuple[sa.Engine, list[float]]) -> None:
    engine, pauses = nowhere
    with Session(engine, Limits(), read_only=True, sleep=pauses.append) as session:
        with pytest.raises(sa.exc.OperationalError):
            session.read(lambda _: None)
        assert 80 <= sum(pauses) <= 85
        pauses.clear()
        with pytest.raises(sa.exc.OperationalError):
            session.read(lambda _: None, attempts=1)
        assert pauses == [], "the first connection of a run is tried once"


def test_the_time_before_a_connection_was_lost_is_not_counted(url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("momentum.backfill.session.time.monotonic", lambda: sum(pauses))
    tried = 0

    def work(connection: sa.Connection) -> str:
        nonlocal tried
        tried += 1
        if tried <= 2:
            pauses.append(1000)
            connection.exec_driver_sql(LOSE)
        return "done"

    with Session(
        create_engine(url, "momentum-tests"), Limits(attempts=2), read_only=True, sleep=pauses.append
    ) as session:
        assert session.read(work) == "done"


def test_lost_connections_leave_the_attempts_for_locks(url: sa.URL) -> None:
    steps = iter([LOSE, LOSE, LOCKED, LOCKED, "select"])
    with Session(
        create_engine(url, "momentum-tests"), Limits(attempts=3), read_only=True, sleep=lambda _: None
    ) as session:
        session.read(lambda connection: connection.exec_driver_sql(next(steps)))
        assert session.retried == 4


def test_a_transaction_that_loses_each_connection_ends(url: sa.URL) -> None:
    with Session(
        create_engine(url, "momentum-tests"), Limits(attempts=3), read_only=True, sleep=lambda _: None
    ) as session:
        with pytest.raises(sa.exc.OperationalError):
            session.read(lambda connection: connection.exec_driver_sql(LOSE))
        assert session.retried == 3, "each attempt may lose its connection once"


def test_a_run_that_is_to_stop_waits_for_no_server(nowhere: tuple[sa.Engine, list[float]]) -> None:
    engine, pauses = nowhere
    session = Session(engine, Limits(), read_only=True, sleep=pauses.append, is_stopping=lambda: len(pauses) == 2)
    with session, pytest.raises(sa.exc.OperationalError):
        session.read(lambda _: None)
    assert len(pauses) == 2


def test_an_error_about_a_prepared_statement_ends_preparing_and_costs_no_attempt(url: sa.URL) -> None:
    thresholds: list[Any] = []

    def work(connection: sa.Connection) -> str:
        driver: Any = connection.connection.driver_connection
        thresholds.append(driver.prepare_threshold)
        if len(thresholds) == 1:
            connection.exec_driver_sql("execute never_prepared")
        return "done"

    engine = create_engine(url, "momentum-tests")
    with Session(engine, Limits(attempts=1), read_only=True, sleep=lambda _: None) as session:
        assert session.read(work) == "done"
        session.close()
        assert session.read(work) == "done", "on another connection"
        assert session.retried == 0
    assert thresholds == [5, None, None]


@pytest.mark.parametrize("readable", [True, False], ids=["readable", "not readable"])
def test_no_statement_of_a_transaction_that_writes_comes_before_its_limits(
    server: Server, url: sa.URL, readable: bool
) -> None:
    if not readable:
        run(server.as_admin(url), "revoke execute on function pg_catalog.pg_control_checkpoint() from public")
    sent: list[str] = []
    engine = create_engine(url, "momentum-tests")
    sa.event.listen(engine, "before_cursor_execute", lambda _1, _2, sql, *_: sent.append(sql))
    limit: sa.ColumnElement[str] = sa.literal_column("pg_catalog.current_setting('lock_timeout')")
    with Session(engine, Limits(lock_timeout=3), read_only=False, sleep=lambda _: None) as session:
        for number in range(2):
            sent.clear()
            assert session.write(lambda connection: connection.scalar(sa.select(limit)), lambda *_: True) == "3s"
            assert all("set_config" in sent[n + 1] for n, sql in enumerate(sent) if sql.startswith("begin"))
            # The first transaction also asks whether it may look.
            assert len([sql for sql in sent if "pg_control_checkpoint" in sql]) == readable + (number == 0)


@pytest.mark.parametrize(("is_spread", "mode"), [(False, "force_generic_plan"), (True, "auto")])
def test_pages_have_one_plan_unless_it_depends_on_the_users_which_server_executes_them(
    url: sa.URL, is_spread: bool, mode: str
) -> None:
    engine = create_engine(url, "momentum-tests")
    found: sa.ColumnElement[str] = sa.literal_column("pg_catalog.current_setting('plan_cache_mode')")
    with Session(engine, Limits(), read_only=False, sleep=lambda _: None, is_spread=is_spread) as session:
        assert session.write(lambda connection: connection.scalar(sa.select(found)), lambda *_: True) == mode


@pytest.mark.parametrize("is_spread", [False, True])
def test_where_other_servers_write_the_rows_the_limits_and_the_planners_settings_are_sent_on_to_them(
    url: sa.URL, is_spread: bool
) -> None:
    sent: list[str] = []
    engine = create_engine(url, "momentum-tests")
    sa.event.listen(engine, "before_cursor_execute", lambda _1, _2, sql, *_: sent.append(sql))
    with Session(engine, Limits(lock_timeout=3), read_only=False, sleep=lambda _: None, is_spread=is_spread) as session:
        session.write(lambda _: None, lambda *_: True)
        session.read(lambda _: None)
    expected = [
        "set local citus.propagate_set_commands = 'local'",
        "set local lock_timeout = '3000ms'",
        "set local statement_timeout = '60000ms'",
        *(f"set local {name} = 'off'" for name in ("enable_seqscan", "enable_bitmapscan", "jit", "enable_mergejoin")),
    ]
    assert [sql for sql in sent if "set local" in sql] == 2 * [f"do $$ begin {'; '.join(expected)}; end $$"] * is_spread


NOTES = sa.text("create table public.notes (note text primary key deferrable initially deferred)")


# Of each transaction the note, the result and what became of it.
Settled = list[tuple[str | None, str | None, End]]
Ends = tuple[Session, Settled, Callable[[str | None], None]]


@contextlib.contextmanager
def writing(engine: sa.Engine, found: str = "found", **options: Any) -> Iterator[Ends]:
    """Yield a session, what has become of its transactions, and a function that writes a note in one ahead.

    Args:
        engine: Connects to the database.
        found: What is found of a note that is there, if its transaction's result was lost.
        options: Other options of the session.
    """
    settled: Settled = []
    with Session(engine, Limits(attempts=2), read_only=False, sleep=lambda _: None, **options) as session:

        def write(note: str | None) -> None:
            def work(connection: sa.Connection) -> Answer[str]:
                inserted = sa.text("insert into public.notes values (:note) returning note")
                return ask(connection, inserted, {"note": note}).then(lambda rows: str(rows[0].note))

            def find(connection: sa.Connection, _: int) -> str | None:
                is_there = sa.text("select exists (select from public.notes where note = :note)")
                return (found or None) if connection.scalar(is_there, {"note": note}) else None

            session.write_ahead(work, find, lambda result, end: settled.append((note, result, end)))

        session.read(lambda connection: connection.scalar(sa.text("select 1")))
        yield session, settled, write


@pytest.fixture
def ends(url: sa.URL) -> Iterator[Ends]:
    """``writing`` to a table of notes."""
    run(url, str(NOTES))
    with writing(create_engine(url, "momentum-tests")) as ends:
        yield ends


def notes_in(url: sa.URL) -> list[str]:
    return fetch(url, "select note from public.notes order by note")


def test_a_commit_goes_along_with_the_next_transaction(url: sa.URL, ends: Ends) -> None:
    session, settled, write = ends
    assert session.writes_ahead
    write("a")
    assert session.has_open
    assert (settled, notes_in(url)) == ([], [])
    write("b")
    assert (settled, notes_in(url)) == ([("a", "a", End.COMMITTED)], ["a"])
    session.settle()
    assert (settled[1:], notes_in(url)) == ([("b", "b", End.COMMITTED)], ["a", "b"])
    assert not session.has_open
    session.settle()
    assert len(settled) == 2


def test_whatever_else_is_done_comes_after_the_commit(url: sa.URL, ends: Ends) -> None:
    session, settled, write = ends
    write("a")
    assert session.read(lambda connection: connection.scalar(sa.text("select note from public.notes"))) == "a"
    write("b")
    assert session.write(lambda _: notes_in(url), lambda *_: True) == ["a", "b"]
    assert settled == [("a", "a", End.COMMITTED), ("b", "b", End.COMMITTED)]


def test_a_commit_that_is_refused_takes_the_next_transaction_with_it_and_that_alone_is_tried_again(
    url: sa.URL, ends: Ends
) -> None:
    session, settled, write = ends
    run(url, "insert into public.notes values ('a')")
    write("a")
    with pytest.raises(sa.exc.IntegrityError):
        write("b")
    assert (settled, notes_in(url)) == ([("a", None, End.REFUSED)], ["a"])
    write("b")
    session.settle()
    assert (settled[1:], notes_in(url)) == ([("b", "b", End.COMMITTED)], ["a", "b"])


def test_a_commit_that_is_refused_by_itself_is_told(url: sa.URL, ends: Ends) -> None:
    session, settled, write = ends
    run(url, "insert into public.notes values ('a')")
    write("a")
    session.settle()
    assert settled == [("a", None, End.REFUSED)]
    assert session.retried == 0


def test_a_transaction_whose_session_ends_before_its_commit_is_lost(server: Server, url: sa.URL, ends: Ends) -> None:
    session, settled, write = ends
    write("a")
    run(
        server.as_admin(url),
        "select pg_terminate_backend(pid) from pg_stat_activity where query like '%notes%'"
        " and pid <> pg_backend_pid() and datname = current_database()",
    )
    session.settle()
    assert (settled, notes_in(url)) == ([("a", None, End.UNDONE)], [])
    assert session.retried == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_rows_that_another_server_has_committed_are_there_although_the_coordinators_transaction_is_not(
    server: Server, url: sa.URL, is_there: bool
) -> None:
    run(url, str(NOTES))
    with writing(create_engine(url, "momentum-tests"), is_spread=True) as (session, settled, write):
        write("a")
        run(
            server.as_admin(url),
            "select pg_terminate_backend(pid) from pg_stat_activity where query like '%notes%'"
            " and pid <> pg_backend_pid() and datname = current_database()",
        )
        if is_there:
            run(url, "insert into public.notes values ('a')")
        session.settle()
        end = End.COMMITTED if is_there else End.UNDONE
        assert [settled[0][0], settled[0][2]] == ["a", end]
        assert notes_in(url) == ["a"] * is_there


def fail_for(url: sa.URL, note: str, code: str) -> None:
    """Have the server refuse a note with an SQLSTATE."""
    run(
        url,
        f"""
        create function public.fail(note text) returns boolean language plpgsql as $$
        begin
          if note = '{note}' then raise exception using errcode = '{code}'; end if;
          return true;
        end $$;
        alter table public.notes add check (public.fail(note));
        """,
    )


def test_what_nothing_heals_is_raised_and_the_next_transaction_rolled_back(url: sa.URL, ends: Ends) -> None:
    session, settled, write = ends
    fail_for(url, "typo", "42601")
    write("a")
    write("typo")
    with pytest.raises(sa.exc.ProgrammingError):
        write("b")
    session.settle()
    assert settled == [("a", "a", End.COMMITTED), ("typo", None, End.UNDONE)]
    assert notes_in(url) == ["a"]


@pytest.mark.parametrize(("note", "end"), [(None, End.REFUSED), ("busy", End.UNDONE)])
def test_a_transaction_that_fails_takes_no_other_with_it(url: sa.URL, ends: Ends, note: str | None, end: End) -> None:
    session, settled, write = ends
    fail_for(url, "busy", "40001")
    for each in ("a", note, "b"):
        write(each)
    assert settled == [("a", "a", End.COMMITTED), (note, None, end)]
    assert notes_in(url) == ["a"]
    write(note)
    session.settle()
    assert settled[2:] == [("b", "b", End.COMMITTED), (note, None, end)]
    assert notes_in(url) == ["a", "b"]
    assert session.retried == (2 if end is End.UNDONE else 0)


@pytest.mark.parametrize("found", ["found", ""])
@pytest.mark.parametrize("forwarded", [True, False], ids=["forwarded", "not forwarded"])
def test_what_is_left_of_a_commit_that_was_sent_before_its_result_was_there_is_asked_for(
    url: sa.URL, monkeypatch: pytest.MonkeyPatch, forwarded: bool, found: str
) -> None:
    # Tests share a server, and a checkpoint that another one causes would count as the beginning of another life.
    monkeypatch.setattr(session_module, "LIFE", "pg_catalog.pg_postmaster_start_time()::pg_catalog.text")
    run(
        url,
        f"""
        {NOTES};
        create function public.wait() returns trigger language plpgsql as $$
        begin
          perform pg_advisory_xact_lock(1);
          return new;
        end $$;
        create trigger wait before insert on public.notes for each row execute function public.wait();
        """,
    )
    with contextlib.ExitStack() as stack:
        session_module.beginning.cache_clear()
        stack.callback(session_module.beginning.cache_clear)
        holder = stack.enter_context(create_engine(url, "momentum-tests").connect())
        holder.execute(sa.text("select pg_advisory_lock(1)"))
        # The commit is sent while the note still waits, and its answer is lost with the result.
        proxy = stack.enter_context(Proxy(url, COMMIT, forwarded=forwarded))

        engine = create_engine(proxy.url, "momentum-tests")

        @sa.event.listens_for(engine, "connect")
        def release(*_: object) -> None:
            if proxy.cuts:
                holder.execute(sa.text("select pg_advisory_unlock_all()"))

        session, settled, write = stack.enter_context(writing(engine, found))
        write("a")
        write("b")
        session.settle()
    first = ("a", found or None, End.COMMITTED) if forwarded else ("a", None, End.UNDONE)
    assert settled == [first, ("b", "b", End.COMMITTED)]
    assert notes_in(url) == (["a", "b"] if forwarded else ["b"])


@pytest.mark.parametrize("then", ["settle", "read", "write", "write ahead"])
def test_nothing_is_committed_once_all_is_to_end_at_once(url: sa.URL, then: str) -> None:
    run(url, str(NOTES))
    aborted: list[bool] = []
    engine = create_engine(url, "momentum-tests")
    with writing(engine, is_aborted=lambda: bool(aborted)) as (session, settled, write):
        write("a")
        aborted.append(True)
        steps: dict[str, Callable[[], object]] = {
            "settle": session.settle,
            "read": lambda: session.read(lambda connection: connection.scalar(sa.text("select 1"))),
            "write": lambda: session.write(lambda _: None, lambda *_: True),
            "write ahead": lambda: write("b"),
        }
        with pytest.raises(KeyboardInterrupt):
            steps[then]()
    assert (settled, notes_in(url)) == ([], [])


def test_a_transaction_is_rolled_back_if_all_is_to_end_while_it_writes(url: sa.URL) -> None:
    run(url, str(NOTES))
    aborted: list[bool] = []

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text("insert into public.notes values ('a')"))
        aborted.append(True)

    engine = create_engine(url, "momentum-tests")
    with writing(engine, is_aborted=lambda: bool(aborted)) as (session, _, _), pytest.raises(KeyboardInterrupt):
        session.write(work, lambda *_: True)
    assert notes_in(url) == []


def test_a_transaction_that_is_open_when_its_session_is_closed_is_rolled_back(url: sa.URL, ends: Ends) -> None:
    session, settled, write = ends
    write("a")
    session.close()
    assert (settled, notes_in(url)) == ([], [])


def test_a_transaction_whose_id_the_server_has_not_assigned_is_not_committed(url: sa.URL) -> None:
    """It has lost it in a crash; whatever is there is somebody else's."""
    with Session(create_engine(url, "momentum-tests"), Limits(), read_only=True, sleep=lambda _: None) as session:
        assert session.read(
            lambda connection: session._look_for(connection, Begun((1 << 40) + 5, None), lambda _: "found")
        ) == (False, None)
