/*
 * heaper THREADS BLOCKS SEED [churn|pieces]: heaps with holes, one for each thread and one for
 * main().
 *
 * Each takes BLOCKS of sizes that SEED gives and frees some, none of which a tcache takes. Then
 * 20 small ones are freed, of which the tcache keeps 7 of a size and fastbins, where there are
 * such, the others; and 5 that are larger. So it stays; to churn, threads take and free for
 * ever; in pieces is the main heap if something is in the way of the break. A block of 1 MiB is
 * mapped. Prints what mallinfo2() says and what is in tcaches (of which
 * GLIBC_TUNABLES=glibc.malloc.tcache_count=7 makes sure), and what malloc_info() says. For each
 * line that it is told it does so again, after a malloc_trim(0).
 */
#include "workload.h"
#include <malloc.h>
#include <pthread.h>

enum {
	SMALL = 40,
	SMALLS = 20,
	MIDDLE = 400,
	MIDDLES = 5,
	DEPTH = 7,
	TAKEN = 100,
	SIZES = 1 << 10
};

static long blocks, seed;
static int churns;
static pthread_barrier_t ready;
static _Atomic size_t in_tcaches;

static unsigned long next(unsigned long *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

static void *taken(unsigned long *state)
{
	size_t size = 1100 + next(state) % (next(state) % 4 ? 3000 : 60000);
	void *block = malloc(size);

	if (!block)
		err(1, "malloc");
	return memset(block, 1, size);
}

/*
 * What is freed at last and stays where only its thread, or its fastbin, has it. Before that,
 * all that is free of that size is taken: malloc would put the rest into the tcache.
 */
static void leave(size_t size, int count)
{
	void *kept[SMALLS];
	unsigned char held[SIZES] = {};

	for (int i = 0; i < TAKEN; i++)
		*(void *volatile *)malloc(size) = NULL;
	for (int i = 0; i < count; i++)
		kept[i] = malloc(size);
	for (int i = 0; i < count; i++) {
		size_t chunk = malloc_usable_size(kept[i]) + sizeof(size_t);

		if (held[chunk]++ < DEPTH)
			in_tcaches += chunk;
		free(kept[i]);
	}
}

static void *fill(void *number)
{
	unsigned long state = seed * 1000003 + (long)number + 1;
	void **held = malloc(blocks * sizeof(*held));

	for (long i = 0; i < blocks; i++)
		held[i] = taken(&state);
	for (long i = 0; i < blocks; i++)
		if (next(&state) % 5 < 3)
			free(held[i]), held[i] = NULL;
	for (long i = 0; i < blocks / 4; i++) {
		long at = next(&state) % blocks;

		free(held[at]);
		held[at] = taken(&state);
	}
	leave(SMALL, SMALLS);
	leave(MIDDLE, MIDDLES);
	pthread_barrier_wait(&ready);
	while (churns) {
		long at = next(&state) % blocks;

		free(held[at]);
		held[at] = taken(&state);
	}
	return held;
}

static void *fill_and_stay(void *number)
{
	fill(number);
	pause();
	return NULL;
}

static void say(FILE *out)
{
	struct mallinfo2 info = mallinfo2();

	fprintf(out, "%zu %zu %zu %zu %zu %zu\n", info.arena, info.hblks, info.hblkhd,
		info.uordblks, info.keepcost, in_tcaches);
	malloc_info(0, out);
	fflush(out);
}

int main(int argc, char **argv)
{
	static char buffer[1 << 16];
	char byte;
	pthread_t thread;
	void *volatile mapped;

	if (argc < 4)
		errx(2, "usage: heaper THREADS BLOCKS SEED [churn|pieces]");
	setvbuf(stdout, buffer, _IOFBF, sizeof(buffer)); /* or it would take one of malloc */
	blocks = atol(argv[2]);
	seed = atol(argv[3]);
	churns = argc > 4 && strcmp(argv[4], "churn") == 0;
	mapped = memset(malloc(1 << 20), 1, 1 << 20);
	if (argc > 4 && strcmp(argv[4], "pieces") == 0 &&
	    mmap((char *)sbrk(0) + PAGE * 64, PAGE, PROT_READ,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		err(1, "mmap");
	pthread_barrier_init(&ready, NULL, atoi(argv[1]) + 1);
	for (long i = 0; i < atoi(argv[1]); i++)
		if (pthread_create(&thread, NULL, fill_and_stay, (void *)(i + 1)))
			errx(1, "pthread_create");
	if (churns)
		pthread_barrier_wait(&ready);
	else
		fill(NULL);
	say(stdout);
	while (read(STDIN_FILENO, &byte, 1) == 1) {
		malloc_trim(0);
		say(stdout);
	}
	return mapped == NULL;
}
