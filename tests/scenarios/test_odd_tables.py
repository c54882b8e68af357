"""Tables that are odd are served exactly, or refused whole before anything has changed."""

import datetime
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Settings, run_backfill
from momentum.errors import ConfigurationError, NotMigratedError, PreflightError
from momentum.testing import Server
from tests.backfilling import call
from tests.catalog import snapshot
from tests.migrating import HISTORY, database_with_scores, execute, fetch, migrate_to, rows_of, run, visible
from tests.samples import LONG_AGO, add_user
from tests.server import engine_of

HEAD = HISTORY[-1]
SEED = "legacy.daily_engagement_scores"
PRODUCTION = "public.daily_engagement_scores"
DAYS = DayRange(datetime.date(2024, 3, 1), datetime.date(2024, 3, 3))
USER = uuid.UUID(int=1)
TWO_ROWS = f"""
insert into {SEED} (user_id, score_ts, score) values
  ('{USER}', '2024-03-01 10:00+00', 70), ('{USER}', '2024-03-01 11:00+00', 77)
"""


def with_user(server: Server, scores: str) -> sa.URL:
    """Return a new database, not migrated, with a score table and a user of long ago."""
    url = database_with_scores(server, scores)
    with engine_of(url).begin() as connection:
        add_user(connection, id=USER, created_at=LONG_AGO)
    return url


@pytest.fixture
def seed_url(server: Server) -> Iterator[sa.URL]:
    """A database with a score table of the seed's layout in legacy, not migrated, and a user."""
    url = with_user(server, "legacy.seed")
    yield url
    server.drop_database(url)


@pytest.fixture
def production_url(server: Server) -> Iterator[sa.URL]:
    """A database with the app's production score table in public, not migrated, and a user."""
    url = with_user(server, "public.production")
    run(url, f"alter table {PRODUCTION} disable trigger user")
    yield url
    server.drop_database(url)


def refused_whole(url: sa.URL, revision: str = HEAD) -> str:
    """Return the sentence with which a migration is refused, and assert that nothing has changed."""
    before, rows = snapshot(url), rows_of(url)
    with pytest.raises(PreflightError) as refusal:
        migrate_to(url, revision)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert (snapshot(url), rows_of(url)) == (before, rows)
    return message


def fill(url: sa.URL) -> int:
    """Fill the days, recount them, and return the number of rows inserted."""
    report = run_backfill(engine_of(url), Settings(DAYS))
    assert (report.failed, report.left_over) == (0, 0)
    return report.inserted


def served_exactly(url: sa.URL, *, inserts: int) -> None:
    """Migrate up, fill and down, and assert that nothing else has changed."""
    facts, rows = visible(snapshot(url)), set(rows_of(url)["daily_engagement_scores"])
    migrate_to(url, HEAD)
    assert fill(url) == inserts
    assert fill(url) == 0
    migrate_to(url, "base")
    assert visible(snapshot(url)) == facts
    after = rows_of(url)["daily_engagement_scores"]
    assert rows <= set(after)
    assert len(after) == len(rows) + inserts


# --- Inheritance and rules ---

