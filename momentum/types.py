"""Annotated column types: what a column of a kind always is, said once."""

import datetime
import uuid
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import Numeric, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import mapped_column

# An instant. Always with its time zone: the schema knows UTC only.
Timestamp = Annotated[datetime.datetime, mapped_column(TIMESTAMP(timezone=True))]

# An instant that the server sets when the writer does not.
DefaultNow = Annotated[datetime.datetime, mapped_column(TIMESTAMP(timezone=True), server_default=func.now())]

# A calendar day in UTC.
UtcDay = Annotated[datetime.date, mapped_column()]

# Points from 0 to 100 with two decimals.
Points = Annotated[Decimal, mapped_column(Numeric(5, 2))]

# A JSON object. Python's None becomes SQL's null: JSON's own null is no object, and the table would refuse it.
JsonObject = Annotated[dict[str, Any], mapped_column(JSONB(none_as_null=True))]

# Text without a limit, as Postgres and Supabase recommend.
String = Annotated[str, mapped_column(Text)]

# A random key made by the server, so that clients of every kind get one.
RandomKey = Annotated[uuid.UUID, mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))]
