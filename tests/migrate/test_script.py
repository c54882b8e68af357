"""The SQL of `alembic --sql`, run through psql, does what the migrations do themselves."""

import io
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.migrate.config import SCORES, alembic_config
from momentum.testing import Server
from tests.alembic_program import error_of, program
from tests.catalog import snapshot
from tests.migrating import (
    COPY,
    HISTORY,
    SCORES_ADOPTED,
    current,
    database_with_scores,
    fetch,
    migrate_to,
    rows_of,
    run,
    visible,
)
from tests.samples import add_user, read_rows, write_rows
from tests.server import engine_of, find_program

HEAD = HISTORY[-1]
RECORDED = "select (s.*)::text from momentum_internal.score_table as s"


def script(direction: str, revisions: str, **options: Any) -> str:
    """Return the SQL that `alembic upgrade` or `alembic downgrade` writes with --sql and options of ``-x``."""
    config = alembic_config("postgresql://unused@localhost/unused", **options)
    config.output_buffer = io.StringIO()
    getattr(alembic.command, direction)(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def psql(url: sa.URL, sql: str) -> subprocess.CompletedProcess[str]:
    conninfo = as_text(url)
    arguments = [find_program("psql"), "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-f", "-", conninfo]
    environ = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(arguments, input=sql, capture_output=True, text=True, check=False, env=environ)


def apply(url: sa.URL, direction: str, revisions: str, **options: Any) -> None:
    done = psql(url, script(direction, revisions, **options))
    assert done.returncode == 0, done.stderr
    assert "ERROR" not in done.stderr


def up(url: sa.URL, **options: Any) -> None:
    apply(url, "upgrade", "head", **options)


def down(url: sa.URL, **options: Any) -> None:
    apply(url, "downgrade", "head:base", **options)


def up_online(url: sa.URL) -> None:
    migrate_to(url, HEAD)


def down_online(url: sa.URL) -> None:
    migrate_to(url, "base")


@pytest.mark.slow
@pytest.mark.parametrize("scores", SCORES)
def test_up_down_and_up_through_psql_keep_every_row_and_come_to_the_same_schema(server: Server, scores: str) -> None:
    url = database_with_scores(server, scores)
    online = database_with_scores(server, scores)
    try:
        migrate_to(online, HEAD)
        up(url, scores=scores)
        assert current(url) == HEAD
        assert snapshot(url) == snapshot(online)
        assert fetch(url, RECORDED) == fetch(online, RECORDED)
        with engine_of(url).begin() as connection:
            write_rows(connection, add_user(connection), 0)
            written = read_rows(connection)
        assert all(written.values())

        down(url, scores=scores)
        migrate_to(online, "base")
        # Alembic drops its empty table at the end of such a script; online it stays.
        without_version = [fact for fact in snapshot(online) if "alembic_version" not in fact]
        assert [fact for fact in snapshot(url) if "alembic_version" not in fact] == without_version
        up(url, scores=scores)
        migrate_to(online, HEAD)
        assert snapshot(url) == snapshot(online)
        with engine_of(url).connect() as connection:
            assert read_rows(connection) == written
    finally:
        server.drop_database(url)
        server.drop_database(online)


@pytest.mark.parametrize("scores", ["legacy.seed", "public.seed"])
def test_duplicate_days_move_away_and_come_back_through_psql(server: Server, scores: str) -> None:
    url = database_with_scores(server, scores)
    relation = f"{scores.partition('.')[0]}.daily_engagement_scores"
    try:
        run(
            url,
            f"""
            insert into auth.users (id) select gen_random_uuid() from generate_series(1, 600);
            insert into {relation} (user_id, score_ts, score, note)
            select id, timestamptz '2024-03-01 12:00+00' - n * interval '1 h', n * 7, n
            from auth.users, generate_series(0, 2) as n;
            """,
        )
        rows = rows_of(url)
        for _ in range(2):
            up(url, scores=scores)
            assert fetch(url, f"select distinct note from {relation}") == ["0"]
            assert fetch(url, "select count(*) from momentum_internal.superseded_scores") == [1200]
            down(url, scores=scores)
            assert rows_of(url)["daily_engagement_scores"] == rows["daily_engagement_scores"]
        up(url, scores=scores)
        down_online(url)
        assert rows_of(url)["daily_engagement_scores"] == rows["daily_engagement_scores"]
        up_online(url)
        assert fetch(url, f"select count(*) from {relation}") == [600]
    finally:
        server.drop_database(url)


def test_production_without_its_unique_index_is_told_how_to_make_one(server: Server) -> None:
    """A script can't decide whether to make an index, because CONCURRENTLY can't be part of a condition."""
    url = database_with_scores(server, "public.production")
    online = database_with_scores(server, "public.production")
    try:
        definition = fetch(url, "select pg_get_indexdef('public.idx_daily_scores_user_date'::regclass)")[0]
        run(url, "drop index public.idx_daily_scores_user_date")
        done = psql(url, script("upgrade", "head", scores="public.production"))
        assert done.returncode == 3
        assert "create unique index concurrently idx_daily_scores_user_date" in done.stderr
        assert current(url) == SCORES_ADOPTED
        run(url, definition)
        apply(url, "upgrade", f"{SCORES_ADOPTED}:head", scores="public.production")
        migrate_to(online, HEAD)
        assert snapshot(url) == snapshot(online)
        assert fetch(url, RECORDED) == fetch(online, RECORDED)
    finally:
        server.drop_database(url)
        server.drop_database(online)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("there", "said"),
    [(there, said) for there in SCORES for said in SCORES if there != said],
)
def test_a_script_for_other_scores_than_there_are_is_refused(server: Server, there: str, said: str) -> None:
    url = database_with_scores(server, there)
    try:
        before = visible(snapshot(url, of="daily_engagement_scores"))
        done = psql(url, script("upgrade", "head", scores=said))
        assert done.returncode == 3, f"a script for {said} went through where {there} is"
        assert f"-x scores={said}" in done.stderr
        assert f"-x scores={there}" in done.stderr
        assert visible(snapshot(url, of="daily_engagement_scores")) == before
    finally:
        server.drop_database(url)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("there", "said"),
    [("fresh", "legacy.seed"), ("legacy.seed", "fresh"), ("public.seed", "public.production")],
)
def test_a_script_for_the_way_back_from_other_scores_is_refused(server: Server, there: str, said: str) -> None:
    url = database_with_scores(server, there)
    try:
        up_online(url)
        before, rows = snapshot(url, of="daily_engagement_scores"), rows_of(url)
        done = psql(url, script("downgrade", "head:base", scores=said))
        assert done.returncode == 3, f"a script for {said} went through where {there} is"
        assert f"-x scores={said}" in done.stderr
        assert f"-x scores={there}" in done.stderr
        down_online(url)
        up_online(url)
        assert (snapshot(url, of="daily_engagement_scores"), rows_of(url)) == (before, rows)
    finally:
        server.drop_database(url)


