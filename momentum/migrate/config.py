"""The migrations, for programs: ``alembic.command.upgrade(alembic_config(url), "head")``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypedDict, Unpack, get_args

from alembic.config import Config
from sqlalchemy import URL

from momentum.connect.url import written
from momentum.errors import ConfigurationError
from momentum.history import SCRIPTS as SCRIPTS
from momentum.migrate.locks import ATTEMPTS, SECONDS
from momentum.scores import ScoresOption

Existing = Literal["refuse", "adopt"]
Access = Literal["refuse", "keep", "close"]
Drift = Literal["warn", "refuse"]
SCORES: tuple[ScoresOption, ...] = get_args(ScoresOption)


class MigrationOptions(TypedDict, total=False):
    """The keywords of ``alembic_config``; see ``Options`` for their meaning."""

    existing: Existing
    access: Access
    drift: Drift
    scores: ScoresOption
    verify: bool
    purge: bool
    attempts: int
    deadline: int


@dataclass(frozen=True)
class Options:
    """The options that ``-x NAME=VALUE`` gives to Alembic's commands.

    Attributes:
        url: The database; see ``momentum.migrate.run`` for where else it may come from.
        existing: ``refuse`` or ``adopt`` tables that the app's earlier migrations created under our names.
        access: Whether to ``refuse`` an adoption that would take something from clients, to ``keep`` what they have, or
            to ``close`` the tables to them.
        drift: Whether to ``warn`` of differences from what the current revision makes before anything changes, or to
            ``refuse`` such a database.
        scores: Where the score table is, for scripts made with ``--sql``: one of SCORES.
        verify: Whether an upgrade ends with the comparison that ``python -m momentum.verify`` makes.
        purge: Whether a downgrade also drops the parked tables and columns.
        attempts: The number of lock timeouts and deadlocks after which a run gives up.
        deadline: Seconds after which a run that waits for locks gives up.
    """

    url: str | None = None
    existing: Existing = "refuse"
    access: Access = "refuse"
    drift: Drift = "warn"
    scores: ScoresOption = "fresh"
    verify: bool = True
    purge: bool = False
    attempts: int = ATTEMPTS
    deadline: float = SECONDS


def read_options(given: Mapping[str, str]) -> Options:
    """Return the options, parsed from text.

    Raises:
        ConfigurationError: An option is unknown or its value is invalid: a misspelt option must not be ignored.
    """
    values: dict[str, object] = {}
    for name, value in given.items():
        if name in ("verify", "purge") and value in ("yes", "no"):
            values[name] = value == "yes"
        elif (
            name == "url"
            or (name == "existing" and value in get_args(Existing))
            or (name == "access" and value in get_args(Access))
            or (name == "drift" and value in get_args(Drift))
            or (name == "scores" and value in SCORES)
        ):
            values[name] = value
        elif name in ("attempts", "deadline") and value.isascii() and value.isdigit() and 0 < int(value) < 10**6:
            values[name] = int(value)
        else:
            raise wrong_option(name)
    if "access" in values and values.get("existing") != "adopt":
        raise ConfigurationError(
            "The option access= says what happens to clients of tables that existing=adopt replaces."
        )
    return Options(**values)  # type: ignore[arg-type]


def wrong_option(name: str) -> ConfigurationError:
    """Return the error for an option; it doesn't repeat the value, which may hold a password."""
    expected = {
        "existing": " or ".join(get_args(Existing)),
        "access": "refuse, keep or close",
        "drift": " or ".join(get_args(Drift)),
        "scores": f"{', '.join(SCORES[:-1])} or {SCORES[-1]}",
        "verify": "yes or no",
        "purge": "yes or no",
        "attempts": "a whole number from 1 to 999999",
        "deadline": "a whole number of seconds from 1 to 999999",
    }
    if name in expected:
        return ConfigurationError(f"The option {name}= takes {expected[name]}.")
    known = ", ".join(field.name for field in fields(Options))
    shown = name if name.isidentifier() else "this name"
    return ConfigurationError(f"The migrations have no option {shown}; the options are {known}.")


def alembic_config(url: URL | str, **options: Unpack[MigrationOptions]) -> Config:
    """Return an Alembic configuration for the migrations of this package.

    Args:
        url: The database's URL. Alembic's commands then raise a ``MomentumError`` instead of ending the program.
        options: The options of ``-x``, such as ``existing="adopt"``, ``verify=False``, ``attempts=5``.

    Raises:
        ConfigurationError: An option is unknown or its value is invalid. Type checkers find that sooner.
    """
    texts = {
        name: ("yes" if value else "no") if isinstance(value, bool) else str(value) for name, value in options.items()
    }
    # Checked here, so that the error points to the caller's line.
    read_options(texts)
    text = url if isinstance(url, str) else written(url)
    config = Config()
    # ConfigParser takes a single per cent sign for the start of an interpolation.
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", text.replace("%", "%%"))
    config.attributes["options"] = texts
    return config
