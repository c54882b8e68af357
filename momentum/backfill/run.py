"""The run: look at the database, fill the gaps, count again, compare scores with their breakdowns."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from momentum.backfill.chunks import Chunks, any_number
from momentum.backfill.discrepancies import Discrepancy, LargestDiscrepancies, as_lines, find_discrepancies
from momentum.backfill.eligibility import Eligibility
from momentum.backfill.faults import classify
from momentum.backfill.fill import NOBODY, Failure, Filler, Observers, Statements
from momentum.backfill.pages import KeyRange, Pages
from momentum.backfill.preflight import (
    Database,
    check_days,
    check_triggers,
    count_accounts,
    find_unknown_users,
    look_at,
    read_clock,
)
from momentum.backfill.recount import count_missing
from momentum.backfill.report import NAMED_FAILURES, Report, add_reason
from momentum.backfill.session import Session, sleep_until
from momentum.backfill.settings import Limits, Settings
from momentum.backfill.shards import ShardedPages
from momentum.backfill.throttle import Signals, Throttle
from momentum.connect.engine import reason
from momentum.connect.pipeline import Answer, ready
from momentum.retries import Fault

# The most discrepancies that are held at once.
DISCREPANCIES_PER_READ = 20_000

# A larger difference between this machine's clock and the server's is reported.
LARGEST_DIFFERENCE = datetime.timedelta(minutes=1)

# Discrepancies that the log names; smaller ones are only counted.
LOGGED_ROWS = 20

logger = logging.getLogger("momentum.backfill")


def run_backfill(
    engine: Engine,
    settings: Settings,
    *,
    observers: Observers = NOBODY,
    on_discrepancy: Callable[[Discrepancy], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Insert the default row on every eligible user-day of the range that has none; existing rows are never touched.

    Args:
        engine: Connects to the database as a role that sees all rows.
        settings: The settings of the run.
        observers: The functions that are called while it goes on.
        on_discrepancy: Called with each discrepancy; the largest ones are also logged as warnings.
        should_stop: Asked after each page; once it returns true, finished pages are committed and the run ends.

    Returns:
        The report; it counts rows whose commit the server has confirmed.

    Raises:
        NotMigratedError: The database lacks something that the backfill needs.
        ConfigurationError: The role lacks a right, or row-level security would hide rows from it; the range is in the
            future; or a trigger would call out of the database or run functions of roles that aren't trusted.
        DatabaseUnreachableError: It is not known whether a commit took place, because the server doesn't answer.
        sqlalchemy.exc.DBAPIError: The server refused a statement, and no other attempt would help, or could not be
            reached again. Earlier commits stay, and another run resumes.
    """
    started = time.monotonic()
    report = Report(settings.days, settings.dry_run, settings.workers)
    with timed(report, "preflight"):
        database = look_before(engine, settings)
    report.triggers = database.triggers
    eligibility = Eligibility(
        database.account_columns, settings.days, database.now, settings.users, settings.active_within
    )
    pages = pages_for(database, eligibility)

    def look() -> Pages:
        again = look_at_rows(engine, settings, "insert")
        report.triggers = again.triggers
        return pages_for(again, eligibility)

    def chunks(*, sampled: bool) -> Chunks:
        return Chunks(pages, database.scores, settings.days, sampled=sampled, gentle=settings.gentle)

    signals = Signals() if settings.gentle else None
    with timed(report, "fill"):
        total = count_candidates(engine, settings, pages, should_stop) if observers.wants_total else None
        observers = observers._replace(on_failure=logged(observers.on_failure, report.reasons))
        statements = Statements(pages, look)
        Filler(engine, statements, chunks(sampled=True), settings, report, observers, should_stop, total, signals).run()
    report.interrupted = report.interrupted or should_stop()
    with reading_session(engine, settings.limits, should_stop) as session:
        throttle = Throttle(
            session,
            settings,
            signals,
            lambda seconds: sleep_until(should_stop, seconds),
            should_stop,
            report.count_pause,
        )
        if not (report.users or report.interrupted):
            report.passed_over = session.read(lambda connection: count_accounts(connection, settings.users))
        if not (settings.dry_run or report.interrupted or report.gave_up):
            with timed(report, "recount"):
                report.left_over = recount(session, database, eligibility, chunks(sampled=False), throttle, should_stop)
        if settings.look_for_discrepancies and not (should_stop() or report.gave_up):
            with timed(report, "discrepancies"):
                report.discrepancies = report_discrepancies(
                    session, database, settings, chunks(sampled=True), throttle, on_discrepancy, should_stop
                )
        if settings.count_by_day:
            with timed(report, "count by day"):
                try:
                    report.present_by_day = count_present_by_day(session, pages, chunks(sampled=False), throttle)
                    report.present_by_day.subtract(report.inserted_by_day)
                except DBAPIError as error:
                    # They are only for the chart.
                    logger.warning("the rows of each day could not be counted: %s", reason(error, session.url))
                    report.uncounted = True
    report.interrupted = report.interrupted or should_stop()
    report.elapsed_seconds = time.monotonic() - started
    return report