@pytest.mark.slow
def test_the_apps_own_tables_are_adopted_through_psql(server: Server) -> None:
    url = database_with_scores(server, "public.production", predecessors=True)
    online = database_with_scores(server, "public.production", predecessors=True)
    options = {"scores": "public.production", "existing": "adopt", "access": "close"}
    try:
        run(
            url,
            """
            insert into auth.users (id) select gen_random_uuid() from generate_series(1, 700);
            insert into public.habit_index (user_id, index_date, habit_score)
            select id, '2024-03-01', 7 from auth.users;
            insert into public.momentum_events (event_type) values ('of nobody');
            """,
        )
        before, rows = visible(snapshot(url)), rows_of(url)
        migrate_to(online, HEAD, existing="adopt", access="close")
        for _ in range(2):
            up(url, **options)
            assert snapshot(url) == snapshot(online)
            assert fetch(url, "select count(*) from public.habit_index") == [700]
            assert fetch(url, "select count(*) from public.momentum_events") == [0]
            down(url, **options)
            assert visible(snapshot(url)) == before
            assert rows_of(url) == rows
        refused = psql(url, script("upgrade", "head", scores="public.production"))
        assert refused.returncode == 3
        assert "momentum_pillars" in refused.stderr
    finally:
        server.drop_database(url)
        server.drop_database(online)


def test_scores_that_are_unknown_are_refused(tmp_path: Path) -> None:
    done = program("-x", "scores=public", "upgrade", "head", "--sql", home=tmp_path)
    message = error_of(done, 2)
    assert [scores for scores in SCORES if scores not in message] == []


def test_a_script_is_for_a_fresh_table_unless_it_is_told() -> None:
    assert script("upgrade", "head") == script("upgrade", "head", scores="fresh")


@pytest.mark.slow
@pytest.mark.parametrize(
    "journey",
    [
        [up_online, down_online, up],
        [up, down, up_online],
        [up, down_online, up],
        [up_online, down, up_online, down, up],
    ],
    ids=lambda journey: " ".join(step.__name__ for step in journey),
)
def test_online_and_offline_take_turns(
    supabase_url: sa.URL, url: sa.URL, journey: list[Callable[[sa.URL], None]]
) -> None:
    for step in journey:
        step(supabase_url)
    assert current(supabase_url) == HEAD
    assert snapshot(supabase_url) == snapshot(url)


