/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel does not run a program on a CPU where it is running already. But an interrupt can
 * come just then, and free hundreds of objects that RCU has kept; and a task can be preempted
 * in the middle of the program for milliseconds: since a46023d5616e in tracepoints, and always
 * in functions. All that others did meanwhile would be missed. So where STANDBYS are asked for,
 * such a program is loaded that many times more. These others, its standbys, take its place
 * where it is not run: the first standby takes the program's; the second theirs where neither
 * is run, as a task can be preempted in the first standby, too.
 *
 * A program that handles an event claims it for each standby behind it. A standby, when it is
 * run, takes back what was claimed for it; what it does not find was not handled, so it handles
 * that. Where a standby is refused, or not attached yet, the claim for it stays until the same
 * stack has another. Only if that is the same event from the same place, and its program is
 * refused, does the standby take it for handled. That, and what all are refused for, is missed,
 * and the audit says so.
 *
 * A claim has the address of the program's arguments. It is the same for all that run one
 * behind the other, and for no two tasks or interrupts at a time, as the arguments lie on the
 * stack. So a claim from deeper in the same stack is over. Claims are not kept per CPU, as a
 * preempted task may go on elsewhere, but in buckets by stack, so that CPUs rarely meet.
 *
 * The program that includes this file has defined PROGRAMS, how many may have standbys.
 */
#ifndef MEMTAP_STANDBY_H
#define MEMTAP_STANDBY_H

#include <memtap/losses.h>

#ifndef STANDBYS
#define STANDBYS 0
#endif

#if STANDBYS
#define STACK_BITS 14 /* what task or interrupt has a stack here has it alone */
#define PLACES     1024
#define WAYS       4
#define ALL_CLAIMS (PROGRAMS * STANDBYS * PLACES)

/* What was handled before a standby ran; 0 where there is no claim. */
struct claims {
	u64 place[WAYS];
	u64 what[WAYS];
};

BPF_ARRAY(claims, struct claims, ALL_CLAIMS);

/* In this order: an interrupt can look at it in between. */
#define NOTE(member, value) (*(volatile u64 *)&(member) = (value))

/* Which of a program's standbys runs, from 1 on, or 0: put here as each of them is loaded. */
static inline u64 standby_number(void)
{
	u64 answer;

	asm volatile("%0 = 0x5ba4e" : "=r"(answer)); /* STANDBY_NUMBER of bpf/compiled.py */
	return answer;
}

static inline struct claims *claims_of(int program, int standby, u64 place)
{
	u64 bucket = (place >> STACK_BITS) * GOLDEN >> 32 & (PLACES - 1);
	int at = (program * STANDBYS + standby - 1) * PLACES + bucket;

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
 * Has the program that runs to handle this? A standby has to where none before it does. Asked
 * first of all, also of what will turn out to be of no interest: then what is missed is known.
 */
static inline int claim(void *ctx, int program, u64 what)
{
	u64 self = standby_number(), place = arguments_at(ctx);

#pragma unroll
	for (int standby = 1; standby <= STANDBYS; standby++) {
		struct claims *claims =
			standby < self ? NULL : claims_of(program, standby, place);

		if (claims && standby > self)
			note_handled(claims, place, what);
		else if (claims && was_handled(claims, place, what))
			return 0;
	}
	if (self)
		count(COUNT_CAUGHT, 1);
	return 1;
}
#else
static inline u64 standby_number(void)
{
	return 0;
}

/* Not even looked at. */
#define claim(ctx, program, what) 1
#endif

#endif
