"""The printed SQL removes every difference that a statement can, and no row or value is lost by it."""

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from momentum.connect.engine import execute_script
from momentum.connect.url import as_text
from momentum.testing import Server
from momentum.verify import compare as verify
from momentum.verify.repairs import write_script
from tests.catalog import differences
from tests.migrating import HISTORY, current, database_with_scores, migrate_to, rows_of, run
from tests.samples import add_users, write_rows
from tests.server import as_owner, engine_of, find_program
from tests.verify.test_compare import AS_ADMIN, DRIFTS, OPEN, PLATFORM_DRIFTS, PRODUCTION_DRIFTS, SEED_DRIFTS, command

HEAD = HISTORY[-1]

# Where the drifts are planted: the score table, whether the app had its own versions of our tables, and the drifts.
KINDS = {
    "fresh": ("fresh", False, DRIFTS),
    "seed": ("legacy.seed", False, SEED_DRIFTS),
    "production": ("public.production", True, PRODUCTION_DRIFTS),
}
DRIFTED = [(kind, drift) for kind, (_, _, drifts) in KINDS.items() for drift in drifts]

# The drifts of which something is left to a person: values or rows are gone or would be lost, or nobody knows a record.
BY_HAND = {
    "fresh": {
        "a column is added",
        "a column is dropped",
        "a column has another name",
        "a column that head has is parked",
        "a column's name begins nearly like that of a parked one",
        "a column is wider",
        "a column has another type",
        "a column sorts otherwise",
        "a column counts up",
        "a column is calculated",
        "the record is lost",
        "the record is incomplete",
        "the record has one column less",
        "the record names another table",
        "a table is dropped",
        "a table is a view",
    },
    "seed": {
        "a column has another type",
        "a column has another name",
        "the table is moved",
        "a key lets in one day per user",
        "an exclusion lets in one day per user",
        "the table is empty after a crash",
        "the table belongs to somebody else",
        "no default row can be inserted",
        "superseded scores lack a column",
        "superseded scores are gone",
    },
    "production": {"a column has another type", "a column is dropped", "the table is another"},
}


def script_for(url: sa.URL) -> str:
    """Return what `python -m momentum.verify --sql` prints."""
    with engine_of(url).connect() as connection:
        return write_script(verify.compare_database(connection))


