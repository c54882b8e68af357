"""The triggers that a run fires are listed before it begins; those that call out of the database must be allowed."""

import datetime
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from momentum.backfill import DayRange, Report, Settings, fill, run_backfill
from momentum.backfill.effects import Catalog
from momentum.backfill.fill import NOBODY
from momentum.backfill.settings import Limits
from momentum.backfill.triggers import Fingerprint, find_triggers, when
from momentum.backfill.undo import UndoReport, run_undo
from momentum.errors import ConfigurationError
from momentum.testing import Server
from momentum.wording import counted
from tests.backfilling import DAY, Scores, after_database, call, one_error_line, scores_in, started
from tests.backfilling import ONE_DAY as ONE_DAY_RANGE
from tests.migrating import execute, fetch, run, wait_until
from tests.samples import add_users
from tests.server import engine_of

ONE_DAY = ("--to", str(DAY), "--days", "1")

# Like the extension pg_net, which sends the request after the commit; this one only notes it.
NET = """
create schema net;
create table net.requests (url text);
create function net.http_post(url text, body jsonb default '{}') returns bigint language sql as $$
  insert into net.requests values (url) returning 1::bigint
$$;
"""
# Like Supabase's database webhooks.
SUPABASE_FUNCTIONS = """
create schema supabase_functions;
create function supabase_functions.http_request() returns trigger language plpgsql as $$
begin
  perform net.http_post(tg_argv[0]);
  return new;
end $$;
"""


@pytest.fixture
def production(server: Server) -> Iterator[Scores]:
    """The app's own score table, with its triggers, and something that calls out."""
    with scores_in(server, "public.production") as scores:
        run(scores.url, NET + SUPABASE_FUNCTIONS)
        add_users(scores.engine, 3)
        yield scores


def give_trigger(scores: Scores, body: str, moment: str = "after insert", name: str = "push") -> None:
    """Give the score table a trigger with a body of its own."""
    run(
        scores.url,
        f"""
        create function public.{name}() returns trigger language plpgsql as $$ begin {body} return new; end $$;
        create trigger {name} {moment} on {scores.relation} for each row execute function public.{name}();
        """,
    )


def sent(scores: Scores) -> int:
    """Return how many requests were sent."""
    return int(execute(scores.url, "select count(*) from net.requests"))


def run_json(scores: Scores, *options: str) -> dict[str, Any]:
    """Run for a day and return the report."""
    done = call(*ONE_DAY, "--json", *options, url=scores.url)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


LISTED = [
    "momentum_cache_invalidation_trigger, after insert or delete or update for each row: "
    "public.invalidate_momentum_cache() notifies listeners",
    "momentum_change_notification_trigger, after insert or update for each row: "
    "public.trigger_push_notifications() writes to other rows",
    "momentum_score_realtime_trigger, after insert or update for each row: "
    "public.publish_momentum_update() notifies listeners",
    "prevent_duplicate_daily_scores_trigger, before insert or update for each row: "
    "public.prevent_duplicate_daily_scores() may refuse the row",
]


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (0b00101, "after insert for each row"),
        (0b00111, "before insert for each row"),
        (0b00100, "after insert for each statement"),
        (0b11101, "after insert or delete or update for each row"),
        (0b01010, "before delete for each statement"),
    ],
)
def test_a_trigger_fires_when_the_bits_of_its_type_say(bits: int, said: str) -> None:
    assert when(bits) == said


@pytest.mark.parametrize("options", [["--dry-run"], []], ids=["dry run", "real run"])
def test_every_trigger_is_listed_by_name_moment_and_effect_before_the_first_row(
    production: Scores, options: list[str]
) -> None:
    done = call(*ONE_DAY, *options, url=production.url)
    assert done.returncode == 0
    assert after_database(done).splitlines() == [f"each row fires the trigger {trigger}" for trigger in LISTED]
    assert production.count() == (0 if options else 3)


@pytest.mark.parametrize("options", [["--dry-run"], []], ids=["dry run", "real run"])
def test_the_report_for_machines_lists_the_triggers_too(production: Scores, options: list[str]) -> None:
    triggers = run_json(production, *options)["triggers"]
    assert [trigger["name"] for trigger in triggers] == [line.partition(",")[0] for line in LISTED]
    assert triggers[1] == {
        "name": "momentum_change_notification_trigger",
        "fires": "after insert or update for each row",
        "function": "public.trigger_push_notifications",
        "effects": ["writes to other rows"],
        "calls_out": False,
    }


