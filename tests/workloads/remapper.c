/*
 * remapper SEED STEPS: maps, moves, cuts, protects and gives back at random, and touches.
 *
 * It knows of each of PAGES pages what it is and whether it is there. Prints START and END of
 * their addresses (hex), and how many faults it has taken in anonymous, shared and private
 * file's pages.
 */
#include "workload.h"
#include <sys/wait.h>

#define PAGES 256
#define BASE  ((char *)0x400000000000UL)
#define BOTH  (PROT_READ | PROT_WRITE)

enum kind { NOTHING, ANON, SHARED, PRIVATE_FILE };

static char kinds[PAGES], there[PAGES];
static long faults[PRIVATE_FILE + 1];
static int memfd, file;

static int below(int most)
{
	return rand() % most;
}

static char *at(int page)
{
	return BASE + (size_t)page * PAGE;
}

static void becomes(int first, int count, enum kind kind)
{
	memset(kinds + first, kind, count);
	memset(there + first, 0, count);
}

static void touch(int first, int count)
{
	for (int page = first; page < first + count; page++) {
		if (kinds[page] == NOTHING)
			continue;
		*(volatile char *)at(page) = 1;
		faults[(int)kinds[page]] += !there[page];
		there[page] = 1;
	}
}

/* Anonymous memory right above a private file's is a bss, so there is none. */
static void map(int first, int count, enum kind kind)
{
	if (kind == ANON && first && kinds[first - 1] == PRIVATE_FILE)
		kind = SHARED;
	int sharing = kind == SHARED ? MAP_SHARED : MAP_PRIVATE;
	int fd = kind == SHARED ? memfd : file;
	int flags = sharing | MAP_FIXED | (kind == ANON ? MAP_ANONYMOUS : 0);
	off_t from = kind == ANON ? 0 : below(PAGES - count + 1) * PAGE;

	if (mmap(at(first), count * PAGE, BOTH, flags, kind == ANON ? -1 : fd, from) ==
	    MAP_FAILED)
		err(1, "mmap");
	madvise(at(first), count * PAGE, MADV_NOHUGEPAGE);
	becomes(first, count, kind);
}

static void unmap(int first, int count)
{
	munmap(at(first), count * PAGE);
	becomes(first, count, NOTHING);
}

static int is_mapped(int first, int count)
{
	return !memchr(kinds + first, NOTHING, count);
}

/* What cannot be moved, as it is several mappings, is given back, and what was there as well.
 */
static void move(int first, int count)
{
	int to = below(PAGES - count), stays = below(4) == 0;
	int how = MREMAP_MAYMOVE | MREMAP_FIXED | (stays ? MREMAP_DONTUNMAP : 0);
	size_t bytes = count * PAGE;

	if (!is_mapped(first, count) || (to < first + count && first < to + count))
		return;
	if (mremap(at(first), bytes, bytes, how, at(to)) == MAP_FAILED) {
		unmap(first, count);
		unmap(to, count);
		return;
	}
	memcpy(kinds + to, kinds + first, count);
	memcpy(there + to, there + first, count);
	if (stays)
		memset(there + first, 0, count);
	else
		becomes(first, count, NOTHING);
}

static void shrink(int first, int count)
{
	int left = 1 + below(count);

	if (!is_mapped(first, count))
		return;
	if (mremap(at(first), count * PAGE, left * PAGE, 0) == MAP_FAILED)
		unmap(first, count);
	else
		becomes(first + left, count - left, NOTHING);
}

static void protect(int first, int count)
{
	if (!is_mapped(first, count))
		return;
	check(mprotect(at(first), count * PAGE, PROT_NONE), "mprotect");
	check(mprotect(at(first), count * PAGE, BOTH), "mprotect");
}

static void give_back(int first, int count)
{
	if (is_mapped(first, count) && !madvise(at(first), count * PAGE, MADV_DONTNEED))
		memset(there + first, 0, count);
}

/* It shares our memory until it ends, and so what we know of it. */
static void let_a_child_map(int first, int count)
{
	if (check(vfork(), "vfork") == 0) {
		map(first, count, 1 + below(PRIVATE_FILE));
		_exit(0);
	}
	wait(NULL);
}

static void step(int first, int count)
{
	switch (below(8)) {
	case 0:
	case 1:
		map(first, count, 1 + below(PRIVATE_FILE));
		break;
	case 2:
		unmap(first, count);
		break;
	case 3:
		move(first, count);
		break;
	case 4:
		shrink(first, count);
		break;
	case 5:
		protect(first, count);
		break;
	case 6:
		give_back(first, count);
		break;
	default:
		let_a_child_map(first, count);
	}
}

int main(int argc, char **argv)
{
	char name[] = "/var/tmp/remapper-XXXXXX";

	if (argc < 3)
		errx(2, "usage: remapper SEED STEPS");
	srand(atoi(argv[1]));
	memfd = check(memfd_create("remapper", 0), "memfd_create");
	check(ftruncate(memfd, PAGES * PAGE), "ftruncate");
	file = check(mkstemp(name), name);
	unlink(name);
	char *zeros = buffer_of(PAGES * PAGE);
	check(write(file, zeros, PAGES * PAGE), "write");
	for (int left = atoi(argv[2]); left; left--) {
		int count = 1 + below(40);

		step(below(PAGES - count), count);
		count = 1 + below(60);
		touch(below(PAGES - count), count);
	}
	printf("%lx %lx %ld %ld %ld\n", (long)BASE, (long)at(PAGES), faults[ANON],
	       faults[SHARED], faults[PRIVATE_FILE]);
	return 0;
}
