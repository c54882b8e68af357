"""What a trigger leads to is followed: what calls out, what can't be known, and what only looks like a call."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from momentum.backfill.effects import Catalog, Effects, Walk
from momentum.backfill.tokens import Token, tokens_of
from momentum.backfill.triggers import Found, described, read_triggers
from momentum.connect.settings import ENDING, PINNED, change_settings
from momentum.testing import Server
from tests.migrating import run
from tests.server import engine_of

# The longest name that the server keeps: it cuts off the rest, at a character.
LONG = "\N{LATIN SMALL LETTER A WITH DIAERESIS}" + 61 * "x"

# The extension pg_net, Supabase's webhooks, http and dblink, as far as they matter here; and a table with a webhook.
SENDERS = f"""
create schema net;
create schema supabase_functions;
create schema send;
create function send.send() returns integer language sql as 'select 1';
create table net.http_request_queue (url text);
create function net.http_post(url text, body jsonb default '{{}}') returns bigint language sql as
  $$ insert into net.http_request_queue values (url) returning 1::bigint $$;
create function supabase_functions.http_request() returns trigger language plpgsql as
  $$ begin perform net.http_post(tg_argv[0]); return new; end $$;
create function public.http(request text) returns text language sql as $$ select request $$;
create function public.dblink_exec(connection text, sql text) returns text language sql as $$ select sql $$;
create function public.push() returns trigger language plpgsql as
  $$ begin perform net.http_post('https://push.example'); return new; end $$;
create function public.send() returns integer language sql as $$ select net.http_post('x')::integer $$;

create table public.hooked (id integer, note text);
create trigger hook after insert on public.hooked for each row
  execute function supabase_functions.http_request('https://push.example');
create table public.plain (id integer, note text, url text);
create view public.hooked_view as select id, note from public.hooked;
create view public.view_of_view as select id from public.hooked_view;
create view public.instead as select id from public.plain;
create trigger hook instead of insert on public.instead for each row execute function public.push();
create table public.ruled (id integer);
create rule hook as on insert to public.ruled do also select net.http_post('x');
create table public.passed_on (id integer);
create rule hook as on insert to public.passed_on do also insert into public.hooked values (new.id);
create table public.defaulted (id integer, sent integer default public.send());
create table public.checked (id integer check (public.send() > id));
create table public.indexed (id integer);
create function public.index_send(integer) returns integer language sql immutable as $$ select public.send() $$;
create index on public.indexed (public.index_send(id));
create table public.parted (id integer) partition by range (id);
create table public.part partition of public.parted default;
create trigger hook after insert on public.part for each row execute function public.push();
create table public.parents (id integer primary key);
create table public.children (id integer references public.parents (id) on delete cascade);
create trigger hook after delete on public.children for each row execute function public.push();
create table public.when_deleted (id integer);
create trigger hook after delete on public.when_deleted for each row execute function public.push();
create domain public.sent as integer check (public.send() > value);
create table public.typed (id public.sent);
create table public.conditional (id integer);
create function public.is_due(integer) returns boolean language sql as $$ select public.send() > $1 $$;
create function public.nothing() returns trigger language plpgsql as 'begin return new; end';
create trigger hook after insert on public.conditional for each row when (public.is_due(new.id))
  execute function public.nothing();
create view public.sending as select public.send() as sent;

create function public.minus(integer, integer) returns integer language sql as $$ select public.send() $$;
create operator public.<-> (function = public.minus, leftarg = integer, rightarg = integer);
create function public.outer() returns void language sql begin atomic select public.send(); end;
create procedure public.proceed() language plpgsql as $$ begin perform public.send(); end $$;
create function public.step(integer, integer) returns integer language sql as $$ select public.send() $$;
create aggregate public.total(integer) (sfunc = public.step, stype = integer);
create function public.harmless(text) returns text language sql as $$ select $1 $$;
create function public.with_escapes() returns void language plpgsql set standard_conforming_strings = off as
  $$ begin execute 'select \\x6eet.http_post(null)'; end $$;
create function public.without_escapes() returns void language plpgsql set standard_conforming_strings = on as
  $$ begin perform '\\x6eet.http_post(null)'; end $$;
