/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the page cache holds, file by file. No tracepoint reports what is there already, so this
 * walks the kernel's own structures: from one super block to all (s_list), through the inodes
 * of each (s_inodes), and through the nodes of each inode's pages (i_data.i_pages).
 *
 * No lock is taken. Inodes and nodes are freed after a grace period, and a program runs inside
 * of one: so nothing that it finds is used for something else meanwhile. A program looks at
 * STEP things and ends. User space lets it go on from there, if the inode where it stopped is
 * still on its list. docs/files.md says what that leaves open.
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#ifdef LOOK_AT_FOLIOS
#undef CASTS /* the verifier would follow more than twice as many ways */
#endif

#include <memtap/fields.h>
#include <memtap/loops.h>

/* The most rounds of one run, a few milliseconds; fewer where loops are short. */
#define STEP       2048
#define SHORT_STEP 256

#if HAVE(dentry, d_u__d_alias)
#define ALIAS_OFFSET OFFSET(dentry, d_u__d_alias)
#else /* in a union without a name */
#define ALIAS_OFFSET OFFSET(dentry, d_alias)
#endif

#define BDEVFS_MAGIC      0x62646576
#define HUGETLBFS_MAGIC   0x958458f6
#define BTRFS_SUPER_MAGIC 0x9123683E
#define BDI_CAP_WRITEBACK 1
#define S_DAX             (1 << 13) /* of inode->i_flags: its pages are the device's own */

/* The part of a file whose pages are charged to one cgroup. Counts are of pages. */
struct file_pages {
	u64 inode;
	u64 parent; /* the dentry of its directory; 0 if it is in none */
	u64 ino;
	u64 bytes;
	u64 cgroup; /* its number (kernfs); 0 if none is charged, or folios are not looked at */
	u32 resident;
	u32 dirty;
	u32 writeback;
	u32 evicted;
	u32 active;
	u32 inactive;
	u32 unevictable;
	u32 volume; /* the device that stat(2) tells */
	u32 rdev;   /* of a block device */
	u32 flags;
};

#define TYPE_BYTES 32
#define SLOTS      64 /* of an xa_node */
struct walk {
	u64 super;
	u64 inode; /* that was looked at last; 0 before the first */
	u64 state;
	u64 told; /* how many of `files` this step has filled */
	u64 seen; /* inodes that it looked at */
	u64 rounds;
	u64 is_in; /* whether the inode's pages are looked at */
	u64 index; /* of the next page of it */
	u64 slot;  /* of the node below; SLOTS if none is open */
	u64 memcg; /* that the pages of `file` are charged to */
	u64 magic; /* of the super block, as are these */
	u64 dev;
	u64 is_written; /* whether its pages are ever written back */
	u64 node;       /* to go down by; 0 to begin at the top */
	u64 entry;
	u64 pages; /* that the entry stands for, if it is to be counted */
	u64 is_dirty;
	u64 is_in_writeback;
	struct file_pages file;
	u64 marks[2];
	u64 slots[SLOTS];
};

struct super {
	u64 super;
	u64 magic;
	u64 dev;
	u64 type; /* its name, as these four words hold it */
	u64 type_1;
	u64 type_2;
	u64 type_3;
};

/* An inode whose name user space wants to know, and the name: see collect_name(). */
#define NAME_BYTES 4096
#define WISHES     64
struct trail {
	u64 super;
	u64 inode;
	u64 ino;
	u64 parent;
	u64 flags;
	u64 used;
	char names[NAME_BYTES + 256];
};

struct naming {
	u64 at;
	u64 dentry;
	u64 rounds;
};

BPF_F_TABLE("array", int, struct walk, walks, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, struct file_pages, files, STEP, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, struct super, supers, STEP, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, struct trail, trails, WISHES, BPF_F_MMAPABLE);
BPF_ARRAY(namings, struct naming, 1);

struct walk_head {
	u64 super;
	u64 inode;
	u64 state;
	u64 told;
	u64 seen;
};

struct wish {
	u64 super;
	u64 inode;
	u64 ino;
	u64 parent;
	u64 flags;
	u64 used;
};

