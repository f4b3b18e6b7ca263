"""What a terminal sends, and which keys that is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.cli.keys import REST_S, Keys

# By what xterm, the Linux console, rxvt, tmux and screen send.
SEQUENCES = [
    "\x1b[A", "\x1b[B", "\x1bOA", "\x1bOD", "\x1b[H", "\x1b[F", "\x1bOH", "\x1bOF",
    "\x1b[5~", "\x1b[6~", "\x1b[1~", "\x1b[4~", "\x1b[2~", "\x1b[3~",
    "\x1bOP", "\x1bOS", "\x1b[[A", "\x1b[[E", "\x1b[15~", "\x1b[24~", "\x1bO5P", "\x1b[1;5P",
    "\x1b[1;5A", "\x1b[1;2B", "\x1b[5;3~", "\x1b[1;10D", "\x1b[a", "\x1bOa", "\x1b[7$", "\x1b[7^",
    "\x1b\x1b[A", "\x1b\x1bOA", "\x1b[Z", "\x1b[I", "\x1b[O", "\x1b[27;5;113~", "\x1b[113;5u",
    "\x1b[M qb", "\x1b[<0;10;5M", "\x1b[<0;10;5m", "\x1b[32;10;5M",
    "\x1b[200~q<>r b\x1b[201~", "\x1b[200~q\x1b[Aq\x1b[201~", "\x1b[200~\x1b[201~",
    "\x1b]11;rgb:00/00/00\a", "\x1b]10;q\x1b\\", "\x1bP1+r\x1b\\", "\x1b[?1;2c", "\x1b[24;80R",
    "\x1bq", "\x1bb", "\x1b<", "\x1b\x7f", "\x1b1", "\x1b ", "\x1b\r",
]  # fmt: skip


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_sequence_is_no_key(sequence: str) -> None:
    keys = Keys()
    assert keys.feed(f">{sequence}r".encode()) == ">r"
    assert not keys.is_escape()


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_nor_is_one_that_comes_in_pieces(sequence: str) -> None:
    for at in range(1, len(sequence)):
        keys = Keys()
        fed = keys.feed(sequence[:at].encode()) + keys.feed((sequence[at:] + "r").encode())
        assert fed == "r", at
    keys = Keys()
    assert "".join(keys.feed(bytes([byte])) for byte in sequence.encode()) == ""


@given(st.lists(st.sampled_from([*SEQUENCES, *"<>rb p"])), st.integers(1, 5))
def test_keys_between_sequences_are_all_found(sent: list[str], size: int) -> None:
    keys, data = Keys(), "".join(sent).encode()
    found = "".join(keys.feed(data[at : at + size]) for at in range(0, len(data), size))
    assert found == "".join(each for each in sent if len(each) == 1)


@given(st.binary(max_size=40))
def test_whatever_comes_is_taken(data: bytes) -> None:
    keys = Keys()
    assert "\x1b" not in keys.feed(data)


def test_a_broken_sequence_swallows_nothing_behind_it() -> None:
    assert Keys().feed(b"\x1b[1;\x1b[A>") == ">"
    assert Keys().feed(b"\x1b[1\r>") == "\r>"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time.monotonic() says."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("sent", [b"\x1b", b"\x1b\x1b", b">\x1b"])
def test_an_escape_after_which_nothing_comes_is_one(sent: bytes, clock: list[float]) -> None:
    keys = Keys()
    keys.feed(sent)
    assert not keys.is_escape()
    clock[0] += REST_S + 0.1
    assert keys.is_escape()


@pytest.mark.parametrize("sent", [b"", b"\x1b[", b"\x1b[1;", b"\x1bO", b"\x1b[200~q"])
def test_the_beginning_of_a_sequence_is_no_escape(sent: bytes, clock: list[float]) -> None:
    keys = Keys()
    keys.feed(sent)
    clock[0] += 60
    assert not keys.is_escape()


def test_what_has_no_end_is_forgotten_in_time(clock: list[float]) -> None:
    keys = Keys()
    keys.feed(b"\x1b[")
    clock[0] += REST_S + 0.1
    assert keys.feed(b"q") == "q"


def test_pasted_text_takes_no_memory() -> None:
    keys = Keys()
    keys.feed(b"\x1b[200~")
    for _ in range(1000):
        assert keys.feed(b"q" * 100) == ""
    assert len(keys._rest) < 20
    assert keys.feed(b"\x1b[20") == keys.feed(b"1~") == ""
    assert keys.feed(b"q") == "q"
