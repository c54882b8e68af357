"""The backfill as a function: every eligible user-day has a row, nothing else has changed, the counts are true."""

import datetime
import itertools
import math
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH

from momentum.backfill import DayRange, Observers, Report, Settings, fill, pace, run_backfill
from momentum.backfill import run as run_module
from momentum.backfill.discrepancies import Discrepancy
from momentum.backfill.eligibility import Eligibility
from momentum.backfill.fill import Failure, Progress
from momentum.backfill.pages import Gaps, KeyRange, Pages
from momentum.backfill.settings import Limits
from momentum.connect.engine import create_engine
from momentum.connect.pipeline import Answer, ready
from momentum.errors import NotMigratedError
from momentum.scores import LAYOUTS, Layout
from momentum.testing import Server
from momentum.testing.servers import migrate
from tests.backfilling import run_out_of_time, statements_of
from tests.fixture import load_fixture
from tests.migrating import HISTORY, database_with_scores, migrate_to, run
from tests.samples import add_users, refuse_rows
from tests.server import engine_of

FIRST = datetime.date(2026, 2, 20)
LAST = datetime.date(2026, 3, 5)
DAYS = DayRange(FIRST, LAST)

# A trigger of the app's, which changes nothing.
WATCHER = """
create function public.note() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger notes before insert on legacy.daily_engagement_scores for each row execute function public.note();
"""

# The rules once more, as one plain statement that shares nothing with the code: user-days that should have a row.
ELIGIBLE = """
select u.id as user_id, d.day::date as day
from auth.users as u
cross join generate_series(cast(:first as date)::timestamp, cast(:last as date)::timestamp, '1 day') as d (day)
where
  u.deleted_at is null
  and (u.banned_until is null or u.banned_until <= now())
  and (u.created_at is null or u.created_at < (d.day + interval '1 day') at time zone 'UTC')
"""
MISSING = f"""
select count(*) from ({ELIGIBLE}) as e
where not exists (
  select from legacy.daily_engagement_scores as s
  where s.user_id = e.user_id and (s.score_ts at time zone 'UTC')::date = e.day
)
"""


def utc(day: datetime.date, hour: int = 0, minute: int = 0) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time(hour, minute), datetime.UTC)


NOON = utc(LAST, 12)


@pytest.fixture
def engine(url: sa.URL) -> sa.Engine:
    return engine_of(url)


def add_score(
    engine: sa.Engine, user: uuid.UUID, moment: datetime.datetime, score: float, breakdown: str = "{}"
) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text("""
                insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
                values (:user, :moment, :score, cast(:breakdown as jsonb))
            """),
            {"user": user, "moment": moment, "score": score, "breakdown": breakdown},
        )


def scores(engine: sa.Engine) -> list[str]:
    """Return every row of the score table as text."""
    with engine.connect() as connection:
        return list(
            connection.scalars(sa.text("select s::text from legacy.daily_engagement_scores as s order by s.id"))
        )


def days_of(engine: sa.Engine, user: uuid.UUID) -> set[datetime.date]:
    with engine.connect() as connection:
        return set(
            connection.scalars(
                sa.text("select score_date from public.daily_momentum_scores where user_id = :user"), {"user": user}
            )
        )


def missing(engine: sa.Engine, days: DayRange = DAYS) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text(MISSING), {"first": days.first, "last": days.last}).scalar_one())


def sums_hold(report: Report) -> bool:
    return report.eligible == report.present + report.inserted + report.raced + report.failed


@pytest.mark.parametrize("count", [0, 499, 500, 501, 1000, 1001])
def test_every_user_gets_a_row_around_the_page_and_commit_sizes(engine: sa.Engine, count: int) -> None:
    add_users(engine, count)
    report = run_backfill(engine, Settings(DayRange(LAST, LAST)))
    assert (report.inserted, report.eligible, report.users) == (count, count, count)
    assert report.pages == -(-count // 500)
    assert report.commits == -(-count // 1000)
    assert missing(engine, DayRange(LAST, LAST)) == 0
    again = run_backfill(engine, Settings(DayRange(LAST, LAST)))
    assert (again.inserted, again.present, again.pages, again.commits) == (0, count, 0, 0)


def test_the_default_row_is_score_zero_at_midnight_utc_and_says_where_it_comes_from(engine: sa.Engine) -> None:
    [user] = add_users(engine)
    run_backfill(engine, Settings(DayRange(LAST, LAST)))
    with engine.connect() as connection:
        row = connection.execute(
            sa.text("select user_id, score_ts, score, pillar_breakdown, source from legacy.daily_engagement_scores")
        ).one()
    assert tuple(row) == (user, utc(LAST), Decimal(0), {}, "backfill")


def test_existing_rows_are_never_touched(engine: sa.Engine) -> None:
    [user] = add_users(engine)
    add_score(engine, user, utc(FIRST, 23, 59), 42.5, '{"sleep": 42.5}')
    add_score(engine, user, utc(LAST), 0)
    before = scores(engine)
    report = run_backfill(engine, Settings(DAYS))
    assert set(before) <= set(scores(engine))
    assert (report.present, report.inserted) == (2, len(DAYS) - 2)
    after = scores(engine)
    run_backfill(engine, Settings(DAYS))
    assert scores(engine) == after


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        (utc(FIRST) - datetime.timedelta(days=1), len(DAYS)),
        (utc(FIRST, 23, 59), len(DAYS)),
        (utc(LAST), 1),
        (utc(LAST, 23, 59), 1),
        (utc(LAST) + datetime.timedelta(days=1), 0),
        (None, len(DAYS)),
    ],
)
def test_a_user_is_eligible_from_the_utc_day_of_joining(
    engine: sa.Engine, created: datetime.datetime | None, expected: int
) -> None:
    [user] = add_users(engine, created_at=created)
    report = run_backfill(engine, Settings(DAYS))
    assert report.eligible == expected
    assert days_of(engine, user) == set(list(DAYS)[len(DAYS) - expected :])


