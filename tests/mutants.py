"""Do the tests bite? Makes small wrong changes, one by one, and runs the tests that should fail.

    sudo ./bootstrap python -m tests.mutants [WORD...]

Each change is made in a copy of the tree and taken back. What is printed last are those that no
test noticed. Words choose changes by what their lines say.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
_LONGEST_S = 600


@dataclass(frozen=True)
class Mutant:
    """A wrong change.

    Attributes:
        what: in a few words.
        file: where.
        before, after: a text that is in the file once, and what takes its place.
        tests: those that should notice, as pytest takes them.
    """

    what: str
    file: str
    before: str
    after: str
    tests: str


NUMBERS = "tests/bpf/test_numbers.py"
LAYOUT = "tests/bpf/test_layout.py"
SOURCE = "tests/bpf/test_source.py"
DECLARED = "tests/tracers/test_declared.py"
ALLOCATOR = "tests/tracers/malloc/test_allocator.py"

MUTANTS = (
    Mutant(
        "enum order: numbers of Python's words left to C",
        "bpf/source.py",
        "{name} = {member.value},",
        "{name},",
        SOURCE,
    ),
    Mutant(
        "words of faults left out of the text",
        "bpf/loading.py",
        "kernel.btf, self.plan.words)",
        "kernel.btf)",
        SOURCE,
    ),
    Mutant(
        "struct members exchanged: what mmap(2) may do with memory, and how it is mapped",
        "bpf/programs/malloc.bpf.c",
        "call.prot = third;\n\t\tcall.flags = fourth;",
        "call.flags = third;\n\t\tcall.prot = fourth;",
        "tests/live/test_malloc.py",
    ),
    Mutant(
        "condition inverted: a break that is where it was wanted",
        "bpf/programs/malloc.bpf.c",
        "WHOLE(wanted) != WHOLE(result)",
        "WHOLE(wanted) == WHOLE(result)",
        "tests/live/test_malloc.py",
    ),
    Mutant(
        "call number: mremap",
        "bpf/include/memtap/calls.h",
        "NR_MREMAP = 25,",
        "NR_MREMAP = 26,",
        NUMBERS,
    ),
    Mutant(
        "call number: mmap2 of 32-bit programs",
        "bpf/include/memtap/calls.h",
        "NR_32_MMAP2 = 192,",
        "NR_32_MMAP2 = 90,",
        NUMBERS,
    ),
    Mutant(
        "call number: madvise of arm64",
        "bpf/include/memtap/calls.h",
        "NR_MADVISE = 233,",
        "NR_MADVISE = 232,",
        NUMBERS,
    ),
    Mutant(
        "casts without a JIT",
        "bpf/kernel.py",
        'return jit != "0" and self',
        "return self",
        "tests/bpf/test_kernel.py",
    ),
    Mutant(
        "place of a task's registers: not from the low end of its stack",
        "bpf/include/memtap/regs.h",
        "(struct task_struct *)task)) - stack;",
        "(struct task_struct *)task)) - stack - 8;",
        "tests/live/test_asked.py",
    ),
    Mutant(
        "signal number",
        "bpf/include/memtap/outcomes.h",
        "#define SIGBUS             7",
        "#define SIGBUS             10",
        NUMBERS,
    ),
    Mutant(
        "enum order: what is lost and what a full map refused",
        "bpf/include/memtap/losses.h",
        "COUNT_LOST,",
        "COUNT_LOST = 1,",
        LAYOUT,
    ),
    Mutant(
        "enum order: objects from before, and in bulk",
        "bpf/programs/slab.bpf.c",
        "enum no_site { EARLIER, IN_BULK };",
        "enum no_site { IN_BULK, EARLIER };",
        NUMBERS,
    ),
    Mutant(
        "struct members exchanged: what had been counted at exec",
        "bpf/include/memtap/filter.h",
        "\tu64 minor;\n\tu64 major;",
        "\tu64 major;\n\tu64 minor;",
        f"{LAYOUT} tests/live/test_starting.py",
    ),
    Mutant(
        "a condition inverted: who is followed",
        "bpf/include/memtap/filter.h",
        "if (!mark || *mark != FOLLOWED)",
        "if (!mark || *mark == FOLLOWED)",
        "tests/live/test_starting.py",
    ),
    Mutant(
        "attach order: a standby after its program",
        "bpf/loading.py",
        "for standby in range(1 + probe.standbys(kernel))]",
        "for standby in reversed(range(1 + probe.standbys(kernel)))]",
        "tests/live/test_standbys.py tests/live/test_slab.py",
    ),
    Mutant(
        "detach order: a standby before its program",
        "bpf/session.py",
        "for function in reversed(list(self._links)):",
        "for function in list(self._links):",
        "tests/live/test_standbys.py",
    ),
    Mutant(
        "a setting left out: slab by process",
        "tracers/slab/tracer.py",
        'query.wants("process", "comm") or all_of_it',
        'query.wants("comm") or all_of_it',
        DECLARED,
    ),
    Mutant(
        "a setting left out: stacks of faults",
        "tracers/faults/tracer.py",
        "(STACKS,) if _wants_stacks(query) else ()",
        "()",
        DECLARED,
    ),
    Mutant(
        "a setting left out: frames of malloc by site",
        "tracers/malloc/tracer.py",
        '(FRAMES,) if query.wants("site") or query.records else ()',
        "(FRAMES,) if query.records else ()",
        DECLARED,
    ),
    Mutant(
        "a setting left out: names of files by file",
        "tracers/pagecache/tracer.py",
        '(NAME_FILES,) if query.wants("file") or query.records else ()',
        "(NAME_FILES,) if query.records else ()",
        DECLARED,
    ),
    Mutant(
        "a flag: MADV_FREE is another advice",
        "tracers/malloc/allocator.py",
        "_MADV_DONTNEED, _MADV_FREE = 4, 8",
        "_MADV_DONTNEED, _MADV_FREE = 4, 9",
        f"{NUMBERS} {ALLOCATOR}",
    ),
    Mutant(
        "a condition: the threshold moves also beyond its limit",
        "tracers/malloc/allocator.py",
        "not self.threshold < length <= self._limits.highest:",
        "not self.threshold < length:",
        ALLOCATOR,
    ),
    Mutant(
        "a condition inverted: what bounds a report",
        "tracers/model/audit.py",
        'if promised == "exact" and unseen',
        'if promised != "exact" and unseen',
        "tests/tracers/model/test_audit.py",
    ),
    Mutant(
        "an order: waiting for readahead after mapping",
        "tracers/faults/rows.py",
        "(of_file & (found & Found.WAITED > 0), Cause.FILE_WAIT),\n",
        "",
        "tests/tracers/faults",
    ),
    Mutant(
        "a formula: pages of a block",
        "tracers/pages/report.py",
        '(int(row["allocs"]) - int(row["frees"])) << key[1]',
        '(int(row["allocs"]) - int(row["frees"]))',
        "tests/tracers/pages",
    ),
    Mutant(
        "a formula: what oom_score_adj adds",
        "tracers/oom/badness.py",
        "adj * (scope // page // 1000) * page",
        "adj * (scope // 1000)",
        "tests/tracers/oom tests/live/test_oom.py",
    ),
    Mutant(
        "a bound: small blocks are those up to an order",
        "tracers/pages/free.py",
        "enumerate(blocks[:order]))",
        "enumerate(blocks[: order + 1]))",
        "tests/tracers/pages",
    ),
    Mutant(
        "a pair: an end that follows an end",
        "tracers/reclaim/pairs.py",
        "ends[1:] & ~ends[:-1] & follows[1:]",
        "ends[1:] & follows[1:]",
        "tests/tracers/reclaim",
    ),
    Mutant(
        "a condition inverted: whose rows are left out",
        "tracers/live/live.py",
        "return take(rows, ~own)",
        "return take(rows, own)",
        "tests/live/test_identities.py tests/live/test_slab.py",
    ),
    Mutant(
        "a unit: KiB of a thousand bytes",
        "cli/render.py",
        '"kib": lambda size: str(int(size / (1 << 10))),',
        '"kib": lambda size: str(int(size / 1000)),',
        "tests/cli/test_render.py",
    ),
    Mutant(
        "throttle: a birth ends no rest",
        "tracers/faults/enrich.py",
        "self._rest_s / 4 if born else",
        "self._rest_s if born else",
        "tests/tracers/faults/test_throttle.py",
    ),
    Mutant(
        "throttle: it rests as long after a storm",
        "tracers/faults/enrich.py",
        "max(self._cost_s * _REST, timed)",
        "self._cost_s * _REST",
        "tests/tracers/faults/test_throttle.py",
    ),
    Mutant(
        "throttle: a second does not begin anew",
        "tracers/faults/enrich.py",
        "now >= self._second + 1:",
        "now < self._second:",
        "tests/tracers/faults/test_throttle.py",
    ),
    Mutant(
        "userfault: flags exchanged",
        "tracers/faults/userfault.py",
        "_VM_UFFD_MISSING, _VM_UFFD_WP = 0x200, 0x1000",
        "_VM_UFFD_MISSING, _VM_UFFD_WP = 0x1000, 0x200",
        "tests/tracers/faults/test_userfault.py",
    ),
    Mutant(
        "userfault: the end of a range belongs to it",
        "tracers/faults/userfault.py",
        '(faults["address"] < end)',
        '(faults["address"] <= end)',
        "tests/tracers/faults/test_userfault.py",
    ),
    Mutant(
        "userfault: a sleeper waits for the next time",
        "tracers/faults/userfault.py",
        "now < known.next_s and not at_once",
        "now < known.next_s",
        "tests/tracers/faults/test_userfault.py",
    ),
    Mutant(
        "userfault: what is gone is forgotten at once",
        "tracers/faults/userfault.py",
        "            written = known.ranges\n",
        "            pass\n",
        "tests/tracers/faults/test_userfault.py",
    ),
    Mutant(
        "enricher: a completion counts beside its spilled exception",
        "tracers/faults/enrich.py",
        "if self._spilled and not self._counts:",
        "if False:",
        "tests/tracers/faults/test_enrich.py",
    ),
    Mutant(
        "enricher: a place is told each time",
        "tracers/faults/enrich.py",
        "        self._places_named |= new\n",
        "",
        "tests/tracers/faults/test_enrich.py",
    ),
    Mutant(
        "enricher: sizes of a victim are left in pages",
        "tracers/oom/enrich.py",
        "row[name] = event[name] * _PAGE",
        "row[name] = event[name]",
        "tests/tracers/oom/test_enrich.py",
    ),
    Mutant(
        "enricher: the best candidate comes last",
        "tracers/oom/enrich.py",
        "key=lambda s: -bad[s.pid]",
        "key=lambda s: bad[s.pid]",
        "tests/tracers/oom/test_enrich.py",
    ),
    Mutant(
        "enricher: a victim has the candidates of the one before",
        "tracers/oom/enrich.py",
        "self._looks[0][0] <= self._taken",
        "self._looks[0][0] < self._taken",
        "tests/tracers/oom/test_enrich.py",
    ),
    Mutant(
        "enricher: repeated accesses that were spilled count",
        "tracers/pagecache/rows.py",
        "spilled[~again], is_access[~again]",
        "spilled, is_access",
        "tests/tracers/pagecache/test_enrich.py",
    ),
    Mutant(
        "enricher: the wrong column of the kernel's buckets",
        "tracers/pagecache/enrich.py",
        "self._buckets[buckets, 1]",
        "self._buckets[buckets, 0]",
        "tests/tracers/pagecache/test_enrich.py",
    ),
    Mutant(
        "enricher: errors of mmap(2) stay addresses",
        "tracers/malloc/enrich.py",
        'rows["address"] >= BEYOND',
        'rows["address"] > BEYOND',
        "tests/tracers/malloc/test_enrich.py",
    ),
    Mutant(
        "enricher: the outermost caller made the call",
        "tracers/malloc/enrich.py",
        "for number in callers)",
        "for number in callers[::-1])",
        "tests/tracers/malloc/test_enrich.py",
    ),
    Mutant(
        "enricher: a process that ended stays known",
        "tracers/malloc/enrich.py",
        "            self._known.discard(event.tgid)\n",
        "            pass\n",
        "tests/tracers/malloc/test_enrich.py",
    ),
    Mutant(
        "loop: Ctrl-C ends a run before its program",
        "cli/loop.py",
        "self._signals.interrupts > bool(self._program)",
        "self._signals.interrupts > 0",
        "tests/cli/test_loop.py",
    ),
    Mutant(
        "loop: children of targets are not waited for",
        "cli/loop.py",
        "return not self._together.followed() - set(self._pidfds)",
        "return True",
        "tests/cli/test_loop.py",
    ),
    Mutant(
        "loop: processes are listened to all the time",
        "cli/loop.py",
        "if math.isinf(self._deaf_until):",
        "if False:",
        "tests/cli/test_loop.py",
    ),
    Mutant(
        "loop: the last report is fed back",
        "cli/loop.py",
        "if not chunk.last:",
        "if True:",
        "tests/cli/test_loop.py",
    ),
    Mutant(
        "loop: one report too many",
        "cli/loop.py",
        "self._reports_left < 1",
        "self._reports_left < 0",
        "tests/cli/test_loop.py",
    ),
    Mutant(
        "page tables: huge pages of files have tables below them",
        "tracers/ps/tables.py",
        'found - (self.thp // level.span if level.name == "pte" else 0)',
        "found",
        "tests/tracers/ps/test_tables.py",
    ),
    Mutant(
        "page tables: ranges in one table counted twice",
        "tracers/ps/tables.py",
        "len(first) - twice",
        "len(first)",
        "tests/tracers/ps/test_tables.py",
    ),
    Mutant(
        "ps: what was not read in time is not counted",
        "tracers/ps/costly.py",
        "            self.late += 1\n            row |= _UNKNOWN",
        "            row |= _UNKNOWN",
        "tests/tracers/ps/test_report.py",
    ),
)


def main(words: Sequence[str]) -> int:
    """Prints a line for each change, and says which were not noticed; their number."""
    chosen = [each for each in MUTANTS if all(word in each.what for word in words)]
    missed = []
    with tempfile.TemporaryDirectory(prefix="memtap-mutants-", dir="/var/tmp") as name:
        tree = _copy(Path(name))
        for mutant in chosen:
            noticed = _is_noticed(mutant, tree)
            print("noticed" if noticed else "MISSED ", mutant.what, flush=True)
            missed += [] if noticed else [mutant]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} were noticed")
    return len(missed)


def _copy(folder: Path) -> Path:
    """The tree as it is committed, with the virtual environment of this one."""
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=HOME, stdout=subprocess.PIPE, check=True
    ).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
    folder.chmod(0o755)  # tests enter it as other users
    return folder


def _is_noticed(mutant: Mutant, tree: Path) -> bool:
    """Whether its tests fail with it; RuntimeError if they do without."""
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.before) != 1:
        raise RuntimeError(f"{mutant.what}: not once in {mutant.file}: {mutant.before!r}")
    if _run(mutant, tree) != 0:
        raise RuntimeError(f"{mutant.what}: its tests fail without it")
    path.write_text(text.replace(mutant.before, mutant.after))
    try:
        return _run(mutant, tree) != 0
    finally:
        path.write_text(text)


def _run(mutant: Mutant, tree: Path) -> int:
    """The exit status of the tests; what takes too long has noticed."""
    for cached in tree.rglob("__pycache__"):
        shutil.rmtree(cached)  # a file that changed twice in a second looks the same
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *mutant.tests.split()],
            cwd=tree,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
