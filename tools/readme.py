"""Writes the parts of README.md that show a real run of the demo: its output, and a picture of its report."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from tools import marked
from tools.demo import REPORT

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "report.png"
MARKER = "DEMO"

# The width of the picture, and its margin below the day-by-day chart, in the browser's pixels.
WIDTH, MARGIN = 1000, 40

# Lines about this run only: where the database was, the progress once a second, and the seconds of each part.
OF_THE_RUN = re.compile(r"^(?:Database: |committed |  preflight ).*\n", flags=re.MULTILINE)
# Of several lines alike, the first is shown; of counts of zero, none.
SEVERAL = {
    re.compile(r"^(Running upgrade .*\n)(?:Running upgrade .*\n)+", re.MULTILINE): r"\1...\n",
    re.compile(r"^(warning: review: .*\n\d{4}-.*\n)(?:\d{4}-.*\n)+", re.MULTILINE): r"\1...\n",
    re.compile(r"^(?:  [a-z].* 0\n){2,}", re.MULTILINE): "...\n",
    re.compile(r"^(  \d{4}-.*\n)(?:  \d{4}-.*\n)+", re.MULTILINE): r"\1...\n",
}

# Figures that vary from run to run or from machine to machine. Counts don't.
VARYING = {
    r"(?<=^PostgreSQL )[\d.]+": "VERSION",
    r"[\d,.]+(?= (?:s|ms|rows/s|seconds)\b)": "N",
}


def run_demo(report: Path) -> str:
    """Run the demo and return its output as README.md shows it.

    Args:
        report: Where the HTML report is written.
    """
    command = [sys.executable, "-m", "tools.demo", str(report)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=True
    )
    return abridge(done.stdout).replace(str(report), str(REPORT)).strip()


def abridge(output: str) -> str:
    """Return the output of the demo without the lines about its run, and with the first of several lines alike."""
    output = OF_THE_RUN.sub("", output)
    for several, shown in SEVERAL.items():
        output = several.sub(shown, output)
    return output


def in_fence(output: str) -> str:
    """Return an output as a block of text in Markdown."""
    return f"```text\n{output}\n```"


def with_steady_figures(output: str) -> str:
    """Return the output without the figures that vary, and with each day as its distance from the last one."""
    for pattern, name in VARYING.items():
        output = re.sub(pattern, name, output, flags=re.MULTILINE)
    days = [date.fromisoformat(day) for day in re.findall(r"\b\d{4}-\d\d-\d\d\b", output)]
    for day in set(days):
        output = output.replace(day.isoformat(), f"DAY-{(max(days) - day).days:02}")
    return output


def find_chromium() -> str | None:
    """Return the path of the machine's Chromium, if it has one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def take_picture(report: Path, picture: Path) -> None:
    """Write a report as a PNG file, from the top to the end of the chart.

    Raises:
        SystemExit: The machine has no Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if chromium is None:
        sys.exit("Error: there is no Chromium to take the picture with; install one, such as apt-get install chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": WIDTH, "height": WIDTH}, device_scale_factor=1.5)
        page.goto(report.as_uri())
        chart = page.locator("main > section:has(.picture)").bounding_box()
        assert chart is not None
        height = chart["y"] + chart["height"] + MARGIN
        page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.readme")
    parser.add_argument("--picture", action="store_true", help="also take the picture of the report")
    with_picture = parser.parse_args(arguments).picture
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "demo.html"
        block, document = in_fence(run_demo(report)), README.read_text(encoding="utf-8")
        # Another day and another machine's speed are no reason to change it.
        if with_steady_figures(block) != with_steady_figures(marked.read(document, MARKER)):
            README.write_text(marked.rewrite(document, MARKER, block), encoding="utf-8")
            print(f"Wrote the output of the demo into {README}.")
        if with_picture:
            take_picture(report, PICTURE)
            print(f"Wrote {PICTURE}.")


if __name__ == "__main__":
    main(sys.argv[1:])
