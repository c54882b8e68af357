"""The backfill: a row for every active user and every UTC day of a range.

``run_backfill`` is the job as a function that returns its counts; ``momentum.cli`` is a thin command over it.
"""

from momentum.backfill.days import DayRange
from momentum.backfill.report import Report
from momentum.backfill.run import Settings, run_backfill

__all__ = ["DayRange", "Report", "Settings", "run_backfill"]
