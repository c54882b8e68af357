"""Rows that a backfill inserted can be recognised and deleted again; rows that have changed since stay."""

import codecs
import contextlib
import datetime
import gzip
import json
import os
import re
import resource
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from momentum.backfill import DayRange, Settings, gentle, throttle
from momentum.backfill.manifest import read_manifest
from momentum.backfill.settings import Limits
from momentum.backfill.undo import UndoReport, run_undo
from momentum.errors import ConfigurationError
from momentum.retries import Backoff
from momentum.testing import Server
from tests.backfilling import (
    DAY,
    HANGS,
    ONE_DAY,
    SHAPES,
    Scores,
    after_database,
    at_a_pause,
    call,
    keys_of,
    lines_of,
    one_error_line,
    resumed,
    scores_in,
    started,
)
from tests.migrating import execute, run, wait_until
from tests.samples import add_users

RANGE = ("--from", "2026-03-01", "--to", "2026-03-05")
DAYS = 5
QUICK = Limits(lock_timeout=0.05, attempts=2, backoff=Backoff(0.01, 2, 1))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.fixture(params=SHAPES)
def any_scores(server: Server, request: pytest.FixtureRequest) -> Iterator[Scores]:
    """A score table that we made, and adopted ones in both layouts."""
    with scores_in(server, request.param) as scores:
        yield scores


