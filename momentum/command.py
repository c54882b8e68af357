"""Shared parts of this package's commands: each ends with an exit code, and an error is one line."""

import gc
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NoReturn

from typer import Option
from typer.exceptions import TyperException

from momentum.connect.environment import DEFAULT_ENV_FILE, URL_VARIABLES
from momentum.errors import MomentumError
from momentum.streams import complain, guarded_streams, settle
from momentum.wording import holds_credentials, printable

if TYPE_CHECKING:
    from sqlalchemy import URL
    from typer import Typer

# The option for the database's URL, in every command.
URL_OPTION = "--database-url"

URL_HELP = (
    f"The database. Default: that of a file given with --env-file, then {' or '.join(URL_VARIABLES)} in the "
    "environment, then the default env file."
)
# The end of the help of --env-file.
PRECEDENCE = f"It goes before the environment. Default: {DEFAULT_ENV_FILE}, after the environment."

# By how many objects there are more before Python looks for garbage. It makes about so many while it imports.
OBJECTS_BETWEEN_LOOKS = 50_000

Url = Annotated[str | None, Option(URL_OPTION, metavar="URL", help=URL_HELP)]
EnvFile = Annotated[
    str | None,
    Option(metavar="PATH", help=f"A file with SUPABASE_DB_URL or DATABASE_URL in it. {PRECEDENCE}"),
]


@dataclass
class Run:
    """One run of a command, which the command finds as its context's ``obj``.

    Attributes:
        url: The database whose passwords are blotted out of the traceback of an unexpected error. Without it no
            traceback is shown: the passwords are not known yet, or no traceback was asked for.
    """

    url: "URL | None" = None


def run_app(
    app: "Typer",
    name: str,
    arguments: list[str],
    complain: Callable[[str, int], int] = complain,
    *,
    repeated: list[str] | None = None,
) -> int:
    """Run a command with some arguments and return its exit code; every error is one line on standard error.

    Args:
        app: The command.
        name: The command as a person types it.
        arguments: The arguments after that name.
        complain: Prints an error and returns its exit code.
        repeated: The arguments that a message may repeat; all by default.
    """
    with guarded_streams() as output:
        if misplaced_url(arguments if repeated is None else repeated):
            # The messages of errors would repeat it, with its password.
            return complain(f"A URL belongs after {URL_OPTION} only; see {name} --help.", 2)
        return settle(output, run_guarded(app, name, arguments, complain), complain)


def run_process(run: Callable[[list[str]], int]) -> NoReturn:
    """Run a command with the arguments of this process, and end it with the exit code.

    Nearly all that a command makes is there until it ends. To look for garbage in that, while it starts and once more
    at its end, would take a fifth of a short one.

    Args:
        run: Runs the command with some arguments and returns its exit code.
    """
    gc.set_threshold(OBJECTS_BETWEEN_LOOKS)
    code = run(sys.argv[1:])
    gc.freeze()
    sys.exit(code)


def run_guarded(app: "Typer", name: str, arguments: list[str], complain: Callable[[str, int], int]) -> int:
    """Run a command as ``run_app`` does, with streams that never fail."""
    run = Run()
    try:
        return app(arguments, prog_name=name, standalone_mode=False, obj=run) or 0
    except TyperException as error:
        if not (message := error.format_message().rstrip(".")):
            return error.exit_code  # The help has been printed instead.
        return complain(printable(f"{message}; see {name} --help."), error.exit_code)
    except MomentumError as error:
        return complain(str(error), error.exit_code)
    except Exception as error:  # A traceback could show a password.
        message = f"Unexpected {type(error).__name__}; please report it with the command that you gave."
        return complain(message if run.url is None else f"{message}\n{redacted_traceback(error, run.url)}", 1)


def misplaced_url(arguments: list[str]) -> bool:
    """Return whether an argument is a URL, or contains one, that isn't the value of the option for the URL."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if holds_credentials(argument) and before != URL_OPTION and not argument.startswith(f"{URL_OPTION}="):
            return True
    return False


def redacted_traceback(error: BaseException, url: "URL") -> str:
    """Return the traceback of an error without the passwords of a URL, and without data from the database."""
    from sqlalchemy.exc import DBAPIError

    from momentum.connect.engine import without_secrets
    from momentum.connect.url import blot_out

    for each in chain_of(error):
        if isinstance(each, DBAPIError):
            without_secrets(each, url)
    text = blot_out("".join(traceback.format_exception(error)), url).rstrip()
    return "\n".join(printable(line) for line in text.split("\n"))


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the others that its traceback shows: its causes and contexts."""
    following: list[BaseException | None] = [error]
    seen: set[int] = set()
    while following:
        each = following.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            following += [each.__cause__, each.__context__]
