/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reads that the kernel reports when they are done: those of io_uring and of loop devices.
 *
 * One system call submits many of them, a worker or an interrupted thread goes on with them,
 * and a read that was tried without waiting is tried again. But the kernel reports when a read
 * is done, with its position and its length in bytes. So the events of the threads that look up
 * pages only show that the file goes through the page cache, and for which process.
 */
#ifndef MEMTAP_REQUESTS_H
#define MEMTAP_REQUESTS_H

#include <memtap/position.h>

#define LOOP_MAJOR     7
#define LOOP_DIRECT_IO 16 /* LO_FLAGS_DIRECT_IO */
#define LOOP_FLAGS     (PF_LOCAL_THROTTLE | PF_MEMALLOC_NOIO)
#define REQ_OP_BITS    0xff
#define IOCB_DIRECT    (1 << 17)
#define IOCB_DONTCACHE 0x80
#define CQE_SKIP       (1 << 6) /* IOSQE_CQE_SKIP_SUCCESS */

/* enum io_uring_op */
enum {
	RING_READV = 1,
	RING_READ_FIXED = 4,
	RING_FALLOCATE = 17,
	RING_READ = 22,
	RING_SPLICE = 30,
	RING_READV_FIXED = 60
};

#define HAVE_RINGS                                                                             \
	(HAVE(io_rw, len) && HAVE(io_kiocb, cmd) && HAVE(io_async_rw, bytes_done) &&           \
	 (HAVE(io_kiocb, tctx) || HAVE(io_kiocb, task)))
#define HAVE_DEVICES HAVE(loop_device, lo_offset)

/* The process that reads a file by requests, and the file. */
struct asker {
	u64 file;
	u32 tgid;
	u32 tid;
};

BPF_TABLE("lru_hash", u64, struct asker, askers, 4096);

/* A number for a mapping and the process that reads it; for a loop device the process is 0. */
static INLINE u64 asked_by(u64 mapping, u32 tgid)
{
	return NUMBER_OF(mapping) + tgid * GOLDEN;
}

#if HAVE_RINGS
/*
 * The request that a worker of io_uring works on; 0 for the thread that polls a submission
 * queue.
 */
static INLINE u64 worker_request(u64 task)
{
	u64 worker = (u64)FIELD(task, task_struct, worker_private);
	u64 work = worker ? PEEK(worker, io_worker, cur_work) : 0;

	return work ? work - OFFSET(io_kiocb, work) : 0;
}

/*
 * Does this thread work for io_uring? One that is interrupted, or returns, goes on with
 * requests that it submitted before.
 */
static INLINE int is_in_ring(u64 task, u64 flags)
{
	u64 request;

	if (flags & PF_IO_WORKER) {
		request = worker_request(task);
		return !request || PEEK(request, io_kiocb, opcode) != RING_SPLICE;
	}
	if (!FIELD(task, task_struct, io_uring))
		return 0;
	u64 regs = user_regs(task);
	return !IN_CALL(regs) || CALL_NUMBER(regs) == NR_IO_URING_ENTER;
}

/* The process that a request is for; where a thread polls the queue, the queue's process. */
static INLINE u32 asking_tgid(u64 request)
{
#if HAVE(io_kiocb, tctx) /* b6f58a3f4aa8 */
	u64 task = PEEK(PEEK(request, io_kiocb, tctx), io_uring_task, task);
#else
	u64 task = PEEK(request, io_kiocb, task);
#endif

	return PEEK(task, task_struct, tgid);
}

static INLINE int is_read(u8 opcode)
{
	return opcode == RING_READ || opcode == RING_READV || opcode == RING_READ_FIXED ||
	       opcode == RING_READV_FIXED;
}

/*
 * A request can ask that it is not reported when it is done, unless it fails. Then it is
 * followed as a system call is, by the threads that look up pages for it. To find the request
 * takes some time, so this is done only for processes that have made such requests, known by a
 * hash.
 */
#define PROCESSES 4096

BPF_ARRAY(silent_processes, u64, PROCESSES);

static INLINE u64 *silence_of(u32 tgid)
{
	int number = tgid & (PROCESSES - 1);

	return silent_processes.lookup(&number);
}

static INLINE int is_silent_read(u64 request)
{
	return request && PEEK(request, io_kiocb, flags) & CQE_SKIP &&
	       is_read(PEEK(request, io_kiocb, opcode));
}

/* The request for which this thread looks up a page; 0 if it is not found. */
static INLINE u64 ring_request(struct asking *asking, u64 task, u64 mapping, u64 page, u64 last,
			       u64 block_pages)
{
	u64 request = FIELD(task, task_struct, flags) & PF_IO_WORKER ? worker_request(task) : 0;

	NOTED(asking->at) = 0;
	NOTED(asking->room) = last;
	NOTED(asking->stop) = block_pages;
	NOTED(asking->found) = request;
	if (!request) /* it begins with its struct kiocb */
		request_at_hand(asking, BY_RING, NUMBER_OF(user_regs(task)), mapping, page);
	return NOTED(asking->found);
}

/*
 * What a request asks for: all that it has read, and has still to read. The kernel advances
 * ki_pos as the iterator shrinks, except for a file on overlayfs, where the pages are those of
 * the file below.
 */
static INLINE void ask_request(struct asking *asking, u64 request, u64 mapping)
{
	u64 rw = request + OFFSET(io_kiocb, cmd);
	u64 file = PEEK(rw, io_rw, kiocb__ki_filp), place = PEEK(rw, io_rw, kiocb__ki_pos);
	u64 tried = (u32)PEEK(request, io_kiocb, cqe__res); /* bytes, when it was last begun */
	u64 done = PEEK(PEEK(request, io_kiocb, async_data), io_async_rw, bytes_done);

	asking->way = BY_RING;
	asking->file = file;
	asking->stop = place + (file_mapping(file) == mapping ? bytes_left(request) : tried);
	asking->start = asking->stop - tried - done;
	asking->id = asking->start + asking->stop * MOST_BYTES;
}
#else
#define is_in_ring(task, flags) 0
#endif

#if HAVE_DEVICES
#define is_in_device(flags) (((flags)&LOOP_FLAGS) == LOOP_FLAGS)
#else
#define is_in_device(flags) 0
#endif

/* A splice by io_uring: a worker does it as if it were a system call. */
static INLINE void ask_worker(struct asking *asking, u64 task, u64 first)
{
#if HAVE_RINGS
	u64 splice = worker_request(task);

	if (!splice)
		return;
	splice += OFFSET(io_kiocb, cmd);
	ask(asking, BY_PIPE, file_of(task, PEEK(splice, io_splice, splice_fd_in)),
	    PEEK(splice, io_splice, off_in), PEEK(splice, io_splice, len));
	ask_pipe(asking, pipe_of(PEEK(splice, io_splice, file_out)), first);
#endif
}

/* What this thread, which looks up pages from the first on, asks for. */
static INLINE void ask_now(struct asking *asking, enum way way, u64 task, u64 mapping,
			   u64 first, u64 request)
{
	ask_call(asking, way, task, mapping, first);
#if HAVE_RINGS
	if (way == BY_RING)
		ask_request(asking, request, mapping);
#endif
	if (way != BY_RING && FIELD(task, task_struct, flags) & PF_IO_WORKER)
		ask_worker(asking, task, first);
	READ_AGAIN();
}

#endif
