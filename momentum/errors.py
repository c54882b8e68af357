"""The errors of this package, as types that a program can catch.

Each message is one sentence that says what is wrong, where, and what to do; it never contains a password. ``exit_code``
is the exit code of a command that fails with the error.
"""

from momentum.wording import printable


class MomentumError(Exception):
    """Base of every error that this package raises deliberately. Its message is printable, on one line."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigurationError(MomentumError):
    """An option, an environment variable or the env file is missing or wrong."""

    exit_code = 2


class DatabaseUnreachableError(MomentumError):
    """The server refuses, does not answer or is a standby, or the connection was lost."""

    exit_code = 3


class NotMigratedError(MomentumError):
    """The database lacks what a migration would have made."""

    exit_code = 3


class PreflightError(MomentumError):
    """The migrations can't run on this database; nothing has been changed."""


class MigrationError(MomentumError):
    """A revision failed; its transaction was rolled back, and the revisions before it are done."""


class RevisionError(MomentumError):
    """A change to the models can't be written as a revision that loses nothing; no file has been written."""


class VerificationError(MomentumError):
    """A migrated database differs from what its revision makes; nothing is rolled back."""


class AmbiguousTimeError(MomentumError, ValueError):
    """A datetime without a time zone was given as a moment, or a datetime as a day; nothing was sent."""


class ReadOnlyError(MomentumError):
    """Something tried to write through a read-only mapping."""
