"""The tokens of SQL and PL/pgSQL, so that comments and strings can be told apart from what is executed."""

import functools
import re
import sys
from typing import NamedTuple

# The characters of a name, without digits and the dollar sign: to the server, everything beyond ASCII is one of them.
LETTERS = r"A-Za-z_\x80-\U0010ffff"

# The bytes of a name that the server keeps.
LONGEST_NAME = 63

# A string goes on after a line break, and comments may be in between.
GAP = r"'(?:[ \t\f\v]|--[^\n\r]*)*+[\n\r](?:\s|--[^\n\r]*[\n\r])*+'"


@functools.cache
def pattern(*, conforming: bool) -> re.Pattern[str]:
    """Return the pattern of a token, compiled once there is something to read: that takes as long as a query.

    Args:
        conforming: As for ``tokens_of``.
    """
    # What is before a string in which a backslash begins an escape.
    prefix = "e" if conforming else "[en]?"
    # As in the server's lexer: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
    return re.compile(
        rf"""
        (?P<space>\s+|--[^\n\r]*)
        | (?P<comment>/\*)
        | (?P<escaped>{prefix}'(?:[^'\\]|\\.|''|{GAP})*')
        | (?P<unicode>u&(?:'(?:[^']|''|{GAP})*'|"(?:[^"]|"")*"))
        | (?P<string>[bnx]?'(?:[^']|''|{GAP})*')
        | (?P<dollars>\$(?P<tag>(?:[{LETTERS}][{LETTERS}0-9]*)?)\$(?P<inside>.*?)\$(?-i:(?P=tag))\$)
        | (?P<quoted>"(?:[^"]|"")*")
        | (?P<word>[{LETTERS}][{LETTERS}0-9$]*)
        | (?P<number>\$\d+|\d\w*(?:\.(?!\.)\w*)?)
        | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
        | (?P<other>\.\.|.)
        """,
        re.VERBOSE | re.DOTALL | re.IGNORECASE | re.ASCII,
    )


QUOTE = re.compile(rf"{GAP}|''")
ESCAPE = re.compile(
    rf"{QUOTE.pattern}|\\(?:([0-7]{{1,3}})|x([0-9A-Fa-f]{{1,2}})|u([0-9A-Fa-f]{{4}})|U([0-9A-Fa-f]{{8}})|(.))",
    re.DOTALL,
)
CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

# Stands for a character that isn't known: a byte that means what the database's encoding says, or an escape that the
# server refuses.
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


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


def tokens_of(sql: str, *, conforming: bool = True, single_byte: bool = False) -> list[Token]:
    """Return the tokens of a text, without spaces and comments, and with the characters for which escapes stand.

    Args:
        sql: The text.
        conforming: Whether a backslash is itself in a string without a prefix: standard_conforming_strings.
        single_byte: Whether each character is a byte in the database's encoding.
    """
    scanned = scan(sql, pattern(conforming=conforming))
    tokens = []
    number = 0
    while number < len(scanned):
        kind, text = scanned[number]
        number += 1
        if kind == "unicode":
            mark = "\\"
            if any(each.text.lower() == "uescape" for each in scanned[number : number + 1]):
                mark = "".join(each.text for each in scanned[number + 1 : number + 2])
                number += 2
            kind = "string" if text[0] == "'" else "quoted"
            text = without_unicode_escapes(without_quotes(text), mark)
        if kind in {"word", "quoted"}:
            text = name_of(text, folded=kind == "word", single_byte=single_byte)
        tokens.append(Token(kind, text))
    return tokens


def name_of(text: str, *, folded: bool, single_byte: bool) -> str:
    """Return a name as the server reads it.

    Args:
        text: The name as it is written.
        folded: Whether capitals are small letters: those of ASCII, and with an encoding of single bytes those that the
            database's locale says.
        single_byte: Whether the database has such an encoding.
    """
    if single_byte and not text.isascii() and (len(text.encode()) > LONGEST_NAME or (folded and text != text.lower())):
        return UNREADABLE
    # Of bytes, only those of ASCII have a small letter.
    name = text.encode().lower() if folded else text.encode()
    return name[:LONGEST_NAME].decode(errors="ignore")


def scan(sql: str, token: re.Pattern[str]) -> list[Token]:
    """Return the tokens of a text; those of the kind ``unicode`` as they are, because a mark may follow them."""
    tokens = []
    position = 0
    while found := token.match(sql, position):
        position = found.end()
        kind, text = str(found.lastgroup), found[0]
        if found["comment"]:
            position = end_of_comment(sql, position)
        elif found["escaped"]:
            tokens.append(Token("string", without_escapes(text[text.index("'") + 1 : -1])))
        elif found["unicode"]:
            tokens.append(Token("unicode", text[2:]))
        elif found["string"]:
            tokens.append(Token("string", without_quotes(text[text.index("'") :])))
        elif found["dollars"]:
            tokens.append(Token("string", found["inside"]))
        elif found["quoted"]:
            tokens.append(Token("quoted", without_quotes(text)))
        elif not found["space"]:
            tokens.append(Token(kind, text))
    return tokens


def without_quotes(text: str) -> str:
    """Return what is in a string or a quoted name."""
    if text[0] == '"':
        return text[1:-1].replace('""', '"')
    return QUOTE.sub(lambda found: "'" if found[0] == "''" else "", text[1:-1])


def without_escapes(text: str) -> str:
    """Return the text for which the inside of a string with escapes stands."""

    def character(found: re.Match[str]) -> str:
        octal, byte, four, eight, other = found.groups()
        if octal or byte:
            # As the server does it: only the last 8 bits count.
            code = int(octal, 8) & 0xFF if octal else int(byte, 16)
            return chr(code) if code < 0x80 else UNREADABLE
        if four or eight:
            return character_of(four or eight)
        if other:
            return UNREADABLE if other in "uU" else CONTROLS.get(other, other)
        return "'" if found[0] == "''" else ""

    return readable(ESCAPE.sub(character, text))


def without_unicode_escapes(text: str, mark: str) -> str:
    """Return the text for which a string or a name with Unicode escapes stands.

    Args:
        text: What is in its quotes.
        mark: The character that begins an escape.
    """
    if len(mark) != 1:
        return UNREADABLE
    mark = re.escape(mark)
    escape = re.compile(rf"{mark}(?:({mark})|([0-9A-Fa-f]{{4}})|\+([0-9A-Fa-f]{{6}})|)")
    return readable(escape.sub(lambda found: found[1] or character_of(found[2] or found[3] or ""), text))


def character_of(digits: str) -> str:
    """Return the character with a number in hexadecimal digits."""
    code = int(digits or "0", 16)
    return chr(code) if code <= sys.maxunicode else UNREADABLE


def readable(text: str) -> str:
    """Return a text with the characters for which pairs of surrogates stand, and without what no text may contain."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", UNREADABLE)


def end_of_comment(sql: str, position: int) -> int:
    """Return the position after a comment that has begun before a position; such comments nest."""
    depth = 1
    for mark in re.compile(r"/\*|\*/").finditer(sql, position):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)
