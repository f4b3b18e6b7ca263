/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel does not run a program on a CPU where it is running already. But an interrupt can
 * come just then, and free hundreds of objects that RCU has kept; and a task can be preempted
 * in the middle of the program for milliseconds: since a46023d5616e in tracepoints, and always
 * in functions. All events on the CPU meanwhile would be missed. So where STANDBYS are asked
 * for, such a program is loaded that many times more. These copies, its standbys, take its
 * place where it is not run. The first standby takes the program's place; the second takes over
 * where neither is run, as a task can be preempted in the first standby, too.
 *
 * A program that handles an event leaves a claim to it for each standby behind it. A standby
 * that is run takes back the claim that was left for it. If it finds none, the event was not
 * handled, and the standby handles it. Where a standby is refused, or not attached yet, its
 * claim stays until the same stack has another one. Only if the next event there is the same
 * one from the same place, and its program is refused, does the standby wrongly take it for
 * handled. Such an event is missed, as is one for which the program and all standbys are
 * refused, and the audit says so.
 *
 * A claim holds the address of the program's arguments, which are on the stack. So it is the
 * same for a program and its standbys, which run one behind the other, and no two tasks or
 * interrupts have the same at one time. A claim from deeper in the same stack is over. Claims
 * are not kept per CPU, as a preempted task may go on elsewhere, but in buckets by stack, so
 * that CPUs rarely meet.
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
#define STACK_BITS 14 /* a stack of this size belongs to one task or interrupt alone */
#define PLACES     1024
#define WAYS       4
#define ALL_CLAIMS (PROGRAMS * STANDBYS * PLACES)

/* What was handled before a standby ran; 0 where there is no claim. */
struct claims {
	u64 place[WAYS];
	u64 what[WAYS];
};

BPF_ARRAY(claims, struct claims, ALL_CLAIMS);

/* Writes in the order of the code: an interrupt can look at it in between. */
#define NOTE(member, value) (*(volatile u64 *)&(member) = (value))

/*
 * Which standby of a program this is, from 1 on; 0 for the program. Filled in as each is
 * loaded.
 */
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

/* Where the arguments are. To the verifier, a pointer that is negated becomes a number. */
static inline u64 arguments_at(void *ctx)
{
	u64 place = (u64)ctx;

	asm volatile("%0 = -%0" : "+r"(place));
	return -place;
}

/* A program that runs with arguments at `place` has left all that is deeper in the stack. */
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
 * Has this program to handle the event? A standby has to where no program before it did. To be
 * asked first of all, also for events that will turn out to be of no interest: then it is known
 * how many are missed.
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

/* The arguments are not even evaluated. */
#define claim(ctx, program, what) 1
#endif

#endif
