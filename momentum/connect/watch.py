"""A connection that notices that the network has gone silent, instead of waiting for an answer that can't come.

The kernel's keepalives notice it where nothing is in between. A proxy or a pooler answers them itself, whatever has
happened to the server behind it. So a connection that has waited for a while asks on a new one: is the server there,
and is it still working on the statement?
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg

from momentum.connect.settings import SILENCE, SILENT
from momentum.retries import TOO_MANY_CONNECTIONS

# Seconds that connecting again, and the answer on the new connection, may each take.
ANSWER = 5

# Seconds that the answer to a statement may need after the server has finished it.
ARRIVAL = 2

AT_WORK = """
select pg_catalog.pg_backend_pid(), exists (
  select from pg_catalog.pg_stat_activity as a
  where a.pid operator(pg_catalog.=) %s::pg_catalog.int4 and a.state operator(pg_catalog.=) 'active'::pg_catalog.text
)
"""

Waiting = Generator[Any, Any, Any]


class WatchedConnection(psycopg.Connection[Any]):
    """A connection that is closed when the server neither answers nor works for it.

    Attributes:
        arguments: The arguments with which it was made.
    """

    arguments: dict[str, Any]

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
        try:
            with Question.connect(**{**self.arguments, "connect_timeout": ANSWER, "autocommit": True}) as question:
                [(pid, is_active)] = question.execute(AT_WORK, [self.info.backend_pid])
                # A pooler in between doesn't say which session is used.
                return bool(is_active or pid != question.info.backend_pid)
        except psycopg.Error as error:
            # A server that refuses another client is there.
            return error.sqlstate == TOO_MANY_CONNECTIONS or "too many" in str(error)


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
                        raise psycopg.OperationalError("no answer")
                    state = gen.send(ready)
            except StopIteration as end:
                return end.value

        return super().wait(limited(), *arguments, **options)
