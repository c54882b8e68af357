"""The addresses of the project and the README for the index, from the two addresses in pyproject.toml."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link to a file of the repository, and what makes it a picture.
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<target>[^)]+)\)")


def urls(repository: str, site: str) -> dict[str, str]:
    """Return the addresses that the index shows."""
    return {
        "Homepage": site,
        "Documentation": site,
        "Source": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }


def absolute(readme: str, repository: str, version: str) -> str:
    """Return a README with links that work outside of the repository: to the files of the same version."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found["picture"] else "blob"
        return f"{found['picture']}[{found['text']}]({repository}/{kind}/v{version}/{found['target']})"

    return LINK.sub(link, readme)


class AddressesHook(MetadataHookInterface):
    """Adds the addresses and the README to the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add them."""
        root = Path(self.root)
        repository, site = self.config["repository"], self.config["site"]
        found = re.search(r'^__version__ = "(.+)"$', (root / "momentum/__init__.py").read_text("utf-8"), re.MULTILINE)
        assert found
        text = absolute((root / "README.md").read_text("utf-8"), repository, found[1])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls(repository, site)
