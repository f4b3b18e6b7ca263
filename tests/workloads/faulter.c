/*
 * faulter CASE PAGES [FILE]: page faults whose number is known.
 *
 * Prints `MINOR MAJOR START END`: what the kernel counted for the thread while it touched PAGES
 * pages once each, and the range of addresses (hex) where it did. All else is done before.
 */
#include "workload.h"
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define HUGE_BYTES (2UL << 20)

static struct rusage before, after;
static char *volatile place;
static long pages;
static volatile char sum;

/* Everything that touch() and report() need is touched before it is counted. */
static void begin(void)
{
	getrusage(RUSAGE_THREAD, &after);
	getrusage(RUSAGE_THREAD, &before);
}

static void end(void)
{
	getrusage(RUSAGE_THREAD, &after);
}

static void report(size_t bytes)
{
	printf("%ld %ld %lx %lx\n", after.ru_minflt - before.ru_minflt,
	       after.ru_majflt - before.ru_majflt, (unsigned long)place,
	       (unsigned long)place + bytes);
	fflush(stdout);
}

static void write_each(size_t step)
{
	for (long page = 0; page < pages; page++)
		place[page * step] = 1;
}

static void read_each(void)
{
	for (long page = 0; page < pages; page++)
		sum += place[page * PAGE];
}

static char *map(size_t bytes, int prot, int flags, int fd)
{
	char *address = mmap(NULL, bytes, prot, flags, fd, 0);

	if (address == MAP_FAILED)
		err(1, "mmap");
	madvise(address, bytes, MADV_NOHUGEPAGE); /* unknown to a kernel without huge pages */
	return address;
}

static char *anon(int flags)
{
	return map(pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1);
}

static void count_writes(void)
{
	begin();
	write_each(PAGE);
	end();
	report(pages * PAGE);
}

static void count_reads(void)
{
	begin();
	read_each();
	end();
	report(pages * PAGE);
}

static void heap(void)
{
	place = (char *)(((uintptr_t)sbrk(0) + PAGE - 1) & -(uintptr_t)PAGE);
	if (brk(place + pages * PAGE))
		err(1, "brk");
	count_writes();
}

static void zero_write(void)
{
	place = anon(MAP_PRIVATE);
	read_each();
	count_writes();
}

static void after_fork(void)
{
	place = anon(MAP_PRIVATE);
	write_each(PAGE);
	if (check(fork(), "fork") == 0) {
		write_each(0); /* this code, and the first page */
		place += PAGE, pages -= 1;
		count_writes();
		_exit(0);
	}
	wait(NULL);
}

