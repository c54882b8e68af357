"""Files that a run writes: none is another one's, none is lost, and none costs the run its report."""

import contextlib
import csv
import io
import json
import os
import re
import resource
import stat
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa

from momentum.backfill import cli
from momentum.backfill.files import Review, check_distinct, replacing
from momentum.errors import ConfigurationError
from tests.backfilling import DAY, PROGRAM, after_database, call, one_error_line, run_out_of_time
from tests.migrating import execute
from tests.samples import add_users
from tests.server import engine_of

NOWHERE = "postgresql://u@127.0.0.1:1/x"
ONE_DAY = ("--to", str(DAY), "--days", "1")


def make_links(folder: Path) -> None:
    """Make a file, and links to it, to its folder and to a file that isn't there."""
    (folder / "there").write_text("kept")
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(folder / "there")
    (folder / "hard").hardlink_to(folder / "there")
    (folder / "folder").symlink_to(folder)
    (folder / "dangling").symlink_to("new")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("there", "there"),
        ("there", "sub/../there"),
        ("there", "folder/./there"),
        ("link", "there"),
        ("hard", "there"),
        ("hard", "link"),
        ("new", "new"),
        ("new", "sub/../new"),
        ("new", "folder/new"),
        ("new", "dangling"),
        ("/dev/full", "/dev/full"),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        ("--manifest", "--failures"),
        ("--discrepancies", "--report"),
        ("--discrepancies", "--manifest"),
        ("--undo", "--failures"),
        ("--env-file", "--report"),
    ],
    ids=" ".join,
)
def test_two_options_that_name_one_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str, options: tuple[str, str]
) -> None:
    make_links(tmp_path)
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.iterdir())
    done = call(options[0], str(tmp_path / one), options[1], other, url=NOWHERE)
    assert done.returncode == 2
    said = f"{options[1]} {Path(other)} is the same file as {options[0]} {tmp_path / one}; give each its own."
    assert said in one_error_line(done)
    assert (tmp_path / "there").read_text() == "kept"
    assert sorted(tmp_path.iterdir()) == there


def test_the_env_file_that_is_read_by_default_is_no_output(home: Path) -> None:
    path = home / ".bee_secrets" / "supabase.env"
    done = call("--report", str(path), url=NOWHERE)
    assert f"--report {path} is the same file as --env-file {path}" in one_error_line(done)


def test_files_of_their_own_and_no_file_at_all_are_not_refused(tmp_path: Path) -> None:
    make_links(tmp_path)
    paths = ("--manifest", tmp_path / "there", "--failures", tmp_path / "new", "--report", tmp_path / "sub" / "new")
    for options in (paths, ("--manifest", "/dev/null", "--failures", "/dev/null", "--report", "/dev/null")):
        done = call(*map(str, options), url=NOWHERE)
        assert "cannot be reached" in one_error_line(done)
    assert not (tmp_path / "sub" / "new").exists()


@pytest.mark.parametrize(
    ("option", "stdout", "stderr", "more", "refused"),
    [
        ("/dev/stdout", subprocess.PIPE, subprocess.PIPE, ["--json"], "standard output"),
        ("/dev/fd/1", subprocess.PIPE, subprocess.PIPE, [], "standard output"),
        ("/dev/stdout", subprocess.PIPE, subprocess.PIPE, ["--json", "--quiet"], "standard output"),
        ("/dev/stdout", subprocess.PIPE, subprocess.PIPE, ["--quiet"], None),
        ("file", "file", subprocess.PIPE, ["--json"], "standard output"),
        ("file", subprocess.PIPE, "file", ["--json"], "standard error"),
        ("/dev/null", "/dev/null", "/dev/null", ["--json"], None),
        ("/dev/stderr", subprocess.PIPE, subprocess.PIPE, ["--json"], None),
    ],
)
def test_a_file_to_which_the_command_prints_is_refused(
    tmp_path: Path, option: str, stdout: int | str, stderr: int | str, more: list[str], refused: str | None
) -> None:
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context((tmp_path / each).open("w")) if isinstance(each, str) else each
            for each in (stdout, stderr)
        ]
        done = subprocess.run(
            [PROGRAM, "--manifest", option, *more],
            env={**os.environ, "MOMENTUM_DATABASE_URL": NOWHERE},
            cwd=tmp_path,
            stdout=streams[0],
            stderr=streams[1],
            text=True,
            check=False,
        )
    said = (tmp_path / "file").read_text() if stderr == "file" else done.stderr
    if refused is None:
        assert done.returncode == 3
    else:
        assert done.returncode == 2
        assert f"--manifest {option} is the same file as {refused}; give each its own." in said


@pytest.mark.parametrize(
    ("options", "refused"), [([], True), (["--json"], True), (["--json", "--quiet"], True), (["--quiet"], False)]
)
def test_a_file_is_no_output_of_its_own_while_the_command_prints_to_it(
    tmp_path: Path, options: list[str], refused: bool
) -> None:
    path = tmp_path / "file"
    with (
        path.open("w") as stdout,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(io.StringIO()) as said,
    ):
        code = cli.run(["--manifest", str(path), "--database-url", NOWHERE, *options])
    assert code == (2 if refused else 3)
    assert (f"--manifest {path} is the same file as standard output" in said.getvalue()) is refused


