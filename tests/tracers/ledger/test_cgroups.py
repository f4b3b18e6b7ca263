"""Cgroups of both versions, out of files as kernels write them; and what their paths tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtap.bpf.errors import MemtapError
from memtap.tracers.ledger.cgroups import called, hierarchy, rows, untold
from memtap.tracers.ledger.explain import of_cgroups
from memtap.tracers.ledger.memory import Memory, Pool, Zones
from memtap.tracers.model.report import Row

MIB = 1 << 20
ID = "0123456789ab" + "c" * 52

MEMORY = Memory(
    kib={"MemTotal": 4 << 20, "MemFree": 1 << 20, "AnonPages": 500, "Cached": 900, "Shmem": 100},
    pages={"oom_kill": 7, "workingset_refault_anon": 2, "workingset_refault_file": 3},
    zones=Zones(free=1 << 18, on_cpus=256, listed=0, present=0, managed=0),
    sockets=4096,
    zram=Pool(0, 0),
    huge_free=0,
    stacks_in_vmalloc=True,
)

# As 6.18 writes them, but for lines that nobody reads.
V2 = {
    "memory.current": "209715200\n",
    "memory.max": "max\n",
    "memory.high": "262144000\n",
    "memory.stat": "anon 104857600\nfile 83886080\nkernel 14680064\nkernel_stack 16384\n"
    "pagetables 524288\nsec_pagetables 0\npercpu 1024\nsock 4096\nvmalloc 0\nshmem 20971520\n"
    "zswap 0\nslab_reclaimable 1048576\nslab_unreclaimable 1048576\nslab 2097152\n"
    "workingset_refault_anon 5\nworkingset_refault_file 11\n",
    "memory.events": "low 0\nhigh 3\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n",
    "memory.pressure": "some avg10=1.50 avg60=0.10 avg300=0.00 total=96\n"
    "full avg10=0.50 avg60=0.00 avg300=0.00 total=30\n",
    "memory.swap.current": "8192\n",
    "cgroup.stat": "nr_descendants 3\nnr_dying_descendants 5\n",
}
V1 = {
    "memory.usage_in_bytes": "125829120\n",
    "memory.limit_in_bytes": "134217728\n",
    "memory.kmem.usage_in_bytes": "4194304\n",
    "memory.kmem.tcp.usage_in_bytes": "4096\n",
    "memory.failcnt": "12\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
    "memory.stat": "cache 1\nrss 2\nshmem 3\ntotal_cache 73400320\ntotal_rss 48234496\n"
    "total_shmem 62914560\ntotal_swap 0\ntotal_workingset_refault_anon 1\n"
    "total_workingset_refault_file 2\n",
}
WITHOUT_LIMIT = {"memory.limit_in_bytes": "9223372036854771712\n"}


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def mounted(root: Path, line: str) -> None:
    write(root / "proc/self", {"mountinfo": f"30 24 0:26 / /sys/fs/cgroup{line}\n"})


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """With systemd's slices, and a service in one."""
    mounted(tmp_path, " rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate")
    top = tmp_path / "sys/fs/cgroup"
    write(top, {"cgroup.controllers": "cpu memory pids\n", "cgroup.stat": V2["cgroup.stat"]})
    write(top / "system.slice", V2)
    small = {"memory.current": str(50 * MIB), "memory.max": str(52 * MIB)}
    write(top / "system.slice/sshd.service", V2 | small)
    write(top / f"system.slice/docker-{ID}.scope", V2 | {"memory.current": str(120 * MIB)})
    return tmp_path


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    mounted(tmp_path, "/memory rw,relatime - cgroup cgroup rw,memory")
    write(tmp_path / "proc", {"cgroups": "#subsys_name\thierarchy\nmemory\t4\t9\t1\n"})
    top = tmp_path / "sys/fs/cgroup/memory"
    write(top, V1 | WITHOUT_LIMIT | {"cgroup.sane_behavior": "0\n"})
    write(top / "docker", V1 | WITHOUT_LIMIT)
    write(top / f"docker/{ID}", V1 | {"memory.usage_in_bytes": str(100 * MIB)})
    return tmp_path


def told(root: Path) -> list[Row]:
    return rows(MEMORY, hierarchy(root), root)


def test_a_cgroup_of_v2_is_told_as_its_files_tell(v2: Path) -> None:
    slice_ = next(row for row in told(v2) if row["cgroup"] == "/system.slice")
    assert {name: slice_[name] for name in slice_ if name not in ("depth", "share_pct")} == {
        "cgroup": "/system.slice",
        "name": "system.slice",
        "called": None,
        "size_bytes": 200 * MIB,
        "own_bytes": 30 * MIB,
        "limit_bytes": None,
        "high_bytes": 250 * MIB,
        "anon_bytes": 100 * MIB,
        "file_bytes": 60 * MIB,
        "shmem_bytes": 20 * MIB,
        "kernel_bytes": 14 * MIB,
        "slab_bytes": 2 * MIB,
        "sockets_bytes": 4096,
        "pgtables_bytes": MIB // 2,
        "swap_bytes": 8192,
        "refaults": 16,
        "max_events": 9,
        "high_events": 3,
        "oom_kills": 1,
        "stalled_pct": 1.5,
        "dying": 5,
    }


def test_without_the_sum_of_the_kernel_its_parts_are_added_up(v2: Path) -> None:
    folder = v2 / "sys/fs/cgroup/system.slice"
    text = V2["memory.stat"].replace("kernel 14680064\n", "")
    write(folder, {"memory.stat": text})
    slice_ = next(row for row in told(v2) if row["cgroup"] == "/system.slice")
    assert slice_["kernel_bytes"] == 16384 + 524288 + 1024 + 2097152
    assert untold(hierarchy(v2)) == []


