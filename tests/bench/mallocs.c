/*
 * mallocs COUNT: malloc and free, again and again.
 *
 * Obeys lines on stdin, `small ROUNDS` (a hundred bytes, which the kernel never hears of) and
 * `large ROUNDS` (each block mapped, touched once and unmapped), and answers each with a line:
 * for every round two numbers, the nanoseconds of CPU time for one of COUNT blocks, and those
 * for a loop that only computes. The second tells how fast the machine is at that moment.
 */
#define _GNU_SOURCE
#include <err.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static long count;

static long cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void take(size_t bytes)
{
	for (long i = 0; i < count; i++) {
		char *block = malloc(bytes);

		if (!block)
			errx(1, "no memory");
		*(volatile char *)block = 1;
		free(block);
	}
}

static void small(void)
{
	take(100);
}

static void large(void)
{
	take(300000);
}

static void compute(void)
{
	volatile unsigned long number = 1;

	for (long i = 0; i < 100 * count; i++)
		number = number * 6364136223846793005 + 1;
}

/* Per block, in nanoseconds. */
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
		errx(2, "usage: mallocs COUNT");
	count = atol(argv[1]);
	mallopt(M_MMAP_THRESHOLD, 128 << 10); /* so that it stays */
	setvbuf(stdout, NULL, _IOFBF, 1 << 20);

	while (fgets(line, sizeof(line), stdin)) {
		void (*all)(void) = strncmp(line, "small", 5) ? large : small;
		long rounds = atol(strchr(line, ' '));

		while (rounds-- > 0) {
			long taken = timed(all);

			printf("%ld %ld ", taken, timed(compute));
		}
		puts("");
		fflush(stdout);
	}
	return 0;
}
