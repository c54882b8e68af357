"""The one Postgres server of a test run."""

from contextlib import ExitStack

import pytest

from momentum.testing import Server, running_server

_SERVER = pytest.StashKey[Server]()


def shared_server(config: pytest.Config) -> Server:
    """Return the run's server, started on first use and stopped when pytest ends."""
    if _SERVER not in config.stash:
        stack = ExitStack()
        config.stash[_SERVER] = stack.enter_context(running_server())
        config.add_cleanup(stack.close)
    return config.stash[_SERVER]
