"""Every difference from what the migrations make is named, and nothing else."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from momentum.connect.engine import execute_script
from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text
from momentum.errors import ConfigurationError, NotMigratedError, VerificationError
from momentum.migrate.config import SCORES
from momentum.models import Base, DailyMomentumScore
from momentum.scores import LAYOUTS
from momentum.testing import Server
from momentum.verify import __main__ as program
from momentum.verify import compare as verify
from tests import processes
from tests.catalog import differences
from tests.migrating import HISTORY, current, database_with_scores, execute, migrate_to, run
from tests.pgtap.mutations import read_mutations
from tests.server import as_owner, connect_as_owner, engine_of
from tools.fingerprints import REVISIONS, fingerprints

HEAD = HISTORY[-1]
PASSWORD = "pa55-word"
HABITS = "table public.habit_index"
SCORES_TABLE = "table legacy.daily_engagement_scores"
VIEW = "view public.daily_momentum_scores"
RECORD = "table momentum_internal.score_table"
FUNCTION = "function momentum_internal.set_updated_at()"

# The beginning of a change that the role which migrates can't make, but the platform's superuser can.
AS_ADMIN = "reset session authorization; "
INVALIDATE = f"{AS_ADMIN}update pg_index set indisvalid = false where indexrelid = '{{}}'::regclass"

# Changes of a migrated database, each with the beginnings of the lines that name it.
DRIFTS: dict[str, tuple[str, list[str]]] = {
    "a column is added": (
        "alter table public.habit_index add weather text; comment on column public.habit_index.weather is 'How it is.'",
        [f"unexpected: {HABITS}, column weather: text"],
    ),
    "a column is dropped": (
        "alter table public.momentum_events drop event_ts",
        [
            "missing: table public.momentum_events, column event_ts: timestamp with time zone not null default now()",
            "missing: table public.momentum_events, index ix_momentum_events_user_id_event_ts: CREATE INDEX",
        ],
    ),
    "a column has another name": (
        "alter table public.motivation_journal rename prompt to question",
        [
            "missing: table public.motivation_journal, column prompt: text",
            "unexpected: table public.motivation_journal, column question: text",
        ],
    ),
    "a column that head has is parked": (
        "alter table public.momentum_events rename event_ts to parked_event_ts",
        [
            "missing: table public.momentum_events, column event_ts: timestamp with time zone not null default now()",
            "missing: table public.momentum_events, index ix_momentum_events_user_id_event_ts: CREATE INDEX",
        ],
    ),
    "a column's name begins nearly like that of a parked one": (
        "alter table public.habit_index add parkedness text",
        [f"unexpected: {HABITS}, column parkedness: text"],
    ),
    "a policy lets rows through by a parked column": (
        "alter table public.habit_index add parked_open boolean default true; "
        "create policy open on public.habit_index using (parked_open)",
        [f"unexpected: {HABITS}, policy open: permissive for all to public using (parked_open)"],
    ),
    "a column is wider": (
        "alter table public.habit_index alter habit_score type numeric(6, 2)",
        [f"changed: {HABITS}, column habit_score: found numeric(6,2) not null, expected numeric(5,2) not null"],
    ),
    "a column has another type": (
        "alter table public.motivation_journal alter response type varchar(80)",
        ["changed: table public.motivation_journal, column response: found character varying(80), expected text"],
    ),
    "a column sorts otherwise": (
        'alter table public.motivation_journal alter response type text collate "C"',
        ['changed: table public.motivation_journal, column response: found text collate "C", expected text'],
    ),
    "a default is dropped": (
        "alter table public.habit_index alter created_at drop default",
        [
            f"changed: {HABITS}, column created_at: found timestamp with time zone not null, "
            "expected timestamp with time zone not null default now()"
        ],
    ),
    "a default is another": (
        "alter table public.habit_index alter details set default '{}'",
        [f"changed: {HABITS}, column details: found jsonb default '{{}}'::jsonb, expected jsonb"],
    ),
    "a column may be null": (
        "alter table public.habit_index alter user_id drop not null",
        [f"changed: {HABITS}, column user_id: found uuid, expected uuid not null"],
    ),
    "a column may not be null": (
        "alter table public.habit_index alter pillar_id set not null",
        [f"changed: {HABITS}, column pillar_id: found uuid not null, expected uuid"],
    ),
    "a column counts up": (
        "alter table public.habit_index add place integer generated always as identity",
        [f"unexpected: {HABITS}, column place: integer not null generated always as identity"],
    ),
    "a column is calculated": (
        "alter table public.habit_index add half numeric generated always as (habit_score / 2) stored",
        [f"unexpected: {HABITS}, column half: numeric generated always as ((habit_score / (2)::numeric))"],
    ),
    "a check is dropped": (
        "alter table public.habit_index drop constraint ck_habit_index_habit_score_in_range",
        [f"missing: {HABITS}, constraint ck_habit_index_habit_score_in_range: CHECK"],
    ),
    "a check is laxer": (
        "alter table public.habit_index drop constraint ck_habit_index_habit_score_in_range, "
        "add constraint ck_habit_index_habit_score_in_range check (habit_score between 0 and 1000)",
        [f"changed: {HABITS}, constraint ck_habit_index_habit_score_in_range: found CHECK"],
    ),
    "a check is not valid": (
        "alter table public.habit_index drop constraint ck_habit_index_habit_score_in_range, "
        "add constraint ck_habit_index_habit_score_in_range check (habit_score between 0 and 100) not valid",
        [f"changed: {HABITS}, constraint ck_habit_index_habit_score_in_range: found CHECK"],
    ),
    "a foreign key doesn't cascade": (
        "alter table public.habit_index drop constraint fk_habit_index_user_id_users, "
        "add constraint fk_habit_index_user_id_users foreign key (user_id) references auth.users (id)",
        [f"changed: {HABITS}, constraint fk_habit_index_user_id_users: found FOREIGN KEY"],
    ),
    "a foreign key is not valid": (
        "alter table public.habit_index drop constraint fk_habit_index_user_id_users, "
        "add constraint fk_habit_index_user_id_users foreign key (user_id) references auth.users (id) "
        "on delete cascade not valid",
        [f"changed: {HABITS}, constraint fk_habit_index_user_id_users: found FOREIGN KEY"],
    ),
    "a unique key is dropped": (
        "alter table public.habit_index drop constraint uq_habit_index_user_id_index_date",
        [f"missing: {HABITS}, constraint uq_habit_index_user_id_index_date: UNIQUE (user_id, index_date)"],
    ),
    "a unique key is checked late": (
        "alter table public.momentum_pillars drop constraint uq_momentum_pillars_name, "
        "add constraint uq_momentum_pillars_name unique (name) deferrable",
        [
            "changed: table public.momentum_pillars, constraint uq_momentum_pillars_name: found UNIQUE (name) "
            "DEFERRABLE, expected UNIQUE (name)"
        ],
    ),
    "a unique key's index is invalid": (
        INVALIDATE.format("public.uq_habit_index_user_id_index_date"),
        [
            f"changed: {HABITS}, constraint uq_habit_index_user_id_index_date: "
            "found UNIQUE (user_id, index_date), index invalid"
        ],
    ),
    "a primary key is dropped": (
        "alter table public.habit_index drop constraint pk_habit_index",
        [f"missing: {HABITS}, constraint pk_habit_index: PRIMARY KEY (id)"],
    ),
    "foreign keys are not checked": (
        f"{AS_ADMIN}alter table public.motivation_journal disable trigger all",
        [
            "changed: table public.motivation_journal, constraint fk_motivation_journal_pillar_id_momentum_pillars: ",
            "changed: table public.motivation_journal, constraint fk_motivation_journal_user_id_users: found FOREIGN "
            "KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE, its triggers disabled",
            "changed: table public.motivation_journal, trigger set_updated_at: ",
        ],
    ),
    "an index is dropped": (
        "drop index public.ix_habit_index_pillar_id",
        [f"missing: {HABITS}, index ix_habit_index_pillar_id: CREATE INDEX"],
    ),
    "an index is added": (
        "create index by_score on public.habit_index (habit_score)",
        [f"unexpected: {HABITS}, index by_score: CREATE INDEX by_score"],
    ),
    "an index is invalid": (
        INVALIDATE.format("public.ix_habit_index_pillar_id"),
        [f"changed: {HABITS}, index ix_habit_index_pillar_id: found CREATE INDEX"],
    ),
    "an index is over other columns": (
        "drop index public.ix_momentum_events_user_id_event_ts; create index ix_momentum_events_user_id_event_ts "
        "on public.momentum_events (user_id, event_ts)",
        ["changed: table public.momentum_events, index ix_momentum_events_user_id_event_ts: found CREATE INDEX"],
    ),
    "the score table's unique key is dropped": (
        "drop index legacy.uq_daily_engagement_scores_user_id_utc_day",
        [f"missing: {SCORES_TABLE}, index uq_daily_engagement_scores_user_id_utc_day: CREATE UNIQUE INDEX"],
    ),
    "the view shows other rows": (
        "create or replace view public.daily_momentum_scores with (security_invoker = true) as select user_id, score, "
        "(score_ts at time zone 'UTC')::date as score_date, pillar_breakdown from legacy.daily_engagement_scores as s "
        "where score > 0",
        [f"changed: {VIEW}, query: found SELECT"],
    ),
    "the view asks with its owner's rights": (
        "alter view public.daily_momentum_scores reset (security_invoker)",
        [f"changed: {VIEW}, options: found none, expected security_invoker=true"],
    ),
    "the view is a barrier too": (
        "alter view public.daily_momentum_scores set (security_barrier = true)",
        [f"changed: {VIEW}, options: found security_invoker=true, security_barrier=true, expected"],
    ),
    "the view's column has a default": (
        "alter view public.daily_momentum_scores alter score set default 5",
        [f"changed: {VIEW}, column score: found numeric default 5, expected numeric"],
    ),
    "the view is dropped": (
        "drop view public.daily_momentum_scores",
        [f"missing: {VIEW}: owned by the owner of momentum_internal"],
    ),
    "everybody may read the view": (
        "grant select on public.daily_momentum_scores to public",
        [f"unexpected: {VIEW}, grant to public: SELECT"],
    ),
    "nobody may read the view": (
        "revoke select on public.daily_momentum_scores from authenticated",
        [f"missing: {VIEW}, grant to authenticated: SELECT"],
    ),
    "the view has a trigger": (
        "create trigger write instead of insert on public.daily_momentum_scores "
        "for each row execute function momentum_internal.set_updated_at()",
        [f"unexpected: {VIEW}, trigger write: CREATE TRIGGER write INSTEAD OF INSERT"],
    ),
    "row level security is off": (
        "alter table public.habit_index disable row level security",
        [
            f"changed: {HABITS}, row level security: found disabled, not forced on the owner, "
            "expected enabled, not forced on the owner"
        ],
    ),
    "row level security is forced": (
        "alter table public.habit_index force row level security",
        [f"changed: {HABITS}, row level security: found enabled, forced on the owner"],
    ),
    "a policy is added": (
        "create policy everybody on public.habit_index for select to anon using (true)",
        [f"unexpected: {HABITS}, policy everybody: permissive for select to anon using (true)"],
    ),
    "a policy is dropped": (
        "drop policy daily_engagement_scores_select_own on legacy.daily_engagement_scores",
        [f"missing: {SCORES_TABLE}, policy daily_engagement_scores_select_own: permissive for select"],
    ),
    "a policy lets everything through": (
        "alter policy daily_engagement_scores_select_own on legacy.daily_engagement_scores using (true)",
        [f"changed: {SCORES_TABLE}, policy daily_engagement_scores_select_own: found permissive for select"],
    ),
    "a policy is for others": (
        "alter policy daily_engagement_scores_select_own on legacy.daily_engagement_scores to public, anon",
        [f"changed: {SCORES_TABLE}, policy daily_engagement_scores_select_own: found permissive for select to public"],
    ),
    "a function does nothing": (
        "create or replace function momentum_internal.set_updated_at() returns trigger language plpgsql "
        "set search_path = '' as 'begin return new; end'",
        [f"changed: {FUNCTION}, body: found begin return new; end, expected"],
    ),
    "a function has no search path": (
        "alter function momentum_internal.set_updated_at() reset search_path",
        [f'changed: {FUNCTION}, settings: found none, expected search_path=""'],
    ),
    "a function has its owner's rights": (
        "alter function momentum_internal.set_updated_at() security definer",
        [f"changed: {FUNCTION}, kind: found plpgsql, returns trigger, volatile, security definer, expected"],
    ),
    "a function promises more": (
        "alter function momentum_internal.set_updated_at() stable strict parallel safe",
        [f"changed: {FUNCTION}, kind: found plpgsql, returns trigger, stable, security invoker, strict, parallel safe"],
    ),
    "everybody may call a function": (
        "grant execute on function momentum_internal.set_updated_at() to public",
        [f"unexpected: {FUNCTION}, grant to public: EXECUTE"],
    ),
    "a trigger is disabled": (
        "alter table public.habit_index disable trigger set_updated_at",
        [f"changed: {HABITS}, trigger set_updated_at: found CREATE TRIGGER"],
    ),
    "a trigger fires on replicas only": (
        "alter table public.habit_index enable replica trigger set_updated_at",
        [f"changed: {HABITS}, trigger set_updated_at: found CREATE TRIGGER"],
    ),
    "a trigger is dropped": (
        "drop trigger set_updated_at on public.habit_index",
        [f"missing: {HABITS}, trigger set_updated_at: CREATE TRIGGER"],
    ),
    "a trigger is added": (
        "create trigger again after insert on public.habit_index "
        "for each row execute function momentum_internal.set_updated_at()",
        [f"unexpected: {HABITS}, trigger again: CREATE TRIGGER again AFTER INSERT"],
    ),
    "a trigger fires at other times": (
        "create or replace trigger set_updated_at before insert on public.habit_index "
        "for each row execute function momentum_internal.set_updated_at()",
        [f"changed: {HABITS}, trigger set_updated_at: found CREATE TRIGGER set_updated_at BEFORE INSERT"],
    ),
    "a rule is added": (
        "create rule keep as on delete to public.habit_index do instead nothing",
        [f"unexpected: {HABITS}, rule keep: CREATE RULE keep AS"],
    ),
    "a table is granted to anon": (
        "grant select on public.habit_index to anon",
        [f"unexpected: {HABITS}, grant to anon: SELECT"],
    ),
    "truncate is granted": (
        "grant truncate on public.habit_index to authenticated",
        [
            f"changed: {HABITS}, grant to authenticated: found DELETE, INSERT, SELECT, TRUNCATE, UPDATE, "
            "expected DELETE, INSERT, SELECT, UPDATE"
        ],
    ),
    "a grant may be handed on": (
        "grant select on public.habit_index to authenticated with grant option",
        [f"changed: {HABITS}, grant to authenticated: found DELETE, INSERT, SELECT with grant option, UPDATE"],
    ),
    "a grant is revoked": (
        "revoke delete on public.habit_index from service_role",
        [f"changed: {HABITS}, grant to service_role: found INSERT, REFERENCES, SELECT"],
    ),
    "the owner gives up a right": (
        "revoke insert on public.habit_index from current_user",
        [f"changed: {HABITS}, grant to owner: found DELETE, REFERENCES, SELECT"],
    ),
    "a column is granted to anon": (
        "grant select (details) on public.habit_index to anon",
        [f"unexpected: {HABITS}, column details, grant to anon: SELECT"],
    ),
    "the private schema is opened": (
        "grant usage on schema momentum_internal to authenticated",
        ["unexpected: schema momentum_internal, grant to authenticated: USAGE"],
    ),
    "the legacy schema is opened": (
        "grant create on schema legacy to anon",
        ["unexpected: schema legacy, grant to anon: CREATE"],
    ),
    "the legacy schema is closed": (
        "revoke usage on schema legacy from service_role",
        ["missing: schema legacy, grant to service_role: USAGE"],
    ),
    "the version table is opened": (
        "grant update on momentum_internal.alembic_version to anon",
        ["unexpected: table momentum_internal.alembic_version, grant to anon: UPDATE"],
    ),
    "the record's table is opened": (
        "grant select on momentum_internal.score_table to service_role",
        [f"unexpected: {RECORD}, grant to service_role: SELECT"],
    ),
    "the record is lost": (
        "delete from momentum_internal.score_table",
        [f"changed: {RECORD}, row: found none, expected relation, layout, created_table of the score table"],
    ),
    "the record is incomplete": (
        "alter table momentum_internal.score_table drop created_table",
        [f"changed: {RECORD}, row: found layout seed, only_row True, "],
    ),
    "the record has one column less": (
        "alter table momentum_internal.score_table drop granted_usage",
        [f"missing: {RECORD}, column granted_usage: boolean not null"],
    ),
    "a table's comment is another": (
        "comment on table public.habit_index is E'two\\nlines'",
        [f"changed: {HABITS}, comment: found two\\nlines, expected Strength of users' habits"],
    ),
    "a column's comment is gone": (
        "comment on column public.habit_index.details is null",
        [f"missing: {HABITS}, column details, comment: Details of the calculation"],
    ),
    "a schema's comment is gone": (
        "comment on schema momentum_internal is null",
        ["missing: schema momentum_internal, comment: Private to the momentum migrations"],
    ),
    "an index has a comment": (
        "comment on index public.ix_habit_index_pillar_id is 'Why?'",
        [f"unexpected: {HABITS}, index ix_habit_index_pillar_id, comment: Why?"],
    ),
    "a table belongs to somebody else": (
        f"{AS_ADMIN}alter table public.habit_index owner to anon",
        [f"changed: {HABITS}: found owned by anon, expected owned by the owner of momentum_internal"],
    ),
    "a function belongs to somebody else": (
        "grant create on schema momentum_internal to anon; "
        "alter function momentum_internal.set_updated_at() owner to anon; "
        "revoke create on schema momentum_internal from anon",
        [f"changed: {FUNCTION}: found owned by anon, expected owned by the owner of momentum_internal"],
    ),
    "the view belongs to somebody else": (
        f"{AS_ADMIN}alter view public.daily_momentum_scores owner to anon",
        [f"changed: {VIEW}: found owned by anon, expected owned by the owner of momentum_internal"],
    ),
    "a table doesn't survive a crash": (
        "alter table public.motivation_journal set unlogged",
        ["changed: table public.motivation_journal, persistence: found unlogged, expected permanent"],
    ),
    "replicas see whole rows": (
        "alter table public.habit_index replica identity full",
        [f"changed: {HABITS}, replica identity: found full, expected default"],
    ),
    "a table has a child": (
        "create table public.weather () inherits (public.habit_index)",
        [f"unexpected: {HABITS}, child public.weather: its rows are rows of this table too"],
    ),
    "a right of all is missing": (
        # MAINTAIN exists from PostgreSQL 17 on.
        "do $$ begin if current_setting('server_version_num')::int >= 170000 then "
        "revoke maintain on public.habit_index from service_role; else "
        "revoke trigger on public.habit_index from service_role; end if; end $$",
        [f"changed: {HABITS}, grant to service_role: found DELETE, INSERT, REFERENCES, SELECT, "],
    ),
    "a key's index has a comment": (
        "comment on index public.pk_habit_index is 'Why?'",
        [f"unexpected: {HABITS}, constraint pk_habit_index, index, comment: Why?"],
    ),
    "there are two functions": (
        "create function momentum_internal.set_updated_at(integer) returns integer language sql as 'select 1'",
        ["unexpected: function momentum_internal.set_updated_at(integer): owned by the owner of momentum_internal"],
    ),
    "the record names another table": (
        "update momentum_internal.score_table set relation = 'public.daily_engagement_scores'",
        [f"changed: {RECORD}, row: found public.daily_engagement_scores, seed, "],
    ),
    "a table is dropped": (
        "drop table public.habit_index",
        [f"missing: {HABITS}: owned by the owner of momentum_internal"],
    ),
    "a table is a view": (
        "alter table public.habit_index rename to habits; "
        "create view public.habit_index as select * from public.habits",
        [f"missing: {HABITS}: owned by the owner of momentum_internal"],
    ),
}

# The rights that the platform gives its roles, and its function, on which ours rely.
UID = AS_ADMIN + "create or replace function auth.uid() returns uuid language sql stable as $$select {}$$"
ANON_USER = "'10000000-0000-4000-8000-00000000000a'::uuid"
SUB = "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid"
WRONG_USER = ["changed: platform, function auth.uid(): found returns somebody else than the user whom the token names"]
OPEN = "found USAGE, CREATE{}, expected USAGE"
PLATFORM_DRIFTS: dict[str, tuple[str, list[str]]] = {
    "everybody is the same user": (UID.format(ANON_USER), WRONG_USER),
    "everybody is nobody": (UID.format("null::uuid"), WRONG_USER),
    "somebody without a token is a user": (UID.format(f"coalesce({SUB}, {ANON_USER})"), WRONG_USER),
    "another claim says who the user is": (UID.format(SUB.replace("sub", "user_id")), WRONG_USER),
    "a setting of the client's says who the user is": (
        UID.format("nullif(current_setting('request.user', true), '')::uuid"),
        WRONG_USER,
    ),
    "nobody can be asked who the user is": (
        UID.format("(1 / 0)::text::uuid"),
        ["changed: platform, function auth.uid(): found fails: DivisionByZero, expected returns the user"],
    ),
    "anon passes row level security": (
        f"{AS_ADMIN}alter role anon bypassrls",
        ["changed: platform, role anon: found bypasses row level security, expected subject to row level security"],
    ),
    "anon is a superuser": (
        f"{AS_ADMIN}alter role anon superuser",
        ["changed: platform, role anon: found superuser, expected subject to row level security"],
    ),
    "users pass row level security": (
        f"{AS_ADMIN}alter role authenticated bypassrls",
        ["changed: platform, role authenticated: found bypasses row level security, expected"],
    ),
    "users may become the service": (
        f"{AS_ADMIN}grant service_role to authenticated",
        [
            "changed: platform, role authenticated: found subject to row level security, member of service_role, "
            "expected subject to row level security"
        ],
    ),
    "users may become the service by way of another role": (
        f"{AS_ADMIN}create role between; grant service_role to between; grant between to authenticated",
        ["changed: platform, role authenticated: found subject to row level security, member of service_role"],
    ),
    "anon may do what users may": (
        f"{AS_ADMIN}grant authenticated to anon",
        ["changed: platform, role anon: found subject to row level security, member of authenticated, expected"],
    ),
    "users may read everything": (
        f"{AS_ADMIN}grant pg_read_all_data to authenticated",
        ["changed: platform, role authenticated: found subject to row level security, member of pg_read_all_data"],
    ),
    "users may become the auth service": (
        f"{AS_ADMIN}grant supabase_auth_admin to authenticated",
        ["changed: platform, role authenticated: found subject to row level security, member of supabase_auth_admin"],
    ),
    "anon may create roles": (
        f"{AS_ADMIN}alter role anon createrole",
        ["changed: platform, role anon: found subject to row level security, may create roles, expected"],
    ),
    "users may log in past the token's check": (
        f"{AS_ADMIN}alter role authenticated login",
        ["changed: platform, role authenticated: found subject to row level security, may log in, expected"],
    ),
    "anon may read the log of all changes": (
        f"{AS_ADMIN}alter role anon replication",
        ["changed: platform, role anon: found subject to row level security, may replicate, expected"],
    ),
    "the service no longer sees all rows": (
        f"{AS_ADMIN}alter role service_role nobypassrls",
        ["unexpected: platform, role service_role: subject to row level security"],
    ),
    "anon may create schemas": (
        f"{AS_ADMIN}do $$ begin execute format('grant create on database %I to anon', current_database()); end $$",
        ["unexpected: platform, rights of anon in the database: CREATE"],
    ),
    "there is a second way to say who the user is": (
        UID.format(f"coalesce(nullif(current_setting('request.user', true), '')::uuid, {SUB})"),
        ["unexpected: platform, function auth.uid(), body: select coalesce(nullif(current_setting('request.user', "],
    ),
    "who the user is, is kept": (
        f"{AS_ADMIN}alter function auth.uid() immutable",
        ["unexpected: platform, function auth.uid(), body: "],
    ),
    "users may not ask who they are": (
        f"{AS_ADMIN}grant execute on function auth.uid() to anon, service_role; "
        "do $$ begin execute format('grant execute on function auth.uid() to %I', (select datdba::regrole from "
        "pg_database where datname = current_database())); end $$; "
        "revoke execute on function auth.uid() from public",
        ["unexpected: platform, function auth.uid(), calls by authenticated: refused"],
    ),
    "users write without keys and triggers": (
        f"{AS_ADMIN}alter role authenticated set session_replication_role = replica",
        ["unexpected: platform, setting session_replication_role of role authenticated: session_replication_role=repl"],
    ),
    "everybody writes without keys and triggers": (
        f"{AS_ADMIN}do $$ begin execute format('alter database %I set session_replication_role = replica', "
        "current_database()); end $$",
        ["unexpected: platform, setting session_replication_role of every role: session_replication_role=replica"],
    ),
    "anon may switch keys and triggers off": (
        f"{AS_ADMIN}grant set on parameter session_replication_role to anon",
        ["unexpected: platform, setting session_replication_role, grant to anon: SET"],
    ),
    "somebody without a token gets one": (
        f"""{AS_ADMIN}alter role anon set request.jwt.claims = '{{"sub": "1"}}'""",
        ["unexpected: platform, setting request.jwt.claims of role anon: request.jwt.claims="],
    ),
    "everybody may create tables": (
        "grant create on schema public to public",
        [
            f"changed: platform, rights of {role} in schema public: {OPEN.format(' as everybody')}"
            for role in ("anon", "authenticated")
        ],
    ),
    "anon may create tables": (
        "grant create on schema public to anon",
        [f"changed: platform, rights of anon in schema public: {OPEN.format('')}"],
    ),
    "clients may not use the schema": (
        "revoke usage on schema public from public, anon, authenticated, service_role",
        [
            f"changed: platform, rights of {role} in schema public: found none, expected USAGE"
            for role in ("anon", "authenticated", "service_role")
        ],
    ),
}

# The function as the platform's versions have it, newest first. One fails without a token.
RIGHT_FUNCTIONS = (
    "coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''), "
    "(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'))::uuid",
    "coalesce(current_setting('request.jwt.claim.sub', true), "
    "(current_setting('request.jwt.claims', true)::jsonb ->> 'sub'))::uuid",
    "nullif(current_setting('request.jwt.claim.sub', true), '')::uuid",
    SUB,
)

SEED_KEY = "legacy.uq_daily_engagement_scores_user_id_utc_day"
SUPERSEDED = "table momentum_internal.superseded_scores"

# The same where a score table in the seed's layout was adopted. It has this name in any schema.
SEED_DRIFTS: dict[str, tuple[str, list[str]]] = {
    "the unique key is dropped": (f"drop index {SEED_KEY}", ["missing: score table, unique index: unique, valid"]),
    "the unique key is invalid": (
        INVALIDATE.format(SEED_KEY),
        ["changed: score table, unique index: found unique, invalid, immediate, of all rows, over user_id and"],
    ),
    "the unique key has another name": (
        f"alter index {SEED_KEY} rename to a_day_once",
        ["missing: score table, unique index: unique, valid"],
    ),
    "the unique key is none": (
        f"drop index {SEED_KEY}; create index uq_daily_engagement_scores_user_id_utc_day "
        "on legacy.daily_engagement_scores (user_id, ((score_ts at time zone 'UTC')::date))",
        ["changed: score table, unique index: found not unique, valid"],
    ),
    "the unique key is partial": (
        f"drop index {SEED_KEY}; create unique index uq_daily_engagement_scores_user_id_utc_day "
        "on legacy.daily_engagement_scores (user_id, ((score_ts at time zone 'UTC')::date)) where score > 0",
        ["changed: score table, unique index: found unique, valid, immediate, partial"],
    ),
    "the unique key is over another day": (
        f"drop index {SEED_KEY}; create unique index uq_daily_engagement_scores_user_id_utc_day "
        "on legacy.daily_engagement_scores (user_id, ((score_ts at time zone 'CET')::date))",
        ["changed: score table, unique index: found unique, valid, immediate, of all rows, over user_id and ((("],
    ),
    "a column has another type": (
        "drop view public.daily_momentum_scores; alter table legacy.daily_engagement_scores alter score type integer",
        [
            "changed: score table, column score: found integer, expected numeric",
            f"missing: {VIEW}: owned by the owner of momentum_internal",
        ],
    ),
    "a column has another name": (
        "alter table legacy.daily_engagement_scores rename score to points",
        ["missing: score table, column score: numeric", f"changed: {VIEW}, query: found SELECT user_id, points AS"],
    ),
    "the table is moved": (
        "alter table legacy.daily_engagement_scores set schema public",
        [
            "missing: score table: table",
            f"changed: {VIEW}, query: found SELECT user_id, score, ((score_ts AT TIME ZONE",
        ],
    ),
    "a table of ours is opened": (
        "grant select on public.habit_index to anon",
        [f"unexpected: {HABITS}, grant to anon: SELECT"],
    ),
    "superseded scores are opened": (
        "grant select on momentum_internal.superseded_scores to authenticated",
        [f"unexpected: {SUPERSEDED}, grant to authenticated: SELECT"],
    ),
    "superseded scores outlive their user": (
        "alter table momentum_internal.superseded_scores drop constraint fk_superseded_scores_user_id_users",
        [f"missing: {SUPERSEDED}, constraint fk_superseded_scores_user_id_users: FOREIGN KEY"],
    ),
    "superseded scores lack a column": (
        "alter table momentum_internal.superseded_scores drop score",
        [f"missing: {SUPERSEDED}, column score: numeric"],
    ),
    "the table has a child": (
        "create table public.heirs () inherits (legacy.daily_engagement_scores)",
        ["unexpected: score table, child public.heirs: its rows are rows of this table too"],
    ),
    "a rule turns rows away": (
        "create rule keep as on insert to legacy.daily_engagement_scores do instead nothing",
        ["unexpected: score table, rule keep: CREATE RULE keep AS"],
    ),
    "no default row can be inserted": (
        "alter table legacy.daily_engagement_scores add mood text not null default 'calm'; "
        "alter table legacy.daily_engagement_scores alter mood drop default",
        ["unexpected: score table, required column mood: not null, without a default"],
    ),
    "a key lets in one day per user": (
        "create unique index once on legacy.daily_engagement_scores (user_id, score)",
        ["unexpected: score table, narrow key once: CREATE UNIQUE INDEX once ON legacy.daily_engagement_scores"],
    ),
    "an exclusion lets in one day per user": (
        "alter table legacy.daily_engagement_scores add constraint once exclude using btree (user_id with =)",
        ["unexpected: score table, narrow key once: CREATE INDEX once ON legacy.daily_engagement_scores"],
    ),
    "the table is empty after a crash": (
        "alter table legacy.daily_engagement_scores set unlogged",
        ["unexpected: score table, persistence: unlogged"],
    ),
    "the table belongs to somebody else": (
        f"{AS_ADMIN}alter table legacy.daily_engagement_scores owner to authenticated",
        ["unexpected: score table, owner: authenticated, who could borrow the rights of the role that fills it"],
    ),
    "superseded scores are gone": (
        "drop table momentum_internal.superseded_scores",
        [f"missing: {SUPERSEDED}: owned by the owner of momentum_internal"],
    ),
}

PRODUCTION_KEY = "public.idx_daily_scores_user_date"
# The same for the app's production layout, with a unique index of its own.
PRODUCTION_DRIFTS: dict[str, tuple[str, list[str]]] = {
    "the unique key is dropped": (
        f"drop index {PRODUCTION_KEY}",
        ["missing: score table, unique index: unique, valid"],
    ),
    "the unique key is invalid": (
        INVALIDATE.format(PRODUCTION_KEY),
        [
            "changed: score table, unique index: found unique, invalid, immediate, of all rows, over user_id and "
            "score_date, expected unique, valid, immediate, of all rows, over user_id and score_date"
        ],
    ),
    "the unique key is wider": (
        f"drop index {PRODUCTION_KEY}; create unique index idx_daily_scores_user_date "
        "on public.daily_engagement_scores (user_id, score_date, algorithm_version)",
        ["changed: score table, unique index: found unique, valid, immediate, of all rows, over user_id and score_d"],
    ),
    "the unique key is checked late": (
        f"drop index {PRODUCTION_KEY}; alter table public.daily_engagement_scores "
        "add constraint idx_daily_scores_user_date unique (user_id, score_date) deferrable",
        ["changed: score table, unique index: found unique, valid, deferrable, of all rows, over user_id and score_d"],
    ),
    "a column has another type": (
        "alter table public.daily_engagement_scores alter calculation_metadata drop default, "
        "alter calculation_metadata type text",
        ["changed: score table, column calculation_metadata: found text, expected jsonb"],
    ),
    "a column is dropped": (
        "alter table public.daily_engagement_scores drop calculation_metadata",
        ["missing: score table, column calculation_metadata: jsonb"],
    ),
    "the table is another": (
        "alter table public.daily_engagement_scores rename to old_scores; "
        "create view public.daily_engagement_scores as select * from public.old_scores",
        [
            "changed: score table: found not a plain table, expected table",
            "missing: score table, unique index: unique, valid",
            f"changed: {VIEW}, query: found SELECT user_id, final_score AS score, score_date, "
            "breakdown AS pillar_breakdown FROM public.old_scores s;",
        ],
    ),
    "the view asks with its owner's rights": (
        "alter view public.daily_momentum_scores set (security_invoker = false)",
        [f"changed: {VIEW}, options: found security_invoker=false, expected security_invoker=true"],
    ),
}


def refusal(revision: str) -> str:
    """Return the sentence that refuses to compare a database at a revision."""
    return (
        f"The database is at revision {revision}; this version of the package compares revision "
        f"{' or '.join(sorted(REVISIONS))} only: upgrade the database, or use the version that migrated it."
    )


def connect(url: sa.URL) -> sa.Connection:
    return engine_of(url).connect()


@contextmanager
def migrated(server: Server, scores: str, *, predecessors: bool = False) -> Iterator[sa.URL]:
    """Yield the URL of a database of ``database_with_scores`` that has been migrated."""
    url = database_with_scores(server, scores, predecessors=predecessors)
    migrate_to(url, HEAD, existing="adopt", access="close")
    yield url
    server.drop_database(url)


@pytest.fixture(scope="module")
def seed(server: Server) -> Iterator[sa.Connection]:
    """The same where a score table in the seed's layout was adopted."""
    with migrated(server, "legacy.seed") as url, connect_as_owner(server, url) as connection:
        yield connection


