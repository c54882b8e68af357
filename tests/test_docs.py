"""The documents are true: their examples run, their options exist, and generated parts are fresh."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from sqlalchemy.orm import Mapper

from momentum import errors
from momentum.cli import app
from momentum.errors import MomentumError
from momentum.migrate.config import Options
from momentum.models import Base
from momentum.testing import Server
from tools import marked, scaling
from tools.pull_request import PATH, sample_outputs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A program and the output that README shows below it.
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(("example", "output"), EXAMPLES)
def test_the_example_of_the_readme_prints_what_is_shown(example: str, output: str) -> None:
    assert README.count("```python") == len(EXAMPLES), "each example shows its output"
    command = [sys.executable, "-W", "error", "-c", example]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == output, done.stderr


SERVICES = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"```python\n(.*?)```", SERVICES, flags=re.DOTALL)


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_other_services_are_shown_is_quoted_from_files_that_run(quoted: str) -> None:
    files = [path for folder in ("tests", "examples") for path in (ROOT / folder).rglob("*.py")]
    files.remove(Path(__file__))
    assert any(quoted in path.read_text(encoding="utf-8") for path in files), "no test runs this"


def test_other_services_are_told_of_every_exception_and_its_exit_code() -> None:
    table = SERVICES.split("| exception |")[1].split("\n\n")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| .+ \| (\d+) \|$", table, flags=re.MULTILINE))
    classes = [found for found in vars(errors).values() if isinstance(found, type)]
    assert documented == {found.__name__: str(found.exit_code) for found in classes if issubclass(found, MomentumError)}


def section_of_the_reference(table: str) -> str:
    """Return what docs/schema.md says of a table."""
    page = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    return page.split(f"\n## {table}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("mapper", sorted(Base.registry.mappers, key=str), ids=lambda mapper: mapper.class_.__name__)
def test_the_reference_names_every_attribute_of_a_model(mapper: Mapper[Any]) -> None:
    section = section_of_the_reference(str(mapper.local_table))
    assert len(mapper.attrs) >= 4
    for name in mapper.attrs.keys():  # noqa: SIM118 - it has no order of its own but this
        assert f"`{name}`" in section


def test_the_reference_has_the_score_table_as_the_migrations_create_it(connection: sa.Connection) -> None:
    section = section_of_the_reference("legacy.daily_engagement_scores")
    columns, rules = (re.findall(r"^\| `(\w+)`", part, flags=re.MULTILINE) for part in section.split("| key, check"))
    found = sa.inspect(connection).get_columns("daily_engagement_scores", schema="legacy")
    assert columns == [column["name"] for column in found]
    names = connection.scalars(
        sa.text("""
            select conname from pg_constraint where conrelid = to_regclass(:name) and contype <> 'n'
            union
            select indexrelid::regclass::text from pg_index where indrelid = to_regclass(:name)
        """),
        {"name": "legacy.daily_engagement_scores"},
    )
    assert rules == sorted({name.removeprefix("legacy.") for name in names})


def test_the_page_of_the_backfill_lists_every_option_and_no_other() -> None:
    shown = subprocess.run(
        [Path(sys.executable).parent / "momentum-backfill", "--help"],
        env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    exist = set(re.findall(r"│ (--[a-z-]+)", shown)) - {"--help"}
    table = (ROOT / "docs" / "backfill.md").read_text(encoding="utf-8").split("| option |")[1].split("\n\n")[0]
    documented = set(re.findall(r"`(--[a-z-]+)", table))
    assert exist == documented, "the table in docs/backfill.md and --help name the same options"


def options_of(command: Any) -> set[str]:
    """Return the options of a command and of its subcommands."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


OPTIONS = options_of(typer.main.get_command(app))


# Options of other programs that the documents name alone.
OTHERS = {"--sql"}


