"""The classes of changes to what others rest on: breaking, additive or internal, each with the reason.

A change is breaking unless a rule shows that nobody can notice it to their cost. Conditions (checks, policies) are
compared as a theorem prover would: one is looser if every part of it follows from the other.
"""

import enum
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from momentum.inventory import PRIVATE_SCHEMA
from momentum.verify.compare import PLATFORM, SCORE_TABLE, Difference, changes, object_of, parts_of
from tools.contract_conditions import implies, split, stripped

Facts = Mapping[str, str]


class Kind(enum.StrEnum):
    """How a change meets those who rest on what it changes, the worst first."""

    BREAKING = "breaking"
    ADDITIVE = "additive"
    INTERNAL = "internal"


class Verdict(NamedTuple):
    """The class of a change.

    Attributes:
        kind: The class.
        reason: Why, as the end of a line.
    """

    kind: Kind
    reason: str


class Case(NamedTuple):
    """A difference to judge, between a release and head.

    Attributes:
        key: The key of the fact.
        after: Its value at head; None if it is gone.
        before: Its value in the release; None if it is new.
        old: All facts of the release.
        new: All facts at head.
    """

    key: str
    after: str | None
    before: str | None
    old: Facts
    new: Facts


Rule = Callable[[Case], Verdict]


class Change(NamedTuple):
    """A difference between two contracts, with its class.

    Attributes:
        difference: The fact; ``expected`` is its value in the release, ``found`` that at head.
        verdict: Its class and the reason.
    """

    difference: Difference
    verdict: Verdict

    @property
    def kind(self) -> Kind:
        """The class."""
        return self.verdict.kind

    def __str__(self) -> str:
        key, found, expected = self.difference
        if found is None:
            what = f"- {key}: {expected}"
        elif expected is None:
            what = f"+ {key}: {found}"
        else:
            what = f"~ {key}: {expected} -> {found}"
        return f"{what}\n    {self.verdict.reason}"


def breaking(reason: str) -> Verdict:
    return Verdict(Kind.BREAKING, reason)


def additive(reason: str) -> Verdict:
    return Verdict(Kind.ADDITIVE, reason)


def internal(reason: str) -> Verdict:
    return Verdict(Kind.INTERNAL, reason)


def worst(verdicts: list[Verdict], otherwise: Verdict) -> Verdict:
    """Return one verdict for several: the worst class, with the reasons for it."""
    for kind in Kind:
        if reasons := [verdict.reason for verdict in verdicts if verdict.kind is kind]:
            return Verdict(kind, "; ".join(reasons))
    return otherwise


def compare_contracts(old: Facts, new: Facts) -> list[Change]:
    """Return every difference between two sets of facts with its class."""
    return [Change(difference, judge(Case(*difference, old, new))) for difference in changes(old, new)]


def judge(case: Case) -> Verdict:
    """Return the class of a difference."""
    owner, *parts = parts_of(case.key)
    last = parts[-1] if parts else ""
    if last == "comment":
        return internal("a comment is for readers of the schema")
    if owner == PLATFORM:
        return internal("a fact about the platform, which nothing of ours makes")
    if last == "grant to owner" or (PRIVATE_SCHEMA in owner and not last.startswith("grant to ")):
        return internal("private: only the migrations use it")
    if owner == SCORE_TABLE:
        return demand(case)
    rules = RULES.get(owner.split(" ")[0], SCHEMA_RULES)
    for beginning, rule in rules.items():
        if last == beginning or last.startswith(f"{beginning} "):
            return rule(case)
    if parts:
        return breaking("no rule shows that nobody rests on it")
    return whole(case)


def demand(case: Case) -> Verdict:
    """Judge what an adopted score table must have: it is the app's, and the view and the backfill need it."""
    if case.after is None:
        return additive("more score tables can be adopted, and are as they should be")
    return breaking("a score table that was adopted may no longer be as it should be")


def whole(case: Case) -> Verdict:
    """Judge a whole object, such as a table, a function or a command."""
    if case.after is None:
        return breaking("it is gone, and with it everything that it has")
    if case.before is None:
        return additive("it is new: nobody rests on it yet")
    return breaking("it has become something else")


# The schema: the facts of momentum.verify.

