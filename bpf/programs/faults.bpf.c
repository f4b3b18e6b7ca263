/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page faults: each completed one once, as the kernel itself counted it, with its cause and
 * cost.
 *
 * The perf software events of minor and major faults fire where the kernel counts a fault, with
 * the address and the registers. What they do not tell was noted on the task before: the
 * exception (when, and its error code), and what the kernel did inside it. docs/faults.md says
 * what is made of that.
 */
enum kind {
	MINOR = 1,
	MAJOR,
	BAD, /* no fault that could be handled: the task got a SIGSEGV or SIGBUS for it */
};

enum mark {
	TIMED = 1,   /* the exception was seen: time and error are known */
	KERNEL = 2,  /* taken in the kernel: a system call touched memory of the process */
	HUGE = 4,    /* movable memory of several pages was allocated for it */
	SWAPPED = 8, /* it took an entry out of swap */
	SLOW = 16,   /* `time` is in units of 1024 ns, not of 1 */
	STACK = 32,  /* between the thread's stack pointer and where its stack begins */
	NUMA = 64,   /* a hint: taken to see which node uses the page */
};

enum { LANE_MINOR, LANE_MAJOR, LANE_BAD, LANES };

struct event {
	u64 address;
	u64 ip;
	u32 dt_ns; /* since the base of the batch */
	u32 tgid;
	u32 tid;
	u32 time;
	u32 stack; /* with STACKS: its number in `stacks`, or an error as a signed number */
	u8 kind;
	u8 marks;
	u16 error; /* of the exception: PF_* of arch/x86/include/asm/trap_pf.h */
};

/* Every fault has an event; there are no runs. */
struct run {
	u32 epoch;
};

#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <memtap/fields.h>
#include <memtap/batch.h>
#include <memtap/filter.h>

#define SIGBUS      7
#define SIGSEGV     11
#define MM_SWAPENTS 2 /* of enum in linux/mm_types_task.h, which has no name */
#define GFP_MOVABLE 8
#define USER_RING   3         /* in cs: where user space runs */
#define RED_BYTES   65536     /* code may touch so far below its stack pointer */
#define STACK_BYTES (8 << 20) /* of a thread that began before us: the default ulimit -s */

/* struct bpf_perf_event_data: the registers, sample_period, addr; as words. */
#if defined(__x86_64__)
#define CTX_IP(ctx)      ((ctx)[16])
#define CTX_IS_USER(ctx) (((ctx)[17] & USER_RING) == USER_RING)
#define CTX_SP(ctx)      ((ctx)[19])
#define CTX_ADDRESS(ctx) ((ctx)[22])
#define TASK_IP(regs)    FIELD(regs, pt_regs, ip)
#define TASK_SP(regs)    FIELD(regs, pt_regs, sp)
#else
#define CTX_IP(ctx)      ((ctx)[32])
#define CTX_IS_USER(ctx) (((ctx)[33] & 0xf) == 0)
#define CTX_SP(ctx)      ((ctx)[31])
#define CTX_ADDRESS(ctx) ((ctx)[35])
#define TASK_IP(regs)    FIELD(regs, pt_regs, pc)
#define TASK_SP(regs)    FIELD(regs, pt_regs, sp)
#endif

/* The exception that a task is in; `began_ns` is 0 when it is in none. */
struct exception {
	u64 began_ns;
	u64 address;
	u64 stack_top; /* of a thread that began while we looked */
	u64 hints;     /* how many pages' hints the task had seen */
	u32 error;
	u32 marks;
};

BPF_TASK_STORAGE(exceptions, struct exception);

#ifdef STACKS
BPF_STACK_TRACE(stacks, STACKS);
#endif

