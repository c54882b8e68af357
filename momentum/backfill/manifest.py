"""Files of user-days, one JSON object per line: the rows that a run inserted, and those that failed."""

import datetime
import io
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from momentum.backfill.pages import UserDay
from momentum.errors import ConfigurationError


@contextmanager
def append_lines(path: Path, option: str) -> Iterator[Callable[[Iterable[Mapping[str, str]]], None]]:
    """Yield a function that appends objects to a file, one per line, and returns once the system has them.

    The file is never overwritten, so that a run that is resumed with the same options loses nothing. The lines of a
    call go to the system at once, so that a process that is killed leaves no partial line.

    Args:
        path: The file; created if it doesn't exist.
        option: The command's option for it, for the error.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        stream = path.open("ab", buffering=0)
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written ({error.strerror}).") from error
    torn = ends_within_a_line(path)

    def write(objects: Iterable[Mapping[str, str]]) -> None:
        nonlocal torn
        data = ("\n" * torn + "".join(f"{json.dumps(one)}\n" for one in objects)).encode()
        torn = False
        try:
            while data:
                data = data[stream.write(data) :]
        except OSError as error:
            raise ConfigurationError(
                f"{option} {path} could not be written ({error.strerror}), so the run was stopped; its last lines may "
                "be missing."
            ) from None

    try:
        yield write
    finally:
        # An error of the last write has been raised above.
        with suppress(OSError):
            stream.close()


def ends_within_a_line(path: Path) -> bool:
    """Return whether the last line of a file is incomplete, as after a full disk, so that a new line must be begun."""
    try:
        with path.open("rb") as stream:
            return stream.seek(0, io.SEEK_END) > 0 and stream.seek(-1, io.SEEK_END) >= 0 and stream.read(1) != b"\n"
    except OSError:
        return False  # A pipe or a device has no end.


def check_writable(path: Path, option: str) -> None:
    """Refuse a file that could not be written at the end of a run, without changing it.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written ({error.strerror}).") from error


def as_line(user_id: uuid.UUID, day: datetime.date, **more: str) -> dict[str, str]:
    """Return the object of a user-day."""
    return {"user_id": str(user_id), "day": day.isoformat(), **more}


def read_manifest(path: Path) -> Iterator[UserDay]:
    """Yield the user-days of a manifest.

    Raises:
        ConfigurationError: The file cannot be read, or a line doesn't belong in a manifest.
    """
    number = 0
    try:
        # Bytes that are not UTF-8 are not JSON either; the error names the line, as for everything else.
        with path.open(encoding="utf-8", errors="surrogateescape") as stream:
            for line in stream:
                number += 1
                found = json.loads(line)
                yield UserDay(uuid.UUID(found["user_id"]), datetime.date.fromisoformat(found["day"]))
    except OSError as error:
        raise ConfigurationError(f"--undo {path} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(
            f"Line {number} of --undo {path} is not one of a manifest; it reads "
            '{"user_id": "...", "day": "YYYY-MM-DD"}. Nothing was deleted.'
        ) from None
