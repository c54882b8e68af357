"""The privileges of clients on a table and on the view; "Who may do what" in docs/schema.md is generated from them."""

# Supabase grants these roles everything on a new table, so all of it is revoked before anything is granted.
CLIENTS = ("anon", "authenticated", "service_role")

# The privileges of each role. Row-level security hides all rows from authenticated until there is a policy.
CLIENT_TABLE = {"authenticated": "select, insert, update, delete", "service_role": "all"}
CLIENT_VIEW = {"authenticated": "select", "service_role": "select"}

# The policies of each table by name, as `create policy <name> on <table>` takes them. There are none yet.
POLICIES: dict[str, dict[str, str]] = {}


def grant_statements(relation: str, privileges: dict[str, str]) -> list[str]:
    """Return the statements that leave clients with exactly these privileges on a relation."""
    return [
        f"revoke all on table {relation} from {', '.join(('public', *CLIENTS))}",
        *(f"grant {granted} on table {relation} to {role}" for role, granted in privileges.items()),
    ]
