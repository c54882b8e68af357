"""Adoption of the app's tables keeps its clients working, or says who loses what before anything has changed."""

import contextlib
import itertools
import json
import logging
import os
import re
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from momentum.connect.url import as_text
from momentum.errors import PreflightError
from momentum.inventory import PREDECESSORS
from momentum.testing import Server, install_pgtap
from tests import processes
from tests.catalog import differences, snapshot
from tests.migrate.test_script import psql, script
from tests.migrating import COPY, HISTORY, VIEW, database_with_scores, execute, fetch, migrate_to, run, visible
from tests.pgtap.scripts import read_scripts, run_script, tap_lines
from tests.server import engine_of
from tests.supabase_cli import ROOT
from tests.verify.test_repairs import repair

HEAD = HISTORY[-1]
A, B = (uuid.UUID(int=n) for n in (1, 2))

# The app's tables with the access that ours give, so that nobody loses anything.
CLOSED = (
    "".join(
        f"""
        alter table public.{name} enable row level security;
        revoke all on table public.{name} from public, anon, authenticated, service_role;
        grant select, insert, update, delete on table public.{name} to authenticated;
        grant all on table public.{name} to service_role;
        """
        for name in PREDECESSORS
    )
    + "drop index public.idx_momentum_events_event_ts;"
)

# An app whose users write and read their own rows, as Supabase's guides teach it, with odd names.
OWN_ROWS = """
alter table public.habit_index enable row level security;
revoke all on table public.habit_index from anon;
create policy "user's own: 100%" on public.habit_index for select to authenticated
  using ((select auth.uid()) = user_id);
create policy "adds: %s" on public.habit_index for insert to authenticated with check ((select auth.uid()) = user_id);
create policy changes on public.habit_index for update to authenticated
  using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
create policy never on public.habit_index as restrictive for delete to public using (false);
create table public.notes (id bigint generated always as identity primary key, body text);
grant all on public.notes to authenticated;
create function public."no:te"() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into public.notes (body) values (tg_op || ' ' || new.habit_score);
  return new;
end $$;
create trigger "no:te 100%" after insert or update on public.habit_index
  for each row when (new.habit_score <> 13) execute function public."no:te"();
create publication supabase_realtime for table public.habit_index;
alter table public.habit_index replica identity full;
alter table public.habit_index alter column user_id set default auth.uid();
create unique index "one: ""per"" moment" on public.habit_index (user_id, created_at) where deleted_at is null;
"""
UPSERT = """
insert into public.habit_index (index_date, habit_score) values (:day, :score)
on conflict (user_id, index_date) do update set habit_score = excluded.habit_score
returning habit_score
"""


@pytest.fixture
def url(server: Server) -> Iterator[sa.URL]:
    """A database with the app's own versions of our tables, open to all, and two users."""
    url = database_with_scores(server, "fresh", predecessors=True)
    run(url, f"insert into auth.users (id) values ('{A}'), ('{B}')")
    yield url
    server.drop_database(url)


@pytest.fixture
def closed_url(url: sa.URL) -> sa.URL:
    """The same with the access that our tables give."""
    run(url, CLOSED)
    return url


def up(url: sa.URL, access: str | None, revision: str = HEAD, **more: Any) -> None:
    options = {"access": access} if access else {}
    migrate_to(url, revision, existing="adopt", **options, **more)


def down(url: sa.URL) -> None:
    migrate_to(url, "base")


