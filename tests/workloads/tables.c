/*
 * tables: page tables whose number is known, made step by step: one for each line on stdin.
 *
 * Prints the address of a region that begins at a whole GiB. It has a table of the lowest
 * level for each 2 MiB, and one of the next for each GiB. At each line:
 *
 *   touches a page in each of 10 such parts of the first GiB, and of 3 of the second,
 *   and reads one of the third (the zero page): 14 tables, and 3 of the next level
 *   gives back 4 of the first, page by page, so that all kernels keep their empty tables
 *   writes a huge page in the second, if there are any: a table is in reserve
 *   writes 2 MiB of shared memory in the third: a table
 *   makes a huge page of that (MADV_COLLAPSE): a table less
 *   touches a huge page of hugetlbfs in the third: no table
 *
 * and prints whether it could.
 */
#include "workload.h"

#define MIB  (1L << 20)
#define GIB  (1L << 30)
#define PART (2 * MIB)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static char *base;

static long touch(void)
{
	for (long part = 0; part < 10; part++)
		base[part * PART] = 1;
	for (long part = 0; part < 3; part++)
		base[GIB + part * PART] = 1;
	return !*(volatile char *)(base + 2 * GIB);
}

static long give_back(void)
{
	int failed = 0;

	for (long part = 0; part < 4; part++)
		failed |= madvise(base + part * PART, PAGE, MADV_DONTNEED);
	return !failed;
}

static long huge(void)
{
	char *at = base + GIB + 64 * MIB;
	int unable = madvise(at, PART, MADV_HUGEPAGE);

	memset(at, 1, PART);
	return !unable;
}

static char *shared(void)
{
	return base + 2 * GIB + 64 * MIB;
}

static long share(void)
{
	int fd = check(memfd_create("tables", 0), "memfd_create");

	check(ftruncate(fd, PART), "ftruncate");
	if (mmap(shared(), PART, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
	    MAP_FAILED)
		err(1, "mmap");
	for (long at = 0; at < PART; at += PAGE)
		shared()[at] = 1;
	return 1;
}

static long collapse(void)
{
	return !madvise(shared(), PART, MADV_COLLAPSE);
}

static long hugetlb(void)
{
	char *at = mmap(base + 2 * GIB + 128 * MIB, PART, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0);

	if (at == MAP_FAILED)
		return 0;
	*at = 1;
	return 1;
}

int main(void)
{
	static long (*const steps[])(void) = {touch, give_back, huge, share, collapse, hugetlb};
	char *found = mmap(NULL, 5 * GIB, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char line[2];

	if (found == MAP_FAILED)
		err(1, "mmap");
	base = (char *)(((uintptr_t)found + GIB - 1) & ~(GIB - 1));
	check(madvise(base, 4 * GIB, MADV_NOHUGEPAGE), "madvise");
	setvbuf(stdout, NULL, _IONBF, 0);
	printf("%lx\n", (long)base);
	for (unsigned at = 0; at < sizeof(steps) / sizeof(*steps); at++) {
		if (!fgets(line, sizeof(line), stdin))
			return 0;
		printf("%ld\n", steps[at]());
	}
	return !fgets(line, sizeof(line), stdin);
}