def test_a_table_of_our_own_has_no_trigger_that_fires_for_inserts(server: Server) -> None:
    with scores_in(server, "fresh") as scores:
        assert run_json(scores)["triggers"] == []


DIRECTLY = "perform net.http_post('https://push.example');"
CALLING = {
    "directly": ("", DIRECTLY),
    "in capitals": ("", "PERFORM NET . HTTP_POST('https://push.example');"),
    "with quoted names": ("", """perform "net"."http_post"('https://push.example');"""),
    "through another function": (
        f"create function public.helper() returns void language plpgsql as $$ begin {DIRECTLY} end $$;",
        "perform public.helper();",
    ),
    "through two functions": (
        f"create function public.inner_helper() returns void language plpgsql as $$ begin {DIRECTLY} end $$;"
        "create function public.helper() returns void language sql as $$ select public.inner_helper() $$;",
        "perform helper();",
    ),
    "through a function with a body in the standard's way": (
        "create function public.helper() returns bigint language sql "
        "begin atomic select net.http_post('https://push.example'); end;",
        "perform public.helper();",
    ),
}


@pytest.mark.parametrize("way", CALLING)
def test_a_trigger_that_calls_out_stops_the_real_run_before_it_inserts(production: Scores, way: str) -> None:
    helper, body = CALLING[way]
    run(production.url, helper or "select")
    give_trigger(production, body)
    done = call(*ONE_DAY, "--quiet", url=production.url)
    assert done.returncode == 2
    assert one_error_line(done) == (
        "Error: The trigger push of public.daily_engagement_scores would call out of the database for every row, such "
        "as to push notifications to phones; disable it for the run, or give --allow-webhooks."
    )
    assert (production.count(), sent(production)) == (0, 0)


def test_a_database_webhook_of_supabase_stops_the_real_run_too(production: Scores) -> None:
    run(
        production.url,
        f"create trigger hook after insert on {production.relation} for each row "
        "execute function supabase_functions.http_request('https://push.example')",
    )
    give_trigger(production, DIRECTLY)
    done = call(*ONE_DAY, "--quiet", url=production.url)
    assert done.returncode == 2
    assert "The triggers hook, push of" in one_error_line(done)
    assert (production.count(), sent(production)) == (0, 0)


def test_a_trigger_for_a_whole_statement_may_call_out_as_well(production: Scores) -> None:
    run(
        production.url,
        f"create trigger hook after insert on {production.relation} for each statement "
        "execute function supabase_functions.http_request('https://push.example')",
    )
    assert call(*ONE_DAY, "--quiet", url=production.url).returncode == 2
    assert production.count() == 0


def test_who_allows_webhooks_gets_them(production: Scores) -> None:
    give_trigger(production, DIRECTLY)
    report = run_json(production, "--allow-webhooks")
    assert (report["inserted"], sent(production)) == (3, 3)
    assert [trigger["name"] for trigger in report["triggers"] if trigger["calls_out"]] == ["push"]


def test_a_dry_run_lists_what_calls_out_and_sets_nothing_off(production: Scores) -> None:
    give_trigger(production, DIRECTLY)
    done = call(*ONE_DAY, "--dry-run", url=production.url)
    assert done.returncode == 0
    assert (
        "each row fires the trigger push, after insert for each row: public.push() calls out of the database, "
        "writes to other rows" in done.stderr.splitlines()
    )
    assert (production.count(), sent(production)) == (0, 0)


@pytest.mark.parametrize("state", ["disable", "enable replica"])
def test_a_trigger_that_does_not_fire_is_no_obstacle(production: Scores, state: str) -> None:
    give_trigger(production, DIRECTLY)
    run(production.url, f"alter table {production.relation} {state} trigger push")
    report = run_json(production)
    assert (report["inserted"], sent(production)) == (3, 0)
    assert "push" not in [trigger["name"] for trigger in report["triggers"]]