create schema realtime;
create function realtime.send(topic text) returns void language plpgsql as
  $$ begin execute 'set local realtime.topic = ' || topic; end $$;
create function public."Ähnlich"() returns void language sql as $$ select public.send() $$;
create function public."send\N{NO-BREAK SPACE}"() returns void language sql as $$ select public.send() $$;
create function public.\N{LOVE LETTER}() returns integer language sql as $$ select public.send() $$;
create function public.\N{ARABIC-INDIC DIGIT THREE}() returns integer language sql as $$ select public.send() $$;
create function public.{LONG}() returns void language sql as $$ select public.send() $$;
create schema cron;
create schema elsewhere;
create function elsewhere.sent() returns integer language sql as $$ select public.send() $$;
create function public.leak(public.plain) returns integer language sql as $$ select public.send() $$;
create table cron.job (command text);
create function public.composing(what text) returns void language plpgsql as $$ begin execute what; end $$;
"""

# As the superuser: code in other languages.
IN_C = """
create function public.in_c() returns integer language c as '$libdir/plpgsql', 'plpgsql_call_handler';
create foreign data wrapper elsewhere;
create server elsewhere foreign data wrapper elsewhere;
create foreign table public.far (id integer) server elsewhere;
create view public.far_view as select id from public.far;
grant all on public.far, public.far_view to public;
do $$ begin
  if exists (select from pg_catalog.pg_available_extensions where name = 'vector') then
    create extension vector schema public;
  end if;
