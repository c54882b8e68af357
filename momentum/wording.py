"""The wording of numbers, names and advice in messages."""

import logging
import os
import re

# Roles with this prefix belong to Supabase's platform: nobody outside of it can connect as one or be made a member. A
# project's owner has this one, which bypasses row-level security and may grant rights on auth.users.
PLATFORM_PREFIX = "supabase_"
PROJECT_OWNER = "postgres"


# A user with a password and a host, as in a URL, with or without its scheme.
CREDENTIALS = re.compile(r"://|:.*@", re.DOTALL)


def printable(text: str) -> str:
    """Return a text with its control characters, line breaks and direction marks written as escapes.

    Names and the server's messages may hold any character, and a terminal or a log would obey some.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def as_word(text: str) -> str:
    """Return a word as a shell reads it; one that isn't printable as bash does, byte by byte."""
    import shlex  # here, because a service that imports the models has no use for it

    if text.isprintable():
        return shlex.quote(text)
    letters = (
        chr(each) if chr(each).isascii() and (chr(each).isalnum() or each in b"-_./ ") else f"\\x{each:02x}"
        for each in os.fsencode(text)
    )
    return f"$'{''.join(letters)}'"


def make_printable(record: logging.LogRecord) -> bool:
    """Make the message of a log record printable, and let it pass."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


# The loggers of the whole package: the revisions log too, and import nothing from it.
for name in ("momentum.backfill", "momentum.database", "momentum.migrations"):
    logging.getLogger(name).addFilter(make_printable)


def holds_credentials(text: str) -> bool:
    """Return whether a text may be a URL, or hold one, whose password no message may repeat."""
    return CREDENTIALS.search(text) is not None


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


def statement_in(advice: str) -> str | None:
    """Return the statement that a sentence advises to run; None if there is none."""
    found = re.search(r"`(.+)`", advice)
    return found[1] if found else None


def is_of_platform(role: str) -> bool:
    """Return whether a role belongs to Supabase's platform, so that nobody outside of it can be that role."""
    return role.startswith(PLATFORM_PREFIX)
