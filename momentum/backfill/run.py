"""The run: find what is missing, fill it in pages, count again."""

import datetime
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from momentum.backfill.days import DayRange
from momentum.backfill.discrepancies import DEFAULT_THRESHOLD, Discrepancy, find_discrepancies
from momentum.backfill.eligibility import ActiveUser, read_active_users
from momentum.backfill.pages import PageResult, Pages, UserDay
from momentum.backfill.recount import count_missing
from momentum.backfill.report import Report
from momentum.database import reason
from momentum.errors import ConfigurationError
from momentum.scores import ScoreTable, read_score_table

PAGE_SIZE = 500
COMMIT_EVERY = 1000

# What is looked up in one statement: each user-day costs one search in the unique index, and room for its answer.
USERS_A_READ = 500
USER_DAYS_A_READ = 30_000

# Lines about single rows in the log; what comes after is only counted.
LOGGED_ROWS = 20

logger = logging.getLogger("momentum.backfill")


@dataclass(frozen=True)
class Settings:
    """What a run shall do.

    Attributes:
        days: The range of UTC days.
        users: Only these users; everybody if empty.
        active_within: Narrow the run to users who signed in on or after the range's first day less so many days, or
            who had a momentum event in the so many days up to and including the day. None: all active users.
        page_size: Rows an INSERT holds at most.
        commit_every: Rows after which there is a commit.
        dry_run: Count what would be inserted, in a read-only transaction.
        look_for_discrepancies: Whether to compare scores with their breakdowns.
        discrepancy_threshold: The points by which they may differ.
    """

    days: DayRange
    users: tuple[uuid.UUID, ...] = ()
    active_within: int | None = None
    page_size: int = PAGE_SIZE
    commit_every: int = COMMIT_EVERY
    dry_run: bool = False
    look_for_discrepancies: bool = True
    discrepancy_threshold: Decimal = DEFAULT_THRESHOLD


@dataclass(frozen=True)
class Progress:
    """How far a run is: the report so far, and users looked at of all."""

    report: Report
    users_done: int
    users_total: int


