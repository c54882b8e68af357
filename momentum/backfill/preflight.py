"""Checks before a run: whether the database can be filled.

It needn't be at the revision of this version of the package: the checks are for what the statements of the backfill
need. Every refusal is one sentence that says what was found and what to do.
"""

import datetime
import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from momentum.backfill.days import DayRange
from momentum.backfill.effects import Catalog
from momentum.backfill.eligibility import ACCOUNTS, EVENTS, read_account_columns
from momentum.backfill.triggers import Fingerprint, Trigger, find_triggers
from momentum.connect.engine import check_server
from momentum.connect.pipeline import Answer, Rows, ask
from momentum.distribution import find_distributed
from momentum.errors import ConfigurationError, NotMigratedError
from momentum.history import read_history
from momentum.scores import ScoreTable, find_interference, read_score_table
from momentum.trust import Untrusted, find_untrusted
from momentum.wording import PROJECT_OWNER, advise, is_of_platform

logger = logging.getLogger("momentum.backfill")


@dataclass(frozen=True)
class Database:
    """The facts about its database that a run needs.

    Attributes:
        scores: The score table.
        account_columns: The optional columns that auth.users has.
        triggers: The triggers that the run's rows fire.
        fingerprint: The state of everything that runs for them.
        distributed: Whether Citus has distributed the score table.
        takes_ids: Whether the run may make the rows' ids.
        now: The server's time.
    """

    scores: ScoreTable
    account_columns: frozenset[str]
    triggers: tuple[Trigger, ...]
    fingerprint: Fingerprint
    distributed: bool
    takes_ids: bool
    now: datetime.datetime

    @property
    def own_path(self) -> bool:
        """Whether code that isn't ours may run for a row: triggers, or the defaults and checks of an adopted table."""
        return bool(self.triggers) or not self.scores.created


def look_at(connection: Connection, event: str, *, dry_run: bool, with_events: bool) -> Database:
    """Return the facts about its database that a run needs.

    Args:
        connection: A connection; nothing is written through it.
        event: What the run does with rows: ``insert`` or ``delete``.
        dry_run: Whether it only counts them.
        with_events: Whether it looks at momentum events.

    Raises:
        DatabaseUnreachableError: The server is a standby, and something is to be written.
        NotMigratedError: The score table is not recorded, or its unique key or a column is missing.
        ConfigurationError: Something belongs to a role that could borrow our rights through it, something interferes
            with the rows of the score table, the role lacks a right, or row-level security would hide rows from it.
    """
    check_server(connection, writes=not dry_run)
    check_owners(find_untrusted(connection))
    scores = read_score_table(connection)
    events = [EVENTS.fullname] if with_events else []
    owners = find_untrusted(connection, [scores.relation, *events])
    account_columns = read_account_columns(connection)
    interference = find_interference(connection, scores.relation)
    key = find_unique_key(connection)
    hidden = find_hidden_rows(connection, ACCOUNTS.fullname, scores.relation, *events)
    revisions = ask(connection, text("select version_num from momentum_internal.alembic_version"))
    read = Catalog.read(connection)
    distributed = is_distributed(connection, scores)
    ids = takes_ids(connection, scores)
    now = read_clock(connection)
    check_owners(owners)
    catalog = read.value
    triggers = find_triggers(connection, catalog, scores.relation, event, ("user_id", *scores.default_row))
    fingerprint = Fingerprint.read(connection, catalog)
    check_needs(
        connection, needs_of(scores, account_columns.value, "select" if dry_run else event, with_events=with_events)
    )
    if interference.value:
        raise ConfigurationError(interference.value)
    check_unique_key(key.value, scores)
    check_hidden_rows(hidden.value)
    if difference := compare_revision([row.version_num for row in revisions.value], read_history()):
        logger.info(difference)
    return Database(
        scores, account_columns.value, tuple(triggers), fingerprint.value, distributed.value, ids.value, now.value
    )