BPF_ARRAY(layout_file, struct file_pages, 1);
BPF_ARRAY(layout_super, struct super, 1);
BPF_ARRAY(layout_walk, struct walk_head, 1);
BPF_ARRAY(layout_wish, struct wish, 1);

/* The next on a list; 0 if this node is on no list any more: then it points to itself. */
static inline u64 next_of(u64 list)
{
	u64 next = PEEK(list, list_head, next);

	return next && next != list && PEEK(next, list_head, prev) == list ? next : 0;
}

/* Is it a super block? All are but the head of their list, whose address is not known. */
static inline int is_super(u64 super)
{
	u64 root = PEEK(super, super_block, s_root);

	return root && PEEK(root, dentry, d_sb) == super;
}

static inline u64 own_super(void)
{
	u64 task = (u64)bpf_get_current_task();
	u64 space = PEEK(PEEK(task, task_struct, nsproxy), nsproxy, mnt_ns);
	u64 root = PEEK(space, mnt_namespace, root);

	return PEEK(root, mount, mnt__mnt_sb);
}

static inline void tell_super(struct walk *walk, u64 super)
{
	u64 told = NOTED(walk->told);
	int number = told;
	struct super *place = supers.lookup(&number);

	if (!place)
		return;
	place->super = super;
	place->magic = PEEK(super, super_block, s_magic);
	place->dev = PEEK(super, super_block, s_dev);
	u64 type = PEEK(super, super_block, s_type);
	u64 name = PEEK(type, file_system_type, name);
	bpf_probe_read_kernel_str(&place->type, TYPE_BYTES, (void *)name);
	NOTED(walk->told) = told + 1;
}

/* Run on demand: all super blocks, from our own root's on and around to it. */
int on_supers(void *ctx)
{
	int first = 0;
	struct walk *walk = walks.lookup(&first);
	u64 own = own_super();

	if (!walk)
		return 0;
	if (!NOTED(walk->super))
		NOTED(walk->super) = own;
	NOTED(walk->told) = 0;
	NOTED(walk->rounds) = 0;
	AT_MOST(SHORT_STEP)
	{
		OR_BREAK;
		u64 super = NOTED(walk->super);

		if (NOTED(walk->rounds)++ >= STEP)
			break;
		if (is_super(super))
			tell_super(walk, super);
		u64 next = next_of(super + OFFSET(super_block, s_list));
		NOTED(walk->super) = next - OFFSET(super_block, s_list);
		if (!next || NOTED(walk->super) == own) {
			NOTED(walk->state) = next ? ENDED : LOST;
			break;
		}
	}
	return 0;
}

/* The next inode on the super block's list; 0 if there is none, and the step ends. */
static inline u64 next_inode(struct walk *walk)
{
	u64 super = NOTED(walk->super), inode = NOTED(walk->inode);
	u64 head = super + OFFSET(super_block, s_inodes);
	u64 next = next_of(inode ? inode + OFFSET(inode, i_sb_list) : head);

	if (next == head || (!inode && PEEK(head, list_head, next) == head)) {
		NOTED(walk->state) = ENDED;
		return 0;
	}
	inode = next - OFFSET(inode, i_sb_list);
	if (!next || PEEK(inode, inode, i_sb) != super) {
		NOTED(walk->state) = LOST;
		return 0;
	}
	return inode;
}

static inline u32 volume_of(struct walk *walk, u64 inode)
{
#if HAVE(btrfs_inode, root)
	if (NOTED(walk->magic) == BTRFS_SUPER_MAGIC) {
		u64 root = PEEK(inode - OFFSET(btrfs_inode, vfs_inode), btrfs_inode, root);

		return PEEK(root, btrfs_root, anon_dev);
	}
#endif
	return NOTED(walk->dev);
}

static inline u64 dentry_of(u64 inode)
{
	u64 alias = PEEK(inode, inode, i_dentry__first);

	return alias ? alias - ALIAS_OFFSET : 0;
}

static inline u64 parent_of(u64 dentry)
{
	u64 parent = dentry ? PEEK(dentry, dentry, d_parent) : 0;

	return parent == dentry ? 0 : parent;
}

