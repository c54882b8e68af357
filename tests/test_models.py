"""The models write and read rows of the migrated database, which refuses what the models forbid."""

import asyncio
import datetime
import itertools
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import momentum.connect
from momentum import (
    Base,
    DailyMomentumScore,
    HabitIndex,
    MomentumEvent,
    MomentumPillar,
    MotivationJournal,
    models,
)
from momentum.base import identifying_columns
from momentum.connect.url import as_text
from momentum.errors import ReadOnlyError
from momentum.testing import Server
from tests.catalog import snapshot
from tests.samples import ROWS, add_user, needed_columns, read_values, write_values
from tests.server import engine_of, find_program

NOBODY = uuid.UUID(int=0)
DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)

# The models of tables, and those whose rows belong to a user.
MAPPED = sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__)
MODELS: list[Any] = [mapper.class_ for mapper in MAPPED if mapper.class_.metadata is Base.metadata]
OWNED = [model for model in MODELS if "user_id" in model.__table__.columns]


def required_attributes(model: Any) -> list[str]:
    """Return the attributes without which a row can't be written."""
    mapper = sa.inspect(model)
    return [mapper.get_property_by_column(model.__table__.c[name]).key for name in needed_columns(model.__table__)]


@pytest.fixture(scope="module")
def engine(server: Server) -> Iterator[sa.Engine]:
    with server.database() as url:
        yield engine_of(url)


