/*
 * reader32 read FILE SEED: reads a file at random, as a 32-bit program. Prints for each page of
 * it whether it was cached before, and of each read where it began and what it got. reader32
 * write FILE PAGES: writes pages to a file, each at once, and reads them.
 */
#include "workload.h"

#include <sys/sendfile.h>
#include <sys/uio.h>

enum { READS = 40, MOST = 300000 };

static char buffer[MOST];

static ssize_t read_somehow(int fd, int null, off_t at, size_t bytes)
{
	struct iovec parts[2] = {{buffer, bytes / 2}, {buffer + bytes / 2, bytes - bytes / 2}};
	off_t offset = at;

	check(lseek(fd, at, SEEK_SET), "lseek");
	switch (rand() % 4) {
	case 0:
		return read(fd, buffer, bytes);
	case 1:
		return pread(fd, buffer, bytes, at);
	case 2:
		return readv(fd, parts, 2);
	default:
		return sendfile(null, fd, &offset, bytes);
	}
}

static void read_at_random(int fd, int seed)
{
	int null = check(open("/dev/null", O_WRONLY), "/dev/null");

	srand(seed);
	print_cached(fd);
	for (int i = 0; i < READS; i++) {
		off_t at = rand() % size_of(fd);

		printf("%ld %zd ", (long)at, read_somehow(fd, null, at, rand() % MOST + 1));
	}
	putchar('\n');
}

static void write_pages(int fd, int pages)
{
	for (int page = 0; page < pages; page++)
		check(pwrite(fd, buffer, PAGE, page * PAGE), "pwrite");
	for (int page = 0; page < pages; page++)
		check(pread(fd, buffer, PAGE, page * PAGE), "pread");
}

int main(int argc, char **argv)
{
	int reads = argc == 4 && !strcmp(argv[1], "read");
	int fd = check(open(argv[2], reads ? O_RDONLY : O_RDWR | O_CREAT, 0644), argv[2]);

	(reads ? read_at_random : write_pages)(fd, atoi(argv[3]));
	return 0;
}