static inline u32 flags_of(u64 inode, u64 dentry, u64 parent)
{
	u32 flags = dentry ? 0 : NAMELESS;

	if (PEEK(inode, inode, i_nlink) == 0 ||
	    (parent && PEEK(dentry, dentry, d_hash__pprev) == 0))
		flags |= DELETED;
	return flags;
}

static inline void count_nothing(struct file_pages *file)
{
	file->resident = file->dirty = file->writeback = file->evicted = 0;
	file->active = file->inactive = file->unevictable = 0;
}

/* Begins with an inode, if it has pages, or had some. */
static inline void begin(struct walk *walk, u64 inode)
{
	struct file_pages *file = &walk->file;

	NOTED(walk->inode) = inode;
	NOTED(walk->seen) += 1;
	if (!PEEK(inode, inode, i_data__i_pages__xa_head) ||
	    PEEK(inode, inode, i_flags) & S_DAX)
		return;
	u64 dentry = dentry_of(inode), parent = parent_of(dentry);
	file->inode = inode;
	file->parent = parent;
	file->ino = PEEK(inode, inode, i_ino);
	file->bytes = PEEK(inode, inode, i_size);
	file->cgroup = 0;
	file->volume = volume_of(walk, inode);
	file->rdev = NOTED(walk->magic) == BDEVFS_MAGIC ? PEEK(inode, inode, i_rdev) : 0;
	file->flags = flags_of(inode, dentry, parent);
	count_nothing(file);
	NOTED(walk->memcg) = 0;
	NOTED(walk->index) = 0;
	NOTED(walk->slot) = SLOTS;
	NOTED(walk->node) = 0;
	NOTED(walk->is_in) = 1;
}

/* Hands over what was counted so far of the file, if it is anything. */
static inline void tell_file(struct walk *walk)
{
	u64 told = NOTED(walk->told);
	int number = told;
	struct file_pages *place = files.lookup(&number);

	READ_AGAIN();
	if (!place || !(walk->file.resident | walk->file.evicted))
		return;
	*place = walk->file;
	NOTED(walk->told) = told + 1;
	count_nothing(&walk->file);
}

#if HAVE(folio, index)
#define FOLIO_FLAGS(entry) PEEK_AS(u64, entry, OFFSET(folio, flags))
#else
#define FOLIO_FLAGS(entry) PEEK_AS(u64, entry, OFFSET(page, flags))
#endif

#if HAVE(folio, memcg_data)
#define MEMCG_OF(entry) (PEEK(entry, folio, memcg_data) & ~3ULL)
#elif HAVE(page, memcg_data)
#define MEMCG_OF(entry) (PEEK(entry, page, memcg_data) & ~3ULL)
#elif HAVE(page, mem_cgroup)
#define MEMCG_OF(entry) (PEEK(entry, page, mem_cgroup) & ~3ULL)
#endif

#if defined(LOOK_AT_FOLIOS) && defined(MEMCG_OF)
/* Is it a struct mem_cgroup? Then its cgroup's own state points back to the cgroup. */
static inline int is_memcg(u64 memcg)
{
	u64 cgroup = PEEK(memcg, mem_cgroup, css__cgroup);

	return cgroup && PEEK(cgroup, cgroup, self__cgroup) == cgroup;
}

/*
 * The number of the cgroup that is charged: `memcg` is a struct mem_cgroup, or what stands for
 * one after it is gone (struct obj_cgroup).
 */
static inline u64 cgroup_of(u64 memcg)
{
	if (!is_memcg(memcg))
		memcg = PEEK(memcg, obj_cgroup, memcg);
	u64 cgroup = is_memcg(memcg) ? PEEK(memcg, mem_cgroup, css__cgroup) : 0;
	return PEEK(PEEK(cgroup, cgroup, kn), kernfs_node,
		    id); /* 0 where nothing can be read */
}

static inline void charge(struct walk *walk, u64 folio)
{
	u64 memcg = MEMCG_OF(folio);

	if (memcg == NOTED(walk->memcg))
		return;
	tell_file(walk);
	NOTED(walk->memcg) = memcg;
	walk->file.cgroup = cgroup_of(memcg);
}
#else
#define charge(walk, folio)
#endif

