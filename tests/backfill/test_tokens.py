"""Comments and strings are told from what is executed."""

import pytest

from momentum.backfill.tokens import Token, tokens_of


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
        ("", []),
    ],
)
def test_spaces_and_comments_are_left_out(sql: str, texts: list[str]) -> None:
    assert [token.text for token in tokens_of(sql)] == texts


@pytest.mark.parametrize(
    ("sql", "inside"),
    [
        ("'it''s -- /* $$ \"'", "it's -- /* $$ \""),
        (r"e'it\'s \\'", r"it's \ "[:-1]),
        (r"'\'", "\\"),
        ("E'a''b'", "a'b"),
        ("$$net.http_post('x')$$", "net.http_post('x')"),
        ("$a$ $$ $b$ $a$", " $$ $b$ "),
        ("N'x'", "x"),
        ("U&'x'", "x"),
    ],
)
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


def test_what_nobody_can_read_ends_somewhere() -> None:
    assert [token.text for token in tokens_of("'never ended")] == ["'", "never", "ended"]
    assert len(tokens_of("/*" * 100_000)) == 0
    assert len(tokens_of("$a$" * 10_001)) > 0
