"""Whether rows could be put into a table is tried, constraint by constraint, and nothing of the trial stays."""

from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from momentum.migrate.rehearsal import (
    find_misfit,
    find_obstacle_to_delete,
    is_no_answer,
    make_stage,
    refusing_event_trigger,
)
from tests.catalog import snapshot
from tests.migrating import run
from tests.server import engine_of

TABLE = "public.daily_engagement_scores"

# The table, called ``{t}``, with a row, and the rows that are to be put into it.
TABLES = """
create table public.marks (mark integer unique, more text, unique (mark, more));
insert into public.marks values (1, 'x');
create table public.{t} (score integer, note text, points numeric(6, 3));
insert into public.{t} values (1, 'here', 1.5);
create table public.kept (like public.{t});
"""

# What is done to the tables, and how the constraint that rows would break is named; nothing, if they fit.
KEYS = {
    "no key": ("insert into kept values (1, 'here')", None),
    "a key": (
        "alter table {t} add constraint k unique (note); insert into kept values (2, 'here')",
        "its key k",
    ),
    "a key that fits": (
        "alter table {t} add constraint k unique (note); insert into kept values (1, 'new')",
        None,
    ),
    "a key that two of the rows break": (
        "alter table {t} add constraint k unique (note); insert into kept values (2, 'new'), (3, 'new')",
        "its key k",
    ),
    "a primary key": (
        "alter table {t} add constraint k primary key (score); insert into kept values (1, 'new')",
        "its key k",
    ),
    "a key with nulls": (
        "alter table {t} add constraint k unique (note); insert into {t} values (2); insert into kept values (3)",
        None,
    ),
    "a key with nulls that are equal": (
        "alter table {t} add constraint k unique nulls not distinct (note); insert into {t} values (2); "
        "insert into kept values (3)",
        "its key k",
    ),
    "a key with nulls that are equal, of which there is one": (
        "alter table {t} add constraint k unique nulls not distinct (note); insert into kept values (3)",
        None,
    ),
    "a key of which a part is null": (
        "alter table {t} add constraint k unique (score, note); insert into {t} values (2); "
        "insert into kept values (2)",
        None,
    ),
    "a key of which a part is null and equal": (
        "alter table {t} add constraint k unique nulls not distinct (score, note); insert into {t} values (2); "
        "insert into kept values (2)",
        "its key k",
    ),
    "a key of which a part differs": (
        "alter table {t} add constraint k unique (score, note); insert into kept values (1, 'new'), (2, 'here')",
        None,
    ),
    "a key of some rows": (
        "create unique index k on {t} (note) where score < 5; insert into kept values (4, 'here')",
        "its key k",
    ),
    "a key of other rows": (
        "create unique index k on {t} (note) where score < 5; insert into kept values (5, 'here')",
        None,
    ),
    "a key of an expression": (
        "create unique index k on {t} (lower(note)); insert into kept values (2, 'HERE')",
        "its key k",
    ),
    "a key that is dropped before": (
        "create unique index dropped on {t} (note); insert into kept values (2, 'here')",
        None,
    ),
    "an exclusion": (
        "alter table {t} add constraint k exclude using gist (numrange(score, score + 10) with &&); "
        "insert into kept values (11), (10)",
        "its key k",
    ),
    "an exclusion that fits": (
        "alter table {t} add constraint k exclude using gist (numrange(score, score + 10) with &&); "
        "insert into kept values (11), (21)",
        None,
    ),
    "an exclusion that two of the rows break": (
        "alter table {t} add constraint k exclude using gist (numrange(score, score + 10) with &&); "
        "insert into kept values (11), (20)",
        "its key k",
    ),
}
OTHERS = {
    "a check": (
        "alter table {t} add constraint c check (score < 5); insert into kept values (5)",
        "its constraint c",
    ),
    "a check that fits": (
        "alter table {t} add constraint c check (score < 5); insert into kept values (4)",
        None,
    ),
    "a check of what isn't known": (
        "alter table {t} add constraint c check (score < 5); insert into kept values (null)",
        None,
    ),
    "a check of the whole row": (
        "alter table {t} add constraint c check ({t}.* is distinct from row(9, 'x', null)::{t}); "
        "insert into kept values (9, 'x')",
        "its constraint c",
    ),
    "not null": (
        "alter table {t} alter note set not null; insert into kept values (1)",
        "NOT NULL of its column note",
    ),
    "a default": (
        "alter table {t} add more text not null default 'x'; insert into kept values (1)",
        None,
    ),
    "no default": (
        "alter table {t} add more text not null default 'x'; alter table {t} alter more drop default; "
        "insert into kept values (1)",
        "NOT NULL of its column more",
    ),
    "a serial number": (
        "alter table {t} add id bigserial primary key; insert into kept values (1)",
        None,
    ),
    "an identity": (
        "alter table {t} add id bigint generated always as identity primary key; insert into kept values (1)",
        None,
    ),
    "a type that rounds": (
        "alter table {t} alter points type numeric(4, 1); insert into kept values (1, 'x', 1.25)",
        "its column points, now of type numeric(4,1), which changes their values",
    ),
    "a type that rounds other values": (
        "alter table {t} alter points type numeric(4, 1); insert into kept values (1, 'x', 1.2)",
        None,
    ),
    "a type that fits": (
        "alter table {t} alter points type numeric(9, 4); alter table {t} alter note type varchar(9); "
        "alter table kept alter points type numeric(9, 4); insert into kept values (1, 'x', 1.25)",
        None,
    ),
    "a type that is too short": (
        "alter table {t} alter note type varchar(4); insert into kept values (1, 'longer')",
        "a rule of the server (value too long for type character varying(4))",
    ),
    "a foreign key": (
        "alter table {t} add constraint f foreign key (score) references marks (mark); insert into kept values (2)",
        "its foreign key f",
    ),
    "a foreign key that fits": (
        "alter table {t} add constraint f foreign key (score) references marks (mark); "
        "insert into kept values (1), (null)",
        None,
    ),
    "a foreign key of which a part is null": (
        "update {t} set note = 'x'; insert into kept values (1); alter table {t} add constraint f "
        "foreign key (score, note) references marks (mark, more)",
        None,
    ),
    "a full foreign key of which a part is null": (
        "update {t} set note = 'x'; insert into kept values (1); alter table {t} add constraint f "
        "foreign key (score, note) references marks (mark, more) match full",
        "its foreign key f",
    ),
}


