"""Run Supabase's advisors on a migrated database: `python -m tools.advisors`; exit code 1 if they object."""

import json
import re
import sys
from typing import NamedTuple

import sqlalchemy as sa

from momentum.models import Base
from momentum.testing import running_server
from tests.supabase_cli import supabase

OURS = "|".join(Base.metadata.tables)


class Finding(NamedTuple):
    """Something that a lint reports.

    Attributes:
        level: INFO, WARN or ERROR.
        lint: The lint's name, such as ``duplicate_index``.
        detail: What it found, and where.
    """

    level: str
    lint: str
    detail: str


class Allowance(NamedTuple):
    """An info that we accept: the lint that reports it, a pattern for the report, and the reason."""

    lint: str
    detail: str
    reason: str


ALLOWED = (
    Allowance(
        "rls_enabled_no_policy",
        rf"Table `(public|momentum_internal)\.({OURS})` ",
        "a later revision adds the policies; until then no client shall see a row",
    ),
    Allowance(
        "unused_index",
        rf"Index `ix_({OURS})_\w+` on table `(public|momentum_internal)\.({OURS})` ",
        "no query has run yet in a database that was just made",
    ),
    Allowance(
        "unused_index",
        "Index `ix_superseded_scores_user_id` on table `momentum_internal.superseded_scores` ",
        "it serves the deletion of a user",
    ),
    Allowance(
        "no_primary_key",
        "Table `momentum_internal.superseded_scores` ",
        "it has the columns of the adopted table, which may have no key either",
    ),
)


def findings(url: sa.URL) -> list[Finding]:
    """Return the advisors' findings on a database, of every level."""
    done = supabase("db", "advisors", "--level=info", "--output-format=json", url=url)
    assert done.returncode == 0, done.stderr + done.stdout
    return [Finding(found["level"], found["name"], found["detail"]) for found in json.loads(done.stdout)["results"]]


def reason(finding: Finding) -> str | None:
    """Return why a finding is accepted, or None if it is not."""
    for allowed in ALLOWED:
        if finding[:2] == ("INFO", allowed.lint) and re.match(allowed.detail, finding.detail):
            return allowed.reason
    return None


def objections(url: sa.URL) -> list[Finding]:
    """Return the findings that nobody has given a reason to accept."""
    return [finding for finding in findings(url) if reason(finding) is None]


def main() -> int:
    """Print the advisors' findings on a migrated database, and return the exit code."""
    with running_server() as server, server.database() as url:
        reported = findings(url)
    for finding in sorted(reported, key=lambda finding: (reason(finding) is None, finding)):
        print(f"{finding.level} {finding.lint}: {finding.detail} ({reason(finding) or 'NOT ALLOWED'})")
    refused = sum(reason(finding) is None for finding in reported)
    print(f"{len(reported)} findings, {refused} of them not allowed.")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