def check_owners(untrusted: Answer[Untrusted | None]) -> None:
    """Refuse what belongs to a role that could borrow our rights through it."""
    if untrusted.value is not None:
        raise ConfigurationError(str(untrusted.value))


def compare_revision(found: Sequence[str], history: Sequence[str]) -> str | None:
    """Return in a sentence how a database that can be filled differs from this version; None if it doesn't.

    Args:
        found: The revisions that the database says it is at.
        history: The revisions of this version, the oldest first.
    """
    if list(found) == [history[-1]]:
        return None
    if not found:
        difference = f"The database names no revision (this version's own is {history[-1]})"
    elif set(found) <= set(history):
        difference = f"The database is at revision {', '.join(found)}, before this version's own, {history[-1]}"
    else:
        difference = (
            f"The database is at revision {', '.join(found)}, which this version doesn't know (its own is "
            f"{history[-1]})"
        )
    return f"{difference}; it has everything that the backfill needs."


class Need(NamedTuple):
    """A right that a run needs.

    Attributes:
        relation: The table.
        column: The column, empty for the whole table.
        right: ``select``, ``insert`` or ``delete``.
    """

    relation: str
    column: str
    right: str


def needs_of(scores: ScoreTable, account_columns: Iterable[str], right: str, *, with_events: bool) -> list[Need]:
    """Return the columns and the rights that a run needs.

    Args:
        scores: The score table.
        account_columns: The optional columns that auth.users has.
        right: What the run does with rows of the score table: ``select``, ``insert`` or ``delete``.
        with_events: Whether it looks at momentum events.
    """
    written = {"user_id": "", **scores.default_row}
    read = {
        **written,
        **scores.layout.columns,
        **(dict.fromkeys(("created_at", "updated_at")) if scores.audited else {}),
    }
    needs = [Need(scores.relation, column, "select") for column in read]
    needs += [Need(scores.relation, column, right) for column in written if right == "insert"]
    needs += [Need(scores.relation, "", right)] if right == "delete" else []
    needs += [Need(ACCOUNTS.fullname, column, "select") for column in ("id", *account_columns)]
    needs += [Need(EVENTS.fullname, column, "select") for column in EVENTS.columns.keys() if with_events]  # noqa: SIM118 - it is no mapping
    return needs


def check_needs(connection: Connection, needs: Sequence[Need]) -> None:
    """Refuse a database that lacks a column that a run needs, and a role that lacks a right."""
    rows = connection.execute(
        text("""
            select need.relation, need.name, need.privilege, current_user as role,
              a.attnum is not null or need.name = '' as there,
              pg_get_userbyid(c.relowner) as owner,
              format('grant %s on %s to %I', need.privilege, need.relation, current_user) as statement,
              case need.name
                when '' then has_table_privilege(to_regclass(need.relation), need.privilege)
                else has_column_privilege(a.attrelid, a.attnum, need.privilege)
              end as granted
            from unnest(cast(:relations as text[]), cast(:names as text[]), cast(:privileges as text[]))
              with ordinality as need (relation, name, privilege, number)
            left join pg_catalog.pg_class as c on c.oid = to_regclass(need.relation)
            left join pg_catalog.pg_attribute as a
              on a.attrelid = c.oid and need.name = a.attname and not a.attisdropped
            order by need.number
        """),
        dict(zip(("relations", "names", "privileges"), map(list, zip(*needs, strict=True)), strict=True)),
    ).all()
    if missing := [row for row in rows if not row.there]:
        relation = missing[0].relation
        columns = dict.fromkeys(row.name for row in missing if row.relation == relation)
        raise NotMigratedError(
            f"{relation} has no {', '.join(columns)}, which this version of the backfill needs; upgrade the database "
            "to head with the momentum migrations, or use the version of the package with which it was migrated."
        )
    for row in rows:
        if not row.granted:
            owner = PROJECT_OWNER if is_of_platform(row.owner) and row.role != PROJECT_OWNER else row.owner
            raise ConfigurationError(
                f"The role {row.role} may not {row.privilege} rows of {row.relation}; {advise(owner, row.statement)}."
            )