def test_deleted_and_banned_users_get_no_rows_and_former_bans_do_not_count(engine: sa.Engine) -> None:
    now = datetime.datetime.now(datetime.UTC)
    add_users(engine, deleted_at=now)
    add_users(engine, banned_until=now + datetime.timedelta(hours=1))
    add_users(engine, banned_until="infinity")
    [unbanned] = add_users(engine, banned_until=now - datetime.timedelta(hours=1))
    [anonymous] = add_users(engine, is_anonymous=True)
    report = run_backfill(engine, Settings(DayRange(LAST, LAST)))
    assert (report.users, report.inserted) == (2, 2)
    assert days_of(engine, unbanned) == days_of(engine, anonymous) == {LAST}


def test_accounts_with_infinite_dates_are_read(engine: sa.Engine) -> None:
    add_users(engine, created_at="-infinity", last_sign_in_at="infinity")
    add_users(engine, created_at="infinity")
    assert run_backfill(engine, Settings(DAYS, active_within=1)).inserted == len(DAYS)


def test_older_accounts_tables_without_the_optional_columns_will_do(server: Server, engine: sa.Engine) -> None:
    with engine_of(server.as_admin(engine.url)).begin() as connection:
        for column in ("banned_until", "deleted_at", "last_sign_in_at", "is_anonymous", "created_at"):
            connection.exec_driver_sql(f"alter table auth.users drop column {column}")
        connection.exec_driver_sql("insert into auth.users (id) values (gen_random_uuid())")
    assert run_backfill(engine, Settings(DAYS)).inserted == len(DAYS)
    assert run_backfill(engine, Settings(DAYS, active_within=3)).eligible == 0


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Pacific/Kiritimati", "Europe/Berlin", "UTC"])
def test_the_session_time_zone_changes_nothing(url: sa.URL, engine: sa.Engine, zone: str) -> None:
    days = DayRange(datetime.date(2026, 3, 28), datetime.date(2026, 3, 30))
    [user] = add_users(engine, created_at=utc(days.first, 23, 30))
    add_score(engine, user, utc(days.first, 23, 30), 7)
    elsewhere = create_engine(
        url.update_query_dict({"options": f"-c timezone={zone}"}), application_name="momentum-tests"
    )
    report = run_backfill(elsewhere, Settings(days, active_within=2))
    assert report.eligible == 0, "no sign-in and no event: nobody is recently active"
    report = run_backfill(elsewhere, Settings(days))
    assert (report.present, report.inserted) == (1, 2)
    with engine.connect() as connection:
        moments = connection.scalars(
            sa.text("select score_ts from legacy.daily_engagement_scores where source = 'backfill' order by 1")
        ).all()
    assert moments == [utc(datetime.date(2026, 3, 29)), utc(datetime.date(2026, 3, 30))]


@pytest.mark.parametrize(
    ("first", "last", "length"),
    [("2024-02-27", "2024-03-01", 4), ("2026-02-27", "2026-03-01", 3), ("2025-12-31", "2026-01-01", 2)],
)
def test_month_ends_and_leap_days_are_days_like_others(engine: sa.Engine, first: str, last: str, length: int) -> None:
    days = DayRange(datetime.date.fromisoformat(first), datetime.date.fromisoformat(last))
    [user] = add_users(engine)
    assert run_backfill(engine, Settings(days)).inserted == length
    assert days_of(engine, user) == set(days)


def test_a_dry_run_counts_what_the_real_run_inserts_and_writes_nothing(server: Server) -> None:
    last = datetime.date(2026, 3, 31)
    days = DayRange(last - datetime.timedelta(days=19), last)
    with server.database(migrated=False) as url:
        load_fixture(url, users=300, days=20, last=last)
        migrate(url)
        engine = engine_of(url)
        before = scores_as_found(engine)
        dry = run_backfill(engine, Settings(days, dry_run=True))
        assert scores_as_found(engine) == before
        real = run_backfill(engine, Settings(days))
        assert dry.inserted > 0
        assert (dry.users, dry.eligible, dry.present, dry.inserted) == (
            real.users,
            real.eligible,
            real.present,
            real.inserted,
        )
        assert dry.discrepancies == real.discrepancies != 0
        with engine.connect() as connection:
            by_day = connection.execute(
                sa.text("select score_date, count(*) from public.daily_momentum_scores group by score_date")
            )
            filled = {row[0]: row[1] for row in by_day}
            found = {day: sum(1 for row in before if row[1] == day) for day in days}
        assert dry.missing_by_day == {day: filled[day] - found[day] for day in days if filled[day] > found[day]}
        assert missing(engine, days) == 0
        assert sums_hold(dry)
        assert sums_hold(real)


