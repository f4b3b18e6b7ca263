/*
 * asker OUT: reads files as it is told on standard input, and says what it got.
 *
 * A case is a line `METHOD FILE ADVICE COUNT` and COUNT lines `OFFSET BYTES`. METHOD: read,
 * pread, readv, preadv2, sendfile, splice, copy (copy_file_range to OUT), uring, uring-async,
 * uring-sqpoll, uring-batch (all at once), the same with uring-skip (nothing is told of what is
 * done), uring-direct (O_DIRECT), aio, aio-batch, aio-vectors, aio-nowait (RWF_NOWAIT), map
 * (touches each page of the range), twice (pread, by two processes at the same time) or mixed
 * (each line has a method before it). ADVICE is a number for posix_fadvise(). Per case it
 * prints two lines: a digit for each page of the file, 1 if mincore() says that it is cached
 * before the reads; and what each read returned, or for map a digit for each page touched, 1 if
 * that was a fault.
 *
 * Mixed can do more: touch (one page, through a mapping: 1 if that was a fault), ahead
 * (readahead()), willneed (posix_fadvise()), advise (madvise()), direct (O_DIRECT) and truncate
 * (to OFFSET). These get 0, as they ask for no page.
 */
#include "workload.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

enum { MOST = 64, BUFFER = 16 << 20 };

static char *buffer;
static const char *method;
static int fd, out, null;
static const char *path;
static char methods[MOST][16];
static off_t offsets[MOST];
static size_t sizes[MOST];
static int count;

static struct iovec *three_parts(size_t bytes)
{
	static struct iovec parts[3];
	size_t third = bytes / 3;

	parts[0] = (struct iovec){buffer, third};
	parts[1] = (struct iovec){buffer + third, third};
	parts[2] = (struct iovec){buffer + 2 * third, bytes - 2 * third};
	return parts;
}

static ssize_t by_splice(off_t at, size_t bytes)
{
	static int ends[2] = {-1, -1};
	loff_t offset = at;

	if (ends[0] < 0)
		check(pipe(ends), "pipe");
	ssize_t moved = splice(fd, &offset, ends[1], NULL, bytes, 0);
	for (ssize_t left = moved; left > 0;)
		left -= check(splice(ends[0], NULL, null, NULL, left, 0), "draining");
	return moved;
}

static ssize_t by_copy(off_t at, size_t bytes)
{
	loff_t from = at, to = 0;

	return copy_file_range(fd, &from, out, &to, bytes, 0);
}

static ssize_t by_sendfile(off_t at, size_t bytes)
{
	off_t offset = at;

	return sendfile(null, fd, &offset, bytes);
}

static ssize_t by_read(off_t at, size_t bytes)
{
	check(lseek(fd, at, SEEK_SET), "lseek");
	return read(fd, buffer, bytes);
}

static ssize_t by_readv(off_t at, size_t bytes)
{
	check(lseek(fd, at, SEEK_SET), "lseek");
	return readv(fd, three_parts(bytes), 3);
}

static struct ring {
	int fd;
	unsigned polled;
	unsigned *tail, *array, *flags, *head, *done_tail, mask;
	struct io_uring_sqe *entries;
	struct io_uring_cqe *done;
} rings[2];

static void *map_ring(struct ring *ring, size_t bytes, off_t which)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			ring->fd, which);

	if (at == MAP_FAILED)
		err(1, "mapping the ring");
	return at;
}