# Each with the statement of the refusal that removes it.
INTERFERENCE = {
    "a child": ("create table public.child () inherits ({0})", "alter table public.child no inherit {0}"),
    "a child with a name": (
        """create table public."user's ""%(x)s:day" () inherits ({0})""",
        """alter table public."user's ""%(x)s:day" no inherit {0}""",
    ),
    "a child with a parent more": (
        "create table public.other (); create table public.child () inherits (public.other, {0})",
        "alter table public.child no inherit {0}",
    ),
    "a partition": (
        "create table public.whole (like {0}) partition by hash (user_id);"
        "alter table public.whole attach partition {0} for values with (modulus 2, remainder 0)",
        "alter table public.whole detach partition {0}",
    ),
    "a partition of a partition": (
        "create table public.whole (like {0}) partition by hash (user_id);"
        "create table public.half partition of public.whole for values with (modulus 2, remainder 0)"
        "  partition by hash (user_id);"
        "alter table public.half attach partition {0} for values with (modulus 2, remainder 0)",
        "alter table public.half detach partition {0}",
    ),
    "the default partition": (
        "create table public.whole (like {0}) partition by list (user_id);"
        "alter table public.whole attach partition {0} default",
        "alter table public.whole detach partition {0}",
    ),
    **{
        f"a rule on {event} {action}": (
            f"create rule r as on {event} to {{0}} do {action}",
            "drop rule r on {0}",
        )
        for event, action in [
            ("insert", "instead nothing"),
            ("insert", "also select 1"),
            ("insert", "instead update {0} set user_id = new.user_id where user_id = new.user_id"),
            ("update", "also notify changed"),
            ("update", "instead nothing"),
            ("delete", "instead nothing"),
            ("delete", "also notify gone"),
            ("delete", "instead update {0} set user_id = user_id where user_id = old.user_id"),
        ]
    },
    "a disabled rule": (
        "create rule r as on update to {0} do instead nothing; alter table {0} disable rule r",
        "drop rule r on {0}",
    ),
    "a rule with a name": (
        """create rule "user's ""%(x)s:day" as on delete to {0} do instead nothing""",
        """drop rule "user's ""%(x)s:day" on {0}""",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("scores", ["legacy.seed", "public.production"])
@pytest.mark.parametrize("case", INTERFERENCE)
def test_a_table_that_does_not_have_its_rows_for_itself_is_refused(server: Server, scores: str, case: str) -> None:
    relation = SEED if scores == "legacy.seed" else PRODUCTION
    make, unmake = (sql.replace("{0}", relation) for sql in INTERFERENCE[case])
    url = with_user(server, scores)
    try:
        run(url, make)
        assert refused_whole(url).endswith(f": {unmake}; then try again.")
        run(url, unmake)
        if scores == "public.production":
            run(url, f"alter table {PRODUCTION} disable trigger user")
        served_exactly(url, inserts=3)
    finally:
        server.drop_database(url)


def test_a_table_with_a_foreign_child_is_refused_without_reading_it(server: Server, seed_url: sa.URL) -> None:
    run(
        server.as_admin(seed_url),
        "create foreign data wrapper far; create server far foreign data wrapper far;"
        f"create foreign table public.child () inherits ({SEED}) server far",
    )
    before = snapshot(seed_url)
    with pytest.raises(PreflightError, match=f"alter table public.child no inherit {SEED}; then"):
        migrate_to(seed_url, HEAD)
    assert snapshot(seed_url) == before


def test_rows_of_a_child_are_never_taken_for_rows_of_the_table(seed_url: sa.URL) -> None:
    """Rows of one transaction have the same ctid and xmin in parent and child."""
    run(
        seed_url,
        f"create table public.child () inherits ({SEED}); {TWO_ROWS}; {TWO_ROWS.replace(SEED, 'public.child')};",
    )
    rows = fetch(seed_url, "select c::text from public.child as c")
    assert "public.child inherits from it" in refused_whole(seed_url)
    assert fetch(seed_url, "select c::text from public.child as c") == rows


def test_a_child_or_a_rule_that_came_later_keeps_the_backfill_from_filling(seed_url: sa.URL) -> None:
    migrate_to(seed_url, HEAD)
    for make, unmake in (
        (f"create table public.child () inherits ({SEED})", "drop table public.child"),
        (f"create rule r as on insert to {SEED} do instead nothing", f"drop rule r on {SEED}"),
    ):
        run(seed_url, make)
        with pytest.raises(ConfigurationError, match="can't be relied on"):
            fill(seed_url)
        assert execute(seed_url, f"select count(*) from {SEED}") == 0
        run(seed_url, unmake)
    assert fill(seed_url) == 3


def test_a_table_that_inherits_from_another_one_is_served(seed_url: sa.URL) -> None:
    run(
        seed_url,
        f"""
        create table public.parent (user_id uuid, score numeric(5, 2));
        alter table {SEED} inherit public.parent;
        insert into public.parent values ('{USER}', 7);
        {TWO_ROWS};
        """,
    )
    served_exactly(seed_url, inserts=2)
    assert fetch(seed_url, "select score from only public.parent") == [7]
    assert execute(seed_url, "select count(*) from public.parent") == 5


# --- Names ---

# Names that a careless statement would take for something else: aliases and parameters of ours, reserved words, quotes,
# per cent signs, colons, a name of 63 bytes, and one with spaces around it.
NAMES = [
    *(
        "day",
        "n",
        "s",
        "t",
        "d",
        "rank",
        "tid",
        "number",
        "page",
        "moved",
        "columns",
        "ranking",
        "successor",
        "version",
    ),
    *("points", "present", "missing", "first_day", "account", "active", "rows", "series", "found", "compared", "named"),
    *("User_Id", "user_id ", " user_id", "USER_ID", "score_ts2", "user", "select", "order", "table", "null", "any"),
    *(
        "user's day",
        'a "quoted" name',
        "100%_unique",
        "%s",
        "%(x)s",
        "per :day",
        ":first",
        "::date",
        "a.b",
        "$1",
        "{x}",
    ),
    *(
        "\\",
        "día é ☃",
        "x" * 63,
        "é" * 31,
        "a;b",
        "--",
        "/*",
        "tab\there",
        "momentum_internal",
        "daily_engagement_scores",
    ),
]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.slow
@pytest.mark.parametrize("scores", ["legacy.seed", "public.production"])
def test_columns_may_be_called_anything(server: Server, scores: str) -> None:
    url = with_user(server, scores)
    relation = SEED if scores == "legacy.seed" else PRODUCTION
    try:
        added = ", ".join(f"add column {quoted(name)} text default 'x'" for name in NAMES)
        run(url, f"alter table {relation} {added}")
        if scores == "legacy.seed":
            run(url, TWO_ROWS)
            served_exactly(url, inserts=2)
        else:
            run(url, f"alter table {relation} disable trigger user")
            served_exactly(url, inserts=3)
    finally:
        server.drop_database(url)


@pytest.mark.parametrize("active_within", [None, 30])
def test_columns_that_are_called_like_parts_of_our_queries_change_no_count(
    production_url: sa.URL, active_within: int | None
) -> None:
    added = ", ".join(f"add column {quoted(name)} int default 1000000" for name in NAMES)
    run(production_url, f"alter table {PRODUCTION} {added}")
    run(production_url, f"update auth.users set last_sign_in_at = '2024-03-02' where id = '{USER}'")
    migrate_to(production_url, HEAD)
    asked = Settings(DAYS, active_within=active_within, count_by_day=True)
    reports = [run_backfill(engine_of(production_url), asked) for _ in range(2)]
    assert [(one.eligible, one.present, one.inserted, one.left_over) for one in reports] == [(3, 0, 3, 0), (3, 3, 0, 0)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.isidentifier()] + ["select", "é" * 31, "Day"])
def test_an_own_unique_index_may_be_called_anything(production_url: sa.URL, name: str) -> None:
    run(production_url, f"alter index public.idx_daily_scores_user_date rename to {quoted(name)}")
    served_exactly(production_url, inserts=3)
    migrate_to(production_url, HEAD)
    assert (
        execute(
            production_url,
            "select c.relname from pg_class as c, momentum_internal.score_table as s "
            "where c.oid = to_regclass(s.unique_index) and not s.created_index",
        )
        == name
    )
    run(production_url, f"drop index public.{quoted(name)}")
    with pytest.raises(NotMigratedError) as refusal:
        fill(production_url)
    # A message shows a tab as what it is written as in most languages.
    run(production_url, str(refusal.value).split("`")[1].replace("concurrently", "").replace("tab\\t", "tab\t"))
    assert fill(production_url) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["user's day", "100%_unique", "per :day", "a.b"])
