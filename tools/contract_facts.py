"""Facts about the package and its commands, in the form of those about the schema: a key and a value."""

import contextlib
import dataclasses
import datetime
import inspect
import io
import json
import re
import tempfile
import tomllib
import typing
import uuid
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import griffe
import typer

from momentum import status
from momentum.backfill import cli as backfill
from momentum.backfill.days import DayRange
from momentum.backfill.display import Display
from momentum.backfill.fill import Failure
from momentum.backfill.manifest import as_line
from momentum.backfill.metrics import write_metrics
from momentum.backfill.report import Execution, Report
from momentum.backfill.triggers import Trigger
from momentum.backfill.undo import UndoReport
from momentum.cli import app
from momentum.connect.environment import ENV_FILE_VARIABLES, SERVICE_ROLE_KEY, URL_VARIABLES
from momentum.migrate.config import MigrationOptions, Options
from momentum.testing import __main__ as testing
from momentum.verify import __main__ as verify

# The modules whose names other services import: all that they offer, or only the names given here.
PUBLIC: dict[str, tuple[str, ...]] = {
    "momentum": (),
    "momentum.backfill": (),
    "momentum.base": ("auth_users",),
    "momentum.connect": (),
    "momentum.errors": (),
    "momentum.testing": (),
    "momentum.testing.plugin": (),
}

# Classes whose instances others only get: how they are constructed is ours.
GIVEN = {"momentum.backfill.Report", "momentum.testing.Server"}

# The programs, as a person calls them.
PROGRAMS = {
    "momentum": app,
    "momentum-backfill": backfill.app,
    "python -m momentum.testing": testing.app,
    "python -m momentum.verify": verify.app,
}

# Kinds of functions, by their decorators.
DECORATED = {
    "classmethod": "class method",
    "staticmethod": "static method",
    "asynccontextmanager": "asynchronous context manager",
    "contextmanager": "context manager",
}

CONSTANT = re.compile(r"-?\d+|'[^']*'|True|False|None")
ARGUMENT = re.compile(r"\b(default|default_factory|init)=")


def python_facts(folder: Path) -> dict[str, str]:
    """Return the facts about the names that other services import from the package in a folder.

    The source is read and not run.
    """
    package = griffe.load(
        "momentum", search_paths=[folder], try_relative_path=False, allow_inspection=False, resolve_aliases=True
    )
    assert isinstance(package, griffe.Module)
    facts: dict[str, str] = {}
    for name, names in PUBLIC.items():
        inner = name.partition(".")[2]
        # A name that leads nowhere is gone.
        with contextlib.suppress(KeyError):
            module = package[inner] if inner else package
            for member in names or public_names(module):
                with contextlib.suppress(griffe.AliasResolutionError, KeyError):
                    facts |= dict(facts_of(f"python {name}.{member}", module[member]))
    return facts


def public_names(module: griffe.Module) -> list[str]:
    """Return the names that a module offers: those of ``__all__``, or its own ones."""
    if module.exports is not None:
        return sorted(map(str, module.exports))
    return sorted(name for name, each in module.members.items() if not (each.is_alias or name.startswith("_")))


def facts_of(key: str, found: Any, *, part: str = "") -> Iterator[tuple[str, str]]:
    """Yield the facts about a function, a class or an attribute."""
    if found.is_class:
        yield from facts_of_class(key, found)
    elif found.is_function and not is_column(found):
        decorators = " ".join(str(each.value) for each in found.decorators)
        # A fixture is asked for by its name, and pytest gives it its arguments.
        fixture = "fixture" in decorators
        kind = next((kind for name, kind in DECORATED.items() if name in decorators), "function")
        yield key, decorators if fixture else f"{'asynchronous ' if 'async' in found.labels else ''}{kind}"
        if found.returns is not None:
            yield f"{key}, returns", written(found.returns, found)
        if not fixture:
            skipped = 1 if part and kind != "static method" else 0
            yield from facts_of_parameters(key, list(found.parameters)[skipped:], found)
    else:
        yield key, "attribute"
        if found.annotation is not None:
            yield f"{key}, is", written(found.annotation, found)
        value = getattr(found, "value", None)
        # The default of a field of a dataclass is that of a parameter.
        if value is not None and part and CONSTANT.fullmatch(str(value)) and "dataclass" not in found.parent.labels:
            yield f"{key}, value", str(value)


