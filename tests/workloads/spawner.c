/*
 * spawner SECONDS: children that end at once, as many as there can be in that time, each of
 * which has touched something. Prints how many.
 */
#include "workload.h"
#include <sys/wait.h>
#include <time.h>

int main(int argc, char **argv)
{
	if (argc < 2)
		errx(2, "usage: spawner SECONDS");
	time_t end = time(NULL) + atol(argv[1]);
	long count = 0;

	while (time(NULL) < end) {
		for (int i = 0; i < 50; i++, count++)
			if (check(fork(), "fork") == 0)
				_exit(0);
		while (wait(NULL) > 0)
			;
	}
	printf("%ld\n", count);
	return 0;
}