@pytest.fixture(scope="module")
def production(server: Server) -> Iterator[sa.Connection]:
    """The same where it was one in the production layout, and the app had its own versions of our tables."""
    with migrated(server, "public.production", predecessors=True) as url, connect_as_owner(server, url) as connection:
        yield connection


def assert_named(connection: sa.Connection, drift: tuple[str, list[str]]) -> None:
    sql, expected = drift
    with connection.begin() as transaction:
        migrates = connection.exec_driver_sql("select quote_ident(current_user)").scalar_one()
        execute_script(connection, f"{sql}; set session authorization {migrates}")
        lines = verify.differences(connection)
        transaction.rollback()
    assert len(lines) == len(expected), f"this drift and no other is named: {lines}"
    for line, beginning in zip(lines, expected, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=DRIFTS)
def test_a_drift_is_named_and_nothing_else(fresh: sa.Connection, drift: tuple[str, list[str]]) -> None:
    assert_named(fresh, drift)


@pytest.mark.parametrize("drift", PLATFORM_DRIFTS.values(), ids=PLATFORM_DRIFTS)
def test_a_drift_of_the_platform_is_named(fresh: sa.Connection, drift: tuple[str, list[str]]) -> None:
    assert_named(fresh, drift)


@pytest.mark.parametrize("query", RIGHT_FUNCTIONS)
def test_each_version_of_the_platforms_function_is_right(fresh: sa.Connection, query: str) -> None:
    assert_named(fresh, (UID.format(query), []))


