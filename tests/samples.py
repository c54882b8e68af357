"""Rows to write, and all the rows that a database holds."""

import datetime
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from momentum.inventory import PARKED_PREFIX
from momentum.testing import add_user as add_user
from tests.server import engine_of

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)

# Values for the columns of each table. A row gets those whose columns the table has: the score table comes in several
# layouts, and the app's own versions of our tables lack some columns. The ordinal makes a name or a day that is not yet
# taken, and never a future day. `make pgtap-sql` writes them into the files of sql/pgtap/ too.
ROWS = {
    "momentum_pillars": {"name": "'pillar ' || :ordinal", "description": "E'a\\tdescription, 100 %'"},
    "momentum_events": {
        "user_id": ":user",
        "pillar_id": "(select id from {pillars} limit 1)",
        "event_type": "'walk'",
        "event_ts": "timestamptz '2020-02-28 12:34:56.789012+00'",
        "payload": """'{{"steps": 1.50, "é": null}}'""",
        "deleted_at": "now()",
    },
    "motivation_journal": {
        "user_id": ":user",
        "pillar_id": "(select id from {pillars} limit 1)",
        "date": "date '2020-02-28' + :ordinal",
        "prompt": "'why?'",
        "response": "E'\\'\"\\\\'",
        "motivation_type": "'inner'",
    },
    "habit_index": {
        "user_id": ":user",
        "pillar_id": "(select id from {pillars} limit 1)",
        "index_date": "date '2020-02-28' + :ordinal",
        "habit_score": "99.95",
        "details": """'{{"a": [1, 2]}}'""",
    },
    "daily_engagement_scores": {
        "user_id": ":user",
        # The seed's layout.
        "score_ts": "timestamptz '2020-02-28 23:59:59.999999+00' + :ordinal * interval '1 day'",
        "score": "12.34",
        "pillar_breakdown": """'{{"sleep": 5}}'""",
        # The production layout.
        "score_date": "date '2020-02-28' + :ordinal",
        "raw_score": "123.40",
        "normalized_score": "12.34",
        "final_score": "12.34",
        "momentum_state": "'Rising'",
        "breakdown": """'{{"final_score": 12.34, "points_by_type": {{"sleep": 5}}}}'""",
        "events_count": "3",
    },
}

# A score table in the seed's layout, as an app may have had it for years: with grants and policies of its own.
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


