"""The SQL that removes differences: ``python -m momentum.verify --sql``.

Each statement follows from the kind of the fact and its expected value, which is written as the server writes it in
SQL; nothing here knows a table. No statement drops a table or a column, changes a type, or touches a row. Where only
that would help, a comment says so. Whatever can take long is done so that clients can go on.
"""

import re
from collections.abc import Iterator, Mapping

from momentum.grants import CLIENTS
from momentum.inventory import VERSION_TABLE, private
from momentum.verify.compare import (
    AUTH_UID,
    ESCAPED,
    PART,
    PLATFORM,
    RECORD,
    SCORE_TABLE,
    VERSION,
    Comparison,
    Difference,
    object_of,
    one_line,
    parts_of,
)
from momentum.wording import advise, printable

HEADER = """\
-- Statements that make the database match revision {revision}, for psql as the role that migrates:
--   python -m momentum.verify --sql | psql -v ON_ERROR_STOP=1 "$MOMENTUM_DATABASE_URL"
-- What is left to you is a comment. No statement drops a table or a column, changes a type or touches a row of yours.
"""
# Nobody waits longer than that behind a statement that waits for a lock. An index that is made CONCURRENTLY only waits
# for old transactions, and blocks nobody meanwhile.
LOCKS = "set lock_timeout = '2s';"
PATIENTLY = "set lock_timeout = 0;"

# The order of the statements: each needs at most what comes before it.
OWNERS, EXCESS, COLUMNS, KEYS, REFERENCES, INDEXES, FUNCTIONS, TRIGGERS, VIEWS, REST = range(10)

UNESCAPED = {escaped: char for char, escaped in ESCAPED.items()}

# A column's value: `timestamp with time zone not null default now()`.
COLUMN = re.compile(
    r"(?P<type>.+?( collate \S+)?)(?P<required> not null)?(?P<unchecked> \(not valid\))?"
    r"(?P<generated> generated .*)?( default (?P<default>.*))?",
    re.DOTALL,
)
PLAIN_KEY = re.compile(r"(?P<kind>PRIMARY KEY|UNIQUE) (?P<columns>\([^()]*\))")
UNIQUE_INDEX = re.compile(r"(?P<properties>.*), over (?P<columns>.*)")
STATES = {", disabled": "disable", ", on replicas only": "enable replica", ", on replicas too": "enable always"}
ALL = "ALL"

# By the end of a key: the settings of a table, and the words that set each of their values.
SETTINGS = {
    "row level security": {
        "enabled": "enable row level security",
        "disabled": "disable row level security",
        "forced on the owner": "force row level security",
        "not forced on the owner": "no force row level security",
    },
    "persistence": {"permanent": "set logged", "unlogged": "set unlogged"},
    "replica identity": {value: f"replica identity {value}" for value in ("default", "nothing", "full")},
}


# Attributes that a role of clients must not have, as the facts name them, and the options that take them away.
ATTRIBUTES = {
    "superuser": "nosuperuser nobypassrls",
    "bypasses": "nobypassrls",
    "may create roles": "nocreaterole",
    "may log in": "nologin",
    "may replicate": "noreplication",
}


def write_script(comparison: Comparison) -> str:
    """Return the script that removes the differences of a comparison."""
    repairs = Repairs(comparison)
    blocks = []
    for difference in sorted(comparison.differences, key=repairs.rank):
        lines = repairs.guarded(difference)
        if lines:
            blocks.append("\n".join([f"-- {printable(str(difference))}", *lines, ""]))
    notes = [f"-- Warning: {printable(warning)}\n" for warning in comparison.warnings]
    statements = [LOCKS, ""] if any(re.search("^[^-]", block, re.MULTILINE) for block in blocks) else []
    return "\n".join([HEADER.format(revision=comparison.revision), *notes, *statements, *blocks]).rstrip("\n")


