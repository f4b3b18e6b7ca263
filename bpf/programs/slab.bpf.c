/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Objects of the slab allocator as they are allocated and freed: counted by cache and, with
 * BY_SITE and BY_PROCESS, by the code that allocated them and by the process that ran.
 *
 * The process that frees an object is mostly not the one that allocated it. So where that
 * matters, each object is remembered (OWNED), and its end counts for its owner. Otherwise only
 * those objects are remembered whose size is not known when they are freed.
 */
#include <linux/types.h>

/* Instead of a cache: it is not known; the object is too large for any, so that it is pages. */
enum no_cache { UNKNOWN, LARGE };

/*
 * Instead of a site: the object is from before tracing began; it is one of several that come at
 * once.
 */
enum no_site { EARLIER, IN_BULK };

#define NO_PROCESS 0xffffffff /* the owner of objects from before tracing began */

/* Each program counts in keys of its own, its standbys too; see memtap/counters.h. */
enum program {
	KMALLOC,
	CACHE_ALLOC,
	KFREE,
	CACHE_FREE,
	BULK_ALLOC,
	BULK_FREE,
	RCU_FREE,
	BATCH_FREE,
	KMALLOC_NODE,
	CACHE_ALLOC_NODE,
	PROGRAMS
};

struct key {
	u64 cache; /* address of a struct kmem_cache, the size of its objects, or enum no_cache
		    */
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
#include <memtap/loops.h>
#include <memtap/standby.h>
#include <memtap/stacks.h>

#if defined(FOLLOW_TGIDS) || defined(FOLLOW_COMM) || defined(FOLLOW_CGROUP)
#define FILTERED
#endif

/*
 * Without bpf_get_kmem_cache() (a992d7a39791) the cache of an object is not known in kfree().
 */
#if defined(BY_SITE) || defined(BY_PROCESS) || defined(LEAKS) || defined(FILTERED) ||          \
	defined(KMALLOC_BY_SIZE)
#define OWNED 1
#else
#define OWNED 0
#endif

struct name {
	char text[NAME_BYTES];
	u64 is_unseen;
};

BPF_TABLE("hash", u64, struct name, names, CACHES);
BPF_TABLE("hash", u64, struct object, objects, OBJECTS);
BPF_ARRAY(layout_object, struct object, 1);

static inline u32 size_of(u64 cache)
{
	return FIELD(cache, kmem_cache, size);
}

/*
 * Can an object of this cache be freed unseen? kfree_rcu() puts it into a sheaf, which only
 * probes of functions can see. Objects that may be used again at once (SLAB_TYPESAFE_BY_RCU)
 * are not freed so.
 */
#if HAVE(kmem_cache, sheaf_capacity) && HAVE(kmem_cache, flags) && !defined(BULK_FUNCTIONS)
#define IS_UNSEEN(READ, cache)                                                                 \
	(READ(cache, kmem_cache, sheaf_capacity) &&                                            \
	 !(READ(cache, kmem_cache, flags) &                                                    \
	   1 << ENUM(_slab_flag_bits, _SLAB_TYPESAFE_BY_RCU)))
#else
#define IS_UNSEEN(READ, cache) 0
#endif

/* Notes a cache's name now: later the cache can be gone, and another can be where it was. */
static inline void name_cache(u64 cache)
{
	struct name name = {};

	if (!(cache >> 63))
		return;
	name.is_unseen = IS_UNSEEN(PEEK, cache);
	bpf_probe_read_kernel_str(&name.text, sizeof(name.text),
				  (void *)PEEK(cache, kmem_cache, name));
	if (names.update(&cache, &name))
		count(COUNT_MAP_FULL, 1);
}

/* The sums of an owner, which is made of members of `known`. */
static inline struct sums *sums_of_owner(struct object *known, u32 program)
{
	struct key key = {.cache = known->cache, .program = program};

#ifdef BY_SITE
	key.site = known->site;
#endif
#ifdef BY_PROCESS
	key.tgid = known->tgid;
#endif
	return sums_of(&key);
}

/* The same, and the cache's name is noted when something is first counted for it. */
static inline struct sums *named_sums_of_owner(struct object *object, u32 program)
{
	struct sums *sums = sums_of_owner(object, program);

	if (sums && !sums->allocs && !sums->frees)
		name_cache(object->cache);
	return sums;
}

static inline void add_free(struct sums *sums, u32 size)
{
	if (!sums)
		return;
	sums->frees++;
	sums->freed += size;
}

/* Counts the end of a known object. Its cache was named when it was allocated. */
static inline void count_free(struct object *known, u32 program)
{
	add_free(sums_of_owner(known, program), known->allocated);
}

/*
 * The object that was at this address before must be free by now, though no event said so:
 * kfree_bulk() and kmem_cache_free_bulk() have no tracepoint.
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

/*
 * Was this reported already? An object that is pages is reported by kvmalloc() first, and then
 * again by __do_kmalloc_node().
 */
static inline int is_told(u64 address, struct object *object)
{
	return object->allocated > LARGEST && objects.lookup(&address);
}

/* Finds the process that will own an object; returns 0 if the report is not about it. */
static inline int find_owner(struct object *object)
{
#if defined(BY_PROCESS) || defined(FILTERED) || defined(LEAKS)
	u64 task = (u64)current_task();

	object->tgid = FIELD(task, task_struct, tgid);
	return followed(task, object->tgid);
#else
	return 1;
#endif
}

/* Counts so many objects like this one as allocated here. */
static inline void count_allocs(void *ctx, struct object *object, u64 number, u32 program)
{
	struct sums *sums = named_sums_of_owner(object, program);

	if (sums) {
		sums->allocs += number;
		sums->requested += number * object->requested;
		sums->allocated += number * object->allocated;
	}
#ifdef LEAKS
	object->ns = bpf_ktime_get_ns();
	object->stack = stack_of(ctx, 0);
#endif
}

/*
 * An object that can be freed unseen is remembered in any case: then it shows when its address
 * is used again.
 */
static inline void allocated(void *ctx, u64 address, struct object *object, int is_unseen,
			     u32 program)
{
	if (!find_owner(object) || is_told(address, object))
		return;
	count_allocs(ctx, object, 1, program);
	if (OWNED || is_unseen || object->cache == LARGE)
		remember(address, object, program);
}

/*
 * Counts and forgets the object at this address, if it is remembered; returns whether it was.
 */
static inline int forget(u64 address, u32 program)
{
	struct object *known = objects.lookup(&address);

	if (!known)
		return 0;
	count_free(known, program);
	objects.delete(&address);
	return 1;
}

/* An object from before tracing began counts for its cache alone. */
static inline void free_unowned(u64 cache, u32 size, u32 program)
{
#ifndef FILTERED
	struct object unowned = {.cache = cache, .allocated = size, .tgid = NO_PROCESS};

	add_free(named_sums_of_owner(&unowned, program), size);
#endif
}

static inline void count_kmalloc(u64 *ctx, u32 program)
{
	struct object object = {.site = ctx[0], .requested = ctx[2], .allocated = ctx[3]};

	if (!ctx[1])
		return;
#ifdef KMALLOC_BY_SIZE
	object.cache = object.allocated > LARGEST ? LARGE : object.allocated;
	allocated(ctx, ctx[1], &object, 0, program);
#else
	u64 cache = KFUNC(bpf_get_kmem_cache)(ctx[1]);

	object.cache = cache ? cache : LARGE;
	allocated(ctx, ctx[1], &object, cache && IS_UNSEEN(FIELD, cache), program);
#endif
}

#ifdef CACHES_BY_SIZE
#define ANY_CACHE (1ULL << 62) /* of objects of this size, whatever it is called */

/*
 * Before 2c1d697fb8ba the tracepoints of caches have the same arguments as that of kmalloc().
 */
static inline void count_cache_alloc(u64 *ctx, u32 program)
{
	struct object object = {.site = ctx[0], .requested = ctx[2], .allocated = ctx[3]};

	if (!ctx[1])
		return;
	object.cache = ANY_CACHE | object.allocated;
	allocated(ctx, ctx[1], &object, 0, program);
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
	allocated(ctx, ctx[1], &object, IS_UNSEEN(FIELD, ctx[2]), program);
}

static inline void count_cache_free(u64 *ctx, u32 program)
{
	if ((OWNED || IS_UNSEEN(FIELD, ctx[2])) && forget(ctx[1], program))
		return;
	free_unowned(ctx[2], size_of(ctx[2]), program);
}
#endif

#if defined(BULK_FUNCTIONS) && !LONG_LOOPS
#define PF_WQ_WORKER  0x20
#define MOST_DRAINING 1024 /* no more than two for each CPU */

/* Tasks that free what was given to kfree_rcu(). */
BPF_TABLE("hash", u64, u64, draining, MOST_DRAINING);

/* fentry/kfree_rcu_work(work) */
int on_drain(u64 *ctx)
{
	u64 task = (u64)current_task(), is = 1;

	if (draining.update(&task, &is))
		count(COUNT_MAP_FULL, 1);
	return 0;
}

/* fexit/kfree_rcu_work(work) */
int on_drain_end(u64 *ctx)
{
	u64 task = (u64)current_task();

	draining.delete(&task);
	return 0;
}

/*
 * An object for whose pointer kfree_rcu() had no page is freed by kfree(). But it was counted
 * when it was given to kfree_rcu(). An object that is freed in an interrupt just then is taken
 * for such a one.
 */
static inline int was_given_away(void)
{
	u64 task = (u64)current_task();

	return FIELD(task, task_struct, flags) & PF_WQ_WORKER && draining.lookup(&task);
}
#else
#define was_given_away() 0
#endif

#define ZERO_SIZE 16 /* ZERO_SIZE_PTR: what kmalloc(0) gives, which is nothing, like NULL */

/* Counts what kfree() frees: objects of kmem_cache_alloc(), too. */
static inline void count_kfree(u64 address, u32 program)
{
	if (address <= ZERO_SIZE || (OWNED && forget(address, program)) || was_given_away())
		return;
#ifdef KMALLOC_BY_SIZE
	free_unowned(UNKNOWN, 0, program);
#else
	u64 cache = KFUNC(bpf_get_kmem_cache)(address);
	int may_be_known = !OWNED && (!cache || IS_UNSEEN(FIELD, cache));

	if (may_be_known && forget(address, program))
		return;
	free_unowned(cache ? cache : LARGE, cache ? size_of(cache) : 0, program);
#endif
}

#if defined(BULK_FUNCTIONS) || defined(RCU_BATCHES)
/* A pointer as the number that it is: the verifier has less to remember. */
static inline u64 number_of(u64 pointer)
{
	asm volatile("%0 = -%0" : "+r"(pointer));
	return -pointer;
}

/* As count_kfree(), but with less for the verifier to remember of each round of a loop. */
static inline void count_one_of_many(u64 address, u32 program, struct object *gone)
{
	struct object *known = objects.lookup(&address);

	*gone = (struct object){.tgid = NO_PROCESS};
	if (known) {
		*gone = *known;
		objects.delete(&address);
	} else {
#ifdef FILTERED
		return;
#elif !defined(KMALLOC_BY_SIZE)
		u64 cache = number_of(KFUNC(bpf_get_kmem_cache)(address));

		gone->cache = cache ? cache : LARGE;
		gone->allocated = cache ? PEEK(cache, kmem_cache, size) : 0;
#endif
	}
	READ_AGAIN();
#ifdef KMALLOC_BY_SIZE /* what is not known has no cache that could be named */
	count_free(gone, program);
#else
	add_free(named_sums_of_owner(gone, program), gone->allocated);
#endif
}
#endif

#ifdef BULK_FUNCTIONS
/*
 * Where loops are short: networks, io_uring and maple trees allocate and free no more at once.
 */
#define ALLOCS_AT_ONCE 32
#define FREES_AT_ONCE  64

/* How many of them are counted; the others are lost. */
static inline u64 counted_of(u64 given, u64 most)
{
	if (given <= most)
		return given;
	count(COUNT_LOST, given - most);
	return most;
}

/* Where the next of so many pointers is; 0 behind the last. */
static inline u64 next_of(u64 *pointers, u64 *left)
{
	VERIFIER_FORGET(*left);
	if (!*left)
		return 0;
	*left -= 1;
	*pointers += sizeof(u64);
	return *pointers - sizeof(u64);
}

/* As remember(), but with less for the verifier to remember of each round of a loop. */
static inline void remember_one_of_many(u64 address, struct object *object, u32 program,
					struct object *before)
{
	struct object *known = objects.lookup(&address);

