"""Generated parts of a document, each between two comments: ``<!-- BEGIN TABLE -->`` and ``<!-- END TABLE -->``."""


def rewrite(document: str, name: str, content: str) -> str:
    """Return a document with the part of that name replaced.

    Raises:
        ValueError: It doesn't have exactly one part of that name.
    """
    begin, end = f"<!-- BEGIN {name} -->", f"<!-- END {name} -->"
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in after:
        raise ValueError(f"The document must have one {begin} and after it one {end}.")
    return f"{before}{begin}\n{content}\n{end}{after}"


def read(document: str, name: str) -> str:
    """Return the part of that name; the document must have one."""
    return document.split(f"<!-- BEGIN {name} -->\n")[1].split(f"\n<!-- END {name} -->")[0]
