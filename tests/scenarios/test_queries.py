"""The consumers' queries on the view and the events: the right rows, by index, and nobody else's."""

import datetime
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from momentum.connect.engine import execute_script
from momentum.inventory import TABLES
from momentum.models import Base
from momentum.testing import Server
from tests.samples import insert_of
from tests.server import engine_of

USERS, DAYS = 200, 120
FIRST = datetime.date(2024, 1, 1)
LAST = FIRST + datetime.timedelta(days=DAYS - 1)

# Scores at the very ends of their days in UTC, which are other days in other time zones.
FIXTURE = f"""
insert into auth.users (id)
select lpad(to_hex(n), 32, '0')::uuid from generate_series(1, {USERS}) as n;
insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
select u.id, timestamptz '{FIRST} 00:00+00' + d * interval '1 day' + (d % 2) * interval '86399.999999 s', d % 101,
  jsonb_build_object('sleep', d)
from auth.users as u, generate_series(0, {DAYS - 1}) as d;
insert into public.momentum_events (user_id, event_type, event_ts)
select u.id, 'walk', timestamptz '{FIRST} 12:00+00' + d * interval '1 day'
from auth.users as u, generate_series(0, {DAYS - 1}) as d;
"""
A, B = uuid.UUID(int=1), uuid.UUID(int=2)

ONE_DAY = "select * from public.daily_momentum_scores where user_id = :user and score_date = :last"
LAST_DAYS = """
    select * from public.daily_momentum_scores
    where user_id = :user and score_date between :first and :last
    order by score_date
"""
LATEST_EVENTS = "select * from public.momentum_events where user_id = :user order by event_ts desc limit 20"


def last(days: int) -> dict[str, Any]:
    return {"user": A, "first": LAST - datetime.timedelta(days=days - 1), "last": LAST}


@pytest.fixture(scope="module")
def filled(server: Server) -> Iterator[sa.Engine]:
    with server.database() as url:
        engine = engine_of(url)
        with engine.begin() as connection:
            execute_script(connection, FIXTURE)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("vacuum (analyze) legacy.daily_engagement_scores, public.momentum_events"))
        yield engine


@pytest.fixture
def connection(filled: sa.Engine) -> Iterator[sa.Connection]:
    with filled.connect() as connection:
        yield connection


def become(connection: sa.Connection, role: str, user: uuid.UUID | None = None) -> None:
    """Switch to a role for the rest of the transaction, signed in as a user."""
    claims = json.dumps({"sub": str(user), "role": role}) if user else ""
    connection.execute(sa.text("select set_config('request.jwt.claims', :claims, true)"), {"claims": claims})
    connection.execute(sa.text(f"set local role {role}"))


TIME_ZONES = ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"]


@pytest.mark.parametrize("zone", TIME_ZONES)
@pytest.mark.parametrize(("query", "days"), [(ONE_DAY, 1), (LAST_DAYS, 7), (LAST_DAYS, 30)])
def test_a_users_days_are_the_days_in_utc_in_every_time_zone(
    connection: sa.Connection, query: str, days: int, zone: str
) -> None:
    connection.execute(sa.text(f"set local time zone '{zone}'"))
    rows = connection.execute(sa.text(query), last(days)).all()
    ordinals = range(DAYS - days, DAYS)
    expected = [(A, n % 101, FIRST + datetime.timedelta(days=n), {"sleep": n}) for n in ordinals]
    assert [tuple(row) for row in rows] == expected
    assert rows[0]._fields == ("user_id", "score", "score_date", "pillar_breakdown")


