"""Where the URL comes from, and that no way of showing it shows a secret."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from momentum.connect.engine import (
    EnvFile,
    connect_arguments,
    connection_errors,
    describe,
    execute_script,
    find_url,
    parse_url,
    redact,
)
from momentum.errors import ConfigurationError, DatabaseUnreachableError, MomentumError
from tests.server import engine_of

SECRET = "s3cret"


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
    assert str(refusal.value).startswith("The database URL from DATABASE_URL is not one of Postgres; it reads postgres")
    assert SECRET not in str(refusal.value)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg", "psycopg_async", "pg8000"])
def test_a_url_with_another_driver_is_refused_for_that(driver: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_url(f"postgresql+{driver}://postgres:{SECRET}@localhost/app", "DATABASE_URL")
    assert str(refusal.value) == (
        "The database URL from DATABASE_URL names another driver than psycopg, version 3, which is used here; write it "
        "without one: postgresql://USER:PASSWORD@HOST:PORT/NAME."
    )


def url_named(name: str) -> str:
    return f"postgresql://localhost/{name}"


WAYS = {
    "given": "the option",
    "MOMENTUM_DATABASE_URL": "the environment",
    "DATABASE_URL": "the environment",
    "SUPABASE_DB_URL": "the file",
    "DATABASE_URL in the file": "the file",
}


@pytest.mark.parametrize("first", range(len(WAYS)))
def test_the_first_way_that_has_a_url_wins(tmp_path: Path, first: int) -> None:
    ways = list(WAYS)[first:]
    environ = {name: url_named(name) for name in ways if WAYS[name] == "the environment"}
    lines = [f"{name.split()[0]}={url_named(name.replace(' ', '_'))}" for name in ways if WAYS[name] == "the file"]
    env_file = tmp_path / "env"
    env_file.write_text("\n".join(lines), encoding="utf-8")
    given = url_named("given") if "given" in ways else None
    url = find_url(given, option="--database-url", env_file=str(env_file), environ=environ)
    assert url.database == ways[0].replace(" ", "_")


def test_an_empty_variable_counts_as_not_set_and_an_empty_option_as_a_mistake() -> None:
    environ = {"MOMENTUM_DATABASE_URL": "", "DATABASE_URL": url_named("app")}
    assert find_url(None, option="-x url=", environ=environ).database == "app"
    with pytest.raises(ConfigurationError, match="from -x url= is not one of Postgres"):
        find_url("", option="-x url=", environ=environ)


def test_the_default_file_stands_in_the_home_and_need_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError) as refusal:
        find_url(None, option="-x url=", environ={})
    assert str(refusal.value) == (
        "No database URL: give -x url= or set MOMENTUM_DATABASE_URL or DATABASE_URL, or write SUPABASE_DB_URL into "
        f"{tmp_path}/.bee_secrets/supabase.env."
    )
    (tmp_path / ".bee_secrets").mkdir()
    (tmp_path / ".bee_secrets" / "supabase.env").write_text(f"SUPABASE_DB_URL={url_named('app')}", encoding="utf-8")
    assert find_url(None, option="-x url=", environ={}).database == "app"
    with pytest.raises(ConfigurationError, match="No database URL: give -x url= or set MOMENTUM_DATABASE_URL or DATA"):
        find_url(None, option="-x url=", environ={}, use_env_file=False)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no env file .*/missing; name another with --env-file"):
        find_url(None, option="--database-url", env_file=str(tmp_path / "missing"), environ={})


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("# a comment\nexport A='pa$$word ${HOME}'\nB=\nC\nD=\"x y\"\n", encoding="utf-8")
    assert EnvFile(str(path)).values == {"A": "pa$$word ${HOME}", "D": "x y"}


def test_a_file_that_cannot_be_read_is_one_sentence_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"DATABASE_URL=\xff" + SECRET.encode())
    for path in (tmp_path, tmp_path / "binary"):
        with pytest.raises(ConfigurationError) as refusal:
            assert EnvFile(str(path)).values
        assert f"The env file {path} cannot be read" in str(refusal.value)
        assert SECRET not in str(refusal.value)


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


def test_redact_leaves_a_text_without_a_password_alone() -> None:
    assert redact(" no password \n", make_url("postgresql://localhost/app")) == "no password"


def errors_of(url: sa.URL, sql: str = "select 1") -> MomentumError:
    engine = engine_of(url)
    with pytest.raises(MomentumError) as raised, connection_errors(url), engine.connect() as connection:
        connection.execute(sa.text(sql))
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.__suppress_context__
    return raised.value


def test_the_drivers_errors_become_ours(supabase_url: sa.URL) -> None:
    unreachable = errors_of(parse_url(f"postgresql://me:{SECRET}@127.0.0.1:1/app", "a test"))
    assert type(unreachable) is DatabaseUnreachableError
    assert "127.0.0.1:1/app cannot be reached" in str(unreachable)
    missing = errors_of(supabase_url.set(database="no_such_database"))
    assert type(missing) is DatabaseUnreachableError
    refused = errors_of(supabase_url, "select no_such_column")
    assert type(refused) is MomentumError
    assert 'column "no_such_column" does not exist' in str(refused)
    lost = errors_of(supabase_url, "select pg_terminate_backend(pg_backend_pid())")
    assert type(lost) is DatabaseUnreachableError
    misspelt = errors_of(supabase_url.update_query_dict({"sslmod": SECRET}))
    assert type(misspelt) is ConfigurationError
    assert "sslmod" in str(misspelt)


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
        **({"prepare_threshold": None} if pooler else {}),
    }


def test_a_script_is_executed_letter_by_letter(supabase_url: sa.URL) -> None:
    with engine_of(supabase_url).begin() as connection:
        execute_script(connection, "create table t (a text); insert into t values ('100 % :of %s %(x)s')")
        assert connection.scalar(sa.text("select a from t")) == "100 % :of %s %(x)s"
