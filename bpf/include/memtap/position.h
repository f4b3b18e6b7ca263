/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where in its file the read call that this thread is in begins.
 *
 * A pread has that in its arguments. A read takes it from file->f_pos, which the kernel moves
 * only when the call is done.
 */
#ifndef MEMTAP_POSITION_H
#define MEMTAP_POSITION_H

#include <memtap/regs.h>

#define NOWHERE (~0ULL)

#if defined(__x86_64__)
#define CALL_NUMBER(regs) FIELD(regs, pt_regs, orig_ax)
#define CALL_FD(regs)     FIELD(regs, pt_regs, di)
#define CALL_OFFSET(regs) FIELD(regs, pt_regs, r10)
enum { NR_READ = 0, NR_PREAD64 = 17, NR_READV = 19, NR_PREADV = 295, NR_PREADV2 = 327 };
#else
#define CALL_NUMBER(regs) FIELD(regs, pt_regs, syscallno)
#define CALL_FD(regs)     FIELD(regs, pt_regs, orig_x0)
#define CALL_OFFSET(regs) FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 3 * sizeof(u64))
enum { NR_READ = 63, NR_READV = 65, NR_PREAD64 = 67, NR_PREADV = 69, NR_PREADV2 = 286 };
#endif

static inline u64 file_position(u64 task, u32 fd)
{
	u64 files = FIELD(task, task_struct, files);
	u64 table = PEEK(files, files_struct, fdt);

	if (fd >= PEEK(table, fdtable, max_fds))
		return NOWHERE;
	u64 file = PEEK_AS(u64, PEEK(table, fdtable, fd), fd * sizeof(u64));
	return PEEK(file, file, f_pos);
}

static inline u64 call_position(u64 task)
{
	u64 regs = user_regs(task);
	u64 offset;

	switch (CALL_NUMBER(regs)) {
	case NR_PREAD64:
		return CALL_OFFSET(regs);
	case NR_PREADV:
	case NR_PREADV2:
		offset = CALL_OFFSET(regs);
		if (offset != NOWHERE) /* -1 asks for f_pos */
			return offset;
		/* fall through */
	case NR_READ:
	case NR_READV:
		return file_position(task, CALL_FD(regs));
	}
	return NOWHERE;
}

#endif
