"""Comments and strings are told from what is executed."""

import pytest
import sqlalchemy as sa

from momentum.backfill.tokens import UNREADABLE, Token, tokens_of

# What is in a string.
STRINGS = [
    ("'it''s -- /* $$ \"'", "it's -- /* $$ \""),
    (r"e'it\'s \\'", r"it's \ "[:-1]),
    (r"'\'", "\\"),
    ("E'a''b'", "a'b"),
    ("$$net.http_post('x')$$", "net.http_post('x')"),
    ("$a$ $$ $b$ $a$", " $$ $b$ "),
    ("$a$ $A$ $a$", " $A$ "),
    ("$ä$ $a$ $ä$", " $a$ "),
    ("N'x'", "x"),
    ("U&'x'", "x"),
    (r"e'\n\t\b\f\r\q\'\\'", "\n\t\b\f\rq'\\"),
    (r"e'\x6eet \x6g \xzet \156et \556et \1a'", "net \x06g xzet net net \x01a"),
    (r"e'\u006eet \U0000006Eet \ud83d\ude00'", "net net \N{GRINNING FACE}"),
    (r"U&'n\0065t \+00006eet \\ d\d83d\de00'", "net net \\ d\N{GRINNING FACE}"),
    (r"u&'n!0065t !!' uescape '!'", "net !"),
    ("U&'it''s' /* /* a */ */ UESCAPE -- b\n'x'", "it's"),
    ("'net.'\n'http_get'", "net.http_get"),
    ("'net.' -- it's\n -- more\n  'http''_get'", "net.http'_get"),
    ("e'net.\\n'\r\n'\\x68ttp_get'", "net.\nhttp_get"),
    ("U&'n'\n'\\0065t'", "net"),
]


@pytest.mark.parametrize(
    ("sql", "texts"),
    [
        ("select a.B -- net.http_post('x')\n, c", ["select", "a", ".", "b", ",", "c"]),
        ("a /* http:// /* nested */ still */ b", ["a", "b"]),
        ("a /* never ended /* b */ c", ["a"]),
        ("a/*b*/+/*c*/d", ["a", "+", "d"]),
        ("a <--b\n-1", ["a", "<", "-", "1"]),
        ("x/**/.y", ["x", ".", "y"]),
        ("$1 + $2", ["$1", "+", "$2"]),
        ("a:=b::int", ["a", ":", "=", "b", ":", ":", "int"]),
        ("grün.Straße", ["grün", ".", "straße"]),
        ("a$b$c", ["a$b$c"]),
        ("ÄÖa.Kelvin\N{KELVIN SIGN}", ["ÄÖa", ".", "kelvin\N{KELVIN SIGN}"]),
        ("a\N{NO-BREAK SPACE}b \N{LINE SEPARATOR}", ["a\N{NO-BREAK SPACE}b", "\N{LINE SEPARATOR}"]),
        ("\N{ARABIC-INDIC DIGIT THREE}a", ["\N{ARABIC-INDIC DIGIT THREE}a"]),
        ("1..a 1.5 1.e5 0x1F 1_000", ["1", "..", "a", "1.5", "1.e5", "0x1F", "1_000"]),
        ("a..b", ["a", "..", "b"]),
        (f'{62 * "a"}ä {64 * "b"} "{32 * "ö"}"', [62 * "a", 63 * "b", 31 * "ö"]),
        ("", []),
    ],
)
def test_spaces_and_comments_are_left_out(sql: str, texts: list[str]) -> None:
    assert [token.text for token in tokens_of(sql)] == texts


@pytest.mark.parametrize(("sql", "inside"), STRINGS)
def test_a_string_is_one_token(sql: str, inside: str) -> None:
    assert tokens_of(sql) == [Token("string", inside)]
    assert tokens_of(f"a({sql})b") == [
        Token("word", "a"),
        Token("other", "("),
        Token("string", inside),
        Token("other", ")"),
        Token("word", "b"),
    ]