#ifdef LOOK_AT_FOLIOS
#define LOOKS_AT_FOLIOS 1
static inline void count_folio(struct walk *walk, u64 folio, u32 pages)
{
	u64 flags = FOLIO_FLAGS(folio);

	charge(walk, folio);
	u64 is_locked = flags >> ENUM(pageflags, PG_unevictable) & 1;
	u64 is_active = flags >> ENUM(pageflags, PG_active) & 1 & ~is_locked;

	walk->file.unevictable += is_locked * pages;
	walk->file.active += is_active * pages;
	walk->file.inactive += pages - (is_locked + is_active) * pages;
}
#else
#define LOOKS_AT_FOLIOS 0
#define count_folio(walk, folio, pages)
#endif

/*
 * Of an entry of an xarray: bit 0 is set in a value, bit 1 alone in an entry of the xarray's
 * own.
 */
#define XA_KIND         3
#define XA_INTERNAL     2
#define LARGEST_SIBLING 64
#define LARGEST_OWN     4096 /* a node is above */

static inline int is_node(u64 entry)
{
	return (entry & XA_KIND) == XA_INTERNAL && entry > LARGEST_OWN;
}

/*
 * The slot in which a folio of several pages begins, if this entry says that it goes on here.
 */
static inline u64 home_of(u64 entry, u64 slot)
{
	u64 home = entry >> 2;

	return (entry & XA_KIND) == XA_INTERNAL && home < LARGEST_SIBLING ? home : slot;
}

/*
 * Notes an entry that stands for so many pages, to be counted at the end of the round;
 * `is_dirty` and `is_written` are 0 or 1.
 */
static inline void note(struct walk *walk, u64 entry, u64 pages, u64 is_dirty, u64 is_written)
{
	NOTED(walk->entry) = entry;
	NOTED(walk->pages) = pages;
	NOTED(walk->is_dirty) = is_dirty;
	NOTED(walk->is_in_writeback) = is_written;
}

static inline void count(struct walk *walk)
{
	u64 entry = NOTED(walk->entry), pages = NOTED(walk->pages);

	if (entry & 1) {
		walk->file.evicted += pages;
	} else if (entry && (entry & XA_KIND) == 0) {
		count_folio(walk, entry, pages);
		walk->file.resident += pages;
		walk->file.dirty += NOTED(walk->is_dirty) * pages;
		walk->file.writeback += NOTED(walk->is_in_writeback) * pages;
	}
}

/*
 * The only page of a file, if it is the first, needs no node, and it is not known where its
 * marks are: so its flags are read. Where files are in memory alone, as on tmpfs, dirty pages
 * have no mark.
 */
static inline void count_only(struct walk *walk, u64 entry)
{
	u64 looks = NOTED(walk->is_written) && (entry & XA_KIND) == 0;
	u64 flags = looks ? FOLIO_FLAGS(entry) : 0;

	note(walk, entry, 1, flags >> ENUM(pageflags, PG_dirty) & 1,
	     flags >> ENUM(pageflags, PG_writeback) & 1);
	NOTED(walk->index) = 1;
}

/* An entry of a node that is above the lowest stands for many pages. */
static inline void count_large(struct walk *walk, u64 node, u64 shift, u64 entry, u64 slot)
{
	u64 home = home_of(entry, slot), index = NOTED(walk->index);

	if (home != slot)
		entry = PEEK_AS(u64, node, OFFSET(xa_node, slots) + home * sizeof(u64));
	note(walk, entry, 1U << shift, PEEK_AS(u64, node, OFFSET(xa_node, tags)) >> home & 1,
	     PEEK_AS(u64, node, OFFSET(xa_node, tags) + sizeof(u64)) >> home & 1);
	NOTED(walk->index) = ((index >> shift) + 1) << shift;
}

/* Counts 64 pages by what their node knows, or opens it to look at each slot. */
static inline void open_lowest(struct walk *walk, u64 node)
{
	u64 index = NOTED(walk->index), values = PEEK(node, xa_node, nr_values);
	u64 pages = PEEK(node, xa_node, count) - values;

	bpf_probe_read_kernel(walk->marks, sizeof(walk->marks),
			      (void *)node + OFFSET(xa_node, tags));
	if (!(index % SLOTS) && !(LOOKS_AT_FOLIOS && pages) &&
	    !(NOTED(walk->marks[0]) | NOTED(walk->marks[1]))) {
		walk->file.resident += pages;
		walk->file.evicted += values;
		NOTED(walk->index) = index + SLOTS;
		return;
	}
	bpf_probe_read_kernel(walk->slots, sizeof(walk->slots),
			      (void *)node + OFFSET(xa_node, slots));
	NOTED(walk->slot) = index % SLOTS;
}

