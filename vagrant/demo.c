/*
 * demo [SECONDS]: takes memory from malloc in sizes that decide which way glibc goes, fills it,
 * and prints as one line of JSON what it did. SECONDS is a pause after each step, to watch it.
 *
 *   small       1000 blocks of 1000 bytes: from the heap, which brk enlarges
 *   large       20 blocks of 300000 bytes: each from an mmap of its own
 *   above_edge  131049 bytes, the smallest size that is mapped
 *   below_edge  131048 bytes, the largest for which the heap grows
 *   thread      500 blocks of 1000 bytes: from the arena of a second thread
 *
 * The order matters: malloc does not look at the edge where a free piece of the heap is large
 * enough, and after below_edge there is one. Nor is anything freed before the end: malloc would
 * take the size of the first mapped block that is freed for the new edge.
 *
 * In the output, `pages` is how many pages a step wrote to for the first time, and `minor` how
 * many faults the kernel counted meanwhile.
 */
#include <err.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define MOST 1000
#define PAGE 4096

struct step {
	const char *name;
	size_t blocks, bytes;
	void *block[MOST];
	size_t pages;
	long minor;
};

static struct step small = {.name = "small", .blocks = 1000, .bytes = 1000};
static struct step large = {.name = "large", .blocks = 20, .bytes = 300000};
static struct step above = {.name = "above_edge", .blocks = 1, .bytes = 131049};
static struct step below = {.name = "below_edge", .blocks = 1, .bytes = 131048};
static struct step arena = {.name = "thread", .blocks = 500, .bytes = 1000};
static struct step *const steps[] = {&small, &large, &above, &below, &arena};

static double pause_s;

static void wait_a_little(void)
{
	struct timespec pause = {pause_s, (pause_s - (long)pause_s) * 1e9};

	nanosleep(&pause, NULL);
}

static long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

/* Pages from the first byte to the last. Small blocks lie in a row and share their pages. */
static size_t pages_of(const char *block, size_t bytes, uintptr_t *last)
{
	uintptr_t from = (uintptr_t)block / PAGE, to = ((uintptr_t)block + bytes - 1) / PAGE;
	size_t pages = to - from + (from != *last);

	*last = to;
	return pages;
}

static void take(struct step *step)
{
	uintptr_t last = 0;
	long before = minor_faults();

	for (size_t i = 0; i < step->blocks; i++) {
		char *block = malloc(step->bytes);

		if (!block)
			errx(1, "no memory");
		step->block[i] = memset(block, 'x', step->bytes);
		step->pages += pages_of(block, step->bytes, &last);
	}
	step->minor = minor_faults() - before;
	wait_a_little();
}

static void give_back(struct step *step)
{
	for (size_t i = 0; i < step->blocks; i++)
		free(step->block[i]);
}

static void *in_thread(void *unused)
{
	take(&arena);
	return unused;
}

static void take_in_thread(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, in_thread, NULL) || pthread_join(thread, NULL))
		errx(1, "no thread");
}

static void print(void)
{
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++)
		printf("%s\"%s\": {\"blocks\": %zu, \"bytes\": %zu, "
		       "\"pages\": %zu, \"minor\": %ld}",
		       i ? ", " : "{", steps[i]->name, steps[i]->blocks, steps[i]->bytes,
		       steps[i]->pages, steps[i]->minor);
	puts("}");
}

int main(int argc, char **argv)
{
	if (argc > 2)
		errx(2, "usage: demo [SECONDS]");
	pause_s = argc == 2 ? strtod(argv[1], NULL) : 0;
	take(&small);
	take(&large);
	take(&above);
	take(&below);
	take_in_thread();
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++)
		give_back(steps[i]);
	wait_a_little();
	print();
	return 0;
}
