"""The SQL that ``--sql`` writes for psql and other tools, with guards in place of the online checks."""

import functools
from typing import Any

from alembic import context
from alembic.runtime.migration import RevisionStep

from momentum import inventory
from momentum.connect.settings import PINNED, as_statements
from momentum.errors import ConfigurationError
from momentum.migrate import access
from momentum.migrate.environment import LIMITS, Environment
from momentum.scores import SCHEMAS, TABLE_NAME
from momentum.trust import refusing_block

# The session setting with which a script made with --sql notes that it may continue.
ACCEPTED = "momentum.script_accepted"
REFUSE = f"""if current_setting('{ACCEPTED}', true) is distinct from 'yes' then
    raise exception 'this script was refused at its beginning';
  end if;"""


def write_script(environment: Environment) -> None:
    """Write the SQL of a migration to standard output, for psql and other tools."""
    if environment.options.purge:
        raise ConfigurationError("purge=yes counts what it drops, so it needs the database: leave out --sql.")
    start = context.get_starting_revision_argument()
    given = {"dialect_opts": {"paramstyle": "named"}, "literal_binds": True, **environment.settings("upgrade")}
    context.configure(dialect_name="postgresql", **given)
    steps = context.get_context().opts["fn"]
    context.configure(
        dialect_name="postgresql", fn=lambda *heads: [guarded(step, environment) for step in steps(*heads)], **given
    )
    revision = context.script.get_revision(start) if isinstance(start, str) else None
    lower = revision.revision if revision else None
    checks = ""
    if environment.options.existing == "adopt" and steps.__name__ == "upgrade":
        pending = context.script.iterate_revisions(context.get_revision_argument(), lower)
        created = {name for step in pending for name in getattr(step.module, "creates", ())}
        checks = access.check_on_server(created, environment.options.access)
    # Alembic creates the version table in a script that starts at base; an online downgrade leaves an empty one.
    remove = "" if revision else f"drop table if exists {inventory.PRIVATE_SCHEMA}.alembic_version;\n  "
    # For the session, because some statements can't run in a transaction.
    for setting in as_statements({**PINNED, **LIMITS}, local=False):
        context.execute(setting)
    # Withdrawn first: an earlier script of the same session may have been accepted.
    context.execute(f"do $withdraw$ begin perform set_config('{ACCEPTED}', 'no', false); end $withdraw$")
    relations = [f"public.{name}" for name in (*inventory.TABLES, inventory.VIEW)]
    context.execute(refusing_block([*relations, *(f"{schema}.{TABLE_NAME}" for schema in SCHEMAS)]))
    context.execute(guard(lower, f"{checks}{remove}perform set_config('{ACCEPTED}', 'yes', false);"))
    if revision is None:
        context.execute(f"create schema if not exists {inventory.PRIVATE_SCHEMA}")
    with context.begin_transaction():
        context.run_migrations()
    for name in (*LIMITS, *PINNED):
        context.execute(f"reset {name}")


def guarded(step: RevisionStep, environment: Environment) -> RevisionStep:
    """Put the guard into a step's transaction too: a psql that continues after an error would run the next one."""
    migrate = step.migration_fn

    @functools.wraps(migrate)
    def migrate_guarded(**arguments: Any) -> None:
        lower = next(iter(step.from_revisions if step.is_upgrade else step.to_revisions), None)
        context.get_context().opts |= {"protection": protection(lower), "guard": guard(lower, before=REFUSE)}
        for setting in environment.settings("upgrade")["timeouts"]:
            context.execute(setting)
        context.execute(guard(next(iter(step.from_revisions), None), before=REFUSE))
        migrate(**arguments)

    step.migration_fn = migrate_guarded
    return step


def protection(expected: str | None) -> str:
    """Return SQL that makes the session read-only unless the script was accepted and has reached a revision.

    It protects statements that run outside of the transactions and so without their guards.
    """
    return f"""
do $protect$
declare
  found text;
begin
  if current_setting('{ACCEPTED}', true) is distinct from 'yes' then
    null; -- Not even the version is read from something that may be planted.
  elsif to_regclass('{inventory.PRIVATE_SCHEMA}.alembic_version') is not null then
    execute 'select version_num from {inventory.PRIVATE_SCHEMA}.alembic_version' into found;
  end if;
  if current_setting('{ACCEPTED}', true) is distinct from 'yes' or found is distinct from '{expected}' then
    perform set_config('default_transaction_read_only', 'on', false);
  end if;
end
$protect$"""


def guard(expected: str | None, then: str = "", *, before: str = "") -> str:
    """Return SQL that fails unless the database is at the expected revision, and runs more SQL after or before that."""
    version_table = f"{inventory.PRIVATE_SCHEMA}.alembic_version"
    literal = f"'{expected}'" if expected else "null"
    return f"""
do $guard$
declare
  found text;
begin
  {before}
  if to_regclass('{version_table}') is not null then
    execute 'select string_agg(version_num, '', '') from {version_table}' into found;
  end if;
  if found is distinct from {literal} then
    raise exception 'this script needs a database at revision %, and this one is at %', coalesce({literal}, 'base'),
      coalesce(found, 'base');
  end if;
  {then}
end
$guard$"""
