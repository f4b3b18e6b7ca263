"""Reads many messages of a netlink socket at once, and only those that are wanted."""

from __future__ import annotations

import ctypes as ct
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    # One message per row, as many bytes of it as are wanted.
    Messages = npt.NDArray[np.uint8]

# The bytes that a socket holds until it is read, and how many messages one system call reads.
_RECEIVE_BYTES = 16 << 20
_AT_ONCE = 128

_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33

# Of uapi/linux/filter.h: load a u32, copy it to X, compare it with a number or with X, return.
_LOAD, _TO_X, _IS, _IS_X, _RETURN = 0x20, 0x07, 0x15, 0x1D, 0x06
_ALL = 0xFFFFFFFF


class Wanted(NamedTuple):
    """Messages whose u32 at `place` is `number`, and whose u32 at two other places are the same."""

    place: int
    number: int
    one: int
    other: int

    def instructions(self) -> list[tuple[int, int, int, int]]:
        """Code, instructions to skip if true and if false, operand. A u32 is loaded big-endian."""
        return [
            (_LOAD, 0, 0, self.place),
            (_IS, 0, 5, socket.htonl(self.number)),
            (_LOAD, 0, 0, self.one),
            (_TO_X, 0, 0, 0),
            (_LOAD, 0, 0, self.other),
            (_IS_X, 0, 1, 0),
            (_RETURN, 0, 0, _ALL),
        ]


class _Vector(ct.Structure):
    """struct iovec."""

    _fields_ = (("base", ct.c_void_p), ("length", ct.c_size_t))


class _Message(ct.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ct.c_void_p),
        ("name_length", ct.c_uint32),
        ("vectors", ct.POINTER(_Vector)),
        ("vectors_length", ct.c_size_t),
        ("control", ct.c_void_p),
        ("control_length", ct.c_size_t),
        ("flags", ct.c_int),
    )


class _Header(ct.Structure):
    """struct mmsghdr."""

    _fields_ = (("message", _Message), ("length", ct.c_uint))


_LIBC = ct.CDLL(None, use_errno=True)


class Listener:
    """A netlink socket that `owner` (of pyroute2) opened; we read `size` bytes of each message.

    Attributes:
        overflowed: whether the kernel had to drop messages, as the socket was full.
    """

    def __init__(self, owner: Any, size: int) -> None:
        self._owner = owner
        self._socket = socket.socket(fileno=os.dup(owner.fileno()))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        self.overflowed = False
        import numpy as np  # callers that only want a user's name do without numpy

        self._messages = np.zeros((_AT_ONCE, size), np.uint8)
        start = self._messages.ctypes.data
        places = [_Vector(start + nth * size, size) for nth in range(_AT_ONCE)]
        self._vectors = (_Vector * _AT_ONCE)(*places)
        self._headers = (_Header * _AT_ONCE)()
        for header, vector in zip(self._headers, self._vectors, strict=True):
            header.message.vectors, header.message.vectors_length = ct.pointer(vector), 1

    def fileno(self) -> int:
        """The descriptor that becomes readable when there are messages."""
        return self._socket.fileno()

    def want(self, wanted: Iterable[Wanted]) -> None:
        """From now on the kernel drops all others, which neither fill the socket nor wake us."""
        listed = [step for each in wanted for step in each.instructions()] + [(_RETURN, 0, 0, 0)]
        program = ct.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in listed))
        how = struct.pack("HP", len(listed), ct.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, how)

    def messages(self) -> Iterator[Messages]:
        """The messages that have arrived, some at a time; an array is valid until the next."""
        while True:
            count = _LIBC.recvmmsg(
                self.fileno(), self._headers, _AT_ONCE, socket.MSG_DONTWAIT, None
            )
            if count > 0:
                yield self._messages[:count]
            elif ct.get_errno() == errno.ENOBUFS:
                self.overflowed = True
            elif ct.get_errno() != errno.EINTR:
                return

    def close(self) -> None:
        """Stops listening."""
        self._socket.close()
        self._owner.close()


def column(messages: Messages, offset: int, kind: str) -> list[Any]:
    """The value at an offset of each message; `kind` is its type as numpy writes it."""
    import numpy as np

    part = messages[:, offset : offset + np.dtype(kind).itemsize]
    values: list[Any] = part.copy().view(kind)[:, 0].tolist()
    return values
