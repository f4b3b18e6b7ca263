/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A file's name, sent once when the file is first seen: the names of its dentry and of those
 * above it up to the root of its file system, the file's own first, each ended by NUL.
 * So a file has its name also when it was closed, and its process gone, before anybody looked.
 */
#ifndef MEMTAP_NAMES_H
#define MEMTAP_NAMES_H

#define NAME_BYTES 4096
#define NAME_DEPTH 40

struct name_head {
	u32 record;
	u32 used;
	u64 ino;
	u32 dev;
	u32 rdev; /* what a block device's inode stands for, else 0 */
};

struct name_record {
	struct name_head head;
	char names[NAME_BYTES + 256];
};

struct name_bytes {
	char bytes[sizeof(struct name_record)];
};

/* An inode number is used again after its file is gone, with another generation. */
struct file_key {
	u64 ino;
	u32 dev;
	u32 generation;
};

BPF_TABLE("lru_hash", struct file_key, u8, named, 32768);
BPF_PERCPU_ARRAY(name_records, struct name_bytes, ALL_LANES);
BPF_ARRAY(layout_name, struct name_head, 1);

#if HAVE(dentry, d_u__d_alias)
#define ALIAS_OFFSET OFFSET(dentry, d_u__d_alias)
#else /* in a union without a name */
#define ALIAS_OFFSET OFFSET(dentry, d_alias)
#endif

/* The numbers of dentries are read with PEEK: they come out of a list node, not from BTF. */
static inline u32 collect_names(struct name_record *record, u64 dentry)
{
	u32 used = 0;

	for (int depth = 0; depth < NAME_DEPTH && used < NAME_BYTES; depth++) {
		u64 parent = PEEK(dentry, dentry, d_parent);
		u64 name = PEEK(dentry, dentry, d_name__name);

		if (parent == dentry)
			break;
		VERIFIER_FORGET(used);
		char *into = &record->names[used & (NAME_BYTES - 1)];
		int size = bpf_probe_read_kernel_str(into, 256, (void *)name);
		if (size <= 0)
			break;
		used += size;
		dentry = parent;
	}
	return used;
}

static inline void name_file(void *ctx, int lane, u64 inode, u64 ino, u32 dev)
{
	struct file_key key = {ino, dev, FIELD(inode, inode, i_generation)};
	u8 one = 1;

	if (named.lookup(&key))
		return;
	u64 alias = PEEK(inode, inode, i_dentry__first);
	struct name_record *record = (struct name_record *)name_records.lookup(&lane);
	if (!record)
		return;
	u32 used = alias ? collect_names(record, alias - ALIAS_OFFSET) : 0;
	record->head.record = RECORD_NAME;
	record->head.used = used;
	record->head.ino = ino;
	record->head.dev = dev;
	record->head.rdev = FIELD(inode, inode, i_rdev);
	if (used + record->head.rdev == 0)
		return;
	u64 bytes = sizeof(record->head) + used;
	VERIFIER_FORGET(bytes);
	if (bytes > sizeof(*record) || hand_over(ctx, record, bytes))
		return;
	named.update(&key, &one);
}

#endif
