/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lanes by which events of page faults come; their words, enum kind and enum mark, are
 * those of tracers/faults/probes.py.
 */
#ifndef MEMTAP_EXCEPTION_H
#define MEMTAP_EXCEPTION_H

/* Of programs that tell of them (memtap/batch.h); a text may have more behind these. */
enum {
	LANE_USER,
	LANE_KERNEL,
	LANE_MINOR,
	LANE_MAJOR,
	LANE_BAD,
	LANE_RSS,
	LANE_THREAD,
	LANE_MOVED,
	LANE_WAIT,
	EXCEPTION_LANES
};

#endif
