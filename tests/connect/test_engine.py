"""The connection: its arguments, and what the driver's errors become."""

import socket
import threading
import traceback
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from momentum.backfill.faults import classify
from momentum.connect.engine import (
    certificate_of,
    connect_arguments,
    connection_errors,
    create_engine,
    execute_script,
    lost_connection,
)
from momentum.connect.url import describe, parse_url, resolve, written
from momentum.errors import ConfigurationError, DatabaseUnreachableError, MomentumError
from momentum.retries import Fault
from tests.server import engine_of

SECRET = "s3cret"


def errors_of(url: sa.URL, sql: str = "select 1", engine: sa.Engine | None = None) -> MomentumError:
    engine = engine or engine_of(url)
    with pytest.raises(MomentumError) as raised, connection_errors(url), engine.connect() as connection:
        connection.execute(sa.text(sql))
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    # As a service would log it.
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return raised.value


def sqlstate_of(error: MomentumError) -> str | None:
    """Return the SQLSTATE, as a program finds it."""
    assert isinstance(error.__cause__, sa.exc.DBAPIError)
    assert isinstance(error.__cause__.orig, psycopg.Error)
    return error.__cause__.orig.sqlstate


def test_the_drivers_errors_become_ours(supabase_url: sa.URL) -> None:
    unreachable = errors_of(parse_url(f"postgresql://me:{SECRET}@127.0.0.1:1/app", "a test"))
    assert type(unreachable) is DatabaseUnreachableError
    assert "127.0.0.1:1/app cannot be reached" in str(unreachable)
    missing = errors_of(supabase_url.set(database="no_such_database"))
    assert type(missing) is DatabaseUnreachableError
    refused = errors_of(supabase_url, "select no_such_column")
    assert type(refused) is MomentumError
    assert 'column "no_such_column" does not exist' in str(refused)
    assert [sqlstate_of(error) for error in (unreachable, missing, refused)] == [None, None, "42703"]
    lost = errors_of(supabase_url, "select pg_terminate_backend(pg_backend_pid())")
    assert type(lost) is DatabaseUnreachableError
    misspelt = errors_of(supabase_url.update_query_dict({"sslmod": SECRET}))
    assert type(misspelt) is ConfigurationError
    assert "sslmod" in str(misspelt)


@pytest.mark.parametrize(
    ("code", "message", "lost"),
    [
        ("XX000", "SSL SYSCALL error: EOF detected", True),
        ("XX000", "SSL connection has been closed unexpectedly", True),
        ("XX000", "server closed the connection unexpectedly", True),
        ("XX000", "could not receive data from server: Connection reset by peer", True),
        ("XX000", "no connection to the server", True),
        ("XX000", "connection not open", True),
        ("XX000", "could not commit transaction for shard 103265 on at least one active node", True),
        ("58030", "failed to COPY to shard 102008 on localhost:5433", True),
        ("XX000", "cache lookup failed for relation 16384", False),
        ("XX000", "tuple concurrently updated", False),
        ("58030", "could not extend file: wrote only 4096 of 8192 bytes at block 3", False),
        ("42501", "permission denied: server closed the connection unexpectedly", False),
        ("P0001", "server closed the connection unexpectedly", False),
    ],
)
def test_a_connection_that_is_lost_between_servers_is_lost(
    supabase_url: sa.URL, code: str, message: str, lost: bool
) -> None:
    with pytest.raises(sa.exc.DBAPIError) as raised, engine_of(supabase_url).connect() as connection:
        connection.exec_driver_sql(
            f"do $$ begin raise exception using errcode = '{code}', message = '{message}'; end $$"
        )
    assert lost_connection(raised.value) is lost
    assert (classify(raised.value) is Fault.LOST) is lost


@pytest.mark.parametrize("value", ["'infinity'::date", "'0044-03-15 BC'::timestamptz", "'10000-01-01'::date"])
def test_a_value_that_python_lacks_is_no_lost_connection(supabase_url: sa.URL, value: str) -> None:
    engine = engine_of(supabase_url)
    with pytest.raises(sa.exc.DataError) as raised, engine.connect() as connection:
        connection.scalar(sa.text(f"select {value}"))
    assert not lost_connection(raised.value)
    assert classify(raised.value) is Fault.FATAL
    with pytest.raises(MomentumError) as ours, connection_errors(supabase_url):
        raise raised.value
    assert type(ours.value) is MomentumError


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("insert into t values (:secret)", "23505"),
        ("insert into t values (null, :secret)", "23502"),
        ("select refuse(:secret)", "P0001"),
    ],
)
def test_a_program_finds_the_sqlstate_and_no_data(supabase_url: sa.URL, sql: str, sqlstate: str) -> None:
    with engine_of(supabase_url).begin() as connection:
        execute_script(
            connection,
            f"""
            create table t (a text primary key, b text);
            insert into t values ('{SECRET}');
            create function refuse(secret text) returns void language plpgsql as $$
            begin
              raise exception 'refused' using detail = secret, hint = secret;
            end $$;
            """,
        )
    # An engine that somebody has handed in, and that shows parameters.
    engine = sa.create_engine(supabase_url)
    with (
        pytest.raises(MomentumError) as raised,
        connection_errors(supabase_url),
        engine.connect() as connection,
    ):
        connection.execute(sa.text(sql), {"secret": SECRET})
    engine.dispose()
    assert sqlstate_of(raised.value) == sqlstate
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_a_connection_says_who_it_is_and_gives_up_in_time(supabase_url: sa.URL) -> None:
    with engine_of(supabase_url).connect() as connection:
        assert connection.scalar(sa.text("show application_name")) == "momentum-tests"
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.info.get_parameters()["connect_timeout"] == "10"
    own = supabase_url.update_query_dict({"application_name": "own", "connect_timeout": "3"})
    with engine_of(own).connect() as connection:
        assert connection.scalar(sa.text("show application_name")) == "own"


