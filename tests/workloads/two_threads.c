/*
 * two_threads FILE BLOCK: two threads read the two halves of FILE at the same time, through one
 * file descriptor.
 */
#include "workload.h"

#include <pthread.h>

static int fd;
static size_t block, half;

static void *read_half(void *start)
{
	char *buffer = buffer_of(block);

	for (size_t at = 0; at < half; at += block) {
		size_t size = block < half - at ? block : half - at;

		check(pread(fd, buffer, size, (size_t)start + at), "pread");
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: two_threads FILE BLOCK");
	fd = check(open(argv[1], O_RDONLY), argv[1]);
	block = strtoul(argv[2], NULL, 0);
	half = size_of(fd) / 2;
	pthread_t threads[2];
	for (size_t i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, read_half, (void *)(i * half)))
			errx(1, "pthread_create");
	for (size_t i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
