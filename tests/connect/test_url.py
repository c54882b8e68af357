"""How a URL is read and shown, and that no way of showing it shows a secret."""

import os
import socket
from pathlib import Path

import pytest
from psycopg import pq
from sqlalchemy import URL, make_url

from momentum.connect.url import as_text, blot_out, describe, is_transaction_pooler, parse_url, redact, resolve, written
from momentum.errors import ConfigurationError

SECRET = "s3cret"

SERVICES = f"""
[away]
host=service.example
port=6543
dbname=service
user=somebody
password={SECRET}

[folder]
host=/run/service

[wrong]
{SECRET}=1
"""


@pytest.fixture(autouse=True)
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service file, and no other variable of libpq's."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    path = tmp_path / "services"
    path.write_text(SERVICES, encoding="utf-8")
    monkeypatch.setenv("PGSERVICEFILE", str(path))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_each_way_to_write_postgres_is_a_url_for_psycopg(scheme: str) -> None:
    url = parse_url(f"  {scheme}://me:p%40ss@db.example:6543/app?sslmode=require\n", "a test")
    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg://me:p%40ss@db.example:6543/app?sslmode=require"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        SECRET,
        f"mysql://root:{SECRET}@localhost/app",
        f"postgresql://postgres:{SECRET}@localhost",
        f"postgresql://postgres:{SECRET}@localhost/",
        f"postgresql://postgres@localhost:{SECRET}/app",
        f"postgresql://postgres:{SECRET}@[::1/app",
        f"//postgres:{SECRET}@localhost/app",
        f"https://{SECRET}.supabase.co/app",
    ],
)
def test_what_is_no_url_of_postgres_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_url(text, "DATABASE_URL")
    assert str(refusal.value).startswith("The database URL from DATABASE_URL is not a Postgres URL; the form is ")
    assert SECRET not in str(refusal.value)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg", "psycopg_async", "pg8000"])
def test_a_url_with_another_driver_is_refused_for_that(driver: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_url(f"postgresql+{driver}://postgres:{SECRET}@localhost/app", "DATABASE_URL")
    assert str(refusal.value) == (
        "The database URL from DATABASE_URL names a driver other than psycopg 3, which is used here; write it without "
        "a driver: postgresql://USER:PASSWORD@HOST:PORT/NAME."
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"postgresql://me:{SECRET}@db.example:6543/app", "db.example:6543/app"),
        (f"postgresql://me:{SECRET}@db.example/app", "db.example:5432/app"),
        (f"postgresql://me@db.example/app?password={SECRET}&sslpassword={SECRET}", "db.example:5432/app"),
        ("postgresql:///app?host=/run/socket", "/run/socket:5432/app"),
        ("postgresql:///app?host=/run/socket&port=6543", "/run/socket:6543/app"),
        ("postgresql:///app", "local socket:5432/app"),
        ("postgresql:///app?host=one&host=two", "one,two:5432/app"),
        ("postgresql:///app?host=one:1&host=two:2", "one:1,two:2/app"),
        ("postgresql:///app?host=one,two&port=1,2", "one:1,two:2/app"),
        ("postgresql://me@[::1]:6543/app", "[::1]:6543/app"),
    ],
)
def test_a_database_is_described_by_host_port_and_name_only(text: str, said: str) -> None:
    assert describe(make_url(text)) == said


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:s3cret%2Fpass@localhost/app",
        "postgresql://me@localhost/app?password=s3cret%2Fpass",
        "postgresql://me@localhost/app?sslpassword=s3cret%2Fpass",
    ],
)
def test_redact_blots_out_the_password_however_it_is_written(text: str) -> None:
    said = redact("cannot use s3cret/pass, nor s3cret%2Fpass\nDETAIL: s3cret/pass", make_url(text))
    assert said == "cannot use ***, nor ***"


def test_a_password_is_blotted_out_of_every_line_however_it_is_written() -> None:
    url = make_url("postgresql://me@localhost/app").set(password="s3 'cret/\\+")
    text = "\n".join(["s3 'cret/\\+", "s3%20%27cret%2F%5C%2B", "s3 %27cret%2F%5C+", repr("s3 'cret/\\+"), as_text(url)])
    shown = blot_out(text, url)
    assert "cret" not in shown
    assert shown.count("***") == 5