@pytest.mark.parametrize("schema", ["legacy", "public"])
@pytest.mark.parametrize("revision", HISTORY[1:-1])
def test_a_version_that_was_set_back_is_named(
    fresh: sa.Connection, production: sa.Connection, schema: str, revision: str
) -> None:
    connection = fresh if schema == "legacy" else production
    drift = f"update momentum_internal.alembic_version set version_num = '{revision}'"
    line = f"changed: table momentum_internal.alembic_version, row: found {revision}, expected {HEAD}"
    assert_named(connection, (drift, [line]))
    with connection.begin() as transaction:
        execute_script(connection, f"{drift}; drop view public.daily_momentum_scores")
        with pytest.raises(NotMigratedError, match=refusal(revision)):
            verify.differences(connection)
        transaction.rollback()


@pytest.mark.parametrize("drift", SEED_DRIFTS.values(), ids=SEED_DRIFTS)
def test_a_drift_in_the_seeds_layout_is_named(seed: sa.Connection, drift: tuple[str, list[str]]) -> None:
    assert_named(seed, drift)


@pytest.mark.parametrize("drift", PRODUCTION_DRIFTS.values(), ids=PRODUCTION_DRIFTS)
def test_a_drift_in_the_production_layout_is_named(production: sa.Connection, drift: tuple[str, list[str]]) -> None:
    assert_named(production, drift)


