/*
 * mallocer CASE COUNT [SIZE]: allocations whose way to the kernel is known.
 *
 * All that it allocates it touches. Prints how many minor faults that took.
 */
#include "workload.h"
#include <malloc.h>
#include <pthread.h>

static long count, size;

static void *touched(void *block, size_t bytes)
{
	if (!block)
		err(1, "malloc");
	return memset(block, 1, bytes);
}

static void keep_all(void)
{
	for (long i = 0; i < count; i++)
		touched(malloc(size), size);
}

/* The first is mapped and moves the threshold when it is freed: the others come from the heap.
 */
static void again(void)
{
	for (long i = 0; i < count; i++)
		free(touched(malloc(size), size));
}

static void resize(void)
{
	char *block = touched(malloc(size), size);

	for (long i = 2; i <= count; i++) {
		block = realloc(block, i * size);
		touched(block + (i - 1) * size, size);
	}
	free(block);
}

static void *in_thread(void *unused)
{
	keep_all();
	return unused;
}

static void one_thread(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, in_thread, NULL))
		errx(1, "pthread_create");
	pthread_join(thread, NULL);
}

/* A block that stays keeps all below it in the heap. */
static void hole(void)
{
	void **blocks = malloc(count * sizeof(*blocks));

	for (long i = 0; i < count; i++)
		blocks[i] = touched(malloc(size), size);
	for (long i = 0; i < count - 1; i++)
		free(blocks[i]);
}

int main(int argc, char **argv)
{
	struct rusage before, after;

	if (argc < 3)
		errx(2, "usage: mallocer CASE COUNT [SIZE]");
	count = atol(argv[2]);
	getrusage(RUSAGE_SELF, &before);
	size = argc > 3 ? atol(argv[3]) : 1000;
	if (strcmp(argv[1], "keep") == 0)
		keep_all();
	else if (strcmp(argv[1], "again") == 0)
		again();
	else if (strcmp(argv[1], "resize") == 0)
		resize();
	else if (strcmp(argv[1], "thread") == 0)
		one_thread();
	else if (strcmp(argv[1], "hole") == 0)
		hole();
	else if (strcmp(argv[1], "set") == 0)
		mallopt(M_MMAP_THRESHOLD, 64 << 10), again();
	else
		errx(2, "no case %s", argv[1]);
	getrusage(RUSAGE_SELF, &after);
	printf("%ld\n", after.ru_minflt - before.ru_minflt);
	return 0;
}
