"""How a migration gets its locks without anybody having to wait for it: the advisory lock, timeouts and retries.

A statement that waits for a lock on a table makes everybody who comes after it wait as well. So each one waits for a
moment only, and its revision is tried again a little later. Nothing is ever run untimed, in neither direction.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from momentum.errors import MigrationError
from momentum.wording import counted

# Lock timeouts and deadlocks: what another try can heal. https://www.postgresql.org/docs/current/errcodes-appendix.html
RETRIED = ("55P03", "40P01")

# A revision changes catalogs only; what takes longer is executed patiently, outside of its transaction.
STATEMENT_TIMEOUT = "1min"

# What a statement may take that reads a whole table, such as the preflight's.
READING_TIMEOUT = "15min"

# What ends a run that can't have its locks, unless it is told otherwise.
ATTEMPTS = 40
SECONDS = 300.0

FIRST_LOCK_TIMEOUT = 0.3
LONGEST_LOCK_TIMEOUT = 2.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

# The key of the advisory lock, the same in every release: two versions must not migrate a database at once either.
ADVISORY_LOCK = 7_266_308_621_054_313


@dataclass
class Patience:
    """How often and how long a run tries to get its locks.

    Attributes:
        attempts: How many lock timeouts and deadlocks end the run.
        seconds: After how many seconds no other attempt is made, and no statement waits any longer.
        failed: How many attempts have failed.
    """

    attempts: int = ATTEMPTS
    seconds: float = SECONDS
    failed: int = 0
    _started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Begin to count the seconds."""
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
    def lock_timeout(self) -> float:
        """The seconds that a statement of the next attempt may wait for a lock: a little longer each time."""
        return min(FIRST_LOCK_TIMEOUT * 1.3**self.failed, LONGEST_LOCK_TIMEOUT, self.remaining)

    def try_again(self) -> bool:
        """Count a failed attempt, and pause before the next one; false if there is to be none."""
        self.failed += 1
        return self.failed < self.attempts and self.pause(min(FIRST_PAUSE * 1.5**self.failed, LONGEST_PAUSE))

    def pause(self, seconds: float) -> bool:
        """Pause for about so long; false, and at once, if that would be past the deadline."""
        # The jitter keeps two who wait for each other from meeting again.
        seconds *= random.uniform(0.5, 1.0)  # noqa: S311
        if self.spent + seconds >= self.seconds:
            return False
        time.sleep(seconds)
        return True

    def run(
        self, connection: sa.Connection, action: Callable[[], None], *, statement_timeout: str | None = None
    ) -> None:
        """Do something in a transaction of its own, or several; again and again where it can't have its locks.

        Args:
            connection: What the action uses. Its timeouts are set, and stay so.
            action: What to do. It must bear being done again after a rollback.
            statement_timeout: What each statement may take; a minute if not given.

        Raises:
            sqlalchemy.exc.DBAPIError: Of the last attempt, or another error.
        """
        while True:
            set_all(
                connection,
                {
                    "lock_timeout": milliseconds(self.lock_timeout),
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


def milliseconds(seconds: float) -> str:
    """Return a time as Postgres reads it."""
    return f"{max(round(seconds * 1000), 1)}ms"


def can_be_retried(error: sa.exc.DBAPIError) -> bool:
    """Tell whether an error may be gone in another attempt.

    Raises:
        KeyboardInterrupt: The driver met the error when it cancelled the statement because of an interrupt, which must
            not be lost: the lock timeout often comes first.
    """
    cause: BaseException | None = error.orig
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise cause
        cause = cause.__context__
    return getattr(error.orig, "sqlstate", None) in RETRIED


@contextmanager
def only_migration(engine: sa.Engine, patience: Patience) -> Iterator[None]:
    """Hold the advisory lock that one migration of a database has at a time.

    It is polled on a connection of its own, in autocommit mode: whoever blocks in pg_advisory_lock holds a snapshot,
    for which the other one's CREATE INDEX CONCURRENTLY would wait, and no deadlock detector sees that.

    Raises:
        MigrationError: Somebody else has held it for as long as the patience goes.
    """
    # A pool of the same kind with the same way to connect: the engine's own may have no second connection to give.
    own = sa.Engine(engine.pool.recreate(), engine.dialect, engine.url)
    key = {"key": ADVISORY_LOCK}
    try:
        with own.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(
                sa.text("""
                    select
                      set_config('application_name', current_setting('application_name') || '-lock', false),
                      -- It does nothing as long as the migration runs.
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
            # Closing the connection would let go of it too, if the connection is lost by now for example.
            connection.execute(sa.text("select pg_advisory_unlock(:key)"), key)
    finally:
        own.dispose()


def find_holder(connection: sa.Connection) -> str:
    """Return who holds the advisory lock, for people to find."""
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
        return "somebody"
    return f"pid {row.pid} (application {row.application_name or 'unknown'})"