# Passwords that may be found in any text.
WORDS = ["a", "1", "5432", "port", "word", "connection", "Connection", "FATAL", "server", "20261126", "x1", "-", "."]
# What libraries say about a connection.
SAID = [
    'connection to server at "127.0.0.1", port 5433 failed: FATAL:  password authentication failed for user "me"',
    "Connection refused; is a server with 1 word of 20261126 running there (port 5432)?",
    "server-side error x1y: a connection, a port and a database.",
]
# How a library would repeat a password.
ECHOES = [
    "postgresql://me:{}@localhost/app",
    'could not translate host name "me:{}@localhost" to address',
    'invalid value "{}" for a parameter',
    "host=localhost password={} user=me",
    "host=localhost password = '{}'",
    "PGPASSWORD={}",
    "{{'password': '{}', 'user': 'me'}}",
    "KeyError: '{}'",
    "{}",
]


@pytest.mark.parametrize("password", WORDS)
def test_a_password_that_may_be_a_word_is_blotted_out_where_it_is_an_echo_and_of_no_word(password: str) -> None:
    url = make_url("postgresql://me@localhost:5433/app").set(password=password)
    for said in SAID:
        assert blot_out(said, url) == said
    for echo in ECHOES:
        assert blot_out(echo.format(password), url) == echo.format("***")


@pytest.mark.parametrize("password", ["postgres", "pa55-w0rd", "5433", "db.example.com"])
def test_a_password_that_is_a_name_is_blotted_out_where_it_is_the_password(password: str) -> None:
    local = URL.create("postgresql+psycopg", password=password, host="localhost", port=5433)
    for url in (local.set(username=password), local.set(database=password), local.set(host=password)):
        said = f'FATAL:  database "{password}" does not exist at {password}, port 5433'
        assert blot_out(said, url) == said, "it is shown as a name anyway"
        assert blot_out(f"postgresql://{password}:{password}@h/{password}", url) == (
            f"postgresql://{password}:***@h/{password}"
        )
        assert blot_out(f"user={password} password='{password}'", url) == f"user={password} password='***'"


@pytest.mark.parametrize("password", ["Tr0ub4dor", "correct horse battery", "qhzkDjwpxmv", "zufaelligelangebuchstaben"])
def test_a_password_that_is_no_word_is_blotted_out_wherever_it_is(password: str) -> None:
    url = make_url("postgresql://me@localhost/app").set(password=password)
    assert blot_out(f"x{password}y {password}, and {password}.", url) == "x***y ***, and ***."