def find_unique_key(connection: Connection) -> Answer[Any]:
    """Return the name of the score table's unique key over user and day, and whether it is valid."""
    found = ask(
        connection,
        text("""
            select
              s.unique_index as name,
              coalesce(i.indisvalid and i.indisunique and i.indimmediate and i.indpred is null, false) as valid
            from momentum_internal.score_table as s
            left join pg_catalog.pg_index as i on i.indexrelid = to_regclass(s.unique_index)
        """),
    )
    return found.then(lambda rows: rows[0])


def check_unique_key(key: Any, scores: ScoreTable) -> None:
    """Refuse a score table without a valid unique key over user and day."""
    if not key.valid:
        name = key.name.partition(".")[2]
        raise NotMigratedError(
            f"{scores.relation} has no valid unique key over user and day, so a day could get two rows; drop "
            f"{key.name} if it exists, and create it again with `create unique index concurrently {name} on "
            f"{scores.relation} (user_id, {scores.layout.day})`."
        )


def find_hidden_rows(connection: Connection, *relations: str) -> Answer[Rows]:
    """Return the first relation from which row-level security hides rows, as one row or none."""
    return ask(
        connection,
        text("""
            select hidden.relation, current_user as role, pg_get_userbyid(c.relowner) as owner,
              c.relforcerowsecurity as forced
            from unnest(cast(:relations as text[])) with ordinality as hidden (relation, number)
            inner join pg_catalog.pg_class as c on c.oid = to_regclass(hidden.relation)
            where row_security_active(c.oid)
            order by hidden.number
            limit 1
        """),
        {"relations": list(relations)},
    )


def check_hidden_rows(hidden: Rows) -> None:
    """Refuse a role from which row-level security hides rows, because the run would count and fill the wrong days."""
    for row in hidden:
        owner = "" if row.forced or is_of_platform(row.owner) else f"{row.owner}, or as "
        raise ConfigurationError(
            f"Row-level security hides rows of {row.relation} from the role {row.role}; connect as {owner}a role with "
            f"bypassrls (on Supabase: {PROJECT_OWNER})."
        )


def check_days(days: DayRange, now: datetime.datetime) -> None:
    """Refuse a range that ends after the current day of the server."""
    if days.last > now.date():
        raise ConfigurationError(f"The range ends on {days.last}, in the future; the server's UTC day is {now.date()}.")


def check_triggers(
    triggers: Sequence[Trigger], relation: str, *, allow_webhooks: bool, allow_other_owners: bool
) -> None:
    """Refuse to fire triggers that call out of the database or run others' functions, unless the settings allow it.

    Args:
        triggers: Everything that runs for each row.
        relation: The table.
        allow_webhooks: Whether it may call out.
        allow_other_owners: Whether it may run functions of roles that aren't trusted.
    """
    calling = [trigger for trigger in triggers if trigger.calls_out and not trigger.unknown]
    unknown = next((trigger for trigger in triggers if trigger.unknown), None)
    others = next((trigger for trigger in triggers if trigger.of_others), None)
    if calling and not allow_webhooks:
        raise ConfigurationError(
            f"The {listed(calling)} of {relation} would call out of the database for every row, such as to push "
            f"notifications to phones; disable {'it' if len(calling) == 1 else 'them'} for the run, or give "
            "--allow-webhooks."
        )
    if unknown and not allow_webhooks:
        raise ConfigurationError(
            f"It can't be known whether the {listed([unknown])} of {relation} would call out of the database, because "
            f"{unknown.unknown[0]}; disable it for the run, or give --allow-webhooks."
        )
    if others and not allow_other_owners:
        raise ConfigurationError(
            f"The {listed([others])} of {relation} would run, with your rights, {others.of_others[0]}; look at it and "
            "disable it for the run, or give --allow-other-owners."
        )


