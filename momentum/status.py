"""The command ``momentum status``: whether a database is OK, and what to do if not."""

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated

import typer
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from momentum import __version__
from momentum.backfill import DayRange, Settings, run_backfill
from momentum.backfill.preflight import check_owners
from momentum.backfill.run import read_today
from momentum.backfill.settings import Limits
from momentum.command import URL_OPTION, EnvFile, Url
from momentum.connect.engine import connection_errors, create_engine
from momentum.connect.env_file import find_url
from momentum.connect.settings import PINNED, change_settings
from momentum.connect.url import describe
from momentum.errors import ConfigurationError, NotMigratedError
from momentum.history import SCRIPTS, read_history
from momentum.inventory import TABLES, VIEW
from momentum.migrate.locks import read_heads
from momentum.migrate.parking import Parkable, count_held, find_parked
from momentum.scores import find_score_table
from momentum.trust import find_untrusted
from momentum.verify.compare import compare_database
from momentum.wording import counted, printable, statement_in

# The UTC days, ending yesterday, in which every eligible user-day should have a row.
DAYS = 7

EXIT_CODES = "Exit codes: 0 OK; 1 something to do; 2 usage or configuration; 3 database unreachable."


@dataclass(frozen=True)
class ToDo:
    """Something that is not as it should be.

    Attributes:
        what: What it is, in words.
        command: The command, or the statement of SQL, that fixes it.
    """

    what: str
    command: str


@dataclass
class Status:
    """The state of a database.

    Attributes:
        database: The database, as the driver finds it.
        server_version: The server's version.
        package_version: The version of this package.
        revision: The revision that the database is at; ``base`` if the migrations have not run.
        head: The last revision of this version of the package.
        pending: The revisions that are still to be applied, in their order.
        differences: How much differs from what the migrations make; None if this can't be compared.
        warnings: Things that are not as they should be, and that the role that connects can't change.
        score_table: The score table, with its schema; None if there is none yet.
        layout: Its layout.
        created: Whether the migrations created it.
        estimated_rows: Its rows, as the server estimates them.
        parked: The parked tables and columns, each with how much it holds.
        calls_out: The triggers of the score table that call out of the database for the rows of a backfill.
        first_day: The first of the days in which rows are counted.
        last_day: The last of them.
        eligible: The user-days that should have a row in these days; None if they can't be counted.
        missing: Those that have none.
        to_do: What is to be done, in order.
    """

    database: str
    server_version: str
    revision: str
    head: str
    package_version: str = __version__
    pending: list[str] = field(default_factory=list)
    differences: int | None = None
    warnings: list[str] = field(default_factory=list)
    score_table: str | None = None
    layout: str | None = None
    created: bool | None = None
    estimated_rows: int | None = None
    parked: dict[str, str] = field(default_factory=dict)
    calls_out: list[str] = field(default_factory=list)
    first_day: str | None = None
    last_day: str | None = None
    eligible: int | None = None
    missing: int | None = None
    to_do: list[ToDo] = field(default_factory=list)


def read_status(engine: Engine) -> Status:
    """Return the state of a database, without changing anything.

    Args:
        engine: Connects to the database as the role that migrates it.

    Raises:
        ConfigurationError: The role may not see what this needs, or something belongs to a role that could borrow it.
        sqlalchemy.exc.DBAPIError: The server does not answer, or refused a statement.
    """
    history = read_history()
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        change_settings(connection, PINNED)
        check_owners(find_untrusted(connection))
        heads = read_heads(connection)
        if heads:
            check_owners(find_untrusted(connection, [f"public.{name}" for name in (VIEW, *TABLES)]))
        version = connection.exec_driver_sql("show server_version").scalar_one()
        revision = ", ".join(heads) or "base"
        status = Status(describe(engine.url), version, revision, history[-1])
        if heads and not set(heads) <= set(history):
            status.to_do.append(
                ToDo("the database is at a revision of another version", "pip install --upgrade momentum-schema")
            )
        else:
            status.pending = history[history.index(heads[0]) + 1 :] if heads else history
        if status.pending:
            status.to_do.append(ToDo(f"{counted(len(status.pending), 'revision')} to apply", "momentum upgrade"))
        read_score_table(connection, status)
        parkable = Parkable.of(ScriptDirectory(str(SCRIPTS)))
        for name, statement in find_parked(connection, parkable, at_base=not heads).items():
            status.parked[name] = count_held(connection, name, statement)
    if status.revision == status.head:
        compare(engine, status)
    read_days(engine, status)
    return status


