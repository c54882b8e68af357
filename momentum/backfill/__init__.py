"""The backfill: a row for every active user and every UTC day of a range.

``run_backfill`` is the job as a function that returns its counts; ``momentum.cli`` is a thin command over it.
"""

from momentum.backfill.days import DayRange
from momentum.backfill.fill import Observers
from momentum.backfill.report import Report
from momentum.backfill.run import run_backfill
from momentum.backfill.settings import Settings

__all__ = ["DayRange", "Observers", "Report", "Settings", "run_backfill"]