def scores_as_found(engine: sa.Engine) -> list[tuple[object, ...]]:
    """Return the rows of an adopted table, with their UTC day."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text("""
                select user_id, (score_ts at time zone 'UTC')::date, score_ts, score, pillar_breakdown::text
                from legacy.daily_engagement_scores order by 1, 2
            """)
        )
        return [tuple(row) for row in rows]


def test_a_dry_run_could_not_write_if_it_tried(engine: sa.Engine) -> None:
    add_users(engine, 3)
    seen: list[str] = []

    sa.event.listen(engine, "before_cursor_execute", lambda _1, _2, statement, *_: seen.append(statement.lower()))
    run_backfill(engine, Settings(DAYS, dry_run=True))
    assert all(line.endswith(" read only") for line in seen if line.startswith("begin"))
    assert not any("insert into" in line for line in seen)


def test_only_the_users_asked_for_are_filled(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    wanted, other = add_users(engine, 2)
    nobody = uuid.uuid4()
    report = run_backfill(engine, Settings(DAYS, users=(wanted, nobody)))
    assert report.inserted == len(DAYS)
    assert days_of(engine, wanted) == set(DAYS)
    assert days_of(engine, other) == set()
    assert [record.getMessage() for record in caplog.records] == [f"there is no user {nobody} in auth.users"]


def test_active_within_counts_sign_ins_and_events(engine: sa.Engine) -> None:
    add_users(engine)  # never seen
    [recent] = add_users(engine, last_sign_in_at=utc(FIRST - datetime.timedelta(days=3)))
    [late] = add_users(engine, last_sign_in_at=utc(FIRST - datetime.timedelta(days=3)) - datetime.timedelta(seconds=1))
    [eventful] = add_users(engine)
    event_day = FIRST + datetime.timedelta(days=4)
    with engine.begin() as connection:
        connection.execute(
            sa.text("insert into public.momentum_events (user_id, event_type, event_ts) values (:u, 'log', :t)"),
            [{"u": eventful, "t": utc(event_day, 23, 59)}],
        )
        connection.execute(
            sa.text("""
                insert into public.momentum_events (user_id, event_type, event_ts, deleted_at)
                values (:u, 'x', :t, now())
            """),
            {"u": late, "t": utc(event_day)},
        )
    report = run_backfill(engine, Settings(DAYS, active_within=3))
    assert days_of(engine, recent) == set(DAYS)
    assert days_of(engine, late) == set()
    assert days_of(engine, eventful) == {event_day + datetime.timedelta(days=n) for n in range(3)}
    assert (report.users, report.inserted) == (2, len(DAYS) + 3)
    assert report.left_over == 0


def test_what_happened_by_the_moment_of_the_start_counts_and_a_day_begins_at_its_midnight(engine: sa.Engine) -> None:
    start, later = NOON, NOON + datetime.timedelta(microseconds=1)
    sign_in = utc(LAST - datetime.timedelta(days=2))
    people = {
        "just joined": add_users(engine, created_at=start, last_sign_in_at=start),
        "joined later": add_users(engine, created_at=later, last_sign_in_at=start),
        "just free": add_users(engine, banned_until=start, last_sign_in_at=start),
        "free later": add_users(engine, banned_until=later, last_sign_in_at=start),
        "just seen": add_users(engine, last_sign_in_at=sign_in),
        "seen before": add_users(engine, last_sign_in_at=sign_in - datetime.timedelta(microseconds=1)),
        "at midnight": add_users(engine),
        "just recorded": add_users(engine),
        "recorded later": add_users(engine),
    }
    events = [
        {"user": people[name][0], "moment": moment, "recorded": recorded}
        for name, moment, recorded in (
            ("at midnight", utc(LAST), start),
            ("just recorded", utc(LAST) - datetime.timedelta(microseconds=1), start),
            ("recorded later", utc(LAST), later),
        )
    ]
    days = DayRange(LAST - datetime.timedelta(days=1), LAST)
    columns = frozenset({"created_at", "deleted_at", "banned_until", "last_sign_in_at"})
    eligibility = Eligibility(columns, days, start, (), active_within=1)
    active = eligibility.active_users()
    day = eligibility.days_of(active).lateral("day")
    with engine.begin() as connection:
        connection.execute(
            sa.text("""
                insert into public.momentum_events (user_id, event_type, event_ts, created_at)
                values (:user, 'x', :moment, :recorded)
            """),
            events,
        )
        rows = connection.execute(sa.select(active.c.id, day.c.day).select_from(active.join(day, sa.true()))).all()
    found = {name: sorted(found for user, found in rows if user == users[0]) for name, users in people.items()}
    assert found == {
        "just joined": [LAST],
        "joined later": [],
        "just free": list(days),
        "free later": [],
        "just seen": list(days),
        "seen before": [],
        "at midnight": [LAST],
        "just recorded": [days.first],
        "recorded later": [],
    }


def test_an_adopted_table_in_the_seeds_layout_is_filled_where_it_stands(server: Server) -> None:
    for schema in ("legacy", "public"):
        with server.database(migrated=False) as url:
            engine = engine_of(url)
            with engine.begin() as connection:
                connection.exec_driver_sql("create schema if not exists legacy")
                connection.exec_driver_sql(
                    f"create table {schema}.daily_engagement_scores (user_id uuid not null, "
                    "score_ts timestamptz not null, score numeric(5, 2), pillar_breakdown jsonb)"
                )
            migrate(url)
            [user] = add_users(engine)
            assert run_backfill(engine, Settings(DAYS)).inserted == len(DAYS)
            assert days_of(engine, user) == set(DAYS)


def test_a_user_removed_meanwhile_is_eligible_no_more(engine: sa.Engine) -> None:
    users = sorted(add_users(engine, 600), key=lambda user: user.hex)

    def remove(progress: Progress) -> None:
        """Remove users of whom the run knows that they have gaps, before it fills these."""
        if not progress.report.inserted:
            with engine.begin() as connection:
                connection.execute(sa.text("delete from auth.users where id = any(:ids)"), {"ids": users[550:]})

    report = run_backfill(engine, Settings(DayRange(LAST, LAST)), observers=Observers(remove))
    assert report.eligible == report.inserted == 550
    assert (report.left_over, report.failed) == (0, 0)


def test_a_row_that_the_server_refuses_costs_that_row_alone(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    users = add_users(engine, 700)
    bad = users[333]
    refuse_rows(engine, f"new.user_id = '{bad}'", "raise exception 'not this one';")
    report = run_backfill(engine, Settings(DayRange(LAST, LAST)))
    assert (report.inserted, report.failed, report.left_over) == (699, 1, 1)
    assert not report.recount_disagrees
    assert report.error_rate == pytest.approx(1 / 700)
    assert [record.getMessage() for record in caplog.records] == [f"failed: {LAST} {bad}: P0001 not this one"]


def test_failures_beyond_the_first_are_counted_but_not_named(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    add_users(engine, 30)
    refuse_rows(engine, "true", "raise exception 'never';")
    report = run_backfill(engine, Settings(DayRange(LAST, LAST)))
    assert (report.failed, report.inserted, report.error_rate) == (30, 0, 1.0)
    assert len(caplog.records) == 21


def test_the_first_failures_are_named_and_all_are_counted_and_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    passed_on: list[Failure] = []
    reasons: Counter[tuple[str, str]] = Counter()
    on_failure = run_module.logged(passed_on.append, reasons)
    failures = [Failure(uuid.UUID(int=number), FIRST, "", "no") for number in range(22)]
    for failed in failures:
        on_failure(failed)
    assert passed_on == failures
    assert reasons == {("", "no"): 22}
    *named, last = caplog.messages
    assert named == [f"failed: 2026-02-20 {failed.user_id}: no" for failed in failures[:20]]
    assert last == "more rows failed; only the first 20 are listed"


@pytest.mark.parametrize(
    ("clock", "said"),
    [
        (NOON, []),
        (NOON - datetime.timedelta(seconds=60), []),
        (NOON + datetime.timedelta(seconds=60), []),
        (
            NOON - datetime.timedelta(seconds=61),
            ["this machine's clock is 0:01:01 behind the server's, which says what day it is"],
        ),
        (
            NOON + datetime.timedelta(days=1),
            ["this machine's clock is 1 day, 0:00:00 ahead of the server's, which says what day it is"],
        ),
    ],
)
def test_a_clock_that_differs_is_worth_a_warning_and_decides_nothing(
    engine: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clock: datetime.datetime,
    said: list[str],
) -> None:
    monkeypatch.setattr(run_module, "client_clock", lambda: clock)
    monkeypatch.setattr(run_module, "read_clock", lambda _connection: ready(NOON))
    assert run_module.read_today(engine, Limits()) == LAST
    assert caplog.messages == said


def test_a_row_that_is_silently_skipped_counts_as_failed(engine: sa.Engine) -> None:
    add_users(engine, 3)
    refuse_rows(engine, "true", "return null;")
    report = run_backfill(engine, Settings(DayRange(LAST, LAST)))
    assert (report.failed, report.inserted, report.left_over) == (3, 0, 3)
    assert sums_hold(report)


def test_a_row_that_somebody_else_inserts_first_is_raced(engine: sa.Engine, url: sa.URL) -> None:
    users = sorted(add_users(engine, 2), key=lambda user: user.hex)
    # Not the one that is listened to.
    other = create_engine(url, application_name="momentum-tests")

    @sa.event.listens_for(engine, "before_cursor_execute")
    def insert_first(
        _connection: sa.Connection, _cursor: object, statement: str, _parameters: object, _context: object, _many: bool
    ) -> None:
        if "INSERT INTO" in statement and not days_of(other, users[0]):
            add_score(other, users[0], utc(LAST, 12), 33)

    report = run_backfill(engine, Settings(DayRange(LAST, LAST)))
    assert (report.inserted, report.raced, report.failed, report.eligible) == (1, 1, 0, 2)
    assert report.left_over == 0


def test_an_error_that_will_not_heal_stops_the_run_and_keeps_what_was_committed(engine: sa.Engine) -> None:
    add_users(engine, 1500)

    def spoil(progress: Progress) -> None:
        if progress.report.commits == 1:
            with engine.begin() as connection:
                connection.exec_driver_sql("drop index if exists legacy.uq_daily_engagement_scores_user_id_utc_day")

    with pytest.raises(sa.exc.ProgrammingError):
        run_backfill(engine, Settings(DayRange(LAST, LAST)), observers=Observers(spoil))
    assert missing(engine, DayRange(LAST, LAST)) == 500


def test_commits_come_at_most_so_many_rows_apart_and_pages_end_there(engine: sa.Engine) -> None:
    add_users(engine, 100)
    seen: list[int] = []
    report = run_backfill(
        engine,
        Settings(DayRange(LAST, LAST), page_size=30, commit_every=50),
        observers=Observers(lambda progress: seen.append(progress.report.inserted)),
    )
    assert (report.pages, report.commits, report.inserted) == (4, 2, 100)
    assert sorted(set(seen)) == [0, 50, 100]


def test_a_stopped_run_commits_its_page_counts_what_it_did_and_leaves_the_rest(engine: sa.Engine) -> None:
    add_users(engine, 1200)
    asked = iter([False, False, True])
    done: list[int] = []
    report = run_backfill(
        engine,
        Settings(DAYS, page_size=100, commit_every=1000),
        observers=Observers(lambda progress: done.append(progress.done)),
        should_stop=lambda: next(asked, True),
    )
    assert report.interrupted
    assert done[-1] < 1200, "who was not looked at is not shown as done"
    assert 0 < report.inserted < 1200 * len(DAYS)
    assert sums_hold(report)
    assert len(scores(engine)) == report.inserted
    rest = run_backfill(engine, Settings(DAYS))
    assert rest.inserted + report.inserted == 1200 * len(DAYS)


def test_a_row_that_vanishes_makes_the_recount_disagree(engine: sa.Engine) -> None:
    add_users(engine, 5)

    def remove_a_row(progress: Progress) -> None:
        if progress.done == progress.total:
            with engine.begin() as connection:
                connection.exec_driver_sql("delete from legacy.daily_engagement_scores")

    report = run_backfill(engine, Settings(DayRange(LAST, LAST)), observers=Observers(remove_a_row))
    assert (report.left_over, report.recount_disagrees) == (5, True)


@pytest.mark.parametrize(
    ("breakdown", "score", "expected"),
    [
        ('{"a": 10, "b": 20.5}', 35.5, None),  # exactly 5 points are none
        ('{"a": 10, "b": 20.5}', 35.51, "30.5"),
        ('{"a": 10, "b": 20.5}', 25.49, "30.5"),
        ('{"final_score": 50, "a": 99}', 50, None),
        ('{"final_score": 50, "a": 1}', 1, "50"),
        ('{"final_score": "50", "a": 1}', 50, "1"),
        ('{"a": "text", "b": null, "c": {"d": 9}, "e": [9]}', 50, None),
        ("{}", 50, None),
    ],
)
def test_a_discrepancy_is_a_score_that_its_breakdown_contradicts(
    engine: sa.Engine, breakdown: str, score: float, expected: str | None
) -> None:
    [user] = add_users(engine)
    add_score(engine, user, utc(LAST), score, breakdown)
    found: list[Discrepancy] = []
    report = run_backfill(engine, Settings(DAYS), on_discrepancy=found.append)
    assert report.discrepancies == len(found)
    assert [str(one.breakdown_score) for one in found] == ([expected] if expected else [])
    if found:
        assert found[0].difference == found[0].score - found[0].breakdown_score
        assert (found[0].user_id, found[0].day) == (user, LAST)


def test_discrepancies_are_looked_for_in_the_range_and_for_the_users_asked_for(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, other = add_users(engine, 2)
    for user in (wanted, other):
        for day in (FIRST - datetime.timedelta(days=1), FIRST, LAST, LAST + datetime.timedelta(days=1)):
            add_score(engine, user, utc(day, 12), 90, '{"a": 1}')
    assert run_backfill(engine, Settings(DAYS)).discrepancies == 4
    assert run_backfill(engine, Settings(DAYS, users=(wanted,))).discrepancies == 2
    assert run_backfill(engine, Settings(DAYS, discrepancy_threshold=Decimal(89))).discrepancies == 0
    caplog.clear()
    assert run_backfill(engine, Settings(DAYS, look_for_discrepancies=False)).discrepancies is None
    assert not caplog.records


def test_the_log_names_the_twenty_largest_discrepancies(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    users = sorted(add_users(engine, 25))
    for number, user in enumerate(users):
        # The largest differences are neither at the beginning nor at the end of the way through the users.
        add_score(engine, user, utc(LAST), 10 + (number * 7) % 25, '{"a": 0}')
    run_backfill(engine, Settings(DAYS))
    first, *rows = (record.getMessage() for record in caplog.records)
    assert first == "review: 25 scores differ from their breakdown; the 20 largest:"
    assert [float(row.rpartition("= ")[2]) for row in rows] == [*range(34, 14, -1)]
    [row] = [row for row in rows if row.endswith("= +34")]
    largest = users[next(number for number in range(25) if (number * 7) % 25 == 24)]
    assert row == f"{LAST} {largest} 34 - 0 = +34"
    caplog.clear()
    run_backfill(engine, Settings(DAYS, users=(largest,)))
    assert [record.getMessage() for record in caplog.records] == ["review: 1 score differs from its breakdown:", row]


def test_a_database_without_the_migrations_is_refused(server: Server) -> None:
    with (
        server.database(migrated=False) as url,
        pytest.raises(NotMigratedError, match="upgrade it to head with the momentum migrations"),
    ):
        run_backfill(engine_of(url), Settings(DAYS))


@pytest.mark.slow
@pytest.mark.parametrize("watched", [False, True], ids=["our own table", "with a trigger of the app's"])
@pytest.mark.parametrize("scanned_page", [0, math.inf], ids=["by scan", "by user"])
def test_each_plan_is_the_one_that_was_meant_whatever_the_statistics_say(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, scanned_page: float, watched: bool
) -> None:
    if watched:
        run(engine.url, WATCHER)
    with engine.begin() as connection:
        # Statistics taken while the table was empty, and never since: the planner believes that it still is.
        connection.exec_driver_sql("alter table legacy.daily_engagement_scores set (autovacuum_enabled = off)")
        connection.exec_driver_sql("analyze auth.users, legacy.daily_engagement_scores")
    add_users(engine, 1000)
    plans: list[str] = []
    lengths: list[int] = []
    comparing: list[str] = []
    planners: list[tuple[bool, str, str]] = []
    run_backfill(engine, Settings(DAYS))

    @sa.event.listens_for(engine, "before_cursor_execute")
    def explain(
        connection: sa.Connection, _cursor: object, statement: str, parameters: object, _context: object, _many: bool
    ) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        # Not the INSERT: to explain it executes nothing either.
        looks_or_inserts = "counted" in statement or "INSERT INTO" in statement
        if "daily_engagement_scores" in statement and looks_or_inserts:
            lengths.append(len(statement))
            plans.append("\n".join(row[0] for row in driver.execute(f"explain {statement}", parameters)))
            comparing.extend(plans[-1:] if "pg_catalog.md5" in statement else [])
            row = driver.execute(
                "select current_setting('enable_seqscan'), current_setting('enable_nestloop')"
            ).fetchone()
            planners.append(("Insert on" in plans[-1], *row))

    def delete_some() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "delete from legacy.daily_engagement_scores where id < '20000000-0000-0000-0000-000000000000'"
            )

    monkeypatch.setattr(pace, "SCANNED_PAGE", scanned_page)
    delete_some()
    run_backfill(engine, Settings(DAYS))
    with engine.begin() as connection:
        connection.exec_driver_sql("analyze auth.users, legacy.daily_engagement_scores")
    delete_some()
    run_backfill(engine, Settings(DAYS))
    inserts = [plan for plan in plans if "Insert on" in plan]
    finds = [plan for plan in plans if "Insert on" not in plan]
    assert len(inserts) >= 4
    assert comparing
    assert watched or max(lengths) <= MAX_CACHED_STATEMENT_LENGTH, "the driver would read each anew"
    for plan in inserts:
        before, _, after = plan.partition("CTE Scan on written")
        if watched or plan in comparing:
            result, condition, _ = before.splitlines()[-3:]
            assert "Result" in result
            assert "One-Time Filter" in condition, "what runs for a row is compared before anything of it does"
            assert condition.count("IS NOT NULL") == 1 + watched, "the path of triggers is set before the first fires"
        assert "written_1" in after, "the keys are read from what was written before"
        assert "uq_daily_engagement_scores_user_id_utc_day" in plan
        assert "Seq Scan on daily_engagement_scores" not in plan
        assert "Bitmap" not in plan, "it takes longer the less of the table is in the server's buffers"
    assert len(finds) == 2
    scanning = ("on", "off") if scanned_page == 0 else ("off", "on")
    assert set(planners) == {(True, "off", "on"), (False, *scanning)}
    for plan in finds:
        assert ("Nested Loop" in plan) == (scanned_page == math.inf), "a scan is joined once, not user by user"
        assert scanned_page == 0 or "Seq Scan on daily_engagement_scores" not in plan


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_scan_takes_the_rows_of_the_days_of_the_range(engine: sa.Engine, layout: Layout) -> None:
    moments: list[datetime.date] = [FIRST - datetime.timedelta(days=1), FIRST, LAST, LAST + datetime.timedelta(days=1)]
    if layout.columns[layout.moment] != "date":
        day, instant = datetime.timedelta(days=1), datetime.timedelta(microseconds=1)
        moments = [utc(FIRST) - instant, utc(FIRST), utc(LAST + day) - instant, utc(LAST + day)]
    with engine.connect() as connection:
        connection.exec_driver_sql("set time zone 'America/New_York'")
        rows = connection.execute(
            sa.text(f"""
                select {layout.within_days}, {layout.day} between :first and :last
                from unnest(cast(:moments as {layout.columns[layout.moment]}[])) as score ({layout.moment})
            """),
            {"first": FIRST, "last": LAST, "moments": moments},
        ).all()
    assert [tuple(row) for row in rows] == [(False, False), (True, True), (True, True), (False, False)]


def test_a_database_that_was_set_to_read_only_is_not_written_to(engine: sa.Engine, url: sa.URL) -> None:
    add_users(engine, 3)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"alter database {url.database} set default_transaction_read_only = on")
    assert run_backfill(engine, Settings(DAYS, dry_run=True)).inserted == 3 * len(DAYS)
    with pytest.raises(sa.exc.InternalError, match="read-only transaction"):
        run_backfill(engine, Settings(DAYS))
    assert scores(engine) == []


@pytest.mark.parametrize("style", ["SQL, DMY", "German, DMY", "Postgres, MDY"])
def test_the_date_style_changes_nothing(url: sa.URL, engine: sa.Engine, style: str) -> None:
    [user] = add_users(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"alter database {url.database} set datestyle = {style}")
    assert run_backfill(engine, Settings(DAYS, active_within=3)).eligible == 0
    assert run_backfill(engine, Settings(DAYS)).inserted == len(DAYS)
    assert days_of(engine, user) == set(DAYS)


def test_breakdowns_that_cannot_be_compared_do_not_cost_the_report(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    [user] = add_users(engine)
    add_score(engine, user, utc(LAST), 50, '{"a": 9e131071, "b": 9e131071}')
    report = run_backfill(engine, Settings(DAYS))
    assert (report.inserted, report.left_over, report.discrepancies) == (len(DAYS) - 1, 0, None)
    assert "could not be compared" in caplog.records[-1].getMessage()


def test_a_stop_after_the_filling_leaves_out_the_recount_and_says_so(engine: sa.Engine) -> None:
    add_users(engine, 3)
    filled = False

    def note(progress: Progress) -> None:
        nonlocal filled
        filled = progress.report.inserted == 3 * len(DAYS)

    report = run_backfill(engine, Settings(DAYS), observers=Observers(note), should_stop=lambda: filled)
    assert (report.inserted, report.left_over, report.discrepancies) == (3 * len(DAYS), None, None)
    assert report.interrupted


def test_a_stop_among_the_discrepancies_ends_the_run(engine: sa.Engine) -> None:
    for user in add_users(engine, 3):
        add_score(engine, user, utc(LAST), 90, '{"a": 1}')
    found: list[Discrepancy] = []
    report = run_backfill(engine, Settings(DAYS), on_discrepancy=found.append, should_stop=lambda: len(found) == 2)
    assert (len(found), report.discrepancies, report.interrupted) == (2, None, True)


def test_a_long_range_is_read_a_few_users_at_a_time(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "USER_DAYS", 30_000)
    monkeypatch.setattr(pace, "SCANNED_PAGE", math.inf)
    add_users(engine, 7, created_at=None)
    days = DayRange(LAST - datetime.timedelta(days=9_999), LAST)
    seen: list[int] = []
    report = run_backfill(
        engine, Settings(days, dry_run=True), observers=Observers(lambda p: seen.append(p.report.users))
    )
    assert report.inserted == 7 * len(days)
    assert sorted(set(seen)) == [3, 6, 7]


def users_seen(engine: sa.Engine, settings: Settings) -> list[int]:
    """Run and return how many users had been looked at after each statement that finds gaps."""
    seen: list[int] = []
    report = run_backfill(engine, settings, observers=Observers(lambda progress: seen.append(progress.report.users)))
    assert report.left_over == 0
    return sorted(set(seen))


@pytest.mark.parametrize(
    ("scanned_page", "seen"), [(0, [2, 60]), (math.inf, list(range(2, 61, 2)))], ids=["scan", "look up"]
)
def test_where_little_is_lacking_the_second_scan_is_for_everybody(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, scanned_page: float, seen: list[int]
) -> None:
    add_users(engine, 60)
    run_backfill(engine, Settings(DAYS))
    monkeypatch.setattr(pace, "SCANNED_PAGE", scanned_page)
    monkeypatch.setattr(pace, "USERS", 2)
    assert users_seen(engine, Settings(DAYS)) == seen


@pytest.mark.parametrize("count_by_day", [False, True], ids=["recount", "rows by day"])
def test_a_walk_that_only_counts_reads_everybody_at_once(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, count_by_day: bool
) -> None:
    monkeypatch.setattr(pace, "SCANNED_PAGE", 0)
    monkeypatch.setattr(pace, "SAMPLE", 2)
    add_users(engine, 9)
    counts: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        by_day = "count(*) AS present" in statement and "counted" not in statement
        if by_day if count_by_day else "account as not materialized" in statement:
            counts.append(statement)

    report = run_backfill(engine, Settings(DAYS, count_by_day=count_by_day))
    assert (report.inserted, report.left_over) == (9 * len(DAYS), 0)
    assert len(counts) == 1


@pytest.mark.parametrize(("users", "seen"), [(14, [2, 14]), (15, [2, 10, 15])])
def test_the_last_scan_is_also_for_the_few_who_would_be_left(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, users: int, seen: list[int]
) -> None:
    first = min(add_users(engine, users))
    run_backfill(engine, Settings(DAYS))
    with engine.begin() as connection:
        connection.execute(sa.text("delete from legacy.daily_engagement_scores where user_id = :user"), {"user": first})
    monkeypatch.setattr(pace, "SCANNED_PAGE", 0)
    monkeypatch.setattr(pace, "USERS", 2)
    monkeypatch.setattr(fill, "MOST_GAPS", 8)
    # One of two lacks rows, so there is room for 4 times as many, or half as many more at last.
    assert users_seen(engine, Settings(DAYS)) == seen


def test_a_scan_that_finds_more_than_can_be_held_is_for_fewer_users(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = sorted(add_users(engine, 60))
    run_backfill(engine, Settings(DAYS, users=tuple(users[:10])))
    monkeypatch.setattr(pace, "SCANNED_PAGE", 0)
    monkeypatch.setattr(pace, "USERS", 2)
    monkeypatch.setattr(fill, "MOST_GAPS", 8)
    # One for 32 finds too many; a quarter of these will do.
    assert users_seen(engine, Settings(DAYS)) == [2, 10, *range(18, 60, 8), 60]
    assert len(scores(engine)) == 60 * len(DAYS)


def run_out_of_space(connection: sa.Connection) -> None:
    connection.exec_driver_sql("do $$ begin raise 'no room' using errcode = '53400'; end $$")


@pytest.mark.parametrize(
    ("spoiled", "time", "by"),
    [
        ("AS rows", 3, run_out_of_time),
        ("OFFSET %", 3, run_out_of_time),
        ("AS rows", 3, run_out_of_space),
    ],
    ids=["the scan takes too long", "the look ahead takes too long", "the scan needs too much space"],
)
def test_a_scan_that_fails_for_its_size_is_the_last_one_for_so_many_users(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, spoiled: str, time: int, by: Callable[[sa.Connection], None]
) -> None:
    add_users(engine, 60)
    run_backfill(engine, Settings(DAYS))
    monkeypatch.setattr(pace, "SCANNED_PAGE", 0)
    monkeypatch.setattr(pace, "USERS", 2)
    monkeypatch.setattr(fill, "MOST_GAPS", 8)
    times = 0

    @sa.event.listens_for(engine, "before_cursor_execute")
    def spoil(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        nonlocal times
        if spoiled in statement:
            times += 1
            if times == time:
                by(connection)

    # The third one would have been for 32 users; a quarter of these will do.
    assert users_seen(engine, Settings(DAYS)) == [2, 10, *range(18, 60, 8), 60]


def test_of_a_single_day_a_scan_finds_what_looking_up_each_user_finds(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime.timedelta(hours=12)
    users = add_users(engine, 5) + add_users(engine, 2, created_at=utc(LAST) + noon)
    add_users(engine, created_at=utc(LAST + datetime.timedelta(days=1)))
    add_score(engine, users[0], utc(LAST) + noon, 50)
    add_score(engine, users[1], utc(LAST) - noon, 50)
    add_score(engine, users[5], utc(LAST), 50)
    add_score(engine, users[6], utc(LAST) - noon, 50)
    monkeypatch.setattr(pace, "SAMPLE", 1)
    for scanned_page in (0, math.inf):
        monkeypatch.setattr(pace, "SCANNED_PAGE", scanned_page)
        report = run_backfill(engine, Settings(DayRange(LAST, LAST), dry_run=True))
        assert (report.users, report.eligible, report.present) == (7, 7, 2)
        assert report.missing_by_day == {LAST: 5}


@pytest.mark.parametrize("wants_total", [True, False])
def test_how_much_there_is_is_counted_for_those_who_want_to_know(engine: sa.Engine, wants_total: bool) -> None:
    add_users(engine, 2)
    executed = statements_of(engine)
    totals: set[int | None] = set()
    run_backfill(engine, Settings(DAYS), observers=Observers(lambda p: totals.add(p.total), wants_total=wants_total))
    assert totals == {2 * len(DAYS) if wants_total else None}
    assert sum(statement.startswith("SELECT coalesce(sum((date ") for statement in executed) == wants_total


def test_the_progress_ends_with_all_user_days_settled_if_none_is_eligible(engine: sa.Engine) -> None:
    add_users(engine, 4, last_sign_in_at=None)
    seen: list[tuple[int, int | None]] = []
    observers = Observers(lambda progress: seen.append((progress.done, progress.total)))
    report = run_backfill(engine, Settings(DAYS, active_within=1), observers=observers)
    assert (report.eligible, report.inserted) == (0, 0)
    assert set(seen) == {(4 * len(DAYS), 4 * len(DAYS))}


def test_the_progress_begins_with_no_user_day_settled_and_ends_with_all(engine: sa.Engine) -> None:
    users = add_users(engine, 4)
    add_score(engine, users[0], utc(FIRST), 50)
    seen: list[tuple[int, int | None]] = []
    observers = Observers(lambda progress: seen.append((progress.done, progress.total)))
    total = 4 * len(DAYS)
    run_backfill(engine, Settings(DAYS, page_size=1, commit_every=1), observers=observers)
    assert seen[0] == (1, total), "the row that is there"
    assert seen[1:-1] == [(done, total) for done in range(2, total + 1)]
    assert seen[-1] == (total, total)


def test_a_look_up_that_takes_too_long_even_for_a_single_user_ends_the_run(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_users(engine, 5)
    monkeypatch.setattr(pace, "SCANNED_PAGE", math.inf)
    monkeypatch.setattr(pace, "USERS", 4)
    look_ups = 0

    @sa.event.listens_for(engine, "before_cursor_execute")
    def spoil(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        nonlocal look_ups
        if "LATERAL" in statement:
            look_ups += 1
            run_out_of_time(connection)

    with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
        run_backfill(engine, Settings(DAYS))
    assert look_ups == 3, "for four users, for two and for one"


def test_users_whom_a_scan_cannot_tell_are_looked_up_a_few_at_a_time(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have a row of a day before their account began."""
    users = sorted(add_users(engine, 60))
    for user in users[10:]:
        add_score(engine, user, utc(FIRST), 50)
    with engine.begin() as connection:
        connection.execute(
            sa.text("update auth.users set created_at = :day where id = any(:ids)"),
            {"day": utc(FIRST + datetime.timedelta(days=1)), "ids": users[10:]},
        )
    run_backfill(engine, Settings(DAYS))
    monkeypatch.setattr(pace, "SCANNED_PAGE", 0)
    monkeypatch.setattr(pace, "USERS", 2)
    monkeypatch.setattr(fill, "MOST_GAPS", 8)
    together: list[int] = []
    find_by_user = Pages.find_by_user

    def note(pages: Pages, connection: sa.Connection, keys: KeyRange | Sequence[uuid.UUID]) -> Answer[Gaps]:
        assert not isinstance(keys, KeyRange)
        together.append(len(keys))
        return find_by_user(pages, connection, keys)

    monkeypatch.setattr(Pages, "find_by_user", note)
    # A scan for 32 would leave too many of them, and one for 8 is as large as they get from then on.
    assert users_seen(engine, Settings(DAYS)) == [2, 10, *range(18, 60, 8), 60]
    assert set(together) == {2}


