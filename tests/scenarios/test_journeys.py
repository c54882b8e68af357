"""On every way between revisions, up or down, no row is lost and no foreign object is touched."""

import io
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from pytest_alembic.runner import MigrationContext as Runner
from pytest_alembic.tests import (
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
from pytest_alembic.tests.experimental import test_all_models_register_on_metadata as all_models_register_on_metadata

import momentum.migrate.operations
import momentum.models
from momentum.base import Base
from momentum.errors import NotMigratedError
from momentum.migrate.config import SCORES, alembic_config
from momentum.testing import Server
from tests.catalog import differences, dump, snapshot
from tests.migrating import (
    HISTORY,
    SCORES_ADOPTED,
    WAYS,
    current,
    database_with_scores,
    execute,
    migrate_to,
    rows_of,
    run,
    visible,
)
from tests.samples import Values, add_user, lost, tables, values_of, write_rows
from tests.server import engine_of

__all__ = [
    "test_model_definitions_match_ddl",
    "test_single_head_revision",
    "test_up_down_consistency",
    "test_upgrade",
]


# Differences that clients could see: a downgrade parks tables in the private schema. pytest-alembic's own test of the
# traces that a downgrade leaves is not imported above, because it takes a parked column for one.
DUMPED = ("--schema-only", "--exclude-schema=momentum_internal")


@pytest.fixture(name="alembic_config")
def config_of_plugin(supabase_url: sa.URL) -> Config:
    """The history that pytest-alembic's tests run."""
    return alembic_config(supabase_url)


@pytest.fixture
def alembic_engine(supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    """The database of pytest-alembic's tests. One of them fails on the per cent signs of a socket's path in the URL."""
    if isinstance(host := supabase_url.query.get("host"), str):
        monkeypatch.setenv("PGHOST", host)
        supabase_url = supabase_url.difference_update_query(["host"])
    return engine_of(supabase_url)


def test_all_models_register_on_metadata(alembic_runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    # The plugin looks for a MetaData among the package's names.
    monkeypatch.setattr(momentum.models, "metadata", Base.metadata, raising=False)
    all_models_register_on_metadata(alembic_runner, model_package="momentum.models")


@pytest.fixture(params=SCORES)
def scores_url(server: Server, request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """A database that is not migrated, with a score table to adopt, of each layout and in each schema, or without."""
    url = database_with_scores(server, request.param)
    yield url
    server.drop_database(url)


def every_way() -> list[str]:
    """Return the stops of a journey that goes from each revision to each other one."""
    return [
        stop
        for position, revision in enumerate(HISTORY)
        for stop in [revision, *(stop for other in HISTORY[position + 1 :] for stop in (other, revision))]
    ]


@pytest.mark.slow
def test_no_row_is_lost_on_any_way_from_any_revision_to_any_other(scores_url: sa.URL) -> None:
    ways = set(pairwise(every_way()))
    assert {(a, b) for a in HISTORY for b in HISTORY if a != b} <= ways, "the journey leaves out a way"
    with engine_of(scores_url).begin() as connection:
        user = add_user(connection)
    written: Values = {}
    came_from = "base"
    for ordinal, stop in enumerate(every_way()):
        migrate_to(scores_url, stop)
        # Rows are compared by the columns that both sides have: a later revision adds some.
        assert not lost(written, values_of(scores_url)), f"values are gone from {came_from} to {stop}"
        # What is written at one revision is there at every later stop.
        with engine_of(scores_url).begin() as connection:
            write_rows(connection, user, ordinal)
        written = values_of(scores_url)
        came_from = stop
    rows = {(table, key) for table, key, _ in written}
    by_table = Counter(table for table, _ in rows)
    assert min(by_table.values()) >= 12, "the journey wrote too few rows to prove anything"
    assert len(by_table) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(("scores", "predecessors"), WAYS)
def test_each_revision_goes_up_and_down_and_leaves_everything_as_it_was(
    server: Server, scores: str, predecessors: bool
) -> None:
    url = database_with_scores(server, scores, predecessors=predecessors)
    options = {"existing": "adopt", "access": "close", "verify": "no"}
    try:
        dumps, facts = [dump(url, *DUMPED)], snapshot(url)
        assert "CREATE TABLE auth.users" in dumps[0]
        for below, revision in pairwise(HISTORY):
            migrate_to(url, revision, **options)
            after = snapshot(url)
            migrate_to(url, below)
            # A downgrade leaves only private objects: the trigger function, Alembic's table and the parked tables.
            parked = snapshot(url)
            assert visible(parked) == visible(facts), f"{revision} leaves something behind"
            assert dump(url, *DUMPED) == dumps[-1], f"{revision} leaves something behind"
            migrate_to(url, revision, **options)
            assert snapshot(url) == after, f"the second upgrade to {revision} makes something other than the first"
            migrate_to(url, below)
            assert snapshot(url) == parked, f"the second downgrade of {revision} leaves something other than the first"
            migrate_to(url, revision, **options)
            dumps, facts = [*dumps, dump(url, *DUMPED)], after
        assert differences(url) == []
        with engine_of(url).begin() as connection:
            write_rows(connection, add_user(connection), 0)
        # Each downgrade has rows to park now.
        for below, before in list(zip(HISTORY, dumps, strict=True))[-2::-1]:
            migrate_to(url, below)
            assert dump(url, *DUMPED) == before, f"{below}, on the way from head to base"
        with pytest.raises(NotMigratedError):
            differences(url)
        migrate_to(url, HISTORY[-1], **options)
        assert differences(url) == []
        assert snapshot(url) == facts
    finally:
        server.drop_database(url)


def test_steps_and_one_leap_come_to_the_same_schema(supabase_url: sa.URL, url: sa.URL) -> None:
    for revision in HISTORY:
        migrate_to(supabase_url, revision)
    assert snapshot(supabase_url) == snapshot(url)


def test_a_second_upgrade_changes_nothing(url: sa.URL) -> None:
    before = snapshot(url)
    alembic.command.upgrade(alembic_config(url), "head")
    assert snapshot(url) == before


@pytest.mark.parametrize("schema", ["legacy", "public"])
def test_an_adopted_table_stays_as_it_is_but_for_its_key(server: Server, schema: str) -> None:
    url = database_with_scores(server, f"{schema}.seed")
    try:
        user = execute(url, "insert into auth.users (id) values (gen_random_uuid()) returning id")
        execute(url, f"insert into {schema}.daily_engagement_scores values (:user, now(), 7, null)", user=user)
        before, rows = snapshot(url, of="daily_engagement_scores"), rows_of(url)

        migrate_to(url, HISTORY[-1])
        recorded = execute(url, "select (s.*)::text from momentum_internal.score_table as s")
        assert recorded == (
            f"(t,{schema}.daily_engagement_scores,seed,f,f,f,{schema}.uq_daily_engagement_scores_user_id_utc_day,t)"
        )
        at_head = snapshot(url, of=f"{schema}.daily_engagement_scores")
        added = [fact for fact in at_head if fact not in before]
        assert all("uq_daily_engagement_scores_user_id_utc_day" in fact or fact.startswith("view") for fact in added)
        assert [fact for fact in before if fact.split(" | ")[0] != "type" and fact not in at_head] == []

        migrate_to(url, "base")
        assert visible(snapshot(url, of="daily_engagement_scores")) == before
        assert rows_of(url)["daily_engagement_scores"] == rows["daily_engagement_scores"]
    finally:
        server.drop_database(url)


def test_a_fresh_score_table_is_recorded_as_ours(connection: sa.Connection) -> None:
    recorded = connection.scalar(sa.text("select (s.*)::text from momentum_internal.score_table as s"))
    key = "legacy.uq_daily_engagement_scores_user_id_utc_day"
    assert recorded == f"(t,legacy.daily_engagement_scores,seed,t,t,t,{key},t)"


def test_before_the_key_is_made_the_record_says_so(server: Server) -> None:
    url = database_with_scores(server, "legacy.seed")
    try:
        migrate_to(url, SCORES_ADOPTED)
        record = execute(url, "select (s.unique_index, s.created_index)::text from momentum_internal.score_table as s")
        assert record == "(,f)"
    finally:
        server.drop_database(url)


def test_the_version_table_stands_in_the_private_schema_only(connection: sa.Connection) -> None:
    schemas = connection.scalars(
        sa.text("select relnamespace::regnamespace::text from pg_class where relname = 'alembic_version'")
    )
    assert schemas.all() == ["momentum_internal"]


def test_users_deleted_while_tables_are_parked_take_their_parked_rows_along(url: sa.URL) -> None:
    with engine_of(url).begin() as connection:
        gone, staying = add_user(connection), add_user(connection)
        write_rows(connection, gone, 0)
        write_rows(connection, staying, 1)
    migrate_to(url, "base")
    execute(url, "delete from auth.users where id = :gone", gone=gone)
    migrate_to(url, HISTORY[-1])
    with engine_of(url).connect() as connection:
        standing = tables(connection)
        pillars = standing.pop("momentum_pillars")
        assert connection.scalar(sa.text(f"select count(*) from {pillars}")) == 2
        for table in standing.values():
            assert connection.scalars(sa.text(f"select user_id from {table}")).all() == [staying]


def test_a_parked_table_keeps_its_grants_policies_and_trigger(url: sa.URL) -> None:
    def facts(name: str, schema: str) -> list[str]:
        facts = snapshot(url, of=f"{schema}.{name}")
        facts = [fact.replace(f"{schema}.", "").replace("momentum_internal.", "") for fact in facts]
        return sorted(fact for fact in facts if fact.startswith(("relation", "policy", "trigger", "constraint")))

    run(url, "create policy mine on public.habit_index for select to authenticated using (user_id is not null)")
    standing = facts("habit_index", "public")
    assert {fact.split(" | ")[0] for fact in standing} == {"relation", "policy", "trigger", "constraint"}
    migrate_to(url, "base")
    assert facts("habit_index", "momentum_internal") == standing
    for role in ("anon", "authenticated", "service_role"):
        with engine_of(url).connect() as connection:
            connection.execute(sa.text(f"set local role {role}"))
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied for schema momentum_internal"):
                connection.execute(sa.text("select from momentum_internal.habit_index"))


@pytest.mark.parametrize("foreign", ["table legacy.theirs ()", "function legacy.theirs() returns int return 1"])
def test_schema_legacy_stays_for_what_others_put_there(url: sa.URL, foreign: str) -> None:
    run(url, f"create {foreign}")
    migrate_to(url, "base")
    assert snapshot(url, of="legacy.theirs")
    migrate_to(url, HISTORY[-1])
    assert execute(url, "select created_schema from momentum_internal.score_table") is False
    run(url, f"drop {foreign.split()[0]} legacy.theirs")
    migrate_to(url, "base")
    assert snapshot(url, of="schema | legacy"), "a schema that was there before the upgrade is not ours to drop"


def test_schema_legacy_of_our_own_goes_when_it_is_empty(url: sa.URL) -> None:
    migrate_to(url, "base")
    assert not snapshot(url, of="schema | legacy")


FOREIGN = """
create table public.theirs (id int primary key, momentum text);
create index theirs_by_momentum on public.theirs (momentum);
create view public.their_view as select * from public.theirs;
create materialized view public.their_summary as select count(*) from public.theirs;
create sequence public.their_sequence;
create schema theirs;
create table theirs.momentum_events (id int);
create index ix_momentum_events_pillar_id on theirs.momentum_events (id);
"""


def test_check_is_clean_and_ignores_what_is_not_ours(url: sa.URL) -> None:
    run(url, FOREIGN)
    alembic.command.check(alembic_config(url))


@pytest.mark.parametrize(
    "drift",
    [
        "alter table public.habit_index drop column details",
        "alter table public.habit_index alter column habit_score drop not null",
        "alter table public.habit_index alter column updated_at drop default",
        "alter table public.habit_index alter column habit_score type numeric(6, 2)",
        "alter table public.habit_index drop constraint uq_habit_index_user_id_index_date",
        "alter table public.habit_index drop constraint fk_habit_index_user_id_users",
        "drop index public.ix_momentum_events_user_id_event_ts",
        "comment on column public.momentum_pillars.name is 'changed'",
        "drop table public.habit_index",
    ],
)
def test_check_notices_a_drift(url: sa.URL, drift: str) -> None:
    run(url, drift)
    with pytest.raises(CommandError, match="New upgrade operations detected"):
        alembic.command.check(alembic_config(url))


COMMENT = "100 % of :it, '' %s %(x)s $1 \\ é"


@pytest.mark.parametrize("as_sql", [False, True], ids=["online", "offline"])
def test_a_comment_and_a_check_arrive_letter_by_letter(supabase_url: sa.URL, as_sql: bool) -> None:
    def create(op: Operations) -> None:
        op.create_table(
            "odd",
            sa.Column("name", sa.Text, comment=COMMENT),
            sa.CheckConstraint("name not like '%a:b%'", name="ck_odd_name"),
            schema="public",
        )

    find_check = "select pg_get_constraintdef(oid) from pg_constraint where conname = 'ck_odd_name'"
    with engine_of(supabase_url).begin() as connection:
        if as_sql:
            buffer = io.StringIO()
            options = {"as_sql": True, "literal_binds": True, "output_buffer": buffer}
            offline = MigrationContext.configure(
                dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, opts=options
            )
            Operations(offline).take_back_or_create_table("odd", create)  # type: ignore[attr-defined]
            driver_connection = connection.connection.driver_connection
            assert driver_connection is not None
            driver_connection.execute(buffer.getvalue())
        else:
            online = MigrationContext.configure(connection)
            Operations(online).take_back_or_create_table("odd", create)  # type: ignore[attr-defined]
        comment = connection.scalar(sa.text("select col_description('public.odd'::regclass, 1)"))
        check = connection.scalar(sa.text(find_check))
    assert comment == COMMENT
    assert "'%a:b%'" in check


def test_take_back_does_nothing_where_its_condition_fails(connection: sa.Connection) -> None:
    def create(op: Operations) -> None:
        op.create_table("odd", sa.Column("id", sa.Integer), schema="public")

    operations = Operations(MigrationContext.configure(connection))
    operations.take_back_or_create_table("odd", create, only_if="select false")  # type: ignore[attr-defined]
    assert connection.scalar(sa.text("select to_regclass('public.odd')")) is None
    operations.take_back_or_create_table("odd", create, only_if="select true")  # type: ignore[attr-defined]
    assert connection.scalar(sa.text("select to_regclass('public.odd')")) is not None
    operations.park_table("odd")  # type: ignore[attr-defined]
    assert connection.scalar(sa.text("select to_regclass('momentum_internal.odd')")) is not None


def test_current_is_head_after_an_upgrade(url: sa.URL) -> None:
    assert current(url) == HISTORY[-1]
