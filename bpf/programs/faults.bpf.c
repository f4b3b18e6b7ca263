/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page faults: each exception as it is raised, and what became of some of them; with CALLS also
 * the system calls by which memory comes and goes.
 *
 * A task counts its completed faults itself (min_flt, maj_flt). With each exception goes that
 * number, so user space sees whether the one before was completed, and no probe is needed where
 * a fault ends: that would cost more than all the rest. Only what is rare, or asked for, has an
 * event of its own, which names the exception by the same number. docs/faults.md tells the
 * rules.
 */
enum kind {
	RAISED = 1, /* an exception */
	MINOR,      /* it was completed, as the kernel itself decided */
	MAJOR,
	BAD,     /* it could not be: the task gets a SIGSEGV or SIGBUS */
	SWAPPED, /* it takes an entry out of swap */
	THREAD,  /* not of an exception: a thread begins, with its stack's top at `address` */
	WAITED,  /* it had to wait for I/O, until then */
	MOVED,   /* mremap(2) maps `seen` pages at `address`: what was at `ip` before */
	SHARES,  /* not of an exception: a process begins, in the address space of process
		  * `address`
		  */
};

/* With CALLS: system calls that get or give memory, told when they return. */
enum call { BRK = 16, MMAP, MUNMAP, MOVED_FROM, MOVED_TO, MPROTECT, MADVISE };

enum mark {
	PRESENT = 1,   /* of the error code, PF_PROT: the page was there and did not allow it */
	WRITE = 2,     /* the same, PF_WRITE */
	KERNEL = 4,    /* taken in the kernel: a system call touched memory of the process */
	STACK = 8,     /* near the stack pointer, and above it */
	HEAP = 16,     /* below the program break, and above where it began */
	UNMAPPED = 32, /* of BAD: nothing is mapped there (SEGV_MAPERR) */
	UNTIMED = 64,  /* set in user space: it was raised later than its event says */
	FAILED = 128,  /* of a call: the kernel refused it */
};

/* Of THREAD: the kernel tells the process of its end, as the C libraries want it. */
#define JOINABLE        PRESENT

/* Of a call: a 32-bit program made it. */
#define IS_32_BIT       PRESENT

/* Of a call: it is known where the C library has malloc's threshold. */
#define TELLS_THRESHOLD WRITE

/* A lane's state: the address space at its last exception; how many to come join no streak. */
enum { SPACE, ALONE };

enum {
	LANE_USER,
	LANE_KERNEL,
	LANE_MINOR,
	LANE_MAJOR,
	LANE_BAD,
	LANE_RSS,
	LANE_THREAD,
	LANE_MOVED,
	LANE_WAIT,
	LANE_CALL,
	LANES
};

struct event {
	u64 address;
	u64 ip;
	u32 dt_ns; /* since the base of the batch; that of the first of a streak */
	u32 tgid;
	u32 tid;
	u32 seen;  /* so far: 20 bits of anon pages of the process, 4 of how often the task left
		    * its CPU, 8 of its NUMA hints; of a call: prot | flags << 8, the
		    * protection, or the advice */
	u16 count; /* of RAISED: a streak of so many, each a page above the one before */
	u16 stack; /* with STACKS: its number in `stacks`, or IN_MORE and that in `more_stacks`
		    */
	u16 number; /* low bits of how many faults the task had completed before this */
	u8 kind;    /* or a call */
	u8 marks;
#ifdef CALLS
	u64 length;
	u64 caller_0; /* what stands on the stack: the wrapper's return address is one of these
		       */
	u64 caller_1;
	u64 caller_2;
	u64 request; /* with REQUESTS, bytes that were last asked of malloc */
	u32 request_number;
	u32 padding;
	u64 threshold; /* with TELLS_THRESHOLD: malloc's by then, NEVER if it maps no blocks */
#endif
};

/* With FRAMES, of a call that gets memory: its registers, for whoever unwinds the stack. */
struct frame {
	u32 record;
	u32 used; /* bytes of the stack that follow */
	u64 ns;   /* those of its event */
	u64 ip;
	u64 sp;
	u64 bp;
	u64 link; /* of arm64: where a function without a frame returns to */
	u32 tgid;
	u32 tid;
};

