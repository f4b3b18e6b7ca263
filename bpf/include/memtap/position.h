/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where in its file the read call that this thread is in begins.
 *
 * A pread has that in its arguments. A read takes it from file->f_pos, which the kernel moves
 * only when the call is done.
 */
#ifndef MEMTAP_POSITION_H
#define MEMTAP_POSITION_H

#include <memtap/descriptors.h>

#define NOWHERE (~0ULL)

#if defined(__x86_64__)
enum { NR_READ = 0, NR_PREAD64 = 17, NR_READV = 19, NR_PREADV = 295, NR_PREADV2 = 327 };
#else
enum { NR_READ = 63, NR_READV = 65, NR_PREAD64 = 67, NR_PREADV = 69, NR_PREADV2 = 286 };
#endif

static inline u64 file_position(u64 task, u32 fd)
{
	u64 file = file_of(task, fd);

	return file ? PEEK(file, file, f_pos) : NOWHERE;
}

static inline u64 call_position(u64 task)
{
	u64 regs = user_regs(task);
	u64 offset;

	switch (CALL_NUMBER(regs)) {
	case NR_PREAD64:
		return CALL_ARGUMENT_3(regs);
	case NR_PREADV:
	case NR_PREADV2:
		offset = CALL_ARGUMENT_3(regs);
		if (offset != NOWHERE) /* -1 asks for f_pos */
			return offset;
		/* fall through */
	case NR_READ:
	case NR_READV:
		return file_position(task, CALL_ARGUMENT_0(regs));
	}
	return NOWHERE;
}

#endif