static void memfd(void)
{
	int fd = check(memfd_create("faulter", 0), "memfd_create");

	check(ftruncate(fd, pages * PAGE), "ftruncate");
	place = map(pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	count_writes();
}

static void of_file(const char *path, const char *how)
{
	int fd = check(open(path, O_RDONLY), path);

	if (strcmp(how, "private-file") == 0) {
		place = map(pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
		count_writes();
		return;
	}
	place = map(pages * PAGE, PROT_READ, MAP_SHARED, fd);
	if (strcmp(how, "cold") == 0)
		check(madvise(place, pages * PAGE, MADV_RANDOM), "madvise");
	count_reads();
}

/* A child that shares our memory, as vfork() makes it, maps the file over it. */
static void mapped_by_child(const char *path)
{
	int fd = check(open(path, O_RDONLY), path), how = MAP_PRIVATE | MAP_FIXED;

	place = anon(MAP_PRIVATE);
	if (check(vfork(), "vfork") == 0) {
		mmap(place, pages * PAGE, PROT_READ | PROT_WRITE, how, fd, 0);
		_exit(0);
	}
	wait(NULL);
	count_writes();
}

/* The kernel fills untouched memory from storage: it takes the pages itself. */
static void directly(const char *path)
{
	int fd = check(open(path, O_RDONLY | O_DIRECT), path);

	place = anon(MAP_PRIVATE);
	begin();
	if (read(fd, place, pages * PAGE) != pages * PAGE)
		err(1, "O_DIRECT");
	end();
	report(pages * PAGE);
}

/* A page of stack for each call; the last one counts. */
static __attribute__((noinline)) void deeper(long left)
{
	volatile char page[PAGE];

	page[0] = 1;
	if (left > 1)
		deeper(left - 1);
	else
		place = (char *)((uintptr_t)page & -(uintptr_t)PAGE);
	page[1] = 1;
}

static void on_stack(void)
{
	char here;

	deeper(2); /* what is near is touched already */
	begin();
	deeper(pages);
	end();
	report((uintptr_t)&here - (uintptr_t)place);
}

static void *in_thread(void *unused)
{
	on_stack();
	return unused;
}

static void thread_stack(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, (2 * pages + 64) * PAGE);
	if (pthread_create(&thread, &attributes, in_thread, NULL))
		errx(1, "pthread_create");
	pthread_join(thread, NULL);
}

/* PAGES huge pages, each touched at its beginning. */
static void huge(void)
{
	char *mapped = mmap(NULL, (pages + 1) * HUGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	place = (char *)(((uintptr_t)mapped + HUGE_BYTES - 1) & -HUGE_BYTES);
	check(madvise(place, pages * HUGE_BYTES, MADV_HUGEPAGE), "madvise");
	begin();
	write_each(HUGE_BYTES);
	end();
	report(pages * HUGE_BYTES);
}

static void swapped(void)
{
	/* New pages wait in a list of their CPU's; MADV_PAGEOUT has only those of its own. */
	stay_on_this_cpu();
	place = anon(MAP_PRIVATE);
	for (long page = 0; page < pages; page++)
		place[page * PAGE] = page % 255 + 1; /* a page of zeros would not be swapped */
	check(madvise(place, pages * PAGE, MADV_RANDOM), "MADV_RANDOM");
	check(madvise(place, pages * PAGE, MADV_PAGEOUT), "MADV_PAGEOUT");
	count_reads();
}

static int uffd;

static void *answer(void *unused)
{
	static char page[PAGE] = {1};
	struct uffd_msg message;

	while (read(uffd, &message, sizeof(message)) == sizeof(message)) {
		struct uffdio_copy copy = {
			.dst = message.arg.pagefault.address & -(uint64_t)PAGE,
			.src = (uintptr_t)page,
			.len = PAGE,
		};
		check(ioctl(uffd, UFFDIO_COPY, &copy), "UFFDIO_COPY");
	}
	return unused;
}

static void answered_by_userfaultfd(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	pthread_t thread;

	place = anon(MAP_PRIVATE);
	uffd = check(syscall(SYS_userfaultfd, O_CLOEXEC), "userfaultfd");
	check(ioctl(uffd, UFFDIO_API, &api), "UFFDIO_API");
	range.range.start = (uintptr_t)place;
	range.range.len = pages * PAGE;
	check(ioctl(uffd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
	if (pthread_create(&thread, NULL, answer, NULL))
		errx(1, "pthread_create");
	count_reads();
}

static void by_userfaultfd(void)
{
	answered_by_userfaultfd();
	/* Whoever wants to look at what is watched can do that now, on a slow machine too. */
	sleep(getenv("MEMTAP_SCALE") ? 20 : 2);
}

/* Until this file is there it has faults without a handler. */
static void by_a_late_userfaultfd(const char *path)
{
	char *early = anon(MAP_PRIVATE);

	for (long page = 0; access(path, F_OK); page++) {
		early[page % pages * PAGE] = 1;
		madvise(early, pages * PAGE, MADV_DONTNEED);
		usleep(100000);
	}
	by_userfaultfd();
}

static sigjmp_buf back;

static void caught(int number)
{
	siglongjmp(back, number);
}

static void bad(void)
{
	signal(SIGSEGV, caught);
	signal(SIGBUS, caught);
	volatile long page = -1;

	sigsetjmp(back, 1);
	if (page < 0)
		begin();
	if (++page < pages)
		sum += place[page * PAGE];
	end();
	report(pages * PAGE);
}

static void unmapped(void)
{
	place = anon(MAP_PRIVATE);
	check(munmap(place, pages * PAGE), "munmap");
	bad();
}

static void *touch_all(void *mine)
{
	const long round = 4096;
	long left = pages / 2;

	while (left > 0) {
		long now = left < round ? left : round;

		for (long page = 0; page < now; page++)
			((char *)mine)[page * PAGE] = 1;
		check(madvise(mine, now * PAGE, MADV_DONTNEED), "madvise");
		left -= now;
	}
	return NULL;
}

static void threads(void)
{
	pthread_t thread[2];
	const size_t bytes = 4096UL * PAGE;

	place = map(2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	getrusage(RUSAGE_SELF, &before);
	for (int i = 0; i < 2; i++)
		if (pthread_create(&thread[i], NULL, touch_all, place + i * bytes))
			errx(1, "pthread_create");
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	getrusage(RUSAGE_SELF, &after);
	report(2 * bytes);
}

/* PAGES processes, one after the other, each of which lives for some milliseconds. */
static void short_lived(void)
{
	for (long i = 0; i < pages; i++) {
		if (check(fork(), "fork") == 0) {
			char *mine = map(10 * PAGE, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1);

			for (int page = 0; page < 10; page++)
				mine[page * PAGE] = 1;
			usleep(5000);
			_exit(0);
		}
		wait(NULL);
	}
	getrusage(RUSAGE_CHILDREN, &after);
	report(0);
}

static char zeros[4096 * PAGE] __attribute__((aligned(PAGE)));

static int is(const char *name, const char *wanted)
{
	return strcmp(name, wanted) == 0;
}

static void run(const char *name, const char *file)
{
	if (is(name, "brk"))
		heap();
	else if (is(name, "anon"))
		place = anon(MAP_PRIVATE), count_writes();
	else if (is(name, "zero"))
		place = anon(MAP_PRIVATE), count_reads();
	else if (is(name, "zero-write"))
		zero_write();
	else if (is(name, "fork"))
		after_fork();
	else if (is(name, "shared"))
		place = anon(MAP_SHARED), count_writes();
	else if (is(name, "memfd"))
		memfd();
	else if (is(name, "stack"))
		on_stack();
	else if (is(name, "thread"))
		thread_stack();
	else if (is(name, "data"))
		place = zeros, count_writes();
	else if (is(name, "thp"))
		huge();
	else if (is(name, "swap"))
		swapped();
	else if (is(name, "uffd"))
		by_userfaultfd();
	else if (is(name, "uffd-short"))
		answered_by_userfaultfd();
	else if (is(name, "uffd-late"))
		by_a_late_userfaultfd(file);
	else if (is(name, "segv"))
		place = map(pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1), bad();
	else if (is(name, "segv-unmapped"))
		unmapped();
	else if (is(name, "populate"))
		begin(), place = anon(MAP_PRIVATE | MAP_POPULATE), end(), report(pages * PAGE);
	else if (is(name, "mlock"))
		place = anon(MAP_PRIVATE), begin(), check(mlock(place, pages * PAGE), "mlock"),
		end(), report(pages * PAGE);
	else if (is(name, "direct"))
		directly(file);
	else if (is(name, "vfork"))
		mapped_by_child(file);
	else if (is(name, "threads"))
		threads();
	else if (is(name, "short"))
		short_lived();
	else
		of_file(file, name);
}

int main(int argc, char **argv)
{
	static char out[4096];

	if (argc < 3)
		errx(2, "usage: faulter CASE PAGES [FILE]");
	setvbuf(stdout, out, _IOFBF, sizeof(out));
	memset(out, 1, sizeof(out));
	pages = atol(argv[2]);
	run(argv[1], argc > 3 ? argv[3] : "");
	return 0;
}