def listed(triggers: Sequence[Trigger]) -> str:
    """Return the names of triggers and of what else runs for each row, with what they are."""
    kinds = dict.fromkeys(trigger.kind for trigger in triggers)
    names = {kind: [trigger.name for trigger in triggers if trigger.kind == kind] for kind in kinds}
    return " and the ".join(
        f"{kind}{'s' if kind == 'trigger' and len(names[kind]) > 1 else ''} {', '.join(names[kind])}" for kind in kinds
    )


def is_distributed(connection: Connection, scores: ScoreTable) -> Answer[bool]:
    """Return whether Citus has distributed the score table over several servers."""
    return find_distributed(connection).then(lambda found: found.get(scores.relation) is not None)


def takes_ids(connection: Connection, scores: ScoreTable) -> Answer[bool]:
    """Return whether the score table takes any UUID as a row's id: the default is a random one, and nothing reads it.

    What reads it may want another version, or random digits at its beginning: a check, an expression in an index, a
    column that is computed from it, the condition of a trigger, a policy. Otherwise the table's own default makes it,
    as it does where the role may not write that column.
    """
    found = ask(
        connection,
        text("""
            select 1
            from pg_catalog.pg_attribute as a
            inner join pg_catalog.pg_attrdef as own on a.attrelid = own.adrelid and a.attnum = own.adnum
            where
              a.attrelid = pg_catalog.to_regclass(:relation) and a.attname = 'id' and a.atttypid = 'uuid'::regtype
              and pg_catalog.pg_get_expr(own.adbin, own.adrelid) = 'gen_random_uuid()'
              and pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'insert')
              and not exists (
                select
                from pg_catalog.pg_depend as d
                left join pg_catalog.pg_constraint as c on d.classid = 'pg_constraint'::regclass and c.oid = d.objid
                left join pg_catalog.pg_index as i on d.classid = 'pg_class'::regclass and i.indexrelid = d.objid
                left join pg_catalog.pg_attrdef as other
                  on d.classid = 'pg_attrdef'::regclass and other.oid = d.objid and other.oid <> own.oid
                where
                  d.refclassid = 'pg_class'::regclass and d.refobjid = a.attrelid and d.refobjsubid = a.attnum
                  and (
                    c.contype in ('c', 'x') or i.indexprs is not null or i.indpred is not null or other.oid is not null
                    or d.classid in ('pg_trigger'::regclass, 'pg_policy'::regclass)
                  )
              )
        """),
        {"relation": scores.relation},
    )
    return found.then(bool)


def read_clock(connection: Connection) -> Answer[datetime.datetime]:
    """Return the server's time, read in a form that the database's DateStyle doesn't affect."""
    moment = ask(
        connection,
        text("""
            select pg_catalog.to_char(
              pg_catalog.timezone('UTC', pg_catalog.statement_timestamp()), 'YYYY-MM-DD HH24:MI:SS.US'
            )
        """),
    )
    return moment.then(lambda rows: datetime.datetime.fromisoformat(rows[0][0]).replace(tzinfo=datetime.UTC))


def find_unknown_users(connection: Connection, users: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Return the users that don't exist."""
    known = set(connection.scalars(text("select id from auth.users where id = any(:ids)"), {"ids": list(users)}))
    return [user for user in users if user not in known]


def count_accounts(connection: Connection, users: Sequence[uuid.UUID]) -> Answer[int]:
    """Return how many accounts there are, of some users or, if none is named, of everyone."""
    statement = text(
        "select count(*) from auth.users where cardinality(cast(:ids as uuid[])) = 0 or id = any(cast(:ids as uuid[]))"
    )
    return ask(connection, statement, {"ids": list(users)}).then(lambda rows: int(rows[0][0]))
