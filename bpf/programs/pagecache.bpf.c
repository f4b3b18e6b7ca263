/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The page cache: every access to it, every page that enters or leaves it, every page dirtied.
 *
 * What is counted, and why it is exact, is in docs/pagecache.md. In short: the kernel says
 * which pages a read asks for (mm_filemap_get_pages), user space keeps the pages that were
 * brought in and not asked for yet ("fresh"), and an access to a fresh page is a miss, to any
 * other a hit. enum kind and enum flag are those of tracers/pagecache/probes.py.
 */

enum {
	LANE_READ,
	LANE_SPLICE,
	LANE_MAP,
	LANE_FAULT,
	LANE_ADD,
	LANE_DELETE,
	LANE_DIRTY,
	LANE_WRITE,
	LANE_DELAYED_WRITE,
	LANE_MAPPED_WRITE,
	LANE_EMPTY,
	LANE_RING,
	LANE_DEVICE,
	LANES
};

struct event {
	u64 file;  /* see identity() */
	u64 index; /* of the first page */
	u32 dt_ns; /* since the base of the batch */
	u32 whole; /* DIRTY: pages of the folio; ADD: see WRITTEN; WRITE: see UNSURE */
	u32 tgid;
	u32 tid;
	u32 pages;
	u8 kind;
	u8 flags;
	u16 call; /* READ: low bits of the number of read calls this thread has completed;
		     DIRTY: how far into the folio `index` is */
};

/* Accesses that need no event of their own: see hits(). */
struct run {
	u64 file;
	u32 tgid;
	u32 hits;
	u32 epoch;   /* of the lane when it was counted: a run of an earlier epoch is over */
	u32 changed; /* see changed_at() of memtap/names.h */
};

/* Events that no ring had room for are added up by these, in pages. */
#define SPILLS
struct spill {
	u64 file;
	u32 tgid;
	u32 kind;
	u32 flags;
	u32 unused;
};

#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <memtap/fields.h>
#include <memtap/batch.h>
#include <memtap/filter.h>
#include <memtap/folios.h>
#ifdef ACCESS_BY_TRACEPOINTS
#include <memtap/requests.h>
#include <memtap/faulting.h>
#endif
#include <memtap/reach.h>
#ifdef NAME_FILES
#include <memtap/names.h>
#endif

#define TMPFS_MAGIC     0x01021994
#define HUGETLBFS_MAGIC 0x958458f6
#define SB_NOUSER       (1UL << 31)
#define SQUASHFS_MAGIC  0x73717368
#define RAMFS_MAGIC     0x858458f6
#define EXT4_MAGIC      0xef53
#define BTRFS_MAGIC     0x9123683e
#define FUSE_MAGIC      0x65735546
#define JBD2            0x3264626a /* "jbd2", with which the name of a journal's thread begins */
#define PF_MEMALLOC     0x800      /* reclaims memory */
#ifndef S_IFMT
#define S_IFMT 0170000
#endif
#define S_IFBLK 0060000

/* Whose event it is, and on which file. */
struct subject {
	u64 task;
	u64 inode;
	u64 super;
	u64 file;
	u32 tgid;
	u32 tid;
	int noted; /* its file is named already; its task and inode are not known any more */
};

/* A range of pages; none if `end` is not behind `first`. */
struct pages {
	u64 first;
	u64 end;
};

#define BUCKETS 4096

/*
 * A number for a file. Its inode number is not enough: subvolumes and snapshots of btrfs have
 * the same, and it is used again after the file is gone. The inode's address is no other's
 * while the inode is in memory, and generations tell those apart that had it one after the
 * other. The lowest bits are the file's bucket, which stays when the inode leaves memory and
 * is read again.
 */
static inline u64 identity(u64 inode, u64 super)
{
	u64 ino = FIELD(inode, inode, i_ino);
	u64 lasting = ino * GOLDEN + FIELD(inode, inode, i_generation);
	u64 bucket = (lasting + FIELD(super, super_block, s_dev)) * GOLDEN >> 32;
	u64 mixed = (lasting + NUMBER_OF(inode)) * GOLDEN;

	return (mixed ^ mixed >> 32) * GOLDEN & ~(u64)(BUCKETS - 1) | bucket & (BUCKETS - 1);
}

static INLINE int about(struct subject *who, u64 mapping)
{
	who->noted = 0;
	who->task = (u64)current_task();
	who->tgid = FIELD(who->task, task_struct, tgid);
	if (!mapping || !followed(who->task, who->tgid))
		return 0;
	who->inode = FIELD(mapping, address_space, host);
	who->super = FIELD(who->inode, inode, i_sb);
	who->file = identity(who->inode, who->super);
	return 1;
}

/*
 * Memory that is no cache of anything: shared memory, memfd, files on tmpfs, huge pages; and
 * what the kernel keeps for itself (SB_NOUSER): rings of io_setup(2), secret memory. Block
 * devices' own caches are kept in the same way.
 */
static INLINE int is_memory(struct subject *who)
{
	u64 magic = FIELD(who->super, super_block, s_magic);

	if (magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC)
		return 1;
	return FIELD(who->super, super_block, s_flags) & SB_NOUSER &&
	       (FIELD(who->inode, inode, i_mode) & S_IFMT) != S_IFBLK;
}

/*
 * Its readahead leaves pages behind a file's end in the cache that are never uptodate. A read
 * that goes past the end has such a page for the last of its batch, and fires nothing.
 */
static INLINE int is_squashfs(struct subject *who)
{
	return FIELD(who->super, super_block, s_magic) == SQUASHFS_MAGIC;
}

static inline int is_mapped_to_write(struct subject *who)
{
	u64 mapping = FIELD(who->inode, inode, i_mapping);

	return (int)FIELD(mapping, address_space, i_mmap_writable) > 0;
}

/* Tells the name of a file, if that is asked for and not done yet; 0 if it has to be tried
 * again. */
static inline int name(void *ctx, struct lane *lane, struct subject *who)
{
#ifdef NAME_FILES
	return name_file(ctx, lane->number, who->task, who->inode, who->file);
#else
	return 1;
#endif
}

/* A number that is another one when the file may have another name. */
static inline u32 changed(struct subject *who)
{
#ifdef NAME_FILES
	u64 changed = changed_at(who->inode);

	return changed ^ changed >> 32;
#else
	return 0;
#endif
}

/* A fault is one access, whatever its window. */
static inline void spill_pages(u64 file, u32 tgid, struct event what)
{
	struct spill key = {.file = file, .tgid = tgid, .kind = what.kind, .flags = what.flags};

	spill(&key, what.kind == MAP || what.kind == FAULT ? 1 : what.pages);
}

static INLINE void keep(void *ctx, struct lane *lane, struct subject *who, struct event what)
{
	struct event *event = append(ctx, lane);

	if (!event) {
		spill_pages(who->file, who->tgid, what);
		return;
	}
	event->file = who->file;
	event->whole = what.whole;
	event->tgid = who->tgid;
	event->tid = who->noted ? who->tid : FIELD(who->task, task_struct, pid);
	event->index = what.index;
	event->pages = what.pages;
	event->kind = what.kind;
	event->flags = what.flags;
	event->call = what.call;
}

/* The same, and the file's name if it is not known yet; long for the verifier, so keep it rare.
 */
static INLINE void record(void *ctx, struct lane *lane, struct subject *who, struct event what)
{
	keep(ctx, lane, who, what);
	name(ctx, lane, who);
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
	u64 partial; /* folios that became dirty of which not all pages were reached */
};

BPF_F_TABLE("array", int, struct bucket, buckets, BUCKETS, BPF_F_MMAPABLE);

static INLINE struct bucket *bucket_of(struct subject *who)
{
	int number = who->file & (BUCKETS - 1);

	return buckets.lookup(&number);
}

