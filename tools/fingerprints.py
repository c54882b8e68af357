"""Writes momentum/verify/fingerprints/: what the catalogs say of our objects after each revision."""

from collections.abc import Iterator

from momentum.testing import Server, running_server
from momentum.verify import compare as verify
from tests.migrating import HISTORY, database_with_scores, migrate_to
from tests.server import engine_of

# Where the score table came from decides what there is after it: one database for each way.
SCORES = ("fresh", "legacy.seed", "public.production")

PREDECESSOR_ROWS = f"table {verify.PREDECESSOR_ROWS}"


def facts_by_revision(
    server: Server, scores: str, *, predecessors: bool = False
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Migrate a database revision by revision, and yield each with its fingerprint's name and its facts."""
    url = database_with_scores(server, scores, predecessors=predecessors)
    try:
        for revision in HISTORY[1:]:
            migrate_to(url, revision, existing="adopt", verify="no")
            engine = engine_of(url)
            with engine.connect() as connection, verify.pinned(connection):
                record = verify.read_record(connection)
                facts = verify.read_facts(connection, record)
            yield revision, verify.fingerprint_name(revision, record), facts
    finally:
        server.drop_database(url)


def fingerprints(server: Server) -> dict[str, str]:
    """Return the text of every file by its name."""
    # Beside the app's own versions of our tables there is one more of ours; the rest is the same.
    of_predecessors = {
        revision: {key: value for key, value in facts.items() if verify.object_of(key) == PREDECESSOR_ROWS}
        for revision, _, facts in facts_by_revision(server, "fresh", predecessors=True)
    }
    files: dict[str, str] = {}
    for scores in SCORES:
        for revision, name, facts in facts_by_revision(server, scores):
            text = verify.write_fingerprint(facts | of_predecessors[revision])
            assert files.setdefault(name, text) == text, f"{name} depends on the layout, and its name doesn't say so"
    return files


def main() -> None:
    with running_server() as server:
        files = fingerprints(server)
    verify.FINGERPRINTS.mkdir(exist_ok=True)
    for path in verify.FINGERPRINTS.glob("*.txt"):
        path.unlink()
    for name, text in files.items():
        (verify.FINGERPRINTS / name).write_text(text, encoding="utf-8")
    print(f"Wrote {len(files)} files into {verify.FINGERPRINTS}.")


if __name__ == "__main__":
    main()
