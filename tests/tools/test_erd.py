"""The entity diagram is fresh, shows every table, and can be read."""

from pathlib import Path
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


def test_the_picture_is_readable_at_1200_pixels(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(erd.PICTURE.as_uri())
    assert page.evaluate("document.documentElement.getBoundingClientRect().width") <= 1200
    assert page.evaluate(UNREADABLE) == []
    # The check can fail: a long name is found.
    page.evaluate("document.querySelector('g.entity .comment').textContent = 'far too long '.repeat(9)")
    assert len(page.evaluate(UNREADABLE)) > 0
    page.close()