def run_backfill(
    engine: Engine,
    settings: Settings,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_discrepancy: Callable[[Discrepancy], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Insert the default row on every eligible user-day of the range that has none; existing rows are never touched.

    Args:
        engine: Connects to the database as a role that sees all rows.
        settings: What to do.
        on_progress: Called after each commit and after each group of users that was looked at.
        on_discrepancy: Called with each discrepancy; the first are logged as warnings as well.
        should_stop: Asked after each page; once it says yes, what was done is committed and the run ends.

    Returns:
        The report; it counts what the server confirmed.

    Raises:
        NotMigratedError: The database is not migrated.
        ConfigurationError: Row level security would hide rows from the role.
        sqlalchemy.exc.DBAPIError: The server refused a statement, or the connection was lost. What was committed before
            stays, and another run does the rest.
    """
    started = time.monotonic()
    report = Report(settings.days, settings.dry_run)
    # Nothing is said where the run may write: saying so would override a database that was set to read only.
    options = {"postgresql_readonly": True} if settings.dry_run else {}
    with engine.connect().execution_options(**options) as connection:
        scores = read_score_table(connection)
        refuse_hidden_rows(connection, scores)
        started_at = read_clock(connection)
        users = read_active_users(
            connection,
            settings.days,
            started_at=started_at,
            users=settings.users,
            active_within=settings.active_within,
        )
        warn_of_unknown_users(connection, settings)
        connection.rollback()
        logger.debug("%s active users in %s, scores in %s", len(users), settings.days, scores.relation)

        pages = Pages(scores, settings.days, started_at=started_at, active_within=settings.active_within)
        filling = time.monotonic()
        fill(connection, pages, users, settings, report, on_progress, should_stop)
        report.fill_seconds = time.monotonic() - filling

    report.interrupted = report.interrupted or should_stop()
    if not report.interrupted:
        with engine.connect().execution_options(postgresql_readonly=True) as connection:
            if not settings.dry_run:
                logger.debug("recount of the eligible user-days without a row")
                report.left_over = count_missing(
                    connection,
                    scores,
                    users,
                    settings.days,
                    started_at=started_at,
                    active_within=settings.active_within,
                )
            if settings.look_for_discrepancies and not should_stop():
                logger.debug("comparison of the scores with their breakdowns")
                report.discrepancies = report_discrepancies(connection, scores, settings, on_discrepancy, should_stop)
        report.interrupted = should_stop()
    report.elapsed_seconds = time.monotonic() - started
    return report


def fill(
    connection: Connection,
    pages: Pages,
    users: list[ActiveUser],
    settings: Settings,
    report: Report,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> None:
    """Look at the users in the order of their ids, a group at a time, and insert what they lack.

    The order of ids and days is the same in every run: so two runs at once wait for each other, but never in a circle.
    """
    missing: list[UserDay] = []
    uncommitted = PageResult()
    in_transaction = 0

    def commit() -> None:
        """Commit, and only then count what was done since the last commit."""
        nonlocal uncommitted, in_transaction
        connection.commit()
        if in_transaction:
            report.commits += 1
            report.inserted += uncommitted.inserted
            report.raced += uncommitted.raced
            report.failed += len(uncommitted.failed)
            report.eligible -= uncommitted.gone
            log_failures(uncommitted, report)
            logger.debug("commit %s: %s rows inserted", report.commits, uncommitted.inserted)
        uncommitted, in_transaction = PageResult(), 0

    def insert_page() -> None:
        """Insert the next page, which ends where a commit is due."""
        nonlocal in_transaction
        size = min(settings.page_size, settings.commit_every - in_transaction)
        page = missing[:size]
        del missing[:size]
        uncommitted.add(pages.insert(connection, page))
        report.pages += 1
        in_transaction += len(page)
        if in_transaction >= settings.commit_every:
            commit()

    done = 0
    group_size = max(1, min(USERS_A_READ, USER_DAYS_A_READ // len(settings.days)))
    for start in range(0, len(users), group_size):
        group = users[start : start + group_size]
        gaps = pages.find_missing(connection, group)
        report.users += gaps.users
        report.eligible += gaps.eligible
        report.present += gaps.eligible - len(gaps.missing)
        last = start + len(group) == len(users)
        if settings.dry_run:
            report.inserted += len(gaps.missing)
            report.missing_by_day.update(row.day for row in gaps.missing)
        else:
            missing += gaps.missing
            while not should_stop() and (len(missing) >= settings.page_size or (last and missing)):
                insert_page()
                if not in_transaction:
                    on_progress(Progress(report, done, len(users)))
        if not in_transaction:
            # Nothing is held between two groups, so that nobody has to wait for a transaction that only read.
            connection.rollback()
        if should_stop():
            report.interrupted = True
            break
        done += len(group)
        on_progress(Progress(report, done, len(users)))
    if in_transaction:
        commit()
    # After an interruption these were found but not tried: they are left to the next run and to its counts.
    report.eligible -= len(missing)
    on_progress(Progress(report, done, len(users)))


def read_clock(connection: Connection) -> datetime.datetime:
    """Return the server's time, in a form that no DateStyle of the database can change."""
    moment = connection.scalar(
        text("select to_char(statement_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
    )
    return datetime.datetime.fromisoformat(str(moment)).replace(tzinfo=datetime.UTC)


def log_failures(page: PageResult, report: Report) -> None:
    """Log the rows that failed, the first ones of a run in full."""
    before = report.failed - len(page.failed)
    for row, message in page.failed[: max(0, LOGGED_ROWS - before)]:
        logger.warning("not inserted: %s %s: %s", row.day, row.user_id, message)
    if before <= LOGGED_ROWS < report.failed:
        logger.warning("more rows could not be inserted; only the first %s are named", LOGGED_ROWS)


def refuse_hidden_rows(connection: Connection, scores: ScoreTable) -> None:
    """Refuse a role from which row level security hides rows: it would believe that nothing is missing.

    Raises:
        ConfigurationError: It does.
    """
    for relation in ("auth.users", scores.relation):
        role = connection.scalar(
            text("select current_user where row_security_active(cast(:relation as text))"), {"relation": relation}
        )
        if role is not None:
            raise ConfigurationError(
                f"Row level security hides rows of {relation} from the role {role}; connect as the database's owner "
                "or as a role with bypassrls."
            )


def warn_of_unknown_users(connection: Connection, settings: Settings) -> None:
    """Log the users asked for who don't exist."""
    if settings.users:
        known = set(
            connection.scalars(text("select id from auth.users where id = any(:ids)"), {"ids": list(settings.users)})
        )
        for user in settings.users:
            if user not in known:
                logger.warning("there is no user %s in auth.users", user)


def report_discrepancies(
    connection: Connection,
    scores: ScoreTable,
    settings: Settings,
    on_discrepancy: Callable[[Discrepancy], None],
    should_stop: Callable[[], bool],
) -> int | None:
    """Log the first discrepancies, hand on all of them and return how many there are.

    They are for people to review, and no reason to lose the report of what was filled: where the server cannot compare
    the rows, that is logged and None is returned.
    """
    count = 0
    found = find_discrepancies(connection, scores, settings.days, settings.discrepancy_threshold, settings.users)
    try:
        with closing(found):
            for count, discrepancy in enumerate(found, start=1):
                if should_stop():
                    return None
                if count <= LOGGED_ROWS:
                    logger.warning("review: %s", discrepancy)
                on_discrepancy(discrepancy)
    except DBAPIError as error:
        logger.warning(
            "the scores could not be compared with their breakdowns: %s", reason(error, connection.engine.url)
        )
        return None
    if count > LOGGED_ROWS:
        logger.warning("review: %s more rows differ from their breakdown", count - LOGGED_ROWS)
    return count
