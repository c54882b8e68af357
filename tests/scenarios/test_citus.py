"""The way to a Citus cluster and back, and the statements of the backfill there.

What only a cluster can show is tested if MOMENTUM_TEST_CITUS_URL names an empty database of one, with the extension
created. Everywhere else, stand-ins for Citus' functions refuse what Citus refuses and lose what it loses.
"""

import dataclasses
import datetime
import json
import os
import re
import subprocess
import sys
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa

from momentum import grants
from momentum.backfill import run_backfill
from momentum.backfill.batches import split, take
from momentum.backfill.days import DayRange
from momentum.backfill.eligibility import Eligibility
from momentum.backfill.fill import NOBODY
from momentum.backfill.pages import EVERYBODY, KeyRange, Pages, UserDay, UserGap
from momentum.backfill.preflight import is_distributed, look_at
from momentum.backfill.recount import count_missing
from momentum.backfill.settings import Limits, Settings
from momentum.backfill.shards import ShardedPages
from momentum.backfill.undo import run_undo
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text, parse_url
from momentum.errors import PreflightError
from momentum.migrate.config import alembic_config
from momentum.models import Base
from momentum.retries import Backoff
from momentum.testing import Server
from momentum.testing.servers import apply_stand_in, migrate, prepare_roles
from momentum.verify.compare import differences
from tests.migrating import HISTORY, execute, fetch, rows_of, run, until
from tests.samples import add_user, write_rows
from tests.server import engine_of, find_program
from tools import citus_sql

ROOT = Path(__file__).parents[2]
DISTRIBUTE = ROOT / "sql" / "citus" / "distribute.sql"
UNDISTRIBUTE = ROOT / "sql" / "citus" / "undistribute.sql"
PROGRAM = Path(sys.executable).parent / "momentum-backfill"
CLUSTER = os.environ.get("MOMENTUM_TEST_CITUS_URL")
DAYS = DayRange(datetime.date(2026, 3, 1), datetime.date(2026, 3, 10))

DISTRIBUTED = {
    "auth.users": ("h", "id"),
    **{
        table.name: ("h", "user_id") if "user_id" in table.columns else ("n", None)
        for table in Base.metadata.sorted_tables
    },
    "legacy.daily_engagement_scores": ("h", "user_id"),
}

# Stand-ins for the functions that the scripts call, in pg_catalog as with Citus, where pg_dump ignores them. They move
# no rows.
SHARDS = """
set local allow_system_table_mods = on;
create function pg_catalog.get_shard_id_for_distribution_column(relation regclass, value uuid) returns bigint
language sql immutable as $$ select 102008 + pg_catalog.abs(pg_catalog.hashtext(value::text) % 4) $$;
"""
STAND_IN = f"""{SHARDS}
create table pg_catalog.pg_dist_partition (
  logicalrelid regclass primary key,
  partmethod "char" not null,
  partkey text
);

create function pg_catalog.column_to_column_name(relation regclass, "column" text) returns text
language sql immutable as 'select "column"';

create function pg_catalog.stand_in_distribute(relation regclass, kind "char", key text) returns void
language plpgsql as $stand_in$
begin
  if exists (select from pg_constraint where contype = 'f' and relation in (conrelid, confrelid)) then
    raise exception 'stand-in of Citus: % has foreign keys, or is referred to', relation;
  end if;
  if coalesce(current_setting('citus.enable_unsafe_triggers', true), 'off') <> 'on'
    and exists (select from pg_trigger where tgrelid = relation and not tgisinternal) then
    raise exception 'stand-in of Citus: % has triggers', relation;
  end if;
  if exists (select from pg_policy where polrelid = relation and pg_get_expr(polqual, relation) ilike '%select%') then
    raise exception 'stand-in of Citus: % has a policy with a subquery', relation;
  end if;
  if kind = 'h' and exists (
    select from pg_index as i
    where i.indrelid = relation and i.indisunique and not exists (
      select from pg_attribute as a
      where a.attrelid = relation and a.attname = key and a.attnum = any (i.indkey::smallint[])
    )
  ) then
    raise exception 'stand-in of Citus: % has a unique key without %', relation, key;
  end if;
  insert into pg_dist_partition values (relation, kind, key);
end $stand_in$;

grant all on pg_catalog.pg_dist_partition to public;

create function pg_catalog.create_reference_table(relation regclass) returns void language sql
as $$ select stand_in_distribute(relation, 'n', null) $$;

create function pg_catalog.create_distributed_table(relation regclass, key text, colocate_with text) returns void
language plpgsql as $stand_in$
begin
  if colocate_with <> 'none'
    and not exists (select from pg_dist_partition where logicalrelid = colocate_with::regclass) then
    raise exception 'stand-in of Citus: % is not distributed', colocate_with;
  end if;
  perform stand_in_distribute(relation, 'h', key);
end $stand_in$;

-- As after the real one, which makes the table again: the comments are gone, and Supabase's default privileges apply.
create function pg_catalog.undistribute_table(relation regclass) returns void language plpgsql as $stand_in$
declare
  command text;
begin
  if exists (select from pg_constraint where contype = 'f' and relation in (conrelid, confrelid)) then
    raise exception 'stand-in of Citus: % has foreign keys, or is referred to', relation;
  end if;
  if exists (select from pg_depend where refobjid = relation and classid = 'pg_rewrite'::regclass) then
    raise exception 'stand-in of Citus: % has a view, which would lose its grants', relation;
  end if;
  for command in
    select format('comment on table %s is null', relation)
    union all
    select format('comment on column %s.%I is null', relation, attname) from pg_attribute
    where attrelid = relation and attnum > 0
    union all
    select format('comment on index %s is null', indexrelid::regclass) from pg_index where indrelid = relation
    union all
    select format('grant all on table %s to anon, authenticated, service_role', relation)
    where relation <> 'auth.users'::regclass
  loop
    execute command;
  end loop;
  delete from pg_dist_partition where logicalrelid = relation;
end $stand_in$;
"""


