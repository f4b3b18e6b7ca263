/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A file's name, sent when the file is first seen and when its name has changed: the names of
 * its dentry and of those above it up to the root of its file system, the file's own first,
 * each ended by NUL. So a file has its name also when it was closed, and its process gone,
 * before user space could look.
 *
 * A file with several names (hard links) has the one by which it was opened, if the call that
 * the task is in, or a mapping, shows it; else any of them, until a call or a mapping does.
 * Whatever gives a file another name, or takes one away, changes the inode's ctime: as long as
 * the ctime stays the same, nothing is looked at.
 */
#ifndef MEMTAP_NAMES_H
#define MEMTAP_NAMES_H

#include <memtap/descriptors.h>
#include <memtap/loops.h>

#define NAME_BYTES           4096
#define NAME_DEPTH           40

/* How coarse an inode's ctime is, in jiffies. */
#define CTIME_TICKS          2

#define BTRFS_SUPER_MAGIC    0x9123683E
#define BCACHEFS_SUPER_MAGIC 0xca451a4e

enum name_flag {
	DELETED = 1, /* the name is gone, though the file may still be open */
	GONE = 2,    /* no name is left */
	ALONE = 4,   /* another file may have the same device, number and generation */
};

struct name_head {
	u32 record;
	u32 used;
	u64 ns;   /* when it was so, CLOCK_MONOTONIC */
	u64 file; /* see identity() */
	u64 ino;
	u32 dev;    /* of the file system, the kernel's dev_t: major << 20 | minor */
	u32 volume; /* the device that stat(2) gives: the subvolume's, where there are some */
	u32 rdev;   /* what a block device's inode stands for, else 0 */
	u32 generation;
	u32 mount; /* by which it was opened, its number in mountinfo; 0 if not known */
	u32 flags;
};

/* The dentry by which a file is known, and the vfsmount of that path, if known. */
struct name {
	u64 dentry;
	u64 mount;
	u64 sure;
};

/* What was sent about a file. */
struct told {
	u64 changed; /* see changed_at() */
	u64 name;    /* which name was sent, see name_of() */
	u64 since;   /* when it was first found like this, in jiffies */
	u64 looked;  /* when it was last looked at */
	u32 sure;    /* it was opened by that name, or has no other */
	u32 settled; /* any later change of the name gives another ctime */
};

/* The members behind `names` are not handed over; see NOTED(). */
struct name_record {
	struct name_head head;
	char names[NAME_BYTES + 256];
	struct name found;
	u64 file;   /* the struct file by which the name was found */
	u64 vma;    /* node of the VMA that is looked at */
	u64 dentry; /* the one that is collected now */
	u64 used;   /* bytes of names */
	u64 is_news;
	struct told told;
};

struct name_bytes {
	char bytes[sizeof(struct name_record)];
};

BPF_TABLE("lru_hash", u64, struct told, named, 32768);
BPF_PERCPU_ARRAY(name_records, struct name_bytes, ALL_LANES);
BPF_ARRAY(layout_name, struct name_head, 1);

#if HAVE(dentry, d_u__d_alias)
#define ALIAS_OFFSET OFFSET(dentry, d_u__d_alias)
#else /* in a union without a name */
#define ALIAS_OFFSET OFFSET(dentry, d_alias)
#endif

static inline int is_of(u64 file, u64 inode)
{
	return file && PEEK(file, file, f_inode) == inode;
}

static inline struct name name_by(u64 file)
{
	return (struct name){PEEK(file, file, f_path__dentry), PEEK(file, file, f_path__mnt),
			     1};
}

/*
 * The file that one of the arguments of the call under way is a descriptor of, if it is this
 * inode's: read(fd), sendfile(out, in), copy_file_range(in, , out), mmap(, , , , fd).
 */
static inline u64 opened(u64 task, u64 inode)
{
	struct descriptors descriptors = descriptors_of(task);
	u64 regs = user_regs(task);
	u64 arguments[] = {CALL_ARGUMENT_0(regs), CALL_ARGUMENT_1(regs), CALL_ARGUMENT_2(regs),
			   CALL_ARGUMENT_4(regs)};

#pragma unroll
	for (int at = 0; at < 4; at++) {
		u64 file = file_at(descriptors, arguments[at]);

		if (is_of(file, inode))
			return file;
	}
	return 0;
}

