"""The packaged revisions, read from their files: importing Alembic for them would take a quarter of a second."""

import re
from pathlib import Path

# An installed package contains the migrations; in the repository they are next to it.
PACKAGED = Path(__file__).parent / "_alembic"
SCRIPTS = PACKAGED if PACKAGED.exists() else Path(__file__).parents[1] / "alembic"

NAMES = re.compile(r'^(revision|down_revision)\b.* = (?:"(\w+)"|None)$', re.MULTILINE)


def read_history() -> list[str]:
    """Return every packaged revision, the oldest first; the last one is the head."""
    after: dict[str, str] = {}
    for path in (SCRIPTS / "versions").glob("*.py"):
        named = dict(NAMES.findall(path.read_text(encoding="utf-8")))
        after[named["down_revision"]] = named["revision"]
    history: list[str] = []
    while revision := after.get(history[-1] if history else ""):
        history.append(revision)
    return history
