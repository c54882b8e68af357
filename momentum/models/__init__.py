"""The models, one module per table."""

from momentum.base import Base as Base
from momentum.models.daily_momentum_score import DailyMomentumScore as DailyMomentumScore
from momentum.models.habit_index import HabitIndex as HabitIndex
from momentum.models.momentum_event import MomentumEvent as MomentumEvent
from momentum.models.momentum_pillar import MomentumPillar as MomentumPillar
from momentum.models.motivation_journal import MotivationJournal as MotivationJournal
