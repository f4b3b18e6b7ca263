/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The page cache: every access to it, every page that enters or leaves it, every page dirtied.
 *
 * What is counted, and why it is exact, is in docs/pagecache.md. In short: the kernel says
 * which pages a read asks for (mm_filemap_get_pages), user space keeps the pages that were
 * brought in and not asked for yet ("fresh"), and an access to a fresh page is a miss, to any
 * other a hit.
 */

enum { LANE_READ, LANE_SPLICE, LANE_MAP, LANE_FAULT, LANE_ADD, LANE_DELETE, LANE_DIRTY, LANES };

enum kind {
	READ = 1, /* pages asked for by a read-family call */
	MAP,      /* fault-around mapped cached pages in this window */
	FAULT,    /* a fault on this page */
	ADD,      /* a folio entered the cache */
	DELETE,   /* a folio left the cache */
	DIRTY,    /* a folio became dirty */
	HITS,     /* `pages` accesses, all hits, to any pages of the file */
};

enum flag {
	AGAIN = 1,   /* the same read or fault as an earlier event: no new accesses */
	WANTED = 2,  /* ADD: a fault waits for the page at index + `call` */
	DEVICE = 4,  /* a block device's own cache: metadata and buffers */
	SPILLED = 8, /* set in user space: a sum of events, their number in `index` */
};

struct event {
	u64 ino;
	u64 index; /* of the first page */
	u32 dt_ns; /* since the base of the batch */
	u32 dev;   /* the kernel's dev_t: major << 20 | minor */
	u32 tgid;
	u32 tid;
	u32 pages;
	u8 kind;
	u8 flags;
	u16 call; /* READ: low bits of the number of read calls this thread has completed */
};

/* Accesses that need no event of their own: see hits(). */
struct run {
	u64 ino;
	u32 dev;
	u32 tgid;
	u32 hits;
	u32 epoch; /* of the lane when it was counted: a run of an earlier epoch is over */
};

/* Events that no ring had room for are added up by these, in pages. */
#define SPILLS
struct spill {
	u64 ino;
	u32 dev;
	u32 tgid;
	u32 kind;
	u32 flags;
};

#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <memtap/fields.h>
#include <memtap/batch.h>
#include <memtap/filter.h>
#include <memtap/position.h>
#ifdef NAME_FILES
#include <memtap/names.h>
#endif

#define TMPFS_MAGIC 0x01021994
#define S_IFMT      0170000
#define S_IFBLK     0060000
#define MOST_PAGES  (0x80000000 >> PAGE_SHIFT) /* of one read call: MAX_RW_COUNT */

/* Whose event it is, and on which file. */
struct subject {
	u64 task;
	u64 inode;
	u64 super;
	u64 ino;
	u32 dev;
	u32 tgid;
};

static inline int about(struct subject *who, u64 mapping)
{
	who->task = (u64)current_task();
	who->tgid = FIELD(who->task, task_struct, tgid);
	if (!mapping || !followed(who->task, who->tgid))
		return 0;
	who->inode = FIELD(mapping, address_space, host);
	who->super = FIELD(who->inode, inode, i_sb);
	who->ino = FIELD(who->inode, inode, i_ino);
	who->dev = FIELD(who->super, super_block, s_dev);
	return 1;
}

/* Memory that is no cache of anything: shared memory, memfd, files on tmpfs. */
static inline int is_tmpfs(struct subject *who)
{
	return FIELD(who->super, super_block, s_magic) == TMPFS_MAGIC;
}

/* A fault is one access, whatever its window. */
static inline void spill_pages(u64 ino, u32 dev, u32 tgid, struct event what)
{
	struct spill key = {
		.ino = ino, .dev = dev, .tgid = tgid, .kind = what.kind, .flags = what.flags};

	spill(&key, what.kind == MAP || what.kind == FAULT ? 1 : what.pages);
}

static inline void record(void *ctx, struct lane *lane, struct subject *who, struct event what)
{
	struct event *event = append(ctx, lane);

	if (!event) {
		spill_pages(who->ino, who->dev, who->tgid, what);
		return;
	}
	event->ino = who->ino;
	event->dev = who->dev;
	event->tgid = who->tgid;
	event->tid = FIELD(who->task, task_struct, pid);
	event->index = what.index;
	event->pages = what.pages;
	event->kind = what.kind;
	event->flags = what.flags;
	event->call = what.call;
#ifdef NAME_FILES
	name_file(ctx, lane->number, who->inode, who->ino, who->dev);
#endif
}

