/*
 * A program of 32 bits for x86-64, without a C library: 10 mappings of 5,000 bytes, all of them
 * touched; 3 are unmapped, one grows to 20,000 bytes and is touched there; the heap grows by
 * 10,000.
 */
enum { EXIT = 1, BRK = 45, MUNMAP = 91, MREMAP = 163, MMAP2 = 192 };
enum { READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22, MAY_MOVE = 1 };

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;

	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
		     : "memory");
	return result;
}

static void touch(long start, long bytes)
{
	for (long at = 0; at < bytes; at += 4096)
		*(volatile char *)(start + at) = 1;
}

void _start(void)
{
	long starts[10], end = call(BRK, 0, 0, 0, 0, 0);

	for (int i = 0; i < 10; i++) {
		starts[i] = call(MMAP2, 0, 5000, READ_WRITE, PRIVATE_ANONYMOUS, -1);
		touch(starts[i], 5000);
	}
	for (int i = 0; i < 3; i++)
		call(MUNMAP, starts[i], 5000, 0, 0, 0);
	touch(call(MREMAP, starts[9], 5000, 20000, MAY_MOVE, 0), 20000);
	call(BRK, end + 10000, 0, 0, 0, 0);
	call(EXIT, 0, 0, 0, 0, 0);
}
