/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Events leave the kernel in batches, one perf record for some hundred of them.
 *
 * The program that includes this file has defined `struct event`, whose member dt_ns is filled
 * here, `struct run`, and LANES. Each attached program owns a lane: per CPU, a batch of events
 * and a table of runs (events alike enough to be counted instead of kept), that no other
 * program writes to. A lane needs no lock, because the kernel does not run a program on a CPU
 * where that same program is already running (it counts a recursion miss instead). A standby
 * has a lane of its own (memtap/standby.h). Only flush() looks at lanes that are not its own.
 * It runs in an interrupt that user space sends to the CPU. If `busy` shows that it came in the
 * middle of an update, it leaves that lane alone and says so.
 *
 * A ring can be full, or a CPU can have none because it came online a moment ago. Then its
 * batches stay as they are until a ring takes them. An event for which a full batch has no room
 * is added up by a coarse key, `struct spill`, if the program has defined one (SPILLS): sums
 * stay right, and details are lost. An event that cannot be added up either is lost (lose()).
 */
#ifndef MEMTAP_BATCH_H
#define MEMTAP_BATCH_H

#define PROGRAMS LANES

#include <memtap/loops.h>
#include <memtap/standby.h>

enum { RECORD_EVENTS = 1, RECORD_NAME, RECORD_RUNS, RECORD_FRAME };

#define LANE_BYTES 16384
#define RUNS       64
#define ENOSPC     28
#define RETRY_NS   1000000 /* how long a ring that refused a batch is left alone */
#define SPILL_KEYS 16384

#define ALL_LANES  (LANES * (1 + STANDBYS))

struct batch_head {
	u32 record;
	u32 used; /* events in the batch; for runs, how many epochs are over */
	u64 base_ns;
};

struct runs {
	struct batch_head head;
	struct run runs[RUNS];
	u64 open; /* is there a run of this epoch? */
};

#define EVENTS_PER_BATCH ((LANE_BYTES - sizeof(struct runs) - 64) / sizeof(struct event))

struct batch {
	struct batch_head head;
	struct event events[EVENTS_PER_BATCH];
};

/* bpf/stream.py reads the lanes of CPUs that are offline. */
struct lane {
	u32 busy;
	u32 number;
	u64 refused_ns; /* when a ring refused the batch; 0 if one has taken it since */
	u64 state[2];   /* what the program has to remember until its next event */
	struct runs runs;
	struct batch batch;
};

/* To describe a value of many members takes BCC a tenth of a second: this has one. */
struct lane_bytes {
	char bytes[LANE_BYTES];
};

BPF_PERF_OUTPUT(records);
BPF_PERCPU_ARRAY(lanes, struct lane_bytes, ALL_LANES);

/* How far flush() has got; see NOTED(). */
struct flushing {
	u64 lane;
	u64 answer;
};

BPF_PERCPU_ARRAY(flushings, struct flushing, 1);

/* Never used: these tell user space, through BCC, how the structs are laid out. */
BPF_ARRAY(layout_batch, struct batch_head, 1);
BPF_ARRAY(layout_event, struct event, 1);
BPF_ARRAY(layout_run, struct run, 1);

#ifdef SPILLS
struct spilled {
	u64 events;
	u64 units;
};

BPF_TABLE("hash", struct spill, struct spilled, spills, SPILL_KEYS);
BPF_ARRAY(layout_spill, struct spill, 1);
#endif

/* Gives a record to the ring of this CPU; returns 0, or why the ring did not take it. */
static inline int hand_over(void *ctx, void *record, u64 bytes)
{
	int refused = records.perf_submit(ctx, record, bytes);

	if (refused == -ENOSPC)
		count(COUNT_REFUSED, 1);
	return refused;
}

/* Counts as lost what no batch had room for, in units of the report's rows. */
static inline void lose(u64 units)
{
	count(COUNT_LOST, units);
}

#ifdef SPILLS
static inline void spill(struct spill *key, u64 units)
{
	struct spilled nothing = {}, *sums = spills.lookup_or_try_init(key, &nothing);

	if (sums) {
		add_to(&sums->events, 1);
		add_to(&sums->units, units);
	}
	count(sums ? COUNT_SPILLED : COUNT_LOST, units);
}
#endif

