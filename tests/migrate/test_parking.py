"""`alembic -x purge=yes downgrade base` removes what downgrades have parked; nothing else ever drops a row."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.connect.engine import execute_script
from momentum.errors import ConfigurationError, MigrationError, PreflightError
from momentum.migrate import parking
from momentum.migrate.config import alembic_config
from momentum.testing import Server
from tests.alembic_program import error_of, program, text_of
from tests.catalog import snapshot
from tests.migrating import (
    HISTORY,
    SCRIPTS,
    current,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    queue_behind_migration,
    rows_of,
    run,
    visible,
)
from tests.processes import DEADLINE
from tests.samples import add_user, write_rows
from tests.server import engine_of

HEAD = HISTORY[-1]
PURGE = ("-x", "purge=yes", "downgrade", "base")

# Everything in the private schema but Alembic's own table.
LEFT = """
select relname from pg_class
where relnamespace = to_regnamespace('momentum_internal') and relkind in ('r', 'v') and relname <> 'alembic_version'
union all
select proname from pg_proc where pronamespace = to_regnamespace('momentum_internal')
order by 1
"""


def purge(url: sa.URL, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return program(*options, *PURGE, home=home, MOMENTUM_DATABASE_URL=text_of(url))


@pytest.fixture(params=["fresh", "legacy.seed", "public.production with predecessors"])
def full_url(server: Server, request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """A database with three rows in each table and superseded rows; not migrated if there is something to adopt."""
    scores, _, predecessors = request.param.partition(" ")
    url = database_with_scores(server, scores, predecessors=bool(predecessors))
    if scores == "fresh":
        migrate_to(url, HEAD)
    with engine_of(url).begin() as connection:
        user = add_user(connection)
        for ordinal in range(3):
            write_rows(connection, user, ordinal)
        if scores == "legacy.seed":
            connection.execute(
                sa.text("insert into legacy.daily_engagement_scores select * from legacy.daily_engagement_scores")
            )
    yield url
    server.drop_database(url)


def test_a_downgrade_to_base_names_what_it_leaves_and_how_to_remove_it(full_url: sa.URL, tmp_path: Path) -> None:
    migrate_to(full_url, HEAD, existing="adopt", access="close")
    done = program("downgrade", "base", home=tmp_path, MOMENTUM_DATABASE_URL=text_of(full_url))
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    left = fetch(full_url, LEFT)
    assert "set_updated_at" in left
    assert [name for name in left if name not in said] == [], said
    assert "a downgrade to base with purge=yes drops them for good" in said


def test_a_downgrade_to_another_revision_says_nothing_of_it(url: sa.URL, tmp_path: Path) -> None:
    done = program("downgrade", "-1", home=tmp_path, MOMENTUM_DATABASE_URL=text_of(url))
    assert "purge" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("at", ["head", "base"])
def test_purge_removes_what_was_parked_and_nothing_else(full_url: sa.URL, tmp_path: Path, at: str) -> None:
    before = (visible(snapshot(full_url)), rows_of(full_url)) if current(full_url) == "base" else None
    migrate_to(full_url, HEAD, existing="adopt", access="close")
    counts = {name: len(rows) for name, rows in rows_of(full_url).items()}
    if at == "base":
        migrate_to(full_url, "base")
    done = purge(full_url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert fetch(full_url, LEFT) == []
    assert current(full_url) == "base"
    said = done.stdout + done.stderr
    if before is None:
        # Counts are printed before anything is dropped.
        for name, count in counts.items():
            assert [line for line in said.splitlines() if name in line and str(count) in line], said
        assert rows_of(full_url) == {}
    else:
        # The app's own tables are back, and are not ours to drop.
        assert visible(snapshot(full_url)) == before[0]
        assert rows_of(full_url) == before[1]
    migrate_to(full_url, HEAD, existing="adopt", access="close")
    if before is None:
        assert all(rows == [] for rows in rows_of(full_url).values())


def test_purge_can_be_said_twice(url: sa.URL, tmp_path: Path) -> None:
    assert purge(url, tmp_path).returncode == 0
    facts = snapshot(url)
    assert purge(url, tmp_path).returncode == 0
    assert snapshot(url) == facts


def test_purge_of_a_database_that_was_never_migrated_does_nothing(supabase_url: sa.URL, tmp_path: Path) -> None:
    before = snapshot(supabase_url)
    assert purge(supabase_url, tmp_path).returncode == 0
    assert snapshot(supabase_url) == before


@pytest.mark.parametrize(
    ("at", "command", "said"),
    [
        ("head", ["upgrade", "head"], "for downgrades only"),
        ("base", ["upgrade", "head"], "for downgrades only"),
        ("head", ["downgrade", f"{HEAD}:base", "--sql"], "leave out --sql"),
        ("base", ["downgrade", f"{HEAD}:base", "--sql"], "leave out --sql"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_purge_is_for_a_downgrade_only(url: sa.URL, tmp_path: Path, at: str, command: list[str], said: str) -> None:
    migrate_to(url, HEAD if at == "head" else "base")
    before = snapshot(url)
    done = program("-x", "purge=yes", *command, home=tmp_path, MOMENTUM_DATABASE_URL=text_of(url))
    assert said in error_of(done, 2)
    assert done.stdout == ""
    assert snapshot(url) == before


def test_a_purge_on_the_way_keeps_what_the_rest_of_the_way_needs(server: Server) -> None:
    """It drops the tables that the downgrade has parked, and no record."""
    url = database_with_scores(server, "legacy.seed", predecessors=True)
    with engine_of(url).begin() as connection:
        user = add_user(connection)
        write_rows(connection, user, 0)
    before, kept = snapshot(url), rows_of(url)["daily_engagement_scores"]
    migrate_to(url, HEAD, existing="adopt", access="close")
    alembic.command.downgrade(alembic_config(url, purge=True), "a3b86e04c17d")
    private = "select relname from pg_class where relnamespace = to_regnamespace('momentum_internal') and relkind = 'r'"
    assert not {"habit_index", "motivation_journal"} & set(fetch(url, private))
    assert {"score_table", "superseded_scores", "predecessor_rows"} <= set(fetch(url, private))
    assert execute(url, "select count(*) from public.momentum_events") == 1
    migrate_to(url, "base")
    assert visible(snapshot(url)) == visible(before)
    assert rows_of(url)["daily_engagement_scores"] == kept
    server.drop_database(url)


@pytest.mark.parametrize("word", ["", "true", "YES"])
def test_purge_is_said_with_yes(url: sa.URL, tmp_path: Path, word: str) -> None:
    before = snapshot(url)
    done = program("-x", f"purge={word}", "downgrade", "base", home=tmp_path, MOMENTUM_DATABASE_URL=text_of(url))
    assert "The option purge= takes yes or no" in error_of(done, 2)
    assert snapshot(url) == before


def test_purge_takes_no_url_from_the_env_file(url: sa.URL, tmp_path: Path) -> None:
    (tmp_path / ".bee_secrets").mkdir()
    (tmp_path / ".bee_secrets" / "supabase.env").write_text(f"DATABASE_URL={text_of(url)}\n", encoding="utf-8")
    assert "give -x url= or set MOMENTUM_DATABASE_URL or DATABASE_URL" in error_of(program(*PURGE, home=tmp_path), 2)
    assert current(url) == HEAD


def test_a_program_purges_too(url: sa.URL) -> None:
    alembic.command.downgrade(alembic_config(url, purge=True), "base")
    assert fetch(url, LEFT) == []


@pytest.mark.slow
def test_purge_waits_for_auth_users_no_longer_than_its_lock_timeout_and_can_be_repeated(url: sa.URL) -> None:
    """Dropping a table with a key to auth.users takes ACCESS EXCLUSIVE on that too: every sign-in would queue."""
    with engine_of(url).begin() as connection:
        user = add_user(connection)
        write_rows(connection, user, 0)
    migrate_to(url, "base")
    read = "select from auth.users"
    with ThreadPoolExecutor(1) as operator, engine_of(url).connect() as reader:
        reader.execute(sa.text(read))
        with pytest.raises(MigrationError, match=r"lock timeout \(3 times"):
            alembic.command.downgrade(alembic_config(url, purge=True, attempts=3), "base")
        assert "set_updated_at" in fetch(url, LEFT), "the trigger function goes last"
        left = rows_of(url)
        assert left, "a table that could not be dropped is there"
        # Dropped tables are gone as a whole; the rest can still be taken back or be purged.
        purging = operator.submit(alembic.command.downgrade, alembic_config(url, purge=True), "base")
        queue_behind_migration(url, read)
        reader.rollback()
        purging.result(timeout=DEADLINE)
    assert fetch(url, LEFT) == []


def test_an_interrupted_purge_leaves_whole_tables(server: Server, url: sa.URL) -> None:
    with engine_of(url).begin() as connection:
        user = add_user(connection)
        write_rows(connection, user, 0)
    migrate_to(url, "base")
    rows = rows_of(url)
    run(
        server.as_admin(url),
        """
        create function public.stop() returns event_trigger language plpgsql as $$
        begin
          if exists (select from pg_event_trigger_dropped_objects() where object_name = 'motivation_journal') then
            perform pg_terminate_backend(pg_backend_pid());
          end if;
        end $$;
        create event trigger stop on sql_drop execute function public.stop();
        """,
    )
    with pytest.raises(Exception, match="lost"):
        alembic.command.downgrade(alembic_config(url, purge=True), "base")
    left = rows_of(url)
    assert "motivation_journal" in left
    assert left == {name: rows[name] for name in left}
    run(server.as_admin(url), "drop event trigger stop")
    alembic.command.downgrade(alembic_config(url, purge=True), "base")
    assert fetch(url, LEFT) == []


# Objects that would keep a table from being dropped, each with its name in the refusal. {events} and the others are our
# tables, in whichever schema they are.
DEPENDENTS = {
    "a foreign key": (
        "create table public.theirs (event_id uuid constraint theirs_key references {events})",
        "table constraint theirs_key on public.theirs depends on {events}",
    ),
    "a foreign key of a partitioned table": (
        "create table public.theirs (event_id uuid constraint theirs_key references {events}) partition by list"
        " (event_id); create table public.theirs_rest partition of public.theirs default",
        "table constraint theirs_key on public.theirs depends on {events}",
    ),
    "a foreign key in a table of ours that is dropped later": (
        "alter table {pillars} add column event_id uuid constraint theirs_key references {events}",
        "table constraint theirs_key on {pillars} depends on {events}",
    ),
    "a view": ("create view public.theirs as select id from {habits}", "view public.theirs depends on {habits}"),
    "a view over a view": (
        "create view public.theirs as select id from {journal};"
        " create view public.more as select id from public.theirs",
        "view public.theirs depends on {journal}",
    ),
    "a materialized view": (
        "create materialized view public.theirs as select name from {pillars}",
        "materialized view public.theirs depends on {pillars}",
    ),
    "a rule": (
        "create table public.theirs (id uuid);"
        " create rule theirs_rule as on delete to public.theirs do also delete from {habits} where id = old.id",
        "rule theirs_rule on public.theirs depends on {habits}",
    ),
    "a policy": (
        "create table public.theirs (id uuid);"
        " create policy theirs_policy on public.theirs using (id in (select id from {events}))",
        "policy theirs_policy on public.theirs depends on {events}",
    ),
    "a function whose body is parsed": (
        "create function public.theirs() returns bigint begin atomic select count(*) from {habits}; end",
        "function public.theirs() depends on {habits}",
    ),
    "a function that returns rows": (
        "create function public.theirs() returns setof {events} language plpgsql as 'begin end'",
        "function public.theirs() depends on {events}",
    ),
    "a column of a row's type": (
        "create table public.theirs (entries {journal}[])",
        "table column public.theirs.entries depends on {journal}",
    ),
    "an heir": ("create table public.theirs () inherits ({pillars})", "table public.theirs depends on {pillars}"),
    "a default from a sequence of ours": (
        "create sequence momentum_internal.numbers owned by {habits}.index_date;"
        " create table public.theirs (number bigint default nextval('momentum_internal.numbers'))",
        "default value for public.theirs.number depends on {habits}",
    ),
    "a trigger with our function": (
        "create table public.theirs (updated_at timestamptz);"
        " create trigger theirs_trigger before update on public.theirs"
        " for each row execute function momentum_internal.set_updated_at()",
        "trigger theirs_trigger on public.theirs depends on momentum_internal.set_updated_at",
    ),
}
# Objects that are dropped with a table, or don't depend on it.
INDEPENDENTS = {
    "nothing": "",
    "what belongs to a table": (
        "create index on {events} (created_at); create statistics public.theirs on user_id, date from {journal};"
        " create policy theirs_policy on {habits} using (id in (select id from {events}));"
        " alter table {pillars} add column number bigint generated always as identity"
    ),
    "a key of a table of ours to one that is dropped later": (
        "alter table {events} add column other_id uuid references {pillars}"
    ),
    "a trigger, a rule and a publication": (
        "create function public.theirs() returns trigger language plpgsql as 'begin return new; end';"
        " create trigger theirs before insert on {events} for each row execute function public.theirs();"
        " create rule theirs as on delete to {habits} do also notify theirs;"
        " create publication theirs for table {habits}"
    ),
    "a function whose body is text": (
        "create function public.theirs() returns bigint language sql as 'select count(*) from {habits}'"
    ),
    "a default from a sequence of theirs": (
        "create sequence public.numbers;"
        " alter table {pillars} add column number bigint default nextval('public.numbers')"
    ),
}


def places(url: sa.URL) -> dict[str, str]:
    """Return our tables with their schemas, by the names in the statements above; in public there may be the app's."""
    names = {
        "events": "momentum_events",
        "pillars": "momentum_pillars",
        "journal": "motivation_journal",
        "habits": "habit_index",
    }
    parked = fetch(url, LEFT)
    return {short: f"{'momentum_internal' if name in parked else 'public'}.{name}" for short, name in names.items()}


