"""Names and paths that other processes chose are hostile input."""

from __future__ import annotations

# The kernel appends this in /proc to the path of a file that has no name any more.
DELETED = " (deleted)"


def printable(raw: bytes) -> str:
    r"""A name that is safe to print: one line, no control or formatting characters.

    Bytes that are not UTF-8 and characters that do not print (escape sequences, new lines,
    bidirectional overrides) become \x1b, \u202e and the like; a backslash is doubled.
    """
    text = raw.decode("utf-8", "surrogateescape")
    return one_line(text.replace("\\", "\\\\"))


def one_line(text: str) -> str:
    r"""A text with what does not print as \x1b and the like; the output of printable() as it is."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
