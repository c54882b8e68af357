"""Writes the beginning of the file of sql/pgtap/ about a table's behaviour: what all tables have in common.

It inserts rows, and says what is refused, what each role may do, and what is deleted with what. The values are the
samples of the tests. What is special about a table follows, written by hand. Writing a file takes no database.
"""

import re
import textwrap

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from momentum.base import auth_users
from momentum.grants import CLIENT_TABLE, POLICIES
from tests.samples import needed_columns, write_values
from tools.erd import POSTGRES, ROOT

TEMPLATE = ROOT / "tools" / "pgtap_behaviour.sql"
# The lines that separate the two parts of a file.
BY_HAND = """\
-- Up to here `make pgtap-sql` has made this file from the model, momentum/grants.py and tests/samples.py: change those.
-- From here on it is written by hand: what is special for the table, such as the rows that each CHECK refuses.
"""
# The end of a new file.
END = """
return query select * from finish();
end
$tests$;

select * from pg_temp.tests();

rollback;
"""
# The longest line that the linter lets pass.
WIDTH = 120
# The numbers of the samples in the rows: others write fewer, and none of their days is in the future.
FIRST, SECOND = 2001, 2002
# Users, as functions of the file.
ANN, BEN = "pg_temp.ann()", "pg_temp.ben()"
USERS = auth_users.fullname

ACTIONS = ("select", "insert", "update", "delete", "truncate")
# Why a role's rights are tried.
ROLES = {
    "anon": "Anyone who holds the public key must get nowhere, and row-level security does not stop TRUNCATE.",
    "authenticated": "Row-level security shows signed-in users no row until there is a policy, not even their own.",
    "service_role": "The backend works with the service role's key.",
    "owner": "The migrations work as the owner.",
}


def quote(text: str) -> str:
    """Return a text as a literal of SQL; a long one as several, which SQL joins."""
    # In a statement that is an argument, a literal is indented once more.
    fits = len(text) + text.count("'") <= WIDTH - 10
    parts = [text] if fits else textwrap.wrap(text, WIDTH - 20, drop_whitespace=False, break_on_hyphens=False)
    return "\n  ".join("'" + part.replace("'", "''") + "'" for part in parts)


def claim(function: str, *arguments: str, says: str, why: str = "") -> str:
    """Return an assertion.

    Args:
        function: The function of pgTAP.
        arguments: Its arguments as SQL, apart from the last; a statement is given as it is, and is quoted.
        says: Its last argument, the description.
        why: A comment.
    """
    lines = []
    for argument in arguments:
        if argument.startswith("'"):
            lines.append(f"  {argument}")
        elif "\n" in argument or len(argument) > WIDTH - 7:
            lines.append(f"  $$\n{textwrap.indent(argument, '    ')}\n  $$")
        else:
            lines.append(f"  $${argument}$$")
    comment = f"-- {why}\n" if why else ""
    return f"{comment}return next {function}(\n" + ",\n".join([*lines, f"  {quote(says)}"]) + "\n);"


def in_lines(before: str, items: list[str], after: str = "") -> str:
    """Return a list of SQL in one line, or in one line per item where it is too long."""
    line = f"{before}{', '.join(items)}{after}"
    return line if len(line) <= WIDTH - 4 else f"{before.rstrip()}\n  " + ",\n  ".join(items) + f"\n{after}".rstrip()


def target_of(column: sa.Column[object]) -> sa.Column[object] | None:
    """Return the column that a column refers to, if any."""
    return next((key.column for key in column.foreign_keys), None)


def parents_of(table: sa.Table) -> list[sa.Table]:
    """Return our tables that a table refers to, and those that rows of them need, each after those that it needs."""
    found: set[sa.Table] = set()

    def visit(columns: list[sa.Column[object]]) -> None:
        for parent in {target.table for target in map(target_of, columns) if target is not None}:
            if isinstance(parent, sa.Table) and parent.schema is None and parent not in {table, *found}:
                found.add(parent)
                visit([parent.columns[name] for name in needed_columns(parent)])

    visit(list(table.columns))
    return [parent for parent in table.metadata.sorted_tables if parent in found]


