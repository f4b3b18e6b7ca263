/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which processes have their events kept, decided before anything is stored.
 *
 * bpf/filters.py defines what the user asked for: FOLLOW_TGIDS (the processes are marked in the
 * map `targets`), FOLLOW_CHILDREN (so are those they fork), FOLLOW_COMM(comm) and
 * FOLLOW_CGROUP(task), LEAVE_OWN_OUT (not memtap itself). Filters of different kinds must all
 * agree.
 */
#ifndef MEMTAP_FILTER_H
#define MEMTAP_FILTER_H

#include <memtap/arguments.h>
#include <memtap/cgroups.h>

struct comm {
	u64 words[2];
};

#ifdef FOLLOW_TGIDS
enum target_mark { FOREIGN, FOLLOWED, PENDING /* FOLLOWED as soon as it executes a program */ };

/*
 * A byte for every number a process can have (TGID_BLOCKS comes from kernel.pid_max), shared
 * with user space: a lookup costs 3 ns where a hash costs 50, and it is never full.
 */
struct tgid_block {
	u8 marks[64];
};

BPF_F_TABLE("array", int, struct tgid_block, targets, TGID_BLOCKS, BPF_F_MMAPABLE);

static inline u8 *target(u32 tgid)
{
	int number = tgid / 64;
	struct tgid_block *block = targets.lookup(&number);

	return block ? &block->marks[tgid % 64] : NULL;
}
#endif

/* The name that ps shows: the thread group leader's. */
static inline struct comm comm_of(u64 task)
{
	struct comm comm = {};
	u64 leader = PEEK(task, task_struct, group_leader);

	bpf_probe_read_kernel(&comm, sizeof(comm), (void *)leader + OFFSET(task_struct, comm));
	return comm;
}

#ifdef LEAVE_OWN_OUT
/* The number of memtap's own process. Compiled text is cached, so this is filled in later. */
static inline u64 own_tgid(void)
{
	u64 answer;

	asm volatile("%0 = 0x5e1f0" : "=r"(answer)); /* OWN_TGID of bpf/compiled.py */
	return answer;
}
#endif

static inline int chosen(u64 task, u32 tgid)
{
#ifdef FOLLOW_TGIDS
	u8 *mark = target(tgid);
	if (!mark || *mark != FOLLOWED)
		return 0;
#endif
#ifdef FOLLOW_COMM
	struct comm comm = comm_of(task);
	if (!FOLLOW_COMM(comm))
		return 0;
#endif
#ifdef FOLLOW_CGROUP
	if (!FOLLOW_CGROUP(task))
		return 0;
#endif
	return 1;
}

#ifdef LEAVE_OWN_OUT
#define IS_OWN(tgid) ((tgid) == own_tgid())
#else
#define IS_OWN(tgid) 0
#endif

/* Is this an event for the report? To be asked once for each event: it counts memtap's own. */
static inline int followed(u64 task, u32 tgid)
{
	if (!chosen(task, tgid))
		return 0;
	if (!IS_OWN(tgid))
		return 1;
	count(COUNT_OWN, 1);
	return 0;
}

/* The same for what only adds to another event, for which followed() is asked. */
static inline int concerned(u64 task, u32 tgid)
{
	return chosen(task, tgid) && !IS_OWN(tgid);
}

#ifdef FOLLOW_CHILDREN
/* tp_btf/sched_process_fork(parent, child): before the child has run, so no event is missed. */
int on_fork(u64 *ctx)
{
	u8 *parent = target(FIELD(ctx[0], task_struct, tgid));
	u8 *child = target(FIELD(ctx[1], task_struct, tgid));

	if (!parent || *parent != FOLLOWED)
		return 0;
	if (child)
		*child = FOLLOWED;
	else
		count(COUNT_MAP_FULL, 1);
	return 0;
}
#endif

#ifdef FOLLOW_TGIDS
/*
 * tp_btf/sched_process_free(task): not at exit, because a dying process still drops pages of
 * the files it held open. Its number cannot be given to another process before this.
 */
int on_free(u64 *ctx)
{
	u32 tgid = FIELD(ctx[0], task_struct, tgid);
	u8 *mark = target(tgid);

	if (mark && FIELD(ctx[0], task_struct, pid) == tgid)
		*mark = FOREIGN;
	return 0;
}

/* What was counted for a PENDING process when it executed its program. */
struct counted {
	u64 minor;
	u64 major;
	u64 read_bytes;
	u64 write_bytes;
	u64 cpu_ns;
};

BPF_F_TABLE("array", int, struct counted, at_exec, 1, BPF_F_MMAPABLE);

static inline void note_counted(u64 task)
{
	int first = 0;
	struct counted *counted = at_exec.lookup(&first);

	if (!counted)
		return;
	counted->minor = FIELD(task, task_struct, min_flt);
	counted->major = FIELD(task, task_struct, maj_flt);
#if HAVE(task_struct, ioac__read_bytes)
	counted->read_bytes = FIELD(task, task_struct, ioac__read_bytes);
	counted->write_bytes = FIELD(task, task_struct, ioac__write_bytes);
#endif
	counted->cpu_ns = FIELD(task, task_struct, se__sum_exec_runtime);
}

/*
 * tp_btf/task_rename(task, comm): execve(2) names the process after its new program. perf
 * begins to count directly before this, in perf_event_exec() (enable_on_exec). By now the old
 * memory is gone, and nothing of the new program has run; its loading, which follows, counts
 * for it. A program that cannot be executed does not get this far.
 */
int on_exec(u64 *ctx)
{
	u8 *mark = target(FIELD(ctx[0], task_struct, tgid));

	if (!mark || *mark != PENDING)
		return 0;
	note_counted(ctx[0]);
	*mark = FOLLOWED;
	return 0;
}
#endif

#endif