def plan_of(connection: sa.Connection, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of a query's plan."""
    (root,) = connection.execute(sa.text(f"explain (format json) {query}"), parameters).scalar_one()
    nodes = [root["Plan"]]
    for node in nodes:
        nodes.extend(node.get("Plans", []))
    return nodes


@pytest.mark.parametrize("role", ["postgres", "service_role", "authenticated"])
@pytest.mark.parametrize(("query", "days"), [(ONE_DAY, 1), (LAST_DAYS, 7), (LAST_DAYS, 30)])
def test_a_users_days_are_found_by_the_unique_key(connection: sa.Connection, query: str, days: int, role: str) -> None:
    if role != "postgres":
        become(connection, role, A)
    nodes = plan_of(connection, query, last(days))
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"], nodes
    (scan,) = [node for node in nodes if "Index Name" in node]
    assert scan["Index Name"] == "uq_daily_engagement_scores_user_id_utc_day"
    assert "user_id =" in scan["Index Cond"]
    # Under row level security Postgres searches an index only with leakproof functions, and `at time zone` is none: a
    # signed-in user's query finds all days of that user by index and filters those.
    filters = " ".join(node.get("Filter", "") for node in nodes)
    where = filters if role == "authenticated" else scan["Index Cond"]
    for bound in [last(days)["first"], LAST]:
        assert f"'{bound}'::date" in where, "the range of days is not searched for where it could be"


def test_a_users_latest_events_are_read_in_the_order_of_their_index(connection: sa.Connection) -> None:
    events = connection.execute(sa.text(LATEST_EVENTS), {"user": A}).all()
    assert [event.event_ts.date() for event in events] == [LAST - datetime.timedelta(days=n) for n in range(20)]
    assert {event.user_id for event in events} == {A}
    types = [(node["Node Type"], node.get("Index Name")) for node in plan_of(connection, LATEST_EVENTS, {"user": A})]
    assert types == [("Limit", None), ("Index Scan", "ix_momentum_events_user_id_event_ts")]


def test_a_signed_in_user_sees_the_own_rows_and_no_others(connection: sa.Connection) -> None:
    become(connection, "authenticated", A)
    users = sa.text("select user_id, count(*) from public.daily_momentum_scores group by 1")
    assert [tuple(row) for row in connection.execute(users)] == [(A, DAYS)]
    assert connection.execute(sa.text(LAST_DAYS), {**last(7), "user": B}).all() == []


def test_a_client_that_is_not_signed_in_sees_nothing(connection: sa.Connection) -> None:
    become(connection, "authenticated")
    assert connection.scalar(sa.text("select count(*) from public.daily_momentum_scores")) == 0


def test_service_role_sees_every_row(connection: sa.Connection) -> None:
    become(connection, "service_role")
    assert connection.scalar(sa.text("select count(*) from public.daily_momentum_scores")) == USERS * DAYS


WRITES = {
    "insert": "insert into {} default values",
    "update": "update {} set user_id = null",
    "delete": "delete from {}",
    "truncate": "truncate {} cascade",
}


@pytest.mark.parametrize(
    ("relation", "sql"),
    [
        (relation, sql)
        for relation in [*TABLES, "daily_momentum_scores"]
        for action, sql in [("select", "select from {}"), *WRITES.items()]
        if (relation, action) != ("daily_momentum_scores", "truncate")  # nobody can truncate a view
    ],
)
def test_anon_is_refused_everything(connection: sa.Connection, relation: str, sql: str) -> None:
    become(connection, "anon")
    column = "id" if relation in TABLES else "user_id"
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied for"):
        connection.execute(sa.text(sql.format(f"public.{relation}").replace("user_id", column)))


@pytest.mark.parametrize("action", ["insert", "update", "delete"])
@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_nobody_writes_through_the_view(connection: sa.Connection, role: str, action: str) -> None:
    become(connection, role, A)
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied for view"):
        connection.execute(sa.text(WRITES[action].format("public.daily_momentum_scores")))


@pytest.mark.parametrize("table", TABLES)
def test_without_a_policy_a_signed_in_user_meets_no_rows(connection: sa.Connection, table: str) -> None:
    relation, model = f"public.{table}", Base.metadata.tables[table]
    for each in Base.metadata.sorted_tables:
        connection.execute(sa.text(insert_of(each, str(A), 1)))
    become(connection, "authenticated", A)
    assert connection.scalar(sa.text(f"select count(*) from {relation}")) == 0
    change = f"update {relation} set {model.columns.keys()[0]} = default"
    assert connection.execute(sa.text(change)).rowcount == 0
    assert connection.execute(sa.text(f"delete from {relation}")).rowcount == 0
    with pytest.raises(sa.exc.ProgrammingError, match="row-level security policy"), connection.begin_nested():
        connection.execute(sa.text(insert_of(model, str(A), 2)))
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        connection.execute(sa.text(f"truncate {relation} cascade"))