COLUMN = re.compile(
    r"(?P<type>.+?)(?: collate (?P<collation>.+?))?(?P<required> not null)?(?P<unchecked> \(not valid\))?"
    r"(?: generated (?P<identity>always|by default) as identity)?"
    r"(?: default (?P<default>.+)| generated always as (?P<generated>.+))?",
    re.DOTALL,
)
POLICY = re.compile(
    r"(?P<mode>permissive|restrictive) for (?P<command>\w+) to (?P<roles>.+?)"
    r"(?: using \((?P<using>.+?)\))?(?: with check \((?P<check>.+)\))?",
    re.DOTALL,
)

# Types of which each holds every value of those before it.
WIDER = [
    ["smallint", "integer", "bigint"],
    ["real", "double precision"],
    ["character varying", "text"],
]


def column(case: Case) -> Verdict:
    """Judge a column of a table or a view."""
    if case.after is None:
        return breaking("a column is gone, or has another name")
    after = fields_of(COLUMN, case.after)
    if case.before is None:
        if after["required"] and not (after["default"] or after["generated"] or after["identity"]):
            return breaking("an insert that doesn't know the new column is refused")
        return additive("a new column, which an insert may leave out")
    before = fields_of(COLUMN, case.before)
    return worst(list(column_changes(before, after)), internal("the column takes and gives the same values"))


def column_changes(before: dict[str, str], after: dict[str, str]) -> Iterator[Verdict]:
    """Yield a verdict for each part of a column's definition that has changed."""
    if before["type"] != after["type"]:
        if is_wider(before["type"], after["type"]):
            yield additive("a wider type holds every value of the old one")
        else:
            yield breaking("the type is another one, or narrower")
    if before["collation"] != after["collation"]:
        yield breaking("another collation sorts and compares differently")
    if before["required"] != after["required"]:
        if after["required"]:
            yield breaking("null is refused where it was taken")
        else:
            yield breaking("readers may find null where there always was a value")
    if before["unchecked"] != after["unchecked"]:
        if after["unchecked"]:
            yield breaking("rows with null may exist")
        else:
            yield internal("existing rows are checked too")
    for name in ("identity", "generated"):
        if before[name] != after[name]:
            if (before[name], after[name]) == ("always", "by default"):
                yield additive("a value may be given, too")
            else:
                yield breaking("values are made in another way, or may no longer be given")
    if before["default"] != after["default"]:
        if not after["default"]:
            refused = after["required"] and not (after["identity"] or after["generated"])
            yield breaking("an insert without it is refused" if refused else "an insert without it gives null")
        elif before["default"]:
            yield breaking("an insert without it gives another value")
        elif not (before["identity"] or before["generated"]):
            yield additive("an insert may leave it out")


def fields_of(pattern: re.Pattern[str], value: str) -> dict[str, str]:
    """Return the parts of a fact's value; empty where there is none."""
    found = pattern.fullmatch(value)
    assert found, f"this is not understood: {value}"
    return found.groupdict(default="")


def is_wider(old: str, new: str) -> bool:
    """Return whether a type holds, in the same form, every value of another one."""
    if old.endswith("[]") and new.endswith("[]"):
        return is_wider(old[:-2], new[:-2])
    (old_name, old_sizes), (new_name, new_sizes) = sizes_of(old), sizes_of(new)
    if old_name != new_name:
        order = next((order for order in WIDER if {old_name, new_name} <= set(order)), [old_name])
        return new_name in order[order.index(old_name) + 1 :] and not new_sizes
    if not new_sizes:
        return True
    if not old_sizes or old_name == "character" or len(old_sizes) != len(new_sizes):
        return False
    if old_name == "numeric":
        (precision, scale), (new_precision, new_scale) = old_sizes, new_sizes
        return new_scale >= scale and new_precision - new_scale >= precision - scale
    return new_sizes >= old_sizes


def sizes_of(name: str) -> tuple[str, list[int]]:
    """Return a type without its sizes, and the sizes."""
    sizes = re.search(r"\((\d+)(?:,(\d+))?\)", name)
    if sizes is None:
        return name, []
    return name.replace(sizes[0], ""), [int(size) for size in sizes.groups(default="0")]