def test_the_bookkeeping_of_predecessors_belongs_to_them(fresh: sa.Connection, production: sa.Connection) -> None:
    rows = "table momentum_internal.predecessor_rows"
    grant = "grant all on momentum_internal.predecessor_rows to service_role"
    assert_named(production, (grant, [f"unexpected: {rows}, grant to service_role: DELETE, INSERT"]))
    assert_named(
        production,
        (
            "drop table momentum_internal.predecessor_rows",
            [f"missing: {rows}: owned by the owner of momentum_internal"],
        ),
    )
    # Where there are none, a table of that name is not ours.
    assert_named(fresh, ("create table momentum_internal.predecessor_rows (id uuid)", []))


def test_a_key_that_we_made_for_the_production_layout_has_its_name(server: Server) -> None:
    url = database_with_scores(server, "public.production")
    try:
        run(url, f"drop index {PRODUCTION_KEY}")
        migrate_to(url, HEAD)
        assert differences(url) == []
        run(url, "alter index public.uq_daily_engagement_scores_user_id_score_date rename to a_day_once")
        [line] = differences(url)
        assert line.startswith("missing: score table, unique index: unique, valid")
    finally:
        server.drop_database(url)


# All of them take a minute: `MOMENTUM_MUTATIONS=all pytest tests/verify/test_compare.py`.
ALL_MUTATIONS = os.environ.get("MOMENTUM_MUTATIONS") == "all"