static inline struct exception *exception_of(u64 task, int create)
{
	return exceptions.task_storage_get((struct task_struct *)task, 0,
					   create ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
}

/* Local and remote pages that NUMA hints told of, task_numa_fault(). */
static inline u64 hints_of(u64 task)
{
#if HAVE(task_struct, numa_faults_locality)
	return FIELD_AS(u64, task, OFFSET(task_struct, numa_faults_locality)) +
	       FIELD_AS(u64, task, OFFSET(task_struct, numa_faults_locality) + 8);
#else
	return 0;
#endif
}

static inline int raised(u64 address, u64 error, u32 marks)
{
	u64 task = (u64)current_task();

	if (!followed(task, FIELD(task, task_struct, tgid)))
		return 0;
	/* A copy that does not wait for memory is tried again if it fails. */
	if (marks & KERNEL && FIELD(task, task_struct, pagefault_disabled))
		return 0;
	struct exception *exception = exception_of(task, 1);
	if (!exception)
		return 0;
	exception->began_ns = bpf_ktime_get_ns();
	exception->address = address;
	exception->error = error;
	exception->marks = marks;
	exception->hints = hints_of(task);
	return 0;
}

/* tp_btf/page_fault_user(address, regs, error_code) */
int on_user_fault(u64 *ctx)
{
	return raised(ctx[0], ctx[2], TIMED);
}

/* tp_btf/page_fault_kernel(address, regs, error_code) */
int on_kernel_fault(u64 *ctx)
{
	return raised(ctx[0], ctx[2], TIMED | KERNEL);
}

#define PF_MEMALLOC 0x800 /* of task->flags: it reclaims memory, of whomever */

static inline void mark(u32 what)
{
	u64 task = (u64)current_task();
	struct exception *exception = exception_of(task, 0);

	if (exception && exception->began_ns &&
	    !(FIELD(task, task_struct, flags) & PF_MEMALLOC))
		exception->marks |= what;
}

/* tp_btf/mm_page_alloc(page, order, gfp_flags, migratetype) */
int on_alloc(u64 *ctx)
{
	if ((u32)ctx[1] && ctx[2] & GFP_MOVABLE)
		mark(HUGE);
	return 0;
}

/* tp_btf/rss_stat(mm, member) */
int on_rss(u64 *ctx)
{
	if ((u32)ctx[1] == MM_SWAPENTS)
		mark(SWAPPED);
	return 0;
}

/* How long the exception took; more than 2 s are told in units of 1024 ns. */
static inline void tell_time(struct event *event, u64 ns)
{
	if (ns >> 31) {
		event->marks |= SLOW;
		ns >>= 10;
	}
	event->time = ns >> 32 ? ~0U : ns;
}

static inline u8 stack_mark(struct exception *exception, u64 address, u64 sp)
{
	u64 top = exception && exception->stack_top ? exception->stack_top : sp + STACK_BYTES;

	return address + RED_BYTES >= sp && address < top ? STACK : 0;
}

/* Fills in what the exception tells, which is over with this. */
static inline void conclude(struct event *event, u64 task, u64 sp)
{
	struct exception *exception = exception_of(task, 0);

	event->marks = stack_mark(exception, event->address, sp);
	event->error = 0;
	event->time = 0;
	if (!exception || !exception->began_ns || exception->address != event->address)
		return;
	event->marks |= exception->marks;
	if (hints_of(task) != exception->hints)
		event->marks |= NUMA;
	event->error = exception->error;
	tell_time(event, bpf_ktime_get_ns() - exception->began_ns);
	exception->began_ns = 0;
}

static inline struct event *begin(void *ctx, struct lane *lane, u64 task, u32 tgid, u8 kind)
{
	struct event *event = append(ctx, lane);

	if (!event)
		return NULL;
	event->tgid = tgid;
	event->tid = FIELD(task, task_struct, pid);
	event->kind = kind;
	event->stack = ~0U;
	return event;
}

static inline u64 user_ip(u64 task)
{
	return TASK_IP((u64)bpf_task_pt_regs((struct task_struct *)task));
}

static inline u64 user_sp(u64 task)
{
	return TASK_SP((u64)bpf_task_pt_regs((struct task_struct *)task));
}

static inline int completed(u64 *ctx, int number, u8 kind)
{
	u64 task = (u64)current_task();
	u32 tgid = FIELD(task, task_struct, tgid);

	if (!followed(task, tgid))
		return 0;
	struct lane *lane = enter(number);
	if (!lane)
		return 0;
	struct event *event = begin(ctx, lane, task, tgid, kind);
	if (event) {
		event->address = CTX_ADDRESS(ctx);
		event->ip = CTX_IP(ctx);
		conclude(event, task, CTX_IS_USER(ctx) ? CTX_SP(ctx) : user_sp(task));
#ifdef STACKS
		event->stack = stacks.get_stackid(ctx, BPF_F_USER_STACK);
#endif
	}
	leave(lane);
	return 0;
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

/* tp_btf/signal_generate(sig, info, task, group, result) */
int on_signal(u64 *ctx)
{
	u64 task = (u64)current_task();
	u32 tgid = FIELD(task, task_struct, tgid);

	if ((u32)ctx[0] != SIGSEGV && (u32)ctx[0] != SIGBUS)
		return 0;
	/* Codes above 0 are the kernel's own. */
	if (ctx[2] != task || (s32)FIELD(ctx[1], kernel_siginfo, si_code) <= 0)
		return 0;
	struct exception *exception = exception_of(task, 0);
	if (!exception || !exception->began_ns || !followed(task, tgid))
		return 0;
	struct lane *lane = enter(LANE_BAD);
	if (!lane)
		return 0;
	struct event *event = begin(ctx, lane, task, tgid, BAD);
	if (event) {
		event->address = exception->address;
		event->ip = user_ip(task);
		conclude(event, task, user_sp(task));
	}
	leave(lane);
	return 0;
}

/* tp_btf/task_newtask(task, clone_flags): a new thread stands at the top of its stack. */
int on_thread(u64 *ctx)
{
	u64 tgid = FIELD(ctx[0], task_struct, tgid);

	if (tgid == FIELD(ctx[0], task_struct, pid) || !followed(ctx[0], tgid))
		return 0;
	struct exception *exception = exception_of(ctx[0], 1);
	if (exception)
		exception->stack_top = user_sp(ctx[0]);
	return 0;
}