@pytest.mark.parametrize(
    ("text", "pooler"),
    [
        ("postgresql://me@db.example/app", False),
        ("postgresql://me@db.example:5432/app", False),
        ("postgresql://me@db.example:6543/app", True),
        ("postgresql://me@/app?host=db.example&port=6543", True),
        ("postgresql://me@/app?host=one:5432&host=two:6543", True),
    ],
)
def test_no_statement_is_prepared_behind_a_transaction_pooler(text: str, pooler: bool) -> None:
    arguments = connect_arguments(make_url(text), "momentum-tests")
    assert arguments == {
        "connect_timeout": 10,
        "application_name": "momentum-tests",
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 11000,
        "client_encoding": "utf8",
        **({"prepare_threshold": None} if pooler else {}),
    }


@pytest.mark.parametrize(("threshold", "prepared"), [(None, 0), ("0", 1), ("1", 1), ("2", 0), ("none", 0), ("None", 0)])
def test_statements_are_prepared_when_told(supabase_url: sa.URL, threshold: str | None, prepared: int) -> None:
    text = written(supabase_url.update_query_dict({"prepare_threshold": threshold} if threshold else {}))
    url = parse_url(text, "a test")
    with engine_of(url).connect() as connection:
        for _ in range(2):
            connection.exec_driver_sql("select 1")
        held = "select count(*) from pg_prepared_statements where statement = 'select 1'"
        assert connection.scalar(sa.text(held)) == prepared


def test_options_are_passed_on_and_text_is_exact_in_any_environment(
    supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    options = {"options": "-c statement_timeout=5s -c client_encoding=latin1"}
    url = parse_url(written(supabase_url.update_query_dict(options)), "a test")
    with engine_of(url).connect() as connection:
        assert connection.scalar(sa.text("show statement_timeout")) == "5s"
        assert connection.scalar(sa.text("show client_encoding")) == "UTF8"
        assert connection.scalar(sa.text("select :text"), {"text": "Žluťoučký €"}) == "Žluťoučký €"


@pytest.mark.parametrize("way", ["service=", "PGSERVICE"])
def test_the_connection_is_to_the_database_that_is_described(
    supabase_url: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The driver by itself would take the host of the environment before that of the service."""
    options, said = resolve(supabase_url), describe(supabase_url)
    names = ("host", "port", "dbname", "user", "password")
    lines = [f"{name}={options[name]}\n" for name in names if name in options]
    (tmp_path / "services").write_text(f"[ours]\n{''.join(lines)}", encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", "1")
    if way == "PGSERVICE":
        monkeypatch.setenv("PGSERVICE", "ours")
    url = parse_url("postgresql:///" if way == "PGSERVICE" else "postgresql:///?service=ours", "a test")
    assert describe(url) == said
    with create_engine(url, "momentum-tests").connect() as connection:
        assert connection.scalar(sa.text("select current_database()")) == supabase_url.database


def test_a_script_is_executed_letter_by_letter(supabase_url: sa.URL) -> None:
    with engine_of(supabase_url).begin() as connection:
        execute_script(connection, "create table t (a text); insert into t values ('100 % :of %s %(x)s')")
        assert connection.scalar(sa.text("select a from t")) == "100 % :of %s %(x)s"


@pytest.mark.parametrize("home", ["another user's", "no folder", "unset"])
def test_tls_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """The server agrees to TLS and then leaves, so that the client has only just begun with it."""
    if home == "unset":
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", str(tmp_path if home == "another user's" else tmp_path / "none"))
        # A loop can't be read by anyone, not even by root.
        (tmp_path / ".postgresql").symlink_to(tmp_path / ".postgresql")
    begun: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(8)
                client.sendall(b"S")
                begun.append(client.recv(1))

        server = threading.Thread(target=answer, daemon=True)
        server.start()
        url = parse_url(f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/app?sslmode=require", "a test")
        error = errors_of(url, engine=create_engine(url, "momentum-tests"))
        server.join()
    assert begun == [b"\x16"], f"no handshake of TLS: {error}"
    assert "certificate file" not in str(error)


def test_a_certificate_that_is_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".postgresql").symlink_to(tmp_path / ".postgresql")
    assert certificate_of(make_url("postgresql://me@db.example/app")) == {"sslcert": "/dev/null/none"}
    assert certificate_of(make_url("postgresql://me@db.example/app?sslcert=/own")) == {}
    monkeypatch.setenv("PGSSLCERT", "/own")
    assert certificate_of(make_url("postgresql://me@db.example/app")) == {}
