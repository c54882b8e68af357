"""The report of a run as a page: its content, and how it behaves in a real browser."""

import datetime
import random
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

from momentum import __version__
from momentum.backfill.discrepancies import Discrepancy, in_columns
from momentum.backfill.page import (
    BARS_HEIGHT,
    LABELS,
    DayCounts,
    Page,
    Tick,
    csp_hash,
    day_ticks,
    draw,
    scale_steps,
    share,
    short,
    write_page,
)
from momentum.backfill.report import Execution
from momentum.errors import ConfigurationError

FIRST = datetime.date(2025, 1, 7)
FINISHED = datetime.datetime(2026, 3, 2, 4, 12, 33, tzinfo=datetime.UTC)
RESUME = "momentum-backfill --from 2025-01-07 --to 2025-03-07 --env-file '/etc/my  own.env' --page-size 500"
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;{{ 7 * 7 }}{% raw %}</title></style>-->"


def days_after(first: datetime.date, number: int) -> list[datetime.date]:
    return [first + datetime.timedelta(n) for n in range(number)]


def sample_page(days: int, discrepancies: int = 0) -> Page:
    """Return a page of 20,000 users, of whom one fails on one day."""
    chance = random.Random(days)  # noqa: S311
    counts = []
    for n, day in enumerate(days_after(FIRST, days)):
        filled, failed = chance.choice((0, 20, 10_000)), int(n == days // 2)
        counts.append(DayCounts(day, 20_000 - filled - failed, filled, failed))
    found = [
        Discrepancy(
            uuid.UUID(int=chance.getrandbits(128)),
            chance.choice(counts).day,
            Decimal(chance.randrange(-100_000, 1_000_000)) / 100,
            Decimal(chance.randrange(1_000)) / 10,
        )
        for _ in range(discrepancies)
    ]
    return Page(
        title=f"Backfill of {FIRST} to {counts[-1].day}",
        outcome="Done, but 1 user-day failed.",
        execution=Execution("aws-0-eu-central-1.pooler.supabase.com:5432/postgres", FINISHED, FINISHED, 0),
        days=counts,
        totals=[("active users", "20,000"), ("inserted by others meanwhile", "3")],
        settings=[("page size", "500"), ("failures", "/var/log/" + "a-long-name/" * 12)],
        triggers=["momentum_push calls public.notify_of_a_change, which sends a request (net.http_post)."],
        reasons=[("23514", "a check was violated: " + "a_long_name_" * 12, 1_200), ("", "skipped", 1)],
        discrepancies=found,
        discrepancies_left_out=1_234 if discrepancies else 0,
        resume=RESUME,
    )


def hostile_page() -> Page:
    pairs = [(f"name {HOSTILE}", f"value {HOSTILE}")]
    return replace(
        sample_page(3),
        title=f"title {HOSTILE}",
        outcome=f"outcome {HOSTILE}",
        execution=Execution(f"database {HOSTILE}", FINISHED, FINISHED, 0, f"version {HOSTILE}"),
        reasons=[(f"sqlstate {HOSTILE}", f"message {HOSTILE}", 1)],
        totals=pairs,
        settings=pairs,
        triggers=[f"trigger {HOSTILE}"],
        resume=f"resume {HOSTILE}",
    )


class Parsed(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.inline: dict[str, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:  # noqa: D102
        if self.tags and self.tags[-1] in ("style", "script") and self.tags[-1] not in self.inline:
            self.inline[self.tags[-1]] = data
        else:
            self.text += data


def written(page: Page, folder: Path) -> str:
    path = folder / "report.html"
    write_page(path, page)
    return path.read_text(encoding="utf-8")


def test_every_string_is_escaped(tmp_path: Path) -> None:
    parsed = Parsed(written(hostile_page(), tmp_path))
    assert parsed.tags.count("script") == parsed.tags.count("style") == 1
    assert "img" not in parsed.tags
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    for field in (
        "title",
        "outcome",
        "database",
        "version",
        "sqlstate",
        "message",
        "name",
        "value",
        "trigger",
        "resume",
    ):
        assert f"{field} {HOSTILE}" in parsed.text, "it is shown as it is"


def test_the_policy_allows_the_one_style_and_the_one_script_and_nothing_else(tmp_path: Path) -> None:
    parsed = Parsed(written(sample_page(60, 20), tmp_path))
    [policy] = [value for name, value in parsed.attributes if name == "content" and "default-src" in value]
    style, script = csp_hash(parsed.inline["style"]), csp_hash(parsed.inline["script"])
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src '{style}'",
        f"script-src '{script}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not {"style", "src", "href", "srcset", "action"} & {name for name, _ in parsed.attributes}


def test_nothing_refers_to_the_network(tmp_path: Path) -> None:
    html = written(sample_page(60, 20), tmp_path)
    assert not re.findall(r"https?:|//[a-z]+\.|url\(|@import|<link|<iframe", html.replace("// ", ""))


def test_the_template_leaves_no_lines_behind_in_the_page(tmp_path: Path) -> None:
    html = written(sample_page(60, 20), tmp_path)
    assert html.startswith('<!doctype html>\n<html lang="en">\n<head>\n')
    assert "\n\n\n" not in html
    assert html.count("</tr>\n<tr>") == 59 + 19 + 1, "the rows of a table are next to each other"


def test_every_count_is_told_in_figures_too(tmp_path: Path) -> None:
    page = sample_page(60)
    parsed = Parsed(written(page, tmp_path))
    for day in page.days:
        told = f"{day.day}: {day.present:,} present, {day.filled:,} filled, {day.failed:,} failed"
        assert parsed.text.count(told) == 1, "as the tooltip of the day"
    assert f"{sum(day.filled for day in page.days):,}" in parsed.text
    assert (
        "A stacked bar for each of 60 days from 2025-01-07 to 2025-03-07, of at most 20,000 user-days." in parsed.text
    )
    assert re.search(r"Failed on 1 day:\s+2025-02-06 \(1\)\.", parsed.text)
    assert RESUME in parsed.text, "with each of its spaces"
    assert "2026-03-02 04:12 UTC" in parsed.text
    assert f"momentum-schema {__version__}" in parsed.text


def test_the_page_says_why_rows_failed_only_if_some_have(tmp_path: Path) -> None:
    text = Parsed(written(sample_page(1), tmp_path)).text
    assert re.search(r"Why rows failed\s+Rows\s*SQLSTATE\s*Message\s+1,200\s*23514\s*a check was violated", text)
    assert re.search(r"1\s*none\s*skipped", text), "a row that was skipped has no SQLSTATE"
    assert "Why rows failed" not in Parsed(written(replace(sample_page(1), reasons=[]), tmp_path)).text


def test_the_time_is_shown_in_utc(tmp_path: Path) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    finished = datetime.datetime(2026, 3, 2, 1, 5, tzinfo=zone)
    page = replace(sample_page(1), execution=Execution("here", finished, finished, 0))
    assert "2026-03-01 23:05 UTC" in Parsed(written(page, tmp_path)).text


def test_a_dry_run_says_what_would_be_filled(tmp_path: Path) -> None:
    text = Parsed(written(replace(sample_page(1), dry_run=True), tmp_path)).text
    assert re.search(r"present, [\d,]+ would be filled, 1 failed", text)
    assert "were filled" not in text


def test_without_a_rest_there_is_no_command(tmp_path: Path) -> None:
    parsed = Parsed(written(replace(sample_page(1), resume=None), tmp_path))
    assert "To resume" not in parsed.text
    assert "pre" not in parsed.tags


def test_a_range_without_days_has_no_picture(tmp_path: Path) -> None:
    parsed = Parsed(written(replace(sample_page(1), days=[]), tmp_path))
    assert "The range has no days." in parsed.text
    assert "svg" not in parsed.tags


@pytest.mark.parametrize(
    ("found", "left_out", "told"),
    [
        (None, 0, "They were not looked for in this run."),
        (0, 0, "None were found."),
        (0, 9, "9 were found; none are listed here."),
        (2, 0, "2 in total."),
        (2, 1_998, "2 of 2,000 are listed."),
    ],
)
def test_the_page_says_how_many_discrepancies_there_are(
    tmp_path: Path, found: int | None, left_out: int, told: str
) -> None:
    some = None if found is None else sample_page(1, found).discrepancies
    page = replace(sample_page(1), discrepancies=some, discrepancies_left_out=left_out)
    assert told in Parsed(written(page, tmp_path)).text


def discrepancy(score: str, breakdown_score: str) -> Discrepancy:
    return Discrepancy(
        uuid.UUID(int=int(Decimal(score)) if score.isdigit() else 0), FIRST, Decimal(score), Decimal(breakdown_score)
    )


def test_the_largest_difference_comes_first_and_decimals_stand_in_line() -> None:
    rows = in_columns([discrepancy("60", "50.25"), discrepancy("1234.5", "0"), discrepancy("0", "100")])
    assert [row[2:] for row in rows] == [
        ("1,234.5", "0.00", "+1,234.50"),
        ("0.0", "100.00", "-100.00"),
        ("60.0", "50.25", "+9.75"),
    ]


def test_numbers_that_no_page_has_room_for_are_shortened() -> None:
    rows = in_columns([discrepancy("50", "1E+131071"), discrepancy("NaN", "3"), discrepancy("7", "0." + "3" * 300)])
    assert [row[2:] for row in rows] == [
        ("NaN", "3.0000", "+NaN"),
        ("50", "1e+131071", "-1e+131071"),
        ("7", "0.3333", "+6.6667"),
    ]


def test_a_year_with_thousands_of_discrepancies_is_less_than_a_megabyte(tmp_path: Path) -> None:
    html = written(sample_page(400, 5_000), tmp_path)
    assert html.count("<tr>") == 400 + 5_000 + 2 + 3, "days, scores, reasons, and a header for each"
    assert len(html.encode()) < 1_000_000


def test_what_is_no_text_in_a_file_name_costs_no_page(tmp_path: Path) -> None:
    page = replace(sample_page(1), resume="momentum-backfill --env-file \udcff.env")
    assert r"\udcff.env" in written(page, tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere/report.html", "No such file or directory"), ("", "Is a directory")]
)
def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigurationError) as caught:
        write_page(path, sample_page(1))
    assert str(caught.value) == f"--report {path} cannot be written ({reason})."


def test_runs_without_a_page_do_not_wait_for_the_template_engine() -> None:
    code = "import sys, momentum.backfill.page; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def heights(path: str) -> list[int]:
    """Return how high each bar is in an SVG path of bars that don't touch."""
    found = re.findall(r"M[\d.]+ (\d+)V(\d+)h[\d.]+V\1h-[\d.]+z", path)
    assert len(found) == path.count("h-"), "the path is made of nothing else"
    return [int(bottom) - int(top) for bottom, top in found]


@pytest.mark.parametrize("days", [1, 60, 400])
def test_one_failure_of_twenty_thousand_is_seen(days: int) -> None:
    chart = draw(sample_page(days).days)
    assert heights(chart.bands["failed"]) == [3]
    assert heights(chart.marks) == [10]
    assert (chart.failed_days, chart.failures[0].failed) == (1, 1)


def test_bars_are_in_proportion_and_stay_inside() -> None:
    counts = [DayCounts(FIRST, 5_000, 15_000, 0), DayCounts(FIRST + datetime.timedelta(1), 19_998, 1, 1)]
    chart = draw(counts)
    assert heights(chart.bands["present"]) == [58, 234]
    assert heights(chart.bands["filled"]) == [176, 2]
    assert heights(chart.bands["failed"]) == [3]
    assert 234 + 2 + 3 <= BARS_HEIGHT == chart.height - chart.lane


def test_bars_that_touch_are_one_shape() -> None:
    filled = [3, 2, 0, 1, *[0] * 200]
    chart = draw([DayCounts(day, 4 - n, n, 0) for day, n in zip(days_after(FIRST, 204), filled, strict=True)])
    assert chart.bands["filled"] == "M0 182V6h1V6h1V123h-1V182h-1zM3 64V6h1V64h-1z"


@pytest.mark.parametrize(("days", "width"), [(1, "0.12"), (6, "0.72"), (7, "0.8"), (120, "0.8"), (121, "1")])
def test_bars_are_narrow_for_a_few_days_and_touch_from_121_days_on(days: int, width: str) -> None:
    chart = draw([DayCounts(day, 1, 0, 0) for day in days_after(FIRST, days)])
    assert set(re.findall(r"h([\d.]+)", chart.bands["present"])) == {width}


@pytest.mark.parametrize(
    ("position", "anchor"), [(0, "start"), (2.9, "start"), (3, "middle"), (97, "middle"), (97.1, "end"), (100, "end")]
)
def test_a_label_at_an_edge_is_not_cut_off(position: float, anchor: str) -> None:
    assert Tick(position, "1 Jan").anchor == anchor


@pytest.mark.parametrize(
    ("days", "most", "labels"),
    [
        (3, 3, ["1 Jan", "2 Jan", "3 Jan"]),
        (4, 3, ["1 Jan", "3 Jan"]),
        (8, 3, ["1 Jan", "8 Jan"]),
        (22, 3, ["1 Jan", "15 Jan"]),
        (90, 3, ["Jan", "Feb", "Mar"]),
        (120, 3, ["Jan", "Mar"]),
    ],
)
def test_days_have_as_many_labels_as_fit(days: int, most: int, labels: list[str]) -> None:
    assert [tick.label for tick in day_ticks(days_after(datetime.date(2026, 1, 1), days), most)] == labels


def test_days_that_are_not_there_count_as_empty() -> None:
    chart = draw([DayCounts(FIRST + datetime.timedelta(3), 1, 0, 0), DayCounts(FIRST, 1, 0, 0)])
    assert [(day.day.day, day.total) for day in chart.days] == [(7, 1), (8, 0), (9, 0), (10, 1)]


def test_a_range_of_empty_days_is_drawn_too() -> None:
    chart = draw([DayCounts(FIRST, 0, 0, 0)])
    assert set(chart.bands.values()) == {""}
    assert [tick.label for tick in chart.scale] == ["0", "1"]
    assert set(chart.shares.values()) == {"0 %"}


def test_only_the_worst_days_are_named(tmp_path: Path) -> None:
    counts = [DayCounts(day, 10, 0, n) for n, day in enumerate(days_after(FIRST, 12))]
    text = Parsed(written(replace(sample_page(1), days=counts), tmp_path)).text
    named = re.search(r"Failed on 11 days:([^…]*)…", text)
    assert named
    assert re.findall(r"\((\d+)\)", named[1]) == ["11", "10", "9", "8", "7", "6", "5", "4"]


@pytest.mark.parametrize("screen", LABELS)
def test_ranges_of_every_length_have_a_few_labels(screen: str) -> None:
    for number in [*range(1, 800), 4_000, 20_000]:
        ticks = day_ticks(days_after(FIRST, number), LABELS[screen])
        assert 1 <= len(ticks) <= LABELS[screen], f"{number} days"
        positions = [tick.position for tick in ticks]
        assert positions == sorted(set(positions))
        assert ticks[0].year, "the first label names the year"


def test_labels_name_the_year_when_it_changes() -> None:
    ticks = day_ticks(days_after(datetime.date(2025, 12, 30), 4), 10)
    assert [(tick.label, tick.year) for tick in ticks] == [
        ("30 Dec", "2025"),
        ("31 Dec", ""),
        ("1 Jan", "2026"),
        ("2 Jan", ""),
    ]


@pytest.mark.parametrize(
    ("highest", "steps"),
    [(0, [0, 1]), (3, [0, 1, 2, 3]), (11, [0, 5, 10, 15]), (20_000, [0, 5_000, 10_000, 15_000, 20_000])],
)
def test_the_scale_has_round_numbers(highest: int, steps: list[int]) -> None:
    assert scale_steps(highest) == steps


def test_numbers_on_the_scale_are_short() -> None:
    assert [short(number) for number in (0, 50_000, 250_000, 1_500_000)] == ["0", "50,000", "250k", "1.5M"]


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [
        (0, 0, "0 %"),
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 20_000, "< 0.01 %"),
        (19_999, 20_000, "> 99.99 %"),
        (1, 1_000, "0.10 %"),
        (1, 100, "1.0 %"),
        (99, 100, "99.0 %"),
        (999, 1_000, "99.90 %"),
        (1, 3, "33.3 %"),
    ],
)
def test_a_share_is_nothing_or_all_only_if_it_is(part: int, whole: int, told: str) -> None:
    assert share(part, whole) == told