def test_an_own_key_of_the_seeds_layout_may_be_called_anything(seed_url: sa.URL, name: str) -> None:
    run(seed_url, f"create unique index {quoted(name)} on {SEED} (user_id, ((score_ts at time zone 'UTC')::date))")
    served_exactly(seed_url, inserts=3)


@pytest.fixture
def predecessors_url(server: Server) -> Iterator[sa.URL]:
    """A database with the app's own versions of our tables, not migrated, and a user."""
    url = database_with_scores(server, "fresh", predecessors=True)
    with engine_of(url).begin() as connection:
        add_user(connection, id=USER, created_at=LONG_AGO)
    yield url
    server.drop_database(url)


def test_columns_of_a_predecessor_may_be_called_anything(predecessors_url: sa.URL) -> None:
    added = ", ".join(f"add column {quoted(name)} text default 'x'" for name in NAMES)
    run(
        predecessors_url,
        f"""
        alter table public.habit_index {added};
        insert into public.habit_index (user_id, index_date, habit_score) values ('{USER}', '2024-03-01', 10);
        """,
    )
    before = visible(snapshot(predecessors_url))
    for score in (10, 20):
        run(predecessors_url, f"update public.habit_index set habit_score = {score} where user_id = '{USER}'")
        migrate_to(predecessors_url, HEAD, existing="adopt", access="close")
        # A change that was made between a downgrade and the next upgrade is seen by the row's fingerprint.
        assert fetch(predecessors_url, "select habit_score from public.habit_index") == [score]
        migrate_to(predecessors_url, "base")
        assert visible(snapshot(predecessors_url)) == before


