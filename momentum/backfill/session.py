"""A connection that runs transactions, each with its own limits, tried again where that helps, never in doubt.

Nothing depends on a session of the server, and nothing is left in one, so that any pooler may be in between. What need
not wait for an answer is sent together, so that a distant server costs one round trip per transaction.
"""

import enum
import functools
import itertools
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar, overload

import psycopg
from sqlalchemy import URL, ColumnElement, Connection, Engine, Select, func, literal_column, null, select, text
from sqlalchemy.exc import DBAPIError

from momentum.backfill.faults import classify, sqlstate
from momentum.backfill.settings import SECONDS_OF_RECONNECTING, Limits
from momentum.connect.engine import keeps_session, reason, stop_preparing
from momentum.connect.pipeline import Answer, Rows, ask, enter_pipeline, flush, leave_pipeline, pipelined, send
from momentum.connect.settings import (
    ENDING,
    OWN_PATH,
    PINNED,
    SEARCH_PATH,
    corrections,
    in_block,
    keep_own_path,
    written_changes,
)
from momentum.connect.url import describe
from momentum.errors import DatabaseUnreachableError
from momentum.retries import Fault, jittered

Result = TypeVar("Result")

# Settings that keep the planner on its path whatever the table's statistics say: they may date from when it was empty.
# Looking up users one by one: a sequential scan for each would never end, and a bitmap costs more than the few rows
# that an index finds, all the more if little of the table is in the server's buffers.
BY_USER = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}
# One plan for all pages: planning one takes half as long as executing it, and with statistics that are out of date the
# server would plan each anew.
ONCE = {"plan_cache_mode": "force_generic_plan"}
# Reading the whole table once: nothing may be read again for each user.
BY_SCAN = {"enable_nestloop": "off"}

# The statements for a cluster are joins. If the planner expects few days, a merge join compares all of a user's.
JOINED = {"enable_mergejoin": "off"}

# What set_config() sets doesn't reach the other servers of a cluster; after this, what SET LOCAL sets does.
REACHING_SHARDS = {"citus.propagate_set_commands": "local"}

# The life of a server: a text that changes once it has crashed, or another one has taken over, after which the id of a
# transaction that was lost may be given to another one. A recovery ends with a checkpoint (there are others, but
# rarely), and a standby that was promoted was started at another time.
LIFE = """
    pg_catalog.concat_ws(
      ' ',
      pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()),
      (pg_catalog.pg_control_checkpoint()).checkpoint_lsn
    )
"""

# The SQLSTATEs of a statement that was prepared in another session, and of one that was prepared there before.
NOT_PREPARED = ("26000", "42P05")
# What a server or pooler says that can't take statements without answering each: a violation of the protocol, a feature
# that isn't supported.
NOT_PIPELINED = ("08P01", "0A000")

COMMIT, ROLLBACK = text("commit"), text("rollback")

# Where what is known about a connection is kept with it.
KNOWN = "momentum.known"

logger = logging.getLogger("momentum.backfill")


