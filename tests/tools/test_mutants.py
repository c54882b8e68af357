"""The mistakes that `make mutants` makes, the sample that it draws, and the list of those that change nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import mutants
from tools.line_counts import ROOT
from tools.mutants import (
    Counts,
    Executed,
    Mutation,
    failures_in,
    mutations_of,
    read_equivalent,
    reason_of,
    sample,
    users_of,
)


def mistakes(line: str) -> set[str]:
    """Return what a line becomes by the mistakes that are made in it."""
    return {mutation.after for mutation in mutations_of("a.py", line)}


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ("wait = first * 2.0 ** step", {"wait = first * 3.0 ** step", "wait = (first) / (2.0 ** step)"}),
        ("wait = 2 ** step", {"wait = 3 ** step", "wait = (2) * (step)"}),
        ("if seconds < limit: pass", {"if seconds <= limit: pass", "if seconds >= limit: pass"}),
        ("if a and b: pass", {"if (a) or (b): pass"}),
        ("done = not found", {"done = found"}),
        ("most = min(a, b)", {"most = max(a, b)"}),
        ("left -= taken", {"left += taken"}),
        ("flag = True", {"flag = False"}),
        ("one = a if b else c", {"one = c if b else a"}),
        ("stop()", {"pass"}),
        ("def f() -> int | None: return x", {"def f() -> int | None: return None"}),
        ("def f() -> None: return None", set()),
        ("size: int | None = 7", {"size: int | None = 8"}),
        ("def f(size: int | None = 7) -> None: pass", {"def f(size: int | None = 8) -> None: pass"}),
        ("@dataclass(frozen=True)\nclass A: pass", set()),
        ('logger.debug("a line", 1)', set()),
        ('"""A text with 1 number."""', set()),
    ],
)
def test_a_line_gets_the_mistakes_that_people_make(line: str, made: set[str]) -> None:
    assert mistakes(line) >= made
    assert bool(mistakes(line)) is bool(made)


def test_nothing_is_made_of_false_that_only_its_type_tells_from_it() -> None:
    assert mistakes("def f() -> bool: return False") == {"def f() -> bool: return True"}


def test_a_mistake_is_made_beside_letters_of_any_width() -> None:
    assert mistakes('name = "é" if count == 1 else "ü"') == {
        "name = 'ü' if count == 1 else 'é'",
        'name = "é" if count != 1 else "ü"',
        'name = "é" if count == 2 else "ü"',
    }


def test_the_same_seed_draws_the_same_sample_of_different_lines() -> None:
    drawn = sample(50, 1, "momentum/")
    assert drawn == sample(50, 1, "momentum/")
    assert drawn != sample(50, 2, "momentum/")
    assert len({(mutation.file, mutation.line) for mutation in drawn}) == 50
    assert all(mutation.file == "momentum/retries.py" for mutation in sample(50, 1, "momentum/retries"))


COUNTS = Counts(
    {
        "slow": Executed(2.0, {"a.py": {"1": 1, "5": 100}, "b.py": {"1": 7}}),
        "quick": Executed(0.1, {"a.py": {"5": 1}}),
        "other": Executed(0.2, {"b.py": {"1": 1}}),
        "program": Executed(0.3, {"tests/processes.py": {"1": 1}}),
    }
)


@pytest.mark.parametrize(
    ("file", "line", "tests"),
    [
        # A program may execute any line.
        ("a.py", 5, ["quick", "slow", "program"]),
        ("a.py", 1, ["slow", "program"]),
        ("a.py", 9, ["program"]),
        ("c.py", 1, ["program"]),
    ],
)
def test_a_mutant_is_judged_by_the_tests_that_execute_its_line_the_quickest_first(
    file: str, line: int, tests: list[str]
) -> None:
    assert COUNTS.chosen(Mutation(file, line, "", "")) == tests


def test_a_mistake_in_a_constant_is_judged_by_tests_of_the_files_that_use_it() -> None:
    counts = Counts({"a": Executed(0.1, {"momentum/backfill/undo.py": {"1": 1}}), "b": Executed(0.1, {"x.py": {}})})
    mutation = Mutation("momentum/backfill/report.py", 1000, "NAMED_FAILURES = 20", "", on_import=True)
    assert counts.chosen(mutation) == ["a"]
    assert {"momentum/backfill/undo.py", "momentum/backfill/run.py"} <= set(users_of(mutation))


def test_after_the_quickest_tests_cases_of_one_test_take_turns_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"a.py": {"1": 1}}
    tests = {"f[1]": 0.1, "f[2]": 0.2, "f[3]": 0.3, "f[4]": 0.4, "g": 1.0, "h[1]": 0.35, "h[2]": 0.9}
    counts = Counts({name: Executed(seconds, lines) for name, seconds in tests.items()})
    monkeypatch.setattr(mutants, "MOST_TESTS", 6)
    assert counts.chosen(Mutation("a.py", 1, "", "")) == ["f[1]", "f[2]", "h[1]", "g", "f[3]", "h[2]", "f[4]"]


def test_tests_of_the_file_itself_come_first_and_long_ones_are_left_out() -> None:
    lines = {"momentum/migrate/a.py": {"1": 1}}
    tests = {"tests/test_b.py::f": 0.1, "tests/migrate/test_a.py::g": 29.0, "tests/migrate/test_a.py::h": 31.0}
    counts = Counts({name: Executed(seconds, lines) for name, seconds in tests.items()})
    mutation = Mutation("momentum/migrate/a.py", 1, "", "")
    assert counts.chosen(mutation) == ["tests/migrate/test_a.py::g", "tests/test_b.py::f"]


def test_what_is_executed_on_import_is_outside_of_functions() -> None:
    source = "A = 1\ndef f(\n    b: int = 2,\n) -> None:\n    c = 3\n"
    assert {mutation.line: mutation.on_import for mutation in mutations_of("a.py", source)} == {
        1: True,
        3: True,
        5: False,
    }


def test_a_test_that_fails_by_itself_judges_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text("def test_one(): pass\ndef test_other(): assert False\n", encoding="utf-8")
    counts = tmp_path / "counts.json"
    alone = ("-p", "tools.line_counts", "-c", os.devnull, "--rootdir", tmp_path, "--count-lines", counts, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *alone], cwd=ROOT, capture_output=True, text=True, check=False
    )
    [failed] = failures_in(done.stdout)
    assert failed.rpartition("::")[2].startswith("test_other")
    assert list(Counts.read(counts).tests) == ["test_two.py::test_one"]


def test_a_test_may_execute_some_times_as_many_lines_as_without_a_mistake() -> None:
    assert COUNTS.tests["slow"].most_lines - COUNTS.tests["quick"].most_lines == 20 * (1 + 100 + 7 - 1)


def test_every_mutant_that_changes_nothing_exists_and_has_a_reason() -> None:
    for listed in read_equivalent():
        known = mutations_of(listed["file"], (ROOT / listed["file"]).read_text(encoding="utf-8"))
        [found, *_] = [
            mutation
            for mutation in known
            if (mutation.before.strip(), mutation.after.strip()) == (listed["before"], listed["after"])
        ]
        assert reason_of(found) == listed["reason"]
        assert listed["reason"].endswith("."), "the reason is a sentence"
