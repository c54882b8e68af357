"""`make neighbours`: what clients notice of a backfill, and how fast it is next to them.

Clients of pgbench upsert single scores and read the view at half of the rate that the server bears, alone and next to
the command. Latencies count from the moment at which a transaction was due. The figures are the medians of the rounds.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa

from momentum.connect.environment import URL_VARIABLES
from momentum.connect.url import as_text
from momentum.testing import running_server
from tests.server import find_program
from tools import marked
from tools.bench import DAY, FIRST, LAST, PROGRAM, SCORES, SETTINGS, Bench, describe_machine, execute

PATH = Path(__file__).parents[1] / "docs" / "operations.md"
USERS = 40_000
CLIENTS = 4
SECONDS = 15
ROUNDS = 5

# A client's two transactions, of which the first is twice as frequent.
READ = f"""
\\set n random(1, {USERS})
select score_date, score from public.daily_momentum_scores
where user_id = md5('user ' || :n)::uuid and score_date > '{LAST}'::date - 7 order by score_date;
"""
WRITE = f"""
\\set n random(1, {USERS})
\\set day random(0, 6)
insert into {SCORES} (user_id, score_ts, score)
values (md5('user ' || :n)::uuid, ('{LAST}'::date - :day::int + interval '9 hours') at time zone 'UTC', 60)
on conflict (user_id, ({DAY})) do update set score = excluded.score;
"""
WEIGHTS = {READ: 2, WRITE: 1}

ALONE, FULL_SPEED, GENTLE = "nothing", "1 worker", "`--gentle`"
WAYS: dict[str, tuple[str, ...] | None] = {
    ALONE: None,
    FULL_SPEED: (),
    "2 workers": ("--workers", "2"),
    GENTLE: ("--gentle",),
}

# Seconds after which clients have prepared their statements, and the server has what they read in its buffers.
WARM_UP = 1

IS_WRITING = """
    select exists (
      select from pg_catalog.pg_stat_activity
      where datname = current_database() and application_name = 'momentum-backfill' and backend_xid is not null
    )
"""

# A client's p99 next to a gentle backfill, by its p99 alone; and the rate of that, by the rate of one at full speed.
MOST_P99 = 1.5
LEAST_RATE = 0.3


class Latencies(NamedTuple):
    """The milliseconds that clients waited."""

    median: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latencies":
        """Return the figures of some transactions."""
        ordered = sorted(seconds)
        return cls(*(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.99, 1)))


@dataclass(frozen=True)
class Measured:
    """The latencies of the clients, and the rows per second of the backfill."""

    latencies: Latencies
    rate: float = 0.0


def pgbench(url: sa.URL, folder: Path, seconds: float, *options: str) -> subprocess.Popen[str]:
    """Start the clients."""
    scripts = []
    for number, (script, weight) in enumerate(WEIGHTS.items()):
        path = folder / f"{number}.sql"
        path.write_text(script, encoding="utf-8")
        scripts += ["-f", f"{path}@{weight}"]
    words = ["-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1", "-T", str(round(seconds)), *scripts, *options]
    command = [find_program("pgbench"), *words, as_text(url)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def most_transactions(url: sa.URL, seconds: float) -> float:
    """Return the transactions per second that the server bears."""
    with tempfile.TemporaryDirectory() as folder, pgbench(url, Path(folder), seconds) as clients:
        said, complaint = clients.communicate()
    if clients.returncode:
        raise RuntimeError(complaint)
    [line] = [line for line in said.splitlines() if line.startswith("tps = ")]
    return float(line.split()[2])


def measure(url: sa.URL, rate: float, seconds: float, options: Sequence[str] | None) -> Measured:
    """Let the clients work, next to the command with some options if there are any, once that has begun to fill."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            nullcontext() if options is None else filling(url, options) as report,
            pgbench(url, folder, WARM_UP + seconds, "-l", "-R", str(round(rate))) as clients,
        ):
            _, complaint = clients.communicate()
        if clients.returncode:
            raise RuntimeError(complaint)
        lines = [line.split() for path in folder.glob("pgbench_log*") for line in path.read_text().splitlines()]
    # Of each: when it ended, in seconds and microseconds, and how long it took from when it was due.
    ended = [(int(words[4]) + int(words[5]) / 1e6, int(words[2]) / 1e6) for words in lines]
    begin = min(end for end, _ in ended) + WARM_UP
    return Measured(
        Latencies.of([took for end, took in ended if end >= begin]), report["rows_per_s"] if report else 0.0
    )