# Of the first two either value may be right: they record an earlier state, which can't be seen any more. Anything else
# in the private schema is not ours, and storage parameters are their owner's to choose.
NO_DIFFERENCE = {
    "score_table.created_schema: row changed",
    "score_table.granted_usage: row changed",
    "momentum_internal.set_updated_at(): function another one added",
    *(
        f"public.ix_{index}: index another fill factor"
        for index in (
            "habit_index_pillar_id",
            "momentum_events_pillar_id",
            "momentum_events_user_id_event_ts",
            "motivation_journal_pillar_id",
        )
    ),
}


@pytest.mark.slow
def test_each_change_of_a_fact_is_noticed(
    server: Server, fresh: sa.Connection, record_property: Callable[[str, object], None]
) -> None:
    driver_connection: Any = fresh.connection.driver_connection
    # One in eight takes a few seconds; the test of the pgTAP files makes all of them.
    mutations = read_mutations(driver_connection)[:: 1 if ALL_MUTATIONS else 8]
    unnoticed = set()
    for mutation in mutations:
        with fresh.begin() as transaction:
            driver_connection.execute(f"{AS_ADMIN}{mutation.statement}; {as_owner(server)}")
            try:
                if not verify.differences(fresh):
                    unnoticed.add(str(mutation))
            except (ConfigurationError, NotMigratedError):
                assert "momentum_internal" in mutation.statement, "only without a version there is nothing to compare"
            transaction.rollback()
    noticed = len(mutations) - len(unnoticed)
    record_property("summary", f"mutations noticed: {noticed}/{len(mutations)} (PostgreSQL {server.version})")
    assert len(mutations) > (1000 if ALL_MUTATIONS else 125)
    assert unnoticed == NO_DIFFERENCE if ALL_MUTATIONS else unnoticed <= NO_DIFFERENCE


