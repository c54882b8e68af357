"""The rules of this repository, each with its reason."""

import ast
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import Script
from sqlalchemy.orm import Mapper

from momentum.history import SCRIPTS, read_history
from momentum.models import Base
from momentum.scores import FRESH_LAYOUT
from tests.migrating import HISTORY, REVISIONS, migrate_to
from tests.server import engine_of

ROOT = SCRIPTS.parent
SOURCES = sorted((ROOT / "momentum").rglob("*.py"))
REVISION_FILES = sorted((SCRIPTS / "versions").glob("*.py"))

# From the ground up: a wing or module imports from lines below its own, and within itself.
LAYERS = [
    {"history", "retries", "streams", "wording"},
    {"errors"},
    {"connect"},
    {"distribution", "trust"},
    {"types"},
    {"base"},
    {"mixins"},
    {"deletion", "grants", "models"},
    {"scores"},
    {"command"},
    {"inventory"},
    {"verify"},
    {"migrate"},
    {"backfill"},
    {"testing"},
    {"status"},
    {"cli"},
]

# The same for the modules of a wing. The wing's own `__init__` offers some of them, and is imported by none.
WINGS = {"connect": ["environment", "url", "supabase", "env_file", "settings", "watch", "pipeline", "engine"]}


def imports_of(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name, so that a search finds it"
            module = str(node.module)
            # `from momentum.connect import engine` names a module, too.
            package = (ROOT / module.replace(".", "/") / "__init__.py").exists()
            yield from (f"{module}.{alias.name}" for alias in node.names) if package else [module]


def part_of(name: str) -> str | None:
    """Return the part of the package that a module belongs to."""
    return name.split(".")[1] if name.startswith("momentum.") else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    part = path.relative_to(ROOT / "momentum").parts[0].removesuffix(".py")
    rank = {name: position for position, layer in enumerate(LAYERS) for name in layer}
    for imported in filter(None, map(part_of, imports_of(path))):
        if imported == "__version__":
            continue
        if part == "__init__":
            offered = ("base", "deletion", "migrate", "models")
            assert imported in offered, f"`import momentum` offers models and helpers for services, not {imported}"
            continue
        assert part in rank, f"{path.name} has no place in LAYERS; give it one, so that imports stay one-way"
        assert imported == part or rank[imported] < rank[part], (
            f"{part} imports {imported}, not below it; turn it round"
        )
        assert (part, imported) != ("testing", "backfill"), "other services use momentum.testing without the command"
        light = part in {"scores", "connect", "command", "backfill"} and imported in {"inventory", "models"}
        assert not light, f"{part} imports {imported}; programs that only connect or fill should not load the models"


@pytest.mark.parametrize("wing", WINGS)
def test_imports_run_one_way_within_a_wing(wing: str) -> None:
    order = WINGS[wing]
    modules = {path.stem: path for path in (ROOT / "momentum" / wing).glob("*.py")}
    assert set(modules) == {"__init__", *order}, f"each module of {wing} has its place in WINGS, and no other has one"
    for position, name in enumerate(order):
        prefix = f"momentum.{wing}."
        named = [imported for imported in imports_of(modules[name]) if f"{imported}.".startswith(prefix)]
        upwards = {imported.removeprefix(prefix).split(".")[0] for imported in named} - set(order[:position])
        assert not upwards, f"{wing}/{name}.py imports {', '.join(upwards)}, not below it; turn it round"


TESTS = sorted((ROOT / "tests").rglob("*.py"))

# Where tests may look at a clock, each with the reason.
READS_A_CLOCK = {
    ("tests/migrating.py", "until"): "waits for a state; its deadline only ends a test that hangs",
    ("tests/backfilling.py", "run_out_of_time"): "its statement is to be ended by the server, and never by itself",
    ("tests/test_house.py", "test_every_way_to_rest_on_the_clock_is_found"): "names them",
}
CLOCKS = {"sleep", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "time_ns", "Timer"}


def clocks_in(source: str) -> Iterator[tuple[str, str]]:
    """Yield the functions of a module that sleep, read a clock or set a deadline below a minute, and where they do."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("time"), "time"):
                found = True
            case ast.Attribute(attr=name) | ast.alias(name=name):
                found = name in CLOCKS
            case ast.keyword("timeout", ast.Constant(int() | float() as seconds)):
                found = seconds < 60
            case ast.Constant(str() as text):
                found = bool(re.search(r"pg_sleep\w*\(", text))
            case _:
                found = False
        if found and isinstance(node, ast.expr | ast.keyword | ast.alias):
            line = node.lineno
            inside = (each.name for each in functions if each.lineno <= line <= (each.end_lineno or 0))
            yield next(inside, "the module"), f"line {line}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_rests_on_the_clock(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    found = [where for function, where in clocks_in(path.read_text("utf-8")) if (name, function) not in READS_A_CLOCK]
    assert not found, (
        f"{name}, {found}: on a slower machine this fails or proves nothing. Wait for a state with `until` or "
        "`wait_until` of tests/migrating.py, or count statements; DEADLINE of tests/processes.py ends what hangs"
    )


def test_every_way_to_rest_on_the_clock_is_found() -> None:
    ways = [
        "time.sleep(1)",
        "asyncio.sleep(1)",
        "time.monotonic()",
        "time.perf_counter()",
        "time.time()",
        "from time import monotonic",
        "threading.Timer(1, stop)",
        "process.wait(timeout=59.5)",
        "execute('select pg_sleep(1)')",
    ]
    assert [way for way in ways if not list(clocks_in(way))] == []
    assert list(clocks_in("import time; process.wait(timeout=60); datetime.time(5); note('pg_sleep')")) == []
    assert list(clocks_in("def wait():\n  time.sleep(1)")) == [("wait", "line 2: time.sleep")]


CHANGE = re.compile(r"\b(?:update\s+[\w.{}%]+\s+(?:as\s+\w+\s+)?set|delete\s+from)\s", re.IGNORECASE)
# The end of a statement: of its text in the program, or of a line that ends a quotation.
END = re.compile(r";|\"\"\"|\"\)|'[,)]*\n(?!\s*where)|\Z")


def changes_without_a_condition(text: str) -> list[str]:
    """Return the beginnings of the statements in a text that change or delete every row of a table."""
    found = []
    for change in CHANGE.finditer(text):
        end = END.search(text, change.end())
        assert end is not None
        if not re.search(r"\b(where|using)\b", text[change.end() : end.start()], re.IGNORECASE):
            found.append(change[0])
    return found


def test_no_statement_changes_every_row() -> None:
    """Supabase's safeupdate, which a project may turn on, refuses UPDATE and DELETE without WHERE."""
    files = [path for folder in ("momentum", "alembic", "sql", "supabase") for path in (ROOT / folder).rglob("*.*")]
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".sql")}
    assert {path: found for path, text in texts.items() if (found := changes_without_a_condition(text))} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("update a.b set c = 1;", ["update a.b set "]),
        ("UPDATE a.b AS d SET c = 1 WHERE e", []),
        ("'delete from a.b',\n'delete from a.b where true',", ["delete from "]),
        ("update a.b\nset c = 'x'\nwhere d = 1;", []),
        ("delete from {relation} as t using s;", []),
        ("for update; on conflict do update set c = 1; after update on a", []),
    ],
)
def test_a_statement_that_changes_every_row_is_found(text: str, found: list[str]) -> None:
    assert changes_without_a_condition(text) == found


