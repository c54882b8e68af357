"""Writes the pages of docs/ that repeat what stands elsewhere: the schema from the models, two pages from README.md."""

import re
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, SchemaItem

from momentum.base import Base, auth_users
from momentum.scores import TABLE_NAME
from tests.migrating import REVISIONS
from tools.erd import POSTGRES, README, ROOT, TABLES, VIEW, in_lower_case, keys_of, type_of

DOCS = ROOT / "docs"
# README.md's sections that are a page each.
SECTIONS = {"migrations.md": "Migrate a Supabase project", "backfill.md": "The backfill"}


def section_of_readme(title: str) -> str:
    """Return a section of README.md with its heading, of whichever level, up to the next one of that level.

    Raises:
        ValueError: There is no such section.
    """
    readme = README.read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(title)}\n.*?(?=^\1 |^## |\Z)", readme, flags=re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"README.md has no section {title}; name the section that took its place in {__file__}.")
    return found[0].rstrip()


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub and the site give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def page_from_readme(name: str) -> str:
    """Return a section of README.md as a page: headings one level up, links as they are within docs/."""
    page = re.sub(r"^#(#+ )", r"\1", section_of_readme(SECTIONS[name]), flags=re.MULTILINE)
    # Links to a heading lead to the page that has it.
    for other, title in SECTIONS.items():
        for heading in re.findall(r"^#+ (.*)", section_of_readme(title), flags=re.MULTILINE):
            page = page.replace(f"](#{anchor_of(heading)})", f"]({other}#{anchor_of(heading)})")
    return page.replace("](docs/", "](") + "\n"


def write_rule(rule: sa.Constraint) -> str:
    """Return a constraint as SQL."""
    match rule:
        case sa.PrimaryKeyConstraint():
            return f"primary key ({', '.join(rule.columns.keys())})"
        case sa.UniqueConstraint():
            return f"unique ({', '.join(rule.columns.keys())})"
        case sa.ForeignKeyConstraint():
            referred = f"{rule.referred_table.fullname} ({', '.join(key.column.name for key in rule.elements)})"
            return f"{', '.join(rule.column_keys)} references {referred} on delete {str(rule.ondelete).lower()}"
        case sa.CheckConstraint():
            return f"check ({rule.sqltext})"
    raise TypeError(f"{rule} is of a kind that {__file__} cannot write.")


def write_index(index: sa.Index) -> str:
    """Return the columns of an index as SQL."""
    over = in_lower_case(str(CreateIndex(index).compile(dialect=POSTGRES)))
    return ("unique index " if index.unique else "index ") + over[over.index("(") :]


class Recorder:
    """Records the table that a revision creates, in place of Alembic's operations. Plain SQL is ignored."""

    def __init__(self) -> None:
        self.metadata = sa.MetaData()
        auth_users.to_metadata(self.metadata)

    def create_table(self, name: str, *parts: SchemaItem, **options: Any) -> None:
        """Record the table."""
        self.table = sa.Table(name, self.metadata, *parts, **options)

    def create_index(self, name: str, _table: str, columns: list[Any], *, unique: bool, schema: str) -> None:
        """Record an index of it."""
        assert schema == self.table.schema
        over = [column if isinstance(column, sa.TextClause) else self.table.columns[column] for column in columns]
        self.table.append_constraint(sa.Index(name, *over, unique=unique))

    def execute(self, _sql: str) -> None:
        """Ignore plain SQL."""

    def f(self, name: str) -> str:
        """Return a name as it is."""
        return name


def score_table() -> sa.Table:
    """Return the score table as the revision creates it where there is none. No model maps it."""
    name = f"create_{TABLE_NAME}"
    [create] = [getattr(revision.module, name) for revision in REVISIONS if hasattr(revision.module, name)]
    recorder = Recorder()
    create(recorder)
    return recorder.table


def in_python(column: sa.Column[Any]) -> str:
    """Return a column's name in Python if it differs, and the relationships that use it."""
    said = ""
    for mapper in Base.registry.mappers:
        if mapper.local_table is column.table:
            key = mapper.get_property_by_column(column).key
            said += f" In Python: `{key}`." if key != column.name else ""
            for other in mapper.relationships:
                said += f" In Python also the relationship `{other.key}`." if column in other.local_columns else ""
    return said


def write_table(table: sa.Table) -> list[str]:
    """Return the lines of a table."""
    lines = ["", f"## {table.fullname}", "", str(table.comment), ""]
    lines += ["| column | type | null | default | what it is |", "|---|---|---|---|---|"]
    for column in table.columns:
        default = f"`{column.server_default.arg}`" if isinstance(column.server_default, sa.DefaultClause) else ""
        name = " ".join([f"`{column.name}`", *keys_of(column)])
        nullable = "yes" if column.nullable else "no"
        lines.append(f"| {name} | {type_of(column)} | {nullable} | {default} | {column.comment}{in_python(column)} |")
    rules = {str(rule.name): write_rule(rule) for rule in table.constraints if rule.name}
    rules |= {str(index.name): write_index(index) for index in table.indexes}
    if rules and table is not VIEW:
        lines += ["", "| key, rule or index | what it says |", "|---|---|"]
        # A | would end the cell.
        lines += [f"| `{name}` | `{rule.replace('|', chr(92) + '|')}` |" for name, rule in sorted(rules.items())]
    return lines


def write_schema() -> str:
    """Return docs/schema.md."""
    lines = [
        "# Schema",
        "",
        "Written by `make docs` from the models. The comments are in the database as well, and the names of keys,",
        "rules and indexes are those that errors name; [the entity diagram](erd.md) shows it as a picture. PK, FK and",
        "UK: the column belongs to the primary key, a foreign key or a unique key. Of `auth.users` only the column is",
        "shown that keys refer to. `legacy.daily_engagement_scores` is the score table as it is created where there is",
        "none to take over; no model maps it. On it and on the four tables a trigger keeps `updated_at`.",
    ]
    for table in TABLES:
        lines += write_table(table)
        if table is VIEW:
            lines += write_table(score_table())
    return "\n".join([*lines, "", section_of_readme("Who may do what").removeprefix("#"), ""])


def write_migrations() -> str:
    """Return docs/migrations.md: README.md's section, and what each revision does on its way up and down."""
    lines = [
        page_from_readme("migrations.md"),
        "## The revisions",
        "",
        "Each is one change, in this order. The key of scores that were taken over is made after its revision's",
        "transaction, so that clients can go on writing meanwhile.",
        "",
        "| revision | what it does | up | down |",
        "|---|---|---|---|",
    ]
    for revision in REVISIONS:
        up, down = (
            " ".join(str(step.__doc__).split()) for step in (revision.module.upgrade, revision.module.downgrade)
        )
        lines.append(f"| `{revision.revision}` | {revision.doc} | {up} | {down} |")
    return "\n".join([*lines, ""])


def documents() -> dict[Path, str]:
    """Return the content of each generated file, by path."""
    return {
        DOCS / "schema.md": write_schema(),
        DOCS / "migrations.md": write_migrations(),
        DOCS / "backfill.md": page_from_readme("backfill.md"),
    }


def main() -> None:
    for path, content in documents().items():
        path.write_text(content, encoding="utf-8")
        print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
