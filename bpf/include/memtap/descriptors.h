/* SPDX-License-Identifier: GPL-2.0-only */
/* The files that the arguments of a system call name. */
#ifndef MEMTAP_DESCRIPTORS_H
#define MEMTAP_DESCRIPTORS_H

#include <memtap/calls.h>

/* The descriptors of a task: how many there are, and a struct file or 0 for each. */
struct descriptors {
	u64 count;
	u64 files;
};

/* By PEEK: for a typed pointer out of a task, the verifier searches the names of all types. */
static inline struct descriptors descriptors_of(u64 task)
{
	u64 table = PEEK(PEEK(task, task_struct, files), files_struct, fdt);

	return (struct descriptors){PEEK(table, fdtable, max_fds), PEEK(table, fdtable, fd)};
}

/* The struct file of a descriptor, or 0. */
static inline u64 file_at(struct descriptors in, u64 fd)
{
	return fd < in.count ? PEEK_AS(u64, in.files, fd * sizeof(u64)) : 0;
}

static inline u64 file_of(u64 task, u64 fd)
{
	return file_at(descriptors_of(task), fd);
}

/* The file position behind a descriptor that this thread is reading. */
static INLINE u64 place_at(u64 task, u64 fd)
{
	u64 table = FIELD(FIELD(task, task_struct, files), files_struct, fdt);
	u64 file = PEEK_AS(u64, FIELD(table, fdtable, fd), fd * sizeof(u64));

	return PEEK(file, file, f_pos);
}

#endif