/* The struct file of a mapping of this inode: of the task's own one, if it is easily found. */
static inline void find_mapped(struct name_record *record, u64 task, u64 inode)
{
	u64 mm = PEEK(task, task_struct, mm), mapping = PEEK(inode, inode, i_mapping);

	NOTED(record->vma) = PEEK(mapping, address_space, i_mmap__rb_root__rb_node);
	AT_MOST(8)
	{
		OR_BREAK;
		u64 node = NOTED(record->vma), vma = node - OFFSET(vm_area_struct, shared__rb);

		if (!node)
			break;
		u64 file = PEEK(vma, vm_area_struct, vm_file);
		if (is_of(file, inode)) {
			NOTED(record->file) = file;
			if (PEEK(vma, vm_area_struct, vm_mm) == mm)
				break;
		}
		NOTED(record->vma) = PEEK(node, rb_node, rb_left);
	}
}

static inline struct name any_name(u64 inode)
{
	u64 alias = PEEK(inode, inode, i_dentry__first);

	if (!alias)
		return (struct name){0, 0, FIELD(inode, inode, i_nlink) == 0};
	return (struct name){alias - ALIAS_OFFSET, 0, PEEK(alias, hlist_node, next) == 0};
}

static inline void find_name(struct name_record *record, u64 task, u64 inode)
{
	NOTED(record->file) = opened(task, inode);
	if (!NOTED(record->file))
		find_mapped(record, task, inode);
	u64 file = NOTED(record->file);
	struct name name = file ? name_by(file) : any_name(inode);
	NOTED(record->found.dentry) = name.dentry;
	NOTED(record->found.mount) = name.mount;
	NOTED(record->found.sure) = name.sure;
}

/* As in d_unlinked(): the file cannot be found by this name any more. */
static inline int is_deleted(struct name *name, u64 inode)
{
	if (FIELD(inode, inode, i_nlink) == 0)
		return 1;
	return name->dentry && PEEK(name->dentry, dentry, d_hash__pprev) == 0 &&
	       PEEK(name->dentry, dentry, d_parent) != name->dentry;
}

/* A number for the name itself, the mount left out. */
static inline u64 name_of(struct name *name, int deleted)
{
	if (!name->dentry)
		return deleted;
	return (name->dentry ^ PEEK(name->dentry, dentry, d_name__hash_len) ^
		PEEK(name->dentry, dentry, d_parent)) *
		       2 +
	       deleted;
}

#if HAVE(inode, i_ctime_sec) /* 3aa63a569c64 */
#define CTIME_S(inode)  FIELD(inode, inode, i_ctime_sec)
#define CTIME_NS(inode) FIELD(inode, inode, i_ctime_nsec)
#elif HAVE(inode, __i_ctime__tv_sec) /* 13bc24457850 */
#define CTIME_S(inode)  FIELD(inode, inode, __i_ctime__tv_sec)
#define CTIME_NS(inode) FIELD(inode, inode, __i_ctime__tv_nsec)
#else
#define CTIME_S(inode)  FIELD(inode, inode, i_ctime__tv_sec)
#define CTIME_NS(inode) FIELD(inode, inode, i_ctime__tv_nsec)
#endif

/* A number that changes with the names of the inode, except for changes within one jiffy. */
static inline u64 changed_at(u64 inode)
{
	return (CTIME_S(inode) << 32 | CTIME_NS(inode)) ^ (u64)FIELD(inode, inode, i_nlink)
								  << 40;
}

/* Dentries are read by PEEK: their addresses come out of a list node, not from BTF. */
static inline void collect_names(struct name_record *record)
{
	AT_MOST(NAME_DEPTH)
	{
		OR_BREAK;
		u64 dentry = NOTED(record->dentry), used = NOTED(record->used);
		u64 parent = PEEK(dentry, dentry, d_parent);
		u64 name = PEEK(dentry, dentry, d_name__name);

		if (parent == dentry || used >= NAME_BYTES)
			break;
		VERIFIER_FORGET(used);
		char *into = &record->names[used & (NAME_BYTES - 1)];
		int size = bpf_probe_read_kernel_str(into, 256, (void *)name);
		if (size <= 0)
			break;
		NOTED(record->used) += size;
		NOTED(record->dentry) = parent;
	}
}

