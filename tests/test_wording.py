"""Names in messages: no control character, and no password, reaches a terminal, a log or a page."""

import logging
import os
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.errors import ConfigurationError, MomentumError
from momentum.wording import as_word, holds_credentials, printable
from tests import processes
from tests.backfilling import with_password
from tests.migrating import execute
from tests.samples import add_users
from tests.server import engine_of

# A line break, the escape of a terminal, the same as one byte, marks of direction, and a separator of lines.
EVIL = "a\nError: b\r\x1b[2J\x9b31m\u202e\u2066\u2028\x7f\x85\u200b"
SHOWN = r"a\nError: b\r\x1b[2J\x9b31m\u202e\u2066\u2028\x7f\x85\u200b"
UNWANTED = [each for each in EVIL if not each.isprintable() and each != "\n"]
SECRET = "Pa@55/w0rd"
ALEMBIC = ("alembic", "-c", "alembic.ini")


def test_a_text_is_printable_and_ordinary_letters_are_left_alone() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("Žluťoučký 🦄 日本 §") == "Žluťoučký 🦄 日本 §"
    assert printable("\udcff") == r"\udcff"


def test_every_error_and_every_line_of_a_log_is_printable(caplog: pytest.LogCaptureFixture) -> None:
    assert str(ConfigurationError(f"no {EVIL}.")) == f"no {SHOWN}."
    assert issubclass(ConfigurationError, MomentumError)
    for name in ("momentum.backfill", "momentum.database", "momentum.migrations"):
        caplog.clear()
        logging.getLogger(name).warning("there is %s, 100%%", EVIL)
        assert caplog.messages == [f"there is {SHOWN}, 100%"]


@pytest.mark.parametrize("name", [EVIL, "plain", "it's", "two words", "50%\\", "\udcff'é\x1b", "$x`y`"])
def test_a_word_is_read_back_by_bash(name: str) -> None:
    word = as_word(name)
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=False)
    assert done.stdout == os.fsencode(name)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:Pa@55/w0rd@h/app",
        "postgresql:me:Pa@55/w0rd@h/app",
        "me:Pa@55/w0rd@h/app",
        "--url=postgres://me@h",
        "me:a\n@h",
    ],
)
def test_what_may_be_a_url_is_known(text: str) -> None:
    assert holds_credentials(text)


@pytest.mark.parametrize("text", ["rows.jsonl", "/mnt/ann@example.com/rows.jsonl", "2026-03-05", "a:b", "--days"])
def test_what_is_no_url_is_known(text: str) -> None:
    assert not holds_credentials(text)


def assert_clean(said: str) -> None:
    """Assert that a text has lines of printable letters only."""
    for line in said.split("\n"):
        assert line.isprintable(), line
    assert "\nError: b" not in said


URLS = [f"postgresql://me:{SECRET}@127.0.0.1:1/app", f"postgresql:me:{SECRET}@127.0.0.1/app", f"me:{SECRET}@h/app"]


@pytest.mark.parametrize("url", [URLS[0], *(pytest.param(url, marks=pytest.mark.slow) for url in URLS[1:])])
@pytest.mark.parametrize(
    "arguments",
    [
        ("momentum-backfill", "{}"),
        ("momentum-backfill", "--env-file", "{}"),
        ("momentum-backfill", "--env-file={}"),
        ("momentum-backfill", "--database-url", "{}"),
        ("momentum-backfill", "--datbase-url", "{}"),
        ("momentum-backfill", "--datbase-url={}"),
        ("momentum-backfill", "--{}"),
        ("momentum-backfill", "--from", "{}"),
        ("momentum-backfill", "--user", "{}"),
        ("momentum-backfill", "--workers", "{}"),
        ("momentum-backfill", "--manifest", "{}", "--log-format", "json"),
        ("momentum-backfill", "--verbose", "{}"),
        ("momentum.verify", "{}"),
        ("momentum.verify", "--env-file", "{}"),
        ("momentum.verify", "--database-url", "{}"),
        ("momentum.testing", "{}"),
        ("momentum.testing", "start", "{}"),
        (*ALEMBIC, "-x", "url={}", "upgrade", "head"),
        (*ALEMBIC, "-x", "ulr={}", "upgrade", "head"),
        (*ALEMBIC, "-x", "{}", "upgrade", "head"),
        (*ALEMBIC, "-x", "url:{}", "upgrade", "head"),
        (*ALEMBIC, "-x", "verify={}", "upgrade", "head"),
        (*ALEMBIC, "upgrade", "{}"),
        (*ALEMBIC, "downgrade", "{}"),
        (*ALEMBIC, "stamp", "{}"),
    ],
    ids=" ".join,
)
def test_a_url_in_the_wrong_place_is_not_repeated(arguments: tuple[str, ...], url: str, home: Path) -> None:
    done = processes.run(*(each.format(url) for each in arguments), env={**os.environ, "HOME": str(home)})
    assert done.returncode in (2, 255), done.stderr
    for part in (SECRET, "Pa@", "w0rd", "Traceback"):
        assert part not in done.stdout + done.stderr


