"""The backfill: a row for every active user on every UTC day of a range.

``run_backfill`` is the job as a function that returns its counts; ``momentum.backfill.cli`` is a thin command over it.
Everything is imported on first use, so that the command's help needn't wait for SQLAlchemy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momentum.backfill.days import DayRange as DayRange
    from momentum.backfill.fill import Observers as Observers
    from momentum.backfill.report import Report as Report
    from momentum.backfill.run import run_backfill as run_backfill
    from momentum.backfill.settings import Settings as Settings

_MODULES = {
    "DayRange": "days",
    "Observers": "fill",
    "Report": "report",
    "Settings": "settings",
    "run_backfill": "run",
}
__all__ = ["DayRange", "Observers", "Report", "Settings", "run_backfill"]


def __getattr__(name: str) -> Any:
    """Import a public name of this package on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