# From here on: what a real browser makes of it.

SCREENS = {"desktop": (1440, 900), "phone": (390, 844)}

# Texts of the picture that can be seen and whose boxes lie over each other.
OVERLAPS = """() => {
  const boxes = [...document.querySelectorAll(".picture text")]
    .map((text) => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width > 0);
  return boxes.flatMap(([text, a], n) => boxes.slice(n + 1)
    .filter(([, b]) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
    .map(([other]) => `${text} lies over ${other}`));
}"""

# Elements that reach out of the window to the side or are too small for their content; of long tables the beginning.
CUT_OFF = """() => [...document.querySelectorAll("body *:not(.days *, tr:nth-child(n + 30), tr:nth-child(n + 30) *)")]
  .filter((element) => {
    const box = element.getBoundingClientRect();
    const tight = element.matches(".scroll, th, td, dd, pre, h1") && element.scrollWidth > element.clientWidth + 1;
    return box.width > 0 && (tight || box.left < 0 || box.right > innerWidth + 1);
  }).map((element) => `${element.tagName} ${element.textContent.slice(0, 40)}`)"""


@pytest.fixture
def tab(browser: Browser, tmp_path: Path) -> Iterator[Tab]:
    """A tab in which no page may complain, or ask for anything but its own file."""
    context = browser.new_context()
    tab = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    # A dialog that nobody answers would hold up the test until it fails.
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    tab.on("request", lambda request: requests.append(request.url))
    yield tab
    context.close()
    assert complaints == []
    assert requests, "the tab was used"
    assert set(requests) == {(tmp_path / "report.html").as_uri()}


