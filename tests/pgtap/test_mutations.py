"""Each fact of the catalog is changed in turn, and the pgTAP file of its relation must notice.

A mutation and the file run in one transaction, which is rolled back: for that the file's own ``begin`` and ``rollback``
are taken away, and nothing else of its text.
"""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import psycopg
import pytest

from momentum.connect.engine import as_text, execute_script
from momentum.testing import Server, install_pgtap
from tests.pgtap.mutations import Mutation, read_mutations
from tests.server import engine_of

PROJECT = Path(__file__).parents[2]

# As many databases as processors, for there is nothing else to wait for.
WORKERS = min(os.cpu_count() or 1, 4)


class Outcome(NamedTuple):
    """What came of a mutation."""

    mutation: Mutation
    refused: str | None
    noticed: bool


def read_scripts() -> dict[str, bytes]:
    """Return each file's text by the name of what it tests, without the file's own begin and rollback."""
    scripts = {}
    for path in sorted((PROJECT / "sql" / "pgtap").glob("test_*.sql")):
        text, count = re.subn(r"^(begin|rollback);$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 2, f"{path.name} begins and rolls back {count} times in all."
        scripts[path.stem.removeprefix("test_")] = text.encode()
    return scripts


# An assertion that fails ends the file: what comes after it can't make it more noticed.
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


def run_script(connection: psycopg.Connection[Any], script: bytes) -> list[str]:
    """Return what pgTAP complains of: failed assertions, a wrong number of them, or an error in the script."""
    lines: list[str] = []
    try:
        cursor = connection.execute(script)
    except psycopg.Error as error:
        return [str(error)]
    while True:
        if cursor.description:
            lines += [str(row[0]) for row in cursor.fetchall()]
        if not cursor.nextset():
            return [line for line in lines if line.startswith(("not ok", "# Looks like"))]


def try_mutation(connection: psycopg.Connection[Any], mutation: Mutation, script: bytes) -> Outcome:
    """Mutate, run the file and roll both back."""
    try:
        connection.execute(mutation.statement.encode())
        return Outcome(mutation, None, bool(run_script(connection, script)))
    except psycopg.Error as error:
        return Outcome(mutation, str(error), False)
    finally:
        connection.rollback()


@contextmanager
def connections(server: Server, count: int) -> Iterator[list[psycopg.Connection[Any]]]:
    """Yield connections, each to a database of its own, because a mutation locks what it changes."""
    with ExitStack() as stack:
        pool = []
        for _ in range(count):
            url = stack.enter_context(server.database())
            with engine_of(url).begin() as connection:
                install_pgtap(connection, PROJECT)
                execute_script(connection, STOP_AT_FAILURE)
            conninfo = as_text(url)
            pool.append(stack.enter_context(psycopg.connect(conninfo)))
        yield pool


def assert_all_is_well(pool: list[psycopg.Connection[Any]], scripts: dict[str, bytes]) -> None:
    """Assert that the files complain of nothing where nothing is mutated, for that would pass for notice."""
    for connection in pool:
        for name, script in scripts.items():
            complaints = run_script(connection, script)
            connection.rollback()
            assert not complaints, f"test_{name}.sql fails without a mutation:\n" + "\n".join(complaints)


@pytest.mark.slow
def test_each_change_of_a_fact_is_noticed_by_the_file_of_its_relation(
    server: Server, record_property: Callable[[str, object], None]
) -> None:
    scripts = read_scripts()
    with connections(server, WORKERS) as pool:
        assert_all_is_well(pool, scripts)
        mutations = read_mutations(pool[0])
        assert {mutation.file for mutation in mutations} == scripts.keys(), "a file has nothing to notice"
        idle: SimpleQueue[psycopg.Connection[Any]] = SimpleQueue()
        for connection in pool:
            idle.put(connection)

        def run(mutation: Mutation) -> Outcome:
            connection = idle.get()
            try:
                return try_mutation(connection, mutation, scripts[mutation.file])
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