static void open_ring(struct ring *ring, unsigned flags)
{
	struct io_uring_params how = {.flags = flags, .sq_thread_idle = 50};

	ring->fd = check(syscall(SYS_io_uring_setup, 2 * MOST, &how), "io_uring_setup");
	ring->polled = flags;
	char *sq = map_ring(ring, how.sq_off.array + how.sq_entries * sizeof(unsigned),
			    IORING_OFF_SQ_RING);
	char *cq =
		map_ring(ring, how.cq_off.cqes + how.cq_entries * sizeof(struct io_uring_cqe),
			 IORING_OFF_CQ_RING);
	ring->entries =
		map_ring(ring, how.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	ring->tail = (unsigned *)(sq + how.sq_off.tail);
	ring->array = (unsigned *)(sq + how.sq_off.array);
	ring->flags = (unsigned *)(sq + how.sq_off.flags);
	ring->head = (unsigned *)(cq + how.cq_off.head);
	ring->done_tail = (unsigned *)(cq + how.cq_off.tail);
	ring->mask = *(unsigned *)(cq + how.cq_off.ring_mask);
	ring->done = (struct io_uring_cqe *)(cq + how.cq_off.cqes);
}

/* A read; a silent one is followed by what tells that it is done, if it does not fail. */
static int prepare(struct ring *ring, int slot, int which, int flags)
{
	ring->entries[slot] = (struct io_uring_sqe){.opcode = IORING_OP_READ,
						    .flags = flags,
						    .fd = fd,
						    .off = offsets[which],
						    .addr = (uintptr_t)buffer,
						    .len = sizes[which],
						    .user_data = which};
	if (!(flags & IOSQE_CQE_SKIP_SUCCESS))
		return 1;
	ring->entries[slot].flags |= IOSQE_IO_LINK;
	ring->entries[slot + 1] =
		(struct io_uring_sqe){.opcode = IORING_OP_NOP, .user_data = MOST + which};
	return 2;
}

static void submit(struct ring *ring, int first, int number, int flags)
{
	unsigned filled = 0;

	for (int i = 0; i < number; i++)
		filled += prepare(ring, filled, first + i, flags);
	for (unsigned i = 0; i < filled; i++)
		ring->array[(*ring->tail + i) & (2 * MOST - 1)] = i;
	__atomic_store_n(ring->tail, *ring->tail + filled, __ATOMIC_SEQ_CST);
	if (ring->polled) {
		if (__atomic_load_n(ring->flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
			check(syscall(SYS_io_uring_enter, ring->fd, filled, 0,
				      IORING_ENTER_SQ_WAKEUP, NULL, 0),
			      "waking");
		filled = 0;
	}
	check(syscall(SYS_io_uring_enter, ring->fd, filled, 0, 0, NULL, 0), "io_uring_enter");
}

/* What a silent read gets that does not fail: all that it asks for. */
static ssize_t result_of(struct io_uring_cqe *done)
{
	return done->user_data < MOST ? done->res : (ssize_t)sizes[done->user_data - MOST];
}

static void collect(struct ring *ring, int number, ssize_t *got)
{
	while (number--) {
		while (*ring->head == __atomic_load_n(ring->done_tail, __ATOMIC_ACQUIRE))
			check(syscall(SYS_io_uring_enter, ring->fd, 0, 1,
				      IORING_ENTER_GETEVENTS, NULL, 0),
			      "waiting");
		struct io_uring_cqe *done = &ring->done[*ring->head & ring->mask];
		got[done->user_data % MOST] = result_of(done);
		__atomic_store_n(ring->head, *ring->head + 1, __ATOMIC_RELEASE);
	}
}

static void by_ring(ssize_t *got)
{
	int polled = !!strstr(method, "sqpoll"), at_once = strstr(method, "batch") ? count : 1;
	int flags = (strstr(method, "async") ? IOSQE_ASYNC : 0) |
		    (strstr(method, "skip") ? IOSQE_CQE_SKIP_SUCCESS : 0);
	struct ring *ring = &rings[polled];

	if (!ring->entries)
		open_ring(ring, polled ? IORING_SETUP_SQPOLL : 0);
	for (int i = 0; i < count; i += at_once) {
		submit(ring, i, at_once, flags);
		collect(ring, at_once, got);
	}
}

static void by_aio(ssize_t *got, int at_once, int vectors, int flags)
{
	static aio_context_t context;
	static struct iovec parts[MOST][2];
	struct iocb blocks[MOST], *list[MOST];
	struct io_event done[MOST];

	if (!context)
		check(syscall(SYS_io_setup, MOST, &context), "io_setup");
	for (int i = 0; i < count; i++) {
		blocks[i] = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD,
					  .aio_fildes = fd,
					  .aio_buf = (uintptr_t)buffer,
					  .aio_nbytes = sizes[i],
					  .aio_offset = offsets[i],
					  .aio_rw_flags = flags,
					  .aio_data = i};
		list[i] = &blocks[i];
		if (!vectors)
			continue;
		parts[i][0] = (struct iovec){buffer, sizes[i] / 2};
		parts[i][1] = (struct iovec){buffer, sizes[i] - sizes[i] / 2};
		blocks[i].aio_lio_opcode = IOCB_CMD_PREADV;
		blocks[i].aio_buf = (uintptr_t)parts[i];
		blocks[i].aio_nbytes = 2;
	}
	for (int i = 0; i < count; i += at_once) {
		check(syscall(SYS_io_submit, context, at_once, list + i), "io_submit");
		check(syscall(SYS_io_getevents, context, at_once, at_once, done, NULL),
		      "io_getevents");
		for (int k = 0; k < at_once; k++)
			got[done[k].data] = done[k].res;
	}
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static void by_map(void)
{
	volatile char *map = mmap(NULL, size_of(fd), PROT_READ, MAP_SHARED, fd, 0);
	static volatile char sum;

	if (map == MAP_FAILED)
		err(1, "mmap");
	madvise((void *)map, size_of(fd), MADV_NOHUGEPAGE);
	for (int i = 0; i < count; i++)
		for (off_t at = offsets[i] / PAGE * PAGE; at < offsets[i] + (off_t)sizes[i];
		     at += PAGE) {
			long before = faults();
			sum += map[at];
			putchar('0' + (faults() != before));
		}
	munmap((void *)map, size_of(fd));
}

static ssize_t by_touch(off_t at)
{
	static volatile char sum;
	volatile char *map = mmap(NULL, size_of(fd), PROT_READ, MAP_SHARED, fd, 0);
	long before = faults();

	if (map == MAP_FAILED)
		err(1, "mmap");
	sum += map[at];
	before = faults() - before;
	munmap((void *)map, size_of(fd));
	return before;
}

static void by_advise(off_t at, size_t bytes)
{
	void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, at / PAGE * PAGE);

	if (map == MAP_FAILED)
		err(1, "mmap");
	madvise(map, bytes, MADV_WILLNEED);
	munmap(map, bytes);
}

static void by_direct(off_t at, size_t bytes)
{
	int direct = open(path, O_RDONLY | O_DIRECT);

	if (direct < 0 && errno == EINVAL)
		return; /* what is compressed cannot be read so */
	check(direct, path);
	check(pread(direct, buffer, bytes, at), "O_DIRECT");
	close(direct);
}

static ssize_t one(off_t at, size_t bytes);

static ssize_t mixed(const char *how, off_t at, size_t bytes)
{
	if (!strcmp(how, "touch"))
		return by_touch(at);
	if (!strcmp(how, "ahead"))
		readahead(fd, at, bytes);
	else if (!strcmp(how, "willneed"))
		posix_fadvise(fd, at, bytes, POSIX_FADV_WILLNEED);
	else if (!strcmp(how, "advise"))
		by_advise(at, bytes);
	else if (!strcmp(how, "direct"))
		by_direct(at, bytes);
	else if (!strcmp(how, "truncate"))
		check(truncate(path, at), path);
	else {
		method = how;
		return one(at, bytes);
	}
	return 0;
}

static void twice(void)
{
	ssize_t *both = mmap(NULL, 2 * MOST * sizeof(ssize_t), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int other = check(fork(), "fork");
	ssize_t *got = other ? both : both + MOST;

	for (int i = 0; i < count; i++)
		got[i] = pread(fd, buffer, sizes[i], offsets[i]);
	if (!other)
		_exit(0);
	waitpid(other, NULL, 0);
	for (int i = 0; i < count; i++)
		printf("%zd %zd ", both[i], both[MOST + i]);
	munmap(both, 2 * MOST * sizeof(ssize_t));
}

static ssize_t one(off_t at, size_t bytes)
{
	switch (method[0] << 8 | method[strlen(method) - 1]) {
	case 'r' << 8 | 'd':
		return by_read(at, bytes);
	case 'p' << 8 | 'd':
		return pread(fd, buffer, bytes, at);
	case 'r' << 8 | 'v':
		return by_readv(at, bytes);
	case 'p' << 8 | '2':
		return preadv2(fd, three_parts(bytes), 3, at, 0);
	case 's' << 8 | 'e':
		return method[1] == 'p' ? by_splice(at, bytes) : by_sendfile(at, bytes);
	case 'c' << 8 | 'y':
		return by_copy(at, bytes);
	}
	errx(2, "no method %s", method);
}

static void run(void)
{
	ssize_t got[MOST] = {0};

	if (!strcmp(method, "map"))
		return by_map();
	if (!strcmp(method, "twice"))
		return twice();
	if (!strncmp(method, "uring", 5))
		by_ring(got);
	else if (!strncmp(method, "aio", 3))
		by_aio(got, strcmp(method, "aio") ? count : 1, !strcmp(method, "aio-vectors"),
		       strcmp(method, "aio-nowait") ? 0 : RWF_NOWAIT);
	else if (!strcmp(method, "mixed"))
		for (int i = 0; i < count; i++)
			got[i] = mixed(methods[i], offsets[i], sizes[i]);
	else
		for (int i = 0; i < count; i++)
			got[i] = one(offsets[i], sizes[i]);
	for (int i = 0; i < count; i++)
		printf("%zd ", got[i]);
}

int main(int argc, char **argv)
{
	static char name[64], file[4096];
	int advice;

	if (argc != 2)
		errx(2, "usage: asker OUT");
	out = check(open(argv[1], O_RDWR | O_CREAT, 0600), argv[1]);
	null = check(open("/dev/null", O_WRONLY), "/dev/null");
	buffer = buffer_of(BUFFER);
	while (scanf("%63s %4095s %d %d", name, file, &advice, &count) == 4) {
		int has_methods = !strcmp(name, "mixed");
		method = name;
		if (count > MOST)
			errx(2, "too many");
		path = file;
		for (int i = 0; i < count; i++)
			if ((has_methods && scanf("%15s", methods[i]) != 1) ||
			    scanf("%ld %zu", &offsets[i], &sizes[i]) != 2 || sizes[i] > BUFFER)
				errx(2, "what is to be read?");
		fd = check(open(path, O_RDONLY | (strstr(name, "direct") ? O_DIRECT : 0)),
			   path);
		posix_fadvise(fd, 0, 0, advice);
		print_cached(fd);
		run();
		putchar('\n');
		close(fd);
	}
	return 0;
}
