/*
 * survivor THREADS PAGES: so many threads with names of their own touch PAGES each of private
 * memory; then the main thread ends, and they go on. Says so when all is touched.
 */
#include "workload.h"
#include <pthread.h>
#include <sys/prctl.h>

static pthread_barrier_t all_have_touched;
static long pages;

static void *stay(void *number)
{
	char name[16];
	volatile char *place = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (place == MAP_FAILED)
		err(1, "mmap");
	snprintf(name, sizeof(name), "other-%ld", (long)number);
	prctl(PR_SET_NAME, name);
	for (long page = 0; page < pages; page++)
		place[page * PAGE] = 1;
	pthread_barrier_wait(&all_have_touched);
	for (;;)
		pause();
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: survivor THREADS PAGES");
	long threads = atol(argv[1]);
	pthread_t thread;

	pages = atol(argv[2]);
	pthread_barrier_init(&all_have_touched, NULL, threads + 1);
	for (long number = 0; number < threads; number++)
		if (pthread_create(&thread, NULL, stay, (void *)number))
			errx(1, "no thread");
	pthread_barrier_wait(&all_have_touched);
	check(write(STDOUT_FILENO, "\n", 1), "write");
	pthread_exit(NULL);
}
