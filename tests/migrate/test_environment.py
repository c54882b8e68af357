"""What Alembic's environment is set to, for each command; no database."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.runtime.migration import MigrationContext

from momentum.errors import ConfigurationError
from momentum.migrate.config import Options
from momentum.migrate.environment import finish_downgrade, render_item
from momentum.types import Moment
from tests.migrating import entered

URL = "postgresql://me:s3cret@host/db"


@pytest.mark.parametrize(
    "typed", [{"revision": URL}, {"revisions": [URL]}, {"revision": "me@host"}, {"revision": "host/db"}]
)
def test_a_url_in_place_of_a_revision_is_refused_without_being_repeated(typed: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="in place of a revision") as raised, entered(typed):
        raise AssertionError("it was taken for a revision")
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("typed", [None, {}, {"revision": "head"}, {"revisions": ["head"]}])
def test_options_come_from_the_program_and_from_what_was_typed(typed: dict[str, Any] | None) -> None:
    with entered(typed) as environment:
        assert environment.options == Options(verify=False)
        assert (environment.patience.attempts, environment.patience.seconds) == (40, 300.0)
        assert environment.on_command_line is (typed is not None)
    with entered({"x": ["attempts=3", "deadline=4"]}) as environment:
        assert environment.options == Options(verify=False, attempts=3, deadline=4)
        assert (environment.patience.attempts, environment.patience.seconds) == (3, 4)


@pytest.mark.parametrize(
    ("typed", "attributes", "on_terminal", "shown"),
    [
        ({}, {}, True, True),
        ({}, {}, False, False),
        (None, {"on_command_line": True}, True, True),
        (None, {"on_command_line": True}, False, False),
        (None, {}, True, False),
    ],
)
def test_progress_is_shown_on_a_terminal_to_somebody_who_has_typed_a_command(
    monkeypatch: pytest.MonkeyPatch,
    typed: dict[str, Any] | None,
    attributes: dict[str, Any],
    on_terminal: bool,
    shown: bool,
) -> None:
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: on_terminal))
    with entered(typed, **attributes) as environment:
        assert environment.shows_progress is shown


@pytest.mark.parametrize(
    ("command", "creates"),
    [
        ("upgrade", True),
        ("do_stamp", True),
        ("do_ensure_version", True),
        ("downgrade", False),
        ("retrieve_migrations", False),
    ],
)
def test_the_version_table_is_made_by_commands_that_write_into_it(command: str, creates: bool) -> None:
    with entered() as environment:
        settings = environment.settings(command)
    assert settings["dont_mutate"] is not creates
    assert settings["transaction_per_migration"] is True
    assert settings["compare_server_default"] is True


def one() -> None:
    """A program's own function."""


@pytest.mark.parametrize(("given", "called"), [((), []), (one, [one]), ([one, one], [one, one])])
def test_a_programs_own_functions_are_called_before_ours(given: object, called: list[object]) -> None:
    with entered(on_version_apply=given) as environment:
        assert environment.settings("upgrade")["on_version_apply"] == [*called, finish_downgrade]


@pytest.mark.parametrize(("is_upgrade", "finished"), [(True, 0), (False, 1)])
def test_only_a_downgrade_is_finished_after_its_version_is_removed(is_upgrade: bool, finished: int) -> None:
    calls: list[int] = []
    module = SimpleNamespace(after_downgrade=lambda: calls.append(1))
    for each in (module, SimpleNamespace()):
        step = SimpleNamespace(up_revision=SimpleNamespace(module=each), is_upgrade=is_upgrade)
        finish_downgrade(step=step, heads=set())
    assert len(calls) == finished


def test_only_types_of_the_models_are_rendered_as_those_of_postgres() -> None:
    context = AutogenContext(MigrationContext.configure(dialect_name="postgresql"))
    assert render_item("type", sa.Text(), context) is False
    assert render_item("server_default", Moment(), context) is False
    assert not context.imports
    assert render_item("type", Moment(), context) == "postgresql.TIMESTAMP(timezone=True)"
    assert context.imports == {"from sqlalchemy.dialects import postgresql"}
