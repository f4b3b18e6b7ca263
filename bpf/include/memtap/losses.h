/* SPDX-License-Identifier: GPL-2.0-only */
/* What did not reach user space, counted per CPU; bpf/session.py reads it. */
#ifndef MEMTAP_LOSSES_H
#define MEMTAP_LOSSES_H

/*
 * COUNT_REFUSED is how many records a full ring refused: the ring counts them itself as well,
 * in one sum with the side-band records that it had no room for. COUNT_OWN is no loss: events
 * of memtap itself, which reports leave out.
 */
enum {
	COUNT_LOST,
	COUNT_MAP_FULL,
	COUNT_CAUGHT,
	COUNT_SPILLED,
	COUNT_REFUSED,
	COUNT_OWN,
	COUNTS
};

BPF_PERCPU_ARRAY(counts, u64, COUNTS);

/*
 * Atomic, as a program can be preempted by another one. LLVM turns adding a constant 0 into an
 * atomic OR, which kernels before 5.12 refuse (981f94c3e921).
 */
static inline void add_to(u64 *sum, u64 by)
{
	if (by)
		lock_xadd(sum, by);
}

static inline void count(int which, u64 by)
{
	u64 *counter = counts.lookup(&which);
	if (counter)
		add_to(counter, by);
}

#endif
