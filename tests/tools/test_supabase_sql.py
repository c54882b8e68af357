"""`supabase db push` makes the same of supabase/migrations/ as `alembic upgrade head`, and nothing else."""

import re
import subprocess
from collections.abc import Callable

import alembic.command
import psycopg
import pytest
import sqlalchemy as sa
from alembic.script import Script

from momentum.migrate.config import SCORES, alembic_config
from momentum.testing import Server
from momentum.verify.compare import compare_database
from tests.catalog import dump, snapshot
from tests.migrating import HISTORY, REVISIONS, current, database_with_scores, fetch, migrate_to, rows_of, run
from tests.samples import PRODUCTION_SCORES
from tests.server import engine_of
from tests.supabase_cli import ROOT, supabase
from tools.supabase_sql import DIRECTORY, export, file_name

HEAD = HISTORY[-1]

# The CLI's own list of the files that it has pushed.
OURS = "--exclude-schema=supabase_migrations"


def push(url: sa.URL) -> subprocess.CompletedProcess[str]:
    return supabase("db", "push", "--yes", url=url)


def refusal_of(url: sa.URL, revision: Script) -> str:
    """Return the server's error for a revision's file, executed in one transaction, as the CLI does it."""
    with pytest.raises(psycopg.Error) as refused:
        run(url, export()[file_name(revision)])
    return str(refused.value)


def assert_pushed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr + done.stdout
    for revision in REVISIONS:
        assert f"Applying migration {file_name(revision)}" in done.stdout + done.stderr


def test_the_files_are_fresh() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in sorted(DIRECTORY.iterdir())}
    assert committed == export(), "supabase/migrations/ differs from the revisions: run `make supabase-sql`"


def test_the_files_are_in_the_order_of_the_history_and_short() -> None:
    files = export()
    assert list(files) == sorted(files), "the CLI applies them in the order of their names"
    assert len(files) == len(REVISIONS)
    for name, text in files.items():
        assert re.fullmatch(r"\d{14}_[a-z0-9_]+\.sql", name), f"the CLI skips a file with the name {name}"
        assert text.count("\n") < 300, f"{name} is too long to be read"
        assert "concurrently" not in text.lower(), f"{name} has a statement that no transaction would undo"


def test_files_with_the_line_ends_of_windows_make_the_same(supabase_url: sa.URL, url: sa.URL) -> None:
    for text in export().values():
        run(supabase_url, text.replace("\n", "\r\n"))
    body = "select prosrc from pg_catalog.pg_proc where pronamespace = 'momentum_internal'::regnamespace"
    assert all("\r\n" in source for source in fetch(supabase_url, body))
    with engine_of(supabase_url).connect() as connection:
        assert compare_database(connection).differences == []
    migrate_to(supabase_url, "base")
    migrate_to(supabase_url, HEAD)
    assert snapshot(supabase_url) == snapshot(url)


def test_files_are_checked_out_with_the_line_ends_that_the_server_is_to_get() -> None:
    names = subprocess.run(["git", "ls-files", "--eol", "."], cwd=ROOT, capture_output=True, text=True, check=False)
    if names.returncode:
        pytest.skip("this is no clone")
    for line in names.stdout.splitlines():
        kept, here, attributes = line.partition("\t")[0].split(maxsplit=2)
        assert attributes.strip() == "attr/text=auto eol=lf", line
        assert "crlf" not in kept + here, line


@pytest.mark.slow
def test_a_pushed_database_is_what_alembic_makes_and_alembic_goes_on_from_there(
    supabase_url: sa.URL, url: sa.URL
) -> None:
    before = snapshot(supabase_url)
    assert_pushed(push(supabase_url))
    assert current(supabase_url) == HEAD
    # With the rows of the private schema: the version, and the record of the score table.
    pushed = dump(supabase_url, OURS)
    assert HEAD in pushed
    assert pushed == dump(url)

    ran: list[object] = []
    config = alembic_config(supabase_url)
    config.attributes["on_version_apply"] = lambda **step: ran.append(step)
    alembic.command.upgrade(config, "head")
    alembic.command.check(config)
    assert ran == []
    assert dump(supabase_url, OURS) == pushed
    assert "up to date" in (again := push(supabase_url)).stdout + again.stderr

    migrate_to(supabase_url, "base")
    private = ("momentum_internal", "supabase_migrations")
    assert [fact for fact in snapshot(supabase_url) if not any(name in fact for name in private)] == before
    migrate_to(supabase_url, HEAD)
    assert snapshot(supabase_url, of="public.") == snapshot(url, of="public.")


def is_at(revision: str) -> Callable[[sa.URL], None]:
    return lambda url: migrate_to(url, revision)


def went_back(url: sa.URL) -> None:
    migrate_to(url, HEAD)
    run(url, "insert into public.momentum_pillars (name) values ('sleep')")
    migrate_to(url, "base")


