/*
 * eventfds COUNT: eventfd() and close(), again and again: four objects of the kernel's caches.
 *
 * Obeys lines on stdin, `eventfd ROUNDS`, and answers each with a line: for every round two
 * numbers, the nanoseconds of CPU time for one of COUNT pairs, and those for a system call that
 * allocates nothing, ten times. The second tells how fast the machine is at that moment.
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static long count;

static long cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void allocate(void)
{
	for (long i = 0; i < count; i++) {
		int fd = eventfd(0, 0);

		if (fd < 0)
			err(1, "eventfd");
		close(fd);
	}
}

static void ask(void)
{
	for (long i = 0; i < 10 * count; i++)
		getppid();
}

/* Per pair, in nanoseconds. */
static long timed(void (*all)(void))
{
	long start = cpu_ns();

	all();
	return (cpu_ns() - start) / count;
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc != 2)
		errx(2, "usage: eventfds COUNT");
	count = atol(argv[1]);
	setvbuf(stdout, NULL, _IOFBF, 1 << 20);

	while (fgets(line, sizeof(line), stdin)) {
		long rounds = atol(strchr(line, ' '));

		while (rounds-- > 0) {
			long taken = timed(allocate);

			printf("%ld %ld ", taken, timed(ask));
		}
		puts("");
		fflush(stdout);
	}
	return 0;
}
