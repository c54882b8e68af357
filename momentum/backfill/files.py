"""The files that a run replaces: no old one is lost before the run has ended, and none costs the run its report."""

import csv
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from momentum.errors import ConfigurationError

if TYPE_CHECKING:
    from momentum.backfill.discrepancies import Discrepancy


def check_distinct(paths: Mapping[str, Path], *, prints: bool) -> None:
    """Refuse two options that name the same file, and one that names a file to which the command itself prints.

    Args:
        paths: The files by option.
        prints: Whether the command prints a result on standard output.

    Raises:
        ConfigurationError: Two of them are the same file, however it is written.
    """
    # Anything that is written there is gone anyway.
    seen: dict[object, str] = {identity_of(Path(os.devnull)): ""}
    for name, stream in (("standard output", sys.stdout if prints else None), ("standard error", sys.stderr)):
        # A program, or a test, may have put something there that is not a file.
        with suppress(AttributeError, OSError, ValueError):
            found = os.fstat(stream.fileno())  # type: ignore[union-attr]
            # In a pipe or on a terminal, lines of both follow each other; in a file, they would overwrite each other.
            if name == "standard output" or stat.S_ISREG(found.st_mode):
                seen.setdefault((found.st_dev, found.st_ino), name)
    for option, path in paths.items():
        other = seen.setdefault(identity_of(path), f"{option} {path}")
        if other and other != f"{option} {path}":
            raise ConfigurationError(f"{option} {path} is the same file as {other}; give each its own.")


def identity_of(path: Path) -> object:
    """Return a value that is equal for two paths that lead to the same file, or would if it existed."""
    try:
        found = path.stat()
        return found.st_dev, found.st_ino
    except OSError:
        target = Path(os.path.realpath(path))
    with suppress(OSError):
        folder = target.parent.stat()
        return folder.st_dev, folder.st_ino, target.name
    return target


def check_writable(path: Path, option: str) -> None:
    """Refuse a file that could not be written at the end of a run, without changing or making it.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    try:
        try:
            is_fifo = stat.S_ISFIFO(path.stat().st_mode)
        except FileNotFoundError:
            with tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent):
                return
        if not is_fifo:
            with path.open("ab"):
                pass
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written ({error.strerror}).") from error


class Replacement:
    """A text file that takes the place of another one once it is whole; until then, that one stays as it is.

    A device or a pipe, and a file in a folder in which no other one can be made, are written directly.

    Args:
        path: The file that is replaced, if it exists; if it is a link, the file to which that leads.
        rights: The rights of the file if it is a new one. By default those of any new file.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, rights: int | None = None) -> None:
        self._path = path
        self._beside: Path | None = None
        # A file name in the resume command may hold bytes that aren't text; they must not cost the page.
        how = {"mode": "w", "encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
        if path.is_file() or not path.exists():
            target = Path(os.path.realpath(path))
            with suppress(OSError):
                descriptor, name = tempfile.mkstemp(prefix=".momentum-", dir=target.parent)
                give_rights(descriptor, target, rights)
                self._beside, self._path = Path(name), target
                self.stream: TextIO = open(descriptor, **how)  # type: ignore[call-overload]  # noqa: PTH123, SIM115
                return
        self.stream = path.open(**how)  # type: ignore[call-overload]

    def keep(self) -> None:
        """Put the file in its place.

        Raises:
            OSError: The file cannot be written.
        """
        with self.stream:
            self.stream.flush()
            if self._beside is not None:
                os.fsync(self.stream.fileno())
        if self._beside is not None:
            try:
                self._beside.replace(self._path)
            except OSError:
                # For example, because the file itself is a mount.
                shutil.copyfile(self._beside, self._path)

    def discard(self) -> None:
        """Close it, and remove what was not kept."""
        with suppress(OSError):
            self.stream.close()
        if self._beside is not None:
            self._beside.unlink(missing_ok=True)


def give_rights(descriptor: int, target: Path, rights: int | None) -> None:
    """Give a new file the owner and the rights of the one that it replaces, or else certain rights.

    Args:
        descriptor: The new file.
        target: The file that it replaces, if there is one.
        rights: The rights otherwise; None for those of any new file.
    """
    try:
        found = target.stat()
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(descriptor, 0o666 & ~mask if rights is None else rights)
        return
    # Not every user may do this, nor can every file system.
    with suppress(OSError):
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
        os.fchown(descriptor, found.st_uid, found.st_gid)


@contextmanager
def replacing(path: Path, rights: int | None = None) -> Iterator[TextIO]:
    """Yield a text file that replaces another one if nothing goes wrong.

    Args:
        path: The file that is replaced, if it exists.
        rights: The rights of the file if it is a new one. By default those of any new file.

    Raises:
        OSError: The file cannot be written.
    """
    replacement = Replacement(path, rights)
    try:
        yield replacement.stream
        replacement.keep()
    finally:
        replacement.discard()


class Review:
    """The CSV file of discrepancies, created with the first of them, because the database has answered by then.

    Args:
        path: The file.

    Attributes:
        error: The error that it met, after which nothing more is written.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._path = path
        self._file: Replacement | None = None

    def add(self, found: "Discrepancy") -> None:
        """Write a discrepancy."""
        self._write([found.user_id, found.day, found.score, found.breakdown_score, found.difference])

    def keep(self) -> None:
        """Put the file in its place, with all discrepancies of the run."""
        self._write()
        try:
            if self._file is not None and self.error is None:
                self._file.keep()
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Remove what was not kept."""
        if self._file is not None:
            self._file.discard()

    def _write(self, *rows: list[object]) -> None:
        """Write rows, after the names of the columns."""
        if self.error is not None:
            return
        try:
            if self._file is None:
                self._file = Replacement(self._path)
                rows = (["user_id", "day", "score", "breakdown_score", "difference"], *rows)
            csv.writer(self._file.stream).writerows(rows)
        except OSError as error:
            self.error = error
