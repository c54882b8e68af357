"""How a URL is read and shown, and that no way of showing it shows a secret."""

import pytest
from sqlalchemy import make_url

from momentum.connect.url import as_text, blot_out, describe, parse_url, redact
from momentum.errors import ConfigurationError

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


def test_redact_leaves_a_text_without_a_password_alone() -> None:
    assert redact(" no password \n", make_url("postgresql://localhost/app")) == "no password"
