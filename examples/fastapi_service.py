"""A web service that logs what users do and shows a user's last seven days.

    pip install momentum-schema 'fastapi[standard]'
    DATABASE_URL=postgresql://... fastapi run examples/fastapi_service.py

Authentication and authorisation are left out here.
"""

import datetime
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from psycopg.errors import ForeignKeyViolation
from pydantic import AwareDatetime, BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from momentum import DailyMomentumScore, MomentumEvent

DAYS = 7


class NewEvent(BaseModel):
    """An activity of a user; without a time it happened now, by the database's clock."""

    event_type: str
    event_ts: AwareDatetime | None = None
    payload: dict[str, Any] | None = None


class LoggedEvent(BaseModel):
    """The id and the time of an event that the database has stored."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    event_ts: AwareDatetime


class Score(BaseModel):
    """A user's score on a UTC day."""

    model_config = ConfigDict(from_attributes=True)

    score_date: datetime.date
    score: Decimal | None
    pillar_breakdown: dict[str, Any] | None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one pool of connections as long as the service runs."""
    engine = create_async_engine(os.environ["DATABASE_URL"])
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    yield
    await engine.dispose()


async def open_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield a session for one request."""
    async with request.app.state.sessions() as session:
        yield session


SessionOfRequest = Annotated[AsyncSession, Depends(open_session)]
app = FastAPI(lifespan=lifespan)


@app.post("/users/{user_id}/events", status_code=201, response_model=LoggedEvent)
async def log_event(user_id: uuid.UUID, event: NewEvent, session: SessionOfRequest) -> MomentumEvent:
    """Log an event of a user."""
    row = MomentumEvent(user_id=user_id, **event.model_dump(exclude_none=True))
    session.add(row)
    try:
        await session.commit()
    except IntegrityError as error:
        if isinstance(error.orig, ForeignKeyViolation):
            raise HTTPException(404, "There is no such user.") from None
        raise HTTPException(422, "The type of an event is not blank.") from None
    except DataError:
        raise HTTPException(422, "The event has characters that the database can't hold.") from None
    return row


@app.get("/users/{user_id}/scores", response_model=list[Score])
async def read_scores(user_id: uuid.UUID, session: SessionOfRequest) -> Sequence[DailyMomentumScore]:
    """Return a user's scores of the last seven UTC days, today's included, oldest first."""
    today = datetime.datetime.now(datetime.UTC).date()
    day = DailyMomentumScore.score_date
    scores = (
        select(DailyMomentumScore)
        .where(DailyMomentumScore.user_id == user_id, day > today - datetime.timedelta(days=DAYS), day <= today)
        .order_by(day)
    )
    return (await session.scalars(scores)).all()
