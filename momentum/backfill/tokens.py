"""The tokens of SQL and PL/pgSQL, so that comments and strings can be told apart from what is executed."""

import re
from typing import NamedTuple

# As in the server's lexer: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
PATTERN = re.compile(
    r"""
    (?P<space>\s+|--[^\n\r]*)
    | (?P<comment>/\*)
    | (?P<escaped>e'(?:[^'\\]|\\.|'')*')
    | (?P<string>(?:[bnx]|u&)?'(?:[^']|'')*')
    | (?P<dollars>\$(?P<tag>(?:[^\W\d]\w*)?)\$(?P<inside>.*?)\$(?P=tag)\$)
    | (?P<quoted>(?:u&)?"(?:[^"]|"")*")
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\$?\d[\w.]*)
    | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Token(NamedTuple):
    """A token.

    Attributes:
        kind: ``word`` (a keyword or a name), ``quoted`` (a name in quotes), ``string``, ``number``, ``operator`` or
            ``other`` (a bracket, a comma and so on).
        text: The name as the server reads it, what is in the string, or the text itself.
    """

    kind: str
    text: str

    def is_name(self) -> bool:
        """Return whether it may be a name."""
        return self.kind in {"word", "quoted"}

    def says(self, *words: str) -> bool:
        """Return whether it is one of some keywords, or of some characters."""
        return self.kind in {"word", "other"} and self.text in words


def tokens_of(sql: str) -> list[Token]:
    """Return the tokens of a text, without spaces and comments."""
    tokens = []
    position = 0
    while found := PATTERN.match(sql, position):
        position = found.end()
        kind, text = str(found.lastgroup), found[0]
        if found["comment"]:
            position = end_of_comment(sql, position)
        elif found["escaped"]:
            tokens.append(Token("string", ESCAPE.sub(r"\1", text[2:-1]).replace("''", "'")))
        elif found["string"]:
            tokens.append(Token("string", text[text.index("'") + 1 : -1].replace("''", "'")))
        elif found["dollars"]:
            tokens.append(Token("string", found["inside"]))
        elif found["quoted"]:
            tokens.append(Token("quoted", text[text.index('"') + 1 : -1].replace('""', '"')))
        elif not found["space"]:
            tokens.append(Token(kind, text.lower() if kind == "word" else text))
    return tokens


def end_of_comment(sql: str, position: int) -> int:
    """Return the position after a comment that has begun before a position; such comments nest."""
    depth = 1
    for mark in re.compile(r"/\*|\*/").finditer(sql, position):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)
