"""The report of a run as an HTML file: a picture of the range, and the scores to review.

The page needs no network: its only style and its only script are inline, and its Content-Security-Policy allows both by
their hash and forbids everything else. The template is ``page.html``, next to this module.
"""

import base64
import datetime
import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from momentum.backfill.discrepancies import Discrepancy, in_columns
from momentum.backfill.files import replacing
from momentum.backfill.report import Execution
from momentum.errors import ConfigurationError
from momentum.wording import counted, printable

# Dimensions of the drawing. Heights are in pixels; widths are in days, because the drawing is as wide as the screen.
BARS_HEIGHT = 240
# Space above the tallest bar, because small parts are drawn taller than they are.
HEADROOM = 6
# One user-day in 20,000 must be visible, so no part of a bar is lower than this.
LEAST_HEIGHTS = {"present": 1, "filled": 2, "failed": 3}
# The lane above the bars where days with failures are marked; left out if there are none.
LANE_HEIGHT = 26
# The number of days above which the bars touch each other.
DENSE = 120
# Labels of days that fit next to each other on a wide and on a narrow screen.
LABELS = {"wide": 10, "narrow": 4}
# Days with failures that are listed under the picture.
NAMED_DAYS = 8


@dataclass(frozen=True)
class DayCounts:
    """The user-days of one UTC day.

    Attributes:
        day: The UTC day.
        present: User-days that already had a row, or got one from somebody else meanwhile.
        filled: User-days that got their row from this run; in a dry run, that would get it.
        failed: User-days without a row, because the server refused it.
    """

    day: datetime.date
    present: int
    filled: int
    failed: int

    @property
    def total(self) -> int:
        """The user-days that should have a row."""
        return self.present + self.filled + self.failed


@dataclass(frozen=True)
class Page:
    """The content of the page; strings are plain text, and are escaped.

    Attributes:
        title: The title, such as ``Backfill of 2026-01-01 to 2026-03-01``.
        outcome: How the run ended, in one sentence.
        execution: The database, which has no password here, when the run began and ended, and the version.
        days: The counts of each day; missing days between the first and the last count as empty.
        totals: Names and values, ready to be displayed.
        settings: Names and values, ready to be displayed.
        reasons: Why rows failed, the most frequent first: SQLSTATE, which may be empty, message, number.
        triggers: Sentences about the row triggers of the score table.
        discrepancies: Scores to review, in any order; None if they were not compared.
        discrepancies_left_out: How many more there are.
        resume: The literal command that resumes the run, if anything is left.
        dry_run: Whether nothing was written, so that ``filled`` counts the rows that would be.
    """

    title: str
    outcome: str
    execution: Execution
    days: Sequence[DayCounts]
    totals: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    reasons: Sequence[tuple[str, str, int]]
    triggers: Sequence[str]
    discrepancies: Sequence[Discrepancy] | None
    discrepancies_left_out: int
    resume: str | None
    dry_run: bool = False


