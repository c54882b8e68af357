"""Rows to write, and all the rows that a database holds."""

import datetime
import uuid

import sqlalchemy as sa
from sqlalchemy import Connection

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)

# A row for each table, with something in every column of its own; the ordinal makes a name or a day not yet taken.
ROWS = {
    "momentum_pillars": """
        insert into {table} (name, description) values ('pillar ' || :ordinal, E'a\\tdescription, 100 %')
    """,
    "momentum_events": """
        insert into {table} (user_id, pillar_id, event_type, payload, deleted_at)
        values (:user, (select id from {pillars} limit 1), 'walk', '{{"steps": 1.50, "é": null}}', now())
    """,
    "motivation_journal": """
        insert into {table} (user_id, pillar_id, date, prompt, response, motivation_type)
        values (:user, (select id from {pillars} limit 1), date '2024-02-28' + :ordinal, 'why?', E'\\'"\\\\', 'inner')
    """,
    "habit_index": """
        insert into {table} (user_id, pillar_id, index_date, habit_score, details)
        values (:user, (select id from {pillars} limit 1), date '2024-02-28' + :ordinal, 99.95, '{{"a": [1, 2]}}')
    """,
    "daily_engagement_scores": """
        insert into {table} (user_id, score_ts, score, pillar_breakdown)
        values (
          :user, timestamptz '2024-02-28 23:59:59.999999+00' + :ordinal * interval '1 day', 12.34, '{{"sleep": 5}}'
        )
    """,
}

# A score table in the seed's layout, as it may have stood there for years: with grants and policies of its own.
LEGACY_SCORES = """
create schema if not exists {schema};
create table {schema}.daily_engagement_scores (
  user_id uuid not null references auth.users (id) on delete cascade,
  score_ts timestamptz not null,
  score numeric(5, 2),
  pillar_breakdown jsonb,
  note text default 'of old'
);
create index scores_by_ts on {schema}.daily_engagement_scores (score_ts);
alter table {schema}.daily_engagement_scores enable row level security;
create policy "own rows" on {schema}.daily_engagement_scores for select to authenticated
  using ((select auth.uid()) = user_id);
grant select on {schema}.daily_engagement_scores to authenticated;
comment on table {schema}.daily_engagement_scores is 'Scores of old.';
"""


def add_user(connection: Connection) -> uuid.UUID:
    """Add a user and return the id."""
    user: uuid.UUID = connection.execute(sa.text("insert into auth.users default values returning id")).scalar_one()
    return user


def tables(connection: Connection) -> dict[str, str]:
    """Return the tables of ours and the score table, with the schema that each stands in."""
    found = connection.execute(
        sa.text("""
            select c.relname, format('%I.%I', n.nspname, c.relname)
            from pg_catalog.pg_class c
            inner join pg_catalog.pg_namespace n on c.relnamespace = n.oid
            where c.relname = any(:names) and c.relkind in ('r', 'p')
        """),
        {"names": list(ROWS)},
    )
    return {row[0]: row[1] for row in found}


def write_rows(connection: Connection, user: uuid.UUID, ordinal: int) -> None:
    """Write a row into each table that is there and not parked."""
    standing = {name: table for name, table in tables(connection).items() if not table.startswith("momentum_internal.")}
    for name, insert in ROWS.items():
        if name in standing:
            sql = insert.format(table=standing[name], pillars=standing.get("momentum_pillars"))
            connection.execute(sa.text(sql), {"user": user, "ordinal": ordinal})


def read_rows(connection: Connection) -> dict[str, list[str]]:
    """Return every row of every table, parked ones too, as the server writes it."""
    return {
        name: list(connection.execute(sa.text(f"select t::text from {table} as t order by 1")).scalars())
        for name, table in tables(connection).items()
    }


def add_users(engine: sa.Engine, count: int = 1, **columns: object) -> list[uuid.UUID]:
    """Insert accounts, long there unless the columns say otherwise, and return their ids."""
    values = {"created_at": LONG_AGO, **columns}
    with engine.begin() as connection:
        return list(
            connection.scalars(
                sa.text(f"""
                    insert into auth.users ({", ".join(values)})
                    select {", ".join(f":{name}" for name in values)} from generate_series(1, :count)
                    returning id
                """),
                {**values, "count": count},
            )
        )


def refuse_rows(engine: sa.Engine, condition: str, action: str) -> None:
    """Give the score table a trigger that does something to certain rows."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"""
            create function public.interfere() returns trigger language plpgsql as $$
            begin
              if {condition} then {action} end if;
              return new;
            end $$""")
        connection.exec_driver_sql(
            "create trigger interfere before insert on legacy.daily_engagement_scores "
            "for each row execute function public.interfere()"
        )