@pytest.fixture
def connection(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection to a database that these tests share, because none of them commits."""
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def session(connection: sa.Connection) -> Iterator[Session]:
    with Session(connection) as session:
        yield session


@pytest.fixture
def user(connection: sa.Connection) -> uuid.UUID:
    return add_user(connection)


def relation_of(model: Any, attribute: str) -> Any:
    """Return the relationship whose key an attribute is, if it is one's."""
    columns = {*getattr(sa.inspect(model).attrs[attribute], "columns", ())}
    return next((relation for relation in sa.inspect(model).relationships if columns & relation.local_columns), None)


# Each row that another refers to is one of its own.
ORDINALS = itertools.count(2)


def needed(model: Any, user: uuid.UUID = NOBODY, ordinal: int = 1) -> dict[str, Any]:
    """Return the values that a model needs: its user, SQL from the samples, and rows that it must refer to."""
    attributes, samples = sa.inspect(model).attrs, write_values(model.__table__, ordinal=ordinal)
    values: dict[str, Any] = {}
    for name in required_attributes(model):
        column, relation = attributes[name].columns[0], relation_of(model, name)
        if relation is not None:
            other = relation.mapper.class_
            values |= {name: None, relation.key: other(**needed(other, user, next(ORDINALS)))}
        elif name == "user_id":
            values[name] = user
        else:
            values[name] = sa.literal_column(samples[column.name], column.type)
    return values


def make(model: Any, user: uuid.UUID, **values: Any) -> Any:
    """Return an instance with the values that it needs and those that are given; a given key is not a row's."""
    replaced = {relation.key for name in values if (relation := relation_of(model, name)) is not None}
    rest = {name: value for name, value in needed(model, user).items() if name not in replaced}
    return model(**{**rest, **values})


# Values that are harder to write than those of the samples.
FULL: dict[Any, dict[str, Any]] = {
    MomentumPillar: {"description": "rest, 100 %"},
    MomentumEvent: {"event_ts": NOON, "payload": {"steps": 3, "é": [None]}},
    MotivationJournal: {"prompt": "why?", "response": "'\\", "motivation_type": "inner"},
    HabitIndex: {"details": {"streak": 2.5}},
}


@pytest.mark.parametrize("model", MODELS)
def test_a_row_comes_back_as_it_was_written(session: Session, user: uuid.UUID, model: Any) -> None:
    mapper = sa.inspect(model)
    samples = read_values(session.connection(), model.__table__, user)
    values = {
        mapper.get_property_by_column(column).key: samples[column.name]
        for column in model.__table__.columns
        if column.name in samples and not column.foreign_keys
    }
    values |= {**({"deleted_at": NOON} if "deleted_at" in mapper.attrs else {}), **FULL.get(model, {})}
    referred = {relation.key: make(relation.mapper.class_, user) for relation in mapper.relationships}
    written = make(model, user, **values, **referred)
    session.add(written)
    session.flush()
    key = written.id
    session.expunge_all()
    read = session.get_one(model, key)
    assert len(values) >= 2
    for name, value in values.items():
        assert getattr(read, name) == value
    for name, other in referred.items():
        assert getattr(read, name).id == other.id


def filled_with_now(model: Any) -> list[str]:
    """Return the attributes that the server sets to the time of the transaction."""
    return [
        attribute.key
        for attribute in sa.inspect(model).column_attrs
        if "now()" in str(getattr(attribute.columns[0].server_default, "arg", ""))
    ]


@pytest.mark.parametrize("model", MODELS)
def test_what_the_server_fills_in_is_there_after_the_insert(session: Session, user: uuid.UUID, model: Any) -> None:
    row = make(model, user)
    session.add(row)
    session.flush()
    with forbidden_sql(session):
        assert isinstance(row.id, uuid.UUID)
        assert row.created_at.utcoffset() is not None
        assert getattr(row, "deleted_at", None) is None
        assert {getattr(row, name) for name in filled_with_now(model)} == {row.created_at}
    assert {"created_at", "updated_at"} <= set(filled_with_now(model))
    assert "event_ts" in filled_with_now(MomentumEvent)


@contextmanager
def forbidden_sql(session: Session) -> Iterator[None]:
    """Fail if a statement is sent meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    connection = session.connection()
    sa.event.listen(connection, "before_cursor_execute", note)
    yield
    sa.event.remove(connection, "before_cursor_execute", note)
    assert sent == []


@contextmanager
def inserted_columns(session: Session) -> Iterator[list[str]]:
    """Note the columns that an INSERT sends meanwhile."""
    columns: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        columns.extend(re.findall(r"\w+", statement.partition("(")[2].partition(")")[0]))

    connection = session.connection()
    sa.event.listen(connection, "before_cursor_execute", note)
    yield columns
    sa.event.remove(connection, "before_cursor_execute", note)


@pytest.mark.parametrize("model", MODELS)
def test_only_the_columns_that_were_given_are_sent(session: Session, user: uuid.UUID, model: Any) -> None:
    row = make(model, user)
    unset = set(sa.inspect(model).attrs.keys()) - needed(model).keys()
    assert {getattr(row, name) for name in unset} == {None}, "to read an attribute does not give it"
    session.add(row)
    with inserted_columns(session) as sent:
        session.flush()
    server_fills = {column.name for column in model.__table__.columns if column.server_default is not None}
    assert len(server_fills) >= 3
    assert not server_fills & set(sent)


NULLABLE = [
    (model, attribute.key)
    for model in MODELS
    for attribute in sa.inspect(model).column_attrs
    if attribute.columns[0].nullable
]


@pytest.mark.parametrize(("model", "attribute"), NULLABLE)
def test_none_that_was_given_is_null(session: Session, user: uuid.UUID, model: Any, attribute: str) -> None:
    session.add(make(model, user, **{attribute: None}))
    with inserted_columns(session) as sent:
        session.flush()
    column = sa.inspect(model).column_attrs[attribute].columns[0].name
    assert column in sent
    assert session.scalar(sa.select(sa.column(column)).select_from(model)) is None


@pytest.mark.parametrize("model", [*MODELS, DailyMomentumScore])
def test_a_misspelt_argument_is_named(model: Any) -> None:
    with pytest.raises(TypeError, match="'usr_id'"):
        model(**dict.fromkeys(required_attributes(model)), usr_id=uuid.UUID(int=1))
    with pytest.raises(TypeError, match="positional argument"):
        model(uuid.UUID(int=1))


@pytest.mark.parametrize("model", [*MODELS, DailyMomentumScore])
def test_a_missing_argument_is_named(model: Any) -> None:
    with pytest.raises(TypeError, match="missing") as refusal:
        model()
    assert set(re.findall(r"'(\w+)'", str(refusal.value))) == set(required_attributes(model))


ANN = uuid.UUID(int=1)
REPRS: list[tuple[Base, str]] = [
    (
        MomentumEvent(user_id=ANN, event_type="private", event_ts=NOON, payload={"private": 1}),
        f"MomentumEvent(user_id={ANN}, event_ts=2024-02-29 12:00:00+00:00)",
    ),
    (
        MotivationJournal(id=ANN, user_id=ANN, pillar_id=None, entry_date=DAY, prompt="private", response="private"),
        f"MotivationJournal(id={ANN}, user_id={ANN}, pillar_id=None, entry_date=2024-02-29)",
    ),
]


@pytest.mark.parametrize(("row", "shown"), REPRS, ids=lambda value: type(value).__name__)
def test_a_row_is_shown_by_its_keys(row: Base, shown: str) -> None:
    assert repr(row) == str(row) == shown


@pytest.mark.parametrize("mapper", MAPPED, ids=lambda mapper: mapper.class_.__name__)
def test_every_model_is_shown_by_its_keys_and_indexes_and_by_nothing_else(mapper: sa.orm.Mapper[Any]) -> None:
    table = mapper.class_.__table__
    groups = [*table.indexes, *(rule for rule in table.constraints if not isinstance(rule, sa.CheckConstraint))]
    row = mapper.class_(**dict.fromkeys(required_attributes(mapper.class_)))
    shown = []
    for attribute in mapper.column_attrs:
        identifies = any(attribute.columns[0].name in group.columns for group in groups)
        setattr(row, attribute.key, f"<{attribute.key}>" if identifies else f"private {attribute.key}")
        if identifies:
            shown.append((table.columns.keys().index(attribute.columns[0].name), attribute.key))
    assert 1 <= len(shown) < len(mapper.column_attrs)
    assert repr(row) == f"{mapper.class_.__name__}({', '.join(f'{key}=<{key}>' for _, key in sorted(shown))})"


def test_showing_a_row_sends_no_statement(session: Session, user: uuid.UUID) -> None:
    row = make(MomentumEvent, user)
    session.add(row)
    session.flush()
    session.expire(row, ["event_ts"])
    with forbidden_sql(session):
        assert repr(row) == f"MomentumEvent(id={row.id}, user_id={user})"
    session.expunge(row)
    assert repr(row) == f"MomentumEvent(id={row.id}, user_id={user})"


def test_no_text_that_a_user_wrote_is_shown() -> None:
    tables = [mapper.local_table for mapper in Base.registry.mappers if isinstance(mapper.local_table, sa.Table)]
    assert len(tables) >= 5
    texts = {
        str(column)
        for table in tables
        for column in identifying_columns(table)
        if column.type.python_type not in {uuid.UUID, datetime.date, datetime.datetime}
    }
    assert texts == {"momentum_pillars.name"}, (
        "a text in a key or an index is shown in every log: if it is not personal, add it here"
    )


def test_entry_date_is_the_column_date() -> None:
    assert MotivationJournal.entry_date.expression.name == "date"
    assert "date" in MotivationJournal.__table__.columns


JSON = [
    (model, column.name)
    for model in MODELS
    for column in model.__table__.columns
    if column.nullable and isinstance(column.type, sa.JSON)
]


@pytest.mark.parametrize(("model", "name"), JSON)
def test_none_in_a_json_column_is_null_of_sql(session: Session, user: uuid.UUID, model: Any, name: str) -> None:
    session.add(make(model, user, **{name: None}))
    session.flush()
    assert session.scalar(sa.text(f"select {name} is null from {model.__tablename__}")) is True


@pytest.mark.parametrize("model", MODELS)
def test_updated_at_is_kept_by_the_database_for_every_writer(url: sa.URL, model: Any) -> None:
    with Session(engine_of(url)) as session:
        row = make(model, add_user(session.connection()))
        session.add(row)
        session.commit()
        made, key = row.created_at, row.id
        session.execute(sa.text(f"update {model.__tablename__} set updated_at = '2000-01-01'"))
        session.commit()
        by_sql = session.get_one(model, key).updated_at
        assert made < by_sql
        assert row.created_at == made
        row.created_at = NOON
        session.flush()
        with forbidden_sql(session):
            assert row.updated_at > by_sql, "after a flush the instance still has the old updated_at"
        session.commit()
        assert row.created_at == NOON


# Ways to write a row so that its updated_at would be a lie.
FORGED = (
    "update {table} set updated_at = '2000-01-01' where id = '{id}'",
    "update {table} set updated_at = '2999-01-01', created_at = now() where id = '{id}'",
    "update {table} set created_at = now() where id = '{id}'",
    "insert into {table} select * from {table} where id = '{id}' on conflict (id) do update set updated_at = 'epoch'",
    "select public.touch()",
    "insert into {table} ({columns}, updated_at) values ({values}, '2000-01-01')",
    "insert into {table} ({columns}, created_at, updated_at) values ({values}, '2000-01-01', '2000-01-01')",
    "insert into {table} ({columns}, updated_at) values ({values}, 'infinity')",
    "insert into {table} ({columns}, updated_at) values ({values}, null)",
    "insert into {table} ({columns}, updated_at) values ({values}, default)",
    "insert into {table} ({columns}, id, updated_at) values ({values}, '{id}', '2000-01-01') "
    "on conflict (id) do update set updated_at = excluded.updated_at, created_at = excluded.created_at",
    "insert into {table} select r.* from jsonb_populate_record(null::{table}, '{record}') as r",
    "select public.plant()",
)


@pytest.mark.parametrize("role", ["authenticated", "service_role"])
@pytest.mark.parametrize("model", MODELS)
def test_a_client_cannot_keep_updated_at(server: Server, model: Any, role: str) -> None:
    """It logs in as the API does, may write every row, and knows of the setting that the migrations use."""
    table = f"public.{model.__tablename__}"
    with server.database() as url:
        with Session(engine_of(url)) as session:
            user = add_user(session.connection())
            row = make(model, user)
            session.add(row)
            session.flush()
            key = row.id
            # Another row, of another day or by another name.
            samples = write_values(model.__table__, f"'{user}'", 2)
            new = {name: samples[name] for name in needed_columns(model.__table__)}
            columns, values = ", ".join(new), ", ".join(new.values())
            record = session.scalar(
                sa.text(f"""
                    with moved as (insert into {table} ({columns}) values ({values}) returning *)
                    select to_jsonb(moved) || '{{"updated_at": "2000-01-01", "created_at": "2000-01-01"}}' from moved
                """)
            )
            session.execute(sa.text(f"delete from {table} where id <> '{key}'"))
            session.execute(sa.text(f"create policy everything on {table} using (true) with check (true)"))
            for name, statement in {
                "touch": f"update {table} set updated_at = '2000-01-01' where id = '{key}'",
                "plant": f"insert into {table} ({columns}, updated_at) values ({values}, '2000-01-01')",
            }.items():
                body = f"language sql security definer set search_path = '' as $${statement}$$"
                session.execute(sa.text(f"create function public.{name}() returns void {body}"))
            session.commit()
        with engine_of(server.as_admin(url)).connect() as connection:
            for setting in ("yes", "on", "true", "no", ""):
                for statement in FORGED:
                    connection.exec_driver_sql("set session authorization authenticator")
                    connection.exec_driver_sql(f"set role {role}")
                    connection.exec_driver_sql(f"set momentum.keep_updated_at = '{setting}'")
                    connection.exec_driver_sql(
                        statement.format(table=table, id=key, columns=columns, values=values, record=json.dumps(record))
                    )
                    connection.exec_driver_sql("reset role")
                    connection.exec_driver_sql("reset session authorization")
                    written = f"select updated_at = now() from {table} where xmin = pg_current_xact_id()::xid"
                    told = list(connection.scalars(sa.text(written)))
                    assert told == [True], f"{statement} as {role} with {setting!r}"
                    connection.rollback()


@pytest.mark.parametrize("model", MODELS)
def test_a_dump_of_the_data_is_restored_with_its_times(server: Server, model: Any) -> None:
    """By the owner, into tables that are there already, so that their triggers fire."""
    table = f"public.{model.__tablename__}"
    with server.database() as url:
        with Session(engine_of(url)) as session:
            session.add(make(model, add_user(session.connection()), created_at=NOON, updated_at=NOON))
            session.commit()
            before = session.scalar(sa.text(f"select to_jsonb(r) from {table} as r"))
        dump = [find_program("pg_dump"), "--data-only", f"--table={table}", as_text(url)]
        data = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
        # A setting of a newer pg_dump that PostgreSQL 15 and 16 don't have.
        data = data.replace("SET transaction_timeout = 0;", "")
        with Session(engine_of(url)) as session:
            session.execute(sa.text(f"delete from {table} where true"))
            session.commit()
        restore = [find_program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", as_text(url)]
        subprocess.run(restore, input=data, capture_output=True, text=True, check=True)
        with Session(engine_of(url)) as session:
            assert session.scalar(sa.text(f"select to_jsonb(r) from {table} as r")) == before
            assert before["updated_at"].startswith("2024-02-29T12:00")


def test_the_owner_can_keep_updated_at(url: sa.URL) -> None:
    """As the migrations do where they merge rows."""
    with Session(engine_of(url)) as session:
        session.add(MomentumPillar(name="sleep"))
        session.flush()
        session.execute(sa.text("set local momentum.keep_updated_at = 'yes'"))
        kept = "update public.momentum_pillars set updated_at = '2000-01-01' where true returning updated_at"
        assert session.scalar(sa.text(kept)) == datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (MomentumPillar, {"name": " \t\n"}, "ck_momentum_pillars_name_not_blank"),
    (MomentumPillar, {"name": ""}, "ck_momentum_pillars_name_not_blank"),
    (MomentumEvent, {"event_type": " "}, "ck_momentum_events_event_type_not_blank"),
    (MomentumEvent, {"payload": [1]}, "ck_momentum_events_payload_is_object"),
    (MomentumEvent, {"payload": sa.JSON.NULL}, "ck_momentum_events_payload_is_object"),
    (MomentumEvent, {"payload": "text"}, "ck_momentum_events_payload_is_object"),
    (HabitIndex, {"details": [1]}, "ck_habit_index_details_is_object"),
    (HabitIndex, {"details": sa.JSON.NULL}, "ck_habit_index_details_is_object"),
    (HabitIndex, {"habit_score": Decimal("-0.01")}, "ck_habit_index_habit_score_in_range"),
    (HabitIndex, {"habit_score": Decimal("100.01")}, "ck_habit_index_habit_score_in_range"),
    (HabitIndex, {"habit_score": Decimal("NaN")}, "ck_habit_index_habit_score_in_range"),
    *(
        (
            model,
            {sa.inspect(model).get_property_by_column(key.parent).key: uuid.UUID(int=0)},
            str(key.constraint.name),
        )
        for model in MODELS
        for key in sorted(model.__table__.foreign_keys, key=lambda key: str(key.constraint.name))
    ),
]


@pytest.mark.parametrize(("model", "values", "constraint"), REFUSED)
def test_a_row_that_breaks_a_rule_is_refused_by_name(
    session: Session, user: uuid.UUID, model: Any, values: dict[str, Any], constraint: str
) -> None:
    session.add(make(model, user, **values))
    with pytest.raises(IntegrityError) as refusal:
        session.flush()
    assert isinstance(refusal.value.orig, psycopg.Error)
    assert refusal.value.orig.diag.constraint_name == constraint


@pytest.mark.parametrize("score", ["0.00", "100.00"])
def test_the_ends_of_the_range_are_scores(session: Session, user: uuid.UUID, score: str) -> None:
    session.add(make(HabitIndex, user, habit_score=Decimal(score)))
    session.flush()


NOT_NULL = [
    (model, attribute.key)
    for model in MODELS
    for attribute in sa.inspect(model).column_attrs
    if not attribute.columns[0].nullable
]


@pytest.mark.parametrize(("model", "attribute"), NOT_NULL)
def test_null_is_refused_where_it_has_no_meaning(session: Session, user: uuid.UUID, model: Any, attribute: str) -> None:
    session.add(make(model, user, **{attribute: sa.null()}))
    with pytest.raises(IntegrityError) as refusal:
        session.flush()
    assert isinstance(refusal.value.orig, psycopg.errors.NotNullViolation)
    assert refusal.value.orig.diag.column_name == sa.inspect(model).column_attrs[attribute].columns[0].name


@pytest.mark.parametrize("attribute", ["event_ts", "created_at", "updated_at"])
def test_none_that_was_given_is_no_default(session: Session, user: uuid.UUID, attribute: str) -> None:
    session.add(make(MomentumEvent, user, **{attribute: None}))
    with pytest.raises(IntegrityError, match=f'null value in column "{attribute}"'):
        session.flush()


UNIQUE: list[tuple[Any, sa.UniqueConstraint]] = [
    (model, rule) for model in MODELS for rule in model.__table__.constraints if isinstance(rule, sa.UniqueConstraint)
]


FIRST_ROWS = [
    (model, values)
    for model in dict(UNIQUE)
    for values in ({}, {"deleted_at": NOON})
    if values.keys() <= {*sa.inspect(model).attrs.keys()}
]


@pytest.mark.parametrize(("model", "values"), FIRST_ROWS)
def test_a_second_row_is_refused_even_where_the_first_is_softly_deleted(
    session: Session, user: uuid.UUID, model: Any, values: dict[str, Any]
) -> None:
    session.add(make(model, user, **values))
    session.flush()
    session.add(make(model, user))
    with pytest.raises(IntegrityError) as refusal:
        session.flush()
    assert isinstance(refusal.value.orig, psycopg.Error)
    assert refusal.value.orig.diag.constraint_name in {rule.name for of, rule in UNIQUE if of is model}


DAYS = [
    (model, column)
    for model, rule in UNIQUE
    for column in rule.columns
    if "user_id" in rule.columns and column.type.python_type is datetime.date
]


@pytest.mark.parametrize(("model", "day"), DAYS)
def test_other_users_and_other_days_have_rows_of_their_own(
    session: Session, user: uuid.UUID, model: Any, day: sa.Column[Any]
) -> None:
    attribute = sa.inspect(model).get_property_by_column(day).key
    session.add_all(
        [
            make(model, user),
            make(model, add_user(session.connection())),
            make(model, user, **{attribute: DAY + datetime.timedelta(days=1)}),
        ]
    )
    session.flush()
    assert session.scalar(sa.select(sa.func.count()).select_from(model)) == 3


def test_an_upsert_revives_a_softly_deleted_day(session: Session, user: uuid.UUID) -> None:
    session.add(make(MotivationJournal, user, entry_date=DAY, response="old", deleted_at=NOON))
    session.flush()
    upsert = insert(MotivationJournal).values(user_id=user, entry_date=DAY, response="new")
    table = MotivationJournal.__table__.columns
    upsert = upsert.on_conflict_do_update(
        index_elements=[table["user_id"], table["date"]],
        set_={"response": upsert.excluded.response, "deleted_at": None},
    )
    session.execute(upsert)
    (revived,) = session.scalars(sa.select(MotivationJournal).execution_options(populate_existing=True))
    assert (revived.response, revived.deleted_at) == ("new", None)


def test_rows_go_with_their_user_and_nobody_elses(session: Session, user: uuid.UUID) -> None:
    staying = add_user(session.connection())
    session.add_all(make(model, owner) for model in OWNED for owner in (user, staying))
    session.flush()
    session.execute(sa.text("delete from auth.users where id = :user"), {"user": user})
    for model in OWNED:
        assert session.scalars(sa.select(model.user_id)).all() == [staying]


RESTRICTED = [
    (model, relation.key)
    for model in MODELS
    for relation in sa.inspect(model).relationships
    if any(key.ondelete == "RESTRICT" for column in relation.local_columns for key in column.foreign_keys)
]


@pytest.mark.parametrize(("model", "name"), RESTRICTED)
def test_a_row_that_others_refer_to_cannot_be_deleted(session: Session, user: uuid.UUID, model: Any, name: str) -> None:
    relation = sa.inspect(model).relationships[name]
    session.add(make(model, user, **{name: make(relation.mapper.class_, user)}))
    session.flush()
    with pytest.raises(IntegrityError) as refusal:
        session.execute(sa.delete(relation.mapper.class_))
    assert isinstance(refusal.value.orig, psycopg.Error)
    [column] = relation.local_columns
    assert refusal.value.orig.diag.constraint_name in {key.constraint.name for key in column.foreign_keys}


def add_score(connection: sa.Connection, user: uuid.UUID, at: str, score: Any, breakdown: str | None = None) -> None:
    connection.execute(
        sa.text("""
            insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
            values (:user, :at, :score, :breakdown)
        """),
        {"user": user, "at": at, "score": score, "breakdown": breakdown},
    )


def test_a_score_is_read_through_the_view(session: Session, user: uuid.UUID) -> None:
    session.connection().execute(sa.text("set local time zone 'Pacific/Kiritimati'"))
    add_score(session.connection(), user, "2024-02-29 23:59:59.999999+00", 81.5, '{"sleep": 81.5}')
    score = session.get_one(DailyMomentumScore, (user, DAY))
    assert (score.score, score.score_date, score.pillar_breakdown) == (Decimal("81.50"), DAY, {"sleep": 81.5})


def insert_score(session: Session, user: uuid.UUID, _: DailyMomentumScore) -> None:
    session.add(DailyMomentumScore(user_id=user, score_date=DAY + datetime.timedelta(days=1), score=Decimal(1)))


def update_score(_session: Session, _user: uuid.UUID, score: DailyMomentumScore) -> None:
    score.score = Decimal(1)


def delete_score(session: Session, _user: uuid.UUID, score: DailyMomentumScore) -> None:
    session.delete(score)


@pytest.mark.parametrize("write", [insert_score, update_score, delete_score])
def test_writing_through_the_view_is_refused_before_any_sql_is_sent(
    session: Session, user: uuid.UUID, write: Any
) -> None:
    add_score(session.connection(), user, "2024-02-29 00:00+00", 7)
    score = session.get_one(DailyMomentumScore, (user, DAY))
    write(session, user, score)
    with forbidden_sql(session), pytest.raises(ReadOnlyError, match="daily_momentum_scores and is read-only; write to"):
        session.flush()


def test_the_models_say_of_the_view_what_the_database_says(url: sa.URL) -> None:
    view = DailyMomentumScore.__table__
    with engine_of(url).connect() as connection:
        inspector = sa.inspect(connection)
        assert inspector.get_table_comment(view.name) == {"text": view.comment}
        said = {column["name"]: column["comment"] for column in inspector.get_columns(view.name)}
    assert said == {column.name: column.comment for column in view.columns}


def test_the_models_metadata_holds_neither_supabases_tables_nor_the_view() -> None:
    named = {table.fullname for table in Base.metadata.tables.values()}
    assert {model.__tablename__ for model in MODELS} == named
    assert len(named) >= 4
    assert not named & {"auth.users", "daily_momentum_scores"}


def test_create_all_makes_neither_supabases_tables_nor_the_view(supabase_url: sa.URL) -> None:
    def relations() -> set[str]:
        facts = (fact.split(" | ") for fact in snapshot(supabase_url) if fact.startswith("relation"))
        return {name for _, name, kind, *_ in facts if kind in "rvm"}

    before = relations()
    with engine_of(supabase_url).begin() as connection:
        Base.metadata.create_all(connection)
    assert relations() - before == {f"public.{name}" for name in Base.metadata.tables}


def test_an_async_session_reads_and_writes_too(url: sa.URL) -> None:
    async def round_trip() -> tuple[Any, ...]:
        engine = create_async_engine(url)
        try:
            async with AsyncSession(engine, expire_on_commit=False) as session:
                user = await session.run_sync(add_user)
                event = MomentumEvent(user_id=user, event_type="walk", pillar=MomentumPillar(name="movement"))
                session.add(event)
                await session.commit()
                event.payload = {"steps": 1}
                await session.commit()
                changed = event.updated_at > event.created_at
            async with AsyncSession(engine) as session:
                (read,) = await session.scalars(sa.select(MomentumEvent))
                return changed, read.event_type, read.payload, read.id == event.id
        finally:
            await engine.dispose()

    assert asyncio.run(round_trip()) == (True, "walk", {"steps": 1}, True)


def modules_after(statements: str) -> set[str]:
    code = f"import sys; {statements}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_but_the_package() -> None:
    loaded = modules_after("import momentum; dir(momentum)")
    assert {name for name in loaded if name.startswith("momentum")} == {"momentum"}
    assert not loaded & {"sqlalchemy", "alembic", "psycopg", "typer", "rich"}


def test_momentum_connect_offers_as_text_and_loads_sqlalchemy_no_sooner() -> None:
    assert "sqlalchemy" not in modules_after("import momentum.connect, momentum.connect.environment")
    assert momentum.connect.as_text(sa.make_url("postgresql+psycopg://me:pw@db/app")) == "postgresql://me:pw@db/app"
    with pytest.raises(AttributeError, match=r"'momentum\.connect' has no attribute 'as_txt'"):
        momentum.connect.as_txt  # noqa: B018


@pytest.mark.slow
def test_importing_the_models_loads_sqlalchemy_and_our_modules_only() -> None:
    """No part of Alembic, the command, the driver or the tests' servers; `make import-cost` measures the cost."""
    sqlalchemy = modules_after("import sqlalchemy.orm, sqlalchemy.dialects.postgresql")
    models = modules_after("from momentum import MomentumEvent, DailyMomentumScore, Base, live, soft_delete")
    parts = {"__init__", "base", "deletion", "errors", "mixins", "models", "types", "wording"}
    assert {name.partition(".")[2].partition(".")[0] or "__init__" for name in models - sqlalchemy} == parts
    assert {name.partition(".")[0] for name in models - sqlalchemy} == {"momentum"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'momentum' has no attribute 'Momentum'"):
        momentum.Momentum  # noqa: B018
    assert set(momentum.__all__) == set(dir(momentum))


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_column_has_a_sample(table: sa.Table) -> None:
    """By these rows the journeys up and down tell that nothing is lost."""
    columns = {column.name for column in table.columns} - {"id", "created_at", "updated_at", "deleted_at"}
    missing = sorted(columns - ROWS.get(table.name, {}).keys())
    assert not missing, f"give {table.name} values for {', '.join(missing)} in ROWS of tests/samples.py"


def test_every_model_is_imported() -> None:
    folder = Path(models.__file__).parent
    imported = {found.__module__.rpartition(".")[2] for found in vars(models).values() if isinstance(found, type)}
    forgotten = sorted({path.stem for path in folder.glob("[!_]*.py")} - imported)
    assert not forgotten, (
        f"import {', '.join(forgotten)} in momentum/models/__init__.py: autogenerate sees no other model"
    )


@pytest.mark.parametrize("mapper", MAPPED, ids=lambda mapper: mapper.class_.__name__)
def test_every_model_is_exported(mapper: sa.orm.Mapper[Any]) -> None:
    name = mapper.class_.__name__
    exports = Path(momentum.__file__).read_text(encoding="utf-8")
    assert name in momentum.__all__, f"add {name} to __all__ in momentum/__init__.py"
    assert f" import {name} as {name}\n" in exports, f"import {name} for type checkers in momentum/__init__.py"
    assert getattr(momentum, name) is mapper.class_
