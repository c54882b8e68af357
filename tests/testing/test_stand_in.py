"""The stand-in is what a Supabase project is to the role that migrates it, on servers that we start."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from momentum.testing import Server
from momentum.testing.servers import KINDS, Kind
from tests.migrating import execute, fetch, run
from tests.server import engine_of

PUBLIC_ROLES = ("anon", "authenticated", "service_role")


@pytest.fixture
def project(server: Server, supabase_url: sa.URL) -> sa.URL:
    """A project on a server whose superuser made the roles."""
    if server.admin_url == server.url:
        pytest.skip("the server's URL is that of a role that is no superuser, which can't make the platform's roles")
    return supabase_url


@pytest.fixture
def connection(project: sa.URL) -> Iterator[sa.Connection]:
    with engine_of(project).connect() as connection:
        yield connection


def refusal_of(connection: sa.Connection, sql: str) -> str:
    """Return the message with which the server refuses a statement."""
    with pytest.raises(sa.exc.ProgrammingError) as refused:
        connection.exec_driver_sql(sql)
    connection.rollback()
    return str(refused.value.orig).partition("\n")[0]


def test_the_role_that_migrates_is_all_that_a_projects_owner_can_be(connection: sa.Connection) -> None:
    role = connection.execute(sa.text("select * from pg_catalog.pg_roles where rolname = current_user")).one()
    assert (role.rolsuper, role.rolbypassrls, role.rolcreaterole, role.rolcreatedb, role.rolreplication) == (
        *(False, True, True, True, True),
    )
    memberships = connection.scalars(
        sa.text("select roleid::regrole::text from pg_catalog.pg_auth_members where member = current_user::regrole")
    )
    # A role that has made others is their member too, from PostgreSQL 16 on.
    assert set(memberships) >= {*PUBLIC_ROLES, "pg_monitor", "pg_read_all_data", "pg_signal_backend"}
    for role_of_the_platform in ("supabase_admin", "supabase_auth_admin"):
        assert "permission denied to set role" in refusal_of(connection, f"set role {role_of_the_platform}")
    assert connection.scalar(sa.text("show search_path")) == '"$user", public, extensions'
    assert connection.scalar(sa.text("show statement_timeout")) == "2min"
    owner = "select datdba::regrole::text = current_user from pg_catalog.pg_database where datname = current_database()"
    assert connection.scalar(sa.text(owner))


def test_the_roles_of_clients_are_the_platforms(project: sa.URL) -> None:
    settings = fetch(
        project,
        "select rolname || ': ' || array_to_string(rolconfig, ', ') from pg_catalog.pg_roles "
        "where rolname in ('anon', 'authenticated', 'authenticator', 'supabase_auth_admin') order by 1",
    )
    assert settings == [
        "anon: statement_timeout=3s",
        "authenticated: statement_timeout=8s",
        "authenticator: statement_timeout=8s, lock_timeout=8s",
        "supabase_auth_admin: idle_in_transaction_session_timeout=60s",
    ]
    assert execute(project, "select rolbypassrls from pg_catalog.pg_roles where rolname = 'service_role'")
    assert set(
        fetch(
            project,
            "select roleid::regrole::text from pg_catalog.pg_auth_members where member = 'authenticator'::regrole",
        )
    ) == {*PUBLIC_ROLES}


def test_auth_belongs_to_the_platform(connection: sa.Connection) -> None:
    owners = """
        select nspowner::regrole::text from pg_catalog.pg_namespace where nspname = 'auth'
        union all
        select relowner::regrole::text from pg_catalog.pg_class where oid = 'auth.users'::regclass
        union all
        select proowner::regrole::text from pg_catalog.pg_proc where oid = 'auth.uid()'::regprocedure
    """
    assert list(connection.scalars(sa.text(owners))) == ["supabase_admin", "supabase_auth_admin", "supabase_auth_admin"]
    assert refusal_of(connection, "create table auth.mine ()") == "permission denied for schema auth"
    for alter in ("add mine text", "disable row level security", "add constraint mine check (true)"):
        assert refusal_of(connection, f"alter table auth.users {alter}") == "must be owner of table users"


def test_the_rights_on_users_are_those_that_the_platform_gives(connection: sa.Connection) -> None:
    granted = connection.execute(
        sa.text("""
            select privilege_type, is_grantable
            from pg_catalog.pg_class, pg_catalog.aclexplode(relacl)
            where oid = 'auth.users'::regclass and grantee = current_user::regrole
        """)
    )
    assert {tuple(row) for row in granted} == {
        ("SELECT", True),
        *((right, False) for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")),
    }


def test_users_are_hidden_by_row_security_and_name_their_own_id(connection: sa.Connection) -> None:
    table = connection.execute(
        sa.text("""
            select
              relrowsecurity,
              (select count(*) from pg_catalog.pg_policy where polrelid = c.oid) as policies,
              (
                select count(*) from pg_catalog.pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped
              ) as columns
            from pg_catalog.pg_class as c
            where oid = 'auth.users'::regclass
        """)
    ).one()
    assert tuple(table) == (True, 0, 35)
    with pytest.raises(sa.exc.IntegrityError, match='null value in column "id"'):
        connection.exec_driver_sql("insert into auth.users (email) values ('ann@example.com')")


# The rights of each role of clients on what the role that migrates makes in public.
GRANTED: dict[Kind, dict[str, set[str]]] = {
    "older": {
        "table": {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"},
        "sequence": {"SELECT", "UPDATE", "USAGE"},
        "function": {"EXECUTE"},
    },
    "newer": {"table": {"TRUNCATE", "REFERENCES", "TRIGGER"}, "sequence": set(), "function": set()},
}
GRANTED["automatic_rls"] = GRANTED["newer"]

ACLS = """
select 'table' as kind, relacl as acl from pg_catalog.pg_class where oid = 'public.mine'::regclass
union all
select 'sequence', relacl from pg_catalog.pg_class where oid = 'public.my_numbers'::regclass
union all
select 'function', proacl from pg_catalog.pg_proc where oid = 'public.my_function()'::regprocedure
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("project")
def test_what_is_made_is_granted_to_clients_by_default(server: Server, kind: Kind) -> None:
    with server.database(migrated=False, kind=kind) as url:
        run(
            url,
            "create table public.mine (); create sequence public.my_numbers; "
            "create function public.my_function() returns integer language sql as 'select 1'; "
            "create table public.copied as select 1 as number; select 1 as number into public.selected",
        )
        with engine_of(url).connect() as connection:
            granted: dict[str, dict[str, set[Any]]] = {
                role: {"table": set(), "sequence": set(), "function": set()} for role in PUBLIC_ROLES
            }
            rows = connection.execute(
                sa.text(f"""
                    select kind, grantee::regrole::text as role, privilege_type
                    from ({ACLS}) as made, pg_catalog.aclexplode(acl)
                    where grantee::regrole::text in ('anon', 'authenticated', 'service_role')
                """)
            )
            for row in rows:
                # PostgreSQL 17 has this right too, and a platform that is read off 15 says nothing of it.
                if row.privilege_type != "MAINTAIN":
                    granted[row.role][row.kind].add(row.privilege_type)
        assert granted == dict.fromkeys(PUBLIC_ROLES, GRANTED[kind])
        protected = fetch(
            url,
            "select relname from pg_catalog.pg_class "
            "where relnamespace = 'public'::regnamespace and relkind = 'r' and relrowsecurity order by 1",
        )
        assert protected == (["copied", "mine", "selected"] if kind == "automatic_rls" else [])
