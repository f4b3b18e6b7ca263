/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The bytes of a file that a write call reaches, by its arguments.
 *
 * Some file systems have tracepoints that say what is written, which are used for them; this is
 * for the others.
 */
#ifndef MEMTAP_REACH_H
#define MEMTAP_REACH_H

#include <memtap/descriptors.h>

#define MOST_PARTS 8 /* parts of a writev(); the reach of one with more is not known */

#define IN_FAULT   (~0U) /* the "number" of a call, where the task is here by a page fault */

#ifndef O_APPEND
#define O_APPEND 02000
#endif

/* Bytes [start, end) of a file; none if they are not known. */
struct reach {
	u64 start;
	u64 end;
};

static INLINE u32 call_number(u64 task)
{
	u64 regs = user_regs(task);

	return CALL_NUMBER(regs);
}

/* The sum of the lengths in an array of struct iovec, or 0 where it has too many. */
static inline u64 length_of(u64 parts, u64 count)
{
	u64 length = 0;

	if (count > MOST_PARTS)
		return 0;
	for (int at = 0; at < MOST_PARTS && at < count; at++) {
		u64 part[2] = {};

		read_user(part, sizeof(part), (void *)parts + at * sizeof(part));
		length += part[1];
	}
	return length;
}

/* Where a write through this file begins if the call has no position of its own. */
static inline u64 begin_of(u64 file, u64 inode)
{
	if (PEEK(file, file, f_flags) & O_APPEND)
		return PEEK(inode, inode, i_size);
	return PEEK(file, file, f_pos);
}

/* The bytes of this inode that the task's write call reaches. */
static inline struct reach reach_by_call(u64 task, u64 inode)
{
	u64 regs = user_regs(task);
	u64 file = file_of(task, CALL_ARGUMENT_0(regs));
	u64 start = CALL_ARGUMENT_3(regs), length = CALL_ARGUMENT_2(regs);

	if (!file || PEEK(file, file, f_inode) != inode)
		return (struct reach){};
	switch ((u32)CALL_NUMBER(regs)) {
	case NR_WRITE:
		start = begin_of(file, inode);
		break;
	case NR_PWRITE64:
		break;
	case NR_WRITEV:
		start = begin_of(file, inode);
		length = length_of(CALL_ARGUMENT_1(regs), length);
		break;
	case NR_PWRITEV2:
		if (start == ~0ULL) /* -1 asks for the file's own position */
			start = begin_of(file, inode);
		/* fall through */
	case NR_PWRITEV:
		length = length_of(CALL_ARGUMENT_1(regs), length);
		break;
	default:
		return (struct reach){};
	}
	return (struct reach){start, start + length};
}

#endif
