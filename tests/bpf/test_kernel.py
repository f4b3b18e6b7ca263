"""What a kernel has, out of a /proc and /sys laid out for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtap.bpf.errors import MemtapError
from memtap.bpf.kernel import CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, Kernel, parse_cpus


def lay_out(root: Path, **texts: str) -> Kernel:
    """A kernel; `proc__self__status` is proc/self/status."""
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Kernel(root)


def status(*capabilities: int) -> str:
    held = sum(1 << bit for bit in capabilities)
    return f"Name:\tx\nCapPrm:\tffffffff\nCapEff:\t{held:016x}\nCapBnd:\tffffffff\n"


@pytest.mark.parametrize(
    ("capabilities", "may"),
    [
        ((), False),
        ((CAP_SYS_ADMIN,), True),
        ((CAP_BPF, CAP_PERFMON), True),
        ((CAP_BPF,), False),
        ((CAP_PERFMON,), False),
        ((0, 1, 20, 22, 37, 40), False),
    ],
)
def test_tracing_takes_sys_admin_or_bpf_with_perfmon(
    capabilities: tuple[int, ...], may: bool, tmp_path: Path
) -> None:
    assert lay_out(tmp_path, proc__self__status=status(*capabilities)).may_trace is may


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("[none] integrity confidentiality\n", "none"),
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
    ],
)
def test_the_lockdown_is_the_one_in_brackets(text: str, mode: str, tmp_path: Path) -> None:
    assert lay_out(tmp_path, sys__kernel__security__lockdown=text).lockdown == mode


def test_a_kernel_that_says_nothing_has_nothing(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    assert (kernel.lockdown, kernel.boot_id, kernel.capabilities) == ("", "", 0)
    assert (kernel.has_btf, kernel.has_kprobes, kernel.tracefs) == (False, False, None)
    assert (kernel.online_cpus, kernel.possible_cpus, kernel.functions) == ([], "", frozenset())


def test_whether_functions_can_be_traced_is_tried_by_who_may(tmp_path: Path) -> None:
    assert lay_out(tmp_path, proc__self__status=status()).has_trampolines
    assert not lay_out(tmp_path, proc__self__status=status(CAP_SYS_ADMIN)).has_trampolines


def test_only_the_jit_takes_an_address_for_a_struct(tmp_path: Path) -> None:
    casts = Kernel().has_casts
    on = lay_out(tmp_path / "on", proc__sys__net__core__bpf_jit_enable="1\n")
    off = lay_out(tmp_path / "off", proc__sys__net__core__bpf_jit_enable="0\n")
    assert on.has_casts == casts == on.btf.has_function("bpf_rdonly_cast")
    assert not off.has_casts


def test_kprobes_are_a_perf_unit(tmp_path: Path) -> None:
    assert lay_out(tmp_path, sys__bus__event_source__devices__kprobe="").has_kprobes


@pytest.mark.parametrize(
    ("mounted", "found"),
    [
        (("sys/kernel/tracing",), "sys/kernel/tracing"),
        (("sys/kernel/debug/tracing",), "sys/kernel/debug/tracing"),
        (("sys/kernel/debug/tracing", "sys/kernel/tracing"), "sys/kernel/tracing"),
    ],
)
def test_tracefs_is_at_one_of_two_places(
    mounted: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    for path in mounted:
        (tmp_path / path / "events").mkdir(parents=True)
    assert Kernel(tmp_path).tracefs == tmp_path / found


def test_an_empty_mount_point_is_no_tracefs(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel/tracing").mkdir(parents=True)
    assert Kernel(tmp_path).tracefs is None


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0-1,8,10-11", [0, 1, 8, 10, 11]), ("", [])],
)
def test_a_list_of_cpus(text: str, cpus: list[int]) -> None:
    assert parse_cpus(text) == cpus


def test_cpus_that_are_on_and_that_can_be(tmp_path: Path) -> None:
    cpu = "sys__devices__system__cpu__"
    kernel = lay_out(tmp_path, **{f"{cpu}online": "0,2\n", f"{cpu}possible": "0-7\n"})
    assert (kernel.online_cpus, kernel.possible_cpus) == ([0, 2], "0-7")


def test_functions_are_the_kernels_own_code(tmp_path: Path) -> None:
    symbols = ["0 T a", "0 t b", "0 D data", "0 A absolute"]
    assert lay_out(tmp_path, proc__kallsyms="\n".join(symbols)).functions == {"a", "b"}


LAID_OUT = {
    "proc__self__status": status(CAP_SYS_ADMIN),
    "sys__kernel__security__lockdown": "none [integrity] confidentiality",
    "sys__kernel__btf__vmlinux": "",
}


def test_a_kernel_with_all_that_it_takes_can_be_traced(tmp_path: Path) -> None:
    lay_out(tmp_path, **LAID_OUT).require_tracing()


@pytest.mark.parametrize(
    ("changed", "what", "hint"),
    [
        ({"proc__self__status": status()}, "needs root", "sudo"),
        (
            {"sys__kernel__security__lockdown": "none integrity [confidentiality]"},
            "confidentiality mode",
            "lockdown=integrity",
        ),
        ({"sys__kernel__btf__vmlinux": None}, "no BTF", "CONFIG_DEBUG_INFO_BTF=y"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    changed: dict[str, str | None], what: str, hint: str, tmp_path: Path
) -> None:
    files = {name: text for name, text in (LAID_OUT | changed).items() if text is not None}
    with pytest.raises(MemtapError, match=what) as caught:
        lay_out(tmp_path, **files).require_tracing()
    assert hint in caught.value.hint
