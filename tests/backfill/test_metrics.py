"""The file of ``--metrics``: read as Prometheus reads it, after runs that end in every way."""

import datetime
import math
import os
import re
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from momentum import __version__
from momentum.backfill import DayRange, Report, metrics
from momentum.backfill.report import Execution
from tests.backfilling import DAY, HANGS, Scores, after_database, call, one_error_line, started
from tests.migrating import wait_until
from tests.samples import add_users, refuse_rows
from tests.server import engine_of

NOWHERE = "postgresql://u@127.0.0.1:1/x"
ONE_DAY = ("--to", str(DAY), "--days", "1", "--quiet")
STARTED = datetime.datetime(2026, 3, 6, 0, 20, tzinfo=datetime.UTC)
DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


def read(path: Path) -> dict[str, float]:
    """Return the values in a file of metrics, by name and label."""
    text = path.read_text(encoding="utf-8")
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return {name.removeprefix("momentum_backfill_"): value for name, value in values.items()}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the rights that new files don't get."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def engine(url: sa.URL) -> sa.Engine:
    return engine_of(url)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "momentum.prom"


def test_a_run_writes_its_figures(url: sa.URL, engine: sa.Engine, path: Path) -> None:
    users = add_users(engine, 200)
    refuse_rows(engine, f"new.user_id = '{users[7]}'", "raise exception 'refused';")
    before = datetime.datetime.now(datetime.UTC).timestamp()
    assert call(*ONE_DAY, "--metrics", str(path), url=url).returncode == 0
    values = read(path)
    [info] = [name for name in values if name.startswith("info")]
    assert re.fullmatch(rf"info\{{database=.*/{url.database},version={re.escape(__version__)}\}}", info)
    counts: dict[str, float] = {
        "users": 200,
        "eligible_rows": 200,
        "inserted_rows": 199,
        "failed_rows": 1,
        "left_over_rows": 1,
    }
    counts |= {"present_rows": 0, "raced_rows": 0, "discrepancies": 0, "error_ratio": 0.005, "exit_code": 0}
    assert {name: values[name] for name in counts} == counts
    assert before <= values["last_run_timestamp_seconds"] == values["last_success_timestamp_seconds"]
    assert values["duration_seconds"] >= values["phase_duration_seconds{phase=fill}"] > 0
    assert not [name for name, value in values.items() if math.isnan(value)]


def test_a_failed_run_writes_what_is_known_and_keeps_the_last_success(
    url: sa.URL, engine: sa.Engine, path: Path
) -> None:
    users = add_users(engine, 10)
    refuse_rows(engine, f"new.user_id = '{users[0]}'", "raise exception 'refused';")
    options = (*ONE_DAY, "--metrics", str(path))
    assert call(*options, url=url).returncode == 1
    values = read(path)
    assert (values["exit_code"], values["failed_rows"], values["last_success_timestamp_seconds"]) == (1, 1, 0)
    assert call(*options, "--max-error-rate", "1", url=url).returncode == 0
    success = read(path)["last_success_timestamp_seconds"]
    assert success == read(path)["last_run_timestamp_seconds"] > values["last_run_timestamp_seconds"]
    for arguments, code in (((), 1), (("--database-url", NOWHERE), 3), (("--env-file", "/nowhere/env"), 2)):
        assert call(*options, *arguments, url=url).returncode == code
        values = read(path)
        assert (values["exit_code"], values["last_success_timestamp_seconds"]) == (code, success)
        assert values["last_run_timestamp_seconds"] > success
    assert all(math.isnan(values[name]) for name in metrics.FIGURES), "nothing is left over from an earlier run"


def test_a_run_that_is_stopped_writes_what_it_has_done(scores: Scores, path: Path) -> None:
    add_users(scores.engine, 40)
    scores.interfere("nextval('public.seen') = 25", "perform pg_advisory_xact_lock(4711);")
    options = ("--to", str(DAY), "--days", "1", "--page-size", "5", "--commit-every", "5", "--lock-timeout", "60")
    waiting = "exists (select from pg_locks where locktype = 'advisory' and not granted)"
    with engine_of(scores.url).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("select pg_advisory_lock(4711)")
        with started(scores.url, *options, "--metrics", str(path)) as process:
            wait_until(scores.url, waiting)
            process.send_signal(signal.SIGTERM)
            assert any("Stopping after this page" in line for line in iter(process.stderr.readline, ""))
            connection.exec_driver_sql("select pg_advisory_unlock(4711)")
            process.communicate(timeout=HANGS)
    values = read(path)
    assert (process.returncode, values["exit_code"], values["last_success_timestamp_seconds"]) == (143, 143, 0)
    # The next transaction was on its way, or wasn't.
    assert values["inserted_rows"] == scores.count()
    assert scores.count() in (25, 30)
    assert math.isnan(values["left_over_rows"]), "there was no recount"