	*before = (struct object){};
	if (known) {
		*before = *known;
		*known = *object;
	} else if (objects.update(&address, object)) {
		count(COUNT_MAP_FULL, 1);
	}
	READ_AGAIN();
	if (before->cache)
		count_free(before, program);
}

/*
 * fexit/kmem_cache_alloc_bulk(cache, gfp, count, pointers): returns the count or 0; in 7.x a
 * bool
 */
int on_bulk_alloc(u64 *ctx)
{
	u32 program = BULK_ALLOC + standby_number() * PROGRAMS;
	int has_worked = (u32)ctx[4] == (u32)ctx[2] || (u8)ctx[4] == 1;
	u64 pointers = FUNCTION_ARGUMENT(ctx, 3), place;
	struct object object = {.site = IN_BULK, .cache = ctx[0]};

	if (!claim(ctx, BULK_ALLOC, pointers) || !has_worked || !find_owner(&object))
		return 0;
	u64 left = counted_of(ctx[2], MOST_ROUNDS(ALLOCS_AT_ONCE));
	object.requested = FIELD(ctx[0], kmem_cache, object_size);
	object.allocated = size_of(ctx[0]);
#ifdef CACHES_BY_SIZE
	object.cache = ANY_CACHE | object.allocated;
#endif
	count_allocs(ctx, &object, left, program);
	AT_MOST_BRANCHING(ALLOCS_AT_ONCE)
	{
		OR_BREAK;
		struct object before;

		if (!OWNED || !(place = next_of(&pointers, &left)))
			break;
		remember_one_of_many(PEEK_AS(u64, place, 0), &object, program, &before);
	}
	return 0;
}

/* fentry/kmem_cache_free_bulk(cache or NULL, count, pointers); NULL is kfree_rcu()'s, mostly */
int on_bulk_free(u64 *ctx)
{
	u32 program = BULK_FREE + standby_number() * PROGRAMS;
	u64 pointers = FUNCTION_ARGUMENT(ctx, 2), place;

	if (!LONG_LOOPS && !ctx[0])
		return 0;
	if (!claim(ctx, BULK_FREE, pointers))
		return 0;
	u64 left = counted_of(ctx[1], MOST_ROUNDS(FREES_AT_ONCE));
	AT_MOST_BRANCHING(FREES_AT_ONCE)
	{
		OR_BREAK;
		struct object gone;

		if (!(place = next_of(&pointers, &left)))
			break;
		count_one_of_many(PEEK_AS(u64, place, 0), program, &gone);
	}
	return 0;
}

#if !LONG_LOOPS
#define LARGEST_OFFSET 4096

/*
 * fentry/kvfree_call_rcu(head, pointer): hundreds at once are too many for a loop here. Before
 * 04a522b7da3d the pointer was the offset of the head in the object, unless there is no head.
 */
int on_rcu_free(u64 *ctx)
{
	u64 address = FUNCTION_ARGUMENT(ctx, 1);

	if (!claim(ctx, RCU_FREE, address))
		return 0;
	if (ctx[0] && address < LARGEST_OFFSET)
		address = number_of(ctx[0]) - address;
	count_kfree(address, RCU_FREE + standby_number() * PROGRAMS);
	return 0;
}
#endif

#if HAVE(kmem_cache, cpu_sheaves)
/*
 * fexit/__kfree_rcu_sheaf(cache, object), in 7.x with flags: returns whether it has taken the
 * object
 */
int on_sheaf_free(u64 *ctx)
{
	u64 has_taken = 0;

	if (!claim(ctx, RCU_FREE, ctx[1]))
		return 0;
	bpf_get_func_ret(ctx, &has_taken);
	if ((u8)has_taken)
		count_kfree(ctx[1], RCU_FREE + standby_number() * PROGRAMS);
	return 0;
}
#endif
#endif

/* tp_btf/kmalloc(site, address, requested, allocated, ...) */
int on_kmalloc(u64 *ctx)
{
	if (claim(ctx, KMALLOC, ctx[1]))
		count_kmalloc(ctx, KMALLOC + standby_number() * PROGRAMS);
	return 0;
}

/* tp_btf/kmem_cache_alloc(site, address, cache, ...) */
int on_cache_alloc(u64 *ctx)
{
	if (claim(ctx, CACHE_ALLOC, ctx[1]))
		count_cache_alloc(ctx, CACHE_ALLOC + standby_number() * PROGRAMS);
	return 0;
}

/* tp_btf/kfree(site, address) */
int on_kfree(u64 *ctx)
{
	if (claim(ctx, KFREE, ctx[1]))
		count_kfree(ctx[1], KFREE + standby_number() * PROGRAMS);
	return 0;
}

/* tp_btf/kmem_cache_free(site, address, cache) */
int on_cache_free(u64 *ctx)
{
	if (claim(ctx, CACHE_FREE, ctx[1]))
		count_cache_free(ctx, CACHE_FREE + standby_number() * PROGRAMS);
	return 0;
}

#ifdef RCU_BATCHES
/*
 * kfree_rcu() keeps what it has to free in lists of pages of pointers, per CPU. Workers give
 * these pages to kfree_bulk(), which has no tracepoint. But the lists can be read when a work
 * begins: the monitor's work, which frees what may be freed by then, and a batch's work, to
 * which the monitor leaves the rest (kfree_rcu_monitor() and kfree_rcu_work() in
 * mm/slab_common.c, once kernel/rcu/tree.c).
 *
 * What the monitor finds when it begins counts as freed then: only RCU still has it. How much
 * of a page was counted is noted for the work that finds the page later. But a page is used
 * again when all objects in it are freed. So a note is true only if the page was in a list when
 * the monitor ended last, and still has the last of those pointers where it was.
 */
#define PAGES_NOTED 4096
#define POINTERS    ((1 << PAGE_SHIFT) / sizeof(u64))

struct note {
	u64 counted; /* how many of its pointers */
	u64 last;    /* of these */
	u64 ended;   /* how often the monitor had ended */
};

BPF_TABLE("lru_hash", u64, struct note, notes, PAGES_NOTED);
BPF_TABLE("lru_hash", u64, u64, monitors, PAGES_NOTED);

/* Where on_work() is; see NOTED(). */
struct walk {
	u64 list;
	u64 ended; /* how often the monitor has */
	u64 keeps; /* does the list keep its pages? */
	u64 page;
	u64 at;
	u64 pointers; /* of the page */
	struct object gone;
	struct note note;
};

BPF_PERCPU_ARRAY(walks, struct walk, 1);

static inline u64 times_ended(u64 cpu)
{
	u64 *times = monitors.lookup(&cpu);

	return times ? *times : 0;
}

static inline u64 pointer_in(u64 page, u64 at)
{
	return PEEK_AS(u64, page, OFFSET(kvfree_rcu_bulk_data, records) + at * sizeof(u64));
}

static inline u64 page_behind(u64 page)
{
	return PEEK_AS(u64, page, OFFSET(kvfree_rcu_bulk_data, list));
}

/* How much of a page was counted before. */
static inline u64 counted_in(u64 page, u64 ended)
{
	struct note *note = notes.lookup(&page);

	if (!note || note->ended < ended || !note->counted)
		return 0;
	return pointer_in(page, note->counted - 1) == note->last ? note->counted : 0;
}

/*
 * Counts what was not counted yet in a list of pages; other pages may be put in front
 * meanwhile.
 */
static inline void free_listed(struct walk *walk)
{
	NOTED(walk->page) = PEEK_AS(u64, NOTED(walk->list), 0);
	while (NOTED(walk->page) && NOTED(walk->page) != NOTED(walk->list)) {
		OR_BREAK;
		u64 page = NOTED(walk->page);

		NOTED(walk->at) = counted_in(page, NOTED(walk->ended));
		NOTED(walk->pointers) = PEEK(page, kvfree_rcu_bulk_data, nr_records);
		if (NOTED(walk->pointers) - 1 >= POINTERS)
			break; /* the list is another's by now */
		for (; NOTED(walk->at) < NOTED(walk->pointers); NOTED(walk->at)++) {
			OR_BREAK;
			count_one_of_many(pointer_in(NOTED(walk->page), NOTED(walk->at)),
					  BATCH_FREE, &walk->gone);
		}
		page = NOTED(walk->page);
		walk->note.counted = NOTED(walk->at) * NOTED(walk->keeps);
		walk->note.ended = NOTED(walk->ended);
		walk->note.last = pointer_in(page, NOTED(walk->at) - 1);
		notes.update(&page, &walk->note);
		NOTED(walk->page) = page_behind(page);
	}
}

/* The notes on the pages of a list are still true when the monitor has ended. */
static inline void confirm_notes(u64 list, u64 ended)
{
	u64 page = PEEK_AS(u64, list, 0);

	while (page && page != list) {
		OR_BREAK;
		struct note *note = counted_in(page, ended) ? notes.lookup(&page) : NULL;

		if (note)
			note->ended = ended + 1;
		page = page_behind(page);
	}
}

static inline u64 batch_of(u64 cpu, int number)
{
	return cpu + OFFSET(kfree_rcu_cpu, krw_arr) + number * SIZE(kfree_rcu_cpu_work);
}

/*
 * The CPU for which this work is a batch's, or 0 if it is none: these structs point to each
 * other.
 */
static inline u64 cpu_of_batch(u64 batch)
{
	u64 cpu = PEEK(batch, kfree_rcu_cpu_work, krcp);

	return batch == batch_of(cpu, 0) || batch == batch_of(cpu, 1) ? cpu : 0;
}

/* The CPU for which this work is the monitor's, or 0 if it is none. */
static inline u64 cpu_of_monitor(u64 work)
{
	u64 cpu = work - OFFSET(kfree_rcu_cpu, monitor_work__work);

	return PEEK(batch_of(cpu, 0), kfree_rcu_cpu_work, krcp) == cpu ? cpu : 0;
}

/* tp_btf/workqueue_execute_start(work) */
int on_work(u64 *ctx)
{
	int first = 0;
	struct walk *walk = walks.lookup(&first);
	u64 work = number_of(ctx[0]);
	u64 batch = work - OFFSET(kfree_rcu_cpu_work, rcu_work__work);
	u64 cpu = cpu_of_batch(batch);
	u64 is_batch = cpu != 0;

	if (!is_batch)
		cpu = cpu_of_monitor(work);
	if (!cpu || !walk)
		return 0;
	NOTED(walk->list) = is_batch ? batch + OFFSET(kfree_rcu_cpu_work, bulk_head_free)
				     : cpu + OFFSET(kfree_rcu_cpu, bulk_head);
	NOTED(walk->ended) = times_ended(cpu);
	NOTED(walk->keeps) = !is_batch;
	free_listed(walk);
	return 0;
}

/* tp_btf/workqueue_execute_end(work, function) */
int on_work_end(u64 *ctx)
{
	u64 cpu = cpu_of_monitor(number_of(ctx[0]));
	u64 ended = times_ended(cpu), times = ended + 1;
	u64 in_batch = OFFSET(kfree_rcu_cpu_work, bulk_head_free);

	if (!cpu)
		return 0;
	confirm_notes(cpu + OFFSET(kfree_rcu_cpu, bulk_head), ended);
	confirm_notes(batch_of(cpu, 0) + in_batch, ended);
	confirm_notes(batch_of(cpu, 1) + in_batch, ended);
	monitors.update(&cpu, &times);
	return 0;
}
#endif
