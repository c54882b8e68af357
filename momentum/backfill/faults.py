"""The class of an error that the driver raised; ``momentum.retries`` defines the classes."""

from sqlalchemy.exc import DBAPIError

from momentum.connect.engine import lost_connection
from momentum.retries import Fault, fault_of


def classify(error: DBAPIError) -> Fault:
    """Return the class of an error."""
    return fault_of(sqlstate(error), lost=lost_connection(error))


def sqlstate(error: DBAPIError) -> str:
    """Return the error's SQLSTATE, empty if the server never answered."""
    code: str | None = getattr(error.orig, "sqlstate", None)
    return code or ""
