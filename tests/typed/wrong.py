"""Calls that are wrong, one in each line that ends in `# wrong`: type checkers find each, and nothing else."""
# pyright: strict

import datetime
import uuid
from decimal import Decimal

from momentum import (
    DailyMomentumScore,
    HabitIndex,
    MomentumEvent,
    MomentumPillar,
    MotivationJournal,
    alembic_config,
    live,
    soft_delete,
)

URL = "postgresql://localhost/app"
USER = uuid.UUID(int=1)
DAY = datetime.date(2024, 2, 29)

alembic_config(URL, exsting="adopt")  # wrong
alembic_config(URL, existing="adpot")  # wrong
alembic_config(URL, existing=True)  # wrong
alembic_config(URL, existing="adopt", access="kepe")  # wrong
alembic_config(URL, existing="adopt", access=True)  # wrong
alembic_config(URL, scores="seed")  # wrong
alembic_config(URL, verify="no")  # wrong
alembic_config(URL, purge="yes")  # wrong
alembic_config(URL, attempts="5")  # wrong
alembic_config(URL, deadline=0.5)  # wrong
alembic_config(URL, "adopt")  # wrong
alembic_config()  # wrong

MomentumPillar()  # wrong
MomentumPillar("sleep")  # wrong
MomentumPillar(nmae="sleep")  # wrong
MomentumPillar(name=None)  # wrong
MomentumPillar(name="sleep", user_id=USER)  # wrong

MomentumEvent(event_type="walk")  # wrong
MomentumEvent(user_id=USER)  # wrong
MomentumEvent(user_id=str(USER), event_type="walk")  # wrong
MomentumEvent(user_id=USER, event_type="walk", event_ts=None)  # wrong
MomentumEvent(user_id=USER, event_type="walk", event_ts="now")  # wrong
MomentumEvent(user_id=USER, event_type="walk", event_ts=DAY)  # wrong
MomentumEvent(user_id=USER, event_type="walk", payload="{}")  # wrong
MomentumEvent(user_id=USER, event_type="walk", pillar=USER)  # wrong
MomentumEvent(user_id=USER, event_type="walk", deleted=None)  # wrong

MotivationJournal(user_id=USER, date=DAY)  # wrong
MotivationJournal(user_id=USER, entry_date="2024-02-29")  # wrong
HabitIndex(user_id=USER, index_date=DAY)  # wrong
HabitIndex(user_id=USER, index_date=DAY, habit_score=72.25)  # wrong
HabitIndex(user_id=USER, index_date=DAY, habit_score=Decimal(7), details=[1])  # wrong
DailyMomentumScore(user_id=USER)  # wrong
DailyMomentumScore(user_id=USER, score_date=DAY, score=7.5)  # wrong

str(MomentumEvent(user_id=USER, event_type="walk").evnt_type)  # wrong
live(DailyMomentumScore)  # wrong
soft_delete(MomentumEvent)  # wrong