@contextmanager
def filling(url: sa.URL, options: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run the command during the block, from when it inserts rows; yield its report, complete at the end."""
    words = [str(PROGRAM), "--from", str(FIRST), "--to", str(LAST), "--no-discrepancies", "--json", "--quiet", *options]
    pipe = subprocess.PIPE
    report: dict[str, Any] = {}
    with (
        psycopg.connect(as_text(url), autocommit=True) as connection,
        subprocess.Popen(
            words, env={**os.environ, URL_VARIABLES[0]: as_text(url)}, stdout=pipe, stderr=pipe, text=True
        ) as command,
    ):
        while command.poll() is None and connection.execute(IS_WRITING).fetchone() != (True,):
            time.sleep(0.05)
        yield report
        command.send_signal(signal.SIGTERM)
        said, complaint = command.communicate()
        if not said:
            raise RuntimeError(complaint)
        report |= json.loads(said)
        if not report["interrupted"]:
            raise RuntimeError("the backfill ended before the clients did: there were too few gaps")


def table_of(rounds: Sequence[Mapping[str, Measured]]) -> list[str]:
    """Return the figures as a table: the medians of the rounds."""
    lines = [
        "| next to the clients | p50 | p99 | longest | p99 by that alone | rows/s | share of full speed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in WAYS:
        median, p99, longest = (statistics.median(each[name].latencies[n] for each in rounds) for n in range(3))
        times, rate, share = p99_by_alone(rounds, name), rate_of(rounds, name), share_of_full_speed(rounds, name)
        filled = f"{rate:,.0f} | {share:.2f}" if rate else "|"
        lines.append(f"| {name} | {median:.1f} ms | {p99:.1f} ms | {longest:.0f} ms | {times:.2f} | {filled} |")
    return lines


def p99_by_alone(rounds: Sequence[Mapping[str, Measured]], name: str) -> float:
    """Return by how much the clients' p99 is longer than alone in the same round."""
    return statistics.median(each[name].latencies.p99 / each[ALONE].latencies.p99 for each in rounds)


def rate_of(rounds: Sequence[Mapping[str, Measured]], name: str) -> float:
    """Return a backfill's rows per second."""
    return statistics.median(each[name].rate for each in rounds)


def share_of_full_speed(rounds: Sequence[Mapping[str, Measured]], name: str) -> float:
    """Return a backfill's rate as a share of that with one worker at full speed in the same round."""
    return statistics.median(each[name].rate / each[FULL_SPEED].rate for each in rounds)


def judge(rounds: Sequence[Mapping[str, Measured]]) -> list[str]:
    """Return a sentence for each bound that is not kept."""
    found = []
    if (times := p99_by_alone(rounds, GENTLE)) > MOST_P99:
        found.append(f"the clients' p99 next to {GENTLE} is {times:.2f} times that alone, more than {MOST_P99}")
    if (share := share_of_full_speed(rounds, GENTLE)) < LEAST_RATE:
        found.append(f"{GENTLE} keeps {share:.2f} of the rate at full speed, less than {LEAST_RATE}")
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, and return the exit code: 1 if a bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m tools.neighbours", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long the clients work ({SECONDS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often, each time ({ROUNDS})")
    given = parser.parse_args(arguments)
    rounds: list[dict[str, Measured]] = []
    with running_server(on_disk=True) as server:
        execute(server.admin_url, *(f"alter system set {setting}" for setting in SETTINGS), "select pg_reload_conf()")
        bench = Bench(server)
        template = bench.half_missing(USERS)
        with bench.copy_of(template) as url:
            rate = most_transactions(url, given.seconds) / 2
        says = f"{describe_machine(server)}; {CLIENTS} clients, {rate:,.0f} transactions per second."
        print(says, flush=True)
        for _ in range(given.rounds):
            rounds.append({})
            for name, options in WAYS.items():
                with bench.copy_of(template) as url:
                    rounds[-1][name] = done = measure(url, rate, given.seconds, options)
                p50, p99, longest = done.latencies
                print(f"  {name:<12}{p50:9.1f}{p99:9.1f}{longest:9.0f} ms{done.rate:9,.0f} rows/s", flush=True)
    table = "\n".join([says, "", *table_of(rounds)])
    print(table)
    if (given.seconds, given.rounds) == (SECONDS, ROUNDS):
        PATH.write_text(marked.rewrite(PATH.read_text(encoding="utf-8"), "NEIGHBOURS", table), encoding="utf-8")
    found = judge(rounds)
    for sentence in found:
        print(f"Beyond its bound: {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
