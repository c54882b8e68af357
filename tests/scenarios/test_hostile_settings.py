"""Settings of a role that change what SQL means, or how the server writes it, make no difference."""

from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.connect.settings import CORRECTED, PINNED, change_settings, read_settings
from momentum.migrate import operations
from momentum.migrate.config import alembic_config
from momentum.migrate.run import settings_of_caller
from momentum.testing import Server
from tests import processes
from tests.backfilling import DAY, Scores, backfill, with_password
from tests.catalog import snapshot
from tests.migrate.test_script import psql, script
from tests.migrating import HISTORY, ONE_OF_EACH, current, database_with_scores, fetch, migrate_to, run
from tests.samples import add_users
from tests.server import engine_of

HOSTILE = {
    "search_path": "public, pg_catalog",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Pacific/Kiritimati'",
    "extra_float_digits": "'-15'",
    "bytea_output": "escape",
    "xmloption": "document",
    "row_security": "off",
    "check_function_bodies": "off",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "plan_cache_mode": "force_generic_plan",
}


def be_hostile(url: sa.URL) -> None:
    """Set them all for later sessions of our role."""
    for name, value in HOSTILE.items():
        run(url, f'alter role current_user in database "{url.database}" set {name} = {value}')


def test_every_setting_that_is_pinned_is_tried() -> None:
    kept = {"default_table_access_method", "session_replication_role"}  # only one method, and only for a superuser
    named = {*PINNED, *(name for name, _, _ in CORRECTED)} - kept
    assert named <= HOSTILE.keys(), "give the new one a value that would change something"


@pytest.mark.slow
@pytest.mark.parametrize("layout", ONE_OF_EACH)
def test_the_migrations_make_the_same_under_hostile_settings(server: Server, layout: str, tmp_path: Path) -> None:
    url, calm = database_with_scores(server, layout), database_with_scores(server, layout)
    for each in (url, calm):
        add_users(engine_of(each), 3)
    migrate_to(calm, HISTORY[-1])
    be_hostile(url)
    alembic.command.upgrade(alembic_config(url), "head")
    assert snapshot(server.as_admin(url)) == snapshot(server.as_admin(calm))
    done = processes.run("momentum.verify", env={"MOMENTUM_DATABASE_URL": with_password(url)})
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = str(tmp_path / "manifest")
    for options in (("--dry-run",), ("--manifest", manifest), ("--undo", manifest)):
        range_of_days = () if "--undo" in options else ("--from", f"{DAY}", "--to", f"{DAY}")
        done = backfill(*range_of_days, *options, url=url)
        assert done.returncode == 0, done.stderr
    alembic.command.downgrade(alembic_config(url, purge=True), "base")
    assert current(server.as_admin(url)) == "base"
    for each in (url, calm):
        server.drop_database(each)


@pytest.mark.slow
def test_a_script_makes_the_same_under_hostile_settings(server: Server, supabase_url: sa.URL, url: sa.URL) -> None:
    be_hostile(supabase_url)
    done = psql(supabase_url, script("upgrade", "head"))
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert snapshot(server.as_admin(supabase_url)) == snapshot(server.as_admin(url))


@pytest.mark.parametrize(("given", "expected"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
def test_a_commit_that_is_confirmed_survives_a_crash(scores: Scores, given: str, expected: str) -> None:
    add_users(scores.engine)
    run(
        scores.url,
        f"""
        create table public.seen (setting text);
        grant all on public.seen to public;
        create function public.note() returns trigger language plpgsql as $$ begin
          insert into public.seen values (current_setting('synchronous_commit'));
          return new;
        end $$;
        create trigger note before insert on {scores.relation} for each row execute function public.note();
        """,
    )
    run(scores.url, f'alter role current_user in database "{scores.url.database}" set synchronous_commit = {given}')
    assert backfill("--from", f"{DAY}", "--to", f"{DAY}", url=scores.url).returncode == 0
    assert fetch(scores.url, "select distinct setting from public.seen") == [expected]


@pytest.mark.parametrize("how", ["online", "by a script", "behind a pooler"])
def test_keys_are_checked_where_a_session_begins_as_a_replica(
    server: Server, supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Only a superuser may begin so. Rows are copied outside of our transactions."""
    as_replica = server.as_admin(supabase_url).update_query_dict({"options": "-c session_replication_role=replica"})
    run(
        supabase_url,
        """
        create table public.motivation_journal (id uuid unique, user_id uuid, date date);
        insert into public.motivation_journal values (gen_random_uuid(), gen_random_uuid(), current_date);
        """,
    )
    if how == "by a script":
        done = psql(as_replica, script("upgrade", "head", existing="adopt", access="close"))
        assert done.returncode == 0, done.stderr
    else:
        if how == "behind a pooler":
            monkeypatch.setattr(operations, "keeps_session", lambda *_: False)
        migrate_to(as_replica, HISTORY[-1], existing="adopt", access="close")
    admin = server.as_admin(supabase_url)
    assert fetch(admin, "select count(*) from public.motivation_journal") == [0]
    assert fetch(admin, "select count(*) from momentum_internal.predecessor_rows where refused is not null") == [1]


def test_settings_of_a_transaction_that_is_handed_in_are_corrected_and_restored(
    server: Server, supabase_url: sa.URL
) -> None:
    with engine_of(server.as_admin(supabase_url)).begin() as connection:
        theirs = {"session_replication_role": "replica", "synchronous_commit": "off"}
        change_settings(connection, theirs)
        with settings_of_caller(connection):
            assert read_settings(connection, theirs) == {
                "session_replication_role": "origin",
                "synchronous_commit": "on",
            }
        assert read_settings(connection, theirs) == theirs
