/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fields of kernel structs, at the offsets that this kernel's own BTF gives.
 *
 * FIELD(pointer, inode, i_ino) reads inode->i_ino; nested members are written ioac__syscr.
 * ENUM(pageflags, PG_head) is the value of an enumerator; HAVE(folio, _flags_1) tells in an #if
 * whether this kernel has the member. Before a program is compiled, bpf/btf.py looks for these
 * names in it and puts a #define for each in front. SIZE(page) is sizeof(struct page).
 * KFUNC(bpf_get_kmem_cache) is a function of the kernel that programs may call; with one u64 it
 * gives another. compiled.py makes the call, which BCC cannot, out of that number.
 * FLAG(pointer, task_struct, in_iowait) is not 0 where a member that is a bit is set.
 * HELPER(task_pt_regs) tells in an #if whether this kernel has a helper, bpf_task_pt_regs().
 *
 * FIELD is a plain load: the verifier knows the pointers of BTF-typed programs (tp_btf,
 * fentry), and the kernel handles a fault in it. PEEK works in every type of program and on
 * every address. Where CASTS are to be had, it takes the address for a struct, and is a plain
 * load, too; else it calls bpf_probe_read_kernel(), which takes 30 ns. A kprobe's pointers are
 * just numbers, so a build that has kprobes in it defines UNTYPED_POINTERS, and FIELD is PEEK.
 * CAST(address, pt_regs) is a pointer that FIELD can be used with.
 */
#ifndef MEMTAP_FIELDS_H
#define MEMTAP_FIELDS_H

#define FIELD(pointer, type, member) FIELD_##type##__##member(pointer)
#define PEEK(pointer, type, member)  PEEK_##type##__##member(pointer)
#define OFFSET(type, member)         OFFSET_##type##__##member
#define ENUM(type, enumerator)       ENUM_##type##__##enumerator
#define HAVE(type, member)           HAVE_##type##__##member
#define SIZE(type)                   SIZE_##type
#define KFUNC(name)                  ((u64(*)(u64))(u64)KFUNC_##name)
#define HELPER(name)                 HELPER_##name

#define FLAG(pointer, type, member)                                                            \
	(FIELD_AS(u8, pointer, OFFSET_##type##__##member) & BIT_##type##__##member)

/*
 * bpf_probe_read_user() under another name. Wherever BCC sees the real name, it searches all of
 * /proc/kallsyms for it, which took a tenth of the time to compile.
 */
static long (*read_user)(void *to, u32 bytes,
			 const void *from) = (void *)BPF_FUNC_probe_read_user;

/* Before 3ca1032ab7ab no helper gives the current task as a typed pointer. */
#if !HELPER(get_current_task_btf) && !defined(UNTYPED_POINTERS)
#define UNTYPED_POINTERS
#endif

/* In assembly, because BCC would turn a dereference in C into bpf_probe_read_kernel(). */
#define LOAD_AS(type, pointer, offset)                                                         \
	({                                                                                     \
		u64 loaded;                                                                    \
		asm volatile("%0 = *(" #type " *)(%1 + %2)"                                    \
			     : "=r"(loaded)                                                    \
			     : "r"(pointer), "i"(offset));                                     \
		loaded;                                                                        \
	})

#ifdef CASTS
/* The verifier makes a move of it (a35b9af4ec2c). */
#define CAST(address, type)                                                                    \
	((u64(*)(u64, u64))KFUNC(bpf_rdonly_cast))((u64)(address), TYPE_##type)

/* A word of any kind: this struct begins with one that is no pointer. */
#define PEEK_AS(type, pointer, offset) LOAD_AS(type, CAST((pointer) + (offset), pt_regs), 0)
#else
#define PEEK_AS(type, pointer, offset)                                                         \
	({                                                                                     \
		type peeked = 0;                                                               \
		bpf_probe_read_kernel(&peeked, sizeof(peeked), (void *)(pointer) + (offset));  \
		peeked;                                                                        \
	})
#endif

#ifdef UNTYPED_POINTERS
#define FIELD_AS(type, pointer, offset) PEEK_AS(type, pointer, offset)
#else
#define FIELD_AS(type, pointer, offset) LOAD_AS(type, pointer, offset)
#endif

/*
 * An argument of a traced function, whatever its type. On most kernels, the verifier lets no
 * program load a pointer to a pointer or to a function.
 */
#define FUNCTION_ARGUMENT(ctx, number) PEEK_AS(u64, ctx, (number) * sizeof(u64))

/* A pointer as a number. To the verifier, a pointer that is negated becomes one. */
#define NUMBER_OF(pointer)                                                                     \
	({                                                                                     \
		u64 number = (u64)(pointer);                                                   \
		asm volatile("%0 = -%0" : "+r"(number));                                       \
		-number;                                                                       \
	})

#define GOLDEN                 0x9e3779b97f4a7c15 /* spreads numbers that are close */

/* A program of BCC cannot call functions of its own. */
#define INLINE                 inline __attribute__((always_inline))

/*
 * The verifier knows nothing of a value that was written into a map and read again. So it goes
 * on from there once, and not once for each way in which the value came about.
 */
#define NOTED(member)          (*(volatile u64 *)&(member))

/* Makes the compiler read again what is in maps. */
#define READ_AGAIN()           asm volatile("" : : : "memory")

/*
 * The compiler may drop or reverse a comparison that the verifier needs to see; not behind
 * this.
 */
#define VERIFIER_FORGET(value) asm volatile("" : "+r"(value))

#ifdef UNTYPED_POINTERS
#define current_task() bpf_get_current_task()
#else
#define current_task() bpf_get_current_task_btf()
#endif

#endif
