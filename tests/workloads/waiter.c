/*
 * waiter CASE ...: page faults that take long, and some that do not, and how long that was.
 *
 * waiter file FILE HOW ACCESS: touches each page of a file that is not cached.
 *
 * HOW is seq, rand or willneed, ACCESS read, write or private (a write to a private mapping).
 * Prints, as getrusage() counts them around each touch, minor faults that did not wait and that
 * did, major ones likewise, and how long those two that waited took (ns).
 *
 * waiter slow PAGES US STORM: faults that a handler answers slowly, beside a storm.
 *
 * It sleeps US (userfaultfd) before each of PAGES, while another thread touches STORM new
 * pages. Prints how long both took (ns).
 *
 * waiter fork PAGES: touches PAGES new pages, forks, and the child writes to all of them.
 *
 * Prints the child's number, how many faults it had, how long it ran on a CPU meanwhile, and
 * how long that took (ns).
 *
 * waiter rounds PAGES ROUNDS: touches so many new pages, so often, 10 ms apart.
 *
 * waiter mixes COUNT SEED: as many children, each with threads that touch memory at random.
 *
 * Prints of each its number and the time that its threads lived, all together (ns).
 */
#include "workload.h"
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define MOST_THREADS 3

static volatile char sum;

static long now_by(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000 + time.tv_nsec;
}

static long now(void)
{
	return now_by(CLOCK_MONOTONIC);
}

static char *map(long pages, int flags, int fd)
{
	char *place = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (place == MAP_FAILED)
		err(1, "mmap");
	madvise(place, pages * PAGE, MADV_NOHUGEPAGE); /* unknown without huge pages */
	return place;
}

static char *anon(long pages)
{
	return map(pages, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

static void touch(volatile char *place, long pages)
{
	for (long page = 0; page < pages; page++)
		place[page * PAGE] = 1;
}

/* 0 to count - 1, in random order. */
static long *shuffled(long count)
{
	long *order = (long *)buffer_of(count * sizeof(*order));

	for (long at = 0; at < count; at++) {
		long other = random() % (at + 1);

		order[at] = order[other];
		order[other] = at;
	}
	return order;
}

static void of_file(const char *path, const char *how, const char *access)
{
	int fd = check(open(path, O_RDWR), path), private = strcmp(access, "private") == 0;
	long pages = size_of(fd) / PAGE, *order = shuffled(pages);
	long counts[4] = {0}, ns[2] = {0};
	struct rusage before, after;

	fsync(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	volatile char *place = map(pages, private ? MAP_PRIVATE : MAP_SHARED, fd);
	if (strcmp(how, "willneed") == 0)
		check(madvise((void *)place, pages * PAGE, MADV_WILLNEED), "madvise");
	for (long at = 0; at < pages; at++) {
		long page = strcmp(how, "rand") ? at : order[at];

		getrusage(RUSAGE_THREAD, &before);
		long begin = now();
		if (strcmp(access, "read"))
			place[page * PAGE] = 1;
		else
			sum += place[page * PAGE];
		long took = now() - begin;
		getrusage(RUSAGE_THREAD, &after);
		int major = after.ru_majflt > before.ru_majflt;
		int waited = after.ru_nvcsw > before.ru_nvcsw;
		if (!major && after.ru_minflt == before.ru_minflt)
			continue;
		counts[2 * major + waited]++;
		ns[major] += waited ? took : 0;
	}
	printf("%ld %ld %ld %ld %ld %ld\n", counts[0], counts[1], counts[2], counts[3], ns[0],
	       ns[1]);
}

static int uffd, sleep_us;

static void *answer(void *unused)
{
	struct uffd_msg message;

	while (read(uffd, &message, sizeof(message)) == sizeof(message)) {
		struct uffdio_zeropage zero = {
			.range = {message.arg.pagefault.address & -(uint64_t)PAGE, PAGE}};

		usleep(sleep_us);
		check(ioctl(uffd, UFFDIO_ZEROPAGE, &zero), "UFFDIO_ZEROPAGE");
	}
	return unused;
}

static void *storm(void *pages)
{
	touch(anon((long)pages), (long)pages);
	return NULL;
}

static pthread_t begin(void *(*what)(void *), void *with)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, what, with))
		errx(1, "pthread_create");
	return thread;
}

