/* namer THREADS PAGES: threads that name themselves and touch so many new pages each. */
#include "workload.h"
#include <pthread.h>

static long pages;

static void *work(void *number)
{
	char name[16], *place = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (place == MAP_FAILED)
		err(1, "mmap");
	check(madvise(place, pages * PAGE, MADV_NOHUGEPAGE), "madvise");
	snprintf(name, sizeof(name), "worker/%ld \a", (long)number);
	pthread_setname_np(pthread_self(), name);
	for (long page = 0; page < pages; page++)
		((volatile char *)place)[page * PAGE] = 1;
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: namer THREADS PAGES");
	long count = atol(argv[1]);
	pthread_t threads[count];

	pages = atol(argv[2]);
	for (long number = 0; number < count; number++)
		pthread_create(&threads[number], NULL, work, (void *)number);
	for (long number = 0; number < count; number++)
		pthread_join(threads[number], NULL);
	return 0;
}