/* Not 0 if a page may be fresh; a number that says no more spares the verifier branches. */
static INLINE u64 unsettled(struct subject *who)
{
	struct bucket *bucket = bucket_of(who);

	return bucket ? bucket->added ^ bucket->settled : 1;
}

static INLINE int is_settled(struct subject *who)
{
	return !unsettled(who);
}

static INLINE void count_added(struct subject *who)
{
	struct bucket *bucket = bucket_of(who);

	if (bucket)
		__sync_fetch_and_add(&bucket->added, 1);
}

static inline void count_partial(struct subject *who)
{
	struct bucket *bucket = bucket_of(who);

	if (bucket)
		__sync_fetch_and_add(&bucket->partial, 1);
}

static inline int has_partial(struct subject *who)
{
	struct bucket *bucket = bucket_of(who);

	return bucket && bucket->partial;
}

/* A run that must give way to another: what it counted becomes an event. */
static INLINE void close_run(void *ctx, struct lane *lane, struct run *run)
{
	struct event *event = append(ctx, lane);

	if (!event) {
		spill_pages(run->file, run->tgid,
			    (struct event){.kind = HITS, .pages = run->hits});
		return;
	}
	event->file = run->file;
	event->whole = 0;
	event->tgid = run->tgid;
	event->tid = 0;
	event->index = 0;
	event->pages = run->hits;
	event->kind = HITS;
	event->flags = 0;
	event->call = 0;
}

static INLINE struct run *run_of(struct lane *lane, struct subject *who)
{
	return &lane->runs.runs[(who->file >> 12 ^ who->tgid) & (RUNS - 1)];
}

/* Is it still a run of this file by this process? */
static INLINE int is_run_of(struct run *run, struct lane *lane, struct subject *who)
{
	return run->file == who->file && run->tgid == who->tgid &&
	       run->epoch == lane->runs.head.used + 1;
}

/* Counts hits; whether the file may have a name that the run does not know: see learn(). */
static INLINE int hits(void *ctx, struct lane *lane, struct subject *who, u32 pages)
{
	struct run *run = run_of(lane, who);
	u32 epoch = lane->runs.head.used + 1;

	if (is_run_of(run, lane, who)) {
		run->hits += pages;
		return !who->noted && run->changed != changed(who);
	}
	if (run->epoch == epoch)
		close_run(ctx, lane, run);
	run->file = who->file;
	run->tgid = who->tgid;
	run->hits = pages;
	run->epoch = epoch;
	run->changed = 0;
	lane->runs.open = 1;
	return !who->noted;
}

/* Has the file's name told, and the run know it. Long for the verifier, so call it once. */
static INLINE void learn(void *ctx, struct lane *lane, struct subject *who)
{
	u32 known = name(ctx, lane, who) ? changed(who) : 0;
	struct run *run = run_of(lane, who);

	if (is_run_of(run, lane, who))
		run->changed = known;
}

/* What a thread did last; one read call, and one fault, fire their tracepoints repeatedly. */
struct progress {
	u64 mapping;
	u64 first; /* the page of its last event */
	u64 next;  /* from here on pages have not been counted yet */
	u64 id;
	u64 reads;
};