@pytest.mark.parametrize("variable", ["MOMENTUM_DATABASE_URL", "DATABASE_URL", "PGPASSWORD", "PGPASSFILE"])
@pytest.mark.parametrize(
    "arguments", [("momentum-backfill", "--verbose"), ("momentum.verify",), (*ALEMBIC, "upgrade", "head")], ids=" ".join
)
def test_a_password_in_the_environment_is_not_repeated(variable: str, arguments: tuple[str, ...], home: Path) -> None:
    value = URLS[0] if variable.endswith("_URL") else SECRET
    env = {**os.environ, "HOME": str(home), "DATABASE_URL": "postgresql://me@127.0.0.1:1/app", variable: value}
    done = processes.run(*arguments, env=env)
    assert done.returncode in (2, 3), done.stderr
    for part in (SECRET, "Pa@", "w0rd", "Traceback"):
        assert part not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "variable", ["PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGSSLMODE"]
)
@pytest.mark.parametrize("program", [("momentum-backfill", "--verbose"), (*ALEMBIC, "upgrade", "head")], ids=" ".join)
def test_a_url_in_a_variable_of_libpq_is_not_repeated(variable: str, program: tuple[str, ...], home: Path) -> None:
    user, host = ("" if variable == "PGUSER" else "me@", "" if variable.startswith(("PGHOST", "PGPORT")) else "h")
    database = "" if variable == "PGDATABASE" else "app"
    text = f"postgresql://{user}{host}/{database}"
    env = {"PGDATABASE": "app", **os.environ, "HOME": str(home), "DATABASE_URL": text, variable: URLS[0]}
    done = processes.run(*program, env=env)
    assert done.returncode == 2, done.stderr
    assert "The database URL from DATABASE_URL cannot be used: " in done.stderr
    for part in (SECRET, "Pa@", "w0rd", "Traceback"):
        assert part not in done.stdout + done.stderr


@pytest.mark.slow
def test_names_of_files_are_shown_as_escapes(url: sa.URL, tmp_path: Path, home: Path) -> None:
    add_users(engine_of(url), 3)
    env = {**os.environ, "HOME": str(home), "MOMENTUM_DATABASE_URL": with_password(url)}
    folder = tmp_path / EVIL
    folder.mkdir()
    page, manifest = folder / "page.html", folder / "rows"
    days = ("--to", "2026-03-05", "--days", "1")

    def run(*arguments: str | Path, code: int) -> str:
        done = processes.run("momentum-backfill", *arguments, env=env)
        assert done.returncode == code, done.stderr
        assert_clean(done.stdout)
        assert_clean(done.stderr)
        return done.stdout

    run(*days, "--manifest", manifest, "--report", page, code=0)
    assert SHOWN in run("--undo", manifest, "--dry-run", code=0)
    run("--env-file", folder / "none", code=2)
    run("--undo", folder / "none", code=2)
    run(*days, "--manifest", folder / "none" / "none", code=2)
    run(EVIL, code=2)
    run(f"--{EVIL}", code=2)
    # The user's row can't be written, so that the page has a command to resume.
    execute(url, "delete from legacy.daily_engagement_scores where true")
    execute(url, "alter table legacy.daily_engagement_scores add constraint none check (score is null) not valid")
    run(*days, "--report", page, "--failures", folder / "failed", "--max-error-rate", "1", code=0)
    html = page.read_text(encoding="utf-8")
    assert not [each for each in UNWANTED if each in html]


@pytest.mark.slow
def test_names_of_tables_columns_users_and_triggers_are_shown_as_escapes(
    url: sa.URL, tmp_path: Path, home: Path
) -> None:
    add_users(engine_of(url), 3)
    quoted = '"{}"'.format(EVIL.replace('"', '""'))
    for statement in (
        f"create function public.{quoted}() returns trigger language plpgsql as 'begin return new; end'",
        f"create trigger {quoted} before insert on legacy.daily_engagement_scores "
        f"for each row execute function public.{quoted}()",
        f"alter table public.habit_index add column {quoted} text",
        f"create index {quoted} on public.habit_index (id)",
        f"create policy {quoted} on public.momentum_pillars using (true)",
        f'create view public."view {quoted[1:]} as select * from public.momentum_events',
    ):
        execute(url, statement)
    env = {**os.environ, "HOME": str(home), "MOMENTUM_DATABASE_URL": with_password(url)}
    page = tmp_path / "page.html"
    for code, arguments in (
        (0, ("momentum-backfill", "--to", "2026-03-05", "--days", "1", "--verbose", "--report", page)),
        (1, ("momentum.verify",)),
        (1, (*ALEMBIC, "upgrade", "head")),
        (1, (*ALEMBIC, "-x", "purge=yes", "downgrade", "base")),
    ):
        done = processes.run(*arguments, env=env)
        assert done.returncode == code, done.stderr
        assert_clean(done.stdout)
        assert_clean(done.stderr)
        assert SHOWN in done.stdout + done.stderr
    html = page.read_text(encoding="utf-8")
    assert SHOWN in html
    assert not [each for each in UNWANTED if each in html]


@pytest.mark.parametrize("part", ["database", "user", "host"])
def test_names_in_a_url_are_shown_as_escapes(supabase_url: sa.URL, part: str, home: Path) -> None:
    name = EVIL if part != "host" else f"/tmp/{EVIL}"  # noqa: S108 - it is never made
    url = supabase_url
    if part == "database":
        url = url.set(database=name)
    elif part == "user":
        url = url.set(username=name)
    else:
        url = sa.URL.create(url.drivername, url.username, database=url.database, query={"host": name})
    env = {**os.environ, "HOME": str(home), "MOMENTUM_DATABASE_URL": with_password(url)}
    for arguments in (("momentum-backfill",), ("momentum.verify",), (*ALEMBIC, "upgrade", "head")):
        done = processes.run(*arguments, env=env)
        assert done.returncode == 3, done.stderr
        assert_clean(done.stdout)
        assert_clean(done.stderr)
