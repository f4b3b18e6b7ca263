/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The arguments of programs, copied when they begin: many processes are gone before user space
 * can look. A child has its parent's arguments until it executes a program itself. Only with
 * NOTE_PROCESSES.
 */
#ifndef MEMTAP_ARGUMENTS_H
#define MEMTAP_ARGUMENTS_H

#define MOST_PROGRAMS  8192
#define ARGUMENT_BYTES 256 /* longer ones are cut */

#ifdef NOTE_PROCESSES
struct arguments {
	u32 bytes; /* how many there are; `text` may hold fewer */
	char text[ARGUMENT_BYTES];
};

BPF_TABLE("lru_hash", u32, struct arguments, arguments_of, MOST_PROGRAMS);

/* tp_btf/sched_process_exec(task, old_pid, bprm), run by the task itself */
int on_program(u64 *ctx)
{
	u64 mm = FIELD(ctx[0], task_struct, mm);
	u32 tgid = FIELD(ctx[0], task_struct, tgid);
	u64 start = PEEK(mm, mm_struct, arg_start);
	struct arguments arguments = {};
	u64 bytes = PEEK(mm, mm_struct, arg_end) - start;

	arguments.bytes = bytes;
	if (bytes > ARGUMENT_BYTES)
		bytes = ARGUMENT_BYTES;
	VERIFIER_FORGET(bytes);
	if (bytes <= ARGUMENT_BYTES)
		read_user(arguments.text, bytes, (void *)start);
	arguments_of.update(&tgid, &arguments);
	return 0;
}

/* tp_btf/sched_process_fork(parent, child) */
int on_inherit(u64 *ctx)
{
	u32 parent = FIELD(ctx[0], task_struct, tgid), child = FIELD(ctx[1], task_struct, tgid);
	struct arguments *arguments = arguments_of.lookup(&parent);

	if (parent == child)
		return 0;
	if (arguments)
		arguments_of.update(&child, arguments);
	else
		arguments_of.delete(&child); /* of the number's process before */
	return 0;
}
#endif

#endif