static inline void count_slot(struct walk *walk)
{
	u64 slot = NOTED(walk->slot) % SLOTS;
	u64 home = home_of(NOTED(walk->slots[slot]), slot) % SLOTS;

	note(walk, NOTED(walk->slots[home]), 1, NOTED(walk->marks[0]) >> home & 1,
	     NOTED(walk->marks[1]) >> home & 1);
	NOTED(walk->slot) = slot + 1;
	NOTED(walk->index) += 1;
}

/* Looks at the top entry: a node to go down from, the only page, or nothing any more. */
static inline void look_at_top(struct walk *walk)
{
	u64 top = PEEK(NOTED(walk->inode), inode, i_data__i_pages__xa_head);
	u64 index = NOTED(walk->index);

	if (is_node(top) && index >> (PEEK(top - XA_INTERNAL, xa_node, shift) & 63) < SLOTS) {
		NOTED(walk->node) = top - XA_INTERNAL;
	} else if (!is_node(top) && index == 0) {
		count_only(walk, top);
	} else {
		tell_file(walk);
		NOTED(walk->is_in) = 0;
	}
}

/*
 * Goes down by one node; from the lowest, the walk starts again at the top: nodes may come and
 * go meanwhile.
 */
static inline void go_down(struct walk *walk)
{
	u64 node = NOTED(walk->node), shift = PEEK(node, xa_node, shift) & 63;
	u64 slot = NOTED(walk->index) >> shift & (SLOTS - 1);

	NOTED(walk->node) = 0;
	if (shift == 0) {
		open_lowest(walk, node);
		return;
	}
	u64 entry = PEEK_AS(u64, node, OFFSET(xa_node, slots) + slot * sizeof(u64));
	if (is_node(entry))
		NOTED(walk->node) = entry - XA_INTERNAL;
	else
		count_large(walk, node, shift, entry, slot);
}

/* Is the inode where the last step ended still the same, and on the list of its super block? */
static inline int goes_on(struct walk *walk)
{
	u64 inode = NOTED(walk->inode);

	if (!inode)
		return 1;
	if (NOTED(walk->is_in) && PEEK(inode, inode, i_ino) != walk->file.ino)
		return 0;
	return PEEK(inode, inode, i_sb) == NOTED(walk->super) &&
	       next_of(inode + OFFSET(inode, i_sb_list));
}

/* A block device is written back, whatever its super block (that of bdevfs) says. */
static inline void know_super(struct walk *walk)
{
	u64 super = NOTED(walk->super), magic = PEEK(super, super_block, s_magic);
	u64 device = PEEK(super, super_block, s_bdi);

	NOTED(walk->magic) = magic;
	NOTED(walk->dev) = PEEK(super, super_block, s_dev);
	NOTED(walk->is_written) =
		magic == BDEVFS_MAGIC ||
		PEEK(device, backing_dev_info, capabilities) & BDI_CAP_WRITEBACK;
}

static inline void go(struct walk *walk)
{
	NOTED(walk->pages) = 0;
	if (NOTED(walk->is_in)) {
		if (NOTED(walk->slot) < SLOTS)
			count_slot(walk);
		else if (NOTED(walk->node))
			go_down(walk);
		else
			look_at_top(walk);
		if (NOTED(walk->pages))
			count(walk);
	} else {
		u64 inode = next_inode(walk);

		if (inode)
			begin(walk, inode);
	}
}

/* Run on demand: goes on with the inodes of a super block. */
int on_walk(void *ctx)
{
	int first = 0;
	struct walk *walk = walks.lookup(&first);

	if (!walk)
		return 0;
	NOTED(walk->told) = 0;
	NOTED(walk->seen) = 0;
	NOTED(walk->rounds) = 0;
	NOTED(walk->slot) = SLOTS;
	NOTED(walk->node) = 0;
	NOTED(walk->state) = goes_on(walk) ? GOING : LOST;
	know_super(walk);
	AT_MOST(SHORT_STEP)
	{
		OR_BREAK;
		if (NOTED(walk->state) != GOING || NOTED(walk->rounds)++ >= STEP)
			break;
		go(walk);
	}
	return 0;
}

