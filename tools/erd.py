"""Draws the entity diagram from the models: docs/erd.svg as a picture, docs/erd.md as Mermaid."""

import re
import textwrap
from html import escape
from pathlib import Path

import sqlalchemy as sa

from momentum.base import auth_users, external_metadata
from momentum.models import Base, DailyMomentumScore

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "erd.md"
PICTURE = ROOT / "docs" / "erd.svg"

POSTGRES = sa.make_url("postgresql://").get_dialect()()

VIEW = DailyMomentumScore.__table__
# The pillars are drawn next to the users, because everything else refers to these two.
PARENTS = [auth_users, Base.metadata.tables["momentum_pillars"]]
CHILDREN = sorted(
    (table for table in Base.metadata.tables.values() if table not in PARENTS), key=lambda table: table.name
)
TABLES = [VIEW, *PARENTS, *CHILDREN]
assert set(TABLES) == {*Base.metadata.tables.values(), *external_metadata.tables.values()}, "a table is not drawn"


def type_of(column: sa.Column[object]) -> str:
    """Return a column's type as Postgres writes it, the one with a time zone by its short name."""
    written = column.type.compile(dialect=POSTGRES).lower()
    return written.replace("timestamp with time zone", "timestamptz")


def in_lower_case(sql: str) -> str:
    """Return SQL in lower case, apart from its literals and quoted names."""
    return re.sub(r"""('[^']*'|"[^"]*")|[^'"]+""", lambda part: part[1] or part[0].lower(), sql)


def keys_of(column: sa.Column[object]) -> list[str]:
    """Return the keys that a column belongs to: PK, FK, UK. Columns of the view belong to none."""
    if column.table is VIEW:
        return []
    unique = [key for key in column.table.constraints if isinstance(key, sa.UniqueConstraint)]
    return [
        name
        for name, is_in in (
            ("PK", column.primary_key),
            ("FK", bool(column.foreign_keys)),
            ("UK", any(column.name in key.columns for key in unique)),
        )
        if is_in
    ]


def draw_mermaid() -> str:
    """Return the diagram as Mermaid, in its fence."""
    lines = ["erDiagram"]
    for table in TABLES:
        lines.append(f'  "{table.fullname}" {{')
        for column in table.columns:
            # Mermaid allows no comma or blank in a type.
            words = [re.sub(r", *", "-", type_of(column)), column.name]
            words += [",".join(keys_of(column))] if keys_of(column) else []
            nullable = " (nullable)" if column.nullable else ""
            lines.append(f'    {" ".join(words)} "{column.comment}{nullable}"')
        lines.append("  }")
    for table in CHILDREN:
        for key in sorted(table.foreign_keys, key=lambda key: key.parent.name):
            one = "o|" if key.parent.nullable else "||"
            lines.append(f'  "{key.column.table.fullname}" {one}--o{{ "{table.fullname}" : {key.parent.name}')
    lines.append(f'  "{auth_users.fullname}" ||..o{{ "{VIEW.fullname}" : user_id')
    return "\n".join(["```mermaid", *lines, "```"])


# The picture's dimensions in pixels. It is meant to be viewed 1,200 pixels wide, which the boxes of a row share.
MARGIN, GAP, CHANNEL = 20, 49, 150
WIDTH = (1200 - 2 * MARGIN + GAP) // max(len(CHILDREN), 1 + len(PARENTS)) - GAP
HEAD, LINE, NAME, PADDING = 26, 15, 19, 12
# The number of letters that fit into a line in every common sans serif font.
LETTERS = WIDTH * 54 // 354

STYLE = """
  text { font: 12px Verdana, "DejaVu Sans", "Segoe UI", Helvetica, Arial, sans-serif; fill: #475569 }
  .mono { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }
  .table { font-size: 14px; font-weight: bold; fill: #ffffff }
  .kind { fill: #ffffff }
  .column { font-size: 13px; font-weight: bold; fill: #0f172a }
  .type { fill: #0f766e }
  .key { font-size: 10px; font-weight: bold; fill: #ffffff }
  .comment { font-size: 11.5px }
  .box { fill: #ffffff; stroke: #94a3b8 }
  .rule { stroke: #e2e8f0 }
  .edge { fill: none; stroke-width: 1.5 }
  .page, .none { fill: #f8fafc }
  .users { stroke: #1d4ed8 }
  .pillars { stroke: #be123c }
  .shown { stroke: #0f766e }
  @media (prefers-color-scheme: dark) {
    text { fill: #cbd5e1 }
    .column { fill: #f8fafc }
    .type { fill: #5eead4 }
    .box { fill: #1e293b; stroke: #64748b }
    .rule { stroke: #334155 }
    .page, .none { fill: #0f172a }
    .users { stroke: #93c5fd }
    .pillars { stroke: #fda4af }
    .shown { stroke: #5eead4 }
  }
"""
COLOURS = {"PK": "#b45309", "FK": "#1d4ed8", "UK": "#7e22ce"}
LEGEND = "PK: primary key · FK: foreign key · UK: in a unique key · null: may be null · dashed: no key, by user_id"
EDGES = ["users", "pillars"]


def text(x: float, y: float, kind: str, content: str, *, end: bool = False) -> str:
    """Return a line of text that begins, or ends, at x."""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}"{anchor}>{escape(content)}</text>'


def wrap(comment: str | None) -> list[str]:
    """Return a comment in lines that fit into a box."""
    return textwrap.wrap(comment or "", LETTERS)


