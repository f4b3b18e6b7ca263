/* SPDX-License-Identifier: GPL-2.0-only */
/* What is asked of malloc, seen at breakpoints in one process. Only with REQUESTS. */
#ifndef MEMTAP_MALLOCS_H
#define MEMTAP_MALLOCS_H

#include <memtap/perf_context.h>

#ifdef REQUESTS
/*
 * What a thread last asked of malloc, and how often it has asked. While the thread is in a
 * function that may call another one of malloc's, `within` is its stack pointer at the entry: a
 * call from deeper in the stack is part of the same request.
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

/* These run at breakpoints, where tasks can be preempted: so nothing here is per CPU. */
static inline void count_size(int size)
{
	u64 *counter = sizes.lookup(&size);

	if (counter)
		lock_xadd(counter, 1);
}

static inline int is_passed_on(struct request *last, u64 *ctx)
{
	return last && CTX_SP(ctx) <= last->within; /* equal if it ends in a jump */
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

	VERIFIER_FORGET(most); /* or it becomes an instruction that BPF does not have */
	return bytes > most ? TOO_LARGE : count * bytes;
}

/* uprobe/malloc(bytes), which calls no other of these functions */
int on_malloc(u64 *ctx)
{
	return requested(ctx, CTX_ARGUMENT_1(ctx), 0);
}

/* uprobe/valloc(bytes), and other functions with the bytes as first argument */
int on_valloc(u64 *ctx)
{
	return requested(ctx, CTX_ARGUMENT_1(ctx), CTX_SP(ctx));
}

/* uprobe/calloc(count, bytes) */
int on_calloc(u64 *ctx)
{
	return requested(ctx, product(CTX_ARGUMENT_1(ctx), CTX_ARGUMENT_2(ctx)), CTX_SP(ctx));
}

/* uprobe/realloc(block, bytes): with a block and 0 bytes it is free() */
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

/* uretprobe of the functions that may call others */
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
#else
/* Adds to a call what its thread had last asked malloc for. */
static inline void note_request(struct event *event)
{
}
#endif

#endif
