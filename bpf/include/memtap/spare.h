/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel does not run a program on a CPU where it is running already. An interrupt can come
 * just then, and free hundreds of things that RCU has kept; and since tracepoints let other
 * tasks take the CPU (a46023d5616e), as functions always did, one can be put aside in the
 * middle of the program for milliseconds. All that others did meanwhile would be missed. So
 * where SPARES are asked for, such a program is loaded that many times more, and the others,
 * its spares, take its place where it is not run: the first spare its program's, the second
 * theirs where neither is.
 *
 * Who handles something notes it for each spare behind, and a spare, when it is its turn, takes
 * off again what was noted for it. What it does not find was not handled: so it does that.
 * While a spare runs nothing is noted for it, as nobody would take it off. Where it is refused,
 * or not attached yet, that stays, and is found if the same comes again. So what is noted has
 * an owner, who has no more than one at a time: whatever else is there of an owner is old.
 * Where all are refused, that is missed, and said to be.
 *
 * The program that includes this file has defined PROGRAMS, how many may have spares.
 */
#ifndef MEMTAP_SPARE_H
#define MEMTAP_SPARE_H

#include <memtap/losses.h>

/* The task that runs, as an owner. */
#define CURRENT ((u32)bpf_get_current_pid_tgid())

#ifndef SPARES
#define SPARES 0
#endif

#if SPARES
#define ALL_CLAIMS (PROGRAMS * SPARES)
#define DEEPEST    8 /* interrupts nest four times, and tasks take turns */

/* What was handled before a spare's turn. */
struct claims {
	u64 in_spare;
	u64 next;
	u64 owner[DEEPEST]; /* 0 where nothing is noted */
	u64 what[DEEPEST];
};

BPF_PERCPU_ARRAY(claims, struct claims, ALL_CLAIMS);

/* Others look at it, in interrupts and in between. */
#define NOTE(member, value) (*(volatile u64 *)&(member) = (value))

/* Which of a program's spares runs, from 1 on, or 0: put here as each of them is loaded. */
static inline u64 spare_number(void)
{
	u64 answer;

	asm volatile("%0 = 0x5ba4e" : "=r"(answer)); /* SPARE_NUMBER of bpf/compiled.py */
	return answer;
}

static inline struct claims *claims_of(int program, int spare)
{
	int at = program * SPARES + spare - 1;

	return claims.lookup(&at);
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

/* A spare: was none of those before it run for this? */
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
 * Has the program that runs to handle this? A spare has to where none before it did. Asked
 * first of all, also of what will turn out to be of no interest: then what is missed is known.
 * The owner is a task, by its number, or where interrupts come what this is about.
 */
static inline int claim(int program, u64 owner, u64 what)
{
	u64 self = spare_number();
	struct claims *mine = self ? claims_of(program, self) : NULL;

	if (self && !(mine && takes_place(mine, owner, what)))
		return 0;
#pragma unroll
	for (int behind = 1; behind <= SPARES; behind++) {
		struct claims *theirs = behind > self ? claims_of(program, behind) : NULL;

		if (theirs)
			note_handled(theirs, owner, what);
	}
	return 1;
}

/* What was claimed is handled. */
static inline void release(int program)
{
	u64 self = spare_number();
	struct claims *mine = self ? claims_of(program, self) : NULL;

	if (mine)
		NOTE(mine->in_spare, 0);
}
#else
static inline u64 spare_number(void)
{
	return 0;
}

/* Not even looked at. */
#define claim(program, owner, what) 1
#define release(program)
#endif

#endif