/* What userfaultfd(2) watches, for whoever reads the iterator. */
struct watched {
	u64 start;
	u64 end;
	u64 flags; /* vm_flags */
};

/* Every fault has an event; there are no runs. */
struct run {
	u32 epoch;
};

/* Events that no ring had room for are added up by these; memory that comes and goes cannot be.
 */
#ifndef CALLS
#define SPILLS
struct spill {
	u32 tgid;
	u32 kind;
};
#endif

#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <memtap/fields.h>
#include <memtap/batch.h>
#include <memtap/calls.h>
#include <memtap/filter.h>
#include <memtap/regs.h>
#include <memtap/rss.h>
#include <memtap/stacks.h>

#define SIGBUS               7
#define SIGSEGV              11
#define SEGV_MAPERR          1
#define CLONE_VM             0x100
#define CLONE_CHILD_CLEARTID 0x200000
#define PF_MEMALLOC          0x800 /* of task->flags: it reclaims memory, of whomever */
#define USER_RING            3     /* in cs: where user space runs */
#define ERROR_BITS           (PRESENT | WRITE)
#define FAULT_WRITE          0x01 /* FAULT_FLAG_WRITE, and so on */
#define FAULT_TRIED          0x20
#define FAULT_USER           0x40
#define RED_BYTES            65536     /* code may touch so far below its stack pointer */
#define STACK_BYTES          (8 << 20) /* and a stack reaches no further above it */
#define ANON_BITS            20        /* of `seen` */
#define ANON_MASK            ((1U << ANON_BITS) - 1)
#define SWITCH_MASK          15
#define HINT_SHIFT           4 /* above those */
#define LONGEST              0xffff
#define AFTER_WAIT           512 /* pages of the longest readahead that is usual */

/* struct bpf_perf_event_data: the registers, sample_period, addr; as words. */
#if defined(__x86_64__)
#define CTX_IP(ctx)         ((ctx)[16])
#define CTX_IS_USER(ctx)    (((ctx)[17] & USER_RING) == USER_RING)
#define CTX_SP(ctx)         ((ctx)[19])
#define CTX_ADDRESS(ctx)    ((ctx)[22])
#define CTX_ARGUMENT_1(ctx) ((ctx)[14])
#define CTX_ARGUMENT_2(ctx) ((ctx)[13])
#define CTX_ARGUMENT_3(ctx) ((ctx)[12])
#define CTX_ARGUMENT_4(ctx) ((ctx)[11])
#define REGS_IP(regs)       FIELD(regs, pt_regs, ip)
#define REGS_SP(regs)       FIELD(regs, pt_regs, sp)
#define REGS_BP(regs)       FIELD(regs, pt_regs, bp)
#define REGS_LINK(regs)     0
#else
#define CTX_IP(ctx)         ((ctx)[32])
#define CTX_IS_USER(ctx)    (((ctx)[33] & 0xf) == 0)
#define CTX_SP(ctx)         ((ctx)[31])
#define CTX_ADDRESS(ctx)    ((ctx)[35])
#define CTX_ARGUMENT_1(ctx) ((ctx)[0])
#define CTX_ARGUMENT_2(ctx) ((ctx)[1])
#define CTX_ARGUMENT_3(ctx) ((ctx)[2])
#define CTX_ARGUMENT_4(ctx) ((ctx)[3])
#define REGS_IP(regs)       FIELD(regs, pt_regs, pc)
#define REGS_SP(regs)       FIELD(regs, pt_regs, sp)
#define REGS_BP(regs)       FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 29 * sizeof(u64))
#define REGS_LINK(regs)     FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 30 * sizeof(u64))
#endif

#define LAST_ERROR     4095
#define MREMAP_FIXED   2
#define MREMAP_MOVES   6 /* that, and MREMAP_DONTUNMAP */
#define WHOLE(bytes)   (((bytes) + (1ULL << PAGE_SHIFT) - 1) >> PAGE_SHIFT << PAGE_SHIFT)
#define MAP_HUGETLB    0x40000
#define MAP_HUGE_SHIFT 26
#define MAP_HUGE_MASK  63

static inline u16 faults_of(u64 task)
{
	return FIELD(task, task_struct, min_flt) + FIELD(task, task_struct, maj_flt);
}

