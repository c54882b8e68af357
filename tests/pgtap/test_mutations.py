"""Each fact of the catalog is changed in turn, and a pgTAP file of its relation must notice.

A mutation and a file run in one transaction, which is rolled back.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import psycopg
import pytest

from momentum.connect.engine import execute_script
from momentum.connect.url import as_text
from momentum.testing import Server, install_pgtap
from tests.pgtap.mutations import Mutation, read_mutations
from tests.pgtap.scripts import Scripts, read_scripts, run_script
from tests.server import as_owner, engine_of

PROJECT = Path(__file__).parents[2]

# One database per processor: nothing else is waited for.
WORKERS = min(os.cpu_count() or 1, 4)


class Outcome(NamedTuple):
    """The outcome of a mutation."""

    mutation: Mutation
    refused: str | None
    noticed: bool


# A failed assertion ends the file: later ones would add nothing.
STOP_AT_FAILURE = """
alter function pgtap.ok(boolean, text) rename to counted_ok;
create function pgtap.ok(boolean, text) returns text language plpgsql as $$
begin
  if $1 is not true then
    raise exception 'not ok: %', $2;
  end if;
  return pgtap.counted_ok($1, $2);
end
$$;
"""


def try_mutation(connection: psycopg.Connection[Any], mutation: Mutation, scripts: list[bytes], go_on: str) -> Outcome:
    """Mutate as a superuser, whom no fact resists, go on as the owner, run a file and roll all back, until one notices.

    Args:
        connection: A connection as the superuser.
        mutation: The change.
        scripts: The files of its relation.
        go_on: The statement with which the transaction goes on as the owner.
    """
    for script in scripts:
        try:
            connection.execute(f"reset session authorization; {mutation.statement}; {go_on}".encode())
            if run_script(connection, script):
                return Outcome(mutation, None, True)
        except psycopg.Error as error:
            return Outcome(mutation, str(error), False)
        finally:
            connection.rollback()
    return Outcome(mutation, None, False)


@contextmanager
def connections(server: Server, count: int) -> Iterator[list[psycopg.Connection[Any]]]:
    """Yield connections, each to a database of its own, because a mutation locks what it changes."""
    with ExitStack() as stack:
        pool = []
        for _ in range(count):
            url = stack.enter_context(server.database())
            with engine_of(url).begin() as own:
                install_pgtap(own, PROJECT)
                execute_script(own, STOP_AT_FAILURE)
            conninfo = as_text(server.as_admin(url))
            connection = stack.enter_context(psycopg.connect(conninfo))
            # As in a session of the owner's own.
            connection.execute(as_owner(server).encode())
            connection.execute('set search_path = "$user", public, extensions, pgtap')
            connection.commit()
            pool.append(connection)
        yield pool


def assert_all_is_well(pool: list[psycopg.Connection[Any]], scripts: Scripts) -> None:
    """Assert that no file complains without a mutation, because that would count as notice."""
    for connection in pool:
        for name, script in ((name, script) for name, texts in scripts.items() for script in texts):
            complaints = run_script(connection, script)
            connection.rollback()
            assert not complaints, f"a file of {name} fails without a mutation:\n" + "\n".join(complaints)


@pytest.mark.slow
def test_each_change_of_a_fact_is_noticed_by_a_file_of_its_relation(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    scripts = read_scripts()
    with connections(server, WORKERS) as pool:
        assert_all_is_well(pool, scripts)
        mutations = read_mutations(pool[0])
        assert {mutation.file for mutation in mutations} == scripts.keys(), (
            "a relation has no file, or a file has nothing to notice"
        )
        idle: SimpleQueue[psycopg.Connection[Any]] = SimpleQueue()
        for connection in pool:
            idle.put(connection)

        def run(mutation: Mutation) -> Outcome:
            connection = idle.get()
            try:
                return try_mutation(connection, mutation, scripts[mutation.file], as_owner(server))
            finally:
                idle.put(connection)

        with ThreadPoolExecutor(len(pool)) as executor:
            outcomes = list(executor.map(run, mutations))
        assert_all_is_well(pool, scripts)

    refused = [f"{outcome.mutation}: {outcome.refused}" for outcome in outcomes if outcome.refused]
    unnoticed = [str(outcome.mutation) for outcome in outcomes if not outcome.noticed]
    noticed = len(outcomes) - len(unnoticed)
    record_property("summary", f"mutation score: {noticed}/{len(outcomes)} ({100 * noticed / len(outcomes):.4g} %)")
    assert not refused, "these could not be applied, and so prove nothing:\n" + "\n".join(refused)
    assert not unnoticed, "nobody noticed these:\n" + "\n".join(unnoticed)
