"""Statements that go to the server together, so that a distant one is waited for once, and not once for each.

On a connection in pipeline mode ``ask`` only notes a statement. The first answer that is looked at sends all of them
as one message, and waits until it is there; ``send`` sends them and doesn't wait. On any other connection ``ask``
executes a statement as usual, so the code that asks is the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Generic, Self, TypeVar

import psycopg
from psycopg.generators import fetch_many
from psycopg.generators import send as send_all
from psycopg.pq import ExecStatus, Format
from psycopg.rows import namedtuple_row, tuple_row
from sqlalchemy import Connection, Executable

from momentum.connect.watch import WatchedConnection

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)
Other = TypeVar("Other")

# Rows have their columns as attributes as well, where each has a name of its own.
Rows = Sequence[Any]


def named_row(cursor: "psycopg.Cursor[Any]") -> Any:
    """Make rows as SQLAlchemy's are: tuples whose columns are attributes, unless two have the same name."""
    result = cursor.pgresult
    names = [result.fname(number) for number in range(result.nfields)] if result else []
    return (namedtuple_row if len(set(names)) == len(names) else tuple_row)(cursor)


class PipelinedCursor(psycopg.Cursor[Any]):
    """A cursor whose statement may still be on its way.

    A deferred one tells SQLAlchemy, which looks at each statement at once, that there are no rows, and stays open.

    Attributes:
        error: Why the server has not executed the statement.
    """

    def __init__(self, connection: "PipelinedConnection", **options: Any) -> None:
        super().__init__(connection, **options)
        self._own = connection
        self.error: psycopg.Error | None = None
        self.is_deferred = connection.is_deferring
        if self.is_deferred:
            connection.is_deferring, connection.latest = False, self
            self.row_factory = named_row
        if connection.is_pipelined:
            # The server reports its DateStyle at the end of a go, too late for dates as text.
            self.format = Format.BINARY

    def execute(self, *arguments: Any, **options: Any) -> Self:
        """Execute a statement, or note it if it is deferred."""
        with self._own.noting():
            super().execute(*arguments, **options)
        if self._own.is_pipelined and not self.is_deferred:
            self._own.wait_for(self)
        return self

    @property
    def is_open(self) -> bool:
        """Whether the statement was noted, and its answer is not there yet."""
        return self.pgresult is None and self.error is None

    @property
    def description(self) -> Any:
        """The columns; none if it is deferred."""
        return None if self.is_deferred else super().description

    def close(self) -> None:
        """Close it, unless its rows are still to be read."""
        if not self.is_deferred:
            super().close()


class PipelinedConnection(WatchedConnection):
    """A connection that can be put into pipeline mode.

    Attributes:
        is_deferring: Whether the next statement only is noted.
        latest: The cursor of the latest of these statements.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = PipelinedCursor
        self.is_deferring = False
        self.latest: PipelinedCursor | None = None
        self._mode = ExitStack()
        self._pipe: psycopg.Pipeline | None = None
        self._is_noting = False
        # The first error of the message whose answers are arriving.
        self._failure: psycopg.Error | None = None

    @property
    def is_pipelined(self) -> bool:
        """Whether it is in pipeline mode."""
        return self._pipe is not None

    @property
    def has_noted(self) -> bool:
        """Whether there is something to be sent."""
        return self._pipe is not None and bool(self._pipe.command_queue)

    def enter_pipeline(self) -> None:
        """Enter pipeline mode; nothing is sent."""
        if self._pipe is None:
            self._pipe = pipe = self._mode.enter_context(self.pipeline())
            communicate = pipe._communicate_gen

            def communicate_unless_noting() -> Any:
                if not self._is_noting:
                    yield from communicate()

            # The driver would send each statement by itself. If it were stopped after one, the server would wait for
            # more, with its locks and without the limit for an idle transaction, which begins with the end of a go.
            pipe._communicate_gen = communicate_unless_noting  # type: ignore[method-assign]

    def leave_pipeline(self) -> None:
        """Leave pipeline mode, after waiting for what was sent."""
        self._pipe = None
        self._mode.close()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Keep the driver from sending and receiving by itself; outside of pipeline mode it does as usual."""
        self._is_noting = True
        try:
            yield
        finally:
            self._is_noting = False

    def close(self) -> None:
        """Close it; what was sent and not answered is given up."""
        super().close()
        with suppress(psycopg.Error):
            self.leave_pipeline()

    def flush(self) -> None:
        """Have the server send the answers so far before it goes on with the same message."""
        if self._pipe is not None:
            self._pipe.command_queue.append(self.pgconn.send_flush_request)

    def send(self) -> None:
        """Send what was noted as one message, and don't wait for its answers.

        Raises:
            psycopg.Error: The connection was lost.
        """
        if self._pipe is not None and self.has_noted:
            self._pipe._enqueue_sync()
            while self._pipe.command_queue:
                self._pipe.command_queue.popleft()()
            self.wait(send_all(self.pgconn))

    def wait_for(self, cursor: PipelinedCursor) -> None:
        """Wait until a statement has been answered; what was noted is sent.

        Raises:
            psycopg.Error: The server refused it, or a statement before it in the same message; or the connection was
                lost.
        """
        if cursor.is_open:
            self.send()
        while cursor.is_open and self._pipe is not None:
            self._receive()
        if cursor.is_open:
            raise psycopg.OperationalError("the connection was lost before the answer was there")
        if cursor.error is not None:
            raise cursor.error

    def wait_for_answers(self) -> None:
        """Wait until all that was noted or sent has been answered, with an error or without.

        Raises:
            psycopg.Error: The connection was lost.
        """
        self.send()
        while self._pipe is not None and self._pipe.result_queue:
            self._receive()

    def _receive(self) -> None:
        """Receive the next answer, and keep it or the error with its statement."""
        assert self._pipe is not None
        results = self.wait(fetch_many(self.pgconn))
        queued = self._pipe.result_queue.popleft()
        try:
            self._pipe._process_results(queued, results)
        except psycopg.Error as error:
            # Those that follow only say that they were not executed.
            self._failure = self._failure or error
            if queued is not None and isinstance(queued[0], PipelinedCursor):
                queued[0].error = self._failure
        if any(result.status == ExecStatus.PIPELINE_SYNC for result in results):
            self._failure = None


