"""Effects of what a database runs when a row is written: triggers, rules, defaults, and the functions that these call.

The source of each function is read, with what it calls, what it writes to and what that runs in turn. SQL that a
function composes, and code in another language, can't be read.
"""

import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import ARRAY, Connection, ScalarSelect, String, bindparam, column, text
from sqlalchemy.dialects.postgresql import OID

from momentum.backfill.tokens import UNREADABLE, Token, tokens_of
from momentum.connect.pipeline import Answer, ask

CATALOG = Path(__file__).with_name("effects.sql").read_text(encoding="utf-8")
FINGERPRINT = Path(__file__).with_name("fingerprint.sql").read_text(encoding="utf-8")
# Its parts between two remarks.
NOT_KEPT = re.compile(r"(?ms)^ *-- Not kept by the lock of a table:$.*?^ *-- That is all of it\.$\n")
# Remarks and indentation: the driver keeps what it makes of a statement only if that is short.
NEEDLESS = re.compile(r"\s*--.*|(?m:^ +)")

# The bits of pg_trigger.tgtype: https://www.postgresql.org/docs/current/catalog-pg-trigger.html
EVENTS = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}
INSTEAD = 64

# pg_rewrite.ev_type.
RULE_EVENTS = {"insert": "3", "delete": "4", "update": "2"}

# The effects that are named, in this order.
NOTIFIES, WRITES, REFUSES = "notifies listeners", "writes to other rows", "may refuse the row"
NAMED = (NOTIFIES, WRITES, REFUSES)

# Everything in these schemas sends requests: pg_net's, the extension http's in a schema of its own, Supabase's database
# webhooks, and Amazon's.
SENDING_SCHEMAS = {"net", "http", "supabase_functions", "aws_lambda"}
# A worker sends, or executes, what is written to the tables of these.
QUEUE_SCHEMAS = {"net", "cron"}
# The functions of extensions, wherever they are installed.
SENDING_EXTENSIONS = {"pg_net", "http", "dblink", "postgres_fdw", "plproxy", "aws_lambda", "aws_s3"}
SENDING_NAMES = re.compile(r"http(_(get|post|put|patch|delete|head))?|dblink\w*|lo_export", re.IGNORECASE)
# Its messages reach connected clients and nobody else, like a notification.
BROADCASTING_SCHEMA = "realtime"

# Functions of the server that execute SQL from a text.
EXECUTING = re.compile(r"(query|cursor|table|schema|database)_to_xml\w*|ts_stat|ts_rewrite")

# Extensions in C that compute and do nothing else.
COMPUTING_EXTENSIONS = {
    *("autoinc", "bloom", "btree_gin", "btree_gist", "citext", "cube", "dict_int", "dict_xsyn", "earthdistance"),
    *("fuzzystrmatch", "hstore", "insert_username", "intarray", "isn", "lo", "ltree", "moddatetime", "pg_hashids"),
    *("pg_jsonschema", "pg_stat_statements", "pg_trgm", "pgcrypto", "pgjwt", "pgsodium", "plpgsql", "postgis", "rum"),
    *("seg", "supabase_vault", "tcn", "unaccent", "uuid-ossp", "vector"),
}

# A format that only puts literals into SQL: the rest of the statement is known.
PLACEHOLDER = re.compile(r"%(?:\d+\$)?-?\d*L")

# The setting that says what a backslash in a string means.
CONFORMING = "standard_conforming_strings"

# Texts in SQL that may change the search path.
CHANGING_PATH = {"search_path", "set_config"}

# Words after which a name is a relation that is read.
READING = ("from", "join", "using", "table", "only", ",")


@dataclass
class Effects:
    """The effects of something that runs.

    Attributes:
        calls_out: Whether it calls out of the database.
        unknown: Why it isn't known whether it does.
        named: Its other effects.
        functions: The functions that it runs, by oid.
    """

    calls_out: bool = False
    unknown: dict[str, None] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    functions: dict[str, None] = field(default_factory=dict)


