"""The rights in docs/schema.md, "Who may do what", each tried as PostgREST would, by every role on every relation.

sql/pgtap/ has the same for the fresh layout; here the app's production layout is tried too, and each kind of project.
"""

import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from momentum.models import Base
from momentum.testing import Server
from momentum.testing.servers import KINDS
from tests.migrating import HISTORY, database_with_scores, migrate_to
from tests.samples import insert_of
from tests.server import engine_of

HEAD = HISTORY[-1]
A, B = uuid.UUID(int=1), uuid.UUID(int=2)

# Each with the role that PostgREST switches to and the user of its token.
ACTORS: dict[str, tuple[str, uuid.UUID | None]] = {
    "anon": ("anon", None),
    "nobody in particular": ("authenticated", None),
    "A": ("authenticated", A),
    "B": ("authenticated", B),
    "service_role": ("service_role", None),
    "owner": ("none", None),
}

TABLES = tuple(f"public.{table.name}" for table in Base.metadata.sorted_tables)
# The tables whose rows others need, so that they can't be deleted, and the codes of that.
NEEDED = {
    f"public.{key.column.table}"
    for table in Base.metadata.sorted_tables
    for key in table.foreign_keys
    if not key.parent.nullable
}
REFERRED_TO = ("23001", "23503")
VIEW = "public.daily_momentum_scores"
INTERNAL = ("momentum_internal.alembic_version", "momentum_internal.score_table")
SCORES = {"fresh": "legacy.daily_engagement_scores", "public.production": "public.daily_engagement_scores"}

# The columns and values of an insert into each that is not a model's table; the user is the one of the token, or A.
ROWS = {
    "legacy.daily_engagement_scores": "(user_id, score_ts, score) values (:user, :day, 5)",
    "public.daily_engagement_scores": "(user_id, score_date, final_score, momentum_state) "
    "values (:user, :day, 5, 'Steady')",
    VIEW: "(user_id) values (:user)",
    "momentum_internal.alembic_version": "(version_num) values ('none')",
    "momentum_internal.score_table": "default values",
}
UPDATES = {VIEW: "score = 1", INTERNAL[0]: "version_num = 'none'", INTERNAL[1]: "created_schema = false"}

# In the order select, insert, update, delete, truncate: the number of rows, or why there are none. A and B have a row
# each in every table, and there are two pillars.
Outcomes = list[int | str]
ALL: Outcomes = [2, 1, 2, 2, "done"]
NOTHING: Outcomes = ["refused"] * 5
NO_ROWS: Outcomes = [0, "row security", 0, 0, "refused"]
# Each table of the private schema has one row, and score_table takes no insert from others.
INTERNALS: dict[str, Outcomes] = {INTERNAL[0]: [1, 1, 1, 1, "done"], INTERNAL[1]: [1, "23502", 1, 1, "done"]}


def reads(rows: int) -> Outcomes:
    """Return the outcomes on the view for a role that may select; no view can be truncated."""
    return [rows, "refused", "refused", "refused", "no table"]


OURS = {
    "anon": NOTHING,
    "nobody in particular": NO_ROWS,
    "A": NO_ROWS,
    "B": NO_ROWS,
    "service_role": ALL,
    "owner": ALL,
}
SHOWN: dict[str, Outcomes] = {
    "anon": [*NOTHING[:4], "no table"],
    "nobody in particular": reads(0),
    "A": reads(1),
    "B": reads(1),
    "service_role": reads(2),
}


def become(connection: sa.Connection, actor: str) -> None:
    """Act as somebody until the end of the transaction."""
    role, user = ACTORS[actor]
    claims = f'{{"sub": "{user}"}}' if user else ""
    connection.execute(sa.text("select set_config('request.jwt.claims', :claims, true)"), {"claims": claims})
    connection.exec_driver_sql(f"set local role {role}")


def insert_into(relation: str, user: uuid.UUID, ordinal: int) -> str:
    """Return the statement that inserts a row for a user, on a day of that number."""
    if relation in TABLES:
        return insert_of(Base.metadata.tables[relation.removeprefix("public.")], str(user), ordinal)
    values = ROWS[relation].replace(":user", f"'{user}'").replace(":day", f"'2026-03-{ordinal:02}'")
    return f"insert into {relation} {values}"


def outcome(engine: sa.Engine, actor: str, statement: str) -> int | str:
    """Try a statement as somebody, undo it, and return the number of rows, or why there are none."""
    with engine.connect() as connection:
        become(connection, actor)
        try:
            rows = connection.execute(sa.text(statement)).rowcount
        except sa.exc.DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state == "42501":
                return "row security" if "row-level security policy" in str(error.orig) else "refused"
            return {"42809": "no table"}.get(str(state), str(state))
        return "done" if rows == -1 else rows


def outcomes(engine: sa.Engine, actor: str, relation: str) -> Outcomes:
    """Try every kind of statement on a relation as somebody."""
    statements = (
        f"select * from {relation}",
        insert_into(relation, ACTORS[actor][1] or A, 3),
        f"update {relation} set {UPDATES.get(relation, 'updated_at = now()')}",
        f"delete from {relation}",
        f"truncate {relation} cascade",
    )
    return [outcome(engine, actor, statement) for statement in statements]


def fill(engine: sa.Engine, relations: tuple[str, ...]) -> None:
    """Give A and B a row in each table."""
    with engine.begin() as connection:
        for ordinal, user in enumerate((A, B), 1):
            connection.execute(
                sa.text("insert into auth.users (id) values (:user) on conflict do nothing"), {"user": user}
            )
            for relation in relations:
                connection.execute(sa.text(insert_into(relation, user, ordinal)))


Layout = tuple[str, sa.Engine, dict[str, Outcomes]]