@contextmanager
def timed(report: Report, phase: str) -> Iterator[None]:
    """Record how long a phase took."""
    logger.debug("%s ...", phase)
    started = time.monotonic()
    try:
        yield
    finally:
        report.phases[phase] = time.monotonic() - started


def reading_session(engine: Engine, limits: Limits, should_stop: Callable[[], bool] = lambda: False) -> Session:
    """Return a session that only reads, and stops waiting once the run is to stop."""
    return Session(
        engine,
        limits,
        read_only=True,
        sleep=lambda seconds: sleep_until(should_stop, seconds),
        is_stopping=should_stop,
    )


def client_clock() -> datetime.datetime:
    """Return this machine's time."""
    return datetime.datetime.now(datetime.UTC)


def read_today(engine: Engine, limits: Limits) -> datetime.date:
    """Return the server's UTC day, and warn if this machine's clock, which decides nothing, differs.

    The connection is tried once, so that an unreachable server is reported at once.
    """
    with reading_session(engine, limits) as session:
        before = client_clock()
        now = session.read(read_clock, attempts=1)
        behind, ahead = now - client_clock(), before - now
    if (difference := max(behind, ahead)) > LARGEST_DIFFERENCE:
        logger.warning(
            "this machine's clock is %s %s the server's, which says what day it is",
            datetime.timedelta(seconds=round(difference.total_seconds())),
            "behind" if difference == behind else "ahead of",
        )
    return now.date()


def look_before(engine: Engine, settings: Settings) -> Database:
    """Return the facts about its database that a run needs; refuse a database that can't be filled.

    The first connection is tried once, so that an unreachable server is reported at once.
    """
    database = look_at_rows(engine, settings, "insert", attempts=1)
    if settings.users:
        with reading_session(engine, settings.limits) as session:
            for user in session.read(lambda connection: find_unknown_users(connection, settings.users)):
                logger.warning("there is no user %s in auth.users", user)
    return database


def look_at_rows(engine: Engine, settings: Settings, event: str, attempts: int | None = None) -> Database:
    """Return the facts about its database that a run needs, and say what runs for each row; refuse what isn't allowed.

    Args:
        engine: Connects to the database.
        settings: The settings of the run.
        event: ``insert`` or ``delete``.
        attempts: How often it is tried; None means as often as the settings say.
    """
    # The whole look is at one state of the database.
    with Session(
        engine, settings.limits, sleep=time.sleep, read_only=settings.dry_run, isolation="repeatable read"
    ) as session:
        with_events = settings.active_within is not None and event == "insert"
        database = session.read(
            lambda connection: look_at(connection, event, dry_run=settings.dry_run, with_events=with_events),
            attempts=attempts,
        )
    if event == "insert":
        check_days(settings.days, database.now)
    if not settings.dry_run:
        check_triggers(
            database.triggers,
            database.scores.relation,
            allow_webhooks=settings.allow_webhooks,
            allow_other_owners=settings.allow_other_owners,
        )
    for trigger in database.triggers:
        logger.info("each %s fires the %s %s", "row" if event == "insert" else "deleted row", trigger.kind, trigger)
    return database


def pages_for(database: Database, eligibility: Eligibility) -> Pages:
    """Return the statements of a run."""
    if database.distributed:
        return ShardedPages(database.scores, eligibility, takes_ids=database.takes_ids)
    return Pages(
        database.scores,
        eligibility,
        own_path=database.own_path,
        fingerprint=database.fingerprint,
        takes_ids=database.takes_ids,
    )


