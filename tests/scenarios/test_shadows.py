"""Nobody borrows our rights: nothing of what a role with CREATE on public plants there is run by us."""

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.migrate.config import alembic_config
from momentum.testing import Server
from tests import processes
from tests.backfilling import Scores, backfill, with_password
from tests.migrate.test_script import psql as run_psql
from tests.migrate.test_script import script
from tests.migrating import HISTORY, ONE_OF_EACH, current, database_with_scores, execute, fetch, run
from tests.samples import add_users
from tests.scenarios.test_citus import DISTRIBUTE, STAND_IN, UNDISTRIBUTE, psql
from tests.server import engine_of
from tests.shadows import count_shadows, plant, that_ran
from tools.supabase_sql import export

# The path that a role has by default, and one that puts the shadows before the server's own.
PATHS = ('"$user", public, extensions', "public, pg_catalog")
DAYS = ("--from", "2026-03-01", "--to", "2026-03-03")


# Rows to move aside, and rows to copy, by the statements that commit page by page.
DUPLICATES = """
insert into legacy.daily_engagement_scores (user_id, score_ts, score)
select id, timestamptz '2024-03-01 12:00+00' - n * interval '1 h', n from auth.users, generate_series(0, 2) as n
"""
APP_ROWS = "insert into public.momentum_events (event_type) values ('of nobody')"


@dataclass
class Planted:
    """A database in which everything is planted that could be called in place of the server's own."""

    server: Server
    url: sa.URL

    def check(self) -> None:
        """Assert that nothing of it ran."""
        assert not that_ran(self.server, self.url), "a shadow was run"