def psql(url: sa.URL, script: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with psql, as people do."""
    return subprocess.run(
        [find_program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script, as_text(url)],
        capture_output=True,
        text=True,
        check=False,
    )


def apply(url: sa.URL, script: Path) -> None:
    done = psql(url, script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "content"), citus_sql.documents().items(), ids=lambda value: getattr(value, "name", "")
)
def test_the_scripts_are_those_of_the_models(path: Path, content: str) -> None:
    assert path.read_text(encoding="utf-8") == content, f"sql/citus/{path.name} is stale: make citus-sql"


def test_policies_are_evaluated_for_each_row_where_citus_refuses_a_subquery(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = "for select to authenticated using ((select auth.uid()) = user_id)"
    monkeypatch.setitem(grants.POLICIES, "habit_index", {"own_rows": rest})
    distribute, undistribute = (text for _, text in sorted(citus_sql.documents().items()))
    create = "drop policy own_rows on public.habit_index;\ncreate policy own_rows on public.habit_index\n"
    assert f"{create}for select to authenticated using (auth.uid() = user_id);" in distribute
    assert f"{create}{rest};" in undistribute


def dump(url: sa.URL) -> list[str]:
    """Return the whole schema as pg_dump writes it, without the key that is random each time."""
    done = subprocess.run(
        [find_program("pg_dump"), "--schema-only", as_text(url)], capture_output=True, text=True, check=True
    )
    # Debian's server keeps a version of each column of a distributed table among its options.
    return [
        line
        for line in done.stdout.splitlines()
        if not line.startswith(("\\restrict", "\\unrestrict")) and "SET (pg_attver=" not in line
    ]


def verify(url: sa.URL) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "momentum.verify", "--database-url", as_text(url)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def backfill(url: sa.URL, *options: str, code: int = 0) -> dict[str, Any]:
    """Run the command over the range and return its report."""
    text = as_text(url)
    done = subprocess.run(
        [PROGRAM, "--from", str(DAYS.first), "--to", str(DAYS.last), "--json", "--quiet", *options],
        env={**os.environ, URL_VARIABLES[0]: text},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


# Accounts of every kind, with rows and events spread over the range and beyond it by their numbers.
LOAD = """
insert into auth.users (id, created_at, deleted_at, banned_until, last_sign_in_at)
select
  md5('user ' || n)::uuid,
  case when n % 5 = 0 then timestamptz '2026-03-01 23:30:00+00' + (n % 12) * interval '1 day'
    when n % 7 = 0 then null else '2020-01-01' end,
  case when n % 11 = 0 then timestamptz '2026-03-05' end,
  case when n % 13 = 0 then timestamptz 'infinity' when n % 17 = 0 then timestamptz '2026-01-01' end,
  case when n % 3 = 0 then timestamptz '2026-02-27' end
from generate_series(1, 90) as n;
insert into legacy.daily_engagement_scores (user_id, score_ts, score)
select u.id, (d.day + interval '9 hours') at time zone 'UTC', 50
from auth.users as u
cross join generate_series(timestamp '2026-02-26', '2026-03-12', '1 day') as d (day)
where hashtext(u.id::text || d.day::text) % 3 <> 0;
insert into public.momentum_events (user_id, event_type, event_ts, created_at, deleted_at)
select
  md5('user ' || n)::uuid, 'walk', timestamptz '2026-02-27 12:00:00+00' + (n % 9) * interval '1 day', '2026-03-01',
  case when n % 10 = 0 then timestamptz '2026-03-02' end
from generate_series(1, 90, 2) as n;
"""

# The user-days that should have a row and have none, found without the job's own statements.
ORACLE = """
select u.id, d.day::date as day
from auth.users as u
cross join generate_series(timestamp '2026-03-01', '2026-03-10', '1 day') as d (day)
where
  u.deleted_at is null and (u.banned_until is null or u.banned_until <= now())
  and (u.created_at is null or (u.created_at at time zone 'UTC')::date <= d.day::date)
"""


def missing(url: sa.URL) -> set[tuple[uuid.UUID, datetime.date]]:
    """Return the user-days without a row, found in Python."""
    with engine_of(url).connect() as connection:
        eligible = {tuple(row) for row in connection.execute(sa.text(ORACLE))}
        present = {
            tuple(row)
            for row in connection.execute(
                sa.text("select user_id, (score_ts at time zone 'UTC')::date from legacy.daily_engagement_scores")
            )
        }
    return eligible - present


@pytest.fixture
def stand_in_url(server: Server, url: sa.URL) -> sa.URL:
    """The URL of a migrated database that has the stand-in of Citus, where auth belongs to the role that migrates.

    There is no Citus on Supabase's platform, and only the owner of a table can distribute it.
    """
    owner = f"alter schema auth owner to {url.username}; alter table auth.users owner to {url.username}"
    run(server.as_admin(url), f"{STAND_IN}; {owner}")
    return url


@pytest.mark.slow
def test_the_way_back_restores_the_schema_and_the_rows(stand_in_url: sa.URL) -> None:
    with engine_of(stand_in_url).begin() as connection:
        for ordinal in (1, 2):
            write_rows(connection, add_user(connection), ordinal)
    schema, rows = dump(stand_in_url), rows_of(stand_in_url)
    apply(stand_in_url, DISTRIBUTE)
    found = fetch(
        stand_in_url,
        "select jsonb_build_array(logicalrelid::text, partmethod::text, partkey) from pg_catalog.pg_dist_partition",
    )
    assert {name: (kind, key) for name, kind, key in found} == DISTRIBUTED
    assert dump(stand_in_url) != schema
    assert rows_of(stand_in_url) == rows
    apply(stand_in_url, UNDISTRIBUTE)
    assert dump(stand_in_url) == schema
    assert rows_of(stand_in_url) == rows
    assert not fetch(stand_in_url, "select logicalrelid from pg_catalog.pg_dist_partition")
    verify(stand_in_url)


# Views of others: one that is closed to anon, with options, grants and comments, and another one on top of it and ours.
VIEWS = """
create role {owner};
grant {owner} to current_user;
create schema app;
grant usage on schema app to public;
grant create on schema app to {owner};
alter default privileges in schema app grant all on tables to anon, service_role;
create view app.recent with (security_barrier = true, check_option = local) as
  select user_id, details from public.habit_index where created_at > '2026-01-01';
comment on view app.recent is 'Recent habits.';
comment on column app.recent.details is 'What they are.';
create view app."Both" with (security_invoker = true) as
  select r.user_id, s.score from app.recent as r inner join public.daily_momentum_scores as s using (user_id);
revoke all on app.recent from anon, service_role;
grant select (user_id) on app.recent to anon;
grant select, update on app.recent to {owner} with grant option;
grant select on app."Both" to public;
revoke all on app."Both" from current_user;
alter view app.recent owner to {owner};
"""


@pytest.fixture
def views(stand_in_url: sa.URL) -> Iterator[sa.URL]:
    """A database with the stand-in of Citus and views of others, owned by a role that is dropped after."""
    owner = f"{stand_in_url.database}_owner"
    run(stand_in_url, VIEWS.format(owner=owner))
    yield stand_in_url
    run(stand_in_url, f"drop owned by {owner} cascade; drop role {owner}")


@pytest.mark.slow
def test_views_of_others_come_back_with_owners_options_grants_and_comments(views: sa.URL) -> None:
    schema = dump(views)
    assert any("CREATE VIEW app.recent" in line for line in schema)
    apply(views, DISTRIBUTE)
    apply(views, UNDISTRIBUTE)
    assert dump(views) == schema


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("create materialized view public.other as select id from auth.users", "is no plain view"),
        (
            "create view public.other as select id from public.habit_index; create rule r as on insert to public.other "
            "do instead nothing",
            "has a rule",
        ),
        (
            "create view public.other as select id from public.habit_index; create function public.nothing() returns "
            "trigger language plpgsql as 'begin return null; end'; create trigger t instead of insert on public.other "
            "for each row execute function public.nothing()",
            "has a trigger",
        ),
    ],
)
def test_a_view_that_cannot_come_back_keeps_the_tables_where_they_are(
    stand_in_url: sa.URL, view: str, said: str
) -> None:
    apply(stand_in_url, DISTRIBUTE)
    run(stand_in_url, view)
    schema = dump(stand_in_url)
    done = psql(stand_in_url, UNDISTRIBUTE)
    assert done.returncode == 3
    assert f"public.other shows a distributed table and {said}" in done.stderr
    assert dump(stand_in_url) == schema


def test_a_distributed_database_is_as_it_should_be(stand_in_url: sa.URL) -> None:
    apply(stand_in_url, DISTRIBUTE)
    verify(stand_in_url)
    run(stand_in_url, "alter table legacy.daily_engagement_scores disable row level security")
    with engine_of(stand_in_url).connect() as connection:
        [difference] = differences(connection)
    assert "legacy.daily_engagement_scores, row level security" in difference


@pytest.mark.parametrize("command", ["upgrade", "downgrade", "purge"])
def test_a_distributed_database_is_not_migrated(stand_in_url: sa.URL, command: str) -> None:
    apply(stand_in_url, DISTRIBUTE)
    if command == "upgrade":
        run(stand_in_url, f"update momentum_internal.alembic_version set version_num = '{HISTORY[-2]}'")
    schema = dump(stand_in_url)
    config = alembic_config(stand_in_url, purge=command == "purge")
    change = alembic.command.upgrade if command == "upgrade" else alembic.command.downgrade
    with pytest.raises(PreflightError) as refused:
        change(config, "base" if command == "downgrade" else HISTORY[-1])
    assert str(refused.value).startswith("Citus has distributed auth.users and 5 more tables")
    assert "sql/citus/undistribute.sql" in str(refused.value)
    assert dump(stand_in_url) == schema


def test_distributed_it_has_the_same_keys_names_and_rules(stand_in_url: sa.URL) -> None:
    constraints = "select conrelid::regclass || ' ' || conname from pg_constraint where contype in ('f', 'p', 'u', 'c')"
    before = sorted(fetch(stand_in_url, constraints))
    foreign = "select pg_get_constraintdef(oid) from pg_constraint where contype = 'f' order by conname"
    references = fetch(stand_in_url, foreign)
    apply(stand_in_url, DISTRIBUTE)
    assert sorted(fetch(stand_in_url, constraints)) == before
    assert fetch(stand_in_url, foreign) == references
    keys = fetch(
        stand_in_url,
        "select pg_get_constraintdef(oid) from pg_constraint where contype = 'p' and conrelid = any(cast(:names as "
        "regclass[]))",
        names=[name for name, (_, key) in DISTRIBUTED.items() if key == "user_id"],
    )
    assert len(keys) >= 4
    assert set(keys) == {"PRIMARY KEY (user_id, id)"}
    policy = fetch(stand_in_url, "select pg_get_expr(polqual, polrelid) from pg_catalog.pg_policy")
    assert policy == ["(auth.uid() = user_id)"]


def test_clients_reach_the_schema_of_shards_and_no_role_may_log_in_that_might_not_before(
    server: Server, stand_in_url: sa.URL
) -> None:
    usage = "select has_schema_privilege('authenticated', 'legacy', 'usage')"
    login = "select rolname from pg_roles where rolcanlogin order by 1"
    before = fetch(stand_in_url, login)
    # Until PostgreSQL 15, who may create roles may change all of them.
    [may_not] = fetch(stand_in_url, "select current_setting('server_version_num')::int >= 160000")
    done = psql(stand_in_url, DISTRIBUTE)
    assert ("the workers have to let the role authenticated log in" in done.stderr) == may_not
    apply(stand_in_url, UNDISTRIBUTE)
    for script, may in ((DISTRIBUTE, True), (UNDISTRIBUTE, False)):
        done = psql(server.as_admin(stand_in_url), script)
        assert done.returncode == 0
        assert "log in" not in done.stderr
        assert fetch(stand_in_url, usage) == [may]
        assert fetch(stand_in_url, login) == before


def test_the_claims_of_a_request_are_set_again_for_the_workers(stand_in_url: sa.URL) -> None:
    apply(stand_in_url, DISTRIBUTE)
    claims = "select current_setting('request.jwt.claims')"
    with engine_of(stand_in_url).connect() as connection:
        for role in ("anon", "authenticated", "service_role"):
            for sent in ('{"sub": "it\'s me"}', ""):
                connection.execute(sa.text("select set_config('request.jwt.claims', :sent, true)"), {"sent": sent})
                connection.exec_driver_sql(f"set local role {role}")
                connection.exec_driver_sql("select public.share_claims_with_workers()")
                assert connection.scalar(sa.text(claims)) == sent
                assert connection.scalar(sa.text("select current_setting('citus.propagate_set_commands')")) == "local"
                connection.rollback()


def test_the_way_there_says_how_to_free_the_coordinators_disk(stand_in_url: sa.URL) -> None:
    done = psql(stand_in_url, DISTRIBUTE)
    assert "the coordinator still holds" in done.stderr
    assert "select truncate_local_data_after_distributing_table('auth.users');" in done.stderr


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("drop table public.habit_index", "there is no table public.habit_index"),
        ("insert into pg_catalog.pg_dist_partition values ('auth.users', 'h')", "auth.users is distributed already"),
        ("update momentum_internal.score_table set created_table = false", "the score table was adopted"),
        (
            "create table auth.identities (user_id uuid constraint whose references auth.users (id))",
            "auth.identities refers to auth.users (whose)",
        ),
        (
            "create table public.notes (habit uuid constraint about references public.habit_index (id))",
            "public.notes refers to public.habit_index (about)",
        ),
        (
            "create unique index one on public.habit_index (details)",
            "public.one of public.habit_index does not contain the user",
        ),
        (
            "create unique index users_email_key on auth.users (email)",
            "auth.users_email_key of auth.users does not contain the user",
        ),
        (
            "create unique index two on legacy.daily_engagement_scores (score_ts)",
            "legacy.two of legacy.daily_engagement_scores does not contain the user",
        ),
        (
            "create policy readers on public.habit_index for select to authenticated "
            "using (user_id in (select id from auth.users))",
            "the policy readers of public.habit_index has a subquery",
        ),
        (
            "create policy writers on auth.users for insert to authenticated with check ((select auth.uid()) = id)",
            "the policy writers of auth.users has a subquery",
        ),
        (
            "create table public.places (id int primary key); "
            "alter table public.habit_index add place int constraint where_it_is references public.places (id)",
            "public.habit_index refers to public.places, which is not distributed (where_it_is)",
        ),
    ],
)
def test_what_cannot_be_distributed_is_refused_and_unchanged(stand_in_url: sa.URL, before: str, said: str) -> None:
    run(stand_in_url, before)
    schema = dump(stand_in_url)
    done = psql(stand_in_url, DISTRIBUTE)
    assert done.returncode == 3
    assert said in done.stderr
    assert dump(stand_in_url) == schema


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("select 1", "auth.users is not distributed"),
        (
            "insert into pg_catalog.pg_dist_partition select c.oid, 'h' from pg_catalog.pg_class as c "
            "where c.relname in ('users', 'daily_engagement_scores') or c.relnamespace = 'public'::regnamespace; "
            "drop table public.habit_index",
            "there is no table public.habit_index",
        ),
    ],
)
def test_what_is_not_distributed_has_no_way_back(stand_in_url: sa.URL, before: str, said: str) -> None:
    run(stand_in_url, before)
    schema = dump(stand_in_url)
    done = psql(stand_in_url, UNDISTRIBUTE)
    assert done.returncode == 3
    assert said in done.stderr
    assert dump(stand_in_url) == schema


@pytest.mark.parametrize("script", [DISTRIBUTE, UNDISTRIBUTE], ids=lambda path: path.stem)
def test_without_citus_the_scripts_say_so(url: sa.URL, script: Path) -> None:
    schema = dump(url)
    done = psql(url, script)
    assert done.returncode == 3
    assert "this database has no Citus" in done.stderr
    assert dump(url) == schema


def test_the_score_table_is_distributed_where_citus_says_so(stand_in_url: sa.URL) -> None:
    engine = engine_of(stand_in_url)
    with engine.connect() as connection:
        scores = look_at(connection, "insert", dry_run=False, with_events=False).scores
        assert not is_distributed(connection, scores).value, "Citus is there, and has not distributed this table"
    apply(stand_in_url, DISTRIBUTE)
    with engine.connect() as connection:
        assert is_distributed(connection, scores).value
        assert look_at(connection, "insert", dry_run=False, with_events=False).distributed


def test_without_citus_nothing_is_distributed(connection: sa.Connection) -> None:
    assert not look_at(connection, "insert", dry_run=False, with_events=False).distributed


def test_the_command_fills_a_distributed_table(stand_in_url: sa.URL) -> None:
    run(stand_in_url, LOAD)
    apply(stand_in_url, DISTRIBUTE)
    expected = missing(stand_in_url)
    assert len(expected) > 100
    before = fetch(stand_in_url, "select s::text from legacy.daily_engagement_scores as s")
    report = backfill(stand_in_url)
    assert (report["inserted"], report["failed"], report["left_over"]) == (len(expected), 0, 0)
    assert not missing(stand_in_url)
    untouched = fetch(stand_in_url, "select s::text from legacy.daily_engagement_scores as s where source is null")
    assert sorted(untouched) == sorted(before)


def test_an_undo_deletes_from_a_distributed_table_by_a_statement_of_its_own(
    stand_in_url: sa.URL, tmp_path: Path
) -> None:
    run(stand_in_url, LOAD)
    run(
        stand_in_url,
        """
        create function public.nothing() returns trigger language plpgsql as 'begin return null; end';
        create trigger nothing after delete on legacy.daily_engagement_scores
          for each row execute function public.nothing();
        """,
    )
    manifest = tmp_path / "rows.jsonl"
    inserted = backfill(stand_in_url, "--manifest", str(manifest))["inserted"]
    engine = engine_of(stand_in_url)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(str(arguments[2])))

    def undo() -> list[str]:
        statements.clear()
        assert run_undo(engine, manifest, Settings(days=DAYS)).listed == inserted
        return [statement for statement in statements if "DELETE FROM" in statement]

    execute(
        stand_in_url,
        "insert into pg_catalog.pg_dist_partition select to_regclass(:name), 'h', 'user_id'",
        name="legacy.daily_engagement_scores",
    )
    assert {statement.split()[0] for statement in undo()} == {"DELETE"}
    reaching = [statement for statement in statements if "set local lock_timeout = '2000ms'" in statement]
    assert reaching, "the servers that hold the rows would wait for ever"
    execute(stand_in_url, "delete from pg_catalog.pg_dist_partition")
    assert {statement.split()[0] for statement in undo()} == {"WITH"}, "it would have been inside of another statement"


@pytest.mark.parametrize("active_within", [None, 1, 3], ids=lambda days: f"active-within-{days}")
def test_both_shapes_of_the_statements_find_and_insert_the_same(
    stand_in_url: sa.URL, active_within: int | None
) -> None:
    run(stand_in_url, LOAD)
    engine = engine_of(stand_in_url)
    with engine.connect() as connection:
        database = look_at(connection, "insert", dry_run=False, with_events=False)
        eligibility = Eligibility(database.account_columns, DAYS, database.now, active_within=active_within)
        lookup = Pages(database.scores, eligibility)
        join = ShardedPages(database.scores, eligibility, takes_ids=True)
        users = sorted(connection.scalars(sa.text("select id from auth.users")).all())
        for keys in (EVERYBODY, KeyRange(users[20], users[50]), users[::3]):
            found = join.find_by_user(connection, keys).value
            assert found.gaps == sorted(found.gaps, key=lambda gap: (gap.shard, gap.user_id))
            assert len({gap.shard for gap in found.gaps}) > 1
            plain = sorted(gap._replace(shard=0) for gap in found.gaps)
            assert found._replace(gaps=plain) == lookup.find_by_user(connection, keys).value
        for keys in (EVERYBODY, KeyRange(users[20], users[50])):
            present = [
                pages.count_present_by_day(connection, keys=keys, by_scan=False, divisible=True).value
                for pages in (join, lookup)
            ]
            assert present[0] == present[1] != {}
        found = lookup.find_by_user(connection, EVERYBODY).value
        assert found.missing > 5
        missing = join.list_missing(connection, users).value
        assert missing == lookup.list_missing(connection, users).value
        assert len(missing) == found.missing
        assert join.count_by_day(connection, users).value == lookup.count_by_day(connection, users).value
        for keys in (EVERYBODY, KeyRange(users[20], users[50])):
            counts = [
                count_missing(connection, database.scores, eligibility, keys, distributed=distributed).value
                for distributed in (True, False)
            ]
            assert counts[0] == counts[1] > 0
        assert not join.may_scan, "a scan of the score table is another server's work there"
        # The last user is to get fewer rows than are missing.
        gaps = found.gaps[:3]
        for page in ([split(gaps[0], 1)[0]], [*gaps[:2], split(gaps[2], 1)[0]], found.gaps):
            inserted = []
            for pages in (join, lookup):
                written = pages.insert_page(connection, page, uuid.uuid4(), keyed=True, is_first=True).value
                assert written.rows is not None
                assert written.by_day == Counter(day for _, day in written.rows)
                inserted.append(sorted(tuple(row) for row in written.rows))
                connection.rollback()
            assert inserted[0] == inserted[1]
            assert len(inserted[0]) == sum(gap.missing for gap in page)


@pytest.mark.parametrize("keyed", [True, False], ids=["with keys", "with counts"])
@pytest.mark.parametrize("distributed", [True, False], ids=["distributed", "on one server"])
def test_what_others_do_meanwhile_is_counted_the_same_on_a_cluster(
    stand_in_url: sa.URL, distributed: bool, keyed: bool
) -> None:
    run(stand_in_url, LOAD)
    expected = missing(stand_in_url)
    (raced, day), *rest = sorted(expected)
    gone = next(user for user, _ in rest if user != raced)
    of_gone = {row for row in expected if row[0] == gone}
    if distributed:
        execute(
            stand_in_url,
            "insert into pg_catalog.pg_dist_partition select to_regclass(:name), 'h', 'user_id'",
            name="legacy.daily_engagement_scores",
        )
    engine = engine_of(stand_in_url)
    done: list[bool] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def meddle(*arguments: Any) -> None:
        if "INSERT INTO" in arguments[2] and not done:
            done.append(True)
            row = {"user": raced, "moment": datetime.datetime.combine(day, datetime.time(12), datetime.UTC)}
            insert = "insert into legacy.daily_engagement_scores (user_id, score_ts, score) values (:user, :moment, 1)"
            execute(stand_in_url, insert, **row)
            execute(stand_in_url, "update auth.users set deleted_at = now() where id = :user", user=gone)

    listed: list[Any] = []
    observers = NOBODY._replace(on_inserted=listed.extend) if keyed else NOBODY
    report = run_backfill(engine, Settings(days=DAYS, look_for_discrepancies=False), observers=observers)
    assert done
    assert (report.raced, report.failed, report.left_over) == (1, 0, 0)
    assert report.inserted == len(expected) - 1 - len(of_gone)
    assert report.eligible == report.present + report.inserted + report.raced
    assert set(listed) == (expected - of_gone - {(raced, day)} if keyed else set())


def test_both_shapes_of_the_statements_look_and_delete_the_same(stand_in_url: sa.URL) -> None:
    run(stand_in_url, LOAD)
    with engine_of(stand_in_url).connect() as connection:
        database = look_at(connection, "insert", dry_run=False, with_events=False)
        eligibility = Eligibility(database.account_columns, DAYS, database.now)
        lookup, join = Pages(database.scores, eligibility), ShardedPages(database.scores, eligibility, takes_ids=True)
        users = sorted(connection.scalars(sa.text("select id from auth.users")).all())
        missing = join.list_missing(connection, users).value
        by_name = missing[: len(missing) // 2]
        rows = [UserDay(uuid.UUID(int=0), DAYS.first)]
        rows += [UserDay(user, day) for user in users for day in (DAYS.first, DAYS.last)] + by_name
        assert join.insert_rows(connection, by_name) == set(by_name)
        outcomes = join.look_again(connection, rows)
        assert sorted(outcomes) == sorted(lookup.look_again(connection, rows))
        assert {(row.present, row.eligible) for row in outcomes} == {
            (a, b) for a in (True, False) for b in (True, False)
        }
        assert join.list_untouched(connection, rows) == lookup.list_untouched(connection, rows) == set(by_name)
        assert join.delete_untouched(connection, [*rows[:5], *by_name[:3]]) == {*by_name[:3], *rows[:5]} & set(by_name)


def test_the_ids_of_a_page_begin_alike_and_those_of_two_pages_differ(stand_in_url: sa.URL) -> None:
    run(stand_in_url, LOAD)
    with engine_of(stand_in_url).connect() as connection:
        database = look_at(connection, "insert", dry_run=False, with_events=False)
        eligibility = Eligibility(database.account_columns, DAYS, database.now)
        pages = ShardedPages(database.scores, eligibility, takes_ids=True)
        gaps = pages.find_by_user(connection, EVERYBODY).value.gaps
        ids: list[uuid.UUID] = []
        for _ in range(2):
            assert pages.insert_page(connection, gaps, pages.new_token(), keyed=True, is_first=True).value.rows
            ids += connection.scalars(
                sa.text("select id from legacy.daily_engagement_scores where source = 'backfill'")
            ).all()
            connection.rollback()
        assert len(set(ids)) == len(ids) > 100
        assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}


@pytest.mark.parametrize("active_within", [None, 3], ids=lambda days: f"active-within-{days}")
def test_nothing_is_asked_that_citus_refuses_or_carries_through_the_coordinator(
    stand_in_url: sa.URL, active_within: int | None
) -> None:
    engine = engine_of(stand_in_url)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(str(arguments[2]).lower()))
    with engine.connect() as connection:
        database = look_at(connection, "insert", dry_run=False, with_events=False)
        eligibility = Eligibility(database.account_columns, DAYS, database.now, active_within=active_within)
        statements.clear()
        pages = ShardedPages(database.scores, eligibility, takes_ids=True)
        user = uuid.uuid4()
        rows, users = [UserDay(user, DAYS.first)], [user]
        _ = pages.find_by_user(connection, EVERYBODY).value
        _ = pages.list_missing(connection, users).value
        _ = pages.count_by_day(connection, users).value
        _ = pages.count_present_by_day(connection, keys=EVERYBODY, by_scan=False, divisible=True).value
        _ = pages.list_active(connection, users).value
        for keyed in (True, False):
            _ = pages.insert_page(connection, [UserGap(user, 1)], user, keyed=keyed, is_first=True).value
        pages.look_again(connection, rows)
        pages.is_kept(connection, rows, 1)
        pages.insert_rows(connection, rows)
        pages.list_untouched(connection, rows)
        pages.delete_untouched(connection, rows)
    assert len(statements) > 10
    for statement in statements:
        assert "outer join lateral" not in statement, "Citus refuses a lateral outer join"
        assert "exists" not in statement, "Citus refuses a correlated subquery next to a set-returning function"
        assert "except" not in statement, "Citus refuses EXCEPT in a lateral query"
        # A fence in a query is none of these.
        unfenced = re.sub(r"limit all\s+offset 0", "", statement)
        assert "limit" not in unfenced, "each row would be carried through the coordinator"
        joined = statement.partition("select")[2]
        if "left outer join (select legacy" in joined and "= any(" in joined:
            # The server is chosen by the users that both sides name.
            assert "legacy.daily_engagement_scores.user_id = any(" in joined, statement
        if "insert into" in statement:
            assert "insert into legacy.daily_engagement_scores (id, " in statement, "its default is volatile"


@pytest.fixture
def cluster_url() -> Iterator[sa.URL]:
    """The URL of a migrated database of a Citus cluster, emptied again after the test."""
    assert CLUSTER is not None
    url = parse_url(CLUSTER, "MOMENTUM_TEST_CITUS_URL")
    prepare_roles(url)
    apply_stand_in(url)  # It refuses a database that has an auth.users, before anything is changed.
    try:
        migrate(url)
        yield url
    finally:
        for relation in (
            "view public.daily_momentum_scores",
            "function public.share_claims_with_workers()",
            "table public.habit_index, public.motivation_journal, public.momentum_events, public.momentum_pillars",
            "schema legacy, momentum_internal, auth, extensions, app",
        ):
            kind, _, names = relation.partition(" ")
            execute(url, f"drop {kind} if exists {names} cascade")


@pytest.mark.skipif(CLUSTER is None, reason="MOMENTUM_TEST_CITUS_URL names no Citus cluster")
def test_a_cluster_is_filled_and_comes_back(cluster_url: sa.URL) -> None:
    owner = f"momentum_{uuid.uuid4().hex}"
    run(cluster_url, VIEWS.format(owner=owner))
    schema = dump(cluster_url)
    run(cluster_url, LOAD)
    apply(cluster_url, DISTRIBUTE)
    verify(cluster_url)
    with pytest.raises(PreflightError, match="undistribute"):
        alembic.command.downgrade(alembic_config(cluster_url, purge=True), "base")
    verify(cluster_url)
    engine = engine_of(cluster_url)
    with engine.connect() as connection:
        assert look_at(connection, "insert", dry_run=False, with_events=False).distributed
    expected = missing(cluster_url)
    dry = backfill(cluster_url, "--dry-run")
    assert dry["inserted"] == len(expected)
    report = backfill(cluster_url, "--workers", "2")
    assert (report["inserted"], report["failed"], report["left_over"]) == (len(expected), 0, 0)
    assert not missing(cluster_url)
    assert backfill(cluster_url)["inserted"] == 0
    rows = rows_of(cluster_url)
    apply(cluster_url, UNDISTRIBUTE)
    assert rows_of(cluster_url) == rows
    assert dump(cluster_url) == schema
    verify(cluster_url)
    run(cluster_url, f"drop schema app cascade; drop owned by {owner}; drop role {owner}")
    # Nothing of a shard is left that a purge might take for somebody else's.
    alembic.command.downgrade(alembic_config(cluster_url, purge=True), "base")
    assert not fetch(cluster_url, "select nspname from pg_namespace where nspname = 'momentum_internal'")


@pytest.mark.skipif(CLUSTER is None, reason="MOMENTUM_TEST_CITUS_URL names no Citus cluster")
def test_one_server_of_a_cluster_inserts_a_page(cluster_url: sa.URL) -> None:
    run(cluster_url, LOAD)
    apply(cluster_url, DISTRIBUTE)
    engine = engine_of(cluster_url)
    statements: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2:4]))
    for active_within in (None, 3):
        with engine.connect() as connection:
            database = look_at(connection, "insert", dry_run=False, with_events=active_within is not None)
            eligibility = Eligibility(database.account_columns, DAYS, database.now, active_within=active_within)
            pages = ShardedPages(database.scores, eligibility, takes_ids=True)
            gaps = pages.find_by_user(connection, EVERYBODY).value.gaps
            page = take(deque(gaps), 500)
            assert 0 < len(page) < len(gaps)
            statements.clear()
            assert pages.insert_page(connection, page, uuid.uuid4(), keyed=True, is_first=True).value.by_day
            connection.rollback()
            [(statement, parameters)] = [one for one in statements if "INSERT INTO" in one[0]]
            plan = "\n".join(connection.exec_driver_sql(f"explain {statement}", parameters).scalars())
        assert "Task Count: 1" in plan
        assert "->  Insert on daily_engagement_scores_" in plan, "the rows are carried through the coordinator"


@pytest.mark.skipif(CLUSTER is None, reason="MOMENTUM_TEST_CITUS_URL names no Citus cluster")
def test_every_option_works_on_a_cluster(cluster_url: sa.URL, tmp_path: Path) -> None:
    run(cluster_url, LOAD)
    apply(cluster_url, DISTRIBUTE)
    before = rows_of(cluster_url)
    expected = missing(cluster_url)
    user, day = sorted(expected)[len(expected) // 2]
    run(
        cluster_url,
        "alter table legacy.daily_engagement_scores add constraint ck_refused "
        f"check (user_id <> '{user}' or score_ts <> '{day} 00:00:00+00')",
    )
    manifest = tmp_path / "rows.jsonl"
    within = backfill(cluster_url, "--active-within", "3", "--dry-run")
    active = backfill(cluster_url, "--active-within", "3", "--manifest", str(manifest), "--max-error-rate", "1")
    assert active["eligible"] == within["eligible"]
    tried = active["inserted"] + active["failed"]
    assert tried == within["inserted"]
    assert 0 < tried < len(expected)
    report = backfill(cluster_url, "--manifest", str(manifest), "--max-error-rate", "1", "--commit-every", "50")
    assert report["failed"] == 1
    assert missing(cluster_url) == {(user, day)}

    listed = len(manifest.read_text(encoding="utf-8").splitlines())
    assert listed == len(expected) - 1
    engine = engine_of(cluster_url)
    settings = Settings(days=DAYS, commit_every=50)
    dry = run_undo(engine, manifest, dataclasses.replace(settings, dry_run=True))
    assert (dry.listed, dry.deleted) == (listed, listed)
    stop: list[bool] = []
    first = run_undo(
        engine, manifest, settings, on_progress=lambda _: stop.append(True), should_stop=lambda: len(stop) > 1
    )
    assert first.interrupted
    assert 0 < first.deleted < listed
    again = run_undo(engine, manifest, settings)
    assert (again.deleted, again.absent, again.failed) == (listed - first.deleted, first.deleted, 0)
    assert missing(cluster_url) == expected
    assert rows_of(cluster_url) == before


@pytest.mark.skipif(CLUSTER is None, reason="MOMENTUM_TEST_CITUS_URL names no Citus cluster")
def test_a_page_waits_for_a_lock_on_a_shard_no_longer_than_it_may(cluster_url: sa.URL) -> None:
    run(cluster_url, LOAD)
    apply(cluster_url, DISTRIBUTE)
    expected = missing(cluster_url)
    user, day = sorted(expected)[len(expected) // 2]
    with engine_of(cluster_url).connect() as client:
        client.execute(
            sa.text("insert into legacy.daily_engagement_scores (user_id, score_ts, score) values (:user, :day, 1)"),
            {"user": user, "day": datetime.datetime.combine(day, datetime.time(), datetime.UTC)},
        )
        report = backfill(cluster_url, "--lock-timeout", "0.2", "--attempts", "2", "--max-error-rate", "1")
        client.rollback()
    # A user who is locked is taken to be locked on all days.
    left = missing(cluster_url)
    assert (user, day) in left <= {row for row in expected if row[0] == user}
    assert (report["inserted"], report["failed"]) == (len(expected) - len(left), len(left))
    [reason] = report["reasons"]
    assert (reason["sqlstate"], reason["message"]) == ("55P03", "canceling statement due to lock timeout")


@pytest.mark.skipif(CLUSTER is None, reason="MOMENTUM_TEST_CITUS_URL names no Citus cluster")
def test_clients_of_a_cluster_see_and_change_their_own_rows(cluster_url: sa.URL) -> None:
    run(cluster_url, LOAD)
    run(cluster_url, "create policy own on public.habit_index to authenticated using (auth.uid() = user_id)")
    apply(cluster_url, DISTRIBUTE)
    run(cluster_url, "select truncate_local_data_after_distributing_table('auth.users')")
    held = "select count(*) from only pg_class where oid = 'auth.users'::regclass and pg_relation_size(oid) > 0"
    assert fetch(cluster_url, held) == [0]
    with engine_of(cluster_url).connect() as connection:
        user, rows = connection.execute(
            sa.text("select user_id, count(*) from legacy.daily_engagement_scores group by 1 order by 1 limit 1")
        ).one()
        connection.rollback()

        def begin(role: str, *, shared: bool) -> None:
            """Begin a transaction as PostgREST does."""
            claims = json.dumps({"sub": str(user), "role": role})
            connection.execute(
                sa.text("select set_config('role', :role, true), set_config('request.jwt.claims', :claims, true)"),
                {"role": role, "claims": claims},
            )
            if shared:
                connection.exec_driver_sql("select public.share_claims_with_workers()")

        seen = sa.text("select count(*) from public.daily_momentum_scores")
        for role, shared, expected in (
            ("authenticated", False, 0),
            ("authenticated", True, rows),
            ("service_role", False, len(fetch(cluster_url, "select id from legacy.daily_engagement_scores"))),
        ):
            begin(role, shared=shared)
            assert connection.scalar(seen) == expected
            connection.rollback()
        begin("authenticated", shared=True)
        upsert = """
            with written as (
              insert into public.habit_index (user_id, index_date, habit_score)
              select r.user_id, r.index_date, r.habit_score
              from json_to_recordset(:rows) as r (user_id uuid, index_date date, habit_score numeric)
              on conflict (user_id, index_date) do update set habit_score = excluded.habit_score
              returning public.habit_index.*
            )
            select count(*) from (select * from written) as seen
        """
        own = json.dumps([{"user_id": str(user), "index_date": "2026-03-01", "habit_score": 50}])
        assert [connection.scalar(sa.text(upsert), {"rows": own}) for _ in range(2)] == [1, 1]
        connection.commit()
        begin("authenticated", shared=True)
        with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
            connection.execute(sa.text(upsert), {"rows": own.replace(str(user), str(uuid.uuid4()))})


@pytest.mark.skipif(CLUSTER is None, reason="MOMENTUM_TEST_CITUS_URL names no Citus cluster")
@pytest.mark.parametrize("times", [1, 3])
def test_a_run_survives_that_a_worker_of_a_cluster_is_lost_in_the_midst_of_a_page(
    cluster_url: sa.URL, times: int
) -> None:
    run(cluster_url, LOAD)
    apply(cluster_url, DISTRIBUTE)
    expected = missing(cluster_url)
    user, day = sorted(expected)[len(expected) // 2]
    engine = engine_of(cluster_url)

    def end_waiting_page() -> int:
        """End the session on a worker whose page waits for our lock, as a crash would; return how many were ended."""
        with engine.connect() as connection:
            ended = connection.exec_driver_sql(
                "select sum(result::int) from run_command_on_workers($$ select count(pg_terminate_backend(pid)) "
                "from pg_stat_activity where wait_event_type = 'Lock' and query like 'INSERT%%' $$) where success"
            ).scalar()
        return int(ended or 0)

    settings = Settings(days=DAYS, limits=Limits(attempts=5, backoff=Backoff(0.001, 2, 0.01)))
    with ThreadPoolExecutor() as pool, engine.connect() as client:
        client.execute(
            sa.text("insert into legacy.daily_engagement_scores (user_id, score_ts, score) values (:user, :day, 1)"),
            {"user": user, "day": datetime.datetime.combine(day, datetime.time(), datetime.UTC)},
        )
        running = pool.submit(run_backfill, engine, settings)
        try:
            for _ in range(times):
                until(end_waiting_page, "a page on a worker waits")
        finally:
            client.rollback()
        report = running.result()
    assert report.retries >= times
    assert (report.inserted, report.raced, report.failed, report.left_over) == (len(expected), 0, 0, 0)
    assert not missing(cluster_url)


def test_rows_of_a_distributed_table_are_kept_if_all_are_there(url: sa.URL) -> None:
    run(url, LOAD)
    with engine_of(url).connect() as connection:
        database = look_at(connection, "insert", dry_run=False, with_events=False)
        eligibility = Eligibility(database.account_columns, DAYS, database.now)
        pages = ShardedPages(database.scores, eligibility, takes_ids=True)
        users = sorted(connection.scalars(sa.text("select id from auth.users")).all())
        missing = pages.list_missing(connection, users).value
        token = uuid.uuid4()
        gaps = Pages(database.scores, eligibility).find_by_user(connection, users).value.gaps
        page = [split(next(gap for gap in gaps if gap.missing > 1), 1)[0]]
        inserted = pages.insert_page(connection, page, token, keyed=True, is_first=True).value.rows
        assert inserted is not None
        assert pages.is_kept(connection, inserted, 0)
        found = pages.find_written(connection, users, 0, token)
        assert found is not None
        assert found.rows == inserted
        assert found.by_day == Counter([inserted[0][1]])
        assert pages.find_written(connection, users, 0, uuid.uuid4()) is None
        absent = next(row for row in missing if row not in inserted)
        assert not pages.is_kept(connection, [*inserted, absent], 0)