def sleep_until(is_over: Callable[[], bool], seconds: float) -> None:
    """Sleep, but no longer than until something is over."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not is_over():
        time.sleep(min(left, 0.05))


class Known(NamedTuple):
    """What is known about a connection.

    Attributes:
        keeps_session: Whether it stays with one session of the server.
        can_read_life: Whether the server's life can be read: a role may lack the right, and some servers can't say.
    """

    keeps_session: bool
    can_read_life: bool


class Begun(NamedTuple):
    """A transaction that writes.

    Attributes:
        id: Its id.
        life: The life of the server in which it has this id; None if that can't be read.
    """

    id: int
    life: str | None


class End(enum.Enum):
    """What became of a transaction."""

    COMMITTED = "it is committed"
    REFUSED = "the server has refused it, and would again"
    UNDONE = "it is rolled back, and may be tried again"


class Open(NamedTuple):
    """A transaction whose statements are with the server, and whose commit is still to be sent.

    Attributes:
        begun: The transaction.
        result: What its statements return.
        find: Returns what the database has of what it was to leave; None if that is nothing.
        settle: Called with the result and what became of it.
    """

    begun: Begun
    result: Answer[Any]
    find: Callable[[Connection, int], Any]
    settle: Callable[[Any, End], None]


class Session:
    """A connection of its own, made on first use and again after it was lost.

    Args:
        engine: Connects to the database.
        limits: The limits of each transaction.
        read_only: Whether its transactions only read.
        sleep: Pauses for some seconds between two attempts.
        isolation: The isolation level of its transactions.
        is_aborted: Returns whether all is to end at once; what would commit then raises KeyboardInterrupt instead.
        is_stopping: Returns whether no other transaction should begin.
        is_spread: Whether other servers write the rows, each in a transaction that it may commit before this one.

    Attributes:
        limits: The limits of each transaction.
        retried: How often a transaction was tried again.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        *,
        read_only: bool,
        sleep: Callable[[float], None],
        isolation: str = "read committed",
        is_aborted: Callable[[], bool] = lambda: False,
        is_stopping: Callable[[], bool] = lambda: False,
        is_spread: bool = False,
    ) -> None:
        self.retried = 0
        self._is_spread = is_spread
        # It begins and ends its transactions itself, so that this may go along with other statements.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        # Whatever the role's own is, a page must see what the lock of its table has waited for.
        self._begins = text(f"begin isolation level {isolation}{' read only' if read_only else ''}")
        self.limits = limits
        self._beginning = [self._begins]
        if is_spread:
            # The servers of a cluster that hold the shards look up and lock the rows.
            on_shards = {**REACHING_SHARDS, **limits.for_transaction({**BY_USER, **JOINED})}
            self._beginning.append(text(in_block(on_shards)))
        self._sleep = sleep
        self._is_aborted = is_aborted
        self._is_stopping = is_stopping
        self._connection: Connection | None = None
        self._known: Known | None = None
        # Prepared statements are faster, and work only in the session in which they were prepared.
        self._prepares = True
        # Not everything that may be between us and the server takes a statement before the last one is answered.
        self._pipelines = True
        # When the connection was lost; a pooler may give one whose server is still away.
        self._lost_since: float | None = None
        self._open: Open | None = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> URL:
        """The URL of the database."""
        return self._engine.url

    @property
    def has_open(self) -> bool:
        """Whether a transaction has written whose commit is still to be sent."""
        return self._open is not None

    @property
    def writes_ahead(self) -> bool:
        """Whether a commit may go along with the next transaction.

        Behind a pooler that gives each transaction a session it may not: this one would never be free for others.
        """
        connection = self._connection
        is_own = self._known is not None and self._known.keeps_session
        return is_own and connection is not None and pipelined(connection) is not None

    def close(self) -> None:
        """Close the connection; uncommitted work is rolled back."""
        self._open = None
        connection, self._connection = self._connection, None
        if connection is not None:
            leave_pipeline(connection)
            connection.close()

    def cancel(self) -> None:
        """Cancel the statement that is running, from another thread."""
        connection = self._connection
        if connection is not None and not connection.closed and not connection.invalidated:
            driver = connection.connection.driver_connection
            if driver is not None:
                # A statement that can't be cancelled ends with its connection.
                with suppress(psycopg.Error):
                    driver.cancel_safe(timeout=2)

    @overload
    def read(
        self,
        work: Callable[[Connection], Answer[Result]],
        attempts: int | None = None,
    ) -> Result: ...

    @overload
    def read(
        self,
        work: Callable[[Connection], Result],
        attempts: int | None = None,
    ) -> Result: ...

    def read(
        self,
        work: Callable[[Connection], Any],
        attempts: int | None = None,
    ) -> Any:
        """Return the result of a function that reads in a transaction of its own, which is rolled back.

        Args:
            work: The function; if it returns an answer that is still on its way, the end of the transaction goes along.
            attempts: How often the transaction is tried; None means as often as the limits say.

        Raises:
            sqlalchemy.exc.DBAPIError: Another attempt would not help, or the last one failed.
        """
        self.settle()
        return self._try(lambda connection: self._read_once(connection, work), attempts)

    def write(
        self,
        work: Callable[[Connection], Result],
        is_kept: Callable[[Connection, Result, int], bool],
        attempts: int | None = None,
    ) -> Result:
        """Return the result of a function that writes in a transaction of its own, once the commit is confirmed.

        Args:
            work: The function that writes.
            is_kept: Returns whether the database has what the transaction with a result and an id was to leave. It is
                called if the confirmation was lost, and the server can't say whether that transaction was committed.
            attempts: How often the transaction is tried; None means as often as the limits say.

        Raises:
            DatabaseUnreachableError: It is not known whether the commit took place.
            sqlalchemy.exc.DBAPIError: Another attempt would not help, or the last one failed; nothing was written.
        """
        self.settle()
        return self._try(lambda connection: self._write_once(connection, work, is_kept), attempts)

    def write_ahead(
        self,
        work: Callable[[Connection], Answer[Result]],
        find: Callable[[Connection, int], Result | None],
        settle: Callable[[Result | None, End], None],
    ) -> None:
        """Send a transaction of its own without waiting for its result; its commit is sent along with the next one.

        Args:
            work: The function that writes; it asks, and looks at no answer.
            find: Returns what the database has of what the transaction with an id was to leave; None if that is
                nothing. It is called if the connection was lost.
            settle: Called later with the result and what became of the transaction, at the latest by ``settle``,
                ``read`` or ``write``. The result is None if nothing is left of it.

        Raises:
            DatabaseUnreachableError: It is not known whether the commit of the transaction before took place.
            sqlalchemy.exc.DBAPIError: The transaction could not begin, or a statement of the one before has failed, and
                another attempt would not help.
        """

        def once(connection: Connection) -> None:
            earlier, self._open = self._open, None
            committed: Answer[Rows] | None = None
            try:
                committed = self._commit(connection) if earlier else None
                begun = self._begin(connection, writes=True)
                # Its id arrives while the server is at its pages, so that the next message is there when they are done.
                flush(connection)
                result = work(connection)
                send(connection)
                this = self._begun(begun)
            except DBAPIError as error:
                if earlier:
                    self._end(earlier, committed, error)
                raise
            if earlier and (failure := self._end(earlier, committed)):
                raise failure
            self._open = Open(this, result, find, settle)

        self._try(once, None)

    def settle(self) -> None:
        """Commit the transaction that is still open.

        Raises:
            DatabaseUnreachableError: It is not known whether the commit took place.
        """
        earlier, self._open = self._open, None
        if earlier is None:
            return
        assert self._connection is not None
        committed: Answer[Rows] | None = None
        try:
            committed = self._commit(self._connection)
            _ = committed.value
        except DBAPIError as error:
            self._end(earlier, committed, error)
        else:
            self._end(earlier, committed)

    def _commit(self, connection: Connection) -> Answer[Rows]:
        """Commit, unless all is to end at once: nobody would count or report it."""
        if self._is_aborted():
            raise KeyboardInterrupt
        return ask(connection, COMMIT)

    def _end(self, earlier: Open, committed: Answer[Rows] | None, error: DBAPIError | None = None) -> DBAPIError | None:
        """Tell what became of a transaction, once it is known whether its commit, or what was sent with it, has failed.

        Where one of its own statements has failed, the server has answered the commit by rolling back. That error is
        returned if no other attempt would help.
        """
        fault = failure = None
        result = None
        try:
            result = earlier.result.value
        except DBAPIError as own:
            fault, failure = classify(own), own
        if fault is None and error and not (committed and committed.has_arrived):
            fault = classify(error)
        if fault is Fault.LOST:
            self._abandon(fault)
            is_committed, found = self._find_out(
                earlier.begun, lambda connection: earlier.find(connection, earlier.begun.id)
            )
            end = End.COMMITTED if is_committed else End.UNDONE
            result = found if result is None else result
        elif fault is None:
            end = End.COMMITTED
        else:
            end = End.UNDONE if fault.may_pass or fault is Fault.FATAL else End.REFUSED
        self.retried += end is End.UNDONE
        earlier.settle(result if end is End.COMMITTED else None, end)
        return failure if fault is Fault.FATAL else None

    def _try(self, once: Callable[[Connection], Result], attempts: int | None) -> Result:
        """Run a transaction until it succeeds or another attempt would not help.

        It waits for a server that restarts: from a lost connection to the next transaction that begins, seconds count
        instead of attempts, unless there is to be only one. A run that is to stop doesn't wait.
        """
        failed = busy = lost = 0
        self._lost_since = None
        most = attempts or self.limits.attempts
        while True:
            try:
                return once(self._connect())
            except DBAPIError as error:
                fault = classify(error)
                is_refusal = self._pipelines and self._is_refusal(error, fault)
                self._abandon(fault)
                if self._prepares and sqlstate(error) in NOT_PREPARED:
                    self._stop_preparing()
                    continue
                if is_refusal:
                    self._stop_pipelining()
                    continue
                failed += 1
                if fault is Fault.LOST and attempts != 1:
                    now = time.monotonic()
                    if self._lost_since is None:
                        self._lost_since, lost = now, lost + 1
                    is_away = now - self._lost_since >= self.limits.reconnecting
                    # A transaction whose connection is lost each time would never end.
                    is_over = is_away or lost > most or self._is_stopping()
                else:
                    busy += 1
                    is_over = busy >= most
                if not fault.may_pass or is_over or self._is_aborted():
                    raise
                self.retried += 1
                logger.debug("attempt %s failed, trying again: %s", failed, reason(error, self._engine.url))
            except BaseException:
                self._abandon(Fault.FATAL)
                raise
            self._sleep(self._length_of_pause(failed))

    def _length_of_pause(self, failed: int) -> float:
        """Return the seconds to pause after a failed attempt."""
        return jittered(self.limits.backoff.seconds(failed), random.random())  # noqa: S311

    def _connect(self) -> Connection:
        """Return the connection, made now if there is none yet."""
        if self._connection is None:
            self._connection = connection = self._engine.connect()
            if self._pipelines:
                enter_pipeline(connection)
            self._known = connection.info.get(KNOWN)
            if self._known is None:
                self._known = connection.info[KNOWN] = self._learn(connection)
                self._lost_since = None
            if not (self._prepares and self._known.keeps_session):
                self._stop_preparing()
        return self._connection

    def _learn(self, connection: Connection) -> Known:
        """Find out about a new connection, in a transaction that is rolled back."""
        began: Answer[Rows] | None = None
        try:
            ask(connection, self._begins)
            settings = {**PINNED, **ENDING, **self.limits.for_transaction(BY_USER)}
            began = ask(connection, select(func.pg_catalog.pg_backend_pid(), *written_changes(settings)))
            life = ask(connection, select(literal_column(LIFE)))
            _ = ask(connection, ROLLBACK).value
            can_read_life = bool(life.value)
        except DBAPIError as error:
            if classify(error) is Fault.LOST or began is None or not began.has_arrived:
                raise
            can_read_life = False
            self._roll_back(connection)
        return Known(keeps_session(connection, began.value[0][0]), can_read_life)

    @property
    def _can_read_life(self) -> bool:
        return self._known is not None and self._known.can_read_life

    def _stop_preparing(self) -> None:
        """Prepare no more statements, on this connection and on later ones."""
        self._prepares = False
        if self._connection is not None:
            stop_preparing(self._connection)

    def _is_refusal(self, error: DBAPIError, fault: Fault) -> bool:
        """Return whether an error may mean that statements can't be sent before the last one is answered."""
        is_new = self._connection is not None and self._known is None
        return sqlstate(error) in NOT_PIPELINED or (is_new and fault is Fault.LOST)

    def _stop_pipelining(self) -> None:
        """Wait for the answer of each statement, on this connection and on later ones."""
        self._pipelines = False
        if self._connection is not None:
            leave_pipeline(self._connection)

    def _abandon(self, fault: Fault) -> None:
        """Roll back, or let go of a connection that can't be used any more."""
        try:
            if fault is not Fault.LOST and self._connection is not None:
                self._roll_back(self._connection)
                return
        except DBAPIError:
            pass
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()

    @staticmethod
    def _roll_back(connection: Connection) -> None:
        """Roll back, after all that was sent has been answered."""
        if driver := pipelined(connection):
            with suppress(psycopg.Error):
                driver.wait_for_answers()
        connection.rollback()

    def _begin(self, connection: Connection, *, writes: bool) -> Answer[Rows]:
        """Begin a transaction and set its limits; if it writes, the last two columns are those of ``Begun``."""
        connection.info.pop(OWN_PATH, None)
        for statement in self._beginning:
            ask(connection, statement)
        reads_life = writes and self._can_read_life
        return ask(connection, beginning(self.limits, writes, reads_life=reads_life, is_spread=self._is_spread))

    def _read_once(self, connection: Connection, work: Callable[[Connection], Any]) -> Any:
        """Run a function that reads, and end its transaction."""
        begun = self._begin(connection, writes=False)
        try:
            result = work(connection)
            ended = ask(connection, ROLLBACK)
            value = result.value if isinstance(result, Answer) else result
            _ = ended.value
        finally:
            if begun.has_arrived:
                self._lost_since = None
        return value

    def _begun(self, answer: Answer[Rows]) -> Begun:
        """Return the transaction that has begun."""
        *_, number, life = answer.value[0]
        self._lost_since = None
        return Begun(int(number), life)

    def _write_once(
        self,
        connection: Connection,
        work: Callable[[Connection], Result],
        is_kept: Callable[[Connection, Result, int], bool],
    ) -> Result:
        """Run a function that writes, and commit; if the confirmation is lost, find out on a new connection."""
        answer = self._begin(connection, writes=True)
        try:
            result = work(connection)
        finally:
            if answer.has_arrived:
                self._lost_since = None
        begun = self._begun(answer)
        try:
            _ = self._commit(connection).value
        except DBAPIError as error:
            if classify(error) is not Fault.LOST:
                raise
            self._abandon(Fault.LOST)
            is_committed, _ = self._find_out(begun, lambda connection: is_kept(connection, result, begun.id) or None)
            if not is_committed:
                raise
        return result

    def _find_out(self, begun: Begun, find: Callable[[Connection], Any]) -> tuple[bool, Any]:
        """Return whether a transaction was committed whose commit was sent and never confirmed, and what is left of it.

        Raises:
            DatabaseUnreachableError: The server doesn't answer.
        """
        started = time.monotonic()
        for failed in itertools.count(1):
            # A run that is to stop waits for less time, but does wait, because its report says what was committed.
            longest = SECONDS_OF_RECONNECTING if self._is_stopping() else self.limits.reconnecting
            if failed > 1 and (self._is_aborted() or time.monotonic() - started >= longest):
                break
            sleep_until(self._is_aborted, self._length_of_pause(failed))
            try:
                outcome: tuple[bool, Any] | None = self._read_once(
                    self._connect(), lambda connection: self._look_for(connection, begun, find)
                )
            except DBAPIError as error:
                self._abandon(classify(error))
                continue
            if outcome is not None:
                return outcome
        raise DatabaseUnreachableError(
            f"The connection to {describe(self._engine.url)} was lost during a commit, so it is not known whether that "
            "took place; run the command again."
        )

    def _look_for(
        self, connection: Connection, begun: Begun, find: Callable[[Connection], Any]
    ) -> tuple[bool, Any] | None:
        """Return whether a transaction was committed and what is left of it; None if that can't be said yet."""
        statement = f"""
            select
              -- A standby may not have received the commit yet.
              case
                when pg_catalog.pg_is_in_recovery() then 'in progress'
                else pg_catalog.pg_xact_status(cast(cast(:id as text) as xid8))
              end as status,
              {LIFE if self._can_read_life else "null"} as life
        """
        try:
            row = connection.execute(text(statement), {"id": str(begun.id)}).one()
        except DBAPIError as error:
            if classify(error) is not Fault.DATA:
                raise
            return False, None  # The server has assigned no such id: the transaction that had it before is lost.
        if row.status == "in progress":
            return None  # The server hasn't noticed yet that its client is gone.
        if row.status == "aborted" and not self._is_spread:
            return False, None
        found = find(connection)
        # In another life of the server the id is perhaps somebody else's; or it is so old that it is forgotten.
        is_certain = row.status == "committed" and begun.life == row.life is not None
        return is_certain or found is not None, found


@functools.cache
def beginning(limits: Limits, writes: bool, *, reads_life: bool, is_spread: bool) -> Select[Any]:
    """Return the query with which a transaction begins: it sets the limits and, if it writes, returns ``Begun``.

    It is made once: to make it takes longer than to execute it.

    Args:
        limits: The limits of the transaction.
        writes: Whether it writes.
        reads_life: Whether it reads the server's life.
        is_spread: Whether other servers write the rows: which ones depends on the users, so each page has its own plan.
    """
    # A trigger of the score table must find every other setting as a client does.
    pinned = {"search_path": SEARCH_PATH, **({} if is_spread else ONCE)} if writes else PINNED
    settings = {**pinned, **ENDING, **limits.for_transaction(BY_USER)}
    columns: list[ColumnElement[Any]] = [keep_own_path()] if writes else []
    columns += [*written_changes(settings), *corrections()]
    if writes:
        # As text, because the driver doesn't know the type xid8.
        columns.append(literal_column("pg_catalog.pg_current_xact_id()::pg_catalog.text"))
        columns.append(literal_column(LIFE) if reads_life else null())
    return select(*columns)
