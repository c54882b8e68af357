"""A database that can't be filled is refused in one sentence, after a few statements, before anything has changed."""

import contextlib
import dataclasses
import datetime
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Settings, run_backfill
from momentum.backfill.preflight import Need, check_days, check_needs, check_triggers, compare_revision, needs_of
from momentum.backfill.run import look_before
from momentum.backfill.triggers import Trigger
from momentum.connect.engine import create_engine
from momentum.errors import ConfigurationError, MomentumError, NotMigratedError
from momentum.scores import LAYOUTS, Layout, ScoreTable
from momentum.testing import Server
from tests.backfilling import (
    DAY,
    ONE_DAY,
    Scores,
    after_database,
    call,
    messages_of,
    one_error_line,
    scores_in,
    statements_of,
)
from tests.migrating import HISTORY, database_with_scores, execute, fetch, migrate_to, run
from tests.samples import add_users
from tests.server import engine_of

# Times that a run waits for the server while it looks at a database, whatever that holds.
MOST_WAITS = 9


def refusal(url: sa.URL, settings: Settings | None = None) -> MomentumError:
    """Return the error with which a run is refused, in one sentence and after a few round trips."""
    engine = create_engine(url, application_name="momentum-tests")
    messages = messages_of(engine)
    with pytest.raises(MomentumError) as refused:
        run_backfill(engine, settings or Settings(ONE_DAY))
    assert 0 < len(messages) <= MOST_WAITS, "a refusal doesn't wait for the work"
    said = str(refused.value)
    assert said.endswith(".")
    assert "\n" not in said
    return refused.value


def test_a_database_that_can_be_filled_is_looked_at_in_a_few_round_trips_that_read_no_scores(scores: Scores) -> None:
    add_users(scores.engine, 20)
    engine = scores.engine
    statements, messages = statements_of(engine), messages_of(engine)
    look_before(engine, Settings(ONE_DAY))
    assert 0 < len(messages) <= MOST_WAITS
    assert not [statement for statement in statements if re.search(r"\bfrom [a-z]+\.daily_", statement, re.IGNORECASE)]


def test_a_database_without_the_migrations_is_refused(supabase_url: sa.URL) -> None:
    error = refusal(supabase_url)
    assert str(error) == "The database is not migrated; upgrade it to head with the momentum migrations first."
    assert (type(error), error.exit_code) == (NotMigratedError, 3)
    done = call(url=supabase_url)
    assert (done.returncode, one_error_line(done)) == (3, f"Error: {error}")


# Before the score table is adopted, all layouts are alike.
EARLIER = [("fresh", revision) for revision in HISTORY[:-1]] + [
    (layout, revision) for layout in ("legacy.seed", "public.production") for revision in HISTORY[-3:-1]
]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "revision"), EARLIER)
def test_a_database_at_an_earlier_revision_is_filled_or_refused_until_it_is_migrated(
    server: Server, layout: str, revision: str
) -> None:
    url = database_with_scores(server, layout)
    try:
        migrate_to(url, revision)
        [user] = add_users(engine_of(url), 1)
        options = ("--days", "1", "--user", str(user))
        recorded = fetch(url, "select to_regclass('momentum_internal.score_table') is not null") == [True]
        if recorded and fetch(url, "select 1 from momentum_internal.score_table where unique_index is not null"):
            done = call(*options, url=url)
            assert done.returncode == 0
            assert "inserted 1 " in " ".join(done.stdout.split()) + " "
            assert after_database(done).splitlines()[0] == (
                f"The database is at revision {revision}, before this version's own, {HISTORY[-1]}; "
                "it has everything that the backfill needs."
            )
            return
        error = refusal(url)
        assert (type(error), error.exit_code) == (NotMigratedError, 3)
        assert "upgrade it to head with the momentum migrations" in str(error)
        migrate_to(url, HISTORY[-1])
        done = call(*options, url=url)
        assert (done.returncode, "revision" in done.stderr) == (0, False)
        assert "inserted 1 " in " ".join(done.stdout.split()) + " "
    finally:
        server.drop_database(url)


