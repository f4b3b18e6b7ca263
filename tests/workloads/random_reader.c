/*
 * random_reader FILE COUNT: COUNT reads of one page each, at random pages, without readahead.
 * Prints how many of the pages were distinct.
 */
#include "workload.h"

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: random_reader FILE COUNT");
	int fd = check(open(argv[1], O_RDONLY), argv[1]);
	long pages = size_of(fd) / PAGE, distinct = 0;
	char *seen = calloc(pages, 1), *buffer = buffer_of(PAGE);

	srand48(pages);
	check(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), "posix_fadvise");
	for (long left = atol(argv[2]); left > 0; left--) {
		long page = lrand48() % pages;

		distinct += !seen[page];
		seen[page] = 1;
		check(pread(fd, buffer, PAGE, page * PAGE), "pread");
	}
	printf("%ld\n", distinct);
	return 0;
}