@contextmanager
def planted(server: Server, layout: str, path: str, *, predecessors: bool = False) -> Iterator[Planted]:
    """Yield a database that isn't migrated, with users and a score table of a layout, whose sessions have a path."""
    url = database_with_scores(server, layout, predecessors=predecessors)
    add_users(engine_of(url), 3, created_at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    if layout == "legacy.seed":
        run(url, DUPLICATES)
    if predecessors:
        run(url, APP_ROWS)
    if layout != "fresh":
        # The app's own triggers call what they find, with the rights of whoever inserts a row.
        run(url, f"alter table {layout.partition('.')[0]}.daily_engagement_scores disable trigger user")
    plant(server, url)
    assert count_shadows(server, url) > 10_000
    set_path(url, path)
    try:
        yield Planted(server, url)
    finally:
        server.drop_database(url)


def set_path(url: sa.URL, path: str) -> None:
    """Set the search path of later sessions of our role."""
    run(url, f'alter role current_user in database "{url.database}" set search_path = {path}')
    assert execute(url, "show search_path") == path


def fill(url: sa.URL, *options: str) -> None:
    done = backfill(*options, url=url)
    assert done.returncode == 0, done.stderr
    assert "shadow" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", ONE_OF_EACH)
def test_nothing_planted_runs_from_the_first_upgrade_to_the_purge(
    server: Server, layout: str, path: str, tmp_path: Path
) -> None:
    with planted(server, layout, path, predecessors=layout == "fresh") as database:
        url = database.url
        alembic.command.upgrade(alembic_config(url, existing="adopt", access="keep"), "head")
        alembic.command.current(alembic_config(url))
        database.check()
        one = execute(url, "select id from auth.users limit 1")
        fill(url, *DAYS, "--dry-run")
        fill(url, *DAYS, "--user", str(one), "--active-within", "400")
        fill(url, *DAYS, "--manifest", str(tmp_path / "manifest"), "--workers", "2", "--report", str(tmp_path / "page"))
        database.check()
        fill(url, "--undo", str(tmp_path / "manifest"), "--dry-run")
        fill(url, "--undo", str(tmp_path / "manifest"))
        fill(url, *DAYS)
        database.check()
        done = processes.run("momentum.verify", env={"MOMENTUM_DATABASE_URL": with_password(url)})
        assert done.returncode == 0, done.stdout + done.stderr
        database.check()
        alembic.command.downgrade(alembic_config(url, purge=True), "base")
        assert current(server.as_admin(url)) == "base"
        database.check()


# Each kind of trigger, a default and a check of an adopted table, none of which names the schema of what it uses.
RELYING = """
create schema app;
create table app.seen (by_whom text, path text, schema text);
create function app.note(whom text) returns boolean language plpgsql as $$ begin
  insert into seen values (whom, current_setting('search_path'), current_schema());
  return true;
end $$;
create function app.note() returns trigger language plpgsql as $$ begin
  perform note(format('%s %s %s', tg_name, tg_when, tg_level));
  return case tg_op when 'DELETE' then old else new end;
end $$;
grant usage on schema app to public;
grant all on app.seen to public;
alter table {relation} add checked text default app.note('default'), add check (app.note('check'));
truncate app.seen;
create trigger a before insert or delete on {relation} for each statement execute function app.note();
create trigger b before insert or delete on {relation} for each row execute function app.note();
create trigger c after insert or delete on {relation} for each row execute function app.note();
create trigger d after insert or delete on {relation} for each statement execute function app.note();
create constraint trigger e after insert or delete on {relation} deferrable initially deferred
  for each row execute function app.note();
"""


def test_what_belongs_to_an_adopted_table_runs_under_the_path_of_the_session(scores: Scores, tmp_path: Path) -> None:
    users = add_users(scores.engine, 3, created_at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    run(scores.url, RELYING.replace("{relation}", scores.relation))
    set_path(scores.url, "app, public")
    # A page of each user, so that one page follows another in a transaction.
    options = ("--page-size", "3", "--commit-every", "9")
    fill(scores.url, *DAYS, *options, "--manifest", str(tmp_path / "manifest"))
    assert scores.count() == 3 * len(users)
    rows, pages = 3 * len(users), len(users)
    seen = "select format('%s %s', count(*), by_whom) from app.seen group by by_whom order by by_whom"
    by_triggers = [
        f"{pages} a BEFORE STATEMENT",
        f"{rows} b BEFORE ROW",
        f"{rows} c AFTER ROW",
        f"{pages} d AFTER STATEMENT",
        f"{rows} e AFTER ROW",
    ]
    assert sorted(fetch(scores.url, seen)) == sorted([*by_triggers, f"{rows} check", f"{rows} default"])
    assert fetch(scores.url, "select distinct path || ' ' || schema from app.seen") == ["app, public app"]
    run(scores.url, "truncate app.seen")
    fill(scores.url, "--undo", str(tmp_path / "manifest"), *options)
    assert scores.count() == 0
    assert sorted(fetch(scores.url, seen)) == sorted(by_triggers)
    assert fetch(scores.url, "select distinct path || ' ' || schema from app.seen") == ["app, public app"]


def upgrade_by_script(url: sa.URL) -> None:
    """Run the script that Alembic writes for psql."""
    done = run_psql(url, script("upgrade", "head"))
    assert done.returncode == 0, done.stderr


def upgrade_by_supabase(url: sa.URL) -> None:
    """Run the files that the Supabase CLI executes, each in one transaction."""
    for text in export().values():
        run(url, text)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("upgrade", [upgrade_by_script, upgrade_by_supabase])
def test_nothing_planted_runs_in_a_script(server: Server, upgrade: Callable[[sa.URL], None], path: str) -> None:
    with planted(server, "fresh", path) as database:
        upgrade(database.url)
        assert current(server.as_admin(database.url)) == HISTORY[-1]
        database.check()
        if upgrade is upgrade_by_script:
            done = run_psql(database.url, script("downgrade", f"{HISTORY[-1]}:base"))
            assert done.returncode == 0, done.stderr
            assert current(server.as_admin(database.url)) == "base"
            database.check()


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_nothing_planted_runs_on_the_way_to_citus_and_back(server: Server, path: str) -> None:
    with planted(server, "fresh", '"$user", public') as database:
        admin = server.as_admin(database.url)
        alembic.command.upgrade(alembic_config(database.url), "head")
        run(admin, STAND_IN)
        # The scripts are for whoever owns the cluster.
        run(admin, f'alter role current_user in database "{admin.database}" set search_path = {path}')
        for each in (DISTRIBUTE, UNDISTRIBUTE):
            done = psql(admin, each)
            assert done.returncode == 0, done.stderr
        database.check()
