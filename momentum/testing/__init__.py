"""A real Postgres for development and tests, with what Supabase gives and the migrations applied.

    with running_server() as server, server.database() as url:
        ...

Under pytest the fixtures ``momentum_database_url`` and ``momentum_session`` are there without an import.
``python -m momentum.testing start`` keeps a local one running.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momentum.testing.pgtap import install_pgtap as install_pgtap
    from momentum.testing.servers import Server as Server
    from momentum.testing.servers import running_server as running_server

__all__ = ["Server", "install_pgtap", "running_server"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: pytest loads the plugin in this package in every run, used or not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(
        import_module("momentum.testing.pgtap" if name == "install_pgtap" else "momentum.testing.servers"), name
    )
