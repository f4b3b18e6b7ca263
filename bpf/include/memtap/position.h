/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What this thread's system call asks to read: where in the file that begins, and ends.
 *
 * A pread has both in its arguments. A read begins at file->f_pos, a sendfile or a splice there
 * or where a variable of the program says; the kernel changes either only when the call is
 * done.
 */
#ifndef MEMTAP_POSITION_H
#define MEMTAP_POSITION_H

#include <memtap/descriptors.h>
#include <memtap/loops.h>

#define MOST_BYTES      0x7ffff000ULL /* of one call: MAX_RW_COUNT */
#define MOST_READ_PARTS 4             /* parts of an iovec that are added up */
#define MOST_WORDS      384           /* words of a stack, which begins up to 1 KiB deep */
#define MOST_STACK      65536         /* its bytes */
#define RWF_NOWAIT      8
#define ENOSYS          38
#define S_IFMT          0170000
#define S_IFIFO         0010000

#if defined(__x86_64__)
/* From the begin of a call until it is done, its result register holds this. */
#define IN_CALL(regs) ((s64)FIELD(regs, pt_regs, ax) == -ENOSYS)
#define O_DIRECT      040000
#else
/* When a call is done, its result replaces its first argument. */
#define IN_CALL(regs) (FIELD_AS(u64, regs, OFFSET(pt_regs, regs)) == CALL_ARGUMENT_0(regs))
#define O_DIRECT      0200000
#endif

/* How a thread comes to read. */
enum way { BY_OTHER, BY_READ, BY_PIPE, BY_AIO, BY_RING };

/*
 * What the thread asks for, in bytes of a file; a member that is not known is NOWHERE. This is
 * in a map; see NOTED().
 */
struct asking {
	u64 way; /* enum way */
	u64 file;
	u64 start;
	u64 stop;
	u64 id;   /* differs from that of the thread's request before, where syscr does not */
	u64 room; /* how many more pages it can take: a pipe may be full */
	u64 at;   /* how far up the stack was looked at */
	u64 found;
};

static INLINE u64 file_mapping(u64 file)
{
	return file ? PEEK(file, file, f_mapping) : 0;
}

/* `bytes` from a place on; NOWHERE stands for the file's own position. */
static INLINE void ask(struct asking *asking, enum way way, u64 file, u64 place, u64 bytes)
{
	asking->way = way;
	asking->file = file;
	asking->start = place == NOWHERE && file ? PEEK(file, file, f_pos) : place;
	if (bytes == NOWHERE || asking->start == NOWHERE)
		return;
	asking->stop = asking->start + (bytes < MOST_BYTES ? bytes : MOST_BYTES);
}

/* The sum of an iovec's lengths; NOWHERE if it has many. */
static INLINE u64 bytes_of_parts(u64 parts, u64 count)
{
	u64 sum = 0;

	if (count > MOST_READ_PARTS)
		return NOWHERE;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MOST_READ_PARTS; i++)
		if (i < count)
			sum += user_word(parts + i * 16 + 8);
	return sum;
}

/*
 * As long as no reader takes from the pipe, the head of the pipe and the position in the file
 * advance together. They also do so from call to call, if what lies between comes from
 * elsewhere; but the start does not.
 */
static INLINE void ask_pipe(struct asking *asking, u64 pipe, u64 first)
{
	u32 head = PEEK(pipe, pipe_inode_info, head);

	if (!pipe)
		return;
	asking->id = head - first + asking->start * MOST_BYTES;
	asking->room = PEEK(pipe, pipe_inode_info, max_usage) -
		       (u32)(head - (u32)PEEK(pipe, pipe_inode_info, tail));
}

static INLINE u64 pipe_of(u64 file)
{
	if (!file || (PEEK(PEEK(file, file, f_inode), inode, i_mode) & S_IFMT) != S_IFIFO)
		return 0;
	return PEEK(file, file, private_data);
}

/* Members of struct iocb, in bytes; the opcode is followed by 2 of priority and 4 of fd. */
enum { IOCB_OPCODE = 16, IOCB_BUFFER = 24, IOCB_BYTES = 32, IOCB_OFFSET = 40, IOCB_PREADV = 7 };

/*
 * Is this a struct kiocb that has come to this page? One on this very stack does not count: it
 * may be a remnant of an earlier read().
 */
static INLINE int is_at(u64 request, u64 regs, u64 mapping, u64 page)
{
	return request >> 63 && regs - request > MOST_STACK &&
	       file_mapping(PEEK(request, kiocb, ki_filp)) == mapping &&
	       PEEK(request, kiocb, ki_pos) >> PAGE_SHIFT == page;
}

/*
 * What a request of io_uring has still to read; 0 if it is done, though its address is still on
 * the stack.
 */
static INLINE u64 bytes_left(u64 request)
{
#if HAVE(io_async_rw, bytes_done)
	return PEEK(PEEK(request, io_kiocb, async_data), io_async_rw, iter__count);
#else
	return 0;
#endif
}

/*
 * Does the request still want pages up to the last one of the lookup, which is of whole blocks?
 */
static INLINE int wants_up_to(u64 request, u64 last, u64 block_pages)
{
	u64 left = bytes_left(request);
	u64 own = (PEEK(request, kiocb, ki_pos) + left - 1) >> PAGE_SHIFT;

	return left && last - own < block_pages;
}

