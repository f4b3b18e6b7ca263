/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel does not run a program on a CPU where it is running already. An interrupt can come
 * just then, and free hundreds of things that RCU has kept; and since tracepoints let other
 * tasks take the CPU (a46023d5616e), as functions always did, one can be put aside in the
 * middle of the program for milliseconds. All that others did meanwhile would be missed. So
 * where SPARES are asked for, such a program is loaded twice, and the second, its spare, takes
 * the place of the first where that is not run.
 *
 * The first notes what it handles, and its spare, which runs behind it, takes that off again.
 * What a spare does not find was not handled: so it does that. While a spare runs nothing is
 * noted, as nobody would take it off. Where it is refused, or not attached yet, that stays,
 * and is found if the same comes again. So what is noted has an owner, who has no more than one
 * at a time: whatever else is there of an owner is old. Where both are refused, that is missed,
 * and said to be.
 *
 * The program that includes this file has defined PROGRAMS, how many may have a spare.
 */
#ifndef MEMTAP_SPARE_H
#define MEMTAP_SPARE_H

#include <memtap/losses.h>

/* The task that runs, as an owner. */
#define CURRENT ((u32)bpf_get_current_pid_tgid())

#ifdef SPARES
#define DEEPEST 8 /* interrupts nest four times, and tasks take turns */

struct claims {
	u64 in_spare;
	u64 next;
	u64 owner[DEEPEST]; /* 0 where nothing is noted */
	u64 what[DEEPEST];
};

BPF_PERCPU_ARRAY(claims, struct claims, PROGRAMS);

/* Others look at it, in interrupts and in between. */
#define NOTE(member, value) (*(volatile u64 *)&(member) = (value))

/* The number stands for 0 or 1: which it is, is put here as the program is loaded. */
static inline u64 is_spare(void)
{
	u64 answer;

	asm volatile("%0 = 0x5ba4e" : "=r"(answer)); /* IS_SPARE of bpf/compiled.py */
	return answer;
}

static inline void note_handled(struct claims *claims, u64 owner, u64 what)
{
	u64 at = 0;

	if (claims->in_spare)
		return;
#pragma unroll
	for (; at < DEEPEST; at++)
		if (!claims->owner[at] || claims->owner[at] == owner)
			break;
	if (at == DEEPEST) /* what is old gives way, not what was noted last */
		at = claims->next;
	VERIFIER_FORGET(at);
	at &= DEEPEST - 1;
	claims->next = at + 1;
	NOTE(claims->what[at], what);
	NOTE(claims->owner[at], owner);
}

static inline int was_handled(struct claims *claims, u64 owner, u64 what)
{
	int found = 0;

#pragma unroll
	for (int at = 0; at < DEEPEST; at++) {
		if (claims->owner[at] == owner) {
			found |= claims->what[at] == what;
			NOTE(claims->owner[at], 0);
		}
	}
	return found;
}

/* A spare: was its program not run for this? */
static inline int takes_place(struct claims *claims, u64 owner, u64 what)
{
	NOTE(claims->in_spare, 1);
	if (!was_handled(claims, owner, what)) {
		count(COUNT_CAUGHT, 1);
		return 1;
	}
	NOTE(claims->in_spare, 0);
	return 0;
}

/*
 * Has the program that runs to handle this, and not its spare, or the one that it is the spare
 * of? Asked first of all, also of what will turn out to be of no interest: then what is missed
 * is known. The owner is a task, by its number, or where interrupts come what this is about.
 */
static inline int claim(int program, u64 owner, u64 what)
{
	struct claims *mine = claims.lookup(&program);

	if (!mine)
		return 0;
	if (is_spare())
		return takes_place(mine, owner, what);
	note_handled(mine, owner, what);
	return 1;
}

/* What was claimed is handled. */
static inline void release(int program)
{
	struct claims *mine = is_spare() ? claims.lookup(&program) : NULL;

	if (mine)
		NOTE(mine->in_spare, 0);
}
#else
static inline u64 is_spare(void)
{
	return 0;
}

/* Not even looked at. */
#define claim(program, owner, what) 1
#define release(program)
#endif

#endif
