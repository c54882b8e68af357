"""Soft deletion: a criterion for live rows and a statement that deletes rows. Nothing is filtered implicitly."""

from sqlalchemy import ColumnElement, ColumnExpressionArgument, Update, func, update

from momentum.mixins import SoftDeleted


def live(model: type[SoftDeleted]) -> ColumnElement[bool]:
    """Return the criterion that a row is not softly deleted: ``select(MomentumEvent).where(live(MomentumEvent))``.

    It works wherever a criterion does, such as in the ON clause of an outer join.

    Args:
        model: A model that can be deleted softly, or an alias of one.
    """
    return model.deleted_at.is_(None)


def soft_delete(
    model: type[SoftDeleted], criterion: ColumnExpressionArgument[bool], *criteria: ColumnExpressionArgument[bool]
) -> Update:
    """Return the statement that deletes rows softly: ``soft_delete(MomentumEvent, MomentumEvent.id == event_id)``.

    ``deleted_at`` becomes the start of the transaction by the server's clock. Rows that are softly deleted already keep
    theirs. Execute it with a session or a connection, synchronous or asynchronous; add ``.returning(MomentumEvent.id)``
    to get the rows that it deleted.

    Args:
        model: A model that can be deleted softly.
        criterion: The rows to delete; it is required, so that forgetting it can't empty a table.
        criteria: Further criteria.
    """
    return update(model).where(live(model), criterion, *criteria).values(deleted_at=func.now())
