"""The parts of README.md that show a real run of the demo are what the demo prints and writes."""

from pathlib import Path

import pytest

from tools import marked, readme

OUTPUT = """\
PostgreSQL 18.4 (embedded), with roles
Database: /dev/shm/momentum-1/data:5432/momentum_test_1
committed 1,000 rows, 76,620 of 108,522 user-days, 578 rows/s, about 0:00:01 left, none failed
warning: review: 2026-03-02 user 1: score 90.00
warning: review: 2026-03-09 user 2: score 58.00
warning: review: and 7 more rows
  inserted         1,234
  33 commits in 3.3 s, 14,311 rows/s, slowest page 74 ms
"""
OTHER_RUN = """\
PostgreSQL 16.9 (embedded), with roles
Database: 127.0.0.1:40123/momentum_test_2
warning: review: 2027-04-13 user 1: score 90.00
warning: review: 2027-04-20 user 2: score 58.00
warning: review: and 7 more rows
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


def test_the_first_of_the_scores_to_review_is_shown() -> None:
    assert [line for line in readme.abridge(OUTPUT).splitlines() if "user" in line or "..." in line] == [
        "warning: review: 2026-03-02 user 1: score 90.00",
        "...",
    ]


def test_the_readme_shows_a_picture_of_the_report_that_loads_quickly() -> None:
    link = f"]({readme.PICTURE.relative_to(readme.ROOT).as_posix()})"
    assert link in readme.README.read_text(encoding="utf-8")
    picture = readme.PICTURE.read_bytes()
    assert picture.startswith(b"\x89PNG\r\n"), "make picture"
    assert len(picture) < 150_000
