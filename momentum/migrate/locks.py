"""The advisory lock, timeouts and retries with which a migration takes its locks without blocking clients.

A statement that waits for a lock on a table blocks every statement that queues behind it. So each one waits only for a
moment, and its revision is tried again a little later. No statement ever runs without a time limit, up or down.

Nothing of this outlives a transaction, because a pooler may give each transaction another session of the server.
"""

import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from momentum.connect.engine import reason, stop_preparing
from momentum.connect.settings import ENDING, IDLE_TIMEOUT, PINNED, SEARCH_PATH, change_settings, changes, corrections
from momentum.errors import MigrationError
from momentum.inventory import VERSION_TABLE, private
from momentum.retries import Backoff, Fault, fault_of, jittered, milliseconds
from momentum.wording import counted

# A revision changes only catalogs; anything longer is executed patiently, outside of its transaction.
STATEMENT_TIMEOUT = "1min"

# For a statement that reads a whole table, such as the preflight's.
READING_TIMEOUT = "15min"

# The defaults after which a run that can't get its locks gives up.
ATTEMPTS = 40
SECONDS = 300.0

# With each attempt, statements wait a little longer for a lock, and the run pauses a little longer.
LOCK_TIMEOUTS = Backoff(first=0.3, factor=1.3, longest=2.0)
PAUSES = Backoff(first=0.15, factor=1.5, longest=5.0)

# Seconds between two looks at the advisory lock while another migration holds it.
LOOKS = (0.05, 0.2)

# Seconds to wait for the second session that keeps the advisory lock: a pool may be busy for a moment.
SECOND_SESSION = 5

# The key of the advisory lock, the same in every release, so that two releases can't migrate a database at once.
ADVISORY_LOCK = 7_266_308_621_054_313


class HeldError(Exception):
    """Another migration holds the advisory lock."""


class OvertakenError(Exception):
    """Another migration has changed the database's revision since this one looked."""


def lock_timeout(failed: int, remaining: float) -> float:
    """Return the seconds that a statement of the next attempt may wait for a lock.

    Args:
        failed: How many attempts have failed.
        remaining: The seconds until the deadline.
    """
    return min(LOCK_TIMEOUTS.seconds(failed + 1), remaining)


def pause_until(remaining: float, seconds: float, chance: float) -> float | None:
    """Return a pause with its jitter; None if it would reach the deadline.

    Args:
        remaining: The seconds until the deadline.
        seconds: The pause.
        chance: A random number, 0 to 1.
    """
    pause = jittered(seconds, chance)
    return pause if pause < remaining else None


@dataclass
class Patience:
    """The limits within which a run tries to get its locks.

    Attributes:
        attempts: The number of lock timeouts and deadlocks after which the run gives up.
        seconds: The seconds after which no other attempt is made and no statement waits any longer.
        failed: How many attempts have failed.
        statement_timeout: The time limit of each statement.
        search_path: Where names without a schema are looked up.
        heads: The revision that the database must be at whenever the run begins a transaction of its own; none if the
            run looks itself.
    """

    attempts: int = ATTEMPTS
    seconds: float = SECONDS
    failed: int = 0
    statement_timeout: str = STATEMENT_TIMEOUT
    search_path: str = SEARCH_PATH
    heads: Collection[str] | None = None
    _started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start counting the seconds."""
        self._started = time.monotonic()

    @property
    def spent(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self._started

    @property
    def remaining(self) -> float:
        """The seconds until the deadline, never less than a millisecond, because a timeout of 0 means none."""
        return max(self.seconds - self.spent, 0.001)

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the next transaction."""
        return {
            **PINNED,
            "search_path": self.search_path,
            **ENDING,
            "lock_timeout": milliseconds(lock_timeout(self.failed, self.remaining)),
            "statement_timeout": self.statement_timeout,
        }

    def try_again(self) -> bool:
        """Count a failed attempt and pause before the next one; return false if there is none."""
        self.failed += 1
        return self.failed < self.attempts and self.pause(PAUSES.seconds(self.failed))

    def pause(self, seconds: float) -> bool:
        """Pause for about this long; return false at once if that would reach the deadline."""
        pause = pause_until(self.remaining, seconds, random.random())  # noqa: S311
        if pause is None:
            return False
        time.sleep(pause)
        return True

    def wait_for_holder(self, connection: sa.Connection) -> None:
        """Pause before the next look at the advisory lock.

        Raises:
            MigrationError: Another migration still held it at the deadline.
        """
        if self.spent >= self.seconds:
            raise another_is_running(connection, f"has held the lock for {counted(round(self.seconds), 'second')}")
        time.sleep(min(random.uniform(*LOOKS), self.remaining))  # noqa: S311

    def run(
        self,
        connection: sa.Connection,
        action: Callable[[], None],
        *,
        statement_timeout: str = STATEMENT_TIMEOUT,
        takes_lock: bool = True,
    ) -> None:
        """Run an action in one or more transactions of its own, and repeat it while it can't get its locks.

        Args:
            connection: The connection that the action uses, whose transactions are ``limited``.
            action: The function that does the work. It must be safe to repeat after a rollback.
            statement_timeout: The time limit of each statement; a minute by default.
            takes_lock: Whether to take the advisory lock first, for an action of one transaction.

        Raises:
            MigrationError: Another migration held the advisory lock until the deadline, or has changed the revision.
            sqlalchemy.exc.DBAPIError: The last attempt failed, or another attempt would not help.
        """
        self.statement_timeout = statement_timeout
        while True:
            try:
                if takes_lock:
                    take_turn(connection, self.heads)
                action()
            except HeldError:
                connection.rollback()
                self.wait_for_holder(connection)
            except OvertakenError:
                connection.rollback()
                if self.heads is not None:
                    raise MigrationError(
                        "Another migration has meanwhile changed the database's revision; run the command again."
                    ) from None
            except sa.exc.DBAPIError as error:
                if connection.invalidated or not can_be_retried(error):
                    raise
                connection.rollback()
                if not self.try_again():
                    raise
            else:
                connection.commit()
                return