def constraint(case: Case) -> Verdict:
    """Judge a check or a key."""
    definition = case.after or case.before or ""
    if not definition.startswith("CHECK "):
        if case.after is None:
            if definition.startswith("FOREIGN KEY"):
                return breaking("rows may refer to nothing, and an API no longer sees the relationship")
            if definition.startswith("EXCLUDE"):
                return additive("no row is refused that was taken")
            return breaking("rows may be there twice, and ON CONFLICT no longer finds the key")
        if case.before is None:
            if concerns_new_columns(case.key, case.after, case.old, case.new):
                return additive("a key over new columns only: nobody writes them yet")
            return breaking("rows are refused that were taken, or it is the old key under a name that nobody knows")
        if case.after == without_validation(case.before):
            return internal("existing rows are checked too")
        return breaking("the key is another one: what it refuses, what happens to rows, or what ON CONFLICT may name")
    if is_renamed(case):
        return internal("the same check under another name; only the text of an error shows it")
    if case.before is None:
        if concerns_new_columns(case.key, case.after or "", case.old, case.new):
            return additive("a check of new columns only: nobody writes them yet")
        return breaking("values are refused that were taken")
    if case.after is None:
        return additive("no value is refused that was taken")
    return judge_condition(
        condition_of(case.before),
        condition_of(case.after),
        wider=additive("looser: every value that was taken still is"),
        narrower=breaking("values are refused that were taken, as far as can be told"),
        same=internal("the same check, written in another way"),
    )


def is_renamed(case: Case) -> bool:
    """Return whether the same is there under another name: what is gone is new there, or what is new was there."""
    if case.before is not None and case.after is not None:
        return False
    there, gone = (case.new, case.old) if case.after is None else (case.old, case.new)
    owner, name = object_of(case.key), parts_of(case.key)[-1]
    kind = name.split(" ")[0]
    value = nameless(case.after or case.before or "", name)
    return any(
        object_of(key) == owner
        and parts_of(key)[-1].startswith(f"{kind} ")
        and key not in gone
        and nameless(there[key], parts_of(key)[-1]) == value
        for key in there
    )


def nameless(definition: str, part: str) -> str:
    """Return the definition of a trigger or a rule, for example, without its name."""
    kind, _, name = part.partition(" ")
    return re.sub(rf"\b{kind.upper()} {re.escape(name)} ", f"{kind.upper()} ", definition, count=1)


def without_validation(definition: str) -> str:
    return definition.replace(" NOT VALID", "")


def condition_of(definition: str) -> str:
    """Return the condition of a check."""
    return without_validation(definition).replace(" NO INHERIT", "").removeprefix("CHECK ")


def concerns_new_columns(key: str, definition: str, old: Facts, new: Facts) -> bool:
    """Return whether a constraint mentions columns of its table that are new, and no other."""
    table = object_of(key)
    beginning = f"{table}, column "
    columns = {parts_of(fact)[-1].removeprefix("column ") for fact in new if fact.startswith(beginning)}
    own = definition.partition(" REFERENCES ")[0]
    mentioned = {name for name in columns if re.search(rf"(?<![\w.\"'])\"?{re.escape(name)}\"?(?!\w)", own)}
    return bool(mentioned) and not any(f"{beginning}{name}" in old for name in mentioned)


def index(case: Case) -> Verdict:
    """Judge an index: a unique one is a key."""
    if not any((value or "").startswith("CREATE UNIQUE") for value in (case.after, case.before)):
        return internal("an index changes how fast an answer comes, and not the answer")
    if case.before is None and concerns_new_columns(case.key, case.after or "", case.old, case.new):
        return additive("a key over new columns only: nobody writes them yet")
    if case.before is None:
        return breaking("rows are refused that were taken")
    return breaking("rows may be there twice, or ON CONFLICT no longer finds the key")


def grant(case: Case) -> Verdict:
    """Judge the rights of a role."""
    owner = ", ".join(parts_of(case.key)[:-1])
    before = privileges_of(case.before)
    # What everybody may do, the role may do too.
    after = privileges_of(case.after) | privileges_of(case.new.get(f"{owner}, grant to public"))
    if before - after:
        return breaking(f"taken from the role: {', '.join(sorted(before - after))}")
    if after - before:
        return additive(f"the role may do more: {', '.join(sorted(after - before))}")
    return internal("the same rights")


