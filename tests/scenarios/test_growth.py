"""The path is open: revisions of each kind of change on top of head keep every promise that the real ones keep."""

import io
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from momentum.errors import PreflightError
from momentum.testing import Server
from momentum.verify import compare as verify
from tests.catalog import differences, snapshot
from tests.growth import NEW_VALUES, ROWS, STEPS, Growth, grow
from tests.migrate.test_script import psql
from tests.migrating import HISTORY, current, database_with_scores, execute, fetch, run, visible
from tests.samples import Values, add_user, lost, values_of, write_rows
from tests.scenarios.test_kill import SEED, Gate, kill, start
from tests.scenarios.test_lock_budget import WORDS, Recorder
from tests.server import engine_of
from tools.contract_rules import Kind, compare_contracts
from tools.exported_sql import export_with
from tools.supabase_sql import export

pytestmark = pytest.mark.slow

HEAD = HISTORY[-1]


@pytest.fixture(scope="module")
def growth(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Growth]:
    """The history with the next revisions on top."""
    with pytest.MonkeyPatch.context() as patch, server.database() as url:
        yield grow(url, tmp_path_factory.mktemp("growth") / "alembic", patch)


def write(url: sa.URL, ordinal: int) -> None:
    """Write a row into each table that stands, as clients at that revision would."""
    with engine_of(url).begin() as connection:
        write_rows(connection, add_user(connection), ordinal, ROWS)


@pytest.mark.parametrize("scores", ["fresh", "legacy.seed", "public.production"])
def test_no_value_is_lost_at_any_stop(server: Server, growth: Growth, scores: str) -> None:
    url = database_with_scores(server, scores)
    top, stops = growth.history[-1], growth.history[growth.history.index(HEAD) :]
    # The whole way, then step by step, then from each revision to head and back.
    journey = [top, "base", *stops, *stops[::-1], top]
    journey += [stop for revision in stops[1:-1] for stop in (HEAD, revision)]
    seen: Values = {}
    for ordinal, stop in enumerate(journey):
        growth.migrate(url, stop)
        now = values_of(url, ROWS)
        assert not lost(seen, now), f"values are gone at stop {ordinal}, {stop}"
        write(url, ordinal)
        seen = values_of(url, ROWS)
    new = {(table, column) for table, columns in NEW_VALUES.items() for column in columns}
    assert new <= {(table, column) for table, _, column in seen}, "nothing was ever written into what is new"
    assert len(seen) > 500
    server.drop_database(url)


def test_each_revision_leaves_nothing_behind(url: sa.URL, growth: Growth) -> None:
    """Apart from what is parked or private, and from the validity of a rule: no row can have broken it meanwhile."""

    def valid(facts: list[str]) -> list[str]:
        return [re.sub(r"^(constraint \| \S+ \| \S+) \| [tf]|( NOT VALID)$", r"\1", fact) for fact in facts]

    for below, revision in pairwise(growth.history[growth.history.index(HEAD) :]):
        before = valid(visible(snapshot(url)))
        growth.migrate(url, revision)
        after = snapshot(url)
        growth.migrate(url, below)
        assert valid(visible(snapshot(url))) == before, f"{revision} leaves something behind"
        growth.migrate(url, revision)
        assert snapshot(url) == after, f"the second upgrade to {revision} makes something other than the first"
    growth.migrate(url, HEAD)
    assert differences(url) == [], "verify ignores parked objects"


# What each of the next changes means to others; one that only fills a column changes nothing for them.
CLASSES = {
    "add weather and more": Kind.ADDITIVE,  # nullable or with a default; a check and keys of new columns
    "add momentum trials": Kind.ADDITIVE,
    "add rules for events": Kind.BREAKING,  # a check, another default
    "let_users_read": Kind.BREAKING,  # also a trigger, and a right taken away
    "add kind": Kind.ADDITIVE,
    "fill_kind": None,
    "park motivation type": Kind.BREAKING,
    "drop things": Kind.BREAKING,
}