/* Finds the dentry of an inode that is asked for; 0 if it has none, or is another by now. */
static inline u64 begin_name(struct trail *trail)
{
	u64 inode = trail->inode, dentry = dentry_of(inode);

	trail->used = 0;
	trail->flags = NAMELESS;
	if (PEEK(inode, inode, i_sb) != trail->super ||
	    PEEK(inode, inode, i_ino) != trail->ino || !dentry)
		return 0;
	trail->parent = parent_of(dentry);
	trail->flags = flags_of(inode, dentry, trail->parent);
	return dentry;
}

/* Appends a name; gives the dentry above, or 0 where there is none. */
static inline u64 collect_name(struct trail *trail, u64 dentry)
{
	u64 parent = PEEK(dentry, dentry, d_parent), used = NOTED(trail->used);

	if (used >= NAME_BYTES)
		return 0;
	/* At the top is a root without a name; or a file that is in no directory. */
	if (parent == dentry &&
	    (used || PEEK_AS(u8, PEEK(dentry, dentry, d_name__name), 0) == '/'))
		return 0;
	if (parent == dentry)
		trail->flags |= TITLED;
	VERIFIER_FORGET(used);
	char *into = &trail->names[used & (NAME_BYTES - 1)];
	int size = bpf_probe_read_kernel_str(into, 256,
					     (void *)PEEK(dentry, dentry, d_name__name));
	if (size <= 0)
		return 0;
	NOTED(trail->used) += size;
	return parent == dentry ? 0 : parent;
}

/*
 * Run on demand: the names of the inodes that `trails` ask for, up to the first that asks for
 * none.
 */
int on_names(void *ctx)
{
	int first = 0;
	struct naming *naming = namings.lookup(&first);

	if (!naming)
		return 0;
	NOTED(naming->at) = 0;
	NOTED(naming->dentry) = 0;
	NOTED(naming->rounds) = 0;
	AT_MOST(SHORT_STEP)
	{
		OR_BREAK;
		int number = NOTED(naming->at);
		struct trail *trail = trails.lookup(&number);

		if (!trail || !NOTED(trail->inode) || NOTED(naming->rounds)++ >= STEP)
			break;
		u64 dentry = NOTED(naming->dentry);
		NOTED(naming->dentry) =
			dentry ? collect_name(trail, dentry) : begin_name(trail);
		if (!NOTED(naming->dentry))
			NOTED(naming->at) += 1;
	}
	return NOTED(naming->at);
}

/* The inode that has the pages: a block device's own, and not that of the node in /dev. */
static inline u64 host_of(u64 file)
{
	return PEEK(PEEK(file, file, f_mapping), address_space, host);
}

struct holder {
	u64 inode;
	u64 tgid;
};

BPF_ARRAY(layout_holder, struct holder, 1);

static inline void tell_holder(u64 meta, u64 task, u64 file)
{
	u64 seq = LOAD_AS(u64, meta, OFFSET(bpf_iter_meta, seq));
	struct holder holder = {.inode = host_of(file), .tgid = PEEK(task, task_struct, tgid)};

	if (holder.inode)
		bpf_seq_write((struct seq_file *)seq, &holder, sizeof(holder));
}

/* iter/task_file(meta, task, fd, file): which process has which file open. */
int on_open(u64 *ctx)
{
	u64 meta = ctx[0], task = ctx[1], file = ctx[3];

	if (task && file)
		tell_holder(meta, task, NUMBER_OF(file));
	return 0;
}

/* iter/task_vma(meta, task, vma): which process has which file mapped. */
int on_mapped(u64 *ctx)
{
	u64 meta = ctx[0], task = ctx[1], vma = ctx[2];

	if (!task || !vma)
		return 0;
	u64 file = PEEK(vma, vm_area_struct, vm_file);
	if (file)
		tell_holder(meta, task, file);
	return 0;
}