def test_a_trigger_for_updates_only_is_no_obstacle(production: Scores) -> None:
    give_trigger(production, DIRECTLY, "after update")
    assert run_json(production)["inserted"] == 3
    assert sent(production) == 0


WEBHOOK = """
create table public.audit (user_id uuid);
create trigger hook after insert on public.audit for each row
  execute function supabase_functions.http_request('https://push.example');
"""


def test_a_trigger_that_writes_to_a_table_with_a_webhook_stops_the_real_run(production: Scores) -> None:
    run(production.url, WEBHOOK)
    give_trigger(production, "insert into public.audit values (new.user_id);")
    done = call(*ONE_DAY, "--quiet", url=production.url)
    assert done.returncode == 2
    assert "The trigger push of public.daily_engagement_scores would call out" in one_error_line(done)
    assert (production.count(), sent(production)) == (0, 0)


def test_a_link_in_a_comment_is_no_call(production: Scores) -> None:
    give_trigger(production, "-- See https://example.com/docs, and net.http_post there.\n")
    assert run_json(production)["inserted"] == 3


def test_sql_that_a_trigger_composes_may_call_out(production: Scores) -> None:
    give_trigger(production, "execute 'select ' || new.final_score;")
    done = call(*ONE_DAY, "--quiet", url=production.url)
    assert done.returncode == 2
    assert one_error_line(done) == (
        "Error: It can't be known whether the trigger push of public.daily_engagement_scores would call out of the "
        "database, because public.push() executes SQL that it composes; disable it for the run, or give "
        "--allow-webhooks."
    )
    assert production.count() == 0
    [push] = [trigger for trigger in run_json(production, "--allow-webhooks")["triggers"] if trigger["name"] == "push"]
    assert push["calls_out"]
    assert push["effects"] == [
        "may call out of the database, which can't be known because public.push() executes SQL that it composes"
    ]
    assert production.count() == 3


# What a role with some rights on the score table can have run for its rows, and what it is.
BORROWED = {
    "a trigger of its own": (
        "grant trigger on {table} to {planter}; set role {planter}; "
        "create trigger push before insert on {table} for each row execute function planted.push();",
        "trigger push",
        "planted.push()",
    ),
    "a trigger of its own that fires per statement": (
        "grant trigger on {table} to {planter}; set role {planter}; "
        "create trigger push after insert on {table} execute function planted.push();",
        "trigger push",
        "planted.push()",
    ),
    "a function that a trigger calls": (
        "create function public.ours() returns trigger language plpgsql as "
        "'begin perform planted.valid(1); return new; end'; "
        "create trigger ours after insert on {table} for each row execute function public.ours();",
        "trigger ours",
        "planted.valid(integer)",
    ),
    "a trigger of a table that a trigger writes to": (
        "create table public.log (user_id uuid); grant insert on public.log to public; "
        "grant trigger on public.log to {planter}; set role {planter}; "
        "create trigger push before insert on public.log for each row execute function planted.push(); reset role; "
        "create function public.ours() returns trigger language plpgsql as "
        "'begin insert into log values (new.user_id); return new; end'; "
        "create trigger ours after insert on {table} for each row execute function public.ours();",
        "trigger ours",
        "planted.push()",
    ),
    "a check": (
        "alter table {table} add constraint valid check (planted.valid(1))",
        "check valid",
        "planted.valid(integer)",
    ),
    "a default": (
        "alter table {table} add more boolean default planted.valid(1)",
        "default more",
        "planted.valid(integer)",
    ),
    "an index": (
        "create index valid_ones on {table} (planted.valid(pg_catalog.hashtext(cast(user_id as text))))",
        "index valid_ones",
        "planted.valid(integer)",
    ),
}

PLANTED = """
create schema planted authorization {planter};
set role {planter};
grant usage on schema planted to public;
create function planted.push() returns trigger language plpgsql as
  $$ begin perform pg_catalog.set_config('momentum.rights', current_user, false); return new; end $$;
create function planted.valid(integer) returns boolean language sql immutable as 'select true';
reset role;
"""


