/*
 * mixer STEPS SEED: page faults of all sorts, in an order that nobody could have planned for.
 *
 * Maps, touches (pages in a row, backwards, here and there), unmaps, grows its heap, forks,
 * with two threads. Prints what the kernel counted while it touched: `REGION FAULTS` lines, by
 * what the memory is.
 */
#include "workload.h"
#include <pthread.h>
#include <sys/wait.h>

enum { ANON, SHM, HEAP, REGIONS };

static const char *names[REGIONS] = {"anon", "shm", "heap"};
static pthread_mutex_t heap_lock = PTHREAD_MUTEX_INITIALIZER;

struct worker {
	pthread_t thread;
	uint64_t state;
	long steps;
	long counted[REGIONS];
};

static uint64_t chance(struct worker *me, uint64_t below)
{
	me->state = me->state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (me->state >> 33) % below;
}

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

/* One instruction that touches; so the order of the pages is all that tells the ways apart. */
static __attribute__((noinline)) void touch(volatile char *memory, long page)
{
	memory[page * PAGE] = 1;
}

static void touch_some(struct worker *me, char *memory, long pages, int region)
{
	long before = faults(), way = chance(me, 4), from = chance(me, pages);

	for (long i = 0; i < pages; i++) {
		if (way == 0)
			touch(memory, i);
		else if (way == 1)
			touch(memory, pages - 1 - i);
		else if (way == 2)
			touch(memory, chance(me, pages));
		else
			touch(memory, (from + i) % pages);
	}
	me->counted[region] += faults() - before;
}

static char *map(long pages, int flags)
{
	char *memory =
		mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	return memory;
}

static void step(struct worker *me)
{
	long pages = 1 + chance(me, 300), what = chance(me, 10);

	if (what < 5) {
		char *memory = map(pages, MAP_PRIVATE);

		touch_some(me, memory, pages, ANON);
		if (chance(me, 2)) {
			madvise(memory, pages * PAGE, MADV_DONTNEED);
			touch_some(me, memory, pages, ANON);
		}
		munmap(memory, pages * PAGE);
	} else if (what < 8) {
		char *memory = map(pages, MAP_SHARED);

		touch_some(me, memory, pages, SHM);
		munmap(memory, pages * PAGE);
	} else {
		pthread_mutex_lock(&heap_lock);
		char *memory = sbrk(pages * PAGE);
		if (memory == (char *)-1)
			err(1, "sbrk");
		touch_some(me, memory, pages, HEAP);
		sbrk(-pages * PAGE);
		pthread_mutex_unlock(&heap_lock);
	}
}

static void *work(void *worker)
{
	struct worker *me = worker;

	while (me->steps-- > 0)
		step(me);
	return NULL;
}

int main(int argc, char **argv)
{
	struct worker workers[2] = {0};

	if (argc != 3)
		errx(2, "usage: mixer STEPS SEED");
	for (int i = 0; i < 2; i++) {
		workers[i].state = 2 * atol(argv[2]) + i;
		workers[i].steps = atol(argv[1]);
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			errx(1, "pthread_create");
	}
	for (int i = 0; i < 2; i++)
		pthread_join(workers[i].thread, NULL);
	for (int region = 0; region < REGIONS; region++)
		printf("%s %ld\n", names[region],
		       workers[0].counted[region] + workers[1].counted[region]);
	return 0;
}
