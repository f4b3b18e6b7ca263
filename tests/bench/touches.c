/*
 * touches PAGES: first touches of PAGES pages of small anonymous memory, again and again.
 *
 * Obeys lines on stdin, `touch ROUNDS` (in order) and `scatter ROUNDS` (in a random order), and
 * answers each with a line: for every round two numbers, the nanoseconds of CPU time per page
 * that touching took, and those that the kernel takes for the same pages where it is asked to
 * populate them, for which no fault is raised. The second tells how fast the machine is at that
 * moment.
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096

static char *memory;
static long pages, *order;

static long cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static void advise(int advice)
{
	if (madvise(memory, pages * PAGE, advice))
		err(1, "madvise");
}

static void touch_all(void)
{
	for (long page = 0; page < pages; page++)
		memory[page * PAGE] = 1;
}

static void scatter_all(void)
{
	for (long page = 0; page < pages; page++)
		memory[order[page] * PAGE] = 1;
}

static void populate_all(void)
{
	advise(MADV_POPULATE_WRITE);
}

/* Per page, in nanoseconds. */
static long timed(void (*all)(void))
{
	long start = cpu_ns();

	all();
	long ns = (cpu_ns() - start) / pages;
	advise(MADV_DONTNEED);
	return ns;
}

static void shuffle(void)
{
	for (long page = 0; page < pages; page++)
		order[page] = page;
	for (long page = pages - 1; page > 0; page--) {
		long other = random() % (page + 1), kept = order[page];

		order[page] = order[other];
		order[other] = kept;
	}
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc != 2)
		errx(2, "usage: touches PAGES");
	pages = atol(argv[1]);
	order = calloc(pages, sizeof(*order));
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	if (!order || memory == MAP_FAILED)
		err(1, "memory");
	shuffle();
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE); /* unknown to some kernels */
	setvbuf(stdout, NULL, _IOFBF, 1 << 20);         /* an answer comes as a whole */

	while (fgets(line, sizeof(line), stdin)) {
		void (*all)(void) = strncmp(line, "scatter", 7) ? touch_all : scatter_all;
		long rounds = atol(strchr(line, ' '));

		while (rounds-- > 0) {
			long touched = timed(all);

			printf("%ld %ld ", touched, timed(populate_all));
		}
		puts("");
		fflush(stdout);
	}
	return 0;
}