def go_ahead(scores: Scores) -> None:
    """Bring a database to a later revision than this version knows, which has added a column and a table."""
    run(
        scores.url,
        f"""
        update momentum_internal.alembic_version set version_num = '0123456789ab';
        alter table {scores.relation} add column mood text check (mood <> '');
        create table public.momentum_badges (id uuid primary key, user_id uuid not null references auth.users (id));
        """,
    )


LATER = (
    f"The database is at revision 0123456789ab, which this version doesn't know (its own is {HISTORY[-1]}); "
    "it has everything that the backfill needs."
)


def test_a_database_at_a_later_revision_is_filled_and_undone_and_one_line_says_so(
    scores: Scores, tmp_path: Path
) -> None:
    add_users(scores.engine, 3)
    go_ahead(scores)
    manifest = str(tmp_path / "rows.jsonl")
    days = ("--to", str(DAY), "--days", "2")
    for options, rows in (
        ((*days, "--dry-run"), 0),
        ((*days, "--manifest", manifest), 6),
        (("--undo", manifest), 0),
    ):
        done = call(*options, url=scores.url)
        assert (done.returncode, scores.count()) == (0, rows)
        assert [line for line in done.stderr.splitlines() if "revision" in line] == [LATER]
    assert call(*days, "--quiet", url=scores.url).stderr == ""


def test_a_database_at_its_own_revision_is_not_worth_a_line(scores: Scores) -> None:
    assert "revision" not in call("--to", str(DAY), "--days", "1", "--verbose", url=scores.url).stderr


def test_a_database_that_names_no_revision_is_filled_if_it_has_what_is_needed(scores: Scores) -> None:
    run(scores.url, "delete from momentum_internal.alembic_version")
    add_users(scores.engine, 1)
    done = call("--to", str(DAY), "--days", "1", url=scores.url)
    assert (done.returncode, scores.count()) == (0, 1)
    assert f"The database names no revision (this version's own is {HISTORY[-1]}); it has everything" in done.stderr


@pytest.mark.parametrize("missing", ["unique key", "column", "table", "record"])
def test_a_database_at_a_later_revision_is_refused_if_something_needed_is_missing(scores: Scores, missing: str) -> None:
    go_ahead(scores)
    column = "source" if scores.layout == "fresh" else "momentum_state"
    sql, said = {
        "unique key": (f"drop index {unique_key(scores)}", f"{scores.relation} has no valid unique key"),
        "column": (
            f"alter table {scores.relation} rename column {column} to parked_{column}",
            f"{scores.relation} has no {column}, which this version of the backfill needs",
        ),
        "table": (f"alter table {scores.relation} rename to parked_scores", "The database is not migrated"),
        "record": ("delete from momentum_internal.score_table", "The database is not migrated"),
    }[missing]
    run(scores.url, sql)
    error = refusal(scores.url)
    assert (type(error), error.exit_code) == (NotMigratedError, 3)
    assert said in str(error)


def test_a_database_without_events_is_refused_only_where_they_count(scores: Scores) -> None:
    run(scores.url, "alter table public.momentum_events rename to parked_events")
    error = refusal(scores.url, Settings(ONE_DAY, active_within=30))
    assert (type(error), error.exit_code) == (NotMigratedError, 3)
    assert "public.momentum_events has no user_id, event_ts, created_at, deleted_at, which" in str(error)
    run_backfill(scores.engine, Settings(ONE_DAY))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["ccc"], None),
        ([], "The database names no revision (this version's own is ccc)"),
        (["aaa"], "The database is at revision aaa, before this version's own, ccc"),
        (["ddd"], "The database is at revision ddd, which this version doesn't know (its own is ccc)"),
        (["ccc", "ddd"], "The database is at revision ccc, ddd, which this version doesn't know (its own is ccc)"),
    ],
)
def test_the_revision_of_a_database_is_compared_with_the_own_one(found: list[str], said: str | None) -> None:
    assert compare_revision(found, ["aaa", "bbb", "ccc"]) == (
        said and f"{said}; it has everything that the backfill needs."
    )


