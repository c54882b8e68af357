"""The promise of a release: every change since is found, and is in the class where it belongs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

import momentum
from momentum.models import Base, DailyMomentumScore
from momentum.verify import compare as verify
from tests.migrating import HISTORY
from tests.verify.conftest import fresh
from tools import contract
from tools.contract import ROOT
from tools.contract_conditions import implies
from tools.contract_facts import PROGRAMS, command_facts, package_facts, python_facts
from tools.contract_rules import Change, Facts, Kind, compare_contracts

__all__ = ["fresh"]

BREAKING, ADDITIVE, INTERNAL = Kind
HABITS = "public.habit_index"
SCORES = "legacy.daily_engagement_scores"

# Changes of the schema, each with the class of the worst that follows from it.
SCHEMA: dict[str, tuple[str, Kind]] = {
    # Columns.
    "a column is dropped": (f"alter table {HABITS} drop details", BREAKING),
    "a column is renamed": (f"alter table {HABITS} rename details to more", BREAKING),
    "a nullable column is added": (f"alter table {HABITS} add mood text", ADDITIVE),
    "a column with a default is added": (f"alter table {HABITS} add mood text not null default 'fine'", ADDITIVE),
    "a required column is added": (f"alter table {HABITS} add mood text not null", BREAKING),
    "an identity is added": (f"alter table {HABITS} add number bigint generated always as identity", ADDITIVE),
    "a generated column is added": (
        f"alter table {HABITS} add double numeric generated always as (habit_score * 2) stored",
        ADDITIVE,
    ),
    "a type is narrowed": (f"alter table {HABITS} alter habit_score type numeric(4, 2)", BREAKING),
    "digits after the point are lost": (f"alter table {HABITS} alter habit_score type numeric(5, 1)", BREAKING),
    "digits before the point are lost": (f"alter table {HABITS} alter habit_score type numeric(5, 3)", BREAKING),
    "a type is widened": (f"alter table {HABITS} alter habit_score type numeric(7, 2)", ADDITIVE),
    "a type loses its limit": (f"alter table {HABITS} alter habit_score type numeric", ADDITIVE),
    "a text gets a limit": ("alter table public.motivation_journal alter prompt type varchar(200)", BREAKING),
    "a type is another one": ("alter table public.motivation_journal alter prompt type json using null", BREAKING),
    "a collation is another one": ('alter table public.momentum_pillars alter name type text collate "C"', BREAKING),
    "null is refused": (f"alter table {HABITS} alter details set not null", BREAKING),
    "null is allowed": (f"alter table {HABITS} alter habit_score drop not null", BREAKING),
    "a default is added": (f"alter table {HABITS} alter index_date set default current_date", ADDITIVE),
    "a default is another one": (f"alter table {HABITS} alter created_at set default clock_timestamp()", BREAKING),
    "a default is dropped where a value is required": (f"alter table {HABITS} alter id drop default", BREAKING),
    # Checks.
    "a check is added": (f"alter table {HABITS} add constraint ck_x check (index_date > '2020-01-01')", BREAKING),
    "a check of a new column is added": (
        f"alter table {HABITS} add mood integer; alter table {HABITS} add constraint ck_mood check (mood > 0)",
        ADDITIVE,
    ),
    "a check of a new column and an old one is added": (
        f"alter table {HABITS} add mood integer; alter table {HABITS} add constraint ck_x check (mood > habit_score)",
        BREAKING,
    ),
    "a check is dropped": (f"alter table {HABITS} drop constraint ck_habit_index_details_is_object", ADDITIVE),
    "a check is stricter": (
        f"alter table {HABITS} drop constraint ck_habit_index_habit_score_in_range, "
        "add constraint ck_habit_index_habit_score_in_range check (habit_score between 0 and 50)",
        BREAKING,
    ),
    "a check is looser": (
        f"alter table {HABITS} drop constraint ck_habit_index_habit_score_in_range, "
        "add constraint ck_habit_index_habit_score_in_range check (habit_score between 0 and 1000)",
        ADDITIVE,
    ),
    "a check is another one": (
        "alter table public.momentum_pillars drop constraint ck_momentum_pillars_name_not_blank, "
        "add constraint ck_momentum_pillars_name_not_blank check (length(name) > 0)",
        BREAKING,
    ),
    "a check is written in another way": (
        f"alter table {HABITS} drop constraint ck_habit_index_habit_score_in_range, "
        "add constraint ck_habit_index_habit_score_in_range check (habit_score <= 100 and habit_score >= 0)",
        INTERNAL,
    ),
    "a check has another name": (
        f"alter table {HABITS} rename constraint ck_habit_index_habit_score_in_range to ck_range",
        INTERNAL,
    ),
    "a value is allowed": (
        f"alter table {SCORES} drop constraint ck_daily_engagement_scores_source_is_known, add constraint "
        "ck_daily_engagement_scores_source_is_known check (source in ('backfill', 'import'))",
        ADDITIVE,
    ),
    "another value is allowed": (
        f"alter table {SCORES} drop constraint ck_daily_engagement_scores_source_is_known, add constraint "
        "ck_daily_engagement_scores_source_is_known check (source in ('import', 'export'))",
        BREAKING,
    ),
    # Keys.
    "a unique key is added": (f"alter table {HABITS} add constraint uq_x unique (habit_score)", BREAKING),
    "a unique key is dropped": (f"alter table {HABITS} drop constraint uq_habit_index_user_id_index_date", BREAKING),
    "a unique key is wider": (
        f"alter table {HABITS} drop constraint uq_habit_index_user_id_index_date, "
        "add constraint uq_habit_index_user_id_index_date unique (user_id, index_date, pillar_id)",
        BREAKING,
    ),
    "a unique key has another name": (
        f"alter table {HABITS} rename constraint uq_habit_index_user_id_index_date to uq_day",
        BREAKING,
    ),
    "a unique key is deferrable": (
        f"alter table {HABITS} drop constraint uq_habit_index_user_id_index_date, "
        "add constraint uq_habit_index_user_id_index_date unique (user_id, index_date) deferrable",
        BREAKING,
    ),
    "a unique key of a new column is added": (f"alter table {HABITS} add code text unique", ADDITIVE),
    "a unique index is added": (f"create unique index x on {HABITS} (details)", BREAKING),
    "a unique index is dropped": ("drop index legacy.uq_daily_engagement_scores_user_id_utc_day", BREAKING),
    "the primary key is dropped": (f"alter table {HABITS} drop constraint pk_habit_index", BREAKING),
    "rows are deleted with others": (
        f"alter table {HABITS} drop constraint fk_habit_index_pillar_id_momentum_pillars, add constraint "
        "fk_habit_index_pillar_id_momentum_pillars foreign key (pillar_id) references public.momentum_pillars (id) "
        "on delete cascade",
        BREAKING,
    ),
    "a foreign key is added": (
        f"alter table {HABITS} add constraint fk_x foreign key (id) references public.momentum_events (id)",
        BREAKING,
    ),
    "a foreign key is added without a look at the rows": (
        f"alter table {HABITS} add constraint fk_x foreign key (id) references public.momentum_events (id) not valid",
        BREAKING,
    ),
    "a foreign key of a new column is added": (
        f"alter table {HABITS} add event_id uuid references public.momentum_events (id)",
        ADDITIVE,
    ),
    "a foreign key is dropped": (
        f"alter table {HABITS} drop constraint fk_habit_index_pillar_id_momentum_pillars",
        BREAKING,
    ),
    # Rights.
    "a right is taken": (f"revoke update on {HABITS} from authenticated", BREAKING),
    "all rights are taken": (f"revoke all on {HABITS} from service_role", BREAKING),
    "a right is given": (f"grant truncate on {HABITS} to authenticated", ADDITIVE),
    "a role gets rights": (f"grant select on {HABITS} to anon", ADDITIVE),
    "rights on a column replace those on the table": (
        f"revoke select on {HABITS} from authenticated; grant select (id) on {HABITS} to authenticated",
        BREAKING,
    ),
    "a right that everybody has is taken from one": (
        f"grant select on {HABITS} to public; revoke select on {HABITS} from authenticated",
        ADDITIVE,
    ),
    "the schema is closed": ("revoke usage on schema legacy from service_role", BREAKING),
    "the view is closed": ("revoke select on public.daily_momentum_scores from authenticated", BREAKING),
    # Policies.
    "a policy is added": (
        f"create policy own on {HABITS} for select to authenticated using (user_id = (select auth.uid()))",
        ADDITIVE,
    ),
    "a policy that lets everybody read is added": (
        f"create policy everything on {HABITS} for select to authenticated using (true)",
        BREAKING,
    ),
    "a policy for what nobody owns is added": (
        "create policy everything on public.momentum_pillars for select to authenticated using (true)",
        ADDITIVE,
    ),
    "a restrictive policy is added": (f"create policy x on {HABITS} as restrictive using (habit_score > 1)", BREAKING),
    "a policy is dropped": (f"drop policy daily_engagement_scores_select_own on {SCORES}", BREAKING),
    "a policy is narrower": (
        f"alter policy daily_engagement_scores_select_own on {SCORES} "
        "using ((select auth.uid()) = user_id and source is null)",
        BREAKING,
    ),
    "a policy is wider": (
        f"alter policy daily_engagement_scores_select_own on {SCORES} "
        "using ((select auth.uid()) = user_id or source = 'backfill')",
        ADDITIVE,
    ),
    "a policy lets everybody read": (
        f"alter policy daily_engagement_scores_select_own on {SCORES} using (true)",
        BREAKING,
    ),
    "a policy is for another role": (f"alter policy daily_engagement_scores_select_own on {SCORES} to anon", BREAKING),
    "a policy is for one more role": (
        f"alter policy daily_engagement_scores_select_own on {SCORES} to authenticated, anon",
        ADDITIVE,
    ),
    "a policy is for all roles": (f"alter policy daily_engagement_scores_select_own on {SCORES} to public", ADDITIVE),
    "a policy has another name": (
        f"alter policy daily_engagement_scores_select_own on {SCORES} rename to own",
        INTERNAL,
    ),
    "row security is switched on": (
        "alter table momentum_internal.alembic_version enable row level security",
        INTERNAL,
    ),
    "row security is switched off": (f"alter table {HABITS} disable row level security", BREAKING),
    "row security binds the owner": (f"alter table {HABITS} force row level security", BREAKING),
    # The view.
    "the view loses a column": (
        "drop view public.daily_momentum_scores; create view public.daily_momentum_scores with (security_invoker) as "
        f"select user_id, score, (score_ts at time zone 'UTC')::date as score_date from {SCORES} s",
        BREAKING,
    ),
    "the view has another order": (
        "drop view public.daily_momentum_scores; create view public.daily_momentum_scores with (security_invoker=true) "
        "as select user_id, (score_ts at time zone 'UTC')::date as score_date, score, pillar_breakdown "
        f"from {SCORES} s; grant select on public.daily_momentum_scores to authenticated, service_role",
        BREAKING,
    ),
    "the view gets a column at the end": (
        "create or replace view public.daily_momentum_scores with (security_invoker=true) as select user_id, score, "
        "(score_ts at time zone 'UTC')::date as score_date, pillar_breakdown, source "
        f"from {SCORES} s",
        ADDITIVE,
    ),
    "the view hides rows": (
        "create or replace view public.daily_momentum_scores with (security_invoker=true) as select user_id, score, "
        "(score_ts at time zone 'UTC')::date as score_date, pillar_breakdown "
        f"from {SCORES} s where source is null",
        BREAKING,
    ),
    "the view computes a column": (
        "create or replace view public.daily_momentum_scores with (security_invoker=true) as select user_id, "
        "(score * 2)::numeric(5, 2) as score, (score_ts at time zone 'UTC')::date as score_date, pillar_breakdown "
        f"from {SCORES} s",
        BREAKING,
    ),
    "the view reads as its owner": ("alter view public.daily_momentum_scores set (security_invoker=false)", BREAKING),
    "the view is dropped": ("drop view public.daily_momentum_scores", BREAKING),
    # The rest.
    "a table is dropped": ("drop table public.habit_index", BREAKING),
    "a trigger is added": (
        f"create trigger x before insert on {HABITS} for each row execute function momentum_internal.set_updated_at()",
        BREAKING,
    ),
    "a trigger is dropped": (f"drop trigger set_updated_at on {HABITS}", BREAKING),
    "a trigger has another name": (f"alter trigger set_updated_at on {HABITS} rename to touch", INTERNAL),
    "a trigger is disabled": (f"alter table {HABITS} disable trigger set_updated_at", BREAKING),
    "a table is not logged": (f"alter table {HABITS} set unlogged", BREAKING),
    "subscribers get whole rows": (f"alter table {HABITS} replica identity full", ADDITIVE),
    "subscribers get nothing": (f"alter table {HABITS} replica identity nothing", BREAKING),
    "a table has a child": (f"create table public.more () inherits ({HABITS})", BREAKING),
    "an index is added": (f"create index x on {HABITS} (habit_score)", INTERNAL),
    "an index is dropped": ("drop index public.ix_habit_index_pillar_id", INTERNAL),
    "a comment is another one": (f"comment on table {HABITS} is 'Habits.'", INTERNAL),
    "a private table has one more column": ("alter table momentum_internal.score_table add note text", INTERNAL),
    "a private function does something else": (
        "create or replace function momentum_internal.set_updated_at() returns trigger language plpgsql "
        "set search_path = '' as 'begin new.updated_at := now(); return new; end'",
        INTERNAL,
    ),
}


@pytest.fixture(scope="module")
def schema(fresh: sa.Connection) -> dict[str, str]:
    """The facts about a database at head."""
    return read_schema(fresh)


def read_schema(connection: sa.Connection) -> dict[str, str]:
    with verify.pinned(connection):
        return verify.read_facts(connection, verify.read_record(connection))


def test_what_an_adopted_score_table_must_have_is_a_demand() -> None:
    before = {"score table": "table", "score table, column score": "numeric"}
    after = {**before, "score table, column source": "text"}
    assert worst(compare_contracts(before, after)) is BREAKING
    assert worst(compare_contracts(after, before)) is ADDITIVE
    assert worst(compare_contracts(before, {**before, "score table, column score": "integer"})) is BREAKING


def worst(changes: list[Change]) -> Kind:
    """Return the class of several changes together."""
    return min((change.kind for change in changes), key=list(Kind).index)


@pytest.mark.parametrize("name", SCHEMA)
def test_a_change_of_the_schema_is_in_its_class(name: str, fresh: sa.Connection, schema: Facts) -> None:
    change, kind = SCHEMA[name]
    with fresh.begin() as transaction:
        fresh.exec_driver_sql(change)
        changes = compare_contracts(schema, read_schema(fresh))
        transaction.rollback()
    assert changes, "it is not noticed at all"
    assert worst(changes) is kind, "\n".join(map(str, changes))


def test_every_change_has_a_reverse(fresh: sa.Connection, schema: Facts) -> None:
    """What is not noticed in one direction is not noticed in the other either, and no text is beyond the rules."""
    for change, _ in SCHEMA.values():
        with fresh.begin() as transaction:
            fresh.exec_driver_sql(change)
            changes = compare_contracts(read_schema(fresh), schema)
            transaction.rollback()
        assert changes, change


@pytest.mark.parametrize(
    ("name", "kind"),
    {
        "a column is renamed": BREAKING,
        "a nullable column is added": BREAKING,
        "a required column is added": BREAKING,
        "a type is narrowed": ADDITIVE,
        "a type is widened": BREAKING,
        "null is refused": BREAKING,
        "a default is added": BREAKING,
        "a check is added": ADDITIVE,
        "a check is dropped": BREAKING,
        "a check is stricter": ADDITIVE,
        "a check is looser": BREAKING,
        "a value is allowed": BREAKING,
        "a right is taken": ADDITIVE,
        "a right is given": BREAKING,
        "a policy is added": BREAKING,
        "a restrictive policy is added": ADDITIVE,
        "a policy is narrower": ADDITIVE,
        "a policy is wider": BREAKING,
        "row security is switched off": BREAKING,
        "row security binds the owner": INTERNAL,
        "a table is dropped": ADDITIVE,
        "a table is not logged": ADDITIVE,
        "the view gets a column at the end": BREAKING,
        "a comment is another one": INTERNAL,
    }.items(),
)
def test_the_reverse_of_a_change_is_in_its_class(name: str, kind: Kind, fresh: sa.Connection, schema: Facts) -> None:
    change, _ = SCHEMA[name]
    with fresh.begin() as transaction:
        fresh.exec_driver_sql(change)
        changes = compare_contracts(read_schema(fresh), schema)
        transaction.rollback()
    assert worst(changes) is kind, "\n".join(map(str, changes))


# Changes of the package: a file, a text in it and another one in its place, and the facts that change, each with its
# class. They are made together in one copy.
PACKAGE: list[tuple[str, str, str, dict[str, Kind]]] = [
    # Names.
    ("momentum/__init__.py", '    "soft_delete",\n]', "]", {"- python momentum.soft_delete:": BREAKING}),
    ("momentum/__init__.py", "\n__version__", "\nNOTHING = 1\n__version__", {}),
    (
        "momentum/__init__.py",
        '    "__version__",',
        '    "NOTHING", "__version__",',
        {"+ python momentum.NOTHING:": ADDITIVE},
    ),
    (
        "momentum/errors.py",
        "class ReadOnlyError",
        "class UnwritableError",
        {
            "- python momentum.errors.ReadOnlyError:": BREAKING,
            "+ python momentum.errors.UnwritableError:": ADDITIVE,
        },
    ),
    (
        "momentum/testing/plugin.py",
        "def momentum_session",
        "def session",
        {
            "- python momentum.testing.plugin.momentum_session:": BREAKING,
            "+ python momentum.testing.plugin.session:": ADDITIVE,
        },
    ),
    (
        "momentum/testing/plugin.py",
        '@pytest.fixture(scope="session")',
        "@pytest.fixture",
        {
            "~ python momentum.testing.plugin.momentum_server:": BREAKING,
        },
    ),
    (
        "momentum/testing/pgtap.py",
        "\ndef install_pgtap",
        "\nasync def install_pgtap",
        {
            "~ python momentum.testing.install_pgtap:": BREAKING,
        },
    ),
    (
        "momentum/testing/servers.py",
        "@contextmanager\ndef running_server",
        "def running_server",
        {"~ python momentum.testing.running_server:": BREAKING},
    ),
    # Parameters.
    (
        "momentum/deletion.py",
        "def live(model:",
        "def live(table:",
        {
            "- python momentum.live, parameter model:": BREAKING,
            "+ python momentum.live, parameter table:": BREAKING,
        },
    ),
    (
        "momentum/migrate/filters.py",
        "def hide_momentum_tables(include_object: IncludeObjectFn | None = None)",
        "def hide_momentum_tables(include_object: IncludeObjectFn | None)",
        {
            "- python momentum.hide_momentum_tables, parameter include_object, default:": BREAKING,
        },
    ),
    (
        "momentum/testing/rows.py",
        "*, created_at:",
        "*, zone: str, created_at:",
        {
            "+ python momentum.testing.add_user, parameter zone:": BREAKING,
        },
    ),
    (
        "momentum/testing/rows.py",
        "breakdown: Mapping[str, Any] | None = None,",
        "breakdown: Any = None, source: str = '',",
        {
            "+ python momentum.testing.add_scores, parameter source:": ADDITIVE,
            "~ python momentum.testing.add_scores, parameter breakdown, type:": ADDITIVE,
        },
    ),
    (
        "momentum/testing/servers.py",
        "def running_server(backend: str | None = None, *, on_disk: bool = False)",
        "def running_server(*, backend: str | None = None, on_disk: bool)",
        {
            "~ python momentum.testing.running_server, parameter backend:": BREAKING,
            "- python momentum.testing.running_server, parameter on_disk, default:": BREAKING,
        },
    ),
    (
        "momentum/backfill/run.py",
        "should_stop: Callable[[], bool] = lambda: False",
        "should_stop: Callable[[], bool] = lambda: True",
        {
            "~ python momentum.backfill.run_backfill, parameter should_stop, default:": BREAKING,
        },
    ),
    (
        "momentum/testing/servers.py",
        "def database(self, *, migrated: bool = True",
        "def database(self, *, migrated: bool | None = True",
        {
            "~ python momentum.testing.Server, method database, parameter migrated, type:": ADDITIVE,
        },
    ),
    (
        "momentum/testing/servers.py",
        "def as_admin(self, url: sa.URL) -> sa.URL:",
        "def as_admin(self, url: sa.URL) -> str:",
        {
            "~ python momentum.testing.Server, method as_admin, returns:": BREAKING,
        },
    ),
    (
        "momentum/testing/servers.py",
        "def drop_database(self, url: sa.URL)",
        "def drop_database(self, url: sa.URL, *more: sa.URL)",
        {
            "+ python momentum.testing.Server, method drop_database, parameter *:": ADDITIVE,
        },
    ),
    (
        "momentum/connect/url.py",
        "def as_text(url: URL) -> str:",
        "def as_text(url: URL) -> str | None:",
        {
            "~ python momentum.connect.as_text, returns:": BREAKING,
        },
    ),
    (
        "momentum/backfill/days.py",
        "cls, first: datetime.date | None, last: datetime.date | None,",
        "cls, last: datetime.date | None, first: datetime.date | None,",
        {
            "~ python momentum.backfill.DayRange, method choose, parameter first, position:": BREAKING,
            "~ python momentum.backfill.DayRange, method choose, parameter last, position:": BREAKING,
        },
    ),
    (
        "momentum/migrate/config.py",
        "    deadline: int\n",
        "    patience: int\n",
        {
            "- python momentum.alembic_config, parameter deadline:": BREAKING,
            "+ python momentum.alembic_config, parameter patience:": ADDITIVE,
        },
    ),
    (
        "momentum/migrate/config.py",
        'Literal["refuse", "adopt"]',
        'Literal["adopt"]',
        {
            "~ python momentum.alembic_config, parameter existing, type:": BREAKING,
            "~ command momentum upgrade, option --existing, choices:": BREAKING,
        },
    ),
    (
        "momentum/migrate/config.py",
        'Literal["refuse", "keep", "close"]',
        'Literal["refuse", "keep", "close", "ask"]',
        {
            "~ python momentum.alembic_config, parameter access, type:": ADDITIVE,
            "~ command alembic, option -x access=, choices:": ADDITIVE,
        },
    ),
    # Classes.
    (
        "momentum/errors.py",
        "class VerificationError(MomentumError)",
        "class VerificationError(Exception)",
        {
            "- python momentum.errors.VerificationError, base MomentumError:": BREAKING,
        },
    ),
    (
        "momentum/errors.py",
        "class PreflightError(MomentumError)",
        "class PreflightError(MomentumError, ValueError)",
        {
            "+ python momentum.errors.PreflightError, base ValueError:": ADDITIVE,
        },
    ),
    (
        "momentum/errors.py",
        'would have made."""\n\n    exit_code = 3',
        'would have made."""\n\n    exit_code = 4',
        {
            "~ python momentum.errors.NotMigratedError, attribute exit_code, value:": BREAKING,
        },
    ),
    (
        "momentum/models/momentum_event.py",
        "    payload: Mapped",
        "    details: Mapped",
        {
            "- python momentum.MomentumEvent, attribute payload:": BREAKING,
            "+ python momentum.MomentumEvent, attribute details:": ADDITIVE,
            "- python momentum.MomentumEvent, parameter payload:": BREAKING,
            "+ python momentum.MomentumEvent, parameter details:": ADDITIVE,
        },
    ),
    (
        "momentum/models/momentum_event.py",
        'mapped_column(comment="The kind',
        'mapped_column(default=None, comment="The kind',
        {
            "+ python momentum.MomentumEvent, parameter event_type, default:": ADDITIVE,
        },
    ),
    (
        "momentum/models/habit_index.py",
        "habit_score: Mapped[Points]",
        "habit_score: Mapped[int]",
        {
            "~ python momentum.HabitIndex, attribute habit_score, is:": BREAKING,
        },
    ),
    (
        "momentum/models/habit_index.py",
        "    details: Mapped[JsonObject | None] = mapped_column(\n        default=None, ",
        "    details: Mapped[JsonObject | None] = mapped_column(\n        ",
        {
            "- python momentum.HabitIndex, parameter details, default:": BREAKING,
        },
    ),
    (
        "momentum/backfill/settings.py",
        "max_error_rate: float = 0.01",
        "max_error_rate: float = 0.05",
        {
            "~ python momentum.backfill.Settings, parameter max_error_rate, default:": BREAKING,
            "~ command momentum-backfill, option --max-error-rate, default:": BREAKING,
        },
    ),
    (
        "momentum/backfill/settings.py",
        "    discrepancy_threshold: Decimal = Decimal(5)",
        "    discrepancy_threshold: Decimal = Decimal(5)\n    note: str = ''",
        {
            "+ python momentum.backfill.Settings, parameter note:": ADDITIVE,
        },
    ),
    # Commands.
    (
        "momentum/status.py",
        'typer.Option("--json"',
        'typer.Option("--as-json"',
        {
            "- command momentum status, option --json:": BREAKING,
            "+ command momentum status, option --as-json:": ADDITIVE,
        },
    ),
    (
        "momentum/status.py",
        "    database_url: Url = None,",
        "    database_url: Url,",
        {
            "+ command momentum status, option --database-url, required:": BREAKING,
        },
    ),
    (
        "momentum/status.py",
        "    env_file: EnvFile = None,",
        "    env_file: EnvFile = None,\n    name: str = typer.Option(...),",
        {
            "+ command momentum status, option --name:": BREAKING,
        },
    ),
    (
        "momentum/status.py",
        "1 something to do;",
        "4 something to do;",
        {
            "- command momentum status, exit code 1:": BREAKING,
            "+ command momentum status, exit code 4:": ADDITIVE,
        },
    ),
    (
        "momentum/status.py",
        "    layout: str | None = None\n",
        "    kind: str | None = None\n",
        {
            "- command momentum status, key layout of --json:": BREAKING,
            "+ command momentum status, key kind of --json:": ADDITIVE,
        },
    ),
    (
        "momentum/status.py",
        "    eligible: int | None = None\n",
        "    eligible: str | None = None\n",
        {
            "~ command momentum status, key eligible of --json:": BREAKING,
        },
    ),
    (
        "momentum/status.py",
        "    command: str\n",
        "",
        {"- command momentum status, key to_do[].command of --json:": BREAKING},
    ),
    (
        "momentum/verify/__main__.py",
        "1 something differs; 2 usage or configuration",
        "2 something differs; 1 usage or configuration",
        {
            "~ command momentum verify, exit code 1:": BREAKING,
            "~ command momentum verify, exit code 2:": BREAKING,
        },
    ),
    (
        "momentum/verify/__main__.py",
        "    sql: Annotated[\n",
        "    short: bool = False,\n    sql: Annotated[\n",
        {
            "+ command momentum verify, option --short:": ADDITIVE,
        },
    ),
    (
        "momentum/migrate/locks.py",
        "ATTEMPTS = 40",
        "ATTEMPTS = 50",
        {
            "~ command momentum upgrade, option --attempts, default:": BREAKING,
            "~ command alembic, option -x attempts=, default:": BREAKING,
        },
    ),
    (
        "momentum/migrate/cli.py",
        'Revision = "head"',
        "Revision",
        {
            "- command momentum upgrade, argument 1, default:": INTERNAL,
            "+ command momentum upgrade, argument 1, required:": BREAKING,
        },
    ),
    (
        "momentum/cli.py",
        "app.command(epilog=EXIT_CODES)(migrations.purge)",
        "",
        {"- command momentum purge:": BREAKING},
    ),
    (
        "momentum/cli.py",
        "app.add_typer(databases",
        "app.command()(show_version)\napp.add_typer(databases",
        {
            "+ command momentum show-version:": ADDITIVE,
        },
    ),
    (
        "momentum/backfill/settings.py",
        "MOST_WORKERS = 16",
        "MOST_WORKERS = 8",
        {
            "~ command momentum-backfill, option --workers, most:": BREAKING,
        },
    ),
    (
        "momentum/backfill/settings.py",
        "MOST_ROWS_PER_PAGE = 500",
        "MOST_ROWS_PER_PAGE = 600",
        {
            "~ command momentum-backfill, option --page-size, most:": ADDITIVE,
            "~ command momentum-backfill, option --page-size, default:": BREAKING,
        },
    ),
    (
        "momentum/backfill/cli.py",
        '    JSON = "json"',
        '    JSON = "json"\n    XML = "xml"',
        {
            "~ command momentum-backfill, option --log-format, choices:": ADDITIVE,
        },
    ),
    (
        "momentum/backfill/cli.py",
        "    days: Annotated[\n        int | None,",
        "    days: Annotated[\n        str | None,",
        {
            "~ command momentum-backfill, option --days:": ADDITIVE,
        },
    ),
    (
        "momentum/backfill/cli.py",
        "list[uuid.UUID] | None,",
        "uuid.UUID | None,",
        {
            "- command momentum-backfill, option --user, repeatable:": BREAKING,
        },
    ),
    ("momentum/backfill/cli.py", '            "-q",\n', "", {"- command momentum-backfill, option -q:": BREAKING}),
    (
        "momentum/backfill/report.py",
        '            "raced": self.raced,\n',
        "",
        {
            "- command momentum-backfill, key raced of --json:": BREAKING,
        },
    ),
    (
        "momentum/backfill/report.py",
        '"pages": self.pages',
        '"pages": str(self.pages), "sheets": 1',
        {
            "~ command momentum-backfill, key pages of --json:": BREAKING,
            "+ command momentum-backfill, key sheets of --json:": ADDITIVE,
        },
    ),
    (
        "momentum/backfill/undo.py",
        '"kept": self.kept',
        '"left": self.kept',
        {
            "- command momentum-backfill, key kept of --undo --json:": BREAKING,
        },
    ),
    (
        "momentum/connect/environment.py",
        '("SUPABASE_DB_URL", "DATABASE_URL")',
        '("SUPABASE_DB_URL",)',
        {
            "- command momentum, environment DATABASE_URL in the env file:": BREAKING,
        },
    ),
    (
        "momentum/backfill/cli.py",
        "    pause_ms: Annotated[\n        int,",
        "    pause_ms: Annotated[\n        float,",
        {"~ command momentum-backfill, option --pause-ms:": ADDITIVE},
    ),
    (
        "momentum/backfill/metrics.py",
        '    "retries": (',
        '    "tries": (',
        {
            "- command momentum-backfill, metric momentum_backfill_retries:": BREAKING,
            "+ command momentum-backfill, metric momentum_backfill_tries:": ADDITIVE,
        },
    ),
    (
        "momentum/backfill/metrics.py",
        "version=execution.version,",
        "package=execution.version,",
        {"~ command momentum-backfill, metric momentum_backfill_info:": BREAKING},
    ),
    # The installation.
    ("pyproject.toml", 'requires-python = ">=3.11"', 'requires-python = ">=3.12"', {"~ package, Python:": BREAKING}),
    (
        "pyproject.toml",
        'momentum-backfill = "momentum.backfill.cli:main"',
        'backfill = "momentum.backfill.cli:main"',
        {
            "- package, script momentum-backfill:": BREAKING,
            "+ package, script backfill:": ADDITIVE,
        },
    ),
    (
        "pyproject.toml",
        'momentum = "momentum.testing.plugin"',
        'momentum = "momentum.testing.fixtures"',
        {
            "~ package, plugin pytest11 momentum:": INTERNAL,
        },
    ),
    ("pyproject.toml", "\nembedded = [", "\nserver = [", {"- package, extra embedded:": BREAKING}),
    # No concern of others.
    ("momentum/deletion.py", "Return the statement that", "Return a statement that", {}),
    ("momentum/migrate/filters.py", "def is_our_key(index", "def is_our_key(found", {}),
]


