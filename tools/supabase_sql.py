"""Write supabase/migrations/, one file per revision, for the Supabase CLI: `python -m tools.supabase_sql`.

The CLI executes each file in one transaction, together with its own note that it has done so. So a file needs none of
the precautions of the scripts that `alembic upgrade --sql` writes for psql, which goes on after an error.
"""

import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory

import momentum.migrate.operations  # noqa: F401 - it registers op.park_table and the others
from momentum.connect.settings import PINNED, as_statements
from momentum.inventory import FRESH_SCORES, PRIVATE_SCHEMA
from momentum.migrate.config import SCRIPTS as FOLDER
from momentum.migrate.config import alembic_config
from momentum.migrate.environment import LIMITS
from momentum.scores import TABLE_NAME
from momentum.trust import refusing_block
from tests.migrating import REVISIONS, SCRIPTS
from tools.exported_sql import CREATION

DIRECTORY = FOLDER.parent / "supabase" / "migrations"

HEADER = """\
-- {title}
-- Made by `make supabase-sql` from alembic/versions/{source};
-- change that file, not this one.
{settings}
"""

# Before the first file, so that a push that cannot finish changes nothing. A database with tables of ours is left to
# Alembic, which takes over what it finds; these files would make an empty table next to it.
ONLY_A_NEW_DATABASE = """
-- Names that this file or a later one takes, so that a push that can't finish changes nothing. A new revision adds its
-- own; a database to which this file has been applied is not concerned.
do $only_a_new_database$
declare
  found constant text := (
    select string_agg(format('%s.%s', n.nspname, c.relname), ', ' order by n.nspname, c.relname)
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    where
      format('%s.%s', n.nspname, c.relname) = any (array[
        {names}
      ])
      or (n.nspname = '{private}' and c.relkind in ('r', 'p') and c.relname <> 'alembic_version')
  );
  migrated text;
begin
  if found is not null then
    raise exception
      'already in this database: %; migrate it with alembic upgrade head, which keeps what is there', found;
  end if;
  -- Alembic leaves an empty one after a downgrade.
  if to_regclass('{private}.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from {private}.alembic_version' into migrated;
    if migrated is not null then
      raise exception 'Alembic has migrated this database to revision %; go on with alembic upgrade head', migrated;
    end if;
    drop table {private}.alembic_version;
  end if;
end
$only_a_new_database$;

create schema if not exists {private};
"""

# Before each of the others: somebody may have migrated with Alembic since the earlier files were pushed.
ONLY_AFTER = """
do $only_after_{before}$
declare
  migrated text;
begin
  if to_regclass('{private}.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from {private}.alembic_version' into migrated;
  end if;
  if migrated is distinct from '{before}' then
    raise exception 'this migration needs a database at revision {before}, and this one is at %; migrate it with '
      'alembic upgrade head', coalesce(migrated, 'base');
  end if;
end
$only_after_{before}$;
"""

NOT_WHERE_ONE_IS_PARKED = """
do $not_where_one_is_parked$
begin
  if to_regclass('{private}.{table}') is not null then
    raise exception '{table} is parked in {private}; alembic upgrade head takes it back with its rows';
  end if;
end
$not_where_one_is_parked$;
"""


def file_name(revision: Script) -> str:
    """Return the name of a revision's file for the CLI: the same time, to the second, and the same words."""
    time, _, slug = Path(revision.path).stem.partition("_")
    return f"{datetime.strptime(time, '%Y-%m-%d-%H%M'):%Y%m%d%H%M%S}_{slug}.sql"  # noqa: DTZ007


def statements(revision: Script, scripts: ScriptDirectory = SCRIPTS) -> str:
    """Return the SQL with which Alembic upgrades to a revision from the one before, version row included.

    It creates tables without looking for parked ones: a guard of its own does that.
    """
    output = io.StringIO()
    before, after = revision.down_revision, revision.revision
    with EnvironmentContext(
        alembic_config("postgresql://unused@localhost/unused"),
        scripts,
        fn=lambda heads, _: scripts._upgrade_revs(after, heads),
        as_sql=True,
        starting_rev=before,
        destination_rev=after,
    ) as environment:
        environment.configure(
            dialect_name="postgresql",
            dialect_opts={"paramstyle": "named"},
            literal_binds=True,
            output_buffer=output,
            transactional_ddl=False,
            version_table="alembic_version",
            version_table_schema=PRIVATE_SCHEMA,
            existing="refuse",
            scores="fresh",
            one_transaction=True,
        )
        environment.run_migrations()
    return CREATION.sub(lambda block: block["statements"], output.getvalue())


def guard(revision: Script, sql: str) -> str:
    """Return the SQL that refuses a database that a revision's file is not meant for."""
    if revision.down_revision is None:
        names = [f"public.{name}" for each in REVISIONS for name in each.module.creates]
        names += [f"legacy.{name}" for name in FRESH_SCORES] + [f"public.{TABLE_NAME}"]
        return f"{refusing_block()};\n" + ONLY_A_NEW_DATABASE.format(
            private=PRIVATE_SCHEMA, names=",\n        ".join(f"'{name}'" for name in names)
        )
    return ONLY_AFTER.format(private=PRIVATE_SCHEMA, before=revision.down_revision) + "".join(
        NOT_WHERE_ONE_IS_PARKED.format(private=PRIVATE_SCHEMA, table=table) for table in created_tables(sql)
    )


def created_tables(sql: str) -> list[str]:
    """Return the tables that a script creates outside the private schema, without their schema."""
    qualified = [line.split()[2] for line in sql.splitlines() if line.startswith("CREATE TABLE ")]
    return [name.partition(".")[2] for name in qualified if not name.startswith(f"{PRIVATE_SCHEMA}.")]


def export(revisions: Sequence[Script] = REVISIONS, scripts: ScriptDirectory = SCRIPTS) -> dict[str, str]:
    """Return the files' texts by their names, in the order of the history."""
    files = {}
    for revision in revisions:
        sql = statements(revision, scripts)
        settings = "\n".join(f"{setting};" for setting in as_statements({**LIMITS, **PINNED}))
        header = HEADER.format(title=revision.doc, source=Path(revision.path).name, settings=settings)
        lines = f"{header}{guard(revision, sql)}\n{sql}".splitlines()
        files[file_name(revision)] = "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
    return files


def main() -> None:
    files = export()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    before = {path.name: path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.sql")}
    for name in before.keys() - files.keys():
        (DIRECTORY / name).unlink()
        print(f"Removed {DIRECTORY / name}: it has no revision.")
    for name, text in files.items():
        if before.get(name) != text:
            (DIRECTORY / name).write_text(text, encoding="utf-8")
            print(f"Wrote {DIRECTORY / name}.")


if __name__ == "__main__":
    main()