@pytest.mark.slow
@pytest.mark.parametrize("at", [HEAD, HISTORY[2], "base"], ids=["head", "between", "base"])
def test_purge_is_refused_before_anything_changes_as_long_as_others_depend_on_what_it_drops(
    full_url: sa.URL, tmp_path: Path, at: str
) -> None:
    migrate_to(full_url, HEAD, existing="adopt", access="close")
    migrate_to(full_url, at)
    names = places(full_url)
    run(
        full_url,
        """
        create table public.reminders (event_id uuid references {events});
        create view public.theirs as select id from {habits};
        """.format(**names),
    )
    before, rows = snapshot(full_url), rows_of(full_url)
    for _ in range(2):
        said = error_of(purge(full_url, tmp_path), 1)
        assert f"table constraint reminders_event_id_fkey on public.reminders depends on {names['events']}" in said
        assert f"view public.theirs depends on {names['habits']}" in said
        assert said.count(" depends on ") == 2
        assert "drop the dependent ones first" in said
        assert (snapshot(full_url), rows_of(full_url)) == (before, rows)
    run(full_url, "drop table public.reminders; drop view public.theirs")
    assert purge(full_url, tmp_path).returncode == 0
    assert fetch(full_url, LEFT) == []


@pytest.mark.parametrize(
    ("scores", "at"), [("fresh", HEAD), ("fresh", "base"), ("legacy.seed", HEAD), ("public.production", HEAD)]
)
def test_what_others_made_over_our_scores_is_found_wherever_these_stand(server: Server, scores: str, at: str) -> None:
    url = database_with_scores(server, scores)
    migrate_to(url, HEAD)
    migrate_to(url, at)
    dependents = {}
    if scores == "fresh":
        table = "legacy.daily_engagement_scores" if at == HEAD else "momentum_internal.daily_engagement_scores"
        run(url, f"create view public.scores as select score from {table}")
        dependents["public.scores"] = table
    if scores == "legacy.seed":
        run(url, "create view public.scores as select score from momentum_internal.superseded_scores")
        dependents["public.scores"] = "momentum_internal.superseded_scores"
    if at == HEAD:
        run(url, "create view public.days as select score_date from public.daily_momentum_scores")
        dependents["public.days"] = "public.daily_momentum_scores"
    before = snapshot(url)
    with pytest.raises(PreflightError) as raised:
        alembic.command.downgrade(alembic_config(url, purge=True), "base")
    assert str(raised.value).count(" depends on ") == len(dependents)
    for view, relation in dependents.items():
        assert f"view {view} depends on {relation}" in str(raised.value)
    assert snapshot(url) == before
    # An adopted score table is not dropped, and what depends on it is left alone.
    run(url, "".join(f"drop view {view};" for view in dependents))
    if scores != "fresh":
        run(url, f"create view public.kept as select user_id from {scores.split('.')[0]}.daily_engagement_scores")
    alembic.command.downgrade(alembic_config(url, purge=True), "base")
    assert fetch(url, LEFT) == []
    server.drop_database(url)


