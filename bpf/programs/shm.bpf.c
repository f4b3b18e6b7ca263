/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared memory: segments of System V and POSIX, memfds, shared anonymous mappings, files on
 * tmpfs. Which process makes one, maps it, adds pages to it and drops them.
 *
 * No tracepoint reports that a page enters such a file. But one reports that a task allocates a
 * page, and another, some dozen pages later, that the page came onto a list (LRU): by then it
 * belongs to a file. So the task that allocated a page is noted by page until then. When an
 * interval ends, user space has on_task() look at the pages that are on no list yet. on_task()
 * also gives what the kernel itself counts of a segment. docs/shm.md has the rules.
 */
struct event {
	u64 segment; /* see segment_of() */
	u32 dt_ns;
	u32 tgid;
	u32 tid;
	u32 count; /* of pages, or how often */
	u32 kind;
	u32 unused;
};

/* An event that is like the last one is added to it; there are no runs. */
struct run {
	u32 epoch;
};

enum { LANE_LISTED, LANE_DELETE, LANE_CALL, LANE_ALLOC, LANE_MAPPING, LANES };

/* Events that no ring had room for are added up by these. */
#define SPILLS
struct spill {
	u64 segment;
	u32 tgid;
	u32 kind;
};

#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <memtap/fields.h>
#include <memtap/batch.h>
#include <memtap/descriptors.h>
#include <memtap/filter.h>
#include <memtap/folios.h>
#include <memtap/maples.h>

/* Files are found by number here, and the verifier does not know what a number points to. */
#pragma push_macro("FIELD")
#undef FIELD
#define FIELD(pointer, type, member) PEEK(pointer, type, member)
#include <memtap/names.h>

static inline u64 ctime_s(u64 inode)
{
	return CTIME_S(inode);
}
#pragma pop_macro("FIELD")

#define TMPFS_MAGIC     0x01021994
#define HUGETLBFS_MAGIC 0x958458f6
#define FMODE_CREATED   0x100000  /* of file->f_mode: this open() made the file */
#define O_TMPFILE_ALONE 020000000 /* of file->f_flags: so did this one, by no name */
#define SECTOR_SHIFT    9
#define VM_SHARED       0x8

/* Of gfp_t; these bits are the same since 5.10. */
#define GFP_HIGHMEM     0x2
#define GFP_MOVABLE     0x8
#define GFP_ZERO        0x100
#define GFP_SCOPED      0xc0 /* IO and FS, which a task can be forbidden */
#define GFP_COMP        0x40000

static inline u64 mixed(u64 inode, u64 ino, u64 generation)
{
	u64 mixed = ((ino * GOLDEN + generation) * GOLDEN + inode) * GOLDEN;

	return (mixed ^ mixed >> 32) * GOLDEN;
}

/*
 * A number for a file: made of the address of its inode, which no other file has at the same
 * time, and of what tells apart the files that have this address one after the other.
 */
static inline u64 segment_of(u64 inode)
{
	return mixed(inode, PEEK(inode, inode, i_ino), PEEK(inode, inode, i_generation));
}

/*
 * The same for an inode of which the verifier knows the type: there can be millions of pages a
 * second.
 */
static inline u64 segment_of_typed(u64 inode)
{
	return mixed(NUMBER_OF(inode), FIELD(inode, inode, i_ino),
		     FIELD(inode, inode, i_generation));
}

static inline u64 magic_of(u64 inode)
{
	return inode ? PEEK(PEEK(inode, inode, i_sb), super_block, s_magic) : 0;
}

static inline int is_memory(u64 inode)
{
	u64 magic = magic_of(inode);

	return magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC;
}

/*
 * What user space asks about a segment that it has not seen before. Files that the kernel
 * itself makes (memfd, SYSV, dev/zero) are in no directory: `title` is all their name.
 */
#define TITLE 256
struct segment_numbers {
	u64 inode;
	u64 ino;
	u64 born_s;
	u32 dev;
	u32 is_huge;
};

struct segment {
	struct segment_numbers numbers;
	char title[TITLE];
};

struct segment_bytes {
	char bytes[sizeof(struct segment)];
};

BPF_TABLE("lru_hash", u64, struct segment_bytes, segments, 8192);
BPF_PERCPU_ARRAY(segment_records, struct segment_bytes, ALL_LANES + 1);

