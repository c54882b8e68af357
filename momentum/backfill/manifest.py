"""Files of user-days, a JSON object a line: what a run inserted, and what failed."""

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
    """Yield a function that appends objects to a file, a line each, and returns when the system has them.

    Appended to and not written anew, so that a run that is resumed with the same options loses nothing. The lines of a
    call go to the system at once, so that a process that is killed leaves no part of one.

    Args:
        path: The file; made where there is none.
        option: What the command calls it, for the error.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        stream = path.open("ab", buffering=0)
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written ({error.strerror}).") from None
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
        # What could not be written has been said above.
        with suppress(OSError):
            stream.close()


def ends_within_a_line(path: Path) -> bool:
    """Tell whether the last line of a file has no end, as where the disk was full: what follows needs a line anew."""
    try:
        with path.open("rb") as stream:
            return stream.seek(0, io.SEEK_END) > 0 and stream.seek(-1, io.SEEK_END) >= 0 and stream.read(1) != b"\n"
    except OSError:
        return False  # A pipe or a device has no end.


def check_writable(path: Path, option: str) -> None:
    """Refuse a file that could not be written at the end of a run; it is not changed.

    Raises:
        ConfigurationError: It could not.
    """
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written ({error.strerror}).") from None


def as_line(user_id: uuid.UUID, day: datetime.date, **more: str) -> dict[str, str]:
    """Return the object of a user-day."""
    return {"user_id": str(user_id), "day": day.isoformat(), **more}


def read_manifest(path: Path) -> Iterator[UserDay]:
    """Yield the user-days of a manifest.

    Raises:
        ConfigurationError: It cannot be read, or a line is not one of a manifest.
    """
    number = 0
    try:
        # What is no UTF-8 is no JSON either, and is told by its line like everything else.
        with path.open(encoding="utf-8", errors="surrogateescape") as stream:
            for line in stream:
                number += 1
                found = json.loads(line)
                yield UserDay(uuid.UUID(found["user_id"]), datetime.date.fromisoformat(found["day"]))
    except OSError as error:
        raise ConfigurationError(f"--undo {path} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(
            f"Line {number} of --undo {path} is not one of a manifest; it reads "
            '{"user_id": "...", "day": "YYYY-MM-DD"}. Nothing was deleted.'
        ) from None
