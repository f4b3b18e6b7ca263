/*
 * swapper PAGES ROUNDS: touches so many private pages in order, so often. No two are alike, and
 * none is zero.
 */
#include "workload.h"

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: swapper PAGES ROUNDS");
	long pages = atol(argv[1]);
	char *place = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (place == MAP_FAILED)
		err(1, "mmap");
	madvise(place, pages * PAGE, MADV_NOHUGEPAGE); /* unknown without huge pages */
	for (long round = 1; round <= atol(argv[2]); round++)
		for (long page = 0; page < pages; page++)
			*(volatile long *)(place + page * PAGE) = page * 1000 + round;
	return 0;
}