@pytest.mark.parametrize("case", BORROWED)
def test_a_function_of_somebody_else_stops_the_real_run_unless_it_is_allowed(server: Server, case: str) -> None:
    sql, what, function = BORROWED[case]
    planter = f"planter_{secrets.token_hex(4)}"
    with scores_in(server, "public.production") as scores:
        add_users(scores.engine, 3)
        admin_url = server.as_admin(scores.url)
        run(admin_url, f"create role {planter}; {PLANTED.format(planter=planter)}")
        run(admin_url, sql.format(table=scores.relation, planter=planter))
        done = call(*ONE_DAY, "--quiet", url=scores.url)
        assert (done.returncode, scores.count()) == (2, 0)
        assert one_error_line(done) == (
            f"Error: The {what} of public.daily_engagement_scores would run, with your rights, {function}, which "
            f"belongs to {planter}; look at it and disable it for the run, or give --allow-other-owners."
        )
        done = call(*ONE_DAY, "--dry-run", url=scores.url)
        assert done.returncode == 0
        [line] = [line for line in done.stderr.splitlines() if planter in line]
        assert line.startswith(f"each row fires the {what}, ")
        assert line.endswith(f"runs {function}, which belongs to {planter}")
        run(admin_url, f"grant usage on schema planted to {scores.url.username}")
        assert run_json(scores, "--allow-other-owners")["inserted"] == 3
        run(admin_url, f"drop owned by {planter} cascade; drop role {planter}")


def test_functions_of_the_owner_a_superuser_and_the_platform_are_trusted(server: Server) -> None:
    with scores_in(server, "public.production") as scores:
        add_users(scores.engine, 3)
        for number, owner in enumerate(
            (server.admin_url.username, scores.url.username, "supabase_admin", "supabase_auth_admin")
        ):
            give_trigger(scores, "", name=f"trusted_{number}")
            run(server.as_admin(scores.url), f"alter function public.trusted_{number}() owner to {owner}")
        assert run_json(scores)["inserted"] == 3


def test_an_undo_looks_at_what_a_delete_runs(server: Server, tmp_path: Path) -> None:
    manifest = tmp_path / "rows.jsonl"
    with scores_in(server, "public.production") as scores:
        run(scores.url, NET + SUPABASE_FUNCTIONS)
        add_users(scores.engine, 3)
        assert run_json(scores, "--manifest", str(manifest))["inserted"] == 3
        run(
            scores.url,
            f"""
            create table public.notes (id uuid references {scores.relation} (id) on delete cascade);
            create trigger hook after delete on public.notes for each row
              execute function supabase_functions.http_request('https://push.example');
            """,
        )
        done = call("--undo", str(manifest), "--quiet", url=scores.url)
        assert done.returncode == 2
        assert "The reference from public.notes of public.daily_engagement_scores would" in one_error_line(done)
        assert scores.count() == 3
        assert call("--undo", str(manifest), "--quiet", "--allow-webhooks", url=scores.url).returncode == 0
        assert scores.count() == 0


# What a role plants records, beyond a rollback, that somebody else has executed it.
RECORDING = """
create sequence planted.executed;
grant usage on sequence planted.executed to public;
create or replace function planted.push() returns trigger language plpgsql as
  $$ begin perform pg_catalog.nextval('planted.executed'); return new; end $$;
create or replace function planted.valid(integer) returns boolean language sql immutable as 'select true';
"""


class Planting:
    """Changes what runs for a row in the middle of a run: once some of its rows are committed."""

    def __init__(self, scores: Scores, plant: Callable[[], None], after: int = 1) -> None:
        self.scores, self.plant, self.after = scores, plant, after
        self.commits = 0

    def run(self, workers: int = 1, **settings: Any) -> Report:
        """Run a backfill with a row per transaction, and change it meanwhile."""
        days = DayRange(DAY - datetime.timedelta(days=4), DAY)
        run_settings = Settings(days, page_size=1, commit_every=1, workers=workers, **settings)
        return run_backfill(self.scores.engine, run_settings, observers=NOBODY._replace(on_inserted=self.note))

    def note(self, _rows: object) -> None:
        """Count a commit, and plant after the right one."""
        self.commits += 1
        if self.commits == self.after:
            self.plant()


@pytest.fixture
def planter(server: Server) -> Iterator[str]:
    """A role that nobody trusts."""
    name = f"planter_{secrets.token_hex(4)}"
    run(server.admin_url, f"create role {name}")
    yield name
    run(server.admin_url, f"drop role {name}")