/* The name of a file that is in no directory; 0 where the file is in one. */
static inline u64 title_of(u64 inode)
{
	struct name name = any_name(inode);

	if (!name.dentry || PEEK(name.dentry, dentry, d_parent) != name.dentry)
		return 0;
	return PEEK(name.dentry, dentry, d_name__name);
}

static inline void describe_segment(int lane, u64 inode, u64 segment)
{
	struct segment *record = (struct segment *)segment_records.lookup(&lane);
	u64 super = PEEK(inode, inode, i_sb), title = title_of(inode);

	if (!record || segments.lookup(&segment))
		return;
	record->numbers.inode = inode;
	record->numbers.ino = PEEK(inode, inode, i_ino);
	record->numbers.born_s = ctime_s(inode);
	record->numbers.dev = PEEK(super, super_block, s_dev);
	record->numbers.is_huge = PEEK(super, super_block, s_magic) == HUGETLBFS_MAGIC;
	record->title[0] = 0;
	if (title)
		bpf_probe_read_kernel_str(record->title, TITLE, (void *)title);
	segments.update(&segment, (struct segment_bytes *)record);
}

/* Describes a segment, and sends its path if it has one. */
static inline void meet(void *ctx, struct lane *lane, u64 inode, u64 segment)
{
	describe_segment(lane->number, inode, segment);
	if (!title_of(inode))
		name_file(ctx, lane->number, (u64)current_task(), inode, segment);
}

static inline int joins(struct event *last, struct event *this)
{
	return last && last->segment == this->segment && last->tid == this->tid &&
	       last->kind == this->kind;
}

static inline void keep(void *ctx, struct lane *lane, u64 inode, struct event this)
{
	struct spill key = {.segment = this.segment, .tgid = this.tgid, .kind = this.kind};
	struct event *last = last_of(lane);

	if (joins(last, &this)) {
		last->count += this.count;
		return;
	}
	struct event *event = append(ctx, lane);
	if (!event) {
		spill(&key, this.count);
		return;
	}
	this.dt_ns = event->dt_ns;
	*event = this;
	meet(ctx, lane, inode, this.segment);
}

/*
 * The task that allocated a page that is on no list yet, in buckets by page; user space looks
 * here, too.
 */
#define PLACES_OF_PAGES 4096
#define PAGES_IN_PLACE  4
struct place {
	u64 page[PAGES_IN_PLACE];
	u64 owner[PAGES_IN_PLACE]; /* tgid << 32 | tid */
	u64 gfp[PAGES_IN_PLACE];
	u64 since[PAGES_IN_PLACE]; /* jiffies << 8 | order */
};

BPF_F_TABLE("array", int, struct place, places, PLACES_OF_PAGES, BPF_F_MMAPABLE);

static inline struct place *place_of(u64 page)
{
	int number = page * GOLDEN >> 52;

	return places.lookup(&number);
}

/*
 * How soon a note gives way to one for this page: first that of the page itself, then an empty
 * one, then the oldest.
 */
static inline u64 rank(struct place *place, int at, u64 page)
{
	return place->page[at] == page ? 0 : place->page[at] ? place->since[at] : 1;
}

static inline void note_page(u64 page, u64 owner, u64 gfp, u64 order)
{
	struct place *place = place_of(page);
	u64 least = ~0ULL, best = 0;

	if (!place)
		return;
#pragma unroll
	for (int at = 0; at < PAGES_IN_PLACE; at++) {
		u64 own = rank(place, at, page);

		best = own < least ? at : best;
		least = own < least ? own : least;
	}
	best &= PAGES_IN_PLACE - 1;
	VERIFIER_FORGET(best);
	best &= PAGES_IN_PLACE - 1;
	place->owner[best] = owner;
	place->gfp[best] = gfp;
	place->since[best] = bpf_jiffies64() << 8 | order;
	place->page[best] = page;
}

struct noted {
	u64 owner; /* 0 if no task is known */
	u64 gfp;
	u64 pages;
};

static inline struct noted take_page(u64 page)
{
	struct place *place = place_of(page);
	struct noted noted = {};

	if (!place)
		return noted;
#pragma unroll
	for (int at = 0; at < PAGES_IN_PLACE; at++) {
		if (place->page[at] == page) {
			noted.owner = place->owner[at];
			noted.gfp = place->gfp[at];
			noted.pages = 1ULL << (place->since[at] & 63);
			*(volatile u64 *)&place->page[at] = 0;
		}
	}
	return noted;
}

