/*
 * writer FILE OPEN PAGES BYTES TIMES: writes BYTES at the start of each of PAGES pages of FILE,
 * TIMES times over.
 *
 * OPEN: new (made or emptied), old (kept as it is) or direct (kept, and past the page cache).
 * Prints what nr_dirtied of /proc/vmstat came to meanwhile.
 */
#include "workload.h"

static long dirtied(void)
{
	char line[128];
	long value = -1;
	FILE *vmstat = fopen("/proc/vmstat", "r");

	while (vmstat && fgets(line, sizeof(line), vmstat))
		if (sscanf(line, "nr_dirtied %ld", &value) == 1)
			break;
	fclose(vmstat);
	return value;
}

int main(int argc, char **argv)
{
	if (argc != 6)
		errx(2, "usage: writer FILE OPEN PAGES BYTES TIMES");
	int how = !strcmp(argv[2], "new") ? O_CREAT | O_TRUNC : 0;
	if (!strcmp(argv[2], "direct"))
		how = O_DIRECT;
	int fd = check(open(argv[1], O_RDWR | how, 0600), argv[1]);
	long pages = atol(argv[3]), bytes = atol(argv[4]);
	char *buffer = buffer_of(PAGE);

	long before = dirtied();
	for (long times = atol(argv[5]); times > 0; times--)
		for (long page = 0; page < pages; page++)
			check(pwrite(fd, buffer, bytes, page * PAGE), "pwrite");
	printf("%ld\n", dirtied() - before);
	return 0;
}