class Behaviour:
    """The assertions about a table.

    Attributes:
        table: The table as its model has it.
        needed: The columns without which a row can't be written.
        keys: The unique keys of such columns, by name.
        owner: The foreign key to the user that a row needs, if it needs one.
        mine: The condition for the first row.
    """

    def __init__(self, table: sa.Table) -> None:
        """Look at a table."""
        self.table, self.name = table, f"public.{table.name}"
        self.needed = needed_columns(table)
        unique = (rule for rule in table.constraints if isinstance(rule, sa.PrimaryKeyConstraint | sa.UniqueConstraint))
        keys = {str(rule.name): list(rule.columns.keys()) for rule in unique}
        self.keys = {name: keys[name] for name in sorted(keys) if {*keys[name]} <= {*self.needed}}
        # One column each, and in a fixed order.
        self.foreign_keys = sorted(table.foreign_keys, key=lambda key: str(key.constraint and key.constraint.name))
        users = (
            key for key in self.foreign_keys if key.column.table.fullname == USERS and key.parent.name in self.needed
        )
        self.owner = next(users, None)
        own = [self.owner.parent.name] if self.owner else next(iter(self.keys.values()), self.needed)
        first = self.values(ANN, FIRST)
        self.mine = " and ".join(f"{name} = {first[name]}" for name in own) or "true"

    def values(self, user: str, ordinal: int, **others: str) -> dict[str, str]:
        """Return the needed columns with a user's values, and others; another ordinal gives another row."""
        samples = write_values(self.table, user, ordinal)
        row = {}
        for name in self.needed:
            target = target_of(self.table.columns[name])
            row[name] = samples[name] if target is None else user
            if target is not None and target.table.fullname != USERS:
                row[name] = f"pg_temp.{target.table.name}()"
        return {**row, **others}

    def insert(self, row: dict[str, str], rest: str = "") -> str:
        """Return the statement that inserts a row."""
        if not row:
            return f"insert into {self.name} default values"
        line = f"insert into {self.name} ({', '.join(row)}) values ({', '.join(row.values())})"
        if rest or len(line) > WIDTH - 7:
            line = in_lines(f"insert into {self.name} (", [*row], ")")
            line += "\n" + in_lines("values (", [*row.values()], ")")
        return f"{line}\n{rest}" if rest else line

    def write_others(self) -> list[str]:
        """Return the functions that name the users and the rows that the table refers to, and their inserts."""
        ids = {"ann": "10000000-0000-4000-8000-00000000000a", "ben": "10000000-0000-4000-8000-00000000000b"}
        parents = parents_of(self.table)
        ids |= {parent.name: f"20000000-0000-4000-8000-00000000000{n}" for n, parent in enumerate(parents, 1)}
        parts = [
            f"create function pg_temp.{name}() returns uuid language sql immutable\nas $$select '{key}'::uuid$$;"
            for name, key in ids.items()
        ]
        parts[0] = f"-- The users of the tests below, and a row of each table that this one refers to.\n{parts[0]}"
        parts.append(f"insert into auth.users (id) values ({ANN}), ({BEN});")
        rows = ((parent, {"id": f"pg_temp.{parent.table.name}()"}) for parent in map(Behaviour, parents))
        return [*parts, *(parent.insert({**key, **parent.values(ANN, SECOND)}) + ";" for parent, key in rows)]

    def write_row(self) -> list[str]:
        """Return the assertions about the first row, and about what the server fills in."""
        filled = {}
        compiler = POSTGRES.ddl_compiler(POSTGRES, CreateTable(self.table))
        for column in self.table.columns:
            default = compiler.get_column_default_string(column)
            if default is not None:
                varies = "(" in default and default != "now()"
                filled[column.name] = f"{column.name} is not null" if varies else f"{column.name} = {default}"
        if "deleted_at" in self.table.columns:
            filled["deleted_at"] = "deleted_at is null"
        query = in_lines("select ", list(filled.values())) + f"\nfrom {self.name}\nwhere {self.mine}"
        return [
            claim(
                "lives_ok",
                self.insert(self.values(ANN, FIRST)),
                says=f"a row needs no more than {', '.join(self.needed) or 'its defaults'}",
                why="A client that sends the minimum must get a complete row.",
            ),
            claim(
                "results_eq",
                query,
                f"values ({', '.join(['true'] * len(filled))})",
                says=f"the server fills in {', '.join(filled)}",
            ),
        ]

    def refuse(self, statement: str, state: str, message: str, says: str) -> str:
        """Return the assertion that a statement is refused with an SQLSTATE and a message."""
        return claim("throws_ok", statement, f"'{state}'", quote(message), says=says)

    def write_refusals(self) -> list[str]:
        """Return the assertions about null, about a second row of a key, and about keys of rows that don't exist."""
        parts = [
            "-- Each constraint is proved by a refusal: one that is misspelt and has no effect would still read well."
        ]
        name = self.table.name
        for column in (column.name for column in self.table.columns if not column.nullable):
            message = f'null value in column "{column}" of relation "{name}" violates not-null constraint'
            row = self.values(BEN, SECOND, **{column: "null"})
            if column in self.needed and len(row) > 1:
                del row[column]
            parts.append(self.refuse(self.insert(row), "23502", message, f"{column} is never null"))
        deleted = {"deleted_at": "now()"} if "deleted_at" in self.table.columns else {}
        for unique, columns in self.keys.items():
            first = self.values(ANN, FIRST)
            row = self.values(BEN, SECOND, **{column: first[column] for column in columns}, **deleted)
            message = f'duplicate key value violates unique constraint "{unique}"'
            says = f"no two rows have the same {' and '.join(columns)}" + (", deleted or not" if deleted else "")
            parts.append(self.refuse(self.insert(row), "23505", message, says))
        primary = self.table.primary_key
        if primary.name not in self.keys:
            row = {**{column: column for column in primary.columns.keys()}, **self.values(BEN, SECOND)}  # noqa: SIM118
            copy = in_lines(f"insert into {self.name} (", [*row], ")") + "\n" + in_lines("select ", [*row.values()])
            message = f'duplicate key value violates unique constraint "{primary.name}"'
            statement = f"{copy}\nfrom {self.name}\nwhere {self.mine}"
            parts.append(self.refuse(statement, "23505", message, "no two rows have the same key"))
        for key in self.foreign_keys:
            row = self.values(BEN, SECOND, **{key.parent.name: "gen_random_uuid()"})
            rule = key.constraint and key.constraint.name
            message = f'insert or update on table "{name}" violates foreign key constraint "{rule}"'
            says = f"{key.parent.name} refers to a row of {key.column.table}"
            parts.append(self.refuse(self.insert(row), "23503", message, says))
        return [f"{parts[0]}\n{parts[1]}", *parts[2:]]

    def write_upserts(self) -> list[str]:
        """Return the assertions about upserts that name a key."""
        changed = "deleted_at" if "deleted_at" in self.table.columns else self.needed[-1]
        row = {**self.values(ANN, FIRST), **({"deleted_at": "null"} if changed == "deleted_at" else {})}
        return [
            claim(
                "lives_ok",
                self.insert(row, f"on conflict ({', '.join(key)}) do update set {changed} = excluded.{changed}"),
                says=f"an upsert on {' and '.join(key)} works",
                why="The app's upserts name the key, and revive a deleted row only because the key is not partial.",
            )
            for key in self.keys.values()
        ]

    def write_rights(self) -> list[str]:
        """Return the assertions about what each role may do; where there are policies, those of clients are by hand."""
        refused = f"permission denied for table {self.table.name}"
        hidden = dict.fromkeys(ACTIONS, "0 rows")
        hidden["insert"] = f'new row violates row-level security policy for table "{self.table.name}"'
        shown = {**dict.fromkeys(ACTIONS, "1 rows"), "truncate": "0 rows"}
        others = (other for other in self.table.metadata.tables.values() if other is not self.table)
        if any(key.column.table is self.table for other in others for key in other.foreign_keys):
            shown["truncate"] = "cannot truncate a table referenced in a foreign key constraint"
        parts = []
        for role, why in ROLES.items():
            sees = role in ("service_role", "owner")
            if not sees and POLICIES.get(self.table.name):
                continue
            privileges = "all" if role == "owner" else CLIENT_TABLE.get(role, "")
            may = [action for action in ACTIONS if privileges == "all" or action in privileges.split(", ")]
            outcomes = [(shown if sees else hidden)[action] if action in may else refused for action in ACTIONS]
            says = f"{role} may {', '.join(may) or 'do nothing'} in {self.name}"
            parts.append(
                claim(
                    "set_eq",
                    self.try_everything(role, self.mine if sees else "true"),
                    "values (array[\n  " + ",\n  ".join(quote(outcome) for outcome in outcomes) + "\n])",
                    says=says + ("" if sees else ", and meets no row"),
                    why=why,
                )
            )
        return parts

    def try_everything(self, role: str, condition: str) -> str:
        """Return the query for the outcomes of each action for a role, signed in as each user if it can sign in."""
        changed = next((column.name for column in self.table.columns if column.nullable), None)
        change = f"{changed} = null" if changed else f"{self.needed[-1]} = {self.needed[-1]}"
        statements = (
            f"select from {self.name} where {condition}",
            " ".join(self.insert(self.values(BEN, SECOND)).split("\n")),
            f"update {self.name} set {change} where {condition}",
            f"delete from {self.name} where {condition}",
            f"truncate {self.name}",
        )
        actor = "pg_temp.owner()" if role == "owner" else f"'{role}'"
        users = ["null", ANN, BEN] if role == "authenticated" else ["null"]
        return "\n".join(
            [
                f"select array_agg(pg_temp.attempt({actor}, statement, signed_in) order by place)",
                f"from unnest(array[{', '.join(users)}]::uuid[]) as signed_in",
                "cross join unnest(array[",
                ",\n".join(f"  {quote(statement)}" for statement in statements),
                "]) with ordinality as statements (statement, place)",
                "group by signed_in",
            ]
        )

    def write_update(self) -> list[str]:
        """Return the assertions about the trigger, where the table has it."""
        if not any(column.server_onupdate for column in self.table.columns):
            return []
        update = f"""\
with told as (
  update {self.name}
  set created_at = '2000-01-01 00:00+00', updated_at = '2000-01-01 00:00+00'
  where {self.mine}
  returning created_at, updated_at
)

select created_at, updated_at = now() from told"""
        insert = " ".join(self.insert(self.values(BEN, SECOND, updated_at="null")).split("\n"))
        return [
            claim(
                "results_eq",
                update,
                "values ('2000-01-01 00:00+00'::timestamptz, true)",
                says="an update sets updated_at, whatever the writer says, and nothing else",
                why="The app writes through PostgREST too, and may send a time of its own.",
            ),
            claim(
                "results_eq",
                f"select pg_temp.attempt(\n  'service_role',\n  {quote(insert)}\n)",
                "values ('1 rows')",
                says="a client's insert sets updated_at, whatever the client says",
                why="Null would be refused.",
            ),
        ]

    def write_deletions(self) -> list[str]:
        """Return the assertions about deleting what a row refers to: rows of other tables, then the user."""
        parts = []
        for key in self.foreign_keys:
            parent = key.column.table.name
            if key.ondelete == "RESTRICT" and key.column.table.fullname not in (USERS, self.table.fullname):
                row = self.values(BEN, SECOND, **{key.parent.name: f"pg_temp.{parent}()"})
                rule = key.constraint and key.constraint.name
                parts += [
                    claim(
                        "lives_ok", self.insert(row), says=f"{key.parent.name} may refer to a row of public.{parent}"
                    ),
                    claim(
                        "throws_matching",
                        f"delete from public.{parent} where {key.column.name} = pg_temp.{parent}()",
                        quote(f'violates (RESTRICT setting of )?foreign key constraint "{rule}"'),
                        says=f"a row of public.{parent} that {self.name} refers to cannot be deleted",
                        why="PostgreSQL 18 words the refusal differently.",
                    ),
                    f"delete from {self.name} where {key.parent.name} = pg_temp.{parent}();",
                ]
        if self.owner is not None and self.owner.ondelete == "CASCADE":
            user = f"delete from auth.users where id = {ANN}"
            why = "Deleting a user deletes the user's rows."
            rows = f"select from {self.name} where {self.mine}"
            parts += [
                claim("lives_ok", user, says=f"a user with rows in {self.name} can be deleted", why=why),
                claim("is_empty", rows, says=f"the rows of {self.name} go with their user"),
            ]
        return parts