#ifndef ACCESS_BY_KPROBE
/*
 * A file none of whose pages is fresh can only be hit, so which pages are accessed does not
 * matter: counting is enough. `added` counts the folios that entered the cache, `settled` how
 * many of them user space knows to hold no fresh page any more; both by a hash of the file.
 * User space writes `settled`, so it lags, and a file is at worst taken to be fresh for too
 * long.
 */
struct bucket {
	u64 added;
	u64 settled;
};

#define BUCKETS 4096

BPF_F_TABLE("array", int, struct bucket, buckets, BUCKETS, BPF_F_MMAPABLE);

static inline struct bucket *bucket_of(struct subject *who)
{
	int number = (who->ino ^ who->ino >> 12 ^ who->dev) & (BUCKETS - 1);

	return buckets.lookup(&number);
}

static inline int is_settled(struct subject *who)
{
	struct bucket *bucket = bucket_of(who);

	return bucket && bucket->added == bucket->settled;
}

static inline void count_added(struct subject *who)
{
	struct bucket *bucket = bucket_of(who);

	if (bucket)
		__sync_fetch_and_add(&bucket->added, 1);
}

/* A run that must give way to another: what it counted becomes an event. */
static inline void close_run(void *ctx, struct lane *lane, struct run *run)
{
	struct event *event = append(ctx, lane);

	if (!event) {
		spill_pages(run->ino, run->dev, run->tgid,
			    (struct event){.kind = HITS, .pages = run->hits});
		return;
	}
	event->ino = run->ino;
	event->dev = run->dev;
	event->tgid = run->tgid;
	event->tid = 0;
	event->index = 0;
	event->pages = run->hits;
	event->kind = HITS;
	event->flags = 0;
	event->call = 0;
}

static inline void hits(void *ctx, struct lane *lane, struct subject *who, u32 pages)
{
	struct run *run = &lane->runs.runs[(who->ino ^ who->tgid) & (RUNS - 1)];
	u32 epoch = lane->runs.head.used + 1;

	if (run->ino == who->ino && run->dev == who->dev && run->tgid == who->tgid &&
	    run->epoch == epoch) {
		run->hits += pages;
		return;
	}
	if (run->epoch == epoch)
		close_run(ctx, lane, run);
	run->ino = who->ino;
	run->dev = who->dev;
	run->tgid = who->tgid;
	run->hits = pages;
	run->epoch = epoch;
	lane->runs.open = 1;
#ifdef NAME_FILES
	name_file(ctx, lane->number, who->inode, who->ino, who->dev);
#endif
}

/* What a thread did last; one read call, and one fault, fire their tracepoints repeatedly. */
struct call {
	u64 mapping;
	u64 first;
	u64 last;
	u64 fault_mapping;
	u64 fault_index;
	u32 reads;
	u32 faults;
};

#if HELPER(task_storage_get)
BPF_TASK_STORAGE(calls, struct call);
#else /* before 8ea636848aca */
BPF_TABLE("lru_hash", u32, struct call, calls, 16384);
#endif

/*
 * When a thread with this hash last read several pages in one call, in jiffies. A read of one
 * page can only be the end of such a call, so most need not look at their thread's storage,
 * which costs 20 ns. A call that takes longer than LONG_AGO for its next batch is miscounted.
 */
#define THREADS  4096
#define LONG_AGO 100000

BPF_ARRAY(long_reads, u64, THREADS);

static inline u64 *long_read_of(u64 task)
{
	int number = FIELD(task, task_struct, pid) & (THREADS - 1);

	return long_reads.lookup(&number);
}

/* What a thread did last, if anything. */
static inline struct call *known_call_of(u64 task)
{
#if HELPER(task_storage_get)
	return calls.task_storage_get((struct task_struct *)task, 0, 0);
#else
	u32 tid = FIELD(task, task_struct, pid);

	return calls.lookup(&tid);
#endif
}

static inline struct call *call_of(u64 task)
{
#if HELPER(task_storage_get)
	struct call *call = calls.task_storage_get((struct task_struct *)task, 0,
						   BPF_LOCAL_STORAGE_GET_F_CREATE);
#else
	struct call nothing = {};
	u32 tid = FIELD(task, task_struct, pid);
	struct call *call = calls.lookup_or_try_init(&tid, &nothing);
#endif
	if (!call)
		count(COUNT_MAP_FULL, 1);
	return call;
}

