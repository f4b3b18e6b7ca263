/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The page that a fault is for, where the tracepoint has only the range of pages around it.
 *
 * The kernel describes the fault in a struct vm_fault on its stack, in a frame not far above
 * the tracepoint's arguments. It is recognized by what must hold for it: its address and its
 * page fit its VMA, and its page is in that range.
 */
#ifndef MEMTAP_FAULTING_H
#define MEMTAP_FAULTING_H

#include <memtap/loops.h>
#include <memtap/regs.h>

#define STACK_WORDS  256
#define STARTS       (STACK_WORDS - SIZE(vm_fault) / sizeof(u64))
#define WORD_VMA     (OFFSET(vm_fault, vma) / sizeof(u64))
#define WORD_PAGE    (OFFSET(vm_fault, pgoff) / sizeof(u64))
#define WORD_ADDRESS (OFFSET(vm_fault, address) / sizeof(u64))
#define WORD_REAL    (OFFSET(vm_fault, real_address) / sizeof(u64))

struct stack_part {
	u64 word[STACK_WORDS];
	u64 at; /* index of the word that is looked at; see NOTED() */
};

BPF_PERCPU_ARRAY(stack_parts, struct stack_part, ALL_LANES);

/* To the verifier, a pointer that is negated becomes a number. */
static INLINE u64 place_of(void *ctx)
{
	u64 place = (u64)ctx;

	asm volatile("%0 = -%0" : "+r"(place));
	return -place;
}

/*
 * Not 0 if no struct vm_fault for these pages begins here. Branches would cost the verifier
 * time.
 */
static INLINE u64 is_no_fault(u64 *word, u64 first, u64 last)
{
	u64 page = word[WORD_PAGE], address = word[WORD_ADDRESS];
	u64 outside = (page - first) >> 63 | (last - page) >> 63;
	u64 no_address = (address - 1) >> 63 | (address & ((1 << PAGE_SHIFT) - 1)) |
			 (address ^ word[WORD_REAL]) >> PAGE_SHIFT;

	return outside | no_address |
	       ~word[WORD_VMA] >> 63; /* the kernel's half of addresses */
}

static INLINE int fits_vma(u64 vma, u64 address, u64 page)
{
	return page - PEEK(vma, vm_area_struct, vm_pgoff) ==
	       (address - PEEK(vma, vm_area_struct, vm_start)) >> PAGE_SHIFT;
}

/* The page of first..last that this thread's fault is for, or NOWHERE. */
static INLINE u64 fault_page(void *ctx, int lane, u64 task, u64 first, u64 last)
{
	struct stack_part *part = stack_parts.lookup(&lane);
	u64 place = place_of(ctx), top = PEEK(task, task_struct, stack) + (1 << THREAD_SHIFT);
	u64 bytes = top - place;

	if (!part)
		return NOWHERE;
	if (bytes > sizeof(part->word))
		bytes = sizeof(part->word);
	VERIFIER_FORGET(bytes);
	if (bytes > sizeof(part->word) ||
	    bpf_probe_read_kernel(part->word, bytes, (void *)place))
		return NOWHERE;
	NOTED(part->at) = 0;
	AT_MOST(STARTS)
	{
		OR_BREAK;
		u64 at = NOTED(part->at);

		if (at >= STARTS || !is_no_fault(&part->word[at], first, last))
			break;
		NOTED(part->at) = at + 1;
	}
	u64 at = NOTED(part->at);
	if (at >= STARTS)
		return NOWHERE;
	u64 *word = &part->word[at], page = word[WORD_PAGE];
	return fits_vma(word[WORD_VMA], word[WORD_ADDRESS], page) ? page : NOWHERE;
}

#endif
