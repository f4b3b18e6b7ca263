/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page faults: each exception as it is raised.
 *
 * A task counts its completed faults itself (min_flt, maj_flt). Each exception is sent with
 * that number, so user space sees whether the exception before it was completed. No probe is
 * needed where a fault ends, which would cost more than all the rest. Only what is rare, or
 * asked for, has an event of its own, which refers to the exception by the same number.
 * docs/faults.md has the rules.
 *
 * The program that includes this file has defined `struct event`, with the members of
 * memtap/exception_members.h, LANES, and miss().
 */
#ifndef MEMTAP_EXCEPTIONS_H
#define MEMTAP_EXCEPTIONS_H

#include <memtap/exception.h>
#include <memtap/batch.h>
#include <memtap/filter.h>
#include <memtap/perf_context.h>
#include <memtap/regs.h>
#include <memtap/rss.h>
#include <memtap/stacks.h>

#define ERROR_BITS  (PRESENT | WRITE)
#define FAULT_WRITE 0x01 /* FAULT_FLAG_WRITE, and so on */
#define FAULT_TRIED 0x20
#define FAULT_USER  0x40
#define RED_BYTES   65536     /* code may touch memory this far below its stack pointer */
#define STACK_BYTES (8 << 20) /* and a stack reaches no further above it */
#define ANON_BITS   20        /* of `seen` */
#define ANON_MASK   ((1U << ANON_BITS) - 1)
#define SWITCH_MASK 15
#define HINT_SHIFT  4 /* above those */
#define LONGEST     0xffff
#define AFTER_WAIT  512 /* pages of the longest readahead that is usual */

/* A lane's state: space_of() at its last exception; how many of the next ones join no run. */
enum { SPACE, ALONE };

static inline u16 faults_of(u64 task)
{
	return FIELD(task, task_struct, min_flt) + FIELD(task, task_struct, maj_flt);
}

/* Local and remote pages that task_numa_fault() has counted for NUMA hints. */
static inline u32 hints_of(u64 task)
{
#if HAVE(task_struct, numa_faults_locality)
	return FIELD_AS(u64, task, OFFSET(task_struct, numa_faults_locality)) +
	       FIELD_AS(u64, task, OFFSET(task_struct, numa_faults_locality) + 8);
#else
	return 0;
#endif
}

/*
 * What must not change in the task during a sequential run: how often it left its CPU (so that
 * only the run's last exception can have waited), and its NUMA hints.
 */
static inline u32 steady_of(u64 task)
{
	u32 switches = FIELD(task, task_struct, nvcsw) + FIELD(task, task_struct, nivcsw);

	return (switches & SWITCH_MASK) | (u8)hints_of(task) << HINT_SHIFT;
}

/* Right to some dozen pages: it leaves out what each CPU has not yet added to the sum. */
static inline u32 anon_of(u64 task)
{
	u64 mm = FIELD(task, task_struct, mm);

#if HAVE(mm_rss_stat, count) /* an array: the verifier of 6.1 gives it no type */
	return PEEK_AS(u64, mm, RSS_OFFSET(MM_ANONPAGES));
#else
	return FIELD_AS(u64, mm, RSS_OFFSET(MM_ANONPAGES));
#endif
}

/* Anon pages of the process so far, and in the bits above them steady_of(). */
static inline u32 seen_of(u64 task)
{
	return (anon_of(task) & ANON_MASK) | steady_of(task) << ANON_BITS;
}

/* Where an address lies, so far as the stack pointer and the borders of the heap show it. */
static inline u8 place_of(u64 task, u64 address, u64 sp)
{
	u64 mm = FIELD(task, task_struct, mm);
	u8 marks = 0;

	if (address + RED_BYTES >= sp && address < sp + STACK_BYTES)
		marks |= STACK;
	if (address >= FIELD(mm, mm_struct, start_brk) && address < FIELD(mm, mm_struct, brk))
		marks |= HEAP;
	return marks;
}

/*
 * A number that changes whenever the process maps or unmaps something; 0 where the kernel has
 * none (before 5e31275cc997).
 */
static inline u64 space_of(u64 task)
{
#if HAVE(mm_struct, mm_lock_seq)
	u64 mm = FIELD(task, task_struct, mm);

	return 1ULL << 32 | (u32)FIELD_AS(u32, mm, OFFSET(mm_struct, mm_lock_seq));
#else
	return 0;
#endif
}

/* Which kinds of events count faults. Of the other kinds, only MAJOR is kept apart. */
#ifdef ENDS_ALONE
#define COUNTS_FAULTS(kind) ((kind) == MINOR || (kind) == MAJOR)
#else
#define COUNTS_FAULTS(kind) ((kind) == RAISED)
#endif

/* Takes an event that no batch has room for. */
static inline void miss(struct event *what);

static inline void keep(void *ctx, struct lane *lane, u64 task, struct event *what)
{
	struct event *event = append(ctx, lane);

	what->tgid = FIELD(task, task_struct, tgid);
	if (!event) {
		miss(what);
		return;
	}
	what->dt_ns = event->dt_ns;
	what->count = 1;
	*event = *what;
}