def fill(scores: Scores, manifest: Path, *options: str) -> None:
    """Fill the range and write the manifest."""
    done = call(*RANGE, "--quiet", "--manifest", str(manifest), *options, url=scores.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def undo(scores: Scores, manifest: Path, *options: str, exit_code: int = 0) -> dict[str, object]:
    """Undo, and return the report."""
    done = call("--undo", str(manifest), "--json", *options, url=scores.url)
    assert done.returncode == exit_code, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    assert report["listed"] == sum(int(str(report[name])) for name in ("deleted", "kept", "absent", "failed"))
    return report


def test_a_manifest_lists_exactly_the_rows_that_the_run_inserted(scores: Scores, manifest: Path) -> None:
    users = add_users(scores.engine, 30)
    scores.add(users[0], DAY, 42)
    fill(scores, manifest, "--workers", "2", "--page-size", "7", "--commit-every", "20")
    assert all(list(line) == ["user_id", "day"] for line in lines_of(manifest))
    assert keys_of(manifest) == [key for key in scores.filled() if key != (users[0], DAY)]


def test_a_dry_run_lists_nothing_in_the_manifest(scores: Scores, manifest: Path) -> None:
    add_users(scores.engine, 3)
    fill(scores, manifest, "--dry-run")
    assert not manifest.exists()


def test_a_later_run_appends_to_the_manifest(scores: Scores, manifest: Path) -> None:
    add_users(scores.engine, 3)
    fill(scores, manifest)
    add_users(scores.engine, 2)
    fill(scores, manifest)
    assert keys_of(manifest) == scores.filled()
    assert len(scores.filled()) == 5 * DAYS


def test_a_torn_last_line_does_not_spoil_the_next_one(scores: Scores, manifest: Path) -> None:
    add_users(scores.engine, 1)
    manifest.write_text('{"user_id": "0123')
    fill(scores, manifest)
    torn, *whole = manifest.read_text().splitlines()
    assert torn == '{"user_id": "0123'
    assert len(whole) == DAYS
    assert all(json.loads(line) for line in whole)


def test_an_undo_deletes_exactly_the_rows_of_the_manifest(any_scores: Scores, manifest: Path) -> None:
    scores = any_scores
    users = add_users(scores.engine, 20)
    scores.add(users[0], DAY, 42)
    before = scores.rows()
    fill(scores, manifest)
    listed = len(keys_of(manifest))
    [newcomer] = add_users(scores.engine, 1)
    call(*RANGE, "--quiet", url=scores.url)
    report = undo(scores, manifest, "--page-size", "7", "--commit-every", "15")
    assert (report["listed"], report["deleted"], report["failed"]) == (listed, listed, 0)
    assert listed == 20 * DAYS - 1
    assert [row for row in scores.rows() if str(newcomer) not in row] == before
    assert scores.count() == 1 + DAYS, "what another run inserted stays"
    again = undo(scores, manifest)
    assert (again["deleted"], again["absent"]) == (0, listed)


def test_a_row_that_got_a_score_stays_and_is_counted(any_scores: Scores, manifest: Path) -> None:
    scores = any_scores
    users = add_users(scores.engine, 4)
    fill(scores, manifest)
    score = "final_score" if scores.day == "score_date" else "score"
    execute(scores.url, f"update {scores.relation} set {score} = 7 where user_id = :user", user=users[0])
    kept = scores.rows()
    report = undo(scores, manifest)
    assert (report["deleted"], report["kept"], report["absent"]) == (3 * DAYS, DAYS, 0)
    assert scores.rows() == [row for row in kept if str(users[0]) in row]


def test_a_row_that_was_written_again_with_the_same_score_stays(scores: Scores, manifest: Path) -> None:
    users = add_users(scores.engine, 2)
    fill(scores, manifest)
    score = "final_score" if scores.day == "score_date" else "score"
    upsert = f"""
        insert into {scores.relation} as s (user_id, {"score_date" if score == "final_score" else "score_ts"}, {score}
          {", momentum_state" if score == "final_score" else ""})
        values (:user, '2026-03-05', 0 {", 'NeedsCare'" if score == "final_score" else ""})
        on conflict (user_id, {"score_date" if score == "final_score" else "((score_ts at time zone 'UTC')::date)"})
        do update set {score} = excluded.{score}
    """
    if score == "final_score":
        # In production its own trigger refuses the INSERT of an upsert, so clients update.
        upsert = f"update {scores.relation} set {score} = 0 where user_id = :user and score_date = '2026-03-05'"
    execute(scores.url, upsert, user=users[0])
    report = undo(scores, manifest)
    assert (report["deleted"], report["kept"]) == (2 * DAYS - 1, 1)
    assert scores.filled() == [(users[0], DAY)]


def test_rows_of_users_who_left_or_were_banned_since_are_taken_back_too(scores: Scores, manifest: Path) -> None:
    users = add_users(scores.engine, 3)
    fill(scores, manifest)
    execute(scores.url, "update auth.users set deleted_at = now() where id = :user", user=users[0])
    execute(scores.url, "update auth.users set banned_until = 'infinity' where id = :user", user=users[1])
    execute(scores.url, "delete from auth.users where id = :user", user=users[2])
    report = undo(scores, manifest)
    assert (report["deleted"], report["kept"], report["absent"]) == (2 * DAYS, 0, DAYS)
    assert scores.count() == 0


def test_a_dry_run_of_an_undo_counts_what_the_real_one_does_and_deletes_nothing(scores: Scores, manifest: Path) -> None:
    users = add_users(scores.engine, 4)
    fill(scores, manifest)
    execute(scores.url, f"delete from {scores.relation} where user_id = :user", user=users[0])
    score = "final_score" if scores.day == "score_date" else "score"
    execute(scores.url, f"update {scores.relation} set {score} = 7 where user_id = :user", user=users[1])
    before = scores.rows()
    dry = undo(scores, manifest, "--dry-run")
    assert scores.rows() == before
    assert (dry["dry_run"], dry["resume"], dry["commits"]) == (True, None, 0)
    said = call("--undo", str(manifest), "--dry-run", url=scores.url).stdout
    assert f"Dry run of the undo of {manifest}: nothing was deleted." in said
    real = undo(scores, manifest)
    counts = ("listed", "deleted", "kept", "absent", "failed")
    assert [dry[name] for name in counts] == [real[name] for name in counts] == [20, 10, 5, 5, 0]


def test_an_undo_is_reported_in_words_too(scores: Scores, manifest: Path) -> None:
    add_users(scores.engine, 2)
    fill(scores, manifest)
    done = call("--undo", str(manifest), url=scores.url)
    assert done.returncode == 0
    assert [" ".join(line.split()) for line in done.stdout.splitlines()] == [
        f"Undo of {manifest}:",
        "rows of the manifest 10",
        "deleted 10",
        "changed since, kept 0",
        "already gone 0",
        "failed 0",
    ]


WHOLE = b'{"user_id": "7d0d6f5e-1a4c-4d0e-9d57-0c8a3c0f2b11", "day": "2026-03-05"}'
SOMEBODY = (uuid.UUID("7d0d6f5e-1a4c-4d0e-9d57-0c8a3c0f2b11"), DAY)


@pytest.mark.parametrize("end", [b"", b"\n", b"\0\0", b"\0\n", WHOLE + b"\n", b"\n" + WHOLE])
def test_a_line_that_was_cut_short_anywhere_is_named_and_costs_no_other(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    other = WHOLE.replace(b"7d0d", b"0000")
    expected = [(uuid.UUID("00006f5e-1a4c-4d0e-9d57-0c8a3c0f2b11"), DAY), *([SOMEBODY] if WHOLE in end else [])]
    for length in range(1, len(WHOLE)):
        path.write_bytes(other + b"\n" + WHOLE[:length] + end)
        manifest = read_manifest(path)
        assert (list(manifest), manifest.torn) == (expected, (2,)), length


@pytest.mark.parametrize(
    ("content", "rows", "torn"),
    [
        (b"", 0, ()),
        (WHOLE, 1, ()),
        (WHOLE + b"\n" + WHOLE, 1, ()),
        (codecs.BOM_UTF8 + WHOLE + b"\r\n" + WHOLE + b"\r\n", 1, ()),
        (WHOLE.upper().replace(b"USER_ID", b"user_id").replace(b"DAY", b"day"), 1, ()),
        (b'  {"day":"2026-03-05","more":[1,NaN],"user_id":"7d0d6f5e1a4c4d0e9d570c8a3c0f2b11"}  ', 1, ()),
        (WHOLE + b"\n" + bytes(4096), 1, (2,)),
        (bytes(4096) + WHOLE + b"\n" + WHOLE[:9], 1, (1, 2)),
    ],
)
def test_whole_lines_count_once_however_they_are_written(
    tmp_path: Path, content: bytes, rows: int, torn: tuple[int, ...]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    manifest = read_manifest(path)
    assert (list(manifest), manifest.torn) == ([SOMEBODY] * rows, torn)


@pytest.mark.parametrize(
    "line",
    [
        b" ",
        b"\xff\xfe",
        gzip.compress(WHOLE, mtime=0),
        WHOLE.decode().encode("utf-16"),
        WHOLE.replace(b"03-05", b"02-30"),
        WHOLE.replace(b"2026-", b"12026-"),
        WHOLE.replace(b'"2026-03-05"', b"20260305"),
        WHOLE.replace(b'"2026-03-05"', b"9" * 5000),
        WHOLE.replace(b'"2026-03-05"', b"NaN"),
        WHOLE.replace(b'"2026-03-05"', b'"\\ud800"'),
        WHOLE.replace(b'"2026-03-05"', b'"2026-03-05T00:00:00"'),
        WHOLE.replace(b'"7d0d', b'"\\u0000'),
        WHOLE + WHOLE[:-1] + b"]",
        WHOLE + b",",
        b"[" + WHOLE + b"]",
        b"[" * 200_000,
        b'{"user_id":' * 200_000,
        b'{"user_id": "' + b"0" * 3_000_000,
        bytes(3_000_000),
        codecs.BOM_UTF8 + WHOLE,
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_line_that_no_run_writes_is_named_and_no_row_is_read(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(WHOLE + b"\n" + line + b"\n" + WHOLE + b"\n")
    with pytest.raises(ConfigurationError, match=r"^Line 2 of --undo .* is not one of a manifest; .* Nothing was"):
        read_manifest(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("2026-03-05") | st.uuids().map(str),
    lambda some: st.lists(some) | st.dictionaries(st.sampled_from(["user_id", "day", "more"]), some),
    max_leaves=5,
)


@given(
    st.lists(
        st.binary(max_size=90)
        | JSON.map(lambda value: json.dumps(value).encode())
        | st.integers(0, len(WHOLE)).map(lambda length: WHOLE[:length])
        | st.sampled_from([WHOLE, b"\0", b"\r\n", b"\n", b"\n\n", codecs.BOM_UTF8]),
        max_size=6,
    )
)
def test_whatever_is_in_a_file_it_is_a_manifest_or_its_bad_line_is_named(pieces: list[bytes]) -> None:
    with tempfile.NamedTemporaryFile() as stream:
        stream.write(b"".join(pieces))
        stream.flush()
        refusal, found = "", None
        try:
            found = read_manifest(Path(stream.name))
        except ConfigurationError as error:
            refusal = str(error)
    if found is None:
        assert re.match(r"Line \d+ of --undo .+ is not one of a manifest;", refusal)
        return
    assert all(isinstance(user, uuid.UUID) and isinstance(day, datetime.date) for user, day in found)
    assert len(set(found)) == len(list(found))


@pytest.mark.parametrize("length", [2**20 - 1, 2**20])
def test_a_line_may_be_as_long_as_a_megabyte(tmp_path: Path, length: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(WHOLE.ljust(length - 1) + b"\n")
    if length < 2**20:
        assert list(read_manifest(path)) == [SOMEBODY]
    else:
        with pytest.raises(ConfigurationError, match=r"^Line 1 of --undo .* is not one of a manifest"):
            read_manifest(path)


def test_an_undo_begins_with_nothing_and_rounds_its_figures_for_machines_only() -> None:
    empty = {
        "undo": "rows.jsonl",
        "dry_run": False,
        "torn": 0,
        "listed": 0,
        "deleted": 0,
        "kept": 0,
        "absent": 0,
        "failed": 0,
        "reasons": [],
        "error_rate": 0.0,
        "retries": 0,
        "commits": 0,
        "paused_s": {},
        "elapsed_s": 0.0,
        "triggers": [],
        "interrupted": False,
        "resume": None,
    }
    report = UndoReport(Path("rows.jsonl"), dry_run=False)
    assert report.as_json(None) == empty
    assert (report.gave_up, report.unfinished) == (False, False)
    report = UndoReport(Path("rows.jsonl"), dry_run=False, deleted=2, absent=4, failed=1, elapsed_seconds=2.3456789)
    assert report.as_json("the rest") == {
        **empty,
        "deleted": 2,
        "absent": 4,
        "failed": 1,
        "error_rate": 0.142857,
        "elapsed_s": 2.346,
        "resume": "the rest",
    }
    assert (report.attempted, report.to_delete, report.committed, report.unfinished) == (3, 7, 2, True)
    stopped = [UndoReport(Path(), dry_run=True, deleted=2, **{name: True}) for name in ("interrupted", "gave_up")]  # type: ignore[arg-type]
    assert [(each.committed, each.unfinished) for each in stopped] == [(0, True)] * 2


def test_a_file_without_an_end_is_no_manifest() -> None:
    with pytest.raises(ConfigurationError, match=r"^Line 1 of --undo /dev/zero is not one of a manifest"):
        read_manifest(Path("/dev/zero"))


def test_a_torn_line_is_named_and_the_whole_ones_are_undone(url: sa.URL, manifest: Path) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 3)
    fill(scores, manifest)
    # Killed in its last line, and then run again.
    manifest.write_bytes(manifest.read_bytes()[:-20])
    [lost] = {*scores.filled()} - {*keys_of_whole(manifest)}
    [user] = add_users(scores.engine, 1)
    fill(scores, manifest)
    done = call("--undo", str(manifest), "--json", url=url)
    said = "is not whole, because a run was killed or its disk was full; it is left out"
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == [f"warning: line {3 * DAYS} of --undo {manifest} {said}"]
    assert (done.returncode, scores.filled()) == (0, [lost])
    report = json.loads(done.stdout)
    assert (report["torn"], report["listed"], report["deleted"]) == (1, 4 * DAYS - 1, 4 * DAYS - 1)
    said = call("--undo", str(manifest), url=url).stdout
    assert "torn lines, left out 1" in " ".join(said.split())
    assert user not in dict(scores.filled())


def test_a_full_disk_under_a_manifest_says_what_was_committed_and_leaves_a_manifest_to_undo(
    url: sa.URL, manifest: Path
) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 3000)
    with files_of_at_most(1500 * (len(WHOLE) + 1) + 30):
        done = call("--to", str(DAY), "--days", "1", "--json", "--manifest", str(manifest), url=url)
    assert done.returncode == 2
    assert one_error_line(done).endswith("its last lines may be missing. 2,000 rows were committed before.")
    assert scores.count() == 2000
    report = undo(scores, manifest)
    assert (report["torn"], report["deleted"], scores.count()) == (1, 1500, 500)


def test_a_full_disk_under_the_failures_of_an_undo_says_what_was_committed(
    url: sa.URL, manifest: Path, tmp_path: Path
) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    users = sorted(add_users(scores.engine, 40), key=lambda user: user.hex)
    fill(scores, manifest)
    scores.interfere(f"old.user_id = '{users[-1]}'", "return null;", "delete")
    failures = tmp_path / "failed.jsonl"
    with files_of_at_most(30):
        done = call("--undo", str(manifest), "--json", "--quiet", "--failures", str(failures), url=url)
    assert (done.returncode, scores.count()) == (2, DAYS)
    assert one_error_line(done).endswith(f"may be missing. {39 * DAYS} rows were committed before.")


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond a number of bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def keys_of_whole(manifest: Path) -> list[tuple[uuid.UUID, datetime.date]]:
    """Return the users and days of the whole lines of a manifest."""
    lines = [json.loads(line) for line in manifest.read_text().splitlines() if line.endswith("}")]
    return [(uuid.UUID(line["user_id"]), datetime.date.fromisoformat(line["day"])) for line in lines]


def test_of_many_torn_lines_the_first_are_named(url: sa.URL, manifest: Path) -> None:
    manifest.write_bytes((WHOLE[:30] + b"\n") * 25)
    done = call("--undo", str(manifest), "--json", url=url)
    assert (done.returncode, json.loads(done.stdout)["torn"]) == (0, 25)
    *named, rest = after_database(done).splitlines()
    assert len(named) == 20
    assert rest == "warning: 5 more lines like these"


@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry run", "real run"])
def test_a_row_that_is_listed_again_counts_once(url: sa.URL, manifest: Path, dry_run: list[str]) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 4)
    fill(scores, manifest)
    manifest.write_bytes(manifest.read_bytes() * 3)
    report = undo(scores, manifest, "--commit-every", "7", *dry_run)
    assert (report["listed"], report["deleted"], report["absent"]) == (4 * DAYS, 4 * DAYS, 0)


def test_a_manifest_is_read_once_so_that_it_may_be_a_pipe(url: sa.URL, manifest: Path, tmp_path: Path) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 4)
    fill(scores, manifest)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(manifest.read_bytes(),))
    writer.start()
    assert undo(scores, pipe)["deleted"] == 4 * DAYS
    writer.join()


@pytest.mark.parametrize(
    "line", ["", "nonsense", "[]", "7", '{"user_id": "x", "day": "2026-03-05"}', '{"user_id": 1}', '"\\ud800"']
)
def test_a_bad_line_of_a_manifest_changes_nothing(url: sa.URL, manifest: Path, line: str) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 2)
    fill(scores, manifest)
    before = scores.rows()
    with manifest.open("a") as stream:
        stream.write(f"{line}\n")
    done = call("--undo", str(manifest), url=url)
    assert done.returncode == 2
    assert f"Line {2 * DAYS + 1} of --undo {manifest} is not one of a manifest" in one_error_line(done)
    assert scores.rows() == before


def test_a_manifest_that_cannot_be_read_is_one_line_and_exit_code_2(url: sa.URL, manifest: Path) -> None:
    done = call("--undo", str(manifest), url=url)
    assert done.returncode == 2
    assert f"--undo {manifest} cannot be read" in one_error_line(done)
    assert f"--undo {manifest.parent} cannot be read (Is a directory)" in one_error_line(
        call("--undo", str(manifest.parent), url=url)
    )
    manifest.write_bytes(b"\xff\xfe\n")
    assert "Line 1 of --undo" in one_error_line(call("--undo", str(manifest), url=url))


@pytest.mark.parametrize("action", ["raise exception 'not this one';", "return null;"])
def test_a_row_that_the_server_will_not_delete_costs_that_row_alone(
    scores: Scores, manifest: Path, tmp_path: Path, action: str
) -> None:
    users = add_users(scores.engine, 40)
    fill(scores, manifest)
    bad = (users[7], DAY)
    # The day is a moment in one of the layouts.
    day = scores.day.replace("score_", "old.score_")
    scores.interfere(f"old.user_id = '{bad[0]}' and {day} = '{DAY}'", action, "delete")
    failures = tmp_path / "failed.jsonl"
    report = undo(scores, manifest, "--failures", str(failures))
    assert (report["deleted"], report["failed"]) == (40 * DAYS - 1, 1)
    assert scores.filled() == keys_of(failures) == [bad]
    [failure] = lines_of(failures)
    expected = ("P0001", "not this one") if "raise" in action else ("", "skipped without an error")
    assert (failure["sqlstate"], failure["message"]) == expected
    assert report["resume"] == f"momentum-backfill --undo {manifest} --failures {failures} --json"
    again = undo(scores, manifest, "--quiet")
    assert (again["failed"], again["error_rate"]) == (1, 1 / (40 * DAYS)), "the same share of all rows to delete"
    undo(scores, manifest, "--quiet", "--max-error-rate", "0", exit_code=1)


def test_a_gentle_undo_deletes_what_a_gentle_run_has_inserted(scores: Scores, manifest: Path) -> None:
    users = add_users(scores.engine, 40)
    scores.add(users[0], DAY, 42)
    fill(scores, manifest, "--gentle", "--commit-every", "30")
    assert keys_of(manifest) == [key for key in scores.filled() if key != (users[0], DAY)]
    report = undo(scores, manifest, "--gentle", "--commit-every", "30", "--quiet")
    assert (report["deleted"], report["kept"]) == (40 * DAYS - 1, 0)
    assert scores.filled() == [(users[0], DAY)]


def test_a_gentle_undo_counts_how_long_it_waited_for_a_slot(
    server: Server, url: sa.URL, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gentle, "MOST_KEPT", 1000)
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 40)
    fill(scores, manifest)
    slot = f"undone_{url.database}"
    execute(server.admin_url, "select pg_create_physical_replication_slot(:slot, true)", slot=slot)

    def let_go() -> None:
        assert 0 < scores.count() < 40 * DAYS
        execute(server.admin_url, "select pg_drop_replication_slot(:slot)", slot=slot)

    with at_a_pause(let_go, f"the slot {slot} keeps "):
        report = run_undo(scores.engine, manifest, Settings(ONE_DAY, commit_every=60, gentle=True))
    assert (report.deleted, scores.count()) == (40 * DAYS, 0)
    assert report.paused["replication slots"] > 0
    assert report.as_json(None)["paused_s"] == pytest.approx(report.paused, abs=0.001)


