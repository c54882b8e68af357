"""The lock budget: the relations that each revision locks, on every path, and how strongly.

`lock_budget.txt` in this folder lists the locks that the migrations may take. After a deliberate change, run this with
`MOMENTUM_WRITE_LOCK_BUDGET=1` to write the file again, and review its diff.
"""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import alembic.command
import pytest
import sqlalchemy as sa
from alembic.config import Config

from momentum.inventory import PREDECESSORS
from momentum.migrate.config import SCORES, alembic_config
from momentum.testing import Server
from tests.migrating import HISTORY, REVISIONS, WAITING_MIGRATION, database_with_scores, execute, run, until
from tests.processes import DEADLINE
from tests.samples import add_user, write_rows
from tests.server import engine_of

FILE = Path(__file__).with_name("lock_budget.txt")
HEADER = """\
# The lock budget: the relations that each revision locks, on every path, and how strongly. test_lock_budget.py measures
# it and fails where it differs; after a deliberate change, MOMENTUM_WRITE_LOCK_BUDGET=1 writes this file again.
#
# A section is one direction of a path, which is named by the score table at its start. Under each revision are the
# relations, by the names that they had before, with the strongest lock that the revision ever holds on them, read from
# pg_locks before each commit. "new" marks relations that the revision itself creates: nobody can be waiting for them.
# Indexes and Postgres's own relations are left out. Locks of pages are read at the end of their transactions, and those
# of CONCURRENTLY while it waits.
"""

# From the weakest to the strongest.
MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
WORDS = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
ADOPTED = SCORES[1:]
NO_INDEX = "drop index {schema}.idx_daily_scores_user_date"
# By layout: two rows of a day, so that there is something to move.
DUPLICATES = {
    "seed": """
    insert into {schema}.daily_engagement_scores (user_id, score_ts)
    select user_id, score_ts from {schema}.daily_engagement_scores
    """
}

# The paths: the score table at the start, whether the app's own tables are there too, and SQL to run before.
PATHS: dict[str, tuple[str, bool, str]] = {
    **{scores: (scores, False, DUPLICATES.get(scores.partition(".")[2], "")) for scores in SCORES},
    "legacy.production without its unique index": ("legacy.production", False, NO_INDEX),
    "public.production without its unique index": ("public.production", False, NO_INDEX),
    "public.production with predecessors": ("public.production", True, ""),
}
pytestmark = pytest.mark.slow

KEY, COPY = "07d3e6c8b51f", "d3a5b1c8260f"

RELATIONS = """
select c.oid, format('%s.%s', c.relnamespace::regnamespace, c.relname)
from pg_class as c
where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  and c.relnamespace::regnamespace::text !~ '^(pg_|information_schema$|budget$)'
"""
# A lock that is waited for counts as well: others queue behind it.
HELD = """
select l.relation, l.mode
from pg_locks as l
where l.locktype = 'relation' and l.pid = :pid
  and l.database = (select oid from pg_database where datname = current_database())
"""
# Postgres's own relations and indexes, which the budget leaves out.
LEFT_OUT = """
select c.oid from pg_class as c
where c.relkind in ('i', 'I', 't') or c.relnamespace::regnamespace::text ~ '^(pg_|information_schema$|budget$)'
"""

# Reads the locks of a page's transaction as its last act.
RECORDER = """
create schema budget;
create table budget.held (relation oid, mode text);
create function budget.note() returns trigger language plpgsql as $$
begin
  insert into budget.held
  select relation, mode from pg_locks
  where locktype = 'relation' and granted and pid = pg_backend_pid()
    and database = (select oid from pg_database where datname = current_database());
  return null;
end $$;
"""
# The tables that every page writes to, if they exist and are not watched yet. While predecessors are copied, the tables
# in public are ours; at other times they may be the app's.
WATCHED = """
select c.oid::regclass::text from pg_class as c
where (
    c.relnamespace = to_regnamespace('momentum_internal') and c.relname in ('superseded_scores', 'predecessor_rows')
    or :copies and c.relnamespace = 'public'::regnamespace
    and c.relname = any(:predecessors)
  )
  and not exists (select from pg_trigger where tgrelid = c.oid and tgname = 'note_locks')
"""