def test_ranges_add_up_to_the_whole(supabase_url: sa.URL, url: sa.URL) -> None:
    middle = HISTORY[3]
    apply(supabase_url, "upgrade", f"base:{middle}")
    assert current(supabase_url) == middle
    apply(supabase_url, "upgrade", f"{middle}:head")
    assert snapshot(supabase_url) == snapshot(url)
    apply(supabase_url, "downgrade", f"head:{middle}")
    assert current(supabase_url) == middle
    apply(supabase_url, "downgrade", f"{middle}:base")
    assert current(supabase_url) == "base"


@pytest.mark.parametrize(
    ("at", "direction", "revisions", "said"),
    [
        ("head", "upgrade", "head", f"needs a database at revision base, and this one is at {HEAD}"),
        (HISTORY[2], "upgrade", "head", f"needs a database at revision base, and this one is at {HISTORY[2]}"),
        (HISTORY[2], "upgrade", f"{HISTORY[3]}:head", f"needs a database at revision {HISTORY[3]}, and this one is at"),
        ("base", "upgrade", f"{HISTORY[3]}:head", "and this one is at base"),
        ("base", "downgrade", "head:base", f"needs a database at revision {HEAD}, and this one is at base"),
        (HISTORY[2], "downgrade", "head:base", f"needs a database at revision {HEAD}, and this one is at {HISTORY[2]}"),
    ],
)
def test_a_database_at_another_revision_is_refused_and_left_alone(
    supabase_url: sa.URL, at: str, direction: str, revisions: str, said: str
) -> None:
    migrate_to(supabase_url, HEAD if at == "head" else at)
    before = snapshot(supabase_url)
    done = psql(supabase_url, script(direction, revisions))
    assert done.returncode == 3
    assert said in done.stderr
    assert snapshot(supabase_url) == before
    # A psql that goes on after an error, as it does by default, changes nothing either.
    psql(supabase_url, "\\unset ON_ERROR_STOP\n" + script(direction, revisions))
    assert snapshot(supabase_url) == before


RELATIONS = "select oid from pg_class where relname !~ '^pg_' order by oid"
CARELESS = "\\unset ON_ERROR_STOP\n"


@pytest.mark.parametrize("scores", ["legacy.seed", "public.production"])
@pytest.mark.parametrize(
    ("at", "direction", "revisions"), [("head", "upgrade", "head"), ("base", "downgrade", "head:base")]
)
def test_a_refused_script_changes_no_adopted_table_even_if_psql_goes_on(
    server: Server, scores: str, at: str, direction: str, revisions: str
) -> None:
    url = database_with_scores(server, scores)
    try:
        with engine_of(url).begin() as connection:
            write_rows(connection, add_user(connection), 0)
        migrate_to(url, HEAD)
        migrate_to(url, at if at == "base" else HEAD)
        before, rows, relations = snapshot(url), rows_of(url), fetch(url, RELATIONS)
        psql(url, CARELESS + script(direction, revisions, scores=scores))
        assert snapshot(url) == before
        assert rows_of(url) == rows
        assert fetch(url, RELATIONS) == relations, "something was dropped and made again"
    finally:
        server.drop_database(url)


def test_a_script_that_fails_on_its_way_does_nothing_more_even_if_psql_goes_on(server: Server) -> None:
    url = database_with_scores(server, "legacy.seed")
    try:
        run(
            server.as_admin(url),
            """
            create function public.forbid() returns event_trigger language plpgsql as $$
            begin
              if exists (select from pg_event_trigger_ddl_commands() where object_identity ~ 'superseded_scores$') then
                raise exception 'not now';
              end if;
            end $$;
            create event trigger forbid on ddl_command_end execute function public.forbid();
            """,
        )
        psql(url, CARELESS + script("upgrade", "head", scores="legacy.seed"))
        assert current(url) == COPY
        assert not snapshot(url, of="uq_daily_engagement_scores_user_id_utc_day")
        run(server.as_admin(url), "drop event trigger forbid")
        apply(url, "upgrade", f"{COPY}:head", scores="legacy.seed")
        assert current(url) == HEAD
    finally:
        server.drop_database(url)


def test_without_a_preflight_a_script_still_says_what_it_cannot_adopt(server: Server) -> None:
    url = database_with_scores(server, "legacy.seed")
    try:
        with engine_of(url).begin() as connection:
            connection.execute(sa.text("alter table legacy.daily_engagement_scores drop column score"))
        done = psql(url, script("upgrade", "head"))
        assert done.returncode == 3
        assert "has neither the columns user_id, score_ts, score and pillar_breakdown" in done.stderr
        assert current(url) == HISTORY[4], "the revisions before stand, and nothing of the failed one"
    finally:
        server.drop_database(url)