class Catalog:
    """Everything that a database could run, except for the server's own parts."""

    def __init__(self, facts: Iterable[dict[str, Any]]) -> None:
        kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for fact in facts:
            kinds[fact["is"]].append(fact)
        [path] = kinds["path"]
        # The path of this transaction, and the schemas that other sessions may have in theirs.
        self.path = tuple(dict.fromkeys([*path["schemas"], *schemas_in(path["default"]), "public", "extensions"]))
        self.conforming = path["conforming"] != "off"
        self.single_byte = path.get("single byte", False)
        self.functions = {fact["oid"]: fact for fact in kinds["function"]}
        self.relations = {fact["oid"]: fact for fact in kinds["relation"]}
        self.attached = grouped(kinds["attached"], "relation")
        self.triggers = grouped(sorted(kinds["trigger"], key=lambda fact: fact["name"]), "relation")
        self.rules = grouped(kinds["rule"], "relation")
        self.readings = grouped(kinds["reading"], "view")
        self.references = grouped(kinds["reference"], "relation")
        self.children = grouped(kinds["child"], "relation")
        self.uses = grouped(kinds["use"], "function")
        self._named = {kind: grouped(kinds[kind], "name") for kind in ("function", "relation", "operator", "type")}
        # What has been looked at: the names that were looked up, by kind, and the oids of relations and of functions.
        self.sought: dict[str, set[str]] = {kind: set() for kind in self._named}
        self.followed: set[str] = set()
        self.called: set[str] = set()

    @classmethod
    def read(cls, connection: Connection) -> "Answer[Catalog]":
        """Read it from a database."""
        return ask(connection, text(CATALOG)).then(lambda rows: cls(fact for (fact,) in rows))

    def find(self, kind: str, name: str, schema: str | None, path: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return everything of a kind that a name may mean.

        Args:
            kind: ``function``, ``relation``, ``operator`` or ``type``.
            name: The name.
            schema: Its schema, if it is written.
            path: The schemas in which it is looked up if not; if there are none, every schema.
        """
        self.sought[kind].add(name)
        found = self._named[kind].get(name, [])
        if schema is not None:
            return [fact for fact in found if fact["schema"] == schema]
        return [fact for fact in found if fact["schema"] in path or not path]

    def fingerprint(self) -> ScalarSelect[str]:
        """Return a query for a text that changes once anything changes that has been followed or looked up so far."""
        values = {
            "followed": self.followed,
            "called": self.called,
            **{f"{kind}s": names for kind, names in self.sought.items()},
        }
        query = NEEDLESS.sub("", NOT_KEPT.sub("", FINGERPRINT) if self.is_kept_by_lock else FINGERPRINT)
        parameters = (
            bindparam(name, sorted(value), ARRAY(OID if name in {"followed", "called"} else String), unique=True)
            for name, value in values.items()
            if re.search(rf":{name}\b", query)
        )
        return text(query).bindparams(*parameters).columns(column("fingerprint", String)).scalar_subquery()

    @property
    def is_kept_by_lock(self) -> bool:
        """Whether the lock of a statement that writes keeps all that has been followed or looked up as it is.

        It does if that is only one relation, with what is attached to it, and nothing of that has a type or a function
        that isn't the server's own.
        """
        sought = {kind for kind, names in self.sought.items() if names}
        return (
            len(self.followed) == 1
            and not self.called
            and sought <= {"relation"}
            and self.sought["relation"] <= {self.relations[oid]["name"] for oid in self.followed}
            and not any(self.relations[oid]["own types"] for oid in self.followed)
        )

    def relation(self, name: str) -> str | None:
        """Return the oid of a relation whose name is written with its schema."""
        schema, _, name = name.partition(".")
        return next((fact["oid"] for fact in self.find("relation", name, schema)), None)


def grouped(facts: Iterable[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    """Return facts by one of their values."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for fact in facts:
        groups[fact[key]].append(fact)
    return groups


class Walk:
    """Goes from function to function, and gathers the effects of all of them.

    What one leads to waits in a queue, so that a chain may be of any length.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._effects = Effects()
        self._catalog = catalog
        self._seen: set[tuple[str, ...]] = set()
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def effects(self) -> Effects:
        """The effects of everything that has been followed, and of what it leads to."""
        while self._waiting:
            self._waiting.popleft()()
        return self._effects

    def call(self, function: str, path: Sequence[str] | None = None) -> None:
        """Follow a function."""
        path = tuple(self._catalog.path if path is None else path)
        fact = self._catalog.functions.get(function)
        self._catalog.called.add(function)
        if fact is not None and not self._is_seen("function", function, *path):
            self._waiting.append(partial(self._call, fact, path))

    def _call(self, fact: dict[str, Any], path: Sequence[str]) -> None:
        function = fact["oid"]
        self._effects.functions[function] = None
        if fact["schema"] == BROADCASTING_SCHEMA:
            self._effects.named.add(NOTIFIES)
            return
        if (
            fact["schema"] in SENDING_SCHEMAS
            or fact["extension"] in SENDING_EXTENSIONS
            or SENDING_NAMES.fullmatch(fact["name"])
        ):
            self._effects.calls_out = True
        for use in self._catalog.uses.get(function, []):
            self.call(use["used"], path)
        name = f"{fact['schema']}.{fact['name']}()"
        if value_of(CONFORMING, fact["settings"]) not in {None, "on" if self._catalog.conforming else "off"}:
            self._effects.unknown[f"{name} changes {CONFORMING}"] = None
        if fact["source"] is not None:
            self.read(fact["source"], path_of(fact["settings"]) or path, name)
        elif fact["language"] != "internal" and fact["extension"] not in COMPUTING_EXTENSIONS:
            self._effects.unknown[f"{name} is written in {fact['language'].upper()}"] = None

    def fire(self, trigger: dict[str, Any], path: Sequence[str] | None = None) -> None:
        """Follow a trigger, and its condition."""
        for function in (trigger["function"], *trigger["conditions"]):
            self.call(function, path)

    def follow(self, rule: dict[str, Any], path: Sequence[str]) -> None:
        """Follow a rule."""
        self.read(rule["text"], path, f"the rule {rule['name']}")
        for function in rule["uses"]:
            self.call(function, path)

    def write(self, relation: str, event: str, path: Sequence[str]) -> None:
        """Follow a row that is inserted, updated or deleted, or a table that is truncated."""
        fact = self._catalog.relations.get(relation)
        self._catalog.followed.add(relation)
        if fact is not None and not self._is_seen("relation", relation, event, *path):
            self._waiting.append(partial(self._write, fact, event, path))

    def _write(self, fact: dict[str, Any], event: str, path: Sequence[str]) -> None:
        catalog = self._catalog
        relation = fact["oid"]
        if fact["kind"] == "f" or fact["schema"] in QUEUE_SCHEMAS:
            self._effects.calls_out = True
        instead = False
        for trigger in catalog.triggers.get(relation, []):
            if trigger["type"] & EVENTS[event]:
                instead = instead or bool(trigger["type"] & INSTEAD)
                self.fire(trigger, path)
        for rule in catalog.rules.get(relation, []):
            if rule["event"] == RULE_EVENTS.get(event):
                instead = instead or rule["instead"]
                self.follow(rule, path)
        for each in catalog.attached.get(relation, []):
            if event != "delete" or each["kind"] in {"policy", "view"}:
                self.call(each["function"], path)
        if fact["kind"] == "v" and not instead:
            for reading in catalog.readings.get(relation, []):
                self.write(reading["relation"], event, path)
        self.follow_rows(relation, event, path)

    def follow_rows(self, relation: str, event: str, path: Sequence[str]) -> None:
        """Follow what a row takes along: rows that refer to it, and those of partitions and children."""
        catalog = self._catalog
        for reference in catalog.references.get(relation, []):
            if action := reaction(reference, event):
                self.write(reference["from"], action, path)
        for child in catalog.children.get(relation, []):
            if event != "insert" or catalog.relations[relation]["kind"] == "p":
                self.write(child["child"], event, path)

    def look(self, relation: str, path: Sequence[str]) -> None:
        """Follow a relation that is read."""
        fact = self._catalog.relations.get(relation)
        self._catalog.followed.add(relation)
        if fact is not None and not self._is_seen("read", relation):
            self._waiting.append(partial(self._look, fact, path))

    def _look(self, fact: dict[str, Any], path: Sequence[str]) -> None:
        relation = fact["oid"]
        if fact["kind"] == "f":
            self._effects.calls_out = True
        for each in self._catalog.attached.get(relation, []):
            if each["kind"] in {"policy", "view"}:
                self.call(each["function"], path)
        for reading in self._catalog.readings.get(relation, []):
            self.look(reading["relation"], path)

    def read(self, sql: str, path: Sequence[str], where: str) -> None:
        """Follow a text of SQL or PL/pgSQL."""
        self._waiting.append(partial(self._read, sql, path, where))

    def _read(self, sql: str, path: Sequence[str], where: str) -> None:
        tokens = tokens_of(sql, conforming=self._catalog.conforming, single_byte=self._catalog.single_byte)
        tokens += [Token("end", "")] * 4
        if any(token.text.lower() == CONFORMING for token in tokens):
            self._effects.unknown[f"{where} changes {CONFORMING}"] = None
        if any(UNREADABLE in token.text and token.kind != "string" for token in tokens):
            self._effects.unknown[f"{where} names something with characters that can't be read"] = None
        # If it changes the path, a name may mean anything.
        path = () if any(token.text.lower() in CHANGING_PATH for token in tokens) else path
        targets: set[int] = set()
        ahead = list(marks_ahead(tokens))
        for number, (token, made) in enumerate(zip(tokens, definitions_in(tokens), strict=True)):
            if made in {"function", "procedure"}:
                self._body(tokens, number, path, where)
            if token.kind == "operator":
                self._operator(tokens, number, path)
            elif token.is_name() and tokens[number - 1].says("."):
                # A function of a row may be called like a column of it.
                for function in self._catalog.find("function", token.text, None, path):
                    if function["of a row"]:
                        self.call(function["oid"], path)
            elif token.is_name():
                if token.kind == "word":
                    self._keyword(tokens, number, path, ahead[number], made, where)
                    self._target(tokens, number, path, ahead[number], targets)
                self._name(tokens, number, path, is_target=number in targets, where=where)

    def _operator(self, tokens: list[Token], number: int, path: Sequence[str]) -> None:
        """Follow the functions of an operator."""
        text = tokens[number].text
        schema = tokens[number - 2].text if tokens[number - 1].says(".") else None
        # The server doesn't take the sign of a number for a part of an operator.
        for name in dict.fromkeys((text, text.rstrip("+-"))):
            for operator in self._catalog.find("operator", name, schema, path):
                self.call(operator["function"], path)

    def _keyword(
        self, tokens: list[Token], number: int, path: Sequence[str], ahead: Set[str], made: str, where: str
    ) -> None:
        """Note the effect of a statement."""
        word, following = tokens[number].text, tokens[number + 1]
        if word == "notify" and following.is_name():
            self._effects.named.add(NOTIFIES)
        elif word == "raise" and (following.says("exception") or following.kind == "string"):
            self._effects.named.add(REFUSES)
        elif word == "copy" and not ahead.isdisjoint({"program", "file"}):
            self._effects.calls_out = True
        elif word == "do":
            self._block(tokens, number + 1, path, where)
        elif word == "load" and following.kind == "string":
            self._effects.unknown[f"{where} loads a library"] = None
        elif word == "create" and made in {"operator", "aggregate"}:
            self._effects.unknown[f"{where} makes an {made}"] = None
        elif word == "alter" and "renamed" in ahead:
            self._effects.unknown[f"{where} renames something"] = None
        elif word == "subscription" and tokens[number - 1].says("create", "alter"):
            self._effects.calls_out = True
        elif word == "execute" and not (made == "trigger" and following.says("function", "procedure")):
            composed = constant_of(tokens, number + 1)
            if composed is None:
                self._effects.unknown[f"{where} executes SQL that it composes"] = None
            else:
                self.read(composed, path, where)

    def _block(self, tokens: list[Token], number: int, path: Sequence[str], where: str) -> None:
        """Follow the text of a DO statement, before or after which its language may be."""
        if tokens[number].says("language"):
            self._language(tokens[number + 1], where)
            number += 2
        if tokens[number].kind == "string":
            self.read(tokens[number].text, path, where)
            if tokens[number + 1].says("language"):
                self._language(tokens[number + 2], where)

    def _body(self, tokens: list[Token], number: int, path: Sequence[str], where: str) -> None:
        """Follow part of the definition of a function, which may be called then."""
        if tokens[number - 1].says("language"):
            self._language(tokens[number], where)
        elif tokens[number].kind == "string":
            self.read(tokens[number].text, path, where)

    def _language(self, language: Token, where: str) -> None:
        """Note code in a language that can't be read."""
        if language.text.lower() not in {"sql", "plpgsql"}:
            self._effects.unknown[f"{where} has code in {language.text.upper()}"] = None

    def _target(
        self, tokens: list[Token], number: int, path: Sequence[str], ahead: Set[str], targets: set[int]
    ) -> None:
        """Follow the rows that a statement writes, and note where the name of their table is."""
        word, at = tokens[number].text, number + 1
        if (word in {"insert", "merge"} and tokens[at].says("into")) or (word == "delete" and tokens[at].says("from")):
            at += 1
        elif word == "truncate" or (word == "copy" and tokens[at].is_name()):
            at += tokens[at].says("table")
        elif word != "update" or tokens[number - 1].says("for", "key", "or", "before", "after"):
            return
        at += tokens[at].says("only")
        if not tokens[at].is_name() or (word == "update" and tokens[at].says("of", "set", "or")):
            return
        if word != "truncate":
            self._effects.named.add(WRITES)
        targets.add(at)
        parts, _ = qualified(tokens, at)
        events = {"merge": ("insert", "update", "delete"), "copy": ("insert",), "insert": ("insert",)}.get(
            word, (word,)
        )
        if word == "insert" and "conflict" in ahead:
            events = ("insert", "update")
        for fact in self._catalog.find("relation", parts[-1], parts[-2] if len(parts) > 1 else None, path):
            for event in events:
                self.write(fact["oid"], event, path)

    def _name(self, tokens: list[Token], number: int, path: Sequence[str], *, is_target: bool, where: str) -> None:
        """Follow a name: a function that is called, a type, or a relation that is read."""
        parts, after = qualified(tokens, number)
        name, schema = parts[-1], parts[-2] if len(parts) > 1 else None
        if tokens[after].says("(") and not is_target:
            if schema in SENDING_SCHEMAS:
                self._effects.calls_out = True
            if schema in {None, "pg_catalog"}:
                if name == "pg_notify":
                    self._effects.named.add(NOTIFIES)
                if name == "lo_export":
                    self._effects.calls_out = True
                if EXECUTING.fullmatch(name):
                    self._effects.unknown[f"{where} executes SQL by {name}()"] = None
            for function in self._catalog.find("function", name, schema, path):
                self.call(function["oid"], path)
        for each in self._catalog.find("type", name, schema, path):
            self.call(each["function"], path)
        if tokens[number - 1].says(*READING) and not is_target:
            for relation in self._catalog.find("relation", name, schema, path):
                self.look(relation["oid"], path)

    def _is_seen(self, *key: str) -> bool:
        """Return whether something has been followed before, and remember it."""
        seen = key in self._seen
        self._seen.add(key)
        return seen


def reaction(reference: dict[str, Any], event: str) -> str | None:
    """Return what a foreign key does to the rows that refer to a row when that is written; None if nothing."""
    action = reference.get(event)
    return None if action in {None, "a", "r"} else event if action == "c" else "update"


def path_of(settings: Iterable[str] | None) -> tuple[str, ...]:
    """Return the schemas of a function's own search path; none if it has no such setting."""
    path = value_of("search_path", settings)
    return () if path is None else ("pg_catalog", *schemas_in(path))


def value_of(setting: str, settings: Iterable[str] | None) -> str | None:
    """Return the value that a function gives to a setting; None if it gives none."""
    values = dict(each.split("=", 1) for each in settings or ())
    return values.get(setting)


def schemas_in(path: str) -> list[str]:
    """Return the schemas that a search path names."""
    return [token.text for token in tokens_of(path) if token.is_name() and token.text]


def qualified(tokens: Sequence[Token], number: int) -> tuple[list[str], int]:
    """Return the parts of a name, and the position of what follows it."""
    parts = [tokens[number].text]
    number += 1
    while tokens[number].says(".") and tokens[number + 1].is_name():
        parts.append(tokens[number + 1].text)
        number += 2
    return parts, number


def marks_ahead(tokens: Sequence[Token]) -> Iterable[Set[str]]:
    """Return for each token what is from there on in its statement.

    It is ``conflict``, ``program``, a ``file`` that is written, or something that is ``renamed``.
    """
    marks: list[Set[str]] = []
    ahead: Set[str] = frozenset()
    following = Token("end", "")
    # Backwards and once for all of them, because a statement may write to thousands of tables.
    for token in reversed(tokens):
        if token.says(";"):
            ahead = frozenset()
        elif token.says("conflict", "program"):
            ahead = ahead | {token.text}
        elif token.says("to") and following.kind == "string":
            ahead = ahead | {"file"}
        elif token.says("rename") or (token.says("set") and following.says("schema")):
            ahead = ahead | {"renamed"}
        marks.append(ahead)
        following = token
    return reversed(marks)


def definitions_in(tokens: Sequence[Token]) -> Iterable[str]:
    """Yield for each token what its statement has begun to make, such as ``trigger``; empty if nothing."""
    made = ""
    for number, token in enumerate(tokens):
        if token.says(";"):
            made = ""
        elif not made and token.says("create") and not tokens[number - 1].says("as", "."):
            words = tokens[number + 1 : number + 5]
            made = next((word.text for word in words if not word.says("or", "replace", "constraint", "event")), "")
        yield made


def constant_of(tokens: Sequence[Token], number: int) -> str | None:
    """Return the SQL that EXECUTE executes if it is a constant, or one into which only values are put; None if not."""
    closing = 0
    while tokens[number].says("("):
        number += 1
        closing += 1
    if tokens[number].says("format", "pg_catalog") or tokens[number].kind == "string":
        parts, after = (["string"], number) if tokens[number].kind == "string" else qualified(tokens, number)
        if parts[-1] == "format" and tokens[after].says("("):
            template = tokens[after + 1]
            rest = PLACEHOLDER.sub("null", template.text).replace("%%", "")
            # Its arguments are expressions, which are followed like everything else.
            return PLACEHOLDER.sub("null", template.text) if template.kind == "string" and "%" not in rest else None
        if parts == ["string"]:
            end = number + 1 + closing
            ends = tokens[end].says(";", "using", "into", "loop") or tokens[end].kind == "end"
            return tokens[number].text if ends else None
    return None
