"""A worker that inserts events in bulk, one JSON object per line.

    pip install momentum-schema
    DATABASE_URL=postgresql://... python examples/worker.py < events.jsonl

    {"id": "<uuid>", "user_id": "<uuid>", "event_type": "walk", "event_ts": "2026-01-31T08:00:00Z", "payload": {}}

The id is made where the event happens, so a file can be inserted again after a failure: existing events stay.
"""

import datetime
import itertools
import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from momentum import MomentumEvent

BATCH_SIZE = 1000

INSERT = insert(MomentumEvent).on_conflict_do_nothing(index_elements=[MomentumEvent.id]).returning(MomentumEvent.id)


def read_events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the events as values of the table's columns.

    Raises:
        ValueError: A line is not an event; the message says which and why.
    """
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            yield {
                "id": uuid.UUID(event["id"]),
                "user_id": uuid.UUID(event["user_id"]),
                "event_type": str(event["event_type"]),
                "event_ts": datetime.datetime.fromisoformat(event["event_ts"]),
                "payload": event.get("payload"),
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number} is not an event ({type(error).__name__}: {error})") from None


def insert_events(engine: Engine, events: Iterable[dict[str, Any]]) -> int:
    """Insert events, each batch in one statement and one transaction, and return how many were new."""
    remaining = iter(events)
    inserted = 0
    while batch := list(itertools.islice(remaining, BATCH_SIZE)):
        with engine.begin() as connection:
            inserted += len(connection.execute(INSERT, batch).all())
    return inserted


def main() -> str | None:
    """Insert the events of standard input, and return the error, if any."""
    engine = create_engine(os.environ["DATABASE_URL"], hide_parameters=True)
    try:
        print(insert_events(engine, read_events(sys.stdin)), "new events")
    except ValueError as error:
        return f"Error: {error}; earlier batches are committed."
    except DBAPIError as error:
        return f"Error: the database refused a batch ({str(error.orig).splitlines()[0]}); earlier ones are committed."
    return None


if __name__ == "__main__":
    sys.exit(main())
