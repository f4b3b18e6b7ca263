/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Events leave the kernel in batches, one perf record for some hundred of them.
 *
 * The program that includes this file has defined `struct event`, whose member dt_ns is filled
 * here, `struct run`, and LANES. Each attached program owns a lane: per CPU, a batch of events
 * and a table of runs (events alike enough to be counted instead of kept), that no other
 * program writes to. A lane needs no lock, because the kernel does not run a program on a CPU
 * where that same program is already running (it counts a recursion miss instead). A spare has
 * a lane of its own (memtap/spare.h). Only flush() looks at the lanes of others. It runs in an
 * interrupt that user space sends to the CPU, sees `busy` if it came in the middle of an
 * update, leaves that lane alone and says so.
 */
#ifndef MEMTAP_BATCH_H
#define MEMTAP_BATCH_H

#define PROGRAMS LANES

#include <memtap/spare.h>

enum { RECORD_EVENTS = 1, RECORD_NAME, RECORD_RUNS, RECORD_FRAME };

#define LANE_BYTES 16384
#define RUNS       64

#define ALL_LANES  (LANES * (1 + SPARES))

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

struct lane {
	u32 busy;
	u32 number;
	u64 state[2]; /* what the program wants to know at its next event */
	struct runs runs;
	struct batch batch;
};

/* BCC spends a tenth of a second on describing a value of many members: give it one. */
struct lane_bytes {
	char bytes[LANE_BYTES];
};

BPF_PERF_OUTPUT(records);
BPF_PERCPU_ARRAY(lanes, struct lane_bytes, ALL_LANES);

/* Never used: these tell user space, through BCC, how the structs are laid out. */
BPF_ARRAY(layout_batch, struct batch_head, 1);
BPF_ARRAY(layout_event, struct event, 1);
BPF_ARRAY(layout_run, struct run, 1);

static inline void submit(void *ctx, struct lane *lane)
{
	struct batch *batch = &lane->batch;
	u32 used = batch->head.used;
	u64 bytes = sizeof(batch->head) + used * sizeof(struct event);

	if (used == 0)
		return;
	batch->head.record = RECORD_EVENTS;
	VERIFIER_FORGET(bytes);
	if (bytes > sizeof(*batch) || records.perf_submit(ctx, batch, bytes))
		count(COUNT_LOST, used);
	batch->head.used = 0;
}

static inline void submit_runs(void *ctx, struct lane *lane)
{
	struct runs *runs = &lane->runs;

	if (!runs->open)
		return;
	runs->head.record = RECORD_RUNS;
	runs->head.base_ns = bpf_ktime_get_ns();
	if (records.perf_submit(ctx, runs, sizeof(*runs)))
		count(COUNT_LOST, 1);
	runs->head.used++;
	runs->open = 0;
}

static inline struct lane *lane_of(int number)
{
	return (struct lane *)lanes.lookup(&number);
}

/* The lane of the program that runs, for what it has claimed. */
static inline struct lane *enter(int number)
{
	int own = number + LANES * spare_number();
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

/* A place for one more event, its time filled in. */
static inline struct event *append(void *ctx, struct lane *lane)
{
	struct batch *batch = &lane->batch;
	u64 now = bpf_ktime_get_ns();

	if (batch->head.used >= EVENTS_PER_BATCH || now - batch->head.base_ns > 0xffffffff)
		submit(ctx, lane);
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

/*
 * raw_tp, run by user space on each CPU: hands over what this CPU's lanes hold. Returns how
 * many lanes were in use and have to be asked again.
 */
int flush(void *ctx)
{
	int in_use = 0;

#pragma clang loop unroll(disable)
	for (int number = 0; number < ALL_LANES; number++) {
		struct lane *lane = lane_of(number);

		if (!lane)
			continue;
		if (*(volatile u32 *)&lane->busy) {
			in_use++;
			continue;
		}
		submit_runs(ctx, lane);
		submit(ctx, lane);
	}
	return in_use;
}

#endif
