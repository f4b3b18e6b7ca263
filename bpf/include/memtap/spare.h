/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel does not run a program on a CPU where it is running already. An interrupt can come
 * just then, and free hundreds of things that RCU has kept; and since tracepoints let other
 * tasks take the CPU (a46023d5616e), as functions always did, one can be put aside in the
 * middle of the program for milliseconds. All that others did meanwhile would be missed. So
 * where SPARES are asked for, such a program is loaded that many times more, and the others,
 * its spares, take its place where it is not run: the first spare its program's, the second
 * theirs where neither is, as a task can be put aside in the first spare, too.
 *
 * Who handles something notes it for each spare behind, and a spare, when it is its turn, takes
 * off again what was noted for it. What it does not find was not handled: so it does that.
 * Where a spare is refused, or not attached yet, what was noted for it stays, until there is
 * something new from the same stack; only if that is the same from the same place, and its
 * program is refused, does the spare take it for handled. That, and what all are refused for,
 * is missed, and said to be.
 *
 * What is noted has the address of the program's arguments, which is the same for those who are
 * run one behind the other, and for no two tasks or interrupts at a time: they lie on the
 * stack. So what was noted deeper in the same stack is over. Notes are not per CPU, as a task
 * may be on another when its spare's turn comes, but in buckets by stack, so that CPUs rarely
 * meet.
 *
 * The program that includes this file has defined PROGRAMS, how many may have spares.
 */
#ifndef MEMTAP_SPARE_H
#define MEMTAP_SPARE_H

#include <memtap/losses.h>

#ifndef SPARES
#define SPARES 0
#endif

#if SPARES
#define STACK_BITS 14 /* what task or interrupt has a stack here has it alone */
#define PLACES     1024
#define WAYS       4
#define ALL_CLAIMS (PROGRAMS * SPARES * PLACES)

/* What was handled before a spare's turn; 0 where nothing is noted. */
struct claims {
	u64 place[WAYS];
	u64 what[WAYS];
};

BPF_ARRAY(claims, struct claims, ALL_CLAIMS);

/* In this order: an interrupt can look at it in between. */
#define NOTE(member, value) (*(volatile u64 *)&(member) = (value))

/* Which of a program's spares runs, from 1 on, or 0: put here as each of them is loaded. */
static inline u64 spare_number(void)
{
	u64 answer;

	asm volatile("%0 = 0x5ba4e" : "=r"(answer)); /* SPARE_NUMBER of bpf/compiled.py */
	return answer;
}

static inline struct claims *claims_of(int program, int spare, u64 place)
{
	u64 bucket = (place >> STACK_BITS) * GOLDEN >> 32 & (PLACES - 1);
	int at = (program * SPARES + spare - 1) * PLACES + bucket;

	return claims.lookup(&at);
}

/* Where the arguments lie. The verifier lets a pointer become a number by its negation. */
static inline u64 arguments_at(void *ctx)
{
	u64 place = (u64)ctx;

	asm volatile("%0 = -%0" : "+r"(place));
	return -place;
}

/* Who runs here with arguments at `place` has left what is deeper in the stack. */
static inline int is_over(u64 noted, u64 place)
{
	return noted <= place && (noted ^ place) >> STACK_BITS == 0;
}

static inline void note_handled(struct claims *claims, u64 place, u64 what)
{
	u64 at = 0;

#pragma unroll
	for (; at < WAYS; at++)
		if (!claims->place[at] || is_over(claims->place[at], place))
			break;
	VERIFIER_FORGET(at);
	at &= WAYS - 1; /* if all are taken the first gives way */
	NOTE(claims->what[at], what);
	NOTE(claims->place[at], place);
}

static inline int was_handled(struct claims *claims, u64 place, u64 what)
{
	int found = 0;

#pragma unroll
	for (int at = 0; at < WAYS; at++) {
		if (is_over(claims->place[at], place)) {
			found |= claims->place[at] == place && claims->what[at] == what;
			NOTE(claims->place[at], 0);
		}
	}
	return found;
}

/*
 * Has the program that runs to handle this? A spare has to where none before it does. Asked
 * first of all, also of what will turn out to be of no interest: then what is missed is known.
 */
static inline int claim(void *ctx, int program, u64 what)
{
	u64 self = spare_number(), place = arguments_at(ctx);

#pragma unroll
	for (int spare = 1; spare <= SPARES; spare++) {
		struct claims *claims = spare < self ? NULL : claims_of(program, spare, place);

		if (claims && spare > self)
			note_handled(claims, place, what);
		else if (claims && was_handled(claims, place, what))
			return 0;
	}
	if (self)
		count(COUNT_CAUGHT, 1);
	return 1;
}
#else
static inline u64 spare_number(void)
{
	return 0;
}

/* Not even looked at. */
#define claim(ctx, program, what) 1
#endif

#endif
