"""Which statements of a downgrade an event trigger may refuse depends on how far it goes; nothing of a trial stays."""

from typing import Any

import pytest
import sqlalchemy as sa

from momentum.errors import PreflightError
from momentum.inventory import VIEW
from momentum.migrate.event_triggers import check_downgrade, kind_of, of_names
from momentum.testing import Server
from tests.catalog import snapshot
from tests.migrating import run
from tests.server import engine_of

REFUSE = """
create function public.refuse() returns event_trigger language plpgsql as
$$ begin raise exception 'no % here', lower(tg_tag); end $$;
create event trigger refuse on ddl_command_start when tag in ('{tag}') execute function public.refuse();
"""

NOTHING: dict[str, Any] = {
    "creates": [],
    "drops_key": False,
    "drops_scores": False,
    "to_base": False,
    "purges": False,
}


@pytest.mark.parametrize(
    ("tag", "done", "refused"),
    [
        ("DROP INDEX", {"drops_key": True}, True),
        ("DROP INDEX", {"creates": [VIEW], "drops_scores": True, "to_base": True, "purges": True}, False),
        ("DROP VIEW", {"creates": [VIEW]}, True),
        ("DROP VIEW", {"creates": ["habit_index"]}, False),
        ("ALTER TABLE", {"creates": ["habit_index"]}, True),
        ("ALTER TABLE", {"drops_key": True, "drops_scores": True, "to_base": True, "purges": True}, False),
        # Of a score table that the migrations have created, with its schema.
        ("REVOKE", {"drops_scores": True}, True),
        ("REVOKE", {"drops_key": True, "to_base": True, "purges": True}, False),
        ("DROP SCHEMA", {"drops_scores": True}, True),
        ("DROP TABLE", {"to_base": True}, True),
        ("DROP TABLE", {"purges": True}, True),
        ("DROP TABLE", {"creates": [VIEW], "drops_key": True, "drops_scores": True}, False),
        ("DROP FUNCTION", {"to_base": True, "purges": True}, True),
        ("DROP FUNCTION", {"to_base": True}, False),
        ("DROP FUNCTION", {"purges": True}, False),
        ("DROP SCHEMA", {"to_base": True, "purges": True}, True),
        ("DROP SCHEMA", {"to_base": True}, False),
        ("DROP SCHEMA", {"purges": True}, False),
        # Without this nothing can be tried, and the migration itself doesn't need it.
        ("CREATE TABLE", {"to_base": True, "purges": True}, False),
    ],
)
def test_a_downgrade_is_refused_for_what_it_does_and_for_nothing_else(
    server: Server, url: sa.URL, tag: str, done: dict[str, Any], refused: bool
) -> None:
    run(server.as_admin(url), REFUSE.format(tag=tag))
    before = snapshot(url)
    with engine_of(url).begin() as connection:
        if refused:
            with pytest.raises(
                PreflightError, match=f"refuse refuses {tag}, which the downgrade needs: no {tag.lower()}"
            ):
                check_downgrade(connection, **{**NOTHING, **done})
        else:
            check_downgrade(connection, **{**NOTHING, **done})
    assert snapshot(url) == before


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("create unique index a on b (c)", "CREATE INDEX"),
        ("create index a on b (c)", "CREATE INDEX"),
        ("comment on table a is 'b'", "COMMENT"),
        ("grant select on table a to b", "GRANT"),
        ("revoke all on schema a from b", "REVOKE"),
        ("alter table a set schema b", "ALTER TABLE"),
    ],
)
def test_statements_are_of_the_kinds_that_event_triggers_know(statement: str, kind: str) -> None:
    assert kind_of(statement) == kind


def test_names_that_are_taken_or_come_with_a_table_are_not_tried(supabase_url: sa.URL) -> None:
    run(supabase_url, "create table public.taken ()")
    with engine_of(supabase_url).connect() as connection:
        tried = list(of_names(connection, ["taken", "pk_a", "a", "ix_a", "uq_a", VIEW]))
    assert [kind_of(statement) for statement in tried] == [
        "CREATE TABLE",
        "CREATE INDEX",
        "CREATE INDEX",
        "CREATE VIEW",
        "COMMENT",
        "GRANT",
    ]