def is_column(found: Any) -> bool:
    """Return whether a function makes a column of a model, and so is an attribute of its instances."""
    return str(found.annotation or "").startswith("Mapped[")


def facts_of_class(key: str, found: Any) -> Iterator[tuple[str, str]]:
    """Yield the facts about a class: its ancestors, its public members and how it is called."""
    yield key, "class"
    ancestors = [*found.mro()]
    for each in [found, *ancestors]:
        for base in each.bases:
            # Without its module: that of a class that isn't public may change.
            yield f"{key}, base {str(base).rpartition('.')[2]}", "base"
    members = {name: each for name, each in found.all_members.items() if not name.startswith("_")}
    for name, each in sorted(members.items()):
        is_method = each.is_function and not is_column(each)
        if not (is_method or each.is_attribute or is_column(each)):
            continue
        yield from facts_of(f"{key}, {'method' if is_method else 'attribute'} {name}", each, part=name)
    constructor = found.all_members.get("__init__")
    if key.removeprefix("python ") in GIVEN:
        return
    if constructor is not None:
        yield from facts_of_parameters(key, list(constructor.parameters)[1:], constructor)
    elif "NamedTuple" in map(str, found.bases):
        fields = [each for each in found.attributes.values() if each.annotation is not None]
        for place, each in enumerate(fields, start=1):
            parameter = f"{key}, parameter {each.name}"
            yield parameter, "positional or keyword"
            yield f"{parameter}, position", str(place)
            yield f"{parameter}, type", written(each.annotation, each)
            if each.value is not None:
                yield f"{parameter}, default", written(each.value, each)
    elif any(each.path == "momentum.base.Promise" for each in ancestors):
        # A model's constructor, which its base makes from its columns and relationships.
        for name, each in sorted(members.items()):
            kind = str(each.annotation or "")
            given = set(ARGUMENT.findall(str(getattr(each, "value", ""))))
            if kind.startswith("Mapped[") and "init" not in given:
                parameter = f"{key}, parameter {name}"
                yield parameter, "keyword-only"
                if given:
                    yield f"{parameter}, default", "None"


def facts_of_parameters(key: str, parameters: list[griffe.Parameter], owner: Any) -> Iterator[tuple[str, str]]:
    """Yield the facts about the parameters of a function, in their order."""
    place = 0
    for each in parameters:
        kind = each.kind.value if each.kind else "positional or keyword"
        text = str(each.annotation or "")
        if named := re.fullmatch(r"Unpack\[(\w+)\]", text):
            # Keywords that a TypedDict lists; each may be left out.
            options = owner.module.get_member(named[1])
            for name, option in sorted(options.attributes.items()):
                yield f"{key}, parameter {name}", "keyword-only"
                yield f"{key}, parameter {name}, default", "none"
                yield f"{key}, parameter {name}, type", written(option.annotation, option)
            continue
        # The name of what takes the rest is nobody's concern.
        name = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, each.name)
        parameter = f"{key}, parameter {name}"
        yield parameter, kind
        if kind.startswith("positional"):
            place += 1
            yield f"{parameter}, position", str(place)
        if each.default is not None and not kind.startswith("variadic"):
            yield f"{parameter}, default", one_line(written(each.default, owner))
        if each.annotation is not None:
            yield f"{parameter}, type", written(each.annotation, owner)


