/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Stacks by number, if the program has to keep some (STACKS, how many). Two stacks with the
 * same hash cannot be in one map; the few that collide go to the second map. Session.stack()
 * reads them.
 */
#ifndef MEMTAP_STACKS_H
#define MEMTAP_STACKS_H

#define EEXIST      17
#define IN_MORE     0x8000
#define MORE_STACKS 4096
#define NO_STACK    0xffff

#ifdef STACKS
BPF_TABLE("stacktrace", int, struct bpf_stacktrace, stacks, STACKS);
BPF_TABLE("stacktrace", int, struct bpf_stacktrace, more_stacks, MORE_STACKS);
#endif

/* The stack as of here: the kernel's, or with BPF_F_USER_STACK that of user space. */
static inline u16 stack_of(void *ctx, u64 flags)
{
#ifdef STACKS
	s64 id = stacks.get_stackid(ctx, flags);

	if (id == -EEXIST)
		id = more_stacks.get_stackid(ctx, flags) | IN_MORE;
	return id < 0 ? NO_STACK : id;
#else
	return NO_STACK;
#endif
}

#endif
