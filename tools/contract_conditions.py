"""Whether one condition of SQL follows from another one, as far as their texts show."""

import re
from collections.abc import Iterator
from decimal import Decimal

NUMBER = r"\(?'?(?P<number>-?\d+(?:\.\d+)?)'?\)?(?:::[\w \[\]]+)?"
COMPARISON = re.compile(rf"(?P<left>.+?) (?P<operator>>=|<=|>|<|=) {NUMBER}", re.DOTALL)
LISTED = re.compile(r"(?P<left>.+?) (?:(?P<any>= ANY)|(?P<all><> ALL)) \((?P<list>.+)\)", re.DOTALL)
SINGLE = re.compile(r"(?P<left>.+?) (?P<operator>=|<>) (?P<value>'(?:[^']|'')*')(?:::[\w \"]+)?", re.DOTALL)
VALUE = re.compile(r"'((?:[^']|'')*)'|(?<![\w.])(-?\d+(?:\.\d+)?)")


def unquoted(text: str) -> Iterator[tuple[int, int]]:
    """Yield the place of each letter of SQL or Python outside of quotes, and how many parentheses are open before."""
    depth, quote = 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
            continue
        yield place, depth
        if letter in "'\"":
            quote = letter
        depth += (letter in "([{") - (letter in ")]}")


def split(text: str, separator: str) -> list[str]:
    """Split a text of SQL or Python where it is not in parentheses or quotes."""
    parts, start = [], 0
    for place, depth in unquoted(text):
        if depth == 0 and place >= start and text.startswith(separator, place):
            parts.append(text[start:place])
            start = place + len(separator)
    return [*parts, text[start:]]


def stripped(condition: str) -> str:
    """Return a condition without the parentheses around it."""
    condition = condition.strip()
    while condition.startswith("("):
        end = next((place for place, depth in unquoted(condition) if depth == 1 and condition[place] == ")"), 0)
        if end != len(condition) - 1:
            break
        condition = condition[1:-1].strip()
    return condition


def implies(old: str, new: str) -> bool:
    """Return whether one condition is shown to follow from another one.

    Nulls are no exception: comparisons of a column with constants are null for the same rows, and so are equal texts.
    """
    old, new = stripped(old), stripped(new)
    if old == new or new == "true" or old == "false":
        return True
    if len(parts := split(new, " AND ")) > 1:
        return all(implies(old, part) for part in parts)
    if len(parts := split(old, " OR ")) > 1:
        return all(implies(part, new) for part in parts)
    if len(parts := split(old, " AND ")) > 1:
        return any(implies(part, new) for part in parts)
    if len(parts := split(new, " OR ")) > 1:
        return any(implies(old, part) for part in parts)
    return implies_comparison(old, new)


def implies_comparison(old: str, new: str) -> bool:
    """Return whether a comparison with constants follows from another one of the same column."""
    one, other = values_of(old), values_of(new)
    if one and other and one[:2] == other[:2]:
        return one[2] <= other[2] if one[1] else one[2] >= other[2]
    lower, upper = COMPARISON.fullmatch(old), COMPARISON.fullmatch(new)
    if lower is None or upper is None or lower["left"] != upper["left"]:
        return False
    have, need = lower["operator"], upper["operator"]
    value, limit = Decimal(lower["number"]), Decimal(upper["number"])
    if have == "=":
        return {">=": value >= limit, ">": value > limit, "<=": value <= limit, "<": value < limit}.get(need, False)
    if need == "=" or have[0] != need[0]:
        return False
    if value == limit:
        return have == need or need == f"{have}="
    return value > limit if have[0] == ">" else value < limit


def values_of(condition: str) -> tuple[str, bool, set[str]] | None:
    """Return what a condition compares with a list, whether it must be in it, and the list."""
    if found := LISTED.fullmatch(condition):
        return (
            found["left"].removeprefix("(").removesuffix("::text").removesuffix(")"),
            bool(found["any"]),
            {a or b for a, b in VALUE.findall(found["list"])},
        )
    if found := SINGLE.fullmatch(condition):
        return (
            found["left"].removeprefix("(").removesuffix("::text").removesuffix(")"),
            found["operator"] == "=",
            {found["value"][1:-1]},
        )
    return None