/*
 * Was the page allocated for the file? One that another page is moved to (migrate_pages()) is
 * allocated with other gfp flags than the file's own. A large page always was.
 */
static inline int is_given(struct noted noted, u32 gfp)
{
	return noted.pages > 1 ||
	       ((noted.gfp ^ gfp) & ~(u64)(GFP_SCOPED | GFP_COMP) & 0xffffffff) == 0;
}

static inline struct event growth(struct noted noted, u64 segment)
{
	return (struct event){.segment = segment,
			      .tgid = noted.owner >> 32,
			      .tid = noted.owner,
			      .count = noted.pages,
			      .kind = GREW};
}

/*
 * tp_btf/mm_page_alloc(page, order, gfp_flags, migratetype): not pages of anonymous memory,
 * which are asked for with zeros in them (__GFP_ZERO); and a large page that khugepaged makes
 * of others is no growth.
 */
int on_alloc(u64 *ctx)
{
	u64 page = ctx[0], order = (u32)ctx[1], gfp = (u32)ctx[2];
	u64 owner = bpf_get_current_pid_tgid(), task = (u64)current_task();

	if ((gfp & (GFP_HIGHMEM | GFP_MOVABLE | GFP_ZERO)) != (GFP_HIGHMEM | GFP_MOVABLE))
		return 0;
	if (!page || !claim(ctx, LANE_ALLOC, NUMBER_OF(page)))
		return 0;
	if (order && FIELD(task, task_struct, flags) & PF_KTHREAD)
		return 0;
	if (concerned(task, owner >> 32))
		note_page(NUMBER_OF(page), owner, gfp, order);
	return 0;
}

static inline u64 file_inode(u64 mapping)
{
	return FIELD(mapping, address_space, host);
}

/* By typed pointers: this is asked of each page of any file. */
static inline int is_on_tmpfs(u64 inode)
{
	u64 super = FIELD(inode, inode, i_sb);

	return FIELD(super, super_block, s_magic) == TMPFS_MAGIC;
}

static inline void listed(u64 *ctx)
{
	u64 folio = ctx[0];
	struct noted noted = take_page(NUMBER_OF(folio));

	if (!noted.owner)
		return;
	u64 mapping = folio_mapping(folio);
	if (!mapping || NUMBER_OF(mapping) & 3) /* none, or not a file's */
		return;
	u64 inode = file_inode(mapping);
	if (!inode || !is_on_tmpfs(inode) ||
	    !is_given(noted, FIELD(mapping, address_space, gfp_mask)))
		return;
	struct lane *lane = enter(LANE_LISTED);
	if (!lane)
		return;
	keep(ctx, lane, NUMBER_OF(inode), growth(noted, segment_of_typed(inode)));
	leave(lane);
}

/* tp_btf/mm_lru_insertion(folio): likewise of a page before 934387c99f1c. */
int on_listed(u64 *ctx)
{
	if (claim(ctx, LANE_LISTED, NUMBER_OF(ctx[0])))
		listed(ctx);
	return 0;
}

static inline void dropped(u64 *ctx)
{
	u64 folio = ctx[0], mapping = folio_mapping(folio);

	if (!mapping)
		return;
	u64 inode = file_inode(mapping);
	if (!inode || !is_on_tmpfs(inode))
		return;
	u64 segment = segment_of_typed(inode), self = bpf_get_current_pid_tgid();
	u64 task = (u64)current_task();
	struct noted noted = take_page(NUMBER_OF(folio));
	struct lane *lane = enter(LANE_DELETE);
	if (!lane)
		return;
	/* The page is dropped before it came onto a list. */
	if (noted.owner && is_given(noted, FIELD(mapping, address_space, gfp_mask)))
		keep(ctx, lane, NUMBER_OF(inode), growth(noted, segment));
	if (followed(task, self >> 32))
		keep(ctx, lane, NUMBER_OF(inode),
		     (struct event){.segment = segment,
				    .tgid = self >> 32,
				    .tid = self,
				    .count = folio_pages(folio),
				    .kind = FREED});
	leave(lane);
}

/* tp_btf/mm_filemap_delete_from_page_cache(folio): truncated, punched out, or its file is gone.
 */
int on_delete(u64 *ctx)
{
	if (claim(ctx, LANE_DELETE, NUMBER_OF(ctx[0])))
		dropped(ctx);
	return 0;
}

