"""Runs the files of sql/pgtap/ within a transaction of the caller's.

For that, a file's own ``begin`` and ``rollback`` are removed, and nothing else.
"""

import re
from typing import Any

import psycopg

from tools.pgtap_sql import FOLDER

# The texts of the files that test a relation: first the one about its catalog, where there is one, then its behaviour.
Scripts = dict[str, list[bytes]]


def read_scripts() -> Scripts:
    """Return the files' texts by the name of the relation that they test."""
    scripts: Scripts = {}
    for path in sorted(FOLDER.glob("test_*.sql"), reverse=True):
        name = path.stem.removeprefix("test_").removesuffix("_catalog")
        scripts.setdefault(name, []).append(without_transaction(path.read_text(encoding="utf-8")))
    return scripts


def without_transaction(text: str) -> bytes:
    """Return a file's text without its own begin and rollback."""
    text, count = re.subn(r"^(begin|rollback);$", "", text, flags=re.MULTILINE)
    assert count == 2, f"A file begins and rolls back {count} times in all:\n{text}"
    return text.encode()


def tap_lines(connection: psycopg.Connection[Any], script: bytes) -> list[str]:
    """Return a script's output."""
    lines: list[str] = []
    cursor = connection.execute(script)
    while True:
        if cursor.description:
            lines += [str(row[0]) for row in cursor.fetchall()]
        if not cursor.nextset():
            return lines


def run_script(connection: psycopg.Connection[Any], script: bytes) -> list[str]:
    """Return pgTAP's complaints: failed assertions, a wrong number of them, or an error in the script."""
    try:
        lines = tap_lines(connection, script)
    except psycopg.Error as error:
        return [str(error)]
    return [line for line in lines if line.startswith(("not ok", "# Looks like"))]