def test_each_change_is_breaking_additive_or_internal_to_others(url: sa.URL, growth: Growth) -> None:
    def facts() -> dict[str, str]:
        with engine_of(url).connect() as connection, verify.pinned(connection):
            return verify.read_facts_of(connection, [*verify.RELATIONS, "public.momentum_trials"])

    found: dict[str, Kind | None] = {}
    for name, _ in STEPS:
        # Its keys and indexes may have a revision of their own.
        slug = name.replace(" ", "_")
        revisions = [each for each in growth.history[1:] if slug in Path(growth.scripts.get_revision(each).path).name]
        before = facts()
        growth.migrate(url, revisions[-1])
        kinds = [change.kind for change in compare_contracts(before, facts())]
        found[name] = min(kinds, key=list(Kind).index, default=None)
    assert found == CLASSES


def test_the_migrations_and_the_models_agree_after_a_journey(url: sa.URL, growth: Growth) -> None:
    for stop in (growth.history[-1], "base", growth.history[-1]):
        growth.migrate(url, stop)
    alembic.command.check(growth.config(url))


def test_a_migration_may_be_killed_at_any_moment(server: Server, growth: Growth, tmp_path: Path) -> None:
    top, chance = growth.history[-1], random.Random(SEED)  # noqa: S311
    ini = tmp_path / "alembic.ini"
    settings = Path("alembic.ini").read_text(encoding="utf-8")
    ini.write_text(settings.replace("momentum:../alembic", str(growth.folder)), encoding="utf-8")
    targets = {"up": top, "down": HEAD}
    with server.database() as url, server.database() as undisturbed:
        messages = {}
        for direction in ("up", "down", "up"):
            with (
                Gate(undisturbed) as gate,
                start(gate.url, direction, ini=str(ini), target=targets[direction]) as process,
            ):
                assert process.wait() == 0, f"{direction} fails even when nobody interrupts"
            messages[direction] = gate.sent
        for ordinal, direction in enumerate(["up", "down"] * 3):
            growth.migrate(url, HEAD if direction == "up" else top)
            write(url, ordinal)
            before = values_of(url, ROWS)
            message, forwarded = chance.randint(1, messages[direction]), chance.random() < 0.5
            what = f"{direction}, killed at message {message} of {messages[direction]} (MOMENTUM_KILLS_SEED={SEED})"
            kill(url, direction, message, forwarded=forwarded, ini=str(ini), target=targets[direction])
            growth.migrate(url, top)
            assert not lost(before, values_of(url, ROWS)), what
            assert snapshot(url) == snapshot(undisturbed), what
            assert not execute(url, "select exists (select from pg_index where not indisvalid)"), what


