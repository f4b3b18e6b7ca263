/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whose events are kept, decided before anything is stored.
 *
 * bpf/filters.py defines what the user asked for: FOLLOW_TGIDS (the processes are marked in the
 * map `targets`), FOLLOW_CHILDREN (so do those they fork), FOLLOW_COMM(comm) and
 * FOLLOW_CGROUP(task). Filters of different kinds must all agree.
 */
#ifndef MEMTAP_FILTER_H
#define MEMTAP_FILTER_H

struct comm {
	u64 words[2];
};

#ifdef FOLLOW_TGIDS
/*
 * A byte for every number a process can have (TGID_BLOCKS comes from kernel.pid_max), shared
 * with user space: a lookup costs 3 ns where a hash costs 50, and it is never full.
 */
struct tgid_block {
	u8 followed[64];
};

BPF_F_TABLE("array", int, struct tgid_block, targets, TGID_BLOCKS, BPF_F_MMAPABLE);

static inline u8 *target(u32 tgid)
{
	int number = tgid / 64;
	struct tgid_block *block = targets.lookup(&number);

	return block ? &block->followed[tgid % 64] : NULL;
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

/*
 * Is the cgroup of this css, or one above it, the one with this id? Walks by css->parent, which
 * every kernel has; cgroup->ancestor_ids became ->ancestors in 7f203bc89eb6.
 */
static inline int css_is_under(u64 css, u64 id)
{
	for (int depth = 0; depth < 32 && css; depth++) {
		u64 cgroup = PEEK(css, cgroup_subsys_state, cgroup);
		u64 node = PEEK(cgroup, cgroup, kn);

		if (PEEK(node, kernfs_node, id) == id)
			return 1;
		css = PEEK(css, cgroup_subsys_state, parent);
	}
	return 0;
}

static inline int is_under_v2(u64 task, u64 id)
{
	u64 set = PEEK(task, task_struct, cgroups);

	return css_is_under(PEEK(set, css_set, dfl_cgrp) + OFFSET(cgroup, self), id);
}

static inline int is_under_v1(u64 task, int subsys, u64 id)
{
	u64 set = PEEK(task, task_struct, cgroups);
	u64 css = PEEK_AS(u64, set, OFFSET(css_set, subsys) + subsys * sizeof(u64));

	return css_is_under(css, id);
}

static inline int followed(u64 task, u32 tgid)
{
#ifdef FOLLOW_TGIDS
	u8 *mark = target(tgid);
	if (!mark || !*mark)
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

#ifdef FOLLOW_CHILDREN
/* tp_btf/sched_process_fork(parent, child): before the child has run, so none is missed. */
int on_fork(u64 *ctx)
{
	u8 *parent = target(FIELD(ctx[0], task_struct, tgid));
	u8 *child = target(FIELD(ctx[1], task_struct, tgid));

	if (!parent || !*parent)
		return 0;
	if (child)
		*child = 1;
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
		*mark = 0;
	return 0;
}
#endif

#endif
