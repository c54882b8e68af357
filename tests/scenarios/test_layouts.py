"""One more layout of the score table takes a ``Layout`` and one new revision: no other code and no other revision."""

import datetime
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from momentum import scores
from momentum.backfill import DayRange, Settings, run_backfill
from momentum.backfill.undo import run_undo
from momentum.errors import NotMigratedError, PreflightError
from momentum.migrate import config, operations
from momentum.scores import LAYOUTS, SCHEMAS, TABLE_NAME, Layout
from momentum.testing import Server
from tests.catalog import snapshot
from tests.growth import place
from tests.migrate.test_script import psql, script
from tests.migrating import (
    HISTORY,
    KEY,
    ONE_OF_EACH,
    REVISIONS,
    current,
    database_with_scores,
    execute,
    fetch,
    migrate_to,
    rows_of,
    run,
    visible,
)
from tests.samples import PREDECESSOR_VIEW, ROWS, SCORE_TABLES, add_user, add_users, write_rows
from tests.server import engine_of

HEAD = HISTORY[-1]
NEXT = "0b5e7c21d8aa"
STOPS = [*HISTORY, NEXT]
TABLE = "public.daily_engagement_scores"
DAYS = DayRange(datetime.date(2024, 3, 1), datetime.date(2024, 3, 10))

POINTS_LAYOUT = Layout(
    name="points",
    columns={"user_id": "uuid", "day": "date", "points": "numeric", "parts": "jsonb"},
    moment="day",
    day="day",
    indexed_day="day",
    key=f"uq_{TABLE_NAME}_user_id_day",
    score="points",
    breakdown="parts",
    default_row={"day": "day", "points": "0", "parts": "'{}'::jsonb"},
    moves_superseded=False,
)

POINTS_SCORES = """
create table public.daily_engagement_scores (
  user_id uuid not null references auth.users (id) on delete cascade,
  day date not null,
  points numeric,
  parts jsonb,
  note text default 'of old'
);
alter table public.daily_engagement_scores enable row level security;
create policy "own rows" on public.daily_engagement_scores for select to authenticated
  using ((select auth.uid()) = user_id);
grant select on public.daily_engagement_scores to authenticated;
"""

OWN_INDEX = "create unique index theirs on public.daily_engagement_scores (user_id, day)"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_has_what_it_needs(layout: Layout) -> None:
    assert layout.name in SCORE_TABLES, (
        f"add a table of the layout {layout.name} to SCORE_TABLES in tests/samples.py, so that all that is tested "
        "with a score table is tested with this one"
    )
    assert {layout.moment, layout.score} <= ROWS[TABLE_NAME].keys(), (
        f"add values for the columns of the layout {layout.name} to ROWS in tests/samples.py"
    )
    for concern in ("adopts", "indexes"):
        found = [r.doc for r in REVISIONS if layout.name in layouts_of(r.module, concern)]
        assert len(found) == 1, (
            f"exactly one revision {concern} the layout {layout.name}: it names it in `layouts`, and {concern!r} in "
            f"`concerns_scores`, as in tests/growth/adopt_points_layout.py; found are {found}"
        )
    assert {f"{schema}.{layout.name}" for schema in SCHEMAS} <= {*config.SCORES}, (
        f"add the layout {layout.name} in each schema to ScoresOption in momentum/scores.py"
    )
    for other in LAYOUTS:
        assert other is layout or not other.columns.keys() <= layout.columns.keys(), (
            f"a table of the layout {layout.name} would be taken for one of {other.name}: one needs a column more"
        )
    assert {"user_id", layout.moment, layout.score, layout.breakdown, *layout.default_row} <= layout.columns.keys()


def layouts_of(module: object, concern: str) -> tuple[str, ...]:
    return getattr(module, "layouts", ()) if concern in getattr(module, "concerns_scores", ()) else ()


@pytest.fixture(autouse=True)
def points_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layout more."""
    monkeypatch.setattr(scores, "LAYOUTS", (*LAYOUTS, POINTS_LAYOUT))
    monkeypatch.setattr(config, "SCORES", (*config.SCORES, "public.points"))


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the script directory with one revision more, on top of head."""
    monkeypatch.setattr(config, "SCRIPTS", copytree(config.SCRIPTS, tmp_path / "alembic"))
    place("adopt_points_layout", ScriptDirectory.from_config(config.alembic_config("")))


