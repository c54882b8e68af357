"""Writes sql/pgtap/ from the models and momentum/grants.py, except for parts by hand: `python -m tools.pgtap_sql`.

Each table has a file about its behaviour, of which tools/pgtap_behaviour.py writes the beginning. A file about the
catalog makes a temporary table of the model and compares the catalog's facts of that with those of the real table. So
no database is asked when a file is written: the one under test spells defaults, checks and indexes of both alike.
"""

import re
import sys
import textwrap
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from momentum.grants import CLIENT_TABLE, CLIENT_VIEW, POLICIES, grant_statements
from momentum.inventory import PARKED_PREFIX, TRIGGER_FUNCTION, private
from momentum.models import Base
from tools import pgtap_behaviour
from tools.erd import POSTGRES, ROOT, in_lower_case, type_of
from tools.pgtap_behaviour import BY_HAND, END, part_by_hand

FOLDER = ROOT / "sql" / "pgtap"
TEMPLATE = ROOT / "tools" / "pgtap_catalog.sql"
# The template has it before and after the assertions that suit tables only.
TABLES_ONLY = "-- A view has none of these.\n\n"
MODEL = "pg_temp.model"
# The longest line that the linter lets pass.
WIDTH = 120


def quote(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def fit(sql: str, *, head: str) -> str:
    """Return SQL with a line break after its head, a regular expression, where one line can't hold it."""
    return sql if len(sql) < WIDTH else re.sub(f"^{head}(?= )", r"\g<0>\n ", sql)


def comment_on(subject: str, comment: str) -> str:
    """Return the statement that comments something, a long comment in several literals, which SQL joins."""
    statement = f"comment on {subject} is {quote(comment)}"
    if len(statement) < WIDTH:
        return statement
    lines = textwrap.wrap(comment, WIDTH - 20, drop_whitespace=False)
    return "\n".join([f"comment on {subject} is", *map(quote, lines)])


def comments_on(kind: str, table: sa.Table) -> list[str]:
    """Return the statements that comment the model and its columns."""
    named = {f"{kind} {MODEL}": table.comment}
    named |= {f"column {MODEL}.{column.name}": column.comment for column in table.columns}
    return [comment_on(subject, comment) for subject, comment in named.items() if comment]


def write_table(table: sa.Table) -> list[str]:
    """Return the statements that make a temporary table of a model, in all but its foreign keys."""
    compiler = POSTGRES.ddl_compiler(POSTGRES, CreateTable(table))
    parts = [compiler.get_column_specification(column) for column in table.columns]
    rules = sorted(table.constraints, key=lambda rule: str(rule.name))
    parts += [compiler.process(rule) for rule in rules if not isinstance(rule, sa.ForeignKeyConstraint)]
    lines = [fit(in_lower_case(part), head=r"constraint \S+") for part in parts]
    statements = ["create temporary table model (\n  " + ",\n  ".join(lines) + "\n)"]
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        created = in_lower_case(str(CreateIndex(index).compile(dialect=POSTGRES)))
        created = created.replace(f" on {table.name} ", f" on {MODEL} ")
        statements.append(fit(created, head=r"create.* index \S+"))
    statements += comments_on("table", table)
    if any(column.server_onupdate for column in table.columns):
        statements.append(
            f"create trigger {TRIGGER_FUNCTION} before insert or update on {MODEL}\n"
            f"for each row execute function {private(TRIGGER_FUNCTION)}()"
        )
    statements.append(f"alter table {MODEL} enable row level security")
    statements += [f"create policy {name} on {MODEL}\n{rest}" for name, rest in POLICIES.get(table.name, {}).items()]
    return statements + grant_statements(MODEL, CLIENT_TABLE)


def write_view(view: sa.Table) -> list[str]:
    """Return the statements that make a temporary view of a model, without rows."""
    columns = ",\n  ".join(f"null::{type_of(column)} as {column.name}" for column in view.columns)
    statements = [f"create temporary view model with (security_invoker = true) as\nselect\n  {columns}"]
    return statements + comments_on("view", view) + grant_statements(MODEL, CLIENT_VIEW)


def write_foreign_key(key: sa.ForeignKeyConstraint) -> str:
    """Return a foreign key as the server prints it."""
    referred = ", ".join(element.column.name for element in key.elements)
    text = f"FOREIGN KEY ({', '.join(key.column_keys)}) REFERENCES {key.referred_table.fullname}({referred})"
    text += f" ON UPDATE {key.onupdate}" if key.onupdate else ""
    return text + (f" ON DELETE {key.ondelete}" if key.ondelete else "")


def write_file(kind: str, table: sa.Table, class_name: str, source: str) -> str:
    """Return the catalog file of a relation.

    Args:
        kind: "table" or "view".
        table: The relation as its model has it.
        class_name: The name of the model.
        source: The file in which the model is.
    """
    head, of_tables, tail = TEMPLATE.read_text(encoding="utf-8").split(TABLES_ONLY)
    text = head + (of_tables if kind == "table" else "") + tail
    statements = write_table(table) if kind == "table" else write_view(table)
    keys = sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
    fields = {
        "relation": f"public.{table.name}",
        "class": class_name,
        "source": source,
        "kind": kind,
        "parked": PARKED_PREFIX,
        "count": str(len(re.findall(r"^select (?:results_eq|is_empty)\(", text, re.MULTILINE))),
        "model": "\n".join(f"{statement};" for statement in statements),
        "foreign_keys": ",\n".join(f"    '{key.name} '\n    '{write_foreign_key(key)}'" for key in keys),
    }
    for name, value in fields.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def documents() -> dict[Path, str]:
    """Return what each file should hold; the part by hand is what it holds.

    Raises:
        LookupError: A table has no samples.
        ValueError: A file has no part by hand.
    """
    files = {}
    for mapper in Base.registry.mappers:
        table, model = mapper.local_table, mapper.class_
        assert isinstance(table, sa.Table)
        kind = "table" if table.metadata is Base.metadata else "view"
        source = model.__module__.replace(".", "/") + ".py"
        files[FOLDER / f"test_{table.name}_catalog.sql"] = write_file(kind, table, model.__name__, source)
        if kind == "table":
            behaviour = FOLDER / f"test_{table.name}.sql"
            by_hand = part_by_hand(behaviour.read_text(encoding="utf-8")) if behaviour.exists() else END
            files[behaviour] = pgtap_behaviour.write_file(table, by_hand)
    return dict(sorted(files.items()))


def written() -> dict[Path, str]:
    """Return the files that have been written, each with what it holds."""
    files = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("test_*.sql")}
    return {path: text for path, text in files.items() if path.stem.endswith("_catalog") or BY_HAND in text}


def main() -> None:
    try:
        files = documents()
    except (LookupError, ValueError) as error:
        sys.exit(f"Error: {error}; then run `make generated`.")
    for path in written().keys() - files.keys():
        path.unlink()
        print(f"Removed {path}: it has no model.")
    for path, content in files.items():
        path.write_text(content, encoding="utf-8")
        print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
