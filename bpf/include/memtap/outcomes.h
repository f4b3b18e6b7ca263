/* SPDX-License-Identifier: GPL-2.0-only */
/* What became of exceptions: whether they were completed, what they had to wait for. */
#ifndef MEMTAP_OUTCOMES_H
#define MEMTAP_OUTCOMES_H

#include <memtap/calls.h>
#include <memtap/exceptions.h>

#define SIGBUS             7
#define SIGSEGV            11
#define SEGV_MAPERR        1
#define PF_MEMALLOC        0x800 /* of task->flags: it reclaims memory, of any process */
#define TASK_INTERRUPTIBLE 1
#define IN_FAULT           (~0U) /* the "number" of a call, where the task is here by an exception */
#if HAVE(task_struct, __state)
#define STATE(task) FIELD(task, task_struct, __state)
#else /* before 2f064a59a11f */
#define STATE(task) FIELD(task, task_struct, state)
#endif

/*
 * Where the exception has an event, that event has the stack, and was counted if it was
 * memtap's own.
 */
#ifdef ENDS_ALONE
#define COMPLETED_STACK(ctx) stack_of(ctx, BPF_F_USER_STACK)
#define ended_for            followed
#else
#define COMPLETED_STACK(ctx) NO_STACK
#define ended_for            concerned
#endif

/* Sends a fault that was completed: the task has counted it already. */
static inline int completed(u64 *ctx, int number, u8 kind)
{
	u64 task = (u64)current_task();

	if (!ended_for(task, FIELD(task, task_struct, tgid)))
		return 0;
	struct event this = {.address = CTX_ADDRESS(ctx), .ip = CTX_IP(ctx), .kind = kind};
	this.stack = COMPLETED_STACK(ctx);
	u64 sp = CTX_IS_USER(ctx) ? CTX_SP(ctx) : REGS_SP(user_regs(task));

	this.number = faults_of(task) - 1;
	this.marks = place_of(task, this.address, sp) | (CTX_IS_USER(ctx) ? 0 : KERNEL);
	return tell(ctx, number, task, &this);
}

/* software/minor-faults, every one */
int on_minor(u64 *ctx)
{
	return completed(ctx, LANE_MINOR, MINOR);
}

/* software/major-faults, every one */
int on_major(u64 *ctx)
{
	return completed(ctx, LANE_MAJOR, MAJOR);
}

/* Sends something rare about the exception that a task is in, or about the task. */
static inline int note(void *ctx, int number, u64 task, u8 kind, u64 address, u8 marks)
{
	u64 regs = user_regs(task);
	struct event this = {.address = address, .ip = REGS_IP(regs), .kind = kind};

	this.stack = NO_STACK;
	this.number = faults_of(task);
	this.marks = marks | place_of(task, address, REGS_SP(regs));
	return tell(ctx, number, task, &this);
}

/* tp_btf/signal_generate(sig, info, task, group, result) */
int on_signal(u64 *ctx)
{
	u64 task = (u64)current_task(), info = ctx[1];

	if ((u32)ctx[0] != SIGSEGV && (u32)ctx[0] != SIGBUS)
		return 0;
	/* Only signals of the kernel itself, whose codes are above 0, to the task that runs. */
	s32 code = PEEK(info, kernel_siginfo, si_code); /* SEND_SIG_PRIV is a number */
	if (ctx[2] != task || code <= 0)
		return 0;
	if (!ended_for(task, FIELD(task, task_struct, tgid)))
		return 0;
	u64 address = PEEK(info, kernel_siginfo, _sifields___sigfault___addr);
	u8 nothing = (u32)ctx[0] == SIGSEGV && code == SEGV_MAPERR ? UNMAPPED : 0;
	return note(ctx, LANE_BAD, task, BAD, address, nothing);
}

/* tp_btf/rss_stat(mm, member) */
int on_rss(u64 *ctx)
{
	u64 task = (u64)current_task();

	if ((u32)ctx[1] != MM_SWAPENTS || FIELD(task, task_struct, flags) & PF_MEMALLOC)
		return 0;
	if (!concerned(task, FIELD(task, task_struct, tgid)))
		return 0;
	return note(ctx, LANE_RSS, task, SWAPPED, 0, 0);
}

/* Has this task, which gets its CPU back, waited for I/O of its own accord? */
static inline int has_waited(u64 task)
{
	return FLAG(task, task_struct, in_iowait) && FIELD(task, task_struct, mm) &&
	       concerned(task, FIELD(task, task_struct, tgid));
}

/* Does this task, which leaves its CPU, sleep in an exception so that a signal can wake it? */
static inline int sleeps_in_fault(u64 task)
{
	return STATE(task) & TASK_INTERRUPTIBLE && FIELD(task, task_struct, mm) &&
	       (u32)CALL_NUMBER(user_regs(task)) == IN_FAULT &&
	       concerned(task, FIELD(task, task_struct, tgid));
}

/*
 * A fault sleeps like this in handle_userfault(), where it waits for the handler. Apart from
 * that, it does so only in some file systems (FUSE), and userfaultfd(2) cannot watch their
 * files.
 */
static inline void tell_sleep(void *ctx, u64 task)
{
	struct event this = {.kind = SLEPT, .stack = NO_STACK, .number = faults_of(task)};

	tell(ctx, LANE_WAIT, task, &this);
}

/*
 * tp_btf/sched_switch(preempt, prev, next): a fault calls io_schedule() to wait for a page that
 * other tasks are reading, or that is being written. Of several waits, the last one shows when
 * the waiting was over. Waits of a system call belong to no exception, and change nothing.
 */
int on_switch(u64 *ctx)
{
	u64 task = ctx[2];
	struct event this = {.kind = WAITED, .stack = NO_STACK};

	if (sleeps_in_fault(ctx[1]))
		tell_sleep(ctx, ctx[1]);
	if (!has_waited(task))
		return 0;
	struct lane *lane = enter(LANE_WAIT);
	if (!lane)
		return 0;
	struct event *last = last_of(lane);
	this.tid = FIELD(task, task_struct, pid);
	this.number = faults_of(task);
	this.seen = seen_of(task);
	if (last && last->kind == WAITED && last->tid == this.tid &&
	    last->number == this.number)
		lane->batch.head.used--;
	keep(ctx, lane, task, &this);
	end_runs(WAITED);
	leave(lane);
	return 0;
}

#endif
