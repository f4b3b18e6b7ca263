/* SPDX-License-Identifier: GPL-2.0-only */
/* The system call that a task is in: its number, its arguments, and the files they name. */
#ifndef MEMTAP_DESCRIPTORS_H
#define MEMTAP_DESCRIPTORS_H

#include <memtap/regs.h>

#if defined(__x86_64__)
#define CALL_NUMBER(regs)     FIELD(regs, pt_regs, orig_ax)
#define CALL_ARGUMENT_0(regs) FIELD(regs, pt_regs, di)
#define CALL_ARGUMENT_1(regs) FIELD(regs, pt_regs, si)
#define CALL_ARGUMENT_2(regs) FIELD(regs, pt_regs, dx)
#define CALL_ARGUMENT_3(regs) FIELD(regs, pt_regs, r10)
#define CALL_ARGUMENT_4(regs) FIELD(regs, pt_regs, r8)
#else
#define CALL_NUMBER(regs)     FIELD(regs, pt_regs, syscallno)
#define CALL_ARGUMENT_0(regs) FIELD(regs, pt_regs, orig_x0)
#define CALL_ARGUMENT_1(regs) FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 1 * sizeof(u64))
#define CALL_ARGUMENT_2(regs) FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 2 * sizeof(u64))
#define CALL_ARGUMENT_3(regs) FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 3 * sizeof(u64))
#define CALL_ARGUMENT_4(regs) FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 4 * sizeof(u64))
#endif

/* The descriptors of a task: so many, and a struct file or 0 for each. */
struct descriptors {
	u64 count;
	u64 files;
};

/* By PEEK: for a typed pointer out of a task the verifier searches through all names of types.
 */
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

#endif