@pytest.fixture
def points_url(server: Server) -> Iterator[sa.URL]:
    """A database with a score table of the layout, not migrated."""
    with server.database(migrated=False) as url:
        run(url, POINTS_SCORES)
        yield url


def up(url: sa.URL, revision: str = "head", **options: Any) -> None:
    alembic.command.upgrade(config.alembic_config(url, **options), revision)


def down(url: sa.URL, revision: str = "base", **options: Any) -> None:
    alembic.command.downgrade(config.alembic_config(url, **options), revision)


def recorded(url: sa.URL) -> str | None:
    record: str | None = execute(url, "select (s.*)::text from momentum_internal.score_table as s")
    return record


def add_scores(url: sa.URL) -> None:
    """Give one of two users scores on two days."""
    user, _ = add_users(engine_of(url), 2)
    execute(
        url,
        "insert into public.daily_engagement_scores (user_id, day, points, parts) "
        "values (:user, '2024-03-01', 42.5, '{\"sleep\": 42.5}'), (:user, '2024-03-02', 7, null)",
        user=user,
    )


@pytest.mark.usefixtures("next_revision")
@pytest.mark.parametrize("indexed", [False, True], ids=["our key", "their key"])
def test_a_new_layout_goes_up_is_filled_is_read_goes_down_and_up(
    points_url: sa.URL, tmp_path: Path, indexed: bool
) -> None:
    add_scores(points_url)
    if indexed:
        run(points_url, OWN_INDEX)
    before, rows = visible(snapshot(points_url)), rows_of(points_url)

    up(points_url)
    index = "public.theirs" if indexed else f"public.{POINTS_LAYOUT.key}"
    ours = "f" if indexed else "t"
    assert recorded(points_url) == f"(t,public.daily_engagement_scores,points,f,f,f,{index},{ours})"
    assert rows_of(points_url)[TABLE_NAME] == rows[TABLE_NAME]
    at_head = snapshot(points_url)
    view = "select row_to_json(v)::jsonb - 'user_id' from public.daily_momentum_scores as v order by score_date"
    assert fetch(points_url, view) == [
        {"score": 42.5, "score_date": "2024-03-01", "pillar_breakdown": {"sleep": 42.5}},
        {"score": 7, "score_date": "2024-03-02", "pillar_breakdown": None},
    ]

    report = run_backfill(engine_of(points_url), Settings(DAYS))
    assert (report.inserted, report.present, report.failed, report.left_over) == (2 * len(DAYS) - 2, 2, 0, 0)
    # Other queries name the day's column next to days of their own, and so does what takes the rows back.
    for settings in (Settings(DAYS), Settings(DAYS, active_within=5, count_by_day=True)):
        report = run_backfill(engine_of(points_url), settings)
        assert (report.inserted, report.left_over, report.failed) == (0, 0, 0)
    manifest = tmp_path / "manifest.jsonl"
    days = f"select json_build_object('user_id', user_id, 'day', day) from {TABLE} where points = 0"
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in fetch(points_url, days)), encoding="utf-8")
    for settings in (Settings(DAYS, dry_run=True), Settings(DAYS)):
        undone = run_undo(engine_of(points_url), manifest, settings)
        assert (undone.deleted, undone.kept, undone.failed) == (2 * len(DAYS) - 2, 0, 0)
    assert rows_of(points_url)[TABLE_NAME] == rows[TABLE_NAME]
    assert run_backfill(engine_of(points_url), Settings(DAYS)).inserted == 2 * len(DAYS) - 2
    filled = rows_of(points_url)[TABLE_NAME]
    assert len(filled) == 2 * len(DAYS)
    assert len(fetch(points_url, view)) == 2 * len(DAYS)

    down(points_url)
    assert visible(snapshot(points_url)) == before
    assert rows_of(points_url)[TABLE_NAME] == filled
    up(points_url)
    assert snapshot(points_url) == at_head
    assert rows_of(points_url)[TABLE_NAME] == filled
    down(points_url, purge=True)
    assert visible(snapshot(points_url)) == before
    assert not snapshot(points_url, of="schema | momentum_internal")


