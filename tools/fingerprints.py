"""Writes momentum/verify/fingerprints/: the facts about our objects at head, and at the head of each release."""

import logging

from momentum.inventory import PREDECESSOR_ROWS, private
from momentum.migrate.config import SCORES
from momentum.testing import Server, running_server
from momentum.verify import compare as verify
from tests.migrating import HISTORY, database_with_scores, migrate_to
from tests.server import engine_of
from tools.contract import released, revisions_of

# The heads of the releases and of the repository, oldest first.
REVISIONS = [
    revision
    for revision in HISTORY
    if revision == HISTORY[-1] or any(revision in revisions_of(folder) for folder in released())
]


def facts_at(revision: str, server: Server, scores: str, *, predecessors: bool = False) -> tuple[str, dict[str, str]]:
    """Migrate a database to a revision, and return its fingerprint's name and its facts."""
    url = database_with_scores(server, scores, predecessors=predecessors)
    try:
        migrate_to(url, revision, existing="adopt", access="close", verify="no")
        with engine_of(url).connect() as connection, verify.pinned(connection):
            record = verify.read_record(connection)
            return verify.fingerprint_name(revision, record), verify.read_facts(connection, record)
    finally:
        server.drop_database(url)


def fingerprints(server: Server) -> dict[str, str]:
    """Return the text of every file by its name."""
    files: dict[str, str] = {}
    for revision in REVISIONS:
        # Where the app had its own versions of our tables there is one more table of ours; the rest is the same.
        _, facts = facts_at(revision, server, "fresh", predecessors=True)
        of_predecessors = {
            key: value for key, value in facts.items() if verify.object_of(key) == f"table {private(PREDECESSOR_ROWS)}"
        }
        for scores in SCORES:
            name, facts = facts_at(revision, server, scores)
            text = verify.write_fingerprint(facts | of_predecessors)
            assert files.setdefault(name, text) == text, f"{name} depends on more than its name says: {scores}"
    return files


def main() -> None:
    # These databases have no clients who would lose what the migrations warn of.
    logging.getLogger("momentum.migrations").setLevel(logging.ERROR)
    with running_server() as server:
        files = fingerprints(server)
    for path in verify.FINGERPRINTS.iterdir():
        path.unlink()
    for name, text in files.items():
        (verify.FINGERPRINTS / name).write_text(text, encoding="utf-8")
    print(f"Wrote {len(files)} files into {verify.FINGERPRINTS}.")


if __name__ == "__main__":
    main()
