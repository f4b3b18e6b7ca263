"""What the compiler answered, read back."""

from __future__ import annotations

import json

import pytest

from memtap.bpf.compiled import STANDBY_NUMBER, Code, Compiled, Map

ANSWER = {
    "programs": {
        "on_read": {"code": "181100000000000000000000000000009500000000000000", "uses": [[0, "m"]]}
    },
    "maps": [
        {"name": "m", "kind": 2, "key_bytes": 4, "value_bytes": 8, "entries": 16, "flags": 1024}
    ],
    "layouts": {"event": {"size": 8, "members": [["ns", 0, 8]]}},
    "compiler": "BCC",
}


def test_everything_comes_back() -> None:
    compiled = Compiled.from_json(json.dumps(ANSWER))
    code = compiled.programs["on_read"]
    assert (len(code.instructions), code.uses) == (24, [(0, "m")])
    assert compiled.maps == [Map("m", 2, 4, 8, 16, 1024)]
    assert compiled.layouts == ANSWER["layouts"]
    assert compiled.compiler == "BCC"


def test_a_map_is_put_where_it_is_used_and_nowhere_else() -> None:
    code = Code(bytes(range(24)), [(8, "m")])
    using = code.using({"m": 0x01020304, "n": 9})
    assert int.from_bytes(using[12:16], "little") == 0x01020304
    assert using[:12] + using[16:] == code.instructions[:12] + code.instructions[16:]


@pytest.mark.parametrize("standby", [0, 1, 2])
def test_a_program_is_told_which_standby_it_is(standby: int) -> None:
    def number(value: int) -> bytes:
        return b"\xb7\x01\0\0" + value.to_bytes(4, "little")

    code = Code(number(STANDBY_NUMBER) + number(STANDBY_NUMBER + 1), [])
    assert code.using({}, standby) == number(standby) + number(STANDBY_NUMBER + 1)
