"""The examples for other services run unchanged, on a real database."""

import datetime
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from examples import worker
from examples.fastapi_service import app
from momentum.connect.url import as_text
from tests.migrating import execute, fetch, run
from tests.samples import add_users
from tests.server import engine_of

TODAY = "(now() at time zone 'UTC')::date"


@pytest.fixture
def user(url: sa.URL) -> uuid.UUID:
    [user] = add_users(engine_of(url))
    return user


@pytest.fixture
def client(url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("DATABASE_URL", as_text(url))
    with TestClient(app) as client:
        yield client


def test_the_web_service_logs_an_event(client: TestClient, url: sa.URL, user: uuid.UUID) -> None:
    answer = client.post(f"/users/{user}/events", json={"event_type": "walk", "payload": {"minutes": 20, "note": None}})
    assert answer.status_code == 201
    sql = """
        select jsonb_build_object('id', id, 'event_ts', event_ts), event_type, payload, event_ts = created_at
        from public.momentum_events where user_id = :user
    """
    with engine_of(url).connect() as connection:
        [(logged, kind, payload, now)] = connection.execute(sa.text(sql), {"user": user}).all()
    assert answer.json()["id"] == logged["id"]
    assert datetime.datetime.fromisoformat(answer.json()["event_ts"]) == datetime.datetime.fromisoformat(
        logged["event_ts"]
    )
    assert (kind, payload, now) == ("walk", {"minutes": 20, "note": None}, True)


@pytest.mark.parametrize(
    ("event", "known", "status"),
    [
        ({"event_type": "walk"}, False, 404),
        ({"event_type": " "}, True, 422),
        ({"event_type": "walk\0"}, True, 422),
        ({"event_type": "walk", "payload": {"note": "\0"}}, True, 422),
        ({"event_type": "walk", "payload": [1]}, True, 422),
        ({"event_type": "walk", "event_ts": "2026-01-31T08:00:00"}, True, 422),
        ({}, True, 422),
    ],
)
def test_the_web_service_says_what_is_wrong_with_an_event(
    client: TestClient, url: sa.URL, user: uuid.UUID, event: dict[str, Any], known: bool, status: int
) -> None:
    answer = client.post(f"/users/{user if known else uuid.UUID(int=0)}/events", json=event)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert execute(url, "select count(*) from public.momentum_events") == 0


def test_the_web_service_shows_a_users_last_seven_days(client: TestClient, url: sa.URL, user: uuid.UUID) -> None:
    today = execute(url, f"select {TODAY}")
    run(
        url,
        f"""
        insert into auth.users (id) values ('{uuid.UUID(int=1)}');
        insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown)
        select u.id, (date '{today}' + n) at time zone 'UTC', 50 + n, '{{"sleep": 1}}'
        from auth.users as u
        cross join generate_series(-8, 2) as g (n);
        """,
    )
    answer = client.get(f"/users/{user}/scores")
    assert answer.status_code == 200
    # Midnight may come between the first line and this one.
    tomorrow = int(execute(url, f"select {TODAY} > date '{today}'"))
    week = [
        {
            "score_date": (today + datetime.timedelta(days=n)).isoformat(),
            "score": f"{50 + n}.00",
            "pillar_breakdown": {"sleep": 1},
        }
        for n in range(-6, 1 + tomorrow)
    ]
    assert answer.json() in (week[:7], week[tomorrow:])
    assert client.get(f"/users/{uuid.UUID(int=2)}/scores").json() == []


def event_of(user: uuid.UUID, number: int, **changes: Any) -> dict[str, Any]:
    event = {
        "id": str(uuid.UUID(int=number)),
        "user_id": str(user),
        "event_type": f"step {number}",
        "event_ts": "2026-01-31T08:00:00Z",
        "payload": {"number": number},
    }
    return {**event, **changes}


def work(url: sa.URL, lines: str) -> subprocess.CompletedProcess[str]:
    text = as_text(url)
    return subprocess.run(
        [sys.executable, worker.__file__],
        env={**os.environ, "DATABASE_URL": text},
        input=lines,
        capture_output=True,
        text=True,
        check=False,
    )


def lines_of(*events: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(event)}\n" for event in events)


@pytest.mark.slow
def test_the_worker_takes_in_events_in_bulk_and_each_once(url: sa.URL, user: uuid.UUID) -> None:
    count = worker.BATCH_SIZE * 2 + 1
    events = [event_of(user, number) for number in range(count)]
    events[7]["payload"] = None
    done = work(url, lines_of(*events))
    assert (done.returncode, done.stdout) == (0, f"{count} new events\n"), done.stderr
    done = work(url, lines_of(*events, event_of(user, count)))
    assert (done.returncode, done.stdout) == (0, "1 new events\n"), done.stderr
    facts = """
        select array[count(*), count(distinct event_type), count(payload), sum((payload -> 'number')::int)]::bigint[]
        from public.momentum_events where event_ts = '2026-01-31 08:00+00'
    """
    assert fetch(url, facts) == [[count + 1, count + 1, count, sum(range(count + 1)) - 7]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("no json", f"Error: line {worker.BATCH_SIZE + 1} is not an event (JSONDecodeError: "),
        ('{"id": 1}', f"Error: line {worker.BATCH_SIZE + 1} is not an event (AttributeError: "),
        ("unknown user", "Error: the database refused a batch (insert or update on table"),
    ],
)
def test_the_worker_says_what_is_wrong_and_keeps_the_batches_before(
    url: sa.URL, user: uuid.UUID, last: str, message: str
) -> None:
    good = lines_of(*(event_of(user, number) for number in range(worker.BATCH_SIZE)))
    stranger = lines_of(event_of(uuid.UUID(int=0), worker.BATCH_SIZE))
    done = work(url, good + (stranger if last == "unknown user" else last))
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert execute(url, "select count(*) from public.momentum_events") == worker.BATCH_SIZE


def test_each_example_is_run_here() -> None:
    examples = Path(worker.__file__).parent.glob("*.py")
    assert {path.stem for path in examples} == {"worker", "fastapi_service"}