@pytest.fixture
def scored(url: sa.URL) -> sa.URL:
    """The URL of a database with two users without a row, and one whose score contradicts its breakdown."""
    users = add_users(engine_of(url), 3)
    execute(
        url,
        "insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown) "
        "values (:user, '2026-03-05 12:00+00', 90, '{\"sleep\": 40}')",
        user=users[0],
    )
    return url


def test_nothing_is_wiped_or_made_before_the_database_has_answered(tmp_path: Path) -> None:
    page, review = tmp_path / "page.html", tmp_path / "review.csv"
    page.write_text("the last page")
    review.write_text("the last review")
    files = ("--report", str(page), "--discrepancies", str(review))
    assert call(*files, url=NOWHERE).returncode == 3
    assert (page.read_text(), review.read_text()) == ("the last page", "the last review")
    assert sorted(tmp_path.iterdir()) == [page, review]
    for each in (page, review):
        each.unlink()
    assert call(*files, url=NOWHERE).returncode == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("loop", "Too many levels of symbolic links"),
        ("there/new", "Not a directory"),
        ("nowhere/new", "No such file or directory"),
        ("sub", "Is a directory"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("option", ["--report", "--discrepancies", "--manifest", "--failures"])
def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path, option: str, name: str, reason: str) -> None:
    make_links(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    there = sorted(tmp_path.iterdir())
    done = call(option, str(tmp_path / name), url=NOWHERE)
    assert done.returncode == 2
    assert one_error_line(done) == f"Error: {option} {tmp_path / name} cannot be written ({reason})."
    assert sorted(tmp_path.iterdir()) == there


def test_a_page_and_a_review_replace_the_last_ones_and_keep_their_rights(scored: sa.URL, tmp_path: Path) -> None:
    page, review, new = tmp_path / "page.html", tmp_path / "real.csv", tmp_path / "review.csv"
    page.write_text("the last page, " * 10_000)
    page.chmod(0o640)
    review.write_text("the last review, " * 10_000)
    new.symlink_to("real.csv")
    done = call(*ONE_DAY, "--json", "--report", str(page), "--discrepancies", str(new), url=scored)
    assert done.returncode == 0
    assert page.read_text().endswith("</html>")
    assert "<td>90</td><td>40</td><td>+50</td>" in page.read_text(), "the discrepancy is on the page too"
    assert stat.S_IMODE(page.stat().st_mode) == 0o640
    assert new.is_symlink()
    assert next(csv.DictReader(review.read_text().splitlines()))["difference"] == "50.00"
    assert sorted(tmp_path.iterdir()) == [page, review, new]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond a number of bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--report", "/dev/full"),
        ("--report", "page.html"),
        ("--discrepancies", "/dev/full"),
        ("--discrepancies", "review.csv"),
    ],
)
def test_a_file_that_cannot_be_written_costs_neither_the_report_nor_the_last_one(
    scored: sa.URL, tmp_path: Path, option: str, name: str
) -> None:
    path = tmp_path / name
    if not path.exists():
        path.write_text("the last one")
    with files_of_at_most(40):
        done = call(*ONE_DAY, "--json", "--quiet", option, str(path), url=scored)
    report = json.loads(done.stdout)
    assert (done.returncode, report["inserted"], report["discrepancies"]) == (0, 2, 1)
    [line] = after_database(done).splitlines()
    assert line.startswith(f"Error: {option} {path} ")
    assert re.search(r"(cannot|could not) be written \(.+\)\.$", line)
    if path.is_file():
        assert path.read_text() == "the last one"
        assert list(tmp_path.iterdir()) == [path]


