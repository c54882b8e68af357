"""Standard streams that never fail, even if closed, no longer read by anybody, or on a full disk.

A result that can't be shown must not cost the work or end it halfway; the exit code and a sentence say so afterwards.
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Stream:
    """A stream whose first failure is remembered, and after which everything that is written to it is discarded."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream itself."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        try:
            # The name of a file may hold bytes that aren't text, and a terminal may know few characters.
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Write what has been held back."""
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Discard what is held back and what follows: the interpreter flushes the stream once more when it ends."""
        self.failure = self.failure or error
        with suppress(OSError, ValueError):
            discard(self._stream.fileno())
            self._stream.flush()


def discard(descriptor: int) -> None:
    """Redirect a file descriptor to the null device."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def guarded_streams() -> Iterator[Stream]:
    """Make standard output and standard error streams that never fail, and yield standard output."""
    before = sys.stdout, sys.stderr
    output = guard()
    try:
        yield output
    finally:
        output.flush()
        sys.stdout, sys.stderr = before


def guard_program() -> Stream:
    """Make the standard streams never fail until the program ends, and return standard output."""
    output = guard()
    # Before the interpreter does it, which would complain.
    atexit.register(output.flush)
    return output


def guard() -> Stream:
    """Make standard output and standard error streams that never fail, and return standard output.

    A descriptor that is closed is redirected to the null device: otherwise the next file or connection that is opened
    would get its number, and with it everything that is printed.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            discard(descriptor)
        stream = getattr(sys, name)
        if name == "stdin" or isinstance(stream, Stream):
            continue
        if stream is None:
            stream = os.fdopen(descriptor, "w", encoding="utf-8", closefd=False)
        setattr(sys, name, Stream(stream))
    assert isinstance(sys.stdout, Stream)
    return sys.stdout


def complain(message: str, exit_code: int) -> int:
    """Print an error and return its exit code."""
    print(f"Error: {message}", file=sys.stderr)
    return exit_code


def settle(output: Stream, exit_code: int, complain: Callable[[str, int], int]) -> int:
    """Return the exit code of a program whose result is written.

    A reader that has gone away has seen what it wanted, and gets the exit code as if it had read everything.

    Args:
        output: Standard output.
        exit_code: The exit code of the work.
        complain: Prints an error and returns its exit code.
    """
    output.flush()
    if output.failure is None or isinstance(output.failure, BrokenPipeError):
        return exit_code
    said = f"Standard output cannot be written ({output.failure.strerror}), so the result is not complete there."
    return complain(said, exit_code or 1)