@pytest.mark.parametrize("path", [*SOURCES, SCRIPTS / "env.py"], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_message_names_a_command_that_is_another_one_in_a_service(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    }
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    # Only Alembic's command line has a URL to ask for: a program gives one.
    named = [text for text in texts if re.search(r"`(alembic|make db)|-x (?!url=)", text) and text not in docstrings]
    assert not named, f"{named}: a service has an alembic.ini and a Makefile of its own; say what to do, not how there"


@pytest.mark.parametrize("path", REVISION_FILES, ids=lambda path: path.name)
def test_a_revision_is_sealed(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imports_of(path)} - {"alembic", "sqlalchemy"} - sys.stdlib_module_names
    assert not foreign, f"{path.name} imports {foreign}: it would change its meaning when that changes"
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines < 300, f"{path.name} has {lines} lines: split it, one change per revision"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{4}_[a-z0-9]+(_[a-z0-9]+)*\.py", path.name), (
        f"{path.name} is not named YYYY-MM-DD-HHMM_slug.py, so the folder would not list the history in order"
    )


def test_the_folder_lists_the_history_in_order() -> None:
    in_history = [Path(revision.path).name for revision in REVISIONS]
    assert in_history == [path.name for path in REVISION_FILES], "a later revision has an earlier time in its file name"
    times = [datetime.strptime(name[:15], "%Y-%m-%d-%H%M").replace(tzinfo=None) for name in in_history]  # noqa: DTZ007
    assert len(set(times)) == len(times), "two revisions have the same time: their order is left to the alphabet"


