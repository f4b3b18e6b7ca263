"""Names of code, for programs, libraries and kernels that are really there."""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.tracers.code import objects, symbols
from memtap.tracers.code.mappings import PROT_EXEC, parse_maps
from memtap.tracers.code.objects import Code
from memtap.tracers.code.symbols import Site, Symbols

SOURCE = Path(__file__).resolve().parents[2] / "workloads/symbols.c"
WAYS = {
    "fixed": ["-no-pie"],
    "pie": ["-pie"],
    "static": ["-static", "-no-pie"],
    "static-pie": ["-static-pie"],
}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
with_filter = pytest.mark.skipif(
    not (shutil.which("c++filt") and shutil.which("prlimit")), reason="needs c++filt and prlimit"
)
JITTED = Code(0x10000, 0x20000, 0, 0, 0, "//anon")


def build(path: Path, *flags: str) -> Path:
    subprocess.check_call(["cc", "-O0", "-Wall", "-Werror", *flags, "-o", path, SOURCE])
    return path


def codes(tgid: int) -> list[Code]:
    mapped = parse_maps(Path(f"/proc/{tgid}/maps").read_bytes(), tgid)
    return [
        Code(each.start, each.end, each.offset, each.dev, each.ino, each.path)
        for each in mapped
        if each.prot & PROT_EXEC
    ]


def code_at(address: int, tgid: int = os.getpid()) -> Code:
    return next(code for code in codes(tgid) if code.start <= address < code.end)


@dataclass
class Program:
    """One that runs, or ran."""

    tgid: int
    addresses: dict[str, int]
    code: Code

    def site(self, function: str, into: int = 0, names: Symbols | None = None) -> Site:
        address = self.addresses[function] + into
        return (names or Symbols()).name(self.tgid, address, self.code)

    def file_offset(self, function: str) -> int:
        return self.addresses[function] - self.code.start + self.code.offset


