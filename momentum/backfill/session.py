"""A connection that runs transactions, each with its own limits, tried again where that helps, never in doubt.

Nothing depends on a session of the server, and nothing is left in one, so that any pooler may be in between.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from sqlalchemy import URL, ColumnElement, Connection, Engine, Text, cast, func, select, text
from sqlalchemy.exc import DBAPIError

from momentum.backfill.faults import classify, sqlstate
from momentum.backfill.settings import Limits
from momentum.connect.engine import keeps_session, reason, stop_preparing
from momentum.connect.url import describe
from momentum.errors import DatabaseUnreachableError
from momentum.retries import Fault, jittered

Result = TypeVar("Result")

# Settings that keep the planner on its path whatever the table's statistics say: they may date from when it was empty.
# Looking up users one by one: a sequential scan for each would never end, and a bitmap costs more than the few rows
# that an index finds, all the more if little of the table is in the server's buffers.
BY_USER = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}
# Reading the whole table once: nothing may be read again for each user.
BY_SCAN = {"enable_nestloop": "off"}

# The SQLSTATEs of a statement that was prepared in another session, and of one that was prepared there before.
NOT_PREPARED = ("26000", "42P05")

logger = logging.getLogger("momentum.backfill")


def sleep_until(is_over: Callable[[], bool], seconds: float) -> None:
    """Sleep, but no longer than until something is over."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not is_over():
        time.sleep(min(left, 0.05))


class Session:
    """A connection of its own, made on first use and again after it was lost.

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
        is_aborted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.retried = 0
        self._engine = engine.execution_options(postgresql_readonly=True) if read_only else engine
        self.limits = limits
        self._sleep = sleep
        self._is_aborted = is_aborted
        self._connection: Connection | None = None
        # Prepared statements are faster, and work only in the session in which they were prepared.
        self._prepares = True

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> URL:
        """The URL of the database."""
        return self._engine.url

    def close(self) -> None:
        """Close the connection; uncommitted work is rolled back."""
        connection, self._connection = self._connection, None
        if connection is not None:
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

    def read(
        self, work: Callable[[Connection], Result], planner: Mapping[str, str] = BY_USER, attempts: int | None = None
    ) -> Result:
        """Return the result of a function that reads in a transaction of its own, which is rolled back.

        Raises:
            sqlalchemy.exc.DBAPIError: Another attempt would not help, or the last one failed.
        """
        return self._try(lambda connection: self._read_once(connection, work, planner), attempts)

    def write(self, work: Callable[[Connection], Result], attempts: int | None = None) -> Result:
        """Return the result of a function that writes in a transaction of its own, once the commit is confirmed.

        Raises:
            sqlalchemy.exc.DBAPIError: Another attempt would not help, or the last one failed; nothing was written.
        """
        return self._try(lambda connection: self._write_once(connection, work), attempts)

    def _try(self, once: Callable[[Connection], Result], attempts: int | None) -> Result:
        """Run a transaction until it succeeds or another attempt would not help."""
        failed = 0
        while True:
            try:
                return once(self._connect())
            except DBAPIError as error:
                fault = classify(error)
                self._abandon(fault)
                if self._prepares and sqlstate(error) in NOT_PREPARED:
                    self._stop_preparing()
                    continue
                failed += 1
                if not fault.may_pass or failed >= (attempts or self.limits.attempts) or self._is_aborted():
                    raise
                self.retried += 1
                logger.debug("attempt %s failed, trying again: %s", failed, reason(error, self._engine.url))
            except BaseException:
                self._abandon(Fault.FATAL)
                raise
            self._pause(failed)

    def _pause(self, failed: int) -> None:
        """Pause after a failed attempt."""
        self._sleep(jittered(self.limits.backoff.seconds(failed), random.random()))  # noqa: S311

    def _connect(self) -> Connection:
        """Return the connection, made now if there is none yet."""
        if self._connection is None:
            self._connection = self._engine.connect()
            if not self._prepares:
                self._stop_preparing()
        return self._connection

    def _stop_preparing(self) -> None:
        """Prepare no more statements, on this connection and on later ones."""
        self._prepares = False
        if self._connection is not None:
            stop_preparing(self._connection)

    def _abandon(self, fault: Fault) -> None:
        """Roll back, or let go of a connection that can't be used any more."""
        try:
            if fault is not Fault.LOST and self._connection is not None:
                self._connection.rollback()
                return
        except DBAPIError:
            pass
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()

    def _begin(self, connection: Connection, planner: Mapping[str, str], *, writes: bool) -> int | None:
        """Begin a transaction: set its limits and, if it writes, return its id; all in one round trip."""
        settings = self.limits.for_transaction(planner)
        columns: list[ColumnElement[Any]] = [func.pg_catalog.pg_backend_pid()]
        columns += [func.pg_catalog.set_config(name, value, True) for name, value in settings.items()]
        if writes:
            # As text, because the driver doesn't know the type xid8.
            columns.append(cast(func.pg_catalog.pg_current_xact_id(), Text))
        row = connection.execute(select(*columns)).one()
        if self._prepares and not keeps_session(connection, row[0]):
            self._stop_preparing()
        return int(row[-1]) if writes else None

    def _read_once(
        self, connection: Connection, work: Callable[[Connection], Result], planner: Mapping[str, str]
    ) -> Result:
        """Run a function that reads, and end its transaction."""
        self._begin(connection, planner, writes=False)
        result = work(connection)
        connection.rollback()
        return result

    def _write_once(self, connection: Connection, work: Callable[[Connection], Result]) -> Result:
        """Run a function that writes, and commit; if the confirmation is lost, ask for it on a new connection."""
        transaction = self._begin(connection, BY_USER, writes=True)
        result = work(connection)
        try:
            connection.commit()
        except DBAPIError as error:
            if classify(error) is not Fault.LOST:
                raise
            self._abandon(Fault.LOST)
            if not self._was_committed(transaction):
                raise
        return result

    def _was_committed(self, transaction: int | None) -> bool:
        """Return whether a transaction was committed whose commit was sent and never confirmed.

        Raises:
            DatabaseUnreachableError: The server doesn't answer.
        """
        for failed in range(1, self.limits.attempts + 1):
            self._pause(failed)
            try:
                status = self._connect().scalar(
                    text("select pg_xact_status(cast(cast(:id as text) as xid8))"), {"id": str(transaction)}
                )
                self._connect().rollback()
            except DBAPIError as error:
                fault = classify(error)
                self._abandon(fault)
                if fault is Fault.DATA:
                    return False  # A server that doesn't know the transaction has taken over from the other.
                continue
            # In progress: the server hasn't noticed yet that its client is gone.
            if status != "in progress":
                return bool(status == "committed")
        raise DatabaseUnreachableError(
            f"The connection to {describe(self._engine.url)} was lost during a commit, so it is not known whether that "
            "took place; run the command again."
        )
