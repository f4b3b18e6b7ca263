/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Blocks of pages as the buddy allocator hands them out and gets them back. There can be
 * millions a second, so they are counted here, by order and migrate type and, with BY_PROCESS,
 * by the process that ran.
 */
#include <linux/types.h>

enum program { ALLOC, FREE, FALLBACK, PROGRAMS };

struct key {
	u32 tgid;
	u16 order;
	u16 migratetype; /* that is asked for; UNTOLD for frees, which have none */
	u32 standby;     /* each has keys of its own; see memtap/counters.h */
};

struct sums {
	u64 allocs;
	u64 frees;
	u64 fallbacks; /* taken from a block of pages of another migrate type */
};

#define KEYS   16384
#define UNTOLD 0xffff

#include <memtap/fields.h>
#include <memtap/counters.h>
#include <memtap/filter.h>
#include <memtap/standby.h>

static inline struct sums *sums_of_blocks(u32 order, u32 migratetype)
{
	u64 task = (u64)current_task();
	struct key key = {
		.order = order, .migratetype = migratetype, .standby = standby_number()};

	if (!followed(task, FIELD(task, task_struct, tgid)))
		return NULL;
#ifdef BY_PROCESS
	key.tgid = FIELD(task, task_struct, tgid);
#endif
	return sums_of(&key);
}

/*
 * Pages that the tracepoint has reported so far, for all processes: what the kernel counts
 * beyond these has no tracepoint.
 */
BPF_PERCPU_ARRAY(told_pages, u64, 1);

static inline void tell_pages(u32 order)
{
	int first = 0;
	u64 *pages = told_pages.lookup(&first);

	if (pages)
		lock_xadd(pages, 1ULL << order);
}

/* tp_btf/mm_page_alloc(page, order, gfp_flags, migratetype) */
int on_alloc(u64 *ctx)
{
	if (!ctx[0] || !claim(ctx, ALLOC, ctx[0]))
		return 0;
	tell_pages(ctx[1]);
	struct sums *sums = sums_of_blocks(ctx[1], ctx[3]);
	if (sums)
		sums->allocs++;
	return 0;
}

/*
 * tp_btf/mm_page_free(page, order): every block on its way back, also those that
 * mm_page_free_batched reports.
 */
int on_free_pages(u64 *ctx)
{
	if (!claim(ctx, FREE, ctx[0]))
		return 0;
	struct sums *sums = sums_of_blocks(ctx[1], UNTOLD);
	if (sums)
		sums->frees++;
	return 0;
}

/* tp_btf/mm_page_alloc_extfrag(page, alloc_order, fallback_order, alloc_migratetype, ...) */
int on_fallback(u64 *ctx)
{
	if (!claim(ctx, FALLBACK, ctx[0]))
		return 0;
	struct sums *sums = sums_of_blocks(ctx[1], ctx[3]);
	if (sums)
		sums->fallbacks++;
	return 0;
}
