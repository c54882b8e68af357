"""Whatever users, gaps, options and faults there are, a run does exactly what an oracle in plain SQL says.

`MOMENTUM_EXAMPLES=500` looks as hard as a release wants; without it a short form runs with the other tests.
"""

import collections
import dataclasses
import datetime
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from momentum.backfill import DayRange, Observers, Report, Settings, eligibility, fill, pace, run_backfill
from momentum.backfill import run as run_module
from momentum.backfill.fill import Failure
from momentum.backfill.pages import Row
from momentum.backfill.preflight import Database, look_at
from momentum.backfill.settings import Limits
from momentum.backfill.shards import ShardedPages
from momentum.connect.engine import execute_script
from momentum.retries import Backoff
from momentum.testing import Server
from tests.backfilling import BOTH, Scores, scores_in, sums_hold
from tests.migrating import run
from tests.scenarios.test_citus import SHARDS

EXAMPLES = int(os.environ.get("MOMENTUM_EXAMPLES", "40"))
FIRST = datetime.date(2026, 2, 1)
MOST_DAYS = 40
PATIENT = Limits(attempts=12, backoff=Backoff(0.001, 2, 0.01))

# The rules once more, as one plain statement that shares nothing with the code: user-days that should have a row.
ELIGIBLE = """
select u.id as user_id, d.day::date as day
from auth.users as u
cross join generate_series(cast(:first as date)::timestamp, cast(:last as date)::timestamp, '1 day') as d (day)
where
  u.deleted_at is null
  and (u.banned_until is null or u.banned_until <= now())
  and (u.created_at is null or u.created_at < (d.day + interval '1 day') at time zone 'UTC')
  and (
    cast(:within as int) is null
    or u.last_sign_in_at >= (cast(:first as date) - cast(:within as int))::timestamp at time zone 'UTC'
    or exists (
      select from public.momentum_events as e
      where
        e.user_id = u.id and e.deleted_at is null
        and (e.event_ts at time zone 'UTC')::date > d.day::date - cast(:within as int)
        and (e.event_ts at time zone 'UTC')::date <= d.day::date
    )
  )
"""


def moment(day: int, hours: float) -> str:
    """Return the moment a number of hours after the beginning of a day of the widest range."""
    midnight = datetime.datetime.combine(FIRST, datetime.time(), datetime.UTC)
    return (midnight + datetime.timedelta(days=day, hours=hours)).isoformat()


moments = st.builds(moment, st.integers(-3, MOST_DAYS + 2), st.sampled_from([0, 0.001, 12, 23.9999]))
PAST, FUTURE = "2026-02-10T00:00:00Z", "2200-01-01T00:00:00Z"

accounts = st.fixed_dictionaries(
    {
        "created_at": st.one_of(st.none(), st.just("2020-01-01T00:00:00Z"), moments),
        "deleted_at": st.sampled_from([None, None, None, PAST]),
        "banned_until": st.sampled_from([None, None, None, PAST, FUTURE, "infinity"]),
        "last_sign_in_at": st.one_of(st.none(), moments),
        "scored": st.one_of(st.sets(st.integers(0, MOST_DAYS - 1), max_size=MOST_DAYS), st.just(set(range(MOST_DAYS)))),
        "events": st.lists(st.tuples(moments, st.booleans()), max_size=3),
    }
)

# The faults, and the n-th attempted row at which each occurs; each occurs once.
faults = st.lists(
    st.tuples(st.integers(1, 60), st.sampled_from(["40001", "40P01", "55P03", "57014", "terminated"])),
    max_size=3,
    unique_by=lambda fault: fault[0],
)
options = st.fixed_dictionaries(
    {
        "start": st.integers(0, MOST_DAYS - 1),
        "length": st.integers(1, MOST_DAYS),
        "page_size": st.integers(1, 60),
        "commit_every": st.integers(1, 120),
        "workers": st.integers(1, 3),
        "active_within": st.sampled_from([None, None, 1, 3, 30]),
    }
)
knobs = st.fixed_dictionaries(
    {
        "scanned_page": st.sampled_from([0.0, math.inf, pace.SCANNED_PAGE]),
        "chunk": st.integers(1, 15),
        "most_gaps": st.integers(1, 200),
        "most_bits": st.sampled_from([0, 3, eligibility.MOST_BITS]),
        "distributed": st.booleans(),
        "keyed": st.booleans(),
    }
)


