/*
 * holder FILE: memory whose sizes are known, held by a process that has stopped itself.
 *
 * Prints `PRIVATE SHARED READ WRITTEN THREAD CHILD`: five addresses (hex) and the process that
 * shares SHARED. Each SIGCONT touches MORE_PAGES more of PRIVATE, then it stops again.
 *
 * PRIVATE has TOUCHED_PAGES of PRIVATE_PAGES touched, SHARED all of SHARED_PAGES, by both
 * processes. READ is a private mapping of FILE that is in memory, WRITTEN one of which the
 * first WRITTEN_PAGES are copies of its own; THREAD is in the stack of a second thread. The
 * child ends with its parent.
 */
#include "workload.h"
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#define PRIVATE_PAGES 397L
#define TOUCHED_PAGES 101L
#define MORE_PAGES    97L
#define SHARED_PAGES  211L
#define WRITTEN_PAGES 53L
#define STACK_PAGES   31L

/* Between two pages of no access, so that the kernel makes one mapping of it and nothing else.
 */
static char *map(long pages, int prot, int flags, int fd)
{
	char *fence =
		mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (fence == MAP_FAILED)
		err(1, "mmap");
	char *place = mmap(fence + PAGE, pages * PAGE, prot, flags | MAP_FIXED, fd, 0);
	if (place == MAP_FAILED)
		err(1, "mmap");
	madvise(place, pages * PAGE,
		MADV_NOHUGEPAGE); /* unknown to a kernel without huge pages */
	return place;
}

static char *anonymous(long pages, int flags)
{
	return map(pages, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1);
}

static void touch(char *place, long first, long pages)
{
	for (long page = first; page < first + pages; page++)
		place[page * PAGE] = 1;
}

static void *stand(void *pipe)
{
	char here[STACK_PAGES * PAGE];
	void *place = here;

	memset(here, 1, sizeof(here));
	check(write(*(int *)pipe, &place, sizeof(place)), "write");
	for (;;)
		pause();
	return NULL;
}

static void *address_of_thread(void)
{
	pthread_t thread;
	void *place;
	int ends[2];

	check(pipe(ends), "pipe");
	if (pthread_create(&thread, NULL, stand, &ends[1]))
		errx(1, "no thread");
	check(read(ends[0], &place, sizeof(place)), "read");
	return place;
}

/* Returns when the child has touched all that it shares. */
static pid_t child_with(char *shared)
{
	int ends[2];
	char byte;

	check(pipe(ends), "pipe");
	pid_t child = check(fork(), "fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		touch(shared, 0, SHARED_PAGES);
		check(write(ends[1], "", 1), "write");
		for (;;)
			pause();
	}
	check(read(ends[0], &byte, 1), "read");
	return child;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: holder FILE");
	char *shared = anonymous(SHARED_PAGES, MAP_SHARED);
	touch(shared, 0, SHARED_PAGES);
	pid_t child = child_with(shared);
	char *private = anonymous(PRIVATE_PAGES, MAP_PRIVATE);
	touch(private, 0, TOUCHED_PAGES);
	int fd = check(open(argv[1], O_RDONLY), argv[1]);
	long pages = size_of(fd) / PAGE;
	char *read = map(pages, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd);
	/* To populate, or to lock, what may be written to would copy all of it. */
	char *written = map(pages, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd);
	/* Some kernels take back what was not used for a while. */
	check(mlock(read, pages * PAGE), "mlock");
	check(mprotect(written, pages * PAGE, PROT_READ | PROT_WRITE), "mprotect");
	touch(written, 0, WRITTEN_PAGES);
	void *thread = address_of_thread();

	printf("%lx %lx %lx %lx %lx %d\n", (long)private, (long)shared, (long)read,
	       (long)written, (long)thread, child);
	fflush(stdout);
	for (long touched = TOUCHED_PAGES;; touched += MORE_PAGES) {
		raise(SIGSTOP);
		if (touched + MORE_PAGES <= PRIVATE_PAGES)
			touch(private, touched, MORE_PAGES);
	}
}
