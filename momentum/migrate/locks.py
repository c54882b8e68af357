"""The advisory lock, timeouts and retries with which a migration takes its locks without blocking clients.

A statement that waits for a lock on a table blocks every statement that queues behind it. So each one waits only for a
moment, and its revision is tried again a little later. No statement ever runs without a time limit, up or down.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from momentum.errors import MigrationError
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

# The key of the advisory lock, the same in every release, so that two releases can't migrate a database at once.
ADVISORY_LOCK = 7_266_308_621_054_313


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
    """

    attempts: int = ATTEMPTS
    seconds: float = SECONDS
    failed: int = 0
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

    def run(
        self, connection: sa.Connection, action: Callable[[], None], *, statement_timeout: str | None = None
    ) -> None:
        """Run an action in one or more transactions of its own, and repeat it while it can't get its locks.

        Args:
            connection: The connection that the action uses. Its timeouts are changed and not restored.
            action: The function that does the work. It must be safe to repeat after a rollback.
            statement_timeout: The time limit of each statement; a minute by default.

        Raises:
            sqlalchemy.exc.DBAPIError: The last attempt failed, or another attempt would not help.
        """
        while True:
            set_all(
                connection,
                {
                    "lock_timeout": milliseconds(lock_timeout(self.failed, self.remaining)),
                    "statement_timeout": statement_timeout or STATEMENT_TIMEOUT,
                },
            )
            try:
                action()
            except sa.exc.DBAPIError as error:
                if connection.invalidated or not can_be_retried(error):
                    raise
                connection.rollback()
                if not self.try_again():
                    raise
            else:
                connection.commit()
                return


def set_all(connection: sa.Connection, values: Mapping[str, str]) -> None:
    """Change settings of the session."""
    connection.execute(sa.select(*(sa.func.set_config(name, value, False) for name, value in values.items())))
    connection.commit()


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
def only_migration(engine: sa.Engine, patience: Patience) -> Iterator[None]:
    """Hold the advisory lock that lets only one migration of a database run at a time.

    It is polled on a connection of its own, in autocommit mode: a session that blocks in pg_advisory_lock holds a
    snapshot that the other migration's CREATE INDEX CONCURRENTLY would wait for, and no deadlock detector sees that.

    Raises:
        MigrationError: Another migration still held it at the deadline.
    """
    # A new pool that connects in the same way, because the engine's own may have no second connection available.
    own = sa.Engine(engine.pool.recreate(), engine.dialect, engine.url)
    key = {"key": ADVISORY_LOCK}
    try:
        with own.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(
                sa.text("""
                    select
                      set_config('application_name', current_setting('application_name') || '-lock', false),
                      -- The session is idle as long as the migration runs.
                      set_config('idle_session_timeout', '0', false)
                """)
            )
            while not connection.scalar(sa.text("select pg_try_advisory_lock(:key)"), key):
                if patience.spent >= patience.seconds:
                    waited = counted(round(patience.seconds), "second")
                    raise MigrationError(
                        f"Another migration is running: {find_holder(connection)} has held the lock for {waited}; let "
                        "it finish, or end it, then run the command again."
                    )
                time.sleep(min(random.uniform(0.05, 0.2), patience.remaining))  # noqa: S311
            yield
            # If this is skipped because of an error, closing the connection releases the lock.
            connection.execute(sa.text("select pg_advisory_unlock(:key)"), key)
    finally:
        own.dispose()


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
