"""Alembic's environment: a thin entry point to momentum.migrate.run."""

import logging
import sys
from logging.config import fileConfig

from alembic import context

from momentum.errors import MomentumError
from momentum.migrate.run import INTERRUPTED, run

on_command_line = context.config.cmd_opts is not None

if on_command_line and context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    # From Alembic's log, an operator needs to see only which revisions run.
    logging.getLogger("alembic.runtime.migration").addFilter(lambda record: record.getMessage().startswith("Running"))

try:
    run()
except (MomentumError, KeyboardInterrupt) as error:
    # A program that calls alembic.command gets the exception; a person gets one line and an exit code.
    if not on_command_line:
        raise
    message, exit_code = (error, error.exit_code) if isinstance(error, MomentumError) else (INTERRUPTED, 130)
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(exit_code) from None