Locks = dict[int, int]
Lines = list[tuple[str, str, str]]


class Recorder:
    """Migrates a database revision by revision and notes each one's locks."""

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self.config: Callable[..., Config] = alembic_config
        self.engine = engine_of(url)
        self.held: Locks = {}
        self.names: dict[int, str] = {}
        self.left_out: set[int] = set()
        run(url, RECORDER)

    def note(self, relation: int, mode: str) -> None:
        """Keep the strongest lock on a relation."""
        self.held[relation] = max(self.held.get(relation, 0), MODES.index(mode))

    def read(self, connection: sa.Connection, pid: int) -> None:
        """Note the locks that a session holds now; only the session itself sees the relations that it has created."""
        for relation, mode in connection.execute(sa.text(HELD), {"pid": pid}).all():
            self.note(relation, mode)
        self.look(connection)

    def look(self, connection: sa.Connection) -> None:
        """Note the names of new relations."""
        for oid, name in connection.execute(sa.text(RELATIONS)).all():
            self.names.setdefault(oid, name)
        self.left_out |= set(connection.scalars(sa.text(LEFT_OUT)))

    def before_commit(self, ctx: Any, **_: Any) -> None:
        """Read the locks at the end of a revision, in its own transaction."""
        pid = ctx.connection.scalar(sa.text("select pg_backend_pid()"))
        self.read(ctx.connection, pid)

    def step(self, direction: str, target: str) -> None:
        """Carry out one revision."""
        config = self.config(self.url, existing="adopt", access="close", verify=False)
        config.attributes["on_version_apply"] = self.before_commit
        getattr(alembic.command, direction)(config, target)

    def locks(self, direction: str, target: str, revision: str) -> Lines:
        """Carry out one revision and return its locks: the revision's name, the relation and the mode."""
        self.held, self.names = {}, {}
        with self.engine.connect() as connection:
            self.look(connection)
            before = dict(self.names)
            watched = connection.scalars(
                sa.text(WATCHED), {"copies": revision == COPY, "predecessors": list(PREDECESSORS)}
            ).all()
            scores = connection.scalars(
                sa.text("select oid::regclass::text from pg_class where relname = 'daily_engagement_scores'")
            ).all()
        for name in watched:
            run(
                self.url,
                f"create constraint trigger note_locks after insert or update or delete on {name} "
                "deferrable initially deferred for each row execute function budget.note()",
            )
        with ThreadPoolExecutor(1) as migrator, self.engine.connect() as client:
            if revision == KEY and scores:
                # CONCURRENTLY waits for this, where there is an index to create or drop.
                client.execute(sa.text(f"lock table {scores[0]} in row exclusive mode"))
            migration = migrator.submit(self.step, direction, target)
            self.read_while_waiting(migration)
            client.rollback()
            migration.result(timeout=DEADLINE)
        with self.engine.begin() as connection:
            for relation, mode in connection.execute(sa.text("delete from budget.held returning *")).all():
                self.note(relation, mode)
            self.look(connection)
        slugs = {each.revision: Path(each.path).stem.partition("_")[2] for each in REVISIONS}
        slug = slugs.get(revision, revision)
        return sorted(
            (slug, self.names.get(relation, "?") + (" (new)" if relation not in before else ""), WORDS[mode])
            for relation, mode in self.held.items()
            if relation not in self.left_out
        )

    def read_while_waiting(self, migration: "Future[None]") -> None:
        """Read the locks of a migration once it waits for another session, unless it ends without waiting."""
        waiting = sa.text(f"select {WAITING_MIGRATION}")
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            pid = until(lambda: connection.scalar(waiting) or migration.done(), "the migration waits or ends")
            if pid is not True:
                self.read(connection, pid)


