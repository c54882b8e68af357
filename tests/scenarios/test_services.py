"""Other services use the package: they migrate next to it, read live rows, and delete softly."""

import ast
import asyncio
import logging
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.environment import IncludeObjectFn
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, aliased

import momentum
from momentum import (
    Base,
    DailyMomentumScore,
    MomentumEvent,
    MomentumPillar,
    hide_momentum_tables,
    live,
    soft_delete,
)
from momentum.base import external_metadata
from momentum.connect.url import as_text
from momentum.errors import PreflightError
from momentum.testing import Server
from momentum.verify import compare as verify
from tests.migrating import (
    HISTORY,
    ONE_OF_EACH,
    current,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    rows_of,
    run,
)
from tests.samples import add_user
from tests.server import engine_of

PROJECT = Path(__file__).parents[1] / "service_project"


class Service:
    """A copy of the service's project, on a database."""

    def __init__(self, folder: Path, url: sa.URL) -> None:
        self.folder = folder
        self.url = url
        shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def alembic(self, *arguments: str, fails: bool = False) -> str:
        """Run the service's Alembic, assert whether it fails, and return its output."""
        done = self.run(*arguments)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr if fails else done.stdout

    def logged(self, *arguments: str) -> str:
        """Run the service's Alembic, and return what it logs."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the service's Alembic."""
        text = as_text(self.url)
        return subprocess.run(
            [Path(sys.executable).parent / "alembic", *arguments],
            cwd=self.folder,
            env={**os.environ, "DATABASE_URL": text},
            capture_output=True,
            text=True,
            check=False,
        )

    def version(self) -> str | None:
        """Return the revision in the service's own version table."""
        if execute(self.url, "select to_regclass('public.alembic_version')") is None:
            return None
        return next(iter(fetch(self.url, "select version_num from public.alembic_version")), None)


@pytest.fixture
def service(supabase_url: sa.URL, tmp_path: Path) -> Service:
    return Service(tmp_path / "service", supabase_url)


def steps_of(revision: Path) -> list[list[str]]:
    """Return a revision's upgrade and downgrade, whatever their layout, without plain SQL."""
    body = ast.parse(revision.read_text(encoding="utf-8")).body
    steps = [step.body for step in body if isinstance(step, ast.FunctionDef)]
    return [
        [ast.dump(statement) for statement in step if not ast.unparse(statement).startswith("op.execute(")]
        for step in steps
    ]


@pytest.mark.slow
def test_a_service_migrates_its_own_tables_beside_ours(service: Service) -> None:
    alembic.command.upgrade(momentum.alembic_config(as_text(service.url)), "head")
    # Generated again, the service's revision is the one that it has, except for row level security, which autogenerate
    # doesn't know. It leaves our tables alone.
    [revision] = (service.folder / "reminders" / "migrations" / "versions").glob("*.py")
    had = steps_of(revision)
    revision.unlink()
    service.alembic("revision", "--autogenerate", "-m", "create reminders", "--rev-id", revision.name.partition("_")[0])
    assert steps_of(revision) == had
    assert len(had) == 2

    assert re.search(r"^INFO .* Running upgrade  -> \w+, ", service.logged("upgrade", "head"), re.MULTILINE)
    assert "No new upgrade operations detected" in service.alembic("check")
    assert service.version()
    assert current(service.url) == HISTORY[-1]
    with engine_of(service.url).begin() as connection:
        verify.check(connection)
        user = add_user(connection)
    run(
        service.url,
        f"""
        with event as (
          insert into public.momentum_events (user_id, event_type) values ('{user}', 'walk') returning id
        )
        insert into public.reminders (event_id, remind_at) select id, now() from event
        """,
    )

    # Our migrations go down and up under the service's key.
    migrate_to(service.url, "base")
    assert "('remove_fk', ForeignKeyConstraint" in service.alembic("check", fails=True), "docs/services.md warns of it"
    assert service.version()
    parked = rows_of(service.url)
    key = r"table constraint .* on public\.reminders depends on momentum_internal\.momentum_events; drop"
    with pytest.raises(PreflightError, match=key):
        alembic.command.downgrade(momentum.alembic_config(service.url, purge=True), "base")
    assert rows_of(service.url) == parked
    migrate_to(service.url, HISTORY[-1])
    sql = "select e.event_type from public.reminders as r inner join public.momentum_events as e on r.event_id = e.id"
    assert fetch(service.url, sql) == ["walk"]

    # The service's migrations go down and up above ours.
    service.alembic("downgrade", "base")
    assert service.version() is None
    assert current(service.url) == HISTORY[-1]
    assert fetch(service.url, "select event_type from public.momentum_events") == ["walk"]
    service.alembic("upgrade", "head")
    service.alembic("downgrade", "base")
    migrate_to(service.url, "base")