@contextmanager
def running(path: Path) -> Iterator[Program]:
    pipe = subprocess.PIPE
    with subprocess.Popen([path], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        lines = [process.stdout.readline().split() for _ in range(3)]
        addresses = {name: int(address, 16) for name, address in lines}
        yield Program(process.pid, addresses, code_at(addresses["seen"], process.pid))


def ran(path: Path) -> Program:
    with running(path) as program:
        return program


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root without debug files, perf maps and kernel, but with this machine's processes."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "proc").symlink_to("/proc")
    return root


@pytest.fixture
def perf_map() -> Iterator[Path]:
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    path.write_text("10100 20 first\n0x10200 0x10 second one;x\n")
    yield path
    path.unlink()


def jitted(address: int) -> str:
    return str(Symbols().name(os.getpid(), address, JITTED))


@pytest.mark.parametrize("way", WAYS)
def test_functions_of_a_program_while_it_runs_and_after(tmp_path: Path, way: str) -> None:
    with running(build(tmp_path / "prog", *WAYS[way])) as program:
        assert str(program.site("seen")) == "seen+0x0 prog"
        assert program.site("hidden", 3) == Site("hidden", 3, "prog")
    assert str(program.site("seen", 5)) == "seen+0x5 prog"


def test_a_stripped_program_has_the_names_that_others_link_to(tmp_path: Path) -> None:
    program = ran(build(tmp_path / "prog", "-s", "-rdynamic"))
    assert str(program.site("seen", 1)) == "seen+0x1 prog"
    hidden = program.site("hidden")
    assert str(hidden) == f"prog+{program.file_offset('hidden'):#x}"
    assert hidden.frame == "[prog]"


def test_a_stripped_static_program_has_none(tmp_path: Path) -> None:
    program = ran(build(tmp_path / "prog", "-s", "-static"))
    assert program.site("seen") == Site("", program.file_offset("seen"), "prog")


def test_a_separate_debug_file_names_a_stripped_program(tmp_path: Path, root: Path) -> None:
    program = build(tmp_path / "prog", f"-Wl,--build-id=0x{'ab' * 20}")
    debug = root / "usr/lib/debug/.build-id/ab" / f"{'ab' * 19}.debug"
    debug.parent.mkdir(parents=True)
    subprocess.check_call(["objcopy", "--only-keep-debug", program, debug])
    subprocess.check_call(["strip", program])
    with running(program) as running_program:
        assert running_program.site("hidden", names=Symbols(root)).function == "hidden"
        debug.unlink()
        assert running_program.site("hidden", names=Symbols(root)).function == ""


@as_root
def test_a_deleted_program_is_named_while_it_runs(tmp_path: Path) -> None:
    path = build(tmp_path / "prog")
    with running(path) as program:
        path.unlink()
        named = program.site("hidden", 1)
        later = Symbols().name(program.tgid, program.addresses["seen"], codes(program.tgid)[0])
    assert str(named) == "hidden+0x1 prog"
    assert later.object == "prog"
    assert program.site("hidden").function == ""


@as_root
def test_a_program_is_not_taken_for_its_replacement(tmp_path: Path) -> None:
    path = build(tmp_path / "prog")
    other = build(tmp_path / "other", "-s")
    with running(path) as program:
        other.rename(path)
        assert program.site("hidden").function == "hidden"
    assert program.site("hidden").function == ""


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = build(tmp_path / "prog")
    program, names = ran(path), Symbols()
    assert program.site("hidden", names=names).function == "hidden"
    path.write_bytes(build(tmp_path / "other", "-s").read_bytes())
    assert program.site("hidden", names=names).function == ""


@pytest.mark.parametrize(("limit", "most"), [("_MOST_FILES", 2), ("_MOST_KEPT_BYTES", 1)])
def test_more_files_than_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(objects, limit, most)
    names = Symbols()
    programs = [ran(build(tmp_path / f"prog{n}")) for n in range(4)]
    for program in programs * 2:
        assert program.site("hidden", names=names).function == "hidden"
        assert len(names._objects._kept) <= most


@pytest.mark.parametrize(
    ("device", "shown", "same"),
    [
        ((8, 1), (8, 1), True),
        ((259, 70000), (259, 70000), True),
        ((8, 1), (8, 2), False),
        ((0, 35), (0, 36), True),  # btrfs
        ((8, 1), (0, 50), True),  # overlay
    ],
)
def test_devices_as_mappings_and_stat_have_them(
    tmp_path: Path, device: tuple[int, int], shown: tuple[int, int], same: bool
) -> None:
    major, minor = device
    code = Code(0, 1, 0, major << 20 | minor, 7, "/x")
    for ino in (7, 8):
        fields = [0o100755, ino, os.makedev(*shown), 1, 0, 0, 0, 0, 0, 0]
        assert objects.is_of(os.stat_result(fields), code) is (same and ino == 7)


def test_a_function_of_the_c_library() -> None:
    address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
    assert address
    code = code_at(address)
    named = Symbols().name(os.getpid(), address + 1, code)
    assert str(named) == f"getpid+0x1 {Path(code.path).name}"


def test_all_functions_of_the_c_library_as_nm_lists_them(root: Path) -> None:
    code = next(code for code in codes(os.getpid()) if "/libc.so" in code.path)
    text = subprocess.check_output(["nm", "-D", "--defined-only", "-S", code.path], text=True)
    lines = [line.split() for line in text.splitlines()]
    functions = [(int(line[0], 16), line[-1]) for line in lines if line[-2] in "TWi"]
    assert len(functions) > 1000
    # The first address in this mapping of what the file has at its own first.
    header = subprocess.check_output(["readelf", "-lW", code.path], text=True).splitlines()
    load = next(line.split() for line in header if " LOAD " in line and " R E " in line)
    base = code.start - code.offset + int(load[1], 16) - int(load[2], 16)
    names: dict[int, set[str]] = {}
    for address, name in functions:
        names.setdefault(address, set()).add(name.partition("@")[0])
    table = Symbols(root)
    for address, aliases in names.items():
        site = table.name(os.getpid(), base + address, code)
        assert site.offset == 0
        assert site.function in aliases


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (0xFF, None),
        (0x100, ("outer", 0)),
        (0x144, ("inner", 4)),
        (0x150, ("outer", 0x50)),
        (0x200, None),
        (0x30F, ("unsized", 0xF)),
        (0x310, None),  # where its section ends
        (0x404, ("early", 4)),
        (0x408, ("last", 0)),  # where the next begins
        (0x500, None),
    ],
)
def test_how_far_functions_reach(address: int, found: tuple[str, int] | None) -> None:
    rows = [
        (0x140, 0x10, 0x200, "inner"),
        (0x100, 0x100, 0x200, "outer"),
        (0x300, 0, 0x310, "unsized"),
        (0x400, 0, 0x500, "early"),
        (0x408, 0, 0x500, "last"),
        (0x408, 0, 0x500, "__last"),
    ]
    starts, sizes, ends = np.array([row[:3] for row in rows], np.uint64).T
    names = "\0".join(name for *_, name in rows).encode()
    at = np.array([names.index(name.encode()) for *_, name in rows], np.uint64)
    table = symbols._Table(starts, sizes, ends, starts == 0, at, names)
    assert table.find(address) == found