class Repairs:
    """The statements that remove the differences of a comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self.differences = comparison.differences
        self.session = comparison.session
        self.record = comparison.record
        self.relation = str(comparison.record.get("relation"))
        self.expected = self.as_sql(comparison.expected)
        self.found = self.as_sql(comparison.found)

    def as_sql(self, facts: Mapping[str, str]) -> dict[str, str]:
        """Return facts as SQL has them, which may be on several lines."""
        return {key: self.value_as_sql(value) for key, value in facts.items()}

    def value_as_sql(self, value: str) -> str:
        """Return a fact's value as SQL has it."""
        value = re.sub(r"\\.", lambda found: UNESCAPED[found[0]], value)
        return value.replace(f"<{SCORE_TABLE}>", self.relation)

    def rank(self, difference: Difference) -> int:
        """Return the place of a difference in the order of the script."""
        parts = parts_of(difference.key)
        last = parts[-1].partition(" ")[0]
        if len(parts) == 1:
            if difference.found is not None and difference.expected is not None:
                return OWNERS
            kind = parts[0].partition(" ")[0]
            return EXCESS if difference.expected is None else {"function": FUNCTIONS, "view": VIEWS}.get(kind, REST)
        if difference.expected is None and last in {
            "constraint",
            "index",
            "policy",
            "trigger",
            "rule",
            "child",
            "parent",
        }:
            return EXCESS
        if last == "constraint":
            return REFERENCES if str(difference.expected).startswith("FOREIGN KEY") else KEYS
        return {
            "column": COLUMNS,
            "unique": INDEXES,
            "index": INDEXES,
            "kind": FUNCTIONS,
            "settings": FUNCTIONS,
            "body": FUNCTIONS,
            "trigger": TRIGGERS,
            "query": VIEWS,
            "options": VIEWS,
        }.get(last, REST)

    def guarded(self, difference: Difference) -> list[str]:
        """Return the lines for a difference, or a comment if they could not be run."""
        lines = list(self.lines(difference))
        if all(line.startswith("-- ") for line in lines):
            return lines
        subject = object_of(difference.key)
        owner = self.found.get(subject, "").removeprefix("owned by ")
        if owner not in {"", "the owner of momentum_internal", *self.session.acts_as} and subject != SCORE_TABLE:
            reason = advise(owner, " ".join(lines).rstrip(";"))
            return by_hand(f"{subject.partition(' ')[2]} belongs to {owner}, and you are {self.session.role}: {reason}")
        if obstacle := self.obstacle_to("\n".join(lines)):
            return by_hand(f"Once {obstacle} is as it should be, compare again.")
        return lines

    def obstacle_to(self, sql: str) -> str | None:
        """Return a schema, table or column that a statement needs and that is missing, or of another type."""
        if self.session.public is None and "public." in sql:
            return "the schema public"
        for key, found, _ in self.differences:
            parts = parts_of(key)
            kind, _, name = parts[-1].partition(" ")
            adopted = parts[0] == SCORE_TABLE
            relation = self.relation if adopted else parts[0].partition(" ")[2]
            if relation not in sql or not (adopted or found is None):
                continue
            if len(parts) == 1 and kind in {"score", "table"}:
                return relation
            if len(parts) == 2 and kind == "column" and re.search(rf"\b{re.escape(name)}\b", sql):
                return f"the column {name} of {relation}"
        return None

    def lines(self, difference: Difference) -> Iterator[str]:
        """Yield the statements that remove a difference, or a comment."""
        key, found, expected = difference
        found, expected = (value if value is None else self.value_as_sql(value) for value in (found, expected))
        if key == VERSION:
            yield f"update {private(VERSION_TABLE)} set version_num = {literal(str(expected))}"
            yield f"where version_num = {literal(str(found))};"
        elif key == RECORD:
            yield from by_hand(
                "Only a backup or its author knows what this record was; nothing else can be told from it."
            )
        elif parts_of(key)[0] == PLATFORM:
            yield from self.of_platform(key, found)
        elif len(parts_of(key)) == 1:
            yield from self.of_object(key, found, expected)
        else:
            yield from self.of_part(key, found, expected)

    def of_platform(self, key: str, found: str | None) -> Iterator[str]:
        """Yield the lines for a fact about the platform."""
        words = key.split(" ")
        if found is None:
            yield from by_hand("The role or the schema does not exist; on Supabase, ask its support to put it back.")
        elif " schema public" in key:
            role, owner = words[3], str(self.session.public)
            statements = []
            if "CREATE" in found:
                statements.append(f"revoke create on schema public from {'public' if 'everybody' in found else role}")
            if "USAGE" not in found:
                statements.append(f"grant usage on schema public to {role}")
            for statement in statements:
                if owner in self.session.acts_as:
                    yield f"{statement};"
                else:
                    yield from by_hand(f"The schema public belongs to {owner}: {advise(owner, statement)}")
        elif key.startswith(AUTH_UID):
            yield from by_hand(
                "Whoever reads or writes through policies may be taken for another user; on Supabase, ask"
            )
            yield from by_hand("its support to put its own function back.")
        elif key.startswith(f"{PLATFORM}, setting "):
            yield from by_hand("With it, rules are not enforced for this role, or it is taken for another user; on")
            yield from by_hand("Supabase, ask its support to reset or revoke it.")
        elif key.endswith(" in the database"):
            yield from by_hand(
                "The database's owner can revoke it from this role, from public, or from a role that this"
            )
            yield from by_hand("one is a member of.")
        else:
            yield from self.of_client(words[-1], found)

    def of_client(self, role: str, found: str) -> Iterator[str]:
        """Yield the lines for a role that clients get."""
        attributes = [without for attribute, without in ATTRIBUTES.items() if attribute in found]
        if role == "service_role":
            attributes = ["bypassrls"]
        if attributes:
            may = role in self.session.alters
            yield from self.of_role(f"alter role {role} {' '.join(attributes)};", may=may)
        strong = found.partition("member of ")[2].partition(PART)[0].split(" and ")
        for member, of, grantor, may in self.session.memberships:
            if member == role and of in strong:
                # Otherwise it would revoke nothing but what the role that runs it has granted itself.
                by = f" granted by {grantor}" if self.session.server >= 160000 else ""
                yield from self.of_role(f"revoke {of} from {role}{by} cascade;", may=may)
        if "member of " in found:
            yield from by_hand(
                f"If {role} is a member by way of another role, revoke that role from it, or {' and '.join(strong)} "
                "from that role."
            )

    def of_role(self, statement: str, *, may: bool) -> Iterator[str]:
        """Yield a statement about a role, or a comment if the role that compares may not run it."""
        if may:
            yield statement
        else:
            yield from by_hand(f"A superuser can run this; on Supabase, ask its support: {statement}")

    def of_object(self, key: str, found: str | None, expected: str | None) -> Iterator[str]:
        """Yield the lines for a schema, a table, the view or a function as a whole."""
        kind, _, name = key.partition(" ")
        if found is not None and expected is not None and key != SCORE_TABLE:
            yield f"alter {kind} {name} owner to {self.session.owner};"
        elif kind == "function" and expected is None:
            yield f"drop function {name};"
        elif kind == "function":
            yield "begin;"
            yield from self.create_function(key)
            yield from self.close(key)
            yield "commit;"
        elif kind == "view" and found is None:
            yield "begin;"
            yield from self.create_view(key)
            yield "commit;"
        else:
            yield from by_hand("Its rows may be in a backup, or under another name; no statement can bring them back.")

    def of_part(self, key: str, found: str | None, expected: str | None) -> Iterator[str]:
        """Yield the lines for a part of an object."""
        subject, *parts = parts_of(key)
        relation = self.relation if subject == SCORE_TABLE else subject.partition(" ")[2]
        kind, _, name = parts[-1].partition(" ")
        if kind == "comment":
            yield f"comment on {target(subject, parts[:-1])} is {'null' if expected is None else literal(expected)};"
        elif parts[-1].startswith("grant to "):
            yield from self.of_grant(key, found, expected)
        elif kind == "column":
            yield from self.of_column(subject, name, found, expected)
        elif parts[-1] == "unique index":
            yield from self.of_score_key(found, str(expected))
        elif kind in {"constraint", "index"}:
            yield from (self.of_constraint if kind == "constraint" else self.of_index)(relation, name, found, expected)
            if expected is not None:
                yield from self.comments(key)
        elif kind in {"policy", "trigger", "rule"}:
            yield from self.of_definition(kind, relation, name, found, expected)
            if expected is not None:
                yield from self.comments(key)
        elif kind in {"child", "parent"}:
            child, parent = (name, relation) if kind == "child" else (relation, name)
            owner = str(found).partition(", and belong to ")[2]
            statement = f"alter table {child} no inherit {parent}"
            if owner in {"", *self.session.acts_as}:
                yield f"{statement}; -- each keeps the rows that are stored in it"
            else:
                yield from by_hand(f"{child} belongs to {owner}: {advise(owner, statement)}")
        elif kind == "narrow":
            yield from by_hand(
                "The table is not ours, so choose: with this key the backfill fails for all rows but one."
            )
        elif kind == "persistence" and subject == SCORE_TABLE:
            yield from by_hand(f"This rewrites the table: alter table {relation} set logged;")
        elif kind == "owner":
            owner = str(found).partition(",")[0]
            yield from by_hand(advise(owner, f"alter table {relation} owner to {self.session.owner}"))
        elif kind == "required":
            column = name.removeprefix("column ")
            yield from by_hand("The table is not ours, so choose: give the column a default, or")
            yield from by_hand(f"alter table {relation} alter column {column} drop not null;")
        elif parts[-1] in SETTINGS:
            yield from self.of_setting(relation, SETTINGS[parts[-1]], found, str(expected))
        elif kind == "query":
            yield from self.of_query(subject, str(found), str(expected))
        elif kind == "options":
            extra = {option.partition("=")[0] for option in str(found).split(PART)}
            extra -= {option.partition("=")[0] for option in str(expected).split(PART)}
            if extra - {"none"}:
                yield f"alter view {relation} reset ({PART.join(sorted(extra))});"
            if expected != "none":
                yield f"alter view {relation} set ({expected});"
        elif subject.startswith("function "):
            yield from self.replace_function(subject)
        else:
            yield from by_hand("No statement is known that changes this back.")

    def of_grant(self, key: str, found: str | None, expected: str | None) -> Iterator[str]:
        """Yield the statements that leave a role with exactly the expected privileges."""
        subject, *parts = parts_of(key)
        grantee = parts[-1].removeprefix("grant to ")
        role = self.session.owner if grantee == "owner" else grantee
        kind, _, name = subject.partition(" ")
        column = f" ({parts[0].partition(' ')[2]})" if len(parts) > 1 else ""
        on = f"on {kind if kind in {'schema', 'function'} else 'table'} {name}"
        has, should = self.privileges(found), self.privileges(expected)
        too_many = [name for name in has if name not in should]
        handed_on = [name for name in has if has[name] and name in should and not should[name]]
        missing = [name for name in should if name not in has or (should[name] and not has[name])]
        # Privileges that the role has handed on fall with its own.
        for revoke, names in (("revoke", too_many), ("revoke grant option for", handed_on)):
            if names:
                yield f"{revoke} {PART.join(f'{name}{column}' for name in names)} {on} from {role} cascade;"
        for option in (False, True):
            if names := [f"{name}{column}" for name in missing if should[name] == option]:
                yield f"grant {PART.join(names)} {on} to {role}{' with grant option' if option else ''};"

    def privileges(self, value: str | None) -> dict[str, bool]:
        """Return the privileges in a fact, each with whether it may be handed on."""
        if value is None:
            return {}
        listed, without, _ = value.partition(", without MAINTAIN")
        granted = {
            item.removesuffix(" with grant option"): item.endswith(" with grant option") for item in listed.split(PART)
        }
        # It is not named where all privileges of a table are granted.
        if self.session.server >= 170000 and not without and {"TRIGGER", "TRUNCATE"} <= granted.keys():
            granted.setdefault("MAINTAIN", False)
        return granted

    def of_column(self, subject: str, name: str, found: str | None, expected: str | None) -> Iterator[str]:
        """Yield the statements that give a column its default and its NOT NULL; its type is left to a person."""
        kind, _, relation = subject.partition(" ")
        alter = f"alter {kind} {relation} alter column {name}"
        if found is None or expected is None:
            if kind == "view":
                yield from by_hand("The view's query gives it its columns.")
            elif found is None:
                yield from by_hand("Its values may be in a backup, or in a column with another name.")
            else:
                yield from by_hand("No statement drops it, because its values would be lost.")
            return
        has, should = COLUMN.fullmatch(found), COLUMN.fullmatch(expected)
        assert has is not None
        assert should is not None
        if subject == SCORE_TABLE or has["type"] != should["type"] or has["generated"] != should["generated"]:
            yield from by_hand("Another type could change values; plan that as a change of its own.")
            return
        if has["default"] != should["default"]:
            yield f"{alter} set default {should['default']};" if should["default"] else f"{alter} drop default;"
        if should["required"] and (not has["required"] or has["unchecked"]):
            # With a valid check the server needs no scan under its strongest lock.
            check = "constraint momentum_not_null"
            yield f"alter table {relation} add {check} check ({name} is not null) not valid;"
            yield f"alter table {relation} validate {check};"
            yield f"{alter} set not null;"
            yield f"alter table {relation} drop {check};"
        elif has["required"] and not should["required"]:
            yield f"{alter} drop not null;"

    def of_constraint(self, table: str, name: str, found: str | None, expected: str | None) -> Iterator[str]:
        """Yield the statements for a key or a check; old rows are checked without blocking anybody."""
        alter = f"alter table {table}"
        if str(found or expected).startswith("TRIGGER"):
            yield f"-- It comes and goes with the trigger {name}."
            return
        if expected is None:
            yield f"{alter} drop constraint {name};"
            return
        if found == f"{expected} NOT VALID":
            yield f"{alter} validate constraint {name};"
            return
        if found == f"{expected}, index invalid":
            yield from self.reindex(f"{schema_of(table)}.{name}")
            return
        key = PLAIN_KEY.fullmatch(expected)
        if key and found is None:
            yield PATIENTLY
            yield f"create unique index concurrently {name} on {table} {key['columns']};"
            yield LOCKS
            yield f"{alter} add constraint {name} {key['kind'].lower()} using index {name};"
            return
        later = "" if re.match("PRIMARY|UNIQUE|EXCLUDE", expected) else " not valid"
        dropped = f"drop constraint {name}, " if found is not None else ""
        yield f"{alter} {dropped}add constraint {name} {expected}{later};"
        if later:
            yield f"{alter} validate constraint {name};"

    def of_index(self, table: str, name: str, found: str | None, expected: str | None) -> Iterator[str]:
        """Yield the statements for an index, which is made next to the wrong one and then takes its place."""
        schema = schema_of(table)
        if expected is None:
            yield PATIENTLY
            yield f"drop index concurrently {schema}.{name};"
            yield LOCKS
        elif found == f"{expected}, invalid":
            yield from self.reindex(f"{schema}.{name}")
        else:
            created = re.sub(r"^(CREATE (?:UNIQUE )?INDEX) ", r"\1 CONCURRENTLY ", expected)
            yield from self.make_index(schema, name, created, replaces=found is not None)

    def make_index(self, schema: str, name: str, created: str, *, replaces: bool) -> Iterator[str]:
        """Yield the statements that make an index, under another name first if there is one of this name."""
        yield PATIENTLY
        if not replaces:
            yield f"{created};"
            yield LOCKS
            return
        new = f'"new_{name[1:]}' if name.startswith('"') else f"new_{name}"
        yield f"{created.replace(f' {name} ', f' {new} ', 1)};"
        yield LOCKS
        yield "begin;"
        # Had it failed, an invalid index would take the place of one that works.
        index = literal(f"{schema}.{new}")
        yield f"do $$ begin if not (select indisvalid from pg_index where indexrelid = {index}::regclass)"
        yield f"then raise exception '% is not valid', {literal(new)}; end if; end $$;"
        yield f"drop index {schema}.{name};"
        yield f"alter index {schema}.{new} rename to {name};"
        yield "commit;"

    def reindex(self, index: str) -> Iterator[str]:
        """Yield the statements that make an invalid index valid."""
        yield PATIENTLY
        yield f"reindex index concurrently {index};"
        yield LOCKS

    def of_score_key(self, found: str | None, expected: str) -> Iterator[str]:
        """Yield the statements for the unique key of an adopted score table."""
        ours = bool(self.record.get("created_index"))
        index = str(self.record.get("unique_index"))
        schema, _, name = index.partition(".")
        if ours and found is not None and found == expected.replace("unique, valid", "unique, invalid"):
            yield from self.reindex(index)
            return
        if ours and found is not None and "deferrable" in found:
            yield from by_hand("It belongs to a constraint, which has to go first.")
            yield f"alter table {self.relation} drop constraint {name};"
            found = None
        if not ours and found is not None:
            # The table's own index stays as it is; any other that is right will do.
            name, found = f'"uq_{name[1:]}' if name.startswith('"') else f"uq_{name}", None
        matched = UNIQUE_INDEX.fullmatch(expected)
        assert matched is not None
        columns = PART.join(sorted(matched["columns"].split(" and "), reverse=True))
        created = f"create unique index concurrently {name} on {self.relation} ({columns})"
        yield from self.make_index(schema, name, created, replaces=found is not None)

    def of_definition(
        self, kind: str, relation: str, name: str, found: str | None, expected: str | None
    ) -> Iterator[str]:
        """Yield the statements for a policy, a trigger or a rule, without a moment in which it is not there."""
        drop = f"drop {kind} {name} on {relation};"
        if expected is None:
            yield drop
            return
        definition, state = without_state(expected)
        replaced = found is not None and without_state(found)[0] != definition
        if replaced:
            yield "begin;"
            yield drop
        if found is None or replaced:
            yield f"create policy {name} on {relation} as {definition};" if kind == "policy" else f"{definition};"
        if kind != "policy" and (state != "enable" if found is None or replaced else True):
            yield f"alter table {relation} {state} {kind} {name};"
        if replaced:
            yield "commit;"

    def of_setting(self, relation: str, words: Mapping[str, str], found: str | None, expected: str) -> Iterator[str]:
        """Yield the statements for a setting of a table whose value may have several parts."""
        for value in expected.split(PART):
            if value not in words:
                yield from by_hand("The table that was replaced has it, in momentum_internal.")
            elif value not in str(found).split(PART):
                yield f"alter table {relation} {words[value]};"

    def of_query(self, view: str, found: str, expected: str) -> Iterator[str]:
        """Yield the statements that give the view its query; only for other columns it has to be dropped."""
        if found.partition(" FROM ")[0] == expected.partition(" FROM ")[0]:
            yield f"create or replace {self.view_of(view)};"
            return
        yield "begin;"
        yield f"drop view {view.partition(' ')[2]};"
        yield from self.create_view(view)
        yield "commit;"

    def view_of(self, view: str) -> str:
        """Return the definition of a view, from its name on."""
        options = self.expected[f"{view}, options"]
        with_options = "" if options == "none" else f" with ({options})"
        return f"{view}{with_options} as {self.expected[f'{view}, query'].rstrip(';')}"

    def create_view(self, view: str) -> Iterator[str]:
        """Yield the statements that create a view with its comments and grants."""
        yield f"create {self.view_of(view)};"
        yield f"alter {view} owner to {self.session.owner};"
        yield from self.close(view)

    def create_function(self, function: str) -> Iterator[str]:
        """Yield the statement that creates a function, or replaces it."""
        language, returns, *rest = self.expected[f"{function}, kind"].split(PART)
        settings = self.expected[f"{function}, settings"]
        name = function.partition(" ")[2]
        yield (
            f"create or replace function {name} {returns} language {language}"
            f"{''.join(f' {word}' for word in rest)}{'' if settings == 'none' else f' set {setting(settings)}'}"
            f" as {quoted_body(self.expected[f'{function}, body'])};"
        )

    def replace_function(self, function: str) -> Iterator[str]:
        """Yield the statements for a function that differs in something; all of it is written in one statement."""
        returns = [facts[f"{function}, kind"].split(PART)[1] for facts in (self.found, self.expected)]
        if returns[0] == returns[1]:
            yield from self.create_function(function)
            return
        yield "begin;"
        yield f"drop {function};"
        yield from self.create_function(function)
        yield from self.close(function)
        yield "commit;"

    def close(self, subject: str) -> Iterator[str]:
        """Yield the grants and comments of something that has just been created, and so may be open to clients."""
        kind, _, name = subject.partition(" ")
        on = f"on {'table' if kind == 'view' else kind} {name}"
        yield f"revoke all {on} from public, {PART.join(CLIENTS)};"
        for key, value in self.expected.items():
            if object_of(key) == subject and ", grant to " in key and not key.endswith(", grant to owner"):
                yield from self.of_grant(key, None, value)
        yield from self.comments(subject)

    def comments(self, owner: str) -> Iterator[str]:
        """Yield the comments on something that has just been created."""
        for key, value in self.expected.items():
            subject, *parts = parts_of(key)
            if key.startswith(f"{owner}, ") and parts[-1] == "comment":
                yield f"comment on {target(subject, parts[:-1])} is {literal(value)};"


