"""The command ``momentum-backfill``: parse, call, print.

Standard output carries the result, standard error everything else. Exit codes: 0 done; 1 too many rows failed, or the
recount disagrees; 2 usage or configuration; 3 database unreachable or not migrated; 129, 130, 143 stopped by a signal.
"""

import datetime
import enum
import itertools
import json
import math
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from momentum import __version__
from momentum.backfill.days import DEFAULT_LENGTH, DayRange
from momentum.backfill.display import Display, page_of, print_report
from momentum.backfill.settings import (
    MOST_DAYS_OF_ACTIVITY,
    MOST_ROWS_PER_COMMIT,
    MOST_ROWS_PER_PAGE,
    MOST_WORKERS,
    SAMPLE,
    Limits,
    Settings,
)
from momentum.command import PRECEDENCE, URL_HELP, URL_OPTION, run_app, run_process
from momentum.connect.environment import DEFAULT_ENV_FILE
from momentum.errors import ConfigurationError, MomentumError
from momentum.streams import guarded_streams
from momentum.wording import as_word, counted, printable

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine
    from typer._click.core import Parameter

    from momentum.backfill.discrepancies import Discrepancy, LargestDiscrepancies
    from momentum.backfill.files import Review
    from momentum.backfill.fill import Failure
    from momentum.backfill.pages import Row
    from momentum.backfill.report import Execution, Report
    from momentum.backfill.undo import UndoReport

COMMAND = "momentum-backfill"

# The most discrepancies that a page lists; it says how many more there are.
MOST_ON_A_PAGE = 5000

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def main() -> None:
    """Run the command and exit with its exit code."""
    run_process(run)


def run(arguments: list[str], name: str = COMMAND) -> int:
    """Run the command and return its exit code; every error is one line on standard error.

    Args:
        arguments: The arguments after the command's name.
        name: The name by which it was called.
    """
    with guarded_streams():
        display = Display(sys.stderr, quiet=False, verbose=False, as_json=asks_for_json_log(arguments))
        return run_app(app, name, arguments, display.complain)


def asks_for_json_log(arguments: list[str]) -> bool:
    """Return whether errors should be written for machines, before it is known whether the options are right."""
    return "--log-format=json" in arguments or ("--log-format", "json") in itertools.pairwise(arguments)


