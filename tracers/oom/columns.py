"""The columns of the reports of the OOM killer."""

from __future__ import annotations

from memtap.tracers.model.keys import CGROUP, USER
from memtap.tracers.model.report import Column

OOM = (
    Column("time", "TIME", "time"),
    Column("pid", "PID"),
    Column("comm", "CMD", "text"),
    Column("uid", "UID", table=False),
    Column("oom_score_adj", "ADJ"),
    Column("total_vm_bytes", "VIRT_KB", "kib", table=False),
    Column("anon_rss_bytes", "ANON_KB", "kib"),
    Column("file_rss_bytes", "FILE_KB", "kib"),
    Column("shmem_rss_bytes", "SHMEM_KB", "kib", table=False),
    Column("swap_bytes", "SWAP_KB", "kib", table=False),
    Column("pgtables_bytes", "PGTAB_KB", "kib", table=False),
    Column("trigger_pid", "BY_PID", table=False),
    Column("trigger_comm", "BY", "text"),
    Column("constraint", "SHORT", "text"),
    *CGROUP,
    Column("limited_cgroup", "LIMITED", "path", table=False),
)

SCORES = (
    Column("pid", "PID"),
    Column("uid", "UID", table=False),
    USER,
    Column("comm", "CMD", "text"),
    Column("oom_score", "SCORE"),
    Column("oom_score_adj", "ADJ"),
    Column("adj_bytes", "ADJ_KB", "kib"),
    Column("res_bytes", "RES_KB", "kib"),
    Column("swap_bytes", "SWAP_KB", "kib"),
    Column("pgtables_bytes", "PGTAB_KB", "kib"),
    Column("cgroup", "CGROUP", "path", table=False),
)