def options_named_in(document: str) -> set[str]:
    """Return the options of the backfill in a document: in its commands, and in spans of code that begin with one."""
    # A command reaches to the end of its line, those included that a backslash joins, or of its span of code.
    commands = re.findall(r"^ *momentum-backfill\b(?:[^\n|>\\]|\\\n)*", document, flags=re.MULTILINE)
    commands += re.findall(r"`momentum-backfill\b([^`]*)`", document)
    named = {option for command in commands for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", command)}
    return named | set(re.findall(r"`(--[a-z][a-z-]*)", document)) - OTHERS


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.name)
def test_the_options_that_the_documents_name_exist(path: Path) -> None:
    assert options_named_in(path.read_text(encoding="utf-8")) <= OPTIONS


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("momentum-backfill --days 3 \\\n  --json -q > rows --sql", {"--days", "--json", "-q"}),
        ("a span `momentum-backfill --undo\nrows.jsonl --dry-run` in a text", {"--undo", "--dry-run"}),
        ("alone, as `--pause-ms 5`; of another program, as `--sql`", {"--pause-ms"}),
        ("alembic upgrade head --sql", set()),
    ],
)
def test_an_option_in_a_document_is_found(document: str, named: set[str]) -> None:
    assert options_named_in(document) == named


def test_the_operator_is_told_of_every_option_of_the_migrations_and_of_no_other() -> None:
    documented = re.findall(
        r"^\| `-x (\w+)=", (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert sorted(documented) == sorted(field.name for field in fields(Options))


def test_the_makefile_documents_every_target_and_stays_short() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"\.PHONY: (.*)", makefile)
    assert phony
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in phony[1].split():
        assert f"make {target} " in shown, f"`make` lists {target}"


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_make_and_nothing_else(path: Path) -> None:
    commands = re.findall(r"\brun: *(.+)", path.read_text(encoding="utf-8"))
    assert commands, "it runs something"
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for command in commands:
        program, _, target = command.partition(" ")
        assert program == "make", f"{command}: everything that CI does can be done with make"
        assert target in targets, f"the Makefile has no target {target}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_actions_of_known_content_with_few_rights(path: Path) -> None:
    workflow = path.read_text(encoding="utf-8")
    for used in re.findall(r"\buses: *(.+)", workflow):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{used}: a tag can be moved"
    assert "\npermissions: {}\n" in workflow, "a job without rights of its own has none"
    assert workflow.count("actions/checkout@") == workflow.count("persist-credentials: false")
    assert workflow.count("runs-on:") == workflow.count("timeout-minutes:")


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub and the site give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        linked = ROOT / target if target else path
        assert linked.exists(), f"{path.name} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(anchor_of, headings), f"{path.name} links to {target}#{anchor}: no such heading"


def test_the_sample_outputs_are_what_the_queries_return(server: Server) -> None:
    assert PATH.read_text(encoding="utf-8") == sample_outputs(server), (
        "docs/pull_request.md is stale: make pull-request"
    )


def test_a_generated_part_is_replaced_and_nothing_else() -> None:
    document = "before\n<!-- BEGIN ONE -->\nold\n<!-- END ONE -->\nafter"
    rewritten = marked.rewrite(document, "ONE", "new")
    assert rewritten == "before\n<!-- BEGIN ONE -->\nnew\n<!-- END ONE -->\nafter"
    assert marked.read(rewritten, "ONE") == "new"
    for wrong in ("no markers", document + document, document.replace("END", "BEGIN")):
        with pytest.raises(ValueError, match="one <!-- BEGIN ONE -->"):
            marked.rewrite(wrong, "ONE", "new")


def test_the_page_on_scaling_has_the_table_that_make_scaling_writes() -> None:
    assert scaling.HEADER in marked.read(scaling.PATH.read_text(encoding="utf-8"), "SCALING")


def test_a_size_that_does_not_fit_is_thinned_and_says_so() -> None:
    cost = scaling.Cost(size=300.0, seconds=1e-4)
    assert scaling.thin(6_000_000, cost, free=1e12, seconds=3600) == (100_000, "")
    users, why = scaling.thin(6_000_000, cost, free=1.8e9, seconds=3600)
    assert (users, why) == (50_000, "6 M was thinned to 50,000 of 100,000 users, because 2 GiB are free")
    users, why = scaling.thin(6_000_000, cost, free=1e12, seconds=360)
    assert (users, why) == (60_000, "6 M was thinned to 60,000 of 100,000 users, because a size may take 0.1 h")
