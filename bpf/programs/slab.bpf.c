/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Objects of the slab allocator as they are allocated and freed: counted by cache and, with
 * BY_SITE and BY_PROCESS, by the code that allocated them and by who ran.
 *
 * Whoever frees an object is mostly not the one who allocated it. So where that matters each
 * object is remembered (OWNED), and its end counts for its owner. Else only those are
 * remembered whose size nobody tells when they are freed.
 */
#include <linux/types.h>

/* No cache: nobody knows; too large for any, so that it is pages. */
enum no_cache { UNKNOWN, LARGE };

/* Each program counts in keys of its own, its spares too; see memtap/counters.h. */
enum program {
	KMALLOC,
	CACHE_ALLOC,
	KFREE,
	CACHE_FREE,
	KMALLOC_NODE,
	CACHE_ALLOC_NODE,
	PROGRAMS
};

struct key {
	u64 cache; /* address of a struct kmem_cache, or how large its objects are, or one of
		      these */
	u64 site;
	u32 tgid;
	u32 program;
};

struct sums {
	u64 allocs;
	u64 frees;
	u64 requested; /* bytes, as are these */
	u64 allocated;
	u64 freed;
};

struct object {
	u64 cache;
	u64 site;
	u64 ns;
	u32 tgid;
	u32 requested;
	u32 allocated;
	u32 stack;
};

#define KEYS       32768
#define CACHES     1024
#define NAME_BYTES 64
#define LARGEST    (2 << PAGE_SHIFT) /* KMALLOC_MAX_CACHE_SIZE */

#include <memtap/fields.h>
#include <memtap/counters.h>
#include <memtap/filter.h>
#include <memtap/spare.h>
#include <memtap/stacks.h>

#if defined(FOLLOW_TGIDS) || defined(FOLLOW_COMM) || defined(FOLLOW_CGROUP)
#define FILTERED
#endif

/* Without bpf_get_kmem_cache() (a992d7a39791) kfree() does not tell whose the object was. */
#if defined(BY_SITE) || defined(BY_PROCESS) || defined(LEAKS) || defined(FILTERED) ||          \
	defined(KMALLOC_BY_SIZE)
#define OWNED 1
#else
#define OWNED 0
#endif

struct name {
	char text[NAME_BYTES];
};

BPF_TABLE("hash", u64, struct name, names, CACHES);
BPF_TABLE("hash", u64, struct object, objects, OBJECTS);
BPF_ARRAY(layout_object, struct object, 1);

static inline u32 size_of(u64 cache)
{
	return FIELD(cache, kmem_cache, size);
}

/* A cache can be gone when somebody looks, and another can be where it was. */
static inline void name_cache(u64 cache)
{
	struct name name = {};

	if (!(cache >> 63))
		return;
	bpf_probe_read_kernel_str(&name.text, sizeof(name.text),
				  (void *)PEEK(cache, kmem_cache, name));
	if (names.update(&cache, &name))
		count(COUNT_MAP_FULL, 1);
}

/* The sums of an owner; `known` holds the members that make one. */
static inline struct sums *sums_of_owner(struct object *known, u32 program)
{
	struct key key = {.cache = known->cache, .program = program};

#ifdef BY_SITE
	key.site = known->site;
#endif
#ifdef BY_PROCESS
	key.tgid = known->tgid;
#endif
	struct sums *sums = sums_of(&key);
	if (sums && !sums->allocs && !sums->frees)
		name_cache(known->cache);
	return sums;
}

static inline void count_free(struct object *known, u32 program)
{
	struct sums *sums = sums_of_owner(known, program);

	if (!sums)
		return;
	sums->frees++;
	sums->freed += known->allocated;
}

/*
 * What was at this address before must be free by now, though nobody told: kfree_bulk() and
 * kmem_cache_free_bulk() have no tracepoint.
 */
static inline void remember(u64 address, struct object *object, u32 program)
{
	struct object *before = objects.lookup(&address);

	if (before) {
		count_free(before, program);
		*before = *object;
	} else if (objects.update(&address, object)) {
		count(COUNT_MAP_FULL, 1);
	}
}

/* What is pages kvmalloc() has told of once before __do_kmalloc_node() does it again. */
static inline int is_told(u64 address, struct object *object)
{
	return object->allocated > LARGEST && objects.lookup(&address);
}

static inline int allocated(void *ctx, u64 address, struct object *object, u32 program)
{
#if defined(BY_PROCESS) || defined(FILTERED) || defined(LEAKS)
	u64 task = (u64)current_task();

	object->tgid = FIELD(task, task_struct, tgid);
	if (!followed(task, object->tgid))
		return 0;
#endif
	if (is_told(address, object))
		return 0;
	struct sums *sums = sums_of_owner(object, program);
	if (sums) {
		sums->allocs++;
		sums->requested += object->requested;
		sums->allocated += object->allocated;
	}
#ifdef LEAKS
	object->ns = bpf_ktime_get_ns();
	object->stack = stack_of(ctx, 0);
#endif
	if (OWNED || object->cache == LARGE)
		remember(address, object, program);
	return 0;
}