@contextmanager
def planted_in(server: Server, layout: str, planter: str) -> Iterator[tuple[Scores, Callable[[str], None]]]:
    """Yield a database with three users and a function of somebody else's, and a function that executes SQL in it."""
    with scores_in(server, layout) as scores:
        admin_url = server.as_admin(scores.url)
        users = add_users(scores.engine, 3)
        run(admin_url, PLANTED.format(planter=planter) + f"set role {planter};" + RECORDING)
        assert len(users) == 3
        run(admin_url, f"grant usage on schema planted to {scores.url.username}")
        run(admin_url, f"grant usage on schema {scores.relation.partition('.')[0]} to {planter}")
        yield scores, lambda sql: run(admin_url, sql.format(table=scores.relation, planter=planter))


def was_executed(scores: Scores) -> bool:
    """Return whether a function that was planted has been executed."""
    return bool(execute(scores.url, "select is_called from planted.executed"))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("after", [1, 9], ids=["at first", "once statements are prepared"])
@pytest.mark.parametrize("layout", ["fresh", "public.production"])
def test_a_trigger_that_somebody_adds_during_a_run_never_has_our_rights(
    server: Server, planter: str, layout: str, after: int, workers: int
) -> None:
    sql = BORROWED["a trigger of its own that fires per statement"][0].replace("after insert", "before insert")
    with planted_in(server, layout, planter) as (scores, plant):
        planting = Planting(scores, lambda: plant(sql), after)
        with pytest.raises(ConfigurationError, match=f"would run, with your rights, .* belongs to {planter}"):
            planting.run(workers)
        assert planting.commits == scores.count() < 15
        assert not was_executed(scores)


@pytest.mark.parametrize("case", BORROWED)
def test_whatever_runs_for_a_row_is_looked_at_again_once_it_changes(server: Server, planter: str, case: str) -> None:
    sql, what, function = BORROWED[case]
    with planted_in(server, "public.production", planter) as (scores, plant):
        planting = Planting(scores, lambda: plant(sql))
        with pytest.raises(ConfigurationError) as refused:
            planting.run()
        assert str(refused.value).startswith(
            f"The {what} of public.daily_engagement_scores would run, with your rights, {function}, which belongs to"
        )
        assert planting.commits == scores.count() == 1
        assert not was_executed(scores)


def test_a_function_by_a_name_that_a_trigger_calls_is_looked_at_once_it_is_there(server: Server, planter: str) -> None:
    """The more exact match is taken from now on."""
    with planted_in(server, "public.production", planter) as (scores, plant):
        run(
            scores.url,
            """
            create function public.told(numeric) returns void language sql as '';
            create function public.tell() returns trigger language plpgsql as
              $$ begin perform told(1); return new; end $$;
            create trigger tell after insert on public.daily_engagement_scores
              for each row execute function public.tell();
            """,
        )
        plant_it = (
            "grant create on schema public to {planter}; set role {planter}; create function public.told(integer) "
            "returns void language sql as $$ select pg_catalog.nextval('planted.executed') $$;"
        )
        planting = Planting(scores, lambda: plant(plant_it))
        with pytest.raises(ConfigurationError, match=r"public\.told\(integer\), which belongs to"):
            planting.run()
        assert not was_executed(scores)


# Changes of a table after which something else runs for its rows, or a row of it means something else.
OF_THE_TABLE = {
    "a trigger": "create trigger push before insert on {table} for each row execute function planted.push()",
    "whether triggers fire": "alter table {table} disable trigger user",
    "a rule": "create rule none as on insert to {table} do instead nothing",
    "a default": "alter table {table} alter score set default 1",
    "a column": "alter table {table} add more boolean default planted.valid(1)",
    "a check": "alter table {table} add constraint valid check (planted.valid(1)) not valid",
    "a foreign key": "alter table {table} add foreign key (user_id) references auth.users (id)",
    "an index": "create index valid_ones on {table} (planted.valid(1))",
    "a policy": "create policy valid on {table} using (planted.valid(1))",
    "row security": "alter table {table} force row level security",
    "its name": "alter table {table} rename to other",
    "its schema": "alter table {table} set schema planted",
}