def written(expression: Any, owner: Any) -> str:
    """Return an expression as text, with the package's own names for types and constants spelt out."""
    if isinstance(expression, griffe.ExprSubscript) and str(expression.left).endswith("Annotated"):
        inner = expression.slice
        return written(inner.elements[0] if isinstance(inner, griffe.ExprTuple) else inner, owner)
    if isinstance(expression, griffe.ExprName):
        try:
            target = owner.modules_collection[expression.canonical_path]
            if target.is_attribute and target.value is not None and not isinstance(target.value, griffe.ExprCall):
                return written(target.value, target)
        except (KeyError, griffe.AliasResolutionError, griffe.NameResolutionError):
            pass
        return expression.name
    if isinstance(expression, griffe.Expr):
        return one_line("".join(written(each, owner) for each in expression.iterate(flat=False)))
    return str(expression).strip('"') if re.fullmatch(r'"[\w.\[\], |]+"', str(expression)) else str(expression)


def one_line(text: str) -> str:
    """Return a text on one line."""
    return re.sub(r"\s+", " ", text)


def package_facts(folder: Path) -> dict[str, str]:
    """Return the facts about what an installation of the package brings."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    facts = {"package, Python": project["requires-python"]}
    facts |= {f"package, extra {name}": ", ".join(needs) for name, needs in project["optional-dependencies"].items()}
    facts |= {f"package, script {name}": target for name, target in project["scripts"].items()}
    for group, plugins in project["entry-points"].items():
        facts |= {f"package, plugin {group} {name}": target for name, target in plugins.items()}
    return facts


def command_facts() -> dict[str, str]:
    """Return the facts about the commands: options, exit codes, and the keys of the objects that they print."""
    facts: dict[str, str] = {}
    for name, program in PROGRAMS.items():
        facts |= dict(facts_of_command(f"command {name}", typer.main.get_command(program)))
    for name in URL_VARIABLES:
        facts[f"command momentum, environment {name}"] = "the database's URL"
    for name in (*ENV_FILE_VARIABLES, SERVICE_ROLE_KEY):
        facts[f"command momentum, environment {name} in the env file"] = "read from the env file"
    facts["command alembic"] = "group"
    types = typing.get_type_hints(MigrationOptions)
    for field in dataclasses.fields(Options):
        key = f"command alembic, option -x {field.name}="
        facts[key] = "text"
        if field.default is not None:
            facts[f"{key}, default"] = str(field.default)
        if get_origin(types.get(field.name)) is Literal:
            facts[f"{key}, choices"] = " | ".join(sorted(get_args(types[field.name])))
    for (command, options), sample in samples().items():
        facts |= {f"command {command}, key {path} of {options}": kind for path, kind in keys_of(sample)}
    facts |= {f"command momentum-backfill, metric {name}": kind for name, kind in metrics().items()}
    return facts


def facts_of_command(key: str, command: Any) -> Iterator[tuple[str, str]]:
    """Yield the facts about a command and its subcommands."""
    inner = getattr(command, "commands", {})
    yield key, "group" if inner else "command"
    # What the function says: the objects that Typer makes of it are others in each version.
    function = None if command.callback is None else inspect.unwrap(command.callback)
    hints = {} if function is None else typing.get_type_hints(function, include_extras=True)
    arguments = 0
    for parameter in command.params:
        hint = hints.get(parameter.name, str)
        kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        info = next((extra for extra in extras if hasattr(extra, "min")), None)
        repeatable = parameter.multiple if parameter.param_type_name == "option" else parameter.nargs == -1
        [plain, *_] = [each for each in get_args(kind) or (kind,) if each is not type(None)]
        while get_origin(plain) is list:
            [plain] = get_args(plain)
        words = get_args(kind) if get_origin(kind) is Literal else ()
        if isinstance(plain, type) and issubclass(plain, Enum):
            words = tuple(each.value for each in plain)
        if parameter.param_type_name == "argument":
            arguments += 1
            names = [f"argument {arguments}"]
        else:
            names = [f"option {name}" for name in (*parameter.opts, *parameter.secondary_opts)]
        for name in names:
            one = f"{key}, {name}"
            yield one, "flag" if plain is bool else "text" if words or plain in (str, Path) else plain.__name__
            if parameter.required:
                yield f"{one}, required", "yes"
            default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
            if default is not None and not callable(default):
                yield f"{one}, default", str(default)
            if repeatable:
                yield f"{one}, repeatable", "yes"
            if words:
                yield f"{one}, choices", " | ".join(sorted(map(str, words)))
            for edge, limit in (("least", info.min), ("most", info.max)) if info else ():
                if limit is not None:
                    yield f"{one}, {edge}", str(limit)
    listed = (command.epilog or "").removeprefix("Exit codes: ").rstrip(".")
    for code in listed.split("; ") if listed else ():
        number, _, meaning = code.partition(" ")
        yield f"{key}, exit code {number}", meaning
    for name, each in inner.items():
        yield from facts_of_command(f"{key} {name}", each)


KINDS = {bool: "true or false", int: "number", float: "number", str: "text", list: "list", dict: "object"}


def keys_of(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the keys of a JSON object, those in its lists and objects included, each with the kind of its value."""
    if path:
        yield path, KINDS[type(value)]
    if isinstance(value, dict):
        for name, each in value.items():
            yield from keys_of(each, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        yield from keys_of(value[0], f"{path}[]")


def example_of(kind: Any) -> Any:
    """Return a value of a type as JSON has it, with a value in every place."""
    [plain, *_] = [each for each in get_args(kind) if each is not type(None)] or [kind]
    if dataclasses.is_dataclass(kind):
        return {name: example_of(each) for name, each in typing.get_type_hints(kind).items()}
    if get_origin(kind) is list:
        return [example_of(plain)]
    if get_origin(kind) is dict:
        return {}
    return plain()


DAY = datetime.date(2026, 1, 31)
NOON = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
TRIGGER = Trigger("name", "after insert", "public.f", ("calls out",), calls_out=True)
REASONS = Counter({("23514", "refused"): 1})
FAILURE = Failure(uuid.UUID(int=0), DAY, "23514", "refused")
EXECUTION = Execution("database", NOON, NOON, 0)


def report_of_everything() -> Report:
    """Return a report with a value in every place."""
    report = Report(DayRange(DAY, DAY), dry_run=True, discrepancies=0, left_over=0, phases={"fill": 1.0})
    report.failures, report.reasons, report.triggers = [FAILURE.as_line()], REASONS, (TRIGGER,)
    return report


def samples() -> dict[tuple[str, str], Any]:
    """Return the objects that commands print or write, by the command and its options, with a value in every place."""
    log = Display(io.StringIO(), quiet=False, verbose=False, as_json=True)
    undone = UndoReport(Path("rows"), dry_run=True, triggers=(TRIGGER,), reasons=REASONS)
    return {
        ("momentum-backfill", "--json"): {**EXECUTION.as_json(), **report_of_everything().as_json("resume")},
        ("momentum-backfill", "--undo --json"): {**EXECUTION.as_json(), **undone.as_json("resume")},
        ("momentum-backfill", "--failures"): FAILURE.as_line(),
        ("momentum-backfill", "--manifest"): as_line(FAILURE.user_id, DAY),
        ("momentum-backfill", "--log-format json"): json.loads(log.line("message")),
        ("momentum status", "--json"): example_of(status.Status),
    }


def metrics() -> dict[str, str]:
    """Return the names of the figures in a file of metrics, each with its kind and its labels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.prom"
        write_metrics(path, EXECUTION, report_of_everything())
        text = path.read_text(encoding="utf-8")
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, flags=re.MULTILINE))
    labels = {
        name: re.findall(r"(\w+)=", given) for name, given in re.findall(r"^(\w+)\{(.*)\}", text, flags=re.MULTILINE)
    }
    return {name: " ".join([kind, *sorted(labels.get(name, []))]) for name, kind in kinds.items()}
