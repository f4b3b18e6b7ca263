/* SPDX-License-Identifier: GPL-2.0-only */
/* The system call that a task is in, or returns from: its number and its arguments. */
#ifndef MEMTAP_CALLS_H
#define MEMTAP_CALLS_H

#include <memtap/regs.h>

#if defined(__x86_64__)
#define CALL_NUMBER(regs)     FIELD(regs, pt_regs, orig_ax)
#define CALL_ARGUMENT_0(regs) FIELD(regs, pt_regs, di)
#define CALL_ARGUMENT_1(regs) FIELD(regs, pt_regs, si)
#define CALL_ARGUMENT_2(regs) FIELD(regs, pt_regs, dx)
#define CALL_ARGUMENT_3(regs) FIELD(regs, pt_regs, r10)
#define CALL_ARGUMENT_4(regs) FIELD(regs, pt_regs, r8)
#define CALL_ARGUMENT_5(regs) FIELD(regs, pt_regs, r9)
enum {
	NR_READ = 0,
	NR_WRITE = 1,
	NR_OPEN = 2,
	NR_MMAP = 9,
	NR_MPROTECT = 10,
	NR_MUNMAP = 11,
	NR_BRK = 12,
	NR_IOCTL = 16,
	NR_PREAD64 = 17,
	NR_PWRITE64 = 18,
	NR_READV = 19,
	NR_WRITEV = 20,
	NR_MREMAP = 25,
	NR_MADVISE = 28,
	NR_SHMGET = 29,
	NR_SHMAT = 30,
	NR_SENDFILE = 40,
	NR_CREAT = 85,
	NR_IO_SUBMIT = 209,
	NR_OPENAT = 257,
	NR_SPLICE = 275,
	NR_FALLOCATE = 285,
	NR_PREADV = 295,
	NR_PWRITEV = 296,
	NR_MEMFD_CREATE = 319,
	NR_COPY_FILE_RANGE = 326,
	NR_PREADV2 = 327,
	NR_PWRITEV2 = 328,
	NR_IO_URING_ENTER = 426,
	NR_OPENAT2 = 437,
};

/* The same for 32-bit programs. */
#define CALL_32_ARGUMENT_0(regs) (u32) FIELD(regs, pt_regs, bx)
#define CALL_32_ARGUMENT_1(regs) (u32) FIELD(regs, pt_regs, cx)
#define CALL_32_ARGUMENT_2(regs) (u32) FIELD(regs, pt_regs, dx)
#define CALL_32_ARGUMENT_3(regs) (u32) FIELD(regs, pt_regs, si)
#define CALL_32_ARGUMENT_4(regs) (u32) FIELD(regs, pt_regs, di)
enum {
	NR_32_READ = 3,
	NR_32_BRK = 45,
	NR_32_MUNMAP = 91,
	NR_32_MPROTECT = 125,
	NR_32_READV = 145,
	NR_32_MREMAP = 163,
	NR_32_PREAD64 = 180,
	NR_32_SENDFILE = 187,
	NR_32_MMAP2 = 192,
	NR_32_MADVISE = 219,
	NR_32_SENDFILE64 = 239,
	NR_32_SPLICE = 313,
	NR_32_PREADV = 333,
	NR_32_COPY_FILE_RANGE = 377,
	NR_32_PREADV2 = 378,
};
#define ARGUMENT(number, regs, is_32)                                                          \
	((is_32) ? CALL_32_ARGUMENT_##number(regs) : CALL_ARGUMENT_##number(regs))
#define THREAD_IS_32_BIT(task) (FIELD(task, task_struct, thread_info__status) & TS_COMPAT)
#define TS_COMPAT              2

/* Is this a thread of a 32-bit program, in a call that reads? */
static INLINE int is_reading_32(u64 task)
{
	if (!THREAD_IS_32_BIT(task))
		return 0;
	switch (CALL_NUMBER(user_regs(task))) {
	case NR_32_READ:
	case NR_32_READV:
	case NR_32_PREAD64:
	case NR_32_SENDFILE:
	case NR_32_SENDFILE64:
	case NR_32_SPLICE:
	case NR_32_PREADV:
	case NR_32_COPY_FILE_RANGE:
	case NR_32_PREADV2:
		return 1;
	}
	return 0;
}
#else
#define CALL_NUMBER(regs)             FIELD(regs, pt_regs, syscallno)
#define CALL_ARGUMENT_0(regs)         FIELD(regs, pt_regs, orig_x0)
#define CALL_ARGUMENT_1(regs)         FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 1 * sizeof(u64))
#define CALL_ARGUMENT_2(regs)         FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 2 * sizeof(u64))
#define CALL_ARGUMENT_3(regs)         FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 3 * sizeof(u64))
#define CALL_ARGUMENT_4(regs)         FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 4 * sizeof(u64))
#define CALL_ARGUMENT_5(regs)         FIELD_AS(u64, regs, OFFSET(pt_regs, regs) + 5 * sizeof(u64))
enum {
	NR_IO_SUBMIT = 2,
	NR_IOCTL = 29,
	NR_FALLOCATE = 47,
	NR_OPENAT = 56,
	NR_READ = 63,
	NR_WRITE = 64,
	NR_READV = 65,
	NR_WRITEV = 66,
	NR_PREAD64 = 67,
	NR_PWRITE64 = 68,
	NR_PREADV = 69,
	NR_PWRITEV = 70,
	NR_SENDFILE = 71,
	NR_SPLICE = 76,
	NR_SHMGET = 194,
	NR_SHMAT = 196,
	NR_BRK = 214,
	NR_MUNMAP = 215,
	NR_MREMAP = 216,
	NR_MMAP = 222,
	NR_MPROTECT = 226,
	NR_MADVISE = 233,
	NR_MEMFD_CREATE = 279,
	NR_COPY_FILE_RANGE = 285,
	NR_PREADV2 = 286,
	NR_PWRITEV2 = 287,
	NR_IO_URING_ENTER = 426,
	NR_OPENAT2 = 437,
};
#define ARGUMENT(number, regs, is_32) CALL_ARGUMENT_##number(regs)
#define THREAD_IS_32_BIT(task)        0
#define is_reading_32(task)           0
#endif

/* task->flags: tasks that make no system calls of their own, and how a task asks for memory. */
#define PF_IO_WORKER      0x00000010
#define PF_MEMALLOC_NOFS  0x00040000
#define PF_MEMALLOC_NOIO  0x00080000
#define PF_LOCAL_THROTTLE 0x00100000
#define PF_KTHREAD        0x00200000

#define NOWHERE           (~0ULL)
#define LAST_ERROR        4095 /* results from its negative up are errors */

/* A word of the process's memory; NOWHERE if it cannot be read. */
static INLINE u64 user_word(u64 address)
{
	u64 word = NOWHERE;

	read_user(&word, sizeof(word), (void *)address);
	return word;
}

#endif