struct call {
	struct progress
		read[2]; /* of another file that is read for it, as an image of erofs is */
	u64 fault_mapping;
	u64 fault_index;
	u64 faults;
	u64 doubted; /* see doubt() */
	u64 written_mapping;
	struct reach written; /* as its file system told */
	u64 told_in;          /* see call_stamp(); 0 if it holds until it is taken back */
	u64 fails;            /* does that come to nothing? */
	struct pages claimed; /* of the folio dirtied last, as reached by `written` */
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

static INLINE u64 *long_read_of(u64 task)
{
	int number = FIELD(task, task_struct, pid) & (THREADS - 1);

	return long_reads.lookup(&number);
}

/* What a thread did last, if anything. */
static INLINE struct call *known_call_of(u64 task)
{
#if HELPER(task_storage_get)
	return calls.task_storage_get((struct task_struct *)task, 0, 0);
#else
	u32 tid = FIELD(task, task_struct, pid);

	return calls.lookup(&tid);
#endif
}

static INLINE struct call *call_of(u64 task)
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
 * A fault fires for its fault-around window, again if its page was not in there, and both once
 * more if it had to wait for the page. The kernel counts it in min_flt or maj_flt when it is
 * done.
 */
static INLINE u32 faults_done(u64 task)
{
	return (u32)FIELD(task, task_struct, min_flt) + (u32)FIELD(task, task_struct, maj_flt);
}

static INLINE int same_fault(struct call *call, u64 mapping, u32 faults)
{
	int same = call->fault_mapping == mapping && call->faults == faults;

	call->fault_mapping = mapping;
	call->faults = faults;
	return same;
}

#define XA_INTERNAL 2 /* in the lowest two bits of an entry that is a node */
#define XA_SLOTS    64
#define XA_DEPTH    8
#define XA_SIBLINGS 4096 /* a node below this is the number of the slot to look at instead */

/* What the page cache has at an index, a folio or not; 0 if nothing. */
static INLINE u64 cached_at(u64 mapping, u64 index)
{
	u64 entry = PEEK(mapping, address_space, i_pages__xa_head);

	for (int depth = 0; depth < XA_DEPTH && (entry & 3) == XA_INTERNAL; depth++) {
		u64 node = entry - XA_INTERNAL;
		u64 slot = index >> PEEK(node, xa_node, shift) & (XA_SLOTS - 1);

		entry = PEEK_AS(u64, node + slot * sizeof(u64), OFFSET(xa_node, slots));
		if ((entry & 3) == XA_INTERNAL && entry < XA_SIBLINGS)
			entry = PEEK_AS(u64, node + (entry >> 2) * sizeof(u64),
					OFFSET(xa_node, slots));
	}
	return entry & 3 ? 0 : entry;
}

#if HAVE(folio, index)
#define folio_flags_anywhere(folio) PEEK_AS(u64, folio, OFFSET(folio, flags))
#else
#define folio_flags_anywhere(folio) PEEK_AS(u64, folio, OFFSET(page, flags))
#endif

static INLINE int is_uptodate(u64 folio)
{
	return !!(folio_flags_anywhere(folio) & 1UL << ENUM(pageflags, PG_uptodate));
}

#ifdef ACCESS_BY_TRACEPOINTS
/* Can this be one of several events of a call? Those of one page each mostly are not. */
static INLINE int is_long(u64 task, u64 first, u64 last)
{
	u64 *long_read = long_read_of(task);
	u64 now = bpf_jiffies64();

	if (!long_read)
		return 0;
	if (first < last)
		*long_read = now;
	return (now - *long_read - LONG_AGO - 1) >> 63;
}

/* How many pages a mapping's folios have at least, as log2: blocks can be larger than pages. */
static INLINE u32 folio_shift(u64 mapping)
{
#ifdef ENUM_mapping_flags__AS_FOLIO_ORDER_MIN
	return FIELD(mapping, address_space, flags) >> ENUM(mapping_flags, AS_FOLIO_ORDER_MIN) &
	       31;
#else
	return 0;
#endif
}

/* Pages from..last are to be told of, if there are such. */
struct part {
	u64 from;
	u64 last;
	u64 flags;
};

/*
 * Pages first..last that were looked up, and what is known of the call that asks for them. It
 * lies in a map; see NOTED().
 */
struct lookup {
	u64 mapping;
	u64 first;
	u64 last;
	u64 end; /* the file's last page */
	struct asking asking;
	u64 reads;   /* calls that the thread has completed */
	u64 fresh;   /* not 0 if pages may be fresh */
	u64 late;    /* not 0 if the call may have begun before; see is_late() */
	u64 unsure;  /* some of its reads fire nothing at all */
	u64 way;     /* enum way */
	u64 request; /* of io_uring, if it is BY_RING */
	u64 from;    /* what is before was asked for by the same call */
	u64 before;  /* where that was, or NOWHERE */
	u64 begin;   /* see first_of_call() */
	u64 hit;     /* so many pages are hit, and no more is to be told */
	struct part now;
	struct part again;
};

BPF_PERCPU_ARRAY(lookups, struct lookup, ALL_LANES);

/*
 * Of a splice() from within a page that fills its pipe, nothing may fire; see the
 * documentation. A sendfile() goes on to what fires again.
 */
static INLINE int loses_pages(struct asking *asking, u64 task)
{
	u32 number = call_number(task);

	return asking->start % (1 << PAGE_SHIFT) && number != NR_SENDFILE &&
	       number != NR_COPY_FILE_RANGE;
}

/* 1 if they are, else 0; branches cost the verifier time. */
static INLINE u64 is_same(u64 one, u64 other)
{
	u64 difference = one ^ other;

	return ~(difference | -difference) >> 63;
}

/* How many pages from one to another are, 0 if the other is before it. */
static INLINE u64 count_of(u64 from, u64 last)
{
	u64 count = last + 1 - from;

	return count & ((count >> 63) - 1);
}

/*
 * 1 of a preadv2() that does not wait: it gets what is cached in a row, and the tracepoint
 * tells what it would have got.
 */
static INLINE u64 may_end_early(u64 task)
{
	u64 regs = user_regs(task);

	return is_same((u32)CALL_NUMBER(regs), NR_PREADV2) & CALL_ARGUMENT_5(regs) / RWF_NOWAIT;
}

/* Where a call is looked at closely, which takes time. */
static INLINE void ask_closely(struct lookup *look, u64 task, u64 mapping)
{
	struct asking *asking = &look->asking;

	ask_now(asking, NOTED(look->way), task, mapping, look->first, look->request);
	if (asking->stop != NOWHERE && folio_shift(mapping) &&
	    look->last > (asking->stop - 1) >> PAGE_SHIFT)
		look->last = (asking->stop - 1) >> PAGE_SHIFT;
	/* Of whole blocks, not all may be asked for. */
	look->unsure |= is_same(asking->stop, NOWHERE) & (folio_shift(mapping) + 31) >> 5;
	look->unsure |= asking->early;
	look->fresh |= look->unsure;
	if (asking->start == NOWHERE)
		asking->id = look->last;
	if (look->last - look->first >= asking->room) {
		look->last = look->first + asking->room - 1;
		look->unsure |= loses_pages(asking, task);
	}
	READ_AGAIN();
}

/*
 * Can a call have begun before the first page that it tells of? Also of a file none of whose
 * pages is fresh one can still be waited for: others may be bringing it in, and of a folio that
 * a write filled in part the rest may have to be read. Most calls need no more for that than
 * their arguments, and a read() of one page nothing.
 */
static INLINE u64 is_late(u64 task, u64 first, int many)
{
	u64 regs = user_regs(task), number = CALL_NUMBER(regs), place = CALL_ARGUMENT_3(regs);
	enum way way = way_of_call(task, regs);

	if (way != BY_READ)
		return way != BY_OTHER;
	if (number == NR_READ && !many && CALL_ARGUMENT_2(regs) <= 1 << PAGE_SHIFT)
		return 0;
	if (number == NR_READ || number == NR_READV || place == NOWHERE)
		place = place_at(task, CALL_ARGUMENT_0(regs));
	return place >> PAGE_SHIFT < first;
}

/* Warm reads by read() and its like need no more than to be told from one another. */
static INLINE void ask_for(struct lookup *look, u64 task, u64 mapping)
{
	struct asking *asking = &look->asking;

	if (!(look->fresh | look->late) && NOTED(look->way) == BY_READ && !folio_shift(mapping))
		*asking = (struct asking){.way = BY_READ};
	else
		ask_closely(look, task, mapping);
	READ_AGAIN();
	asking->id = asking->id << 3 | asking->way;
	if (look->last > look->end)
		look->last = look->end;
}

/*
 * A read of many pages fires once per batch of folios: each time from a later page on.
 * task->ioac.syscr, which vfs_read() counts up when it is done, tells that from a new read;
 * where nobody counts, asking->id does.
 */
static INLINE int is_same_call(struct progress *call, struct lookup *look)
{
	u64 difference = (call->mapping ^ look->mapping) | (call->reads ^ look->reads) |
			 (call->id ^ look->asking.id);

	return !difference && look->first > call->first;
}

/* Of two files that are read in one call, where it is kept how far that has come in this one.
 */
static INLINE struct progress *progress_of(struct call *call, struct lookup *look)
{
	u64 reads = is_same(call->read[0].reads, look->reads);

	return &call->read[reads & ~is_same(call->read[0].mapping, look->mapping)];
}

/* Does a call's last page, as its arguments have it, fit what was looked up? */
static INLINE int fits(struct lookup *look)
{
	u64 last = (look->asking.stop - 1) >> PAGE_SHIFT;

	if (look->asking.stop == NOWHERE)
		return 1;
	if (last > look->end)
		last = look->end;
	return look->asking.way == BY_PIPE ? last >= look->last : last == look->last;
}

/*
 * The first page that this call asked for, given the first event it fired. If the folio that a
 * batch ends with is still being read, the kernel waits for it, hands out those before it and
 * fires nothing (filemap_get_pages() returns early); the event is of the batch after that. What
 * O_DIRECT leaves to the page cache begins later than the call. Other files can be read for one
 * call: then it fits by chance only.
 */
static INLINE u64 first_of_call(struct lookup *look)
{
	u64 page = look->asking.start >> PAGE_SHIFT, file = look->asking.file;

	if (look->asking.start == NOWHERE || page > look->first || !fits(look) ||
	    PEEK(file, file, f_flags) & O_DIRECT)
		return NOWHERE;
	return page;
}

static INLINE void tell(void *ctx, struct lane *lane, struct subject *who, struct part *part)
{
	if (part->from <= part->last)
		keep(ctx, lane, who,
		     (struct event){.kind = READ,
				    .index = part->from,
				    .pages = part->last - part->from + 1,
				    .flags = part->flags,
				    .call = FIELD(who->task, task_struct, ioac__syscr)});
}

/* Is it the next event of the call that this thread is in? Notes how far that has come. */
static INLINE void follow_call(struct call *kept, struct lookup *look)
{
	look->from = look->first;
	look->before = NOWHERE;
	if (!kept)
		return;
	struct progress *call = progress_of(kept, look);
	if (is_same_call(call, look)) {
		look->from = call->next;
		look->before = call->first;
	}
	READ_AGAIN();
	call->mapping = look->mapping;
	call->first = look->first;
	call->next = look->from + count_of(look->from, look->last);
	call->id = look->asking.id;
	call->reads = look->reads;
}

/* What is asked for the first time, and all that is asked for, to have it judged. */
static INLINE void divide(struct lookup *look)
{
	u64 from = look->from, last = look->last;
	u64 settled =
		!look->fresh && (look->asking.way != BY_AIO || look->asking.start != NOWHERE);

	look->hit = 0;
	look->begin = from;
	look->now = look->again = (struct part){.from = NOWHERE};
	if (look->before == NOWHERE && (!settled || look->late))
		look->begin = first_of_call(look);
	READ_AGAIN();
	u64 begin = NOTED(look->begin), is_known = begin != NOWHERE;
	if (!is_known)
		begin = from;

	if (settled) {
		look->hit = count_of(begin, last);
	} else if (look->before == NOWHERE) {
		u64 unsure = !is_known && (from || look->asking.way == BY_AIO);

		look->now = (struct part){begin, last, unsure || look->unsure ? UNSURE : 0};
	} else {
		/* Of what came in since, a part may have been handed out without an event. */
		look->now = (struct part){from, last, 0};
		look->again = (struct part){look->before, last - count_of(from, last), AGAIN};
	}
	READ_AGAIN();
}

/* Tells what a call asks for; how many pages are hit, if no more need be told. */
static INLINE u64 tell_lookup(void *ctx, struct lane *lane, struct subject *who,
			      struct call *call, struct lookup *look)
{
	follow_call(call, look);
	READ_AGAIN();
	divide(look);
	tell(ctx, lane, who, &look->now);
	READ_AGAIN();
	tell(ctx, lane, who, &look->again);
	return NOTED(look->hit);
}

/* Of the task that runs: read calls that it has completed. */
static INLINE u64 reads_done(void)
{
	return FIELD((u64)current_task(), task_struct, ioac__syscr);
}

/* Is this thread's read told of when it is done? Then notes who it is. */
static INLINE int is_told_when_done(struct subject *who, u64 mapping)
{
	u64 flags = FIELD(who->task, task_struct, flags);
	int device = flags & PF_KTHREAD && is_in_device(flags);
	u64 key = asked_by(mapping, who->tgid & (device - 1ULL));

	if (!device && (flags & PF_KTHREAD || !is_in_ring(who->task, flags)))
		return 0;
	struct asker asker = {who->file, who->tgid, FIELD(who->task, task_struct, pid)};
	struct asker *known = askers.lookup(&key);
	if (!known || (known->file ^ asker.file) | (known->tid ^ asker.tid))
		askers.update(&key, &asker);
	return 1;
}

#if HAVE_RINGS
/* How far the requests have come that nothing is told of when they are done. */
BPF_TABLE("lru_hash", u64, struct call, silent_calls, 1024);

static INLINE struct call *silent_call_of(u64 request)
{
	struct call nothing = {};

	return silent_calls.lookup_or_try_init(&request, &nothing);
}

/* tp_btf/io_uring_submit_req(request) */
int on_ring_begin(u64 *ctx)
{
	u64 request = NUMBER_OF(ctx[0]);
	u64 *silent = silence_of(FIELD((u64)current_task(), task_struct, tgid));

	if (!silent)
		return 0;
	if (is_silent_read(request)) {
		struct call nothing = {};

		*silent = 1;
		silent_calls.update(&request, &nothing);
	} else if (*silent) {
		silent_calls.delete(&request);
	}
	return 0;
}

/* Finds a read that is not told of when it is done; 0 if it is told, NOWHERE if nobody knows.
 */
static INLINE u64 silent_request(struct lane *lane, struct subject *who, u64 mapping, u64 page,
				 u64 last)
{
	u64 *silent = silence_of(who->tgid);
	struct lookup *look = lookups.lookup(&lane->number);

	if (!silent || !*silent || !look || FIELD(who->task, task_struct, flags) & PF_KTHREAD)
		return 0;
	u64 request = ring_request(&look->asking, who->task, mapping, page, last,
				   1 << folio_shift(mapping));
	if (!request)
		return NOWHERE;
	return is_silent_read(request) ? request : 0;
}
#else
#define silent_call_of(request)                        NULL
#define silent_request(lane, who, mapping, page, last) 0
#endif

/* Where it is kept how far this lookup's call has come. */
static INLINE struct call *call_of_lookup(struct lookup *look, u64 task, int many)
{
	if (NOTED(look->way) == BY_RING)
		return silent_call_of(look->request);
	return many ? call_of(task) : NULL;
}

/* Which of these pages are asked for? Tells it; or how many are hit, if no more need be told.
 */
static INLINE u64 look_closely(void *ctx, struct lane *lane, struct subject *who, u64 mapping,
			       struct lookup what, int many)
{
	struct lookup *look = lookups.lookup(&lane->number);

