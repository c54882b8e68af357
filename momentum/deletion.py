"""Soft deletion: which rows are live, and how a row is deleted softly. Nothing is filtered without being asked for."""

from sqlalchemy import ColumnElement, ColumnExpressionArgument, Update, func, update

from momentum.mixins import SoftDeleted


def live(model: type[SoftDeleted]) -> ColumnElement[bool]:
    """Return the criterion that a row is not softly deleted: ``select(MomentumEvent).where(live(MomentumEvent))``.

    Args:
        model: A model that can be deleted softly, or an alias of one. It goes wherever a criterion does, into the ON of
            an outer join for example.
    """
    return model.deleted_at.is_(None)


def soft_delete(
    model: type[SoftDeleted], criterion: ColumnExpressionArgument[bool], *criteria: ColumnExpressionArgument[bool]
) -> Update:
    """Return the statement that deletes rows softly: ``soft_delete(MomentumEvent, MomentumEvent.id == event_id)``.

    ``deleted_at`` becomes the start of the transaction by the server's clock. Rows that are softly deleted already keep
    theirs. Sessions and connections execute it, synchronous and asynchronous ones, and it says which rows went where
    ``.returning(MomentumEvent.id)`` is added.

    Args:
        model: A model that can be deleted softly.
        criterion: Which rows; there must be one, so that a forgotten criterion doesn't empty a table.
        criteria: Further criteria.
    """
    return update(model).where(live(model), criterion, *criteria).values(deleted_at=func.now())
