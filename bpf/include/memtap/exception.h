/* SPDX-License-Identifier: GPL-2.0-only */
/* The words of events that tell of page faults, and the lanes that they come by. */
#ifndef MEMTAP_EXCEPTION_H
#define MEMTAP_EXCEPTION_H

enum kind {
	RAISED = 1, /* an exception */
	MINOR,      /* it was completed, as the kernel itself decided */
	MAJOR,
	BAD,     /* it could not be: the task gets a SIGSEGV or SIGBUS */
	SWAPPED, /* it takes an entry out of swap */
	THREAD,  /* not of an exception: a thread begins, with its stack's top at `address` */
	WAITED,  /* it had to wait for I/O, until then */
	MOVED,   /* mremap(2) maps `seen` pages at `address`: what was at `ip` before */
	SHARES,  /* not of an exception: a process begins, in the address space of process
		  * `address`
		  */
};

enum mark {
	PRESENT = 1,   /* of the error code, PF_PROT: the page was there and did not allow it */
	WRITE = 2,     /* the same, PF_WRITE */
	KERNEL = 4,    /* taken in the kernel: a system call touched memory of the process */
	STACK = 8,     /* near the stack pointer, and above it */
	HEAP = 16,     /* below the program break, and above where it began */
	UNMAPPED = 32, /* of BAD: nothing is mapped there (SEGV_MAPERR) */
	UNTIMED = 64,  /* set in user space: it was raised later than its event says */
};

/* Of THREAD: the kernel tells the process of its end, as the C libraries want it. */
#define JOINABLE PRESENT

/* Of programs that tell of them (memtap/batch.h); a text may have more behind these. */
enum {
	LANE_USER,
	LANE_KERNEL,
	LANE_MINOR,
	LANE_MAJOR,
	LANE_BAD,
	LANE_RSS,
	LANE_THREAD,
	LANE_MOVED,
	LANE_WAIT,
	EXCEPTION_LANES
};

#endif