class Answer(Generic[Value_co]):
    """What a statement returns, or what is made of that; it may still be on its way."""

    def __init__(self, look: Callable[[], Value_co], has_arrived: Callable[[], bool] = lambda: True) -> None:
        self._look = look
        self._has_arrived = has_arrived
        # Not a cached property, of which one at a time is computed before Python 3.12.
        self._seen: list[Value_co] = []

    @property
    def value(self) -> Value_co:
        """The value; waited for if need be.

        Raises:
            sqlalchemy.exc.DBAPIError: The server refused this statement or one that was sent with it, or the connection
                was lost.
        """
        if not self._seen:
            self._seen.append(self._look())
        return self._seen[0]

    @property
    def has_arrived(self) -> bool:
        """Whether the server is known to have executed the statement without an error."""
        return self._has_arrived()

    def then(self, make: Callable[[Value_co], Other]) -> "Answer[Other]":
        """Return what is made of the value, once that is looked at."""
        return Answer(lambda: make(self.value), self._has_arrived)


def ready(value: Value) -> Answer[Value]:
    """Return an answer that is here."""
    return Answer(lambda: value)


def ask(connection: Connection, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Answer[Rows]:
    """Send a statement and return its rows, which may be looked at later.

    Args:
        connection: A connection, in pipeline mode or not.
        statement: The statement.
        parameters: Its parameters.

    Raises:
        sqlalchemy.exc.DBAPIError: The server refused this statement or an earlier one, or the connection was lost.
    """
    driver = pipelined(connection)
    if driver is None:
        result = connection.execute(statement, parameters)
        rows: Rows = result.all() if result.returns_rows else []
        return ready(rows)
    driver.is_deferring = True
    try:
        connection.execute(statement, parameters)
    finally:
        driver.is_deferring = False
    cursor = driver.latest
    assert cursor is not None

    def look() -> Rows:
        try:
            driver.wait_for(cursor)
            return cursor.fetchall() if cursor.pgresult is not None and cursor.pgresult.nfields else []
        except psycopg.Error as error:
            # As if SQLAlchemy itself had met it, so that those who listen to its errors hear of it.
            connection._handle_dbapi_exception(error, None, None, None, None)

    return Answer(look, lambda: cursor.pgresult is not None)


def gather(answers: Sequence[Answer[Value]]) -> Answer[list[Value]]:
    """Return several answers as one."""
    return Answer(lambda: [answer.value for answer in answers], lambda: all(answer.has_arrived for answer in answers))


def flush(connection: Connection) -> None:
    """Have the server send the answers so far before it goes on; a connection that isn't in pipeline mode has them."""
    if driver := pipelined(connection):
        driver.flush()


def send(connection: Connection) -> None:
    """Send what was asked, without waiting for the answers.

    Raises:
        sqlalchemy.exc.DBAPIError: The connection was lost.
    """
    if driver := pipelined(connection):
        try:
            driver.send()
        except psycopg.Error as error:
            connection._handle_dbapi_exception(error, None, None, None, None)


def pipelined(connection: Connection) -> PipelinedConnection | None:
    """Return the driver's connection if it is there, and in pipeline mode."""
    if connection.closed or connection.invalidated:
        return None
    driver = connection.connection.driver_connection
    return driver if isinstance(driver, PipelinedConnection) and driver.is_pipelined else None


def enter_pipeline(connection: Connection) -> None:
    """Put a connection into pipeline mode if it is one of ours, and the driver's library knows that mode."""
    driver = connection.connection.driver_connection
    if isinstance(driver, PipelinedConnection) and psycopg.Pipeline.is_supported():
        driver.enter_pipeline()


def leave_pipeline(connection: Connection) -> None:
    """Leave pipeline mode, so that the connection may be used by somebody else."""
    if driver := pipelined(connection):
        with suppress(psycopg.Error):
            driver.leave_pipeline()