def show(tab: Tab, page: Page, folder: Path) -> None:
    write_page(folder / "report.html", page)
    tab.goto((folder / "report.html").as_uri())


@pytest.mark.slow
@pytest.mark.parametrize("discrepancies", [0, 5_000])
@pytest.mark.parametrize("days", [1, 60, 400])
def test_everything_fits_on_the_screen(tab: Tab, tmp_path: Path, days: int, discrepancies: int) -> None:
    show(tab, sample_page(days, discrepancies), tmp_path)
    tab.locator("summary").click()
    for screen, (width, height) in SCREENS.items():
        tab.set_viewport_size({"width": width, "height": height})
        assert tab.evaluate("document.documentElement.scrollWidth") == width, screen
        assert tab.evaluate(OVERLAPS) == [], screen
        assert tab.evaluate(CUT_OFF) == [], screen


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_a_hostile_page_does_nothing_and_fits_as_well(tab: Tab, tmp_path: Path, screen: str) -> None:
    width, height = SCREENS[screen]
    tab.set_viewport_size({"width": width, "height": height})
    show(tab, hostile_page(), tmp_path)
    assert tab.title() == f"title {HOSTILE}"
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def column(tab: Tab, number: int) -> list[str]:
    script = (
        "(number) => [...document.querySelectorAll('.discrepancies tbody tr')].map(r => r.cells[number].textContent)"
    )
    return list(tab.evaluate(script, number))