def test_the_migrations_folder_is_no_package() -> None:
    assert not list(SCRIPTS.rglob("__init__.py")), "alembic/__init__.py would hide the library of that name"


def test_no_way_back_drops_a_table() -> None:
    dropped = {
        (path.name, found)
        for path in REVISION_FILES
        for found in re.findall(r"(?i)drop[ _]table\W*(\w+)", path.read_text(encoding="utf-8"))
    }
    assert {name for _, name in dropped} == {"score_table"}, f"{dropped}: park it with op.park_table, so no row is lost"


@pytest.mark.parametrize("revision", REVISIONS, ids=lambda revision: revision.doc)
def test_a_revision_says_why_and_goes_back(revision: Script) -> None:
    for step in (revision.module.upgrade, revision.module.downgrade):
        assert step.__doc__, f"{revision.path}: {step.__name__} has no docstring that says what happens to the rows"
    assert revision.doc.endswith("."), f"{revision.path}: the first line is a sentence"


def fetch(url: sa.URL, sql: str) -> list[tuple[Any, ...]]:
    with engine_of(url).connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(sql))]


def test_each_revision_creates_what_it_says(supabase_url: sa.URL) -> None:
    def relations() -> set[str]:
        sql = "select relname from pg_class where relnamespace = 'public'::regnamespace"
        return {name for (name,) in fetch(supabase_url, sql)}

    for revision in REVISIONS:
        before = relations()
        migrate_to(supabase_url, revision.revision)
        # Where there was no score table, revisions for other layouts than that of the new one do nothing.
        elsewhere = FRESH_LAYOUT.name not in getattr(revision.module, "layouts", [FRESH_LAYOUT.name])
        assert relations() - before == (set() if elsewhere else set(revision.module.creates)), (
            f"the preflight looks in public for `creates` of {Path(revision.path).name}: it must name everything"
        )
        assert len(revision.module.creates) == len(set(revision.module.creates))


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: table.name)
def test_the_models_explain_themselves(table: sa.Table) -> None:
    assert table.comment, f"{table.name} has no comment"
    for column in table.columns:
        assert column.comment, f"{table.name}.{column.name} has no comment"
    for check in table.constraints:
        assert not isinstance(check, sa.CheckConstraint) or check.name, f"{table.name} has a CHECK without a name"


@pytest.mark.parametrize("mapper", sorted(Base.registry.mappers, key=str), ids=lambda mapper: mapper.class_.__name__)
def test_an_argument_may_be_left_out_where_the_column_may(mapper: Mapper[Any]) -> None:
    arguments = inspect.signature(mapper.class_).parameters
    assert set(arguments) == set(mapper.attrs.keys())
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        optional = column.nullable or column.server_default is not None
        assert (arguments[attribute.key].default is not inspect.Parameter.empty) == optional, (
            f"{column}: say default=None where the column is nullable or the server fills it, and nowhere else"
        )


OURS = "('public', 'legacy', 'momentum_internal')"


def test_the_database_explains_itself(url: sa.URL) -> None:
    bare = fetch(
        url,
        f"""
        select c.relname, a.attname
        from pg_class c
        left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
        where c.relnamespace::regnamespace::text in {OURS} and c.relkind in ('r', 'v')
          and c.relname <> 'alembic_version'
          and (obj_description(c.oid, 'pg_class') is null or col_description(c.oid, a.attnum) is null)
        """,
    )
    assert not bare, f"without a comment in the database: {bare}"