@pytest.fixture(scope="module")
def both(server: Server) -> Iterator[dict[str, Scores]]:
    """A migrated database with each layout for all examples; each example empties it first."""
    with ExitStack() as stack:
        found = {layout: stack.enter_context(scores_in(server, layout)) for layout in BOTH}
        for scores in found.values():
            run(server.as_admin(scores.url), SHARDS)
        yield found


class Examples:
    """The state of a database, by the oracle."""

    def __init__(self, scores: Scores, connection: sa.Connection) -> None:
        self._scores = scores
        self._connection = connection

    def prepare(self, people: list[dict[str, Any]], faults: list[tuple[int, str]]) -> None:
        """Empty the tables, write accounts, rows and events, and plan faults for certain rows."""
        scores, connection = self._scores, self._connection
        # Said here, because a script of its own begins no transaction.
        connection.begin()
        fail = " ".join(
            f"""
            when {row} then
              {
                "perform pg_terminate_backend(pg_backend_pid());"
                if code == "terminated"
                else f"raise exception 'a fault' using errcode = '{code}';"
            }"""
            for row, code in faults
        )
        execute_script(
            connection,
            f"""
            drop trigger if exists fault on {scores.relation};
            truncate auth.users cascade;
            drop sequence if exists public.fault_rows;
            create sequence public.fault_rows;
            create or replace function public.fault() returns trigger language plpgsql as $$
            begin
              case nextval('public.fault_rows') {fail or "when 0 then"} else end case;
              return new;
            end $$;
            """,
        )
        columns = ("created_at", "deleted_at", "banned_until", "last_sign_in_at")
        for number, person in enumerate(people):
            # Spread over all ids, since the walk goes by them.
            user = uuid.uuid5(uuid.NAMESPACE_OID, str(number))
            connection.execute(
                sa.text(f"""
                    insert into auth.users (id, {", ".join(columns)})
                    values (:id, {", ".join(f":{name}" for name in columns)})
                """),
                {"id": user, **{name: person[name] for name in columns}},
            )
            days = {"user": user, "days": [FIRST + datetime.timedelta(days=day) for day in sorted(person["scored"])]}
            if scores.day == "score_date":
                insert = f"""
                    insert into {scores.relation} (user_id, score_date, final_score, momentum_state)
                    select :user, day, 10, 'Steady' from unnest(cast(:days as date[])) as day"""
            else:
                insert = f"""
                    insert into {scores.relation} (user_id, score_ts, score)
                    select :user, (day + time '23:59:59') at time zone 'UTC', 10
                    from unnest(cast(:days as date[])) as day
                """
            connection.execute(sa.text(insert), days)
            for happened, deleted in person["events"]:
                connection.execute(
                    sa.text("""
                        insert into public.momentum_events (user_id, event_type, event_ts, deleted_at)
                        values (:user, 'walk', :happened, case when :deleted then now() end)
                    """),
                    {"user": user, "happened": happened, "deleted": deleted},
                )
        if faults:
            connection.exec_driver_sql(
                f"create trigger fault before insert on {scores.relation} for each row execute function public.fault()"
            )
        connection.commit()

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        self._connection.exec_driver_sql(f"drop trigger if exists fault on {self._scores.relation}")
        self._connection.commit()

    def eligible(self, days: DayRange, within: int | None) -> set[Row]:
        """Return the user-days that should have a row."""
        parameters = {"first": days.first, "last": days.last, "within": within}
        rows = self._connection.execute(sa.text(ELIGIBLE), parameters).all()
        self._connection.rollback()
        return {(row[0], row[1]) for row in rows}

    def rows(self) -> dict[Row, list[str]]:
        """Return every row as text, by user and day."""
        found: dict[Row, list[str]] = {}
        for user, day, row in self._connection.execute(
            sa.text(f"select user_id, {self._scores.day}, s::text from {self._scores.relation} as s")
        ):
            found.setdefault((user, day), []).append(row)
        self._connection.rollback()
        return found


class Joins(ShardedPages):
    """The joins that a table needs which Citus has distributed, on one server, where the table's triggers fire."""

    _own_path = property(lambda _: True, lambda *_: None)


