/*
 * preads FILE: warm reads of one page each, at random pages of the first half of FILE.
 *
 * Obeys lines on stdin, and answers each with a line:
 *   read COUNT   reads so often; the nanoseconds of CPU time per read, for every 1000 reads
 *   over COUNT   the same, less what as many reads of shared memory take right after them:
 * those go the same way, but for the page cache, and at the machine's speed of that moment
 *   fresh        makes the other half fresh: drops it from the page cache and has the kernel
 *                read it ahead, so that it is cached and nobody has asked for it
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE   4096
#define SERIES 1000

static long cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void read_pages(int fd, long pages, long count)
{
	static char buffer[PAGE];

	while (count-- > 0)
		if (pread(fd, buffer, PAGE, lrand48() % pages * PAGE) != PAGE)
			err(1, "pread");
}

static long time_of_read(int fd, long pages, long count)
{
	long start = cpu_ns();

	read_pages(fd, pages, count);
	return (cpu_ns() - start) / count;
}

static void read_timed(int fd, int less, long pages, long count)
{
	for (; count > 0; count -= SERIES) {
		long series = count < SERIES ? count : SERIES;
		long ns = time_of_read(fd, pages, series);

		printf("%ld ", less < 0 ? ns : ns - time_of_read(less, pages, series));
	}
}

static int shared_memory(long pages)
{
	static char page[PAGE] = {1};
	int fd = memfd_create("preads", 0);

	while (fd >= 0 && pages-- > 0)
		if (write(fd, page, PAGE) != PAGE)
			err(1, "memfd");
	return fd;
}

static void make_fresh(int fd, long first)
{
	off_t start = (off_t)first * PAGE;

	if (posix_fadvise(fd, start, 0, POSIX_FADV_DONTNEED) ||
	    posix_fadvise(fd, start, 0, POSIX_FADV_WILLNEED))
		errx(1, "posix_fadvise");
}

int main(int argc, char **argv)
{
	char line[64];
	struct stat status;

	if (argc != 2)
		errx(2, "usage: preads FILE");
	int fd = open(argv[1], O_RDONLY);
	if (fd < 0 || fstat(fd, &status))
		err(1, "%s", argv[1]);
	setvbuf(stdout, NULL, _IOFBF, 1 << 20); /* an answer comes as a whole */
	long half = status.st_size / PAGE / 2;

	int shared = shared_memory(half);

	while (fgets(line, sizeof(line), stdin)) {
		if (strncmp(line, "read ", 5) == 0)
			read_timed(fd, -1, half, atol(line + 5));
		else if (strncmp(line, "over ", 5) == 0)
			read_timed(fd, shared, half, atol(line + 5));
		else
			make_fresh(fd, half);
		puts("");
		fflush(stdout);
	}
	return 0;
}
