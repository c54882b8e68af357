"""A connection that notices that the network has gone silent, instead of waiting for an answer that can't come.

The kernel's keepalives notice it where nothing is in between. A proxy or a pooler answers them itself, whatever has
happened to the server behind it. So a connection that has waited for a while asks on a new one: is the server there,
and is it still working on the statement?
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from momentum.connect.settings import SILENCE, SILENT
from momentum.retries import LOST_CONNECTION

# Seconds that connecting again, and the answer on the new connection, may each take.
ANSWER = 5

# Seconds that the answer to a statement may need after the server has finished it.
ARRIVAL = 2

# Only a session that is idle, or gone, is not at work: some servers and databases record no state, and a role may not
# see that of another one.
AT_WORK = """
select pg_catalog.pg_backend_pid(), exists (
  select from pg_catalog.pg_stat_activity as a
  where
    a.pid operator(pg_catalog.=) %s::pg_catalog.int4
    and a.state operator(pg_catalog.~) '^idle' is not true
)
"""

# The login sees the state of its own sessions, whatever role its settings have given it.
AS_LOGIN = "select pg_catalog.set_config('role', 'none', true)"

Waiting = Generator[Any, Any, Any]


class WatchedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server neither answers nor works for it."""

    def wait(self, gen: Waiting, *arguments: Any, **options: Any) -> Any:
        """Wait for the end of an operation.

        Raises:
            psycopg.OperationalError: The network has gone silent.
        """
        return super().wait(self._watched(gen), *arguments, **options)

    def _watched(self, waiting: Waiting) -> Waiting:
        """Pass on what an operation waits for, and check on the server while nothing arrives."""
        look_at = time.monotonic() + SILENCE
        in_doubt = False
        try:
            state = next(waiting)
            while True:
                ready = yield state
                if ready:
                    look_at, in_doubt = time.monotonic() + SILENCE, False
                elif time.monotonic() >= look_at:
                    if in_doubt:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(SILENT)
                    in_doubt = not self._server_is_at_work()
                    look_at = time.monotonic() + (ARRIVAL if in_doubt else SILENCE)
                state = waiting.send(ready)
        except StopIteration as end:
            return end.value

    def _server_is_at_work(self) -> bool:
        """Return whether the server is there and, as far as that can be known, working for this connection."""
        # The server that it reached, whichever of several that was.
        server = make_conninfo(
            self.info.dsn,
            host=self.info.host,
            hostaddr=self.info.hostaddr,
            port=self.info.port,
            password=self.info.password,
            target_session_attrs="any",
            connect_timeout=ANSWER,
        )
        try:
            with Question.connect(server) as question:
                question.execute(AS_LOGIN)
                [(pid, is_at_work)] = question.execute(AT_WORK, [self.info.backend_pid])
                # A pooler in between doesn't say which session is used.
                return bool(is_at_work or pid != question.info.backend_pid)
        except (psycopg.errors.ConnectionTimeout, NoAnswerError):
            return False
        except psycopg.Error as error:
            if error.sqlstate is not None:
                return not error.sqlstate.startswith(LOST_CONNECTION)
            # A server that refuses a client is there, unless it is starting or shutting down. The driver has only its
            # message, in any language; this tells them apart by the SQLSTATE.
            return psycopg.pq.PGconn.ping(server.encode()) == psycopg.pq.Ping.OK


class NoAnswerError(psycopg.OperationalError):
    """A server that was asked has not answered in time."""


class Question(psycopg.Connection[Any]):
    """A connection that waits for an answer for a limited time."""

    def wait(self, gen: Waiting, *arguments: Any, **options: Any) -> Any:
        """Wait for the end of an operation.

        Raises:
            psycopg.OperationalError: It takes too long.
        """

        def limited() -> Waiting:
            until = time.monotonic() + ANSWER
            try:
                state = next(gen)
                while True:
                    ready = yield state
                    if not ready and time.monotonic() >= until:
                        self.pgconn.finish()
                        raise NoAnswerError
                    state = gen.send(ready)
            except StopIteration as end:
                return end.value

        return super().wait(limited(), *arguments, **options)
