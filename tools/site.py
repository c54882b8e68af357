"""Tells the site of docs/ where it is and where its repository is; MkDocs calls it."""

import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the addresses of pyproject.toml."""
    settings = tomllib.loads((Path(config.config_file_path).parent / "pyproject.toml").read_text(encoding="utf-8"))
    addresses = settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    config.site_url = addresses["site"]
    config.repo_url = addresses["repository"]
    config.edit_uri = "edit/main/docs/"
    return config