def test_a_gentle_undo_grows_where_nobody_else_is_at_work(
    url: sa.URL, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "judge_load", lambda *_, **__: gentle.Load.IDLE)
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 40)
    fill(scores, manifest)
    report = run_undo(scores.engine, manifest, Settings(ONE_DAY, commit_every=60, gentle=True))
    assert (report.deleted, report.commits) == (200, 6), "20, 27, 34, 41, 48 and 30 rows"


def test_an_undo_stops_early_where_too_many_rows_fail(url: sa.URL, manifest: Path) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 300)
    fill(scores, manifest)
    scores.interfere("true", "return null;", "delete")
    report = undo(scores, manifest, "--quiet", "--commit-every", "200", exit_code=1)
    assert (report["listed"], report["failed"]) == (1000, 1000), "judged from the 1,000th row on"


def test_a_user_who_is_locked_is_tried_as_often_as_was_said_in_the_last_commit_too(url: sa.URL, manifest: Path) -> None:
    scores = Scores(url, "fresh", *SHAPES["fresh"][:2])
    add_users(scores.engine, 3)
    fill(scores, manifest)
    # Busy three times, then free.
    scores.interfere("nextval('public.seen') <= 3", "raise exception 'busy' using errcode = '40001';", "delete")
    settings = Settings(ONE_DAY, limits=Limits(attempts=4, backoff=Backoff(0.01, 2, 1)))
    report = run_undo(scores.engine, manifest, settings)
    assert (report.deleted, report.retries, report.failed, report.commits) == (3 * DAYS, 3, 0, 1)