def write_file(table: sa.Table, by_hand: str = END) -> str:
    """Return the file about a table's behaviour.

    Args:
        table: The table as its model has it.
        by_hand: The part that is written by hand.
    """
    behaviour = Behaviour(table)
    parts = [
        *behaviour.write_others(),
        *behaviour.write_row(),
        *behaviour.write_refusals(),
        *behaviour.write_upserts(),
        *behaviour.write_rights(),
        *behaviour.write_update(),
        *behaviour.write_deletions(),
        BY_HAND + by_hand,
    ]
    text = "\n\n".join(parts)
    count = len(re.findall(r"^ *return next ", text, re.MULTILINE))
    comment = "\n-- ".join(textwrap.wrap(str(table.comment), WIDTH - 3))
    fields = {"relation": behaviour.name, "name": table.name, "comment": comment, "count": str(count)}
    head = TEMPLATE.read_text(encoding="utf-8").rstrip()
    for name, value in fields.items():
        head = head.replace(f"{{{name}}}", value)
    return f"{head}\n\n{text}"


def part_by_hand(text: str) -> str:
    """Return the part of a file that is written by hand.

    Raises:
        ValueError: The file has no such part.
    """
    _, found, by_hand = text.partition(BY_HAND)
    if not found:
        first = text.partition("\n")[0]
        raise ValueError(
            f'in the file that begins with "{first}", restore the lines above the part by hand:\n{BY_HAND}'
        )
    return by_hand
