/* What the workloads share: they end with a message when a call fails, and say what they did.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096

static inline long check(long result, const char *what)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

static inline off_t size_of(int fd)
{
	struct stat status;

	check(fstat(fd, &status), "fstat");
	return status.st_size;
}

/* For each page of a file whether it is cached, and the end of a line. */
static inline void print_cached(int fd)
{
	size_t pages = (size_of(fd) + PAGE - 1) / PAGE;
	unsigned char *cached = calloc(pages, 1);
	void *map = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED || mincore(map, pages * PAGE, cached))
		err(1, "mincore");
	for (size_t page = 0; page < pages; page++)
		putchar('0' + (cached[page] & 1));
	putchar('\n');
	munmap(map, pages * PAGE);
	free(cached);
}

static inline char *buffer_of(size_t bytes)
{
	void *buffer;

	if (posix_memalign(&buffer, PAGE, bytes))
		errx(1, "no memory");
	memset(buffer, 'x', bytes);
	return buffer;
}

static inline void stay_on_this_cpu(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	check(sched_setaffinity(0, sizeof(one), &one), "sched_setaffinity");
}

#endif
