/* SPDX-License-Identifier: GPL-2.0-only */
/* Members of an event that tells of an exception; to be included within the struct. */
u64 address;
u64 ip;
u32 dt_ns; /* since the base of the batch; that of the first of a sequential run */
u32 tgid;
u32 tid;    /* of MOVED, with OF_ONE: low bits of the page of its file that it begins with */
u32 seen;   /* so far: 20 bits of anon pages of the process, 4 of how often the task left
	     * its CPU, 8 of its NUMA hints */
u16 count;  /* of RAISED: a sequential run of so many, each a page above the one before */
u16 stack;  /* with STACKS: its number in `stacks`, or IN_MORE and that in `more_stacks`
	     */
u16 number; /* low bits of how many faults the task had completed before this */
u8 kind;
u8 marks;