def by_hand(text: str) -> list[str]:
    """Return a comment on something that no statement can do."""
    return [f"-- By hand: {one_line(text)}"]


def literal(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def quoted_body(body: str) -> str:
    """Return the body of a function in quotes that it doesn't contain."""
    tag = "$function$"
    while tag in body:
        tag = f"$_{tag[1:]}"
    return f"{tag}{body}{tag}"


def setting(assignment: str) -> str:
    """Return a function's setting as the statement writes it that makes it."""
    name, _, value = assignment.partition("=")
    names = [item.replace('""', "").strip('"') for item in value.split(PART)] if name == "search_path" else [value]
    return f"{name} to {PART.join(map(literal, names))}"


def schema_of(relation: str) -> str:
    """Return the schema of a relation."""
    found = re.match(r'"(?:[^"]|"")*"|[^.]*', relation)
    assert found is not None
    return found[0]


def target(subject: str, parts: list[str]) -> str:
    """Return what a comment is on, as SQL names it."""
    if not parts:
        return subject
    relation = subject.partition(" ")[2]
    kind, _, name = parts[0].partition(" ")
    if kind == "column":
        return f"column {relation}.{name}"
    if kind == "index" or parts[-1] == "index":
        return f"index {schema_of(relation)}.{name}"
    return f"{kind} {name} on {relation}"


def without_state(definition: str) -> tuple[str, str]:
    """Return a definition, and the word that sets when it applies."""
    for suffix, state in STATES.items():
        if definition.endswith(suffix):
            return definition.removesuffix(suffix), state
    return definition, "enable"
