"""Where the URL comes from, and what the env file holds."""

import logging
import os
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from momentum.connect.env_file import EnvFile, check_service_role_key, find_url
from momentum.connect.url import as_text
from momentum.errors import ConfigurationError
from tests import processes
from tests.connect.project import (
    DIRECT,
    GOOD,
    PASSWORD,
    POOLER,
    POOLER_HOST,
    PROJECT,
    PROJECT_URL,
    env_file,
)

SECRET = "s3cret"


def url_named(name: str) -> str:
    return f"postgresql://localhost/{name}"


WAYS = {
    "given": "the option",
    "SUPABASE_DB_URL in the file": "the file",
    "DATABASE_URL in the file": "the file",
    "MOMENTUM_DATABASE_URL": "the environment",
    "DATABASE_URL": "the environment",
}
# The order if the file is the default one.
BY_DEFAULT = [*(way for way in WAYS if WAYS[way] != "the file"), *(way for way in WAYS if WAYS[way] == "the file")]


@pytest.mark.parametrize("named", [True, False], ids=["named", "default"])
@pytest.mark.parametrize("first", range(len(WAYS)))
def test_the_first_way_that_has_a_url_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, named: bool
) -> None:
    ways = (list(WAYS) if named else BY_DEFAULT)[first:]
    environ = {name: url_named(name) for name in ways if WAYS[name] == "the environment"}
    lines = [f"{name.split()[0]}={url_named(name.replace(' ', '_'))}" for name in ways if WAYS[name] == "the file"]
    env_file = tmp_path / ".bee_secrets" / "supabase.env"
    env_file.parent.mkdir()
    env_file.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    given = url_named("given") if "given" in ways else None
    url = find_url(given, option="--database-url", env_file=str(env_file) if named else None, environ=environ)
    assert url.database == ways[0].replace(" ", "_")


def test_an_empty_variable_counts_as_not_set_and_an_empty_option_as_a_mistake() -> None:
    environ = {"MOMENTUM_DATABASE_URL": "", "DATABASE_URL": url_named("app")}
    assert find_url(None, option="-x url=", environ=environ).database == "app"
    with pytest.raises(ConfigurationError, match="from -x url= is not a Postgres URL"):
        find_url("", option="-x url=", environ=environ)


def test_the_default_file_stands_in_the_home_and_need_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError) as refusal:
        find_url(None, option="-x url=", environ={})
    assert str(refusal.value) == (
        "No database URL: give -x url= or set MOMENTUM_DATABASE_URL or DATABASE_URL, or write SUPABASE_DB_URL in "
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

    with pytest.raises(ConfigurationError, match=r"no env file .*/missing"):
        find_url(url_named("app"), option="--database-url", env_file=str(tmp_path / "missing"), environ={})
    environ = {"DATABASE_URL": url_named("app")}
    with pytest.raises(ConfigurationError, match=r"no env file .*/missing"):
        find_url(None, option="--database-url", env_file=str(tmp_path / "missing"), environ=environ)


@pytest.mark.parametrize("home", ["no folder", "no entry", "another user's"])
def test_no_home_is_needed_when_everything_is_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    environ = {"DATABASE_URL": DIRECT, "SUPABASE_SERVICE_ROLE_KEY": GOOD}
    if home == "no folder":
        monkeypatch.setenv("HOME", "/nowhere")
    elif home == "another user's":
        # A loop can't be read by anyone, not even by root.
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".bee_secrets").symlink_to(tmp_path / ".bee_secrets")
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    url = find_url(None, option="--database-url", environ=environ)
    check_service_role_key(url, EnvFile(), environ)
    if home != "no folder":
        said = {"no entry": "There is no home directory for the env file ~/.bee", "another user's": "cannot be read"}
        with pytest.raises(ConfigurationError, match=said[home]):
            find_url(None, option="--database-url", environ={})


def test_the_key_of_a_named_file_beats_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    default = tmp_path / ".bee_secrets" / "supabase.env"
    default.parent.mkdir()
    default.write_text(f"SUPABASE_SERVICE_ROLE_KEY={GOOD}\n", encoding="utf-8")
    url, left_over = make_url(DIRECT), {"SUPABASE_SERVICE_ROLE_KEY": "another one"}
    check_service_role_key(url, EnvFile(), {})
    check_service_role_key(url, EnvFile(str(default)), left_over)
    with pytest.raises(ConfigurationError, match="is neither a secret key nor a JWT"):
        check_service_role_key(url, EnvFile(), left_over)


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


def url_from(directory: Path, *lines: str) -> str:
    path = env_file(directory, *lines)
    url = find_url(None, option="--database-url", env_file=str(path), environ={})
    assert url.drivername == "postgresql+psycopg"
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


DB_PASSWORD = f"SUPABASE_DB_PASSWORD='{PASSWORD}'"
WRITTEN = "pa55-w%25rd%2F%40%3A"


@pytest.mark.parametrize(
    ("lines", "url"),
    [
        ([PROJECT_URL, DB_PASSWORD], f"postgresql://postgres:{WRITTEN}@db.{PROJECT}.supabase.co:5432/postgres"),
        (
            [f"{PROJECT_URL}/", DB_PASSWORD, f"SUPABASE_DB_HOST={POOLER_HOST}"],
            f"postgresql://postgres.{PROJECT}:{WRITTEN}@{POOLER_HOST}:5432/postgres",
        ),
        ([f"SUPABASE_DB_URL={POOLER}", PROJECT_URL, DB_PASSWORD], POOLER),
        ([f"DATABASE_URL={DIRECT}", PROJECT_URL, DB_PASSWORD], DIRECT),
        # As the dashboard prints it.
        (
            [f"SUPABASE_DB_URL={POOLER.replace(':pw@', ':[YOUR-PASSWORD]@')}", DB_PASSWORD],
            POOLER.replace("pw", WRITTEN),
        ),
        ([f"SUPABASE_DB_URL={DIRECT.replace(':pw@', '@')}", DB_PASSWORD], DIRECT.replace("pw", WRITTEN)),
    ],
)
def test_the_env_file_gives_the_url_or_what_makes_one(tmp_path: Path, lines: list[str], url: str) -> None:
    assert url_from(tmp_path, *lines) == url