/* Is it remembered whose this was? Then that is counted, and forgotten. */
static inline int forget(u64 address, u32 program)
{
	struct object *known = objects.lookup(&address);

	if (!known)
		return 0;
	count_free(known, program);
	objects.delete(&address);
	return 1;
}

/* An object that was there before anybody looked counts for its cache alone. */
static inline void free_unowned(u64 cache, u32 size, u32 program)
{
#ifndef FILTERED
	struct object unowned = {.cache = cache, .allocated = size};

	count_free(&unowned, program);
#endif
}

static inline void count_kmalloc(u64 *ctx, u32 program)
{
	struct object object = {.site = ctx[0], .requested = ctx[2], .allocated = ctx[3]};

	if (!ctx[1])
		return;
#ifdef KMALLOC_BY_SIZE
	object.cache = object.allocated > LARGEST ? LARGE : object.allocated;
#else
	object.cache = KFUNC(bpf_get_kmem_cache)(ctx[1]);
	if (!object.cache)
		object.cache = LARGE;
#endif
	allocated(ctx, ctx[1], &object, program);
}

#ifdef CACHES_BY_SIZE
#define ANY_CACHE (1ULL << 62) /* of objects of this size, whatever it is called */

/* Before 2c1d697fb8ba caches were told of as kmalloc() is. */
static inline void count_cache_alloc(u64 *ctx, u32 program)
{
	struct object object = {.site = ctx[0], .requested = ctx[2], .allocated = ctx[3]};

	if (!ctx[1])
		return;
	object.cache = ANY_CACHE | object.allocated;
	allocated(ctx, ctx[1], &object, program);
}

static inline void count_cache_free(u64 *ctx, u32 program)
{
	if (ctx[1] && !forget(ctx[1], program))
		free_unowned(UNKNOWN, 0, program);
}

/* tp_btf/kmalloc_node(site, address, requested, allocated, ...) */
int on_kmalloc_node(u64 *ctx)
{
	count_kmalloc(ctx, KMALLOC_NODE);
	return 0;
}

/* tp_btf/kmem_cache_alloc_node, likewise */
int on_cache_alloc_node(u64 *ctx)
{
	count_cache_alloc(ctx, CACHE_ALLOC_NODE);
	return 0;
}
#else
static inline void count_cache_alloc(u64 *ctx, u32 program)
{
	struct object object = {.site = ctx[0], .cache = ctx[2]};

	if (!ctx[1])
		return;
	object.requested = FIELD(ctx[2], kmem_cache, object_size);
	object.allocated = size_of(ctx[2]);
	allocated(ctx, ctx[1], &object, program);
}

static inline void count_cache_free(u64 *ctx, u32 program)
{
	if (OWNED && forget(ctx[1], program))
		return;
	free_unowned(ctx[2], size_of(ctx[2]), program);
}
#endif

#define ZERO_SIZE 16 /* ZERO_SIZE_PTR: what kmalloc(0) gives, which is nothing, like NULL */

/* Objects of kmem_cache_alloc(), too. */
static inline void count_kfree(u64 *ctx, u32 program)
{
	if (ctx[1] <= ZERO_SIZE || (OWNED && forget(ctx[1], program)))
		return;
#ifdef KMALLOC_BY_SIZE
	free_unowned(UNKNOWN, 0, program);
#else
	u64 cache = KFUNC(bpf_get_kmem_cache)(ctx[1]);

	if (cache)
		free_unowned(cache, size_of(cache), program);
	else if (OWNED || !forget(ctx[1], program))
		free_unowned(LARGE, 0, program);
#endif
}

/* tp_btf/kmalloc(site, address, requested, allocated, ...) */
int on_kmalloc(u64 *ctx)
{
	if (claim(ctx, KMALLOC, ctx[1]))
		count_kmalloc(ctx, KMALLOC + spare_number() * PROGRAMS);
	return 0;
}

/* tp_btf/kmem_cache_alloc(site, address, cache, ...) */
int on_cache_alloc(u64 *ctx)
{
	if (claim(ctx, CACHE_ALLOC, ctx[1]))
		count_cache_alloc(ctx, CACHE_ALLOC + spare_number() * PROGRAMS);
	return 0;
}

/* tp_btf/kfree(site, address) */
int on_kfree(u64 *ctx)
{
	if (claim(ctx, KFREE, ctx[1]))
		count_kfree(ctx, KFREE + spare_number() * PROGRAMS);
	return 0;
}

/* tp_btf/kmem_cache_free(site, address, cache) */
int on_cache_free(u64 *ctx)
{
	if (claim(ctx, CACHE_FREE, ctx[1]))
		count_cache_free(ctx, CACHE_FREE + spare_number() * PROGRAMS);
	return 0;
}
