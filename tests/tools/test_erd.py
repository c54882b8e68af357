"""The entity diagram is fresh, shows every table, and can be read."""

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser

from tools import erd

# Text that a viewer could not read: beyond its table's box, or overlapping other text.
UNREADABLE = """() => {
  const found = [];
  const boxes = (root) => [...root.querySelectorAll("text")].map((text) => [text.textContent, text.getBBox()]);
  for (const group of document.querySelectorAll("g.entity")) {
    const frame = group.querySelector("rect.box").getBBox();
    for (const [said, box] of boxes(group)) {
      const inside = box.x >= frame.x && box.x + box.width <= frame.x + frame.width
        && box.y >= frame.y && box.y + box.height <= frame.y + frame.height;
      if (!inside) found.push(`${group.id}: ${said}`);
    }
  }
  const all = boxes(document);
  const view = document.documentElement.viewBox.baseVal;
  all.forEach(([said, one], number) => {
    if (one.x < 0 || one.y < 0 || one.x + one.width > view.width || one.y + one.height > view.height) found.push(said);
    for (const [other, two] of all.slice(number + 1)) {
      const apart = one.x + one.width <= two.x || two.x + two.width <= one.x
        || one.y + one.height <= two.y + 4 || two.y + two.height <= one.y + 4;
      if (!apart) found.push(`${said} / ${other}`);
    }
  });
  return found;
}"""


@pytest.mark.parametrize(("path", "content"), erd.documents().items(), ids=lambda value: getattr(value, "name", ""))
def test_the_diagrams_are_those_of_the_models(path: Path, content: str) -> None:
    assert path.read_text(encoding="utf-8") == content, f"{path.name} is stale: make erd"


@pytest.mark.parametrize("table", erd.TABLES, ids=lambda table: table.fullname)
def test_the_picture_names_every_column_with_its_type_and_its_comment(table: sa.Table) -> None:
    drawing = ElementTree.fromstring(erd.draw_picture())  # noqa: S314 - it is our own
    (group,) = [node for node in drawing.iter("{http://www.w3.org/2000/svg}g") if node.get("id") == table.fullname]
    texts = [str(node.text) for node in group.iter("{http://www.w3.org/2000/svg}text")]
    for column in table.columns:
        assert column.name in texts
        assert any(said.startswith(erd.type_of(column)) for said in texts)
        assert str(column.comment) in " ".join(texts)


# Each text's colour and that of what is behind it.
COLOURS = """() => [...document.querySelectorAll("text")].map((text) => {
  const fill = (element) => getComputedStyle(element).fill.match(/\\d+/g).map(Number);
  const entity = text.closest("g.entity");
  let behind = document.querySelector(".page");
  if (entity) behind = entity.querySelector(text.matches(".table, .kind") ? "path:not(.rule)" : ".box");
  if (text.matches(".key")) behind = text.previousElementSibling;
  return [text.textContent, fill(text), fill(behind)];
})"""


def luminance(colour: list[int]) -> float:
    """Return the relative luminance of a colour, as WCAG defines it."""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_picture_has_enough_contrast(browser: Browser, scheme: Literal["light", "dark"]) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(erd.PICTURE.as_uri())
    colours = page.evaluate(COLOURS)
    page.close()
    assert len(colours) > 100
    for said, text, behind in colours:
        darker, lighter = sorted(map(luminance, (text, behind)))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (said, text, behind)
    boxes = {tuple(behind) for _, text, behind in colours}
    assert ((255, 255, 255) in boxes) == (scheme == "light")


def test_the_picture_is_readable_at_1200_pixels(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(erd.PICTURE.as_uri())
    assert page.evaluate("document.documentElement.getBoundingClientRect().width") <= 1200
    assert page.evaluate(UNREADABLE) == []
    # The check can fail: a long name is found.
    page.evaluate("document.querySelector('g.entity .comment').textContent = 'far too long '.repeat(9)")
    assert len(page.evaluate(UNREADABLE)) > 0
    page.close()
