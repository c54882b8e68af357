"""The parts of README.md that show a real run of the demo are what the demo prints and writes."""

from pathlib import Path

import pytest

from tools import marked, readme

OUTPUT = """\
PostgreSQL 18.4 (embedded), with roles
Database: /dev/shm/momentum-1/data:5432/momentum_test_1
Running upgrade  -> 5f0c1a7d92e4, Create one.
Running upgrade 5f0c1a7d92e4 -> a3b86e04c17d, Create two.
Running upgrade a3b86e04c17d -> c94d27f1508b, Create three.
committed 1,000 rows, 76,620 of 108,522 user-days, 578 rows/s, about 0:00:01 left, none failed
warning: review: 9 scores differ from their breakdown; the 2 largest:
2026-03-02 user 1 90.00 - 40 = +50.00
2026-03-09 user 2 58.00 - 40 = +18.00
  inserted         1,234
  33 commits in 3.3 s, 14,311 rows/s, slowest page 74 ms
  preflight 0.0 s, fill 3.0 s
"""
OTHER_RUN = """\
PostgreSQL 16.9 (embedded), with roles
Database: 127.0.0.1:40123/momentum_test_2
Running upgrade  -> 5f0c1a7d92e4, Create one.
Running upgrade 5f0c1a7d92e4 -> a3b86e04c17d, Create two.
Running upgrade a3b86e04c17d -> c94d27f1508b, Create three.
Running upgrade c94d27f1508b -> d3a5b1c8260f, Create four.
warning: review: 9 scores differ from their breakdown; the 2 largest:
2027-04-13 user 1 90.00 - 40 = +50.00
2027-04-20 user 2 58.00 - 40 = +18.00
  inserted         1,234
  33 commits in 12.0 s, 311 rows/s, slowest page 1,074 ms
"""


@pytest.mark.slow
def test_the_readme_shows_the_output_of_the_demo(tmp_path: Path) -> None:
    shown = marked.read(readme.README.read_text(encoding="utf-8"), readme.MARKER)
    output = readme.run_demo(tmp_path / "demo.html")
    assert "Backfill of" in (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert readme.with_steady_figures(shown) == readme.with_steady_figures(readme.in_fence(output)), (
        "README.md shows another output than the demo has: make readme"
    )


def test_figures_that_vary_make_no_difference_and_all_others_do() -> None:
    expected = readme.with_steady_figures(readme.abridge(OUTPUT))
    assert readme.with_steady_figures(readme.abridge(OTHER_RUN)) == expected
    for figure, other in (("1,234", "1,235"), ("33 commits", "34 commits"), ("03-02", "03-03"), ("58.00", "59.00")):
        assert readme.with_steady_figures(OUTPUT.replace(figure, other)) != readme.with_steady_figures(OUTPUT)


def test_of_several_lines_alike_the_first_is_shown() -> None:
    assert [line for line in readme.abridge(OUTPUT).splitlines() if not line.startswith(" ")] == [
        "PostgreSQL 18.4 (embedded), with roles",
        "Running upgrade  -> 5f0c1a7d92e4, Create one.",
        "...",
        "warning: review: 9 scores differ from their breakdown; the 2 largest:",
        "2026-03-02 user 1 90.00 - 40 = +50.00",
        "...",
    ]


def test_several_counts_of_zero_and_further_scores_are_left_out() -> None:
    output = "  inserted     7\n  raced        0\n  failed       0\n\n  2026-03-01 1\n  2026-03-02 2\n  2026-03-03 3\n"
    assert readme.abridge(output) == "  inserted     7\n...\n\n  2026-03-01 1\n...\n"
    assert readme.abridge("  failed       0\n  to review    3\n") == "  failed       0\n  to review    3\n"


def test_the_readme_shows_a_picture_of_the_report_that_loads_quickly() -> None:
    link = f"]({readme.PICTURE.relative_to(readme.ROOT).as_posix()})"
    assert link in readme.README.read_text(encoding="utf-8")
    picture = readme.PICTURE.read_bytes()
    assert picture.startswith(b"\x89PNG\r\n"), "make picture"
    assert len(picture) < 150_000


def test_a_run_that_shows_nothing_new_leaves_the_readme_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "README.md"
    monkeypatch.setattr(readme, "README", document)
    for output, before, rewritten in ((OTHER_RUN, OUTPUT, False), (OTHER_RUN.replace("1,234", "9"), OUTPUT, True)):
        shown = f"<!-- BEGIN DEMO -->\n{readme.in_fence(readme.abridge(before).strip())}\n<!-- END DEMO -->\n"
        document.write_text(shown, encoding="utf-8")
        monkeypatch.setattr(readme, "run_demo", lambda _, output=output: readme.abridge(output).strip())
        readme.main([])
        assert (document.read_text(encoding="utf-8") != shown) is rewritten
