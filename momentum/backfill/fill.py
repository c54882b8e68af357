"""Workers that take users with gaps from a shared queue and insert their rows, one transaction at a time.

Users and days are in the same order in every transaction of every run, so two that meet wait for each other, but never
in a circle. A worker that lost a race, or whose page the server refused, looks again and goes on with smaller pieces,
so that in the end each eligible user-day has been counted once: as present, inserted, raced or failed.
"""

import datetime
import enum
import itertools
import logging
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from momentum.backfill.batches import (
    compare,
    cut,
    is_low,
    is_piece,
    may_go_ahead,
    pages_at_once,
    put_back,
    refill,
    rows_of,
    rows_per_page,
    take,
    take_rest,
)
from momentum.backfill.chunks import Chunks
from momentum.backfill.faults import classify, sqlstate
from momentum.backfill.manifest import as_line
from momentum.backfill.pace import USERS
from momentum.backfill.pages import Gaps, KeyRange, Outcome, Pages, Row, UserDay, UserGap, Written
from momentum.backfill.report import NAMED_FAILURES, Report, is_too_many
from momentum.backfill.session import End, Session, sleep_until
from momentum.backfill.settings import Settings
from momentum.backfill.throttle import Signals, Throttle
from momentum.backfill.triggers import CHANGED
from momentum.connect.engine import reason
from momentum.connect.pipeline import Answer, gather, pipelined, ready
from momentum.errors import ConfigurationError
from momentum.retries import Fault
from momentum.wording import counted

# The most users with gaps, and the most users who must be looked up, that one scan may return. Half of them is what a
# walk aims at, so where everybody has a gap it goes on by as many as can be looked up.
MOST_GAPS = 2 * USERS

# The attempts of a transaction for part of a page that failed as a whole.
ATTEMPTS_OF_A_PIECE = 2

# Transactions after a lost commit, it and the next, whose commits are waited for: one that is lost each time must end.
AFTER_A_LOSS = 2

# Seconds that the functions that are called after a commit may take, if the next transaction is to be open meanwhile.
LONGEST_SETTLING = 0.2

# Seconds that workers may take to count and list what they have committed, once all is to end at once.
LONGEST_END = 2.0

# The rows that a dry run counts in one statement.
ROWS_PER_COUNT = 50_000