def test_redact_leaves_a_text_without_a_password_alone() -> None:
    assert redact(" no password \n", make_url("postgresql://localhost/app")) == "no password"


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("postgresql:///t0", {"PGHOST": "127.0.0.1"}, "127.0.0.1:5432/t0"),
        ("postgresql:///t0", {"PGHOST": "one,two", "PGPORT": "1,2"}, "one:1,two:2/t0"),
        ("postgresql:///t0", {"PGHOST": "one,two", "PGPORT": "6"}, "one,two:6/t0"),
        ("postgresql:///t0", {"PGHOST": "one,/run/two", "PGPORT": ",2"}, "one:5432,/run/two:2/t0"),
        ("postgresql:///t0", {"PGPORT": "5433"}, "local socket:5433/t0"),
        ("postgresql:///t0?host=", {"PGHOST": "one"}, "local socket:5432/t0"),
        ("postgresql://one/t0", {"PGHOST": "two", "PGPORT": "5433", "PGDATABASE": "t1"}, "one:5433/t0"),
        ("postgresql://one/t0", {"PGHOSTADDR": "127.0.0.1"}, "one (127.0.0.1):5432/t0"),
        ("postgresql://127.0.0.1/t0", {"PGHOSTADDR": "127.0.0.1"}, "127.0.0.1:5432/t0"),
        ("postgresql://one,two/t0", {"PGHOSTADDR": "::1,127.0.0.1"}, "one ([::1]),two (127.0.0.1):5432/t0"),
        ("postgresql:///t0?hostaddr=127.0.0.1", {}, "127.0.0.1:5432/t0"),
        ("postgresql:///t0?hostaddr=::1,127.0.0.1&port=6", {}, "[::1],127.0.0.1:6/t0"),
        ("postgresql:///t0?hostaddr=127.0.0.1", {"PGHOST": "one"}, "one (127.0.0.1):5432/t0"),
        ("postgresql:///?service=away", {}, "service.example:6543/service"),
        ("postgresql://", {"PGSERVICE": "away"}, "service.example:6543/service"),
        ("postgresql:///", {"PGSERVICE": "away", "PGHOST": "one", "PGPORT": "1"}, "service.example:6543/service"),
        ("postgresql://one/t0", {"PGSERVICE": "away"}, "one:6543/t0"),
        ("postgresql:///t0?service=folder", {}, "/run/service:5432/t0"),
        ("postgresql://one/", {"PGDATABASE": "t1"}, "one:5432/t1"),
        ("postgresql://one?dbname=t1", {}, "one:5432/t1"),
        ("postgresql://me@%2Frun%2Fone:6/t0", {}, "/run/one:6/t0"),
        ("postgresql:///t0?host=@one", {}, "@one:5432/t0"),
        ("postgresql:///t0?host=%40one&port=6", {}, "@one:6/t0"),
        ("postgresql://ONE.Example./t0", {}, "ONE.Example.:5432/t0"),
        ("postgresql://[fe80::1%25eth0]:6/t0", {}, "[fe80::1%eth0]:6/t0"),
        ("postgresql://[::1],one:6/t0", {}, "[::1]:5432,one:6/t0"),
        ("postgresql://one:1,two:2/t0", {}, "one:1,two:2/t0"),
        ("postgresql://one,two/t0", {"PGPORT": "6"}, "one,two:6/t0"),
        ("postgresql:///t0?host=one,two&port=6", {}, "one,two:6/t0"),
        ("postgresql:///t0?host=one:1&host=two:2", {}, "one:1,two:2/t0"),
        ("postgresql:///t%0A0%1B", {}, "local socket:5432/t?0?"),
    ],
)
def test_a_database_is_described_as_libpq_resolves_it(
    monkeypatch: pytest.MonkeyPatch, text: str, environ: dict[str, str], said: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    url = parse_url(text, "a test")
    assert describe(url) == said
    assert is_transaction_pooler(url) == (":6543/" in said)
    assert describe(parse_url(written(url), "a test")) == said
    # As another program would read it.
    asked = pq.PGconn.connect_start(f"{as_text(url)}{'&' if '?' in as_text(url) else '?'}sslmode=none".encode())
    read = {option.keyword.decode(): option.val.decode() for option in asked.info if option.val is not None}
    assert [read.get(name) for name in ("host", "hostaddr", "dbname")] == [
        resolve(url).get(name) for name in ("host", "hostaddr", "dbname")
    ]


def test_nothing_is_sent_while_a_url_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        host, port = server.getsockname()
        monkeypatch.setenv("PGPORT", str(port))
        url = parse_url(f"postgresql://me:{SECRET}@{host}/app?target_session_attrs=read-write", "a test")
        assert describe(url) == f"{host}:{port}/app"
        with pytest.raises(BlockingIOError):
            server.accept()


def test_libpq_warns_of_no_password_file_while_a_url_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "passwords"
    path.write_text(f"*:*:*:*:{SECRET}\n", encoding="utf-8")
    path.chmod(0o644)
    monkeypatch.setenv("PGPASSFILE", str(path))
    describe(parse_url("postgresql://me@localhost/app", "a test"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("prepare_threshold=often", "prepare_threshold is a whole number, or none"),
        ("prepare_threshold=", "prepare_threshold is a whole number, or none"),
        ("prepare_threshold=-1", "prepare_threshold is a whole number, or none"),
        ("autocommit=true", "there is no option autocommit for a URL"),
        ("row_factory=dict_row", "there is no option row_factory for a URL"),
        ("cursor_factory=x", "there is no option cursor_factory for a URL"),
        ("context=x", "there is no option context for a URL"),
        ("plugin=x", "there is no option plugin for a URL"),
        (f"sslmod={SECRET}", "there is no option sslmod for a URL"),
        ("Sslmode=require", "there is no option Sslmode for a URL"),
        (f"{SECRET}/%20=x", "there is no option without a proper name for a URL"),
        ("sslmode=strict", 'invalid sslmode value: "strict"'),
        ("sslmode=prefer&sslrootcert=system", 'weak sslmode "prefer" may not be used with sslrootcert=system'),
        ("target_session_attrs=best", 'invalid target_session_attrs value: "best"'),
        ("load_balance_hosts=yes", 'invalid load_balance_hosts value: "yes"'),
        ("require_auth=x", 'invalid require_auth value: "x"'),
        (f"scram_client_key={SECRET}", "invalid SCRAM client key"),
        ("client_encoding=latin1", "client_encoding is UTF8 here"),
        ("replication=database", "a connection with the option replication runs no ordinary statements"),
        ("connect_timeout=soon", "connect_timeout is a whole number"),
        ("connect_timeout=1.5", "connect_timeout is a whole number"),
        ("keepalives_idle=x", "keepalives_idle is a whole number"),
        ("port=0", "a port is a number from 1 to 65535"),
        ("port=65536", "a port is a number from 1 to 65535"),
        ("port=x", "a port is a number from 1 to 65535"),
        ("host=one&port=1,2", "could not match 2 port numbers to 1 hosts"),
        ("hostaddr=::1,127.0.0.1&port=1,2", "it lists several ports without as many hosts"),
        ("service=unknown", 'definition of service "unknown" not found'),
        ("service=wrong", "syntax error in service file"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_before_a_connection(query: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_url(f"postgresql:///app?{query}", "a test")
    assert str(refusal.value).startswith(f"The database URL from a test cannot be used: {said}")
    assert str(refusal.value).endswith(".")
    assert SECRET not in str(refusal.value)


def test_what_the_environment_adds_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "many")
    with pytest.raises(ConfigurationError, match="a port is a number from 1 to 65535"):
        parse_url("postgresql://localhost/app", "a test")
    monkeypatch.setenv("PGSERVICE", "unknown")
    with pytest.raises(ConfigurationError, match='definition of service "unknown" not found'):
        parse_url("postgresql://localhost/app", "a test")


@pytest.mark.parametrize(
    "query",
    [
        "options=-c%20statement_timeout%3D5",
        "options=-c+statement_timeout=5",
        "application_name=caf%C3%A9",
        "client_encoding=UTF-8",
        "keepalives=0&keepalives_idle=30&tcp_user_timeout=1000",
        "target_session_attrs=primary&load_balance_hosts=random",
        "ssl=true",
        "prepare_threshold=0",
        "prepare_threshold=None",
    ],
)
def test_every_other_option_is_taken_and_passed_on(query: str) -> None:
    url = parse_url(f"postgresql://localhost/app?{query}", "a test")
    assert parse_url(written(url), "a test") == url
    kept = {name: value for name, value in url.query.items() if name != "prepare_threshold"}
    options = pq.Conninfo.parse(as_text(url).encode())
    assert {each.keyword.decode(): each.val.decode() for each in options if each.val is not None} == {
        "host": "localhost",
        "dbname": "app",
        **kept,
    }
    assert ("sslmode" in kept) == (query == "ssl=true")
    if "options" in query:
        assert kept == {"options": "-c statement_timeout=5"}


@pytest.mark.parametrize(
    "text",
    [
        "me:Pa@55/w0rd@localhost/app",
        "me:Pa@55w0rd@localhost/app",
        "me:Pa/55w0rd@localhost/app",
        "me:Pa/55?w0rd@localhost/app",
        "me:5/Pa55?w0rd=@localhost/app",
        "me:Pa@55?w0rd@localhost/app",
        "me:Pa@55?sslmode=w0rd@localhost/app",
        "me:Pa%55w0rd%@localhost/app",
        "me:Pa\udcff55w0rd@localhost/app",
        "me:Pa55w0rd",
        "me:Pa55/w0rd",
        "Pa55w0rd",
        "me@localhost/app?password=Pa55&password=w0rd",
        "me:Pa55@localhost/app?password=w0rd",
        "me@localhost/app?password=Pa55%ffw0rd",
    ],
)
def test_no_part_of_a_password_is_taken_for_something_else(text: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_url(f"postgresql://{text}", "a test")
    assert "Pa" not in str(refusal.value).replace("PASSWORD", "")
    assert "55" not in str(refusal.value)
    assert "w0rd" not in str(refusal.value)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize("password", ["pass word", "a+b", "p%20q", "Pa@55/w0rd?#[]:&=", "ä€'\\\"", " ", "\n"])
def test_a_password_survives_being_written_and_read(password: str) -> None:
    url = URL.create("postgresql+psycopg", "me@here", password, "localhost", 5432, "a b/c")
    for text in (as_text(url), written(url)):
        assert parse_url(text, "a test") == url
        options = {each.keyword.decode(): each.val for each in pq.Conninfo.parse(text.encode())}
        assert options["password"] == password.encode()
        assert options["user"] == b"me@here"
        assert options["dbname"] == b"a b/c"


@pytest.mark.parametrize("written_as", ["pass word", "pass%20word", "pass+word", "pass?w#ord"])
def test_a_password_is_read_as_sqlalchemy_and_libpq_write_it(written_as: str) -> None:
    url = parse_url(f"postgresql://me:{written_as}@localhost/app", "a test")
    assert url.password == written_as.replace("%20", " ")


def test_secrets_of_the_environment_and_of_services_are_blotted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redact(f"no {SECRET}", parse_url("postgresql:///?service=away", "a test")) == "no ***"
    monkeypatch.setenv("PGPASSWORD", SECRET)
    assert redact(f"no {SECRET}", parse_url("postgresql://localhost/app", "a test")) == "no ***"
