/* SPDX-License-Identifier: GPL-2.0-only */
/* The size from which on malloc maps a block on its own, read when it makes a system call. */
#ifndef MEMTAP_THRESHOLDS_H
#define MEMTAP_THRESHOLDS_H

#include <memtap/calls.h>

/*
 * Where a glibc has its threshold, by the page offset to which one of its system calls returns.
 * User space knows it for the files that it has looked at (tracers/malloc/thresholds.py). An id
 * near the beginning of the file in memory shows whether the code is of such a file.
 */
struct known_call {
	u64 offset; /* of the instruction in the file, as it is in memory; likewise: */
	u64 id_at;
	u64 id;
	u64 threshold_at;
	u64 most_at; /* of the number of blocks that malloc maps at most */
};

#define NEVER      (~0ULL)
#define PAGE_BYTES (1 << PAGE_SHIFT)

BPF_F_TABLE("array", int, struct known_call, known_calls, PAGE_BYTES, BPF_F_MMAPABLE);

/* Adds to a call the threshold of malloc in the library that makes it, if that is known. */
static inline void tell_threshold(struct event *call)
{
	int at = call->ip & (PAGE_BYTES - 1);
	struct known_call *known = known_calls.lookup(&at);

	if (!known || !known->offset)
		return;
	u64 begin = call->ip - known->offset;
	if (user_word(begin + known->id_at) != known->id)
		return;
	int maps = (u32)user_word(begin + known->most_at) != 0;
	call->threshold = maps ? user_word(begin + known->threshold_at) : NEVER;
	call->call_marks |= TELLS_THRESHOLD;
}

#endif
