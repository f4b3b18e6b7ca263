/*
 * flood WHAT COUNT [FILE]: COUNT events of which no two are in a row.
 *
 *   faults  first touches of anonymous pages; prints how many minor faults the process had
 *   reads   of one page of FILE each; prints COUNT
 *   maps    mmap and munmap of two pages; prints COUNT
 *   moves   the same, with an mremap to four pages in between
 */
#include "workload.h"

#define STEP 7919 /* a prime, so that every page is touched once */

static void faults(long count)
{
	char *pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		err(1, "mmap");
	check(madvise(pages, count * PAGE, MADV_NOHUGEPAGE), "madvise");
	for (long nth = 0; nth < count; nth++)
		pages[nth * STEP % count * PAGE] = 1;
}

static void reads(long count, const char *file)
{
	int fd = check(open(file, O_RDONLY), file);
	long pages = size_of(fd) / PAGE;
	char *buffer = buffer_of(PAGE);

	for (long nth = 0; nth < count; nth++)
		check(pread(fd, buffer, PAGE, nth * STEP % pages * PAGE), "pread");
}

static void maps(long count, int moves)
{
	while (count-- > 0) {
		void *two = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (two == MAP_FAILED)
			err(1, "mmap");
		if (moves)
			two = mremap(two, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
		if (two == MAP_FAILED)
			err(1, "mremap");
		check(munmap(two, (moves ? 4 : 2) * PAGE), "munmap");
	}
}

int main(int argc, char **argv)
{
	struct rusage used;

	if (argc < 3)
		errx(2, "usage: flood faults|reads|maps|moves COUNT [FILE]");
	long count = atol(argv[2]);
	if (strcmp(argv[1], "faults") == 0)
		faults(count);
	else if (strcmp(argv[1], "reads") == 0 && argc == 4)
		reads(count, argv[3]);
	else
		maps(count, strcmp(argv[1], "moves") == 0);
	check(getrusage(RUSAGE_SELF, &used), "getrusage");
	printf("%ld\n", strcmp(argv[1], "faults") ? count : used.ru_minflt);
	return 0;
}