def read_score_table(connection: Connection, status: Status) -> None:
    """Add the score table to a status."""
    scores = find_score_table(connection)
    if scores is None:
        return
    check_owners(find_untrusted(connection, [scores.relation]))
    status.score_table, status.layout, status.created = scores.relation, scores.layout.name, scores.created
    if scores.exists:
        status.estimated_rows = connection.scalar(
            text("""
                select greatest(reltuples, 0)::bigint from pg_catalog.pg_class
                where oid = pg_catalog.to_regclass(:relation)
            """),
            {"relation": scores.relation},
        )


def compare(engine: Engine, status: Status) -> None:
    """Add to a status what differs from what the migrations make."""
    with engine.connect().execution_options(postgresql_readonly=True) as connection:
        try:
            comparison = compare_database(connection)
        except NotMigratedError as error:
            status.warnings.append(str(error))
            return
    status.differences, status.warnings = len(comparison.differences), comparison.warnings
    if comparison.differences:
        differs = f"{counted(len(comparison.differences), 'difference')} from what the migrations make"
        status.to_do.append(ToDo(differs, "momentum verify"))


def read_days(engine: Engine, status: Status) -> None:
    """Add to a status the user-days of the last days that lack a row, as a dry run of the backfill counts them."""
    days = DayRange.choose(None, None, DAYS, read_today(engine, Limits()))
    settings = Settings(days=days, dry_run=True, look_for_discrepancies=False)
    try:
        report = run_backfill(engine, settings)
    except (NotMigratedError, ConfigurationError) as error:
        # What is still to be applied may well be what is missing.
        if isinstance(error, ConfigurationError) or not status.to_do:
            status.to_do.append(ToDo(str(error).rstrip("."), statement_in(str(error)) or "momentum verify"))
        return
    status.first_day, status.last_day = days.first.isoformat(), days.last.isoformat()
    status.eligible, status.missing = report.eligible, report.inserted
    status.calls_out = [trigger.name for trigger in report.triggers if trigger.calls_out]
    if report.inserted:
        lack = f"{counted(report.inserted, 'user-day')} of the last {DAYS} days without a row"
        status.to_do.append(ToDo(lack, f"momentum backfill --days {DAYS}"))


def lines_of(status: Status) -> list[str]:
    """Return a status for people, one fact per line."""
    facts = [
        ("database", status.database),
        ("server", f"PostgreSQL {status.server_version}"),
        ("revision", f"{status.revision}{' (head)' if status.revision == status.head else ''}"),
        ("differences", "not compared" if status.differences is None else f"{status.differences or 'none'}"),
    ]
    if status.score_table:
        origin = "created" if status.created else "adopted"
        facts.append(("score table", f"{status.score_table} ({status.layout} layout, {origin})"))
        rows = "the table is gone" if status.estimated_rows is None else f"about {status.estimated_rows:,}"
        facts.append(("rows", rows))
    else:
        facts.append(("score table", "none yet"))
    facts += [("parked", f"{name} ({held})") for name, held in status.parked.items()] or [("parked", "nothing")]
    facts += [("webhooks", f"the trigger {name} calls out") for name in status.calls_out] or [("webhooks", "none")]
    if status.eligible is None:
        facts.append((f"last {DAYS} days", "not counted"))
    else:
        eligible = counted(status.eligible, "user-day")
        facts.append((f"last {DAYS} days", f"{status.missing:,} of {eligible} without a row"))
    facts += [("warning", warning) for warning in status.warnings]
    lines = []
    for before, (name, value) in zip([("", ""), *facts], facts, strict=False):
        lines.append(f"{'' if name == before[0] else name:11}  {value}")
    if not status.to_do:
        return [*lines, "", "Everything is OK."]
    return [*lines, "", *(f"To do: {each.what}: {each.command}" for each in status.to_do)]


def status(
    database_url: Url = None,
    env_file: EnvFile = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Say whether a database is OK, and which command fixes what is not.

    It is read-only: revision, differences from what the migrations make, the score table, what is parked, triggers
    that call out, and the user-days of the last 7 days without a row.
    """
    url = find_url(database_url, option=URL_OPTION, env_file=env_file)
    with connection_errors(url):
        found = read_status(create_engine(url, application_name="momentum-status"))
    print(json.dumps(asdict(found)) if as_json else "\n".join(map(printable, lines_of(found))))
    return 1 if found.to_do else 0
