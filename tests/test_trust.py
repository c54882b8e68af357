"""Only what belongs to us, to the database's owner or to a superuser is believed: all else could borrow our rights."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.errors import ConfigurationError, MigrationError, MomentumError, PreflightError, VerificationError
from momentum.migrate.cli import purge
from momentum.migrate.config import alembic_config
from momentum.status import read_status
from momentum.testing import Server
from momentum.verify.compare import compare_database
from tests.backfilling import DAY, call, one_error_line, scores_in
from tests.catalog import snapshot
from tests.migrating import (
    HISTORY,
    WAITING_MIGRATION,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    run,
    wait_until,
)
from tests.samples import SCORE_TABLES, add_users
from tests.server import engine_of

HEAD = HISTORY[-1]


@pytest.fixture
def planter(server: Server) -> Iterator[str]:
    """A role that owns things. The role that migrates is a member of it, and may do whatever an owner may."""
    name = f"planter_{secrets.token_hex(4)}"
    run(server.admin_url, f"create role {name}; grant {name} to {server.url.username}")
    yield name
    run(server.admin_url, f"drop role {name}")


def leave(server: Server, url: sa.URL, planter: str) -> None:
    """Give what the role owns in a database to the one that migrates, so that the role can be dropped."""
    run(server.as_admin(url), f"reassign owned by {planter} to {url.username}; drop owned by {planter}")


def refusal(url: sa.URL, work: Callable[[], object], error: type[MomentumError]) -> str:
    """Return the sentence with which some work is refused, and assert that nothing has changed."""
    before = snapshot(url)
    with pytest.raises(error) as refused:
        work()
    assert snapshot(url) == before
    return str(refused.value)


def said(kind: str, name: str, planter: str, url: sa.URL) -> str:
    """Return the sentence that is expected."""
    return (
        f"The {kind} {name} belongs to {planter}, and you are {url.username}; what it runs would have your rights, so "
        "only what belongs to you, the database's owner or a superuser is used; connect as "
        f"{planter}, or let {planter} run `alter {kind} {name} owner to {url.username}`, then try again."
    )


# What is there before the first migration, and its name. All of it grants what a migration needs of it.
PLANTED = {
    "an empty private schema": ("", "schema", "momentum_internal"),
    "a private schema with a trigger function": (
        "create function momentum_internal.set_updated_at() returns trigger language plpgsql as "
        "$$ begin return new; end $$;",
        "schema",
        "momentum_internal",
    ),
    "a function in a private schema that is ours": (
        "alter schema momentum_internal owner to {role}; "
        "create function momentum_internal.set_updated_at() returns trigger language plpgsql as "
        "$$ begin return new; end $$; alter function momentum_internal.set_updated_at() owner to {planter};",
        "function",
        "momentum_internal.set_updated_at()",
    ),
    "a view in place of the version table": (
        "alter schema momentum_internal owner to {role}; create view momentum_internal.alembic_version as "
        "select current_user::varchar(32) as version_num; "
        "alter view momentum_internal.alembic_version owner to {planter};",
        "view",
        "momentum_internal.alembic_version",
    ),
    "a parked table": (
        "alter schema momentum_internal owner to {role}; create table momentum_internal.habit_index (); "
        "alter table momentum_internal.habit_index owner to {planter};",
        "table",
        "momentum_internal.habit_index",
    ),
    "a domain": (
        "alter schema momentum_internal owner to {role}; create domain momentum_internal.points as numeric; "
        "alter domain momentum_internal.points owner to {planter};",
        "domain",
        "momentum_internal.points",
    ),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_private_schema_that_somebody_has_planted_is_refused(
    server: Server, supabase_url: sa.URL, planter: str, case: str
) -> None:
    more, kind, name = PLANTED[case]
    run(
        server.as_admin(supabase_url),
        f"create schema momentum_internal authorization {planter};"
        + more.format(role=supabase_url.username, planter=planter),
    )
    expected = said(kind, name, planter, supabase_url)
    config = alembic_config(supabase_url)
    assert refusal(supabase_url, lambda: migrate_to_head(supabase_url), PreflightError) == expected
    assert refusal(supabase_url, lambda: alembic.command.stamp(config, HEAD), PreflightError) == expected
    assert refusal(supabase_url, lambda: alembic.command.current(config), PreflightError) == expected
    with engine_of(supabase_url).connect() as connection:
        config.attributes["connection"] = connection
        for work in (alembic.command.upgrade, alembic.command.stamp, alembic.command.current):
            connection.exec_driver_sql("select")
            handed_in = lambda work=work: work(config, *([] if work is alembic.command.current else [HEAD]))  # noqa: E731
            assert refusal(supabase_url, handed_in, PreflightError) == expected, "inside a transaction"
            connection.rollback()
    if kind in {"schema", "view"}:  # The others it neither reads nor calls, and their owners are facts.
        assert refusal(supabase_url, lambda: compare(supabase_url), ConfigurationError) == expected
    assert refusal(supabase_url, lambda: read_status(engine_of(supabase_url)), ConfigurationError) == expected
    done = call("--to", str(DAY), "--days", "1", url=supabase_url)
    assert (done.returncode, one_error_line(done)) == (2, f"Error: {expected}")
    leave(server, supabase_url, planter)


def test_a_purge_does_not_run_what_somebody_has_planted_in_place_of_the_version_table(
    server: Server, supabase_url: sa.URL, planter: str
) -> None:
    run(
        server.as_admin(supabase_url),
        f"""
        create schema momentum_internal authorization {planter};
        set role {planter};
        create function momentum_internal.planted() returns varchar language plpgsql as
          'begin raise exception ''it ran as %'', current_user; end';
        create view momentum_internal.alembic_version as select momentum_internal.planted() as version_num;
        grant usage on schema momentum_internal to public;
        grant select on momentum_internal.alembic_version to public;
        reset role;
        """,
    )
    refused = refusal(supabase_url, lambda: purge(as_text(supabase_url)), PreflightError)
    assert refused == said("schema", "momentum_internal", planter, supabase_url)
    leave(server, supabase_url, planter)


def migrate_to_head(url: sa.URL, **options: Any) -> None:
    """Upgrade a database, without a look at where it is."""
    alembic.command.upgrade(alembic_config(url, **options), HEAD)


def compare(url: sa.URL) -> object:
    """Compare a database."""
    with engine_of(url).connect() as connection:
        return compare_database(connection)


@pytest.mark.parametrize("layout", SCORE_TABLES)
def test_a_score_table_that_somebody_has_planted_is_not_adopted(
    server: Server, supabase_url: sa.URL, planter: str, layout: str
) -> None:
    key = "((score_ts at time zone 'UTC')::date)" if layout == "seed" else "score_date"
    run(
        server.as_admin(supabase_url),
        SCORE_TABLES[layout].format(schema="public")
        + f"""
        create unique index theirs on public.daily_engagement_scores (user_id, {key});
        alter table public.daily_engagement_scores owner to {planter};
        """,
    )
    expected = said("table", "public.daily_engagement_scores", planter, supabase_url)
    assert refusal(supabase_url, lambda: migrate_to_head(supabase_url), PreflightError) == expected
    leave(server, supabase_url, planter)
    migrate_to_head(supabase_url)


def test_a_predecessor_of_somebody_else_is_not_adopted(server: Server, planter: str) -> None:
    url = database_with_scores(server, "fresh", predecessors=True)
    run(server.as_admin(url), f"alter table public.habit_index owner to {planter}")
    expected = said("table", "public.habit_index", planter, url)
    work = lambda: migrate_to_head(url, existing="adopt", access="close")  # noqa: E731 - it is called once
    assert refusal(url, work, PreflightError) == expected
    leave(server, url, planter)
    server.drop_database(url)


# A function that records, beyond a rollback, that it has been executed, and a trigger that somebody gives a table.
RECORDING = """
create schema planted authorization {planter};
grant usage on schema planted to public;
set role {planter};
create sequence planted.executed;
grant usage on sequence planted.executed to public;
create function planted.push() returns trigger language plpgsql as
  $$ begin perform pg_catalog.nextval('planted.executed'); return coalesce(new, old); end $$;