def test_purge_finds_what_the_server_would_refuse_and_nothing_else(url: sa.URL) -> None:
    """Each kind is created and looked for, and everything dropped, in a transaction that is rolled back."""
    migrate_to(url, "base")
    names = places(url)
    parkable = parking.Parkable.of(SCRIPTS)
    names_of_tables = (*parking.RECORDS, *parkable.tables, "alembic_version")
    statements = [f"drop table if exists momentum_internal.{name}" for name in names_of_tables]
    statements.append("drop function momentum_internal.set_updated_at()")

    def outcome(connection: sa.Connection, setup: str) -> tuple[list[str], str | None]:
        code = None
        with connection.begin() as transaction:
            execute_script(connection, setup.format(**names))
            found = parking.find_dependents(connection, parkable, at_base=True)
            try:
                for statement in statements:
                    connection.exec_driver_sql(statement)
            except sa.exc.DBAPIError as error:
                code = getattr(error.orig, "sqlstate", "")
            transaction.rollback()
        return found, code

    with engine_of(url).connect() as connection:
        outcomes = {kind: outcome(connection, setup) for kind, (setup, _) in DEPENDENTS.items()}
        assert outcomes == {kind: ([said.format(**names)], "2BP01") for kind, (_, said) in DEPENDENTS.items()}
        outcomes = {kind: outcome(connection, setup) for kind, setup in INDEPENDENTS.items()}
        assert outcomes == {kind: ([], None) for kind in INDEPENDENTS}


