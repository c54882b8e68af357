"""How a database is reached: its URL as text, the project on Supabase, the env file, the connection.

A service needs ``as_text`` alone, which writes a ``sqlalchemy.URL`` for other programs; the modules are this package's.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from momentum.connect.url import as_text as as_text

__all__ = ["as_text"]


def __getattr__(name: str) -> Any:
    """Import what this package offers when it is first asked for: ``--help`` reads names from it without SQLAlchemy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from momentum.connect import url

    return getattr(url, name)