def can_be_retried(error: sa.exc.DBAPIError) -> bool:
    """Return whether another attempt may succeed.

    Raises:
        KeyboardInterrupt: The driver got the error while it cancelled the statement because of an interrupt, which must
            not be lost: the lock timeout often comes first.
    """
    cause: BaseException | None = error.orig
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise cause
        cause = cause.__context__
    return fault_of(getattr(error.orig, "sqlstate", None) or "", lost=False) is Fault.BUSY


@contextmanager
def limited(connection: sa.Connection, patience: Patience) -> Iterator[None]:
    """Begin each transaction of the connection with the run's settings.

    They end with the transaction, so that no other client of a pooled session finds them.
    """

    def begin(connection: sa.Connection) -> None:
        # Whatever the role's default: what a migration reads under the advisory lock must not be older than the lock.
        # SHOW takes no snapshot, after which it could no longer be changed.
        if connection.exec_driver_sql("show transaction_isolation").scalar() != "read committed":
            connection.exec_driver_sql("set transaction isolation level read committed")
        connection.execute(sa.select(*changes(patience.settings), *corrections()))

    driver_connection: Any = connection.connection.driver_connection
    threshold = getattr(driver_connection, "prepare_threshold", None)
    sa.event.listen(connection, "begin", begin)
    try:
        stop_preparing(connection)
        yield
    finally:
        sa.event.remove(connection, "begin", begin)
        if not connection.invalidated:
            # After an error, a handed-in connection must not stay in a transaction that can do nothing more.
            connection.rollback()
        if threshold is not None:
            driver_connection.prepare_threshold = threshold


def take_turn(connection: sa.Connection, heads: Collection[str] | None = None) -> None:
    """Take the advisory lock until the end of the transaction, which lets only one migration change a database.

    Args:
        connection: A connection, in a transaction.
        heads: The revision that the database must be at; any if it is not given.

    Raises:
        HeldError: Another migration holds it.
        OvertakenError: Another migration has changed the revision.
    """
    # Never pg_advisory_xact_lock: a session that waits in it holds a snapshot for which another migration's CREATE
    # INDEX CONCURRENTLY would wait, and no deadlock detector sees that.
    if not connection.scalar(sa.text(f"select pg_catalog.pg_try_advisory_xact_lock({ADVISORY_LOCK})")):
        raise HeldError
    if heads is not None and set(read_heads(connection)) != set(heads):
        raise OvertakenError