	if (!look)
		return 0;
	look->mapping = mapping;
	look->first = what.first;
	look->last = what.last;
	look->end = what.end;
	what.unsure |= may_end_early(who->task);
	look->fresh = what.fresh | what.unsure;
	look->late = what.late;
	look->unsure = what.unsure;
	look->request = what.request;
	look->reads = what.request ? 0 : FIELD(who->task, task_struct, ioac__syscr);
	look->way = what.request ? BY_RING : call_way(who->task);
	READ_AGAIN();
	ask_for(look, who->task, mapping);
	return tell_lookup(ctx, lane, who, call_of_lookup(look, who->task, many), look);
}

/* Pages up to the last, included, are asked for. */
static INLINE void asked(void *ctx, u64 mapping, u64 first, u64 last)
{
	struct subject who;

	if (!about(&who, mapping))
		return;
	u64 size = FIELD(who.inode, inode, i_size);
	/* Bytes past the end of the file are no access; the tracepoint does not stop there. */
	u64 end = (size - 1) >> PAGE_SHIFT;
	if (size == 0 || first > end)
		return;
	struct lane *lane = enter(LANE_READ);
	if (!lane)
		return;
	u64 fresh = unsettled(&who);
	int many = is_long(who.task, first, last);
	NOTED(lane->state[0]) = fresh || !first ? 0 : is_late(who.task, first, many);
	u64 late = NOTED(lane->state[0]);         /* the verifier need not follow how */
	NOTED(lane->state[0]) = last - first + 1; /* so many are hit */
	NOTED(lane->state[1]) = 0;                /* the request that asks for them */
	int told = is_told_when_done(&who, mapping);
	if (told)
		NOTED(lane->state[1]) = silent_request(lane, &who, mapping, first, last);
	if (told && NOTED(lane->state[1]) == NOWHERE) {
		keep(ctx, lane, &who, (struct event){.kind = HITS, .flags = UNSURE});
		NOTED(lane->state[1]) = 0;
	}
	if (told && !NOTED(lane->state[1]))
		NOTED(lane->state[0]) = 0;
	else if (fresh | many | late | NOTED(lane->state[1]))
		NOTED(lane->state[0]) =
			look_closely(ctx, lane, &who, mapping,
				     (struct lookup){.first = first,
						     .last = last,
						     .end = end,
						     .fresh = fresh,
						     .late = late,
						     .request = NOTED(lane->state[1]),
						     .unsure = is_squashfs(&who) |
							       THREAD_IS_32_BIT(who.task)},
				     many | late);
	if (!NOTED(lane->state[0]) || hits(ctx, lane, &who, NOTED(lane->state[0])))
		learn(ctx, lane, &who);
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

/*
 * Without readahead, and where memory is short, a call itself makes the folio that it needs
 * (filemap_create_folio()), and fires nothing else. Readahead does so in memalloc_nofs_save().
 */
static INLINE void created(void *ctx, struct lane *lane, struct subject *who, u64 mapping,
			   u64 index, u64 last)
{
	if (FIELD(who->task, task_struct, flags) & PF_MEMALLOC_NOFS ||
	    is_told_when_done(who, mapping))
		return;
	struct lookup *look = lookups.lookup(&lane->number);
	if (!look)
		return;
	NOTED(look->way) = call_way(who->task);
	if (is_reading_32(who->task)) /* what it asks for is not looked at */
		keep(ctx, lane, who, (struct event){.kind = HITS, .flags = UNSURE});
	if (NOTED(look->way) != BY_READ && NOTED(look->way) != BY_PIPE)
		return;
	look->mapping = mapping;
	look->first = index;
	look->last = last;
	look->end = (FIELD(who->inode, inode, i_size) - 1) >> PAGE_SHIFT;
	look->reads = FIELD(who->task, task_struct, ioac__syscr);
	look->fresh = 1;
	look->late = 0;
	look->unsure = 0;
	look->request = 0;
	ask_for(look, who->task, mapping);
	if (file_mapping(look->asking.file) != mapping)
		return;
	if (NOTED(look->way) == BY_READ && look->asking.stop != NOWHERE)
		look->last = (look->asking.stop - 1) >> PAGE_SHIFT;
	if (look->last > look->end)
		look->last = look->end;
	if (index < look->asking.start >> PAGE_SHIFT)
		look->first = look->asking.start >> PAGE_SHIFT;
	READ_AGAIN();
	tell_lookup(ctx, lane, who, call_of(who->task), look);
}

/*
 * A request has read these bytes of the file that its mapping's asker looks up; with flags it
 * is not known how.
 */
static INLINE void done(void *ctx, int number, struct subject *who, u64 position, u64 bytes,
			u8 flags)
{
	u64 first = position >> PAGE_SHIFT, last = (position + bytes - 1) >> PAGE_SHIFT;
	struct lane *lane = enter(number);

	if (!lane)
		return;
	if (!flags && is_settled(who))
		hits(ctx, lane, who, last - first + 1);
	else
		keep(ctx, lane, who,
		     (struct event){.kind = READ,
				    .index = first,
				    .pages = last - first + 1,
				    .flags = OVER | flags});
	leave(lane);
}

static INLINE int asked_before(struct subject *who, u64 mapping, u32 tgid)
{
	u64 key = asked_by(mapping, tgid);
	struct asker *asker = askers.lookup(&key);

	if (!asker)
		return 0;
	*who = (struct subject){
		.file = asker->file, .tgid = asker->tgid, .tid = asker->tid, .noted = 1};
	return 1;
}

/*
 * Who looks up this file's pages. A file on overlayfs has none, but keeps the file below it, or
 * a struct ovl_file that begins with that. What others keep finds nobody.
 */
static INLINE int asked_of(struct subject *who, u64 file, u32 tgid)
{
	u64 kept = PEEK(file, file, private_data);

	return asked_before(who, file_mapping(file), tgid) ||
	       asked_before(who, file_mapping(PEEK_AS(u64, kept, 0)), tgid) ||
	       asked_before(who, file_mapping(kept), tgid);
}

#if HAVE_RINGS
/*
 * What is not known of a read that is done; -1 if it asked the page cache for nothing. O_DIRECT
 * falls back to that on btrfs, for what is compressed. What RWF_DONTCACHE has read has left.
 */
static INLINE int doubts(u32 flags, u64 file)
{
	u64 super = PEEK(PEEK(file, file, f_inode), inode, i_sb);

	if (flags & IOCB_DIRECT)
		return PEEK(super, super_block, s_magic) == BTRFS_MAGIC ? AGAIN | UNSURE : -1;
	return flags & IOCB_DONTCACHE ? UNSURE : 0;
}

static INLINE void ring_read(void *ctx, u64 request)
{
	u64 rw = request + OFFSET(io_kiocb, cmd);
	u64 file = PEEK(rw, io_rw, kiocb__ki_filp);
	s32 bytes = PEEK(request, io_kiocb, cqe__res);
	struct subject who;
	int flags = doubts(PEEK(rw, io_rw, kiocb__ki_flags), file);

	if (bytes <= 0 || flags < 0 || silent_calls.lookup(&request) ||
	    !asked_of(&who, file, asking_tgid(request)))
		return;
	done(ctx, LANE_RING, &who, PEEK(rw, io_rw, kiocb__ki_pos) - bytes, bytes, flags);
}

/* tp_btf/io_uring_complete(ring, request, ...): a request that has its result. */
int on_ring_end(u64 *ctx)
{
	u64 request = ctx[1];

	if (request && is_read(PEEK(request, io_kiocb, opcode)) &&
	    claim(ctx, LANE_RING, request))
		ring_read(ctx, request);
	return 0;
}
#endif

#if HAVE_DEVICES
static INLINE void device_read(void *ctx, u64 request, u64 bytes)
{
	u64 queue = FIELD(request, request, q);
	u64 disk = FIELD(queue, request_queue, disk);
	u64 loop = FIELD(disk, gendisk, private_data);
	struct subject who;

	if (PEEK(loop, loop_device, lo_flags) & LOOP_DIRECT_IO ||
	    !asked_of(&who, PEEK(loop, loop_device, lo_backing_file), 0))
		return;
	done(ctx, LANE_DEVICE, &who,
	     (FIELD(request, request, __sector) << 9) + PEEK(loop, loop_device, lo_offset),
	     bytes, 0);
}

/* tp_btf/block_rq_complete(request, error, bytes): all of it, or a first part. */
int on_device_end(u64 *ctx)
{
	u64 request = ctx[0];
	u64 queue = FIELD(request, request, q);
	u64 disk = FIELD(queue, request_queue, disk);

	if (!disk || FIELD(disk, gendisk, major) != LOOP_MAJOR || ctx[1] ||
	    FIELD(request, request, cmd_flags) & REQ_OP_BITS)
		return 0;
	if (claim(ctx, LANE_DEVICE, request))
		device_read(ctx, request, (u32)ctx[2]);
	return 0;
}
#endif

#endif

/* Which page is a fault for that maps those around it? NOWHERE if nobody has told yet. */
static INLINE void find_wanted(void *ctx, int lane, struct subject *who, struct event *what,
			       u64 page)
{
#ifdef ACCESS_BY_TRACEPOINTS
	page = fault_page(ctx, lane, who->task, what->index, what->index + what->pages - 1);
#endif
	if (page - what->index >= what->pages) {
		what->flags |= UNSURE;
		return;
	}
	what->flags |= WANTED;
	what->call = page - what->index;
}

/*
 * A store through a mapping to a folio that is dirty already fires nothing. So from the first
 * fault on, after which it can be reached, it is not known of a file's folios of which not all
 * pages were, whether they are by now. A thread tells that once, until there are more of them.
 */
static INLINE void doubt(void *ctx, struct lane *lane, struct subject *who, struct call *call)
{
	struct bucket *bucket = bucket_of(who);

	if (!bucket || !bucket->partial || !is_mapped_to_write(who))
		return;
	u64 now = who->file + bucket->partial;
	if (call->doubted == now)
		return;
	call->doubted = now;
	keep(ctx, lane, who, (struct event){.kind = WRITE, .flags = UNSURE, .whole = ~0U});
}

static INLINE void faulted(void *ctx, int number, struct subject *who, struct call *call,
			   u64 mapping, u64 page, struct event what)
{
	struct lane *lane = enter(number);

	if (!lane)
		return;
	doubt(ctx, lane, who, call);
	int again = same_fault(call, mapping, faults_done(who->task)), learns = 1;
	if (is_settled(who)) {
		learns = hits(ctx, lane, who, again ? 0 : 1);
	} else {
		what.flags = again ? AGAIN : 0;
		if (what.kind == MAP)
			find_wanted(ctx, lane->number, who, &what, page);
		keep(ctx, lane, who, what);
	}
	if (learns)
		learn(ctx, lane, who);
	leave(lane);
}

static INLINE void mapped(void *ctx, u64 mapping, u64 first, u64 last, u64 page)
{
	struct subject who;

	if (!about(&who, mapping) || is_memory(&who))
		return;
	struct call *call = call_of(who.task);
	if (!call)
		return;
	faulted(ctx, LANE_MAP, &who, call, mapping, page,
		(struct event){.kind = MAP, .index = first, .pages = last - first + 1});
}

static INLINE int around(void *ctx, u64 mapping, u64 first, u64 last, u64 page)
{
	if (claim(ctx, LANE_MAP, first))
		mapped(ctx, mapping, first, last, page);
	return 0;
}

/* tp_btf/mm_filemap_map_pages(mapping, start_pgoff, end_pgoff): the last page is included. */
int on_map(u64 *ctx)
{
	return around(ctx, ctx[0], ctx[1], ctx[2], ~0ULL);
}

static INLINE void wanted(void *ctx, u64 mapping, u64 index)
{
	struct subject who;

	if (!about(&who, mapping) || is_memory(&who))
		return;
	struct call *call = call_of(who.task);
	if (!call)
		return;
	call->fault_index = index;
	faulted(ctx, LANE_FAULT, &who, call, mapping, index,
		(struct event){.kind = FAULT, .index = index, .pages = 1});
}

static INLINE int wants(void *ctx, u64 mapping, u64 index)
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
static INLINE int is_wanted(struct subject *who, u64 mapping, u64 index, u32 pages, u16 *offset)
{
	struct call *call = known_call_of(who->task);

	if (!call || call->fault_mapping != mapping || call->faults != faults_done(who->task) ||
	    call->fault_index - index >= pages)
		return 0;
	*offset = call->fault_index - index;
	return 1;
}

#ifdef ACCESS_BY_FUNCTIONS
static INLINE u64 mapping_of(u64 file)
{
	return FIELD(file, file, f_mapping);
}

static INLINE u64 mapping_of_fault(u64 vmf)
{
	return mapping_of(FIELD(FIELD(vmf, vm_fault, vma), vm_area_struct, vm_file));
}

/* A read has copied these bytes: all at once, where the tracepoint tells of batches. */
static INLINE void copied(void *ctx, int number, u64 mapping, u64 position, u64 bytes)
{
	struct subject who;
	u64 first = position >> PAGE_SHIFT, last = (position + bytes - 1) >> PAGE_SHIFT;

	if (!about(&who, mapping))
		return;
	struct lane *lane = enter(number);
	if (!lane)
		return;
	int learns = 1;
	if (is_settled(&who))
		learns = hits(ctx, lane, &who, last - first + 1);
	else
		keep(ctx, lane, &who,
		     (struct event){.kind = READ,
				    .index = first,
				    .pages = last - first + 1,
				    .flags = OVER});
	if (learns)
		learn(ctx, lane, &who);
	leave(lane);
}

static INLINE int ended(void *ctx, int number, u64 mapping, u64 position, u64 bytes)
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
	return around(ctx, mapping_of_fault(ctx[0]), ctx[1], ctx[2],
		      FIELD(ctx[0], vm_fault, pgoff));
}

/* fentry/filemap_fault(vmf) */
int on_fault_begin(u64 *ctx)
{
	return wants(ctx, mapping_of_fault(ctx[0]), FIELD(ctx[0], vm_fault, pgoff));
}
#endif
#endif

static INLINE u8 flags_of(struct subject *who)
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

