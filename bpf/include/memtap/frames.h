/* SPDX-License-Identifier: GPL-2.0-only */
/* The frames of calls that get memory. Only with FRAMES. */
#ifndef MEMTAP_FRAMES_H
#define MEMTAP_FRAMES_H

#include <memtap/batch.h>
#include <memtap/regs.h>

#ifdef FRAMES
#define STACK_TAKEN 1024 /* bytes; from malloc to its caller there are fewer */
#define STACK_LEAST 128

/* The registers of a call that gets memory, for the unwinder. */
struct frame {
	u32 record;
	u32 used; /* bytes of the stack that follow */
	u64 ns;   /* the same as its event's */
	u64 ip;
	u64 sp;
	u64 bp;
	u64 link; /* of arm64: where a function without a frame returns to */
	u32 tgid;
	u32 tid;
};

struct frame_record {
	struct frame head;
	char stack[STACK_TAKEN];
};

BPF_PERCPU_ARRAY(frame_records, struct frame_record, 1 + STANDBYS);
BPF_ARRAY(layout_frame, struct frame, 1);

/* libc has no frame pointers, so user space finds the callers with libc's unwind tables. */
static inline void send_frame(void *ctx, struct lane *lane, u64 task, u64 regs)
{
	int own = standby_number();
	struct event *event = last_of(lane);
	struct frame_record *frame = frame_records.lookup(&own);

	if (!event || !frame)
		return;
	frame->head.record = RECORD_FRAME;
	frame->head.ns = lane->batch.head.base_ns + event->dt_ns;
	frame->head.tgid = event->tgid;
	frame->head.tid = event->tid;
	frame->head.ip = REGS_IP(regs);
	frame->head.sp = REGS_SP(regs);
	frame->head.bp = REGS_BP(regs);
	frame->head.link = REGS_LINK(regs);
	frame->head.used = 0;
	/* Fewer bytes where the stack begins sooner. */
#pragma clang loop unroll(full)
	for (int bytes = STACK_TAKEN; bytes >= STACK_LEAST; bytes /= 2) {
		if (!read_user(frame->stack, bytes, (void *)frame->head.sp)) {
			frame->head.used = bytes;
			break;
		}
	}
	hand_over(ctx, frame, sizeof(*frame));
}
#else
static inline void send_frame(void *ctx, struct lane *lane, u64 task, u64 regs)
{
}
#endif

#endif
