/* SPDX-License-Identifier: GPL-2.0-only */
/* The mappings that userfaultfd(2) watches, for the reader of the iterator. */
#ifndef MEMTAP_WATCHED_H
#define MEMTAP_WATCHED_H

struct watched {
	u64 start;
	u64 end;
	u64 flags; /* vm_flags */
};

#if HAVE(vm_area_struct, vm_userfaultfd_ctx__ctx)
/* iter/task_vma(meta, task, vma), run by user space for one process at a time. */
int on_vma(u64 *ctx)
{
	u64 meta = ctx[0], vma = ctx[2];

	if (!vma || !FIELD(vma, vm_area_struct, vm_userfaultfd_ctx__ctx))
		return 0;
	/* Typed in every build, or the verifier does not know that it is a struct. */
	u64 seq = LOAD_AS(u64, meta, OFFSET(bpf_iter_meta, seq));
	struct watched watched = {
		.start = FIELD(vma, vm_area_struct, vm_start),
		.end = FIELD(vma, vm_area_struct, vm_end),
		.flags = FIELD(vma, vm_area_struct, vm_flags),
	};
	bpf_seq_write((struct seq_file *)seq, &watched, sizeof(watched));
	return 0;
}
#endif

#endif