/* Empties the batch if the ring takes it; returns 0, or why the ring did not. */
static inline int submit(void *ctx, struct lane *lane)
{
	struct batch *batch = &lane->batch;
	u32 used = batch->head.used;
	u64 bytes = sizeof(batch->head) + used * sizeof(struct event);
	int refused;

	if (used == 0)
		return 0;
	batch->head.record = RECORD_EVENTS;
	VERIFIER_FORGET(bytes);
	if (bytes > sizeof(*batch))
		return -ENOSPC;
	refused = hand_over(ctx, batch, bytes);
	if (!refused)
		batch->head.used = 0;
	return refused;
}

/* The same for the table of runs. */
static inline int submit_runs(void *ctx, struct lane *lane)
{
	struct runs *runs = &lane->runs;
	int refused;

	if (!runs->open)
		return 0;
	runs->head.record = RECORD_RUNS;
	runs->head.base_ns = bpf_ktime_get_ns();
	refused = hand_over(ctx, runs, sizeof(*runs));
	if (refused)
		return refused;
	runs->head.used++;
	runs->open = 0;
	return 0;
}

static inline struct lane *lane_of(int number)
{
	return (struct lane *)lanes.lookup(&number);
}

/* The lane of the program, or standby, that runs and has claimed the event. */
static inline struct lane *enter(int number)
{
	int own = number + LANES * standby_number();
	struct lane *lane = lane_of(own);

	if (!lane)
		return NULL;
	lane->number = own;
	*(volatile u32 *)&lane->busy = 1;
	return lane;
}

static inline void leave(struct lane *lane)
{
	*(volatile u32 *)&lane->busy = 0;
}

/* Has the batch no room for an event that happens now? */
static inline int is_full(struct batch *batch, u64 now)
{
	return batch->head.used &&
	       (batch->head.used >= EVENTS_PER_BATCH || now - batch->head.base_ns > 0xffffffff);
}

/* Makes room in a full batch; returns whether there is some. */
static inline int make_room(void *ctx, struct lane *lane, u64 now)
{
	if (lane->refused_ns && now - lane->refused_ns < RETRY_NS)
		return 0;
	lane->refused_ns = submit(ctx, lane) ? now : 0;
	return !lane->refused_ns;
}

/* A place for one more event, its time filled in; NULL if there is none, see lose(). */
static inline struct event *append(void *ctx, struct lane *lane)
{
	struct batch *batch = &lane->batch;
	u64 now = bpf_ktime_get_ns();

	if (is_full(batch, now) && !make_room(ctx, lane, now))
		return NULL;
	u32 slot = batch->head.used;
	if (slot == 0)
		batch->head.base_ns = now;
	if (slot >= EVENTS_PER_BATCH)
		return NULL;
	batch->head.used = slot + 1;
	batch->events[slot].dt_ns = now - batch->head.base_ns;
	return &batch->events[slot];
}

/* The event that was appended last, if it has not left yet. */
static inline struct event *last_of(struct lane *lane)
{
	u64 slot = (u64)lane->batch.head.used - 1;

	if (slot >= EVENTS_PER_BATCH)
		return NULL;
	VERIFIER_FORGET(slot);
	return &lane->batch.events[slot];
}

/* What flush() answers: a lane was in use; a ring was full; a CPU has no ring. */
enum { FLUSH_BUSY = 1, FLUSH_FULL = 2, FLUSH_NO_RING = 4 };

static inline int refusal(int refused)
{
	if (!refused)
		return 0;
	return refused == -ENOSPC ? FLUSH_FULL : FLUSH_NO_RING;
}

static inline int flush_lane(void *ctx, struct lane *lane)
{
	if (*(volatile u32 *)&lane->busy)
		return FLUSH_BUSY;
	return refusal(submit_runs(ctx, lane)) | refusal(submit(ctx, lane));
}

/*
 * raw_tp(other), run by user space on each CPU: hands over what this CPU's lanes hold. Returns
 * why some of it could not be handed over, so that user space knows what to do before it asks
 * again.
 */
int flush(void *ctx)
{
	int first = 0;
	struct flushing *at = flushings.lookup(&first);

	if (!at)
		return FLUSH_BUSY;
	NOTED(at->lane) = NOTED(at->answer) = 0;
	AT_MOST(ALL_LANES)
	{
		OR_BREAK;
		struct lane *lane = lane_of(NOTED(at->lane)++);

		if (!lane)
			break;
		NOTED(at->answer) |= flush_lane(ctx, lane);
	}
	return NOTED(at->answer);
}

#endif
