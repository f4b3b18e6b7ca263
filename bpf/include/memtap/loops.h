/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Loops whose end the verifier cannot see. OR_BREAK begins each round, and ends the loop after
 * some millions of rounds, by an instruction that is made for that (may_goto, 011832b97b31).
 * Where the kernel has no such instruction, MOST_ROUNDS(n) is a number of rounds small enough
 * for the verifier to go through them all.
 */
#ifndef MEMTAP_LOOPS_H
#define MEMTAP_LOOPS_H

#if HAVE(bpf_verifier_state, may_goto_depth)
#define LONG_LOOPS     1
#define MOST_ROUNDS(n) (~0ULL)
#define OR_BREAK                                                                               \
	{                                                                                      \
		__label__ enough, goes_on;                                                     \
		asm volatile goto("1: .byte 0xe5; .byte 0;"                                    \
				  ".long ((%l[enough] - 1b - 8) / 8) & 0xffff; .short 0"       \
				  :                                                            \
				  :                                                            \
				  :                                                            \
				  : enough);                                                   \
		goto goes_on;                                                                  \
	enough:                                                                                \
		break;                                                                         \
	goes_on:;                                                                              \
	}
#else
#define LONG_LOOPS     0
#define MOST_ROUNDS(n) (n)
#define OR_BREAK
#endif

/*
 * Begins a loop that ends by itself within n rounds. The verifier must know no value of what is
 * carried from round to round (see NOTED() of memtap/fields.h). So where loops can be long it
 * looks at one round, and elsewhere at each of n.
 */
#define AT_MOST(n) _Pragma("clang loop unroll(disable)") ROUNDS_OF(n)

/*
 * The same for rounds that branch a lot. Where loops are short, each round has instructions of
 * its own. At the instructions of a loop, the verifier keeps few of the states that it could
 * meet again (2589726d12a1), and so goes through most of a round once more for each branch in
 * it.
 */
#if LONG_LOOPS
#define AT_MOST_BRANCHING(n) AT_MOST(n)
#else
#define AT_MOST_BRANCHING(n) _Pragma("clang loop unroll(full)") ROUNDS_OF(n)
#endif

#define ROUNDS_OF(n) for (u64 round = 0; LONG_LOOPS || round < (n); round++)

#endif