def look_as_if_distributed(*arguments: Any, **options: Any) -> Database:
    """Return the facts about a database, as if Citus had distributed its score table."""
    return dataclasses.replace(look_at(*arguments, **options), distributed=True)


def by_day(rows: set[Row]) -> dict[datetime.date, int]:
    """Return how many rows each day has."""
    return dict(collections.Counter(day for _, day in rows))


def positive(counter: collections.Counter[datetime.date]) -> dict[datetime.date, int]:
    """Return the days of a counter that have any."""
    return {day: count for day, count in counter.items() if count}


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    layout=st.sampled_from(BOTH), people=st.lists(accounts, max_size=15), options=options, knobs=knobs, faults=faults
)
def test_a_run_fills_exactly_the_eligible_days_and_counts_every_one(
    both: dict[str, Scores],
    layout: str,
    people: list[dict[str, Any]],
    options: dict[str, Any],
    knobs: dict[str, Any],
    faults: list[tuple[int, str]],
) -> None:
    options = dict(options)
    first = FIRST + datetime.timedelta(days=options.pop("start"))
    length = options.pop("length")
    days = DayRange(first, first + datetime.timedelta(days=length - 1))
    asked = Settings(days, count_by_day=True, limits=PATIENT, **options)
    within = options["active_within"]
    scores = both[layout]
    engine = scores.engine
    with pytest.MonkeyPatch.context() as patch, engine.connect() as connection:
        patch.setattr(pace, "SCANNED_PAGE", knobs["scanned_page"])
        patch.setattr(pace, "USERS", knobs["chunk"])
        patch.setattr(fill, "MOST_GAPS", knobs["most_gaps"])
        patch.setattr(eligibility, "MOST_BITS", knobs["most_bits"])
        if knobs["distributed"]:
            patch.setattr(run_module, "ShardedPages", Joins)
            patch.setattr(run_module, "look_at", look_as_if_distributed)
        database = Examples(scores, connection)
        database.prepare(people, faults)
        before = database.rows()
        eligible = database.eligible(days, within)
        wanted = eligible - before.keys()

        dry = run_backfill(engine, Settings(**{**asked.__dict__, "dry_run": True}))
        assert database.rows() == before, "a dry run writes nothing"
        assert counts(dry) == (len(eligible), len(eligible & before.keys()), len(wanted), 0, 0)
        assert positive(dry.missing_by_day) == by_day(wanted), "a dry run predicts"
        assert positive(dry.present_by_day) == by_day(eligible & before.keys())
        assert sums_hold(dry)

        inserted: list[Row] = []
        failures: list[Failure] = []
        keyed = knobs["keyed"]
        observers = Observers(on_inserted=inserted.extend if keyed else None, on_failure=failures.append)
        report = run_backfill(engine, asked, observers=observers)
        failed = {(one.user_id, one.day) for one in failures}
        filled = wanted - failed
        # One fault heals. Several may meet a row each time that it is tried: it counts as failed, and no other does.
        assert len(faults) > 1 or not failures
        assert failed <= wanted
        assert {one.sqlstate for one in failures} <= {code for _, code in faults}
        assert len(failed) == len(failures) == report.failed == report.left_over
        after = database.rows()
        assert after.keys() == before.keys() | filled
        assert all(len(rows) == 1 for rows in after.values()), "a day has one row"
        assert {key: after[key] for key in before} == before, "no existing row is changed"
        present = eligible & before.keys()
        assert counts(report) == (len(eligible), len(present), len(filled), 0, len(failed))
        assert sorted(inserted) == (sorted(filled) if keyed else [])
        assert positive(report.inserted_by_day) == by_day(filled)
        assert positive(report.failed_by_day) == by_day(failed)
        assert positive(report.present_by_day) == by_day(present)
        assert report.users == dry.users == len({user for user, _ in eligible})
        assert sums_hold(report)
        assert (report.interrupted, report.gave_up) == (False, False)

        database.heal()
        again = run_backfill(engine, asked)
        assert counts(again) == (len(eligible), len(eligible) - len(failed), len(failed), 0, 0)
        healed = database.rows()
        assert healed.keys() == before.keys() | wanted
        assert {key: healed[key] for key in after} == after


def counts(report: Report) -> tuple[int, int, int, int, int]:
    """Return what became of the user-days."""
    return report.eligible, report.present, report.inserted, report.raced, report.failed
