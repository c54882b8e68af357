"""Alembic's environment: a thin entry point to momentum.migrate.run."""

import logging
from logging.config import fileConfig

from alembic import context

from momentum.errors import MomentumError
from momentum.migrate.run import INTERRUPTED, is_shown, run
from momentum.streams import complain, guard_program, settle


def main() -> int:
    """Run for a person, who gets an exit code and, where it isn't 0, one line."""
    output = guard_program()
    context.config.stdout = output  # type: ignore[assignment]
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
        logging.getLogger("alembic.runtime.migration").addFilter(is_shown)
    try:
        run()
    except MomentumError as error:
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return complain(INTERRUPTED, 130)
    return settle(output, 0, complain)


if context.config.cmd_opts is None:
    run()  # A program that calls alembic.command gets the exception.
elif exit_code := main():
    raise SystemExit(exit_code)
