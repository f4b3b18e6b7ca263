/*
 * migrator FILE BLOCK: reads FILE from front to back, on another CPU after every read.
 * Prints how many CPUs it was on.
 */
#include "workload.h"

#include <sched.h>

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: migrator FILE BLOCK");
	int fd = check(open(argv[1], O_RDONLY), argv[1]);
	size_t block = strtoul(argv[2], NULL, 0);
	char *buffer = buffer_of(block);
	cpu_set_t allowed, one;
	int cpu = 0;

	check(sched_getaffinity(0, sizeof(allowed), &allowed), "sched_getaffinity");
	while (check(read(fd, buffer, block), "read") > 0) {
		do
			cpu = (cpu + 1) % CPU_SETSIZE;
		while (!CPU_ISSET(cpu, &allowed));
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		check(sched_setaffinity(0, sizeof(one), &one), "sched_setaffinity");
	}
	printf("%d\n", CPU_COUNT(&allowed));
	return 0;
}
