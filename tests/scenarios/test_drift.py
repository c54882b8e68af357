"""What somebody has altered by hand is named before a migration changes anything."""

import logging
import shutil
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text
from momentum.errors import ConfigurationError, MigrationError, PreflightError
from momentum.migrate.config import alembic_config
from momentum.testing import Server
from momentum.verify import compare as verify
from tests import processes
from tests.catalog import snapshot
from tests.migrating import HISTORY, current, migrate_to, rows_of, run
from tests.server import engine_of
from tools.fingerprints import facts_at

HEAD, BEFORE_HEAD = HISTORY[-1], HISTORY[-2]
DRIFT = "alter table public.habit_index disable row level security; drop index public.ix_habit_index_pillar_id"
NAMED = [
    "missing: table public.habit_index, index ix_habit_index_pillar_id: CREATE INDEX",
    "changed: table public.habit_index, row level security: found disabled",
]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the migrations warn of."""
    caplog.set_level(logging.WARNING, "momentum.migrations")
    return caplog


def test_a_downgrade_names_it_and_goes_on(url: sa.URL, warnings: pytest.LogCaptureFixture) -> None:
    run(url, DRIFT)
    migrate_to(url, BEFORE_HEAD)
    assert current(url) == BEFORE_HEAD
    *lines, last = warnings.messages
    assert len(lines) == len(NAMED)
    assert all(line.startswith(named) for line, named in zip(lines, NAMED, strict=True))
    assert last == (
        f"Before the downgrade, the database differs from what revision {HEAD} makes, in 2 places; with drift=refuse, "
        "nothing would change."
    )


@pytest.mark.parametrize("revision", [BEFORE_HEAD, "base"])
def test_a_downgrade_is_refused_if_that_is_wanted(
    url: sa.URL, revision: str, warnings: pytest.LogCaptureFixture
) -> None:
    run(url, DRIFT)
    before = snapshot(url), rows_of(url)
    refused = rf"^The database differs from what revision {HEAD} makes, in 2 places that the log names; nothing has"
    with pytest.raises(PreflightError, match=refused):
        migrate_to(url, revision, drift="refuse")
    assert (snapshot(url), rows_of(url)) == before
    assert [line.partition(": ")[0] for line in warnings.messages] == ["missing", "changed"]


def test_in_a_transaction_that_was_handed_in_it_is_refused_too(url: sa.URL) -> None:
    run(url, DRIFT)
    config = alembic_config(url, drift="refuse")
    with engine_of(url).begin() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(PreflightError, match="in 2 places"):
            alembic.command.downgrade(config, BEFORE_HEAD)
        assert connection.exec_driver_sql("select version_num from momentum_internal.alembic_version").scalar() == HEAD


def test_where_nothing_differs_nothing_is_said(url: sa.URL, warnings: pytest.LogCaptureFixture) -> None:
    migrate_to(url, BEFORE_HEAD, drift="refuse")
    migrate_to(url, HEAD, drift="refuse")
    migrate_to(url, "base", drift="refuse")
    assert [line for line in warnings.messages if "differ" in line] == []


def test_a_lock_that_prevents_the_comparison_stops_only_who_insists(
    url: sa.URL, warnings: pytest.LogCaptureFixture
) -> None:
    with engine_of(url).begin() as other:
        other.exec_driver_sql("lock table public.momentum_pillars in access exclusive mode")
        with pytest.raises(MigrationError, match=r"lock timeout .* Nothing has changed\.$"):
            migrate_to(url, BEFORE_HEAD, drift="refuse", attempts=1)
        assert current(url) == HEAD
        # The last revision needs no lock on that table.
        migrate_to(url, BEFORE_HEAD)
    assert current(url) == BEFORE_HEAD
    assert warnings.messages == ["Not compared before the downgrade: canceling statement due to lock timeout"]


def test_a_purge_is_refused_too(url: sa.URL) -> None:
    run(url, "create table momentum_internal.habit_index (id uuid)")
    run(url, DRIFT)
    with pytest.raises(PreflightError, match="in 2 places"):
        alembic.command.downgrade(alembic_config(url, purge=True, drift="refuse"), HEAD)


@pytest.fixture
def released(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose head was the revision before head."""
    folder = tmp_path / "fingerprints"
    shutil.copytree(verify.FINGERPRINTS, folder)
    name, facts = facts_at(BEFORE_HEAD, server, "fresh")
    (folder / name).write_text(verify.write_fingerprint(facts), encoding="utf-8")
    monkeypatch.setattr(verify, "FINGERPRINTS", folder)


@pytest.mark.usefixtures("released")
def test_an_upgrade_from_the_head_of_a_release_is_compared_with_that_release(url: sa.URL) -> None:
    migrate_to(url, BEFORE_HEAD)
    run(url, DRIFT)
    before = snapshot(url), rows_of(url)
    with pytest.raises(PreflightError, match=r"makes, in 2 places .* or upgrade with drift=warn\.$"):
        migrate_to(url, HEAD, drift="refuse")
    assert (snapshot(url), rows_of(url)) == before
    run(url, "alter table public.habit_index enable row level security")
    run(url, "create index ix_habit_index_pillar_id on public.habit_index (pillar_id)")
    migrate_to(url, HEAD, drift="refuse")
    assert current(url) == HEAD


def test_a_revision_of_no_release_is_not_compared(url: sa.URL, warnings: pytest.LogCaptureFixture) -> None:
    migrate_to(url, BEFORE_HEAD)
    run(url, DRIFT)
    migrate_to(url, HISTORY[-3], drift="refuse")
    assert warnings.messages == []


def test_what_is_not_ours_is_named_and_never_refused(
    server: Server, url: sa.URL, warnings: pytest.LogCaptureFixture
) -> None:
    run(server.as_admin(url), "grant create on schema public to anon")
    migrate_to(url, BEFORE_HEAD, drift="refuse")
    assert current(url) == BEFORE_HEAD
    assert warnings.messages[0].startswith("changed: platform, rights of anon in schema public: found USAGE, CREATE")


def test_of_many_differences_the_first_are_named(url: sa.URL, warnings: pytest.LogCaptureFixture) -> None:
    run(url, "; ".join(f"alter table public.habit_index add extra_{number} text" for number in range(30)))
    migrate_to(url, BEFORE_HEAD)
    assert len(warnings.messages) == verify.NAMED + 2
    assert warnings.messages[-2] == "and 10 more differences"


@pytest.mark.parametrize("program", ["alembic", "momentum"])
def test_the_commands_take_the_option(url: sa.URL, home: Path, program: str) -> None:
    run(url, DRIFT)
    options = {
        "alembic": ("-x", f"url={as_text(url)}", "-x", "drift=refuse", "downgrade", "-1"),
        "momentum": ("downgrade", "--drift", "refuse", "--database-url", as_text(url), "--", "-1"),
    }
    env = {"HOME": str(home), **dict.fromkeys(URL_VARIABLES, "")}
    done = processes.run(program, *options[program], env=env)
    assert done.returncode == 1, done.stderr
    *_, first, second, error = done.stderr.splitlines()
    assert (first.partition(": ")[0], second.partition(": ")[0]) == ("missing", "changed")
    assert error.startswith("Error: The database differs from what revision")
    assert current(url) == HEAD


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^The option drift= takes warn or refuse\.$"):
        alembic_config("postgresql://localhost/app", drift="ignore")  # type: ignore[arg-type]
