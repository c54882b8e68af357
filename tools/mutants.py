"""What `make mutants` does: change single lines of the backfill and the migrations, and see whether a test notices.

Every quick test runs once while the lines that it executes are counted. Then each line of a seeded sample gets a small
mistake, in a copy of the repository, and the tests that execute the line run, the quickest first. The score is the
share of mistakes that a test noticed, of those that can be noticed at all: tools/equivalent_mutants.toml lists the
others, each with the reason.

Neither mutmut nor cosmic-ray fits: mutmut chooses tests by function and runs them in its own process, cosmic-ray runs
the same command for every mutant and mutates annotations as well. Both end a mutant after some seconds, which is wrong
on a busy machine, and would start a Postgres server for each.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue

from momentum.connect.url import as_text
from momentum.testing import running_server
from tools.line_counts import ENDLESS, FOLDERS, PROGRAMS, ROOT

EQUIVALENT = ROOT / "tools" / "equivalent_mutants.toml"
LEAST_SCORE = 0.85

# The most tests that judge a mutant, and the seconds of the longest of them; so the score is never too high.
MOST_TESTS = 150
LONGEST = 30.0
# They run in two goes, because most mutants don't survive a few.
FIRST_TESTS = 12

# A test that executes this many times as many lines as without the mistake, and some more, is in an endless loop.
MORE_LINES = 20
SOME_LINES = 20_000
# Seconds after which a test that executes no lines is taken for one that waits forever.
HANGS = 180

SWAPPED: dict[type[ast.AST], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
    ast.Add: ("-",),
    ast.Sub: ("+",),
    ast.Mult: ("/",),
    ast.Div: ("*",),
    ast.FloorDiv: ("*",),
    ast.Mod: ("*",),
    ast.Pow: ("*",),
    ast.And: ("or",),
    ast.Or: ("and",),
}
SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutation:
    """A mistake in a line.

    Attributes:
        file: The file, relative to the repository.
        line: The number of the line, from 1.
        before: The line as it is.
        after: The line with the mistake.
        on_import: Whether the line is executed on import, as everything outside of functions is.
    """

    file: str
    line: int
    before: str
    after: str
    on_import: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}\n  - {self.before.strip()}\n  + {self.after.strip()}"


def mutations_of(file: str, source: str) -> list[Mutation]:
    """Return the mistakes that are made in a file, each in one line; none in annotations, decorators and debug logs."""
    lines, tree = source.splitlines(), ast.parse(source)
    bodies = [
        range(each.body[0].lineno, (each.end_lineno or 0) + 1)
        for each in ast.walk(tree)
        if isinstance(each, ast.FunctionDef)
    ]
    found = []
    for node, text in replacements(tree):
        if node.lineno == node.end_lineno and node.end_col_offset is not None:
            line = lines[node.lineno - 1].encode()
            after = (line[: node.col_offset] + text.encode() + line[node.end_col_offset :]).decode()
            on_import = not any(node.lineno in body for body in bodies)
            found.append(Mutation(file, node.lineno, line.decode(), after, on_import))
    return [mutation for mutation in dict.fromkeys(found) if mutation.after != mutation.before]


def replacements(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield nodes, each with the text of a mistake in its place."""
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            left_out.update(filter(None, [node.annotation]))
        elif isinstance(node, ast.FunctionDef):
            left_out.update(filter(None, [node.returns, *node.decorator_list]))
        elif isinstance(node, ast.ClassDef):
            left_out.update(node.decorator_list)
        elif isinstance(node, ast.Expr) and "logger.debug" in ast.unparse(node):
            left_out.add(node)
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.expr | ast.stmt):
            yield from ((node, text) for text in mistakes_in(node))
        waiting += [child for child in ast.iter_child_nodes(node) if child not in left_out]


def mistakes_in(node: ast.expr | ast.stmt) -> Iterator[str]:
    """Yield what could stand in the place of a node by mistake."""
    match node:
        case ast.Constant(value=bool()):
            yield str(not node.value)
        case ast.Constant(value=int() | float() as number):
            yield repr(number + 1)
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            for text in SWAPPED[type(operator)]:
                yield f"{ast.unparse(left)} {text} {ast.unparse(right)}"
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in SWAPPED:
            yield f"({ast.unparse(left)}) {SWAPPED[type(operator)][0]} ({ast.unparse(right)})"
        case ast.BoolOp(op=operator, values=values):
            yield f" {SWAPPED[type(operator)][0]} ".join(f"({ast.unparse(value)})" for value in values)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield ast.unparse(operand)
        case ast.Call(func=ast.Name(id=name)) if name in SWAPPED_CALLS:
            yield ast.unparse(node).replace(name, SWAPPED_CALLS[name], 1)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield f"{ast.unparse(orelse)} if {ast.unparse(test)} else {ast.unparse(body)}"
        # None in place of False is the same to whoever only asks whether it is true, and True is another mistake there.
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "False":
            yield "return None"
        case ast.AugAssign(target=target, op=ast.Add() | ast.Sub() as operator, value=value):
            yield f"{ast.unparse(target)} {SWAPPED[type(operator)][0]}= {ast.unparse(value)}"
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Break() | ast.Continue():
            yield "pass"


