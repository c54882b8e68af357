"""Write the SQL of every migration, forward and back, for the linters: `python -m tools.exported_sql DIRECTORY`."""

import io
import re
import sys
from pathlib import Path

import alembic.command
from alembic.config import Config

from momentum.migrate.config import SCORES, MigrationOptions, alembic_config

# The options on which the SQL depends: where the score table is, and whether the app's own tables are taken over.
PATHS: dict[str, MigrationOptions] = {
    # Of the schemas of a layout the last one.
    **{scores.partition(".")[2] or scores: {"scores": scores} for scores in SCORES},
    "existing": {"existing": "adopt", "access": "close"},
}

# Linters don't look into a DO block, and tables are created in one, after the check for a parked table.
CREATION = re.compile(
    r"^do \$take_back_or_create\$\n.*?^  end if;\n\n(?P<statements>.*?)\nend\n\$take_back_or_create\$;$",
    re.MULTILINE | re.DOTALL,
)
# Likewise columns.
ADDITION = re.compile(CREATION.pattern.replace("create", "add_column"), re.MULTILINE | re.DOTALL)


def export(direction: str, revisions: str, options: MigrationOptions) -> str:
    """Return the SQL of a migration, for linters."""
    return export_with(alembic_config("postgresql://unused@localhost/unused", **options), direction, revisions)


def export_with(config: Config, direction: str, revisions: str) -> str:
    """Return the SQL of a migration, with the statements that create tables and columns outside of their DO blocks."""
    config.output_buffer = io.StringIO()
    getattr(alembic.command, direction)(config, revisions, sql=True)
    sql: str = config.output_buffer.getvalue()
    for block in (CREATION, ADDITION):
        sql = block.sub(lambda found: found["statements"], sql)
    return sql


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, options in PATHS.items():
        for direction, revisions in (("upgrade", "head"), ("downgrade", "head:base")):
            sql = export(direction, revisions, options)
            (directory / f"{direction}_{name}.sql").write_text(sql, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
