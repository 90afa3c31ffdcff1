"""What of a provider's words is shown (incident I-28)."""

import pytest

from xrouter.providers.safe_text import safe_text, safe_type

SECRET = "sk-proj-Zx7Kp3Vb5Tj1Wm"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("max_tokens must be at least 1", "max_tokens must be at least 1"),
        ("модель GigaChat-2-Max не найдена", "модель GigaChat-2-Max не найдена"),
        (f"Incorrect API key provided: {SECRET}.", "Incorrect API key provided: ***."),
        (f"Incorrect API key provided: {SECRET[:11]}…", "Incorrect API key provided: ***…"),
        (f"wrong: {SECRET.upper()}!", "wrong: ***!"),
        ("wrong: " + "".join(f"&#{ord(letter)};" for letter in SECRET), "wrong: ***"),
        ("Bearer abc", "***"),
        ("one\r\ntwo\u2028three\x00", "one two three"),
        ("token 0123456789abcdef0123456789abcdef is old", "token *** is old"),
        ("a very-long-word-without-anything-odd-in-it", "a very-long-word-without-anything-odd-in-it"),
        ("<html><body>502", ""),
        (" <!DOCTYPE html>", ""),
        ("if a < b and c > d", "if a < b and c > d"),
        ("İİİ " + SECRET, "İİİ ***"),
    ],
)
def test_what_is_shown(said: str, shown: str) -> None:
    assert safe_text(said, [SECRET]) == shown


def test_a_secret_across_the_end_of_what_is_read() -> None:
    for start in range(1960, 2001):
        shown = safe_text("x " * 900 + "y" * (start - 1800) + SECRET, [SECRET])
        assert SECRET[:8] not in shown
    assert len(safe_text("word " * 1000, [])) == 500


def test_short_secrets_are_hidden_too() -> None:
    assert safe_text("the password is p4ss", ["p4ss"]) == "the password is ***"
    assert safe_text("the password is abc", ["abc"]) == "the password is abc", "no secret is as short as that"


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (b"text/html; charset=utf-8", "text/html"),
        (b"Application/JSON", "application/json"),
        (None, "none"),
        (b"", "none"),
        (b"text/" + SECRET.encode(), "another one"),
    ],
)
def test_types(header: bytes | None, shown: str) -> None:
    assert safe_type(header) == shown
