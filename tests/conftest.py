"""Fixtures: a database for each test, copied from a template that the migrations built."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from momentum.connect.environment import URL_VARIABLES
from momentum.testing import Server
from tests.backfilling import BOTH, Scores, scores_in
from tests.server import describe_for_worker, engine_of, shared_server
from tools.readme import find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A project of its own, with tests of its own: tests/scenarios/test_services.py runs it.
collect_ignore = ["service_project"]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist where the server is."""
    node.workerinput["server"] = describe_for_worker(shared_server(node.config))


def pytest_collection_finish() -> None:
    """Exempt everything that has been imported and collected from later garbage collections."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    return f"Postgres: {shared_server(config)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the summaries that tests have recorded, such as a score."""
    for reports in (terminalreporter.getreports("passed"), terminalreporter.getreports("failed")):
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "summary":
                    terminalreporter.write_line(str(value))


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty HOME and an environment without URLs, so that no test can reach a real database or its secrets."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(path))
        for name in URL_VARIABLES:
            patch.delenv(name, raising=False)
        yield path


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, home: Path) -> Server:
    """The server, in which a test may make databases of its own."""
    assert os.environ["HOME"] == str(home)
    return shared_server(request.config)


@pytest.fixture
def url(server: Server) -> Iterator[sa.URL]:
    """The URL of a migrated database of the test's own."""
    with server.database() as url:
        yield url


@pytest.fixture
def supabase_url(server: Server) -> Iterator[sa.URL]:
    """The URL of a database like a new Supabase project, not migrated."""
    with server.database(migrated=False) as url:
        yield url


@pytest.fixture
def connection(url: sa.URL) -> Iterator[sa.Connection]:
    """A connection to the migrated database ``url``; uncommitted changes are rolled back."""
    with engine_of(url).connect() as connection:
        yield connection


@pytest.fixture(params=BOTH)
def scores(server: Server, request: pytest.FixtureRequest) -> Iterator[Scores]:
    """A migrated database of the test's own, once with each layout of the score table."""
    with scores_in(server, request.param) as scores:
        yield scores


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """The Chromium of this machine."""
    from playwright.sync_api import sync_playwright  # here, because few tests open a page

    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium to look at the page with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()
