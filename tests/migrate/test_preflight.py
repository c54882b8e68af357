"""The migrations refuse what they could not finish before they begin, in one sentence, and change nothing."""

import contextlib

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.errors import PreflightError
from momentum.migrate import operations, preflight
from momentum.migrate.config import alembic_config
from momentum.testing import Server
from tests.catalog import snapshot
from tests.migrating import HISTORY, KEY, REVISIONS, SCORES_ADOPTED, VIEW, execute, fetch, migrate_to, run
from tests.samples import LEGACY_SCORES
from tests.server import engine_of

A, B = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
TWO_USERS = f"insert into auth.users (id) values ('{A}'), ('{B}');"

# The columns of the app's production table, and its unique index, which serves as the key.
PRODUCTION = {
    "user_id": "uuid not null references auth.users (id) on delete cascade",
    "score_date": "date not null",
    "final_score": "numeric(5, 2) not null default 0",
    "momentum_state": "text not null",
    "breakdown": "jsonb not null default '{}'",
    "calculation_metadata": "jsonb default '{}'",
}


def production(schema: str = "public", *, indexed: bool = True, **columns: str) -> str:
    """Return SQL that makes a production score table; a column can have another type or be left out."""
    body = ", ".join(f"{name} {kind}" for name, kind in {**PRODUCTION, **columns}.items() if kind)
    index = f"; create unique index theirs on {schema}.daily_engagement_scores (user_id, score_date)"
    table = f"create schema if not exists {schema}; create table {schema}.daily_engagement_scores ({body})"
    return table + index * indexed


def scores(schema: str = "legacy", **columns: str) -> str:
    """Return SQL that makes a score table; a column can have another type, or with an empty one be left out."""
    layout = {"user_id": "uuid", "score_ts": "timestamptz", "score": "numeric(5, 2)", "pillar_breakdown": "jsonb"}
    body = ", ".join(f"{name} {kind}" for name, kind in {**layout, **columns}.items() if kind)
    return f"create schema if not exists {schema}; create table {schema}.daily_engagement_scores ({body})"


def scores_of(*rows: tuple[str, str]) -> str:
    values = ", ".join(f"('{user}', '{at}', 1, null)" for user, at in rows)
    table = LEGACY_SCORES.format(schema="legacy")
    return f"{TWO_USERS} {table} insert into legacy.daily_engagement_scores values {values}"