def test_a_not_null_that_was_never_checked_is_named_where_there_can_be_one(
    server: Server, fresh: sa.Connection
) -> None:
    alter = "alter table public.habit_index alter user_id drop not null"
    if int(server.version.split(".")[0]) < 18:
        return assert_named(fresh, (alter, [f"changed: {HABITS}, column user_id: found uuid, expected"]))
    lines = [f"changed: {HABITS}, column user_id: found uuid not null (not valid), expected uuid not null"]
    return assert_named(fresh, (f"{alter}; alter table public.habit_index add not null user_id not valid", lines))


def test_what_is_not_ours_makes_no_difference(server: Server, fresh: sa.Connection) -> None:
    with fresh.begin() as transaction:
        execute_script(
            fresh,
            """
            create table public.somebody_elses (id integer primary key, habit uuid references public.habit_index (id));
            grant all on public.somebody_elses to anon;
            create view public.daily_scores as select * from public.daily_momentum_scores;
            create function public.set_updated_at() returns trigger language plpgsql as 'begin return new; end';
            alter default privileges in schema public grant select on tables to anon;
            alter default privileges grant usage on schemas to anon;
            create publication some_tables for table public.habit_index;
            alter table public.habit_index set (autovacuum_enabled = false);
            alter index public.ix_habit_index_pillar_id set (fillfactor = 50, deduplicate_items = off);
            alter index public.pk_habit_index set (fillfactor = 50);
            alter table public.habit_index alter details set statistics 500;
            create statistics public.some_statistics on user_id, index_date from public.habit_index;
            create table momentum_internal.predecessor_of_old (like public.habit_index including all);
            create view momentum_internal.predecessor_daily_momentum_scores as select * from public.habit_index;
            create table momentum_internal.momentum_events (id uuid);
            create table legacy.of_old (id integer);
            reset session authorization;
            grant anon to authenticated;
            create table auth.sessions (id uuid);
            comment on table auth.users is 'Users.';
            create index on auth.users (email);
            """
            + as_owner(server),
        )
        assert verify.differences(fresh) == []
        transaction.rollback()


# Columns that a later revision added and its downgrade parked: they are renamed, and nothing else changes.
PARKED = """
alter table {table} add weather text collate "C" not null default 'calm' constraint ck_weather check (weather <> '');
alter table {table} add mood_pillar_id uuid constraint fk_mood references public.momentum_pillars (id);
alter table {table} add constraint uq_weather unique (user_id, weather);
create index ix_mood on {table} (user_id) include (weather);
create index ix_lower_mood on {table} (lower(weather));
create index ix_calm on {table} (user_id) where weather = 'calm';
comment on column {table}.weather is 'How it was.';
comment on constraint ck_weather on {table} is 'Why?';
comment on constraint uq_weather on {table} is 'Why?';
comment on index {schema}.uq_weather is 'Why?';
comment on index {schema}.ix_calm is 'Why?';
grant select (weather), update (weather) on {table} to anon;
alter table {table} rename weather to parked_weather;
alter table {table} rename mood_pillar_id to parked_weather_pillar_id;
"""


@pytest.mark.parametrize(
    "table", ["public.motivation_journal", "legacy.daily_engagement_scores", "momentum_internal.superseded_scores"]
)
def test_parked_columns_make_no_difference(fresh: sa.Connection, seed: sa.Connection, table: str) -> None:
    connection = seed if table == "momentum_internal.superseded_scores" else fresh
    assert_named(connection, (PARKED.format(table=table, schema=table.partition(".")[0]), []))


def test_a_key_that_refers_to_a_parked_column_makes_no_difference(fresh: sa.Connection) -> None:
    parked = """
        alter table public.momentum_pillars add parked_twin_id uuid unique;
        alter table public.habit_index add foreign key (pillar_id) references public.momentum_pillars (parked_twin_id);
    """
    assert_named(fresh, (parked, []))


def test_a_key_that_the_seeds_layout_brought_may_have_any_name(server: Server) -> None:
    url = database_with_scores(server, "public.seed")
    try:
        key = "on public.daily_engagement_scores (((score_ts at time zone 'UTC')::date), user_id)"
        run(url, f"create unique index a_day_once {key}")
        migrate_to(url, HEAD)
        assert differences(url) == []
        run(url, "alter index public.a_day_once rename to one_a_day")
        assert differences(url) == []
        run(url, "drop index public.one_a_day")
        [line] = differences(url)
        assert line.startswith("missing: score table, unique index: unique, valid")
    finally:
        server.drop_database(url)


EXTRAS = """
alter table {table} add weather text default 'calm', add constraint positive check (user_id is not null) not valid;
alter table {table} disable row level security;
alter table {table} replica identity nothing;
create policy all_rows on {table} using (true);
grant all on {table} to anon;
grant usage on schema {schema} to public;
create index by_mood on {table} (weather);
create trigger touch before update on {table} for each row execute function momentum_internal.set_updated_at();
comment on table {table} is 'Other scores.';
comment on column {table}.user_id is 'Whose.';
alter table {table} alter user_id drop not null;
create unique index once_more on {table} (user_id, {moment}, {score});
create unique index once_in_a_while on {table} (user_id) where {score} > 90;
reset session authorization;
alter table {table} owner to {owner};
"""


def test_what_else_an_adopted_table_has_makes_no_difference(
    server: Server, seed: sa.Connection, production: sa.Connection
) -> None:
    of_seed = (
        "alter table momentum_internal.superseded_scores add weather text; "
        "alter table legacy.daily_engagement_scores drop note"
    )
    # The table's own key may have any name, and there may be two.
    of_production = (
        f"alter index {PRODUCTION_KEY} rename to by_day; "
        "create unique index a_day_once on public.daily_engagement_scores (score_date, user_id); "
        f"{INVALIDATE.format('public.by_day')}; alter table public.daily_engagement_scores drop events_count"
    )
    for connection, schema, moment, score, more in (
        (seed, "legacy", "score_ts", "score", of_seed),
        (production, "public", "score_date", "final_score", of_production),
    ):
        extras = EXTRAS.format(
            schema=schema,
            table=f"{schema}.daily_engagement_scores",
            owner=server.admin_url.username,
            moment=moment,
            score=score,
        )
        assert_named(connection, (f"{extras}; {more}", []))


def test_an_adopted_column_may_be_wider(server: Server) -> None:
    url = database_with_scores(server, "public.seed")
    try:
        run(url, "alter table public.daily_engagement_scores alter score type numeric")
        migrate_to(url, HEAD)
        assert differences(url) == []
    finally:
        server.drop_database(url)


@pytest.mark.parametrize(
    "prepare",
    [
        "grant usage on schema legacy to public",
        "grant all on schema legacy to service_role; comment on schema legacy is 'Old things.'",
        f"{AS_ADMIN}alter schema legacy owner to supabase_auth_admin; "
        "grant all on schema legacy to {owner} with grant option",
    ],
)
def test_a_schema_that_was_there_is_not_ours_but_service_role_must_get_in(server: Server, prepare: str) -> None:
    with server.database(migrated=False) as url:
        prepare = prepare.format(owner=url.username)
        run(server.as_admin(url), f"{as_owner(server)}; create schema legacy; {prepare}")
        migrate_to(url, HEAD)
        assert differences(url) == []
        run(url, "revoke all on schema legacy from public, service_role")
        assert differences(url) == ["missing: schema legacy, grant to service_role: USAGE"]


# A role that may do just what the migrations need.
MIGRATOR = """
create role {role} login password 'secret';
grant create on database {database} to {role};
grant usage, create on schema public to {role};
grant usage on schema auth to {role};
grant select, references on auth.users to {role};
"""