def parse_day(text: str) -> datetime.date:
    """Return the day that is written as YYYY-MM-DD."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a day; write it as YYYY-MM-DD") from None


def show_version(wanted: bool) -> None:
    """Print the version and exit, if asked for."""
    if wanted:
        print(f"{COMMAND} {__version__}")
        raise typer.Exit


class LogFormat(enum.StrEnum):
    """The format of standard error."""

    TEXT = "text"
    JSON = "json"


Option = typer.Option


EXIT_CODES = (
    "Exit codes: 0 done; 1 too many rows failed, or the recount disagrees; 2 usage or configuration; 3 database "
    "unreachable or not migrated; 130 interrupted; 143 terminated; 129 the terminal is gone."
)


@app.command(epilog=EXIT_CODES)
def backfill(
    context: typer.Context,
    database_url: Annotated[
        str | None,
        Option(metavar="URL", help=URL_HELP, rich_help_panel="Database"),
    ] = None,
    env_file: Annotated[
        str | None,
        Option(
            metavar="PATH",
            help="A file with SUPABASE_DB_URL, or SUPABASE_URL and SUPABASE_DB_PASSWORD, and, for Supabase's hosts, "
            f"SUPABASE_SERVICE_ROLE_KEY. {PRECEDENCE}",
            rich_help_panel="Database",
        ),
    ] = None,
    days: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help=f"The number of UTC days, ending yesterday or on --to. Default: {DEFAULT_LENGTH}.",
            rich_help_panel="What to fill",
        ),
    ] = None,
    first: Annotated[
        datetime.date | None,
        Option("--from", parser=parse_day, metavar="DAY", help="The first UTC day.", rich_help_panel="What to fill"),
    ] = None,
    last: Annotated[
        datetime.date | None,
        Option(
            "--to",
            parser=parse_day,
            metavar="DAY",
            help="The last UTC day, inclusive, not in the future. Default: yesterday.",
            rich_help_panel="What to fill",
        ),
    ] = None,
    user: Annotated[
        list[uuid.UUID] | None,
        Option(metavar="UUID", help="Only this user; may be repeated.", rich_help_panel="What to fill"),
    ] = None,
    active_within: Annotated[
        int | None,
        Option(
            min=1,
            max=MOST_DAYS_OF_ACTIVITY,
            metavar="N",
            help="Only users who signed in on or after the first day minus N days, or had a momentum event in the N "
            "days up to and including the day.",
            rich_help_panel="What to fill",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            metavar="",
            help="Count the rows that would be inserted, by day; write nothing.",
            rich_help_panel="How",
        ),
    ] = False,
    workers: Annotated[
        int,
        Option(
            min=1, max=MOST_WORKERS, metavar="N", help="Connections that fill at the same time.", rich_help_panel="How"
        ),
    ] = Settings.workers,
    page_size: Annotated[
        int,
        Option(
            min=1,
            max=MOST_ROWS_PER_PAGE,
            metavar="N",
            help="The most rows in an INSERT; on a Citus cluster the default is all that is committed at once.",
            rich_help_panel="How",
        ),
    ] = Settings.page_size,
    commit_every: Annotated[
        int,
        Option(
            min=1,
            max=MOST_ROWS_PER_COMMIT,
            metavar="N",
            help="The most rows between two commits.",
            rich_help_panel="How",
        ),
    ] = Settings.commit_every,
    pause_ms: Annotated[
        int,
        Option(
            min=0,
            metavar="MS",
            help="Milliseconds to pause after a commit, outside of a transaction.",
            rich_help_panel="How",
        ),
    ] = round(1000 * Settings.pause),
    gentle: Annotated[
        bool,
        Option(
            "--gentle",
            metavar="",
            help="Make room for the server's other clients: rest after each commit, take smaller ones where somebody "
            "has to wait, and pause while a replica or the archive is behind.",
            rich_help_panel="How",
        ),
    ] = False,
    lock_timeout: Annotated[
        float,
        Option(min=0.001, metavar="SECONDS", help="How long a statement may wait for a lock.", rich_help_panel="How"),
    ] = Limits.lock_timeout,
    statement_timeout: Annotated[
        float, Option(min=0.001, metavar="SECONDS", help="How long a statement may take.", rich_help_panel="How")
    ] = Limits.statement_timeout,
    attempts: Annotated[
        int,
        Option(
            min=1,
            metavar="N",
            help="How often a transaction is tried after lock timeouts and deadlocks. After a lost connection an "
            "attempt lasts 10 seconds.",
            rich_help_panel="How",
        ),
    ] = Limits.attempts,
    allow_webhooks: Annotated[
        bool,
        Option(
            "--allow-webhooks",
            metavar="",
            help="Run even if a trigger of the score table calls out of the database for every row, or may do so.",
            rich_help_panel="How",
        ),
    ] = False,
    allow_other_owners: Annotated[
        bool,
        Option(
            "--allow-other-owners",
            metavar="",
            help="Run even if a trigger, default or check of the score table runs functions, with your rights, "
            "that belong neither to you nor to the database's owner or a superuser.",
            rich_help_panel="How",
        ),
    ] = False,
    max_error_rate: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            metavar="RATE",
            help="The share of eligible user-days that may fail; above it the exit code is 1. The run stops early if "
            f"more than this share of the rows that it has tried have failed, {SAMPLE:,} or more.",
            rich_help_panel="How",
        ),
    ] = Settings.max_error_rate,
    manifest: Annotated[
        Path | None,
        Option(metavar="PATH", help="Append every inserted user and day, once committed.", rich_help_panel="Undo"),
    ] = None,
    undo: Annotated[
        Path | None,
        Option(
            metavar="MANIFEST",
            help="Delete the rows that a manifest lists and that are still the untouched default.",
            rich_help_panel="Undo",
        ),
    ] = None,
    discrepancy_threshold: Annotated[
        float,
        Option(
            min=0.0,
            metavar="POINTS",
            help="Report scores that differ by more than this from their breakdown.",
            rich_help_panel="Discrepancies",
        ),
    ] = float(Settings.discrepancy_threshold),
    discrepancies: Annotated[
        Path | None,
        Option(metavar="PATH", help="Write all discrepancies to this CSV file.", rich_help_panel="Discrepancies"),
    ] = None,
    no_discrepancies: Annotated[
        bool,
        Option("--no-discrepancies", metavar="", help="Don't look for discrepancies.", rich_help_panel="Discrepancies"),
    ] = False,
    failures: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="Append every user and day that failed, with SQLSTATE and message.",
            rich_help_panel="Output",
        ),
    ] = None,
    report_page: Annotated[
        Path | None,
        Option(
            "--report", metavar="PATH", help="Write an HTML page with a picture of the run.", rich_help_panel="Output"
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="Write the figures of the run for Prometheus, in the format of node-exporter's textfile collector; "
            "needs the extra [bold]metrics[/bold].",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: Annotated[
        bool, Option("--json", metavar="", help="Print one JSON object instead of text.", rich_help_panel="Output")
    ] = False,
    log_format: Annotated[
        LogFormat,
        Option(help="The format of standard error: for people or machines.", rich_help_panel="Output"),
    ] = LogFormat.TEXT,
    quiet: Annotated[
        bool,
        Option(
            "--quiet",
            "-q",
            metavar="",
            help="Print errors only; with --json also the object.",
            rich_help_panel="Output",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        Option("--verbose", "-v", metavar="", help="Also log each step.", rich_help_panel="Output"),
    ] = False,
    version: Annotated[
        bool, Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> int:
    """Give every active user a row for every UTC day of a range.

    Inserts the default row (score 0) where a user has none; existing rows are never touched, so it can be run again at
    any time. A user is active if the account is neither deleted nor banned, from the day it was created.

    [bold]Examples[/bold]

    momentum-backfill --dry-run  [dim](what would happen for the last 30 days)[/dim]

    momentum-backfill --from 2026-01-01 --to 2026-01-31 --workers 2  [dim](a range, on two connections)[/dim]

    momentum-backfill --days 7 --active-within 90 --json  [dim](recently active users, a machine-readable report)[/dim]

    momentum-backfill --days 2 --quiet --log-format json --failures failed.jsonl  [dim](at night)[/dim]

    momentum-backfill --manifest rows.jsonl --report page.html  [dim](keep a page to read and a list to undo by)[/dim]

    momentum-backfill --undo rows.jsonl --dry-run  [dim](what an undo of those rows would do)[/dim]

    momentum-backfill --discrepancies review.csv  [dim](scores that contradict their breakdown)[/dim]
    """
    del version
    check_combinations(context)
    # Here and not above, so that --help needn't wait for SQLAlchemy.
    from momentum.backfill.files import check_distinct
    from momentum.backfill.metrics import check_metrics, write_metrics
    from momentum.backfill.report import Execution, Report
    from momentum.connect.engine import create_engine
    from momentum.connect.url import describe

    started_at = datetime.datetime.now(datetime.UTC)
    with ExitStack() as stack:
        display = stack.enter_context(Display.open(quiet=quiet, verbose=verbose, as_json=log_format is LogFormat.JSON))
        stopped = stack.enter_context(stop_signals(display))
        exit_code, database = 1, ""
        # The file of --metrics, once it is known that it can be written.
        figures: Path | None = None
        try:
            # Contradictions can be found without a connection, but only the server says what day it is.
            DayRange.choose(first, last, days, datetime.date.max)
            files = {
                "--undo": undo,
                "--env-file": Path(os.path.expanduser(env_file or DEFAULT_ENV_FILE)),  # noqa: PTH111 - it never fails
                "--discrepancies": discrepancies,
                "--manifest": manifest,
                "--failures": failures,
                "--report": report_page,
                "--metrics": metrics,
            }
            check_distinct({name: path for name, path in files.items() if path}, prints=as_json or not quiet)
            if metrics is not None:
                check_metrics(metrics)
                figures = None if dry_run else metrics
            limits = Limits(lock_timeout, statement_timeout, attempts)
            url = find_database(database_url, env_file, display)
            database = describe(url)
            context.obj.url = url if verbose else None
            outputs = Outputs.open(stack, discrepancies, manifest, failures, report_page, dry_run=dry_run)
            engine = create_engine(url, application_name=COMMAND, keeps_connection=True)
            stack.callback(engine.dispose)
            settings = Settings(
                days=DayRange.choose(first, last, days, today_of(engine, limits, display, stopped)),
                users=tuple(dict.fromkeys(user or ())),
                active_within=active_within,
                page_size=page_size,
                commit_every=commit_every,
                workers=workers,
                pause=pause_ms / 1000,
                gentle=gentle,
                limits=limits,
                max_error_rate=max_error_rate,
                allow_webhooks=allow_webhooks,
                allow_other_owners=allow_other_owners,
                dry_run=dry_run,
                count_by_day=report_page is not None,
                look_for_discrepancies=not no_discrepancies,
                discrepancy_threshold=Decimal(str(discrepancy_threshold)),
            )
            resume = resume_command(context, settings.days)
            report: Report | UndoReport
            if undo is None:
                report = execute(engine, settings, display, outputs, stopped)
            else:
                report = take_back(engine, undo, settings, display, outputs, stopped)
            # Now, because the report has it too: a signal from here on changes nothing.
            exit_code, objection = judge(
                report, max_error_rate, stopped, place_of_failures(report, failures, quiet=quiet)
            )
            execution = Execution.ending_now(database, started_at, exit_code)
            unfinished = resume if report.unfinished and not report.dry_run else None
            display.finish()
            if as_json:
                print(json.dumps({**execution.as_json(), **report.as_json(unfinished)}))
            elif not quiet:
                print_report(report, settings, unfinished)
            if isinstance(report, Report):
                outputs.finish(report, settings, execution, unfinished, display)
            if objection:
                display.complain(objection, exit_code)
        except KeyboardInterrupt:
            exit_code = display.complain("Interrupted; uncommitted work is rolled back.", stopped.exit_code)
        except MomentumError as error:
            exit_code = display.complain(str(error), error.exit_code)
        except BaseException:
            exit_code = 1
            raise
        finally:
            if figures is not None:
                counts = display.report if isinstance(display.report, Report) else None
                try:
                    write_metrics(figures, Execution.ending_now(database, started_at, exit_code), counts)
                except ConfigurationError as error:
                    display.complain(str(error), 0)
        return exit_code


# Options that say how to fill; for an undo the manifest says it all.
NOT_WITH_UNDO = (
    "days",
    "first",
    "last",
    "user",
    "active_within",
    "workers",
    "manifest",
    "discrepancy_threshold",
    "discrepancies",
    "no_discrepancies",
    "report_page",
    "metrics",
)


def check_combinations(context: typer.Context) -> None:
    """Refuse options that contradict each other, and numbers that are not finite.

    Raises:
        ConfigurationError: Two of the options do, or a number is not finite.
    """
    given = {option.name: option.opts[0] for option in given_options(context)}
    for name, value in context.params.items():
        # The smallest values of the options don't exclude these.
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f"{given[name]} {value} is not a finite number.")
        if value == Path():
            # An empty variable of a script becomes the current folder.
            raise ConfigurationError(f"{given[name]} names no file; it is empty, or the current folder.")
    for one, other in (("quiet", "verbose"), ("discrepancies", "no_discrepancies")):
        if one in given and other in given:
            raise ConfigurationError(f"Give {given[one]} or {given[other]}, not both.")
    if "undo" in given:
        for name in NOT_WITH_UNDO:
            if name in given:
                raise ConfigurationError(f"Give --undo without {given[name]}: the manifest says which rows to delete.")


def given_options(context: typer.Context) -> list["Parameter"]:
    """Return the options that were given on the command line, in the order of the help."""
    return [
        option
        for option in context.command.params
        if getattr(context.get_parameter_source(str(option.name)), "name", "") == "COMMANDLINE"
    ]


@dataclass
class Outputs:
    """The files that a run writes, opened before anything else happens."""

    on_discrepancy: "Callable[[Discrepancy], None]"
    on_inserted: "Callable[[Sequence[Row]], None] | None"
    on_failure: "Callable[[Failure], None]"
    largest: "LargestDiscrepancies"
    review: "Review | None"
    discrepancies: Path | None
    page: Path | None

    @classmethod
    def open(
        cls,
        stack: ExitStack,
        discrepancies: Path | None,
        manifest: Path | None,
        failures: Path | None,
        report_page: Path | None,
        *,
        dry_run: bool,
    ) -> "Outputs":
        """Open the files that are appended to, and check whether the others can be written.

        A dry run appends nothing, and leaves no empty file.

        Raises:
            ConfigurationError: One of them cannot be written.
        """
        from momentum.backfill.discrepancies import LargestDiscrepancies
        from momentum.backfill.files import Review, check_writable
        from momentum.backfill.manifest import append_lines, as_line

        checked = [(discrepancies, "--discrepancies"), (report_page, "--report")]
        if dry_run:
            checked += [(manifest, "--manifest"), (failures, "--failures")]
            manifest = failures = None
        for path, option in checked:
            if path is not None:
                check_writable(path, option)
        review = Review(discrepancies) if discrepancies else None
        if review is not None:
            stack.callback(review.close)
        append_rows = stack.enter_context(append_lines(manifest, "--manifest")) if manifest else ignore
        append_failures = stack.enter_context(append_lines(failures, "--failures")) if failures else ignore
        largest = LargestDiscrepancies(MOST_ON_A_PAGE if report_page else 0)

        def on_discrepancy(found: "Discrepancy") -> None:
            if review is not None:
                review.add(found)
            largest.add(found)

        def on_inserted(rows: "Sequence[Row]") -> None:
            append_rows(as_line(user_id, day) for user_id, day in rows)

        def on_failure(failed: "Failure") -> None:
            append_failures([failed.as_line()])

        return cls(
            on_discrepancy,
            on_inserted if manifest else None,
            on_failure if failures else ignore,
            largest,
            review,
            discrepancies,
            report_page,
        )

    def finish(
        self, report: "Report", settings: Settings, execution: "Execution", resume: str | None, display: Display
    ) -> None:
        """Write the page of a run, and put its other files in their places.

        A file that can't be written costs nothing else: the rows are there, and have been reported.
        """
        from momentum.backfill.page import write_page

        if self.page is not None and report.uncounted:
            display.complain(f"--report {self.page} is not written, because the rows of each day are not known.", 0)
        elif self.page is not None:
            try:
                write_page(self.page, page_of(report, settings, execution, self.largest, resume))
            except ConfigurationError as error:
                display.complain(str(error), 0)
        if self.review is not None:
            if report.discrepancies is not None:
                self.review.keep()
            if self.review.error is not None:
                reason = self.review.error.strerror
                display.complain(f"--discrepancies {self.discrepancies} could not be written ({reason}).", 0)


def ignore(_: object) -> None:
    """Ignore the argument."""


def find_database(given: str | None, env_file: str | None, display: Display) -> "URL":
    """Return the URL of the database, name the database, and check the key that a project on Supabase asks for.

    Args:
        given: The URL of the command line, if there is one.
        env_file: The env file of the command line, if there is one.
        display: Names the database, before it warns of anything.

    Raises:
        ConfigurationError: There is no URL, it can't be used, or the key is not the project's.
    """
    from momentum.connect.env_file import EnvFile, check_service_role_key, find_url
    from momentum.connect.url import describe

    warnings: list[str] = []
    secrets = EnvFile(env_file, warnings.append)
    try:
        url = find_url(given, option=URL_OPTION, env_file=secrets)
        display.name_database(describe(url))
        check_service_role_key(url, secrets)
    finally:
        for warning in warnings:
            display.warn(warning)
    return url


def today_of(engine: "Engine", limits: Limits, display: Display, stopped: "StopSignals") -> datetime.date:
    """Return the UTC day of the server."""
    from momentum.backfill.run import read_today

    with errors_say_what_was_committed(engine.url, display, stopped):
        return read_today(engine, limits)


def execute(
    engine: "Engine", settings: Settings, display: Display, outputs: Outputs, stopped: "StopSignals"
) -> "Report":
    """Run the backfill and return its report; the driver's errors become ours, and say what was committed.

    Raises:
        MomentumError: The run failed.
        KeyboardInterrupt: The run was asked to stop, and could not end in an orderly way.
    """
    from momentum.backfill.fill import Observers
    from momentum.backfill.run import run_backfill

    display.log(f"{'Dry run' if settings.dry_run else 'Backfill'} of {settings.days}.")
    with errors_say_what_was_committed(engine.url, display, stopped):
        return run_backfill(
            engine,
            settings,
            observers=Observers(
                display.progress, outputs.on_inserted, outputs.on_failure, wants_total=display.shows_progress
            ),
            on_discrepancy=outputs.on_discrepancy,
            should_stop=stopped.asked,
        )


def take_back(
    engine: "Engine",
    manifest: Path,
    settings: Settings,
    display: Display,
    outputs: Outputs,
    stopped: "StopSignals",
) -> "UndoReport":
    """Undo a run and return the report; the driver's errors become ours, and say what was committed.

    Raises:
        MomentumError: The undo failed.
        KeyboardInterrupt: It was asked to stop, and could not end in an orderly way.
    """
    from momentum.backfill.undo import run_undo

    display.log(f"Undo of {manifest}.")
    with errors_say_what_was_committed(engine.url, display, stopped):
        return run_undo(
            engine,
            manifest,
            settings,
            on_progress=display.undo_progress,
            on_failure=outputs.on_failure,
            should_stop=stopped.asked,
        )


@contextmanager
def errors_say_what_was_committed(url: "URL", display: Display, stopped: "StopSignals") -> Iterator[None]:
    """Turn the driver's errors into ours, and say what has been committed in spite of them."""
    from momentum.connect.engine import connection_errors

    try:
        with connection_errors(url):
            yield
    except MomentumError as error:
        if stopped.aborted:
            raise KeyboardInterrupt from None
        if display.committed:
            rows = f"{counted(display.committed, 'row')} {'was' if display.committed == 1 else 'were'}"
            raise type(error)(f"{error} {rows} committed before.") from error.__cause__
        raise


