"""The run: look at the database, fill the gaps, count again, compare scores with their breakdowns."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from momentum.backfill.chunks import Chunks, always
from momentum.backfill.discrepancies import Discrepancy, find_discrepancies
from momentum.backfill.eligibility import Eligibility
from momentum.backfill.faults import Fault, classify
from momentum.backfill.fill import NOBODY, Failure, Filler, Observers
from momentum.backfill.pages import KeyRange, Pages
from momentum.backfill.preflight import (
    Database,
    check_days,
    check_hidden_rows,
    check_triggers,
    count_accounts,
    find_unknown_users,
    look_at,
)
from momentum.backfill.recount import count_missing
from momentum.backfill.report import NAMED_FAILURES, Report
from momentum.backfill.session import Limits, Session
from momentum.backfill.settings import Settings
from momentum.connect.engine import reason
from momentum.wording import counted

# Discrepancies that are held at once.
DISCREPANCIES_A_READ = 20_000

# Discrepancies that the log names; what comes after is only counted.
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
        settings: What to do.
        observers: Who is told what happens meanwhile.
        on_discrepancy: Called with each discrepancy; the first are logged as warnings as well.
        should_stop: Asked after each page; once it says yes, what was done is committed and the run ends.

    Returns:
        The report; it counts what the server confirmed.

    Raises:
        NotMigratedError: The database is not migrated, or at another revision.
        ConfigurationError: Row level security would hide rows from the role, the range lies in the future, or a
            trigger would call out of the database.
        DatabaseUnreachableError: Whether a commit has happened is not known, because nobody answers any more.
        sqlalchemy.exc.DBAPIError: The server refused a statement for a reason that nothing heals, or could not be
            reached again. What was committed before stays, and another run does the rest.
    """
    started = time.monotonic()
    report = Report(settings.days, settings.dry_run, settings.workers)
    with timed(report, "preflight"):
        database = look_before(engine, settings)
    report.triggers = database.triggers
    eligibility = Eligibility(
        database.account_columns, settings.days, database.now, settings.users, settings.active_within
    )
    pages = Pages(database.scores, eligibility, distributed=database.distributed)

    def chunks() -> Chunks:
        return Chunks(pages, database.scores, settings.days)

    with timed(report, "fill"):
        total = count_candidates(engine, settings, pages)
        observers = observers._replace(on_failure=logged(observers.on_failure))
        Filler(engine, pages, chunks(), settings, report, observers, should_stop, total).run()
    report.interrupted = report.interrupted or should_stop()
    with reading_session(engine, settings.limits) as session:
        if not (report.users or report.interrupted):
            report.passed_over = session.read(lambda connection: count_accounts(connection, settings.users))
        if not (settings.dry_run or report.interrupted or report.gave_up):
            with timed(report, "recount"):
                report.left_over = recount(session, database, eligibility, chunks(), should_stop)
        if settings.look_for_discrepancies and not (should_stop() or report.gave_up):
            with timed(report, "discrepancies"):
                report.discrepancies = report_discrepancies(
                    session, database, settings, chunks(), on_discrepancy, should_stop
                )
        if settings.count_by_day:
            with timed(report, "count by day"):
                report.present_by_day = count_present_by_day(session, pages, chunks())
                report.present_by_day.subtract(report.inserted_by_day)
    report.interrupted = report.interrupted or should_stop()
    report.elapsed_seconds = time.monotonic() - started
    return report


@contextmanager
def timed(report: Report, phase: str) -> Iterator[None]:
    """Take down how long a phase took."""
    logger.debug("%s ...", phase)
    started = time.monotonic()
    try:
        yield
    finally:
        report.phases[phase] = time.monotonic() - started


def reading_session(engine: Engine, limits: Limits) -> Session:
    """Return a session that reads, and waits between two attempts."""
    return Session(engine, limits, read_only=True, sleep=time.sleep)


