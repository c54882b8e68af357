"""The app's own versions of our tables are adopted on request, with their rows, and come back."""

import logging
import re
import uuid
from collections.abc import Iterator

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.errors import PreflightError
from momentum.migrate.config import alembic_config
from momentum.testing import Server
from tests.catalog import snapshot
from tests.migrating import (
    HISTORY,
    ONE_OF_EACH,
    current,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    run,
    visible,
)
from tests.samples import add_user, write_rows
from tests.server import engine_of

HEAD = HISTORY[-1]
TABLES = ("momentum_pillars", "momentum_events", "motivation_journal", "habit_index")
A, B = (uuid.UUID(int=n) for n in (1, 2))


@pytest.fixture(params=ONE_OF_EACH)
def app_url(server: Server, request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """A database with the app's own versions of our tables, not migrated, and three rows in each."""
    url = database_with_scores(server, request.param, predecessors=True)
    with engine_of(url).begin() as connection:
        user = add_user(connection)
        for ordinal in range(3):
            write_rows(connection, user, ordinal)
        connection.execute(sa.text("insert into auth.users (id) values (:a), (:b)"), {"a": A, "b": B})
    yield url
    server.drop_database(url)


@pytest.fixture
def url(server: Server) -> Iterator[sa.URL]:
    """The same in one layout, with two users and without rows."""
    url = database_with_scores(server, "fresh", predecessors=True)
    run(url, f"insert into auth.users (id) values ('{A}'), ('{B}')")
    yield url
    server.drop_database(url)


def up(url: sa.URL) -> None:
    migrate_to(url, HEAD, existing="adopt", access="close")


def down(url: sa.URL) -> None:
    migrate_to(url, "base")


def columns_of(url: sa.URL) -> dict[str, str]:
    """Return for each of the app's tables an expression of all its columns as text.

    Its numeric has no scale, while ours writes 99.9 as 99.90: numbers are compared as numbers.
    """
    described = fetch(
        url,
        """
        select jsonb_build_object(attrelid::regclass::text, string_agg(
          case when atttypid = 'numeric'::regtype then format('trim_scale(%I)', attname) else quote_ident(attname) end,
          ', ' order by attnum
        ))
        from pg_attribute
        where attrelid in (select to_regclass('public.' || name) from unnest(cast(:tables as text[])) as name)
          and attnum > 0 and not attisdropped
        group by attrelid
        """,
        tables=list(TABLES),
    )
    return {name.removeprefix("public."): row for table in described for name, row in table.items()}


def rows_in(url: sa.URL, columns: dict[str, str], schema: str = "public") -> dict[str, list[str]]:
    """Return the rows of our tables, in the columns that the app's versions have too."""
    return {
        name: fetch(url, f"select row({expression})::text from {schema}.{name} order by 1")
        for name, expression in columns.items()
    }


def all_rows(url: sa.URL, prefix: str = "public.") -> dict[str, list[str]]:
    return {name: fetch(url, f"select t::text from {prefix}{name} as t order by 1") for name in TABLES}


def test_without_being_asked_the_upgrade_refuses_and_says_how_to_ask(app_url: sa.URL) -> None:
    before, rows = snapshot(app_url), all_rows(app_url)
    with pytest.raises(PreflightError) as refusal:
        migrate_to(app_url, HEAD)
    message = str(refusal.value)
    assert [name for name in TABLES if f"public.{name}" not in message] == []
    assert "; existing=adopt parks them" in message
    assert "\n" not in message
    assert (snapshot(app_url), all_rows(app_url)) == (before, rows)


@pytest.mark.slow
def test_the_apps_tables_are_parked_copied_and_put_back(app_url: sa.URL, server: Server) -> None:
    before, rows = visible(snapshot(app_url)), all_rows(app_url)
    columns = columns_of(app_url)
    common = rows_in(app_url, columns)
    assert {len(found) for found in common.values()} == {3}
    for _ in range(2):
        up(app_url)
        assert rows_in(app_url, columns) == common
        assert all_rows(app_url, "momentum_internal.predecessor_") == rows
        down(app_url)
        assert visible(snapshot(app_url)) == before
        assert all_rows(app_url) == rows
    up(app_url)

    # Clients see the same at head as if there had never been other tables.
    clean = server.create_database(server.supabase_template())
    try:
        migrate_to(clean, HEAD)

        def ours(facts: list[str]) -> list[str]:
            return [fact for fact in facts if "predecessor" not in fact and any(f"public.{t}" in fact for t in TABLES)]

        assert ours(snapshot(app_url)) == ours(snapshot(clean))
    finally:
        server.drop_database(clean)


def test_the_parked_tables_are_private(url: sa.URL) -> None:
    up(url)
    for role in ("anon", "authenticated", "service_role"):
        for name in (*(f"predecessor_{table}" for table in TABLES), "predecessor_rows"):
            with engine_of(url).connect() as connection:
                connection.execute(sa.text(f"set local role {role}"))
                with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                    connection.execute(sa.text(f"select from momentum_internal.{name}"))


def test_adopting_is_no_matter_where_there_is_nothing_to_adopt(supabase_url: sa.URL, server: Server) -> None:
    migrate_to(supabase_url, HEAD, existing="adopt", access="close")
    with server.database() as plain:
        assert snapshot(supabase_url) == snapshot(plain)


def test_some_of_the_apps_tables_are_enough(url: sa.URL) -> None:
    """The app made them in two migrations, and a database may have had only the first."""
    run(url, "drop table public.motivation_journal, public.habit_index")
    run(url, "insert into public.momentum_pillars (name) values ('sleep')")
    before = visible(snapshot(url))
    up(url)
    assert fetch(url, "select name from public.momentum_pillars") == ["sleep"]
    run(url, f"insert into public.habit_index (user_id, index_date, habit_score) values ('{A}', '2024-03-01', 1)")
    down(url)
    assert visible(snapshot(url)) == before
    up(url)
    assert execute(url, "select count(*) from public.habit_index") == 1


def test_the_apps_view_alone_is_adopted_too(server: Server) -> None:
    url = database_with_scores(server, "public.production")
    try:
        run(
            url,
            "create view public.daily_momentum_scores as select user_id, final_score as score, score_date, "
            "breakdown as pillar_breakdown from public.daily_engagement_scores;"
            "comment on view public.daily_momentum_scores is 'of the app'",
        )
        before = visible(snapshot(url))
        with pytest.raises(PreflightError, match=r"view public\.daily_momentum_scores.*; existing=adopt"):
            migrate_to(url, HEAD)
        up(url)
        (facts,) = snapshot(url, of="relation | public.daily_momentum_scores |")
        assert "security_invoker=true" in facts
        down(url)
        assert visible(snapshot(url)) == before
    finally:
        server.drop_database(url)


@pytest.mark.parametrize(
    "foreign",
    [
        "create table public.{} ()",
        "create table public.{} (id int primary key)",
        "create table public.{} (like momentum_like including all, mood text not null)",
        "create table public.{} (like momentum_like including all, unique (id), pillar_id text)",
        "create view public.{} as select 1 as one",
    ],
)
def test_what_is_no_version_of_ours_is_refused_all_the_same(supabase_url: sa.URL, foreign: str) -> None:
    like = (
        "create table public.momentum_like (id uuid, user_id uuid, index_date date, habit_score numeric, "
        "details jsonb, created_at timestamptz, updated_at timestamptz);"
    )
    run(supabase_url, like + foreign.format("habit_index").replace("momentum_like", "public.momentum_like"))
    before = snapshot(supabase_url)
    with pytest.raises(PreflightError, match=r"public\.habit_index"):
        migrate_to(supabase_url, HEAD, existing="adopt", access="close")
    assert snapshot(supabase_url) == before


def test_inside_a_transaction_nothing_can_be_copied_in_pages(url: sa.URL) -> None:
    before = snapshot(url)
    with engine_of(url).connect() as connection:
        connection.execute(sa.text("select 1"))
        config = alembic_config("", existing="adopt", access="close")
        config.attributes["connection"] = connection
        with pytest.raises(PreflightError, match=r"public\.\w+ is migrated in steps that commit"):
            alembic.command.upgrade(config, "head")
        connection.commit()
    assert snapshot(url) == before


DEPENDENTS = {
    "a view": "create view public.theirs as select id from public.momentum_events",
    "a materialized view": "create materialized view public.theirs as select id from public.momentum_events",
    "a foreign key": "create table public.theirs (event_id uuid references public.momentum_events (id))",
    "a function with a body that is parsed": "create function public.theirs() returns bigint "
    "begin atomic select count(*) from public.momentum_events; end",
    "a function that returns its rows": "create function public.theirs() returns setof public.momentum_events "
    "language sql as 'select * from momentum_events'",
    "a policy": "create table public.theirs (id uuid); create policy theirs on public.theirs "
    "using (exists (select from public.momentum_events))",
    "a child": "create table public.theirs () inherits (public.momentum_events)",
}


@pytest.mark.parametrize("dependent", DEPENDENTS)
def test_what_would_go_on_with_the_parked_table_is_named(url: sa.URL, dependent: str) -> None:
    run(url, DEPENDENTS[dependent])
    before = snapshot(url)
    with pytest.raises(PreflightError, match=r"public\.theirs.*public\.momentum_events"):
        up(url)
    assert snapshot(url) == before


def test_the_apps_tables_may_depend_on_each_other_in_whatever_order_they_are_adopted(url: sa.URL) -> None:
    run(
        url,
        """
        alter table public.habit_index add pillar_id uuid references public.momentum_pillars (id);
        create policy pillars on public.habit_index using (exists (select from public.momentum_pillars));
        alter table public.momentum_pillars add latest_id uuid references public.momentum_events (id);
        """,
    )
    before = visible(snapshot(url))
    migrate_to(url, HISTORY[2], existing="adopt", access="close")
    up(url)
    down(url)
    assert visible(snapshot(url)) == before


def test_what_hangs_on_the_apps_tables_is_parked_and_put_back_with_them(url: sa.URL) -> None:
    run(
        url,
        """
        alter table public.habit_index enable row level security;
        create policy "own rows" on public.habit_index using ((select auth.uid()) = user_id);
        create function public.note() returns trigger language plpgsql as $$ begin return new; end $$;
        create trigger note after insert on public.habit_index for each row execute function public.note();
        create publication supabase_realtime for table public.habit_index;
        create function public.count_habits() returns bigint language sql as 'select count(*) from habit_index';
        create index theirs on public.habit_index (created_at) where deleted_at is null;
        alter table public.habit_index add column mood text default 'none';
        comment on table public.habit_index is 'of the app';
        revoke all on table public.habit_index from anon;
        """,
    )
    run(url, f"insert into public.habit_index (user_id, index_date, habit_score) values ('{A}', '2024-03-01', 7)")
    before, rows = visible(snapshot(url)), all_rows(url)
    up(url)
    assert execute(url, "select public.count_habits()") == 1
    down(url)
    assert visible(snapshot(url)) == before
    assert all_rows(url) == rows


NOT_CONFORMING = {
    "momentum_pillars": ["insert into public.momentum_pillars (name) values ('  ')"],
    "momentum_events": [
        "insert into public.momentum_events (event_type) values ('nobody')",
        f"insert into public.momentum_events (user_id, event_type) values ('{A}', ' ')",
        f"insert into public.momentum_events (user_id, event_type, payload) values ('{A}', 'array', '[1, 2]')",
        f"insert into public.momentum_events (user_id, event_type, payload) values ('{A}', 'null', 'null')",
        "insert into public.momentum_events (user_id, pillar_id, event_type) select "
        f"'{A}', id, 'of a pillar that does not conform' from public.momentum_pillars where name = '  '",
    ],
    "motivation_journal": ["insert into public.motivation_journal (date) values ('2024-03-01')"],
    "habit_index": [
        "insert into public.habit_index (index_date, habit_score) values ('2024-03-01', 1)",
        *(
            "insert into public.habit_index (user_id, index_date, habit_score) values "
            f"('{A}', date '2024-03-01' + {day}, '{score}')"
            for day, score in enumerate(["100.01", "-0.01", "12.345", "NaN", "Infinity"])
        ),
        "insert into public.habit_index (user_id, index_date, habit_score, details) values "
        f"('{A}', '2024-04-01', 1, '\"text\"')",
    ],
}


@pytest.mark.slow
def test_rows_that_do_not_conform_are_counted_named_and_kept(app_url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    columns = columns_of(app_url)
    conforming = rows_in(app_url, columns)
    for inserts in NOT_CONFORMING.values():
        for insert in inserts:
            run(app_url, insert)
    edges = "insert into public.habit_index (user_id, index_date, habit_score) values "
    run(app_url, f"{edges} ('{A}', '2024-05-01', 0), ('{A}', '2024-05-02', 100), ('{A}', '2024-05-03', 99.99)")
    conforming["habit_index"] += fetch(
        app_url, f"select row({columns['habit_index']})::text from public.habit_index where index_date >= '2024-05-01'"
    )
    rows = all_rows(app_url)
    before = visible(snapshot(app_url))
    caplog.set_level(logging.INFO, logger="momentum.migrations")
    up(app_url)
    assert rows_in(app_url, columns) == {name: sorted(found) for name, found in conforming.items()}
    messages = [record.getMessage() for record in caplog.records if record.name == "momentum.migrations"]
    for name, inserts in NOT_CONFORMING.items():
        refused = fetch(
            app_url,
            "select id::text from momentum_internal.predecessor_rows where relation = :name and refused is not null",
            name=name,
        )
        assert len(refused) == len(inserts)
        # One line per reason.
        said = [
            m for message in messages if (m := re.match(rf"(\d+) rows? of public\.{name} could not be copied", message))
        ]
        assert sum(int(match[1]) for match in said) == len(inserts), messages
        assert [one for one in refused if not any(one in match.string for match in said)] == [], "each is named"
    assert all_rows(app_url, "momentum_internal.predecessor_") == rows
    down(app_url)
    assert all_rows(app_url) == rows
    assert visible(snapshot(app_url)) == before


@pytest.mark.slow
def test_more_than_a_page_of_rows_is_copied(url: sa.URL) -> None:
    run(
        url,
        f"""
        insert into public.momentum_pillars (name) select 'pillar ' || n from generate_series(1, 1300) as n;
        insert into public.momentum_events (user_id, pillar_id, event_type, event_ts, payload)
        select '{A}', id, name, '2024-03-01', jsonb_build_object('n', name) from public.momentum_pillars;
        insert into public.momentum_events (event_type) select 'nobody' from generate_series(1, 1300);
        insert into public.habit_index (user_id, index_date, habit_score)
        select '{A}', date '2020-01-01' + n, n % 100 from generate_series(1, 1300) as n;
        """,
    )
    rows, columns = all_rows(url), columns_of(url)
    common = rows_in(url, columns)
    up(url)
    assert rows_in(url, columns) == {
        **common,
        "momentum_events": [row for row in common["momentum_events"] if "nobody" not in row],
    }
    down(url)
    assert all_rows(url) == rows


def test_rows_written_between_a_downgrade_and_the_next_upgrade_are_merged(url: sa.URL) -> None:
    insert = "insert into public.momentum_pillars (name, description) values "
    run(url, f"{insert} ('sleep', 'old'), ('walk', 'old')")
    run(url, f"insert into public.momentum_events (user_id, event_type) values ('{A}', 'first')")
    run(url, "insert into public.momentum_events (event_type) values ('nobody yet')")
    up(url)
    run(url, f"{insert} ('ours', 'written at head')")
    run(url, "update public.momentum_pillars set description = 'changed at head' where name = 'walk'")
    run(url, f"insert into public.momentum_events (user_id, event_type) values ('{A}', 'at head')")
    at_head = fetch(url, "select t::text from public.momentum_pillars as t where name <> 'sleep' order by 1")
    down(url)
    assert fetch(url, "select name from public.momentum_pillars order by 1") == ["sleep", "walk"]
    run(url, f"{insert} ('new', 'written between')")
    run(url, "update public.momentum_pillars set description = 'changed between' where name = 'sleep'")
    run(url, f"insert into public.momentum_events (user_id, event_type) values ('{B}', 'between')")
    run(url, f"update public.momentum_events set user_id = '{B}' where event_type = 'nobody yet'")
    columns = columns_of(url)["momentum_pillars"]
    between = fetch(url, f"select row({columns})::text from public.momentum_pillars where name <> 'walk' order by 1")
    theirs = all_rows(url)
    up(url)
    assert fetch(url, "select name || ': ' || description from public.momentum_pillars order by 1") == [
        "new: written between",
        "ours: written at head",
        "sleep: changed between",
        "walk: changed at head",
    ]
    found = fetch(url, f"select row({columns})::text from public.momentum_pillars order by 1")
    assert [row for row in between if row not in found] == [], "updated_at is what the app wrote"
    found = fetch(url, "select t::text from public.momentum_pillars as t order by 1")
    assert [row for row in at_head if row not in found] == [], "rows of our own are there byte for byte"
    assert fetch(url, "select event_type from public.momentum_events order by 1") == [
        "at head",
        "between",
        "first",
        "nobody yet",
    ]
    down(url)
    assert all_rows(url) == theirs
    up(url)
    assert execute(url, "select count(*) from public.momentum_pillars") == 4


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("momentum_pillars", "name) values ('sleep')"),
        ("motivation_journal", f"user_id, date) values ('{A}', '2024-03-01')"),
        ("habit_index", f"user_id, index_date, habit_score) values ('{A}', '2024-03-01', 7)"),
    ],
)
def test_a_row_that_has_its_double_in_ours_is_kept_aside(
    url: sa.URL, table: str, columns: str, caplog: pytest.LogCaptureFixture
) -> None:
    up(url)
    run(url, f"insert into public.{table} ({columns}")
    ours = fetch(url, f"select t::text from public.{table} as t")
    down(url)
    run(url, f"insert into public.{table} ({columns}")
    theirs = fetch(url, f"select t::text from public.{table} as t")
    assert len(ours) == len(theirs) == 1
    caplog.set_level(logging.INFO, logger="momentum.migrations")
    up(url)
    assert fetch(url, f"select t::text from public.{table} as t") == ours
    assert fetch(url, f"select t::text from momentum_internal.predecessor_{table} as t") == theirs
    assert [record for record in caplog.records if table in record.getMessage() and "1 " in record.getMessage()]
    down(url)
    assert fetch(url, f"select t::text from public.{table} as t") == theirs


