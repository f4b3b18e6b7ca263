/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * malloc: the system calls by which memory comes and goes, told when they return, and page
 * faults (memtap/exceptions.h), which are what memory costs.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <memtap/exception.h>

/* Kinds of events, behind those of faults. Of these `seen` is the protection | flags << 8 of
 * mmap(2), the protection of mprotect(2), the flags of mremap(2), or an advice. */
enum call { BRK = 16, MMAP, MUNMAP, MOVED_FROM, MOVED_TO, MPROTECT, MADVISE };

/* Of a call. */
#define IS_32_BIT       PRESENT /* a 32-bit program made it */
#define TELLS_THRESHOLD WRITE   /* it is known where the C library has malloc's threshold */
#define FAILED          128     /* the kernel refused it */

enum { LANE_CALL = EXCEPTION_LANES, LANES };

struct event {
#include <memtap/exception_members.h>
	u64 length;
	u64 caller_0; /* what stands on the stack: the wrapper's return address is one of these
		       */
	u64 caller_1;
	u64 caller_2;
	u64 request; /* with REQUESTS, bytes that were last asked of malloc */
	u32 request_number;
	u32 padding;
	u64 threshold; /* with TELLS_THRESHOLD: malloc's by then, NEVER if it maps no blocks */
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
	lose(COUNTS_FAULTS(what->kind) || what->kind >= BRK);
}

/* Calls that only give memory back are of no site. */
static inline int gets_memory(u8 kind)
{
	return kind == BRK || kind == MMAP || kind == MOVED_TO || kind == MPROTECT;
}

static inline void called(void *ctx, u64 task, u64 regs, u8 kind, u64 address, u64 length,
			  u32 how, u8 marks)
{
	struct event this = {.address = address, .length = length, .seen = how, .kind = kind};
	struct lane *lane = enter(LANE_CALL);

	if (!lane)
		return;
	this.ip = REGS_IP(regs);
	this.tid = FIELD(task, task_struct, pid);
	this.stack = stack_of(ctx, BPF_F_USER_STACK);
	this.marks = marks;
	tell_threshold(&this);
	note_request(&this);
	if (kind == MMAP && !(marks & IS_32_BIT))
		read_user(&this.caller_0, 3 * sizeof(u64), (void *)REGS_SP(regs));
	if (kind == MMAP && REGS_LINK(regs))
		this.caller_0 = REGS_LINK(regs);
	keep(ctx, lane, task, &this);
	if (gets_memory(kind) && !(marks & IS_32_BIT))
		send_frame(ctx, lane, task, regs);
	leave(lane);
}

/* What a system call is taken for; 0 if it is of no interest. */
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

/* What mmap(2) really maps: whole pages, also of huge ones. */
static inline u64 mapped_bytes(u64 length, u64 flags)
{
	u64 shift = PAGE_SHIFT;

	if (flags & MAP_HUGETLB)
		shift = flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK ?: HUGE_SHIFT;
	return (length + (1ULL << shift) - 1) >> shift << shift;
}

static inline void call_ended(u64 *ctx, u64 regs)
{
	u64 task = (u64)current_task(), is_32 = THREAD_IS_32_BIT(task), result = ctx[1];
	u8 kind = call_of(CALL_NUMBER(regs), is_32);

	if (!kind || !followed(task, FIELD(task, task_struct, tgid)))
		return;
	u64 start = ARGUMENT(0, regs, is_32), length = WHOLE(ARGUMENT(1, regs, is_32));
	u64 third = ARGUMENT(2, regs, is_32), fourth = ARGUMENT(3, regs, is_32);
	u8 marks = (result > ~(u64)LAST_ERROR ? FAILED : 0) | (is_32 ? IS_32_BIT : 0);
	if (kind == BRK)
		called(ctx, task, regs, BRK, WHOLE(result), WHOLE(start), 0, marks);
	else if (kind == MMAP)
		called(ctx, task, regs, MMAP, result,
		       mapped_bytes(ARGUMENT(1, regs, is_32), fourth), third | fourth << 8,
		       marks);
	else
		called(ctx, task, regs, kind, start, length,
		       kind == MOVED_FROM ? fourth : third, marks);
	if (kind == MOVED_FROM)
		called(ctx, task, regs, MOVED_TO, result, WHOLE(third), fourth, marks);
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