@with_filter
def test_a_name_of_cpp_is_demangled(tmp_path: Path) -> None:
    program = ran(build(tmp_path / "prog"))
    assert str(program.site("method", 2)) == "space::Thing::method+0x2 prog"


@with_filter
def test_a_name_that_would_demangle_to_a_terabyte_stays(tmp_path: Path) -> None:
    digits = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    mangled = f"_Z1fI1AIiiE{''.join(f'S0_IS{one}_S{one}_E' for one in digits)}Evv"
    short = f"_Z1fI1AIiiE{''.join(f'S0_IS{one}_S{one}_E' for one in digits[:3])}Evv"
    assert subprocess.check_output(["c++filt", short]).startswith(b"void f<A<int, int>")
    program = ran(build(tmp_path / "prog", f'-DMANGLED="{mangled}"'))
    assert program.site("method").function == mangled
    assert program.site("seen").function == "seen"


def test_a_name_with_escape_sequences_is_shown_escaped(tmp_path: Path) -> None:
    path = build(tmp_path / "prog")
    path.write_bytes(path.read_bytes().replace(b"\0hidden\0", b"\0h\x1b[2J\n\0"))
    assert ran(path).site("hidden").function == "h\\x1b[2J\\n"


def test_jitted_code_is_named_by_the_perf_map(perf_map: Path) -> None:
    assert jitted(0x10104) == "first+0x4 [anon]"
    assert jitted(0x1020F) == "second one;x+0xf [anon]"
    assert jitted(0x10120) == "[anon]+0x120"
    assert Symbols().name(os.getpid(), 0x10200, JITTED).frame == "second one:x"


def test_a_perf_map_that_grew_is_read_anew_and_its_last_line_counts(perf_map: Path) -> None:
    names = Symbols()
    assert names.name(os.getpid(), 0x10110, JITTED).function == "first"
    with perf_map.open("a") as file:
        file.write("10080 100 again \x1b[0m\nnot a line\n10300 8 torn")
    assert names.name(os.getpid(), 0x10110, JITTED) == Site("again \\x1b[0m", 0x90, "[anon]")


