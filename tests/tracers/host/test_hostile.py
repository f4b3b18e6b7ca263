"""Names that other processes chose, made safe to print."""

from __future__ import annotations

import codecs
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memtap.tracers.host.hostile import printable

ANY = st.binary() | st.text(st.characters(codec="utf-8")).map(str.encode)


def original(shown: str) -> bytes:
    r"""The way back, where \x80 and above stands for a byte that is not UTF-8."""

    def back(match: re.Match[str]) -> str:
        escape = match[0]
        if escape[1] == "x" and int(escape[2:], 16) >= 0x80:
            return chr(0xDC00 + int(escape[2:], 16))
        return codecs.decode(escape, "unicode_escape")

    escapes = r"\\(?:\\|[tnr]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
    return re.sub(escapes, back, shown).encode(errors="surrogateescape")


def is_ambiguous(raw: bytes) -> bool:
    r"""Has it a control character that looks like a byte that is not UTF-8, both \x80, say?"""
    text = raw.decode(errors="replace")
    return any("\x80" <= character <= "\xad" for character in text)


@given(ANY)
@example("\x1b[2J\n\r\t\0\x7f\x9b\u202e\u2066\u200b\u2028\ufeff\U000e0001\xad".encode())
def test_nothing_that_a_terminal_obeys_is_left(raw: bytes) -> None:
    shown = printable(raw)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    categories = {unicodedata.category(character) for character in shown}
    assert not categories & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(ANY)
def test_no_two_names_look_the_same(raw: bytes) -> None:
    assert is_ambiguous(raw) or original(printable(raw)) == raw


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"cat", "cat"),
        ("grüße 日本".encode(), "grüße 日本"),
        (b"a\nb", "a\\nb"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"back\\slash", "back\\\\slash"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u202egpj".encode(), "\\u202egpj"),
    ],
)
def test_what_prints_stays_and_the_rest_is_escaped(raw: bytes, shown: str) -> None:
    assert printable(raw) == shown