@pytest.mark.parametrize(
    ("keeper", "advice"),
    [
        ("{}_keeper", "connect as {keeper}, or let {keeper} run `grant usage on schema legacy to service_role`"),
        (
            "supabase_auth_admin",
            "nobody outside of Supabase can be {keeper}, so ask its support to run `grant usage on schema legacy to "
            "service_role`",
        ),
    ],
)
def test_a_schema_into_which_only_its_owner_can_let_service_role_is_a_warning(
    server: Server, caplog: pytest.LogCaptureFixture, keeper: str, advice: str
) -> None:
    with server.database(migrated=False) as url:
        role, keeper = f"{url.database}_migrator", keeper.format(url.database)
        own_keeper = keeper.startswith(str(url.database))
        create = f"create role {keeper} superuser" if own_keeper else "select"
        own = url.set(username=role, password="secret")
        run(server.as_admin(url), MIGRATOR.format(role=role, database=url.database))
        run(
            server.as_admin(url),
            f"""
            {create};
            create schema legacy authorization {keeper};
            grant usage, create on schema legacy to {role};
            """,
        )
        warning = (
            "service_role may not use the schema legacy and so can't read or write legacy.daily_engagement_scores; the "
            f"schema belongs to {keeper}, and you are {role}: {advice.format(keeper=keeper)}."
        )
        with caplog.at_level(logging.WARNING):
            migrate_to(own, HEAD)
        assert warning in caplog.messages
        done = command(url=own)
        assert done.returncode == 0, "it is no difference"
        assert f"Warning: {warning}\n" in done.stderr
        assert done.stdout.endswith(f"matches revision {HEAD}.\n")
        admin_url = server.as_admin(url)
        # Then a superuser believes what belongs to it.
        run(admin_url, f"alter database {url.database} owner to {role}")
        line = "missing: schema legacy, grant to service_role: USAGE"
        assert differences(admin_url) == [line], "a superuser can grant it"
        run(admin_url, "grant usage on schema legacy to service_role")
        assert command(url=own).stderr.count("\n") == 1
        # The grant is not ours, and so a downgrade leaves it.
        migrate_to(own, "base")
        assert execute(url, "select has_schema_privilege('service_role', 'legacy', 'usage')")
        run(admin_url, f"drop owned by {role}")
    run(server.admin_url, f"drop role {role}")
    if own_keeper:
        run(server.admin_url, f"drop role {keeper}")


@pytest.mark.parametrize(
    "may", ["grant usage on schema legacy to {role} with grant option", "grant {keeper} to {role}"]
)
def test_a_role_that_may_hand_on_usage_lets_service_role_in(server: Server, may: str) -> None:
    with server.database(migrated=False) as url:
        role, keeper = f"{url.database}_migrator", f"{url.database}_keeper"
        own = url.set(username=role, password="secret")
        admin_url = server.as_admin(url)
        run(admin_url, MIGRATOR.format(role=role, database=url.database))
        run(admin_url, f"create role {keeper} superuser; create schema legacy authorization {keeper}")
        run(admin_url, f"grant usage, create on schema legacy to {role}; {may.format(role=role, keeper=keeper)}")
        migrate_to(own, HEAD)
        assert differences(own) == []
        assert execute(url, "select granted_usage from momentum_internal.score_table")
        run(
            admin_url,
            "revoke usage on schema legacy from service_role cascade; revoke all on schema legacy from service_role",
        )
        run(admin_url, f"drop owned by {role}; drop owned by {keeper}")
    run(server.admin_url, f"drop role {role}; drop role {keeper}")


HABITS_OF_SESSIONS = """
set {local} search_path = auth, public, legacy;
set {local} datestyle = 'German';
set {local} intervalstyle = 'sql_standard';
set {local} timezone = 'Asia/Kathmandu';
set {local} quote_all_identifiers = on;
set {local} extra_float_digits = -5;
set {local} bytea_output = 'escape';
"""


def settings(connection: sa.Connection) -> dict[str, str]:
    """Return what a session may set; of the rest, another test may change the server's own meanwhile."""
    statement = "select name, setting from pg_catalog.pg_settings where context in ('user', 'superuser')"
    rows = connection.execute(sa.text(statement))
    return {row.name: row.setting for row in rows}


def test_nothing_depends_on_the_session_and_the_session_stays_as_it_was(url: sa.URL) -> None:
    with connect(url) as connection:
        with connection.begin():
            execute_script(connection, HABITS_OF_SESSIONS.format(local=""))
        before = settings(connection)
        connection.rollback()
        assert verify.differences(connection) == []
        assert not connection.in_transaction(), "a connection without a transaction has none after"
        assert settings(connection) == before


def test_inside_a_transaction_nothing_of_it_is_lost_or_ended(url: sa.URL) -> None:
    with connect(url) as connection:
        execute_script(connection, HABITS_OF_SESSIONS.format(local="local"))
        connection.execute(sa.text("insert into public.momentum_pillars (name) values ('sleep')"))
        execute_script(connection, "alter table public.habit_index disable row level security")
        before = settings(connection)
        assert len(verify.differences(connection)) == 1, "uncommitted changes are seen"
        assert settings(connection) == before
        assert connection.in_transaction()
        assert connection.scalar(sa.text("select count(*) from public.momentum_pillars")) == 1
        connection.rollback()
        assert connection.scalar(sa.text("select count(*) from public.momentum_pillars")) == 0
        connection.rollback()
        assert verify.differences(connection) == []


def test_a_read_only_transaction_is_enough(url: sa.URL) -> None:
    with connect(url) as connection:
        connection.execute(sa.text("set transaction read only"))
        assert verify.differences(connection) == []
        assert connection.scalar(sa.text("show transaction_read_only")) == "on"


def test_an_error_leaves_the_transaction_usable(supabase_url: sa.URL) -> None:
    with connect(supabase_url) as connection:
        connection.execute(sa.text("set local search_path = auth"))
        with pytest.raises(NotMigratedError, match="upgrade it to head with the momentum migrations"):
            verify.differences(connection)
        assert connection.scalar(sa.text("show search_path")) == "auth"


