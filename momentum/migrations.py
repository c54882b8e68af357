"""The migrations, for programs: ``alembic.command.upgrade(alembic_config(url), "head")``."""

from pathlib import Path

from alembic.config import Config
from sqlalchemy import URL

from momentum.database import as_text

# An installed package carries the migrations; in the repository they stand beside it.
PACKAGED = Path(__file__).parent / "_alembic"
SCRIPTS = PACKAGED if PACKAGED.exists() else Path(__file__).parents[1] / "alembic"


def alembic_config(url: URL | str) -> Config:
    """Return an Alembic configuration for the migrations of this package.

    Args:
        url: The database's URL. Alembic's commands then raise a ``MomentumError`` instead of ending the program.
    """
    text = url if isinstance(url, str) else as_text(url)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    # ConfigParser takes a single per cent sign for the beginning of a reference.
    config.set_main_option("sqlalchemy.url", text.replace("%", "%%"))
    return config
