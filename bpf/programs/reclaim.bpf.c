/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory that is short: which tasks reclaim, compact and swap, and when kswapd is awake.
 *
 * What takes its time has two events, its begin and its end, which user space pairs by thread
 * and kind: in one task, none can be inside another of the same kind. All happen in the task
 * that does the work, so `current` is the task that is delayed, whichever task the memory
 * belongs to. enum kind and enum edge are those of tracers/reclaim/probes.py.
 */
enum {
	LANE_DIRECT_BEGIN,
	LANE_DIRECT_END,
	LANE_MEMCG_BEGIN,
	LANE_MEMCG_END,
	LANE_NODE_BEGIN,
	LANE_NODE_END,
	LANE_COMPACTION_BEGIN,
	LANE_COMPACTION_END,
	LANE_KSWAPD_WAKE,
	LANE_KSWAPD_SLEEP,
	LANE_SHRINK,
	LANE_RECLAIM,
	LANE_SLAB,
	LANE_THROTTLED,
	LANE_SWAP,
	LANE_PAGE_READ,
	LANE_PAGE_WRITTEN,
	LANES
};

struct event {
	u32 dt_ns;
	u32 tgid;
	u32 tid;
	u32 amount;    /* pages scanned or swapped, objects freed, microseconds waited */
	u32 reclaimed; /* pages, of SHRINK */
	u16 node;      /* that of the memory, or of the CPU where that is not known */
	u8 kind;
	u8 edge; /* BEGINS, ENDS, or 0 for what has one event */
};

/* Each has an event; there are no runs. */
struct run {
	u32 epoch;
};

#include <linux/types.h>
#include <memtap/fields.h>
#include <memtap/batch.h>
#include <memtap/filter.h>

#define REQ_OP_MASK  0xff
#define REQ_OP_READ  0
#define REQ_OP_WRITE 1
#define BIO_CLONED   2 /* of bi_flags, 1 << 1 */

static inline void keep(void *ctx, int number, struct event *what)
{
	u64 task = (u64)current_task();
	u32 tgid = FIELD(task, task_struct, tgid);

	if (!followed(task, tgid))
		return;
	struct lane *lane = enter(number);
	if (!lane)
		return;
	struct event *event = append(ctx, lane);
	if (event) {
		what->dt_ns = event->dt_ns;
		what->tgid = tgid;
		what->tid = FIELD(task, task_struct, pid);
		*event = *what;
	} else {
		lose(1);
	}
	leave(lane);
}

static inline int note(void *ctx, int number, struct event *what)
{
	if (claim(ctx, number, what->amount))
		keep(ctx, number, what);
	return 0;
}

static inline int edge(void *ctx, int number, u8 kind, u8 which)
{
	struct event this = {.kind = kind, .edge = which, .node = bpf_get_numa_node_id()};

	return note(ctx, number, &this);
}

/* tp_btf/mm_vmscan_direct_reclaim_begin(order, gfp_flags, ...) */
int on_direct_begin(u64 *ctx)
{
	return edge(ctx, LANE_DIRECT_BEGIN, DIRECT, BEGINS);
}

/* tp_btf/mm_vmscan_direct_reclaim_end(nr_reclaimed, ...) */
int on_direct_end(u64 *ctx)
{
	return edge(ctx, LANE_DIRECT_END, DIRECT, ENDS);
}

/* tp_btf/mm_vmscan_memcg_reclaim_begin(order, gfp_flags, ...) */
int on_memcg_begin(u64 *ctx)
{
	return edge(ctx, LANE_MEMCG_BEGIN, MEMCG, BEGINS);
}

/* tp_btf/mm_vmscan_memcg_reclaim_end(nr_reclaimed, ...) */
int on_memcg_end(u64 *ctx)
{
	return edge(ctx, LANE_MEMCG_END, MEMCG, ENDS);
}

/* tp_btf/mm_vmscan_node_reclaim_begin(nid, order, gfp_flags, ...) */
int on_node_begin(u64 *ctx)
{
	return edge(ctx, LANE_NODE_BEGIN, NODE, BEGINS);
}

/* tp_btf/mm_vmscan_node_reclaim_end(nr_reclaimed, ...) */
int on_node_end(u64 *ctx)
{
	return edge(ctx, LANE_NODE_END, NODE, ENDS);
}

/* tp_btf/mm_compaction_begin */
int on_compaction_begin(u64 *ctx)
{
	return edge(ctx, LANE_COMPACTION_BEGIN, COMPACTION, BEGINS);
}

/* tp_btf/mm_compaction_end */
int on_compaction_end(u64 *ctx)
{
	return edge(ctx, LANE_COMPACTION_END, COMPACTION, ENDS);
}