# The app's production score table with everything that depends on it. It can't be moved or renamed: its triggers and
# functions name it in strings, and so do its clients.
PRODUCTION_SCORES = """
create schema if not exists {schema};
grant usage on schema {schema} to anon, authenticated, service_role;
create table {schema}.daily_engagement_scores (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  score_date date not null,
  raw_score numeric(10, 2) not null default 0,
  normalized_score numeric(5, 2) not null default 0,
  final_score numeric(5, 2) not null default 0,
  momentum_state text not null check (momentum_state in ('Rising', 'Steady', 'NeedsCare')),
  breakdown jsonb not null default '{{}}',
  algorithm_version text not null default 'v1.0',
  events_count integer not null default 0,
  calculation_metadata jsonb default '{{}}',
  created_at timestamptz default now(),
  updated_at timestamptz default now(),
  constraint check_score_ranges check (
    raw_score >= 0 and normalized_score between 0 and 100 and final_score between 0 and 100
  ),
  constraint check_score_date_not_future check (score_date <= current_date)
);
comment on table {schema}.daily_engagement_scores is 'Scores by day, written by the app.';
create unique index idx_daily_scores_user_date on {schema}.daily_engagement_scores (user_id, score_date);
create index idx_daily_scores_date_state on {schema}.daily_engagement_scores (score_date, momentum_state);
create index idx_daily_scores_user_recent on {schema}.daily_engagement_scores (user_id, score_date desc);
create index idx_daily_scores_breakdown on {schema}.daily_engagement_scores using gin (breakdown);

alter table {schema}.daily_engagement_scores enable row level security;
create policy "Users can view own scores" on {schema}.daily_engagement_scores for select using (auth.uid() = user_id);
create policy "Service role can manage all scores" on {schema}.daily_engagement_scores to service_role using (true);
grant all on table {schema}.daily_engagement_scores to anon, authenticated, service_role;

-- A row for each call of the app's push function, so that a test can count them.
create table public.pushes (
  id bigint generated always as identity primary key,
  user_id uuid,
  score_date date,
  momentum_state text
);

create function public.update_updated_at_column() returns trigger language plpgsql as $$
begin
  new.updated_at := now();
  return new;
end $$;
create trigger update_daily_scores_updated_at before update on {schema}.daily_engagement_scores
  for each row execute function public.update_updated_at_column();

create function public.prevent_duplicate_daily_scores() returns trigger language plpgsql
set search_path = {schema}, public as $$
begin
  if exists (
    select from daily_engagement_scores
    where user_id = new.user_id and score_date = new.score_date and (tg_op = 'INSERT' or id <> new.id)
  ) then
    raise exception 'user % has a score on % already', new.user_id, new.score_date;
  end if;
  return new;
end $$;
create trigger prevent_duplicate_daily_scores_trigger before insert or update on {schema}.daily_engagement_scores
  for each row execute function public.prevent_duplicate_daily_scores();

create function public.publish_momentum_update() returns trigger language plpgsql as $$
begin
  perform pg_notify(
    'momentum_updates:' || new.user_id,
    jsonb_build_object('day', new.score_date, 'state', new.momentum_state, 'score', new.final_score)::text
  );
  return new;
end $$;
create trigger momentum_score_realtime_trigger after insert or update on {schema}.daily_engagement_scores
  for each row execute function public.publish_momentum_update();

create function public.invalidate_momentum_cache() returns trigger language plpgsql as $$
begin
  perform pg_notify('cache_invalidation', coalesce(new.user_id, old.user_id)::text);
  return coalesce(new, old);
end $$;
create trigger momentum_cache_invalidation_trigger after insert or update or delete
  on {schema}.daily_engagement_scores
  for each row execute function public.invalidate_momentum_cache();

create function public.trigger_push_notifications() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' or old.momentum_state <> new.momentum_state or abs(new.final_score - old.final_score) > 10 then
    insert into public.pushes (user_id, score_date, momentum_state)
    values (new.user_id, new.score_date, new.momentum_state);
  end if;
  return new;
end $$;
create trigger momentum_change_notification_trigger after insert or update on {schema}.daily_engagement_scores
  for each row execute function public.trigger_push_notifications();

alter table {schema}.daily_engagement_scores replica identity full;
create publication supabase_realtime;
alter publication supabase_realtime add table {schema}.daily_engagement_scores;

create view public.momentum_dashboard as
select user_id, score_date, final_score, momentum_state, breakdown
from {schema}.daily_engagement_scores
where score_date = current_date;
create view public.recent_user_momentum as
select
  s.user_id, s.score_date, s.final_score, s.momentum_state,
  avg(s.final_score) over (
    partition by s.user_id order by s.score_date rows between 6 preceding and current row
  ) as seven_day_average
from {schema}.daily_engagement_scores as s;

create function public.get_momentum_trend(p_user_id uuid, p_days integer default 7)
returns table (score_date date, final_score numeric, momentum_state text) language sql stable security definer
set search_path = {schema}, public as $$
  select score_date, final_score, momentum_state
  from daily_engagement_scores
  where user_id = p_user_id and score_date >= current_date - p_days
  order by score_date desc
$$;

-- In public they find the table by their caller's search path, as the app's own do.
do $unpin$
begin
  if '{schema}' = 'public' then
    alter function public.prevent_duplicate_daily_scores() reset search_path;
    alter function public.get_momentum_trend(uuid, integer) reset search_path;
  end if;
end
$unpin$;
"""

# A table of each layout.
SCORE_TABLES = {"seed": LEGACY_SCORES, "production": PRODUCTION_SCORES}

# Our tables as the app's own earlier migrations made them, open to every client.
PREDECESSORS = """
create table public.momentum_pillars (
  id uuid primary key default gen_random_uuid(),
  name text not null unique,
  description text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create table public.momentum_events (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references auth.users (id) on delete cascade,
  pillar_id uuid references public.momentum_pillars (id),
  event_type text not null,
  event_ts timestamptz not null default now(),
  payload jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index idx_momentum_events_user_id on public.momentum_events (user_id);
create index idx_momentum_events_pillar_id on public.momentum_events (pillar_id);
create index idx_momentum_events_event_ts on public.momentum_events (event_ts);
create table public.motivation_journal (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references auth.users (id) on delete cascade,
  date date not null,
  prompt text,
  response text,
  motivation_type text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  unique (user_id, date)
);
create index idx_motivation_journal_user_date on public.motivation_journal (user_id, date);
create table public.habit_index (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references auth.users (id) on delete cascade,
  index_date date not null,
  habit_score numeric not null,
  details jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  unique (user_id, index_date)
);
create index idx_habit_index_user_date on public.habit_index (user_id, index_date);
"""

# The app's own view over its production table; it reads with its owner's rights.
PREDECESSOR_VIEW = """
create view public.daily_momentum_scores as
select user_id, final_score as score, score_date, breakdown as pillar_breakdown
from {schema}.daily_engagement_scores;
"""