CALLS = Trigger("pushes", "after insert", "public.push", ("posts",), calls_out=True)
CALLS_TOO = dataclasses.replace(CALLS, name="mails")
INDEX = dataclasses.replace(CALLS, name="ix", kind="index")
UNKNOWN = dataclasses.replace(CALLS, name="dark", unknown=("its function is in C", "too"))
OTHERS = Trigger("theirs", "after insert", "public.f", (), calls_out=False, of_others=("public.f() of eve", "more"))
QUIET = Trigger("notes", "after insert", "public.note", (), calls_out=False)


@pytest.mark.parametrize(
    ("triggers", "said"),
    [
        ([QUIET], None),
        ([QUIET, CALLS], "The trigger pushes of t would call out of .*; disable it for the run, or give --allow-web"),
        ([CALLS, CALLS_TOO], "The triggers pushes, mails of t would call out .*; disable them for the run"),
        ([CALLS, CALLS_TOO, INDEX], "The triggers pushes, mails and the index ix of t would call out .* disable them"),
        ([CALLS, INDEX, dataclasses.replace(INDEX, name="iy")], "The trigger pushes and the index ix, iy of t would"),
        ([UNKNOWN, QUIET], "It can't be known whether the trigger dark of t .*, because its function is in C; disable"),
        ([OTHERS], "The trigger theirs of t would run, with your rights, public.f\\(\\) of eve; look at it"),
    ],
)
def test_what_runs_for_each_row_is_refused_unless_it_is_allowed(triggers: list[Trigger], said: str | None) -> None:
    def check(*, webhooks: bool, owners: bool) -> None:
        check_triggers(triggers, "t", allow_webhooks=webhooks, allow_other_owners=owners)

    check(webhooks=True, owners=True)
    if said is None:
        check(webhooks=False, owners=False)
    else:
        with pytest.raises(ConfigurationError, match=f"^{said}"):
            check(webhooks=OTHERS in triggers, owners=OTHERS not in triggers)
        check(webhooks=OTHERS not in triggers, owners=OTHERS in triggers)


def test_a_range_may_end_on_the_day_of_the_server() -> None:
    now = datetime.datetime.combine(DAY, datetime.time(0, 1), datetime.UTC)
    check_days(DayRange(DAY, DAY), now)
    with pytest.raises(ConfigurationError, match=f"in the future; the server's UTC day is {DAY - DAY.resolution}"):
        check_days(DayRange(DAY, DAY), now - DAY.resolution)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("right", ["select", "insert", "delete"])
def test_a_run_needs_the_rights_for_what_it_does(layout: Layout, audited: bool, right: str) -> None:
    scores = ScoreTable("legacy.t", layout, True, None, True, True, audited)
    needs = needs_of(scores, ["banned_until"], right, with_events=False)
    read = {need.column for need in needs if need.relation == "legacy.t" and need.right == "select"}
    assert {"user_id", *scores.default_row, *layout.columns} == read - {"created_at", "updated_at"}
    assert ({"created_at", "updated_at"} <= read) is audited
    written = [need for need in needs if need.relation == "legacy.t" and need.right != "select"]
    assert (
        written
        == {
            "select": [],
            "insert": [Need("legacy.t", column, "insert") for column in ("user_id", *scores.default_row)],
            "delete": [Need("legacy.t", "", "delete")],
        }[right]
    )
    others = [need for need in needs if need.relation != "legacy.t"]
    assert others == [Need("auth.users", "id", "select"), Need("auth.users", "banned_until", "select")]
    with_events = needs_of(scores, ["banned_until"], right, with_events=True)
    assert {need.relation for need in set(with_events) - set(needs)} == {"public.momentum_events"}
    assert {need.right for need in set(with_events) - set(needs)} == {"select"}


