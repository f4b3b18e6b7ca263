"""The columns of the reports of the OOM killer."""

from __future__ import annotations

from dataclasses import replace

from memtap.tracers.model.keys import CGROUP, COMM, PID, UID, USER
from memtap.tracers.model.report import Column

OOM = (
    Column("time", "TIME", "time", help="when"),
    PID,
    *COMM,
    UID,
    Column(
        "oom_score_adj", "ADJ", unknown=True, help="oom_score_adj, what the owner adds to its score"
    ),
    Column("total_vm_bytes", "VIRT_KB", "kib", table=False, unknown=True, help="its addresses"),
    Column(
        "anon_rss_bytes", "ANON_KB", "kib", unknown=True, help="its own memory when it was chosen"
    ),
    Column("file_rss_bytes", "FILE_KB", "kib", unknown=True, help="its pages of files"),
    Column(
        "shmem_rss_bytes", "SHMEM_KB", "kib", table=False, unknown=True, help="its shared memory"
    ),
    Column(
        "swap_bytes", "SWAP_KB", "kib", table=False, unknown=True, help="what of it was swapped out"
    ),
    Column("pgtables_bytes", "PGTAB_KB", "kib", table=False, unknown=True, help="its page tables"),
    Column("trigger_pid", "BY_PID", table=False, help="the process that needed the memory"),
    Column("trigger_comm", "BY", "text", help="the name of the process that needed the memory"),
    Column(
        "constraint",
        "SHORT",
        "text",
        help="what had none left: memcg (a cgroup's limit was reached), global (the "
        "host), cpuset, mempolicy; ? if the kernel log does not say",
    ),
    *CGROUP,
    Column(
        "limited_cgroup",
        "LIMITED",
        "path",
        table=False,
        unknown=True,
        help="the cgroup whose limit was reached",
    ),
)

SCORES = (
    PID,
    UID,
    USER,
    *COMM,
    Column("oom_score", "SCORE", help="/proc/PID/oom_score; the highest is killed first"),
    Column("oom_score_adj", "ADJ", unknown=True, help="oom_score_adj, what the owner adds to that"),
    Column("adj_bytes", "ADJ_KB", "kib", help="what ADJ adds, as if it were memory"),
    Column("res_bytes", "RES_KB", "kib", help="what is in memory, and freed when it is killed"),
    Column("swap_bytes", "SWAP_KB", "kib", unknown=True, help="what is swapped out"),
    Column("pgtables_bytes", "PGTAB_KB", "kib", unknown=True, help="its page tables"),
    *(replace(column, table=False) for column in CGROUP),
)
