/* SPDX-License-Identifier: GPL-2.0-only */
/* Maple trees, in which address spaces keep their mappings since d4af56c5c7c6. */
#ifndef MEMTAP_MAPLES_H
#define MEMTAP_MAPLES_H

#include <memtap/fields.h>

#if HAVE(mm_struct, mm_mt)
/*
 * The tracepoint ma_write(function, mas, pivot, entry) sees every write into such a tree: is
 * this one a mapping, `vma`, of the task's own address space?
 */
static inline int writes_mapping(u64 task, u64 mas, u64 vma)
{
	u64 mm = FIELD(task, task_struct, mm);

	return vma && mm && FIELD(mas, ma_state, tree) == mm + OFFSET(mm_struct, mm_mt);
}
#endif

#endif
