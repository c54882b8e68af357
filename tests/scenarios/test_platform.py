"""Everything works on each kind of Supabase project, as the role that the platform gives: it is no superuser."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Settings, run_backfill
from momentum.connect.url import as_text
from momentum.testing import Server, add_user, install_pgtap
from momentum.testing.servers import KINDS, Kind
from tests.catalog import differences, snapshot
from tests.migrating import HISTORY, database_with_scores, migrate_to, rows_of, visible
from tests.pgtap.scripts import read_scripts, run_script
from tests.samples import write_rows
from tests.server import engine_of

DAYS = DayRange(datetime.date(2024, 3, 1), datetime.date(2024, 3, 10))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of project in turn."""
    kind: Kind = request.param
    return kind


@pytest.fixture(params=["fresh", "legacy.seed", "public.production"])
def project(server: Server, kind: Kind, request: pytest.FixtureRequest) -> Iterator[sa.URL]:
    """A project with two users and their rows, with the app's own versions of our tables where it has production's."""
    url = database_with_scores(server, request.param, predecessors="production" in request.param, kind=kind)
    with engine_of(url).begin() as connection:
        for ordinal in (1, 2):
            created_at = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
            write_rows(connection, add_user(connection, created_at=created_at), ordinal)
    yield url
    server.drop_database(url)


def backfill(url: sa.URL) -> int:
    """Fill the days and return the number of rows inserted."""
    return run_backfill(engine_of(url), Settings(DAYS)).inserted


@pytest.mark.slow
def test_a_project_is_migrated_and_filled_and_comes_back(project: sa.URL) -> None:
    facts, rows = visible(snapshot(project)), rows_of(project)
    migrate_to(project, HISTORY[-1], existing="adopt", access="close")
    assert differences(project) == []
    assert backfill(project) == 2 * len(DAYS)
    migrate_to(project, "base")
    assert visible(snapshot(project)) == facts
    assert {name: set(rows_of(project)[name]) >= set(found) for name, found in rows.items()} == dict.fromkeys(
        rows, True
    )
    migrate_to(project, HISTORY[-1], existing="adopt", access="close")
    assert differences(project) == []
    assert backfill(project) == 0
    migrate_to(project, "base", purge=True)
    assert visible(snapshot(project)) == facts
    assert not snapshot(project, of="momentum_internal")


def test_the_pgtap_files_pass(server: Server, kind: Kind) -> None:
    with server.database(kind=kind) as url:
        with engine_of(url).begin() as own:
            install_pgtap(own, Path(__file__).parents[2])
        with psycopg.connect(as_text(url)) as connection:
            for scripts in read_scripts().values():
                for script in scripts:
                    assert run_script(connection, script) == []
                    connection.rollback()