/* Local and remote pages that NUMA hints told of, task_numa_fault(). */
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
 * What of the task must stand still while a streak goes on: how often it left its CPU, so that
 * none of a streak but its last has waited, and its NUMA hints.
 */
static inline u32 steady_of(u64 task)
{
	u32 switches = FIELD(task, task_struct, nvcsw) + FIELD(task, task_struct, nivcsw);

	return (switches & SWITCH_MASK) | (u8)hints_of(task) << HINT_SHIFT;
}

/* Right to some dozen pages: what each CPU has not yet added to the sum is left out. */
static inline u32 anon_of(u64 task)
{
	u64 mm = FIELD(task, task_struct, mm);

#if HAVE(mm_rss_stat, count) /* an array: the verifier of 6.1 gives it no type */
	return PEEK_AS(u64, mm, RSS_OFFSET(MM_ANONPAGES));
#else
	return FIELD_AS(u64, mm, RSS_OFFSET(MM_ANONPAGES));
#endif
}

/* Anon pages of the process so far, and above them what is steady. */
static inline u32 seen_of(u64 task)
{
	return (anon_of(task) & ANON_MASK) | steady_of(task) << ANON_BITS;
}

/* Where an address lies, so far as the process's own borders tell. */
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
 * A number that changes with all that a process maps and unmaps; 0 where the kernel has none
 * (before 5e31275cc997).
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

/* What counts faults; of the rest only which were major is told apart. */
#ifdef ENDS_ALONE
#define COUNTS_FAULTS(kind) ((kind) == MINOR || (kind) == MAJOR)
#else
#define COUNTS_FAULTS(kind) ((kind) == RAISED)
#endif

static inline void miss(struct event *what)
{
#ifdef SPILLS
	struct spill key = {.tgid = what->tgid, .kind = what->kind};

	if (COUNTS_FAULTS(what->kind) || what->kind == MAJOR)
		spill(&key, COUNTS_FAULTS(what->kind));
#else
	lose(COUNTS_FAULTS(what->kind) || what->kind >= BRK);
#endif
}

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

/* Is an exception of this task the next of the streak that `last` stands for? */
static inline int goes_on(struct event *last, u64 task, struct event *this)
{
	return last->tid == this->tid && last->ip == this->ip &&
	       last->address + ((u64)last->count << PAGE_SHIFT) == this->address &&
	       (u16)(last->number + last->count) == this->number &&
	       last->marks == this->marks && last->stack == this->stack &&
	       last->seen >> ANON_BITS == steady_of(task) && last->count < LONGEST;
}

/*
 * An exception. Whoever touches memory in order faults at one instruction, page after page.
 * While nothing is mapped meanwhile such a streak is one event, and takes one look at the
 * clock, the dearest of all that is done here. Only its last one is not known to have been
 * completed.
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
 * What is told of a task's last exception must not be taken for one that follows. After one
 * that waited for I/O others are likely, and each is to be timed.
 */
static inline void end_streak(int number, u8 kind)
{
	struct lane *lane = lane_of(number);
	u64 alone = kind == MAJOR || kind == WAITED ? AFTER_WAIT : 1;

	if (lane && lane->state[ALONE] < alone)
		lane->state[ALONE] = alone;
}

static inline void end_streaks(u8 kind)
{
#pragma unroll
	for (int lanes = 0; lanes < ALL_LANES; lanes += LANES) {
		end_streak(lanes + LANE_USER, kind);
		end_streak(lanes + LANE_KERNEL, kind);
	}
}

/* An event that tells of the exception after which the task had completed `number` faults. */
static inline int tell(void *ctx, int lane_number, u64 task, struct event *what)
{
	struct lane *lane = enter(lane_number);

	if (!lane)
		return 0;
	what->tid = FIELD(task, task_struct, pid);
	what->seen = seen_of(task);
	keep(ctx, lane, task, what);
	end_streaks(what->kind);
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
	/* Not of the kernel's own memory, and not of a copy that gives up instead of waiting.
	 */
	if (ctx[0] >> 63 || FIELD(task, task_struct, pagefault_disabled))
		return 0;
	return raised(ctx, task, ctx[0], ctx[1], KERNEL | (ctx[2] & ERROR_BITS));
}