def misfit(url: sa.URL, changes: str, kept: str = "public.kept", only: str = "true") -> str | None:
    """Return which constraint rows would break, and assert that nothing of the trial has stayed."""
    run(url, "set local search_path = public;" + f"{TABLES} {changes}".format(t=TABLE.partition(".")[2]))
    before = snapshot(url)
    with engine_of(url).begin() as connection:
        found = find_misfit(connection, TABLE, kept, only=only, key="public.dropped")
    assert snapshot(url) == before
    return found


@pytest.mark.parametrize("case", KEYS)
def test_rows_that_would_collide_are_found(supabase_url: sa.URL, case: str) -> None:
    changes, named = KEYS[case]
    assert misfit(supabase_url, changes) == named


@pytest.mark.parametrize("case", OTHERS)
def test_rows_that_would_break_another_constraint_are_found(supabase_url: sa.URL, case: str) -> None:
    changes, named = OTHERS[case]
    assert misfit(supabase_url, changes) == named


def test_only_rows_that_are_meant_are_tried(supabase_url: sa.URL) -> None:
    changes = "alter table {t} add constraint k unique (note); insert into kept values (1, 'here'), (2, 'new')"
    assert misfit(supabase_url, changes, only="note = 'new'") is None


def test_rows_of_the_table_itself_do_not_collide_with_themselves(supabase_url: sa.URL) -> None:
    assert misfit(supabase_url, "alter table {t} add constraint k unique (note)", kept=TABLE) is None


@pytest.mark.parametrize(
    ("publication", "said"),
    [
        (None, None),
        ("for table public.t with (publish = 'insert')", None),
        (
            "for table public.t",
            'because of the publication "p q": cannot delete from table "t" because it does not have a replica '
            "identity and publishes deletes",
        ),
        (
            "for table public.t where (a > 0)",
            'because of the publication "p q": Column used in the publication WHERE expression is not part of the '
            "replica identity",
        ),
    ],
)
def test_a_publication_that_keeps_rows_from_being_deleted_is_named(
    supabase_url: sa.URL, publication: str | None, said: str | None
) -> None:
    run(supabase_url, "create table public.t (a integer, b integer primary key)")
    if publication is not None and "where" not in publication:
        run(supabase_url, "alter table public.t replica identity nothing")
    if publication is not None:
        run(supabase_url, f'create publication "p q" {publication}')
    with engine_of(supabase_url).begin() as connection:
        found = find_obstacle_to_delete(connection, "public.t")
        assert found == (None if said is None else f"no row could be deleted, {said}")
        assert find_obstacle_to_delete(connection, "public.missing") == (
            'no row could be deleted, relation "public.missing" does not exist'
        )


@pytest.mark.parametrize(
    "rehearse",
    [
        lambda connection: find_obstacle_to_delete(connection, "public.t"),
        lambda connection: find_misfit(connection, "public.other", "public.t", key=None),
        lambda connection: make_stage(connection, "public.t", "public.other"),
    ],
)
def test_a_lock_that_somebody_holds_is_no_answer(supabase_url: sa.URL, rehearse: Any) -> None:
    run(supabase_url, "create table public.t (a integer); create table public.other (a integer)")
    with engine_of(supabase_url).begin() as holder, engine_of(supabase_url).connect() as connection:
        holder.exec_driver_sql("lock table public.t in access exclusive mode")
        connection.exec_driver_sql("set local lock_timeout = '1ms'")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            rehearse(connection)


@pytest.mark.parametrize(("sqlstate", "answers"), [("55P03", False), ("57P01", False), (None, False), ("42501", True)])
def test_a_lost_connection_is_no_answer_either(sqlstate: str | None, answers: bool) -> None:
    refusal = psycopg.OperationalError()
    refusal.sqlstate = sqlstate
    assert is_no_answer(sa.exc.OperationalError("", {}, refusal)) is not answers


def test_an_event_trigger_that_refuses_is_known_by_its_function() -> None:
    triggers: Any = [SimpleNamespace(name="a", function="f()"), SimpleNamespace(name="b", function="g()")]

    def error(context: str | None) -> sa.exc.DBAPIError:
        refusal: Any = Exception()
        refusal.diag = SimpleNamespace(context=context)
        return sa.exc.DBAPIError("", {}, refusal)

    assert refusing_event_trigger(triggers, error("PL/pgSQL function g() line 3 at RAISE")) == "b"
    assert refusing_event_trigger(triggers, error("PL/pgSQL function h() line 3 at RAISE")) is None
    assert refusing_event_trigger(triggers, error(None)) is None
    assert refusing_event_trigger(triggers, sa.exc.DBAPIError("", {}, Exception())) is None