end $$;
"""

CALLING_OUT = {
    "a function": "perform net.http_post('x');",
    "in capitals, with spaces and a comment": "PERFORM NET . /* here */ HTTP_POST('x');",
    "with quoted names": """perform "net"."http_post"('x');""",
    "as a named argument's value": "perform public.harmless(net.http_post(url := 'x')::text);",
    "a worker's queue": "insert into net.http_request_queue values ('x');",
    "the extension http": "perform public.http('x');",
    "the extension http by the path": "perform http('x');",
    "dblink": "perform public.dblink_exec('x', 'select');",
    "a table with a webhook": "insert into public.hooked values (1);",
    "a table with a webhook by the path": "INSERT INTO hooked SELECT 1;",
    "a table with a webhook in quotes": """insert into "public"."hooked" (id) values (1);""",
    "a table with a webhook in a query": "with new_rows as (insert into public.hooked values (1) returning id) "
    "select count(*) into strict new.id from new_rows;",
    "a merge": "merge into public.hooked as h using public.plain as p on h.id = p.id when not matched then "
    "insert values (p.id);",
    "an update after a conflict": "insert into public.when_updated values (1) on conflict (id) do update set id = 2;",
    "a copy": "copy public.hooked from stdin;",
    "a view of a table with a webhook": "insert into public.hooked_view values (1);",
    "a view of a view": "insert into public.view_of_view values (1);",
    "a view's own trigger": "insert into public.instead values (1);",
    "a rule": "insert into public.ruled values (1);",
    "a rule that writes elsewhere": "insert into public.passed_on values (1);",
    "a default": "insert into public.defaulted (id) values (1);",
    "a check": "insert into public.checked values (1);",
    "an index": "insert into public.indexed values (1);",
    "a partition": "insert into public.parted values (1);",
    "rows that refer to those that are deleted": "delete from public.parents;",
    "a delete": "delete from only public.when_deleted where id = 1;",
    "an update after an if": "if new.id > 1 then update public.when_updated set id = 1; end if;",
    "a domain": "insert into public.typed values (1);",
    "a cast to a domain": "new.id := 1::public.sent;",
    "a trigger's condition": "insert into public.conditional values (1);",
    "a view that is read": "perform sent from public.sending;",
    "a foreign table": "insert into public.far values (1);",
    "a foreign table that is read": "perform from public.plain, public.far;",
    "a view of a foreign table": "perform from public.plain as p join public.far_view as f on p.id = f.id;",
    "an operator": "new.id := new.id <-> 1;",
    "an operator with its schema": "new.id := new.id operator(public.<->) 1;",
    "an operator before a sign": "new.id := new.id <->-1;",
    "a body in the standard's way": "perform public.outer();",
    "a procedure": "call public.proceed();",
    "an aggregate": "perform public.total(id) from public.plain;",
    "a program": "copy public.plain to program 'curl https://push.example';",
    "a file": "copy public.plain to '/tmp/plain';",
    "a large object's file": "perform lo_export(1, '/tmp/x');",
    "SQL in a constant": "execute 'select net.http_post(''x'')';",
    "SQL in brackets": "execute ($sql$select public.send()$sql$) into new.id;",
    "SQL with literals": "execute format('select net.http_post(%L)', new.id);",
    "SQL of a loop": "for new in execute 'insert into public.hooked values (1) returning id' loop end loop;",
    "a block": "do 'begin perform net.http_post(''x''); end';",
    "an argument of composed SQL": "execute format('select %L', public.send());",
    "SQL with a tab": r"execute E'select\tnet.http_get(\'x\')';",
    "SQL with a line break": r"execute format(E'select\nnet.http_get(%L)', new.id);",
    "SQL with a byte": r"execute E'select \x6eet.http_get(null)';",
    "SQL with an octal byte": r"execute E'select \156et.http_get(null)';",
    "SQL with a character's number": r"execute E'select \u006eet.http_get(null)'; execute E'select \U0000006Eet.x()';",
    "SQL with Unicode escapes": r"execute U&'select n\0065t.http_get(null)';",
    "SQL with a mark of its own": "execute U&'select n!0065t.http_get(null)' uescape '!';",
    "SQL over two lines": "execute format('select net.'\n  'http_get(%L)', new.id);",
    "a block with escapes": r"do E'begin perform n\x65t.http_post(\'x\'); end';",
    "a name with Unicode escapes": r"""perform U&"n\0065t".http_post('x');""",
    "a name with a mark of its own": """perform U&"n!0065t" /* here */ uescape '!' . http_post('x');""",
    "a table's name with Unicode escapes": r"""insert into public.U&"hook\0065d" values (1);""",
    "a name in capitals that the server keeps": "perform public.Ähnlich();",
    "a name with a space that is none": "perform public.send\N{NO-BREAK SPACE}();",
    "a name that is a symbol": "perform public.\N{LOVE LETTER}();",
    "a name that looks like a number": "perform public.\N{ARABIC-INDIC DIGIT THREE}();",
    "a name that is cut off": f"perform public.{LONG}yz();",
    "a quoted name that is cut off": f'perform public."{LONG}yz"();',
    "a function of a row": "perform p.leak from public.plain as p;",
    "a path that is set": "perform set_config('search_path', new.note, true); perform sent();",
    "a bound of a loop": "for i in 1..public.send() loop end loop;",
    "a bound of a loop that is named": "for i in new.id..public.send() loop end loop;",
    "a bound of a loop without a schema": "for i in reverse 3 .. send() loop end loop;",
    "between dollars in capitals": "new.note := $A$ $a$ $A$; perform public.send(); new.note := $A$ $a$ $A$;",
    "a block with its language": "do language plpgsql $x$ begin perform public.send(); end $x$;",
    "a function that is made": "create function public.made() returns integer language sql as 'select public.send()'; "
    "perform public.made();",
    "a job": "insert into cron.job values ('select public.send()');",
    "a subscription": "create subscription s connection 'host=push.example' publication p with (create_slot = false);",
    "a trigger function itself": "perform supabase_functions.http_request();",
}

UNKNOWN = {
    "composed SQL": "execute 'select ' || new.note;",
    "a variable": "execute new.note;",
    "a format with names": "execute format('insert into %I values (1)', new.note);",
    "a format with text": "execute pg_catalog.format('select %s', new.note);",
    "a format that is a variable": "execute format(new.note);",
    "composed SQL of a loop": "for new in execute new.note loop end loop;",
    "composed SQL in brackets": "execute ('select ' || new.note);",
    "another function's": "perform public.composing('select');",
    "SQL that is a function's argument": "perform query_to_xml(new.note, true, true, '');",
    "a byte of some encoding": r"execute E'select \xc3\xa4.http_get(null)';",
    "a block with a byte of some encoding": r"do E'begin perform \xc3\xa4(); end';",
    "a setting that changes strings": r"set local standard_conforming_strings = off; execute 'select \x6eet.x()';",
    "a function that changes strings": "perform set_config('standard_conforming_strings', new.note, true);",
    "another function that changes strings": "perform public.with_escapes();",
    "another language": "perform public.in_c();",
    "a block in another language": "do language plperl 'elog(INFO, 1)';",
    "a library": "load 'auto_explain';",
    "a variable called procedure": "declare procedure text := new.note; begin execute procedure; end;",
    "a variable called function": "declare function text := new.note; begin execute function where (true); end;",
    "another variable called function": "declare function text; "
    "begin execute function operator(pg_catalog.||) ''; end;",
    "an operator that is made": "create operator public.<=> (function = step, rightarg = integer);",
    "a function that is renamed": "alter function send rename to again; perform public.again();",
    "a table that is moved": "alter table public.hooked set schema send; insert into send.hooked values (1);",
    "a variable after a column called trigger": "if (select 1 as create) > 0 then declare procedure text; begin "
    'execute procedure collate (pg_catalog)."C"; end; end if;',
}

NO_CALLS = {
    "a comment": "-- see https://example.com, net.http_post('x')\nnew.note := 'x';",
    "a nested comment": "/* /* net.http_post('x') */ execute new.note; */ new.note := 'x';",
    "a string": "new.note := 'select net.http_post(1); https://example.com';",
    "a string with escapes": r"new.note := E'\xc3\xa4 select \x6eet.http_get(1)'; raise notice U&'n\0065t.x()';",
    "SQL with escapes": r"execute E'select \'\xc3\xa4\',\n\t1'; execute E'select /* \xe4 */ 1';",
    "a backslash": r"execute 'select $x$\x6eet.http_get(1)$x$';",
    "a function that keeps strings": "perform public.without_escapes();",
    "a string in dollars": "new.note := $x$net.http_post('x')$x$;",
    "a column called http": "new.note := new.http; new.note := http.note from public.plain as http;",
    "a variable called net": "new.note := net.note from public.plain as net;",
    "a column of one called net": "select net.url into new.note from public.plain as net where net.url ~ 'http';",
    "a quoted name": """new."net.http_post" := 'x';""",
    "the word execute in quotes": """new."execute" := 'x';""",
    "a table without a trigger": "insert into public.plain values (1, 'x', 'https://example.com');",
    "a table whose webhook fires on another event": "update public.hooked set id = 1; delete from public.hooked;",
    "a table whose rule is for another event": "delete from public.ruled; update public.ruled set id = 1;",
    "a table whose condition is for another event": "update public.conditional set id = 1;",
    "a table that is read": "perform from public.hooked; perform from public.when_deleted for update;",
    "a function": "new.note := public.harmless(format('%I', lower(new.note)));",
    "a constant": "execute 'update public.plain set id = 1 where id = 2'; execute format('select %L, %%', new.note);",
    "an operator of the server": "new.id := new.id - 1 + 2 << 1;",
    "a function of a computing extension": "perform public.vector_norm('[1, 2]'::public.vector);",
    "a message to connected clients": "perform realtime.send(new.note); perform pg_notify('x', net.note); notify x;",
    "a schema of others with the same name": "perform send.send();",
    "a trigger that is made": "create trigger made before update on public.plain for each row execute function "
    "public.nothing();",
    "a range of numbers": "for i in 1..3 loop new.note := 1.5 || 2. || .5 || 1e5; end loop;",
    "another word in capitals": "perform public.harmless('x'), öffnen from (select 1 as öffnen) as x;",
}


BODIES = [*CALLING_OUT.values(), *UNKNOWN.values(), *NO_CALLS.values()]


@pytest.fixture(scope="module")
def catalog(server: Server) -> Iterator[Catalog]:
    """The catalog of a database with a table that has a trigger with each of these bodies, by its number."""
    with server.database(migrated=False) as url:
        run(url, SENDERS)
        run(
            url,
            """
            create table public.when_updated (id integer);
            create trigger hook after update on public.when_updated for each row execute function public.push();
            create table public.scores (id integer, note text, http text);
            """,
        )
        run(server.as_admin(url), IN_C)
        for number, body in enumerate(BODIES):
            run(
                url,
                f"""
                set check_function_bodies = off;
                create function public.body_{number}() returns trigger language plpgsql as
                $body$ begin {body} return new; end $body$;
                create trigger trigger_{number} after insert on public.scores for each row
                  execute function public.body_{number}();
                """,
            )
        with engine_of(url).connect() as connection:
            assert len(read_triggers(connection, "public.scores", "insert").value) == len(BODIES)
            yield Catalog.read(connection).value


def effects_of(catalog: Catalog, body: str) -> tuple[tuple[str, ...], bool, tuple[str, ...]]:
    """Return the effects of the trigger with a body, whether it calls out, and why that can't be known.

    Each test follows its own trigger only, so that it is quick, and notices a mistake about that one.
    """
    relation = catalog.relation("public.scores")
    assert relation is not None
    [trigger] = [each for each in catalog.triggers[relation] if each["name"] == f"trigger_{BODIES.index(body)}"]
    walk = Walk(catalog)
    walk.fire(trigger)
    return described(walk.effects, {})[:3]


@pytest.mark.parametrize("case", CALLING_OUT)
def test_a_way_out_is_found(catalog: Catalog, case: str) -> None:
    effects, calls_out, unknown = effects_of(catalog, CALLING_OUT[case])
    assert effects[:1] == ("calls out of the database",)
    assert (calls_out, unknown) == (True, ())


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_cannot_be_known_counts_as_a_way_out(catalog: Catalog, case: str) -> None:
    effects, calls_out, unknown = effects_of(catalog, UNKNOWN[case])
    assert effects[0].startswith("may call out of the database, which can't be known because public.")
    assert calls_out
    assert len(unknown) == 1


@pytest.mark.parametrize("case", NO_CALLS)
def test_what_only_looks_like_a_call_is_none(catalog: Catalog, case: str) -> None:
    effects, calls_out, _ = effects_of(catalog, NO_CALLS[case])
    assert not calls_out, effects


# Texts that say what they do by themselves, whatever is in the database.
TEXTS: dict[str, Effects] = {
    "select net.http_get('x')": Effects(calls_out=True),
    "select http.get('x')": Effects(calls_out=True),
    "perform supabase_functions.http_request()": Effects(calls_out=True),
    "perform aws_lambda.invoke('x')": Effects(calls_out=True),
    "select lo_export(1, '/tmp/x')": Effects(calls_out=True),
    "select pg_catalog.lo_export(1, '/tmp/x')": Effects(calls_out=True),
    "copy public.plain from program 'curl'": Effects(calls_out=True, named={"writes to other rows"}),
    "select net, http.get from net, http": Effects(),
    "select public.lo_export(1, '/tmp/x')": Effects(),
    "insert into net (url) values ('x')": Effects(named={"writes to other rows"}),
    "notify scores": Effects(named={"notifies listeners"}),
    "perform pg_notify('scores', 'x')": Effects(named={"notifies listeners"}),
    "perform pg_catalog.pg_notify('scores', 'x')": Effects(named={"notifies listeners"}),
    "perform public.pg_notify('scores', 'x'); listen notify": Effects(),
    "raise exception 'no'": Effects(named={"may refuse the row"}),
    "raise 'no'": Effects(named={"may refuse the row"}),
    "raise notice 'no'; raise; raise sqlstate '22012'": Effects(),
    "truncate public.plain": Effects(),
    "update public.plain set id = 1": Effects(named={"writes to other rows"}),
    "select from public.plain for update; before update on public.plain": Effects(),
    "select query_to_xml('select', true, true, '')": Effects(unknown={"a text executes SQL by query_to_xml()": None}),
    "select public.query_to_xml('select', true, true, '')": Effects(),
    "execute 'select' || new.note": Effects(unknown={"a text executes SQL that it composes": None}),
    "create trigger t before insert on public.s for each row execute function public.f()": Effects(),
    "execute procedure public.f": Effects(unknown={"a text executes SQL that it composes": None}),
    "do 'begin notify scores; end'": Effects(named={"notifies listeners"}),
    "set standard_conforming_strings = off": Effects(unknown={"a text changes standard_conforming_strings": None}),
    r'select U&"n\d800t".x()': Effects(unknown={"a text names something with characters that can't be read": None}),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_by_itself_says_what_it_does(text: str) -> None:
    walk = Walk(Catalog([{"is": "path", "schemas": ["public"], "default": "public", "conforming": "on"}]))
    walk.read(text, ("public",), "a text")
    assert walk.effects == TEXTS[text]


@pytest.mark.parametrize(
    ("text", "calls_out"),
    [
        ("copy public.plain to program 'curl'", True),
        ("copy (select 1) to program 'curl'", True),
        ("copy public.plain to '/tmp/x'", True),
        ("copy public.plain from '/tmp/x'", False),
        ("copy public.plain to stdout; select to program 'curl'", False),
        ("copy public.plain to stdout; select 'program'", False),
    ],
)
def test_a_copy_calls_out_if_it_leads_to_a_program_or_a_file(text: str, calls_out: bool) -> None:
    walk = Walk(Catalog([{"is": "path", "schemas": ["public"], "default": "public", "conforming": "on"}]))
    walk.read(text, ("public",), "a text")
    assert walk.effects.calls_out is calls_out


# What else of a table runs for its rows.
ATTACHED = {
    "default id": ("alter table public.scores alter id set default public.send()", "insert"),
    "check due": ("alter table public.scores add constraint due check (public.is_due(id))", "insert"),
    "index scores_sent": ("create index scores_sent on public.scores (public.index_send(id))", "insert"),
    "type of the column sent": ("alter table public.scores add sent public.sent", "insert"),
    "reference from public.notes": (
        "alter table public.scores add primary key (id); "
        "create table public.notes (id integer references public.scores (id) on delete cascade); "
        "create trigger push after delete on public.notes for each row execute function public.push()",
        "delete",
    ),
}


@pytest.mark.parametrize("case", ATTACHED)
def test_a_way_out_without_a_trigger_is_found(server: Server, case: str) -> None:
    sql, event = ATTACHED[case]
    with server.database(migrated=False) as url:
        run(url, SENDERS)
        run(url, f"create table public.scores (id integer, note text); {sql}")
        with engine_of(url).connect() as connection:
            [found] = read_triggers(connection, "public.scores", event).value
            assert f"{found.kind} {found.name}" == case
            assert found.calls_out
            assert read_triggers(connection, "public.scores", "delete" if event == "insert" else "insert").value == []
            if case == "default id":
                assert read_triggers(connection, "public.scores", event, ["id"]).value == []


def test_a_functions_own_path_says_what_its_names_mean(supabase_url: sa.URL) -> None:
    run(
        supabase_url,
        SENDERS
        + """
        create schema "Elsewhere";
        create table "Elsewhere".plain (id integer);
        create trigger push after insert on "Elsewhere".plain for each row execute function public.push();
        create table public.scores (id integer);
        create function public.inner_one() returns void language sql as 'insert into plain values (1)';
        create function public.here() returns trigger language plpgsql as
          'begin perform public.inner_one(); return new; end';
        create function public.there() returns trigger language plpgsql set search_path = pg_catalog, "Elsewhere" as
          'begin perform public.inner_one(); return new; end';
        create function public.anywhere() returns trigger language plpgsql as
          'begin set local search_path = "Elsewhere"; perform public.inner_one(); return new; end';
        create trigger here after insert on public.scores for each row execute function public.here();
        create trigger there after insert on public.scores for each row execute function public.there();
        create trigger anywhere after insert on public.scores for each row execute function public.anywhere();
        """,
    )
    with engine_of(supabase_url).connect() as connection:
        found = {
            trigger.name: trigger.calls_out for trigger in read_triggers(connection, "public.scores", "insert").value
        }
    assert found == {"anywhere": True, "here": False, "there": True}


def test_a_role_may_have_backslashes_begin_escapes(server: Server) -> None:
    with server.database(migrated=False) as url:
        run(
            url,
            SENDERS
            + r"""
            create table public.scores (id integer);
            create function public.escaped() returns trigger language plpgsql as
              $$ begin execute 'select \x6eet.http_post(null)'; return new; end $$;
            create trigger escaped after insert on public.scores for each row execute function public.escaped();
            """,
        )
        with engine_of(url).connect() as connection:
            assert [each.calls_out for each in read_triggers(connection, "public.scores", "insert").value] == [False]
        run(server.as_admin(url), f'alter database "{url.database}" set standard_conforming_strings = off')
        with engine_of(url).connect() as connection:
            change_settings(connection, PINNED)
            assert [each.calls_out for each in read_triggers(connection, "public.scores", "insert").value] == [True]


# Texts with a number of statements, or parts of one, that write to tables.
LARGE = {
    "inserts": lambda number: "insert into public.plain values (1, 'x');\n" * number,
    "copies": lambda number: "copy public.plain from stdin;\n" * number,
    "parts of a statement": lambda number: (
        "with " + ", ".join(f"w{n} as (insert into public.plain values (1))" for n in range(number)) + " select 1"
    ),
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_text_that_is_twice_as_long_takes_twice_the_work(
    text: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = {"is": "path", "schemas": ["public"], "default": "public", "conforming": "on"}
    looked = 0

    class Counted(list[Token]):
        """Counts the tokens that are read, whether one by one, in a slice or in a loop."""

        def __getitem__(self, index: Any) -> Any:
            nonlocal looked
            looked += len(range(*index.indices(len(self)))) if isinstance(index, slice) else 1
            return super().__getitem__(index)

        def __iter__(self) -> Iterator[Token]:
            return (self[number] for number in range(len(self)))

    monkeypatch.setattr("momentum.backfill.effects.tokens_of", lambda sql, **how: Counted(tokens_of(sql, **how)))

    def work(number: int) -> int:
        nonlocal looked
        looked = 0
        walk = Walk(Catalog([path]))
        walk.read(text(number), (), "a text")
        assert walk.effects.named == {"writes to other rows"}
        return looked

    assert 1000 < work(200) < 2.1 * work(100)


CHAINS = {
    "functions": """
    do $do$ begin
      for n in 1 .. 2000 loop
        execute format(
          'create function public.c%s() returns integer language plpgsql as ''begin return public.c%s(); end''',
          n, n - 1
        );
      end loop;
    end $do$;
    create function public.c0() returns integer language plpgsql as 'begin return public.send(); end';
    """,
    "tables": """
    do $do$ begin
      execute 'create table public.t0 (id integer primary key)';
      for n in 1 .. 400 loop
        execute format(
          'create table public.t%s (id integer primary key references public.t%s on delete cascade)', n, n - 1
        );
      end loop;
    end $do$;
    create trigger hook after delete on public.t400 for each row execute function public.push();
    create function public.c2000() returns integer language plpgsql as 'begin delete from public.t0; return 1; end';
    """,
    "blocks": "create function public.c2000() returns integer language plpgsql as $f$ begin "
    + "".join(f"do $b{n}$ begin " for n in range(400))
    + "perform public.send(); "
    + "".join(f"end $b{n}$; " for n in reversed(range(400)))
    + "return 1; end $f$;",
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_chain_may_be_long(supabase_url: sa.URL, chain: str) -> None:
    run(
        supabase_url,
        f"""
        {SENDERS}
        {chain}
        create table public.scores (id integer);
        create function public.first() returns trigger language plpgsql as
          'begin perform public.c2000(); return new; end';
        create trigger first after insert on public.scores for each row execute function public.first();
        """,
    )
    with engine_of(supabase_url).connect() as connection:
        [found] = read_triggers(connection, "public.scores", "insert").value
    assert found.effects[0] == "calls out of the database"


def test_a_walk_may_take_longer_than_the_server_lets_a_transaction_be_idle(
    supabase_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it lasts the transaction's own limit doesn't hold."""
    run(supabase_url, "create table public.scores (id integer)")
    limits: list[str] = []

    def none(*_: object) -> list[Found]:
        limits.append(connection.scalars(sa.text("show idle_in_transaction_session_timeout")).one())
        return []

    with engine_of(supabase_url).connect() as connection:
        monkeypatch.setattr("momentum.backfill.triggers.triggers_in", none)
        change_settings(connection, ENDING)
        assert read_triggers(connection, "public.scores", "insert").value == []
    assert limits == ["1min"]