# The changes of what runs for a row after which a run ends: its statements may never get through.
MOST_CHANGES = 20

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
        total: All of them; None if they could not be counted, or nobody wanted to know.
    """

    report: Report
    done: int
    total: int | None


class Observers(NamedTuple):
    """The functions that are called while a run goes on, by one worker at a time.

    Attributes:
        on_progress: Called after each commit and after each group of users that was looked at.
        on_inserted: Called with the rows of a commit that the server has confirmed; without one, no keys are read.
        on_failure: Called with each user-day that failed.
        wants_total: Whether the progress is to say of how much, which takes a look at every user.
    """

    on_progress: Callable[[Progress], None] = lambda _: None
    on_inserted: Callable[[Sequence[Row]], None] | None = None
    on_failure: Callable[[Failure], None] = lambda _: None
    wants_total: bool = True


NOBODY = Observers(wants_total=False)

# What a page has inserted of which nothing is left.
NOTHING = Written({}, [], 0.0)


@dataclass
class Inserted:
    """The result of a transaction.

    Attributes:
        pages: The gaps that each page tried to fill, and what it inserted.
        slowest: The seconds that the slowest page took.
    """

    pages: list[tuple[Sequence[UserGap], Written]] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def tried(self) -> list[UserGap]:
        """The gaps that it tried to fill."""
        return [gap for gaps, _ in self.pages for gap in gaps]

    @property
    def rows(self) -> list[Row] | None:
        """The rows that it inserted, if their keys were asked for."""
        rows: list[Row] = []
        for _, written in self.pages:
            if written.rows is None:
                return None
            rows += written.rows
        return rows

    @property
    def by_day(self) -> Counter[datetime.date]:
        """The number of rows that it inserted, by day."""
        found: Counter[datetime.date] = Counter()
        for _, written in self.pages:
            found.update(written.by_day)
        return found

    @property
    def by_user(self) -> Counter[uuid.UUID] | None:
        """The number of rows that it inserted, by user; None if more or fewer than expected, and no keys are here."""
        found: Counter[uuid.UUID] = Counter()
        for gaps, written in self.pages:
            if written.rows is not None:
                found.update(user for user, _ in written.rows)
            elif sum(written.by_day.values()) == rows_of(gaps):
                for gap in gaps:
                    found[gap.user_id] += gap.missing
            else:
                return None
        return found


class Question(NamedTuple):
    """Users of whose rows not all were inserted, or none because the transaction failed.

    Attributes:
        tried: The rows that each lacked.
        inserted: The rows that each got; None if only their ids can tell.
        token: The token of these ids.
    """

    tried: Sequence[UserGap]
    inserted: Counter[uuid.UUID] | None
    token: uuid.UUID


@dataclass
class Worker:
    """A worker.

    Attributes:
        session: Its session.
        throttle: How fast it goes.
        own: The users with gaps that it has taken.
        questions: What is to be looked at more closely before it goes on.
        slowest: The seconds that the slowest page of its latest transaction took; None if there was none yet.
        waits_for: For how many transactions it waits for the confirmation of each.
    """

    session: Session
    throttle: Throttle
    own: deque[UserGap] = field(default_factory=deque)
    questions: list[Question] = field(default_factory=list)
    slowest: float | None = None
    waits_for: int = 0


class Step(enum.Enum):
    """What a worker does next."""

    FIND = "look for more users with gaps"
    FILL = "fill the gaps of its own users"
    SETTLE = "commit what is still open"
    WAIT = "wait for another worker"
    END = "nothing"


class Statements:
    """The statements of a run, made again where something else runs for a row than what was looked at.

    Args:
        pages: The statements at first.
        look: Looks at what runs for a row now, refuses what isn't allowed, and returns the statements.

    Attributes:
        pages: The statements.
    """

    def __init__(self, pages: Pages, look: Callable[[], Pages]) -> None:
        self.pages = pages
        self._look = look
        self._lock = threading.Lock()
        self._changes = 0

    def are_renewed(self, used: Pages, error: DBAPIError) -> bool:
        """Return whether statements failed because of that, so that new ones are to be used; what runs now is allowed.

        Raises:
            ConfigurationError: It isn't allowed, or changes again and again.
        """
        if sqlstate(error) != CHANGED:
            return False
        with self._lock:
            if self.pages is used:
                self._changes += 1
                if self._changes > MOST_CHANGES:
                    raise ConfigurationError(
                        f"Something that runs for each row of {used.relation}, such as a trigger, has changed "
                        f"{MOST_CHANGES} times during the run; try again once nobody changes it any more."
                    )
                logger.info("something has changed that runs for each row; looking at it again")
                self.pages = self._look()
            # Otherwise it was a trigger that raised such an error.
            return self.pages.state != used.state


class Filler:
    """Fills the gaps of all users, or counts them in a dry run.

    Args:
        engine: Connects to the database.
        statements: The statements.
        chunks: The walk through all users.
        settings: The settings of the run.
        report: The report that counts it.
        observers: The functions that are called meanwhile.
        should_stop: Asked after each page; once it returns true, finished pages are committed and the workers end.
        total: How many user-days there are to settle, if known.
        signals: The signals of the server, if the run is gentle.
    """

    def __init__(
        self,
        engine: Engine,
        statements: Statements,
        chunks: Chunks,
        settings: Settings,
        report: Report,
        observers: Observers,
        should_stop: Callable[[], bool],
        total: int | None,
        signals: Signals | None,
    ) -> None:
        self._engine = engine
        self._statements = statements
        self._chunks = chunks
        self._settings = settings
        self._report = report
        self._observers = observers
        self._keyed = observers.on_inserted is not None
        self._writes_ahead = not (settings.pause or settings.gentle)
        self._signals = signals
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
            until = time.monotonic() + LONGEST_END
            for thread in threads:
                thread.join(max(until - time.monotonic(), 0.0))
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
                is_spread=self._pages.is_spread,
            ) as session:
                with self._changed:
                    self._sessions.append(session)
                throttle = Throttle(session, self._settings, self._signals, self._sleep, self._ended, self._count_pause)
                worker = Worker(session, throttle)
                while self._next(worker):
                    before = rows_of(worker.own)
                    self._count(worker) if self._settings.dry_run else self._fill(worker)
                    if worker.own or self._queue:
                        throttle.rest(before - rows_of(worker.own))
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
        finally:
            with self._changed:
                self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        """Sleep, but not longer than the run goes on."""
        sleep_until(self._ended, seconds)

    def _count_pause(self, signal: str, seconds: float) -> None:
        """Count a pause of a worker."""
        with self._changed:
            self._report.count_pause(signal, seconds)

    def _ended(self) -> bool:
        """Return whether no other transaction should begin."""
        return self._error is not None or self._aborted or self._report.gave_up or self._should_stop()

    def _next(self, worker: Worker) -> bool:
        """Move users with enough gaps for a transaction from the queue to a worker's own; false if all is done."""
        wanted = ROWS_PER_COUNT if self._settings.dry_run else self._settings.commit_every
        while True:
            self._answer(worker)
            with self._changed:
                step = self._step(worker, wanted)
                while step is Step.WAIT:
                    self._changed.wait()
                    step = self._step(worker, wanted)
            if step is Step.FIND:
                try:
                    self._find(worker.session)
                finally:
                    with self._changed:
                        self._finding = False
                        self._changed.notify_all()
                worker.throttle.rest_after_reading()
            elif step is Step.FILL:
                return True
            else:
                worker.session.settle()
                self._answer(worker)
                # A transaction that was lost has given its users back.
                if step is Step.END and (self._ended() or not worker.own):
                    return False

    def _step(self, worker: Worker, wanted: int) -> Step:
        """Return what a worker does next, after moving users from the queue to its own."""
        if self._ended():
            return Step.END
        if not (self._chunks.is_done or self._finding) and is_low(self._queued, wanted, self._settings.workers):
            self._finding = True
            return Step.FIND
        self._queued -= refill(worker.own, self._queue, wanted)
        no_more = self._chunks.is_done and not self._finding
        if no_more or rows_of(worker.own) >= wanted:
            return Step.FILL if worker.own else Step.END
        # No transaction stays open while its worker waits for another one.
        return Step.SETTLE if worker.session.has_open else Step.WAIT

    def _find(self, session: Session) -> None:
        """Look at the next users and queue those with gaps."""
        gaps = self._chunks.step(session, self._read_gaps, lambda gaps: MOST_GAPS / (2 * max(len(gaps.gaps), 1)))
        with self._changed:
            self._queue.extend(gaps.gaps)
            self._queued += gaps.missing
            self._candidates += gaps.candidates
            self._unsettled += gaps.missing
            self._report.users += gaps.users
            self._report.eligible += gaps.eligible
            self._report.present += gaps.eligible - gaps.missing
            self._tell()

    def _read_gaps(
        self, connection: Connection, /, *, keys: KeyRange, by_scan: bool, divisible: bool
    ) -> Answer[Gaps | None]:
        """Return the gaps of the users in a range of ids; None if there are too many to be held at once."""
        if not by_scan:
            return self._pages.find_by_user(connection, keys)
        found = self._pages.find_by_scan(connection, keys, MOST_GAPS if divisible else None).value
        if found is None:
            return ready(None)
        gaps, unsure = found
        for start in range(0, len(unsure), self._chunks.looked_up):
            some = unsure[start : start + self._chunks.looked_up]
            gaps = gaps.and_also(self._pages.find_by_user(connection, some).value)
        return ready(gaps)

    def _count(self, worker: Worker) -> None:
        """Count the rows that users lack by day, with the same query by which a run would insert them."""
        self._count_some(worker.session, list(worker.own))
        worker.own.clear()

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

    def _fill(self, worker: Worker) -> None:
        """Insert users' rows in one transaction, whose commit goes along with the next one if it can."""
        session, own = worker.session, worker.own
        ahead = self._may_write_ahead(worker)
        batch = take(own, worker.throttle.rows, whole=ahead)
        is_part = bool(own) and own[0].user_id == batch[-1].user_id
        statements = self._pages
        pages = cut(batch, self._page_size)
        token = statements.new_token()

        def settle(done: Inserted | None, end: End) -> None:
            if end is End.UNDONE:
                put_back(own, batch)
                worker.waits_for = AFTER_A_LOSS
            elif end is End.REFUSED:
                worker.questions.append(Question(batch, Counter(), token))
            else:
                self._settle_commit(worker, done or Inserted([(batch, NOTHING)]), token)

        try:
            if ahead and may_go_ahead(len(pages), worker.slowest, has_open=session.has_open, is_part=is_part):
                session.write_ahead(
                    lambda connection: self._send_pages(connection, pages, token, ahead=True),
                    lambda connection, transaction: self._find_written(connection, batch, transaction, token),
                    settle,
                )
            else:
                worker.waits_for = max(worker.waits_for - 1, 0)
                done = session.write(
                    lambda connection: self._insert_pages(connection, pages, token, worker.slowest),
                    lambda connection, done, transaction: self._is_kept(connection, done, transaction, token),
                )
                put_back(own, [gap for page in pages[len(done.pages) :] for gap in page])
                settle(done, End.COMMITTED)
        except DBAPIError as error:
            if self._statements.are_renewed(statements, error):
                put_back(own, batch)
                return
            if self._aborted or classify(error) in (Fault.FATAL, Fault.LOST):
                raise
            logger.debug("a transaction failed, looking at its rows: %s", reason(error, self._engine.url))
            worker.questions.append(Question(batch, Counter(), token))

    @property
    def _pages(self) -> Pages:
        """The statements, as they are now."""
        return self._statements.pages

    @property
    def _page_size(self) -> int:
        """The most rows in an INSERT."""
        settings = self._settings
        return rows_per_page(settings.page_size, settings.commit_every, is_spread=self._pages.is_spread)

    def _may_write_ahead(self, worker: Worker) -> bool:
        """Return whether a worker may send its next transaction before it knows what became of the one before."""
        return (
            self._writes_ahead
            and not worker.waits_for
            and worker.session.writes_ahead
            and self._pages.rows_name_their_transaction
        )

    def _send_pages(
        self,
        connection: Connection,
        pages: Sequence[Sequence[UserGap]],
        token: uuid.UUID,
        *,
        ahead: bool = False,
        earlier: int = 0,
    ) -> Answer[Inserted]:
        """Send pages together, and return what they insert.

        Args:
            connection: A connection.
            pages: The pages; more than one, or ahead, only in pipeline mode.
            token: The token of the transaction.
            ahead: Whether the server may still be at other statements, so that only it knows how long a page takes.
            earlier: How many pages of the transaction it has executed before.
        """
        statements = self._pages
        started = time.monotonic()
        sent = [
            statements.insert_page(connection, page, token, keyed=self._keyed, is_first=number == 0)
            for number, page in enumerate(pages, start=earlier)
        ]
        clock = statements.read_clock(connection) if ahead or len(pages) > 1 else None

        def read(written: Sequence[Written]) -> Inserted:
            if clock is None:
                slowest = time.monotonic() - started
            else:
                moments = [*(page.began for page in written), clock.value]
                slowest = max(end - begin for begin, end in itertools.pairwise(moments))
            return Inserted(list(zip(pages, written, strict=True)), slowest)

        return gather(sent).then(read)

    def _insert_pages(
        self, connection: Connection, pages: Sequence[Sequence[UserGap]], token: uuid.UUID, slowest: float | None
    ) -> Inserted:
        """Insert a transaction's pages; after each one the run may be stopped, unless some are sent together.

        Args:
            connection: A connection.
            pages: The pages.
            token: As for ``_send_pages``.
            slowest: The seconds that the slowest page of the transaction before took, if there was one.
        """
        done = Inserted()
        may_pipeline = pipelined(connection) is not None
        while len(done.pages) < len(pages) and not (done.pages and self._ended()):
            at_once = pages_at_once(done.slowest or slowest) if may_pipeline else 1
            earlier = len(done.pages)
            go = self._send_pages(connection, pages[earlier:][:at_once], token, earlier=earlier).value
            done.pages += go.pages
            done.slowest = max(done.slowest, go.slowest)
        return done

    def _is_kept(self, connection: Connection, done: Inserted, transaction: int, token: uuid.UUID) -> bool:
        """Return whether the database has what a transaction inserted."""
        if done.rows is not None:
            return self._pages.is_kept(connection, done.rows, transaction)
        return self._find_written(connection, done.tried, transaction, token) is not None

    def _find_written(
        self, connection: Connection, tried: Sequence[UserGap], transaction: int, token: uuid.UUID
    ) -> Inserted | None:
        """Return what the database has of what a transaction inserted; None if that is nothing."""
        written = self._pages.find_written(connection, [gap.user_id for gap in tried], transaction, token)
        return None if written is None else Inserted([(tried, written)])

    def _settle_commit(self, worker: Worker, done: Inserted, token: uuid.UUID) -> None:
        """Count what a transaction has inserted that is committed, and ask about what is missing."""
        started = time.monotonic()
        worker.slowest = done.slowest
        by_day = done.by_day
        as_expected = by_day.total() == rows_of(done.tried)
        with self._changed:
            self._settle(by_day, done.rows, pages=len(done.pages), slowest=done.slowest)
            if as_expected:
                self._unsettled -= by_day.total()
                self._tell()
        # The next transaction is open meanwhile.
        self._writes_ahead &= time.monotonic() - started < LONGEST_SETTLING
        if not as_expected:
            worker.questions.append(Question(done.tried, done.by_user, token))

    def _settle(
        self, by_day: Counter[datetime.date], rows: Sequence[Row] | None, *, pages: int, slowest: float
    ) -> None:
        """Count the rows of a commit that the server has confirmed."""
        report = self._report
        report.pages += pages
        report.commits += 1
        report.inserted += by_day.total()
        report.inserted_by_day.update(by_day)
        report.slowest_page_seconds = max(report.slowest_page_seconds, slowest)
        logger.debug("commit %s: %s inserted", report.commits, counted(by_day.total(), "row"))
        if rows and self._observers.on_inserted is not None:
            self._observers.on_inserted(rows)

    def _answer(self, worker: Worker) -> None:
        """Find out what became of the rows that were not inserted as expected, and insert what is still missing."""
        if self._aborted or not worker.questions:
            return
        # A transaction that is still open may be about the same users.
        worker.session.settle()
        questions, worker.questions = worker.questions, []
        tried = [gap for question in questions for gap in question.tried]
        inserted: Counter[uuid.UUID] = Counter()
        for question in questions:
            inserted.update(self._inserted_by(worker.session, question))
            tried += take_rest(worker.own, question.tried[-1])
        self._look_closer(worker.session, tried, inserted)

    def _inserted_by(self, session: Session, question: Question) -> Counter[uuid.UUID]:
        """Return the rows that each user got of a transaction that is committed, or has failed."""
        if question.inserted is not None:
            return question.inserted
        # Only a cluster leaves the keys out, and its rows don't tell the number of their transaction.
        found = session.read(lambda connection: self._find_written(connection, question.tried, 0, question.token))
        return (found and found.by_user) or Counter()

    def _look_closer(self, session: Session, tried: Sequence[UserGap], inserted: Mapping[uuid.UUID, int]) -> None:
        """Find out what became of rows that were not all inserted, and insert those that are still missing by name.

        Args:
            session: The worker's session.
            tried: All users whose rows are in question, with the number of rows that each lacked.
            inserted: The number of rows of these that were inserted, by user.
        """
        expected: Counter[uuid.UUID] = Counter()
        for gap in tried:
            expected[gap.user_id] += gap.missing
        ids = list(expected)
        missing = session.read(lambda connection: self._pages.list_missing(connection, ids))
        active = session.read(lambda connection: self._pages.list_active(connection, ids))
        found = compare(expected, inserted, active, len(missing))
        with self._changed:
            self._unsettled -= expected.total() - len(missing)
            self._report.eligible -= found.gone
            self._report.present -= found.vanished
            self._report.raced += found.raced
            self._tell()
        for start in range(0, len(missing), self._page_size):
            if self._ended():
                break
            self._insert_by_name(session, missing[start : start + self._page_size])

    def _insert_by_name(self, session: Session, rows: Sequence[UserDay]) -> None:
        """Insert rows in a transaction of their own; if that fails, halve them until those at fault are alone."""
        started = time.monotonic()
        pages = self._pages
        try:
            inserted = session.write(
                lambda connection: self._pages.insert_rows(connection, rows), self._pages.is_kept, ATTEMPTS_OF_A_PIECE
            )
        except DBAPIError as error:
            if self._statements.are_renewed(pages, error):
                self._insert_by_name(session, rows)
                return
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
            self._settle(
                Counter(row.day for row in inserted), sorted(inserted), pages=1, slowest=time.monotonic() - started
            )
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
