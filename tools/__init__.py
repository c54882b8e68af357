"""Programs of this repository, which make's targets run; nothing of it is in the package."""