def test_an_undo_that_was_interrupted_is_resumed_by_the_command_that_it_prints(scores: Scores, manifest: Path) -> None:
    add_users(scores.engine, 40)
    fill(scores, manifest)
    seen: list[UndoReport] = []
    settings = Settings(ONE_DAY, commit_every=50)
    report = run_undo(scores.engine, manifest, settings, on_progress=seen.append, should_stop=lambda: len(seen) == 2)
    assert (report.interrupted, report.deleted, scores.count()) == (True, 100, 100)
    rest = undo(scores, manifest)
    assert (rest["deleted"], rest["absent"], scores.count()) == (100, 100, 0)


def test_a_pause_between_two_commits_of_an_undo_ends_when_it_is_stopped(scores: Scores, manifest: Path) -> None:
    add_users(scores.engine, 4)
    fill(scores, manifest)
    options = ("--undo", str(manifest), "--commit-every", "5", "--pause-ms", "600000")
    with started(scores.url, *options) as process:
        wait_until(scores.url, f"(select count(*) from {scores.relation}) <= 15")
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 143
    [command] = [line for line in stdout.splitlines() if line.startswith("To resume: ")]
    resume = resumed(command.removeprefix("To resume: "))
    assert sorted(resume) == sorted(options)
    rest = call("--undo", str(manifest), "--json", url=scores.url)
    assert json.loads(rest.stdout)["deleted"] == 15
    assert scores.count() == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--days", "3"],
        ["--from", "2026-03-01"],
        ["--to", "2026-03-01"],
        ["--user", str(uuid.UUID(int=1))],
        ["--active-within", "3"],
        ["--workers", "2"],
        ["--manifest", "other.jsonl"],
        ["--discrepancy-threshold", "3"],
        ["--discrepancies", "other.csv"],
        ["--no-discrepancies"],
        ["--report", "page.html"],
        ["--metrics", "momentum.prom"],
    ],
    ids=lambda options: options[0],
)
def test_what_says_how_to_fill_is_refused_with_undo(options: list[str], tmp_path: Path) -> None:
    done = call("--undo", "rows.jsonl", *options, url="postgresql://u@127.0.0.1:1/x")
    says = f"Error: Give --undo without {options[0]}: the manifest says which rows to delete."
    assert (done.returncode, one_error_line(done)) == (2, says)
    assert not list(tmp_path.iterdir())