def test_an_upgrade_ends_with_a_comparison(url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    migrate_to(url, HISTORY[-2])
    run(url, "alter table public.habit_index disable row level security; grant select on public.habit_index to anon")
    with caplog.at_level(logging.ERROR), pytest.raises(VerificationError, match="in 2 places that the log names"):
        migrate_to(url, HEAD)
    assert caplog.messages[0].startswith(f"unexpected: {HABITS}, grant to anon: SELECT")
    assert len(caplog.messages) == 2
    assert current(url) == HEAD, "the migrations stand"
    migrate_to(url, HISTORY[-2])
    migrate_to(url, HEAD, verify="no")


def test_an_upgrade_passes_with_a_warning_of_what_is_not_ours(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    url = database_with_scores(server, "legacy.seed")
    try:
        run(
            server.as_admin(url),
            f"""
            {as_owner(server)};
            grant create on schema public to anon;
            {UID.format("null::uuid")};
            """,
        )
        with caplog.at_level(logging.WARNING):
            migrate_to(url, HEAD)
        found = differences(url)
        assert [line.partition(": ")[2].partition(":")[0] for line in found] == [
            "platform, function auth.uid()",
            "platform, rights of anon in schema public",
        ]
        assert set(found) <= {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
    finally:
        server.drop_database(url)


def test_an_upgrade_to_another_revision_than_head_passes_with_a_warning(
    supabase_url: sa.URL, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        migrate_to(supabase_url, HISTORY[-2])
    assert caplog.messages == [f"Not verified: {refusal(HISTORY[-2])}"]


def test_a_revision_that_is_being_written_passes_with_a_warning(
    connection: sa.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.execute(sa.text("update momentum_internal.alembic_version set version_num = '0123456789ab'"))
    with caplog.at_level(logging.WARNING):
        verify.check(connection)
    assert caplog.messages == [f"Not verified: {refusal('0123456789ab')}"]


def test_any_role_that_migrates_is_the_owner(server: Server) -> None:
    role = "momentum_migrator"
    with server.database(migrated=False) as url:
        own = url.set(username=role, password="secret")
        run(server.as_admin(url), MIGRATOR.format(role=role, database=url.database))
        migrate_to(own, HEAD)
        assert differences(own) == []
        with pytest.raises(
            ConfigurationError, match=r"^The schema momentum_internal belongs to momentum_migrator, and "
        ):
            differences(url)
        run(server.as_admin(url), f"alter table public.habit_index owner to {url.username}")
        [line] = differences(own)
        assert line.startswith(f"changed: {HABITS}: found owned by ")
    run(server.admin_url, f"drop role {role}")


@pytest.mark.slow
def test_the_fingerprints_are_fresh(server: Server) -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in verify.FINGERPRINTS.iterdir()}
    assert files == fingerprints(server), "momentum/verify/fingerprints/ is stale: make fingerprints"


def test_there_is_a_fingerprint_of_head_for_each_kind_of_score_table() -> None:
    kinds = ("fresh", *(layout.name for layout in LAYOUTS))
    names = {path.name for path in verify.FINGERPRINTS.iterdir()}
    assert names == {f"{revision}.{kind}.txt" for revision in REVISIONS for kind in kinds}, "make fingerprints"
    assert HEAD in REVISIONS


def test_a_fingerprint_has_one_sorted_fact_per_line() -> None:
    for path in verify.FINGERPRINTS.iterdir():
        lines = path.read_text(encoding="utf-8").splitlines()
        facts = verify.read_fingerprint(path.name)
        assert len(lines) == len(facts) > 30
        assert list(facts) == sorted(facts)
        assert "".join(f"{line}\n" for line in lines) == verify.write_fingerprint(facts)


@pytest.mark.parametrize("scores", SCORES)
def test_everything_that_the_migrations_make_is_in_the_fingerprint(server: Server, scores: str) -> None:
    made = sa.text("""
        select kind || ' ' || nspname || '.' || name
        from (
          select case relkind when 'r' then 'table' when 'v' then 'view' else 'relation' end, relname, relnamespace
          from pg_class where relkind not in ('i', 't')
          union all
          select 'function', proname || '()', pronamespace from pg_proc
        ) as made (kind, name, schema)
        inner join pg_namespace on schema = pg_namespace.oid and nspname in ('public', 'legacy', 'momentum_internal')
    """)
    url = database_with_scores(server, scores)
    try:
        with connect(url) as connection:
            before = set(connection.scalars(made))
        migrate_to(url, HEAD)
        with connect(url) as connection:
            after = set(connection.scalars(made))
            name = verify.fingerprint_name(HEAD, verify.read_record(connection))
    finally:
        server.drop_database(url)
    compared = {verify.object_of(key) for key in verify.read_fingerprint(name)}
    missing = sorted(after - before - compared)
    assert not missing, f"momentum.verify overlooks {missing}: name them in momentum/inventory.py; make fingerprints"
    assert len(after - before) >= 7


def of_the_models(facts: dict[str, str]) -> dict[str, str]:
    """Return the facts of what create_all makes: columns, keys, indexes and comments of our tables."""
    tables = {f"table public.{name}" for name in Base.metadata.tables}
    kinds = ("column ", "constraint ", "index ", "comment")
    return {
        key: value
        for key, value in facts.items()
        if verify.object_of(key) in tables and key.partition(verify.PART)[2].startswith(kinds)
    }


def test_the_models_make_what_the_migrations_make(supabase_url: sa.URL) -> None:
    facts = verify.read_fingerprint(f"{HEAD}.fresh.txt")
    with connect(supabase_url) as connection:
        Base.metadata.create_all(connection)
        connection.exec_driver_sql("create schema legacy")
        connection.exec_driver_sql(
            "create table legacy.daily_engagement_scores "
            "(user_id uuid, score_ts timestamptz, score numeric(5, 2), pillar_breakdown jsonb)"
        )
        connection.exec_driver_sql(f"create view public.daily_momentum_scores as {facts[f'{VIEW}, query']}")
        with verify.pinned(connection):
            made = verify.read_facts(connection, {})
    assert of_the_models(made) == of_the_models(facts)
    assert len(of_the_models(made)) > 80
    columns = {
        key: value for key, value in facts.items() if key.startswith(f"{VIEW}, column ") and "comment" not in key
    }
    assert columns == {key: made[key] for key in columns}
    assert made[f"{VIEW}, query"] == facts[f"{VIEW}, query"], "the view's text says the same when it is executed again"
    assert [key.rpartition(" ")[2] for key in columns] == sorted(DailyMomentumScore.__table__.columns.keys())


def command(*arguments: str, url: sa.URL | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, with the database's URL in the environment if there is one."""
    env = {**os.environ, **environment}
    if url:
        # A server that trusts its clients takes any password; for others the URL has the right one.
        env[URL_VARIABLES[0]] = as_text(url.set(password=url.password or PASSWORD))
    done = processes.run("momentum.verify", *arguments, env=env)
    assert PASSWORD not in done.stdout + done.stderr, "no output shows a password"
    assert "Traceback" not in done.stderr, "no output shows a traceback"
    return done


def test_the_command_says_that_all_is_as_it_should_be(url: sa.URL, tmp_path: Path) -> None:
    done = command(url=url)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Database: ")
    assert done.stdout.count("\n") == 1
    assert done.stdout.endswith(f"{url.database} matches revision {HEAD}.\n")
    assert command("--database-url", as_text(url)).stdout == done.stdout
    file = tmp_path / "supabase.env"
    file.write_text(f"SUPABASE_DB_URL={as_text(url)}\n", encoding="utf-8")
    assert command("--env-file", str(file)).stdout == done.stdout


def test_the_command_names_what_differs_one_a_line(url: sa.URL) -> None:
    run(
        url,
        """
        alter table public.habit_index disable row level security;
        grant select on public.habit_index to anon;
        comment on table public.habit_index is E'one\\ntwo';
        """,
    )
    done = command(url=url)
    assert done.returncode == 1
    assert [line.partition(f" {HABITS}, ")[0] for line in done.stdout.splitlines()] == [
        "changed:",
        "unexpected:",
        "changed:",
    ]
    assert done.stderr.startswith("Database: ")
    assert current(url) == HEAD


def test_the_command_wants_a_url_and_the_rights(url: sa.URL) -> None:
    for arguments, says in {
        (): "MOMENTUM_DATABASE_URL",
        ("--database-url", f"mysql://me:{PASSWORD}@localhost/x"): "not a Postgres URL",
        ("--nope",): "--nope",
        ("--env-file", "/no/such/file"): "no env file",
    }.items():
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert says in done.stderr
        assert done.stderr.startswith("Error: ")
    role = "momentum_onlooker"
    run(url, f"create role {role} login password 'secret'")
    try:
        done = command(url=url.set(username=role, password="secret"))
        assert (done.returncode, done.stdout) == (2, "")
        assert "connect as the role that migrates the database (on Supabase: postgres)" in done.stderr
    finally:
        run(url, f"drop role {role}")


def test_the_command_says_that_there_is_nothing_to_compare(supabase_url: sa.URL) -> None:
    def refused(url: sa.URL) -> str:
        done = command(url=url)
        assert (done.returncode, done.stdout) == (3, "")
        database, error = done.stderr.splitlines()
        assert database.startswith("Database: ")
        assert error.startswith("Error: ")
        return error

    assert "cannot be reached" in refused(sa.URL.create("postgresql", "me", None, "127.0.0.1", 1, "nowhere"))
    assert "not migrated" in refused(supabase_url)
    migrate_to(supabase_url, HISTORY[-2])
    assert refused(supabase_url) == f"Error: {refusal(HISTORY[-2])}"
    migrate_to(supabase_url, "base")
    assert "not migrated" in refused(supabase_url)
    run(supabase_url, "insert into momentum_internal.alembic_version values ('0123456789ab')")
    assert refused(supabase_url) == f"Error: {refusal('0123456789ab')}"
    run(supabase_url, f"insert into momentum_internal.alembic_version values ('{HEAD}')")
    assert f"names 2 revisions (0123456789ab, {HEAD})" in refused(supabase_url)


def test_an_interrupt_is_one_line(
    url: sa.URL, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: sa.Connection) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("momentum.verify.__main__.compare_database", interrupt)
    monkeypatch.setattr(sys, "argv", ["verify", "--database-url", as_text(url)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[1:] == ["Error: Interrupted."]


def test_help_lists_the_options_and_the_exit_codes() -> None:
    done = command("--help", COLUMNS="200", NO_COLOR="1", TERM="dumb")
    assert done.returncode == 0
    assert all(part in done.stdout for part in ("--database-url", "--env-file", "1 something differs"))
