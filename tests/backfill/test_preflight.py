"""A database that can't be filled is refused in one sentence, within a second, before anything has changed."""

import contextlib
import datetime
import time
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Settings, preflight, run_backfill
from momentum.backfill.run import look_before
from momentum.errors import ConfigurationError, MomentumError, NotMigratedError
from momentum.testing import Server
from tests.backfilling import DAY, ONE_DAY, Scores, call, scores_in
from tests.migrating import HISTORY, database_with_scores, execute, fetch, migrate_to, run
from tests.samples import add_users
from tests.server import engine_of


def refusal(url: sa.URL, settings: Settings | None = None) -> MomentumError:
    """Return the error with which a run is refused, in time and in one sentence."""
    started = time.monotonic()
    with pytest.raises(MomentumError) as refused:
        run_backfill(engine_of(url), settings or Settings(ONE_DAY))
    assert time.monotonic() - started < 1, "a refusal takes less than a second"
    said = str(refused.value)
    assert said.endswith(".")
    assert "\n" not in said
    return refused.value


def test_the_backfill_goes_with_the_newest_revision() -> None:
    assert HISTORY[-1] == preflight.REVISION


def test_a_database_that_can_be_filled_is_looked_at_in_less_than_a_second(scores: Scores) -> None:
    add_users(scores.engine, 2000)
    engine = scores.engine
    started = time.monotonic()
    look_before(engine, Settings(ONE_DAY))
    assert time.monotonic() - started < 1


def test_a_database_without_the_migrations_is_refused(supabase_url: sa.URL) -> None:
    error = refusal(supabase_url)
    assert str(error) == "The database is not migrated; upgrade it to head with the momentum migrations first."
    assert (type(error), error.exit_code) == (NotMigratedError, 3)
    done = call(url=supabase_url)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"Error: {error}\n")


# Before the score table is adopted, all layouts are alike.
EARLIER = [("fresh", revision) for revision in HISTORY[:-1]] + [
    (layout, revision) for layout in ("legacy.seed", "public.production") for revision in HISTORY[-3:-1]
]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "revision"), EARLIER)
def test_a_database_at_an_earlier_revision_is_refused_until_it_is_migrated(
    server: Server, layout: str, revision: str
) -> None:
    url = database_with_scores(server, layout)
    try:
        migrate_to(url, revision)
        error = refusal(url)
        assert (type(error), error.exit_code) == (NotMigratedError, 3)
        assert "upgrade it to head with the momentum migrations" in str(error)
        migrate_to(url, HISTORY[-1])
        add_users(engine_of(url), 1)
        assert call("--days", "1", "--quiet", url=url).returncode == 0
    finally:
        server.drop_database(url)


@pytest.mark.parametrize("found", [["0123456789ab"], []], ids=["another", "none"])
def test_a_revision_that_this_version_does_not_know_is_refused_by_its_name(scores: Scores, found: list[str]) -> None:
    run(scores.url, "delete from momentum_internal.alembic_version")
    for revision in found:
        execute(scores.url, "insert into momentum_internal.alembic_version values (:revision)", revision=revision)
    error = refusal(scores.url)
    assert (type(error), error.exit_code) == (NotMigratedError, 3)
    assert f"at revision {', '.join(found) or 'none'}, " in str(error)
    assert f"goes with {HISTORY[-1]};" in str(error)


def unique_key(scores: Scores) -> str:
    return str(execute(scores.url, "select unique_index from momentum_internal.score_table"))


@pytest.mark.parametrize("what", ["dropped", "not valid"])
def test_a_score_table_without_its_key_is_refused_and_the_advice_heals_it(scores: Scores, what: str) -> None:
    key = unique_key(scores)
    if what == "dropped":
        run(scores.url, f"drop index {key}")
    else:
        execute(
            scores.url,
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
    """Execute what can't stand in a transaction."""
    with scores.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)


@contextlib.contextmanager
def reader_of(scores: Scores, hidden: str) -> Iterator[tuple[str, sa.URL]]:
    """Yield a role, and its URL, that may read and write everything, but of one table sees only what policies show."""
    name = f"reader_{uuid.uuid4().hex[:8]}"
    tables = fetch(
        scores.url,
        "select format('%I.%I', schemaname, tablename) from pg_catalog.pg_tables "
        "where schemaname in ('auth', 'legacy', 'public')",
    )
    run(
        scores.url,
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
        run(scores.url, f"drop owned by {name}; drop role {name}")


@pytest.mark.parametrize("hidden", ["auth.users", "the score table"])
def test_a_role_from_which_rows_are_hidden_is_refused(scores: Scores, hidden: str) -> None:
    run(scores.url, "create schema if not exists legacy")
    hidden = scores.relation if hidden == "the score table" else hidden
    with reader_of(scores, hidden) as (name, url):
        error = refusal(url)
        assert (type(error), error.exit_code) == (ConfigurationError, 2)
        assert f"Row level security hides rows of {hidden} from the role {name}" in str(error)


def test_a_role_from_which_events_are_hidden_is_refused_where_they_count(scores: Scores) -> None:
    run(scores.url, "create schema if not exists legacy")
    with reader_of(scores, "public.momentum_events") as (name, url):
        error = refusal(url, Settings(ONE_DAY, active_within=30))
        assert (type(error), error.exit_code) == (ConfigurationError, 2)
        assert f"Row level security hides rows of public.momentum_events from the role {name}" in str(error)
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
        run(scores.url, "update momentum_internal.alembic_version set version_num = '0123456789ab'")
        refusal(scores.url, Settings(ONE_DAY, dry_run=dry_run))
        assert scores.count() == 0
