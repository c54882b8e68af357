"""The signals that a server gives for nothing or nearly, and the rests and pauses of a gentle run that follow."""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from momentum.backfill.faults import classify
from momentum.backfill.gentle import LOOK_EVERY, Gait, Memory, Obstacle, Reading, find_obstacle, judge_load
from momentum.backfill.session import Session
from momentum.backfill.settings import Settings
from momentum.connect.engine import reason
from momentum.connect.pipeline import Answer, ask
from momentum.retries import Fault

logger = logging.getLogger("momentum.backfill")

# The end of what is on disk, as a number of bytes.
FLUSHED = "pg_catalog.pg_current_wal_flush_lsn()"


class Signal(NamedTuple):
    """A signal of the server.

    Attributes:
        name: Its name.
        query: The query that returns it; null if it can't be read.
        why: Why it is null then.
    """

    name: str
    query: str
    why: str = ""


# Sessions and replicas of others show only to members of pg_read_all_stats, which pg_monitor is one of.
NO_RIGHT = "grant pg_monitor to this role"

# The signals, by their columns.
SIGNALS = {
    "flushed": Signal("how much is written", f"select pg_catalog.pg_wal_lsn_diff({FLUSHED}, '0/0')::pg_catalog.int8"),
    # Only physical replicas: others confirm what they have received when it suits them.
    "replayed": Signal(
        "how far replicas are behind",
        """
        select
          case when pg_catalog.count(*) = 0 or pg_catalog.bool_or(r.state is not null) then
            coalesce(
              pg_catalog.jsonb_object_agg(r.application_name, r.position) filter (where r.position is not null), '{}'
            )
          end
        from (
          select w.application_name, pg_catalog.min(w.state) as state,
            pg_catalog.min(pg_catalog.pg_wal_lsn_diff(w.replay_lsn, '0/0'))::pg_catalog.int8 as position
          from pg_catalog.pg_stat_replication as w
          where not exists (
            select from pg_catalog.pg_replication_slots as s where s.active_pid = w.pid and s.slot_type = 'logical'
          )
          group by w.application_name
        ) as r
        """,
        NO_RIGHT,
    ),
    "kept": Signal(
        "what replication slots keep",
        """
        select coalesce(
          pg_catalog.jsonb_object_agg(
            s.slot_name, pg_catalog.pg_wal_lsn_diff(s.restart_lsn, '0/0')::pg_catalog.int8
          ) filter (where s.restart_lsn is not null),
          '{}'
        )
        from pg_catalog.pg_replication_slots as s
        """,
    ),
    # The name of a file has, in hexadecimal, the timeline, the upper half of a position, and the file's number in it.
    "unarchived": Signal(
        "what waits to be archived",
        f"""
        select case when pg_catalog.current_setting('archive_mode') = 'off' then 0 else (
          select pg_catalog.pg_wal_lsn_diff({FLUSHED}, '0/0')::pg_catalog.int8
            - (('x' || pg_catalog.substr(a.last_archived_wal, 9, 8))::pg_catalog.bit(32)::pg_catalog.int8 << 32)
            - (('x' || pg_catalog.substr(a.last_archived_wal, 17, 8))::pg_catalog.bit(32)::pg_catalog.int8 + 2)
            * pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))
          from pg_catalog.pg_stat_archiver as a
          where a.last_archived_wal ~ '^[0-9A-F]{{24}}'
        ) end
        """,
        "nothing has been archived yet",
    ),
    "sessions": Signal(
        "who has to wait",
        """
        select case when pg_catalog.pg_has_role('pg_read_all_stats', 'usage') then pg_catalog.jsonb_build_array(
          pg_catalog.count(*),
          pg_catalog.count(*) filter (where a.wait_event_type = 'Lock'),
          pg_catalog.count(*) filter (
            where pg_catalog.lower(a.wait_event) in ('walwrite', 'walinsert', 'walsync', 'syncrep')
          )
        ) end
        from pg_catalog.pg_stat_activity as a
        where a.state = 'active' and a.backend_type = 'client backend'
          and a.application_name <> pg_catalog.current_setting('application_name')
        """,
        NO_RIGHT,
    ),
}


