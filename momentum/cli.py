"""The command ``momentum-backfill``: parse, call, print.

Standard output carries the result, standard error everything else. Exit codes: 0 done; 1 too many rows failed, or the
recount disagrees; 2 usage or configuration; 3 database unreachable or not migrated; 130 interrupted.
"""

import csv
import datetime
import json
import os
import shlex
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from momentum import __version__
from momentum.command import complain, run_app, warn
from momentum.display import Display, print_report
from momentum.environment import DEFAULT_ENV_FILE, URL_VARIABLES
from momentum.errors import ConfigurationError, MomentumError

if TYPE_CHECKING:
    from sqlalchemy import URL

    from momentum.backfill.discrepancies import Discrepancy
    from momentum.backfill.report import Report
    from momentum.backfill.run import Settings

COMMAND = "momentum-backfill"

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def main() -> None:
    """Run the command and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command with some arguments and return its exit code; every error is one line on standard error."""
    return run_app(app, COMMAND, arguments)


def parse_day(text: str) -> datetime.date:
    """Return a day written as YYYY-MM-DD."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day; write it as YYYY-MM-DD") from None


def show_version(wanted: bool) -> None:
    """Print the version and end, if it was asked for."""
    if wanted:
        print(f"{COMMAND} {__version__}")
        raise typer.Exit


Option = typer.Option


@app.command(
    epilog="Exit codes: 0 done; 1 too many rows failed, or the recount disagrees; 2 usage or configuration; "
    "3 database unreachable or not migrated; 130 interrupted."
)
def backfill(
    database_url: Annotated[
        str | None,
        Option(
            metavar="URL",
            envvar=URL_VARIABLES[0],
            show_envvar=True,
            help=f"The database. Without it {URL_VARIABLES[1]} of the environment, then the env file.",
            rich_help_panel="Database",
        ),
    ] = None,
    env_file: Annotated[
        str | None,
        Option(
            metavar="PATH",
            help="A file with SUPABASE_DB_URL, or SUPABASE_URL and SUPABASE_DB_PASSWORD, and for Supabase's hosts with "
            f"SUPABASE_SERVICE_ROLE_KEY; the environment beats it. Default: {DEFAULT_ENV_FILE}.",
            rich_help_panel="Database",
        ),
    ] = None,
    days: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help="How many UTC days, ending yesterday or on --to. Default: 30.",
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
            help="The last UTC day, included, not in the future. Default: yesterday.",
            rich_help_panel="What to fill",
        ),
    ] = None,
    user: Annotated[
        list[uuid.UUID] | None,
        Option(metavar="UUID", help="Only this user; may be given again.", rich_help_panel="What to fill"),
    ] = None,
    active_within: Annotated[
        int | None,
        Option(
            min=1,
            max=36500,
            metavar="N",
            help="Only users who signed in on or after the first day less N days, or had a momentum event in the N "
            "days up to and including the day.",
            rich_help_panel="What to fill",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run", metavar="", help="Count, by day, what would be inserted; write nothing.", rich_help_panel="How"
        ),
    ] = False,
    page_size: Annotated[
        int, Option(min=1, max=500, metavar="N", help="Rows in an INSERT at most.", rich_help_panel="How")
    ] = 500,
    commit_every: Annotated[
        int, Option(min=1, max=1000, metavar="N", help="Rows between two commits.", rich_help_panel="How")
    ] = 1000,
    max_error_rate: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            metavar="RATE",
            help="The share of failed rows above which the exit code is 1.",
            rich_help_panel="How",
        ),
    ] = 0.01,
    discrepancy_threshold: Annotated[
        float,
        Option(
            min=0.0,
            metavar="POINTS",
            help="Report scores that differ by more than this from their breakdown.",
            rich_help_panel="Discrepancies",
        ),
    ] = 5,
    discrepancies: Annotated[
        Path | None,
        Option(metavar="PATH", help="Write all of them to this CSV file.", rich_help_panel="Discrepancies"),
    ] = None,
    no_discrepancies: Annotated[
        bool, Option("--no-discrepancies", metavar="", help="Don't look for them.", rich_help_panel="Discrepancies")
    ] = False,
    as_json: Annotated[
        bool, Option("--json", metavar="", help="Print one JSON object instead of text.", rich_help_panel="Output")
    ] = False,
    quiet: Annotated[
        bool,
        Option("--quiet", "-q", metavar="", help="Errors only; with --json the object too.", rich_help_panel="Output"),
    ] = False,
    verbose: Annotated[
        bool,
        Option("--verbose", "-v", metavar="", help="Also say what is done, step by step.", rich_help_panel="Output"),
    ] = False,
    version: Annotated[
        bool, Option("--version", callback=show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> int:
    """Give every active user a row for every UTC day of a range.

    Inserts the default row (score 0) where a user has none; existing rows are never touched, so it can be run again at
    any time. Active is who has an account that is not deleted and not banned, from the day on which it was created.

    [bold]Examples[/bold]

    momentum-backfill --dry-run  [dim](what would happen for the last 30 days)[/dim]

    momentum-backfill --from 2026-01-01 --to 2026-01-31

    momentum-backfill --days 7 --active-within 90 --json

    momentum-backfill --discrepancies review.csv
    """
    del version
    if quiet and verbose:
        raise ConfigurationError("Give --quiet or --verbose, not both.")
    if discrepancies and no_discrepancies:
        raise ConfigurationError("Give --discrepancies or --no-discrepancies, not both.")

    # Here and not above, so that --help need not wait for SQLAlchemy.
    from momentum.backfill.days import DayRange, today
    from momentum.backfill.run import Settings
    from momentum.database import EnvFile, find_url
    from momentum.supabase import check_service_role_key

    settings = Settings(
        days=DayRange.choose(first, last, days, today()),
        users=tuple(dict.fromkeys(user or ())),
        active_within=active_within,
        page_size=page_size,
        commit_every=commit_every,
        dry_run=dry_run,
        look_for_discrepancies=not no_discrepancies,
        discrepancy_threshold=Decimal(str(discrepancy_threshold)),
    )
    from_environment = database_url == os.environ.get(URL_VARIABLES[0])
    option = URL_VARIABLES[0] if from_environment else "--database-url"
    secrets = EnvFile(env_file, warn=ignore if quiet else warn)
    url = find_url(database_url, option=option, env_file=secrets)
    check_service_role_key(url, secrets)
    resume = resume_command(settings, max_error_rate, env_file)
    with ExitStack() as stack:
        write_row = stack.enter_context(csv_file(discrepancies)) if discrepancies else ignore
        display = stack.enter_context(Display.open(quiet=quiet, verbose=verbose))
        stopped = stack.enter_context(stop_signals())
        try:
            report = execute(url, settings, display, write_row, stopped)
        except KeyboardInterrupt:
            return complain("Interrupted; what was not committed is rolled back.", 130)

    unfinished = resume if report.interrupted or report.recount_disagrees or report.failed else None
    if as_json:
        print(json.dumps(report.as_json(unfinished)))
    elif not quiet:
        print_report(report, unfinished)
    return judge(report, max_error_rate, stopped)


def ignore(_: object) -> None:
    """Do nothing with what is handed over."""


def execute(
    url: "URL",
    settings: "Settings",
    display: "Display",
    write_row: "Callable[[Discrepancy], None]",
    stopped: "StopSignals",
) -> "Report":
    """Run the backfill; the driver's errors become ours, and say what was committed before.

    Raises:
        MomentumError: It could not run to its end.
    """
    from momentum.backfill.run import run_backfill
    from momentum.database import connection_errors, create_engine, describe

    display.log(f"Database {describe(url)}, {settings.days}, {'dry run' if settings.dry_run else 'backfill'}.")
    try:
        with connection_errors(url):
            return run_backfill(
                create_engine(url, application_name=COMMAND),
                settings,
                on_progress=display.progress,
                on_discrepancy=write_row,
                should_stop=lambda: stopped.received is not None,
            )
    except MomentumError as error:
        if stopped.received is not None:
            raise KeyboardInterrupt from None
        if display.inserted:
            raise type(error)(f"{error} {display.inserted} rows were inserted and committed before.") from None
        raise


def judge(report: "Report", max_error_rate: float, stopped: "StopSignals") -> int:
    """Return the exit code that a report deserves, and say why if it is not 0."""
    if stopped.received is not None:
        return 128 + stopped.received
    if report.recount_disagrees:
        return complain(
            f"The recount found {report.left_over} eligible user-days without a row, and {report.failed} are known to "
            "have failed; run the command again.",
            1,
        )
    if report.error_rate > max_error_rate:
        return complain(
            f"{report.failed} rows failed, an error rate of {report.error_rate:.2%}, above the limit of "
            f"{max_error_rate:.2%}; the log names them.",
            1,
        )
    return 0


def resume_command(settings: "Settings", max_error_rate: float, env_file: str | None) -> str:
    """Return the command that does what is left: the days are absolute, and there is no URL in it."""
    words = [COMMAND, "--from", settings.days.first.isoformat(), "--to", settings.days.last.isoformat()]
    if env_file:
        words += ["--env-file", env_file]
    for user in settings.users:
        words += ["--user", str(user)]
    if settings.active_within is not None:
        words += ["--active-within", str(settings.active_within)]
    words += ["--page-size", str(settings.page_size), "--commit-every", str(settings.commit_every)]
    words += ["--max-error-rate", str(max_error_rate)]
    if settings.look_for_discrepancies:
        words += ["--discrepancy-threshold", str(settings.discrepancy_threshold)]
    else:
        words += ["--no-discrepancies"]
    return shlex.join(words)


class StopSignals:
    """Which signal has asked the run to stop, if one has."""

    def __init__(self) -> None:
        self.received: int | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Take note of the first signal, so that the running page ends and commits; abort at the second."""
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        # Not print: it may be a print that the signal has interrupted.
        os.write(sys.stderr.fileno(), b"Stopping after this page; interrupt again to abort at once.\n")


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Catch Ctrl-C while a run is going on."""
    signals = StopSignals()
    previous = signal.signal(signal.SIGINT, signals.handle)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def csv_file(path: Path) -> "Iterator[Callable[[Discrepancy], None]]":
    """Yield a function that writes a discrepancy to a CSV file, which is opened before anything else happens.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        stream = path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--discrepancies {path} cannot be written ({error.strerror}).") from None
    writer = csv.writer(stream)
    writer.writerow(["user_id", "day", "score", "breakdown_score", "difference"])

    def write_row(found: "Discrepancy") -> None:
        writer.writerow([found.user_id, found.day, found.score, found.breakdown_score, found.difference])

    try:
        with stream:
            yield write_row
    except OSError as error:
        # What was filled is filled and must be reported, whatever became of the list.
        complain(f"--discrepancies {path} could not be written ({error.strerror}); the list is not complete.", 0)