/*
 * A read of many pages fires once per folio batch: each time from a later page on, to the same
 * last page. task->ioac.syscr, which vfs_read() counts up when it is done, tells that from a
 * new read that happens to end at the same page.
 */
static inline int same_read(struct call *call, u64 mapping, u64 first, u64 last, u32 reads)
{
	int same = call->mapping == mapping && call->last == last && first > call->first &&
		   call->reads == reads;

	call->mapping = mapping;
	call->first = first;
	call->last = last;
	call->reads = reads;
	return same;
}

/*
 * A fault fires for its fault-around window, again if its page was not in there, and both once
 * more if it had to wait for the page. The kernel counts it in min_flt or maj_flt when it is
 * done.
 */
static inline u32 faults_done(u64 task)
{
	return (u32)FIELD(task, task_struct, min_flt) + (u32)FIELD(task, task_struct, maj_flt);
}

static inline int same_fault(struct call *call, u64 mapping, u32 faults)
{
	int same = call->fault_mapping == mapping && call->faults == faults;

	call->fault_mapping = mapping;
	call->faults = faults;
	return same;
}

/* Has this thread been in this very read call before? Pages are asked for from `first` on. */
static inline int is_again(u64 task, u64 mapping, u64 first, u64 last)
{
	u64 *long_read = long_read_of(task);
	u64 now = bpf_jiffies64();

	if (!long_read)
		return 0;
	if (first < last)
		*long_read = now;
	else if (now - *long_read > LONG_AGO)
		return 0;
	struct call *call = call_of(task);
	return call &&
	       same_read(call, mapping, first, last, FIELD(task, task_struct, ioac__syscr));
}

/*
 * The first page that this call asked for, given the first event it fired. If the folio that a
 * batch ends with is still being read, the kernel waits for it, hands out those before it and
 * fires nothing (filemap_get_pages() returns early); the event is of the batch after that.
 */
static inline u64 first_of_call(u64 task, u64 first)
{
	u64 position = call_position(task);

	if (position == NOWHERE || position >> PAGE_SHIFT > first ||
	    first - (position >> PAGE_SHIFT) > MOST_PAGES)
		return first;
	return position >> PAGE_SHIFT;
}

/* Of the task that runs: read calls that it has completed. */
static inline u64 reads_done(void)
{
	return FIELD((u64)current_task(), task_struct, ioac__syscr);
}

/* Pages up to the last, included, are asked for. */
static inline void asked(void *ctx, u64 mapping, u64 first, u64 last)
{
	struct subject who;

	if (!about(&who, mapping))
		return;
	u64 size = FIELD(who.inode, inode, i_size);
	if (size == 0)
		return;
	/* Bytes past the end of the file are no access; the tracepoint does not stop there. */
	if (last > (size - 1) >> PAGE_SHIFT)
		last = (size - 1) >> PAGE_SHIFT;
	if (first > last)
		return;
	struct lane *lane = enter(LANE_READ);
	if (!lane)
		return;
	int again = is_again(who.task, mapping, first, last);
	if (is_settled(&who)) {
		hits(ctx, lane, &who, again ? 0 : last - first + 1);
	} else {
		if (!again)
			first = first_of_call(who.task, first);
		record(ctx, lane, &who,
		       (struct event){.kind = READ,
				      .index = first,
				      .pages = last - first + 1,
				      .flags = again ? AGAIN : 0,
				      .call = FIELD(who.task, task_struct, ioac__syscr)});
	}
	leave(lane);
}

/* tp_btf/mm_filemap_get_pages(mapping, index, last_index): last_index is asked for too. */
int on_read(u64 *ctx)
{
	u64 what = reads_done() << 40 ^ ctx[1];

	if (claim(ctx, LANE_READ, what))
		asked(ctx, ctx[0], ctx[1], ctx[2]);
	return 0;
}

static inline void faulted(void *ctx, int number, struct subject *who, struct call *call,
			   u64 mapping, struct event what)
{
	struct lane *lane = enter(number);

	if (!lane)
		return;
	int again = same_fault(call, mapping, faults_done(who->task));
	if (is_settled(who)) {
		hits(ctx, lane, who, again ? 0 : 1);
	} else {
		what.flags = again ? AGAIN : 0;
		record(ctx, lane, who, what);
	}
	leave(lane);
}

static inline void mapped(void *ctx, u64 mapping, u64 first, u64 last)
{
	struct subject who;

	if (!about(&who, mapping) || is_tmpfs(&who))
		return;
	struct call *call = call_of(who.task);
	if (!call)
		return;
	faulted(ctx, LANE_MAP, &who, call, mapping,
		(struct event){.kind = MAP, .index = first, .pages = last - first + 1});
}

