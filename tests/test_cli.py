"""The command ``momentum``: what an operator needs, in one program."""

import io
import json
import logging
import os
import re
import secrets
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config

from momentum import __version__
from momentum.cli import app
from momentum.command import run_app
from momentum.connect.url import as_text, describe
from momentum.migrate.config import alembic_config
from momentum.testing import Server
from tests import processes
from tests.alembic_program import program
from tests.catalog import snapshot
from tests.migrating import HISTORY, current, database_with_scores, fetch, rows_of, run, wait_until
from tests.samples import add_users
from tests.server import engine_of

HEAD = HISTORY[-1]


def momentum(
    *arguments: str, home: Path, url: sa.URL | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the real program."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")}
    given = {} if url is None else {"MOMENTUM_DATABASE_URL": as_text(url)}
    done = processes.run("momentum", *arguments, env={**env, "HOME": str(home), "COLUMNS": "80", **given, **environ})
    assert "Traceback" not in done.stderr
    return done


def status_of(url: sa.URL, home: Path) -> tuple[int, dict[str, Any]]:
    """Return the exit code of ``momentum status`` and what it says to machines; both say the same as to people."""
    before = snapshot(url), rows_of(url)
    done = momentum("status", "--json", home=home, url=url)
    told = momentum("status", home=home, url=url)
    assert (snapshot(url), rows_of(url)) == before, "it is read-only"
    assert done.returncode == told.returncode
    assert done.stderr == told.stderr == ""
    status: dict[str, Any] = json.loads(done.stdout)
    to_do = [f"To do: {each['what']}: {each['command']}" for each in status["to_do"]]
    assert told.stdout.partition("\n\n")[2].splitlines() == (to_do or ["Everything is OK."])
    return done.returncode, status


def commands(status: dict[str, Any]) -> list[str]:
    """Return the commands that a status asks for."""
    return [each["command"] for each in status["to_do"]]


@pytest.mark.slow
def test_from_an_empty_database_to_a_full_one_and_back(supabase_url: sa.URL, tmp_path: Path) -> None:
    add_users(engine_of(supabase_url), 3, created_at="2020-01-01")
    before, rows = snapshot(supabase_url), rows_of(supabase_url)

    code, status = status_of(supabase_url, tmp_path)
    assert (code, status["revision"], status["pending"], status["head"]) == (1, "base", HISTORY[1:], HEAD)
    assert (status["score_table"], status["differences"], status["missing"]) == (None, None, None)
    assert commands(status) == ["momentum upgrade"]

    done = momentum("upgrade", home=tmp_path, url=supabase_url)
    assert (done.returncode, done.stdout) == (0, "")
    database, *steps, last = done.stderr.splitlines()
    assert database.startswith("Database: ")
    assert [line.partition(",")[0].split()[-1] for line in steps] == HISTORY[1:]
    assert re.fullmatch(rf"At revision {HEAD}, verified, after \d+\.\d seconds\.", last)

    code, status = status_of(supabase_url, tmp_path)
    assert (code, status["differences"], status["eligible"], status["missing"]) == (1, 0, 21, 21)
    assert commands(status) == ["momentum backfill --days 7"]
    assert momentum(*commands(status)[0].split()[1:], home=tmp_path, url=supabase_url).returncode == 0

    code, status = status_of(supabase_url, tmp_path)
    assert (code, status["to_do"], status["missing"], status["warnings"]) == (0, [], 0, [])
    assert status["score_table"] == "legacy.daily_engagement_scores"
    assert (status["layout"], status["created"], status["package_version"]) == ("seed", True, __version__)
    assert momentum("verify", home=tmp_path, url=supabase_url).returncode == 0

    assert momentum("downgrade", "-1", home=tmp_path, url=supabase_url).returncode == 0
    code, status = status_of(supabase_url, tmp_path)
    assert (code, status["revision"], status["pending"]) == (1, HISTORY[-2], [HEAD])

    assert momentum("downgrade", "base", home=tmp_path, url=supabase_url).returncode == 0
    code, status = status_of(supabase_url, tmp_path)
    assert (code, status["parked"]["momentum_internal.daily_engagement_scores"]) == (1, "21 rows")

    assert momentum("purge", home=tmp_path, url=supabase_url).returncode == 0
    assert (snapshot(supabase_url), rows_of(supabase_url)) == (before, rows)


