"""The sources of the database's URL and the operator's key: an option, the environment, the env file."""

import datetime
import logging
import os
import stat
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from momentum.connect.environment import DEFAULT_ENV_FILE, ENV_FILE_VARIABLES, SERVICE_ROLE_KEY, URL_VARIABLES
from momentum.connect.supabase import database_url, is_supabase, objection_to_key, project_named, project_of
from momentum.connect.url import parse_url
from momentum.errors import ConfigurationError
from momentum.wording import holds_credentials

if TYPE_CHECKING:
    from sqlalchemy import URL

# The placeholder for the password in the URLs that Supabase's dashboard shows.
TO_FILL_IN = "[YOUR-PASSWORD]"

log = logging.getLogger("momentum.database")


class EnvFile:
    """The operator's env file, read when a value is first needed.

    Args:
        name: The file, which must exist if it is named. By default the default env file, if it exists.
        warn: Called with each warning.
    """

    def __init__(self, name: str | None = None, warn: Callable[[str], None] = log.warning) -> None:
        self._name = name
        self._warn = warn

    def __str__(self) -> str:
        return str(self.path)

    @property
    def named(self) -> bool:
        """Whether somebody has named the file, so that it must exist."""
        return self._name is not None

    @cached_property
    def path(self) -> Path:
        """The file's path.

        Raises:
            ConfigurationError: It is in a home directory that doesn't exist, or its name is a URL.
        """
        if self._name is not None and holds_credentials(self._name):
            # Every message would repeat it, with its password.
            raise ConfigurationError("A URL is given in place of the env file.")
        try:
            return Path(DEFAULT_ENV_FILE if self._name is None else self._name).expanduser()
        except RuntimeError as error:
            name = DEFAULT_ENV_FILE if self._name is None else self._name
            raise ConfigurationError(f"There is no home directory for the env file {name}.") from error

    @cached_property
    def values(self) -> dict[str, str]:
        """The file's variables; none if it does not exist and was not named.

        Raises:
            ConfigurationError: It was named and is missing, or cannot be read.
        """
        from dotenv import dotenv_values  # here, because most callers have no such file

        # dotenv skips each line that it cannot parse and logs a warning, which is of no use here.
        logging.getLogger("dotenv").setLevel(logging.ERROR)
        try:
            # Windows editors begin a file with a byte order mark.
            with self.path.open(encoding="utf-8-sig") as stream:
                if os.fstat(stream.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH):
                    self._warn(f"The env file {self} can be read by other users of this machine; chmod 600 {self}.")
                return {key: value for key, value in dotenv_values(stream=stream, interpolate=False).items() if value}
        except FileNotFoundError as error:
            if self._name is None:
                return {}
            raise ConfigurationError(f"There is no env file {self}; name another with --env-file.") from error
        except OSError as error:
            raise ConfigurationError(f"The env file {self} cannot be read ({type(error).__name__}).") from error
        except (
            UnicodeError
        ) as error:  # It holds the bytes that it could not decode, so it must not be kept as the cause.
            raise ConfigurationError(f"The env file {self} cannot be read ({type(error).__name__}).") from None

    def url(self) -> "URL | None":
        """Return the database's URL from the file, or one made from its project and password.

        Raises:
            ConfigurationError: It is not the URL of a Postgres database, or none can be made.
        """
        for name in ENV_FILE_VARIABLES:
            if self.values.get(name):
                url = parse_url(self.values[name], f"{name} in {self}")
                if url.password not in (None, "", TO_FILL_IN):
                    return url
                if password := self.values.get("SUPABASE_DB_PASSWORD"):
                    return url.set(password=password)
                if url.password == TO_FILL_IN:
                    raise ConfigurationError(
                        f"{name} in {self} has {TO_FILL_IN} for a password; fill it in, or set SUPABASE_DB_PASSWORD."
                    )
                return url
        if self.values.get("SUPABASE_DB_PASSWORD"):
            return parse_url(database_url(self.values, str(self)), f"SUPABASE_DB_HOST in {self}")
        return None


def find_url(
    given: str | None,
    *,
    option: str,
    env_file: EnvFile | str | None = None,
    use_env_file: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> "URL":
    """Return the URL from the option, a named env file, the environment or the default env file.

    The first of these that has one decides. A named file goes before the environment, because it was named for this
    run, while a variable may be left over from something else.

    Args:
        given: The option's value, if it was given. An empty value is an error: if a script's variable is not set, no
            other database may be used instead.
        option: The option's name, such as ``-x url=``, for errors.
        env_file: The env file, or its name; a named file must exist. By default the default env file, if it exists.
        use_env_file: False if it would be too easy to reach a production database through the env file.
        environ: The environment.

    Raises:
        ConfigurationError: No URL was found, it is not a Postgres URL, or a named env file cannot be read.
    """
    file = env_file if isinstance(env_file, EnvFile) else EnvFile(env_file)
    if file.named:
        # Read now, because a misspelt name must be noticed even if the URL comes from elsewhere.
        _ = file.values
    if given is not None:
        return parse_url(given, option)
    if file.named and use_env_file and (url := file.url()):
        return url
    for name in URL_VARIABLES:
        if environ.get(name):
            return parse_url(environ[name], name)
    ways = [f"{option} or set {' or '.join(URL_VARIABLES)}"]
    if use_env_file:
        if not file.named and (url := file.url()):
            return url
        ways.append(f"write {ENV_FILE_VARIABLES[0]} in {file}")
    raise ConfigurationError(f"No database URL: give {', or '.join(ways)}.")


def check_service_role_key(url: "URL", env_file: EnvFile, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a database on Supabase unless the operator holds its project's service-role key.

    The key is checked and sent nowhere: the database's own user does the work. No connection is made here. For a
    database that is not on Supabase, nothing is checked.

    Args:
        url: The database that is going to be changed.
        env_file: The file with the key and SUPABASE_URL.
        environ: The environment, which takes precedence over the default env file, but not over a named one.

    Raises:
        ConfigurationError: The key is missing, not a service-role key, another project's or expired. The message says
            which, and repeats no part of the key.
    """
    if not is_supabase(url):
        return
    project = project_of(url)
    if project is None:
        raise ConfigurationError(
            "The database's URL doesn't say which Supabase project it belongs to, so its service-role key cannot "
            "be checked; through a pooler the user is postgres.REFERENCE."
        )
    values = {name: text for name, text in environ.items() if text}
    try:
        values = {**values, **env_file.values} if env_file.named else {**env_file.values, **values}
    except ConfigurationError:
        # Nobody relies on the default file, whose folder may be another user's, if the key is in the environment.
        if SERVICE_ROLE_KEY not in values or env_file.named:
            raise
    key = values.get(SERVICE_ROLE_KEY, "").strip()
    if not key:
        raise ConfigurationError(
            f"Supabase project {project} may be changed only with its service-role key: write it as "
            f"{SERVICE_ROLE_KEY} in {env_file}."
        )
    named = project_named(values.get("SUPABASE_URL", ""))
    if named not in (None, project):
        raise ConfigurationError(
            f"SUPABASE_URL belongs to project {named}, but the database belongs to project {project}; they must match."
        )
    if reason := objection_to_key(key, project, datetime.datetime.now(datetime.UTC)):
        raise ConfigurationError(f"{SERVICE_ROLE_KEY} {reason}; take the service-role key of project {project}.")
