"""Statements that are sent together: one round trip for all of them, and each answer its own."""

import datetime
import uuid
from collections.abc import Iterator
from decimal import Decimal

import psycopg
import pytest
import sqlalchemy as sa

from momentum.connect.engine import create_engine
from momentum.connect.pipeline import PipelinedConnection, ask, enter_pipeline, leave_pipeline, pipelined
from tests.backfilling import messages_of


@pytest.fixture(params=["in pipeline mode", "one by one"])
def connection(url: sa.URL, request: pytest.FixtureRequest) -> Iterator[sa.Connection]:
    """A connection that begins and ends its transactions by itself."""
    engine = create_engine(url, "momentum-tests").execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if request.param == "in pipeline mode":
            enter_pipeline(connection)
        yield connection
        leave_pipeline(connection)


def test_the_first_answer_that_is_looked_at_waits_for_all(url: sa.URL) -> None:
    engine = create_engine(url, "momentum-tests").execution_options(isolation_level="AUTOCOMMIT")
    messages = messages_of(engine)
    with engine.connect() as connection:
        enter_pipeline(connection)
        answers = [ask(connection, sa.text("select :number as number"), {"number": number}) for number in range(3)]
        assert not any(answer.has_arrived for answer in answers)
        assert [answer.value[0].number for answer in answers] == [0, 1, 2]
        assert all(answer.has_arrived for answer in answers)
        assert len(messages) == 1
        leave_pipeline(connection)


def test_answers_are_rows_with_names_in_either_mode(connection: sa.Connection) -> None:
    answer = ask(connection, sa.text("select 1 as one, 'x' as two union all select 2, 'y' order by 1"))
    assert [(row.one, row.two) for row in answer.value] == [(1, "x"), (2, "y")]
    assert answer.value is answer.value, "it is read once"
    assert answer.then(len).value == 2
    twice = ask(connection, sa.text("select 1 as same, 2 as same"))
    assert [tuple(row) for row in twice.value] == [(1, 2)]
    assert ask(connection, sa.text("begin")).value == []
    assert ask(connection, sa.text("rollback")).value == []


@pytest.mark.parametrize("style", ["ISO, MDY", "SQL, DMY", "German", "Postgres, YMD"])
def test_dates_are_read_whatever_the_servers_style_is(connection: sa.Connection, style: str) -> None:
    ask(connection, sa.text("begin"))
    ask(connection, sa.text("select set_config('DateStyle', :style, true)"), {"style": style})
    day = sa.text("select date '2026-03-05' as day")
    asked = ask(connection, day)
    assert connection.execute(day).scalar_one() == datetime.date(2026, 3, 5)
    assert asked.value[0].day == datetime.date(2026, 3, 5)
    ask(connection, sa.text("rollback"))


def test_values_are_the_same_in_either_mode(connection: sa.Connection) -> None:
    statement = """
        select array[date '2026-03-01'], array[uuid '00000000-0000-0000-0000-000000000001'], 1.5::float8, 2.50::numeric,
          '{"a": [1]}'::jsonb, 'text', 'name'::name, true, null, 7::bigint, 9::oid, array['a', null]
    """
    assert tuple(ask(connection, sa.text(statement)).value[0]) == (
        [datetime.date(2026, 3, 1)],
        [uuid.UUID(int=1)],
        1.5,
        Decimal("2.50"),
        {"a": [1]},
        "text",
        "name",
        True,
        None,
        7,
        9,
        ["a", None],
    )


def test_other_statements_are_answered_in_between(connection: sa.Connection) -> None:
    before = ask(connection, sa.text("select 'before'"))
    assert connection.scalar(sa.text("select 'now'")) == "now"
    assert before.has_arrived
    result = connection.execute(sa.text("select generate_series(1, 3)"))
    assert result.scalars().all() == [1, 2, 3]
    created = connection.execute(sa.text("create temporary table numbers (number int)"))
    assert not created.returns_rows
    assert connection.execute(sa.text("insert into numbers values (1), (2)")).rowcount == 2


def test_an_error_is_of_the_statement_that_caused_it_and_ends_with_the_transaction(url: sa.URL) -> None:
    engine = create_engine(url, "momentum-tests").execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        enter_pipeline(connection)
        ask(connection, sa.text("begin"))
        fine = ask(connection, sa.text("select 1"))
        bad = ask(connection, sa.text("select 1 / 0"))
        after = ask(connection, sa.text("select 2"))
        with pytest.raises(sa.exc.DataError, match="division by zero") as raised:
            _ = after.value
        assert isinstance(raised.value.orig, psycopg.errors.DivisionByZero)
        assert [answer.has_arrived for answer in (fine, bad, after)] == [True, False, False]
        assert tuple(fine.value[0]) == (1,), "what came before has its answer"
        connection.rollback()
        assert tuple(ask(connection, sa.text("select 3")).value[0]) == (3,)
        leave_pipeline(connection)


def test_a_connection_that_is_lost_says_so_and_is_closed_in_silence(
    url: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(url, "momentum-tests").execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        enter_pipeline(connection)
        ask(connection, sa.text("select pg_terminate_backend(pg_backend_pid())"))
        with pytest.raises(sa.exc.OperationalError):
            _ = ask(connection, sa.text("select 1")).value
        connection.invalidate()
        assert pipelined(connection) is None
    assert not [record for record in caplog.records if record.name == "psycopg"]


def test_a_statement_that_an_observer_executes_meanwhile_has_its_own_answer(url: sa.URL) -> None:
    engine = create_engine(url, "momentum-tests").execution_options(isolation_level="AUTOCOMMIT")
    seen: list[object] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def look(connection: sa.Connection, *_: object) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, PipelinedConnection)
        seen.append(driver.execute("select 'own'").fetchone())

    with engine.connect() as connection:
        enter_pipeline(connection)
        assert tuple(ask(connection, sa.text("select 'other'")).value[0]) == ("other",)
        assert seen == [("own",)]
        leave_pipeline(connection)


def test_a_connection_that_is_kept_is_the_next_one(url: sa.URL) -> None:
    pid = sa.text("select pg_backend_pid()")
    kept = create_engine(url, "momentum-tests", keeps_connection=True)
    with kept.connect() as one:
        first = one.scalar(pid)
        with kept.connect() as other:
            second = other.scalar(pid)
            assert second != first
    with kept.connect() as again:
        assert again.scalar(pid) in (first, second)
    kept.dispose()


def test_the_version_is_asked_for_only_where_the_driver_was_not_told(url: sa.URL) -> None:
    engine = create_engine(url, "momentum-tests", keeps_connection=True)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda _1, _2, statement, *_: statements.append(statement))
    with engine.connect() as connection:
        major = int(str(connection.scalar(sa.text("show server_version_num")))) // 10_000
    assert statements == ["show server_version_num"]
    assert engine.dialect.server_version_info is not None
    assert engine.dialect.server_version_info[0] == major
    engine.dispose()