def privileges_of(value: str | None) -> set[str]:
    """Return the privileges in a fact, those that may be granted on also by themselves."""
    named = {each for each in (value or "").split(", ") if each and not each.startswith("without ")}
    return named | {each.removesuffix(" with grant option") for each in named}


def row_security(case: Case) -> Verdict:
    """Judge whether policies apply, and to whom."""
    (before, forced_before), (after, forced_after) = (
        (value or "").split(", ", 1) if value else ("", "") for value in (case.before, case.after)
    )
    if (before, after) == ("disabled", "enabled"):
        return breaking("rows that no policy lets through are hidden and refused")
    if before != after:
        return breaking("rows that policies hid from others are open to them")
    if forced_after.startswith("forced"):
        return breaking("policies bind the owner, too")
    return internal("policies no longer bind the owner" if forced_before else "the same")


def policy(case: Case) -> Verdict:
    """Judge a policy: who sees and writes which rows."""
    owned = f"{object_of(case.key)}, column user_id" in case.new
    if is_renamed(case):
        return internal("the same policy under another name, which nobody needs")
    if case.after is None or case.before is None:
        fields = fields_of(POLICY, case.after or case.before or "")
        lets_in = (fields["mode"] == "permissive") == (case.after is not None)
        if not lets_in:
            return breaking("rows are hidden or refused that were seen or taken")
        if case.after is not None and owned and opens_everything(fields):
            return breaking("every user's rows are open to others")
        return additive("more rows can be seen or written, and no fewer: look whether they should")
    before, after = fields_of(POLICY, case.before), fields_of(POLICY, case.after)
    if owned and opens_everything(after) and not opens_everything(before):
        return breaking("every user's rows are open to others")
    return worst(list(policy_changes(before, after)), internal("the same rows, written in another way"))


def opens_everything(fields: dict[str, str]) -> bool:
    """Return whether a policy lets roles of clients read every row."""
    clients = set(fields["roles"].split(", ")) - {"service_role", "owner"}
    reads = fields["command"] in ("select", "all")
    return bool(clients) and reads and fields["mode"] == "permissive" and stripped(fields["using"]) == "true"


def policy_changes(before: dict[str, str], after: dict[str, str]) -> Iterator[Verdict]:
    """Yield a verdict for each part of a policy that has changed."""
    if before["mode"] != after["mode"]:
        if after["mode"] == "restrictive":
            yield breaking("it lets nothing through any more, and stops what others let through")
        else:
            yield additive("it lets rows through, and stops none any more")
    # A restrictive policy takes rows away from those whom it concerns.
    one, other = (before, after) if after["mode"] == "permissive" else (after, before)
    wider = additive("more rows can be seen or written, and no fewer: look whether they should")
    narrower = breaking("rows are hidden or refused that were seen or taken, as far as can be told")
    if before["command"] != after["command"]:
        yield wider if other["command"] == "all" else narrower
    roles, more_roles = (set(fields["roles"].split(", ")) for fields in (one, other))
    if roles != more_roles:
        yield wider if "public" in more_roles or roles <= more_roles else narrower
    for name in ("using", "check"):
        if before[name] != after[name]:
            # Without a WITH CHECK, the condition of USING holds for new rows.
            conditions = [fields[name] or fields["using"] or "true" for fields in (before, after)]
            yield judge_condition(*conditions, wider=wider, narrower=narrower, same=internal("the same rows"))


def judge_condition(old: str, new: str, *, wider: Verdict, narrower: Verdict, same: Verdict) -> Verdict:
    """Compare two conditions.

    Args:
        old: The condition of the release.
        new: The one at head.
        wider: The verdict if the new one follows from the old one.
        narrower: The verdict if that can't be shown.
        same: The verdict if each follows from the other.
    """
    if not implies(old, new):
        return narrower
    return same if implies(new, old) else wider


def trigger(case: Case) -> Verdict:
    """Judge a trigger or a rule."""
    if is_renamed(case):
        return internal("the same under another name, which nobody needs")
    if case.before is None:
        return breaking("it may change or refuse what clients write")
    return breaking("what it did for each row no longer happens, or happens differently")


def persistence(case: Case) -> Verdict:
    """Judge whether rows outlive a crash."""
    if case.after == "permanent":
        return additive("rows outlive a crash")
    return breaking("rows may be lost in a crash, and are not replicated")


