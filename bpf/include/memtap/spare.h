/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel does not run a program on a CPU where it is running already. An interrupt can come
 * just then, and free hundreds of things that RCU has kept: the program would miss them all. So
 * a second program, its spare, is attached behind it to the same tracepoint.
 *
 * A program puts what it is about to handle on a stack, one for each program and CPU, and its
 * spare takes that off again. What a spare does not find there, its program was not run for:
 * the spare handles it then. As interrupts nest, what lies above what a spare finds was put
 * there in an interrupt of the spare itself, so it goes, too. Where a spare is interrupted
 * while it handles something, neither is run: that is missed, and said to be.
 *
 * The program that includes this file has defined PROGRAMS, how many have a spare.
 */
#ifndef MEMTAP_SPARE_H
#define MEMTAP_SPARE_H

#include <memtap/losses.h>

#define DEEPEST 8 /* tasks, softirqs, interrupts and NMIs are four */

struct handled {
	u64 has_spare; /* it was seen to run */
	u64 depth;
	u64 what[DEEPEST];
};

BPF_PERCPU_ARRAY(handled, struct handled, PROGRAMS);

/* What is there must be in memory before the depth says so: an interrupt looks at it. */
#define COMPILER_BARRIER() asm volatile("" ::: "memory")

/* A program begins to handle something. */
static inline void handle(int program, u64 what)
{
	struct handled *stack = handled.lookup(&program);

	if (!stack || !stack->has_spare)
		return;
	u64 at = stack->depth;
	if (at >= DEEPEST)
		at = DEEPEST - 1;
	stack->what[at] = what;
	COMPILER_BARRIER();
	stack->depth = at + 1;
}

/* A spare: was its program not run for this? */
static inline int takes_place_of(int program, u64 what)
{
	struct handled *stack = handled.lookup(&program);

	if (!stack)
		return 0;
	if (!stack->has_spare) {
		stack->has_spare = 1;
		return 0;
	}
#pragma unroll
	for (int at = DEEPEST - 1; at >= 0; at--) {
		if (at < stack->depth && stack->what[at] == what) {
			stack->depth = at;
			return 0;
		}
	}
	count(COUNT_CAUGHT, 1);
	return 1;
}

#endif