	if (mapping & PAGE_MAPPING_FLAGS || !about(&who, mapping) || is_memory(&who))
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

/* Pages that are reached, if only in part. */
static inline struct pages touched(struct reach reach)
{
	return (struct pages){reach.start >> PAGE_SHIFT,
			      (reach.end + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT};
}

/* Pages that are reached as a whole. */
static inline struct pages filled(struct reach reach)
{
	return (struct pages){(reach.start + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT,
			      reach.end >> PAGE_SHIFT};
}

static inline struct pages common(struct pages one, struct pages other)
{
	return (struct pages){one.first > other.first ? one.first : other.first,
			      one.end < other.end ? one.end : other.end};
}

/* The pages of a folio; for a folio that is being dealt with. */
static inline struct pages pages_of(u64 folio)
{
	u64 first = folio_index(folio);

	return (struct pages){first, first + folio_pages(folio)};
}

#ifndef ACCESS_BY_KPROBE
/*
 * A number for what a task is doing: another one in its next call, or once it has waited. Only
 * so what a write has told can be taken for what dirties the folio now, and not for an earlier
 * one: a page of which a part is zeroed becomes dirty, too, by truncate() or a write behind it.
 */
static inline u64 call_stamp(u64 task)
{
	u64 calls = FIELD(task, task_struct, ioac__syscw) << 32 | call_number(task);

	return (calls ^ (u64)FIELD(task, task_struct, nvcsw) * GOLDEN) | 1;
}

/* The write that the task is at, if its file system has told what that reaches. */
static inline struct call *told_write(struct subject *who, u64 mapping)
{
	struct call *call = known_call_of(who->task);

	if (!call || call->written_mapping != mapping || call_number(who->task) == IN_FAULT)
		return NULL;
	return !call->told_in || call->told_in == call_stamp(who->task) ? call : NULL;
}
#endif

/* What the write that the task is in reaches; `told` if its file system says so. */
static inline struct reach reach_of(struct subject *who, u64 mapping, int *told)
{
	*told = 0;
#ifndef ACCESS_BY_KPROBE
	struct call *call = told_write(who, mapping);

	if (call) {
		*told = 1;
		return call->written;
	}
#endif
	return reach_by_call(who->task, NUMBER_OF(who->inode));
}

/* Does this folio come from no storage, whoever brings it in? */
static inline int has_no_storage(struct subject *who, struct pages folio)
{
	u64 magic = FIELD(who->super, super_block, s_magic);

	/* What ext4 keeps in the inode is never dirty. */
	return magic == RAMFS_MAGIC ||
	       magic == EXT4_MAGIC &&
		       folio.first << PAGE_SHIFT >= FIELD(who->inode, inode, i_size);
}

/*
 * Is this written through FUSE by a call of which it is not known how far it goes: one of many
 * parts, of a 32-bit program, or of io_uring? Readahead does what it does in
 * memalloc_nofs_save().
 */
static inline int is_of_unknown_write(struct subject *who)
{
	u64 flags = FIELD(who->task, task_struct, flags);
	u32 number = call_number(who->task);

	if (FIELD(who->super, super_block, s_magic) != FUSE_MAGIC || flags & PF_MEMALLOC_NOFS)
		return 0;
	return number == NR_WRITEV || number == NR_PWRITEV || number == NR_PWRITEV2 ||
	       THREAD_IS_32_BIT(who->task) || flags & PF_IO_WORKER;
}

/*
 * Pages that a write brings into the cache as wholes come from no storage, and where there is
 * no storage none does.
 */
static inline void note_written(struct event *what, struct subject *who, struct pages folio)
{
	struct reach reach = reach_by_call(who->task, NUMBER_OF(who->inode));
	struct pages full = common(folio, filled(reach));

	if (!reach.end && is_of_unknown_write(who)) {
		what->flags |= WRITTEN | UNSURE;
		return;
	}
	if (has_no_storage(who, folio))
		full = folio;
	if (full.first >= full.end)
		return;
	what->flags |= WRITTEN;
	what->call = full.first - folio.first;
	what->whole = full.end - full.first;
}

static INLINE void entered(u64 *ctx)
{
	struct subject who;
	u64 folio = ctx[0];
	u64 mapping = folio_mapping(folio);

	if (!about(&who, mapping) || is_memory(&who))
		return;
	struct lane *lane = enter(LANE_ADD);
	if (!lane)
		return;
	struct pages pages = pages_of(folio);
	struct event what = {.kind = ADD,
			     .index = pages.first,
			     .pages = pages.end - pages.first,
			     .flags = flags_of(&who) | (is_squashfs(&who) ? UNSURE : 0)};
	note_written(&what, &who, pages);
#ifndef ACCESS_BY_KPROBE
	if (!(what.flags & WRITTEN) &&
	    is_wanted(&who, mapping, what.index, what.pages, &what.call))
		what.flags |= WANTED;
	count_added(&who);
#endif
	keep(ctx, lane, &who, what);
#ifdef ACCESS_BY_TRACEPOINTS
	created(ctx, lane, &who, mapping, pages.first, pages.end - 1);
#endif
	name(ctx, lane, &who);
	leave(lane);
}

/* tp_btf/mm_filemap_add_to_page_cache(folio) */
int on_add(u64 *ctx)
{
	if (claim(ctx, LANE_ADD, ctx[0]))
		entered(ctx);
	return 0;
}

#define MADV_REMOVE 9
#define BLKFLSBUF   0x1261

/* Does the call that the task is in take content away, or put other content in its place? */
static inline int takes_content(u64 task)
{
	u64 regs = user_regs(task);

#ifdef ACCESS_BY_TRACEPOINTS
	u64 flags = FIELD(task, task_struct, flags);

	if (flags & PF_KTHREAD)
		return is_in_device(flags); /* whose discards punch holes */
#if HAVE_RINGS
	if (flags & PF_IO_WORKER)
		return PEEK(worker_request(task), io_kiocb, opcode) == RING_FALLOCATE;
#endif
#endif
	switch ((u32)CALL_NUMBER(regs)) {
	case NR_FALLOCATE:
	case NR_COPY_FILE_RANGE: /* extents become shared */
		return 1;
	case NR_MADVISE:
		return CALL_ARGUMENT_2(regs) == MADV_REMOVE;
	case NR_IOCTL: /* FICLONE, BLKDISCARD and their like */
		return (u32)CALL_ARGUMENT_1(regs) != BLKFLSBUF;
	}
	return 0;
}

/*
 * Does this page leave because the file is truncated, a hole is punched, or its last name and
 * its last user are gone? Else what it holds is still there to be read: the kernel wanted the
 * memory back (PF_MEMALLOC), or somebody asked it to forget (drop_caches, POSIX_FADV_DONTNEED).
 */
static inline int is_removed(struct subject *who, u64 index)
{
	if (FIELD(who->task, task_struct, flags) & PF_MEMALLOC)
		return 0;
	if (!FIELD(who->inode, inode, i_nlink) && !(u32)FIELD(who->inode, inode, i_count))
		return 1;
	return index << PAGE_SHIFT >= FIELD(who->inode, inode, i_size) ||
	       takes_content(who->task);
}

#ifdef ACCESS_BY_TRACEPOINTS
/*
 * With RWF_DONTCACHE a read drops pages as soon as it has copied them; if that is before an
 * event of it has judged them, it is now.
 */
static INLINE void dropped_behind(void *ctx, struct lane *lane, struct subject *who,
				  u64 mapping, struct pages pages)
{
	struct lookup *look = lookups.lookup(&lane->number);

	if (!look || FIELD(who->task, task_struct, flags) & PF_MEMALLOC ||
	    call_number(who->task) != NR_PREADV2)
		return;
	ask_call(&look->asking, BY_READ, who->task, mapping, pages.first);
	if (look->asking.start == NOWHERE || look->asking.stop == NOWHERE)
		return;
	look->again = (struct part){pages.first, pages.end - 1, AGAIN};
	if (look->again.from < look->asking.start >> PAGE_SHIFT)
		look->again.from = look->asking.start >> PAGE_SHIFT;
	if (look->again.last > (look->asking.stop - 1) >> PAGE_SHIFT)
		look->again.last = (look->asking.stop - 1) >> PAGE_SHIFT;
	READ_AGAIN();
	tell(ctx, lane, who, &look->again);
}
#else
#define dropped_behind(ctx, lane, who, mapping, pages)
#endif

static inline void left(u64 *ctx)
{
	struct subject who;
	u64 folio = ctx[0];

	if (!about(&who, folio_mapping(folio)) || is_memory(&who))
		return;
	struct lane *lane = enter(LANE_DELETE);
	if (!lane)
		return;
	u64 index = folio_index(folio);
	dropped_behind(ctx, lane, &who, folio_mapping(folio), pages_of(folio));
	record(ctx, lane, &who,
	       (struct event){.kind = DELETE,
			      .index = index,
			      .pages = folio_pages(folio),
			      .flags = flags_of(&who) |
				       (is_removed(&who, index) ? REMOVED : 0)});
	leave(lane);
}

/* tp_btf/mm_filemap_delete_from_page_cache(folio) */
int on_delete(u64 *ctx)
{
	if (claim(ctx, LANE_DELETE, ctx[0]))
		left(ctx);
	return 0;
}

/* The page of a folio that a store through a mapping reaches: its first, if it is not known. */
static inline u64 stored_to(struct subject *who, u64 mapping, struct pages folio)
{
#ifndef ACCESS_BY_KPROBE
	u16 offset;

	if (is_wanted(who, mapping, folio.first, folio.end - folio.first, &offset))
		return folio.first + offset;
#endif
	return folio.first;
}

/*
 * Which pages of a folio were reached when it became dirty. All of them, where one is all;
 * those of the write, where that is known; else one, as a store through a mapping reaches, and
 * the rest is not sure.
 */
static inline struct pages reached(struct subject *who, u64 mapping, struct pages folio,
				   u8 *flags)
{
	int told;

	if (folio.end - folio.first == 1)
		return folio;
	struct pages pages = common(folio, touched(reach_of(who, mapping, &told)));
	if (pages.first >= pages.end) {
		u64 page = stored_to(who, mapping, folio);

		told = 0;
		pages = (struct pages){page, page + 1};
	}
	if (!told || is_mapped_to_write(who))
		*flags |= UNSURE;
	return pages;
}

/* Remembers what the folio dirtied last is said to be reached of, to take it back; see SHORT.
 */
static inline void claim_pages(struct subject *who, u64 mapping, struct pages pages, u8 flags)
{
#ifndef ACCESS_BY_KPROBE
	struct call *call = told_write(who, mapping);

	if (call)
		call->claimed = flags & UNSURE ? (struct pages){} : pages;
#endif
}

/* Does the write that the task is in take this page away again, which it could not fill? */
static inline int is_taken_back(struct subject *who, u64 mapping)
{
#ifndef ACCESS_BY_KPROBE
	struct call *call = told_write(who, mapping);

	return call && call->fails;
#else
	return 0;
#endif
}

/*
 * Is this the journal of ext4, which with data=journal makes pages dirty once more when it has
 * written them?
 */
static inline int is_journal(struct subject *who)
{
	return FIELD(who->task, task_struct, flags) & PF_KTHREAD &&
	       FIELD_AS(u32, who->task, OFFSET(task_struct, comm)) == JBD2;
}

static inline void dirtied(u64 *ctx)
{
	struct subject who;
	struct pages folio = pages_of(ctx[0]);
	struct event what = {.kind = DIRTY, .whole = folio.end - folio.first};

	if (!about(&who, ctx[1]))
		return;
	struct lane *lane = enter(LANE_DIRTY);
	if (!lane)
		return;
	what.flags = flags_of(&who);
	/* Of what is taken back, what stays dirty is reached by the next try. */
	struct pages pages = {folio.first, folio.first};
	if (!is_taken_back(&who, ctx[1]) && (what.flags & DEVICE || !is_journal(&who))) {
		pages = reached(&who, ctx[1], folio, &what.flags);
		claim_pages(&who, ctx[1], pages, what.flags);
	}
	what.index = pages.first;
	what.pages = pages.end - pages.first;
	what.call = pages.first - folio.first;
#ifndef ACCESS_BY_KPROBE
	if (what.pages < what.whole)
		count_partial(&who);
#endif
	record(ctx, lane, &who, what);
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

#ifndef ACCESS_BY_KPROBE
/*
 * A folio becomes dirty once, and later writes to other pages of it fire no tracepoint of the
 * page cache. So file systems that have large folios are asked what they write: it tells which
 * pages of a folio that becomes dirty were reached, and where there are folios of which not all
 * were, which are reached later.
 */

static INLINE void keep_write(void *ctx, struct lane *lane, struct subject *who,
			      struct pages pages, u8 flags)
{
	if (pages.first < pages.end)
		keep(ctx, lane, who,
		     (struct event){.kind = WRITE,
				    .index = pages.first,
				    .pages = pages.end - pages.first,
				    .flags = flags});
}

/* Tells of pages that were reached, and of those that were said to be and were not. */
static inline void tell_write(void *ctx, int number, struct subject *who, struct pages reached,
			      struct pages missed)
{
	struct lane *lane;

	if (reached.first >= reached.end && missed.first >= missed.end)
		return;
	lane = enter(number);
	if (!lane)
		return;
	keep_write(ctx, lane, who, missed, SHORT);
	keep_write(ctx, lane, who, reached, 0);
	name(ctx, lane, who);
	leave(lane);
}

static inline void note_reach(struct call *call, u64 mapping, struct reach reach, u64 stamp)
{
	call->written_mapping = mapping;
	call->written = reach;
	call->told_in = stamp;
	call->fails = 0;
	call->claimed = (struct pages){};
}

static inline int is_dirty_at(u64 mapping, u64 index)
{
	u64 folio = cached_at(mapping, index);

	return folio && folio_flags_anywhere(folio) & 1UL << ENUM(pageflags, PG_dirty);
}

/*
 * Does a chunk end behind the end of the file, of which only a part was copied into a folio
 * that is not up to date, as the rest of the program's buffer had still to be brought in?
 * block_write_end() zeroes and dirties what is new in the folio; ext4_truncate_failed_write()
 * takes that away again, and the rest of the folio is clean then, unless it was in a hole; and
 * the kernel tries once more.
 */
static inline int fails(u64 *ctx, u64 mapping)
{
	u64 start = ctx[1];

	if ((u32)ctx[3] >= (u32)ctx[2] || start + (u32)ctx[2] <= FIELD(ctx[0], inode, i_size))
		return 0;
	u64 folio = cached_at(mapping, start >> PAGE_SHIFT);
	return folio && !is_uptodate(folio);
}

/* The data of a chunk in one folio has been copied, and the folio is dirtied next. */
static inline int copied_in(u64 *ctx, int number)
{
	struct subject who;
	struct reach reach = {ctx[1], ctx[1] + (u32)ctx[3]};
	u64 mapping = FIELD(ctx[0], inode, i_mapping);

	if (!about(&who, mapping))
		return 0;
	struct call *call = call_of(who.task);
	if (call) {
		note_reach(call, mapping, reach, call_stamp(who.task));
		call->fails = number == LANE_WRITE && fails(ctx, mapping);
	}
	if (has_partial(&who) && is_dirty_at(mapping, reach.start >> PAGE_SHIFT))
		tell_write(ctx, number, &who, touched(reach), (struct pages){});
	return 0;
}

/* tp_btf/ext4_write_end(inode, position, length, copied) */
int on_write(u64 *ctx)
{
	return claim(ctx, LANE_WRITE, ctx[1]) ? copied_in(ctx, LANE_WRITE) : 0;
}

/* tp_btf/ext4_da_write_end(inode, position, length, copied) */
int on_delayed_write(u64 *ctx)
{
	return claim(ctx, LANE_DELAYED_WRITE, ctx[1]) ? copied_in(ctx, LANE_DELAYED_WRITE) : 0;
}

/*
 * The file is cut, or gets a hole, in the middle of a folio. If that is dirty it stays as it
 * is, but of its pages that the file has no more the blocks are clean.
 */
static inline void emptied(u64 *ctx, u64 folio, struct pages pages)
{
	struct subject who;

	if (!about(&who, folio_mapping(folio)))
		return;
	struct lane *lane = enter(LANE_EMPTY);
	if (!lane)
		return;
	keep(ctx, lane, &who,
	     (struct event){.kind = WRITE,
			    .index = pages.first,
			    .pages = pages.end - pages.first,
			    .flags = EMPTIED});
	count_partial(&who); /* nobody writes to the file meanwhile */
	leave(lane);
}

/* tp_btf/ext4_invalidate_folio(folio, offset, length) */
int on_empty(u64 *ctx)
{
	u64 folio = ctx[0], start = (folio_index(folio) << PAGE_SHIFT) + ctx[1];
	struct pages pages = filled((struct reach){start, start + ctx[2]});
	u64 dirty = folio_flags_anywhere(folio) >> ENUM(pageflags, PG_dirty) & 1;

	/* Some of its pages, and not all */
	if (pages.end - pages.first - 1 < (folio_pages(folio) - 1) * dirty &&
	    claim(ctx, LANE_EMPTY, start))
		emptied(ctx, folio, pages);
	return 0;
}

#if HAVE(iomap_iter, flags)
#define IOMAP_WRITE   1
#define IOMAP_ZERO    2
#define IOMAP_FAULT   8
#define IOMAP_DIRECT  16
#define IOMAP_UNSHARE 128

/* The part of an iteration that was done since the last time. */
static inline struct reach done_of(u64 iter)
{
	u64 position = FIELD(iter, iomap_iter, pos);
#if HAVE(iomap_iter, iter_start_pos) && !HAVE(iomap_iter, processed)
	return (struct reach){FIELD(iter, iomap_iter, iter_start_pos), position};
#else /* before d9dc477ff6a2 */
	s64 done = FIELD(iter, iomap_iter, processed);

	return (struct reach){position, position + (done > 0 ? done : 0)};
#endif
}

/* Is this the end of the iteration? What was done is then all that it comes to. */
static inline int is_last_part(u64 iter, struct reach done)
{
#if HAVE(iomap_iter, status) /* since which an error can follow what was done */
	if ((s32)FIELD(iter, iomap_iter, status) < 0)
		return 1;
#endif
	return done.start == done.end;
}

/*
 * A folio that becomes dirty is taken to be reached as far as the write goes. If the program's
 * buffer ends before, or the disk is full, that was too much: so many pages are taken back.
 */
static inline struct pages missed_by(struct call *call, u64 end)
{
	struct pages rest = call->claimed;
	u64 reached = (end + (1 << PAGE_SHIFT) - 1) >> PAGE_SHIFT;

	if (rest.first < reached)
		rest.first = reached;
	return rest;
}

static inline void iterated(u64 *ctx)
{
	struct subject who;
	u64 position = FIELD(ctx[0], iomap_iter, pos);
	u64 mapping = FIELD(FIELD(ctx[0], iomap_iter, inode), inode, i_mapping);
	struct reach rest = {position, position + FIELD(ctx[0], iomap_iter, len)};

	if (!about(&who, mapping))
		return;
	struct call *call = call_of(who.task);
	if (!call)
		return;
	if (FIELD(ctx[0], iomap_iter, iomap__length)) { /* it has begun */
		struct reach done = done_of(ctx[0]);
		struct pages missed = missed_by(call, done.end), reached = {};

		if (missed.first < missed.end)
			count_partial(&who);
		if (has_partial(&who))
			reached = touched(done);
		tell_write(ctx, LANE_MAPPED_WRITE, &who, reached, missed);
		rest.start = is_last_part(ctx[0], done) ? rest.end : done.end;
	}
	note_reach(call, rest.start < rest.end ? mapping : 0, rest, 0);
}

/* tp_btf/iomap_iter(iter, ops, caller): before the first mapping of a range, and after each. */
int on_iterate(u64 *ctx)
{
	u32 flags = FIELD(ctx[0], iomap_iter, flags);

	if (flags & (IOMAP_FAULT | IOMAP_DIRECT) ||
	    !(flags & (IOMAP_WRITE | IOMAP_ZERO | IOMAP_UNSHARE)))
		return 0;
	if (claim(ctx, LANE_MAPPED_WRITE, FIELD(ctx[0], iomap_iter, pos)))
		iterated(ctx);
	return 0;
}
#endif
#endif
