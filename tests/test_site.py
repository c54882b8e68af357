"""The site of docs/: generated pages are fresh, every link has a target, and each page can be read."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, ViewportSize

from tests.processes import DEADLINE
from tools import reference
from tools.erd import ROOT

PAGES = sorted(reference.DOCS.rglob("*.md"))


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and writes no log."""

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built for the test. A page in no menu or a link without a target fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def site(built: Path) -> Iterator[str]:
    """The address of the site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=built)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "content"), reference.documents().items(), ids=lambda value: getattr(value, "name", "")
)
def test_the_generated_parts_are_fresh(path: Path, content: str) -> None:
    assert path.read_text(encoding="utf-8") == content, f"{path.name} is stale: make docs"


def address_of(path: Path) -> str:
    """Return where a page is on the site."""
    return path.relative_to(reference.DOCS).with_suffix("").as_posix().removesuffix("index") + "/" * (
        path.stem != "index"
    )


# Elements that reach beyond the window, with no scroll bar of their own to reach the rest.
CUT_OFF = """() => [...document.querySelectorAll("article *")].filter((element) => {
  const box = element.getBoundingClientRect();
  if (box.width === 0 || box.right <= innerWidth + 1) return false;
  for (let around = element.parentElement; around && around !== document.body; around = around.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(around).overflowX)) return false;
  }
  return true;
}).map((element) => `${element.tagName} ${element.textContent.slice(0, 40)}`)"""


SCREENS: list[ViewportSize] = [{"width": 1440, "height": 900}, {"width": 390, "height": 844}]


@pytest.mark.slow
def test_every_page_can_be_read_and_asks_nobody_else_for_anything(site: str, browser: Browser) -> None:
    tab = browser.new_page()
    tab.set_default_timeout(1000 * DEADLINE)
    asked: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(f"{tab.url}: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(f"{tab.url}: {error}"))
    for path in PAGES:
        tab.set_viewport_size(SCREENS[0])
        answer = tab.goto(site + address_of(path), wait_until="load")
        assert answer is not None
        assert answer.ok, path
        title = re.search(r"^# (.+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert title
        assert tab.locator("article h1").inner_text().startswith(title[1])
        for screen in SCREENS:
            tab.set_viewport_size(screen)
            width = tab.evaluate("document.documentElement.scrollWidth")
            assert width <= screen["width"], f"{path} is wider than the window"
            assert tab.evaluate(CUT_OFF) == [], path
    tab.close()
    assert [url for url in asked if not url.startswith(site)] == []
    assert complaints == []


def test_every_page_says_where_it_is_and_where_it_is_edited(built: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    addresses = settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    for path in PAGES:
        page = (built / address_of(path) / "index.html").read_text(encoding="utf-8")
        assert f'<link rel="canonical" href="{addresses["site"]}{address_of(path)}">' in page
        assert f'href="{addresses["repository"]}/edit/main/docs/{path.relative_to(reference.DOCS).as_posix()}"' in page
        # The theme would ask the host for the number of stars.
        assert 'data-md-component="source"' not in page
        assert f'<a href="{addresses["repository"]}"' in page


# The colour of a pixel of the diagram in which nothing is drawn, from a screenshot of it.
PIXEL = """async (bytes) => {
  const picture = await createImageBitmap(new Blob([new Uint8Array(bytes)], { type: "image/png" }));
  const canvas = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  canvas.drawImage(picture, 0, 0);
  return [...canvas.getImageData(5, 500, 1, 1).data].slice(0, 3);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_diagram_is_dark_where_the_page_is(site: str, browser: Browser, scheme: Literal["light", "dark"]) -> None:
    tab = browser.new_page(viewport={"width": 1440, "height": 1200}, color_scheme=scheme)
    tab.set_default_timeout(1000 * DEADLINE)
    tab.goto(site + "erd/")

    def is_dark() -> bool:
        shown = tab.locator('img[src$="erd.svg"]').screenshot()
        colour: list[int] = tab.evaluate(PIXEL, list(shown))
        return sum(colour) < 3 * 128

    assert is_dark() == (scheme == "dark")
    # A reader may choose the other one.
    other, name = ("slate", "Dark") if scheme == "light" else ("default", "Light")
    tab.locator(f'label[title="{name}"]').click()
    tab.locator(f'body[data-md-color-scheme="{other}"]').wait_for()
    assert is_dark() == (scheme == "light")
    tab.close()


def test_the_search_finds_what_is_meant(site: str, browser: Browser) -> None:
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    tab.set_default_timeout(1000 * DEADLINE)
    tab.goto(site)
    # Keys that are pressed before the page listens are not looked up.
    tab.locator(".md-search-result__meta", has_text="Type to start searching").wait_for(state="attached")
    tab.locator("input.md-search__input").press_sequentially("uq_habit_index_user_id_index_date")
    tab.locator('.md-search-result__item a[href*="/schema/"]').first.wait_for(state="attached")
    tab.close()
