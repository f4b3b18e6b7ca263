/*
 * grower: says so when it has begun, and for the first byte that it reads maps a MiB, touches
 * all of it and says so again. Linked statically it shares no page with anybody.
 */
#include "workload.h"

#define BYTES (1L << 20)

static void say_so(void)
{
	check(write(STDOUT_FILENO, "\n", 1), "write");
}

int main(void)
{
	char byte;

	say_so();
	check(read(STDIN_FILENO, &byte, 1), "read");
	char *place =
		mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (place == MAP_FAILED)
		err(1, "mmap");
	for (long at = 0; at < BYTES; at += PAGE)
		place[at] = 1;
	say_so();
	return (int)read(STDIN_FILENO, &byte, 1);
}