/*
 * An exception that has got as far as the mapping that it is in. The kernel comes here again
 * after it waited, and also for what it touches itself (bce617edecad): without registers.
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

/* Where there is an exception, that has the stack, and was counted if it was memtap's own. */
#ifdef ENDS_ALONE
#define COMPLETED_STACK(ctx) stack_of(ctx, BPF_F_USER_STACK)
#define ended_for            followed
#else
#define COMPLETED_STACK(ctx) NO_STACK
#define ended_for            concerned
#endif

/* The task has counted this fault already. */
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

/* Something rare of the exception that a task is in, or of the task. */
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
	/* The kernel's own, of which the codes are above 0, and to the task itself. */
	s32 code = PEEK(info, kernel_siginfo, si_code); /* it can be a number, SEND_SIG_PRIV */
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

/* Has this task, which goes on, waited for I/O of its own accord? */
static inline int has_waited(u64 task)
{
	return FLAG(task, task_struct, in_iowait) && FIELD(task, task_struct, mm) &&
	       concerned(task, FIELD(task, task_struct, tgid));
}

/*
 * tp_btf/sched_switch(preempt, prev, next): io_schedule() is how a fault waits for a page that
 * others are reading, or that is being written. The last wait of several is the one that tells
 * when it was over; those of a system call are of no exception, and change nothing.
 */
int on_switch(u64 *ctx)
{
	u64 task = ctx[2];
	struct event this = {.kind = WAITED, .stack = NO_STACK};

	if (!has_waited(task))
		return 0;
	struct lane *lane = enter(LANE_WAIT);
	if (!lane)
		return 0;
	struct event *last = last_of(lane);
	this.tid = FIELD(task, task_struct, pid);
	this.number = faults_of(task);
	this.seen = seen_of(task);
	if (last && last->tid == this.tid && last->number == this.number)
		lane->batch.head.used--;
	keep(ctx, lane, task, &this);
	end_streaks(WAITED);
	leave(lane);
	return 0;
}

/* A process that vfork() or posix_spawn() makes, say. At that point nobody follows it yet. */
static inline int shares_space(u64 task, u64 maker, u64 flags)
{
	return flags & CLONE_VM && FIELD(task, task_struct, mm) &&
	       concerned(maker, FIELD(maker, task_struct, tgid));
}

/*
 * tp_btf/task_newtask(task, clone_flags): a new thread stands at the top of its stack; and what
 * the kernel tells of a new process, it tells of one with an address space of its own as well.
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
 * What mremap(2) puts into the address space of the task that calls it: of that the kernel
 * tells nobody. A mapping may have been joined with what is beside it. What is moved to a given
 * address may be several (d23cb648e365), each as far from the first as before; what else is
 * written then is what is left of mappings that were cut, there and where it came from.
 */
static inline int moved(void *ctx, u64 task, u64 start, u64 end)
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
	/* What does not grow stays where it is, and may be several. */
	if (this.address >= end || (!(flags & MREMAP_MOVES) && before >= bytes))
		return 0;
	struct lane *lane = enter(LANE_MOVED);
	if (!lane)
		return 0;
	this.tid = FIELD(task, task_struct, pid);
	this.seen = (end - this.address) >> PAGE_SHIFT;
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
/* tp_btf/ma_write(function, mas, pivot, entry): of all that is kept in maple trees. */
int on_mapping(u64 *ctx)
{
	u64 task = (u64)current_task(), mas = ctx[1], vma = ctx[3];

	if (!claim(ctx, LANE_MOVED, vma))
		return 0;
	u64 mm = FIELD(task, task_struct, mm);
	if (!vma || !mm || FIELD(mas, ma_state, tree) != mm + OFFSET(mm_struct, mm_mt))
		return 0;
	if (!in_mremap(task) || !concerned(task, FIELD(task, task_struct, tgid)))
		return 0;
	return moved(ctx, task, FIELD(mas, ma_state, index), FIELD(mas, ma_state, last) + 1);
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
	return moved(ctx, task, start, start + WHOLE(bytes));
}
#endif

#ifdef CALLS
/*
 * Where a glibc has its threshold, found by the page offset that one of its system calls
 * returns to: user space knows it of the files that it has looked at
 * (tracers/malloc/thresholds.py). Whether it is such a file's code is told by what stands near
 * the beginning of that.
 */
