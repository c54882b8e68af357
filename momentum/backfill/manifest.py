"""Files of user-days, one JSON object per line: the rows that a run inserted, and those that failed."""

import codecs
import datetime
import io
import itertools
import json
import re
import struct
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from momentum.backfill.pages import UserDay
from momentum.errors import ConfigurationError

# A user-day as bytes: the id and the number of the day.
PACKED = struct.Struct(">16sI")

# The most bytes of a line that are read: a file without line breaks is not a manifest.
LONGEST_LINE = 1 << 20

# The errors of a line that doesn't belong in a manifest.
NOT_A_LINE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

# The places where a line of a manifest begins.
BEFORE_LINE = re.compile(rb'(?<=.)(?=\{"user_id")', re.DOTALL)


def shape_of(line: bytes) -> bytes:
    """Return a line with 0 in place of each of its hexadecimal digits."""
    return re.sub(rb"[0-9a-f]", b"0", line)


def as_line(user_id: uuid.UUID, day: datetime.date, **more: str) -> dict[str, str]:
    """Return the object of a user-day."""
    return {"user_id": str(user_id), "day": day.isoformat(), **more}


# The shape of every line of a manifest.
SHAPE = shape_of(json.dumps(as_line(uuid.UUID(int=0), datetime.date.min)).encode())


@contextmanager
def append_lines(path: Path, option: str) -> Iterator[Callable[[Iterable[Mapping[str, str]]], None]]:
    """Yield a function that appends objects to a file, one per line, and returns once the system has them.

    The file is never overwritten, so that a run that is resumed with the same options loses nothing. The lines of a
    call go to the system at once, so that a process that is killed hardly ever leaves a partial line.

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
        try:
            while data:
                written = stream.write(data)
                # Another worker may still have lines to write after an error here.
                torn = not data[:written].endswith(b"\n")
                data = data[written:]
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


@dataclass(frozen=True)
class Manifest:
    """The user-days that a manifest lists, each once, in its order.

    Attributes:
        torn: The numbers of the lines that a run began and didn't finish.
        packed: The user-days, packed because there may be millions of them.
    """

    torn: Sequence[int]
    packed: Collection[bytes]

    def __iter__(self) -> Iterator[UserDay]:
        for user_id, day in map(PACKED.unpack, self.packed):
            yield UserDay(uuid.UUID(bytes=user_id), datetime.date.fromordinal(day))


def read_manifest(path: Path) -> Manifest:
    """Return the user-days of a manifest, which is read once, because it may be a pipe.

    Raises:
        ConfigurationError: The file cannot be read, or a line doesn't belong in a manifest.
    """
    packed: dict[bytes, None] = {}
    torn: list[int] = []
    try:
        with path.open("rb") as stream:
            for number in itertools.count(1):
                line = stream.readline(LONGEST_LINE)
                if not line:
                    break
                # An editor may have put a byte order mark before the first line.
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if len(line) == LONGEST_LINE:
                    raise ValueError
                try:
                    packed[parse_line(line)] = None
                except NOT_A_LINE:
                    # Two runs that append to one file may have joined a torn line and a whole one.
                    for piece in BEFORE_LINE.split(line):
                        if is_torn(piece):
                            torn.append(number)
                        else:
                            packed[parse_line(piece)] = None
    except OSError as error:
        raise ConfigurationError(f"--undo {path} cannot be read ({error.strerror}).") from error
    except NOT_A_LINE:
        raise ConfigurationError(
            f"Line {number} of --undo {path} is not one of a manifest; it reads "
            '{"user_id": "...", "day": "YYYY-MM-DD"}. Nothing was deleted.'
        ) from None
    return Manifest(tuple(dict.fromkeys(torn)), packed)


def parse_line(line: bytes) -> bytes:
    """Return the user-day of a line, packed; any of ``NOT_A_LINE`` is raised if it isn't one."""
    found = json.loads(line.decode())
    day = datetime.date.fromisoformat(found["day"])
    return PACKED.pack(uuid.UUID(found["user_id"]).bytes, day.toordinal())


def is_torn(line: bytes) -> bool:
    """Return whether a line was begun and not finished; a kill or a full disk cuts it, a power cut leaves zeros."""
    begun = line.rstrip(b"\r\n").strip(b"\0")
    if not begun:
        return b"\0" in line
    return len(begun) < len(SHAPE) and SHAPE.startswith(shape_of(begun))