static void by_handler(long pages, long storms)
{
	struct uffdio_api api = {.api = UFFD_API};
	volatile char *place = anon(pages);
	struct uffdio_register range = {.range = {(uintptr_t)place, pages * PAGE},
					.mode = UFFDIO_REGISTER_MODE_MISSING};

	uffd = check(syscall(SYS_userfaultfd, O_CLOEXEC), "userfaultfd");
	check(ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API");
	check(ioctl(uffd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
	begin(answer, NULL);
	long start = now();
	pthread_t other = begin(storm, (void *)storms);
	for (long page = 0; page < pages; page++)
		sum += place[page * PAGE];
	long slow = now() - start;
	pthread_join(other, NULL);
	printf("%ld %ld\n", slow, now() - start);
}

static void after_fork(long pages)
{
	char *place = anon(pages);
	struct rusage before, after;

	touch(place, pages);
	if (check(fork(), "fork") == 0) {
		getrusage(RUSAGE_SELF, &before);
		long start = now(), ran = -now_by(CLOCK_THREAD_CPUTIME_ID);
		touch(place, pages);
		ran += now_by(CLOCK_THREAD_CPUTIME_ID);
		long took = now() - start;
		getrusage(RUSAGE_SELF, &after);
		printf("%d %ld %ld %ld\n", getpid(), after.ru_minflt - before.ru_minflt, ran,
		       took);
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
}

static void in_rounds(long pages, long rounds)
{
	for (long round = 0; round < rounds; round++) {
		char *place = anon(pages);

		touch(place, pages);
		munmap(place, pages * PAGE);
		usleep(10000);
	}
}

/* One of the ways in which a program can touch memory, the numbers drawn before. */
static void do_one(int way, long pages, long *order)
{
	volatile char *place = anon(pages);

	for (long at = 0; at < pages; at++) {
		place[(way & 1 ? order[at] : at) * PAGE] += way & 2 ? 1 : at & 1;
		if (way & 4 && at % 64 == 0)
			usleep(50);
		for (volatile int spin = 0; way & 8 && spin < 1000;)
			spin++;
	}
	if (way & 16) {
		madvise((void *)place, pages * PAGE, MADV_DONTNEED);
		touch((char *)place, pages);
	}
	munmap((void *)place, pages * PAGE);
}

static void *mixed(void *seed)
{
	unsigned int chance = (uintptr_t)seed;
	long start = now();

	for (int left = rand_r(&chance) % 4; left >= 0; left--) {
		long pages = 1 + rand_r(&chance) % (rand_r(&chance) % 4 ? 300 : 10000);
		long *order = malloc(pages * sizeof(*order));

		for (long at = 0; at < pages; at++)
			order[at] = rand_r(&chance) % pages;
		do_one(rand_r(&chance), pages, order);
		free(order);
	}
	return (void *)(now() - start);
}

static void mix(long start)
{
	pthread_t threads[MOST_THREADS];
	int count = 1 + random() % MOST_THREADS;
	long lived = 0;

	for (int each = 0; each < count; each++)
		threads[each] = begin(mixed, (void *)random());
	for (int each = 0; each < count; each++) {
		void *took;

		pthread_join(threads[each], &took);
		lived += (long)took;
	}
	printf("%d %ld\n", getpid(), lived + now() - start);
	fflush(stdout);
	_exit(0);
}

static void mixes(long count)
{
	for (long each = 0; each < count; each++) {
		long start = now();
		long seed = random();

		if (check(fork(), "fork") == 0) {
			srandom(seed);
			mix(start);
		}
		wait(NULL);
	}
}

static long number(char **words, int at)
{
	return strtol(words[at], NULL, 10);
}

int main(int count, char **words)
{
	const char *name = count > 2 ? words[1] : "";

	if (strcmp(name, "file") == 0 && count == 5)
		of_file(words[2], words[3], words[4]);
	else if (strcmp(name, "slow") == 0 && count == 5)
		sleep_us = number(words, 3), by_handler(number(words, 2), number(words, 4));
	else if (strcmp(name, "fork") == 0)
		after_fork(number(words, 2));
	else if (strcmp(name, "rounds") == 0 && count == 4)
		in_rounds(number(words, 2), number(words, 3));
	else if (strcmp(name, "mixes") == 0 && count == 4)
		srandom(number(words, 3)), mixes(number(words, 2));
	else
		errx(2, "usage: waiter CASE ...");
	return 0;
}
