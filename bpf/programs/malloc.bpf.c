/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * malloc: the system calls by which memory comes and goes, seen when they return, and page
 * faults (memtap/exceptions.h), which are what memory costs. enum call and enum call_mark are
 * those of tracers/malloc/probes.py.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <memtap/exception.h>

enum { LANE_CALL = EXCEPTION_LANES, LANES };

/*
 * In the event of a call, `address` is where its range begins; of brk(2), the break after it.
 */
struct event {
#include <memtap/exception_members.h>
	u64 length;   /* of a call, in bytes */
	u64 caller_0; /* from the stack: the wrapper's return address is one of these */
	u64 caller_1;
	u64 caller_2;
	u64 request;   /* with REQUESTS, the bytes last asked of malloc */
	u64 threshold; /* with TELLS_THRESHOLD: malloc's by now, NEVER if it maps no blocks */
	u32 request_number;
	u32 prot;  /* of mmap(2) and mprotect(2) */
	u32 flags; /* of mmap(2) and mremap(2) */
	u16 advice;
	u16 call_marks;
};

/* Every fault has an event; there are no runs. */
struct run {
	u32 epoch;
};

#include <memtap/fields.h>
#include <memtap/calls.h>
#include <memtap/exceptions.h>
#include <memtap/outcomes.h>
#include <memtap/spaces.h>
#include <memtap/watched.h>
#include <memtap/frames.h>
#include <memtap/mallocs.h>
#include <memtap/thresholds.h>

#define MAP_HUGETLB    0x40000
#define MAP_HUGE_SHIFT 26
#define MAP_HUGE_MASK  63

#ifndef HUGE_SHIFT
#define HUGE_SHIFT 21
#endif

/* Memory that comes and goes cannot be added up, as faults can. */
static inline void miss(struct event *what)
{
	/* Of the two events of an mremap(2) the second one counts. */
	lose(COUNTS_FAULTS(what->kind) || (what->kind >= BRK && what->kind != MOVED_FROM));
}

/* Calls that only give memory back have no site. */
static inline int gets_memory(u8 kind)
{
	return kind == BRK || kind == MMAP || kind == MOVED_TO || kind == MPROTECT;
}

static inline void called(void *ctx, u64 task, u64 regs, struct event *call)
{
	struct lane *lane = enter(LANE_CALL);
	int is_32 = call->call_marks & IS_32_BIT;

	if (!lane)
		return;
	call->ip = REGS_IP(regs);
	call->tid = FIELD(task, task_struct, pid);
	call->stack = stack_of(ctx, BPF_F_USER_STACK);
	tell_threshold(call);
	note_request(call);
	if (call->kind == MMAP && !is_32)
		read_user(&call->caller_0, 3 * sizeof(u64), (void *)REGS_SP(regs));
	if (call->kind == MMAP && REGS_LINK(regs))
		call->caller_0 = REGS_LINK(regs);
	keep(ctx, lane, task, call);
	if (gets_memory(call->kind) && !is_32)
		send_frame(ctx, lane, task, regs);
	leave(lane);
}

/* The kind of a system call; 0 if it is of no interest. */
static inline u8 call_of(u64 number, u64 is_32)
{
#if defined(__x86_64__)
	if (is_32)
		return number == NR_32_BRK        ? BRK
		       : number == NR_32_MMAP2    ? MMAP
		       : number == NR_32_MUNMAP   ? MUNMAP
		       : number == NR_32_MREMAP   ? MOVED_FROM
		       : number == NR_32_MPROTECT ? MPROTECT
		       : number == NR_32_MADVISE  ? MADVISE
						  : 0;
#endif
	return number == NR_BRK        ? BRK
	       : number == NR_MMAP     ? MMAP
	       : number == NR_MUNMAP   ? MUNMAP
	       : number == NR_MREMAP   ? MOVED_FROM
	       : number == NR_MPROTECT ? MPROTECT
	       : number == NR_MADVISE  ? MADVISE
				       : 0;
}

/* How much mmap(2) really maps: whole pages, or whole huge pages. */
static inline u64 mapped_bytes(u64 length, u64 flags)
{
	u64 shift = PAGE_SHIFT;

	if (flags & MAP_HUGETLB)
		shift = flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK ?: HUGE_SHIFT;
	return (length + (1ULL << shift) - 1) >> shift << shift;
}

/* A brk(2) that fails leaves the break where it was; one with 0 only asks where it is. */
static inline u16 break_marks(u64 wanted, u64 result)
{
	if (!wanted)
		return ASKS;
	return WHOLE(wanted) != WHOLE(result) ? REFUSED : 0;
}

static inline void call_ended(u64 *ctx, u64 regs)
{
	u64 task = (u64)current_task(), is_32 = THREAD_IS_32_BIT(task), result = ctx[1];
	struct event call = {.kind = call_of(CALL_NUMBER(regs), is_32)};

	if (!call.kind || !followed(task, FIELD(task, task_struct, tgid)))
		return;
	u64 first = ARGUMENT(0, regs, is_32), second = ARGUMENT(1, regs, is_32);
	u64 third = ARGUMENT(2, regs, is_32), fourth = ARGUMENT(3, regs, is_32);

	call.address = first;
	call.length = WHOLE(second);
	call.call_marks = result > ~(u64)LAST_ERROR ? REFUSED : 0;
	if (call.kind == BRK) {
		call.address = WHOLE(result);
		call.length = 0;
		call.call_marks = break_marks(first, result);
	} else if (call.kind == MMAP) {
		call.address = result;
		call.length = mapped_bytes(second, fourth);
		call.prot = third;
		call.flags = fourth;
	} else if (call.kind == MOVED_FROM) {
		call.flags = fourth;
	} else if (call.kind == MPROTECT) {
		call.prot = third;
	} else {
		call.advice = call.kind == MADVISE ? third : 0;
	}
	call.call_marks |= is_32 ? IS_32_BIT : 0;
	called(ctx, task, regs, &call);
	if (call.kind == MOVED_FROM) {
		call.kind = MOVED_TO;
		call.address = result;
		call.length = WHOLE(third);
		called(ctx, task, regs, &call);
	}
}

/* tp_btf/sys_exit(regs, ret): by then the arguments are still in the registers. */
int on_call(u64 *ctx)
{
	u64 regs = ctx[0];
	u64 what = (u64)CALL_NUMBER(regs) << 52 ^ CALL_ARGUMENT_0(regs) ^ ctx[1];

	if (claim(ctx, LANE_CALL, what))
		call_ended(ctx, regs);
	return 0;
}
