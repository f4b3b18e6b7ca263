/*
 * mallocer CASE COUNT [SIZE [wait]]: allocations whose way to the kernel is known.
 *
 * All that it allocates it touches. Prints how many minor faults that took; to wait it prints
 * also what malloc itself says is in use, free, and free at the heap's end, and ends when told
 * to.
 */
#include "workload.h"
#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>

static long count, size;

static void *touched(void *block, size_t bytes)
{
	if (!block)
		err(1, "malloc");
	return memset(block, 1, bytes);
}

static __attribute__((noinline)) void keep_all(void)
{
	for (long i = 0; i < count; i++)
		touched(malloc(size), size);
}

/* The first is mapped and moves the threshold when it is freed: the others come from the heap.
 */
static __attribute__((noinline)) void again(void)
{
	for (long i = 0; i < count; i++)
		free(touched(malloc(size), size));
}

static __attribute__((noinline)) void resize(void)
{
	char *block = touched(malloc(size), size);

	for (long i = 2; i <= count; i++) {
		block = realloc(block, i * size);
		touched(block + (i - 1) * size, size);
	}
	free(block);
}

/* Children that share our memory, as vfork() makes them, allocate; we free. */
static void lend(void)
{
	char **blocks = touched(malloc(count * sizeof(*blocks)), count * sizeof(*blocks));

	for (long i = 0; i < count; i++) {
		if (check(vfork(), "vfork") == 0) {
			blocks[i] = malloc(size);
			_exit(0);
		}
		wait(NULL);
		touched(blocks[i], size);
	}
	for (long i = 0; i < count; i++)
		free(blocks[i]);
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

static void four_threads(void)
{
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		if (pthread_create(&threads[i], NULL, in_thread, NULL))
			errx(1, "pthread_create");
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

/* All is taken, and given back from the last on: so the end of the heap gets free. */
static void stack_up(void)
{
	void **blocks = malloc(count * sizeof(*blocks));

	for (long i = 0; i < count; i++)
		blocks[i] = touched(malloc(size), size);
	for (long i = count; i-- > 0;)
		free(blocks[i]);
}

/* A block that is not used at all the compiler would leave out. */
static void give(void *block)
{
	asm volatile("" : "+r"(block));
	free(block);
}

/* Each member of malloc's family, COUNT times, with a size of its own. */
static void family(void)
{
	void *block;

	for (long i = 0; i < count; i++) {
		give(malloc(100));
		give(calloc(10, 50));
		block = malloc(1000);
		asm volatile("" : "+r"(block));
		give(realloc(block, 2000));
		give(realloc(NULL, 5000));
		give(aligned_alloc(64, 10000));
		give(aligned_alloc(16, 20000));
		if (posix_memalign(&block, 4096, 40000))
			errx(1, "posix_memalign");
		give(block);
		give(valloc(70000));
		give(reallocarray(NULL, 1000, 140));
	}
}

/* More than there is, and more than there can be. */
static void huge(void)
{
	for (long i = 0; i < count; i++) {
		give(malloc(size));
		give(calloc(size, size));
	}
}

static void say_and_wait(void)
{
	struct mallinfo2 info = mallinfo2();

	printf("%zu %zu %zu\n", info.uordblks, info.fordblks, info.keepcost);
	fflush(stdout);
	if (read(STDIN_FILENO, &(char){0}, 1) < 0) /* getchar() would take a buffer */
		err(1, "stdin");
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
	else if (strcmp(argv[1], "lend") == 0)
		lend();
	else if (strcmp(argv[1], "thread") == 0)
		one_thread();
	else if (strcmp(argv[1], "hole") == 0)
		hole();
	else if (strcmp(argv[1], "threads") == 0)
		four_threads();
	else if (strcmp(argv[1], "one-arena") == 0)
		mallopt(M_ARENA_MAX, 1), four_threads();
	else if (strcmp(argv[1], "stack") == 0)
		stack_up();
	else if (strcmp(argv[1], "keep-top") == 0)
		mallopt(M_TRIM_THRESHOLD, 1 << 30), stack_up();
	else if (strcmp(argv[1], "family") == 0)
		family();
	else if (strcmp(argv[1], "huge") == 0)
		huge();
	else if (strcmp(argv[1], "set") == 0)
		mallopt(M_MMAP_THRESHOLD, 64 << 10), again();
	else if (strcmp(argv[1], "set-high") == 0)
		mallopt(M_MMAP_THRESHOLD, 1 << 20), again();
	else if (strcmp(argv[1], "no-mmap") == 0)
		mallopt(M_MMAP_MAX, 0), again();
	else
		errx(2, "no case %s", argv[1]);
	getrusage(RUSAGE_SELF, &after);
	printf("%ld\n", after.ru_minflt - before.ru_minflt);
	if (argc > 4)
		say_and_wait();
	return 0;
}