def write_page(path: Path, page: Page) -> None:
    """Write a page to a file, which is replaced, once the page is whole, if it exists.

    Args:
        path: The HTML file.
        page: Its content.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    # Here and not above, because most runs write no page.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"hash": csp_hash, "counted": counted}
    html = environment.get_template("page.html").render(
        page=page,
        finished_at=page.execution.finished_at.astimezone(datetime.UTC),
        chart=draw(page.days) if page.days else None,
        discrepancies=in_columns(page.discrepancies or ()),
    )
    try:
        with replacing(path) as stream:
            stream.write(html)
    except OSError as error:
        raise ConfigurationError(f"--report {path} cannot be written ({error.strerror}).") from error


def csp_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@dataclass(frozen=True)
class Tick:
    """A label on an axis and its position: pixels from the top, or percent of the width."""

    position: float
    label: str
    year: str = ""

    @property
    def anchor(self) -> str:
        """The end of the text that is at the position, so that nothing is cut off at the edges."""
        return "start" if self.position < 3 else "end" if self.position > 97 else "middle"


@dataclass(frozen=True)
class Chart:
    """The picture, as the template needs it.

    Attributes:
        days: Every day from the first to the last.
        sums: The user-days of the whole range, by part.
        shares: The same as a share of all user-days, as text.
        failures: The days with the most failures, the worst first.
        failed_days: The number of days with failures.
        highest: The most user-days of a day.
        lane: The height above the bars where days with failures are marked, in pixels.
        height: The height of lane and bars, in pixels.
        bands: An SVG path of each part of the bars.
        marks: An SVG path of the marks in the lane.
        scale: The labels of the vertical axis.
        ticks: The labels of the horizontal axis, for a wide and for a narrow screen.
    """

    days: Sequence[DayCounts]
    sums: dict[str, int]
    shares: dict[str, str]
    failures: Sequence[DayCounts]
    failed_days: int
    highest: int
    lane: int
    height: int
    bands: dict[str, str]
    marks: str
    scale: Sequence[Tick]
    ticks: dict[str, list[Tick]]


def draw(counts: Sequence[DayCounts]) -> Chart:
    """Return the picture of at least one day."""
    by_day = {count.day: count for count in counts}
    first = min(by_day)
    days = [
        by_day.get(day, DayCounts(day, 0, 0, 0))
        for day in (first + datetime.timedelta(n) for n in range((max(by_day) - first).days + 1))
    ]
    sums = {part: sum(getattr(count, part) for count in days) for part in LEAST_HEIGHTS}
    failed = sorted((count for count in days if count.failed), key=lambda count: (-count.failed, count.day))
    lane = LANE_HEIGHT if failed else 0
    highest = max(count.total for count in days)
    steps = scale_steps(highest)
    height_of_one = (BARS_HEIGHT - HEADROOM) / steps[-1]

    # A few bars would be too wide if they filled the width.
    width = 1.0 if len(days) > DENSE else min(0.8, 0.12 * len(days))
    boxes: dict[str, list[tuple[float, int, int]]] = {part: [] for part in LEAST_HEIGHTS}
    for position, count in enumerate(days):
        bottom = lane + BARS_HEIGHT
        for part, least in LEAST_HEIGHTS.items():
            if number := getattr(count, part):
                # Whole pixels, so that there is no gap between the parts.
                top = bottom - max(least, round(number * height_of_one))
                boxes[part].append((position + (1 - width) / 2, top, bottom))
                bottom = top
    return Chart(
        days=days,
        sums=sums,
        shares={part: share(number, sum(sums.values())) for part, number in sums.items()},
        failures=failed[:NAMED_DAYS],
        failed_days=len(failed),
        highest=highest,
        lane=lane,
        height=lane + BARS_HEIGHT,
        bands={part: outline(some, width) for part, some in boxes.items()},
        marks=outline([(left, 5, 15) for left, _, _ in boxes["failed"]], width),
        scale=[Tick(lane + BARS_HEIGHT - step * height_of_one, short(step)) for step in steps],
        ticks={screen: day_ticks([count.day for count in days], most) for screen, most in LABELS.items()},
    )


def outline(boxes: Sequence[tuple[float, int, int]], width: float) -> str:
    """Return an SVG path around boxes of the same width; boxes that touch are one shape, without a gap between them.

    Args:
        boxes: The left, top and bottom of each, from left to right.
        width: The width of each.
    """
    runs: list[list[tuple[float, int, int]]] = []
    for box in boxes:
        if runs and width == 1.0 and box[0] == runs[-1][-1][0] + 1:
            runs[-1].append(box)
        else:
            runs.append([box])
    path = []
    for run in runs:
        path.append(f"M{run[0][0]:.6g} {run[0][2]}")
        path += [f"V{top}h{width:.6g}" for _, top, _ in run]
        path += [f"V{bottom}h-{width:.6g}" for _, _, bottom in reversed(run)]
        path.append("z")
    return "".join(path)


def scale_steps(highest: int) -> list[int]:
    """Return up to six round numbers at equal distances, from 0 to the first one that is at least the highest."""
    highest = max(highest, 1)
    distances = (leading * 10**zeros for zeros in itertools.count() for leading in (1, 2, 5))
    distance = next(distance for distance in distances if 5 * distance >= highest)
    return [distance * n for n in range(math.ceil(highest / distance) + 1)]


def day_ticks(days: Sequence[datetime.date], most: int) -> list[Tick]:
    """Return evenly spaced labels of days: every n-th day or, if these would be too many, months."""

    def months(step: int) -> list[int]:
        # Counted from year 1, so that steps of more than a year work as well.
        return [n for n, day in enumerate(days) if day.day == 1 and (day.year * 12 + day.month - 1) % step == 0]

    by_day = (list(range(0, len(days), step)) for step in (1, 2, 7, 14))
    by_month = (months(step) for step in (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200, 12000))
    chosen = next((some for some in by_day if len(some) <= most), None)
    style = "%-d %b"
    if chosen is None:
        chosen, style = next(some for some in by_month if len(some) <= most), "%b"
    ticks: list[Tick] = []
    year = None
    for n in chosen:
        day = days[n]
        ticks.append(Tick(100 * (n + 0.5) / len(days), f"{day:{style}}", "" if day.year == year else f"{day.year:04}"))
        year = day.year
    return ticks


def short(number: int) -> str:
    """Return a round number, short enough for the label of an axis."""
    for letter, unit in (("M", 1_000_000), ("k", 1_000)):
        if number >= max(unit, 100_000):
            return f"{number / unit:,.10g}{letter}"
    return f"{number:,}"


def share(part: int, whole: int) -> str:
    """Return a share in percent; it says 0 or 100 only if that is exact."""
    if not part or part == whole:
        return "100 %" if part else "0 %"
    percent = 100 * part / whole
    if percent < 0.01:
        return "< 0.01 %"
    if percent > 99.99:
        return "> 99.99 %"
    return f"{percent:.2f} %" if percent < 1 or percent > 99 else f"{percent:.1f} %"