def test_a_predecessor_with_a_column_that_is_called_like_one_of_ours_is_refused(predecessors_url: sa.URL) -> None:
    run(predecessors_url, "alter table public.momentum_events add column momentum_fingerprint uuid")
    before = snapshot(predecessors_url)
    with pytest.raises(PreflightError, match=r"public\.momentum_events has a column momentum_fingerprint, "):
        migrate_to(predecessors_url, HEAD, existing="adopt", access="close")
    assert snapshot(predecessors_url) == before


@pytest.mark.parametrize("kind", ["json default '{}'", "text default 'x'", "date default current_date"])
def test_a_created_at_that_is_no_moment_keeps_nothing_from_being_undone(
    seed_url: sa.URL, tmp_path: Path, kind: str
) -> None:
    run(seed_url, f"alter table {SEED} add column created_at {kind}, add column updated_at timestamptz default now()")
    migrate_to(seed_url, HEAD)
    manifest = tmp_path / "rows.jsonl"
    days = ("--from", str(DAYS.first), "--to", str(DAYS.last))
    assert call(*days, "--manifest", str(manifest), url=seed_url).returncode == 0
    assert execute(seed_url, f"select count(*) from {SEED}") == 3
    assert call("--undo", str(manifest), url=seed_url).returncode == 0
    assert execute(seed_url, f"select count(*) from {SEED}") == 0


@pytest.mark.slow
def test_a_table_with_as_many_columns_as_there_can_be_is_refused_and_one_with_fewer_is_served(seed_url: sa.URL) -> None:
    there = int(
        execute(seed_url, f"select count(*) from pg_attribute where attrelid = '{SEED}'::regclass and attnum > 0")
    )
    added = ", ".join(f"add column c{number} bool" for number in range(1600 - there))
    run(seed_url, f"{TWO_ROWS}; alter table {SEED} {added}")
    assert "has 1600 columns" in refused_whole(seed_url)
    run(seed_url, f"alter table {SEED} drop column c0")
    served_exactly(seed_url, inserts=2)


@pytest.mark.parametrize(
    ("created", "inserts"),
    [("-infinity", 3), ("0044-03-15 BC", 3), ("infinity", 0), ("20000-01-01", 0), ("2024-03-02 23:59:59.9+00", 2)],
)
@pytest.mark.parametrize("active_within", [None, 4000])
def test_an_account_of_any_moment_is_counted(
    seed_url: sa.URL, created: str, inserts: int, active_within: int | None
) -> None:
    run(seed_url, f"update auth.users set created_at = '{created}', last_sign_in_at = 'infinity' where id = '{USER}'")
    migrate_to(seed_url, HEAD)
    report = run_backfill(engine_of(seed_url), Settings(DAYS, active_within=active_within))
    assert (report.eligible, report.inserted, report.failed, report.left_over) == (inserts, inserts, 0, 0)


# --- Odd moments and scores ---

