"""Workers that take users with gaps from a shared queue and insert their rows, one transaction at a time.

Users and days are in the same order in every transaction of every run, so two that meet wait for each other, but never
in a circle. A worker that lost a race, or whose page the server refused, looks again and goes on with smaller pieces,
so that in the end each eligible user-day has been counted once: as present, inserted, raced or failed.
"""

import datetime
import logging
import operator
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from momentum.backfill.batches import compare, is_low, is_piece, refill, rows_of, take, take_rest
from momentum.backfill.chunks import Chunks
from momentum.backfill.faults import classify, sqlstate
from momentum.backfill.manifest import as_line
from momentum.backfill.pace import GROWTH, USERS
from momentum.backfill.pages import Gaps, KeyRange, Outcome, Pages, UserDay, UserGap
from momentum.backfill.report import NAMED_FAILURES, Report, is_too_many
from momentum.backfill.session import Session, sleep_until
from momentum.backfill.settings import Settings
from momentum.connect.engine import reason
from momentum.retries import Fault
from momentum.wording import counted

# The most users with gaps, and the most users who must be looked up, that one scan may return.
MOST_GAPS = USERS

# The attempts of a transaction for part of a page that failed as a whole.
ATTEMPTS_OF_A_PIECE = 2

# The rows that a dry run counts in one statement.
ROWS_PER_COUNT = 50_000

# A user and a UTC day, as the driver returns them.
Row = tuple[uuid.UUID, datetime.date]

DAY_OF = operator.itemgetter(1)

logger = logging.getLogger("momentum.backfill")


