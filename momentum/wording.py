"""The wording of numbers and of advice in messages."""

# Roles with this prefix belong to Supabase's platform: nobody outside of it can connect as one or be made a member. A
# project's owner has this one, which bypasses row-level security and may grant rights on auth.users.
PLATFORM_PREFIX = "supabase_"
PROJECT_OWNER = "postgres"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless there is exactly one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def advise(owner: str, statement: str) -> str:
    """Return the advice for a role that lacks what only an owner can do or give.

    Args:
        owner: The role that owns the object.
        statement: The statement with which the owner does or gives it.
    """
    if is_of_platform(owner):
        return f"nobody outside of Supabase can be {owner}, so ask its support to run `{statement}`"
    return f"connect as {owner}, or let {owner} run `{statement}`"


def is_of_platform(role: str) -> bool:
    """Return whether a role belongs to Supabase's platform, so that nobody outside of it can be that role."""
    return role.startswith(PLATFORM_PREFIX)