/* The device of an inode as stat(2) gives it, if the kernel has the types of btrfs. */
static inline u32 volume_of(u64 inode, u64 super, u32 dev)
{
#if HAVE(btrfs_inode, root)
	if (FIELD(super, super_block, s_magic) == BTRFS_SUPER_MAGIC) {
		u64 root = PEEK(inode - OFFSET(btrfs_inode, vfs_inode), btrfs_inode, root);

		return PEEK(root, btrfs_root, anon_dev);
	}
#endif
	return dev;
}

/* Can other files of its file system have the same number and generation? */
static inline int has_twins(u64 super)
{
	u64 magic = FIELD(super, super_block, s_magic);

#if !HAVE(btrfs_inode, root)
	if (magic == BTRFS_SUPER_MAGIC)
		return 1;
#endif
	return magic == BCACHEFS_SUPER_MAGIC;
}

static inline void describe(struct name_head *head, struct name *name, u64 inode, u64 file)
{
	u64 super = FIELD(inode, inode, i_sb);

	head->record = RECORD_NAME;
	head->ns = bpf_ktime_get_ns();
	head->file = file;
	head->ino = FIELD(inode, inode, i_ino);
	head->dev = FIELD(super, super_block, s_dev);
	head->volume = volume_of(inode, super, head->dev);
	head->rdev = FIELD(inode, inode, i_rdev);
	head->generation = FIELD(inode, inode, i_generation);
	head->mount = 0;
	if (name->mount)
		head->mount = PEEK(name->mount - OFFSET(mount, mnt), mount, mnt_id);
	head->flags = is_deleted(name, inode) ? DELETED : 0;
	if (FIELD(inode, inode, i_nlink) == 0)
		head->flags |= GONE;
	if (has_twins(super))
		head->flags |= ALONE;
}

static inline int send_name(void *ctx, struct name_record *record, struct name *name, u64 inode,
			    u64 file)
{
	describe(&record->head, name, inode, file);
	NOTED(record->dentry) = name->dentry;
	NOTED(record->used) = 0;
	if (name->dentry)
		collect_names(record);
	record->head.used = NOTED(record->used);
	u64 bytes = sizeof(record->head) + NOTED(record->used);
	VERIFIER_FORGET(bytes);
	return bytes <= sizeof(record->head) + sizeof(record->names) &&
	       !hand_over(ctx, record, bytes);
}

/* Has the name been sent, with nothing to look at again? */
static inline int is_told(struct told *before, u64 changed, u64 now)
{
	if (!before || before->changed != changed)
		return 0;
	return before->looked == now || (before->sure && before->settled);
}

/* Sends the name that was found, if it is new; returns 0 if there was no room for it. */
static inline int tell_name(void *ctx, struct name_record *record, u64 inode, u64 file)
{
	struct told *told = &record->told, *before = named.lookup(&file);
	u64 changed = changed_at(inode), now = bpf_jiffies64();

	struct name name = {NOTED(record->found.dentry), NOTED(record->found.mount),
			    NOTED(record->found.sure)};
	*told = (struct told){changed, name_of(&name, is_deleted(&name, inode)), now, now,
			      name.sure};
	READ_AGAIN();
	NOTED(record->is_news) =
		!before || (told->name != before->name && told->sure >= before->sure);
	if (before && !NOTED(record->is_news)) {
		told->name = before->name;
		told->sure = before->sure;
	}
	if (before && before->changed == changed) {
		told->since = before->since;
		told->settled = now - told->since >= CTIME_TICKS;
	}
	READ_AGAIN();
	if (NOTED(record->is_news) && !send_name(ctx, record, &name, inode, file))
		return 0;
	named.update(&file, told);
	return 1;
}

/* Sends the name of a file unless that was done; returns 0 if there was no room for it. */
static inline int name_file(void *ctx, int lane, u64 task, u64 inode, u64 file)
{
	struct name_record *record = (struct name_record *)name_records.lookup(&lane);

	if (!record || is_told(named.lookup(&file), changed_at(inode), bpf_jiffies64()))
		return 1;
	find_name(record, task, inode);
	return tell_name(ctx, record, inode, file);
}

#endif