def refusal_of(url: sa.URL, revision: str = "head") -> str:
    """Return the sentence with which an upgrade is refused, and assert that nothing has changed."""
    before = snapshot(url)
    with pytest.raises(PreflightError) as refusal:
        alembic.command.upgrade(alembic_config(url), revision)
    assert snapshot(url) == before, "a refused upgrade has changed something"
    message = str(refusal.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def not_begun(url: sa.URL) -> bool:
    return not snapshot(url, of="schema | momentum_internal")


# The message names what works from an installed package too, where there is no Makefile.
NOT_SUPABASE = "not a Supabase database; `python -m momentum.testing start` starts a local one"

# Objects in the database, and their names in the refusal.
REFUSED: dict[str, tuple[str, list[str]]] = {
    "no auth.users": ("drop table auth.users", ["no table auth.users", NOT_SUPABASE]),
    "no auth.uid()": ("drop function auth.uid()", ["no function auth.uid()", NOT_SUPABASE]),
    "generated column": (
        scores(score="numeric generated always as (1) stored"),
        ["legacy.daily_engagement_scores.score is a generated column"],
    ),
    "domain that is not null": (
        "create domain public.mood as text not null;" + scores(mood="public.mood"),
        ["legacy.daily_engagement_scores.mood is not null and has no default"],
    ),
    "unknown layout": (
        scores(score_ts="", score=""),
        ["legacy.daily_engagement_scores has the columns user_id, pillar_breakdown", "no known layout", "score_ts"],
    ),
    "no columns": ("create table public.daily_engagement_scores ()", ["public.daily_engagement_scores", "no columns"]),
    "score_ts without time zone": (
        scores(score_ts="timestamp"),
        ["legacy.daily_engagement_scores.score_ts is of type timestamp without time zone", "timestamp with time zone"],
    ),
    "user_id as text": (scores(user_id="text"), ["daily_engagement_scores.user_id is of type text; uuid is expected"]),
    "score as float": (scores(score="float8"), [".score is of type double precision; numeric is expected"]),
    "breakdown as json": (scores("public", pillar_breakdown="json"), [".pillar_breakdown is of type json; jsonb"]),
    "column without a default": (
        scores(state="text not null", level="int not null default 1"),
        ["legacy.daily_engagement_scores.state is not null and has no default", "give it a default"],
    ),
    "a view": (
        "create view public.daily_engagement_scores as select 1 as score",
        ["public.daily_engagement_scores is a view", "move what is in the way"],
    ),
    "a materialized view": (
        "create schema legacy; create materialized view legacy.daily_engagement_scores as select 1 as score",
        ["legacy.daily_engagement_scores is a materialized view", "move what is in the way"],
    ),
    "a sequence": (
        "create sequence public.daily_engagement_scores",
        ["public.daily_engagement_scores is a sequence", "move what is in the way"],
    ),
    "a partitioned table": (
        scores() + " partition by range (score_ts)",
        ["legacy.daily_engagement_scores is a partitioned table", "into one plain table"],
    ),
    "two candidates": (
        f"{scores()}; {scores('public')}",
        ["more than one score table: legacy.daily_engagement_scores, public.daily_engagement_scores;", "all but the"],
    ),
    "two candidates, one of them production": (
        f"{scores()}; {production()}",
        ["more than one score table: legacy.daily_engagement_scores, public.daily_engagement_scores;", "all but the"],
    ),
    "two candidates, both production": (
        f"{production('legacy')}; {production('public')}",
        ["more than one score table: legacy.daily_engagement_scores, public.daily_engagement_scores;", "all but the"],
    ),
    "a table and a view": (
        f"{production()}; create schema legacy; "
        "create view legacy.daily_engagement_scores as select * from public.daily_engagement_scores",
        ["more than one score table: legacy.daily_engagement_scores, public.daily_engagement_scores;"],
    ),
    "production without a breakdown": (
        production(breakdown=""),
        ["public.daily_engagement_scores has the columns user_id, score_date, final_score,", "no known layout"],
    ),
    "production with a day that is a timestamp": (
        production(score_date="timestamptz not null"),
        ["public.daily_engagement_scores.score_date is of type timestamp with time zone; date is expected"],
    ),
    "production with a score in whole points": (
        production(final_score="integer not null default 0"),
        ["public.daily_engagement_scores.final_score is of type integer; numeric is expected"],
    ),
    "production with a breakdown as json": (
        production("legacy", breakdown="json", indexed=False),
        ["legacy.daily_engagement_scores.breakdown is of type json; jsonb is expected"],
    ),
    "production with a generated score": (
        production(final_score="numeric generated always as (1) stored"),
        ["public.daily_engagement_scores.final_score is a generated column"],
    ),
    "production with a column without a default": (
        production(coach="uuid not null"),
        ["public.daily_engagement_scores.coach is not null and has no default", "give it a default"],
    ),
    "production with states of its own": (
        production(momentum_state="integer not null"),
        ["public.daily_engagement_scores.momentum_state is of type integer; text is expected"],
    ),
    "production as a partitioned table": (
        production(indexed=False) + " partition by range (score_date)",
        ["public.daily_engagement_scores is a partitioned table"],
    ),
    "the unique key of a production table that lacks one": (
        production(indexed=False) + "; create sequence public.uq_daily_engagement_scores_user_id_score_date",
        ["sequence public.uq_daily_engagement_scores_user_id_score_date", "rename or move"],
    ),
    "production with a deferrable key": (
        production() + "; alter table public.daily_engagement_scores "
        "add constraint later unique (user_id, score_date) deferrable",
        ["unique constraint later of public.daily_engagement_scores is deferrable", "upsert"],
    ),
    "two production rows of a day": (
        f"{TWO_USERS} {production(indexed=False)}; insert into public.daily_engagement_scores "
        f"(user_id, score_date, momentum_state) values ('{A}', '2024-03-01', 'x'), ('{A}', '2024-03-01', 'x')",
        ["public.daily_engagement_scores has 1 day", "more than one row", "no unique index on user_id and score_date"],
    ),
    "the app's own earlier tables": (
        "create table public.momentum_events (id uuid primary key); create table public.habit_index (id uuid)",
        ["table public.habit_index", "table public.momentum_events", "Already in the database"],
    ),
    "the key of a fresh score table": (
        "create schema legacy; create table legacy.old (id uuid constraint pk_daily_engagement_scores primary key)",
        ["index legacy.pk_daily_engagement_scores", "rename or move"],
    ),
    "a type named like a fresh score table": (
        "create schema legacy; create type legacy.daily_engagement_scores as enum ('a')",
        ["type legacy.daily_engagement_scores", "rename or move"],
    ),
    "the unique key of a fresh score table": (
        "create schema legacy; create sequence legacy.uq_daily_engagement_scores_user_id_utc_day",
        ["sequence legacy.uq_daily_engagement_scores_user_id_utc_day", "rename or move"],
    ),
    "the unique key of an adopted score table": (
        scores("public") + "; create table public.uq_daily_engagement_scores_user_id_utc_day ()",
        ["table public.uq_daily_engagement_scores_user_id_utc_day", "rename or move"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_could_not_be_finished_is_refused_before_it_begins(
    server: Server, supabase_url: sa.URL, case: str
) -> None:
    sql, named = REFUSED[case]
    # Only the platform can take away what is in auth.
    run(server.as_admin(supabase_url) if "auth" in case else supabase_url, sql)
    message = refusal_of(supabase_url)
    assert [part for part in named if part not in message] == [], message
    assert not_begun(supabase_url)


def test_rows_without_a_day_are_no_duplicates(supabase_url: sa.URL) -> None:
    run(supabase_url, f"{scores()}; insert into legacy.daily_engagement_scores values (null, null), (null, null)")
    alembic.command.upgrade(alembic_config(supabase_url), "head")
    assert not not_begun(supabase_url)


def test_a_missing_role_is_named(supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ROLES", ("anon", "momentum_no_role"))
    message = refusal_of(supabase_url)
    assert message.startswith("There is no role momentum_no_role: this is not a Supabase database")
    assert not_begun(supabase_url)


def test_an_old_server_is_refused(supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    version = int(execute(supabase_url, "show server_version_num")) // 10_000
    monkeypatch.setattr(preflight, "OLDEST_SERVER", version + 1)
    message = refusal_of(supabase_url)
    assert message == (
        f"The server is PostgreSQL {version}; version {version + 1} or newer is needed: upgrade the server."
    )
    assert not_begun(supabase_url)
    monkeypatch.setattr(preflight, "OLDEST_SERVER", version)
    with engine_of(supabase_url).connect() as connection:
        preflight.check_server(connection)


CREATED = [name for revision in REVISIONS for name in revision.module.creates]
KINDS = {
    "table": "create table {} ()",
    "view": "create view {} as select 1 as one",
    "materialized view": "create materialized view {} as select 1 as one",
    "sequence": "create sequence {}",
    "index": "create table theirs (id int); create index {bare} on theirs (id)",
    "type": "create type {} as enum ('a')",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CREATED)
def test_every_name_that_is_taken_is_refused(supabase_url: sa.URL, name: str) -> None:
    run(supabase_url, KINDS["index"].format(bare=name))
    assert f"index public.{name}" in refusal_of(supabase_url)
    assert not_begun(supabase_url)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_has_a_name_of_ours_is_called_what_it_is(supabase_url: sa.URL, kind: str) -> None:
    run(supabase_url, KINDS[kind].format("public.momentum_pillars", bare="momentum_pillars"))
    assert f"{kind} public.momentum_pillars;" in refusal_of(supabase_url)


@pytest.mark.parametrize("at", range(1, HISTORY.index(VIEW)))
def test_a_collision_that_came_later_stops_a_partly_migrated_database(supabase_url: sa.URL, at: int) -> None:
    migrate_to(supabase_url, HISTORY[at])
    run(supabase_url, "create view public.daily_momentum_scores as select 1 as one")
    assert "view public.daily_momentum_scores" in refusal_of(supabase_url)


def test_names_that_only_later_revisions_want_do_not_stop_the_earlier_ones(supabase_url: sa.URL) -> None:
    run(supabase_url, "create view public.daily_momentum_scores as select 1 as one")
    migrate_to(supabase_url, KEY)
    refusal_of(supabase_url)


def test_a_parked_score_table_and_a_live_one_are_two(url: sa.URL) -> None:
    migrate_to(url, "base")
    run(url, scores("public"))
    message = refusal_of(url)
    assert "public.daily_engagement_scores, momentum_internal.daily_engagement_scores (parked)" in message


def test_a_score_table_that_was_moved_away_is_missed(supabase_url: sa.URL) -> None:
    migrate_to(supabase_url, SCORES_ADOPTED)
    run(supabase_url, "alter table legacy.daily_engagement_scores rename to moved")
    message = refusal_of(supabase_url)
    assert "legacy.daily_engagement_scores" in message
    assert "is gone" in message


ACCEPTED = {
    "one local day, two UTC days": scores_of((A, "2024-03-01 18:30-05"), (A, "2024-03-01 19:30-05")),
    "one day, two users": scores_of((A, "2024-03-01 00:00+00"), (B, "2024-03-01 00:00+00")),
    "more columns, each with a default or null": scores(state="text", level="int not null default 1"),
    "an identity column": scores("public", id="bigint generated always as identity primary key"),
    "a stored column": scores(twice="numeric not null generated always as (score * 2) stored"),
    "a score of another precision": scores(score="numeric"),
    "two rows at different instants of a UTC day": scores_of(
        (A, "2024-03-01 00:00+00"), (A, "2024-03-01 23:59:59.999999+00"), (B, "2024-03-01 12:00+00")
    ),
    "production": production(),
    "production in legacy": production("legacy"),
    "production without a unique index": production(indexed=False),
    "production without a foreign key": production(user_id="uuid"),
    "production with a score of another precision": production(final_score="numeric"),
    "production with more columns, each with a default or null": production(
        state="text", level="int not null default 1"
    ),
    "names of ours in another schema": "create schema theirs; create table theirs.momentum_events ()",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_no_obstacle_is_accepted(supabase_url: sa.URL, case: str) -> None:
    run(supabase_url, ACCEPTED[case])
    alembic.command.upgrade(alembic_config(supabase_url), "head")
    assert execute(supabase_url, "select to_regclass(unique_index) is not null from momentum_internal.score_table")


DUPLICATES = f"""
    {scores()};
    insert into legacy.daily_engagement_scores
    values ('{A}', '2024-03-01 10:00+00', 1), ('{A}', '2024-03-01 11:00+00', 2)
"""


INTERFERENCE = {
    "a rule": ("create rule r as on delete to {0} do instead nothing", "drop rule r on {0}"),
    "an heir": ("create table public.heir () inherits ({0})", "alter table public.heir no inherit {0}"),
}


@pytest.mark.parametrize("case", INTERFERENCE)
@pytest.mark.parametrize("start", ["base", HISTORY[-2]])
def test_a_parked_or_recorded_score_table_with_which_something_interferes_is_refused(
    url: sa.URL, case: str, start: str
) -> None:
    """It comes back with what it had when it was parked."""
    spoil, advice = INTERFERENCE[case]
    scores, parked = "legacy.daily_engagement_scores", "momentum_internal.daily_engagement_scores"
    run(url, spoil.format(scores))
    migrate_to(url, start)
    found = parked if start == "base" else scores
    message = refusal_of(url)
    assert message.startswith(f"{found} can't be relied on: ")
    assert message.endswith(f" with: {advice.format(found)}; then try again.")
    run(url, advice.format(found))
    alembic.command.upgrade(alembic_config(url), "head")


def refusal_of_downgrade(url: sa.URL, revision: str = "base") -> str:
    """Return the sentence with which a downgrade is refused, and assert that nothing has changed."""
    before = snapshot(url)
    with pytest.raises(PreflightError) as refusal:
        alembic.command.downgrade(alembic_config(url), revision)
    assert snapshot(url) == before, "a refused downgrade has changed something"
    return str(refusal.value)


@pytest.mark.parametrize("revision", ["base", KEY])
def test_a_downgrade_is_refused_as_long_as_others_depend_on_the_view(url: sa.URL, revision: str) -> None:
    run(url, "create view public.theirs as select user_id from public.daily_momentum_scores")
    # Objects that depend on a table are parked with it, and come back with it.
    run(url, "create view public.habits as select id from public.habit_index")
    said = refusal_of_downgrade(url, revision)
    assert said.endswith(
        " would drop: view public.theirs depends on public.daily_momentum_scores; drop the dependent ones first, then "
        "run the command again."
    )
    run(url, "drop view public.theirs")
    alembic.command.downgrade(alembic_config(url), revision)
    assert fetch(url, "select count(*) from public.habits") == [0]


@pytest.mark.parametrize("indexed", [False, True], ids=["our key", "their key"])
def test_a_downgrade_is_refused_as_long_as_others_depend_on_a_key_that_it_drops(
    supabase_url: sa.URL, indexed: bool
) -> None:
    run(supabase_url, production(indexed=indexed))
    migrate_to(supabase_url, HISTORY[-1])
    run(
        supabase_url,
        "create table public.visits (user_id uuid, day date, constraint visits_key foreign key (user_id, day) "
        "references public.daily_engagement_scores (user_id, score_date))",
    )
    migrate_to(supabase_url, KEY)
    if not indexed:
        assert (
            "table constraint visits_key on public.visits depends on "
            "public.uq_daily_engagement_scores_user_id_score_date; drop"
        ) in refusal_of_downgrade(supabase_url)
        run(supabase_url, "drop table public.visits")
    migrate_to(supabase_url, "base")


def test_a_key_that_an_interrupted_downgrade_has_left_is_looked_at_too(
    supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(supabase_url, production(indexed=False))
    migrate_to(supabase_url, HISTORY[-1])

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(operations, "try_patiently", interrupt)
        with pytest.raises(KeyboardInterrupt):
            migrate_to(supabase_url, "base")
    run(
        supabase_url,
        "create table public.visits (user_id uuid, day date, constraint visits_key foreign key (user_id, day) "
        "references public.daily_engagement_scores (user_id, score_date))",
    )
    assert "visits_key on public.visits depends on public.uq_daily" in refusal_of_downgrade(supabase_url)
    run(supabase_url, "drop table public.visits")
    migrate_to(supabase_url, "base")


@pytest.mark.parametrize("purge", [False, True], ids=["parking", "purging"])
def test_a_downgrade_to_base_is_refused_as_long_as_others_depend_on_our_record(url: sa.URL, purge: bool) -> None:
    run(url, "create view public.theirs as select relation from momentum_internal.score_table")
    before = snapshot(url)
    with pytest.raises(PreflightError, match=r"view public\.theirs depends on momentum_internal\.score_table; drop"):
        alembic.command.downgrade(alembic_config(url, purge=purge), "base")
    assert snapshot(url) == before
    migrate_to(url, HISTORY[1])
    run(url, "drop view public.theirs")
    alembic.command.downgrade(alembic_config(url, purge=purge), "base")


def test_duplicate_days_of_users_who_do_not_exist_are_refused(supabase_url: sa.URL) -> None:
    run(supabase_url, DUPLICATES)
    assert "more than one row of 1 user who is not in auth.users" in refusal_of(supabase_url)
    assert not_begun(supabase_url)
    run(supabase_url, TWO_USERS)
    alembic.command.upgrade(alembic_config(supabase_url), "head")


def test_duplicate_days_that_a_publication_keeps_from_being_moved_are_refused(supabase_url: sa.URL) -> None:
    run(supabase_url, f"{TWO_USERS} {DUPLICATES}; create publication theirs for table legacy.daily_engagement_scores")
    assert "it has no replica identity for the publication theirs" in refusal_of(supabase_url)
    run(supabase_url, "alter table legacy.daily_engagement_scores replica identity full")
    alembic.command.upgrade(alembic_config(supabase_url), "head")


# All that a role needs besides the score table.
RIGHTS = """
grant create on database {database} to {role};
grant usage, create on schema public, legacy to {role};
grant usage on schema auth to {role};
grant select, references on auth.users to {role};
"""


def test_a_score_table_of_another_owner_is_refused(server: Server, supabase_url: sa.URL) -> None:
    """Only the table's owner can make the unique key, and a role that migrates need not be a superuser."""
    run(supabase_url, scores())
    role = f"{supabase_url.database}_role"
    admin_url = server.as_admin(supabase_url)
    run(admin_url, f"create role {role} login password '{role}'")
    try:
        run(admin_url, RIGHTS.format(role=role, database=supabase_url.database))
        message = refusal_of(supabase_url.set(username=role, password=role))
        owner = supabase_url.username
        assert message == (
            f"legacy.daily_engagement_scores belongs to {owner}, and you are {role}, who could not create its unique "
            f"key; connect as {owner}, or let {owner} run `alter table legacy.daily_engagement_scores owner to "
            f"{role}`, then try again."
        )
        assert not_begun(supabase_url)
        keeper = f"supabase_{supabase_url.database}"
        run(admin_url, f"create role {keeper}; alter table legacy.daily_engagement_scores owner to {keeper}")
        message = refusal_of(supabase_url.set(username=role, password=role))
        assert f"; nobody outside of Supabase can be {keeper}, so ask its support to run `alter table " in message
        run(admin_url, f"grant {keeper} to {role}")
        with engine_of(supabase_url.set(username=role, password=role)).connect() as connection:
            preflight.check_owner(
                connection, "legacy.daily_engagement_scores", "is a member of its owner and may do it"
            )
        run(admin_url, f"drop owned by {keeper} cascade; drop role {keeper}")
    finally:
        with contextlib.suppress(sa.exc.DBAPIError):
            run(admin_url, f"drop owned by {role}; drop role {role}")


def test_an_owner_who_would_not_see_all_rows_is_refused(server: Server, supabase_url: sa.URL) -> None:
    """Forced row-level security holds for the owner too, and would hide duplicate days from a migration."""
    role = f"{supabase_url.database}_role"
    force = "alter table legacy.daily_engagement_scores force row level security, enable row level security"
    admin_url = server.as_admin(supabase_url)
    run(supabase_url, f"{scores()}; {force}")
    run(admin_url, f"create role {role} login password '{role}'")
    run(admin_url, f"alter table legacy.daily_engagement_scores owner to {role}")
    try:
        run(admin_url, RIGHTS.format(role=role, database=supabase_url.database))
        message = refusal_of(supabase_url.set(username=role, password=role))
        assert message.startswith(f"Row-level security hides rows of legacy.daily_engagement_scores from {role}")
        assert not_begun(supabase_url)
    finally:
        with contextlib.suppress(sa.exc.DBAPIError):
            run(admin_url, f"drop owned by {role}; drop role {role}")


OPEN = {
    "seed": f"{scores('public')}; insert into public.daily_engagement_scores values ('{A}', now()), ('{B}', now())",
    "production": f"{production()}; insert into public.daily_engagement_scores (user_id, score_date, momentum_state) "
    f"values ('{A}', current_date, 'Rising'), ('{B}', current_date, 'Rising')",
}


@pytest.mark.parametrize("layout", OPEN)
def test_an_open_score_table_is_adopted_with_a_warning_that_says_how_to_close_it(
    supabase_url: sa.URL, caplog: pytest.LogCaptureFixture, layout: str
) -> None:
    def rows_that_a_sees() -> int:
        with engine_of(supabase_url).connect() as connection:
            connection.execute(
                sa.text("select set_config('request.jwt.claims', :claims, true)"), {"claims": f'{{"sub": "{A}"}}'}
            )
            connection.execute(sa.text("set local role authenticated"))
            return connection.execute(sa.text("select * from public.daily_momentum_scores")).rowcount

    run(supabase_url, TWO_USERS + OPEN[layout])
    alembic.command.upgrade(alembic_config(supabase_url), "head")
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "momentum.migrations"]
    explanation, _, statements = warning.partition(" close it with: ")
    assert explanation.startswith("public.daily_engagement_scores has no row-level security")
    assert rows_that_a_sees() == 2
    run(supabase_url, statements)
    assert rows_that_a_sees() == 1


@pytest.mark.parametrize(
    "sql",
    [
        "select",
        LEGACY_SCORES.format(schema="public"),
        f"{scores('public')}; revoke all on table public.daily_engagement_scores from authenticated",
    ],
    ids=["fresh", "with row-level security", "without a grant"],
)
def test_a_score_table_that_is_not_open_is_no_reason_to_warn(
    supabase_url: sa.URL, caplog: pytest.LogCaptureFixture, sql: str
) -> None:
    run(supabase_url, sql)
    alembic.command.upgrade(alembic_config(supabase_url), "head")
    assert [record for record in caplog.records if record.name == "momentum.migrations"] == []


def test_the_oldest_server_is_the_first_whose_views_ask_for_their_readers_rights() -> None:
    assert preflight.OLDEST_SERVER == 15