static inline void did(void *ctx, struct lane *lane, u64 inode, u32 kind)
{
	u64 self = bpf_get_current_pid_tgid();

	keep(ctx, lane, inode,
	     (struct event){.segment = segment_of(inode),
			    .tgid = self >> 32,
			    .tid = self,
			    .count = 1,
			    .kind = kind});
}

/*
 * The inode of the shared memory that this VMA maps, or 0. Huge pages are mapped as if of a
 * file even where they are private.
 */
static inline u64 shared_inode(u64 vma)
{
	u64 file = PEEK(vma, vm_area_struct, vm_file),
	    inode = file ? PEEK(file, file, f_inode) : 0;
	u64 magic = magic_of(inode);

	if (magic == HUGETLBFS_MAGIC && PEEK(vma, vm_area_struct, vm_flags) & VM_SHARED)
		return inode;
	return magic == TMPFS_MAGIC ? inode : 0;
}

/* What a task has mapped in the call that it is in. */
struct mapped {
	u64 start;
	u64 end;
	u64 inode;
};

#if HAVE(mm_struct, mm_mt)
BPF_TABLE("lru_hash", u32, struct mapped, mappings, 4096);

/* tp_btf/ma_write(function, mas, pivot, entry): of all that is kept in maple trees. */
int on_mapping(u64 *ctx)
{
	u64 task = (u64)current_task(), mas = ctx[1], vma = ctx[3];
	u32 tid = bpf_get_current_pid_tgid();

	if (!claim(ctx, LANE_MAPPING, vma))
		return 0;
	if (!writes_mapping(task, mas, vma))
		return 0;
	u64 number = CALL_NUMBER(user_regs(task));
	if (number != NR_MMAP && number != NR_SHMAT)
		return 0;
	struct mapped mapped = {.start = PEEK(vma, vm_area_struct, vm_start),
				.end = PEEK(vma, vm_area_struct, vm_end),
				.inode = shared_inode(vma)};
	if (mapped.inode)
		mappings.update(&tid, &mapped);
	return 0;
}

/*
 * The inode of the memory that a call has mapped at an address; 0 if it is not shared memory.
 */
static inline u64 mapped_at(u64 task, u64 address)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct mapped *found = mappings.lookup(&tid);

	if (!found)
		return 0;
	u64 inode = found->start <= address && address < found->end ? found->inode : 0;
	mappings.delete(&tid);
	return inode;
}
#else
#define DEEPEST 48 /* of a red-black tree of 65530 mappings: twice its height */

/* Before d4af56c5c7c6 mappings are in a tree that has no tracepoint. */
static inline u64 mapped_at(u64 task, u64 address)
{
	u64 node = PEEK(PEEK(task, task_struct, mm), mm_struct, mm_rb__rb_node);

#pragma clang loop unroll(disable)
	for (int depth = 0; depth < DEEPEST; depth++) {
		u64 vma = node - OFFSET(vm_area_struct, vm_rb);

		if (!node)
			break;
		if (address < PEEK(vma, vm_area_struct, vm_start)) {
			node = PEEK(node, rb_node, rb_left);
		} else if (address >= PEEK(vma, vm_area_struct, vm_end)) {
			node = PEEK(node, rb_node, rb_right);
		} else {
			return shared_inode(vma);
		}
	}
	return 0;
}
#endif

/* Is it the memory of a shared mapping without a file? The kernel's name for it begins so. */
#define DEV_ZERO 0x6f72657a2f766564 /* "dev/zero" */
#define ANON_HUG 0x6775685f6e6f6e61 /* "anon_hugepage" */

static inline int is_anonymous(u64 inode)
{
	u64 title = title_of(inode), word = title ? PEEK_AS(u64, title, 0) : 0;

	return word == DEV_ZERO || word == ANON_HUG;
}

static inline void attached(void *ctx, struct lane *lane, u64 task, u64 address)
{
	u64 inode = mapped_at(task, address);

	if (!inode)
		return;
	if (is_anonymous(inode)) /* each is made by being mapped */
		did(ctx, lane, inode, CREATED);
	did(ctx, lane, inode, ATTACHED);
}