LINE = re.compile(rb"^(?:0x)?([0-9a-f]{1,16}) (?:0x)?([0-9a-f]{1,16}) (.+)$", re.M | re.I)
NUMBERS = st.builds(
    lambda zero, number: zero + f"{number:x}".encode(),
    st.sampled_from([b"", b"", b"0x", b"0X", b"0", b"x"]),
    st.integers(0, 2**68),
)
LINES = st.builds(
    lambda *parts: b"".join(parts),
    NUMBERS,
    st.sampled_from([b" ", b" ", b" ", b"  ", b"\t", b""]),
    NUMBERS,
    st.sampled_from([b" ", b" ", b" ", b""]),
    st.sampled_from([b"a", b"a b", b" ", b"", b"\r", b"LazyCompile:~f /a.js:1"]),
)
ANYTHING = st.lists(st.sampled_from([bytes([n]) for n in b"0123456789abcdefxX \ng\r"]), max_size=90)


@given(
    st.lists(st.one_of(LINES, ANYTHING.map(b"".join)), max_size=8), st.sampled_from([b"\n", b""])
)
def test_lines_of_a_perf_map_are_those_that_are_such(lines: list[bytes], end: bytes) -> None:
    text = b"\n".join(lines) + end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symbols._PerfMap, "_BLOCK", 64)  # so that lines are in several blocks
        found = symbols._PerfMap(text)
    names = [text[int(at) :].partition(b"\n")[0] for at in found._names]
    numbers = zip(found._starts.tolist(), found._sizes.tolist(), names, strict=True)
    assert list(numbers) == [(int(a, 16), int(b, 16), name) for a, b, name in LINE.findall(text)]


def test_a_perf_map_names_no_code_of_files(perf_map: Path) -> None:
    file = Code(0x10000, 0x20000, 0, 0, 0, "/etc/passwd")
    assert str(Symbols().name(os.getpid(), 0x10100, file)) == "passwd+0x100"


@as_root
def test_a_perf_map_of_another_user_is_not_believed(perf_map: Path) -> None:
    os.chown(perf_map, 12345, 12345)
    assert jitted(0x10104) == "[anon]+0x104"


def test_a_perf_map_that_is_a_link_or_a_pipe_is_left_alone(perf_map: Path, tmp_path: Path) -> None:
    perf_map.symlink_to(perf_map.rename(tmp_path / "moved"))
    assert jitted(0x10104) == "[anon]+0x104"
    perf_map.unlink()
    os.mkfifo(perf_map)
    assert jitted(0x10104) == "[anon]+0x104"


@as_root
def test_a_perf_map_of_a_process_in_namespaces_of_its_own() -> None:
    script = (
        "mount -t tmpfs none /tmp && echo 10100 20 inner >/tmp/perf-$$.map; "
        "read pid rest </proc/self/stat; echo $$ $pid; read end"
    )
    command = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        inside, outside = map(int, process.stdout.readline().split())
        assert inside == 1 != outside
        assert Symbols().name(outside, 0x10101, JITTED).function == "inner"


def test_the_vdso() -> None:
    vdso = ctypes.CDLL("linux-vdso.so.1")
    name = next(name for name in ("gettimeofday", "__kernel_gettimeofday") if hasattr(vdso, name))
    address = ctypes.cast(getattr(vdso, name), ctypes.c_void_p).value
    assert address
    code = code_at(address)
    assert str(Symbols().name(1, address, code)) == f"{name}+0x0 [vdso]"
    of_32_bits = Code(0xF7F00000, 0xF7F02000, 0, 0, 0, "[vdso]")
    there = of_32_bits.start + address - code.start
    assert Symbols().name(1, there, of_32_bits).function == ""


def test_functions_of_the_kernel() -> None:
    lines = [line.split() for line in Path("/proc/kallsyms").read_text().splitlines()]
    if not any(int(line[0], 16) for line in lines):
        pytest.skip("kernel addresses are hidden (needs root, and kptr_restrict below 2)")
    shared = Counter(line[0] for line in lines)
    alone = [line for line in lines if line[1] in "tT" and shared[line[0]] == 1]
    names = Symbols()
    for address, _, name, *module in random.Random(23).sample(alone, 500):
        assert names.kernel(int(address, 16)) == Site(name, 0, (module or ["[kernel]"])[0])