@pytest.mark.slow
@pytest.mark.usefixtures("next_revision")
@pytest.mark.parametrize("other", ["", PREDECESSOR_VIEW], ids=["no view", "the app's view"])
def test_each_revision_goes_up_and_down_and_leaves_everything_as_it_was(points_url: sa.URL, other: str) -> None:
    run(
        points_url,
        other.format(schema="public")
        .replace("final_score", "points")
        .replace("score_date", "day")
        .replace("breakdown as", "parts as"),
    )
    add_scores(points_url)
    rows = rows_of(points_url)[TABLE_NAME]
    facts = [snapshot(points_url)]
    for below, revision in pairwise(STOPS):
        up(points_url, revision, existing="adopt", access="close", verify=False)
        after = snapshot(points_url)
        down(points_url, below)
        assert visible(snapshot(points_url)) == visible(facts[-1]), f"{revision} leaves something behind"
        up(points_url, revision, existing="adopt", access="close", verify=False)
        assert snapshot(points_url) == after, f"the second upgrade to {revision} makes something else than the first"
        facts.append(after)
        assert rows_of(points_url)[TABLE_NAME] == rows
        # Nothing is recorded of it, and nobody fills it, before the revision of its layout.
        if revision in HISTORY:
            assert recorded(points_url) is None
            with pytest.raises(NotMigratedError):
                run_backfill(engine_of(points_url), Settings(DAYS))
    for below, before in list(zip(STOPS, facts, strict=True))[-2::-1]:
        down(points_url, below)
        assert visible(snapshot(points_url)) == visible(before), f"{below}, on the way from head to base"
        assert rows_of(points_url)[TABLE_NAME] == rows


@pytest.mark.usefixtures("next_revision")
@pytest.mark.parametrize("found", ONE_OF_EACH)
def test_the_revision_does_nothing_to_other_layouts(server: Server, found: str) -> None:
    url = database_with_scores(server, found)
    try:
        with engine_of(url).begin() as connection:
            write_rows(connection, add_user(connection), 0)
        migrate_to(url, HEAD)
        before, rows, record = snapshot(url), rows_of(url), recorded(url)
        # What depends on the view is no obstacle for a revision that leaves it alone.
        run(url, "create view public.theirs as select * from public.daily_momentum_scores")
        for _ in range(2):
            up(url)
            assert current(url) == NEXT
            assert recorded(url) == record
            down(url, HEAD)
        run(url, "drop view public.theirs")
        assert (snapshot(url), rows_of(url), recorded(url)) == (before, rows, record)
        down(url)
        up(url)
        assert (snapshot(url), recorded(url)) == (before, record)
        assert rows_of(url).items() >= {TABLE_NAME: rows[TABLE_NAME]}.items()
    finally:
        server.drop_database(url)