/* Does this exception continue the sequential run that `last` stands for? */
static inline int goes_on(struct event *last, u64 task, struct event *this)
{
	return last->tid == this->tid && last->ip == this->ip &&
	       last->address + ((u64)last->count << PAGE_SHIFT) == this->address &&
	       (u16)(last->number + last->count) == this->number &&
	       last->marks == this->marks && last->stack == this->stack &&
	       last->seen >> ANON_BITS == steady_of(task) && last->count < LONGEST;
}

/*
 * An exception. A task that touches memory in order faults at one instruction, page after page.
 * As long as nothing is mapped meanwhile, such a sequential run is one event and reads the
 * clock once: reading it costs more than the rest of this function. Of a run, only the last
 * exception may not have been completed.
 */
static inline int raised(void *ctx, u64 task, u64 address, u64 regs, u8 marks)
{
	u64 space = space_of(task);
	u64 sp = REGS_SP(marks & KERNEL ? user_regs(task) : regs);
	struct event this = {.address = address, .ip = REGS_IP(regs), .kind = RAISED};
	struct lane *lane = enter(marks & KERNEL ? LANE_KERNEL : LANE_USER);

	if (!lane)
		return 0;
	this.tid = FIELD(task, task_struct, pid);
	this.number = faults_of(task);
	this.stack = stack_of(ctx, BPF_F_USER_STACK);
	this.marks = marks | place_of(task, address, sp);
	struct event *last = last_of(lane);
	int alone = lane->state[ALONE] > 0;
	if (!alone && last && space && lane->state[SPACE] == space &&
	    goes_on(last, task, &this)) {
		last->count++;
	} else {
		this.seen = seen_of(task);
		keep(ctx, lane, task, &this);
	}
	lane->state[ALONE] -= alone;
	lane->state[SPACE] = space;
	leave(lane);
	return 0;
}

/*
 * Ends the sequential run, so that an event about a task's last exception is not taken to be
 * about one that follows. After an exception that waited for I/O others are likely to wait, and
 * each is to be timed.
 */
static inline void end_run(int number, u8 kind)
{
	struct lane *lane = lane_of(number);
	u64 alone = kind == MAJOR || kind == WAITED ? AFTER_WAIT : 1;

	if (lane && lane->state[ALONE] < alone)
		lane->state[ALONE] = alone;
}

static inline void end_runs(u8 kind)
{
#pragma unroll
	for (int lanes = 0; lanes < ALL_LANES; lanes += LANES) {
		end_run(lanes + LANE_USER, kind);
		end_run(lanes + LANE_KERNEL, kind);
	}
}

/* Sends an event about the exception at which the task had completed `number` faults. */
static inline int tell(void *ctx, int lane_number, u64 task, struct event *what)
{
	struct lane *lane = enter(lane_number);

	if (!lane)
		return 0;
	what->tid = FIELD(task, task_struct, pid);
	what->seen = seen_of(task);
	keep(ctx, lane, task, what);
	end_runs(what->kind);
	leave(lane);
	return 0;
}

/* tp_btf/page_fault_user(address, regs, error_code) */
int on_user_fault(u64 *ctx)
{
	u64 task = (u64)current_task();

	if (!followed(task, FIELD(task, task_struct, tgid)))
		return 0;
	return raised(ctx, task, ctx[0], ctx[1], ctx[2] & ERROR_BITS);
}

/* tp_btf/page_fault_kernel(address, regs, error_code) */
int on_kernel_fault(u64 *ctx)
{
	u64 task = (u64)current_task();

	if (!followed(task, FIELD(task, task_struct, tgid)))
		return 0;
	/* Leaves out the kernel's own memory, and a copy that gives up instead of waiting. */
	if (ctx[0] >> 63 || FIELD(task, task_struct, pagefault_disabled))
		return 0;
	return raised(ctx, task, ctx[0], ctx[1], KERNEL | (ctx[2] & ERROR_BITS));
}

/*
 * An exception for which the kernel has found the mapping. The kernel comes here again after it
 * waited, and also for pages that it touches itself (bce617edecad): these have no registers.
 */
static inline int handled(void *ctx, u64 address, u64 flags, u64 regs)
{
	u64 task = (u64)current_task();
	u8 write = flags & FAULT_WRITE ? WRITE : 0;

	if (!regs || flags & FAULT_TRIED || !followed(task, FIELD(task, task_struct, tgid)))
		return 0;
	if (flags & FAULT_USER)
		return raised(ctx, task, address, regs, write);
	return raised(ctx, task, address, regs, write | KERNEL);
}

#ifdef HANDLED_BY_KPROBE
/* kprobe/handle_mm_fault(vma, address, flags, regs) */
int on_handled(u64 *ctx)
{
	return handled(ctx, CTX_ARGUMENT_2(ctx), CTX_ARGUMENT_3(ctx), CTX_ARGUMENT_4(ctx));
}
#else
/* fentry/handle_mm_fault, likewise */
int on_handled(u64 *ctx)
{
	if (claim(ctx, LANE_USER, ctx[1]))
		handled(ctx, ctx[1], ctx[2], ctx[3]);
	return 0;
}
#endif

#endif