class Failure(NamedTuple):
    """A user-day whose row could not be inserted, and why.

    Attributes:
        user_id: The user.
        day: The UTC day.
        sqlstate: The error's SQLSTATE; empty if a trigger skipped the row without an error.
        message: The server's message, without its DETAIL.
    """

    user_id: uuid.UUID
    day: datetime.date
    sqlstate: str
    message: str

    def as_line(self) -> dict[str, str]:
        """Return the failure as an object for machines."""
        return as_line(self.user_id, self.day, sqlstate=self.sqlstate, message=self.message)


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        report: The report so far.
        done: User-days settled, eligible or not.
        total: All of them; None if they could not be counted.
    """

    report: Report
    done: int
    total: int | None


class Observers(NamedTuple):
    """The functions that are called while a run goes on, by one worker at a time.

    Attributes:
        on_progress: Called after each commit and after each group of users that was looked at.
        on_inserted: Called with the rows of a commit that the server has confirmed.
        on_failure: Called with each user-day that failed.
    """

    on_progress: Callable[[Progress], None] = lambda _: None
    on_inserted: Callable[[Sequence[Row]], None] = lambda _: None
    on_failure: Callable[[Failure], None] = lambda _: None


NOBODY = Observers()


class Inserted(NamedTuple):
    """The result of a transaction.

    Attributes:
        rows: The rows that it inserted.
        tried: The gaps that it tried to fill.
        untried: The gaps that it left, because the run was stopped.
        pages: The number of pages that it inserted.
        slowest: The seconds that the slowest page took.
    """

    rows: list[Row]
    tried: list[UserGap]
    untried: list[UserGap]
    pages: int
    slowest: float


class Filler:
    """Fills the gaps of all users, or counts them in a dry run.

    Args:
        engine: Connects to the database.
        pages: The statements.
        chunks: The walk through all users.
        settings: The settings of the run.
        report: The report that counts it.
        observers: The functions that are called meanwhile.
        should_stop: Asked after each page; once it returns true, finished pages are committed and the workers end.
        total: How many user-days there are to settle, if known.
    """

    def __init__(
        self,
        engine: Engine,
        pages: Pages,
        chunks: Chunks,
        settings: Settings,
        report: Report,
        observers: Observers,
        should_stop: Callable[[], bool],
        total: int | None,
    ) -> None:
        self._engine = engine
        self._pages = pages
        self._chunks = chunks
        self._settings = settings
        self._report = report
        self._observers = observers
        self._should_stop = should_stop
        self._total = total
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[UserGap] = deque()
        self._queued = 0
        self._candidates = 0
        self._unsettled = 0
        self._finding = False
        self._error: BaseException | None = None
        self._aborted = False
        self._sessions: list[Session] = []

    def run(self) -> None:
        """Fill until no user has gaps or the run is stopped.

        Raises:
            sqlalchemy.exc.DBAPIError: The server refused a statement, and no other attempt would help. Earlier commits
                stay, and are counted.
            KeyboardInterrupt: The process was interrupted; uncommitted work is rolled back.
        """
        threads = [
            # Daemons, so that a process that must end at once doesn't wait for a statement.
            threading.Thread(target=self._work, name=f"backfill-{number}", daemon=True)
            for number in range(1, self._settings.workers + 1)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._abort()
            raise
        if self._error is not None:
            raise self._error
        report = self._report
        report.retries += sum(session.retried for session in self._sessions)
        if self._should_stop() and (self._queue or not self._chunks.is_done or self._unsettled):
            report.interrupted = True
        # Gaps that were found and not tried are left to the next run and its counts.
        report.eligible -= self._unsettled
        self._tell()

    def _abort(self) -> None:
        """Stop every worker at once; uncommitted work is rolled back."""
        self._aborted = True
        for session in self._sessions:
            session.cancel()

    def _work(self) -> None:
        """Take users with gaps and fill them until there are none, in a thread of its own."""
        try:
            with Session(
                self._engine,
                self._settings.limits,
                read_only=self._settings.dry_run,
                sleep=self._sleep,
                is_aborted=lambda: self._aborted,
                is_stopping=self._ended,
            ) as session:
                with self._changed:
                    self._sessions.append(session)
                own: deque[UserGap] = deque()
                while self._next(session, own):
                    self._count(session, own) if self._settings.dry_run else self._fill(session, own)
                    if own or self._queue:
                        self._sleep(self._settings.pause)
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        """Sleep, but not longer than the run goes on."""
        sleep_until(self._ended, seconds)

    def _ended(self) -> bool:
        """Return whether no other transaction should begin."""
        return self._error is not None or self._aborted or self._report.gave_up or self._should_stop()

    def _next(self, session: Session, own: deque[UserGap]) -> bool:
        """Move users with enough gaps for a transaction from the queue to a worker's own; false if all is done."""
        wanted = ROWS_PER_COUNT if self._settings.dry_run else self._settings.commit_every
        while True:
            with self._changed:
                while not self._ended():
                    is_open = not self._chunks.is_done
                    if is_open and not self._finding and is_low(self._queued, wanted, self._settings.workers):
                        self._finding = True
                        break
                    self._queued -= refill(own, self._queue, wanted)
                    no_more = self._chunks.is_done and not self._finding
                    if no_more or rows_of(own) >= wanted:
                        return bool(own)
                    self._changed.wait()
                else:
                    return False
            try:
                self._find(session)
            finally:
                with self._changed:
                    self._finding = False
                    self._changed.notify_all()

    def _find(self, session: Session) -> None:
        """Look at the next users and queue those with gaps."""
        gaps = self._chunks.step(session, self._read_gaps, lambda gaps: len(gaps.gaps) < MOST_GAPS // (2 * GROWTH))
        with self._changed:
            self._queue.extend(gaps.gaps)
            self._queued += gaps.missing
            self._candidates += gaps.candidates
            self._unsettled += gaps.missing
            self._report.users += gaps.users
            self._report.eligible += gaps.eligible
            self._report.present += gaps.eligible - gaps.missing
            self._tell()

    def _read_gaps(self, connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool) -> Gaps | None:
        """Return the gaps of the users in a range of ids; None if there are too many to be held at once."""
        if not by_scan:
            return self._pages.find_by_user(connection, keys)
        found = self._pages.find_by_scan(connection, keys, MOST_GAPS if divisible else None)
        if found is None:
            return None
        gaps, unsure = found
        for start in range(0, len(unsure), self._chunks.looked_up):
            some = unsure[start : start + self._chunks.looked_up]
            gaps = gaps.and_also(self._pages.find_by_user(connection, some))
        return gaps

    def _count(self, session: Session, own: deque[UserGap]) -> None:
        """Count the rows that users lack by day, with the same query by which a run would insert them."""
        self._count_some(session, list(own))
        own.clear()

    def _count_some(self, session: Session, some: Sequence[UserGap]) -> None:
        """Count the rows that some users lack; if that takes too long, half of them at a time."""
        ids = [gap.user_id for gap in some]
        try:
            by_day = session.read(lambda connection: self._pages.count_by_day(connection, ids))
        except DBAPIError as error:
            if self._aborted or classify(error) is not Fault.SLOW or len(some) == 1:
                raise
            half = len(some) // 2
            self._count_some(session, some[:half])
            self._count_some(session, some[half:])
            return
        with self._changed:
            self._report.missing_by_day.update(by_day)
            found = sum(by_day.values())
            expected = rows_of(some)
            self._report.inserted += found
            self._report.eligible += found - expected
            self._unsettled -= expected
            self._tell()

    def _fill(self, session: Session, own: deque[UserGap]) -> None:
        """Insert users' rows in one transaction; if it doesn't insert what was expected, look again."""
        batch = take(own, self._settings.commit_every)
        try:
            done = session.write(
                lambda connection: self._insert_pages(connection, batch),
                lambda connection, done, transaction: self._pages.is_kept(connection, done.rows, transaction),
            )
        except DBAPIError as error:
            if self._aborted or classify(error) in (Fault.FATAL, Fault.LOST):
                raise
            logger.debug("a transaction failed, looking at its rows: %s", reason(error, self._engine.url))
            self._look_closer(session, [*batch, *take_rest(own, batch[-1])], [])
            return
        own.extendleft(reversed(done.untried))
        with self._changed:
            self._settle(done.rows, pages=done.pages, slowest=done.slowest)
            as_expected = len(done.rows) == rows_of(done.tried)
            if as_expected:
                self._unsettled -= len(done.rows)
                self._tell()
        if not as_expected:
            self._look_closer(session, [*done.tried, *take_rest(own, done.tried[-1])], done.rows)

    def _insert_pages(self, connection: Connection, batch: Sequence[UserGap]) -> Inserted:
        """Insert a transaction's rows in pages; after each one the run may be stopped."""
        rows: list[Row] = []
        tried: list[UserGap] = []
        pages = 0
        slowest = 0.0
        left = deque(batch)
        while left and not (pages and self._ended()):
            page = take(left, self._settings.page_size)
            started = time.monotonic()
            rows += self._pages.insert_page(connection, [gap.user_id for gap in page], rows_of(page))
            slowest = max(slowest, time.monotonic() - started)
            tried += page
            pages += 1
        return Inserted(rows, tried, list(left), pages, slowest)

    def _settle(self, rows: Sequence[Row], *, pages: int, slowest: float) -> None:
        """Count the rows of a commit that the server has confirmed."""
        report = self._report
        report.pages += pages
        report.commits += 1
        report.inserted += len(rows)
        report.inserted_by_day.update(map(DAY_OF, rows))
        report.slowest_page_seconds = max(report.slowest_page_seconds, slowest)
        logger.debug("commit %s: %s inserted", report.commits, counted(len(rows), "row"))
        if rows:
            self._observers.on_inserted(rows)

    def _look_closer(self, session: Session, tried: Sequence[UserGap], inserted: Sequence[Row]) -> None:
        """Find out what became of rows that were not all inserted, and insert those that are still missing by name.

        Args:
            session: The worker's session.
            tried: All users whose rows are in question, with the number of rows that each lacked.
            inserted: The rows of these that were inserted.
        """
        expected: Counter[uuid.UUID] = Counter()
        for gap in tried:
            expected[gap.user_id] += gap.missing
        ids = list(expected)
        missing = session.read(lambda connection: self._pages.list_missing(connection, ids))
        active = session.read(lambda connection: self._pages.list_active(connection, ids))
        found = compare(expected, Counter(user for user, _ in inserted), active, len(missing))
        with self._changed:
            self._unsettled -= expected.total() - len(missing)
            self._report.eligible -= found.gone
            self._report.present -= found.vanished
            self._report.raced += found.raced
            self._tell()
        for start in range(0, len(missing), self._settings.page_size):
            if self._ended():
                break
            self._insert_by_name(session, missing[start : start + self._settings.page_size])

    def _insert_by_name(self, session: Session, rows: Sequence[UserDay]) -> None:
        """Insert rows in a transaction of their own; if that fails, halve them until those at fault are alone."""
        started = time.monotonic()
        try:
            inserted = session.write(
                lambda connection: self._pages.insert_rows(connection, rows), self._pages.is_kept, ATTEMPTS_OF_A_PIECE
            )
        except DBAPIError as error:
            fault = classify(error)
            if self._aborted or fault in (Fault.FATAL, Fault.LOST):
                raise
            if is_piece(rows, fault):
                self._explain(session, rows, sqlstate(error), reason(error, self._engine.url))
                return
            half = len(rows) // 2
            for piece in (rows[:half], rows[half:]):
                if not self._ended():
                    self._insert_by_name(session, piece)
            return
        with self._changed:
            self._settle(sorted(inserted), pages=1, slowest=time.monotonic() - started)
            self._unsettled -= len(inserted)
        if len(inserted) < len(rows):
            self._explain(session, [row for row in rows if row not in inserted], "", "skipped without an error")
        else:
            with self._changed:
                self._tell()

    def _explain(self, session: Session, rows: Sequence[UserDay], code: str, message: str) -> None:
        """Look at rows that were not inserted, and count each as raced, failed or no longer eligible."""
        outcomes = session.read(lambda connection: self._pages.look_again(connection, rows))
        failures = [Failure(row.user_id, row.day, code, message) for row in outcomes if is_failure(row)]
        with self._changed:
            raced = sum(row.present for row in outcomes)
            report = self._report
            report.raced += raced
            report.failed += len(failures)
            named = failures[: NAMED_FAILURES - len(report.failures)]
            report.failures += [failure.as_line() for failure in named]
            report.failed_by_day.update(failure.day for failure in failures)
            report.eligible -= len(rows) - raced - len(failures)
            self._unsettled -= len(rows)
            for failure in failures:
                self._observers.on_failure(failure)
            if is_too_many(report.failed, report.attempted, self._settings.max_error_rate):
                report.gave_up = True
            self._tell()

    def _tell(self) -> None:
        """Report the progress."""
        with self._changed:
            self._observers.on_progress(Progress(self._report, self._candidates - self._unsettled, self._total))


def is_failure(row: Outcome) -> bool:
    """Return whether a user-day should have a row and has none."""
    return not row.present and row.eligible
