/*
 * symbols: prints where its functions are, name by name, and waits for the end of its input.
 *
 * MANGLED is what the linker calls one of them.
 */
#include "workload.h"

#ifndef MANGLED
#define MANGLED "_ZN5space5Thing6methodEi"
#endif

int method(int number) __asm__(MANGLED);

int method(int number)
{
	return number + 1;
}

int seen(int number)
{
	return number + 2;
}

static int hidden(int number)
{
	return number + 3;
}

int main(void)
{
	printf("method %p\nseen %p\nhidden %p\n", (void *)method, (void *)seen, (void *)hidden);
	fflush(stdout);
	return getchar() != EOF;
}
