/*
 * crowd WHAT SECONDS RATE [FOLDER]: RATE times a second, something that nobody has seen before.
 *
 *   processes  a child that writes to ten new pages and ends
 *   files      a file in FOLDER: 100 bytes of it written, read, removed
 *   objects    a file in FOLDER: a page of it written, mapped to be executed, read, removed
 *
 * With same- before it, the same is done again and again by one process, to one file: what it
 * costs to trace that is what the events cost, and what the crowd costs beyond is that it is
 * one.
 *
 * A rate of 0 is as fast as it can. Prints how often it was.
 */
#include "workload.h"
#include <sys/wait.h>
#include <time.h>

/* What else a child and its parent write to that they have in common, and map of files. */
#define COPIED   28
#define EACH     (11 + 2 * COPIED)
#define TOGETHER 256

static const char *folder;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static char *new_pages(int count)
{
	char *pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		err(1, "mmap");
	return pages;
}

static void write_to(char *pages, int count, int stride)
{
	for (int page = 0; page < count; page++)
		pages[page * stride * PAGE] = 1;
}

static void process(long nth)
{
	pid_t child = check(fork(), "fork");

	if (child == 0) {
		write_to(new_pages(10), 10, 1);
		_exit(0);
	}
	check(waitpid(child, NULL, 0), "waitpid");
}

/*
 * The faults of a child, its own and those that are one by one, as of what is copied on write;
 * and one call that maps. What is mapped next stands below, so all is given back by one call.
 */
static void same_process(long nth)
{
	char *pages = new_pages(EACH);

	write_to(pages, 10, 1);
	write_to(pages + 11 * PAGE, COPIED, 2);
	if (nth % TOGETHER == TOGETHER - 1)
		munmap(pages, (size_t)TOGETHER * EACH * PAGE);
}

static char *path_of(long nth)
{
	static char path[4096];

	snprintf(path, sizeof(path), "%s/%ld", folder, nth);
	return path;
}

/* A file with a page of its own behind its first one, which is a hole. */
static int written(long nth, long bytes)
{
	static char buffer[PAGE];
	int fd = check(open(path_of(nth), O_CREAT | O_RDWR, 0700), path_of(nth));

	check(pwrite(fd, buffer, bytes, PAGE), "pwrite");
	return fd;
}

static void read_it(int fd)
{
	char buffer[100];

	check(pread(fd, buffer, sizeof(buffer), PAGE), "pread");
}

static void execute_it(int fd)
{
	volatile char *page = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, PAGE);

	if (page == MAP_FAILED)
		err(1, "mmap");
	(void)page[0];
	munmap((void *)page, PAGE);
}

static void done_with(int fd, long nth)
{
	close(fd);
	check(unlink(path_of(nth)), path_of(nth));
}

/* Not to nothing: what ext4 finds cut down to that it writes to the disk when it is closed. */
static void emptied(int fd)
{
	check(ftruncate(fd, PAGE), "ftruncate");
	close(fd);
}

static void file(long nth)
{
	int fd = written(nth, 100);

	read_it(fd);
	done_with(fd, nth);
}

static void object(long nth)
{
	int fd = written(nth, PAGE);

	execute_it(fd);
	done_with(fd, nth);
}

static void same_file(long nth)
{
	int fd = written(0, 100);

	read_it(fd);
	emptied(fd);
}

static void same_object(long nth)
{
	int fd = written(0, PAGE);

	execute_it(fd);
	emptied(fd);
}

static void nothing(long nth)
{
	usleep(1000);
}

static const struct {
	const char *what;
	void (*make)(long nth);
} kinds[] = {
	{"nothing", nothing},
	{"processes", process},
	{"same-processes", same_process},
	{"files", file},
	{"same-files", same_file},
	{"objects", object},
	{"same-objects", same_object},
};

int main(int argc, char **argv)
{
	const size_t count = sizeof(kinds) / sizeof(kinds[0]);
	size_t kind = 0;

	while (argc > 3 && kind < count && strcmp(argv[1], kinds[kind].what))
		kind++;
	if (argc < 4 || kind == count)
		errx(2, "usage: crowd nothing|[same-]processes|files|objects SECONDS RATE "
			"[FOLDER]");
	double begin = now(), end = begin + atof(argv[2]), rate = atof(argv[3]);
	long nth = 0;

	folder = argc > 4 ? argv[4] : "";
	while (now() < end) {
		kinds[kind].make(nth++);
		while (rate && now() < end && now() - begin < nth / rate)
			usleep(1000);
	}
	printf("%ld\n", nth);
	return 0;
}
