/*
 * hog ANON SHARED FILE FILE_PAGES: touches so many pages of private, of shared memory and
 * of a file, says so, and stops itself; continued, it touches private pages until it is killed.
 */
#include "workload.h"
#include <signal.h>

static void touch(long pages, int flags, int fd)
{
	if (pages == 0)
		return;
	char *place = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (place == MAP_FAILED)
		err(1, "mmap");
	for (long page = 0; page < pages; page++)
		((volatile char *)place)[page * PAGE] = 1;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		errx(2, "usage: hog ANON SHARED FILE FILE_PAGES");
	touch(atol(argv[1]), MAP_PRIVATE | MAP_ANONYMOUS, -1);
	touch(atol(argv[2]), MAP_SHARED | MAP_ANONYMOUS, -1);
	touch(atol(argv[4]), MAP_SHARED, check(open(argv[3], O_RDWR), argv[3]));
	puts("touched");
	fflush(stdout);
	raise(SIGSTOP);
	for (;;)
		touch(16, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}