def psql(url: sa.URL, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script with psql."""
    return subprocess.run(
        [find_program("psql"), "--no-psqlrc", "--quiet", *options, as_text(url)],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )


def repair(url: sa.URL) -> str:
    """Run the script for a database, which must succeed, and return it."""
    script = script_for(url)
    done = psql(url, script, "--set", "ON_ERROR_STOP=1")
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stderr}\n{script}"
    return script


def left_by_hand(script: str) -> list[str]:
    """Return the differences for which a script has no statement."""
    blocks = script.split("\n\n")
    differing = [block.split("\n") for block in blocks if re.match("-- (missing|unexpected|changed): ", block)]
    return [first.removeprefix("-- ") for first, *rest in differing if all(line.startswith("-- ") for line in rest)]


@pytest.fixture(scope="module")
def drifting(server: Server) -> Callable[[str], sa.URL]:
    """A function that returns a new migrated database of a kind, with rows in every table."""

    def create(kind: str) -> sa.URL:
        scores, predecessors, _ = KINDS[kind]

        def prepare(url: sa.URL) -> None:
            migrate_to(url, HEAD, existing="adopt", access="close")
            with engine_of(url).begin() as connection:
                for ordinal, user in enumerate(add_users(engine_of(url), 2)):
                    write_rows(connection, user, ordinal)
            assert all(rows_of(url).values()), "there are rows in every table"

        template = server.template(
            f"drifting-{kind}", lambda: database_with_scores(server, scores, predecessors=predecessors), prepare
        )
        engine_of(template).dispose()
        return server.create_database(template)

    return create


@pytest.fixture
def drifted(drifting: Callable[[str], sa.URL], server: Server) -> Iterator[Callable[[str, str], sa.URL]]:
    """A function that returns a database of a kind after some SQL; all are dropped afterwards."""
    urls: list[sa.URL] = []

    def create(kind: str, sql: str) -> sa.URL:
        urls.append(drifting(kind))
        run(server.as_admin(urls[-1]), f"{as_owner(server)}; {sql}")
        return urls[-1]

    yield create
    for url in urls:
        server.drop_database(url)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "drift"), DRIFTED)
def test_the_script_removes_a_drift_or_says_that_nobody_can(
    drifted: Callable[[str, str], sa.URL], kind: str, drift: str
) -> None:
    url = drifted(kind, KINDS[kind][2][drift][0])
    rows = rows_of(url)
    script = repair(url)
    assert sorted(differences(url)) == sorted(left_by_hand(script))
    assert bool(left_by_hand(script)) == (drift in BY_HAND[kind])
    assert rows_of(url) == rows, "no row and no value is lost"
    assert not re.search(r"^(drop (table|schema)|truncate|delete)|drop column|cascade;", re.sub("revoke.*", "", script))


# Default privileges of projects made until May 2026 (as in our stand-in), and since.
SINCE_MAY = """
alter default privileges in schema public revoke select, insert, update, delete on tables
  from anon, authenticated, service_role;
alter default privileges in schema public revoke all on sequences from anon, authenticated, service_role;
alter default privileges in schema public revoke all on functions from anon, authenticated, service_role;
"""


@pytest.mark.parametrize("defaults", ["", SINCE_MAY], ids=["until May 2026", "since"])
@pytest.mark.parametrize("scores", ["fresh", "public.seed"])
def test_a_dump_restored_into_another_project_is_repaired(server: Server, scores: str, defaults: str) -> None:
    source = database_with_scores(server, scores)
    with server.database(migrated=False) as url:
        migrate_to(source, HEAD)
        ours = [f"--schema={schema}" for schema in ("momentum_internal", "public", "legacy")]
        dumped = subprocess.run(
            [find_program("pg_dump"), *ours[: 3 if scores == "fresh" else 2], as_text(source)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        run(url, defaults or "select")
        assert psql(url, dumped).returncode == 0
        assert any("grant to anon" in line for line in differences(url)), "there are more grants than in the dump"
        assert left_by_hand(repair(url)) == []
        assert differences(url) == []
        # Later tables get what the project has decided.
        assert differences(source) == []
    server.drop_database(source)


def repair_platform(connection: sa.Connection, drift: str, role: str) -> tuple[str, list[str], list[str]]:
    """Plant a drift as the platform and repair it as a role.

    Returns:
        The script, and the differences before and after it.
    """
    with connection.begin() as transaction:
        execute_script(connection, f"{drift}; {role}")
        comparison = verify.compare_database(connection)
        script = write_script(comparison)
        execute_script(connection, script)
        left = verify.differences(connection)
        # Roles belong to the whole server.
        transaction.rollback()
    return script, list(map(str, comparison.differences)), left


@pytest.mark.parametrize("platform", [False, True], ids=["owner", "platform"])
@pytest.mark.parametrize("drift", PLATFORM_DRIFTS)
def test_a_drift_of_the_platform_is_repaired_where_a_statement_can(
    server: Server, fresh: sa.Connection, drift: str, platform: bool
) -> None:
    role = AS_ADMIN if platform else as_owner(server)
    script, before, left = repair_platform(fresh, PLATFORM_DRIFTS[drift][0], role)
    of_role = ": platform, role " in before[0]
    # Before PostgreSQL 16, a role that may create roles may also revoke memberships.
    revocable = "member of " in before[0] and int(server.version.partition(".")[0]) < 16
    owner_cannot = of_role and not platform and not revocable
    asked_for = any(part in before[0] for part in ("function auth.uid()", ", setting ", " in the database"))
    needs_support = asked_for or "by way of another role" in drift or owner_cannot
    assert left == (before if needs_support else [])
    assert ("-- By hand: " in script) == (needs_support or "member of " in before[0])
    assert ("-- By hand: A superuser can run this" in script) == (
        owner_cannot and "by way of another role" not in drift
    )


@pytest.mark.parametrize("platform", [False, True], ids=["owner", "platform"])
def test_what_the_owner_of_a_project_may_change_of_roles_is_a_statement(
    server: Server, fresh: sa.Connection, platform: bool
) -> None:
    owner = as_owner(server).rpartition(" ")[2]
    drift = f"""
    {AS_ADMIN} grant anon, service_role to {owner} with admin option; alter role anon bypassrls; {as_owner(server)};
    grant service_role to authenticated with admin option;
    """
    _, before, left = repair_platform(fresh, drift, AS_ADMIN if platform else "")
    assert len(before) == 2
    # Until PostgreSQL 15 only superusers decide who bypasses row-level security.
    assert left == (before[:1] if server.version.startswith("15.") and not platform else [])


@pytest.mark.parametrize("drift", ["alter role anon rename to visitor", "drop schema public cascade"])
def test_a_role_or_a_schema_of_the_platform_that_is_gone_is_left_by_hand(
    server: Server, fresh: sa.Connection, drift: str
) -> None:
    script, before, left = repair_platform(fresh, AS_ADMIN + drift, as_owner(server))
    gone = [line for line in before if line.startswith("missing: platform, ")]
    assert gone
    assert set(gone) <= set(left)
    assert set(gone) <= set(left_by_hand(script))


def test_rights_in_a_schema_public_of_the_platform_are_asked_for(server: Server, fresh: sa.Connection) -> None:
    drift = f"{AS_ADMIN} alter schema public owner to supabase_admin; grant create on schema public to anon"
    script, before, left = repair_platform(fresh, drift, as_owner(server))
    assert left == before == [f"changed: platform, rights of anon in schema public: {OPEN.format('')}"]
    assert (
        "-- By hand: The schema public belongs to supabase_admin: nobody outside of Supabase can be supabase_admin, so "
        "ask its support to run `revoke create on schema public from anon`\n"
    ) in f"{script}\n"


def test_a_version_that_was_set_back_is_set_to_head(drifted: Callable[[str, str], sa.URL]) -> None:
    url = drifted("fresh", f"update momentum_internal.alembic_version set version_num = '{HISTORY[-2]}'")
    repair(url)
    assert current(url) == HEAD
    assert differences(url) == []


ODD = """
create policy "a, policy\n; drop table public.habit_index; --" on public.habit_index using (true);
create trigger "it's ""odd"" too" before insert on public.habit_index for each row
  execute function momentum_internal.set_updated_at();
create index "an index, odd" on public.habit_index (habit_score);
create table public."a child\nof it" () inherits (public.habit_index);
comment on constraint pk_habit_index on public.habit_index is E'one\\ntwo''s \\\\ end';
comment on column public.habit_index.details is 'It''s : odd :habit';
create function momentum_internal.set_updated_at(a integer, b numeric) returns integer language sql as 'select 1';
grant select (user_id, details), update (details) on public.habit_index to anon, public;
"""


def test_odd_names_stay_names(drifted: Callable[[str, str], sa.URL]) -> None:
    url = drifted("fresh", ODD)
    assert all("\n" not in line for line in differences(url)), "a difference is a line, whatever a name has in it"
    assert left_by_hand(repair(url)) == []
    assert differences(url) == []


def test_privileges_that_were_handed_on_are_revoked_too(drifted: Callable[[str, str], sa.URL]) -> None:
    url = drifted(
        "fresh",
        """
        grant select on public.habit_index to service_role with grant option;
        set role service_role;
        grant select on public.habit_index to anon;
        reset role;
        """,
    )
    assert left_by_hand(repair(url)) == []
    assert differences(url) == []


def test_an_index_that_can_not_be_made_takes_no_ones_place(drifted: Callable[[str, str], sa.URL]) -> None:
    key = "uq_daily_engagement_scores_user_id_utc_day"
    url = drifted(
        "fresh",
        f"""
        drop index legacy.{key};
        create index {key} on legacy.daily_engagement_scores (user_id);
        insert into legacy.daily_engagement_scores (user_id, score_ts)
          select user_id, score_ts from legacy.daily_engagement_scores;
        """,
    )
    [wrong] = [line for line in differences(url) if line.startswith("changed: ")]
    # psql goes on after an error unless it is told to stop.
    done = psql(url, script_for(url))
    assert "could not create unique index" in done.stderr
    assert f"new_{key} is not valid" in done.stderr
    assert wrong in differences(url), "the old one is in its place"
    run(
        url,
        """
        delete from legacy.daily_engagement_scores as s using legacy.daily_engagement_scores as t
        where s.user_id = t.user_id and s.score_ts = t.score_ts and s.id < t.id
        """,
    )
    assert left_by_hand(repair(url)) == []
    assert differences(url) == []


def test_statements_that_only_another_role_may_run_are_comments(
    server: Server, drifted: Callable[[str, str], sa.URL]
) -> None:
    url = drifted("fresh", "select")
    migrator, keeper = f"{url.database}_migrator", f"supabase_{url.database}"
    run(server.admin_url, f"create role {migrator} login password 'secret'; create role {keeper}")
    try:
        run(
            server.as_admin(url),
            f"""
            alter schema momentum_internal owner to {migrator};
            alter schema legacy owner to {migrator};
            grant usage on schema auth, public to {migrator};
            grant select on momentum_internal.alembic_version, momentum_internal.score_table to {migrator};
            alter table public.habit_index owner to {keeper};
            alter table public.momentum_events owner to {migrator};
            create table public.others () inherits (public.momentum_events);
            alter table public.others owner to {keeper};
            """,
        )
        script = script_for(url.set(username=migrator, password="secret"))
        reason = (
            f"public.habit_index belongs to {keeper}, and you are {migrator}: nobody outside of Supabase can be "
            f"{keeper}, so ask its support to run `alter table public.habit_index owner to {migrator}`"
        )
        assert f"-- By hand: {reason}\n" in script
        assert "\nalter table public.habit_index" not in script
        assert f"-- By hand: public.others belongs to {keeper}: nobody outside of Supabase" in script
    finally:
        server.drop_database(url)
        run(server.admin_url, f"drop role {migrator}; drop role {keeper}")


def test_the_command_prints_the_script_and_nothing_else(url: sa.URL) -> None:
    run(url, "grant select on public.habit_index to anon")
    done = command("--sql", url=url)
    assert done.returncode == 1, "the exit code is that of the comparison"
    assert done.stdout.rstrip("\n") == script_for(url)
    assert psql(url, done.stdout, "--set", "ON_ERROR_STOP=1").stderr == ""
    done = command("--sql", url=url)
    assert done.returncode == 0
    assert done.stdout.startswith("-- ")
    assert done.stdout.endswith(f"{url.database} matches revision {HEAD}.\n")
