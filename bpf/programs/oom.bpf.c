/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Victims of the OOM killer, as it marks them: the address space is still whole then, and the
 * task that ran out of memory is the one that runs.
 */
struct event {
	u64 total_vm; /* pages, as are these */
	u64 anon;
	u64 file;
	u64 shmem;
	u64 swap;
	u64 pgtables; /* bytes */
	u64 cgroup;   /* the inode of its memory cgroup's directory */
	u64 comm_0;
	u64 comm_1;
	u64 trigger_comm_0;
	u64 trigger_comm_1;
	u32 dt_ns;
	u32 tgid;
	u32 trigger; /* the process that asked for memory */
	u32 uid;
	u32 adj;   /* oom_score_adj, an s16 */
	u32 known; /* whether all of this is known, or just the number of the victim */
};

/* Every victim has an event; there are no runs. */
struct run {
	u32 epoch;
};

enum { LANE_VICTIM, LANES };

#include <linux/types.h>
#include <memtap/fields.h>
#include <memtap/batch.h>
#include <memtap/filter.h>
#include <memtap/rss.h>

#define SIGKILL       9
#define SEND_SIG_PRIV 1 /* in place of a siginfo: the kernel itself kills */
#define SUSPECTS      64

static inline u64 pages_of(u64 mm, int offset)
{
	s64 pages = PEEK_AS(u64, mm, offset);

	return pages < 0 ? 0 : pages;
}

/* The cgroup that the task's memory is charged to; on v2 that can be one above its own. */
static inline u64 memory_cgroup_of(u64 task)
{
#ifdef ENUM_cgroup_subsys_id__memory_cgrp_id
	u64 set = PEEK(task, task_struct, cgroups);
	int number = ENUM(cgroup_subsys_id, memory_cgrp_id);
	u64 css = PEEK_AS(u64, set, OFFSET(css_set, subsys) + number * sizeof(u64));
	u64 node = PEEK(PEEK(css, cgroup_subsys_state, cgroup), cgroup, kn);

	return PEEK(node, kernfs_node, id);
#else
	return 0;
#endif
}

static inline void describe(struct event *event, u64 task)
{
	u64 mm = PEEK(task, task_struct, mm), signal = PEEK(task, task_struct, signal);
	struct comm comm = comm_of(task);

	event->known = 1;
	event->total_vm = PEEK(mm, mm_struct, total_vm);
	event->anon = pages_of(mm, RSS_OFFSET(MM_ANONPAGES));
	event->file = pages_of(mm, RSS_OFFSET(MM_FILEPAGES));
	event->shmem = pages_of(mm, RSS_OFFSET(MM_SHMEMPAGES));
	event->swap = pages_of(mm, RSS_OFFSET(MM_SWAPENTS));
	event->pgtables = PEEK(mm, mm_struct, pgtables_bytes);
	event->cgroup = memory_cgroup_of(task);
	event->comm_0 = comm.words[0];
	event->comm_1 = comm.words[1];
	event->uid = PEEK(PEEK(task, task_struct, real_cred), cred, uid);
	event->adj = PEEK(signal, signal_struct, oom_score_adj);
}

#ifdef BY_SIGNAL
/* The task that the kernel has just killed, by the thread that was running. */
BPF_TABLE("lru_hash", u32, u64, killed, SUSPECTS);

/* tp_btf/signal_generate(sig, info, task, group, result): just before the victim is marked. */
int on_signal(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	u64 task = ctx[2];

	if ((u32)ctx[0] == SIGKILL && ctx[1] == SEND_SIG_PRIV)
		killed.update(&tid, &task);
	return 0;
}

/* Before 72ba14deb40a the tracepoint gives no more than a number. */
static inline u64 victim_of(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	u64 *task = killed.lookup(&tid);

	return task && PEEK(*task, task_struct, pid) == (u32)ctx[0] ? *task : 0;
}

/* If the main thread has ended, the kernel marks another thread that has the memory. */
#define NUMBER_OF(ctx, victim) ((victim) ? PEEK(victim, task_struct, tgid) : (u32)(ctx)[0])
#else
static inline u64 victim_of(u64 *ctx)
{
	return ctx[0];
}

/* Not PEEK: where the argument is a number, not a pointer, the verifier refuses the program. */
#define NUMBER_OF(ctx, victim) FIELD((ctx)[0], task_struct, tgid)
#endif

static inline void keep(void *ctx, struct lane *lane, u64 victim, u32 tgid)
{
	u64 trigger = (u64)current_task();
	struct comm comm = comm_of(trigger);
	struct event *event = append(ctx, lane);

	if (!event) {
		lose(1);
		return;
	}
	u32 dt_ns = event->dt_ns;
	__builtin_memset(event, 0, sizeof(*event));
	event->dt_ns = dt_ns;
	event->tgid = tgid;
	event->trigger = FIELD(trigger, task_struct, tgid);
	event->trigger_comm_0 = comm.words[0];
	event->trigger_comm_1 = comm.words[1];
	if (victim)
		describe(event, victim);
	submit(ctx, lane); /* a report of it should not wait for the end of an interval */
}

/* tp_btf/mark_victim(task, uid), or (pid) */
int on_victim(u64 *ctx)
{
	u64 victim = victim_of(ctx);
	u32 tgid = NUMBER_OF(ctx, victim);

	if (!followed(victim, tgid))
		return 0;
	struct lane *lane = enter(LANE_VICTIM);
	if (!lane)
		return 0;
	keep(ctx, lane, victim, tgid);
	leave(lane);
	return 0;
}