def measure(server: Server, path: str) -> Iterator[tuple[str, Lines]]:
    """Yield the locks of a path's revisions, for each direction."""
    scores, predecessors, also = PATHS[path]
    url = database_with_scores(server, scores, predecessors=predecessors)
    try:
        with engine_of(url).begin() as connection:
            write_rows(connection, add_user(connection), 0)
        if also:
            run(url, also.format(schema=scores.partition(".")[0]))
        recorder = Recorder(url)
        for up, down in [("up", "down"), ("up again", "down again")]:
            lines: Lines = []
            for revision in HISTORY[1:]:
                lines += recorder.locks("upgrade", revision, revision)
            yield f"{path}: {up}", lines
            lines = []
            for below, revision in list(pairwise(HISTORY))[::-1]:
                lines += recorder.locks("downgrade", below, revision)
            yield f"{path}: {down}", lines
            # So that the app's tables have rows to copy the second time too.
            with engine_of(url).begin() as connection:
                write_rows(connection, add_user(connection), 1 if up == "up" else 2)
        assert execute(url, "select count(*) from auth.users") == 3
    finally:
        server.drop_database(url)


@pytest.fixture(scope="module")
def measured(server: Server) -> dict[str, Lines]:
    """The measured locks of every path."""
    return {section: lines for path in PATHS for section, lines in measure(server, path)}


def written(sections: dict[str, Lines]) -> str:
    """Return the text of a budget. A section refers to an earlier one that is the same in another schema."""
    text = HEADER
    earlier: dict[str, str] = {}
    for section, lines in sections.items():
        text += f"\n## {section}\n"
        alike = str(sorted((slug, re.sub(r"^\w+\.(daily_engag)", r"\1", name), mode) for slug, name, mode in lines))
        if (first := earlier.setdefault(alike, section)) != section:
            text += f"like {first}\n"
            continue
        for slug, of_revision in groupby(lines, key=lambda line: line[0]):
            text += f"{slug}\n"
            text += "".join(f"  {relation:<58}{mode}\n" for _, relation, mode in of_revision)
    return text


def test_no_migration_locks_more_than_the_budget_allows(measured: dict[str, Lines]) -> None:
    text = written(measured)
    if os.environ.get("MOMENTUM_WRITE_LOCK_BUDGET"):
        FILE.write_text(text, encoding="utf-8")
    assert text.splitlines() == FILE.read_text(encoding="utf-8").splitlines(), (
        "the locks have changed: if this is deliberate, write the budget again and have its diff reviewed"
    )


def test_nothing_ever_locks_clients_out_of_auth_users_or_an_adopted_score_table(measured: dict[str, Lines]) -> None:
    for section, lines in measured.items():
        for slug, relation, mode in lines:
            what = f"{section}: {slug} takes {mode} on {relation}"
            assert relation != "?", f"{what}, which cannot be named"
            if relation == "auth.users":
                assert mode in WORDS[: WORDS.index("SHARE ROW EXCLUSIVE") + 1], what
            if section.startswith(ADOPTED) and relation.endswith(".daily_engagement_scores"):
                assert mode in WORDS[: WORDS.index("SHARE UPDATE EXCLUSIVE") + 1], what


@pytest.mark.parametrize(
    ("section", "slug", "relation", "mode"),
    [
        ("fresh: up", "create_pillars_and_events", "auth.users", "SHARE ROW EXCLUSIVE"),
        ("fresh: up again", "create_pillars_and_events", "momentum_internal.momentum_events", "ACCESS EXCLUSIVE"),
        ("fresh: down", "create_pillars_and_events", "public.momentum_events", "ACCESS EXCLUSIVE"),
        ("legacy.seed: up", "create_score_unique_key", "legacy.daily_engagement_scores", "SHARE UPDATE EXCLUSIVE"),
        ("legacy.seed: up", "create_score_unique_key", "momentum_internal.superseded_scores", "ROW EXCLUSIVE"),
        ("legacy.seed: down", "create_score_unique_key", "legacy.daily_engagement_scores", "SHARE UPDATE EXCLUSIVE"),
        ("legacy.seed: down", "create_score_unique_key", "momentum_internal.superseded_scores", "ROW EXCLUSIVE"),
        (
            "public.production with predecessors: up",
            "copy_predecessor_rows",
            "public.momentum_events",
            "ROW EXCLUSIVE",
        ),
    ],
)
def test_locks_that_are_known_are_seen(
    measured: dict[str, Lines], section: str, slug: str, relation: str, mode: str
) -> None:
    """So that an empty budget cannot pass for a small one."""
    seen = {line[1]: line[2] for line in measured[section] if line[0] == slug}
    assert WORDS.index(seen.get(relation, WORDS[0])) >= WORDS.index(mode), f"{section}, {slug}: {seen}"