def test_parts_of_the_kernel_that_are_not_told_are_named(v2: Path) -> None:
    text = V2["memory.stat"]
    for line in ("kernel 14680064\n", "pagetables 524288\n", "vmalloc 0\n"):
        text = text.replace(line, "")
    for stat in (v2 / "sys/fs/cgroup").glob("**/memory.stat"):
        stat.write_text(text)
    assert untold(hierarchy(v2)) == ["pagetables", "vmalloc"]


def test_a_cgroup_of_v1_is_told_with_all_below_it(v1: Path) -> None:
    docker = next(row for row in told(v1) if row["cgroup"] == "/docker")
    assert (docker["size_bytes"], docker["own_bytes"]) == (120 * MIB, 20 * MIB)
    assert (docker["anon_bytes"], docker["file_bytes"]) == (46 * MIB, 10 * MIB)
    assert (docker["shmem_bytes"], docker["kernel_bytes"]) == (60 * MIB, 4 * MIB)
    assert (docker["limit_bytes"], docker["max_events"], docker["oom_kills"]) == (None, 12, 4)
    assert (docker["slab_bytes"], docker["stalled_pct"], docker["refaults"]) == (None, None, 3)
    container = next(row for row in told(v1) if row["depth"] == 2)
    assert (container["limit_bytes"], container["called"]) == (128 * MIB, "docker 0123456789ab")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_children_and_what_is_its_own_add_up(version: str, request: pytest.FixtureRequest) -> None:
    found = told(request.getfixturevalue(version))
    host = found[0]
    assert host["size_bytes"] == (3 << 30) - MIB  # all but what is free, on CPUs too
    assert (host["cgroup"], host["depth"], host["oom_kills"]) == ("/", 0, 7)
    assert sum(row["own_bytes"] for row in found) == host["size_bytes"]


def test_those_below_one_stand_behind_it_the_largest_first(v2: Path) -> None:
    names = [(row["depth"], row["name"]) for row in told(v2)]
    assert names == [
        (0, "/"),
        (1, "system.slice"),
        (2, f"docker-{ID}.scope"),
        (2, "sshd.service"),
    ]


def test_cgroups_of_v1_that_are_gone_are_those_that_only_the_kernel_counts(v1: Path) -> None:
    assert told(v1)[0]["dying"] == 9 - 3


def test_in_a_container_the_topmost_is_a_cgroup_with_a_limit(v2: Path) -> None:
    write(v2 / "sys/fs/cgroup", V2 | {"memory.max": str(256 * MIB)})
    top = told(v2)[0]
    assert (top["cgroup"], top["size_bytes"], top["limit_bytes"]) == ("/", 200 * MIB, 256 * MIB)


def test_one_that_goes_while_it_is_read_is_left_out(v2: Path) -> None:
    (v2 / "sys/fs/cgroup/system.slice/sshd.service/memory.current").unlink()
    assert [row["depth"] for row in told(v2)] == [0, 1, 2]


def test_without_the_memory_controller_it_is_said_what_to_do(tmp_path: Path) -> None:
    mounted(tmp_path, " rw - cgroup2 cgroup2 rw")
    write(tmp_path / "sys/fs/cgroup", {"cgroup.controllers": "cpu pids\n"})
    with pytest.raises(MemtapError, match="memory controller"):
        hierarchy(tmp_path)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (f"/docker/{ID}", "docker 0123456789ab"),
        (f"/system.slice/docker-{ID}.scope", "docker 0123456789ab"),
        (f"/system.slice/docker-{ID}.scope/init", ""),
        (f"/machine.slice/libpod-{ID}.scope", "podman 0123456789ab"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-"
            f"pod1f2e3d4c_0011_2233_4455_66778899aabb.slice/cri-containerd-{ID}.scope",
            "pod 1f2e3d4c-0011-2233-4455-66778899aabb containerd 0123456789ab",
        ),
        (
            "/kubepods.slice/kubepods-pod1f2e3d4c_0011_2233_4455_66778899aabb.slice/"
            f"crio-{ID}.scope",
            "pod 1f2e3d4c-0011-2233-4455-66778899aabb cri-o 0123456789ab",
        ),
        (
            f"/kubepods/besteffort/pod1f2e3d4c-0011-2233-4455-66778899aabb/{ID}",
            "pod 1f2e3d4c-0011-2233-4455-66778899aabb container 0123456789ab",
        ),
        (
            "/kubepods/besteffort/pod1f2e3d4c-0011-2233-4455-66778899aabb",
            "pod 1f2e3d4c-0011-2233-4455-66778899aabb",
        ),
        ("/lxc.payload.web", "lxc web"),
        ("/system.slice/sshd.service", "unit sshd"),
        ("/user.slice/user-1000.slice/session-3.scope", "unit session-3"),
        ("/user.slice", ""),
        ("/docker/not-an-id", ""),
        ("/podracer", ""),
    ],
)
def test_a_path_tells_what_a_cgroup_is(path: str, told: str) -> None:
    assert called(path) == told


def test_words_lead_to_the_largest_the_full_and_the_killed(v2: Path) -> None:
    large, near, killed, gone = of_cgroups(told(v2), MEMORY.total)
    assert f"/system.slice/docker-{ID}.scope (docker 0123456789ab)" in large
    assert "120.0 MiB" in large and "anonymous memory" in large
    assert killed.startswith("In /system.slice")
    assert gone.startswith("5 cgroups were removed")
    assert near.startswith(
        "/system.slice/sshd.service (unit sshd) has 96% of its limit of 52.0 MiB"
    )
    assert "60.0 MiB of it is page cache" in near