@pytest.fixture(scope="module")
def before() -> Facts:
    """The facts about the package at head."""
    return python_facts(ROOT) | package_facts(ROOT) | command_facts()


def copy_with_changes(copy: Path, *, runs: bool) -> Path:
    """Return a copy of the package with the changes in it, or only with those after which the commands still start."""
    for name in ("momentum", "alembic"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, old, new, facts in PACKAGE:
        if not runs or any("command" in beginning for beginning in facts):
            path = copy / name
            text = path.read_text(encoding="utf-8")
            assert old in text, f"{name} no longer has {old!r}"
            path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """The facts about copies of the package with the changes in them."""
    read = copy_with_changes(tmp_path_factory.mktemp("read"), runs=False)
    started = copy_with_changes(tmp_path_factory.mktemp("run"), runs=True)
    code = "import json; from tools.contract_facts import command_facts; print(json.dumps(command_facts()))"
    environ = {**os.environ, "PYTHONPATH": f"{started}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands: dict[str, str] = json.loads(done.stdout)
    return python_facts(read) | package_facts(read) | commands


@pytest.fixture(scope="module")
def of_package(before: Facts, after: Facts) -> dict[str, Change]:
    """What differs, by the first line of what is said of it."""
    return {str(change): change for change in compare_contracts(before, after)}


EXPECTED = {beginning: kind for *_, facts in PACKAGE for beginning, kind in facts.items()}


@pytest.mark.parametrize("beginning", EXPECTED)
def test_a_change_of_the_package_is_in_its_class(beginning: str, of_package: dict[str, Change]) -> None:
    [change] = [change for said, change in of_package.items() if said.startswith(beginning)]
    assert change.kind is EXPECTED[beginning], str(change)


def test_a_module_that_is_gone_is_noticed(before: Facts, tmp_path: Path) -> None:
    copy = shutil.copytree(ROOT / "momentum", tmp_path / "momentum", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "connect" / "__init__.py").unlink()
    (copy / "errors.py").rename(copy / "faults.py")
    changes = compare_contracts(
        {key: value for key, value in before.items() if key.startswith("python ")}, python_facts(tmp_path)
    )
    gone = {change.difference.key.removeprefix("python momentum.").split(".")[0] for change in changes}
    assert gone == {"connect", "errors"}
    assert {change.kind for change in changes} == {BREAKING}


def test_nothing_else_has_changed(of_package: dict[str, Change]) -> None:
    # Where a change shows in several facts, one stands for all.
    known = {beginning.split(" ", 1)[1].split(",")[0].rstrip(":") for beginning in EXPECTED}
    known |= {"command momentum downgrade", "command python -m momentum.verify"}
    assert [said for said in of_package if not any(each in said for each in known)] == []


@pytest.mark.parametrize(
    ("old", "new", "follows", "back"),
    [
        ("a >= 0", "a >= '-5'::integer", True, False),
        ("a > 0", "a >= 0", True, False),
        ("a < (10)::numeric", "a <= (10)::numeric", True, False),
        ("a = 3", "a < 4", True, False),
        ("a > 3", "a < 4", False, False),
        ("a > 3", "b > 2", False, False),
        ("((a > 0) AND (b > 0))", "(b > 0)", True, False),
        ("(a > 0)", "((a > 0) OR (b > 0))", True, False),
        ("((a > 0) OR (b > 0))", "((b > 0) OR (a > 0))", True, True),
        ("((a > 0) AND ((b = 1) OR (c = 2)))", "((b = 1) OR (c = 2) OR (d = 3))", True, False),
        ("a = 'x'::text", "a = ANY (ARRAY['x'::text, 'y'::text])", True, False),
        ("(a)::text = 'x'::text", "(a)::text = ANY ((ARRAY['x'::varchar, 'y'::varchar])::text[])", True, False),
        ("a = ANY (ARRAY[1, 2])", "a = ANY (ARRAY[2, 3])", False, False),
        ("a <> ALL (ARRAY['x'::text, 'y'::text])", "a <> 'x'::text", True, False),
        ("a ~ '( AND '::text", "a ~ '( AND '::text", True, True),
        ("f(a, 1)", "true", True, False),
        ("false", "f(a, 1)", True, False),
        ("NOT a", "a", False, False),
    ],
)
def test_what_follows_from_a_condition_is_known(old: str, new: str, follows: bool, back: bool) -> None:
    assert (implies(old, new), implies(new, old)) == (follows, back)


def test_a_condition_follows_from_another_only_if_no_row_contradicts(fresh: sa.Connection) -> None:
    """Every pair of some conditions is compared with what the server says of every row of a small table."""
    conditions = [
        f"{left} {operator} {number}"
        for left in ("a", "b")
        for operator in ("<", "<=", "=", ">=", ">")
        for number in (0, 1)
    ]
    conditions += [
        f"({one}) {word} ({other})"
        for word in ("and", "or")
        for one, other in zip(conditions, conditions[7:], strict=False)
    ]
    conditions += ["a in (0, 1)", "a in (1, 2)", "a not in (0, 1)", "a <> 1", "a is null", "a is not null"]
    with fresh.begin() as transaction:
        fresh.exec_driver_sql(
            "create temporary table rows as select a, b from unnest(array[-1, 0, 1, 2, null]) as a (a), "
            "unnest(array[-1, 0, 1, 2, null]) as b (b)"
        )
        names = [f"c{number}" for number in range(len(conditions))]
        added = ", ".join(f"add constraint {n} check ({c}) not valid" for n, c in zip(names, conditions, strict=True))
        fresh.exec_driver_sql(f"alter table rows {added}")
        asked = "select pg_get_expr(conbin, conrelid) from pg_constraint where conname = '{}'"
        written = [fresh.exec_driver_sql(asked.format(name)).scalar_one() for name in names]
        columns = ", ".join(f"({condition}) is not false" for condition in conditions)
        rows = fresh.exec_driver_sql(f"select {columns} from rows").all()
        transaction.rollback()
    takes = list(zip(*rows, strict=True))
    shown = 0
    for i, old in enumerate(written):
        for j, new in enumerate(written):
            if implies(old, new):
                shown += 1
                assert all(not a or b for a, b in zip(takes[i], takes[j], strict=True)), (old, new)
    assert shown > len(written), "it shows more than that each follows from itself"


CHANGELOG = "## [Unreleased]\n\n### {}\n\n- A.\n\n## [1.2.3]\n\n### {}\n\n- B.\n"


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a changelog, and with the contract of head as version 1.2.3."""
    folder = tmp_path_factory.mktemp("promised")
    (folder / "CHANGELOG.md").write_text(CHANGELOG.format("Added", "Breaking"), encoding="utf-8")
    assert contract.main(["--write"], folder, "1.2.3") is None
    return folder


def test_head_keeps_what_it_promises(promised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.main([], promised, "1.2.3") is None
    assert capsys.readouterr().out == "0 changes since 1.2.3: 0 breaking, 0 additive, 0 internal.\n"


def test_head_keeps_what_the_last_release_has_promised() -> None:
    assert contract.main([]) is None


def test_a_contract_has_all_that_others_rest_on(promised: Path) -> None:
    facts = contract.read(promised / "contracts" / "1.2.3")
    assert facts == contract.head()
    assert contract.revisions_of(promised / "contracts" / "1.2.3") == {HISTORY[-1]}
    assert len(facts) == 5
    said = {key for each in facts.values() for key in each}
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            assert f"table public.{table.name}, column {column.name}" in said
    assert {
        f"view public.daily_momentum_scores, column {column.name}" for column in DailyMomentumScore.__table__.columns
    } <= said
    assert {f"python momentum.{name}" for name in momentum.__all__} <= said
    assert {f"command {name}" for name in PROGRAMS} <= said


def planted(folder: Path, file: str, old: str, new: str) -> Path:
    """Return a copy of a folder whose release promised something else."""
    copy = folder.parent / "planted"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    [path] = copy.glob(f"contracts/1.2.3/{file}")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return copy


GONE = "command momentum repair: command\n"


def test_a_breaking_change_needs_a_major_version_and_a_word_in_the_changelog(
    promised: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = planted(promised, "commands.txt", "command alembic: group\n", f"command alembic: group\n{GONE}")
    error = contract.main([], folder, "1.9.0")
    assert error == "Error: A change breaks what 1.2.3 promised: take it back, or raise the major version (1.9.0)."
    assert "breaking:\n  - command momentum repair: command\n      it is gone" in capsys.readouterr().out
    error = contract.main([], folder, "2.0.0")
    assert error == 'Error: A change is breaking: CHANGELOG.md must say so under "### Breaking".'
    (folder / "CHANGELOG.md").write_text(CHANGELOG.format("Breaking", "Added"), encoding="utf-8")
    assert contract.main([], folder, "2.0.0") is None


@pytest.mark.parametrize(
    ("version", "error"),
    [
        ("1.2.3", "1.2.3 is not above the last release, 1.2.3."),
        ("1.2.4", "Something is new since 1.2.3: raise the minor version (1.2.4)."),
        ("1.10.0.dev1", "1.10.0.dev1 is not the version of a release."),
        ("1.10.0", None),
    ],
)
def test_a_release_has_a_version_that_says_what_is_new(promised: Path, version: str, error: str | None) -> None:
    folder = planted(promised, "commands.txt", "command momentum status: command\n", "")
    said = contract.main(["--write"], folder, version)
    assert said == (f"Error: {error}" if error else None)
    assert [path.name for path in contract.released(folder)] == (["1.2.3"] if error else ["1.2.3", "1.10.0"])


def test_what_a_release_has_sealed_is_never_changed() -> None:
    for folder in contract.released():
        assert contract.broken_seals(folder) == [], "databases were made with it: write a new revision instead"


def test_a_changed_file_breaks_its_seal(promised: Path, tmp_path: Path) -> None:
    for name in ("alembic", "supabase"):
        shutil.copytree(ROOT / name, tmp_path / name)
    folder = promised / "contracts" / "1.2.3"
    assert contract.broken_seals(folder, tmp_path) == []
    assert len(contract.seals(tmp_path)) == 2 * len(HISTORY[1:])
    revision = min(tmp_path.glob("alembic/versions/*.py"))
    revision.write_text(revision.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    exported = max(tmp_path.glob("supabase/migrations/*.sql"))
    exported.unlink()
    assert contract.broken_seals(folder, tmp_path) == [
        path.relative_to(tmp_path).as_posix() for path in (revision, exported)
    ]