def test_a_table_that_a_backfill_refuses_is_something_to_do(url: sa.URL, tmp_path: Path) -> None:
    run(url, "create rule r as on delete to legacy.daily_engagement_scores do instead nothing")
    code, status = status_of(url, tmp_path)
    assert (code, status["revision"], status["score_table"]) == (1, HEAD, "legacy.daily_engagement_scores")
    assert status["missing"] is None
    assert {
        "what": "legacy.daily_engagement_scores can't be relied on: its rule r would replace statements with others; "
        "drop it with: drop rule r on legacy.daily_engagement_scores; then try again",
        "command": "momentum verify",
    } in status["to_do"]


def test_a_right_that_a_backfill_lacks_is_something_to_do_with_its_grant(server: Server, tmp_path: Path) -> None:
    role = f"monitor_{secrets.token_hex(4)}"
    with server.database() as url:
        admin_url = server.as_admin(url)
        run(
            admin_url,
            f"""
            create role {role} login password 'secret' bypassrls;
            grant usage on schema auth, legacy, momentum_internal to {role};
            grant select on all tables in schema auth, momentum_internal to {role};
            """,
        )
        monitor = url.set(username=role, password="secret")
        done = momentum("status", "--json", home=tmp_path, url=monitor)
        grant = f"grant select on legacy.daily_engagement_scores to {role}"
        assert done.returncode == 1
        assert json.loads(done.stdout)["to_do"][-1] == {
            "what": f"The role {role} may not select rows of legacy.daily_engagement_scores; connect as "
            f"{url.username}, or let {url.username} run `{grant}`",
            "command": grant,
        }
        run(url, grant)
        assert json.loads(momentum("status", "--json", home=tmp_path, url=monitor).stdout)["missing"] == 0
        run(admin_url, f"drop owned by {role}; drop role {role}")


@pytest.mark.slow
def test_a_purge_stays_at_the_revision(supabase_url: sa.URL, tmp_path: Path) -> None:
    momentum("upgrade", HISTORY[3], home=tmp_path, url=supabase_url)
    momentum("downgrade", HISTORY[2], home=tmp_path, url=supabase_url)
    momentum("upgrade", "head", home=tmp_path, url=supabase_url)
    momentum("downgrade", HISTORY[2], home=tmp_path, url=supabase_url)
    parked = "select count(*) from pg_class where relname = 'daily_engagement_scores'"
    assert fetch(supabase_url, parked) == [1]
    done = momentum("purge", home=tmp_path, url=supabase_url)
    assert done.returncode == 0, done.stderr
    assert "Dropped: momentum_internal.daily_engagement_scores" in done.stderr
    assert fetch(supabase_url, parked) == [0]
    assert current(supabase_url) == HISTORY[2]


@pytest.mark.slow
def test_status_names_what_is_not_ok_with_the_command_that_fixes_it(url: sa.URL, tmp_path: Path) -> None:
    add_users(engine_of(url), 2, created_at="2020-01-01")
    assert momentum("backfill", "--days", "7", "--quiet", home=tmp_path, url=url).returncode == 0
    assert status_of(url, tmp_path)[0] == 0

    last = "(select max(score_ts) from legacy.daily_engagement_scores)"
    run(url, f"delete from legacy.daily_engagement_scores where score_ts = {last}")
    code, status = status_of(url, tmp_path)
    assert (code, status["missing"], status["eligible"]) == (1, 2, 14)
    assert commands(status) == ["momentum backfill --days 7"]

    run(url, "drop trigger set_updated_at on public.habit_index")
    code, status = status_of(url, tmp_path)
    assert (code, status["differences"]) == (1, 1)
    assert commands(status) == ["momentum verify", "momentum backfill --days 7"]

    run(url, "update momentum_internal.alembic_version set version_num = 'of_the_next_version'")
    code, status = status_of(url, tmp_path)
    assert (code, status["pending"], status["differences"]) == (1, [], None)
    assert commands(status)[0] == "pip install --upgrade momentum-schema"

    run(url, "drop view public.daily_momentum_scores; drop table legacy.daily_engagement_scores")
    code, status = status_of(url, tmp_path)
    assert (code, status["estimated_rows"], status["missing"]) == (1, None, None)


