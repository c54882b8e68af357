"""An existing score table is adopted in place, in any layout, and is unchanged after a downgrade."""

import datetime
import json
import logging
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Settings, run_backfill
from momentum.errors import DatabaseUnreachableError, MigrationError, PreflightError
from momentum.inventory import TABLES, VIEW
from momentum.migrate.config import SCORES, alembic_config
from momentum.scores import FRESH_LAYOUT, LAYOUTS, TABLE_NAME
from momentum.testing import Server
from tests.catalog import snapshot
from tests.migrating import (
    HISTORY,
    WAITING_MIGRATION,
    current,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    queue_behind_migration,
    rows_of,
    run,
    visible,
    wait_until,
)
from tests.processes import DEADLINE
from tests.samples import (
    LONG_AGO,
    PRODUCTION_SCORES,
    add_user,
    add_users,
    write_rows,
)
from tests.server import as_owner, engine_of

HEAD = HISTORY[-1]
BEFORE_KEY = HISTORY[HISTORY.index("07d3e6c8b51f") - 1]
DAYS = DayRange(datetime.date(2024, 3, 1), datetime.date(2024, 3, 10))

# Facts of the app's own versions of our objects, or of ours.
OURS = (*TABLES, VIEW)

A, B, C = (uuid.UUID(int=n) for n in (1, 2, 3))
USERS = "insert into auth.users (id, created_at) select id, '2020-01-01' from unnest(cast(:users as uuid[])) as id"


def backfill(url: sa.URL) -> int:
    """Fill the days and return the number of rows inserted."""
    return run_backfill(engine_of(url), Settings(DAYS)).inserted


def scores_of(url: sa.URL) -> list[str]:
    return rows_of(url)["daily_engagement_scores"]


def recorded(url: sa.URL) -> dict[str, object]:
    """Return the migrations' record of the score table."""
    (row,) = fetch(url, "select to_jsonb(s) - 'only_row' from momentum_internal.score_table as s")
    return dict(row)


def foreign(facts: list[str]) -> list[str]:
    """Return the visible facts on objects that we neither make nor replace."""
    return [fact for fact in visible(facts) if not any(name in fact for name in OURS)]


# --- The app's production layout ---