def as_number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_each_column_sorts_both_ways(tab: Tab, tmp_path: Path, screen: str) -> None:
    width, height = SCREENS[screen]
    tab.set_viewport_size({"width": width, "height": height})
    show(tab, sample_page(60, 5_000), tmp_path)
    keys: dict[str, Callable[[str], Any]] = {
        "User": str,
        "Day": str,
        "Score": as_number,
        "Breakdown": as_number,
        "Difference": lambda text: abs(as_number(text)),
    }
    everything = sorted(column(tab, 0))
    for number, (name, key) in enumerate(keys.items()):
        header = tab.locator(".discrepancies th", has_text=name)
        button = header.get_by_role("button")
        for way in ("ascending", "descending") if number < 2 else ("descending", "ascending"):
            button.click()
            assert header.get_attribute("aria-sort") == way
            assert tab.locator("[aria-sort]").count() == 1, "one column is sorted, and says so"
            values = column(tab, number)
            assert values == sorted(values, key=key, reverse=way == "descending")
    assert sorted(column(tab, 0)) == everything


def test_columns_are_sorted_with_the_keyboard_too(tab: Tab, tmp_path: Path) -> None:
    show(tab, sample_page(60, 50), tmp_path)
    score = tab.get_by_role("columnheader", name="Score")
    tab.get_by_role("button", name="Day", exact=True).focus()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert score.get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Space")
    assert score.get_attribute("aria-sort") == "ascending"


