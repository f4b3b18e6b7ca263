/*
 * mapper ADVICE FILE: maps FILE and touches each of its pages once, from front to back.
 *
 * ADVICE: random (no readahead, no fault-around) or normal. Prints how many minor and major
 * faults the kernel counted for that. MADV_NOHUGEPAGE, because a fault that maps 2 MiB at once
 * fires no tracepoint.
 */
#include "workload.h"

static volatile char sum;

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: mapper ADVICE FILE");
	int fd = check(open(argv[2], O_RDONLY), argv[2]);
	size_t size = size_of(fd);
	struct rusage before, after;

	char *map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		err(1, "mmap");
	madvise(map, size, MADV_NOHUGEPAGE); /* unknown to a kernel without huge pages */
	check(madvise(map, size, strcmp(argv[1], "random") ? MADV_NORMAL : MADV_RANDOM),
	      "madvise");
	getrusage(RUSAGE_SELF, &before);
	for (size_t at = 0; at < size; at += PAGE)
		sum += map[at];
	getrusage(RUSAGE_SELF, &after);
	printf("%ld %ld\n", after.ru_minflt - before.ru_minflt,
	       after.ru_majflt - before.ru_majflt);
	return 0;
}