def refusal_of(url: sa.URL, access: str | None) -> str:
    """Return the sentence with which an adoption is refused, and assert that nothing has changed."""
    before = snapshot(url)
    with pytest.raises(PreflightError) as refusal:
        up(url, access)
    assert snapshot(url) == before, "a refused upgrade has changed something"
    message = str(refusal.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def as_client(url: sa.URL, user: uuid.UUID | None, sql: str, **parameters: Any) -> list[Any]:
    """Return the first values of a statement's rows, executed as PostgREST does for a user, or for nobody."""
    role = "authenticated" if user else "anon"
    claims = json.dumps({"role": role, "sub": str(user)} if user else {"role": role})
    with engine_of(url).begin() as connection:
        connection.exec_driver_sql(f"set local role {role}")
        connection.execute(sa.text("select set_config('request.jwt.claims', :claims, true)"), {"claims": claims})
        return list(connection.scalars(sa.text(sql), parameters))


def use(url: sa.URL, day: str) -> None:
    """Insert, read and upsert as the app's users do, and assert that each sees their own rows only."""
    for user, score in ((A, 1), (B, 2)):
        assert as_client(url, user, UPSERT, day=day, score=score) == [score]
        assert as_client(url, user, UPSERT, day=day, score=score + 10) == [score + 10]
        seen = "select distinct user_id from public.habit_index"
        assert as_client(url, user, seen) == [user]
        with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
            as_client(
                url,
                user,
                "insert into public.habit_index (user_id, index_date, habit_score) values (:other, '2020-01-01', 1)",
                other=uuid.uuid4(),
            )
        as_client(url, user, "delete from public.habit_index returning 1")
        assert as_client(url, user, seen) == [user], "the restrictive policy lets nobody delete"
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        as_client(url, None, "select count(*) from public.habit_index")


@contextlib.contextmanager
def pgtap_connection(url: sa.URL) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection with pgTAP, of which nothing stays."""
    with engine_of(url).connect() as connection:
        install_pgtap(connection, ROOT)
        connection.exec_driver_sql("set local search_path = public, pgtap")
        driver_connection = connection.connection.driver_connection
        assert isinstance(driver_connection, psycopg.Connection)
        yield driver_connection
        connection.rollback()


def pgtap_complaints(url: sa.URL) -> list[str]:
    """Return what the pgTAP files complain of."""
    complaints = []
    with pgtap_connection(url) as connection:
        for script in itertools.chain.from_iterable(read_scripts().values()):
            with connection.transaction(force_rollback=True):
                complaints += run_script(connection, script)
    return complaints


def published(url: sa.URL) -> list[str]:
    """Return the tables whose changes realtime subscribers hear of, parked ones apart."""
    return fetch(
        url,
        "select schemaname || '.' || tablename from pg_publication_tables "
        "where pubname = 'supabase_realtime' and schemaname <> 'momentum_internal' order by 1",
    )


def test_with_keep_clients_go_on_as_before_up_down_and_up(url: sa.URL) -> None:
    run(url, OWN_ROWS)
    use(url, "2024-03-01")
    before = visible(snapshot(url))
    notes = "select count(*) from public.notes"
    for day in ("2024-03-02", "2024-03-04"):
        told = execute(url, notes)
        up(url, "keep")
        assert execute(url, notes) == told, "a copied row is no news"
        use(url, day)
        assert execute(url, notes) > told
        assert published(url) == ["public.habit_index"]
        assert differences(url) == []
        at_head = snapshot(url)
        down(url)
        assert visible(snapshot(url)) == before
        assert published(url) == ["public.habit_index"]
        use(url, f"{day[:-1]}{int(day[-1]) + 1}")
        # Our table is parked as if nothing had ever been carried over.
        assert fetch(
            url, "select count(*) from pg_policy where polrelid = 'momentum_internal.habit_index'::regclass"
        ) == [0]
        assert fetch(
            url, "select relrowsecurity from pg_class where oid = 'momentum_internal.habit_index'::regclass"
        ) == [True]
        assert fetch(url, "select count(*) from momentum_internal.kept_access") == [0]
    up(url, "keep")
    assert snapshot(url) == at_head
    # Each day that was written while the app's table was in place has been copied.
    days = "select distinct index_date::text from public.habit_index order by 1"
    assert as_client(url, A, days) == [f"2024-03-0{n}" for n in range(1, 6)]


def test_with_close_clients_are_shut_out_until_the_downgrade(url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    run(url, OWN_ROWS)
    use(url, "2024-03-01")
    before = visible(snapshot(url))
    caplog.set_level(logging.WARNING, logger="momentum.migrations")
    up(url, "close")
    messages = [record.getMessage() for record in caplog.records]
    for loss in ('policy "user\'s own: 100%"', 'trigger "no:te 100%"', "publication supabase_realtime"):
        assert f"With access=close, clients lose on public.habit_index: {loss}." in messages
    assert as_client(url, A, "select count(*) from public.habit_index") == [0]
    with pytest.raises(sa.exc.ProgrammingError, match="row-level security"):
        as_client(
            url,
            A,
            "insert into public.habit_index (user_id, index_date, habit_score) values (:a, '2024-03-02', 1)",
            a=A,
        )
    assert published(url) == []
    down(url)
    assert visible(snapshot(url)) == before
    use(url, "2024-03-02")


def test_unasked_it_refuses_and_lists_each_loss_by_table(url: sa.URL) -> None:
    run(url, OWN_ROWS)
    message = refusal_of(url, None)
    assert message.startswith(
        "Clients would lose what they have on tables that are replaced: public.momentum_pillars: "
    )
    lost = message.partition("public.habit_index: ")[2].partition(";")[0]
    for loss in (
        "rights of authenticated (select, insert, update)",
        'policy "user\'s own: 100%"',
        'policy "adds: %s"',
        "policy changes",
        'trigger "no:te 100%"',
        "publication supabase_realtime",
        "replica identity",
        "default of column user_id",
        'unique key "one: ""per"" moment"',
    ):
        assert loss in lost
    assert "never" not in lost, "without this policy clients lose nothing"
    assert "idx_habit_index_user_date" not in lost, "ours has a key on the same columns"
    assert "index idx_momentum_events_event_ts" in message
    assert message.count("public.habit_index: ") == 1
    assert message.endswith("; access=keep carries this over to the new tables, and access=close takes it away.")


def test_where_nobody_loses_anything_no_option_is_needed(closed_url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    before = visible(snapshot(closed_url))
    caplog.set_level(logging.WARNING, logger="momentum.migrations")
    up(closed_url, None)
    assert [record.getMessage() for record in caplog.records if "access=" in record.getMessage()] == []
    down(closed_url)
    assert visible(snapshot(closed_url)) == before


# One thing that clients have on a table that is otherwise closed, and how its loss is named.
KEPT = {
    "a policy": (
        "create policy p on public.habit_index for select to authenticated using (true)",
        ["rights of authenticated (select)", "policy p"],
    ),
    "rights of anon by a policy for all": (
        "grant select, insert on public.habit_index to anon; create policy p on public.habit_index using (true)",
        ["rights of anon (select, insert)", "rights of authenticated (select, insert, update, delete)", "policy p"],
    ),
    "rights on columns": (
        "grant select (id, user_id), update (details) on public.habit_index to anon with grant option; "
        "create policy p on public.habit_index to anon using (true)",
        ["rights of anon (select, update)"],
    ),
    "rights of everybody": (
        "grant delete on public.habit_index to public; create policy p on public.habit_index to anon using (true)",
        ["rights of public (delete)"],
    ),
    "rights of another role": (
        "grant truncate, references on public.habit_index to pg_monitor",
        ["rights of pg_monitor (truncate, references)"],
    ),
    "row-level security that is off": (
        "alter table public.habit_index disable row level security",
        ["rights of authenticated (select, insert, update, delete)"],
    ),
    "row-level security that binds the owner": (
        "alter table public.habit_index force row level security; "
        "create policy p on public.habit_index to authenticated using (true)",
        ["policy p"],
    ),
    "fewer rights": (
        "revoke delete, update on public.habit_index from authenticated; "
        "create policy p on public.habit_index using ((select auth.uid()) = user_id)",
        ["rights of authenticated (select, insert)"],
    ),
    "a policy that reads its own table and one replaced before": (
        "create policy p on public.habit_index to authenticated using (exists (select from public.habit_index as h "
        "where h.user_id = habit_index.user_id) or id in (select id from public.momentum_pillars))",
        ["policy p"],
    ),
    "a trigger": (
        "create trigger t before insert on public.habit_index for each row execute function public.note()",
        ["trigger t"],
    ),
    "a trigger for replicas too, of a statement": (
        "create trigger t after update on public.habit_index referencing new table as n "
        "for each statement execute function public.note(); alter table public.habit_index enable always trigger t",
        ["trigger t"],
    ),
    "a constraint trigger": (
        "create constraint trigger t after insert on public.habit_index deferrable initially deferred "
        "for each row execute function public.note()",
        ["trigger t"],
    ),
    "an index": ("create index i on public.habit_index using gin (details)", ["index i"]),
    "a unique index on an expression": (
        "create unique index i on public.habit_index (user_id, (details ->> 'n')) nulls not distinct",
        ["unique key i"],
    ),
    "a unique constraint": (
        'alter table public.habit_index add constraint "U: 1" unique (user_id, habit_score) deferrable',
        ['unique key "U: 1"'],
    ),
    "a primary key of more columns": (
        "alter table public.habit_index drop constraint habit_index_pkey, add unique (id), "
        "add constraint pk primary key (index_date, id)",
        ["unique key pk"],
    ),
    "an exclusion": (
        "alter table public.habit_index add constraint x exclude using btree (created_at with =)",
        ["constraint x"],
    ),
    "a foreign key by which clients embed": (
        "create table public.profiles (id uuid primary key); insert into public.profiles select id from auth.users; "
        "alter table public.habit_index add constraint f foreign key (user_id) references public.profiles (id)",
        ["foreign key f to public.profiles"],
    ),
    "a default": (
        "alter table public.habit_index alter user_id set default auth.uid()",
        ["default of column user_id"],
    ),
    "a publication of some columns and rows": (
        "create publication p for table public.habit_index (id, user_id, index_date) "
        "where (id <> '00000000-0000-0000-0000-000000000009')",
        ["publication p"],
    ),
    "a replica identity": ("alter table public.habit_index replica identity full", ["replica identity"]),
    "a replica identity by an index of its own": (
        "create unique index i on public.habit_index (created_at, id); "
        "alter table public.habit_index replica identity using index i",
        ["unique key i", "replica identity"],
    ),
    "a replica identity by a key that ours has too": (
        "alter table public.habit_index alter user_id set not null; "
        "alter table public.habit_index replica identity using index habit_index_user_id_index_date_key",
        ["replica identity"],
    ),
}
NOTE = """
create function public.note() returns trigger language plpgsql as $$
begin
  if tg_level = 'ROW' then
    raise exception 'a trigger has fired';
  end if;
  return new;
end $$;
"""
# Ours among the facts that may differ from the app's.
OURS = re.compile(r"uq_habit_index|pk_habit_index|ix_habit_index|ck_habit_index|fk_habit_index|set_updated_at|not_null")


def facts_about_clients(url: sa.URL) -> list[str]:
    """Return policies, triggers, publications, keys and the rights of each role of the habit index."""
    facts = [
        fact
        for fact in visible(snapshot(url, of="public.habit_index"))
        if fact.startswith(("policy", "trigger")) and not OURS.search(fact)
    ]
    roles = ("anon", "authenticated", "pg_monitor")
    rights = ["select", "insert", "update", "delete", "truncate", "references", "trigger"]
    facts += fetch(
        url,
        """
        select format('%s %s %s', role, privilege, has_table_privilege(role, 'public.habit_index', privilege))
        from unnest(cast(:roles as text[])) as role, unnest(cast(:rights as text[])) as privilege
        union all
        select concat_ws(' ', role, a.attname, privilege, has_column_privilege(role, attrelid, attnum, privilege))
        from unnest(cast(:roles as text[])) as role, unnest(array['select', 'insert', 'update']) as privilege,
          pg_attribute as a
        where a.attrelid = 'public.habit_index'::regclass and a.attnum > 0 and a.attname <> 'pillar_id'
        union all
        select concat_ws(' ', pubname, array(select unnest(attnames) order by 1), rowfilter)
        from pg_publication_tables where schemaname = 'public' and tablename = 'habit_index'
        union all
        select format('%s %s %s', relrowsecurity, relforcerowsecurity, relreplident)
        from pg_class where oid = 'public.habit_index'::regclass
        """,
        roles=list(roles),
        rights=rights,
    )
    return facts


@pytest.mark.slow
@pytest.mark.parametrize("thing", KEPT)
def test_each_thing_that_clients_have_is_named_kept_and_taken_back(closed_url: sa.URL, thing: str) -> None:
    sql, named = KEPT[thing]
    run(
        closed_url,
        f"insert into public.habit_index (user_id, index_date, habit_score) values ('{A}', '2024-03-01', 1)",
    )
    run(closed_url, NOTE + sql)
    before, has = visible(snapshot(closed_url)), facts_about_clients(closed_url)
    message = refusal_of(closed_url, None)
    for loss in named:
        assert loss in message
    assert message.count("public.momentum_events: ") == 0
    for _ in range(2):
        up(closed_url, "keep")
        assert facts_about_clients(closed_url) == has
        assert differences(closed_url) == []
        assert pgtap_complaints(closed_url) == []
        assert fetch(closed_url, "select count(*) from public.habit_index") == [1]
        down(closed_url)
        assert visible(snapshot(closed_url)) == before
    up(closed_url, "close")
    assert differences(closed_url) == []
    down(closed_url)
    assert visible(snapshot(closed_url)) == before


@pytest.mark.slow
@pytest.mark.parametrize("thing", KEPT)
def test_the_script_of_verify_puts_back_what_was_kept(closed_url: sa.URL, thing: str) -> None:
    run(closed_url, NOTE + KEPT[thing][0])
    up(closed_url, "keep")
    kept = facts_about_clients(closed_url)
    run(
        closed_url, ";".join(fetch(closed_url, "select undo from momentum_internal.kept_access order by position desc"))
    )
    lost = differences(closed_url)
    script = repair(closed_url)
    # Publications are not compared, and no fact says which index is meant.
    left = [line for line in lost if line.endswith("expected an index")]
    assert differences(closed_url) == left
    assert ("By hand" in script) == bool(left)
    if not left and "publication" not in thing:
        assert lost
        assert facts_about_clients(closed_url) == kept


# What cannot be carried over, and the reason.
NOT_KEPT = {
    "a column": ("alter table public.habit_index add mood text", "column mood (there is no such column any more)"),
    "a column that is computed": (
        "alter table public.habit_index drop deleted_at; alter table public.habit_index "
        "add deleted_at timestamptz generated always as (updated_at) stored",
        "default of column deleted_at (the column is generated)",
    ),
    "a rule": (
        "create rule r as on delete to public.habit_index do also select 1",
        "rule r (rules stay with the old one)",
    ),
    "a parent": (
        "create table public.parent (id uuid not null); alter table public.habit_index inherit public.parent",
        "its rows in public.parent (the new table has no parent)",
    ),
    "a trigger with the name of ours": (
        "create trigger set_updated_at before update on public.habit_index for each row execute function public.note()",
        "trigger set_updated_at (the new table has a trigger of this name: rename it)",
    ),
    "a policy that reads a table replaced later": (
        "create policy p on public.motivation_journal using (exists (select from public.habit_index))",
        "policy p (it reads a table that is replaced later)",
    ),
    "a foreign key to a table that is replaced too": (
        "alter table public.habit_index add constraint f foreign key (id) references public.momentum_pillars (id)",
        "foreign key f to public.momentum_pillars (public.momentum_pillars is replaced too)",
    ),
    "a publication whose columns lack our key": (
        "alter table public.habit_index drop constraint habit_index_pkey, add unique (id), "
        "add primary key (user_id, index_date); "
        "create publication p for table public.habit_index (user_id, index_date)",
        "publication p (its columns lack id, the key of the new table)",
    ),
}


@pytest.mark.parametrize("thing", NOT_KEPT)
def test_what_cannot_be_kept_is_refused_with_the_reason(closed_url: sa.URL, thing: str) -> None:
    sql, reason = NOT_KEPT[thing]
    run(closed_url, NOTE + sql)
    assert reason.partition(" (")[0] in refusal_of(closed_url, None)
    message = refusal_of(closed_url, "keep")
    assert reason in message
    assert message.endswith("; change that first, or give access=close, which takes everything away.")
    before = visible(snapshot(closed_url))
    up(closed_url, "close")
    down(closed_url)
    assert visible(snapshot(closed_url)) == before


def test_what_takes_nothing_from_clients_is_refused_too_if_it_cannot_be_kept(closed_url: sa.URL) -> None:
    """Without a restrictive policy clients could do more, and with a second trigger of one name the run would stop."""
    run(
        closed_url,
        f"""
        {NOTE}
        create policy p on public.motivation_journal as restrictive using (exists (select from public.habit_index));
        create trigger set_updated_at before update on public.habit_index
          for each row execute function public.note();
        alter table public.habit_index disable trigger set_updated_at;
        """,
    )
    message = refusal_of(closed_url, "keep")
    assert "public.motivation_journal: policy p (it reads a table that is replaced later)" in message
    assert "public.habit_index: trigger set_updated_at (the new table has a trigger of this name: rename it)" in message
    done = psql(closed_url, script("upgrade", "head", existing="adopt", access="keep"))
    assert done.returncode == 3
    assert (
        "public.motivation_journal: policy p (it reads a table that is replaced later); public.habit_index:"
        in done.stderr
    )
    up(closed_url, None)


def test_with_keep_the_view_of_the_app_shows_what_it_showed(server: Server) -> None:
    url = database_with_scores(server, "public.production", predecessors=True)
    try:
        run(
            url,
            f"""
            {CLOSED}
            insert into auth.users (id) values ('{A}'), ('{B}');
            insert into public.daily_engagement_scores (user_id, score_date, momentum_state)
            select id, '2024-03-01', 'Steady' from auth.users;
            """,
        )
        count = "select count(*) from public.daily_momentum_scores"
        assert (as_client(url, A, count), as_client(url, None, count)) == ([2], [2])
        before = visible(snapshot(url))
        message = refusal_of(url, None)
        assert "rights of anon (select, insert, update, delete)" in message
        assert "rows that readers see by the rights of its owner" in message
        up(url, "keep")
        assert (as_client(url, A, count), as_client(url, None, count)) == ([2], [2])
        assert differences(url) == []
        down(url)
        assert visible(snapshot(url)) == before
        up(url, "close")
        assert as_client(url, A, count) == [1]
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            as_client(url, None, count)
        migrate_to(url, HISTORY[HISTORY.index(VIEW) - 1])
        run(
            url,
            "alter view public.daily_momentum_scores set (security_invoker = true); "
            "revoke all on public.daily_momentum_scores from anon, authenticated, service_role; "
            "grant select on public.daily_momentum_scores to authenticated, service_role",
        )
        up(url, None)
        assert as_client(url, A, count) == [1]
    finally:
        server.drop_database(url)


def test_with_keep_default_privileges_open_nothing(closed_url: sa.URL) -> None:
    run(
        closed_url,
        """
        alter table public.habit_index disable row level security;
        alter default privileges in schema public grant select on tables to pg_monitor;
        """,
    )
    up(closed_url, "keep", verify=False)
    assert not execute(closed_url, "select has_table_privilege('pg_monitor', 'public.habit_index', 'select')")
    assert [line for line in differences(closed_url) if "habit_index" in line] == []
    down(closed_url)


@pytest.mark.parametrize(
    "query",
    [
        "select user_id, final_score as score, score_date, breakdown as pillar_breakdown "
        "from public.daily_engagement_scores where user_id = auth.uid()",
        "select user_id, final_score as score, score_date, null::jsonb as pillar_breakdown "
        "from public.daily_engagement_scores",
        "select user_id, max(final_score) as score, score_date, breakdown as pillar_breakdown "
        "from public.daily_engagement_scores group by user_id, score_date, breakdown",
    ],
)
def test_with_keep_no_client_sees_more_than_the_view_of_the_app_showed(server: Server, query: str) -> None:
    """With the rights of its owner, our view would show all rows to anybody who could read some of them."""
    url = database_with_scores(server, "public.production")
    try:
        run(url, f"create view public.daily_momentum_scores as {query}")
        run(
            url,
            f"""
            insert into auth.users (id) values ('{A}'), ('{B}');
            insert into public.daily_engagement_scores (user_id, score_date, momentum_state)
            select id, '2024-03-01', 'Steady' from auth.users;
            """,
        )
        assert (
            "public.daily_momentum_scores: rows that readers see by the rights of its owner (its query is not that of "
            "the new view: set security_invoker = true on it)"
        ) in refusal_of(url, "keep")
        run(url, "alter view public.daily_momentum_scores set (security_invoker = true)")
        up(url, "keep")
        count = "select count(*) from public.daily_momentum_scores"
        assert as_client(url, A, count) == [1]
        assert as_client(url, None, count) == [0]
        assert differences(url) == []
        down(url)
    finally:
        server.drop_database(url)


def test_with_keep_a_warning_names_what_stays_open_to_anon(
    closed_url: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    run(
        closed_url,
        """
        alter table public.momentum_pillars disable row level security;
        grant select on public.momentum_pillars to anon;
        grant select, insert on public.habit_index to anon;
        create policy everybody on public.habit_index for select using (true);
        create policy members on public.habit_index for insert to authenticated with check (true);
        grant select (id) on public.momentum_events to public;
        """,
    )
    caplog.set_level(logging.WARNING, logger="momentum.migrations")
    up(closed_url, "keep")
    assert [record.getMessage() for record in caplog.records if "anon" in record.getMessage()] == [
        "With access=keep, public.momentum_pillars stays open to anon, whom anybody can be: select; row-level security "
        "is off.",
        "With access=keep, public.habit_index stays open to anon, whom anybody can be: select (policy everybody).",
    ]


def test_with_close_a_long_list_is_cut(closed_url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(25):
        run(closed_url, f"create index i{n:02} on public.habit_index (created_at)")
    caplog.set_level(logging.WARNING, logger="momentum.migrations")
    up(closed_url, "close")
    told = [record.getMessage() for record in caplog.records if "access=close" in record.getMessage()]
    assert len(told) == 21
    assert told[19:] == [
        "With access=close, clients lose on public.habit_index: index i19.",
        "With access=close, clients lose 5 more things.",
    ]


def test_triggers_that_are_kept_fire_for_clients_while_rows_are_copied_and_never_for_copies(url: sa.URL) -> None:
    """A kept trigger is there from the first moment: an upgrade may stop before the rows are copied."""
    run(url, OWN_ROWS)
    run(
        url,
        "create trigger always after insert on public.habit_index for each row execute function "
        'public."no:te"(); alter table public.habit_index enable always trigger always;'
        "insert into public.habit_index (user_id, index_date, habit_score, created_at) values "
        f"('{A}', '2024-03-01', 101, '2024-03-01'), ('{A}', '2024-03-02', 2, '2024-03-02');"
        "delete from public.notes where true",
    )
    up(url, "keep", HISTORY[HISTORY.index(COPY) - 1])
    as_client(url, B, UPSERT, day="2024-03-01", score=7)
    up(url, "keep")
    as_client(url, B, UPSERT, day="2024-03-02", score=8)
    assert fetch(url, "select body from public.notes order by id") == ["INSERT 7.00"] * 2 + ["INSERT 8.00"] * 2
    assert fetch(url, "select habit_score::int from public.habit_index order by 1") == [2, 7, 8], "101 does not conform"
    enabled = "select concat(tgname, tgenabled) from pg_trigger where tgrelid = 'public.habit_index'::regclass and "
    assert fetch(url, enabled + "not tgisinternal order by 1") == ["alwaysA", "no:te 100%O", "set_updated_atO"]


def test_a_deleted_user_is_heard_of_once(url: sa.URL) -> None:
    """The row of the parked table is deleted too, and its trigger would count the user a second time."""
    run(url, OWN_ROWS)
    run(
        url,
        """
        create function public.gone() returns trigger language plpgsql as $$
        begin
          insert into public.notes (body) values (tg_op || ' ' || old.habit_score);
          return null;
        end $$;
        create trigger gone after delete on public.habit_index for each row execute function public.gone();
        create trigger off after delete on public.habit_index for each row execute function public.gone();
        alter table public.habit_index disable trigger off;
        """,
    )
    use(url, "2024-03-01")
    before = visible(snapshot(url))
    up(url, "keep")
    assert differences(url) == []
    execute(url, "delete from auth.users where id = :gone", gone=A)
    assert fetch(url, "select body from public.notes where body like 'DELETE%'") == ["DELETE 11.00"]
    run(url, "alter table public.habit_index disable trigger gone, enable trigger off")
    assert [line.partition(": found")[0] for line in differences(url)] == [
        "changed: table public.habit_index, trigger gone",
        "changed: table public.habit_index, trigger off",
    ]
    down(url)
    assert visible(snapshot(url)) == before
    execute(url, "delete from auth.users where id = :gone", gone=B)
    assert fetch(url, "select body from public.notes where body like 'DELETE%' order by id") == [
        "DELETE 11.00",
        "DELETE 12",
    ]


BROKEN = {
    "unique key i": "create unique index i on public.habit_index (habit_score, (details ->> 'a:b')) nulls not distinct",
    "unique key p": "create unique index p on public.habit_index (habit_score) where details is null",
    "constraint c": "alter table public.habit_index add constraint c check (habit_score <> 7)",
    "foreign key f to public.other": "create table public.other (id uuid primary key); "
    "alter table public.habit_index add constraint f foreign key (user_id) references public.other (id)",
}


def test_rows_of_ours_that_would_break_what_is_kept_are_found_first(closed_url: sa.URL) -> None:
    """They were written while the table was closed, and have been parked since."""
    up(closed_url, "close")
    run(
        closed_url,
        "insert into public.habit_index (user_id, index_date, habit_score) values "
        f"('{A}', '2024-03-01', 7), ('{A}', '2024-03-02', 7)",
    )
    down(closed_url)
    run(closed_url, ";".join(BROKEN.values()))
    message = refusal_of(closed_url, "keep")
    for rule in BROKEN:
        assert f"{rule} (rows of momentum_internal.habit_index break it)" in message
    run(closed_url, f"delete from momentum_internal.habit_index where true; insert into public.other values ('{A}')")
    up(closed_url, "keep")
    assert differences(closed_url) == []


def test_a_deferred_constraint_that_is_kept_refuses_its_row_and_no_other(
    url: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    run(
        url,
        f"""
        {CLOSED}
        alter table public.habit_index add constraint u unique (user_id, created_at) deferrable initially deferred;
        """,
    )
    insert = "insert into public.habit_index (user_id, index_date, habit_score, created_at) values "
    run(url, f"{insert} ('{A}', '2024-03-01', 1, '2024-03-01'), ('{A}', '2024-03-02', 2, '2024-03-02')")
    up(url, "keep", HISTORY[HISTORY.index(COPY) - 1])
    run(url, f"{insert} ('{A}', '2024-03-03', 3, '2024-03-01')")
    up(url, "keep")
    assert fetch(url, "select habit_score::int from public.habit_index order by 1") == [2, 3]
    assert [r for r in caplog.records if "1 row of public.habit_index could not be copied" in r.getMessage()]


@pytest.fixture
def forced_url(server: Server, url: sa.URL) -> Iterator[sa.URL]:
    """A database whose owner sees no row of a table under FORCE ROW LEVEL SECURITY, and has no bypassrls."""
    role = f"{url.database}_owner"
    run(url, f"create role {role} login password '{role}'; grant {role} to current_user")
    run(
        server.as_admin(url),
        f"grant usage on schema auth to {role}; grant select, references on auth.users to {role}",
    )
    tables = "".join(f"alter table public.{name} owner to {role};" for name in PREDECESSORS)
    run(
        url,
        f"""
        {CLOSED}
        insert into public.momentum_pillars (name) values ('sleep'), ('walk');
        grant create on database {url.database} to {role};
        grant create, usage on schema public to {role};
        {tables}
        alter table public.momentum_pillars force row level security;
        """,
    )
    yield url.set(username=role, password=role)
    engine_of(url.set(username=role, password=role)).dispose()
    run(server.as_admin(url), f"drop owned by {role}")
    run(url, f"drop role {role}")


@pytest.mark.parametrize("access", [None, "keep", "close"])
def test_rows_that_are_hidden_from_the_owner_are_refused_before_anything_changes(
    forced_url: sa.URL, access: str | None
) -> None:
    message = refusal_of(forced_url, access)
    assert f"Row-level security hides rows of public.momentum_pillars from {forced_url.username}" in message
    assert "alter table public.momentum_pillars no force row level security" in message


def test_once_the_owner_sees_its_rows_they_are_copied(forced_url: sa.URL) -> None:
    run(forced_url, "alter table public.momentum_pillars no force row level security")
    up(forced_url, None)
    assert fetch(forced_url, "select name from public.momentum_pillars order by 1") == ["sleep", "walk"]
    down(forced_url)


def test_a_script_refuses_what_is_hidden_too(forced_url: sa.URL) -> None:
    before = snapshot(forced_url)
    done = psql(forced_url, script("upgrade", "head", existing="adopt", access="close"))
    assert done.returncode == 3
    assert f"public.momentum_pillars: {forced_url.username}; so they would not be copied" in done.stderr
    assert snapshot(forced_url) == before


def test_a_script_refuses_keeps_and_closes_in_the_same_way(url: sa.URL, server: Server) -> None:
    online = database_with_scores(server, "fresh", predecessors=True)
    try:
        for each in (url, online):
            run(each, OWN_ROWS)
        before = snapshot(url)
        done = psql(url, script("upgrade", "head", existing="adopt"))
        assert done.returncode == 3
        assert (
            "clients would lose what they have on tables that are replaced: public.momentum_pillars: rights"
            in done.stderr
        )
        assert "public.habit_index: rights of authenticated (select, insert, update), default of column" in done.stderr
        assert snapshot(url) == before
        for access in ("keep", "close"):
            done = psql(url, script("upgrade", "head", existing="adopt", access=access))
            assert done.returncode == 0, done.stderr
            assert ("public.momentum_pillars stays open to anon" in done.stderr) == (access == "keep")
            assert ("clients lose on public.habit_index: policy changes" in done.stderr) == (access == "close")
            up(online, access)
            assert snapshot(url) == snapshot(online)
            assert psql(url, script("downgrade", "head:base")).returncode == 0
            down(online)
            assert visible(snapshot(url)) == visible(before)
        run(url, "alter table public.habit_index add mood text")
        done = psql(url, script("upgrade", "head", existing="adopt", access="keep"))
        assert done.returncode == 3
        assert "public.habit_index: column mood (there is no such column any more)" in done.stderr
    finally:
        server.drop_database(online)


def test_a_script_from_a_later_revision_looks_only_at_what_it_replaces(url: sa.URL) -> None:
    stop = HISTORY[2]
    up(url, "close", stop)
    run(
        url,
        "grant select on public.momentum_pillars to anon; "
        "alter table public.momentum_pillars disable row level security",
    )
    done = psql(url, script("upgrade", f"{stop}:head", existing="adopt"))
    assert done.returncode == 3
    assert "public.momentum_pillars" not in done.stderr
    assert "replaced: public.motivation_journal: rights of" in done.stderr


def test_drift_from_what_was_kept_is_found(url: sa.URL) -> None:
    run(url, OWN_ROWS)
    up(url, "keep")
    assert differences(url) == []
    run(
        url,
        """
        drop policy changes on public.habit_index;
        alter policy "adds: %s" on public.habit_index with check (true);
        create policy another on public.habit_index using (true);
        grant select on public.habit_index to anon;
        """,
    )
    assert [line.partition(": found")[0] for line in differences(url)] == [
        "unexpected: table public.habit_index, grant to anon: SELECT",
        'changed: table public.habit_index, policy "adds: %s"',
        "unexpected: table public.habit_index, policy another: permissive for all to public using (true)",
        "missing: table public.habit_index, policy changes: permissive for update to authenticated using ((( SELECT "
        "auth.uid() AS uid) = user_id)) with check ((( SELECT auth.uid() AS uid) = user_id))",
    ]
    repair(url)
    assert differences(url) == []
    use(url, "2024-03-01")


def test_the_pgtap_files_leave_out_what_was_kept_and_notice_what_was_not(closed_url: sa.URL) -> None:
    run(closed_url, OWN_ROWS)
    up(closed_url, "keep")
    kept = "access=keep carried over what clients had: python -m momentum.verify compares it"
    with pgtap_connection(closed_url) as connection:
        for name, scripts in read_scripts().items():
            with connection.transaction(force_rollback=True):
                plan = tap_lines(connection, scripts[-1])[0]
                assert (plan == f"1..0 # SKIP {kept}") == (name == "habit_index"), plan
    assert pgtap_complaints(closed_url) == []
    run(closed_url, "create policy another on public.habit_index using (true); grant select on habit_index to anon")
    failed = re.findall(r"not ok \d+ - (.*)", "\n".join(pgtap_complaints(closed_url)))
    assert failed == [
        "exactly these privileges on public.habit_index are granted",
        "public.habit_index has exactly these policies",
    ]


def test_verify_lists_what_was_kept(url: sa.URL) -> None:
    run(url, OWN_ROWS)
    up(url, "keep")
    done = processes.run("momentum.verify", "--database-url", as_text(url), env=dict(os.environ))
    assert done.returncode == 0
    assert (
        "Kept by access=keep on public.habit_index: grant to authenticated, column user_id, "
        'index "one: ""per"" moment", replica identity, policy "adds: %s", policy changes, policy never, '
        'policy "user\'s own: 100%", trigger "no:te 100%", publication supabase_realtime.'
    ) in done.stderr
    assert "matches revision" in done.stdout


def test_what_was_kept_is_accepted_once_the_predecessors_are_gone(url: sa.URL) -> None:
    run(url, OWN_ROWS)
    up(url, "keep")
    run(url, f"drop table {', '.join(f'momentum_internal.predecessor_{name}' for name in PREDECESSORS)} cascade")
    assert differences(url) == []
