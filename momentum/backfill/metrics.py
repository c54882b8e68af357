"""The figures of the last run for Prometheus, in a file for the textfile collector of its node exporter.

They are gauges, because the process that would count has ended long before anyone looks. Each run writes all of them, a
failed one too, so that no figure is left over from an earlier run.
"""

import importlib.util
import math
from pathlib import Path

from momentum.backfill.files import check_writable, replacing
from momentum.backfill.report import Execution, Report
from momentum.errors import ConfigurationError

OPTION = "--metrics"
PREFIX = "momentum_backfill"
LAST_SUCCESS = f"{PREFIX}_last_success_timestamp_seconds"

# The attributes of a report that are written, each with its description. One that is not known is NaN.
FIGURES = {
    "users": ("users", "Users with at least one eligible day."),
    "eligible_rows": ("eligible", "User-days that should have a row."),
    "present_rows": ("present", "User-days that already had a row."),
    "inserted_rows": ("inserted", "Rows that the run inserted."),
    "raced_rows": ("raced", "Rows that somebody else inserted meanwhile."),
    "failed_rows": ("failed", "Rows that the server refused."),
    "left_over_rows": ("left_over", "Eligible user-days without a row, recounted at the end."),
    "discrepancies": ("discrepancies", "Scores that differ from their breakdown."),
    "error_ratio": ("error_rate", "The share of eligible user-days that failed, 0 to 1."),
    "retries": ("retries", "Transactions that were tried again."),
    "slowest_page_duration_seconds": ("slowest_page_seconds", "How long the slowest page took."),
}

# The collector runs as another user; the file holds neither a secret nor data about anyone.
RIGHTS = 0o644


def check_metrics(path: Path) -> None:
    """Refuse a file of metrics that could not be written at the end of a run.

    Raises:
        ConfigurationError: The library is not installed, or the file cannot be written.
    """
    if importlib.util.find_spec("prometheus_client") is None:
        raise ConfigurationError(
            f"{OPTION} needs the package prometheus-client, which is not installed: pip install "
            "'momentum-schema[metrics]'."
        )
    check_writable(path, OPTION)


def write_metrics(path: Path, execution: Execution, report: Report | None) -> None:
    """Write the figures of a run to a file, which replaces an earlier one at once.

    Args:
        path: The file.
        execution: The execution of the command.
        report: The counts, as far as the run came; None if it has counted nothing.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float, **labels: str) -> None:
        one = Gauge(f"{PREFIX}_{name}", text, list(labels), registry=registry)
        (one.labels(**labels) if labels else one).set(value)

    finished = execution.finished_at.timestamp()
    gauge(
        "info",
        "The version of the package, and the database of the last run.",
        1,
        version=execution.version,
        database=execution.database,
    )
    gauge("exit_code", "The exit code of the last run; 0 is a success.", execution.exit_code)
    gauge("last_run_timestamp_seconds", "When the last run ended.", finished)
    gauge(
        LAST_SUCCESS.removeprefix(f"{PREFIX}_"),
        "When the last run with exit code 0 ended; 0 if there was none.",
        finished if execution.exit_code == 0 else read_last_success(path),
    )
    gauge(
        "duration_seconds",
        "How long the last run took.",
        (execution.finished_at - execution.started_at).total_seconds(),
    )
    for name, (attribute, text) in FIGURES.items():
        value = getattr(report, attribute, None)
        gauge(name, text, math.nan if value is None else value)
    phases = Gauge(f"{PREFIX}_phase_duration_seconds", "How long each phase took.", ["phase"], registry=registry)
    for phase, seconds in (report.phases if report else {}).items():
        phases.labels(phase).set(seconds)
    try:
        with replacing(path, rights=RIGHTS) as stream:
            stream.write(generate_latest(registry).decode())
    except OSError as error:
        raise ConfigurationError(f"{OPTION} {path} cannot be written ({error.strerror}).") from error


def read_last_success(path: Path) -> float:
    """Return when the last successful run ended, by the file that it or a later run wrote; 0 if that is not known."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return 0.0
    values = [sample.value for family in families for sample in family.samples if sample.name == LAST_SUCCESS]
    return next((value for value in values if math.isfinite(value)), 0.0)
