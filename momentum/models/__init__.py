"""The models, one module per table."""

from momentum.base import Base
from momentum.models.daily_momentum_score import DailyMomentumScore
from momentum.models.habit_index import HabitIndex
from momentum.models.momentum_event import MomentumEvent
from momentum.models.momentum_pillar import MomentumPillar
from momentum.models.motivation_journal import MotivationJournal

__all__ = ["Base", "DailyMomentumScore", "HabitIndex", "MomentumEvent", "MomentumPillar", "MotivationJournal"]
