/*
 * turns CALL FILE COUNT: on one CPU, a thread makes COUNT calls, and another that comes before
 * all others makes one whenever it wakes up, some ten thousand times a second: wherever the
 * first is then, in the kernel or not. Prints how many calls both have made.
 *
 * CALL: read (a page of FILE) or map (a page, and unmap it: two calls).
 */
#include "workload.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define SLEEP_NS 50000

static int fd;
static size_t pages;
static atomic_int done;
static long extra;

static void make_call(long number, const char *call)
{
	char page[PAGE];

	if (*call == 'r') {
		check(pread(fd, page, PAGE, number % pages * PAGE), "pread");
		return;
	}
	void *address = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (address == MAP_FAILED || munmap(address, PAGE))
		err(1, "mmap");
}

static void *interrupt(void *call)
{
	struct timespec nap = {.tv_nsec = SLEEP_NS};

	while (!done) {
		nanosleep(&nap, NULL);
		make_call(extra++, call);
	}
	return NULL;
}

static void start_first_of_all(pthread_t *thread, void *call)
{
	pthread_attr_t how;
	struct sched_param first = {.sched_priority = 1};

	pthread_attr_init(&how);
	pthread_attr_setinheritsched(&how, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&how, SCHED_FIFO);
	pthread_attr_setschedparam(&how, &first);
	if (pthread_create(thread, &how, interrupt, call))
		errx(1, "pthread_create");
}

int main(int argc, char **argv)
{
	pthread_t other;

	if (argc != 4)
		errx(2, "usage: turns CALL FILE COUNT");
	fd = check(open(argv[2], O_RDONLY), argv[2]);
	pages = size_of(fd) / PAGE;
	long count = atol(argv[3]);
	stay_on_this_cpu();
	start_first_of_all(&other, argv[1]);
	for (long number = 0; number < count; number++)
		make_call(number, argv[1]);
	done = 1;
	pthread_join(other, NULL);
	printf("%ld\n", count + extra);
	return 0;
}