@pytest.fixture(params=["legacy", "public", "legacy with predecessors", "public with predecessors"])
def production(server: Server, request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """A database in the production layout, not migrated, with or without the app's own versions of our tables."""
    schema, _, more = request.param.partition(" ")
    url = database_with_scores(server, f"{schema}.production", predecessors=bool(more))
    yield url
    server.drop_database(url)


@pytest.fixture
def production_url(server: Server) -> Iterator[sa.URL]:
    """A database with the app's production score table in public, not migrated."""
    url = database_with_scores(server, "public.production")
    yield url
    server.drop_database(url)


@pytest.fixture
def seed_url(server: Server) -> Iterator[sa.URL]:
    """A database with a score table of the seed's layout in legacy, not migrated."""
    url = database_with_scores(server, "legacy.seed")
    yield url
    server.drop_database(url)


@pytest.mark.slow
def test_production_goes_up_fills_goes_down_and_up_with_nothing_else_changed(production: sa.URL) -> None:
    with engine_of(production).begin() as connection:
        users = [add_user(connection) for _ in range(3)]
        for ordinal, user in enumerate(users):
            write_rows(connection, user, 1463 + ordinal)  # from 2024-03-01 on
        connection.execute(sa.text("update auth.users set created_at = :then"), {"then": LONG_AGO})
    before, rows = visible(snapshot(production)), rows_of(production)
    count_pushes = "select count(*) from public.pushes"
    pushes = execute(production, count_pushes)
    assert pushes == 3

    migrate_to(production, HEAD, existing="adopt", access="close")
    at_head = snapshot(production)
    assert foreign(at_head) == foreign(before)
    assert scores_of(production) == rows["daily_engagement_scores"]
    assert execute(production, count_pushes) == pushes, "a migration must not fire the app's notifications"
    assert execute(production, "select count(*) from public.daily_momentum_scores") == 3

    filled = backfill(production)
    assert filled == 3 * len(DAYS) - 3
    assert execute(production, count_pushes) == pushes + filled, "the app's trigger sees a row like any other"
    after = scores_of(production)
    assert set(rows["daily_engagement_scores"]) <= set(after)
    assert len(after) == 3 * len(DAYS)

    migrate_to(production, "base")
    assert visible(snapshot(production)) == before
    assert rows_of(production) == {**rows, **left_to_ours(production), "daily_engagement_scores": after}

    migrate_to(production, HEAD, existing="adopt", access="close")
    assert snapshot(production) == at_head
    assert scores_of(production) == after
    assert backfill(production) == 0
    assert execute(production, count_pushes) == pushes + filled


def left_to_ours(url: sa.URL) -> dict[str, list[str]]:
    """Return the rows of the tables that only we have made, which a downgrade has parked."""
    parked = "select relname from pg_class where relnamespace = 'momentum_internal'::regnamespace"
    standing = "select relname from pg_class where relnamespace = 'public'::regnamespace"
    return {name: [] for name in OURS if name in fetch(url, parked) and name not in fetch(url, standing)}


def test_a_default_row_in_production_says_what_it_is(production_url: sa.URL) -> None:
    migrate_to(production_url, HEAD)
    add_users(engine_of(production_url))
    assert backfill(production_url) == len(DAYS)
    (row,) = fetch(
        production_url,
        "select to_jsonb(s) from public.daily_engagement_scores as s where score_date = '2024-03-01'",
    )
    assert row["momentum_state"] == "NeedsCare"
    assert (row["raw_score"], row["normalized_score"], row["final_score"]) == (0, 0, 0)
    assert row["breakdown"] == {}
    assert "backfill" in json.dumps(row["calculation_metadata"])
    assert (row["algorithm_version"], row["events_count"]) == ("v1.0", 0)
    (shown,) = fetch(
        production_url,
        "select to_jsonb(v) - 'user_id' from public.daily_momentum_scores as v where score_date = '2024-03-01'",
    )
    assert shown == {"score": 0, "score_date": "2024-03-01", "pillar_breakdown": {}}


def test_the_view_maps_production_and_shows_users_their_own_rows(production_url: sa.URL) -> None:
    execute(production_url, USERS, users=[A, B])
    for user in (A, B):
        execute(
            production_url,
            "insert into public.daily_engagement_scores (user_id, score_date, final_score, momentum_state, breakdown) "
            "values (:user, '2024-03-01', 55.5, 'Steady', '{\"points_by_type\": {\"sleep\": 5}}')",
            user=user,
        )
    migrate_to(production_url, HEAD)
    with engine_of(production_url).connect() as connection:
        claims = json.dumps({"sub": str(A)})
        connection.execute(sa.text("select set_config('request.jwt.claims', :claims, true)"), {"claims": claims})
        connection.execute(sa.text("set local role authenticated"))
        rows = connection.execute(sa.text("select * from public.daily_momentum_scores")).all()
    assert [tuple(row) for row in rows] == [(A, 55.5, datetime.date(2024, 3, 1), {"points_by_type": {"sleep": 5}})]


@pytest.mark.parametrize("schema", ["legacy", "public"])
def test_the_unique_index_of_production_serves(server: Server, schema: str) -> None:
    url = database_with_scores(server, f"{schema}.production")
    try:
        before = snapshot(url, of=f"ON {schema}.daily_engagement_scores")
        migrate_to(url, HEAD)
        assert recorded(url) == {
            "relation": f"{schema}.daily_engagement_scores",
            "layout": "production",
            "created_table": False,
            "created_schema": False,
            "granted_usage": False,
            "unique_index": f"{schema}.idx_daily_scores_user_date",
            "created_index": False,
        }
        assert snapshot(url, of=f"ON {schema}.daily_engagement_scores") == before, "a second unique index is of no use"
    finally:
        server.drop_database(url)


TABLE = "public.daily_engagement_scores"


@pytest.mark.parametrize(
    "index",
    [
        f"alter table {TABLE} add constraint theirs unique (user_id, score_date)",
        f"create unique index theirs on {TABLE} (user_id, score_date desc)",
        f"create unique index theirs on {TABLE} (user_id, score_date) include (final_score)",
        f"create unique index theirs on {TABLE} (user_id, score_date) nulls not distinct",
    ],
)
def test_any_unique_index_over_user_and_day_serves(production_url: sa.URL, index: str) -> None:
    run(production_url, f"drop index public.idx_daily_scores_user_date; {index}")
    migrate_to(production_url, HEAD)
    assert (recorded(production_url)["unique_index"], recorded(production_url)["created_index"]) == (
        "public.theirs",
        False,
    )
    add_users(engine_of(production_url))
    assert backfill(production_url) == len(DAYS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "instead",
    [
        "",
        f"create index theirs on {TABLE} (user_id, score_date)",
        f"create unique index theirs on {TABLE} (user_id, score_date) where final_score > 0",
        f"create unique index theirs on {TABLE} (user_id, score_date, momentum_state)",
        f"create unique index theirs on {TABLE} (score_date, id)",
        f"create unique index theirs on {TABLE} (user_id, (score_date + 0))",
        f"create unique index theirs on {TABLE} (user_id, score_date); reset session authorization;"
        "update pg_index set indisvalid = false where indexrelid = 'public.theirs'::regclass",
    ],
)
def test_where_production_lacks_its_unique_index_one_is_made_and_removed(
    server: Server, production_url: sa.URL, instead: str
) -> None:
    drop = f"{as_owner(server)}; drop index public.idx_daily_scores_user_date"
    run(server.as_admin(production_url), f"{drop}; {instead}")
    before = visible(snapshot(production_url))
    migrate_to(production_url, HEAD)
    assert (recorded(production_url)["unique_index"], recorded(production_url)["created_index"]) == (
        "public.uq_daily_engagement_scores_user_id_score_date",
        True,
    )
    (index,) = snapshot(production_url, of="index | public.uq_daily_engagement_scores_user_id_score_date")
    assert "CREATE UNIQUE INDEX" in index
    assert "(user_id, score_date) | t | f" in index
    add_users(engine_of(production_url))
    execute(production_url, "alter table public.daily_engagement_scores disable trigger user")
    assert backfill(production_url) == len(DAYS)
    execute(production_url, "alter table public.daily_engagement_scores enable trigger user")
    migrate_to(production_url, "base")
    assert visible(snapshot(production_url)) == before


def test_duplicate_days_in_production_are_refused(production_url: sa.URL) -> None:
    """Moving its rows away and back would fire its insert triggers: each user would get pushes again."""
    run(production_url, "drop index public.idx_daily_scores_user_date")
    run(production_url, "drop trigger prevent_duplicate_daily_scores_trigger on public.daily_engagement_scores")
    execute(production_url, USERS, users=[A, B])
    execute(
        production_url,
        f"insert into {TABLE} (user_id, score_date, momentum_state) values "
        "(:a, '2024-03-01', 'Steady'), (:a, '2024-03-01', 'Rising'), (:b, '2024-03-01', 'Rising')",
        a=A,
        b=B,
    )
    refused_whole(production_url, "public.daily_engagement_scores", "more than one row")


def refused_whole(url: sa.URL, *named: str) -> None:
    """Expect a refusal of one sentence that names something, and no changes."""
    before, rows = snapshot(url), rows_of(url)
    with pytest.raises(PreflightError) as refusal:
        migrate_to(url, HEAD)
    message = str(refusal.value)
    assert [part for part in named if part not in message] == [], message
    assert "\n" not in message
    assert message.endswith(".")
    assert (snapshot(url), rows_of(url)) == (before, rows)


def test_production_that_lost_its_unique_index_while_migrated_still_goes_back(production_url: sa.URL) -> None:
    migrate_to(production_url, HEAD)
    run(production_url, "drop index public.idx_daily_scores_user_date")
    before = foreign(snapshot(production_url))
    migrate_to(production_url, "base")
    assert foreign(snapshot(production_url)) == before


# --- The same results on every layout ---


@pytest.mark.slow
def test_the_backfill_gives_the_same_results_on_every_layout(server: Server) -> None:
    users = [uuid.UUID(int=n) for n in range(1, 41)]
    days = list(DAYS)
    # Every user has a different pattern of days; a third of the scores is at the edges of a day.
    present = [
        (user, day, (0, 100, 42.25)[(n + d) % 3])
        for n, user in enumerate(users)
        for d, day in enumerate(days)
        if (n * 7 + d * 3) % 5 < n % 4
    ]
    results = {}
    for scores in SCORES:
        url = database_with_scores(server, scores)
        try:
            if scores == "fresh":
                migrate_to(url, HEAD)
            execute(url, USERS, users=users)
            execute(url, "update auth.users set created_at = '2024-03-04' where id > :half", half=users[30])
            execute(url, "update auth.users set banned_until = 'infinity' where id = :one", one=users[3])
            schema, _, name = scores.partition(".")
            layout = next((known for known in LAYOUTS if known.name == name), FRESH_LAYOUT)
            moment = {"date": ":day", "timestamp with time zone": "cast(:day as timestamp) at time zone 'UTC' + '11 h'"}
            values = {
                "user_id": ":user",
                **layout.default_row,
                layout.moment: moment[layout.columns[layout.moment]],
                layout.score: ":score",
                layout.breakdown: "cast(:breakdown as jsonb)",
            }
            relation = f"{schema if name else 'legacy'}.daily_engagement_scores"
            with engine_of(url).begin() as connection:
                connection.execute(
                    sa.text(f"insert into {relation} ({', '.join(values)}) values ({', '.join(values.values())})"),
                    [{"user": u, "day": d, "score": s, "breakdown": json.dumps({"n": s})} for u, d, s in present],
                )
            migrate_to(url, HEAD)
            engine = engine_of(url)
            reports = [
                run_backfill(engine, Settings(DAYS, dry_run=dry, look_for_discrepancies=False)) for dry in (True, False)
            ]
            counts = [(r.users, r.eligible, r.present, r.inserted, r.raced, r.failed, r.left_over) for r in reports]
            shown = fetch(url, "select v::text from public.daily_momentum_scores as v order by user_id, score_date")
            results[scores] = (counts, reports[0].missing_by_day, shown)
        finally:
            server.drop_database(url)
    expected = results["fresh"]
    assert len(expected[2]) > len(present) > 20
    for scores, found in results.items():
        assert found == expected, f"{scores} comes to another result than fresh"


# --- Duplicate days in the seed's layout ---

# Columns of every kind: rows that are moved away must come back as they were, without casts on the way. There are
# dropped columns in between, and names that need quotes.
ODD_SCORES = """
create schema legacy;
create type public.mood as enum ('low', 'high');
create domain public.points as numeric check (value >= 0);
create type public.pair as (a int, b text);
create table legacy.daily_engagement_scores (
  gone_first int,
  id bigint generated always as identity primary key,
  user_id uuid not null references auth.users (id) on delete cascade,
  gone text default 'x',
  score_ts timestamptz not null,
  score numeric,
  pillar_breakdown jsonb,
  document json,
  bytes bytea,
  tags text[],
  matrix int[],
  exact numeric,
  mood public.mood,
  points public.points,
  doubled numeric generated always as (score * 2) stored,
  span tstzrange,
  pair public.pair,
  "Odd ""name"" é" text,
  ratio float8,
  padded char(5),
  later timestamptz,
  waited interval
);
alter table legacy.daily_engagement_scores drop column gone_first, drop column gone;
"""
ODD_ROW = """
insert into legacy.daily_engagement_scores (
  user_id, score_ts, score, pillar_breakdown, document, bytes, tags, matrix, exact, mood, points, span, pair,
  "Odd ""name"" é", ratio, padded, later, waited
)
select
  :user, cast(:moment as timestamptz), :score, '{"a": 1.10, "é": null}', e'{ "b" :  1.0,\\n "b": 2 }', '\\x00ff5c',
  array['a,b', null, '"', '{}', ''], '[2:3][0:1]={{1,2},{3,4}}', 1.2300, 'high', 7.50,
  tstzrange('2024-01-01', null, '(]'), row(1, 'x,"y')::public.pair, e'line\\nbreak\\t\\\\ %s $1', 'NaN', 'ab',
  'infinity', '1 mon -3 days'
from generate_series(1, :times)
"""


@pytest.fixture
def odd_url(supabase_url: sa.URL) -> sa.URL:
    """A database with a score table of the seed's layout and many columns more, with duplicate days."""
    run(supabase_url, ODD_SCORES)
    execute(supabase_url, USERS, users=[A, B])
    for user, moment, score, times in [
        (A, "2024-03-01 00:00+00", 1, 1),
        (A, "2024-03-01 23:59:59.999999+00", 2, 1),
        (A, "2024-03-01 12:00+00", 30, 3),
        (A, "2024-03-02 00:00+00", 4, 11),
        (B, "2024-03-01 12:00+00", 5, 1),
        (B, "2024-03-02 23:30-05", 6, 1),
        (B, "2024-03-03 12:00+00", None, 1),
    ]:
        execute(supabase_url, ODD_ROW, user=user, moment=moment, score=score, times=times)
    return supabase_url


def test_superseded_rows_of_every_type_come_back_as_they_were(odd_url: sa.URL) -> None:
    facts, rows = visible(snapshot(odd_url)), scores_of(odd_url)
    next_id = "select last_value from legacy.daily_engagement_scores_id_seq"
    ids = execute(odd_url, next_id)
    for _ in range(2):
        migrate_to(odd_url, HEAD)
        assert set(scores_of(odd_url)) <= set(rows)
        kept = fetch(odd_url, "select id from legacy.daily_engagement_scores order by 1")
        # The latest of a day; of eleven at the same instant, the one with the highest id, as a number and not as text.
        assert kept == [2, 16, 17, 19]
        assert execute(odd_url, "select count(*) from momentum_internal.superseded_scores") == len(rows) - len(kept)
        assert execute(odd_url, "select count(*) from public.daily_momentum_scores") == len(kept)

        migrate_to(odd_url, "base")
        assert scores_of(odd_url) == rows
        assert visible(snapshot(odd_url)) == facts
        assert execute(odd_url, "select count(*) from momentum_internal.superseded_scores") == 0
        assert execute(odd_url, next_id) == ids


SEED = "legacy.daily_engagement_scores"


def add_seed_scores(url: sa.URL, *rows: tuple[uuid.UUID, str, float | None, str]) -> None:
    """Insert the users, and then rows one by one, each with a note that identifies it."""
    execute(url, USERS + " on conflict do nothing", users=sorted({row[0] for row in rows}))
    for user, moment, score, note in rows:
        execute(
            url,
            f"insert into {SEED} (user_id, score_ts, score, note) values (:user, :moment, :score, :note)",
            user=user,
            moment=moment,
            score=score,
            note=note,
        )


def two_each(**users: uuid.UUID) -> Iterator[tuple[uuid.UUID, str, float, str]]:
    """Yield two rows of the same day for each user, at 10:00 and at 11:00."""
    for name, user in users.items():
        for hour in (10, 11):
            yield user, f"2024-03-01 {hour}:00+00", hour, f"{name} {hour}"


def notes(url: sa.URL) -> list[str]:
    return fetch(url, f"select note from {SEED} order by 1")


@pytest.mark.parametrize("column", ["id uuid", "id text", "id bigint", "other int"])
def test_of_two_rows_at_the_same_instant_the_one_that_came_later_stays(seed_url: sa.URL, column: str) -> None:
    """It has the higher id, if there is one that can be compared, or is further back in the table."""
    run(seed_url, f"alter table {SEED} add column {column}")
    add_seed_scores(seed_url, *((A, "2024-03-01 10:00+00", 1, note) for note in ("first", "second")))
    if column == "id uuid":
        execute(seed_url, f"update {SEED} set id = '00000000-0000-0000-0000-000000000002' where note = 'second'")
        execute(seed_url, f"update {SEED} set id = '00000000-0000-0000-0000-000000000001' where note = 'first'")
    elif column.startswith("id"):
        execute(seed_url, f"update {SEED} set id = '2' where note = 'second'")
        execute(seed_url, f"update {SEED} set id = '1' where note = 'first'")
    migrate_to(seed_url, HEAD)
    assert notes(seed_url) == ["second"]
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["first", "second"]


def test_days_are_those_of_utc(seed_url: sa.URL) -> None:
    add_seed_scores(
        seed_url,
        (A, "2024-03-01 18:30-05", 1, "first day"),
        (A, "2024-03-01 19:30-05", 2, "second day, early"),
        (A, "2024-03-02 12:00-05", 3, "second day, late"),
    )
    elsewhere = seed_url.update_query_dict({"options": "-c timezone=America/New_York"})
    migrate_to(elsewhere, HEAD)
    assert notes(seed_url) == ["first day", "second day, late"]


def test_many_duplicates_move_and_come_back(seed_url: sa.URL) -> None:
    run(
        seed_url,
        f"""
        insert into auth.users (id) select gen_random_uuid() from generate_series(1, 700);
        insert into {SEED} (user_id, score_ts, score)
        select u.id, '2024-03-01'::timestamptz + n * interval '1 h', n from auth.users u, generate_series(1, 4) as n
        """,
    )
    rows = scores_of(seed_url)
    assert len(rows) == 2800
    migrate_to(seed_url, HEAD)
    assert execute(seed_url, f"select count(*) from {SEED}") == 700
    assert execute(seed_url, f"select min(score) from {SEED}") == 4
    assert execute(seed_url, "select count(*) from momentum_internal.superseded_scores") == 2100
    migrate_to(seed_url, "base")
    assert scores_of(seed_url) == rows


def test_the_rows_of_users_deleted_meanwhile_go_too(seed_url: sa.URL) -> None:
    add_seed_scores(
        seed_url,
        *(
            (user, f"2024-03-01 {hour}:00+00", hour, f"{name} {hour}")
            for name, user in (("a", A), ("b", B))
            for hour in (10, 11)
        ),
    )
    migrate_to(seed_url, HEAD)
    execute(seed_url, "delete from auth.users where id = :gone", gone=A)
    assert fetch(seed_url, "select user_id from momentum_internal.superseded_scores") == [B]
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["b 10", "b 11"]


def test_what_clients_did_at_head_is_there_after(seed_url: sa.URL) -> None:
    add_seed_scores(
        seed_url,
        *(
            (user, f"2024-03-01 {hour}:00+00", hour, f"{name} {hour}")
            for name, user in (("a", A), ("b", B), ("c", C))
            for hour in (10, 11)
        ),
    )
    migrate_to(seed_url, HEAD)
    assert notes(seed_url) == ["a 11", "b 11", "c 11"]
    execute(seed_url, f"delete from {SEED} where note = 'a 11'")
    execute(seed_url, f"update {SEED} set note = 'b changed' where note = 'b 11'")
    add_seed_scores(seed_url, (C, "2024-03-02 10:00+00", 1, "c new"))
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["a 10", "b 10", "b changed", "c 10", "c 11", "c new"]
    migrate_to(seed_url, HEAD)
    assert notes(seed_url) == ["a 10", "b changed", "c 11", "c new"]


@pytest.mark.parametrize(
    ("change", "way_back", "named"),
    [
        (f"alter table {SEED} rename note to remark", f"alter table {SEED} rename remark to note", "no column note"),
        (f"alter table {SEED} rename to elsewhere", f"alter table legacy.elsewhere rename to {TABLE_NAME}", "is gone"),
    ],
)
def test_superseded_rows_that_have_lost_their_place_stop_the_way_back(
    seed_url: sa.URL, change: str, way_back: str, named: str
) -> None:
    add_seed_scores(seed_url, *two_each(a=A))
    migrate_to(seed_url, HEAD)
    run(seed_url, change)
    before = snapshot(seed_url)
    with pytest.raises(PreflightError, match=named):
        migrate_to(seed_url, "base")
    assert snapshot(seed_url) == before
    run(seed_url, way_back)
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["a 10", "a 11"]


def test_a_rule_that_the_table_has_lost_meanwhile_binds_no_superseded_row(seed_url: sa.URL) -> None:
    run(seed_url, f"alter table {SEED} alter score set not null, add column mood text not null default 'calm'")
    migrate_to(seed_url, HEAD)
    migrate_to(seed_url, "base")
    run(seed_url, f"alter table {SEED} alter score drop not null, drop column mood")
    add_seed_scores(seed_url, (A, "2024-03-01 10:00+00", None, "a 10"), (A, "2024-03-01 11:00+00", None, "a 11"))
    migrate_to(seed_url, HEAD)
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["a 10", "a 11"]


def test_a_publication_for_all_tables_keeps_no_user_from_being_deleted(server: Server, seed_url: sa.URL) -> None:
    run(seed_url, f"alter table {SEED} add column id uuid primary key default gen_random_uuid()")
    run(server.as_admin(seed_url), "create publication everything for all tables")
    add_seed_scores(seed_url, *two_each(a=A, b=B))
    migrate_to(seed_url, HEAD)
    execute(seed_url, "delete from auth.users where id = :gone", gone=A)
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["b 10", "b 11"]


@pytest.mark.slow
@pytest.mark.parametrize("target", [HEAD, "base"])
def test_a_client_that_waits_for_a_row_that_moves_does_not_wait_for_others_too(seed_url: sa.URL, target: str) -> None:
    """A locked user stops the page with the user's row. The page then lets go of its other rows and is tried again."""
    add_seed_scores(seed_url, *two_each(a=A, b=B))
    before = notes(seed_url)
    if target == "base":
        migrate_to(seed_url, HEAD)
    with ThreadPoolExecutor(1) as executor, engine_of(seed_url).connect() as holder:
        holder.execute(sa.text("select from auth.users where id = :user for update"), {"user": B})
        migration = executor.submit(migrate_to, seed_url, target)
        queue_behind_migration(seed_url, f"delete from auth.users where id = '{A}'")
        holder.rollback()
        migration.result(timeout=DEADLINE)
    assert notes(seed_url) == (before if target == "base" else ["a 11", "b 11"])


def test_the_table_of_superseded_rows_is_private(seed_url: sa.URL) -> None:
    migrate_to(seed_url, HEAD)
    for role in ("anon", "authenticated", "service_role"):
        with engine_of(seed_url).connect() as connection:
            connection.execute(sa.text(f"set local role {role}"))
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                connection.execute(sa.text("select from momentum_internal.superseded_scores"))


def test_pairs_that_differ_by_more_than_5_points_are_logged_for_review(
    seed_url: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    add_seed_scores(
        seed_url,
        (A, "2024-03-01 10:00+00", 10, "differs by 5"),
        (A, "2024-03-01 11:00+00", 15, "kept"),
        (A, "2024-03-02 10:00+00", 20.01, "differs by more, downwards"),
        (A, "2024-03-02 11:00+00", 15, "kept"),
        (B, "2024-03-03 10:00+00", 61, "differs by more, upwards"),
        (B, "2024-03-03 10:30+00", 65, "differs by less"),
        (B, "2024-03-03 11:00+00", 66.5, "kept"),
    )
    caplog.set_level(logging.INFO, logger="momentum.migrations")
    migrate_to(seed_url, HEAD)
    messages = [record.getMessage() for record in caplog.records if record.name == "momentum.migrations"]
    for day, user, scores in (("2024-03-02", A, ("20.01", "15")), ("2024-03-03", B, ("61", "66.5"))):
        (said,) = [message for message in messages if day in message]
        assert [part for part in (str(user), *scores) if part not in said] == [], said
    assert not [message for message in messages if "2024-03-01" in message]


def test_duplicates_that_come_while_the_key_is_made_are_moved_too(seed_url: sa.URL) -> None:
    add_seed_scores(
        seed_url,
        (A, "2024-03-01 10:00+00", 1, "first"),
        (A, "2024-03-01 11:00+00", 2, "second"),
        (B, "2024-03-01 11:00+00", 2, "b"),
    )
    migrate_to(seed_url, BEFORE_KEY)
    with (
        ThreadPoolExecutor(1) as migrator,
        engine_of(seed_url).connect() as client,
    ):
        client.execute(sa.text(f"insert into {SEED} values ('{A}', '2024-03-01 12:00+00', 3, null, 'third')"))
        upgrade = migrator.submit(migrate_to, seed_url, HEAD)
        # The build waits for every transaction that has written to the table.
        wait_until(
            seed_url,
            "exists (select from pg_stat_activity where datname = current_database() "
            "and query ilike '%create unique index concurrently%' and wait_event_type = 'Lock' "
            "and application_name = 'momentum-migrations')",
        )
        client.commit()
        upgrade.result(timeout=DEADLINE)
    assert current(seed_url) == HEAD
    assert notes(seed_url) == ["b", "third"]
    assert snapshot(seed_url, of="uq_daily_engagement_scores_user_id_utc_day | CREATE UNIQUE")[0].endswith("| t | f")
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["b", "first", "second", "third"]


EVER_MORE_DUPLICATES = f"""
create function public.duplicate() returns event_trigger language plpgsql as $$
begin
  insert into {SEED} (user_id, score_ts, note) select user_id, score_ts, 'again' from {SEED} limit 1;
end $$;
create event trigger duplicate on ddl_command_start when tag in ('CREATE INDEX') execute function public.duplicate();
"""


def test_a_table_that_gets_duplicates_all_the_time_is_given_up_cleanly(server: Server, seed_url: sa.URL) -> None:
    add_seed_scores(seed_url, (A, "2024-03-01 10:00+00", 1, "one"))
    migrate_to(seed_url, BEFORE_KEY)
    run(server.as_admin(seed_url), EVER_MORE_DUPLICATES)
    with pytest.raises(MigrationError) as given_up:
        migrate_to(seed_url, HEAD)
    assert SEED in str(given_up.value)
    assert "5 times" in str(given_up.value)
    assert "\n" not in str(given_up.value)
    assert current(seed_url) == BEFORE_KEY
    run(server.as_admin(seed_url), "drop event trigger duplicate")
    rows = notes(seed_url) + fetch(seed_url, "select 'again' from momentum_internal.superseded_scores")
    migrate_to(seed_url, HEAD)
    assert not execute(seed_url, "select exists (select from pg_index where not indisvalid)")
    migrate_to(seed_url, "base")
    # Five rounds, each with a duplicate of its own.
    assert len(notes(seed_url)) == len(rows) == 6


def test_an_invalid_leftover_of_a_broken_build_is_replaced(seed_url: sa.URL) -> None:
    add_seed_scores(seed_url, *((A, "2024-03-01 10:00+00", 1, note) for note in ("first", "second")))
    migrate_to(seed_url, BEFORE_KEY)
    # As a kill leaves it: the revision has recorded the index as its own, and has begun to make it.
    execute(seed_url, "update momentum_internal.score_table set created_index = true")
    engine = engine_of(seed_url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(sa.exc.IntegrityError):
            connection.execute(
                sa.text(
                    "create unique index concurrently uq_daily_engagement_scores_user_id_utc_day "
                    f"on {SEED} (user_id, ((score_ts at time zone 'UTC')\\:\\:date))"
                )
            )
        assert connection.scalar(sa.text("select exists (select from pg_index where not indisvalid)"))
    migrate_to(seed_url, HEAD)
    assert not execute(seed_url, "select exists (select from pg_index where not indisvalid)")
    assert notes(seed_url) == ["second"]


@pytest.mark.parametrize("further", ["base", HEAD])
def test_a_way_back_that_was_interrupted_goes_on_in_either_direction(seed_url: sa.URL, further: str) -> None:
    """DROP INDEX CONCURRENTLY leaves an invalid index where its session ends while it waits."""
    add_seed_scores(seed_url, *two_each(a=A, b=B))
    before, rows = visible(snapshot(seed_url)), notes(seed_url)
    migrate_to(seed_url, HEAD)
    at_head, kept = snapshot(seed_url), notes(seed_url)
    with (
        ThreadPoolExecutor(1) as migrator,
        engine_of(seed_url).connect() as client,
    ):
        client.execute(sa.text(f"lock table {SEED} in row exclusive mode"))
        downgrade = migrator.submit(migrate_to, seed_url, "base")
        pid = wait_until(seed_url, WAITING_MIGRATION)
        execute(seed_url, "select pg_terminate_backend(:pid)", pid=pid)
        with pytest.raises(DatabaseUnreachableError):
            downgrade.result(timeout=DEADLINE)
        client.rollback()
    assert current(seed_url) == BEFORE_KEY
    assert execute(seed_url, "select count(*) from pg_index where not indisvalid") == 1
    migrate_to(seed_url, further)
    if further == HEAD:
        assert (snapshot(seed_url), notes(seed_url)) == (at_head, kept)
        migrate_to(seed_url, "base")
    assert (visible(snapshot(seed_url)), notes(seed_url)) == (before, rows)


TRIGGER = """
create function public.note() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger {name} after {event} on legacy.daily_engagement_scores for each row execute function public.note();
"""


@pytest.mark.parametrize("event", ["insert", "delete", "insert or update"])
def test_duplicates_in_a_table_that_would_tell_others_of_their_move_are_refused(seed_url: sa.URL, event: str) -> None:
    run(seed_url, TRIGGER.format(name="tell", event=event))
    add_seed_scores(seed_url, *((A, "2024-03-01 10:00+00", 1, note) for note in ("first", "second")))
    refused_whole(seed_url, SEED, "tell")


def test_duplicates_that_others_refer_to_are_refused(seed_url: sa.URL) -> None:
    run(
        seed_url,
        f"""
        alter table {SEED} add column id bigint generated always as identity primary key;
        create table public.remarks (score_id bigint references {SEED} (id) on delete cascade);
        """,
    )
    add_seed_scores(seed_url, *((A, "2024-03-01 10:00+00", 1, note) for note in ("first", "second")))
    refused_whole(seed_url, SEED, "public.remarks")


def test_triggers_and_references_are_no_obstacle_without_duplicates(seed_url: sa.URL) -> None:
    run(seed_url, TRIGGER.format(name="tell", event="insert or delete"))
    run(
        seed_url,
        f"""
        alter table {SEED} add column id bigint generated always as identity primary key;
        create table public.remarks (score_id bigint references {SEED} (id) on delete cascade);
        """,
    )
    add_seed_scores(seed_url, (A, "2024-03-01 10:00+00", 1, "first"), (A, "2024-03-02 10:00+00", 1, "second"))
    migrate_to(seed_url, HEAD)
    assert notes(seed_url) == ["first", "second"]


def test_an_update_trigger_is_no_obstacle(seed_url: sa.URL) -> None:
    run(seed_url, TRIGGER.format(name="tell", event="update"))
    add_seed_scores(seed_url, *((A, "2024-03-01 10:00+00", 1, note) for note in ("first", "second")))
    migrate_to(seed_url, HEAD)
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["first", "second"]


def test_what_would_notice_that_rows_come_back_stops_the_way_back(seed_url: sa.URL) -> None:
    add_seed_scores(seed_url, *((A, "2024-03-01 10:00+00", 1, note) for note in ("first", "second")))
    migrate_to(seed_url, HEAD)
    run(seed_url, TRIGGER.format(name="tell", event="insert"))
    before = snapshot(seed_url)
    with pytest.raises(PreflightError, match=r"tell.*legacy\.daily_engagement_scores"):
        migrate_to(seed_url, "base")
    assert snapshot(seed_url) == before
    run(seed_url, f"drop trigger tell on {SEED}")
    migrate_to(seed_url, "base")
    assert notes(seed_url) == ["first", "second"]


@pytest.mark.parametrize("scores", ["legacy.seed", "public.production"])
def test_in_a_transaction_that_is_not_ours_only_what_needs_no_commit_is_adopted(server: Server, scores: str) -> None:
    url = database_with_scores(server, scores)
    try:
        before = snapshot(url)
        with engine_of(url).connect() as connection:
            config = alembic_config("")
            config.attributes["connection"] = connection
            assert connection.in_transaction() or connection.begin()
            if scores == "public.production":
                alembic.command.upgrade(config, "head")
                assert connection.scalar(sa.text("select count(*) from public.daily_momentum_scores")) == 0
            else:
                with pytest.raises(PreflightError, match=r"legacy\.daily_engagement_scores .* transaction"):
                    alembic.command.upgrade(config, "head")
            connection.rollback()
        assert snapshot(url) == before
    finally:
        server.drop_database(url)


def test_a_fresh_table_keeps_no_superseded_rows(url: sa.URL) -> None:
    assert not snapshot(url, of="momentum_internal.superseded_scores")


def test_production_in_front_of_a_parked_table_of_ours_is_refused(url: sa.URL) -> None:
    migrate_to(url, "base")
    run(url, PRODUCTION_SCORES.format(schema="public"))
    refused_whole(url, "public.daily_engagement_scores", "momentum_internal.daily_engagement_scores (parked)")