def test_a_page_whose_days_cannot_be_counted_costs_neither_the_report_nor_the_last_one(
    scored: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(_pages: object, connection: sa.Connection, **_: object) -> None:
        run_out_of_time(connection)

    monkeypatch.setattr("momentum.backfill.pages.Pages.count_present_by_day", count)
    page = tmp_path / "page.html"
    page.write_text("the last one")
    done = call(*ONE_DAY, "--json", "--report", str(page), url=scored)
    assert (done.returncode, json.loads(done.stdout)["inserted"], page.read_text()) == (0, 2, "the last one")
    assert done.stderr.splitlines()[-2:] == [
        "warning: the rows of each day could not be counted: canceling statement due to statement timeout",
        f"Error: --report {page} is not written, because the rows of each day are not known.",
    ]


def test_a_long_review_on_a_full_disk_costs_no_report(url: sa.URL, tmp_path: Path) -> None:
    users = add_users(engine_of(url), 500)
    execute(
        url,
        "insert into legacy.daily_engagement_scores (user_id, score_ts, score, pillar_breakdown) "
        "select u, '2026-03-05 12:00+00', 90, '{\"sleep\": 40}' from unnest(cast(:users as uuid[])) as u",
        users=users,
    )
    path = tmp_path / "review.csv"
    with files_of_at_most(9000):
        done = call(*ONE_DAY, "--json", "--quiet", "--discrepancies", str(path), url=url)
    assert (done.returncode, json.loads(done.stdout)["discrepancies"]) == (0, 500)
    assert "--discrepancies" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stream", "kind", "prints", "refused"),
    [
        ("stdout", "file", True, "standard output"),
        ("stdout", "pipe", True, "standard output"),
        ("stdout", "file", False, None),
        ("stdout", "pipe", False, None),
        ("stderr", "file", True, "standard error"),
        ("stderr", "file", False, "standard error"),
        ("stderr", "pipe", True, None),
    ],
)
def test_a_stream_is_another_file_unless_lines_of_both_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, kind: str, prints: bool, refused: str | None
) -> None:
    path = tmp_path / "there"
    (path.touch if kind == "file" else lambda: os.mkfifo(path))()
    with os.fdopen(os.open(path, os.O_RDWR), "w") as opened, Path(os.devnull).open("w") as elsewhere:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(f"sys.{name}", opened if name == stream else elsewhere)
        said = nullcontext() if refused is None else pytest.raises(ConfigurationError, match=f"same file as {refused};")
        with said:
            check_distinct({"--report": path, "--manifest": Path(os.devnull)}, prints=prints)
        with pytest.raises(ConfigurationError, match=r"--failures .* is the same file as --report "):
            check_distinct({"--report": tmp_path / "new", "--failures": tmp_path / "new"}, prints=False)
        check_distinct({"--report": Path(os.devnull), "--failures": Path(os.devnull)}, prints=True)


@pytest.mark.parametrize("name", ["new", "there", "link", "hard"])
def test_a_file_is_replaced_only_if_nothing_goes_wrong(tmp_path: Path, name: str) -> None:
    make_links(tmp_path)
    path = tmp_path / name
    before = {each: each.read_text() for each in tmp_path.iterdir() if each.is_file()}

    def fail() -> None:
        with replacing(path) as stream:
            stream.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {each: each.read_text() for each in tmp_path.iterdir() if each.is_file()} == before
    with replacing(path) as stream:
        stream.write("whole")
    assert path.read_text() == "whole"
    assert path.is_symlink() == (name == "link")


def test_a_file_in_a_folder_that_takes_no_other_is_written_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there"
    path.write_text("the last one, which is longer")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("momentum.backfill.files.tempfile.mkstemp", refuse)
    with replacing(path) as stream:
        stream.write("whole")
    assert path.read_text() == "whole"


def test_a_file_is_whole_on_the_disk_before_it_takes_the_place_of_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there"
    path.write_text("the last one")
    saved: list[tuple[int, str]] = []
    monkeypatch.setattr(os, "fsync", lambda number: saved.append((os.fstat(number).st_size, path.read_text())))
    with replacing(path) as stream:
        stream.write("whole")
    assert saved == [(len("whole"), "the last one")]
    assert path.read_text() == "whole"


def test_a_pipe_gets_the_text_itself() -> None:
    """Nothing can be saved in it, or take its place."""
    reading, writing = os.pipe()
    with replacing(Path(f"/dev/fd/{writing}")) as stream:
        stream.write("whole")
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "whole"


def test_a_file_whose_place_cannot_be_taken_is_written_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mounted"
    path.write_text("the last one, which is longer")

    def refuse(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", refuse)
    with replacing(path) as stream:
        stream.write("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    mask = os.umask(0o026)
    try:
        with replacing(tmp_path / "new") as stream:
            stream.write("whole")
        assert os.umask(0o026) == 0o026, "the program's mask is what it was"
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_file_keeps_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").touch()
    found = (tmp_path / "there").stat()
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _, user, group: given.append((user, group)))
    with replacing(tmp_path / "there"):
        pass
    assert given == [(found.st_uid, found.st_gid)]


def test_a_review_is_made_with_its_first_line_and_kept_with_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    review = Review(path)
    review.close()
    assert not list(tmp_path.iterdir())
    review = Review(path)
    review.keep()
    review.close()
    assert path.read_text() == "user_id,day,score,breakdown_score,difference\n"
    assert review.error is None


@pytest.mark.parametrize("option", ["--manifest", "--failures", "--report", "--discrepancies", "--undo"])
@pytest.mark.parametrize("name", ["", "."])
def test_an_empty_name_is_refused_in_words(option: str, name: str) -> None:
    done = call(option, name, url=NOWHERE)
    assert done.returncode == 2
    assert one_error_line(done) == f"Error: {option} names no file; it is empty, or the current folder."


def test_a_dry_run_leaves_no_empty_file_and_still_looks_whether_it_could_be_written(
    scored: sa.URL, tmp_path: Path
) -> None:
    files = ("--manifest", str(tmp_path / "rows.jsonl"), "--failures", str(tmp_path / "failed.jsonl"))
    assert call(*ONE_DAY, "--dry-run", *files, url=scored).returncode == 0
    assert not list(tmp_path.iterdir())
    refused = call(*ONE_DAY, "--dry-run", "--manifest", str(tmp_path / "no" / "rows.jsonl"), url=scored)
    assert refused.returncode == 2
    assert "cannot be written" in one_error_line(refused)