def test_a_backfill_after_an_undo_gives_the_same_rows(any_scores: Scores, manifest: Path) -> None:
    scores = any_scores
    add_users(scores.engine, 10)

    def rows() -> list[str]:
        """Return the rows without what is new in each: its id and times."""
        said = "to_jsonb(s) - 'id' - 'created_at' - 'updated_at'"
        with scores.engine.connect() as connection:
            return list(connection.scalars(sa.text(f"select ({said})::text from {scores.relation} as s order by 1")))

    fill(scores, manifest)
    first = rows()
    undo(scores, manifest)
    assert rows() == []
    fill(scores, manifest)
    assert rows() == first
    report = undo(scores, manifest)
    assert report["deleted"] == 10 * DAYS, "a manifest that lists its rows twice takes them back once"
    assert scores.count() == 0


def test_an_undo_of_a_database_that_is_not_migrated_is_refused(supabase_url: sa.URL, manifest: Path) -> None:
    manifest.write_text("")
    done = call("--undo", str(manifest), url=supabase_url)
    assert done.returncode == 3
    assert "upgrade it to head with the momentum migrations" in one_error_line(done)


def test_an_undo_stops_before_a_trigger_that_calls_out(scores: Scores, manifest: Path) -> None:
    add_users(scores.engine, 1)
    fill(scores, manifest)
    run(
        scores.url,
        "create schema net; create function net.http_post(url text) returns bigint language sql as 'select 1'",
    )
    scores.interfere("net.http_post('https://push.example') > 0", "null;", "delete")
    done = call("--undo", str(manifest), "--dry-run", url=scores.url)
    assert done.returncode == 0
    assert "each deleted row fires the trigger interfere, before delete for each row" in done.stderr
    done = call("--undo", str(manifest), "--quiet", url=scores.url)
    assert done.returncode == 2
    assert "interfere" in one_error_line(done)
    assert scores.count() == DAYS
    assert undo(scores, manifest, "--quiet", "--allow-webhooks")["deleted"] == DAYS


@pytest.mark.slow
def test_an_undo_of_rows_that_somebody_else_holds_waits_no_longer_than_it_may(scores: Scores, manifest: Path) -> None:
    users = add_users(scores.engine, 4)
    fill(scores, manifest)
    with scores.engine.begin() as holder:
        holder.execute(sa.text(f"select from {scores.relation} where user_id = :u for update"), {"u": users[2]})
        report = run_undo(scores.engine, manifest, Settings(DayRange(DAY, DAY), limits=QUICK, commit_every=2 * DAYS))
    assert (report.deleted, report.failed) == (3 * DAYS, DAYS)
    assert report.retries > 0
    assert {user for user, _ in scores.filled()} == {users[2]}