def tables(connection: Connection, names: Iterable[str] = ROWS) -> dict[str, str]:
    """Return the tables of ours and the score table with their schema; of two of a name, the one that is not parked."""
    found = connection.execute(
        sa.text("""
            select c.relname, format('%I.%I', n.nspname, c.relname)
            from pg_catalog.pg_class c
            inner join pg_catalog.pg_namespace n on c.relnamespace = n.oid
            where c.relname = any(:names) and c.relkind in ('r', 'p')
            order by n.nspname <> 'momentum_internal'
        """),
        {"names": list(names)},
    )
    return {row[0]: row[1] for row in found}


def write_values(table: sa.Table, user: str = "null", ordinal: int = 1) -> dict[str, str]:
    """Return the samples of a table as SQL by column, those of its keys included."""
    missing = sorted({*needed_columns(table)} - ROWS.get(table.name, {}).keys())
    if missing:
        raise LookupError(f"give {table.name} values for {', '.join(missing)} in ROWS of tests/samples.py")
    places = {"pillars": "public.momentum_pillars"}
    return {
        name: value.format(**places).replace(":user", user).replace(":ordinal", str(ordinal))
        for name, value in ROWS[table.name].items()
    }


def needed_columns(table: sa.Table) -> list[str]:
    """Return the columns without which a row can't be written."""
    return [column.name for column in table.columns if not column.nullable and column.server_default is None]


def insert_of(table: sa.Table, user: str, ordinal: int) -> str:
    """Return the statement that inserts a sample row for a user, with the columns that it needs."""
    values = write_values(table, f"'{user}'", ordinal)
    row = {name: values[name] for name in needed_columns(table)}
    return f"insert into public.{table.name} ({', '.join(row)}) values ({', '.join(row.values())})"


def read_values(connection: Connection, table: sa.Table, user: uuid.UUID) -> dict[str, Any]:
    """Return the samples of a table as Python has them, by column."""
    values = write_values(table, user=f"'{user}'")
    casts = [sa.cast(sa.literal_column(value), table.columns[name].type).label(name) for name, value in values.items()]
    return dict(connection.execute(sa.select(*casts)).one()._mapping)


def write_rows(
    connection: Connection, user: uuid.UUID, ordinal: int, rows: Mapping[str, Mapping[str, str]] = ROWS
) -> None:
    """Write a row into each table that is there and not parked."""
    found = tables(connection, rows)
    standing = {name: table for name, table in found.items() if not table.startswith("momentum_internal.")}
    for name, values in rows.items():
        if name in standing:
            columns = connection.scalars(
                sa.text("select attname from pg_attribute where attrelid = to_regclass(:table) and attnum > 0"),
                {"table": standing[name]},
            ).all()
            row = {column: value for column, value in values.items() if column in columns}
            sql = f"insert into {{table}} ({', '.join(row)}) values ({', '.join(row.values())})"
            sql = sql.format(table=standing[name], pillars=standing.get("momentum_pillars"))
            connection.execute(sa.text(sql), {"user": user, "ordinal": ordinal})


def read_rows(connection: Connection) -> dict[str, list[str]]:
    """Return every row of every table, parked ones too, as the server writes it."""
    return {
        name: list(connection.execute(sa.text(f"select (t.*)::text from {table} as t order by 1")).scalars())
        for name, table in tables(connection).items()
    }


# Values by table, key of the row, and column.
Values = dict[tuple[str, str, str], Any]


def values_of(url: sa.URL, rows: Iterable[str] = ROWS) -> Values:
    """Return every value by table, key and column, under the names that parked tables and columns have had before."""
    found: Values = {}
    with engine_of(url).connect() as connection:
        for name, table in tables(connection, rows).items():
            for row in connection.scalars(sa.text(f"select to_jsonb(t) from {table} as t")):
                for column, value in row.items():
                    key = str(row.get("id") or (row["user_id"], row.get("score_ts"), row.get("score_date")))
                    found[name, key, column.removeprefix(PARKED_PREFIX)] = value
    return found


def lost(before: Values, after: Values) -> Values:
    """Return the values that are not there any more; a null may have been filled."""
    return {key: value for key, value in before.items() if value is not None and after.get(key) != value}


def add_users(engine: sa.Engine, count: int = 1, **columns: object) -> list[uuid.UUID]:
    """Insert accounts, created long ago unless the columns say otherwise, and return their ids."""
    values = {"created_at": LONG_AGO, **columns}
    ids = [uuid.uuid4() for _ in range(count)]
    statement = sa.text(f"""
        insert into auth.users (id, {", ".join(values)})
        select id, {", ".join(f":{name}" for name in values)} from unnest(cast(:ids as uuid[])) as id
    """)
    with engine.begin() as connection:
        connection.execute(statement, {**values, "ids": ids})
    return ids


def refuse_rows(engine: sa.Engine, condition: str, action: str) -> None:
    """Give the score table a trigger that takes an action for rows that meet a condition."""
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