def height_of(table: sa.Table) -> float:
    """Return the height of a table's box."""
    lines = len(wrap(table.comment)) + sum(len(wrap(column.comment)) for column in table.columns)
    return HEAD + 2 * PADDING + lines * LINE + len(table.columns) * (NAME + PADDING)


def draw_table(table: sa.Table, x: float, y: float) -> list[str]:
    """Return a table's box: its name, what it is, and each column with its keys, its type and its comment."""
    kind, colour = (
        ("view", "#0f766e") if table is VIEW else ("Supabase's", "#64748b") if table.schema else ("table", "#334155")
    )
    parts = [
        f'<g class="entity" id="{table.fullname}">',
        f'<rect class="box" x="{x}" y="{y}" width="{WIDTH}" height="{height_of(table)}" rx="6"/>',
        f'<path d="M{x},{y + HEAD} v{6 - HEAD} q0,-6 6,-6 h{WIDTH - 12} q6,0 6,6 v{HEAD - 6} z" fill="{colour}"/>',
        text(x + 10, y + 18, "mono table", table.fullname),
        text(x + WIDTH - 10, y + 18, "kind", kind, end=True),
    ]
    y += HEAD + PADDING
    for line in wrap(table.comment):
        parts.append(text(x + 10, y + 7, "comment", line))
        y += LINE
    for column in table.columns:
        parts.append(f'<path class="rule" d="M{x + 1},{y + 2} h{WIDTH - 2}"/>')
        y += PADDING + 7
        parts.append(text(x + 10, y, "mono column", column.name))
        pill = x + 10 + 8 * len(column.name) + 8
        for key in keys_of(column):
            parts.append(f'<rect x="{pill}" y="{y - 11}" width="22" height="14" rx="3" fill="{COLOURS[key]}"/>')
            parts.append(text(pill + 4, y, "key", key))
            pill += 26
        nullable = " null" if column.nullable else ""
        parts.append(text(x + WIDTH - 10, y, "mono type", type_of(column) + nullable, end=True))
        y += NAME - 7
        for line in wrap(column.comment):
            parts.append(text(x + 10, y + 4, "comment", line))
            y += LINE
    return [*parts, "</g>"]


def draw_picture() -> str:
    """Return the diagram as SVG.

    The view, the users and the pillars are in the upper row, the tables that refer to the latter two in the lower one.
    Between the rows, each of the two has a line of its own, from which the keys lead down; a crow's foot marks the end
    with many rows.
    """
    upper = [VIEW, *PARENTS]
    columns = max(len(upper), len(CHILDREN))
    left = [MARGIN + number * (WIDTH + GAP) for number in range(columns)]
    bottom = MARGIN + max(map(height_of, upper))
    top = bottom + CHANNEL
    width = left[-1] + WIDTH + MARGIN
    height = top + max(map(height_of, CHILDREN)) + 44
    parts = []
    for number, (parent, kind) in enumerate(zip(PARENTS, EDGES, strict=True)):
        start = left[upper.index(parent)] + WIDTH / 2
        bus = bottom + 52 + number * 34
        keys = [
            (position, key)
            for position, child in enumerate(CHILDREN)
            for key in child.foreign_keys
            if key.column.table is parent
        ]
        ends = [left[position] + WIDTH * (number + 1) / 3 for position, _ in keys]
        rule = {f"{key.parent.name}, on delete {str(key.ondelete).lower()}" for _, key in keys}
        draw = f'class="edge {kind}"'
        foot = MARGIN + height_of(parent)
        parts.append(f'<path {draw} d="M{start},{foot} V{bus} M{min(start, *ends)},{bus} H{max(start, *ends)}"/>')
        # One or none, where the key may be null; exactly one, where it may not.
        parts.append(f'<path {draw} d="M{start - 6},{foot + 8} h12"/>')
        second = f'<path {draw} d="M{start - 6},{foot + 13} h12"/>'
        none = f'<circle class="edge {kind} none" cx="{start}" cy="{foot + 17}" r="4.5"/>'
        parts.append(none if all(key.parent.nullable for _, key in keys) else second)
        parts.append(text(start + 12, foot + 24, "", "; ".join(sorted(rule))))
        for end in ends:
            parts.append(f'<path {draw} d="M{end},{bus} V{top} M{end - 7},{top} l7,-11 l7,11"/>')
            parts.append(f'<circle class="edge {kind} none" cx="{end}" cy="{top - 15.5}" r="4.5"/>')
    # The view shows users' scores; no key says so.
    middle = MARGIN + 60
    parts.append(f'<path class="edge shown" stroke-dasharray="5 4" d="M{left[0] + WIDTH},{middle} H{left[1]}"/>')
    for table, x in zip(upper, left, strict=False):
        parts += draw_table(table, x, MARGIN)
    for table, x in zip(CHILDREN, left, strict=False):
        parts += draw_table(table, x, top)
    parts.append(text(MARGIN, height - 16, "", LEGEND))
    size = f'viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            "<title>The tables of momentum, auth.users and the view daily_momentum_scores</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{width}" height="{height:g}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def write_page() -> str:
    """Return docs/erd.md."""
    return f"""\
---
hide: [navigation, toc]
---

# Entity diagram

`make erd` draws it from the models. [The picture alone](erd.svg) can be enlarged.

![The tables with their columns and keys, auth.users, and the view](erd.svg)

The same as Mermaid, to edit or to paste elsewhere:

{draw_mermaid()}
"""


def documents() -> dict[Path, str]:
    """Return the content of each generated file, by path."""
    return {PICTURE: draw_picture(), PAGE: write_page()}


def main() -> None:
    for path, content in documents().items():
        path.write_text(content, encoding="utf-8")
        print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