def test_every_constraint_follows_the_naming_convention(url: sa.URL) -> None:
    constraints = fetch(
        url,
        f"""
        select c.conname, c.contype::text, r.relname, f.relname, (
          select coalesce(string_agg(a.attname, '_' order by k.position), '')
          from unnest(c.conkey) with ordinality as k (attnum, position)
          inner join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum
        )
        from pg_constraint c
        inner join pg_class r on c.conrelid = r.oid
        left join pg_class f on c.confrelid = f.oid
        where r.relnamespace::regnamespace::text in {OURS} and r.relname <> 'alembic_version' and c.contype <> 'n'
        """,
    )
    assert len(constraints) > 20, "the query finds too few constraints to prove anything"
    for name, kind, table, referred, columns in constraints:
        if kind == "c":
            assert re.fullmatch(rf"ck_{table}_[a-z_]+", name), f"{table}: a CHECK is called ck_{table}_..., not {name}"
            assert not name.startswith(f"ck_{table}_ck_"), f"{name}: the convention was applied twice; use op.f()"
        else:
            stem = {"p": f"pk_{table}", "u": f"uq_{table}_{columns}", "f": f"fk_{table}_{columns}_{referred}"}[kind]
            assert name == stem, f"{table}: {name} should be {stem}, so that an error names what was broken"


def indexes(url: sa.URL) -> list[tuple[str, str, bool, list[str]]]:
    rows = fetch(
        url,
        f"""
        select r.relname, i.relname, x.indisunique, array(
          select pg_get_indexdef(x.indexrelid, n, true) from generate_series(1, x.indnkeyatts) as n order by n
        )
        from pg_index x
        inner join pg_class i on x.indexrelid = i.oid
        inner join pg_class r on x.indrelid = r.oid
        where r.relnamespace::regnamespace::text in {OURS} and r.relname <> 'alembic_version'
        """,
    )
    return [(table, name, bool(unique), list(columns)) for table, name, unique, columns in rows]


def test_every_index_is_named_after_its_table(url: sa.URL) -> None:
    for table, name, unique, columns in indexes(url):
        prefixes = ("pk", "uq") if unique else ("ix",)
        assert name.startswith(tuple(f"{prefix}_{table}" for prefix in prefixes)), f"{name} is an index of {table}"
        if not unique:
            assert name == f"ix_{table}_{'_'.join(columns)}", f"{name} should name its columns {columns}"


def test_no_index_doubles_the_beginning_of_another(url: sa.URL) -> None:
    found = indexes(url)
    assert len(found) > 10
    for table, name, unique, columns in found:
        for other_table, other, _, other_columns in found:
            if (table, unique) == (other_table, False) and name != other:
                assert other_columns[: len(columns)] != columns, f"{name} is useless: {other} begins with {columns}"


def test_every_foreign_key_is_led_by_an_index(url: sa.URL) -> None:
    led = {(table, columns[0]) for table, _, _, columns in indexes(url)}
    keys = fetch(
        url,
        f"""
        select r.relname, a.attname
        from pg_constraint c
        inner join pg_class r on c.conrelid = r.oid
        inner join pg_attribute a on a.attrelid = r.oid and a.attnum = c.conkey[1]
        where c.contype = 'f' and r.relnamespace::regnamespace::text in {OURS}
        """,
    )
    assert len(keys) >= 7
    for key in keys:
        assert key in led, f"{key}: without an index every delete in the referred table reads the whole table"


def test_every_dependency_has_a_reason_and_a_lower_bound() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)
    named = [
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
        *(line for group in project["dependency-groups"].values() for line in group),
    ]
    assert len(named) > 15
    for requirement in named:
        assert re.search(r">=\d", requirement), f"{requirement} has no lower bound: an older one was never tested"
        assert "<" not in requirement, f"{requirement} has an upper bound, which other services would have to share"
        (line,) = [line for line in text.splitlines() if f'"{requirement}"' in line]
        assert re.search(r"# \w+ *\w+", line), f"{requirement} has no comment on its purpose"


def test_what_npm_installs_is_pinned_for_every_machine() -> None:
    pinned = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["devDependencies"]
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    for name, version in pinned.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), f"{name} is not pinned exactly in package.json"
        assert packages[f"node_modules/{name}"]["version"] == version
    for path, package in packages.items():
        assert "resolved" not in package, f"{path} names a registry; each machine has one of its own"
        # npm leaves out packages that its registry lacks, and `npm ci` then installs nothing anywhere.
        missing = [name for name in package.get("optionalDependencies", ()) if f"node_modules/{name}" not in packages]
        assert not missing, f"package-lock.json lacks {missing}, which {path} wants on other machines"


def test_head_is_the_last_revision() -> None:
    assert HISTORY[-1] == REVISIONS[-1].revision
    assert read_history() == HISTORY[1:], "what the backfill reads from the files is not Alembic's history"
    assert len(set(HISTORY)) == len(HISTORY) == len(REVISION_FILES) + 1, "a file in versions/ is not in the history"