struct known_call {
	u64 offset; /* of the instruction in the file, as it is in memory; likewise: */
	u64 id_at;
	u64 id;
	u64 threshold_at;
	u64 most_at; /* of how many blocks malloc maps at most */
};

#define NEVER      (~0ULL)
#define PAGE_BYTES (1 << PAGE_SHIFT)

BPF_F_TABLE("array", int, struct known_call, known_calls, PAGE_BYTES, BPF_F_MMAPABLE);

/* Tells the threshold of malloc in the library whose code makes a call, if that is known. */
static inline void tell_threshold(struct event *call)
{
	int at = call->ip & (PAGE_BYTES - 1);
	struct known_call *known = known_calls.lookup(&at);

	if (!known || !known->offset)
		return;
	u64 begin = call->ip - known->offset;
	if (user_word(begin + known->id_at) != known->id)
		return;
	int maps = (u32)user_word(begin + known->most_at) != 0;
	call->threshold = maps ? user_word(begin + known->threshold_at) : NEVER;
	call->marks |= TELLS_THRESHOLD;
}

#ifdef REQUESTS
/*
 * What a thread has last asked of malloc, and how often it has. While it is in a function that
 * may call another of malloc's, `within` is where its stack was when it came in: what is called
 * from deeper in the stack is the same request.
 */
struct request {
	u64 bytes;
	u64 number;
	u64 within;
};

#define SIZES     66 /* the first counts free(), then come powers of two */
#define TOO_LARGE ~0ULL

BPF_TABLE("lru_hash", u32, struct request, requests, 16384);
BPF_F_TABLE("array", int, u64, sizes, SIZES, BPF_F_MMAPABLE);

/* These run at breakpoints, where tasks can be preempted: so nothing here is of a CPU. */
static inline void count_size(int size)
{
	u64 *counter = sizes.lookup(&size);

	if (counter)
		lock_xadd(counter, 1);
}

static inline int is_passed_on(struct request *last, u64 *ctx)
{
	return last && CTX_SP(ctx) <= last->within; /* the same where it ends in a jump */
}

static inline int requested(u64 *ctx, u64 bytes, u64 within)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct request first = {.bytes = bytes, .number = 1, .within = within};
	struct request *last = requests.lookup(&tid);

	if (is_passed_on(last, ctx))
		return 0;
	count_size(bpf_log2l(bytes));
	if (last) {
		last->bytes = bytes;
		last->number++;
		last->within = within;
	} else if (requests.update(&tid, &first)) {
		count(COUNT_MAP_FULL, 1);
	}
	return 0;
}

static inline u64 product(u64 count, u64 bytes)
{
	u64 most = count ? ~0ULL / count : ~0ULL;

	VERIFIER_FORGET(most); /* or it becomes an instruction that BPF has not */
	return bytes > most ? TOO_LARGE : count * bytes;
}

/* uprobe/malloc(bytes), where it calls nobody else's */
int on_malloc(u64 *ctx)
{
	return requested(ctx, CTX_ARGUMENT_1(ctx), 0);
}

/* uprobe/valloc(bytes), and whatever else has them first */
int on_valloc(u64 *ctx)
{
	return requested(ctx, CTX_ARGUMENT_1(ctx), CTX_SP(ctx));
}

/* uprobe/calloc(count, bytes) */
int on_calloc(u64 *ctx)
{
	return requested(ctx, product(CTX_ARGUMENT_1(ctx), CTX_ARGUMENT_2(ctx)), CTX_SP(ctx));
}

/* uprobe/realloc(block, bytes): of a block and no bytes it is free */
int on_realloc(u64 *ctx)
{
	u64 bytes = CTX_ARGUMENT_2(ctx);

	return CTX_ARGUMENT_1(ctx) && !bytes ? 0 : requested(ctx, bytes, CTX_SP(ctx));
}

/* uprobe/reallocarray(block, count, bytes) */
int on_reallocarray(u64 *ctx)
{
	u64 bytes = product(CTX_ARGUMENT_2(ctx), CTX_ARGUMENT_3(ctx));

	return CTX_ARGUMENT_1(ctx) && !bytes ? 0 : requested(ctx, bytes, CTX_SP(ctx));
}

/* uprobe/aligned_alloc(alignment, bytes) */
int on_aligned_alloc(u64 *ctx)
{
	return requested(ctx, CTX_ARGUMENT_2(ctx), CTX_SP(ctx));
}