def unique_key(scores: Scores) -> str:
    return str(execute(scores.url, "select unique_index from momentum_internal.score_table"))


@pytest.mark.parametrize("what", ["dropped", "not valid"])
def test_a_score_table_without_its_key_is_refused_and_the_advice_heals_it(
    server: Server, scores: Scores, what: str
) -> None:
    key = unique_key(scores)
    if what == "dropped":
        run(scores.url, f"drop index {key}")
    else:
        execute(
            server.as_admin(scores.url),
            "update pg_catalog.pg_index set indisvalid = false where indexrelid = to_regclass(:key)",
            key=key,
        )
    error = refusal(scores.url)
    assert (type(error), error.exit_code) == (NotMigratedError, 3)
    assert f"{scores.relation} has no valid unique key over user and day" in str(error)
    [statement] = [part for part in str(error).split("`") if part.startswith("create unique index")]
    if what == "not valid":
        run(scores.url, f"drop index {key}")
    execute_alone(scores, statement)
    add_users(scores.engine, 1)
    assert call("--days", "1", "--quiet", url=scores.url).returncode == 0


def execute_alone(scores: Scores, statement: str) -> None:
    """Execute a statement that can't run in a transaction."""
    with scores.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)


@contextlib.contextmanager
def reader_of(server: Server, scores: Scores, hidden: str) -> Iterator[tuple[str, sa.URL]]:
    """Yield a role, and its URL, that may read and write everything, but of one table sees only what policies show.

    Only the platform grants rights on auth.
    """
    name = f"reader_{uuid.uuid4().hex[:8]}"
    admin_url = server.as_admin(scores.url)
    tables = fetch(
        scores.url,
        "select format('%I.%I', schemaname, tablename) from pg_catalog.pg_tables "
        "where schemaname in ('auth', 'legacy', 'public')",
    )
    run(
        admin_url,
        f"""
        create role {name} login password 'secret';
        grant usage on schema auth, legacy, public, momentum_internal to {name};
        grant all on all tables in schema auth, legacy, public, momentum_internal to {name};
        """
        + "".join(f"alter table {table} disable row level security;" for table in tables)
        + f"alter table {hidden} enable row level security;",
    )
    try:
        yield name, scores.url.set(username=name, password="secret")
    finally:
        run(admin_url, f"drop owned by {name}; drop role {name}")


@pytest.mark.parametrize("hidden", ["auth.users", "the score table"])
def test_a_role_from_which_rows_are_hidden_is_refused(server: Server, scores: Scores, hidden: str) -> None:
    run(scores.url, "create schema if not exists legacy")
    hidden = scores.relation if hidden == "the score table" else hidden
    with reader_of(server, scores, hidden) as (name, url):
        error = refusal(url)
        assert (type(error), error.exit_code) == (ConfigurationError, 2)
        # Nobody can be the owner of auth.users.
        owner = "" if hidden == "auth.users" else f"{scores.url.username}, or as "
        assert str(error) == (
            f"Row-level security hides rows of {hidden} from the role {name}; connect as {owner}a role with bypassrls "
            "(on Supabase: postgres)."
        )


def test_nobody_is_sent_to_an_owner_from_whom_rows_are_hidden_too(server: Server, scores: Scores) -> None:
    run(scores.url, "create schema if not exists legacy")
    with reader_of(server, scores, scores.relation) as (name, url):
        run(scores.url, f"alter table {scores.relation} force row level security")
        said = str(refusal(url))
        assert said.endswith(f"from the role {name}; connect as a role with bypassrls (on Supabase: postgres).")


