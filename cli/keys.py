"""The keys that were pressed on a terminal, from what the terminal sends.

Most keys send one character. Arrows, F keys, Alt with a key and the mouse send several, of which
the first is Esc; so Esc itself was pressed if nothing comes after it.
"""

from __future__ import annotations

import re
import time

# How long the rest of a sequence may take to come, as with ncurses (ESCDELAY).
REST_S = 1.0

_PASTE = "\x1b[200~"
# See ctlseqs of xterm, console_codes(4) and ECMA-48. Alt puts an Esc before what a key sends.
_SEQUENCE = re.compile(
    r"""\x1b+(?:
    \[200~ .*? \x1b\[201~                        # pasted text
    | \[M ...                                    # the mouse, as X10 told of it
    | \[\[ .                                     # F1 to F5 of the Linux console
    | \[(?![\[M]|200~) [0-?]* [ -\#%-/]*         # arrows, other F keys, the mouse (CSI),
        (?: [^\x00-?] | \$ | (?=[\x00-\x1f]) )   # ended by a letter, in rxvt by a $ too
    | O [0-9;]* (?: [^0-9;\x00-\x1f] | (?=[\x00-\x1f]) )   # the same in other modes (SS3)
    | [\]P_^X] .*? (?: \a | \x1b\\ )             # what the terminal tells of itself
    | [^\[O\]P_^X\x1b]                           # Alt with another key
    )""",
    re.DOTALL | re.VERBOSE,
)


class Keys:
    """Takes in what a terminal sends, in whatever pieces."""

    def __init__(self) -> None:
        self._rest = ""  # a sequence that has begun
        self._came_s = 0.0

    def feed(self, data: bytes) -> str:
        """The keys in `data` that send one character, in order; no sequences, nothing pasted."""
        if self._is_overdue():
            self._rest = ""
        text, at, keys = self._rest + data.decode("ascii", "replace"), 0, ""
        while at < len(text):
            if text[at] != "\x1b":
                keys, at = keys + text[at], at + 1
            elif found := _SEQUENCE.match(text, at):
                at = found.end()
            else:
                break
        self._rest, self._came_s = _beginning(text[at:]), time.monotonic()
        return keys

    def is_escape(self) -> bool:
        """Whether Esc was pressed: alone, for nothing came after it."""
        return self._rest.strip("\x1b") == "" and self._is_overdue()

    def _is_overdue(self) -> bool:
        """Whether a sequence has begun and its rest will not come."""
        late = time.monotonic() > self._came_s + REST_S
        return bool(self._rest) and late and not self._rest.startswith(_PASTE)


def _beginning(rest: str) -> str:
    """A sequence that has begun; of pasted text, which can be long, only enough to find its end."""
    return _PASTE + rest[len(_PASTE) :][-len(_PASTE) :] if rest.startswith(_PASTE) else rest