/* uprobe/posix_memalign(block, alignment, bytes) */
int on_posix_memalign(u64 *ctx)
{
	return requested(ctx, CTX_ARGUMENT_3(ctx), CTX_SP(ctx));
}

/* uretprobe of those that may call others */
int on_returned(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct request *last = requests.lookup(&tid);

	if (last && CTX_SP(ctx) >= last->within)
		last->within = 0;
	return 0;
}

/* uprobe/free(block) */
int on_free_block(u64 *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct request *last = requests.lookup(&tid);

	if (CTX_ARGUMENT_1(ctx) && !is_passed_on(last, ctx))
		count_size(0);
	return 0;
}

static inline void note_request(struct event *event)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct request *last = requests.lookup(&tid);

	if (!last)
		return;
	event->request = last->bytes;
	event->request_number = last->number;
}
#endif

#ifdef FRAMES
#define STACK_TAKEN 1024 /* from malloc to its caller it takes less */
#define STACK_LEAST 128

struct frame_record {
	struct frame head;
	char stack[STACK_TAKEN];
};

BPF_PERCPU_ARRAY(frame_records, struct frame_record, 1 + STANDBYS);
BPF_ARRAY(layout_frame, struct frame, 1);

/* libc has no frame pointers, so the callers are found by whoever can read its tables. */
static inline void send_frame(void *ctx, struct lane *lane, u64 task, u64 regs)
{
	int own = standby_number();
	struct event *event = last_of(lane);
	struct frame_record *frame = frame_records.lookup(&own);

	if (!event || !frame)
		return;
	frame->head.record = RECORD_FRAME;
	frame->head.ns = lane->batch.head.base_ns + event->dt_ns;
	frame->head.tgid = event->tgid;
	frame->head.tid = event->tid;
	frame->head.ip = REGS_IP(regs);
	frame->head.sp = REGS_SP(regs);
	frame->head.bp = REGS_BP(regs);
	frame->head.link = REGS_LINK(regs);
	frame->head.used = 0;
	/* Less, where the stack's beginning is near. */
#pragma clang loop unroll(full)
	for (int bytes = STACK_TAKEN; bytes >= STACK_LEAST; bytes /= 2) {
		if (!read_user(frame->stack, bytes, (void *)frame->head.sp)) {
			frame->head.used = bytes;
			break;
		}
	}
	hand_over(ctx, frame, sizeof(*frame));
}

/* Calls that only give memory back are of no site. */
static inline int gets_memory(u8 kind)
{
	return kind == BRK || kind == MMAP || kind == MOVED_TO || kind == MPROTECT;
}
#endif

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
#ifdef REQUESTS
	note_request(&this);
#endif
	if (kind == MMAP && !(marks & IS_32_BIT))
		read_user(&this.caller_0, 3 * sizeof(u64), (void *)REGS_SP(regs));
	if (kind == MMAP && REGS_LINK(regs))
		this.caller_0 = REGS_LINK(regs);
	keep(ctx, lane, task, &this);
#ifdef FRAMES
	if (gets_memory(kind) && !(marks & IS_32_BIT))
		send_frame(ctx, lane, task, regs);
#endif
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

#ifndef HUGE_SHIFT
#define HUGE_SHIFT 21
#endif

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
#endif

#if HAVE(vm_area_struct, vm_userfaultfd_ctx__ctx)
/* iter/task_vma(meta, task, vma), run by user space for one process at a time. */
int on_vma(u64 *ctx)
{
	u64 meta = ctx[0], vma = ctx[2];

	if (!vma || !FIELD(vma, vm_area_struct, vm_userfaultfd_ctx__ctx))
		return 0;
	/* Typed in every build, or the verifier takes it for no struct. */
	u64 seq = LOAD_AS(u64, meta, OFFSET(bpf_iter_meta, seq));
	struct watched watched = {
		.start = FIELD(vma, vm_area_struct, vm_start),
		.end = FIELD(vma, vm_area_struct, vm_end),
		.flags = FIELD(vma, vm_area_struct, vm_flags),
	};
	bpf_seq_write((struct seq_file *)seq, &watched, sizeof(watched));
	return 0;
}
#endif
