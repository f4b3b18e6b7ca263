"""Failures that are foreseen: what went wrong, and what to do about it."""


class MemtapError(Exception):
    """Something memtap cannot do here, said in one line, with a line of what to do.

    Attributes:
        what: what went wrong, without a full stop.
        hint: what the user can do, or "" where nothing helps.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