static inline void opened_new(void *ctx, struct lane *lane, u64 task, u64 fd, int is_new)
{
	u64 file = file_of(task, fd), inode = file ? PEEK(file, file, f_inode) : 0;

	if (!inode || !is_memory(inode))
		return;
	if (is_new || PEEK(file, file, f_mode) & FMODE_CREATED ||
	    PEEK(file, file, f_flags) & O_TMPFILE_ALONE)
		did(ctx, lane, inode, CREATED);
}

#if HAVE(shmid_kernel, shm_file)
#define SHM_IDS     2 /* IPC_SHM_IDS */
#define SHORT_INDEX 0x7fff
#define LONG_INDEX  0xffffff /* with ipcmni_extend */
#define XA_NODE     2        /* of an entry: it is a node, not what is looked for */
#define XA_MASK     3
#define XA_SLOTS    63
#define XA_DEEPEST  5

/* The entry of an xarray with this index; 0 if there is none. */
static inline u64 entry_of(u64 entry, u64 index)
{
	for (int depth = 0; depth < XA_DEEPEST; depth++) {
		u64 node = entry - XA_NODE;

		if ((entry & XA_MASK) != XA_NODE)
			break;
		u64 slot = index >> PEEK(node, xa_node, shift) & XA_SLOTS;
		entry = PEEK_AS(u64, node, OFFSET(xa_node, slots) + slot * sizeof(u64));
	}
	return (entry & XA_MASK) == 0 ? entry : 0;
}

/* The struct shmid_kernel of a segment's number, as of the task's namespace; 0 if none. */
static inline u64 system_v(u64 task, u32 id)
{
	u64 names = PEEK(PEEK(task, task_struct, nsproxy), nsproxy, ipc_ns);
	u64 root = PEEK_AS(u64, names,
			   OFFSET(ipc_namespace, ids) + SHM_IDS * SIZE(ipc_ids) +
				   OFFSET(ipc_ids, ipcs_idr__idr_rt__xa_head));
	u64 found = entry_of(root, id & SHORT_INDEX);

	if (!found || PEEK(found, kern_ipc_perm, id) != id)
		found = entry_of(root, id & LONG_INDEX);
	return found && PEEK(found, kern_ipc_perm, id) == id ? found : 0;
}

/*
 * The same call also gets a segment that exists already: for other processes, or when it is
 * known here.
 */
static inline void got_system_v(void *ctx, struct lane *lane, u64 task, u32 id)
{
	u64 shared = system_v(task, id), maker = PEEK(shared, shmid_kernel, shm_cprid);
	u64 file = PEEK(shared, shmid_kernel, shm_file);
	u64 inode = file ? PEEK(file, file, f_inode) : 0, segment = segment_of(inode);

	if (!inode || segments.lookup(&segment))
		return;
	if (PEEK_AS(u32, maker, OFFSET(pid, numbers)) == bpf_get_current_pid_tgid() >> 32)
		did(ctx, lane, inode, CREATED);
}
#else
#define got_system_v(ctx, lane, task, id) /* this kernel has none */
#endif

static inline int is_open(u64 number)
{
#if defined(__x86_64__)
	if (number == NR_OPEN || number == NR_CREAT)
		return 1;
#endif
	return number == NR_OPENAT || number == NR_OPENAT2;
}

static inline int is_wanted(u64 number)
{
	return is_open(number) || number == NR_MMAP || number == NR_SHMAT ||
	       number == NR_MEMFD_CREATE || number == NR_SHMGET;
}

static inline void call_ended(u64 *ctx, u64 number)
{
	u64 task = (u64)current_task(), result = ctx[1];

	if (result > ~(u64)LAST_ERROR || THREAD_IS_32_BIT(task) ||
	    !concerned(task, FIELD(task, task_struct, tgid)))
		return;
	struct lane *lane = enter(LANE_CALL);
	if (!lane)
		return;
	if (number == NR_MMAP || number == NR_SHMAT)
		attached(ctx, lane, task, result);
	else if (number == NR_SHMGET)
		got_system_v(ctx, lane, task, result);
	else
		opened_new(ctx, lane, task, result, number == NR_MEMFD_CREATE);
	leave(lane);
}

/* tp_btf/sys_exit(regs, ret): by then the arguments are still in the registers. */
int on_call(u64 *ctx)
{
	u64 regs = ctx[0], number = CALL_NUMBER(regs);

	if (is_wanted(number) && claim(ctx, LANE_CALL, number << 52 ^ ctx[1]))
		call_ended(ctx, number);
	return 0;
}

