/*
 * touches PAGES: first touches of PAGES pages of small anonymous memory, again and again.
 *
 * Obeys lines on stdin, `touch ROUNDS`, and answers each with a line: for every round, the
 * nanoseconds of CPU time per fault. Between two rounds the memory is given back.
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096

static long cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000L + now.tv_nsec;
}

static long touch(char *memory, long pages)
{
	long start = cpu_ns();

	for (long page = 0; page < pages; page++)
		memory[page * PAGE] = 1;
	long ns = (cpu_ns() - start) / pages;
	if (madvise(memory, pages * PAGE, MADV_DONTNEED))
		err(1, "madvise");
	return ns;
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc != 2)
		errx(2, "usage: touches PAGES");
	long pages = atol(argv[1]);
	char *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE); /* unknown to some kernels */
	setvbuf(stdout, NULL, _IOFBF, 1 << 20);         /* an answer comes as a whole */

	while (fgets(line, sizeof(line), stdin)) {
		for (long rounds = atol(line + 6); rounds > 0; rounds--)
			printf("%ld ", touch(memory, pages));
		puts("");
		fflush(stdout);
	}
	return 0;
}