def judge(
    report: "Report | UndoReport", max_error_rate: float, stopped: "StopSignals", place: str
) -> tuple[int, str | None]:
    """Return the exit code for a report, and the sentence that explains it, if it needs one.

    Args:
        report: The report.
        max_error_rate: The share of rows that may fail.
        stopped: The signal that has stopped the run, if any.
        place: Where the failures are listed, as a clause.
    """
    from momentum.backfill.report import Report

    if stopped.asked():
        return stopped.exit_code, None
    if isinstance(report, Report) and report.recount_disagrees:
        return 1, (
            f"The recount found {counted(report.left_over or 0, 'eligible user-day')} without a row, and "
            f"{report.failed:,} {'is' if report.failed == 1 else 'are'} known to have failed; run the command again."
        )
    if report.gave_up:
        tried = f"{report.failed:,} of the first {counted(report.attempted, 'row')} failed"
        return 1, f"{tried}, above the limit of {max_error_rate:.2%}, and the run has stopped; {place}."
    if report.error_rate <= max_error_rate:
        return 0, None
    if isinstance(report, Report):
        share = f"{report.failed:,} of {counted(report.eligible, 'eligible user-day')}"
    else:
        share = f"{report.failed:,} of {counted(report.to_delete, 'row')} to delete"
    return 1, f"{share} failed ({report.error_rate:.2%}), above the limit of {max_error_rate:.2%}; {place}."