/*
 * What user space asks: the state of a segment now, by its inode, as long as that is the same;
 * or, if `inode` is 0, which segment has the page that is noted in the place `at`, counted from
 * 1 on.
 */
#define MOST_WISHES 256
struct wish {
	u64 inode;
	u64 segment;
	u64 at;
};

struct answer {
	u64 segment;
	u64 kind; /* 0: the segment's state, or GREW */
	u64 owner;
	u64 count;
	u64 bytes;
	u64 resident; /* pages, as are these */
	u64 swapped;
	u64 alloced;
};

BPF_F_TABLE("array", int, struct wish, wishes, MOST_WISHES, BPF_F_MMAPABLE);
BPF_ARRAY(layout_answer, struct answer, 1);
BPF_ARRAY(layout_segment_numbers, struct segment_numbers, 1);

static inline u64 pages_of_blocks(u64 inode)
{
	return PEEK(inode, inode, i_blocks) >> (PAGE_SHIFT - SECTOR_SHIFT);
}

/* What the kernel counts of a segment; nothing if it is gone. */
static inline void look_at(u64 inode, u64 segment, struct answer *answer)
{
	u64 mapping = PEEK(inode, inode, i_mapping);
	u64 info = inode - OFFSET(shmem_inode_info, vfs_inode), magic = magic_of(inode);

	if (segment_of(inode) != segment)
		return;
	if (magic == HUGETLBFS_MAGIC) {
		answer->bytes = PEEK(inode, inode, i_size);
		answer->resident = answer->alloced = pages_of_blocks(inode);
	} else if (magic == TMPFS_MAGIC) {
		answer->bytes = PEEK(inode, inode, i_size);
		answer->resident = PEEK(mapping, address_space, nrpages);
		answer->swapped = PEEK(info, shmem_inode_info, swapped);
		answer->alloced = PEEK(info, shmem_inode_info, alloced);
	}
}

#if HAVE(folio, index)
#define MAPPING_OF(page) PEEK(page, folio, mapping)
#else
#define MAPPING_OF(page) PEEK(page, page, mapping)
#endif

/* Takes the note of a page that belongs to a file by now, though it is on no list yet. */
static inline void take_waiting(u64 at, struct answer *answer)
{
	int number = at / PAGES_IN_PLACE, lane = ALL_LANES;
	struct place *place = places.lookup(&number);

	if (!place)
		return;
	u64 page = place->page[at & (PAGES_IN_PLACE - 1)],
	    mapping = page ? MAPPING_OF(page) : 0;
	if (!mapping || mapping & 3)
		return;
	u64 inode = PEEK(mapping, address_space, host);
	if (magic_of(inode) != TMPFS_MAGIC)
		return;
	struct noted noted = take_page(page);
	if (!noted.owner || !is_given(noted, PEEK(mapping, address_space, gfp_mask)))
		return;
	answer->segment = segment_of(inode);
	answer->kind = GREW;
	answer->owner = noted.owner;
	answer->count = noted.pages;
	describe_segment(lane, inode, answer->segment);
}

static inline void fulfil(u64 seq, struct wish *wish)
{
	struct answer answer = {.segment = wish->segment};

	if (wish->inode)
		look_at(wish->inode, wish->segment, &answer);
	else
		take_waiting(wish->at - 1, &answer);
	bpf_seq_write((struct seq_file *)seq, &answer, sizeof(answer));
}

struct progress {
	u64 at;
};

BPF_ARRAY(wished, struct progress, 1);

/*
 * iter/task(meta, task), run by user space for its own task alone, or for all tasks where a
 * kernel cannot do that (f0d74c4da1f0): the run for the first task fulfils all wishes.
 */
int on_task(u64 *ctx)
{
	u64 meta = ctx[0];
	int first = 0;
	struct progress *progress = wished.lookup(&first);

	if (!ctx[1] || !progress || LOAD_AS(u64, meta, OFFSET(bpf_iter_meta, seq_num)))
		return 0;
	u64 seq = LOAD_AS(u64, meta, OFFSET(bpf_iter_meta, seq));
	NOTED(progress->at) = 0;
	AT_MOST(MOST_WISHES)
	{
		OR_BREAK;
		int number = NOTED(progress->at)++;
		struct wish *wish = wishes.lookup(&number);

		if (!wish || !(wish->inode | wish->at))
			break;
		fulfil(seq, wish);
	}
	return 0;
}