def test_the_rows_of_users_deleted_meanwhile_go_on_both_sides(url: sa.URL) -> None:
    insert = "insert into public.momentum_events (user_id, event_type) values "
    run(url, f"{insert} ('{A}', 'gone'), ('{B}', 'stays')")
    up(url)
    execute(url, "delete from auth.users where id = :gone", gone=A)
    assert fetch(url, "select event_type from public.momentum_events") == ["stays"]
    down(url)
    assert fetch(url, "select event_type from public.momentum_events") == ["stays"]
    up(url)
    assert fetch(url, "select event_type from public.momentum_events") == ["stays"]


def test_a_row_deleted_at_head_does_not_come_back_with_the_next_upgrade(url: sa.URL) -> None:
    """The copy was deleted on purpose, and nobody has written the row again."""
    run(url, "insert into public.momentum_pillars (name) values ('deleted'), ('kept')")
    up(url)
    run(url, "delete from public.momentum_pillars where name = 'deleted'")
    down(url)
    assert fetch(url, "select name from public.momentum_pillars order by 1") == ["deleted", "kept"]
    up(url)
    assert fetch(url, "select name from public.momentum_pillars order by 1") == ["kept"]


@pytest.mark.slow
@pytest.mark.parametrize("stop", HISTORY[1:-1])
def test_adopting_goes_on_from_any_revision_and_back(url: sa.URL, stop: str) -> None:
    run(url, "insert into public.momentum_pillars (name) values ('sleep')")
    run(url, f"insert into public.habit_index (user_id, index_date, habit_score) values ('{A}', '2024-03-01', 7)")
    before, rows = visible(snapshot(url)), all_rows(url)
    migrate_to(url, stop, existing="adopt", access="close")
    migrate_to(url, "base")
    assert visible(snapshot(url)) == before
    assert all_rows(url) == rows
    migrate_to(url, stop, existing="adopt", access="close")
    up(url)
    assert fetch(url, "select name from public.momentum_pillars") == ["sleep"]
    assert execute(url, "select count(*) from public.habit_index") == 1
    migrate_to(url, stop)
    assert current(url) == stop
    migrate_to(url, "base")
    assert visible(snapshot(url)) == before
    assert all_rows(url) == rows
