"""What the commands of this package have in common: they end with an exit code, and an error is one line."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from typer.exceptions import TyperException

from momentum.errors import MomentumError

if TYPE_CHECKING:
    from typer import Typer


def complain(message: str, exit_code: int) -> int:
    """Print an error and return its exit code."""
    print(f"Error: {message}", file=sys.stderr)
    return exit_code


def run_app(app: "Typer", name: str, arguments: list[str], complain: Callable[[str, int], int] = complain) -> int:
    """Run a command with some arguments and return its exit code; every error is one line on standard error.

    Args:
        app: The command.
        name: What a person types to run it.
        arguments: What follows that name.
        complain: Prints an error and returns its exit code.
    """
    try:
        return app(arguments, prog_name=name, standalone_mode=False) or 0
    except TyperException as error:
        return complain(f"{error.format_message().rstrip('.')}; see {name} --help.", error.exit_code)
    except MomentumError as error:
        return complain(str(error), error.exit_code)
    except Exception as error:  # A traceback could show a password.
        return complain(f"Unexpected {type(error).__name__}; please report it with the command that you gave.", 1)
