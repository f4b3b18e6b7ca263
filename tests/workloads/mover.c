/*
 * mover CASE FILE PAGES: memory that mremap(2) moves, then touched.
 *
 * FILE has that many pages at least. Prints how many minor faults touching it took: one for
 * each page, as readahead and huge pages are kept away.
 */
#include "workload.h"
#include <pthread.h>
#include <sys/syscall.h>

static size_t bytes;
static long touched;

static char *map(size_t length, int prot, int flags, int fd)
{
	char *start = mmap(NULL, length, prot, flags, fd, 0);

	if (start == MAP_FAILED)
		err(1, "mmap");
	madvise(start, length, MADV_NOHUGEPAGE);
	madvise(start, length, MADV_RANDOM);
	return start;
}

static char *anon(size_t length)
{
	return map(length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static char *move(char *from, size_t before, size_t after, int flags, char *to)
{
	char *moved = mremap(from, before, after, flags | MREMAP_MAYMOVE, to);

	if (moved == MAP_FAILED)
		err(1, "mremap");
	return moved;
}

/* One byte of each page, in no order: so that it is no streak. */
static void touch(char *start, size_t length, int write)
{
	struct rusage before, after;
	size_t pages = length / PAGE;

	getrusage(RUSAGE_THREAD, &before);
	for (size_t i = 0; i < pages; i++) {
		volatile char *byte = start + (i % 2 ? i / 2 : pages - 1 - i / 2) * PAGE;

		if (write)
			*byte = 1;
		else
			(void)*byte;
	}
	getrusage(RUSAGE_THREAD, &after);
	__atomic_add_fetch(&touched, after.ru_minflt - before.ru_minflt, __ATOMIC_RELAXED);
}

/* As realloc does it, with something above that is in the way each second time. */
static void *grow(void *unused)
{
	size_t step = bytes / 16 / PAGE * PAGE;
	char *block = anon(step);

	touch(block, step, 1);
	for (int i = 1; i < 16; i++) {
		if (i % 2)
			mmap(block + i * step, PAGE, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		block = move(block, i * step, (i + 1) * step, 0, NULL);
		touch(block + i * step, step, 1);
	}
	return unused;
}

static void in_threads(void)
{
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		if (pthread_create(&threads[i], NULL, grow, NULL))
			errx(1, "pthread_create");
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

/*
 * Anonymous memory, a gap and a memfd are moved at once over a file, whose middle stays. It
 * ends with 77 where a kernel moves no more than one.
 */
static void with_gaps(char *start, char *old, int fd, int memfd)
{
	size_t third = bytes / 3 / PAGE * PAGE;

	mmap(start + 2 * third, third, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd,
	     0);
	munmap(start + third, third); /* of this the kernel tells nobody */
	mmap(old, 3 * third, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
	madvise(old, 3 * third, MADV_RANDOM);
	if (mremap(start, 3 * third, 3 * third, MREMAP_FIXED | MREMAP_MAYMOVE, old) ==
	    MAP_FAILED)
		err(errno == EFAULT ? 77 : 1, "mremap");
	touch(old, third, 1);
	touch(old + third, third, 0);
	touch(old + 2 * third, third, 1);
}

/* The middle of `from` is moved over that of three times as much, and the rest is touched. */
static void into_the_middle(char *start, char *from)
{
	size_t third = bytes / 3 / PAGE * PAGE;

	move(from + third, third, third, MREMAP_FIXED, start + bytes);
	touch(start, bytes, 1);
	touch(start + bytes + third, 2 * bytes - third, 1);
	move(start + bytes, third, third, MREMAP_FIXED, from + third);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		errx(2, "usage: mover CASE FILE PAGES");
	bytes = atol(argv[3]) * PAGE;
	const char *which = argv[1];
	int fd = check(open(argv[2], O_RDWR), argv[2]);
	int memfd = check(memfd_create("moved", 0), "memfd");
	char *old = map(bytes, PROT_READ, MAP_SHARED, fd), *start = anon(3 * bytes);

	check(ftruncate(memfd, bytes), "ftruncate");
	for (size_t at = 0; at < bytes; at += PAGE) /* so that none of its faults is major */
		check(pread(fd, (char[1]){0}, 1, at), "pread");
	munmap(old, bytes); /* of this the kernel tells nobody */
	if (!strcmp(which, "grow")) {
		grow(NULL);
	} else if (!strcmp(which, "threads")) {
		in_threads();
	} else if (!strcmp(which, "over-a-file")) {
		touch(move(start, bytes, bytes, MREMAP_FIXED, old), bytes, 1);
	} else if (!strcmp(which, "a-part")) {
		touch(move(start + bytes, bytes, bytes, MREMAP_FIXED, old), bytes, 1);
	} else if (!strcmp(which, "kept")) { /* what is moved away is empty then */
		move(start, bytes, bytes, MREMAP_FIXED | MREMAP_DONTUNMAP, old);
		touch(start, bytes, 1);
		touch(old, bytes, 1);
	} else if (!strcmp(which, "heap")) { /* not the heap's any more */
		start = (char *)(((unsigned long)sbrk(bytes + PAGE) + PAGE - 1) & -PAGE);
		touch(move(start, bytes, bytes, MREMAP_FIXED, old), bytes, 1);
	} else if (!strcmp(which, "file")) {
		old = map(bytes, PROT_READ, MAP_SHARED, fd);
		touch(move(old, bytes, bytes, MREMAP_FIXED, start), bytes, 0);
	} else if (!strcmp(which, "above-a-file")) { /* as a bss would be, if there were code */
		start = map(2 * bytes, PROT_READ, MAP_SHARED, fd);
		mmap(start, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0);
		mmap(start + bytes, bytes, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		madvise(start + bytes, bytes, MADV_NOHUGEPAGE);
		touch(start + bytes, bytes, 1);
	} else if (!strcmp(which, "memfd")) {
		old = map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd);
		touch(move(old, bytes, bytes, MREMAP_FIXED, start), bytes, 1);
	} else if (!strcmp(which, "twice")) { /* an old size of 0 maps it once more */
		start = map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd);
		touch(move(start, 0, bytes, 0, NULL), bytes, 1);
	} else if (!strcmp(which, "shrink")) { /* the end of one, the beginning of the next */
		size_t half = bytes / 2 / PAGE * PAGE;

		mmap(start + bytes, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		     memfd, 0);
		move(start, bytes + half, half, 0, NULL);
		touch(start + bytes + half, bytes - half, 1);
	} else if (!strcmp(which, "into-the-middle")) { /* of what is above, and below */
		old = map(bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd);
		into_the_middle(start, old);
		into_the_middle(anon(3 * bytes), old);
	} else if (!strcmp(which, "gaps")) {
		with_gaps(start, old, fd, memfd);
	} else {
		errx(2, "no case %s", which);
	}
	printf("%ld\n", touched);
	return 0;
}