@pytest.mark.slow
def test_status_names_the_triggers_that_call_out(server: Server, tmp_path: Path) -> None:
    url = database_with_scores(server, "public.production")
    run(
        url,
        "create schema net; create function net.http_post(url text) returns bigint language sql as 'select 1'; "
        "create function public.push() returns trigger language plpgsql as "
        "$$ begin perform net.http_post('https://push.example'); return new; end $$; "
        "create trigger pushes after insert on public.daily_engagement_scores for each row "
        "execute function public.push()",
    )
    assert momentum("upgrade", home=tmp_path, url=url).returncode == 0
    _, status = status_of(url, tmp_path)
    assert status["calls_out"] == ["pushes"]
    assert (status["created"], status["layout"]) == (False, "production")
    server.drop_database(url)


def test_a_database_that_is_not_there_is_one_line_with_exit_code_3(supabase_url: sa.URL, tmp_path: Path) -> None:
    gone = supabase_url.set(database="not_there")
    for command in (["status"], ["status", "--json"], ["upgrade"], ["downgrade", "base"], ["purge"], ["verify"]):
        done = momentum(*command, home=tmp_path, url=gone)
        assert (done.returncode, done.stdout) == (3, ""), command
        *before, error = done.stderr.splitlines()
        assert error.startswith("Error: "), command
        assert "/not_there cannot be reached" in error
        named = [] if command[0] == "status" else [f"Database: {describe(gone)}"]
        assert before == named, "the result of a status names it"


def test_a_script_is_the_one_that_alembic_writes(tmp_path: Path) -> None:
    ours = momentum("upgrade", "--sql", "--scores", "legacy.seed", home=tmp_path)
    theirs = program("-x", "scores=legacy.seed", "upgrade", "head", "--sql", home=tmp_path)
    assert (ours.returncode, ours.stdout) == (0, theirs.stdout)
    ours = momentum("downgrade", "--sql", "head:base", home=tmp_path)
    theirs = program("downgrade", "head:base", "--sql", home=tmp_path)
    assert (ours.returncode, ours.stdout) == (0, theirs.stdout)