def replica_identity(case: Case) -> Verdict:
    """Judge how much of a row a subscriber of changes gets."""
    if case.after == "full" or case.before == "nothing":
        return additive("subscribers get more of the old row")
    return breaking("subscribers get less of the old row, or none")


def view_options(case: Case) -> Verdict:
    """Judge with whose rights a view reads."""
    before, after = ("security_invoker=true" in (value or "") for value in (case.before, case.after))
    if before != after:
        return breaking(
            "rows are hidden from those who may not read the table"
            if after
            else "the view reads with its owner's rights: every user's rows are open to others"
        )
    return internal("the view shows the same rows")


def view_query(case: Case) -> Verdict:
    """Judge the query of a view: new columns at the end are additive, and nothing else is known to be harmless."""
    before, after = (split_query(value or "") for value in (case.before, case.after))
    if before is None or after is None or before[1] != after[1]:
        return breaking("the view may show other rows, as far as can be told")
    (columns, _), (new_columns, _) = before, after
    if new_columns[: len(columns)] == columns:
        return additive("new columns at the end of the view")
    if sorted(columns) == sorted(new_columns):
        return breaking("the columns have another order, which `select *` shows")
    return breaking("a column is gone, has another place, or shows something else")


def split_query(query: str) -> tuple[list[str], str] | None:
    """Return the columns of a query and the rest of it, or None if it isn't a plain one."""
    head, *rest = split(query.removeprefix("SELECT "), " FROM ")
    if not query.startswith("SELECT ") or len(rest) != 1:
        return None
    return split(head, ", "), rest[0]


def inside(_: Case) -> Verdict:
    """Judge something that only shows inside of the database."""
    return internal("its effects are held by tests, and nobody calls it")


SCHEMA_RULES: dict[str, Rule] = {
    "column": column,
    "constraint": constraint,
    "index": index,
    "grant": grant,
    "row level security": row_security,
    "policy": policy,
    "trigger": trigger,
    "rule": trigger,
    "persistence": persistence,
    "replica identity": replica_identity,
    "options": view_options,
    "query": view_query,
    "kind": inside,
    "settings": inside,
    "body": inside,
}


# The Python package.


def member(case: Case) -> Verdict:
    """Judge a name that a program may import, or that a class has."""
    if case.after is None:
        return breaking("a program that names it fails")
    if case.before is None:
        return additive("nobody names it yet")
    return breaking("it is used in another way")


def base_class(case: Case) -> Verdict:
    """Judge a class from which another one inherits."""
    if case.after is None:
        return breaking("`except` and `isinstance` with the base no longer find it")
    return additive("it is an instance of one more class")


def parameter(case: Case) -> Verdict:
    """Judge a parameter, and how an argument may be given."""
    if case.after is None:
        return breaking("a call that gives it fails: it is gone, or has another name")
    if case.before is None:
        if f"{case.key}, default" in case.new or case.after.startswith("variadic"):
            return additive("a call may leave it out")
        return breaking("a call that doesn't know it fails")
    if case.after == "positional or keyword":
        return additive("it may be given in one more way")
    return breaking("it may no longer be given in the same way")


def position(case: Case) -> Verdict:
    """Judge a parameter's place among those that may be given without a name."""
    if case.before is None:
        return additive("it may also be given without its name")
    return breaking("an argument without a name means another parameter")


def default_value(case: Case) -> Verdict:
    """Judge the default of a parameter or an option."""
    if case.after is None:
        return breaking("it has to be given")
    if case.before is None:
        return additive("it may be left out")
    return breaking("leaving it out means something else")


def annotation(case: Case) -> Verdict:
    """Judge the type of a parameter: it may take more, and never less."""
    one, other = union_of(case.before), union_of(case.after)
    if "Any" in other or one <= other:
        return additive("it takes everything that it took")
    return breaking("type checkers, or the program, refuse what was taken")


def result(case: Case) -> Verdict:
    """Judge what a function returns, or an attribute is: it may be one of fewer, and never of more."""
    one, other = union_of(case.before), union_of(case.after)
    if "Any" in one or other <= one:
        return additive("it is still one of the types that it was")
    return breaking("a program gets another type than it knows")