MOMENTS = [
    *("infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "0044-03-15 12:00+00 BC", "0001-12-31 23:59:59+00 BC"),
    *(
        "0001-01-01 00:00+00",
        "9999-12-31 23:59:59.999999+00",
        "10000-01-01 00:00+00",
        "294276-12-31 23:59:59.999999+00",
    ),
    "2024-03-01 23:59:60+00",
]


@pytest.mark.parametrize("user", ["Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_scores_of_any_moment_are_served(seed_url: sa.URL, caplog: pytest.LogCaptureFixture, user: str) -> None:
    run(
        seed_url,
        f"""
        alter database {seed_url.database} set timezone = '{user}';
        alter database {seed_url.database} set datestyle = 'SQL, DMY';
        insert into {SEED} (user_id, score_ts, score)
        select '{USER}', moment::timestamptz, score
        from unnest(array{MOMENTS!r}::text[]) as moment, unnest(array[null, 1, 7]) as score;
        """,
    )
    served_exactly(seed_url, inserts=2)
    reviewed = [record.getMessage() for record in caplog.records if "review" in record.getMessage()]
    for day in ("infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "294276-12-31"):
        assert len([line for line in reviewed if f"on {day}: " in line]) == 1, reviewed


def test_production_scores_of_any_day_are_served(production_url: sa.URL) -> None:
    run(
        production_url,
        f"""
        insert into {PRODUCTION} (user_id, score_date, momentum_state)
        select '{USER}', day::date, 'Steady'
        from unnest(array['-infinity', '4714-11-24 BC', '0044-03-15 BC', '0001-01-01', '2024-03-02']) as day;
        """,
    )
    served_exactly(production_url, inserts=2)


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [("NaN", "5", True), ("NaN", "NaN", False), ("Infinity", "Infinity", False), ("-Infinity", "Infinity", True)],
)
def test_scores_that_are_no_numbers_are_compared(
    seed_url: sa.URL, caplog: pytest.LogCaptureFixture, one: str, other: str, differs: bool
) -> None:
    run(
        seed_url,
        f"""
        alter table {SEED} drop constraint if exists daily_engagement_scores_score_check;
        alter table {SEED} alter column score type numeric;
        {TWO_ROWS.replace("70", f"'{one}'").replace("77", f"'{other}'")}
        """,
    )
    served_exactly(seed_url, inserts=2)
    reviewed = [record.getMessage() for record in caplog.records if "review" in record.getMessage()]
    assert reviewed == [f"review: user {USER} on 2024-03-01: {one} was superseded by {other}"] * differs


def test_of_many_differences_twenty_are_logged_and_the_rest_is_counted(
    seed_url: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    run(
        seed_url,
        f"""
        insert into {SEED} (user_id, score_ts, score)
        select '{USER}', '2020-01-01 00:00+00'::timestamptz + n / 3 * interval '1 day' + n % 3 * interval '1 hour',
          n % 3 * 6
        from generate_series(0, 8999) as n
        """,
    )
    before = set(rows_of(seed_url)["daily_engagement_scores"])
    migrate_to(seed_url, HEAD)
    reviewed = [record.getMessage() for record in caplog.records if "review" in record.getMessage()]
    assert len(reviewed) == 21
    assert reviewed[:2] == [
        f"review: user {USER} on 2020-01-01: {superseded}.00 was superseded by 12.00" for superseded in (0, 6)
    ]
    assert reviewed[20].startswith("review: these are 20 of 6000; the column momentum_difference of ")
    differences = "select distinct momentum_difference from momentum_internal.superseded_scores order by 1"
    assert fetch(seed_url, differences) == [-12, -6]
    migrate_to(seed_url, "base")
    assert set(rows_of(seed_url)["daily_engagement_scores"]) == before


def test_a_column_that_is_called_like_the_difference_is_refused(seed_url: sa.URL) -> None:
    run(seed_url, f"alter table {SEED} add column momentum_difference int")
    assert "has a column momentum_difference" in refused_whole(seed_url)


# --- Rows that can't go, or can't come back ---

PUBLICATIONS = {
    "a row filter": f"create publication p for table {SEED} where (score > 5)",
    "a column list": f"create publication p for table {SEED} (user_id, score_ts)",
    "a name": f"""create publication "user's ""100%%"" :p" for table {SEED} where (score > 5)""",
    "all tables": "create publication p for all tables",
    "its schema": "create publication p for tables in schema legacy",
    "no replica identity": f"alter table {SEED} replica identity nothing; create publication p for table {SEED}",
    "an index that is gone": f"""
        create unique index i on {SEED} (score_ts, score); alter table {SEED} alter score set not null;
        alter table {SEED} replica identity using index i; drop index legacy.i;
        create publication p for table {SEED}""",
    "an index without the filter's column": f"""
        create unique index i on {SEED} (score_ts, user_id);
        alter table {SEED} replica identity using index i;
        create publication p for table {SEED} where (score > 5)""",
    "a column list without the identity": f"""
        alter table {SEED} replica identity full;
        create publication p for table {SEED} (user_id, score_ts)""",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PUBLICATIONS)
def test_duplicates_that_a_publication_keeps_from_being_deleted_are_refused(
    server: Server, seed_url: sa.URL, case: str
) -> None:
    admin_url = server.as_admin(seed_url)
    run(seed_url, TWO_ROWS)
    run(admin_url, PUBLICATIONS[case])
    message = refused_whole(seed_url)
    name = fetch(seed_url, "select quote_ident(pubname) from pg_publication")[0]
    assert f"the publication {name}" in message
    run(admin_url, f"drop publication {name}")
    served_exactly(seed_url, inserts=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        f"""{TWO_ROWS}; alter table {SEED} replica identity full;
        create publication p for table {SEED} where (score > 5)""",
        f"{TWO_ROWS}; create publication p for table {SEED} (user_id, score_ts) with (publish = 'insert')",
        f"""{TWO_ROWS}; alter table {SEED} add column id int generated always as identity primary key;
        create publication p for table {SEED} (id, score_ts) where (id > 0)""",
        # Without duplicates no row is deleted.
        f"""{TWO_ROWS.replace("01 11:", "02 11:")}; create publication p for table {SEED} where (score > 5)""",
    ],
)
def test_a_publication_that_lets_rows_go_is_no_obstacle(server: Server, seed_url: sa.URL, make: str) -> None:
    run(server.as_admin(seed_url), make)
    served_exactly(seed_url, inserts=2 if "02 11:" not in make else 1)


# What the app changes at head, and how the refusal names it. Of two rows, that with 70 points is the superseded one.
MISFITS = {
    "a check": ("""add constraint "isn't 70%" check (score > 70)""", """its constraint "isn't 70%" """),
    "a check for new rows": ("add constraint c check (score > 70) not valid", "its constraint c"),
    "a check of the whole row": (
        "add constraint c check (to_jsonb(daily_engagement_scores) ->> 'score' <> '70.00')",
        "its constraint c",
    ),
    "not null": ("alter column empty set not null", "NOT NULL of its column empty"),
    "a column without a default": (
        f"add column state text default 'x' not null; alter table {SEED} alter column state drop default",
        "NOT NULL of its column state",
    ),
    "a unique key": ("add constraint k unique (note)", "its key k"),
    "a deferred unique key": ("add constraint k unique (note) deferrable initially deferred", "its key k"),
    "an exclusion constraint": ("add constraint k exclude using btree (note with =)", "its key k"),
    "an exclusion of expressions": (
        "add constraint k exclude using gist (numrange(score, score + 10) with &&)",
        "its key k",
    ),
    "a partial exclusion": ("add constraint k exclude (note with =) where (score > 5)", "its key k"),
    "a foreign key": (
        "add constraint f foreign key (score) references public.marks (mark) not valid",
        "its foreign key f",
    ),
    "a full foreign key": (
        "add constraint f foreign key (score, pillar_breakdown) references public.marks (mark, more) match full "
        "not valid",
        "its foreign key f",
    ),
    "a type that rounds": ("alter column points type numeric(4, 1)", "its column points, now of type numeric(4,1)"),
    "a type that is too short": (
        "alter column note type varchar(3) using 'abc'",
        "a rule of the server (value too long",
    ),
    "another type": (
        "alter column note drop default, alter column note type int using 1",
        'a rule of the server (column "note" is of type integer but expression is of type text)',
    ),
    "a type that fits": ("alter column points type numeric(9, 4)", None),
    "a longer type": ("alter column note type varchar(100)", None),
    "a check that fits": ("add constraint c check (score > 5)", None),
    "a foreign key that fits": (
        "add constraint f foreign key (pillar_breakdown) references public.marks (more)",
        None,
    ),
    "a unique key that fits": ("add constraint k unique nulls not distinct (note, score)", None),
    "a unique key with nulls": ("add constraint k unique (note, pillar_breakdown)", None),
    "a serial key": ("add column id bigserial primary key", None),
    "an identity": ("add column id bigint generated always as identity primary key", None),
    "a random key": ("add column id uuid primary key default gen_random_uuid()", None),
    "a computed key": ("add column doubled numeric generated always as (score * 2) stored unique", None),
    "a computed key that collides": (
        "add column k text generated always as (note) stored, add constraint k unique (k)",
        "its key k",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MISFITS)
def test_superseded_rows_that_could_not_come_back_stop_a_downgrade_before_it_begins(
    seed_url: sa.URL, case: str
) -> None:
    change, named = MISFITS[case]
    run(
        seed_url,
        f"""
        create table public.marks (mark numeric unique, more jsonb unique, unique (mark, more));
        alter table {SEED} add column empty text, add column points numeric(5, 2) default 70.25;
        {TWO_ROWS};
        """,
    )
    rows = set(fetch(seed_url, f"select score from {SEED}"))
    migrate_to(seed_url, HEAD)
    run(seed_url, f"update {SEED} set empty = ''; alter table {SEED} {change}")
    if named is None:
        migrate_to(seed_url, "base")
        assert set(fetch(seed_url, f"select score from {SEED}")) == rows
        return
    for _ in range(2):
        assert f"break {named.strip()}" in refused_whole(seed_url, "base")
    run(seed_url, "delete from momentum_internal.superseded_scores")
    migrate_to(seed_url, "base")


def test_a_unique_index_of_expressions_is_looked_at_with_its_condition(seed_url: sa.URL) -> None:
    run(seed_url, TWO_ROWS)
    migrate_to(seed_url, HEAD)
    run(
        seed_url,
        f"create unique index \"a:b\" on {SEED} ((lower(note || ':x')), (score is null)) where note like '%old'",
    )
    assert 'break its key "a:b";' in refused_whole(seed_url, "base")
    run(seed_url, f'drop index legacy."a:b"; create unique index k on {SEED} (lower(note)) where score > 70')
    migrate_to(seed_url, "base")


def test_rows_that_a_constraint_lets_stand_but_not_come_are_refused_on_the_way_up(seed_url: sa.URL) -> None:
    run(seed_url, f"{TWO_ROWS}; alter table {SEED} add constraint high check (score > 70) not valid")
    assert "they would break its constraint high" in refused_whole(seed_url)
    run(seed_url, f"alter table {SEED} drop constraint high, add constraint low check (score < 78) not valid")
    served_exactly(seed_url, inserts=2)


# --- Event triggers ---

# What one that begins a statement writes would keep an index from being dropped.
NOTE_TAGS = """
create table public.seen (tag text primary key);
grant all on public.seen to public;
create function public.note() returns event_trigger language plpgsql as $$
begin
  insert into public.seen values (tg_tag) on conflict do nothing;
end $$;
create event trigger note on {event} execute function public.note();
"""
REFUSE_TAG = """
create function public.refuse() returns event_trigger language plpgsql as $$
begin
  raise exception 'no % in % today', lower(tg_tag), current_schema();
end $$;
create event trigger "isn't %(x)s :allowed" on ddl_command_start when tag in ('{tag}') execute function public.refuse();
"""
STOP_REFUSING = 'drop event trigger "isn\'t %(x)s :allowed"; drop function public.refuse()'


def before_migration(server: Server, scores: str, revision: str) -> sa.URL:
    """Return a new database that is to be migrated to base or head, and is at the other one."""
    url = with_user(server, scores)
    if scores == "legacy.seed":
        run(url, TWO_ROWS)
    if revision == "base":
        migrate_to(url, HEAD)
    return url


def test_an_event_trigger_that_keeps_superseded_rows_from_being_tried_is_named(server: Server) -> None:
    url = before_migration(server, "legacy.seed", "base")
    run(server.as_admin(url), REFUSE_TAG.format(tag="CREATE TABLE"))
    assert refused_whole(url, "base") == (
        "Whether rows of momentum_internal.superseded_scores can be put into legacy.daily_engagement_scores could not "
        'be tried, because the event trigger "isn\'t %(x)s :allowed" refuses a table for the trial: no create table '
        "in pg_catalog today; let it pass what the migrations do, or disable it in the meantime with: alter event "
        'trigger "isn\'t %(x)s :allowed" disable; then try again.'
    )
    run(server.as_admin(url), STOP_REFUSING)
    migrate_to(url, "base")
    server.drop_database(url)


def tags_of(server: Server, scores: str, revision: str) -> list[str]:
    """Return the kinds of statements that a migration executes."""
    url = before_migration(server, scores, revision)
    run(server.as_admin(url), NOTE_TAGS.replace("{event}", "ddl_command_end"))
    migrate_to(url, revision)
    seen = fetch(url, "select tag from public.seen order by tag")
    server.drop_database(url)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("scores", ["fresh", "legacy.seed", "public.production"])
@pytest.mark.parametrize("revision", [HEAD, "base"])
def test_every_kind_of_statement_that_an_event_trigger_refuses_is_refused_before_anything_changes(
    server: Server, scores: str, revision: str
) -> None:
    seen = tags_of(server, scores, revision)
    assert len(seen) > 2
    url = before_migration(server, scores, revision)
    try:
        for tag in seen:
            run(server.as_admin(url), REFUSE_TAG.format(tag=tag))
            message = refused_whole(url, revision)
            assert message.startswith('The event trigger "isn\'t %(x)s :allowed" refuses '), (tag, message)
            assert f"no {tag.lower()} in" in message
            assert 'alter event trigger "isn\'t %(x)s :allowed" disable' in message
            run(server.as_admin(url), STOP_REFUSING)
        migrate_to(url, revision)
    finally:
        server.drop_database(url)


@pytest.mark.parametrize("event", ["ddl_command_start", "ddl_command_end", "sql_drop"])
def test_event_triggers_that_refuse_nothing_of_ours_are_no_obstacle(
    server: Server, seed_url: sa.URL, event: str
) -> None:
    """As Supabase has them: they note what happens, and refuse what others do."""
    run(
        server.as_admin(seed_url),
        f"""
        create function public.watch() returns event_trigger language plpgsql as $$
        begin
          notify watched;
          if tg_tag in ('CREATE EXTENSION', 'DROP TYPE') then raise exception 'no %', tg_tag; end if;
        end $$;
        create event trigger watch on {event} execute function public.watch();
        create event trigger stopped on ddl_command_start execute function public.watch();
        alter event trigger stopped disable;
        """,
    )
    run(seed_url, TWO_ROWS)
    served_exactly(seed_url, inserts=2)


def test_an_event_trigger_that_refuses_drops_stops_the_way_back_only(server: Server, seed_url: sa.URL) -> None:
    run(
        server.as_admin(seed_url),
        """
        create function public.keep() returns event_trigger language plpgsql as $$
        begin
          if exists (select from pg_event_trigger_dropped_objects() where object_identity ~ 'momentum_scores$') then
            raise exception 'the app reads it';
          end if;
        end $$;
        create event trigger keep on sql_drop execute function public.keep();
        """,
    )
    migrate_to(seed_url, HEAD)
    assert "The event trigger keep refuses DROP VIEW" in refused_whole(seed_url, "base")
    run(server.as_admin(seed_url), "alter event trigger keep disable")
    migrate_to(seed_url, "base")


def test_an_event_trigger_that_writes_keeps_an_index_from_being_dropped(server: Server, seed_url: sa.URL) -> None:
    run(seed_url, TWO_ROWS)
    run(server.as_admin(seed_url), NOTE_TAGS.replace("{event}", "ddl_command_start"))
    run(server.as_admin(seed_url), "alter table public.seen drop constraint seen_pkey")
    migrate_to(seed_url, HEAD)
    assert "alter event trigger note disable" in refused_whole(seed_url, "base")
    run(server.as_admin(seed_url), "alter event trigger note disable")
    migrate_to(seed_url, "base")
    assert len(rows_of(seed_url)["daily_engagement_scores"]) == 2
