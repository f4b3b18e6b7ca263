/*
 * sharer KIND BYTES CHILDREN: memory that a process and its children have together.
 *
 * `swap` is private memory that is swapped out before the children are forked, `shm` shared
 * memory likewise; `private-huge`, `shared-huge` and `sysv-huge` are huge pages that all of
 * them touch. With `space` the children have the address space of their parent, and with
 * `swap-space` what is in it was swapped out. Says so when all is done; the children end with
 * their parent.
 */
#define _GNU_SOURCE
#include "workload.h"
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/shm.h>

#define STACK_BYTES (64 << 10)

static int is(const char *kind, const char *other)
{
	return strcmp(kind, other) == 0;
}

static char *map(size_t bytes, int flags)
{
	char *place = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	if (place == MAP_FAILED)
		err(1, "mmap");
	return place;
}

static char *attach(size_t bytes)
{
	int segment =
		check(shmget(IPC_PRIVATE, bytes, IPC_CREAT | SHM_HUGETLB | 0600), "shmget");
	char *place = shmat(segment, NULL, 0);

	if (place == (void *)-1)
		err(1, "shmat");
	check(shmctl(segment, IPC_RMID, NULL), "shmctl");
	return place;
}

static char *memory_of(const char *kind, size_t bytes)
{
	if (is(kind, "sysv-huge"))
		return attach(bytes);
	if (is(kind, "shared-huge"))
		return map(bytes, MAP_SHARED | MAP_HUGETLB);
	if (is(kind, "private-huge"))
		return map(bytes, MAP_PRIVATE | MAP_HUGETLB);
	return map(bytes, is(kind, "shm") ? MAP_SHARED : MAP_PRIVATE);
}

/* Of no zeros, which the kernel would not write to swap. */
static void touch(char *place, size_t bytes)
{
	uint64_t word = 1;

	for (size_t at = 0; at < bytes; at += sizeof(word)) {
		word = word * 6364136223846793005 + 1442695040888963407;
		*(uint64_t *)(place + at) = word;
	}
}

static int wait_for_ever(void *nothing)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
	return nothing == NULL;
}

static void clone_one(void)
{
	char *stack = map(STACK_BYTES, MAP_PRIVATE);

	check(clone(wait_for_ever, stack + STACK_BYTES, CLONE_VM | SIGCHLD, NULL), "clone");
}

static void fork_one(const char *kind, char *place, size_t bytes)
{
	int ends[2];
	char byte;

	check(pipe(ends), "pipe");
	if (check(fork(), "fork") == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (strstr(kind, "huge"))
			touch(place, bytes);
		check(write(ends[1], "", 1), "write");
		for (;;)
			pause();
	}
	check(read(ends[0], &byte, 1), "read");
}

int main(int argc, char **argv)
{
	if (argc != 4)
		errx(2, "usage: sharer KIND BYTES CHILDREN");
	size_t bytes = strtoul(argv[2], NULL, 0);
	char *place = memory_of(argv[1], bytes);

	touch(place, bytes);
	if (strstr(argv[1], "swap") || is(argv[1], "shm"))
		check(madvise(place, bytes, MADV_PAGEOUT), "madvise");
	for (int child = 0; child < atoi(argv[3]); child++) {
		if (strstr(argv[1], "space"))
			clone_one();
		else
			fork_one(argv[1], place, bytes);
	}
	check(write(STDOUT_FILENO, "\n", 1), "write");
	for (;;)
		pause();
}
