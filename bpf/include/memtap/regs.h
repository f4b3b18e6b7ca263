/* SPDX-License-Identifier: GPL-2.0-only */
/* The registers of a task, as they were in user space. */
#ifndef MEMTAP_REGS_H
#define MEMTAP_REGS_H

#include <memtap/fields.h>

#if defined(__x86_64__)
#define REGS_IP(regs)   FIELD(regs, pt_regs, ip)
#define REGS_SP(regs)   FIELD(regs, pt_regs, sp)
#define REGS_BP(regs)   FIELD(regs, pt_regs, bp)
#define REGS_LINK(regs) 0
#else
#define REGS_IP(regs)   FIELD(regs, pt_regs, pc)
#define REGS_SP(regs)   FIELD(regs, pt_regs, sp)
#define REGS_BP(regs)   FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 29 * sizeof(u64))
#define REGS_LINK(regs) FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 30 * sizeof(u64))
#endif

/* THREAD_SIZE: a kernel stack without KASAN */
#define THREAD_SHIFT (PAGE_SHIFT > 14 ? PAGE_SHIFT : 14)

#if !HELPER(task_pt_regs) || defined(UNTYPED_POINTERS)
/*
 * The registers of a task as they were in user space, a struct pt_regs. Before dd6e10fbd9fb
 * there is no helper; a kernel stack begins with these registers.
 */
static inline u64 user_regs(u64 task)
{
	return PEEK(task, task_struct, stack) + (1 << THREAD_SHIFT) - SIZE(pt_regs);
}
#elif defined(CASTS)
/*
 * How far from the low end of its stack a task's registers are: as far for all tasks. The
 * helper takes 30 ns, so it is asked once.
 */
BPF_ARRAY(regs_place, u64, 1);

static inline u64 user_regs(u64 task)
{
	u64 stack = FIELD(task, task_struct, stack);
	int only = 0;
	u64 *known = regs_place.lookup(&only), place = known ? NOTED(*known) : 0;

	if (!place) {
		place = NUMBER_OF(bpf_task_pt_regs((struct task_struct *)task)) - stack;
		if (known)
			NOTED(*known) = place;
	}
	return CAST(stack + place, pt_regs);
}
#else
static inline u64 user_regs(u64 task)
{
	return (u64)bpf_task_pt_regs((struct task_struct *)task);
}
#endif

#endif
