"""A real Postgres for development and tests, with what Supabase gives and the migrations applied.

    with running_server() as server, server.database() as url:
        ...

``python -m momentum.testing start`` keeps a local one running.
"""

from momentum.testing.pgtap import install_pgtap
from momentum.testing.servers import Server, running_server

__all__ = ["Server", "install_pgtap", "running_server"]
