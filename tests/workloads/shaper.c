/*
 * shaper SEED STEPS THREADS: maps and unmaps at random, in sizes that are no whole pages.
 *
 * Each thread has addresses of its own, over which it maps, moves and unmaps, in steps that
 * take turns: what one gets can lie in a hole of another, which else could unmap a part of it
 * before it is moved, and mremap(2) then moves what is left. Prints by how much VmSize has
 * grown, in bytes.
 */
#include "workload.h"
#include <pthread.h>

#define RANGE 256 /* pages */

static unsigned seed;
static long steps;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static long vm_size(void)
{
	static char text[8192];
	int fd = check(open("/proc/self/status", O_RDONLY), "status");
	long bytes = check(read(fd, text, sizeof(text) - 1), "status");

	close(fd);
	text[bytes] = 0;
	return atol(strstr(text, "VmSize:") + 7) * 1024;
}

static void *map(void *where, size_t length, int prot, int flags)
{
	void *start = mmap(where, length, prot, MAP_ANONYMOUS | flags, -1, 0);

	if (start == MAP_FAILED)
		err(1, "mmap");
	return start;
}

static void step(char *range, unsigned *chance)
{
	static const int prots[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
	unsigned pages = 1 + rand_r(chance) % (RANGE / 4);
	char *where = range + rand_r(chance) % (RANGE - pages) * PAGE, *start;
	size_t length = pages * PAGE - rand_r(chance) % PAGE;
	size_t after = length / 2 + rand_r(chance) % length + 1;
	int prot = prots[rand_r(chance) % 3];

	switch (rand_r(chance) % 8) {
	case 0:
		munmap(where, length);
		break;
	case 1:
		map(where, length, prot, MAP_FIXED | MAP_SHARED);
		break;
	case 2:
		map(where, length, prot, MAP_FIXED | MAP_PRIVATE);
		break;
	case 3:
		map(NULL, length, prot, MAP_PRIVATE | MAP_NORESERVE);
		break;
	case 4: /* grows or shrinks, and moves if it must */
		start = map(NULL, length, prot, MAP_PRIVATE);
		mremap(start, length, after, MREMAP_MAYMOVE);
		break;
	case 5: /* over whatever is there */
		start = map(NULL, length, prot, MAP_PRIVATE);
		mremap(start, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, where);
		break;
	case 6:
		start = map(NULL, length, prot, MAP_PRIVATE);
		mremap(start, length, length, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
		       where);
		break;
	case 7: /* once more */
		start = map(NULL, length, prot, MAP_SHARED);
		mremap(start, 0, length, MREMAP_MAYMOVE);
		munmap(start, length - length / 2);
		break;
	}
}

static void *work(void *number)
{
	unsigned chance = seed + (long)number;
	char *range = map(NULL, RANGE * PAGE, PROT_NONE, MAP_PRIVATE);

	for (long i = 0; i < steps; i++) {
		pthread_mutex_lock(&turn);
		step(range, &chance);
		pthread_mutex_unlock(&turn);
	}
	return number;
}

int main(int argc, char **argv)
{
	pthread_t threads[16];

	if (argc < 4)
		errx(2, "usage: shaper SEED STEPS THREADS");
	seed = atoi(argv[1]), steps = atol(argv[2]);
	long count = atol(argv[3]), before = vm_size();

	for (long i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i))
			errx(1, "pthread_create");
	for (long i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	printf("%ld\n", vm_size() - before);
	return 0;
}
