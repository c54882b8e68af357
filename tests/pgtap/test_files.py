"""The rules of the pgTAP files, which pytest, pg_prove and ``supabase test db`` run as they are."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict

from momentum.connect.url import as_text
from momentum.migrate.config import SCORES
from momentum.testing import Server, install_pgtap
from momentum.testing.servers import knock
from tests.migrating import HISTORY, database_with_scores, execute, migrate_to, run
from tests.pgtap.scripts import read_scripts, run_script, tap_lines
from tests.server import engine_of, find_program
from tests.supabase_cli import ROOT, supabase
from tools.pgtap_sql import FOLDER

FILES = sorted(FOLDER.glob("*.sql"))


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def script(request: pytest.FixtureRequest) -> str:
    """The text of each file in turn."""
    path: Path = request.param
    return path.read_text(encoding="utf-8")


def test_file_names_begin_with_test() -> None:
    others = [path.name for path in FILES if not path.name.startswith("test_")]
    assert not others, f"No runner would find {others}."


def test_file_runs_in_one_transaction_which_it_rolls_back(script: str) -> None:
    statements = [line for line in script.splitlines() if line and not line.startswith("--")]
    first, second = script.split(";", 2)[:2]
    assert first.endswith("begin"), "A file begins a transaction before anything else."
    assert re.search(r"^(select|    else) plan\([0-9]+\)(\n  end)?$", second, re.MULTILINE), (
        "A file plans how many assertions it makes."
    )
    *_, finish, rollback = statements
    assert rollback == "rollback;", "A file leaves nothing behind."
    if finish == "select * from pg_temp.tests();":
        finish = statements[-5].removeprefix("return query ")
    assert finish == "select * from finish();", "A file compares what it has done with its plan."
    assert not re.search(r"^\s*commit\b", script, re.MULTILINE), "A file leaves nothing behind."


def test_file_is_sql_for_every_client(script: str) -> None:
    assert not re.search(r"^\s*\\", script, re.MULTILINE), "Only psql knows its own commands."
    assert "search_path =" not in script, "Each runner has a search path of its own, with pgTAP in another schema."


def test_descriptions_stand_inside_the_parentheses(script: str) -> None:
    # "select ok(...), 'text'" would be an assertion without a name.
    assert not re.search(r"^\)\s*,", script, re.MULTILINE), "An assertion's description is its last argument."
    assert not re.search(r"^select [a-z_]+\(.*\),\s*'", script, re.MULTILINE)


def pg_prove(url: sa.URL, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # pg_prove passes a URL on without its query, which may have the directory of the server's socket.
    where = {f"PG{name.upper()}": str(value) for name, value in conninfo_to_dict(as_text(url)).items() if value}
    where["PGDATABASE"] = where.pop("PGDBNAME")
    return subprocess.run(
        ["pg_prove", "--psql-bin", find_program("psql"), *arguments],
        env={**os.environ, **where, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )


# As people type it, and as the container of `supabase test db sql/pgtap` does it.
WAYS: dict[str, list[str | Path]] = {"files": [*FILES], "folder": ["--ext", ".pg", "--ext", ".sql", "-r", FOLDER]}


needs_pg_prove = pytest.mark.skipif(
    shutil.which("pg_prove") is None,
    reason="the pgTAP files were not run under pg_prove: it is not installed (libtap-parser-sourcehandler-pgtap-perl)",
)


@pytest.mark.slow
@needs_pg_prove
@pytest.mark.parametrize("way", WAYS)
def test_pg_prove_runs_the_files_unchanged(url: sa.URL, way: str) -> None:
    with engine_of(url).begin() as connection:
        install_pgtap(connection, ROOT)
    done = pg_prove(url, *WAYS[way])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Files={len(FILES)}, Tests={planned()}," in done.stdout
    assert done.stdout.endswith("Result: PASS\n")
    run(url, "alter table public.habit_index disable row level security")
    done = pg_prove(url, *WAYS[way])
    assert done.returncode == 1
    assert re.findall(r"(\w+)\.sql +\(Wstat: 0.* Failed: \d+\)", done.stdout) == [
        "test_habit_index",
        "test_habit_index_catalog",
    ]


# The files about the table that the migrations create, and about the view over it.
OF_THE_CREATED = ("daily_engagement_scores", "daily_momentum_scores")
ADOPTED = [scores for scores in SCORES if scores != "fresh"]
SKIPPED = "the score table was adopted: python -m momentum.verify compares it"


@contextmanager
def adopted(server: Server, scores: str) -> Iterator[sa.URL]:
    """Yield the URL of a database with an adopted score table and pgTAP."""
    url = database_with_scores(server, scores)
    try:
        migrate_to(url, HISTORY[-1])
        with engine_of(url).begin() as connection:
            install_pgtap(connection, ROOT)
        yield url
    finally:
        server.drop_database(url)


@pytest.mark.parametrize("scores", ADOPTED)
def test_files_about_the_created_table_skip_an_adopted_one_in_their_plan(server: Server, scores: str) -> None:
    with adopted(server, scores) as url, psycopg.connect(as_text(url)) as connection:
        for name, scripts in read_scripts().items():
            # A relation's last file is about its behaviour.
            for number, script in enumerate(scripts, 1 - len(scripts)):
                lines = tap_lines(connection, script)
                connection.rollback()
                if name in OF_THE_CREATED and number == 0:
                    assert lines == [f"1..0 # SKIP {SKIPPED}"]
                else:
                    assert re.fullmatch(r"1\.\.[1-9]\d*", lines[0]), f"{name} is about the rest: {lines}"
                    assert all(line.startswith("ok ") for line in lines[1:]), lines


def test_a_record_that_calls_our_table_adopted_is_noticed(url: sa.URL) -> None:
    with engine_of(url).begin() as connection:
        install_pgtap(connection, ROOT)
    run(url, "update momentum_internal.score_table set created_table = false")
    with psycopg.connect(as_text(url)) as connection:
        [script] = read_scripts()["momentum_internal"]
        assert run_script(connection, script), "else the files about it would be skipped, and nothing would be said"


@pytest.mark.slow
@needs_pg_prove
def test_pg_prove_gives_the_reason_for_a_skipped_file(server: Server) -> None:
    with adopted(server, "public.production") as url:
        done = pg_prove(url, *FILES)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in OF_THE_CREATED:
        assert re.search(rf"test_{name}\.sql \.+ skipped: {SKIPPED}\n", done.stdout), done.stdout
    assert done.stdout.endswith("Result: PASS\n")


def planned() -> int:
    """Return the number of assertions that the files plan in all."""
    return sum(int(re.findall(r" plan\((\d+)\)", path.read_text(encoding="utf-8"))[0]) for path in FILES)


def test_the_supabase_cli_runs_the_files_unchanged(url: sa.URL) -> None:
    """`supabase test db` brings pg_prove in a container, and takes pgTAP from the server."""
    try:
        knock(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    except OSError:
        pytest.skip("the pgTAP files were not run with `supabase test db`: there is no Docker")
    if not url.host or not execute(url, "select count(*) from pg_available_extensions where name = 'pgtap'"):
        pytest.skip("the pgTAP files were not run with `supabase test db`: the server has no host or no pgTAP for it")
    # As on Supabase.
    run(url, f'alter role current_user in database "{url.database}" set search_path = "$user", public, extensions')
    done = supabase("test", "db", str(FOLDER), url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Files={len(FILES)}, Tests={planned()}," in done.stdout