def look_before(engine: Engine, settings: Settings) -> Database:
    """Return what a run needs to know of its database; refuse one that can't be filled.

    The first connection is tried once: a server that isn't there is said to be so at once.
    """
    with Session(engine, settings.limits, sleep=time.sleep, read_only=settings.dry_run) as session:
        database = session.read(lambda connection: look_at(connection, "insert"), attempts=1)
        check_days(settings.days, database.now)
        if settings.active_within is not None:
            session.read(lambda connection: check_hidden_rows(connection, "public.momentum_events"))
        if not settings.dry_run:
            check_triggers(database.triggers, database.scores.relation, allow_webhooks=settings.allow_webhooks)
        for user in session.read(lambda connection: find_unknown_users(connection, settings.users)):
            logger.warning("there is no user %s in auth.users", user)
        for trigger in database.triggers:
            logger.info("each row fires the trigger %s", trigger)
    return database


def count_candidates(engine: Engine, settings: Settings, pages: Pages) -> int | None:
    """Return how many user-days there are to settle; None if that can't be counted in time, which is no reason to stop.

    It is for the progress that people see, no more.
    """
    try:
        with reading_session(engine, settings.limits) as session:
            return session.read(pages.count_candidates)
    except DBAPIError as error:
        if classify(error) is Fault.FATAL:
            raise
        return None


def recount(
    session: Session, database: Database, eligibility: Eligibility, chunks: Chunks, should_stop: Callable[[], bool]
) -> int | None:
    """Return how many eligible user-days have no row; None if the run was stopped meanwhile."""

    def read(connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool) -> int:
        del by_scan, divisible  # The planner is told elsewhere, and a number is never too much.
        return count_missing(connection, database.scores, eligibility, keys)

    missing = 0
    while not chunks.is_done:
        if should_stop():
            return None
        missing += chunks.step(session, read, always)
    return missing


def logged(on_failure: Callable[[Failure], None]) -> Callable[[Failure], None]:
    """Return what also logs the failures that it hands on, the first ones of a run in full."""
    count = 0

    def log_and_hand_on(failed: Failure) -> None:
        nonlocal count
        count += 1
        if count <= NAMED_FAILURES:
            said = f"{failed.sqlstate} {failed.message}".strip()
            logger.warning("failed: %s %s: %s", failed.day, failed.user_id, said)
        elif count == NAMED_FAILURES + 1:
            logger.warning("more rows failed; only the first %s are named", NAMED_FAILURES)
        on_failure(failed)

    return log_and_hand_on


def count_present_by_day(session: Session, pages: Pages, chunks: Chunks) -> Counter[datetime.date]:
    """Return by day how many of the eligible user-days have a row."""
    present: Counter[datetime.date] = Counter()
    while not chunks.is_done:
        present.update(chunks.step(session, pages.count_present_by_day, always))
    return present


def report_discrepancies(
    session: Session,
    database: Database,
    settings: Settings,
    chunks: Chunks,
    on_discrepancy: Callable[[Discrepancy], None],
    should_stop: Callable[[], bool],
) -> int | None:
    """Log the first discrepancies, hand on all of them and return how many there are.

    They are for people to review, and no reason to lose the report of what was filled: where the server cannot compare
    the rows, that is logged and None is returned.
    """
    count = 0
    try:
        for discrepancy in read_discrepancies(session, database, settings, chunks):
            if should_stop():
                return None
            count += 1
            if count <= LOGGED_ROWS:
                logger.warning("review: %s", discrepancy)
            on_discrepancy(discrepancy)
    except DBAPIError as error:
        logger.warning("the scores could not be compared with their breakdowns: %s", reason(error, session.url))
        return None
    if count > LOGGED_ROWS:
        logger.warning("review: and %s", counted(count - LOGGED_ROWS, "more row"))
    return count


def read_discrepancies(
    session: Session, database: Database, settings: Settings, chunks: Chunks
) -> Iterator[Discrepancy]:
    """Yield the discrepancies by user and day; no more than some thousands are held at once."""

    def read(connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool) -> list[Discrepancy] | None:
        del by_scan  # It is one scan of these users in any case.
        found = find_discrepancies(
            connection,
            database.scores,
            settings.days,
            settings.discrepancy_threshold,
            users=settings.users,
            keys=keys,
            limit=DISCREPANCIES_A_READ + 1 if divisible else None,
        )
        return None if divisible and len(found) > DISCREPANCIES_A_READ else found

    while not chunks.is_done:
        yield from chunks.step(session, read)
