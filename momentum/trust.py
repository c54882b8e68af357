"""The owners that we trust: nobody else's objects are used, because what they run would run with our rights.

These are the current role, the database's owner and superusers.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

from sqlalchemy import Connection, text

from momentum.connect.pipeline import Answer, ask
from momentum.wording import advise

SCHEMA = "momentum_internal"

UNTRUSTED = Path(__file__).with_name("trust.sql").read_text(encoding="utf-8")


class Untrusted(NamedTuple):
    """Something that we rely on and that belongs to none of these roles; as text, a sentence that says what to do.

    Attributes:
        kind: ``schema``, ``table``, ``function`` and so on.
        name: Its name, with the schema.
        role: The current role.
        owner: The role that it belongs to.
        statement: The statement with which the owner hands it over.
    """

    kind: str
    name: str
    role: str
    owner: str
    statement: str

    def __str__(self) -> str:
        return (
            f"The {self.kind} {self.name} belongs to {self.owner}, and you are {self.role}; what it runs would have "
            "your rights, so only what belongs to you, the database's owner or a superuser is used; "
            f"{advise(self.owner, self.statement)}, then try again."
        )


def find_untrusted(
    connection: Connection, relations: Iterable[str] = (), *, only_these: bool = False
) -> Answer[Untrusted | None]:
    """Return the first thing that can't be relied on; None if everything can.

    It looks at the private schema with all that is in it, the schema public, the accounts, and ``auth.uid()``.

    Args:
        connection: A connection; only the catalogs are read.
        relations: More relations, with their schemas, which count too; what doesn't exist is passed over.
        only_these: Whether to look at the private schema without all that is in it, and at public only for relations.
    """
    found = list_untrusted(connection, relations=relations, whole=not only_these)
    return found.then(lambda untrusted: untrusted[0] if untrusted else None)


def untrusted_functions(connection: Connection, functions: Iterable[str]) -> list[Untrusted]:
    """Return those of some functions, given by their oids, that belong to none of these roles or of the platform's."""
    return list_untrusted(connection, functions=functions).value


def list_untrusted(
    connection: Connection, *, relations: Iterable[str] = (), functions: Iterable[str] = (), whole: bool = False
) -> Answer[list[Untrusted]]:
    """Return what can't be relied on."""
    parameters = {"schema": SCHEMA, "relations": list(relations), "functions": list(functions), "whole": whole}
    return ask(connection, text(UNTRUSTED), parameters).then(lambda rows: [Untrusted(*row) for row in rows])


def refusing_block(relations: Iterable[str] = ()) -> str:
    """Return SQL that fails if something can't be relied on, for scripts, which can't ask first.

    Args:
        relations: As for ``find_untrusted``.
    """
    values = {
        "schema": f"'{SCHEMA}'",
        "relations": f"array[{', '.join(repr(relation) for relation in relations)}]",
        "functions": "array[]",
        "whole": "true",
    }
    query = re.sub(r"(?<!:):(\w+)", lambda found: values[found[1]], UNTRUSTED).replace("array[] as", "'{}' as")
    return f"""
do $owners$
declare
  untrusted record;
begin
  for untrusted in
{indent(query.strip(), "    ")}
  loop
    raise exception
      'The % % belongs to %, and you are %; what it runs would have your rights, so only what belongs to you, the '
      'database''s owner or a superuser is used; let % run `%`, then try again.',
      untrusted.kind, untrusted.name, untrusted.owner, untrusted.role, untrusted.owner, untrusted.statement;
  end loop;
end
$owners$"""
