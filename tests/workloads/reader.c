/*
 * reader METHOD FILE BLOCK: reads FILE from front to back, BLOCK bytes at a time.
 *
 * METHOD: read, pread, readv, preadv2, sendfile, splice, io_uring or libaio. Pages accessed: as
 * many as FILE has, if BLOCK is a multiple of the page; past the end nothing is asked for.
 */
#include "workload.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static char *buffer;
static size_t block;

static ssize_t by_read(int fd, off_t at)
{
	(void)at;
	return read(fd, buffer, block);
}

static ssize_t by_pread(int fd, off_t at)
{
	return pread(fd, buffer, block, at);
}

static struct iovec *two_halves(void)
{
	static struct iovec parts[2];

	parts[0] = (struct iovec){buffer, block / 2};
	parts[1] = (struct iovec){buffer + block / 2, block - block / 2};
	return parts;
}

static ssize_t by_readv(int fd, off_t at)
{
	(void)at;
	return readv(fd, two_halves(), 2);
}

static ssize_t by_preadv2(int fd, off_t at)
{
	return preadv2(fd, two_halves(), 2, at, 0);
}

static void drain(int fd, ssize_t bytes)
{
	while (bytes > 0)
		bytes -= check(read(fd, buffer, block), "draining");
}

static ssize_t by_sendfile(int fd, off_t at)
{
	static int ends[2] = {-1, -1};
	int bytes = 4 << 20;

	(void)at;
	if (ends[0] < 0) {
		check(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
		setsockopt(ends[1], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
	}
	ssize_t sent = sendfile(ends[1], fd, NULL, block);
	drain(ends[0], sent);
	return sent;
}

static ssize_t by_splice(int fd, off_t at)
{
	static int ends[2] = {-1, -1};

	(void)at;
	if (ends[0] < 0)
		check(pipe(ends), "pipe");
	ssize_t moved = splice(fd, NULL, ends[1], NULL, block, 0);
	drain(ends[0], moved);
	return moved;
}

/* The smallest io_uring there can be: one entry, without a library. */
static struct ring {
	int fd;
	unsigned *sq_tail, *sq_array, *cq_head;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqes;
	unsigned cq_mask;
} ring;

static void *map_ring(size_t bytes, off_t which)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd,
			which);

	if (at == MAP_FAILED)
		err(1, "mapping the ring");
	return at;
}

static void open_ring(void)
{
	struct io_uring_params how = {0};

	ring.fd = check(syscall(SYS_io_uring_setup, 1, &how), "io_uring_setup");
	char *sq = map_ring(how.sq_off.array + how.sq_entries * sizeof(unsigned),
			    IORING_OFF_SQ_RING);
	char *cq = map_ring(how.cq_off.cqes + how.cq_entries * sizeof(struct io_uring_cqe),
			    IORING_OFF_CQ_RING);
	ring.sqe = map_ring(sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	ring.sq_tail = (unsigned *)(sq + how.sq_off.tail);
	ring.sq_array = (unsigned *)(sq + how.sq_off.array);
	ring.cq_head = (unsigned *)(cq + how.cq_off.head);
	ring.cq_mask = *(unsigned *)(cq + how.cq_off.ring_mask);
	ring.cqes = (struct io_uring_cqe *)(cq + how.cq_off.cqes);
}

static ssize_t by_io_uring(int fd, off_t at)
{
	if (!ring.cqes)
		open_ring();
	*ring.sqe = (struct io_uring_sqe){.opcode = IORING_OP_READ,
					  .fd = fd,
					  .off = at,
					  .addr = (uintptr_t)buffer,
					  .len = block};
	ring.sq_array[0] = 0;
	__atomic_store_n(ring.sq_tail, *ring.sq_tail + 1, __ATOMIC_RELEASE);
	check(syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0),
	      "enter");
	ssize_t result = ring.cqes[*ring.cq_head & ring.cq_mask].res;
	__atomic_store_n(ring.cq_head, *ring.cq_head + 1, __ATOMIC_RELEASE);
	return result;
}

/* What libaio does, by the system calls alone. */
static ssize_t by_libaio(int fd, off_t at)
{
	static aio_context_t context;
	struct iocb request = {.aio_fildes = fd,
			       .aio_lio_opcode = IOCB_CMD_PREAD,
			       .aio_buf = (uintptr_t)buffer,
			       .aio_nbytes = block,
			       .aio_offset = at};
	struct iocb *requests[] = {&request};
	struct io_event done;

	if (!context)
		check(syscall(SYS_io_setup, 1, &context), "io_setup");
	check(syscall(SYS_io_submit, context, 1, requests), "io_submit");
	check(syscall(SYS_io_getevents, context, 1, 1, &done, NULL), "io_getevents");
	return done.res;
}

static const struct {
	const char *name;
	ssize_t (*step)(int fd, off_t at);
} methods[] = {
	{"read", by_read},         {"pread", by_pread},   {"readv", by_readv},
	{"preadv2", by_preadv2},   {"splice", by_splice}, {"sendfile", by_sendfile},
	{"io_uring", by_io_uring}, {"libaio", by_libaio},
};

int main(int argc, char **argv)
{
	if (argc != 4)
		errx(2, "usage: reader METHOD FILE BLOCK");
	int fd = check(open(argv[2], O_RDONLY), argv[2]);
	block = strtoul(argv[3], NULL, 0);
	buffer = buffer_of(block);
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		if (strcmp(methods[i].name, argv[1]))
			continue;
		ssize_t got;
		for (off_t at = 0; (got = methods[i].step(fd, at)) > 0;)
			at += got;
		if (got < 0)
			errx(1, "%s: %s", argv[1], strerror(errno));
		return 0;
	}
	errx(2, "no method %s", argv[1]);
}