@pytest.mark.parametrize(
    "lines",
    [
        [DB_PASSWORD],
        [DB_PASSWORD, "SUPABASE_URL=https://api.example.com"],
        [DB_PASSWORD, f"SUPABASE_URL={PROJECT}"],
        [DB_PASSWORD, "SUPABASE_URL=http://127.0.0.1:54321"],
    ],
)
def test_a_password_alone_makes_no_url(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        url_from(tmp_path, *lines)
    assert str(refusal.value).startswith(f"SUPABASE_DB_PASSWORD in {tmp_path}/supabase.env needs SUPABASE_URL=https://")
    assert "pa55" not in str(refusal.value)


def test_a_password_that_was_never_filled_in_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"SUPABASE_DB_URL in .* has \[YOUR-PASSWORD\] for a password; fill it"
    ):
        url_from(tmp_path, f"SUPABASE_DB_URL={POOLER.replace(':pw@', ':[YOUR-PASSWORD]@')}")
    without = DIRECT.replace(":pw@", "@")
    assert url_from(tmp_path, f"SUPABASE_DB_URL={without}") == without, "libpq may know it from its password file"


def test_a_file_that_others_can_read_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for mode, warned in {0o600: False, 0o400: False, 0o640: True, 0o604: True, 0o644: True}.items():
        file = EnvFile(str(env_file(tmp_path, f"DATABASE_URL={DIRECT}", mode=mode)))
        with caplog.at_level(logging.WARNING, "momentum"):
            caplog.clear()
            find_url(None, option="-x url=", env_file=file, environ={})
            assert file.values
        said = f"The env file {file} can be read by other users of this machine; chmod 600 {file}."
        assert caplog.messages == ([said] if warned else []), oct(mode)


def test_the_key_and_its_file_are_looked_at_for_supabase_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = EnvFile(str(tmp_path / "missing"))
    check_service_role_key(make_url("postgresql://postgres@127.0.0.1:54322/postgres"), missing, environ={})
    with pytest.raises(ConfigurationError, match="There is no env file"):
        check_service_role_key(make_url(DIRECT), missing, environ={})
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=rf"in {tmp_path}/.bee_secrets/supabase.env\.$"):
        check_service_role_key(make_url(DIRECT), EnvFile(), environ={})
    check_service_role_key(make_url(DIRECT), EnvFile(), environ={"SUPABASE_SERVICE_ROLE_KEY": f" {GOOD}\n"})


def test_a_file_that_an_editor_of_windows_has_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b"\xef\xbb\xbfSUPABASE_DB_URL=postgresql://localhost/app\r\nA=b\r\n")
    assert EnvFile(str(path)).values == {"SUPABASE_DB_URL": "postgresql://localhost/app", "A": "b"}


@pytest.mark.parametrize("kind", ["missing", "a folder", "another user's", "not in UTF-8", "in UTF-16", "a URL"])
@pytest.mark.parametrize("program", [("momentum-backfill",), ("momentum.verify",)])
def test_a_program_refuses_a_named_file_before_it_connects(tmp_path: Path, kind: str, program: tuple[str]) -> None:
    path = tmp_path / "env"
    if kind == "a folder":
        path.mkdir()
    elif kind == "another user's":
        path.symlink_to(path)
    elif kind != "missing":
        path.write_bytes(f"A={SECRET}é".encode("utf-16" if kind == "in UTF-16" else "latin1"))
        path.chmod(0o600)
    named = f"postgresql://me:{SECRET}@h/app" if kind == "a URL" else str(path)
    env = {**os.environ, "DATABASE_URL": "postgresql://127.0.0.1:1/app"}
    done = processes.run(*program, "--env-file", named, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert SECRET not in done.stderr
    said = {"missing": "There is no env file", "a URL": "A URL belongs after --database-url only"}
    assert said.get(kind, f"The env file {path} cannot be read") in done.stderr
    if kind == "a URL":
        with pytest.raises(ConfigurationError, match=r"^A URL is given in place of the env file\.$"):
            find_url(None, option="--database-url", env_file=named, environ={})


@pytest.mark.parametrize("whose", ["unset", "no folder", "another user's"])
def test_a_program_needs_no_home_when_everything_is_in_the_environment(url: sa.URL, tmp_path: Path, whose: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "HOME"} | {"DATABASE_URL": as_text(url)}
    if whose != "unset":
        env["HOME"] = str(tmp_path / ("none" if whose == "no folder" else ""))
        for name in (".bee_secrets", ".postgresql", ".pgpass", ".pg_service.conf"):
            (tmp_path / name).symlink_to(tmp_path / name)
    for program in (
        ("momentum-backfill", "--dry-run"),
        ("momentum.verify",),
        ("alembic", "-c", "alembic.ini", "upgrade", "head"),
        ("alembic", "-c", "alembic.ini", "current"),
    ):
        done = processes.run(*program, env=env)
        assert done.returncode == 0, done.stderr