def test_an_unexpected_error_is_written_too(url: sa.URL, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("momentum.backfill.run.run_backfill", fail)
    assert call(*ONE_DAY, "--metrics", str(path), url=url).returncode == 1
    assert read(path)["exit_code"] == 1


def test_the_collector_may_read_the_file_and_never_finds_half_of_it(url: sa.URL, tmp_path: Path, path: Path) -> None:
    options = (*ONE_DAY, "--metrics", str(path))
    with umask(0o077):
        assert call(*options, url=url).returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    (tmp_path / "before").hardlink_to(path)
    first = path.read_text()
    path.chmod(0o640)
    assert call(*options, url=url).returncode == 0
    assert (tmp_path / "before").read_text() == first != path.read_text(), "it was replaced, and not written over"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "rights that somebody has given it stay"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["before", path.name]


@pytest.mark.parametrize(
    "content", ["", "half of a li", "momentum_backfill_last_success_timestamp_seconds NaN\n", "\0\xff"]
)
def test_a_file_that_is_something_else_is_replaced(path: Path, content: str) -> None:
    path.write_text(content, encoding="latin-1")
    assert call(*ONE_DAY, "--metrics", str(path), "--database-url", NOWHERE).returncode == 3
    assert read(path)["last_success_timestamp_seconds"] == 0


def test_a_dry_run_leaves_the_figures_of_the_last_run_alone(url: sa.URL, path: Path) -> None:
    assert call(*ONE_DAY, "--dry-run", "--metrics", str(path), url=url).returncode == 0
    assert not path.exists()
    done = call(*ONE_DAY, "--dry-run", "--metrics", "/nowhere/momentum.prom", url=url)
    assert (done.returncode, one_error_line(done)) == (
        2,
        "Error: --metrics /nowhere/momentum.prom cannot be written (No such file or directory).",
    )


def test_metrics_that_cannot_be_written_at_the_end_cost_nothing_else(url: sa.URL, engine: sa.Engine) -> None:
    add_users(engine)
    done = call("--to", str(DAY), "--days", "1", "--metrics", "/dev/full", url=url)
    assert done.returncode == 0
    assert re.search(r"inserted +1\n", done.stdout)
    assert after_database(done) == "Error: --metrics /dev/full cannot be written (No space left on device).\n"


def test_without_the_library_a_run_is_refused_before_it_begins(
    url: sa.URL, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = call(*ONE_DAY, "--metrics", str(path), url=url)
    assert (done.returncode, one_error_line(done)) == (
        2,
        "Error: --metrics needs the package prometheus-client, which is not installed: pip install "
        "'momentum-schema[metrics]'.",
    )
    assert not path.exists()


def test_runs_without_metrics_do_not_need_the_library(url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert call(*ONE_DAY, url=url).returncode == 0


def test_names_and_units_are_those_of_prometheus_and_all_are_documented(path: Path) -> None:
    report = Report(DayRange(DAY, DAY), dry_run=False, phases={"fill": 1.5})
    hostile = 'a "database"\nwith \\ in its name'
    metrics.write_metrics(path, Execution(hostile, STARTED, STARTED, 0), report)
    families = {family.name: family for family in text_string_to_metric_families(path.read_text(encoding="utf-8"))}
    for name, family in families.items():
        assert re.fullmatch(r"momentum_backfill_[a-z]+(_[a-z]+)*", name)
        assert not name.endswith(("_total", "_count", "_sum", "_ms", "_percent")), "these mean something else"
        assert family.type == "gauge"
        assert family.documentation.endswith((".", "0 to 1.", "none."))
        assert f"`{name}" in DOCUMENT, f"docs/operations.md explains {name}"
    assert set(re.findall(r"`(momentum_backfill_\w+)", DOCUMENT)) == set(families)
    [info] = families["momentum_backfill_info"].samples
    assert info.labels == {"database": hostile, "version": __version__}
