/*
 * crowd WHAT SECONDS RATE [FOLDER]: RATE times a second, something that nobody has seen before.
 *
 *   processes  a child that writes to ten new pages and ends
 *   files      a file of 100 bytes in FOLDER: written, read, removed
 *   objects    a file of one page in FOLDER: mapped to be executed, read through, removed
 *
 * A rate of 0 is as fast as it can. Prints how often it was.
 */
#include "workload.h"
#include <sys/wait.h>
#include <time.h>

static const char *folder;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void process(void)
{
	pid_t child = check(fork(), "fork");

	if (child == 0) {
		char *pages = mmap(NULL, 10 * PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (int page = 0; page < 10; page++)
			pages[page * PAGE] = 1;
		_exit(0);
	}
	check(waitpid(child, NULL, 0), "waitpid");
}

static int new_file(char *path, size_t size, long nth, long bytes)
{
	static char buffer[PAGE];

	snprintf(path, size, "%s/%ld", folder, nth);
	int fd = check(open(path, O_CREAT | O_RDWR | O_TRUNC, 0700), path);
	check(write(fd, buffer, bytes), "write");
	return fd;
}

static void file(long nth)
{
	char path[4096], buffer[100];
	int fd = new_file(path, sizeof(path), nth, sizeof(buffer));

	check(pread(fd, buffer, sizeof(buffer), 0), "pread");
	close(fd);
	check(unlink(path), path);
}

static void object(long nth)
{
	char path[4096];
	int fd = new_file(path, sizeof(path), nth, PAGE);
	volatile char *page = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);

	if (page == MAP_FAILED)
		err(1, "mmap");
	(void)page[0];
	munmap((void *)page, PAGE);
	close(fd);
	check(unlink(path), path);
}

static void one(const char *what, long nth)
{
	if (strcmp(what, "processes") == 0)
		process();
	else if (strcmp(what, "files") == 0)
		file(nth);
	else
		object(nth);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		errx(2, "usage: crowd processes|files|objects SECONDS RATE [FOLDER]");
	double begin = now(), end = begin + atof(argv[2]), rate = atof(argv[3]);
	long nth = 0;

	folder = argc > 4 ? argv[4] : "";
	while (now() < end) {
		one(argv[1], nth++);
		while (rate && now() < end && now() - begin < nth / rate)
			usleep(1000);
	}
	printf("%ld\n", nth);
	return 0;
}