def read_heads(connection: sa.Connection) -> list[str]:
    """Return the revision that a database is at, in a list that is empty at base."""
    table = private(VERSION_TABLE)
    if connection.scalar(sa.text(f"select pg_catalog.to_regclass('{table}')")) is None:
        return []
    return list(connection.scalars(sa.text(f"select version_num from {table}")))


def engine_beside(connection: sa.Connection) -> sa.Engine:
    """Return an engine that connects in the same way, because the connection's own may have no second one to give."""
    engine = connection.engine
    return sa.Engine(engine.pool.recreate(), engine.dialect, engine.url)


def obstacle_to_second_session(connection: sa.Connection, seconds: float = SECOND_SESSION) -> str | None:
    """Return why the server or a pooler gives no second session next to a connection's, and None if it does.

    Args:
        connection: A connection, in a transaction, so that it has a session of its own.
        seconds: How long to wait; a pooler with too few sessions lets clients wait for minutes.
    """
    reasons: list[str | None] = []

    def ask() -> None:
        own = engine_beside(connection)
        try:
            with own.connect() as second:
                second.exec_driver_sql("select")
            reasons.append(None)
        except sa.exc.DBAPIError as error:
            reasons.append(reason(error, connection.engine.url))
        finally:
            own.dispose()

    # Meanwhile the connection's own transaction, which holds no lock, is idle.
    change_settings(connection, {"idle_in_transaction_session_timeout": milliseconds(seconds + IDLE_TIMEOUT)})
    # Connecting and asking may both wait, so both are left behind when the time is up.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return reasons[0] if reasons else f"none was free within {counted(round(seconds), 'second')}"


@contextmanager
def turn_kept(connection: sa.Connection, patience: Patience, heads: Collection[str]) -> Iterator[None]:
    """Keep the advisory lock while the connection does something outside of its transactions.

    A second connection keeps it, in a transaction that stays open: behind a pooler, a lock of the session would stay
    with a session that others use too. The transaction has no snapshot, so nothing waits for it.

    Raises:
        MigrationError: Another migration held it until the deadline.
        OvertakenError: Another migration has changed the revision.
        sqlalchemy.exc.DBAPIError: The lock was lost with its connection.
    """
    own = engine_beside(connection)
    try:
        with own.connect().execution_options(isolation_level="READ COMMITTED") as keeper:
            stop_preparing(keeper)
            change_settings(keeper, {**patience.settings, "application_name": "momentum-migrations-lock"})
            # It is idle for as long as the other connection works.
            unlimited = ["idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout"]
            known = keeper.scalars(
                sa.text("select name from pg_catalog.pg_settings where name = any(cast(:names as text[]))"),
                {"names": unlimited},
            )
            change_settings(keeper, dict.fromkeys(known.all(), "0"))
            wait_for_turn(keeper, patience, heads)
            yield
            # Fails if the lock was lost: then another migration may have begun.
            keeper.exec_driver_sql("select")
    finally:
        own.dispose()


def wait_for_turn(connection: sa.Connection, patience: Patience, heads: Collection[str]) -> None:
    """Take the advisory lock until the end of the transaction, waiting for it until the deadline.

    Args:
        connection: A connection, in a transaction that holds no other lock.
        patience: How long to wait.
        heads: The revision that the database must be at.

    Raises:
        MigrationError: Another migration still held it at the deadline.
        OvertakenError: Another migration has changed the revision.
    """
    while True:
        try:
            take_turn(connection, heads)
        except HeldError:
            patience.wait_for_holder(connection)
        else:
            return


def another_is_running(connection: sa.Connection, since: str) -> MigrationError:
    """Return the error for a database in which another migration holds the advisory lock."""
    return MigrationError(
        f"Another migration is running: {find_holder(connection)} {since}; let it finish, or end it, then run the "
        "command again."
    )


def find_holder(connection: sa.Connection) -> str:
    """Return a description of the session that holds the advisory lock, so that people can find it."""
    row = connection.execute(
        sa.text("""
            select l.pid, a.application_name
            from pg_catalog.pg_locks as l
            left join pg_catalog.pg_stat_activity as a on l.pid = a.pid
            where
              l.locktype = 'advisory' and l.granted and l.objsubid = 1
              and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
              and (l.classid::bigint << 32) + l.objid::bigint = :key
        """),
        {"key": ADVISORY_LOCK},
    ).first()
    if row is None:
        return "another session"
    return f"pid {row.pid} (application {row.application_name or 'unknown'})"