def test_a_name_in_quotes_is_kept_as_it_is_and_is_no_keyword() -> None:
    [name] = tokens_of('"Execute ""it"" -- now"')
    assert name == Token("quoted", 'Execute "it" -- now')
    assert name.is_name()
    assert not tokens_of('"execute"')[0].says("execute")
    assert tokens_of("EXECUTE")[0].says("execute")
    assert not tokens_of("'execute'")[0].says("execute")


@pytest.mark.parametrize(
    ("sql", "inside"),
    [
        (r"e'\xe4'", "?"),
        (r"e'\344 \0 \777'", "? ? ?"),
        (r"e'\u12 \Uffffffff \ud83d'", "?12 ? ?"),
        (r"U&'\12 \+ffffff \0000 \de00'", "?12 ? ? ?"),
        ("U&'x' uescape '!!'", "?"),
        ("U&'x' uescape", "?"),
    ],
)
def test_what_an_escape_cannot_mean_is_marked(sql: str, inside: str) -> None:
    assert tokens_of(sql) == [Token("string", inside.replace("?", UNREADABLE))]


def test_the_server_reads_strings_the_same(connection: sa.Connection) -> None:
    for sql, inside in STRINGS:
        assert connection.exec_driver_sql(f"select {sql}").scalar_one() == inside


@pytest.mark.parametrize(
    "name",
    [
        *("Net", "NET_1$", "Ähnlich", "ÄÖü", "K\N{KELVIN SIGN}", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"),
        *("\N{LOVE LETTER}", "a\N{NO-BREAK SPACE}b", "\N{ARABIC-INDIC DIGIT THREE}", "a\N{LINE SEPARATOR}"),
        *("a" * 64, "ä" * 40, "a" + "\N{LOVE LETTER}" * 20, '"Net ""x"""', f'"{"Ä" * 40}"', f'U&"\\00C4{"x" * 70}"'),
    ],
)
def test_the_server_reads_names_the_same(connection: sa.Connection, name: str) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None
    [column] = driver.execute(f"select 1 as {name}").description
    assert [token.text for token in tokens_of(name)] == [column.name]


def test_with_an_encoding_of_single_bytes_a_name_that_depends_on_the_locale_is_marked() -> None:
    read = [token.text for token in tokens_of(f'Ähnlich ähnlich "Ähnlich" NET {"ä" * 32}', single_byte=True)]
    assert read == [UNREADABLE, "ähnlich", "Ähnlich", "net", UNREADABLE]


def test_strings_on_one_line_are_two() -> None:
    assert tokens_of("'a' 'b'") == [Token("string", "a"), Token("string", "b")]
    assert tokens_of("'a' --\n, 'b'") == [Token("string", "a"), Token("other", ","), Token("string", "b")]


def test_a_quoted_name_may_have_escapes() -> None:
    assert tokens_of(r'U&"n\0065""t"') == [Token("quoted", 'ne"t')]
    assert tokens_of("""U&"n!0065t" uescape '!' . a""") == [
        Token("quoted", "net"),
        Token("other", "."),
        Token("word", "a"),
    ]


def test_without_standard_conforming_strings_a_backslash_begins_an_escape() -> None:
    sql = r"'\x6eet', N'a\'b', b'1', 'c'"
    read = [token.text for token in tokens_of(sql, conforming=False)]
    assert read == ["net", ",", "a'b", ",", "1", ",", "c"]
    assert tokens_of(sql)[0].text == r"\x6eet"


def test_what_nobody_can_read_ends_somewhere() -> None:
    assert [token.text for token in tokens_of("'never ended")] == ["'", "never", "ended"]
    assert len(tokens_of("/*" * 100_000)) == 0
    assert len(tokens_of("'" + "--\n" * 10_000)) == 1
    assert len(tokens_of("'a'" + "--" * 10_000)) == 1
    assert len(tokens_of("$a$" * 10_001)) > 0