def union_of(value: str | None) -> set[str]:
    """Return the types of a union, and the values of a literal type; without an annotation it may be anything."""
    types = set()
    for each in split(value or "Any", " | "):
        values = re.fullmatch(r"(?:typing\.)?Literal\[(.*)\]", each)
        types |= set(split(values[1], ", ")) if values else {each}
    return types


def value(_: Case) -> Verdict:
    """Judge a constant."""
    return breaking("a program that compares with it, or passes it on, gets another one")


# The commands, and what else a package brings.


def option(case: Case) -> Verdict:
    """Judge an option or an argument of a command."""
    if case.after is None:
        return breaking("a script that gives it fails: it is gone, or has another name")
    if case.before is None:
        if f"{case.key}, required" in case.new:
            return breaking("a script that doesn't know it fails")
        return additive("a script may leave it out")
    if case.after == "text" or (case.before, case.after) == ("int", "float"):
        return additive("it takes everything that it took")
    return breaking("it takes something else")


def required(case: Case) -> Verdict:
    """Judge whether an option must be given."""
    if case.before is None:
        return breaking("a script that leaves it out fails")
    return additive("it may be left out")


def repeatable(case: Case) -> Verdict:
    """Judge whether an option may be given several times."""
    if case.before is None:
        return additive("it may be given several times")
    return breaking("a script that gives it several times fails, or only the last one counts")


def option_default(case: Case) -> Verdict:
    """Judge what leaving an option out means."""
    if f"{', '.join(parts_of(case.key)[:-1])}, required" in case.new:
        return internal("it has to be given now, and that is said elsewhere")
    return breaking("leaving it out means something else")


def bound(case: Case) -> Verdict:
    """Judge the least or the greatest number that an option takes."""
    if case.after is None:
        return additive("it takes more")
    if case.before is not None:
        least = parts_of(case.key)[-1] == "least"
        more = float(case.after) < float(case.before)
        if more == least:
            return additive("it takes more")
    return breaking("it refuses numbers that it took")


def choices(case: Case) -> Verdict:
    """Judge the words that an option takes."""
    if case.after is None:
        return additive("it takes more")
    if case.before is not None and union_of(case.before) <= union_of(case.after):
        return additive("it takes one more word")
    return breaking("it refuses a word that it took")


def exit_code(case: Case) -> Verdict:
    """Judge an exit code and its meaning."""
    if case.before is None:
        return additive("it ends with one more code")
    if case.after is None:
        return breaking("a script that waits for it never sees it")
    return breaking("it means something else, as far as can be told: if not, keep its words")


def json_key(case: Case) -> Verdict:
    """Judge a key of an object that a command prints."""
    if case.after is None:
        return breaking("a program that reads it fails: it is gone, or has another name")
    if case.before is None:
        return additive("a program that doesn't know it leaves it out")
    return breaking("a program that reads it gets another type")


def python_version(case: Case) -> Verdict:
    """Judge the versions of Python that can install the package."""
    one, other = ([int(number) for number in re.findall(r"\d+", value or "0")] for value in (case.before, case.after))
    if other > one or "<" in (case.after or ""):
        return breaking("a service with an older or a newer Python can't install it")
    return additive("it can be installed with more versions of Python")


def target(case: Case) -> Verdict:
    """Judge the name of a program, a plugin or an extra."""
    if case.after is not None and case.before is not None:
        return internal("the same name leads to another place")
    return member(case)


PYTHON_RULES: dict[str, Rule] = {
    "method": member,
    "attribute": member,
    "base": base_class,
    "parameter": parameter,
    "position": position,
    "default": default_value,
    "type": annotation,
    "returns": result,
    "is": result,
    "value": value,
}
COMMAND_RULES: dict[str, Rule] = {
    "option": option,
    "argument": option,
    "required": required,
    "default": option_default,
    "least": bound,
    "most": bound,
    "choices": choices,
    "repeatable": repeatable,
    "environment": target,
    "exit code": exit_code,
    "key": json_key,
    "metric": json_key,
}
PACKAGE_RULES: dict[str, Rule] = {
    "Python": python_version,
    "script": target,
    "plugin": target,
    "extra": target,
}
RULES = {"python": PYTHON_RULES, "command": COMMAND_RULES, "package": PACKAGE_RULES}
