"""Writes the parts of docs/ that repeat the code: the schema, the rights of clients, revisions and public names."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, SchemaItem

import momentum
from momentum.base import Base, auth_users
from momentum.grants import CLIENT_TABLE, CLIENT_VIEW, CLIENTS, POLICIES
from momentum.inventory import PRIVATE_SCHEMA
from momentum.scores import TABLE_NAME
from tests.migrating import REVISIONS
from tools import marked
from tools.erd import POSTGRES, ROOT, TABLES, VIEW, in_lower_case, keys_of, type_of

DOCS = ROOT / "docs"


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


def write_table(table: sa.Table) -> str:
    """Return the section of a table."""
    lines = [f"## {table.fullname}", "", str(table.comment), ""]
    lines += ["| column | type | null | default | meaning |", "|---|---|---|---|---|"]
    for column in table.columns:
        default = f"`{column.server_default.arg}`" if isinstance(column.server_default, sa.DefaultClause) else ""
        name = " ".join([f"`{column.name}`", *keys_of(column)])
        nullable = "yes" if column.nullable else "no"
        lines.append(f"| {name} | {type_of(column)} | {nullable} | {default} | {column.comment}{in_python(column)} |")
    rules = {str(rule.name): write_rule(rule) for rule in table.constraints if rule.name}
    rules |= {str(index.name): write_index(index) for index in table.indexes}
    if rules and table is not VIEW:
        lines += ["", "| key, check or index | definition |", "|---|---|"]
        # A | would end the cell.
        lines += [f"| `{name}` | `{rule.replace('|', chr(92) + '|')}` |" for name, rule in sorted(rules.items())]
    return "\n".join(lines)


def write_tables() -> str:
    """Return every table, view and score table with its columns and rules."""
    described = [VIEW, score_table(), *(table for table in TABLES if table is not VIEW)]
    return "\n\n".join(map(write_table, described))


def write_rights() -> str:
    """Return the table of who may do what. That of the score table is in a revision, which the tests try out."""
    by_policy = "rows that a policy allows" + ("" if POLICIES else " (there is no policy yet)")
    own = "the user's own rows"

    def words(privileges: dict[str, str], rows: str) -> list[str]:
        given = {role: privileges.get(role, "nothing") for role in CLIENTS}
        given = {role: "everything" if said == "all" else said for role, said in given.items()}
        return list({**given, "authenticated": f"{given['authenticated']} on {rows}"}.values())

    rows = [
        ["", *CLIENTS],
        ["---"] * 4,
        ["the tables in `public`", *words(CLIENT_TABLE, by_policy)],
        ["a score table that was created", *words({"authenticated": "select", "service_role": "all"}, own)],
        ["a score table that was taken over", *["as before"] * 3],
        [f"`{VIEW.fullname}`", *words(CLIENT_VIEW, own)],
        [f"`{PRIVATE_SCHEMA}`", *["nothing"] * 3],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_revisions() -> str:
    """Return the table of the revisions: what each does on its way up and down."""
    lines = ["| revision | change | up | down |", "|---|---|---|---|"]
    for revision in REVISIONS:
        up, down = (
            " ".join(str(step.__doc__).split()) for step in (revision.module.upgrade, revision.module.downgrade)
        )
        lines.append(f"| `{revision.revision}` | {revision.doc} | {up} | {down} |")
    return "\n".join(lines)


def write_names() -> str:
    """Return the table of what other services import: the models, each with a link to its table, and the rest."""
    sections = {mapper.class_: str(mapper.local_table) for mapper in Base.registry.mappers}
    models, rest = [], []
    for name in momentum.__all__:
        found = getattr(momentum, name)
        if name == "__version__":
            continue
        meaning = str(found.__doc__).partition("\n")[0].replace("``", "`")
        if found in sections:
            models.append(f"| [`{name}`](schema.md#{sections[found]}) | {meaning} |")
        else:
            rest.append(f"| `{name}` | {meaning} |")
    return "\n".join(["| name | meaning |", "|---|---|", *models, *rest])


def documents() -> dict[Path, str]:
    """Return the content of each page that has generated parts, by path."""
    schema, migrations, services = (DOCS / name for name in ("schema.md", "migrations.md", "services.md"))
    with_tables = marked.rewrite(schema.read_text(encoding="utf-8"), "TABLES", write_tables())
    return {
        schema: marked.rewrite(with_tables, "RIGHTS", write_rights()),
        migrations: marked.rewrite(migrations.read_text(encoding="utf-8"), "REVISIONS", write_revisions()),
        services: marked.rewrite(services.read_text(encoding="utf-8"), "NAMES", write_names()),
    }


def main() -> None:
    for path, content in documents().items():
        path.write_text(content, encoding="utf-8")
        print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
