"""Rights that a migration needs: each that is missing is named before anything has changed."""

import secrets
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from momentum.errors import PreflightError
from momentum.testing import Server
from tests.catalog import snapshot
from tests.migrating import HISTORY, JOURNAL, database_with_scores, migrate_to, run
from tests.samples import SCORE_TABLES

HEAD = HISTORY[-1]


@pytest.fixture
def keeper(server: Server) -> Iterator[str]:
    """A role that owns things, of which the role that migrates is no member."""
    name = f"keeper_{secrets.token_hex(4)}"
    run(server.admin_url, f"create role {name}")
    yield name
    run(server.admin_url, f"drop role {name}")


def refusal(url: sa.URL, revision: str, **options: object) -> str:
    """Return the sentence with which a migration is refused, and assert that nothing has changed."""
    before = snapshot(url)
    with pytest.raises(PreflightError) as refused:
        migrate_to(url, revision, **options)
    assert snapshot(url) == before
    return str(refused.value)


# What is there, and the right that is missing. All of it is made by the platform's superuser.
MISSING = {
    "schema legacy, without CREATE": (
        "create schema legacy authorization {admin}; grant usage on schema legacy to {role}",
        "CREATE on the schema legacy",
    ),
    "schema legacy of an adopted table": (
        SCORE_TABLES["seed"].format(schema="legacy")
        + "; alter schema legacy owner to {admin}; grant usage on schema legacy to {role}; "
        "alter table legacy.daily_engagement_scores owner to {role}",
        "CREATE on the schema legacy",
    ),
    "public": (
        "alter schema public owner to {admin}; grant usage on schema public to {role}",
        "CREATE on the schema public",
    ),
    "the database": (
        "alter database {database} owner to {keeper}; alter schema public owner to {role}",
        "CREATE on the database {database}",
    ),
    "the language": ("revoke usage on language plpgsql from public", "USAGE on the language plpgsql"),
    "the key of the accounts": ("revoke references on auth.users from {role}", "REFERENCES on the table auth.users"),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_right_is_named_with_the_role_that_can_give_it(server: Server, keeper: str, case: str) -> None:
    prepare, said = MISSING[case]
    with server.database(migrated=False) as url:
        names = {"keeper": keeper, "role": url.username, "database": url.database, "admin": server.admin_url.username}
        run(server.as_admin(url), prepare.format(**names))
        message = refusal(url, HEAD)
        assert message.startswith(f"The migration needs {said.format(**names)}, which {url.username} lacks; ")
        assert f"`grant {said.split()[0].lower()} on " in message
        run(server.as_admin(url), f"reassign owned by {keeper} to {url.username}; drop owned by {keeper}")


def test_each_right_that_is_named_is_enough_once_it_is_given(server: Server, keeper: str) -> None:
    """A role that begins with nothing gets what the refusals ask for, one after the other, and can migrate."""
    role = f"migrator_{secrets.token_hex(4)}"
    with server.database(migrated=False) as url:
        admin = server.as_admin(url)
        run(admin, f"create role {role} login password 'secret'; alter database {url.database} owner to {keeper}")
        own = url.set(username=role, password="secret")
        asked = []
        for _ in range(10):
            try:
                migrate_to(own, HEAD)
            except PreflightError as error:
                statement = str(error).split("`")[1]
                assert statement not in asked
                asked.append(statement)
                run(admin, statement)
            else:
                break
        assert [statement.partition(" to ")[0] for statement in asked] == [
            "grant usage on schema auth",
            f"grant create on database {url.database}",
            "grant create on schema public",
            "grant references on table auth.users",
        ]
        migrate_to(own, "base", purge=True)
        run(admin, f"reassign owned by {keeper}, {role} to {url.username}; drop owned by {keeper}, {role}")
        run(admin, f"drop role {role}")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("schema", "momentum_internal"),
        ("table", "momentum_internal.alembic_version"),
        ("table", "momentum_internal.score_table"),
        ("function", "momentum_internal.set_updated_at()"),
        ("table", "public.momentum_events"),
        ("table", "public.momentum_pillars"),
        ("view", "public.daily_momentum_scores"),
        ("table", "legacy.daily_engagement_scores"),
    ],
)
def test_what_belongs_to_somebody_else_is_named_before_a_downgrade(
    server: Server, keeper: str, kind: str, name: str
) -> None:
    with server.database() as url:
        run(
            server.as_admin(url),
            f"""
            alter {kind} {name} owner to {keeper};
            grant all on schema momentum_internal to {url.username};
            grant all on all tables in schema momentum_internal to {url.username};
            """,
        )
        for options in ({}, {"purge": True}):
            message = refusal(url, "base", **options)
            assert message.startswith(f"The {kind} {name} belongs to {keeper}, and you are {url.username}; ")
        run(server.as_admin(url), f"reassign owned by {keeper} to {url.username}; drop owned by {keeper}")


def test_a_predecessor_that_belongs_to_somebody_else_is_named(server: Server, keeper: str) -> None:
    url = database_with_scores(server, "fresh", predecessors=True)
    run(server.as_admin(url), f"alter table public.habit_index owner to {keeper}")
    message = refusal(url, HEAD, existing="adopt", access="close")
    assert message.startswith(f"public.habit_index belongs to {keeper}, and you are {url.username}, who could not park")
    run(server.as_admin(url), f"reassign owned by {keeper} to {url.username}; drop owned by {keeper}")
    server.drop_database(url)


@pytest.mark.parametrize("name", ["momentum_internal.habit_index", "public.momentum_events"])
def test_what_belongs_to_somebody_else_is_named_before_an_upgrade(server: Server, keeper: str, name: str) -> None:
    with server.database() as url:
        migrate_to(url, HISTORY[HISTORY.index(JOURNAL) - 1])
        run(server.as_admin(url), f"alter table {name} owner to {keeper}")
        assert refusal(url, HEAD).startswith(f"The table {name} belongs to {keeper}, and you are {url.username}; ")
        run(server.as_admin(url), f"reassign owned by {keeper} to {url.username}; drop owned by {keeper}")


def test_create_on_the_database_is_not_needed_once_the_schemas_are_there(server: Server) -> None:
    url = database_with_scores(server, "legacy.seed")
    run(
        url,
        """
        insert into auth.users (id, created_at) values ('00000000-0000-0000-0000-000000000001', now());
        insert into legacy.daily_engagement_scores (user_id, score_ts, score)
        select '00000000-0000-0000-0000-000000000001', '2026-01-01', n from generate_series(1, 3) as n;
        """,
    )
    migrate_to(url, HEAD)
    run(
        server.as_admin(url),
        f"""
        revoke create on database {url.database} from {url.username}, public;
        create function public.pass() returns event_trigger language plpgsql as 'begin end';
        create event trigger pass on ddl_command_end execute function public.pass();
        """,
    )
    for revision in (HISTORY[-2], HEAD, "base", HEAD):
        migrate_to(url, revision)
    server.drop_database(url)