def test_not_a_number_counts_as_the_largest(tab: Tab, tmp_path: Path) -> None:
    odd = [discrepancy("NaN", "3"), discrepancy("50", "1E+20"), discrepancy("70", "3")]
    show(tab, replace(sample_page(1), discrepancies=odd), tmp_path)
    assert column(tab, 2) == ["NaN", "50", "70"]
    tab.get_by_role("button", name="Difference").click()
    assert column(tab, 2) == ["70", "50", "NaN"]


def test_the_picture_tells_the_counts_of_the_day_under_the_pointer(tab: Tab, tmp_path: Path) -> None:
    page = sample_page(60)
    show(tab, page, tmp_path)
    box = tab.locator(".days").bounding_box()
    assert box
    for number in (0, 30, 59):
        tab.mouse.move(box["x"] + box["width"] * (number + 0.5) / 60, box["y"] + box["height"] / 2)
        read = tab.locator(".read").text_content()
        assert read
        assert read.startswith(f"{page.days[number].day}: {page.days[number].present:,} present")


def test_a_mark_of_a_failure_is_never_thinner_than_three_pixels(tab: Tab, tmp_path: Path) -> None:
    tab.set_viewport_size({"width": 390, "height": 844})
    show(tab, sample_page(400), tmp_path)
    style = tab.locator(".marks").evaluate("e => [getComputedStyle(e).strokeWidth, getComputedStyle(e).vectorEffect]")
    assert style == ["3px", "non-scaling-stroke"], "a day is less than a pixel wide here"