def script(growth: Growth, direction: str, revisions: str) -> str:
    """Return what Alembic writes with --sql."""
    config = growth.config("postgresql://unused@localhost/unused")
    config.output_buffer = io.StringIO()
    getattr(alembic.command, direction)(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def test_scripts_do_the_same(server: Server, growth: Growth) -> None:
    top = growth.history[-1]
    with server.database() as url, server.database() as online:
        write(url, 1)
        growth.migrate(online, top)
        for direction, revisions, there in (
            ("upgrade", f"{HEAD}:{top}", top),
            ("downgrade", f"{top}:{HEAD}", HEAD),
            ("upgrade", f"{HEAD}:{top}", top),
        ):
            before = values_of(url, ROWS)
            done = psql(url, script(growth, direction, revisions))
            assert done.returncode == 0, done.stderr
            assert current(url) == there
            assert not lost(before, values_of(url, ROWS))
            write(url, 2 if direction == "downgrade" else 3 + len(before))
        assert snapshot(url) == snapshot(online)


def test_nothing_locks_clients_out(url: sa.URL, growth: Growth) -> None:
    recorder = Recorder(url)
    recorder.config = growth.config
    stops = growth.history[growth.history.index(HEAD) :]
    write(url, 1)
    ways = [("upgrade", above, above) for above in stops[1:]]
    ways += [("downgrade", below, above) for below, above in list(pairwise(stops))[::-1]]
    held = {
        (direction, Path(growth.scripts.get_revision(revision).path).name, relation, mode)
        for direction, target, revision in ways
        for _, relation, mode in recorder.locks(direction, target, revision)
    }
    for direction, file, relation, mode in held:
        said = f"{direction} {file} takes {mode} on {relation}"
        if relation == "auth.users":
            assert WORDS.index(mode) <= WORDS.index("SHARE ROW EXCLUSIVE"), said
        assert "daily_engagement_scores" not in relation, said
    assert len(held) > 20, "the recorder saw next to nothing"


def test_purge_drops_parked_columns_and_tables_new_ones_included(url: sa.URL, growth: Growth) -> None:
    for ordinal, stop in enumerate(growth.history[growth.history.index(HEAD) :]):
        growth.migrate(url, stop)
        write(url, ordinal)
    run(url, "alter table public.habit_index add column parked_at timestamptz")
    run(url, "create table momentum_internal.theirs ()")
    top = growth.history[-1]
    parked = (
        "select attname from pg_attribute where attrelid = to_regclass(:table) and attname like 'parked%' order by 1"
    )
    assert fetch(url, parked, table="public.motivation_journal") == ["parked_energy", "parked_motivation_type"]
    run(url, "create view public.theirs as select parked_energy from public.motivation_journal")
    with pytest.raises(
        PreflightError, match=r"view public\.theirs depends on public\.motivation_journal\.parked_energy"
    ):
        growth.migrate(url, top, purge=True)
    run(url, "drop view public.theirs")
    before = values_of(url, ROWS)
    growth.migrate(url, top, purge=True)
    assert fetch(url, parked, table="public.motivation_journal") == []
    assert fetch(url, parked, table="public.habit_index") == ["parked_at"], "a column of somebody else's was dropped"
    gone = {(table, column) for table, _, column in lost(before, values_of(url, ROWS))}
    goals = {(table, column) for table, _, column in before if table == "momentum_trials"}
    assert (
        gone
        == {("motivation_journal", "energy"), ("motivation_journal", "motivation_type"), ("habit_index", "other_id")}
        | goals
    )
    # The way back makes them again, empty.
    for stop in (HEAD, top, "base"):
        growth.migrate(url, stop)
    growth.migrate(url, "base", purge=True)
    left = fetch(url, "select relname from pg_class where relnamespace = to_regnamespace('momentum_internal')")
    assert left == ["theirs"]


def test_generated_files_pass_the_linters(growth: Growth) -> None:
    """Once the hooks of alembic.ini have run, which a program that calls Alembic doesn't have."""
    new = [growth.scripts.get_revision(revision).path for revision in growth.history if revision not in HISTORY]
    settings = ["--quiet", "--config", "pyproject.toml"]
    for arguments in (["check", "--fix"], ["format"], ["check", "--no-fix"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, *settings, *new]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "--fix" in arguments, done.stdout


def test_the_sql_passes_the_linters(growth: Growth, tmp_path: Path) -> None:
    for direction, revisions in (("upgrade", "head"), ("downgrade", "head:base")):
        sql = export_with(growth.config("postgresql://unused@localhost/unused"), direction, revisions)
        assert sql.count("CREATE TABLE public.momentum_trials") == 1, "the linters see the statements inside a DO block"
        (tmp_path / f"{direction}.sql").write_text(sql, encoding="utf-8")
    folder = Path(sys.executable).parent
    for command in (
        ["sqlfluff", "lint", "--disable-progress-bar", "--config", "tools/exported_sql.cfg", str(tmp_path)],
        ["squawk", "--reporter", "gcc", *map(str, tmp_path.glob("*.sql"))],
    ):
        done = subprocess.run([folder / command[0], *command[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_transaction_that_was_handed_in_makes_the_same(server: Server, growth: Growth) -> None:
    with server.database() as url, server.database() as usual:
        growth.migrate(usual, growth.history[-1])
        config = growth.config("")
        with engine_of(url).begin() as connection:
            connection.execute(sa.text("select 1"))
            config.attributes["connection"] = connection
            for command, revision in (("upgrade", "head"), ("downgrade", HEAD), ("upgrade", "head")):
                getattr(alembic.command, command)(config, revision)
        assert current(url) == growth.history[-1]
        assert snapshot(url) == snapshot(usual)


def test_the_supabase_cli_gets_the_same(server: Server, growth: Growth) -> None:
    """Each file is one transaction, in a project that has pushed the files up to head."""
    revisions = [growth.scripts.get_revision(each) for each in growth.history if each not in HISTORY]
    with server.database() as url, server.database() as usual:
        write(url, 1)
        growth.migrate(usual, growth.history[-1])
        for file, sql in export(revisions, growth.scripts).items():
            assert re.fullmatch(r"\d{14}_\w+\.sql", file)
            run(url, sql)
        assert current(url) == growth.history[-1]
        assert snapshot(url) == snapshot(usual)
        growth.migrate(url, HEAD)