class Signals:
    """Reads the signals of a server, as far as it gives them."""

    def __init__(self) -> None:
        self._readable = dict(SIGNALS)

    def read(self, session: Session) -> Reading:
        """Return the signals, and say once which of them can't be read.

        Raises:
            sqlalchemy.exc.DBAPIError: The connection was lost.
        """
        try:
            values = session.read(lambda connection: self._ask(connection, list(self._readable)))
        except DBAPIError as error:
            if classify(error) is Fault.LOST:
                raise
            values = {}
            for name in list(self._readable):
                values |= self._read_alone(session, name)
        for name in [name for name, value in values.items() if value is None]:
            self._give_up(name, SIGNALS[name].why)
        others, for_locks, for_wal = values.pop("sessions", None) or (None, None, None)
        return Reading(time.monotonic(), active=others, waiting_for_locks=for_locks, waiting_for_wal=for_wal, **values)

    def _read_alone(self, session: Session, name: str) -> dict[str, Any]:
        """Return a signal, or nothing if it can't be read."""
        try:
            return session.read(lambda connection: self._ask(connection, [name]))
        except DBAPIError as error:
            if classify(error) is Fault.LOST:
                raise
            self._give_up(name, reason(error, session.url))
            return {}

    def _give_up(self, name: str, why: str) -> None:
        """Read a signal no more."""
        if self._readable.pop(name, None):  # unless another worker has
            logger.info("a gentle run can't see %s here: %s", SIGNALS[name].name, why)

    @staticmethod
    def _ask(connection: Connection, names: list[str]) -> Answer[dict[str, Any]]:
        """Return some signals with one statement."""
        columns = ", ".join(f"({SIGNALS[name].query}) as {name}" for name in names)
        return ask(connection, text(f"select {columns or 'null'}")).then(
            lambda rows: dict(zip(names, rows[0], strict=False))
        )


class Throttle:
    """How fast a worker goes: as the settings say or, in a gentle run, as the server's other clients allow.

    Args:
        session: The worker's session, which has no open transaction when it rests.
        settings: The settings of the run.
        signals: The signals of the server, if the run is gentle.
        sleep: Sleeps, but not longer than the run goes on.
        is_over: Returns whether the run is to end.
        on_pause: Called with the signal for which it paused, and the seconds.

    Attributes:
        rows: The most rows of the next transaction.
    """

    def __init__(
        self,
        session: Session,
        settings: Settings,
        signals: Signals | None,
        sleep: Callable[[float], None],
        is_over: Callable[[], bool],
        on_pause: Callable[[str, float], None] = lambda *_: None,
    ) -> None:
        self.rows = settings.commit_every
        self._session = session
        self._pause = settings.pause
        self._sleep = sleep
        self._is_over = is_over
        self._on_pause = on_pause
        self._signals = signals
        self._memory = Memory()
        self._gait = Gait.at_first(settings.commit_every)
        if signals is not None:
            self.rows = self._gait.rows
        self._since = time.monotonic()

    def rest(self, rows: int = 0) -> None:
        """Rest after a transaction, outside of one.

        Args:
            rows: How many rows it has inserted.
        """
        if self._signals is None:
            self._sleep(self._pause)
            return
        worked = time.monotonic() - self._since
        is_slow = rows > 0 and self._memory.is_slow(rows, worked)
        reading = self._wait_for_others(self._signals)
        self._gait = self._gait.after(judge_load(reading, is_slow=is_slow))
        self.rows = self._gait.rows
        self._sleep(max(self._pause, self._since + worked * (1 + self._gait.rest) - time.monotonic()))
        self._since = time.monotonic()

    def rest_after_reading(self) -> None:
        """Rest after a statement that only reads; one at full speed doesn't."""
        if self._signals is not None:
            self.rest()

    def _wait_for_others(self, signals: Signals) -> Reading:
        """Return the signals once nobody is too far behind, or the run is over."""
        paused: Obstacle | None = None
        while True:
            reading = signals.read(self._session)
            self._memory.add(reading)
            obstacle = find_obstacle(reading, self._memory, paused=paused is not None)
            if obstacle is None or self._is_over():
                break
            if paused is None or paused[:2] != obstacle[:2]:
                logger.info("pausing: %s", obstacle.detail)
            paused = obstacle
            started = time.monotonic()
            self._sleep(LOOK_EVERY)
            self._on_pause(obstacle.kind, time.monotonic() - started)
        if paused is not None and obstacle is None:
            logger.info("going on")
        return reading
