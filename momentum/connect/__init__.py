"""Access to a database: its URL as text, the project on Supabase, the env file, the connection.

A service needs only ``as_text``, which writes a ``sqlalchemy.URL`` for other programs; the modules are internal.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momentum.connect.url import as_text as as_text

__all__ = ["as_text"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: ``--help`` reads names from this package without SQLAlchemy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from momentum.connect import url

    return getattr(url, name)