def test_the_command_is_copied_as_it_is(tab: Tab, tmp_path: Path) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    show(tab, sample_page(1), tmp_path)
    tab.get_by_role("button", name="Copy").click()
    tab.get_by_role("button", name="Copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()") == RESUME


def test_where_the_clipboard_is_out_of_reach_the_command_is_selected(tab: Tab, tmp_path: Path) -> None:
    tab.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    show(tab, sample_page(1), tmp_path)
    tab.get_by_role("button", name="Copy").click()
    tab.get_by_role("button", name="Selected").wait_for()
    assert tab.evaluate("getSelection().toString()") == RESUME


def test_without_script_everything_can_still_be_read(browser: Browser, tmp_path: Path) -> None:
    page = sample_page(60, 50)
    write_page(tmp_path / "report.html", page)
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    assert tab.locator(".discrepancies tbody tr").count() == 50
    assert tab.locator("th button:enabled").count() == 0, "no button promises what it can't do"
    assert tab.locator(".command button").is_hidden()
    assert tab.locator(".days title").count() == 60
    context.close()


def background(tab: Tab) -> str:
    return str(tab.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_dark_mode_and_print_have_colours_of_their_own(tab: Tab, tmp_path: Path) -> None:
    show(tab, sample_page(1), tmp_path)
    seen = [background(tab)]
    tab.emulate_media(color_scheme="dark")
    seen.append(background(tab))
    tab.emulate_media(color_scheme="dark", media="print")
    seen.append(background(tab))
    assert len(set(seen)) == 3
    assert seen[-1] == "rgb(255, 255, 255)", "paper is white, in dark mode too"
