"""The schema of momentum and motivation scores: typed models for other services, migrations and a backfill.

Everything is imported on first use, so that ``import momentum`` is cheap and the models don't load Alembic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momentum.base import Base as Base
    from momentum.deletion import live as live
    from momentum.deletion import soft_delete as soft_delete
    from momentum.migrate.config import alembic_config as alembic_config
    from momentum.migrate.filters import hide_momentum_tables as hide_momentum_tables
    from momentum.models import DailyMomentumScore as DailyMomentumScore
    from momentum.models import HabitIndex as HabitIndex
    from momentum.models import MomentumEvent as MomentumEvent
    from momentum.models import MomentumPillar as MomentumPillar
    from momentum.models import MotivationJournal as MotivationJournal

__version__ = "1.0.0"

# The modules of the names that are not in momentum.models.
_MODULES = {
    "alembic_config": "momentum.migrate.config",
    "hide_momentum_tables": "momentum.migrate.filters",
    "live": "momentum.deletion",
    "soft_delete": "momentum.deletion",
}
__all__ = [
    "Base",
    "DailyMomentumScore",
    "HabitIndex",
    "MomentumEvent",
    "MomentumPillar",
    "MotivationJournal",
    "__version__",
    "alembic_config",
    "hide_momentum_tables",
    "live",
    "soft_delete",
]


def __getattr__(name: str) -> Any:
    """Import a public name of this package on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "momentum.models")), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return __all__
