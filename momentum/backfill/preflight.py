"""What is looked at before a run, in less than a second: whether the database is one that can be filled.

Every refusal is one sentence that says what was found and what to do.
"""

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from momentum.backfill.days import DayRange
from momentum.backfill.eligibility import read_account_columns
from momentum.backfill.triggers import Trigger, read_triggers
from momentum.errors import ConfigurationError, NotMigratedError
from momentum.scores import ScoreTable, read_score_table

# The newest revision, on which the statements of the backfill rest.
REVISION = "b82e4f1690da"


@dataclass(frozen=True)
class Database:
    """What a run needs to know of its database.

    Attributes:
        scores: The score table.
        account_columns: Which of the optional columns auth.users has.
        triggers: The triggers that the run's rows fire.
        distributed: Whether Citus has distributed the score table.
        now: The server's time.
    """

    scores: ScoreTable
    account_columns: frozenset[str]
    triggers: tuple[Trigger, ...]
    distributed: bool
    now: datetime.datetime


def look_at(connection: Connection, event: str) -> Database:
    """Return what a run needs to know of its database.

    Args:
        connection: A connection; nothing is written through it.
        event: What the run does with rows: ``insert`` or ``delete``.

    Raises:
        NotMigratedError: The database is not migrated, or at another revision, or its unique key is gone.
        ConfigurationError: Row level security would hide rows from the role.
    """
    scores = read_score_table(connection)
    check_revision(connection)
    check_unique_key(connection, scores)
    check_hidden_rows(connection, "auth.users", scores.relation)
    return Database(
        scores,
        read_account_columns(connection),
        tuple(read_triggers(connection, scores.relation, event)),
        is_distributed(connection, scores),
        read_clock(connection),
    )


def check_revision(connection: Connection) -> None:
    """Refuse a database at another revision than the one that this version of the backfill goes with."""
    found = connection.scalars(text("select version_num from momentum_internal.alembic_version")).all()
    if list(found) != [REVISION]:
        raise NotMigratedError(
            f"The database is at revision {', '.join(found) or 'none'}, and this version of the backfill goes with "
            f"{REVISION}; upgrade it to head with the momentum migrations of the same version of the package."
        )


def check_unique_key(connection: Connection, scores: ScoreTable) -> None:
    """Refuse a score table whose unique key over user and day is not to be relied on."""
    key, valid = connection.execute(
        text("""
            select
              s.unique_index,
              coalesce(i.indisvalid and i.indisunique and i.indimmediate and i.indpred is null, false)
            from momentum_internal.score_table as s
            left join pg_catalog.pg_index as i on i.indexrelid = to_regclass(s.unique_index)
        """)
    ).one()
    if not valid:
        name = key.rpartition(".")[2]
        raise NotMigratedError(
            f"{scores.relation} has no valid unique key over user and day, so a day could get two rows; drop what is "
            f"left of {key}, if anything is, and make it again with `create unique index concurrently {name} on "
            f"{scores.relation} (user_id, {scores.layout.day})`."
        )


def check_hidden_rows(connection: Connection, *relations: str) -> None:
    """Refuse a role from which row level security hides rows: it would believe that nothing is missing."""
    for relation in relations:
        role = connection.scalar(
            text("select current_user where row_security_active(cast(:relation as text))"), {"relation": relation}
        )
        if role is not None:
            raise ConfigurationError(
                f"Row level security hides rows of {relation} from the role {role}; connect as the database's owner "
                "or as a role with bypassrls."
            )


def check_days(days: DayRange, now: datetime.datetime) -> None:
    """Refuse a range that ends after the server's day."""
    if days.last > now.date():
        raise ConfigurationError(f"The range ends on {days.last}, in the future; the server's UTC day is {now.date()}.")


def check_triggers(triggers: Sequence[Trigger], relation: str, *, allow_webhooks: bool) -> None:
    """Refuse to set off what calls out of the database, unless that is wanted."""
    calling = [trigger.name for trigger in triggers if trigger.calls_out]
    if calling and not allow_webhooks:
        one = len(calling) == 1
        raise ConfigurationError(
            f"The {'trigger' if one else 'triggers'} {', '.join(calling)} of {relation} would call out of the database "
            f"for every row, such as to push notifications to phones; disable {'it' if one else 'them'} for the run, "
            "or give --allow-webhooks."
        )


def is_distributed(connection: Connection, scores: ScoreTable) -> bool:
    """Tell whether Citus has distributed the score table over several servers."""
    if connection.scalar(text("select to_regclass('pg_catalog.pg_dist_partition')")) is None:
        return False
    return bool(
        connection.scalar(
            text("""
                select exists (
                  select from pg_catalog.pg_dist_partition
                  where logicalrelid = to_regclass(:relation) and partmethod = 'h'
                )
            """),
            {"relation": scores.relation},
        )
    )


def read_clock(connection: Connection) -> datetime.datetime:
    """Return the server's time, in a form that no DateStyle of the database can change."""
    moment = connection.scalar(
        text("select to_char(statement_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')")
    )
    return datetime.datetime.fromisoformat(str(moment)).replace(tzinfo=datetime.UTC)


def find_unknown_users(connection: Connection, users: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return which of some users don't exist."""
    known = set(connection.scalars(text("select id from auth.users where id = any(:ids)"), {"ids": list(users)}))
    return [user for user in users if user not in known]


def count_accounts(connection: Connection, users: Sequence[uuid.UUID]) -> int:
    """Return how many accounts there are, of some users or, where none is named, of everybody."""
    count: int = connection.execute(
        text("select count(*) from auth.users where cardinality(cast(:ids as uuid[])) = 0 or id = any(:ids)"),
        {"ids": list(users)},
    ).scalar_one()
    return count