/* tp_btf/mm_vmscan_kswapd_wake(nid, zid, order): kswapd has woken up. */
int on_kswapd_wake(u64 *ctx)
{
	struct event this = {.kind = KSWAPD, .edge = BEGINS, .node = ctx[0]};

	return note(ctx, LANE_KSWAPD_WAKE, &this);
}

/* tp_btf/mm_vmscan_kswapd_sleep(nid): it goes to sleep. */
int on_kswapd_sleep(u64 *ctx)
{
	struct event this = {.kind = KSWAPD, .edge = ENDS, .node = ctx[0]};

	return note(ctx, LANE_KSWAPD_SLEEP, &this);
}

static inline int shrunk(u64 *ctx, int number)
{
	struct event this = {.kind = SHRINK, .node = ctx[0]};

	this.amount = ctx[1];
	this.reclaimed = ctx[2];
	return note(ctx, number, &this);
}

/* tp_btf/mm_vmscan_lru_shrink_inactive(nid, nr_scanned, nr_reclaimed, ...) */
int on_shrink(u64 *ctx)
{
	return shrunk(ctx, LANE_SHRINK);
}

/*
 * tp_btf/mm_vmscan_reclaim_pages(nid, nr_scanned, nr_reclaimed, ...): the caller says which
 * pages.
 */
int on_reclaim(u64 *ctx)
{
	return shrunk(ctx, LANE_RECLAIM);
}

/* tp_btf/mm_shrink_slab_end(shrinker, nid, freed, ...) */
int on_slab(u64 *ctx)
{
	struct event this = {.kind = SLAB, .node = ctx[1]};

	this.amount = ctx[2];
	return this.amount ? note(ctx, LANE_SLAB, &this) : 0;
}

/* tp_btf/mm_vmscan_throttled(nid, usec_timeout, usec_delayed, reason) */
int on_throttled(u64 *ctx)
{
	struct event this = {.kind = THROTTLED, .node = ctx[0]};

	this.amount = ctx[2];
	return note(ctx, LANE_THROTTLED, &this);
}

/*
 * Is this the first page of an anonymous folio on its way to or from swap? A device below
 * another gets its requests with pages of its own, or marked as clones.
 */
static inline int is_of_swap(u64 bio, u32 operation)
{
	u64 page = PEEK(FIELD(bio, bio, bi_io_vec), bio_vec, bv_page);
	u64 flags = PEEK(page, page, flags), wanted = 1ULL << ENUM(pageflags, PG_swapbacked);

	if (FIELD(bio, bio, bi_flags) & BIO_CLONED)
		return 0;
	/*
	 * A swap-in locks the page, as other tasks may wait for it; read(2) with O_DIRECT locks
	 * none.
	 */
	if (operation == REQ_OP_READ)
		wanted |= 1ULL << ENUM(pageflags, PG_locked);
	return (flags & wanted) == wanted;
}

static inline int swapped(void *ctx, int number, u8 kind, u64 bytes)
{
	struct event this = {.kind = kind, .node = bpf_get_numa_node_id()};

	this.amount = bytes >> PAGE_SHIFT;
	return note(ctx, number, &this);
}

static inline int is_swapbacked(u64 page)
{
	return PEEK(page, page, flags) >> ENUM(pageflags, PG_swapbacked) & 1;
}

/*
 * fexit/bdev_read_page(bdev, sector, page): before 3222d8c2a7f8 devices in memory, as zram,
 * were given swap's pages without a bio.
 */
int on_page_read(u64 *ctx)
{
	if (ctx[3] || !is_swapbacked(ctx[2]))
		return 0;
	return swapped(ctx, LANE_PAGE_READ, SWAP_IN, 1 << PAGE_SHIFT);
}

/* fexit/bdev_write_page(bdev, sector, page, wbc) */
int on_page_written(u64 *ctx)
{
	if (ctx[4] || !is_swapbacked(ctx[2]))
		return 0;
	return swapped(ctx, LANE_PAGE_WRITTEN, SWAP_OUT, 1 << PAGE_SHIFT);
}

/* tp_btf/block_bio_queue(bio), before e8a676d61c07 (queue, bio) */
int on_bio(u64 *ctx)
{
#if HAVE(bio, bi_bdev) /* a year younger than that commit */
	u64 bio = ctx[0];
#else
	u64 bio = ctx[1];
#endif
	u32 options = FIELD(bio, bio, bi_opf), operation = options & REQ_OP_MASK;
	u8 kind = operation == REQ_OP_READ ? SWAP_IN : SWAP_OUT;

	if (operation > REQ_OP_WRITE || !FIELD(bio, bio, bi_iter__bi_size))
		return 0;
	if (operation == REQ_OP_WRITE && !(options >> ENUM(req_flag_bits, __REQ_SWAP) & 1))
		return 0;
	if (!is_of_swap(bio, operation))
		return 0;
	return swapped(ctx, LANE_SWAP, kind, FIELD(bio, bio, bi_iter__bi_size));
}
