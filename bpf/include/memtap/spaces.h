/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What perf's side-band events leave out of how address spaces change: which one a new process
 * lives in, where the stacks of threads are, and what mremap(2) moves.
 */
#ifndef MEMTAP_SPACES_H
#define MEMTAP_SPACES_H

#include <memtap/calls.h>
#include <memtap/maples.h>
#include <memtap/outcomes.h>

#define CLONE_VM             0x100
#define CLONE_CHILD_CLEARTID 0x200000

#define MREMAP_FIXED         2
#define MREMAP_MOVES         6 /* that, and MREMAP_DONTUNMAP */
#define WHOLE(bytes)         (((bytes) + (1ULL << PAGE_SHIFT) - 1) >> PAGE_SHIFT << PAGE_SHIFT)

/*
 * Does this new process share its maker's address space, as after vfork() or posix_spawn()? The
 * filter does not follow it yet, so it is the maker that is asked about.
 */
static inline int shares_space(u64 task, u64 maker, u64 flags)
{
	return flags & CLONE_VM && FIELD(task, task_struct, mm) &&
	       concerned(maker, FIELD(maker, task_struct, tgid));
}

/*
 * tp_btf/task_newtask(task, clone_flags): a new thread stands at the top of its stack. As for
 * new processes, the side-band event is the same whether or not they have an address space of
 * their own.
 */
int on_thread(u64 *ctx)
{
	u64 task = ctx[0], maker = (u64)current_task();
	u32 tgid = FIELD(task, task_struct, tgid), tid = FIELD(task, task_struct, pid);

	if (!claim(ctx, LANE_THREAD, tid))
		return 0;
	if (tgid == tid && shares_space(task, maker, ctx[1]))
		note(ctx, LANE_THREAD, task, SHARES, FIELD(maker, task_struct, tgid), 0);
	else if (tgid != tid && concerned(task, tgid))
		note(ctx, LANE_THREAD, task, THREAD, REGS_SP(user_regs(task)),
		     ctx[1] & CLONE_CHILD_CLEARTID ? JOINABLE : 0);
	return 0;
}

/*
 * When several mappings are moved at once there can be gaps between them, and what was mapped
 * there before stays. So the event says of which page of a file, if any, the mapping is: what
 * is left of an old mapping is of something else.
 */
static inline void describe_moved(struct event *moved, u64 vma)
{
#if HAVE(vma_remap_struct, vmi_needs_invalidate) /* d23cb648e365 */
	u64 begin = PEEK(vma, vm_area_struct, vm_start);

	moved->marks = OF_ONE;
	if (!PEEK(vma, vm_area_struct, vm_file))
		return;
	moved->marks |= OF_FILE;
	moved->tid =
		PEEK(vma, vm_area_struct, vm_pgoff) + ((moved->address - begin) >> PAGE_SHIFT);
#endif
}

/*
 * What mremap(2) puts into the address space of the task that calls it: the kernel has no
 * side-band event for that. A mapping may have been merged with its neighbours. Several
 * mappings may be moved to a given address (d23cb648e365), each as far from the first as
 * before. Whatever else is written then is the rest of mappings that were split, at the new
 * place and at the old.
 */
static inline int moved(void *ctx, u64 task, u64 start, u64 end, u64 vma)
{
	u64 regs = user_regs(task), is_32 = THREAD_IS_32_BIT(task);
	u64 from = ARGUMENT(0, regs, is_32), to = ARGUMENT(4, regs, is_32);
	u64 before = WHOLE(ARGUMENT(1, regs, is_32)), bytes = WHOLE(ARGUMENT(2, regs, is_32));
	u64 flags = ARGUMENT(3, regs, is_32);
	struct event this = {.address = start, .ip = from, .kind = MOVED};

	if (flags & MREMAP_FIXED) {
		this.address = start < to ? to : start;
		this.ip = from + this.address - to;
		end = end < to + bytes ? end : to + bytes;
	}
	/* What does not grow stays where it is, and may be several mappings. */
	if (this.address >= end || (!(flags & MREMAP_MOVES) && before >= bytes))
		return 0;
	struct lane *lane = enter(LANE_MOVED);
	if (!lane)
		return 0;
	this.seen = (end - this.address) >> PAGE_SHIFT;
	if (flags & MREMAP_FIXED)
		describe_moved(&this, vma);
	keep(ctx, lane, task, &this);
	leave(lane);
	return 0;
}

static inline int in_mremap(u64 task)
{
	u64 number = CALL_NUMBER(user_regs(task));

#if defined(__x86_64__)
	if (THREAD_IS_32_BIT(task))
		return number == NR_32_MREMAP;
#endif
	return number == NR_MREMAP;
}

#if HAVE(mm_struct, mm_mt)
/* tp_btf/ma_write(function, mas, pivot, entry): every write into a maple tree. */
int on_mapping(u64 *ctx)
{
	u64 task = (u64)current_task(), mas = ctx[1], vma = ctx[3];

	if (!claim(ctx, LANE_MOVED, vma))
		return 0;
	if (!writes_mapping(task, mas, vma) || !in_mremap(task) ||
	    !concerned(task, FIELD(task, task_struct, tgid)))
		return 0;
	return moved(ctx, task, FIELD(mas, ma_state, index), FIELD(mas, ma_state, last) + 1,
		     vma);
}
#else
/* tp_btf/sys_exit(regs, ret): before d4af56c5c7c6 mappings are kept in another way. */
int on_mapping(u64 *ctx)
{
	u64 task = (u64)current_task(), start = ctx[1];

	if (!claim(ctx, LANE_MOVED, start) || start > ~(u64)LAST_ERROR || !in_mremap(task))
		return 0;
	if (!concerned(task, FIELD(task, task_struct, tgid)))
		return 0;
	u64 bytes = ARGUMENT(2, user_regs(task), THREAD_IS_32_BIT(task));
	return moved(ctx, task, start, start + WHOLE(bytes), 0);
}
#endif

#endif