static inline int around(void *ctx, u64 mapping, u64 first, u64 last)
{
	if (claim(ctx, LANE_MAP, first))
		mapped(ctx, mapping, first, last);
	return 0;
}

/* tp_btf/mm_filemap_map_pages(mapping, start_pgoff, end_pgoff): the last page is included. */
int on_map(u64 *ctx)
{
	return around(ctx, ctx[0], ctx[1], ctx[2]);
}

static inline void wanted(void *ctx, u64 mapping, u64 index)
{
	struct subject who;

	if (!about(&who, mapping))
		return;
	struct call *call = call_of(who.task);
	if (!call)
		return;
	call->fault_index = index;
	faulted(ctx, LANE_FAULT, &who, call, mapping,
		(struct event){.kind = FAULT, .index = index, .pages = 1});
}

static inline int wants(void *ctx, u64 mapping, u64 index)
{
	if (claim(ctx, LANE_FAULT, index))
		wanted(ctx, mapping, index);
	return 0;
}

/* tp_btf/mm_filemap_fault(mapping, index): before the page is looked for, or read. */
int on_fault(u64 *ctx)
{
	return wants(ctx, ctx[0], ctx[1]);
}

/* Does the fault that this thread is in wait for a page of this folio? */
static inline int is_wanted(struct subject *who, u64 mapping, u64 index, u32 pages, u16 *offset)
{
	struct call *call = known_call_of(who->task);

	if (!call || call->fault_mapping != mapping || call->faults != faults_done(who->task) ||
	    call->fault_index - index >= pages)
		return 0;
	*offset = call->fault_index - index;
	return 1;
}

#ifdef ACCESS_BY_FUNCTIONS
static inline u64 mapping_of(u64 file)
{
	return FIELD(file, file, f_mapping);
}

static inline u64 mapping_of_fault(u64 vmf)
{
	return mapping_of(FIELD(FIELD(vmf, vm_fault, vma), vm_area_struct, vm_file));
}

/* A read has copied these bytes: all at once, where the tracepoint tells of batches. */
static inline void copied(void *ctx, int number, u64 mapping, u64 position, u64 bytes)
{
	struct subject who;
	u64 first = position >> PAGE_SHIFT, last = (position + bytes - 1) >> PAGE_SHIFT;

	if (!about(&who, mapping))
		return;
	struct lane *lane = enter(number);
	if (!lane)
		return;
	if (is_settled(&who))
		hits(ctx, lane, &who, last - first + 1);
	else
		record(ctx, lane, &who,
		       (struct event){.kind = READ,
				      .index = first,
				      .pages = last - first + 1,
				      .call = FIELD(who.task, task_struct, ioac__syscr)});
	leave(lane);
}

static inline int ended(void *ctx, int number, u64 mapping, u64 position, u64 bytes)
{
	if (claim(ctx, number, position))
		copied(ctx, number, mapping, position, bytes);
	return 0;
}

/* fexit/filemap_read(iocb, iter, already_read), generic_file_buffered_read before 5.12 */
int on_read_end(u64 *ctx)
{
	s64 bytes = ctx[3] - ctx[2];

	if ((s64)ctx[3] <= 0 || bytes <= 0)
		return 0;
	return ended(ctx, LANE_READ, mapping_of(FIELD(ctx[0], kiocb, ki_filp)),
		     FIELD(ctx[0], kiocb, ki_pos) - bytes, bytes);
}

/* fexit/filemap_splice_read(file, position, pipe, length, flags) */
int on_splice_end(u64 *ctx)
{
	s64 bytes = ctx[5];

	if (bytes <= 0)
		return 0;
	return ended(ctx, LANE_SPLICE, mapping_of(ctx[0]), PEEK_AS(u64, ctx[1], 0) - bytes,
		     bytes);
}

/* fentry/filemap_map_pages(vmf, start_pgoff, end_pgoff): there may be none of them. */
int on_map_begin(u64 *ctx)
{
	return around(ctx, mapping_of_fault(ctx[0]), ctx[1], ctx[2]);
}

/* fentry/filemap_fault(vmf) */
int on_fault_begin(u64 *ctx)
{
	return wants(ctx, mapping_of_fault(ctx[0]), FIELD(ctx[0], vm_fault, pgoff));
}
#endif
#endif

