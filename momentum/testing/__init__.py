"""A real Postgres for development and tests, set up like Supabase and with the migrations applied.

    with running_server() as server, server.database() as url, Session(create_engine(url)) as session:
        add_scores(session, add_user(session), {day: 72.5})

Under pytest, the fixtures ``momentum_database_url`` and ``momentum_session`` are available without an import.
``python -m momentum.testing start`` keeps a local one running.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momentum.testing.pgtap import install_pgtap as install_pgtap
    from momentum.testing.rows import add_scores as add_scores
    from momentum.testing.rows import add_user as add_user
    from momentum.testing.servers import Server as Server
    from momentum.testing.servers import running_server as running_server

_MODULES = {
    "Server": "momentum.testing.servers",
    "add_scores": "momentum.testing.rows",
    "add_user": "momentum.testing.rows",
    "install_pgtap": "momentum.testing.pgtap",
    "running_server": "momentum.testing.servers",
}
__all__ = ["Server", "add_scores", "add_user", "install_pgtap", "running_server"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: pytest loads the plugin in this package in every run, used or not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