def place_of_failures(report: "Report | UndoReport", failures: Path | None, *, quiet: bool) -> str:
    """Return a clause that says where the failures of a run are listed, or how to list them."""
    from momentum.backfill.report import NAMED_FAILURES

    if failures is not None:
        return f"{printable(str(failures))} lists them"
    if quiet:
        return "--failures PATH lists them in a file"
    return "the log names them" if report.failed <= NAMED_FAILURES else f"the log names the first {NAMED_FAILURES}"


# Options that the command to resume replaces by absolute days, that are secret, or that have done their work.
NOT_RESUMED = ("database_url", "days", "first", "last", "dry_run")


def resume_command(context: typer.Context, days: DayRange) -> str:
    """Return the command that resumes the run: its days are absolute, and it contains no URL."""
    given = given_options(context)
    words = [COMMAND]
    if not any(option.name == "undo" for option in given):
        words += ["--from", days.first.isoformat(), "--to", days.last.isoformat()]
    for option in given:
        if option.name in NOT_RESUMED:
            continue
        value = context.params[str(option.name)]
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return " ".join(map(as_word, words))


class StopSignals:
    """The signal that has asked the run to stop, if any.

    Attributes:
        received: The first signal.
        aborted: Whether there was a second one, which doesn't wait for a page.
    """

    def __init__(self, display: Display) -> None:
        self.received: int | None = None
        self.aborted = False
        self._display = display

    def asked(self) -> bool:
        """Return whether a signal has asked the run to stop."""
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """The exit code that shells expect after a signal; that of Ctrl-C if none is known."""
        return 128 + (self.received or signal.SIGINT)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Remember the first signal, so that the current page is finished and committed; abort at the second."""
        if self.received is not None:
            self.aborted = True
            raise KeyboardInterrupt
        self.received = number
        # Not print, because the signal may have interrupted a print.
        said = self._display.line("Stopping after this page; interrupt again to abort at once.")
        with suppress(OSError):
            os.write(sys.stderr.fileno(), f"{said}\n".encode())


@contextmanager
def stop_signals(display: Display) -> Iterator[StopSignals]:
    """Catch Ctrl-C, a request to terminate and the end of the terminal while a run goes on."""
    signals = StopSignals(display)
    # Under nohup, the end of the terminal is to be ignored.
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    previous = {number: signal.signal(number, signals.handle) for number in (signal.SIGINT, signal.SIGTERM, *hangup)}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