#if HAVE(folio, index)
#define folio_mapping(folio) FIELD(folio, folio, mapping)
#define folio_index(folio)   FIELD(folio, folio, index)
#define folio_flags(folio)   FIELD(folio, folio, flags)
#else
#define folio_mapping(folio) FIELD(folio, page, mapping)
#define folio_index(folio)   FIELD(folio, page, index)
#define folio_flags(folio)   FIELD(folio, page, flags)
#endif

static inline u32 folio_pages(u64 folio)
{
	if (!(folio_flags(folio) & 1UL << ENUM(pageflags, PG_head)))
		return 1;
#if HAVE(folio, _flags_1) && !HAVE(folio, _folio_order)
	return 1 << (FIELD(folio, folio, _flags_1) & 0xff);
#elif HAVE(folio, _folio_order)
	return 1 << FIELD(folio, folio, _folio_order);
#else
	return 1 << PEEK_AS(u8, folio, SIZE(page) + OFFSET(page, compound_order));
#endif
}

static inline u8 flags_of(struct subject *who)
{
	return (FIELD(who->inode, inode, i_mode) & S_IFMT) == S_IFBLK ? DEVICE : 0;
}

#ifdef ACCESS_BY_KPROBE
#define PAGE_MAPPING_FLAGS 3 /* set in folio->mapping where it is no address_space */

/*
 * kprobe/folio_mark_accessed(folio), mark_page_accessed(page) where there are no folios. This
 * is not called for each access, but it is all that is left where neither tracepoints nor
 * functions tell.
 */
int on_marked(struct pt_regs *ctx)
{
	struct subject who;
	u64 folio = PT_REGS_PARM1(ctx), mapping = folio_mapping(folio);

	if (mapping & PAGE_MAPPING_FLAGS || !about(&who, mapping) || is_tmpfs(&who))
		return 0;
	struct lane *lane = enter(LANE_READ);
	if (!lane)
		return 0;
	record(ctx, lane, &who,
	       (struct event){
		       .kind = READ, .index = folio_index(folio), .pages = folio_pages(folio)});
	leave(lane);
	return 0;
}

#endif

static inline void entered(u64 *ctx)
{
	struct subject who;
	u64 folio = ctx[0];
	u64 mapping = folio_mapping(folio);

	if (!about(&who, mapping))
		return;
	struct lane *lane = enter(LANE_ADD);
	if (!lane)
		return;
	struct event what = {.kind = ADD,
			     .index = folio_index(folio),
			     .pages = folio_pages(folio),
			     .flags = flags_of(&who)};
#ifndef ACCESS_BY_KPROBE
	if (is_wanted(&who, mapping, what.index, what.pages, &what.call))
		what.flags |= WANTED;
	count_added(&who);
#endif
	record(ctx, lane, &who, what);
	leave(lane);
}

/* tp_btf/mm_filemap_add_to_page_cache(folio) */
int on_add(u64 *ctx)
{
	if (claim(ctx, LANE_ADD, ctx[0]))
		entered(ctx);
	return 0;
}

static inline void left(u64 *ctx)
{
	struct subject who;
	u64 folio = ctx[0];

	if (!about(&who, folio_mapping(folio)) || is_tmpfs(&who))
		return;
	struct lane *lane = enter(LANE_DELETE);
	if (!lane)
		return;
	record(ctx, lane, &who,
	       (struct event){.kind = DELETE,
			      .index = folio_index(folio),
			      .pages = folio_pages(folio),
			      .flags = flags_of(&who)});
	leave(lane);
}

/* tp_btf/mm_filemap_delete_from_page_cache(folio): also fires for tmpfs, unlike add. */
int on_delete(u64 *ctx)
{
	if (claim(ctx, LANE_DELETE, ctx[0]))
		left(ctx);
	return 0;
}

static inline void dirtied(u64 *ctx)
{
	struct subject who;
	u64 folio = ctx[0];

	if (!about(&who, ctx[1]))
		return;
	struct lane *lane = enter(LANE_DIRTY);
	if (!lane)
		return;
	record(ctx, lane, &who,
	       (struct event){.kind = DIRTY,
			      .index = folio_index(folio),
			      .pages = folio_pages(folio),
			      .flags = flags_of(&who)});
	leave(lane);
}

/* tp_btf/writeback_dirty_folio(folio, mapping), writeback_dirty_page where there are no folios
 */
int on_dirty(u64 *ctx)
{
	if (claim(ctx, LANE_DIRTY, ctx[0]))
		dirtied(ctx);
	return 0;
}