def call(*arguments: str, url: sa.URL | None = None) -> tuple[int, str, list[str]]:
    """Run the command within this process, and return its exit code, its output and the lines on standard error."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        given = [] if url is None else ["--database-url", as_text(url)]
        exit_code = run_app(app, "momentum", [*arguments, *given])
    return exit_code, stdout.getvalue(), stderr.getvalue().splitlines()


def test_each_command_does_what_its_name_says(supabase_url: sa.URL) -> None:
    database = f"Database: {describe(supabase_url)}"
    loggers = [logging.getLogger(name) for name in ("momentum", "alembic.runtime.migration")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    code, out, lines = call("upgrade", HISTORY[2], url=supabase_url)
    assert (code, out, lines[0], current(supabase_url)) == (0, "", database, HISTORY[2])
    assert [line.partition(",")[0] for line in lines[1:3]] == [
        f"Running upgrade  -> {HISTORY[1]}",
        f"Running upgrade {HISTORY[1]} -> {HISTORY[2]}",
    ]
    assert re.fullmatch(rf"At revision {HISTORY[2]}, not verified, after \d+\.\d seconds\.", lines[-1])

    code, out, lines = call("downgrade", "-1", url=supabase_url)
    assert (code, out, lines[0], current(supabase_url)) == (0, "", database, HISTORY[1])
    assert [line.partition(",")[0] for line in lines[1:]] == [f"Running downgrade {HISTORY[2]} -> {HISTORY[1]}"]

    parked = "select count(*) from pg_class where relnamespace = to_regnamespace('momentum_internal') and relkind = 'r'"
    [tables] = fetch(supabase_url, parked)
    code, out, lines = call("purge", url=supabase_url)
    assert (code, out, lines[0], current(supabase_url)) == (0, "", database, HISTORY[1])
    assert "Dropped: " in "\n".join(lines)
    assert fetch(supabase_url, parked) < [tables]
    assert [(logger.level, list(logger.handlers)) for logger in loggers] == before, "nothing of the display stays"


UNTOLD = {"drift": "warn", "attempts": 40, "deadline": 300, "scores": "fresh"}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["upgrade", "--sql"], {"existing": "refuse", "verify": True, **UNTOLD}),
        (
            ["upgrade", "--sql", "--no-verify", "--attempts", "3", "--deadline", "4", "--scores", "legacy.seed"],
            {"existing": "refuse", "verify": False, **UNTOLD, "attempts": 3, "deadline": 4, "scores": "legacy.seed"},
        ),
        (
            ["upgrade", "--sql", "--drift", "refuse"],
            {"existing": "refuse", "verify": True, **UNTOLD, "drift": "refuse"},
        ),
        (
            ["upgrade", "--sql", "--existing", "adopt"],
            {"existing": "adopt", "access": "refuse", "verify": True, **UNTOLD},
        ),
        (
            ["upgrade", "--sql", "--existing", "adopt", "--access", "keep"],
            {"existing": "adopt", "access": "keep", "verify": True, **UNTOLD},
        ),
        (["downgrade", "--sql", "head:base"], {"purge": False, **UNTOLD}),
        (["downgrade", "--sql", "head:base", "--drift", "refuse"], {"purge": False, **UNTOLD, "drift": "refuse"}),
        (
            ["downgrade", "--sql", "head:base", "--attempts", "999999", "--deadline", "999999"],
            {"purge": False, **UNTOLD, "attempts": 999_999, "deadline": 999_999},
        ),
    ],
)
def test_the_migrations_get_the_options(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], options: dict[str, Any]
) -> None:
    given: list[dict[str, Any]] = []

    def config(url: sa.URL, **options: Any) -> Config:
        given.append(options)
        return alembic_config(url, **options)

    monkeypatch.setattr("momentum.migrate.cli.alembic_config", config)
    code, out, lines = call(*arguments)
    assert (code, [line for line in lines if line.startswith(("Error", "Database"))]) == (0, [])
    assert given == [options]
    assert out.startswith("set search_path = ")


@pytest.mark.parametrize("option", ["--attempts", "--deadline"])
@pytest.mark.parametrize(
    ("value", "limit"), [("0", "greater than or equal to 1"), ("1000000", "less than or equal to 999999")]
)
def test_a_number_has_a_smallest_and_a_largest_value(option: str, value: str, limit: str) -> None:
    for command in (["upgrade"], ["downgrade", "base"], ["purge"]):
        code, out, [line] = call(*command, option, value)
        assert (code, out) == (2, "")
        assert line == f"Error: Invalid value for '{option}': Input should be {limit}; see momentum --help."


@pytest.mark.slow
def test_options_reach_the_migrations(server: Server, tmp_path: Path) -> None:
    url = database_with_scores(server, "fresh", predecessors=True)
    refused = momentum("upgrade", home=tmp_path, url=url)
    assert refused.returncode == 1
    assert "existing=adopt" in refused.stderr
    adopted = momentum("upgrade", "--existing", "adopt", "--access", "close", "--no-verify", home=tmp_path, url=url)
    assert adopted.returncode == 0, adopted.stderr
    assert f"At revision {HEAD}, not verified, after" in adopted.stderr
    back = momentum("downgrade", "base", "--purge", home=tmp_path, url=url)
    assert back.returncode == 0, back.stderr
    assert fetch(url, "select count(*) from pg_namespace where nspname = 'momentum_internal'") == [0]
    server.drop_database(url)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upgrade", "nosuch"], "Can't locate revision identified by 'nosuch'."),
        (["upgrade", "--access", "keep"], "existing=adopt"),
        (["upgrade", "--existing", "take"], "'take' is not one of 'refuse', 'adopt'; see momentum --help."),
        (["downgrade"], "Missing argument 'REVISION'; see momentum --help."),
        (["downgrade", "base", "--purg"], "(--purg); see momentum --help."),
        (["downgrade", "--purg"], "'--purg'"),
        (["upgrade", "head:base"], "."),
        (["nosuch"], "No such command 'nosuch'; see momentum --help."),
        (
            ["upgrade", "postgresql://me:s3cret@host/db"],
            "A URL belongs after --database-url only; see momentum --help.",
        ),
    ],
)
def test_a_mistake_is_one_line_with_exit_code_2(
    supabase_url: sa.URL, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = momentum(*arguments, home=tmp_path, url=supabase_url)
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert "s3cret" not in done.stderr
    assert current(supabase_url) == "base"


@pytest.mark.parametrize("command", [["downgrade", "base"], ["purge"]])
def test_what_goes_back_does_not_use_the_default_env_file(url: sa.URL, tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / ".bee_secrets" / "supabase.env"
    file.parent.mkdir()
    file.write_text(f"SUPABASE_DB_URL='{as_text(url)}'\n", encoding="utf-8")
    file.chmod(0o600)
    assert momentum("verify", home=tmp_path).returncode == 0
    refused = momentum(*command, home=tmp_path)
    assert (refused.returncode, current(url)) == (2, HEAD)
    assert "No database URL" in refused.stderr
    assert momentum(*command, "--env-file", str(file), home=tmp_path).returncode == 0


def test_an_interrupted_upgrade_says_what_is_done(supabase_url: sa.URL, tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "MOMENTUM_DATABASE_URL": as_text(supabase_url)}
    with engine_of(supabase_url).begin() as connection:
        connection.execute(sa.text("lock auth.users in share row exclusive mode"))
        process = processes.Process("momentum", "upgrade", env=env)
        wait_until(supabase_url, "exists (select from pg_locks where not granted)", process=process)
        process.send_signal(2)
        _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("Error: Interrupted; the running revision is not done")


def test_help_and_versions(tmp_path: Path) -> None:
    helped = momentum("--help", home=tmp_path)
    assert helped.returncode == 0
    assert helped.stdout == momentum("-h", home=tmp_path).stdout
    for command in ("status", "upgrade", "downgrade", "purge", "verify", "backfill", "db"):
        assert f"│ {command} " in helped.stdout
        of_command = momentum(command, "--help", home=tmp_path)
        assert of_command.returncode == 0
        assert f"Usage: momentum {command}" in of_command.stdout
        assert "…" not in of_command.stdout, "nothing is cut at 80 columns"
    bare = momentum(home=tmp_path)
    assert (bare.returncode, bare.stdout.rstrip(), bare.stderr) == (2, helped.stdout.rstrip(), "")
    version = momentum("--version", home=tmp_path).stdout
    assert re.fullmatch(
        rf"momentum {re.escape(__version__)} \(Python 3\S+, sqlalchemy \S+, alembic \S+, psycopg \S+\)\n", version
    )


def test_a_shell_completes_commands(tmp_path: Path) -> None:
    asked = {"_MOMENTUM_COMPLETE": "complete_bash", "COMP_WORDS": "momentum up", "COMP_CWORD": "1"}
    done = momentum(home=tmp_path, url=None, **asked)
    assert (done.returncode, done.stdout.strip()) == (0, "upgrade")


def test_the_errors_of_a_backfill_are_objects_where_its_log_is(supabase_url: sa.URL, tmp_path: Path) -> None:
    done = momentum("backfill", "--log-format", "json", home=tmp_path, url=supabase_url)
    assert done.returncode == 3
    assert json.loads(done.stderr.splitlines()[-1])["level"] == "error"