def test_modules_and_hidden_addresses_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    kallsyms = tmp_path / "proc/kallsyms"
    kallsyms.write_text("ffffffffc0000000 t ext4_read\t[ext4]\nffffffffc0000100 d data\t[ext4]\n")
    assert str(Symbols(tmp_path).kernel(0xFFFFFFFFC0000010)) == "ext4_read+0x10 [ext4]"
    kallsyms.write_text("0000000000000000 T ext4_read\t[ext4]\n")
    assert str(Symbols(tmp_path).kernel(0xFFFFFFFFC0000010)) == "[kernel]+0xffffffffc0000010"


@pytest.mark.parametrize(
    ("code", "text", "frame"),
    [
        (None, "0x10123", "[unknown]"),
        (JITTED, "[anon]+0x123", "[anon]"),
        (Code(0x10000, 0x20000, 0x10000, 0, 0, "//anon"), "[anon]+0x123", "[anon]"),
        (Code(0x10000, 0x20000, 0, 0, 0, ""), "[anon]+0x123", "[anon]"),
        (Code(0x10000, 0x20000, 0, 0, 0, "[stack]"), "[stack]+0x123", "[stack]"),
        (Code(0x10000, 0x20000, 0, 0, 0, "[vdso]"), "[vdso]+0x123", "[vdso]"),
        (Code(0x10000, 0x20000, 0x5000, 1, 2, "/a/no\x1b"), "no\\x1b+0x5123", "[no\\x1b]"),
        (Code(0x10000, 0x20000, 0, 1, 2, "/a/\udcff\ud800\0"), "\\xff\\ud800\\x00+0x123", None),
        (Code(0x10000, 0x20000, 0, 1, 2, "/a/b (deleted)"), "b+0x123", "[b]"),
        (Code(0x10000, 0x20000, 0, 0, 0, "/dev/tty"), "tty+0x123", "[tty]"),
        (Code(0x10000, 0x20000, 0, 0, 0, "/etc"), "etc+0x123", "[etc]"),
    ],
)
def test_code_that_nobody_can_name(code: Code | None, text: str, frame: str | None) -> None:
    site = Symbols().name(2**31, 0x10123, code)
    assert str(site) == text
    assert frame is None or site.frame == frame


def damages(whole: bytes) -> Iterator[bytes]:
    chance = random.Random(23)
    sections = struct.unpack_from("<Q", whole, 0x28)[0]
    headers = [*range(64 + 13 * 56), *range(sections, len(whole))]
    for _ in range(200):
        yield whole[: chance.randrange(len(whole))]
        for places in (headers, range(len(whole))):
            at = chance.choice(places)
            length = chance.choice([1, 4, 8])
            bad = chance.choice([b"\0" * 8, b"\xff" * 8, chance.randbytes(8)])
            yield whole[:at] + bad[:length] + whole[at + length :]


def test_damaged_programs_raise_nothing(tmp_path: Path) -> None:
    path = build(tmp_path / "prog", "-Wl,--build-id")
    program, whole, seen = ran(path), path.read_bytes(), Counter[str]()
    assert program.site("hidden").function == "hidden"
    for damaged in damages(whole):
        path.write_bytes(damaged)
        site = program.site("hidden")
        assert site.object == "prog"
        seen[site.function] += 1
    assert seen["hidden"] > 100
    assert seen[""] > 100


def test_a_symbol_table_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = build(tmp_path / "prog")
    program, whole = ran(path), bytearray(path.read_bytes())
    sections, count = *struct.unpack_from("<Q", whole, 0x28), *struct.unpack_from("<H", whole, 60)
    for number in range(count):
        at = sections + 64 * number
        if struct.unpack_from("<I", whole, at + 4)[0] == 2:  # SHT_SYMTAB
            struct.pack_into("<Q", whole, at + 32, 1 << 30)
    path.write_bytes(whole)
    os.truncate(path, 1 << 31)
    assert program.site("hidden").function == ""
