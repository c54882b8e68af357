"""The errors of this package, as types that a program can catch.

Each message is one clear sentence: what is wrong, where, what to do; never a password. ``exit_code`` is what a command
line program ends with when it meets the error.
"""


class MomentumError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class ConfigurationError(MomentumError):
    """An option, an environment variable or the env file is missing or wrong."""

    exit_code = 2


class DatabaseUnreachableError(MomentumError):
    """The server refuses or does not answer, or the connection was lost."""

    exit_code = 3


class NotMigratedError(MomentumError):
    """The database lacks what a migration would have made."""

    exit_code = 3


class PreflightError(MomentumError):
    """The database is not one that the migrations may touch; nothing has been changed."""


class MigrationError(MomentumError):
    """A revision failed; its transaction was rolled back, and the revisions before it stand."""


class RevisionError(MomentumError):
    """A change of the models can't be written as a revision that loses nothing; no file has been written."""


class VerificationError(MomentumError):
    """A migrated database is not what its revision makes; nothing is rolled back."""


class AmbiguousTimeError(MomentumError, ValueError):
    """A datetime without a time zone was given as a moment, or a datetime as a day; nothing was sent."""


class ReadOnlyError(MomentumError):
    """Something tried to write through a read-only mapping."""