def test_purge_looks_again_before_the_first_drop(url: sa.URL) -> None:
    """Between the check at the beginning and the purge there is a downgrade, which may take long."""
    migrate_to(url, HISTORY[1])
    config = alembic_config(url, purge=True)

    def hang_on(**_: object) -> None:
        run(url, "create view public.theirs as select id from momentum_internal.habit_index")

    config.attributes["on_version_apply"] = [hang_on]
    rows = rows_of(url)
    with pytest.raises(PreflightError, match=r"view public\.theirs depends on momentum_internal\.habit_index"):
        alembic.command.downgrade(config, "base")
    assert current(url) == "base"
    assert rows_of(url) == rows


def test_the_private_schema_stays_for_what_others_put_there(url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    run(url, "create table momentum_internal.theirs ()")
    alembic.command.downgrade(alembic_config(url, purge=True), "base")
    assert fetch(url, LEFT) == ["theirs"]
    assert "momentum_internal stays" in caplog.text


def test_purge_is_refused_inside_a_transaction(url: sa.URL) -> None:
    migrate_to(url, "base")
    rows = rows_of(url)
    with engine_of(url).connect() as connection:
        connection.execute(sa.text("select 1"))
        config = alembic_config("", purge=True)
        config.attributes["connection"] = connection
        with pytest.raises(ConfigurationError, match="handed in inside a transaction"):
            alembic.command.downgrade(config, "base")
        connection.commit()
    assert rows_of(url) == rows
