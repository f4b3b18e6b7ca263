/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef MEMTAP_REGS_H
#define MEMTAP_REGS_H

#include <memtap/fields.h>

#define THREAD_PAGES 4 /* THREAD_SIZE: a kernel stack without KASAN */

/* The registers of a task as it was in user space, a struct pt_regs. */
static inline u64 user_regs(u64 task)
{
#if HELPER(task_pt_regs) && !defined(UNTYPED_POINTERS)
	return (u64)bpf_task_pt_regs((struct task_struct *)task);
#else
	/* Before dd6e10fbd9fb nobody tells; they are what a kernel stack begins with. */
	return PEEK(task, task_struct, stack) + (THREAD_PAGES << PAGE_SHIFT) - SIZE(pt_regs);
#endif
}

#endif