def count_candidates(engine: Engine, settings: Settings, pages: Pages, should_stop: Callable[[], bool]) -> int | None:
    """Return how many user-days there are to settle; None if they can't be counted in time.

    The number is only for the progress that is displayed, so its lack is no reason to stop.
    """
    try:
        with reading_session(engine, settings.limits, should_stop) as session:
            return session.read(pages.count_candidates)
    except DBAPIError as error:
        if classify(error) is Fault.FATAL:
            raise
        return None


def recount(
    session: Session,
    database: Database,
    eligibility: Eligibility,
    chunks: Chunks,
    throttle: Throttle,
    should_stop: Callable[[], bool],
) -> int | None:
    """Return the number of eligible user-days without a row; None if the run was stopped meanwhile."""

    def read(connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool) -> Answer[int]:
        del by_scan, divisible  # The session sets the planner, and a number is never too large.
        return count_missing(connection, database.scores, eligibility, keys, distributed=database.distributed)

    missing = 0
    while not chunks.is_done:
        if should_stop():
            return None
        try:
            missing += chunks.step(session, read, any_number)
            throttle.rest_after_reading()
        except DBAPIError:
            # A run that is to stop waits for no server, and still reports what it has committed.
            if should_stop():
                return None
            raise
    return missing


def logged(on_failure: Callable[[Failure], None], reasons: Counter[tuple[str, str]]) -> Callable[[Failure], None]:
    """Return a function that logs the first failures of a run, counts all by their reasons and passes them on."""
    count = 0

    def log_and_pass_on(failed: Failure) -> None:
        nonlocal count
        count += 1
        add_reason(reasons, failed.sqlstate, failed.message)
        if count <= NAMED_FAILURES:
            said = f"{failed.sqlstate} {failed.message}".strip()
            logger.warning("failed: %s %s: %s", failed.day, failed.user_id, said)
        elif count == NAMED_FAILURES + 1:
            logger.warning("more rows failed; only the first %s are listed", NAMED_FAILURES)
        on_failure(failed)

    return log_and_pass_on


def count_present_by_day(session: Session, pages: Pages, chunks: Chunks, throttle: Throttle) -> Counter[datetime.date]:
    """Return the number of eligible user-days with a row, by day."""
    present: Counter[datetime.date] = Counter()
    while not chunks.is_done:
        present.update(chunks.step(session, pages.count_present_by_day, any_number))
        throttle.rest_after_reading()
    return present


def report_discrepancies(
    session: Session,
    database: Database,
    settings: Settings,
    chunks: Chunks,
    throttle: Throttle,
    on_discrepancy: Callable[[Discrepancy], None],
    should_stop: Callable[[], bool],
) -> int | None:
    """Pass all discrepancies on, log the largest and return their number.

    They are for people to review, and no reason to lose the report of the run: if the server can't compare the rows,
    that is logged and None is returned.
    """
    largest = LargestDiscrepancies(LOGGED_ROWS)
    try:
        for discrepancy in read_discrepancies(session, database, settings, chunks, throttle):
            if should_stop():
                return None
            largest.add(discrepancy)
            on_discrepancy(discrepancy)
    except DBAPIError as error:
        logger.warning("the scores could not be compared with their breakdowns: %s", reason(error, session.url))
        return None
    found = list(largest)
    count = len(found) + largest.left_out
    if found:
        differ = "1 score differs from its" if count == 1 else f"{count:,} scores differ from their"
        listed = f"; the {LOGGED_ROWS} largest" if largest.left_out else ""
        logger.warning("review: %s breakdown%s:", differ, listed)
    for discrepancy, line in zip(found, as_lines(found), strict=True):
        logger.warning(line, extra={"fields": discrepancy.as_json()})
    return count


def read_discrepancies(
    session: Session, database: Database, settings: Settings, chunks: Chunks, throttle: Throttle
) -> Iterator[Discrepancy]:
    """Yield the discrepancies by user and day, holding some thousands at once at most."""

    def read(
        connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool
    ) -> Answer[list[Discrepancy] | None]:
        del by_scan  # Either way it is one scan of these users.
        found = find_discrepancies(
            connection,
            database.scores,
            settings.days,
            settings.discrepancy_threshold,
            users=settings.users,
            keys=keys,
            limit=DISCREPANCIES_PER_READ + 1 if divisible else None,
        )
        return ready(None if divisible and len(found) > DISCREPANCIES_PER_READ else found)

    while not chunks.is_done:
        yield from chunks.step(session, read)
        throttle.rest_after_reading()