def is_as_it_was(_: sa.URL) -> None:
    """Leave the database as the server has made it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "predecessors", "prepare", "said"),
    [
        *((scores, False, is_as_it_was, scores.partition(".")[0]) for scores in SCORES if scores != "fresh"),
        ("fresh", True, is_as_it_was, "public.momentum_pillars"),
        ("fresh", False, went_back, "momentum_internal.momentum_pillars"),
        ("fresh", False, is_at(HISTORY[1]), "momentum_internal.score_table"),
        ("fresh", False, is_at(HEAD), "public.momentum_pillars"),
    ],
    ids=[
        *(f"{scores} scores" for scores in SCORES if scores != "fresh"),
        "the app's own tables",
        "parked rows",
        "half of the way",
        "migrated",
    ],
)
def test_what_is_there_is_refused_and_left_alone(
    server: Server, scores: str, predecessors: bool, prepare: Callable[[sa.URL], None], said: str
) -> None:
    url = database_with_scores(server, scores, predecessors=predecessors)
    try:
        prepare(url)
        before, rows = snapshot(url), rows_of(url)
        refusal = refusal_of(url, REVISIONS[0])
        assert re.match(rf"already in this database: .*{re.escape(said)}.*; migrate it with alembic", refusal), refusal
        assert (snapshot(url), rows_of(url)) == (before, rows)
    finally:
        server.drop_database(url)


@pytest.mark.slow
def test_a_push_to_the_apps_production_says_so_and_changes_nothing(server: Server) -> None:
    url = database_with_scores(server, "public.production", predecessors=True)
    try:
        before = dump(url)
        done = push(url)
        assert done.returncode == 1
        assert "already in this database: public.daily_engagement_scores, public.daily_momentum_scores," in done.stderr
        assert dump(url, OURS) == before
    finally:
        server.drop_database(url)


def test_a_version_without_its_tables_is_refused(supabase_url: sa.URL) -> None:
    alembic.command.stamp(alembic_config(supabase_url), HEAD)
    assert f"Alembic has migrated this database to revision {HEAD}" in refusal_of(supabase_url, REVISIONS[0])
    assert current(supabase_url) == HEAD


def test_after_a_purge_a_database_is_new_again(supabase_url: sa.URL, url: sa.URL) -> None:
    migrate_to(supabase_url, HEAD)
    migrate_to(supabase_url, "base", purge="yes")
    for text in export().values():
        run(supabase_url, text)
    assert snapshot(supabase_url) == snapshot(url)


def test_what_came_in_between_two_pushes_is_left_alone(supabase_url: sa.URL) -> None:
    run(supabase_url, export()[file_name(REVISIONS[0])])
    assert current(supabase_url) == HISTORY[1]
    migrate_to(supabase_url, HISTORY[2])
    refusal = refusal_of(supabase_url, REVISIONS[1])
    assert f"needs a database at revision {HISTORY[1]}, and this one is at {HISTORY[2]}" in refusal
    migrate_to(supabase_url, HISTORY[1])
    before = snapshot(supabase_url)
    assert "momentum_pillars is parked in momentum_internal; alembic" in refusal_of(supabase_url, REVISIONS[1])
    assert snapshot(supabase_url) == before


@pytest.mark.parametrize(
    ("revision", "in_the_way", "said"),
    [
        (1, "create table public.momentum_events (id uuid)", 'relation "momentum_events" already exists'),
        (4, PRODUCTION_SCORES.format(schema="public"), "needs one made with -x scores=public.production"),
    ],
)
def test_what_was_made_in_between_two_pushes_has_no_empty_twin(
    supabase_url: sa.URL, revision: int, in_the_way: str, said: str
) -> None:
    for before in REVISIONS[:revision]:
        run(supabase_url, export()[file_name(before)])
    run(supabase_url, in_the_way)
    assert said in refusal_of(supabase_url, REVISIONS[revision])
    assert current(supabase_url) == HISTORY[revision]


def test_a_private_schema_that_somebody_has_planted_is_refused_and_nothing_in_it_runs(
    server: Server, supabase_url: sa.URL
) -> None:
    planter = f"{supabase_url.database}_planter"
    admin_url = server.as_admin(supabase_url)
    run(
        admin_url,
        f"""
        create role {planter};
        create schema momentum_internal authorization {planter};
        set role {planter};
        create view momentum_internal.alembic_version as select (1 / 0)::varchar(32) as version_num;
        grant usage on schema momentum_internal to public;
        grant select on momentum_internal.alembic_version to public;
        """,
    )
    said = f"The schema momentum_internal belongs to {planter}, and you are {supabase_url.username}; "
    assert said in refusal_of(supabase_url, REVISIONS[0])
    run(admin_url, f"drop owned by {planter} cascade; drop role {planter}")