@pytest.mark.parametrize("change", OF_THE_TABLE)
def test_nothing_about_a_table_changes_between_two_pages_of_a_transaction(
    server: Server, planter: str, change: str
) -> None:
    """Only the first page of a transaction compares what runs for a row, if all that is the table's own."""
    with planted_in(server, "fresh", planter) as (scores, plant), scores.engine.connect() as filling:
        filling.exec_driver_sql(f"lock table {scores.relation} in row exclusive mode")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            plant("set lock_timeout = '10ms'; " + OF_THE_TABLE[change])


KEPT = {
    "a table of our own": ("fresh", "", True),
    "the app's table": ("legacy.seed", "", True),
    **{f"with {case}": ("legacy.seed", sql, False) for case, (sql, _, _) in BORROWED.items()},
    "with a type of its own": (
        "legacy.seed",
        "create domain public.points as integer; alter table {table} add points public.points",
        False,
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_the_lock_of_a_table_keeps_what_runs_for_a_row_unless_that_has_parts_elsewhere(
    server: Server, planter: str, case: str
) -> None:
    layout, sql, is_kept = KEPT[case]
    with planted_in(server, layout, planter) as (scores, plant), scores.engine.connect() as connection:
        if sql:
            plant(sql)
        catalog = Catalog.read(connection).value
        find_triggers(connection, catalog, scores.relation, "insert", ("user_id",))
        assert catalog.is_kept_by_lock == is_kept
        assert Fingerprint.read(connection, catalog).value.is_kept_by_lock == is_kept


@pytest.mark.parametrize("calls", [False, True], ids=["table", "function"])
def test_what_runs_for_a_row_is_compared_once_per_transaction_or_with_each_page(server: Server, calls: bool) -> None:
    with scores_in(server, "legacy.seed") as scores:
        engine = scores.engine
        add_users(engine, 3)
        if calls:
            run(
                scores.url,
                "create function public.same() returns trigger language plpgsql as 'begin return new; end'; "
                f"create trigger same before insert on {scores.relation} for each row execute function public.same()",
            )
        pages: list[bool] = []

        @sa.event.listens_for(engine, "before_cursor_execute")
        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if "INSERT INTO" in statement:
                pages.append("pg_catalog.md5" in statement)

        report = run_backfill(engine, Settings(DayRange(DAY, DAY), page_size=1, commit_every=3))
        assert (report.inserted, report.commits) == (3, 1)
        assert pages == [True, calls, calls]


@pytest.mark.parametrize("after", [1, 9], ids=["at first", "once statements are prepared"])
def test_a_trigger_that_a_page_has_waited_for_is_seen(server: Server, planter: str, after: int) -> None:
    """It is committed while the page waits for the lock on the table, and so before the page looks."""
    sql = BORROWED["a trigger of its own"][0]
    with planted_in(server, "fresh", planter) as (scores, _), engine_of(server.as_admin(scores.url)).connect() as other:
        waiters: list[threading.Thread] = []

        def plant() -> None:
            other.exec_driver_sql(sql.format(table=scores.relation, planter=planter))
            waiters.append(threading.Thread(target=commit_once_waited_for, args=(other, scores.relation)))
            waiters[0].start()

        with pytest.raises(ConfigurationError, match=f"would run, with your rights, .* belongs to {planter}"):
            Planting(scores, plant, after).run(limits=Limits(lock_timeout=30))
        waiters[0].join()
        assert not was_executed(scores)


def commit_once_waited_for(connection: sa.Connection, relation: str) -> None:
    """Commit a transaction once another one waits for its lock on a table."""
    waits = f"exists (select from pg_locks where relation = '{relation}'::regclass and not granted)"
    wait_until(connection.engine.url, waits)
    connection.commit()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("layout", ["fresh", "public.production"])
def test_a_run_goes_on_if_what_runs_now_is_allowed(server: Server, planter: str, layout: str, workers: int) -> None:
    """Under the path of the session, like a trigger that was there from the beginning."""
    trigger = """
        create table public.noted (path text);
        create function public.note() returns trigger language plpgsql as
          $$ begin insert into noted values (current_setting('search_path')); return new; end $$;
        create trigger note before insert on {table} for each row execute function public.note();
    """
    with planted_in(server, layout, planter) as (scores, plant):
        planting = Planting(scores, lambda: plant("set role postgres;" + trigger))
        report = planting.run(workers)
        assert (report.inserted, report.failed, report.left_over) == (15, 0, 0)
        assert scores.count() == 15
        assert "note" in [each.name for each in report.triggers]
        paths = fetch(scores.url, "select path from public.noted")
        assert 14 - workers < len(paths) < 15
        assert set(paths) == {execute(scores.url, "select current_setting('search_path')")}
        plant("drop trigger note on {table}")


def test_other_owners_are_allowed_during_a_run_as_before_it(server: Server, planter: str) -> None:
    with planted_in(server, "fresh", planter) as (scores, plant):
        planting = Planting(scores, lambda: plant(BORROWED["a trigger of its own"][0]))
        assert planting.run(allow_other_owners=True).inserted == 15
        assert was_executed(scores)


def test_a_run_ends_if_what_runs_changes_again_and_again(
    server: Server, planter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "MOST_CHANGES", 3)
    with planted_in(server, "fresh", planter) as (scores, plant):
        moments = iter(("before update", "before delete", "after update", "after delete", "before truncate"))

        def change(_rows: object) -> None:
            plant(f"create or replace trigger ours {next(moments)} on {{table}} execute function planted.push()")

        days = DayRange(DAY - datetime.timedelta(days=4), DAY)
        observers = NOBODY._replace(on_inserted=change)
        with pytest.raises(ConfigurationError, match="has changed 3 times during the run; try again once nobody"):
            run_backfill(scores.engine, Settings(days, page_size=1, commit_every=1), observers=observers)
        assert scores.count() == 4
        assert not was_executed(scores)


def test_a_trigger_that_raises_the_error_of_a_change_costs_no_more_than_another(server: Server) -> None:
    with scores_in(server, "fresh") as scores:
        add_users(scores.engine, 3)
        scores.interfere("true", "raise 'no' using errcode = '42602';")
        with pytest.raises(sa.exc.DBAPIError, match="no"):
            run_backfill(scores.engine, Settings(ONE_DAY_RANGE))


def test_a_trigger_that_somebody_adds_during_an_undo_never_has_our_rights(
    server: Server, planter: str, tmp_path: Path
) -> None:
    manifest = tmp_path / "rows.jsonl"
    with planted_in(server, "public.production", planter) as (scores, plant):
        assert run_json(scores, "--manifest", str(manifest))["inserted"] == 3
        sql = BORROWED["a trigger of its own"][0].replace("insert", "delete")
        planted = False

        def on_progress(report: UndoReport) -> None:
            nonlocal planted
            if report.deleted and not planted:
                plant(sql)
                planted = True

        with pytest.raises(ConfigurationError, match=f"would run, with your rights, .* belongs to {planter}"):
            run_undo(
                scores.engine, manifest, Settings(ONE_DAY_RANGE, page_size=1, commit_every=1), on_progress=on_progress
            )
        assert scores.count() == 2
        assert not was_executed(scores)
        plant("drop trigger push on {table}")
        run_undo(scores.engine, manifest, Settings(ONE_DAY_RANGE, page_size=1, commit_every=1))
        assert scores.count() == 0


def test_what_was_committed_before_a_change_is_said(server: Server, planter: str) -> None:
    """By the command, with the exit code of a refusal."""
    with planted_in(server, "fresh", planter) as (scores, plant):
        options = ("--to", str(DAY), "--days", "5", "--commit-every", "1", "--pause-ms", "500", "--quiet")
        with started(scores.url, *options) as process:
            wait_until(scores.url, f"(select count(*) from {scores.relation}) > 0", process=process)
            plant(BORROWED["a trigger of its own"][0])
            stderr = process.communicate()[1]
        count = scores.count()
        committed = f"{counted(count, 'row')} {'was' if count == 1 else 'were'} committed before."
        assert process.returncode == 2
        assert stderr.splitlines()[-1] == (
            f"Error: The trigger push of {scores.relation} would run, with your rights, planted.push(), which belongs "
            f"to {planter}; look at it and disable it for the run, or give --allow-other-owners. {committed}"
        )
        assert not was_executed(scores)