def differences(url: sa.URL, metadata: Any, include_object: IncludeObjectFn | None, *, schemas: bool) -> set[str]:
    """Return the changes that autogenerate would make to tables and their indexes."""
    with engine_of(url).connect() as connection:
        options = {"include_object": include_object, "include_schemas": schemas}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    flat = [entry for entries in found for entry in (entries if isinstance(entries, list) else [entries])]
    return {f"{entry[0]} {getattr(entry[-1], 'name', entry[-1])}" for entry in flat}


# A service with a table of its own that the database lacks.
NOTES = sa.MetaData()
sa.Table("notes", NOTES, sa.Column("id", sa.UUID, primary_key=True))


def test_other_services_are_told_of_every_logger_of_the_migrations(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    url = database_with_scores(server, "legacy.seed")
    with caplog.at_level(logging.INFO):
        migrate_to(url, HISTORY[-1])
        migrate_to(url, "base")
    server.drop_database(url)
    section = (PROJECT.parents[1] / "docs" / "services.md").read_text(encoding="utf-8").split("## Migrate\n")[1]
    documented = set(
        re.findall(r"`((?:alembic|momentum)\.\w+(?:\.\w+)?)`,? (?:at|from) INFO", section.split("\n## ")[0])
    )
    assert {record.name for record in caplog.records} == documented


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def migrated_url(request: pytest.FixtureRequest, server: Server) -> Iterator[sa.URL]:
    """A migrated database, with its score table in each possible place."""
    url = database_with_scores(server, request.param)
    migrate_to(url, HISTORY[-1])
    yield url
    server.drop_database(url)


@pytest.mark.slow
@pytest.mark.parametrize("schemas", [False, True], ids=["one schema", "all schemas"])
def test_our_tables_are_hidden_from_another_services_autogenerate(migrated_url: sa.URL, schemas: bool) -> None:
    dropped = differences(migrated_url, NOTES, None, schemas=schemas)
    assert {f"remove_table {table}" for table in Base.metadata.tables} < dropped, (
        "without the filter, our tables are seen"
    )
    # The app's table of pushes is neither ours nor the service's.
    expected = {"add_table notes"} | (dropped & {"remove_table pushes"})
    everything = [NOTES, Base.metadata, external_metadata]
    for metadata in (NOTES, everything):
        assert differences(migrated_url, metadata, hide_momentum_tables(), schemas=schemas) == expected


def test_a_services_own_include_object_is_asked_about_everything_else(url: sa.URL) -> None:
    run(url, "create table public.kept (); create table public.unknown ()")
    asked = []

    def include_object(obj: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
        del obj, compare_to
        asked.append((name, kind, reflected))
        return name != "unknown"

    hidden = hide_momentum_tables(include_object)
    assert differences(url, NOTES, hidden, schemas=True) == {"add_table notes", "remove_table kept"}
    assert sorted(asked) == [("kept", "table", True), ("notes", "table", False), ("unknown", "table", True)]


@pytest.mark.parametrize(
    ("scores", "key"),
    [
        ("public.production", "uq_daily_engagement_scores_user_id_score_date"),
        ("public.seed", "uq_daily_engagement_scores_user_id_utc_day"),
    ],
)
def test_a_score_table_that_the_service_has_a_model_of_is_compared_without_our_key(
    server: Server, scores: str, key: str
) -> None:
    url = database_with_scores(server, scores)
    run(url, "drop index if exists public.idx_daily_scores_user_date")
    with engine_of(url).connect() as connection:
        columns = sa.inspect(connection).get_columns("daily_engagement_scores", schema="public")
    theirs = sa.MetaData()
    sa.Table(
        "daily_engagement_scores",
        theirs,
        *(sa.Column(column["name"], column["type"], nullable=column["nullable"]) for column in columns),
        sa.Column("mood", sa.Text),
    )
    migrate_to(url, HISTORY[-1])
    seen = differences(url, theirs, None, schemas=False)
    shown = differences(url, theirs, hide_momentum_tables(), schemas=False)
    server.drop_database(url)
    assert "add_column mood" in shown
    tables = Base.metadata.sorted_tables
    ours = {f"remove_table {table.name}" for table in tables}
    ours |= {f"remove_index {index.name}" for table in tables for index in table.indexes}
    assert seen - shown == {*ours, f"remove_index {key}"}


def events_of(user: uuid.UUID) -> list[MomentumEvent]:
    return [MomentumEvent(user_id=user, event_type=kind) for kind in ("walk", "run", "swim")]


def types_of(events: sa.ScalarResult[MomentumEvent]) -> list[str]:
    return sorted(event.event_type for event in events)


LIVE = sa.select(MomentumEvent).where(live(MomentumEvent))
DELETE_RUN = soft_delete(MomentumEvent, MomentumEvent.event_type == "run")


def test_a_session_deletes_softly_and_reads_live_rows(connection: sa.Connection) -> None:
    user = add_user(connection)
    with Session(connection, join_transaction_mode="create_savepoint") as session:
        walk, run_, swim = events = events_of(user)
        session.add_all(events)
        session.commit()
        assert types_of(session.scalars(LIVE)) == ["run", "swim", "walk"]
        session.execute(DELETE_RUN)
        assert types_of(session.scalars(LIVE)) == ["swim", "walk"]
        assert types_of(session.scalars(sa.select(MomentumEvent))) == ["run", "swim", "walk"], "no hidden filter"
        assert run_.deleted_at == session.scalar(sa.select(sa.func.now())), "by the server's clock, and seen at once"
        assert (walk.deleted_at, swim.deleted_at) == (None, None)


def test_an_async_session_does_too(url: sa.URL) -> None:
    async def use() -> tuple[list[str], list[str], bool]:
        engine = create_async_engine(url)
        try:
            async with AsyncSession(engine, expire_on_commit=False) as session:
                user = await session.run_sync(add_user)
                session.add_all(events := events_of(user))
                await session.commit()
                await session.execute(DELETE_RUN)
                await session.commit()
                left, found = [types_of(await session.scalars(query)) for query in (LIVE, sa.select(MomentumEvent))]
                return left, found, events[1].deleted_at is not None
        finally:
            await engine.dispose()

    assert asyncio.run(use()) == (["swim", "walk"], ["run", "swim", "walk"], True)


def test_what_is_deleted_already_keeps_its_time_and_is_not_counted(url: sa.URL) -> None:
    engine = engine_of(url)
    with engine.begin() as connection:
        user = add_user(connection)
        connection.execute(
            sa.insert(MomentumEvent), [{"user_id": user, "event_type": kind} for kind in ("run", "walk")]
        )
    counts, times = [], []
    for _ in range(2):
        with engine.begin() as connection:
            counts.append(connection.execute(DELETE_RUN.where(MomentumEvent.user_id == user)).rowcount)
            times.append(connection.scalars(sa.select(MomentumEvent.deleted_at).order_by("deleted_at")).all())
    assert counts == [1, 0]
    assert times[0] == times[1]
    assert times[0][1] is None


def test_live_goes_into_a_join_and_takes_an_alias(connection: sa.Connection) -> None:
    user = add_user(connection)
    pillar = aliased(MomentumPillar)
    with Session(connection) as session:
        for name in ("sleep", "movement"):
            session.add(MomentumEvent(user_id=user, event_type=name, pillar=MomentumPillar(name=name)))
        session.flush()
        session.execute(soft_delete(MomentumPillar, MomentumPillar.name == "sleep"))
        joined = (
            sa.select(MomentumEvent.event_type, pillar.name)
            .outerjoin(pillar, sa.and_(MomentumEvent.pillar_id == pillar.id, live(pillar)))
            .where(live(MomentumEvent))
            .order_by(MomentumEvent.event_type)
        )
        assert [tuple(row) for row in session.execute(joined)] == [("movement", "movement"), ("sleep", None)]


def test_the_view_has_no_soft_deletion() -> None:
    with pytest.raises(AttributeError, match="deleted_at"):
        live(DailyMomentumScore)  # type: ignore[arg-type]


def test_a_soft_deletion_of_everything_must_be_said() -> None:
    with pytest.raises(TypeError, match="criterion"):
        soft_delete(MomentumEvent)  # type: ignore[call-arg]