def test_a_role_from_which_events_are_hidden_is_refused_where_they_count(server: Server, scores: Scores) -> None:
    run(scores.url, "create schema if not exists legacy")
    with reader_of(server, scores, "public.momentum_events") as (name, url):
        error = refusal(url, Settings(ONE_DAY, active_within=30))
        assert (type(error), error.exit_code) == (ConfigurationError, 2)
        assert f"Row-level security hides rows of public.momentum_events from the role {name}" in str(error)
        engine = engine_of(url)
        run_backfill(engine, Settings(ONE_DAY, dry_run=True))


def test_a_day_in_the_future_of_the_server_is_refused(scores: Scores) -> None:
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    error = refusal(scores.url, Settings(DayRange(DAY, tomorrow)))
    assert (type(error), error.exit_code) == (ConfigurationError, 2)
    assert f"The range ends on {tomorrow}, in the future; the server's UTC day is " in str(error)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_refusal_changes_nothing(server: Server, dry_run: bool) -> None:
    with scores_in(server, "fresh") as scores:
        add_users(scores.engine, 3)
        run(scores.url, f"drop index {unique_key(scores)}")
        refusal(scores.url, Settings(ONE_DAY, dry_run=dry_run))
        assert scores.count() == 0


RIGHTS = {
    "insert": ("revoke insert on {table} from {role}", "may not insert rows of {table}"),
    "select": ("revoke select on {table} from {role}", "may not select rows of {table}"),
    "accounts": ("revoke select on auth.users from {role}", "may not select rows of auth.users"),
}


@pytest.mark.parametrize("right", RIGHTS)
def test_a_role_that_lacks_a_right_is_refused_before_any_row_is_read(
    server: Server, scores: Scores, right: str
) -> None:
    run(scores.url, "create schema if not exists legacy")
    with reader_of(server, scores, "public.habit_index") as (name, url):
        revoke, said = (part.format(table=scores.relation, role=name) for part in RIGHTS[right])
        run(server.as_admin(scores.url), revoke)
        error = refusal(url)
        assert (type(error), error.exit_code) == (ConfigurationError, 2)
        privilege = right if right == "insert" else "select"
        # Nobody can be the owner of auth.users, but the project's owner may hand on rights on it.
        table, owner = scores.relation, scores.url.username
        if right == "accounts":
            table, owner = "auth.users", "postgres"
        assert str(error) == (
            f"The role {name} {said}; connect as {owner}, or let {owner} run `grant {privilege} on {table} to {name}`."
        )
        if right == "insert":
            run_backfill(engine_of(url), Settings(ONE_DAY, dry_run=True))


def test_a_role_that_may_not_write_ids_leaves_them_to_the_table(server: Server, scores: Scores) -> None:
    run(scores.url, "create schema if not exists legacy")
    add_users(scores.engine, 3)
    with reader_of(server, scores, "public.habit_index") as (name, url):
        written = needs_of(look_before(scores.engine, Settings(ONE_DAY)).scores, [], "insert", with_events=False)
        columns = ", ".join(need.column for need in written if need.right == "insert")
        run(
            server.as_admin(scores.url),
            f"revoke insert on {scores.relation} from {name}; grant insert ({columns}) on {scores.relation} to {name}",
        )
        report = run_backfill(engine_of(url), Settings(ONE_DAY))
        assert (report.inserted, report.failed) == (3, 0)
    assert fetch(scores.url, f"select distinct substr(id::text, 15, 1) from {scores.relation}") == ["4"]


def test_of_several_missing_columns_those_of_the_first_table_are_named(url: sa.URL) -> None:
    needs = [Need("auth.users", "rank", "select"), Need("public.habit_index", "mood", "select")]
    with engine_of(url).connect() as connection:
        with pytest.raises(NotMigratedError, match=r"^auth\.users has no rank, which"):
            check_needs(connection, needs)
        with pytest.raises(NotMigratedError, match=r"^public\.habit_index has no mood, which"):
            check_needs(connection, needs[::-1])
