"""Writes sql/citus/ from the models: `python -m tools.citus_sql`.

A table with a key to the user is distributed by it, next to the user; any other is copied to every worker. The score
table and everything else are in the templates, tools/citus_distribute.sql and tools/citus_undistribute.sql.
"""

import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from momentum.base import Base, auth_users
from momentum.grants import CLIENT_TABLE, CLIENT_VIEW, POLICIES, grant_statements
from momentum.models import DailyMomentumScore
from tools.erd import ROOT

FOLDER = ROOT / "sql" / "citus"
SCORES = "legacy.daily_engagement_scores"
VIEW = f"public.{DailyMomentumScore.__tablename__}"


def owner_of(table: sa.Table) -> str | None:
    """Return the column with the user who owns the rows, if there is one."""
    keys = (key.parent for key in table.foreign_keys if key.column.table.fullname == auth_users.fullname)
    owners = sorted(column.name for column in keys if not column.nullable)
    return "user_id" if "user_id" in owners else next(iter(owners), None)


def alter(table: sa.Table, actions: Iterable[str]) -> str:
    """Return the statement that alters a table."""
    return f"alter table public.{table.name}\n" + ",\n".join(actions) + ";"


def swap_primary_key(table: sa.Table, *before: str) -> str:
    """Return the statement that gives a table its primary key again, with columns before its own."""
    name = table.primary_key.name
    columns = ", ".join([*before, *(column for column in table.primary_key.columns.keys() if column not in before)])  # noqa: SIM118
    return alter(table, [f"drop constraint {name}", f"add constraint {name} primary key ({columns})"])


def add_foreign_key(key: sa.ForeignKeyConstraint) -> str:
    """Return the action that adds a foreign key."""
    [target] = {element.column.table for element in key.elements}
    referred = (
        f"{target.schema or 'public'}.{target.name} ({', '.join(element.column.name for element in key.elements)})"
    )
    rule = f" on delete {key.ondelete.lower()}" if key.ondelete else ""
    columns = ", ".join(key.column_keys)
    return f"add constraint {key.name}\nforeign key ({columns}) references {referred}{rule}"


def write_policies(*, distributed: bool) -> str:
    """Return the statements that give tables their policies again: distributed ones, without a subquery."""
    lines = []
    for table, policies in POLICIES.items():
        for name, rest in policies.items():
            rule = re.sub(r"\(select (auth\.\w+\(\))\)", r"\1", rest) if distributed else rest
            lines += [f"drop policy {name} on public.{table};", f"create policy {name} on public.{table}\n{rule};"]
    return "".join(f"{line}\n" for line in lines)


def documents() -> dict[Path, str]:
    """Return what each script should hold."""
    tables = Base.metadata.sorted_tables
    owners = {table: owner for table in tables if (owner := owner_of(table))}
    owned = list(owners)
    everywhere = [table for table in tables if table not in owned]
    names = [auth_users.fullname, *(f"public.{table.name}" for table in tables), SCORES]
    keys = {
        table: sorted(table.foreign_key_constraints, key=lambda key: str(key.name), reverse=True) for table in tables
    }
    referring = [table for table in tables if keys[table]]

    def listed(items: Iterable[str], indent: int) -> str:
        return textwrap.fill(", ".join(items), 118, initial_indent=" " * indent, subsequent_indent=" " * indent)

    everyone = {auth_users.fullname: "id", **{f"public.{table.name}": owner for table, owner in owners.items()}}
    everyone[SCORES] = "user_id"
    policies = [(f"public.{table}", name) for table, found in POLICIES.items() for name in found]
    policies.append((SCORES, "daily_engagement_scores_select_own"))
    frees = [*(f"public.{table.name}" for table in everywhere), auth_users.fullname]
    grants = [f"public.{table.name}" for table in tables]
    parts = {
        "names": listed((f"'{name}'" for name in names), 4),
        "regclasses": listed((f"'{name}'::regclass" for name in names), 8),
        "regclasses_less_deep": listed((f"'{name}'::regclass" for name in names), 6),
        "owners": listed((f"('{name}'::regclass, '{owner}')" for name, owner in everyone.items()), 8),
        "policies_of_ours": listed((f"('{table}', '{name}')" for table, name in policies), 8),
        "free": " ".join(f"select truncate_local_data_after_distributing_table(''{name}'');" for name in frees),
        "drop_foreign_keys": [
            alter(table, (f"drop constraint {key.name}" for key in keys[table])) for table in referring
        ],
        "add_foreign_keys": [alter(table, [add_foreign_key(key)]) for table in referring for key in keys[table]],
        "widen_primary_keys": [swap_primary_key(table, owner) for table, owner in owners.items()],
        "restore_primary_keys": [swap_primary_key(table) for table in owned],
        "create_reference_tables": [f"select create_reference_table('public.{table.name}');" for table in everywhere],
        "create_distributed_tables": [
            f"select create_distributed_table('public.{table.name}', '{owner}', colocate_with => 'auth.users');"
            for table, owner in owners.items()
        ],
        "undistribute_tables": [f"select undistribute_table('public.{table.name}');" for table in reversed(owned)],
        "undistribute_reference_tables": [
            f"select undistribute_table('public.{table.name}');" for table in reversed(everywhere)
        ],
        "grants": [
            f"{statement};"
            for relation, privileges in [*((name, CLIENT_TABLE) for name in grants), (VIEW, CLIENT_VIEW)]
            for statement in grant_statements(relation, privileges)
        ],
    }
    files = {}
    for name in ("distribute", "undistribute"):
        text = (ROOT / "tools" / f"citus_{name}.sql").read_text(encoding="utf-8")
        text = text.replace("{policies}", write_policies(distributed=name == "distribute"))
        for part, content in parts.items():
            text = text.replace(f"{{{part}}}", content if isinstance(content, str) else "\n".join(content))
        files[FOLDER / f"{name}.sql"] = text
    return files


def main() -> None:
    for path, content in documents().items():
        path.write_text(content, encoding="utf-8")
        print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
