/* toucher PAGES [SECONDS]: touches so many new pages, and ends so much later. */
#include "workload.h"

int main(int argc, char **argv)
{
	if (argc < 2)
		errx(2, "usage: toucher PAGES [SECONDS]");
	long pages = atol(argv[1]);
	char *place = mmap(NULL, pages * PAGE + 1, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (place == MAP_FAILED)
		err(1, "mmap");
	check(madvise(place, pages * PAGE, MADV_NOHUGEPAGE), "madvise");
	for (long page = 0; page < pages; page++)
		((volatile char *)place)[page * PAGE] = 1;
	if (argc > 2)
		usleep(atof(argv[2]) * 1000000);
	return 0;
}
