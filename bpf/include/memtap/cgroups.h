/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cgroups: whether a task is below one, and which one a process was in, even if it ended before
 * user space could look.
 *
 * A process is put into its cgroup before it is born, or moved there later. Many processes are
 * gone, and their cgroups removed, before user space looks into /proc. So when a process is
 * born, is moved or ends, its cgroup is noted here, and the name of a cgroup is noted when it
 * is first seen. What is noted for a number is always of the process that has this number now,
 * or had it last. All this only with NOTE_PROCESSES.
 *
 * bpf/filters.py defines MEMORY_SUBSYS where memory is accounted by a v1 hierarchy.
 */
#ifndef MEMTAP_CGROUPS_H
#define MEMTAP_CGROUPS_H

#include <memtap/loops.h>

#define MOST_PROCESSES 32768
#define MOST_CGROUPS   4096
#define CGROUP_DEPTH   32
#define CGROUP_NAME    256 /* NAME_MAX, and the NUL */

static inline u64 css_of_v2(u64 task)
{
	u64 set = PEEK(task, task_struct, cgroups);

	return PEEK(set, css_set, dfl_cgrp) + OFFSET(cgroup, self);
}

static inline u64 css_of_v1(u64 task, int subsys)
{
	u64 set = PEEK(task, task_struct, cgroups);

	return PEEK_AS(u64, set, OFFSET(css_set, subsys) + subsys * sizeof(u64));
}

/* The kernfs node of the cgroup's directory. */
static inline u64 node_of(u64 css)
{
	return PEEK(PEEK(css, cgroup_subsys_state, cgroup), cgroup, kn);
}

/* The inode number of the directory. */
static inline u64 id_of(u64 css)
{
	return PEEK(node_of(css), kernfs_node, id);
}

/*
 * Is the cgroup of this css, or one above it, the one with this id? Walks by css->parent, which
 * every kernel has; cgroup->ancestor_ids became ->ancestors in 7f203bc89eb6.
 */
static inline int css_is_under(u64 css, u64 id)
{
	for (int depth = 0; depth < CGROUP_DEPTH && css && id; depth++) {
		if (id_of(css) == id)
			return 1;
		css = PEEK(css, cgroup_subsys_state, parent);
	}
	return 0;
}

static inline int is_under_v2(u64 task, u64 id)
{
	return css_is_under(css_of_v2(task), id);
}

static inline int is_under_v1(u64 task, int subsys, u64 id)
{
	return css_is_under(css_of_v1(task, subsys), id);
}

#ifdef FOLLOW_CGROUP
#define CGROUP_PATH 256

/*
 * A cgroup whose processes are kept. Its number is known once it is made, and is another one
 * when it is made again. User space would look it up too late, and miss what the first
 * processes do.
 */
struct wanted_cgroup {
	u64 id;        /* 0 as long as there is none */
	u64 hierarchy; /* its number, as in /proc/PID/cgroup */
	u64 path[CGROUP_PATH / sizeof(u64)];
};

BPF_F_TABLE("array", int, struct wanted_cgroup, wanted_cgroups, WANTED_CGROUPS, BPF_F_MMAPABLE);

static inline u64 wanted_id(int number)
{
	struct wanted_cgroup *wanted = wanted_cgroups.lookup(&number);

	return wanted ? wanted->id : 0;
}

/* Is a new cgroup the one that is wanted under this number? */
static inline void compare_cgroup(int number, u64 hierarchy, u64 *path, u64 id)
{
	struct wanted_cgroup *wanted = wanted_cgroups.lookup(&number);
	u64 differs = hierarchy;

	if (!wanted)
		return;
	differs ^= wanted->hierarchy;
#pragma clang loop unroll(full)
	for (int word = 0; word < CGROUP_PATH / sizeof(u64); word++)
		differs |= wanted->path[word] ^ path[word];
	if (!differs)
		wanted->id = id;
}

/* tp_btf/cgroup_mkdir(cgroup, path) */
int on_new_cgroup(u64 *ctx)
{
	u64 cgroup = ctx[0], root = PEEK(cgroup, cgroup, root);
	u64 hierarchy = (u32)PEEK(root, cgroup_root, hierarchy_id);
	u64 id = id_of(cgroup + OFFSET(cgroup, self)), path[CGROUP_PATH / sizeof(u64)] = {};

	bpf_probe_read_kernel_str(path, sizeof(path), (void *)ctx[1]);
#pragma clang loop unroll(full)
	for (int number = 0; number < WANTED_CGROUPS; number++)
		compare_cgroup(number, hierarchy, path, id);
	return 0;
}
#endif

#ifdef NOTE_PROCESSES
struct cgroup_name {
	u64 above; /* the id of the cgroup that this one is in; 0 for the root */
	char text[CGROUP_NAME];
};

BPF_TABLE("lru_hash", u32, u64, cgroup_of, MOST_PROCESSES);
BPF_TABLE("lru_hash", u64, struct cgroup_name, cgroup_names, MOST_CGROUPS);

/* Notes the names of a cgroup and of those that it is in, up to one that is known. */
static inline void name_cgroup(u64 css)
{
	struct cgroup_name name = {};

	AT_MOST(CGROUP_DEPTH)
	{
		OR_BREAK;
		u64 id = id_of(css), parent = PEEK(css, cgroup_subsys_state, parent);

		if (!css || cgroup_names.lookup(&id))
			return;
		name.above = id_of(parent);
		bpf_probe_read_kernel_str(name.text, sizeof(name.text),
					  (void *)PEEK(node_of(css), kernfs_node, name));
		cgroup_names.update(&id, &name);
		css = parent;
	}
}

static inline int is_first_thread(u64 task)
{
	return FIELD(task, task_struct, pid) == FIELD(task, task_struct, tgid);
}

static inline int note_cgroup(u64 task)
{
#ifdef MEMORY_SUBSYS
	u64 css = css_of_v1(task, MEMORY_SUBSYS);
#else
	u64 css = css_of_v2(task);
#endif
	u32 tgid = PEEK(task, task_struct, tgid);
	u64 id = id_of(css);

	name_cgroup(css);
	cgroup_of.update(&tgid, &id);
	return 0;
}

/*
 * tp_btf/sched_process_fork(parent, child): by now the child is in the cgroup that it is born
 * in.
 */
int on_birth(u64 *ctx)
{
	return is_first_thread(ctx[1]) ? note_cgroup(ctx[1]) : 0;
}

/*
 * tp_btf/cgroup_attach_task(dst_cgrp, path, task, threadgroup): the task has been moved. Where
 * threads move alone (`tasks` of v1, `cgroup.threads` of v2), a process counts as being where
 * its first thread is.
 */
int on_move(u64 *ctx)
{
	return is_first_thread(ctx[2]) ? note_cgroup(ctx[2]) : 0;
}

/* tp_btf/sched_process_exit(task): for a process from before tracing began. */
int on_end(u64 *ctx)
{
	return is_first_thread(ctx[0]) ? note_cgroup(ctx[0]) : 0;
}
#endif

#endif