# In a newer project, the app itself grants what an older one grants by default.
DATABASES = [*((scores, "older") for scores in SCORES), *(("fresh", kind) for kind in KINDS if kind != "older")]


@pytest.fixture(scope="module", params=DATABASES, ids="-".join)
def layout(request: pytest.FixtureRequest, server: Server) -> Iterator[Layout]:
    """A migrated database: where its scores came from, and what each role could do with an adopted table before."""
    scores, kind = request.param
    url = database_with_scores(server, scores, kind=kind)
    engine = engine_of(url)
    try:
        before = {}
        if scores != "fresh":
            fill(engine, (SCORES[scores],))
            before = {actor: outcomes(engine, actor, SCORES[scores]) for actor in ACTORS}
        migrate_to(url, HEAD)
        fill(engine, TABLES if before else (*TABLES, SCORES[scores]))
        yield scores, engine, before
    finally:
        server.drop_database(url)


@pytest.mark.slow
@pytest.mark.parametrize("actor", ACTORS)
def test_our_tables_wait_for_their_policies(layout: Layout, actor: str) -> None:
    _, engine, _ = layout
    for table in TABLES:
        found = outcomes(engine, actor, table)
        if table in NEEDED and found[3] in REFERRED_TO:
            found[3] = ALL[3]
        assert found == OURS[actor], f"{actor} and {table}"


@pytest.mark.parametrize("actor", ACTORS)
def test_the_score_table_is_closed_to_clients_or_as_it_was(layout: Layout, actor: str) -> None:
    scores, engine, before = layout
    if before:
        assert outcomes(engine, actor, SCORES[scores]) == before[actor]
        assert before["A"][0] == 1, "the app's own policy stays"
    else:
        expected = ALL if actor in ("service_role", "owner") else NOTHING
        assert outcomes(engine, actor, SCORES[scores]) == expected


@pytest.mark.parametrize("actor", SHOWN)
def test_the_view_shows_users_their_own_rows_and_lets_nobody_write(layout: Layout, actor: str) -> None:
    _, engine, _ = layout
    assert outcomes(engine, actor, VIEW) == SHOWN[actor]


def test_the_owner_reads_all_of_the_view(layout: Layout) -> None:
    _, engine, _ = layout
    assert outcome(engine, "owner", f"select * from {VIEW}") == 2


@pytest.mark.parametrize("actor", ACTORS)
def test_the_private_schema_is_the_owners_alone(layout: Layout, actor: str) -> None:
    _, engine, _ = layout
    for table, of_the_owner in INTERNALS.items():
        assert outcomes(engine, actor, table) == (of_the_owner if actor == "owner" else NOTHING)
    made = outcome(engine, actor, "create table momentum_internal.mine ()")
    assert made == ("done" if actor == "owner" else "refused")


def test_a_policy_stands_before_the_score_table_should_its_schema_be_opened(layout: Layout) -> None:
    scores, engine, before = layout
    with engine.connect() as connection:
        connection.exec_driver_sql(f"grant usage on schema {SCORES[scores].partition('.')[0]} to authenticated")
        become(connection, "A")
        seen = connection.scalars(sa.text(f"select user_id from {SCORES[scores]}")).all()
        assert seen == [A]
        if not before:
            for privilege in ("insert", "update", "delete", "truncate"):
                may = sa.text("select has_table_privilege(:table, :privilege)")
                assert not connection.scalar(may, {"table": SCORES[scores], "privilege": privilege}), privilege


def by_condition(connection: sa.Connection, other: uuid.UUID) -> list[uuid.UUID]:
    shown = sa.text(f"select user_id from {VIEW} where user_id = :other")
    return list(connection.scalars(shown, {"other": other}))


def by_a_function_that_tells(connection: sa.Connection, other: uuid.UUID) -> list[uuid.UUID]:
    """Query with a cheap function, which the planner would call first, and which reveals all that it is given."""
    connection.exec_driver_sql("""
        create function pg_temp.tell(shown uuid) returns boolean language plpgsql cost 0.0001 as $$
        begin
          perform set_config('momentum.revealed', current_setting('momentum.revealed', true) || ' ' || shown, true);
          return true;
        end $$
    """)
    connection.exec_driver_sql("select set_config('momentum.revealed', '', true)")
    connection.execute(sa.text(f"select from {VIEW} where pg_temp.tell(user_id)"))
    revealed = str(connection.scalar(sa.text("select current_setting('momentum.revealed')")))
    return [user for user in map(uuid.UUID, revealed.split()) if user == other]


def by_joining_the_users(connection: sa.Connection, other: uuid.UUID) -> list[uuid.UUID]:
    shown = sa.text(f"""
        select s.user_id
        from {VIEW} as s right join (values (cast(:other as uuid))) as users (id) on s.user_id = users.id
        where s.user_id is not null
    """)
    return list(connection.scalars(shown, {"other": other}))


@pytest.mark.parametrize("ask", [by_condition, by_a_function_that_tells, by_joining_the_users])
@pytest.mark.parametrize(("actor", "own", "other"), [("A", A, B), ("B", B, A)])
def test_nobody_sees_another_users_rows_through_the_view(
    layout: Layout,
    actor: str,
    own: uuid.UUID,
    other: uuid.UUID,
    ask: Callable[[sa.Connection, uuid.UUID], list[uuid.UUID]],
) -> None:
    _, engine, _ = layout
    with engine.connect() as connection:
        become(connection, actor)
        assert list(connection.scalars(sa.text(f"select user_id from {VIEW}"))) == [own]
        assert ask(connection, other) == []
    with engine.connect() as connection:
        become(connection, "owner")
        assert ask(connection, other) == [other], "for somebody who may see every row, it finds the row"