/*
 * Is a request of io_submit() not done yet? The address of one that is done may still be on the
 * stack, and its position is where the next one begins. aio_complete_rw() notes what it read.
 */
static INLINE int is_under_way(u64 request)
{
#if HAVE(aio_kiocb, ki_res__res)
	return !PEEK(request, aio_kiocb, ki_res__res);
#else
	return 0;
#endif
}

/*
 * The struct kiocb of the read that this thread works on, or 0. io_submit() works on one
 * request after the other, and has the address of the current one on its stack, close to where
 * the call began.
 */
static INLINE u64 request_at_hand(struct asking *asking, enum way way, u64 regs, u64 mapping,
				  u64 page)
{
	AT_MOST(MOST_WORDS)
	{
		OR_BREAK;
		u64 at = NOTED(asking->at) + 1, word = PEEK_AS(u64, regs - at * sizeof(u64), 0);

		if (at > MOST_WORDS)
			break;
		NOTED(asking->at) = at;
		if (is_at(word, regs, mapping, page) &&
		    (way == BY_AIO
			     ? is_under_way(word)
			     : wants_up_to(word, NOTED(asking->room), NOTED(asking->stop)))) {
			NOTED(asking->found) = word;
			break;
		}
	}
	return NOTED(asking->found);
}

/* What that read asks for, by the struct iocb that the program has filled in. */
static INLINE void ask_aio(struct asking *asking, u64 task, u64 regs, u64 mapping, u64 page)
{
	asking->way = BY_AIO;
#if HAVE(aio_kiocb, ki_res__obj)
	u64 request = request_at_hand(asking, BY_AIO, NUMBER_OF(regs), mapping, page);
	u64 iocb = request ? PEEK(request, aio_kiocb, ki_res__obj) : 0;
	u64 what = user_word(iocb + IOCB_OPCODE), bytes = user_word(iocb + IOCB_BYTES);
	u64 file = file_of(task, what >> 32), start = user_word(iocb + IOCB_OFFSET);

	if (file_mapping(file) != mapping)
		return;
	if ((what & 0xffff) == IOCB_PREADV)
		bytes = bytes_of_parts(user_word(iocb + IOCB_BUFFER), bytes);
	ask(asking, BY_AIO, file, start, bytes);
	asking->id = start + iocb * MOST_BYTES + bytes;
#endif
}

/* How this thread comes to read, judged only by the number of its system call. */
static INLINE enum way way_of_call(u64 task, u64 regs)
{
	if (FIELD(task, task_struct, flags) & (PF_KTHREAD | PF_IO_WORKER) ||
	    THREAD_IS_32_BIT(task) || !IN_CALL(regs))
		return BY_OTHER;
	switch (CALL_NUMBER(regs)) {
	case NR_READ:
	case NR_PREAD64:
	case NR_READV:
	case NR_PREADV:
	case NR_PREADV2:
		return BY_READ;
	case NR_SENDFILE:
	case NR_COPY_FILE_RANGE:
	case NR_SPLICE:
		return BY_PIPE;
	case NR_IO_SUBMIT:
		return BY_AIO;
	}
	return BY_OTHER;
}

static INLINE enum way call_way(u64 task)
{
	return way_of_call(task, user_regs(task));
}

/* A call of read() and its like. */
static INLINE void ask_read(struct asking *asking, u64 task, u64 regs, u64 number)
{
	u64 place = CALL_ARGUMENT_3(regs), bytes = CALL_ARGUMENT_2(regs);

	if (number == NR_READ || number == NR_READV)
		place = NOWHERE; /* as -1 does in a preadv() */
	if (number != NR_READ && number != NR_PREAD64)
		bytes = bytes_of_parts(CALL_ARGUMENT_1(regs), bytes);
	ask(asking, BY_READ, file_of(task, CALL_ARGUMENT_0(regs)), place, bytes);
}

static INLINE void ask_splice(struct asking *asking, u64 task, u64 regs, u64 number, u64 first)
{
	u64 in = CALL_ARGUMENT_0(regs), place = CALL_ARGUMENT_1(regs),
	    bytes = CALL_ARGUMENT_4(regs);
	u64 out = CALL_ARGUMENT_2(regs);

	if (number == NR_SENDFILE) {
		out = in;
		in = place;
		place = CALL_ARGUMENT_2(regs);
		bytes = CALL_ARGUMENT_3(regs);
	}
	ask(asking, BY_PIPE, file_of(task, in), place ? user_word(place) : NOWHERE, bytes);
	/* Where neither end is a pipe, the task keeps a pipe for this. */
	u64 pipe = pipe_of(file_of(task, out));
	ask_pipe(asking, pipe ? pipe : (u64)PEEK(task, task_struct, splice_pipe), first);
}

/* What this thread, which looks up pages from the first on, asks for. */
static INLINE void ask_call(struct asking *asking, enum way way, u64 task, u64 mapping,
			    u64 first)
{
	u64 regs = user_regs(task), number = CALL_NUMBER(regs);

	*asking = (struct asking){
		.way = BY_OTHER, .start = NOWHERE, .stop = NOWHERE, .room = NOWHERE};
	if (way == BY_READ)
		ask_read(asking, task, regs, number);
	else if (way == BY_PIPE)
		ask_splice(asking, task, regs, number, first);
	else if (way == BY_AIO)
		ask_aio(asking, task, regs, mapping, first);
	READ_AGAIN();
}

#endif