def refusal_of(migrate: Callable[..., None], url: sa.URL, *target: str) -> str:
    """Return the sentence with which a migration is refused; nothing may have changed."""
    before = snapshot(url)
    with pytest.raises(PreflightError) as refusal:
        migrate(url, *target)
    assert snapshot(url) == before
    message = str(refusal.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_layout_that_no_revision_adopts_is_refused(points_url: sa.URL) -> None:
    assert "public.daily_engagement_scores has the layout points, which no revision" in refusal_of(up, points_url)


@pytest.mark.usefixtures("next_revision")
def test_a_table_that_was_left_to_a_later_revision_is_looked_at_again(points_url: sa.URL) -> None:
    up(points_url, HEAD, verify=False)
    run(points_url, "alter table public.daily_engagement_scores rename to moved")
    assert "There is no table daily_engagement_scores in legacy or public" in refusal_of(up, points_url)
    run(points_url, SCORE_TABLES["seed"].format(schema="public"))
    assert "has the layout seed, which no revision after" in refusal_of(up, points_url)
    run(
        points_url,
        "drop table public.daily_engagement_scores; alter table public.moved rename to daily_engagement_scores",
    )
    run(points_url, "create view public.daily_momentum_scores as select 1 as one")
    assert "view public.daily_momentum_scores; existing=adopt" in refusal_of(up, points_url)
    # It isn't ours to drop on the way back either.
    down(points_url, KEY)
    assert snapshot(points_url, of="view | public.daily_momentum_scores")


@pytest.mark.usefixtures("next_revision")
def test_several_rows_per_user_and_day_are_refused(points_url: sa.URL) -> None:
    add_scores(points_url)
    run(points_url, "insert into public.daily_engagement_scores select * from public.daily_engagement_scores limit 1")
    message = refusal_of(up, points_url)
    assert "has 1 day on which a user has more than one row, and no unique index on user_id and day;" in message
    # The revision that makes the key refuses them, and no other.
    up(points_url, HEAD, verify=False)


@pytest.mark.usefixtures("next_revision")
def test_a_deferrable_key_is_refused(points_url: sa.URL) -> None:
    run(points_url, "alter table public.daily_engagement_scores add constraint later unique (user_id, day) deferrable")
    assert "no upsert on user_id and day would work" in refusal_of(up, points_url)


@pytest.mark.usefixtures("next_revision")
@pytest.mark.parametrize("further", ["base", "head"])
def test_a_way_that_was_interrupted_goes_on_in_either_direction(
    points_url: sa.URL, monkeypatch: pytest.MonkeyPatch, further: str
) -> None:
    add_scores(points_url)
    before, rows = visible(snapshot(points_url)), rows_of(points_url)[TABLE_NAME]
    up(points_url)
    at_head = snapshot(points_url)

    def interrupt(op: Operations, *_: object) -> None:
        with op.get_context().autocommit_block():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(operations, "try_patiently", interrupt)
        with pytest.raises(KeyboardInterrupt):
            down(points_url)
    assert current(points_url) == HEAD
    assert snapshot(points_url, of=POINTS_LAYOUT.key)
    if further == "head":
        up(points_url)
        assert snapshot(points_url) == at_head
    down(points_url)
    assert visible(snapshot(points_url)) == before
    with monkeypatch.context() as patch:
        patch.setattr(operations, "try_patiently", interrupt)
        with pytest.raises(KeyboardInterrupt):
            up(points_url)
    assert recorded(points_url) is not None
    if further == "head":
        up(points_url)
        assert snapshot(points_url) == at_head
    down(points_url)
    assert visible(snapshot(points_url)) == before
    assert rows_of(points_url)[TABLE_NAME] == rows


@pytest.mark.usefixtures("next_revision")
def test_a_downgrade_is_refused_as_long_as_others_depend_on_its_view_or_key(points_url: sa.URL) -> None:
    up(points_url)
    run(points_url, "create view public.theirs as select user_id from public.daily_momentum_scores")
    for target in (HEAD, "base"):
        assert "view public.theirs depends on public.daily_momentum_scores" in refusal_of(down, points_url, target)
    run(points_url, "drop view public.theirs")
    run(
        points_url,
        "create table public.visits (user_id uuid, day date, constraint visits_key foreign key (user_id, day) "
        "references public.daily_engagement_scores (user_id, day))",
    )
    for target in (HEAD, "base"):
        assert f"visits_key on public.visits depends on public.{POINTS_LAYOUT.key}" in refusal_of(
            down, points_url, target
        )


@pytest.mark.slow
@pytest.mark.usefixtures("next_revision")
@pytest.mark.parametrize("found", [*ONE_OF_EACH, "public.points"])
def test_a_script_does_the_same(server: Server, points_url: sa.URL, found: str) -> None:
    url = points_url if found == "public.points" else database_with_scores(server, found)
    before = visible(snapshot(url))
    up(url)
    at_head, record = snapshot(url), recorded(url)
    down(url)
    for _ in range(2):
        done = psql(url, script("upgrade", "head", scores=found))
        assert done.returncode == 0, done.stderr
        assert (snapshot(url), recorded(url)) == (at_head, record)
        done = psql(url, script("downgrade", "head:base", scores=found))
        assert done.returncode == 0, done.stderr
        assert visible(snapshot(url)) == before
    for other in {*ONE_OF_EACH, "public.points"} - {found}:
        done = psql(url, script("upgrade", "head", scores=other))
        assert done.returncode == 3
        assert visible(snapshot(url, of=TABLE_NAME)) == [fact for fact in before if TABLE_NAME in fact]
        down(url)
    if url != points_url:
        server.drop_database(url)
