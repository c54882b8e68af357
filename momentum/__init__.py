"""The schema of momentum and motivation scores: typed models for other services, migrations and a backfill.

The models are imported on first use, so that ``import momentum`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momentum.base import Base as Base
    from momentum.models import DailyMomentumScore as DailyMomentumScore
    from momentum.models import HabitIndex as HabitIndex
    from momentum.models import MomentumEvent as MomentumEvent
    from momentum.models import MomentumPillar as MomentumPillar
    from momentum.models import MotivationJournal as MotivationJournal

__version__ = "0.1.0"
__all__ = [
    "Base",
    "DailyMomentumScore",
    "HabitIndex",
    "MomentumEvent",
    "MomentumPillar",
    "MotivationJournal",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a model, or ``Base``, when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from momentum import models

    return getattr(models, name)


def __dir__() -> list[str]:
    """Name what can be imported, loaded or not."""
    return __all__