# What a script sets for its session, and for each of its transactions, or each statement outside of one.
SESSION = [
    "set search_path = pg_catalog, pg_temp;",
    "set quote_all_identifiers = 'off';",
    "set standard_conforming_strings = 'on';",
    "set transform_null_equals = 'off';",
    "set array_nulls = 'on';",
    "set DateStyle = 'ISO, MDY';",
    "set IntervalStyle = 'postgres';",
    "set TimeZone = 'UTC';",
    "set extra_float_digits = '1';",
    "set bytea_output = 'hex';",
    "set default_table_access_method = 'heap';",
    "set lock_timeout = '2s';",
    "set statement_timeout = '1min';",
]
LIMITED = ["set local lock_timeout = '2s';", "set local statement_timeout = '1min';"]
UNLIMITED = ["set lock_timeout = '300000ms';", "set statement_timeout = '0';", "reset default_transaction_read_only;"]


@pytest.mark.parametrize(
    ("direction", "revisions", "options", "outside"),
    [
        ("upgrade", "head", {}, False),
        ("downgrade", "head:base", {}, False),
        ("upgrade", f"{HISTORY[1]}:{HISTORY[3]}", {}, False),
        ("upgrade", "head", {"scores": "legacy.seed"}, True),
        ("downgrade", "head:base", {"scores": "legacy.seed"}, True),
        ("upgrade", "head", {"scores": "public.production", "existing": "adopt", "access": "keep"}, True),
    ],
)
def test_a_script_sets_what_its_sql_means_and_how_long_it_may_take_and_takes_that_back(
    direction: str, revisions: str, options: dict[str, str], outside: bool
) -> None:
    lines = script(direction, revisions, **options).splitlines()
    settings = [line for line in lines if re.fullmatch(r"(set|reset) .*;|BEGIN;", line)]
    assert settings[: len(SESSION)] == SESSION
    assert lines[0] == SESSION[0], "nothing comes before it"
    names = {line.split()[1] for line in SESSION}
    assert {line.split()[1].rstrip(";") for line in settings[-len(SESSION) :]} == names
    text = "\n".join(settings[len(SESSION) : -len(SESSION)])
    for what, short in ((["BEGIN;", *LIMITED], "transaction"), (UNLIMITED, "outside")):
        text = text.replace("\n".join(what), short)
    steps = text.split()
    assert set(steps) <= {"transaction", "outside"}
    assert ("outside" in steps) == outside
    assert steps[-1] == steps[0] == "transaction", "what is outside is between two of them"


def test_a_script_needs_no_database(tmp_path: Path) -> None:
    sql = script("upgrade", "head")
    (tmp_path / "up.sql").write_text(sql, encoding="utf-8")
    assert sql.count("BEGIN;") == sql.count("COMMIT;") == len(HISTORY) - 1, "each revision is a transaction of its own"


PLANTED = """
create schema momentum_internal authorization {planter};
create schema planted authorization {planter};
set role {planter};
grant usage on schema momentum_internal, planted to public;
create table planted.rights (of name);
grant insert on planted.rights to public;
create function planted.borrow() returns text language plpgsql as
  $$ begin insert into planted.rights values (current_user); return null; end $$;
create view momentum_internal.alembic_version as select planted.borrow()::varchar(32) as version_num;
grant select on momentum_internal.alembic_version to public;
"""


@pytest.mark.parametrize("stops", [True, False], ids=["psql stops", "psql goes on"])
def test_a_script_runs_nothing_that_somebody_has_planted(server: Server, supabase_url: sa.URL, stops: bool) -> None:
    """Not even a psql that goes on after an error reads the version from what may be a view."""
    planter = f"{supabase_url.database}_planter"
    admin_url = server.as_admin(supabase_url)
    run(admin_url, f"create role {planter}; {PLANTED.format(planter=planter)}")
    before = snapshot(supabase_url)
    sql = script("upgrade", "head")
    done = psql(supabase_url, sql if stops else f"\\set ON_ERROR_STOP off\n{sql}")
    assert f"ERROR:  The schema momentum_internal belongs to {planter}, and you are {supabase_url.username}; " in (
        done.stderr
    )
    assert snapshot(supabase_url) == before
    assert fetch(admin_url, "select of from planted.rights") == []
    run(admin_url, f"drop owned by {planter} cascade; drop role {planter}")


def test_a_script_takes_no_score_table_of_somebody_else(server: Server) -> None:
    url = database_with_scores(server, "public.production")
    run(server.as_admin(url), "alter table public.daily_engagement_scores owner to authenticated")
    done = psql(url, script("upgrade", "head", scores="public.production"))
    assert "The table public.daily_engagement_scores belongs to authenticated, and you are " in done.stderr
    assert current(url) == "base"
    server.drop_database(url)
