"""The ids of the rows: in ascending order where the table takes any UUID, and by the table's own default elsewhere."""

import datetime
import uuid
from collections import Counter
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Settings, run_backfill
from momentum.backfill.ids import EPOCH, MILLISECOND, bind_token, new_token
from tests.backfilling import DAY, Scores
from tests.migrating import execute, fetch, run
from tests.samples import add_users

NOTHING = "execute function suppress_redundant_updates_trigger()"
DAYS = DayRange(DAY - datetime.timedelta(days=9), DAY)


def moment_of(one: uuid.UUID) -> datetime.datetime:
    """Return the time in a UUID of version 7, to the millisecond."""
    return EPOCH + MILLISECOND * (one.int >> 80)


def clock(url: sa.URL) -> datetime.datetime:
    found = execute(url, "select extract(epoch from clock_timestamp())::text")
    return EPOCH + datetime.timedelta(seconds=float(found))


def ids_in(scores: Scores) -> list[uuid.UUID]:
    return [uuid.UUID(one) for one in fetch(scores.url, f"select id::text from {scores.relation}")]


def beginnings(ids: Sequence[uuid.UUID]) -> Counter[str]:
    """Count ids by what the rows of a transaction share."""
    return Counter(one.hex[:17] for one in ids)


@pytest.mark.parametrize(
    "moment",
    [
        EPOCH,
        datetime.datetime(2026, 3, 5, 1, 2, 3, 456789, datetime.UTC),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999999, datetime.UTC),
    ],
)
def test_a_token_is_a_uuid_of_version_7(moment: datetime.datetime) -> None:
    tokens = [new_token(moment) for _ in range(100)]
    assert {(token.version, token.variant) for token in tokens} == {(7, uuid.RFC_4122)}
    assert {moment_of(token) for token in tokens} == {
        moment - moment.microsecond % 1000 * datetime.timedelta.resolution
    }
    assert len({token.int & (1 << 62) - 1 for token in tokens}) == len(tokens)
    assert len({str(bind_token(token)) for token in tokens}) == len(tokens)


def test_the_ids_of_a_transaction_begin_alike_and_later_ones_are_larger(scores: Scores) -> None:
    add_users(scores.engine, 100)
    before = clock(scores.url)
    first = run_backfill(scores.engine, Settings(DAYS, commit_every=200))
    between = clock(scores.url)
    earlier = ids_in(scores)
    run(scores.url, f"delete from {scores.relation}")
    second = run_backfill(scores.engine, Settings(DAYS, commit_every=200))
    later = ids_in(scores)
    assert first.inserted == second.inserted == len(set(earlier)) == len(set(later)) == 1000
    for ids in (earlier, later):
        assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
        assert set(beginnings(ids).values()) == {200}
    assert max(earlier) < min(later)
    assert before - MILLISECOND < moment_of(min(earlier)) <= moment_of(max(earlier)) <= between
    assert between - MILLISECOND < moment_of(min(later)) <= clock(scores.url)


def test_rows_that_are_inserted_by_name_have_such_ids_too(scores: Scores) -> None:
    users = add_users(scores.engine, 3)
    scores.interfere(f"new.user_id = '{users[1]}'", "raise exception 'not this one';")
    report = run_backfill(scores.engine, Settings(DAYS, max_error_rate=1))
    assert (report.inserted, report.failed) == (20, 10)
    assert {one.version for one in ids_in(scores)} == {7}


@pytest.mark.parametrize(
    ("change", "version"),
    [
        ("alter table {} add check (length(id::text) = 36)", 4),
        ("alter table {} add check (substr(id::text, 15, 1) = '4')", 4),
        ("create unique index on {} (left(id::text, 8))", 4),
        ("create index on {} (user_id) where id > '80000000-0000-0000-0000-000000000000'", 4),
        ("alter table {} add short text unique generated always as (left(id::text, 8)) stored", 4),
        ("alter table {} add exclude using hash ((left(id::text, 8)) with =)", 4),
        ("create trigger sampled before insert on {} for each row when (left(new.id::text, 1) = 'x') " + NOTHING, 4),
        ("create policy sampled on {} for insert with check (left(id::text, 1) <> '0')", 4),
        ("alter table {} alter id set default public.another_id()", 5),
        ("alter table {} alter id type text using id::text", 4),
        ("alter table {} add check (user_id is not null)", 7),
        ("create unique index on {} (user_id, id); create index on {} (lower(user_id::text))", 7),
        ("create trigger sampled before insert on {} for each row when (new.user_id is null) " + NOTHING, 7),
        ("create view public.ids as select left(id::text, 8) from {}", 7),
    ],
)
def test_a_table_that_may_not_take_any_uuid_makes_its_own_ids(scores: Scores, change: str, version: int) -> None:
    add_users(scores.engine, 3)
    run(
        scores.url,
        f"""
        create function public.another_id() returns uuid language sql as $$
          select overlay(gen_random_uuid()::text placing '5' from 15)::uuid
        $$;
        {change.replace("{}", scores.relation)};
        """,
    )
    report = run_backfill(scores.engine, Settings(DAYS))
    assert (report.inserted, report.failed) == (30, 0)
    assert {one.version for one in ids_in(scores)} == {version}


@pytest.mark.parametrize("scores", ["fresh"], indirect=True)
def test_a_table_without_ids_needs_none(scores: Scores) -> None:
    add_users(scores.engine, 3)
    run(scores.url, f"alter table {scores.relation} drop column id")
    assert run_backfill(scores.engine, Settings(DAYS)).inserted == 30