def test_scores_of_users_who_are_gone_are_compared_however_many_they_are(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come after the last account, where there are no fewer users to read."""
    url = database_with_scores(server, "legacy.seed")
    try:
        migrate_to(url, HISTORY[-1])
        run(
            url,
            """
            alter table legacy.daily_engagement_scores drop constraint daily_engagement_scores_user_id_fkey;
            insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
            select gen_random_uuid(), '2026-03-02', 90, '{"a": 1}' from generate_series(1, 50);
            """,
        )
        monkeypatch.setattr(run_module, "DISCREPANCIES_PER_READ", 10)
        assert run_backfill(engine_of(url), Settings(DAYS)).discrepancies == 50
    finally:
        server.drop_database(url)


def test_a_count_for_the_display_may_be_missing_for_want_of_time_only(url: sa.URL) -> None:
    settings = Settings(DayRange(datetime.date(2026, 3, 1), datetime.date(2026, 3, 2)))

    class Counting:
        """Pages whose count is another statement."""

        def __init__(self, sql: str) -> None:
            self.sql = sql

        def count_candidates(self, connection: sa.Connection) -> int:
            return int(connection.exec_driver_sql(self.sql).scalar_one())

    def count(sql: str) -> int | None:
        pages: Any = Counting(sql)
        return run_module.count_candidates(engine_of(url), settings, pages, lambda: False)

    assert count("select 7") == 7
    run_out = "do $$ begin raise query_canceled; end $$"
    assert count(run_out) is None
    with pytest.raises(sa.exc.ProgrammingError, match="nowhere"):
        count("select count(*) from nowhere")


@pytest.mark.parametrize("watched", [False, True], ids=["our own table", "with a trigger of the app's"])
def test_a_commit_of_two_pages_takes_a_statement_for_each_and_one_to_begin(engine: sa.Engine, watched: bool) -> None:
    users = len(add_users(engine, 7 * len(DAYS)))
    if watched:
        # A trigger runs under the session's own path, and the path is pinned again before the next page.
        run(engine.url, WATCHER)
    statements = statements_of(engine)
    report = run_backfill(engine, Settings(DAYS, page_size=49, commit_every=7 * len(DAYS)))
    inserts = [number for number, statement in enumerate(statements) if "INSERT INTO" in statement]
    assert (report.inserted, report.commits) == (users * len(DAYS), len(DAYS)), "each is for whole users"
    assert len(inserts) == 2 * report.commits
    between = [statements[one + 1 : next_one] for one, next_one in itertools.pairwise(inserts)]
    assert [len(each) for each in between[::2]] == [int(watched)] * report.commits, "between the pages of a commit"
    assert all("pg_current_xact_id" in each[-1] for each in between[1::2])
