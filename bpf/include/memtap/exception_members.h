/* SPDX-License-Identifier: GPL-2.0-only */
/* The members of an event about an exception; to be included within the struct. */
u64 address;
u64 ip;
u32 dt_ns; /* since the base of the batch; for a sequential run, of its first exception */
u32 tgid;
u32 tid;   /* of MOVED, with OF_ONE: low bits of the page of its file where it begins */
u32 seen;  /* so far: 20 bits of anon pages of the process, 4 of how often the task left
	    * its CPU, 8 of its NUMA hints */
u16 count; /* of RAISED: exceptions in the sequential run, each a page above the one before */
u16 stack; /* with STACKS: its number in `stacks`, or IN_MORE and its number in `more_stacks` */
u16 number; /* low bits of how many faults the task had completed before this */
u8 kind;
u8 marks;