@dataclass(frozen=True)
class Executed:
    """The lines that a test executed without any mistake.

    Attributes:
        seconds: How long it took, by which quick tests are known from slow ones, and no more.
        files: How often it executed each line, by file and by the line's number.
    """

    seconds: float
    files: dict[str, dict[str, int]]

    @property
    def most_lines(self) -> int:
        """The most lines that it may execute."""
        return SOME_LINES + MORE_LINES * sum(sum(lines.values()) for lines in self.files.values())


@dataclass(frozen=True)
class Counts:
    """The lines that each test executes.

    Attributes:
        tests: The tests by name.
    """

    tests: dict[str, Executed]

    @classmethod
    def read(cls, path: Path) -> "Counts":
        """Return the counts that the plugin has written."""
        return cls({name: Executed(**one) for name, one in json.loads(path.read_text(encoding="utf-8")).items()})

    def chosen(self, mutation: Mutation) -> list[str]:
        """Return the tests that judge a mutation, the quickest first: those that execute its line, then others.

        Others may notice too if they start a program, whose lines are not counted, or if it is executed on import:
        those that execute the file, or a file in which the name is used that the line gives a value. Among each, the
        tests of the file itself, by its name, come first. After a number of tests come those of all kinds: one case of
        each, then the next case of each.
        """

        def executing(*files: str) -> list[str]:
            return [name for name, executed in self.tests.items() if not executed.files.keys().isdisjoint(files)]

        def place(name: str) -> tuple[bool, bool, float]:
            lines = self.tests[name].files.get(mutation.file, {})
            return not (lines if mutation.on_import else line in lines), own not in name, self.tests[name].seconds

        own, line = f"test_{Path(mutation.file).stem}.py::", str(mutation.line)
        of_file = executing(mutation.file)
        of_line = [name for name in of_file if line in self.tests[name].files[mutation.file]]
        others = executing(PROGRAMS, *([mutation.file, *users_of(mutation)] if mutation.on_import else []))
        tests = {*of_line, *others} or self.tests
        ordered = sorted((name for name in tests if self.tests[name].seconds <= LONGEST), key=place)
        first = ordered[: MOST_TESTS // 3]
        cases: dict[str, list[str]] = {}
        for name in ordered[len(first) :]:
            cases.setdefault(name.partition("[")[0], []).append(name)
        # Last come the functions of which a case has already been chosen.
        done = {name.partition("[")[0] for name in first}
        turns = zip_longest(*(cases[name] for name in sorted(cases, key=done.__contains__)))
        return first + [name for turn in turns for name in turn if name]


def sources() -> list[Path]:
    """Return the files in which mistakes are made."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder, *(ROOT / folder).glob("*.py"))]
    return sorted(filter(Path.is_file, paths))


def users_of(mutation: Mutation) -> list[str]:
    """Return the files in which the name occurs that a line gives a value, such as that of a constant."""
    name = re.match(r"\s*(\w+)(: [^=]+)? = ", mutation.before)
    if name is None:
        return []
    word = re.compile(rf"\b{name[1]}\b")
    return [str(path.relative_to(ROOT)) for path in sources() if word.search(path.read_text(encoding="utf-8"))]


def sample(lines: int, seed: int, only: str) -> list[Mutation]:
    """Return a mistake in each of a number of lines, chosen at random.

    Args:
        lines: How many lines.
        seed: The same seed chooses the same lines, and the same mistake in each.
        only: How the names of the files begin.
    """
    by_line: dict[tuple[str, int], list[Mutation]] = {}
    for path in sources():
        name = str(path.relative_to(ROOT))
        if name.startswith(only):
            for mutation in mutations_of(name, path.read_text(encoding="utf-8")):
                by_line.setdefault((name, mutation.line), []).append(mutation)
    chance = random.Random(seed)  # noqa: S311
    chosen = chance.sample(sorted(by_line), min(lines, len(by_line)))
    return [chance.choice(by_line[line]) for line in sorted(chosen)]


def copy_repository(target: Path) -> Path:
    """Copy the files that git knows or would add, and return where they are."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    # What npm has installed, pgTAP's SQL among it.
    (target / "node_modules").symlink_to(ROOT / "node_modules")
    return target


def run_tests(folder: Path, *arguments: str | Path, url: str) -> tuple[int, str]:
    """Run tests in a copy of the repository and return the exit code and the output."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tools.line_counts", "--no-header", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "MOMENTUM_TEST_BACKEND": "url", "MOMENTUM_TEST_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def failures_in(output: str) -> list[str]:
    """Return the lines of pytest's output that name a test that failed."""
    return [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]


def judge(mutation: Mutation, counts: Counts, folder: Path, url: str) -> str:
    """Return how a mutant was noticed; empty if it has survived."""
    path = folder / mutation.file
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    assert lines[mutation.line - 1].rstrip("\n") == mutation.before
    lines[mutation.line - 1] = f"{mutation.after}\n"
    path.write_text("".join(lines), encoding="utf-8")
    limit = folder / "line_limit.json"
    tests = counts.chosen(mutation)[:MOST_TESTS]
    try:
        for some in (tests[:FIRST_TESTS], tests[FIRST_TESTS:]):
            if not some:
                continue
            limits = {name: counts.tests[name].most_lines for name in some}
            limit.write_text(json.dumps(limits), encoding="utf-8")
            hangs = ("-o", f"faulthandler_timeout={HANGS}", "-o", "faulthandler_exit_on_timeout=true")
            code, output = run_tests(folder, "-x", *hangs, "--line-limit", limit, *some, url=url)
            if code == ENDLESS:
                return "an endless loop"
            if code:
                return next(iter(failures_in(output)), f"exit code {code}")
        return ""
    finally:
        path.write_text(source, encoding="utf-8")


def reason_of(mutation: Mutation) -> str | None:
    """Return why a mutation changes nothing that could be noticed; None if that has not been said."""
    wanted = (mutation.file, mutation.before.strip(), mutation.after.strip())
    return next(
        (one["reason"] for one in read_equivalent() if (one["file"], one["before"], one["after"]) == wanted), None
    )


def read_equivalent() -> list[dict[str, str]]:
    """Return the mutations that change nothing: file, line before and after, and the reason."""
    listed: list[dict[str, str]] = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return listed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=100, help="the lines in the sample; default 100")
    parser.add_argument("--seed", type=int, default=1, help="chooses the lines; default 1")
    parser.add_argument("--only", default="momentum/", help="how the names of the files begin")
    parser.add_argument("--jobs", type=int, default=2, help="mutants that are judged at the same time; default 2")
    parser.add_argument("--counts", type=Path, help="the file that keeps the counts of lines for another run")
    parser.add_argument("--slow", action="store_true", help="count slow tests too: a few more lines, half an hour more")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="momentum-mutants-") as directory, running_server() as server:
        url = as_text(server.admin_url)
        folders: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.jobs):
            folders.put(copy_repository(Path(directory) / str(number)))
        kept = asked.counts or Path(directory) / "counts.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            print("Counting the lines that each test executes ...", flush=True)
            tests = {
                name for folder in FOLDERS if folder.startswith(asked.only[: len(folder)]) for name in FOLDERS[folder]
            }
            which = [*tests] if asked.slow else ["-m", "not slow", *tests]
            code, output = run_tests(Path(directory) / "0", "--count-lines", kept.absolute(), *which, url=url)
            failed = failures_in(output)
            if code and not failed:
                kept.unlink(missing_ok=True)
                print(output)
                return 1
            for line in failed:
                print(f"It fails without any mistake, so it judges nothing: {line}")
        counts = Counts.read(kept)

        def judged(mutation: Mutation) -> tuple[Mutation, str]:
            folder = folders.get()
            try:
                noticed = judge(mutation, counts, folder, url)
            finally:
                folders.put(folder)
            print(f"{mutation}\n  = {noticed or 'SURVIVED'}", flush=True)
            return mutation, noticed

        with ThreadPoolExecutor(asked.jobs) as pool:
            outcomes = list(pool.map(judged, sample(asked.lines, asked.seed, asked.only)))
    survivors = [mutation for mutation, noticed in outcomes if not noticed]
    unexplained = [mutation for mutation in survivors if reason_of(mutation) is None]
    for mutation in survivors:
        print(f"\n{mutation}\n  {reason_of(mutation) or 'SURVIVED: write a test, or list it with the reason'}")
    possible = len(outcomes) - (len(survivors) - len(unexplained))
    score = (len(outcomes) - len(survivors)) / possible if possible else 1.0
    print(
        f"\n{len(outcomes) - len(survivors)} of {possible} mutants were noticed, a score of {score:.1%}; "
        f"{len(survivors) - len(unexplained)} more change nothing that could be noticed."
    )
    return int(score < LEAST_SCORE)


if __name__ == "__main__":
    sys.exit(main())
