"""The ids of the rows that the backfill inserts: UUIDs of version 7 (RFC 9562), which begin with the time.

The table's default is random, and right for rows that come one by one. For a million it means a million places all over
the index of the primary key: each is read, and after a checkpoint logged, for a single row. The ids of a transaction
are next to each other. docs/decisions/ascending_ids.md has the figures.
"""

import datetime
import secrets
import uuid

from sqlalchemy import UUID, BigInteger, ColumnElement, Date, Text, bindparam, cast, func, literal_column

MILLISECOND = datetime.timedelta(milliseconds=1)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def new_token(moment: datetime.datetime) -> uuid.UUID:
    """Return a random token for the ids of a transaction's rows, itself such an id.

    Args:
        moment: The time by the server's clock.
    """
    milliseconds = (moment - EPOCH) // MILLISECOND
    return uuid.UUID(
        int=(milliseconds << 80) + (7 << 76) + (secrets.randbits(12) << 64) + (2 << 62) + secrets.randbits(62)
    )


def bind_token(token: uuid.UUID) -> dict[str, object]:
    """Return the parameters of ``id_of``."""
    # Up to the variant, which is the same in every id.
    return {"beginning": f"{token.hex[:16]}a", "seed": token.int & (1 << 62) - 1}


def id_of(user_id: ColumnElement[uuid.UUID], day: ColumnElement[datetime.date]) -> ColumnElement[uuid.UUID]:
    """Return the id of a user-day's row: the beginning of its transaction's token, and a hash of what it is about.

    Nothing in it is volatile, so that Citus lets each server compute its own, and a run can tell the rows of a
    transaction that may be lost from those of others. Two of a thousand have the same id once in 10^12 transactions.
    """
    server = func.pg_catalog
    seed = bindparam("seed", type_=BigInteger) + (day - literal_column("date '2000-01-01'", Date))
    # 59 bits of the hash after one that is set, so that it has 15 digits.
    half = literal_column(str(1 << 59), BigInteger)
    number = server.uuid_hash_extended(user_id, seed).bitwise_and(half - literal_column("1")).bitwise_or(half)
    return cast(bindparam("beginning", type_=Text).concat(server.to_hex(number)), UUID)
