"""Supabase's advisors accept everything that the migrations make and leave, and would report a mistake."""

from itertools import pairwise

import pytest
import sqlalchemy as sa

from momentum.testing import Server
from tests.migrating import HISTORY, database_with_scores, execute, migrate_to, run
from tests.supabase_cli import supabase
from tools.advisors import ALLOWED, findings, objections, reason

HEAD = HISTORY[-1]

# Mistakes that a later revision could make, each with the expected report: the lint, its level, and its subject.
VIOLATIONS = {
    ("unindexed_foreign_keys", "INFO", "fk_momentum_events_pillar_id_momentum_pillars"): """
        drop index public.ix_momentum_events_pillar_id
    """,
    ("auth_users_exposed", "ERROR", "people"): """
        create view public.people as select email from auth.users; grant select on public.people to anon
    """,
    ("auth_rls_initplan", "WARN", "legacy.daily_engagement_scores"): """
        alter policy daily_engagement_scores_select_own on legacy.daily_engagement_scores using (auth.uid() = user_id)
    """,
    ("no_primary_key", "INFO", "public.motivation_journal"): """
        alter table public.motivation_journal drop constraint pk_motivation_journal
    """,
    ("multiple_permissive_policies", "WARN", "legacy.daily_engagement_scores"): """
        create policy live_rows on legacy.daily_engagement_scores for select to authenticated using (score > 0)
    """,
    ("policy_exists_rls_disabled", "ERROR", "public.habit_index"): """
        create policy own_rows on public.habit_index for select to authenticated using (user_id is null);
        alter table public.habit_index disable row level security
    """,
    ("rls_enabled_no_policy", "INFO", "momentum_internal.score_table"): """
        alter table momentum_internal.score_table enable row level security
    """,
    ("duplicate_index", "WARN", "public.habit_index"): """
        create index twin on public.habit_index (pillar_id)
    """,
    ("security_definer_view", "ERROR", "public.daily_momentum_scores"): """
        alter view public.daily_momentum_scores reset (security_invoker)
    """,
    ("function_search_path_mutable", "WARN", "momentum_internal.set_updated_at"): """
        alter function momentum_internal.set_updated_at() reset search_path
    """,
    ("rls_disabled_in_public", "ERROR", "public.alembic_version"): """
        alter table momentum_internal.alembic_version set schema public; grant select on public.alembic_version to anon
    """,
    ("rls_references_user_metadata", "ERROR", "public.momentum_events"): """
        create policy coaches on public.momentum_events for select to authenticated
        using ((select current_setting('request.jwt.claims')::jsonb -> 'user_metadata' ->> 'role') = 'coach')
    """,
    ("materialized_view_in_api", "WARN", "public.scores_by_day"): """
        create materialized view public.scores_by_day as select 1 as score; grant select on public.scores_by_day to anon
    """,
    ("unsupported_reg_types", "WARN", "public.kinds"): """
        create table public.kinds (id uuid primary key, kind regprocedure)
    """,
    ("sensitive_columns_exposed", "ERROR", "public.patients"): """
        create table public.patients (id uuid primary key, patient_id text); grant select on public.patients to anon
    """,
    ("rls_policy_always_true", "WARN", "public.momentum_pillars"): """
        create policy anybody on public.momentum_pillars for insert to authenticated with check (true)
    """,
}


@pytest.mark.slow
def test_what_is_allowed_has_a_reason_and_is_no_more_than_an_info(url: sa.URL) -> None:
    reported = findings(url)
    assert {finding.level for finding in reported} == {"INFO"}
    assert [finding for finding in reported if reason(finding) is None] == []
    assert [finding for finding in reported if reason(finding._replace(level="WARN"))] == []
    assert all(len(allowed.reason.split()) > 5 for allowed in ALLOWED)


@pytest.mark.slow
def test_each_violation_is_reported_and_not_allowed(url: sa.URL) -> None:
    for statements in VIOLATIONS.values():
        run(url, statements)
    reported = objections(url)
    missing = [
        (lint, level, about)
        for lint, level, about in VIOLATIONS
        if not any(
            (found.lint, found.level) == (lint, level) and about in found.detail.replace("`", "") for found in reported
        )
    ]
    assert missing == [], f"not reported: {missing}; reported: {reported}"


@pytest.mark.slow
def test_they_object_to_nothing_after_each_downgrade(url: sa.URL) -> None:
    for revision, earlier in pairwise(reversed(HISTORY)):
        migrate_to(url, earlier)
        assert objections(url) == [], f"after the downgrade of {revision}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "predecessors"), [("legacy.seed", False), ("public.production", True)], ids=["seed", "production"]
)
def test_they_object_to_nothing_new_where_scores_are_adopted(server: Server, scores: str, predecessors: bool) -> None:
    url = database_with_scores(server, scores, predecessors=predecessors)
    try:
        before = set(objections(url))
        migrate_to(url, HEAD, existing="adopt", access="close")
        after = {finding for finding in objections(url) if "momentum_internal.predecessor_" not in finding.detail}
        assert after < before, "existing objects are unchanged, except for the tables that were replaced"
        migrate_to(url, "base")
        assert set(objections(url)) == before
    finally:
        server.drop_database(url)


LINT = ("db", "lint", "--schema=public,legacy,momentum_internal", "--level=warning", "--output-format=json")


def test_the_functions_are_sound(url: sa.URL) -> None:
    """`supabase db lint` does not execute functions: it reads them, with the extension plpgsql_check."""
    if not execute(url, "select count(*) from pg_available_extensions where name = 'plpgsql_check'"):
        pytest.skip("`supabase db lint` was not run: the server has no plpgsql_check (postgresql-15-plpgsql-check)")
    done = supabase(*LINT, "--fail-on=warning", url=url)
    assert done.returncode == 0, done.stdout + done.stderr
    run(
        url,
        """
        create function momentum_internal.unsound() returns integer language plpgsql set search_path = ''
        as $$ begin return (select no_such_column from public.habit_index limit 1); end $$
        """,
    )
    done = supabase(*LINT, "--fail-on=warning", url=url)
    assert done.returncode == 1
    assert "no_such_column" in done.stdout