reset role;
grant trigger on {table} to {planter};
grant usage on schema {schema} to {planter};
"""
PLANT = """
set local role {planter};
create trigger push before insert or delete on {table} for each row execute function planted.push();
reset role;
"""


def test_a_trigger_that_somebody_adds_while_superseded_scores_are_moved_never_has_our_rights(
    server: Server, planter: str
) -> None:
    """And back: it comes after everything has been looked at, and before the next page."""
    url = database_with_scores(server, "legacy.seed")
    names = {"planter": planter, "schema": "legacy", "table": "legacy.daily_engagement_scores"}
    add_users(engine_of(url), 3)
    run(
        url,
        "insert into legacy.daily_engagement_scores (user_id, score_ts, score) "
        "select id, timestamptz '2024-03-01 12:00+00' - n * interval '1 h', n from auth.users, generate_series(0, 2) n",
    )
    run(server.as_admin(url), RECORDING.format(**names))
    before = fetch(url, "select s::text from legacy.daily_engagement_scores as s order by 1")

    def work_with_a_trigger(work: Callable[[], None]) -> None:
        with engine_of(server.as_admin(url)).connect() as other, ThreadPoolExecutor(1) as pool:
            # Reading goes on; the first page waits.
            other.exec_driver_sql("lock table legacy.daily_engagement_scores in share mode")
            done = pool.submit(work)
            wait_until(url, WAITING_MIGRATION)
            other.exec_driver_sql(PLANT.format(**names))
            other.commit()
            with pytest.raises(MigrationError, match=r"the trigger push of legacy\.daily_engagement_scores would fire"):
                done.result()
        assert not execute(url, "select is_called from planted.executed")
        run(server.as_admin(url), "drop trigger push on legacy.daily_engagement_scores")

    work_with_a_trigger(lambda: migrate_to_head(url))
    migrate_to_head(url)
    assert fetch(url, "select count(*) from legacy.daily_engagement_scores") == [3]
    work_with_a_trigger(lambda: alembic.command.downgrade(alembic_config(url), "base"))
    alembic.command.downgrade(alembic_config(url), "base")
    assert fetch(url, "select s::text from legacy.daily_engagement_scores as s order by 1") == before
    server.drop_database(url)


def test_a_trigger_that_somebody_adds_before_rows_are_copied_does_not_fire_for_them(
    server: Server, planter: str
) -> None:
    url = database_with_scores(server, "fresh", predecessors=True)
    names = {"planter": planter, "schema": "public", "table": "public.momentum_events"}
    run(url, "insert into public.momentum_events (event_type) values ('of nobody'), ('walk')")
    add_users(engine_of(url), 2)
    run(
        url, "update public.momentum_events set user_id = (select id from auth.users limit 1) where event_type = 'walk'"
    )
    migrate_to(url, HISTORY[2], existing="adopt", access="close")
    run(server.as_admin(url), RECORDING.format(**names) + PLANT.format(**names))
    with pytest.raises(VerificationError):
        migrate_to_head(url, existing="adopt", access="close")
    assert fetch(url, "select event_type from public.momentum_events") == ["walk"]
    assert not execute(url, "select is_called from planted.executed")
    assert fetch(url, "select tgenabled::text from pg_trigger where tgname = 'push'") == ["O"]
    server.drop_database(url)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("schema", "momentum_internal"),
        ("table", "momentum_internal.alembic_version"),
        ("table", "momentum_internal.score_table"),
        ("function", "momentum_internal.set_updated_at()"),
        ("table", "public.momentum_pillars"),
        ("view", "public.daily_momentum_scores"),
        ("table", "legacy.daily_engagement_scores"),
    ],
)
def test_what_has_come_to_belong_to_somebody_else_is_refused_on_the_way_back(
    server: Server, planter: str, kind: str, name: str
) -> None:
    with server.database() as url:
        run(server.as_admin(url), f"alter {kind} {name} owner to {planter}")
        for options in ({}, {"purge": True}):
            work = lambda options=options: alembic.command.downgrade(alembic_config(url, **options), "base")  # noqa: E731
            assert refusal(url, work, PreflightError) == said(kind, name, planter, url)
        looked = refusal(url, lambda: read_status(engine_of(url)), ConfigurationError)
        assert looked == said(kind, name, planter, url)
        leave(server, url, planter)


# Score tables, and a schema whose owner could put other tables in the place of ours.
SCHEMAS = [("fresh", "legacy"), ("legacy.seed", "legacy"), ("public.production", "public"), ("fresh", "public")]


@pytest.mark.parametrize(("scores", "schema"), SCHEMAS)
@pytest.mark.parametrize("parked", [False, True])
def test_a_schema_of_somebody_else_is_refused_before_an_upgrade(
    server: Server, planter: str, scores: str, schema: str, parked: bool
) -> None:
    """Its owner may drop any table in it."""
    url = database_with_scores(server, scores)
    if parked:
        migrate_to(url, HEAD)
        migrate_to(url, "base")
    run(server.as_admin(url), f"create schema if not exists {schema}; alter schema {schema} owner to {planter}")
    run(server.as_admin(url), f"grant all on schema {schema} to {url.username}")
    refused = refusal(url, lambda: migrate_to_head(url), PreflightError)
    assert refused == said("schema", schema, planter, url)
    leave(server, url, planter)
    migrate_to_head(url)
    server.drop_database(url)


@pytest.mark.parametrize(("layout", "schema"), [("legacy.seed", "legacy"), ("public.production", "public")])
def test_a_schema_that_has_come_to_belong_to_somebody_else_is_refused(
    server: Server, planter: str, tmp_path: Path, layout: str, schema: str
) -> None:
    manifest = tmp_path / "rows.jsonl"
    manifest.touch()
    with scores_in(server, layout) as scores:
        run(
            server.as_admin(scores.url),
            f"alter schema {schema} owner to {planter}; grant all on schema {schema} to {scores.url.username}",
        )
        expected = said("schema", schema, planter, scores.url)
        for options in (["--days", "1"], ["--days", "1", "--dry-run"], ["--undo", str(manifest)]):
            done = call(*options, url=scores.url)
            assert (done.returncode, one_error_line(done)) == (2, f"Error: {expected}")
        for revision in ("base", HISTORY[-2]):
            work = lambda revision=revision: migrate_to(scores.url, revision)  # noqa: E731
            assert refusal(scores.url, work, PreflightError) == expected
        assert refusal(scores.url, lambda: read_status(engine_of(scores.url)), ConfigurationError) == expected
        leave(server, scores.url, planter)
        assert call("--days", "1", url=scores.url).returncode == 0


@pytest.mark.parametrize("owner", ["pg_database_owner", "supabase_auth_admin", "the superuser", "the database's owner"])
def test_a_schema_of_the_platform_or_of_the_databases_owner_is_used(server: Server, owner: str) -> None:
    with server.database(migrated=False) as url:
        found = {"the superuser": server.admin_url.username, "the database's owner": url.username}.get(owner, owner)
        run(
            server.as_admin(url),
            f"""
            create schema legacy;
            alter schema legacy owner to {found};
            alter schema public owner to {found};
            grant all on schema legacy, public to {url.username};
            """,
        )
        migrate_to_head(url)
        assert call("--days", "1", url=url).returncode == 0
        migrate_to(url, "base", purge=True)


def test_a_schema_legacy_of_somebody_else_is_no_matter_where_the_scores_are_in_public(
    server: Server, planter: str
) -> None:
    with scores_in(server, "public.production") as scores:
        run(server.as_admin(scores.url), f"create schema legacy authorization {planter}")
        run(server.as_admin(scores.url), f"grant usage on schema legacy to {scores.url.username}")
        assert call("--days", "1", url=scores.url).returncode == 0
        migrate_to(scores.url, "base")
        migrate_to_head(scores.url)
        leave(server, scores.url, planter)


def test_a_parked_table_of_somebody_else_is_refused_before_a_purge(server: Server, planter: str) -> None:
    with server.database() as url:
        migrate_to(url, "base")
        run(server.as_admin(url), f"alter table momentum_internal.habit_index owner to {planter}")
        work = lambda: alembic.command.downgrade(alembic_config(url, purge=True), "base")  # noqa: E731
        assert refusal(url, work, PreflightError) == said("table", "momentum_internal.habit_index", planter, url)
        leave(server, url, planter)


@pytest.mark.parametrize("layout", ["fresh", "public.production"])
def test_a_score_table_that_has_come_to_belong_to_somebody_else_is_not_filled(
    server: Server, planter: str, tmp_path: Path, layout: str
) -> None:
    manifest = tmp_path / "rows.jsonl"
    manifest.touch()
    with scores_in(server, layout) as scores:
        run(server.as_admin(scores.url), f"alter table {scores.relation} owner to {planter}")
        expected = said("table", scores.relation, planter, scores.url)
        for options in (["--days", "1"], ["--days", "1", "--dry-run"], ["--undo", str(manifest)]):
            done = call(*options, url=scores.url)
            assert (done.returncode, one_error_line(done)) == (2, f"Error: {expected}")
        leave(server, scores.url, planter)
        assert call("--days", "1", url=scores.url).returncode == 0


def test_an_adopted_score_table_that_has_come_to_belong_to_somebody_else_is_refused_on_the_way_back(
    server: Server, planter: str
) -> None:
    with scores_in(server, "public.production") as scores:
        run(server.as_admin(scores.url), f"alter table {scores.relation} owner to {planter}")
        work = lambda: alembic.command.downgrade(alembic_config(scores.url), "-1")  # noqa: E731 - it is called once
        assert refusal(scores.url, work, PreflightError) == said("table", scores.relation, planter, scores.url)
        leave(server, scores.url, planter)


def test_the_accounts_are_the_platforms_or_ours_and_nobody_elses(server: Server, url: sa.URL, planter: str) -> None:
    run(server.as_admin(url), f"alter function auth.uid() owner to {planter}")
    expected = said("function", "auth.uid()", planter, url)
    assert refusal(url, lambda: compare(url), ConfigurationError) == expected
    run(server.as_admin(url), f"alter function auth.uid() owner to {url.username}")
    compare(url)
    leave(server, url, planter)


def test_a_role_that_clients_act_as_is_not_trusted_though_postgres_is_a_member_of_it(server: Server) -> None:
    with scores_in(server, "public.production") as scores:
        assert execute(scores.url, "select pg_has_role('authenticated', 'usage')")
        run(server.as_admin(scores.url), f"alter table {scores.relation} owner to authenticated")
        assert "belongs to authenticated, and you are" in one_error_line(call("--days", "1", url=scores.url))


def test_what_belongs_to_the_databases_owner_or_to_a_superuser_is_used_by_others(server: Server) -> None:
    role = f"filler_{secrets.token_hex(4)}"
    with scores_in(server, "public.production") as scores:
        run(
            server.as_admin(scores.url),
            f"""
            create role {role} login password 'secret' bypassrls;
            alter table {scores.relation} owner to {server.admin_url.username};
            grant usage on schema momentum_internal, auth to {role};
            grant select on all tables in schema momentum_internal to {role};
            grant select on auth.users to {role};
            grant select, insert on {scores.relation} to {role};
            """,
        )
        own = scores.url.set(username=role, password="secret")
        assert call("--days", "1", url=own).returncode == 0
        run(server.as_admin(scores.url), f"drop owned by {role}; drop role {role}")
