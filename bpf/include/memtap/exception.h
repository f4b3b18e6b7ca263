/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lanes of page fault events. Their enum kind and enum mark come from
 * tracers/faults/probes.py.
 */
#ifndef MEMTAP_EXCEPTION_H
#define MEMTAP_EXCEPTION_H

/*
 * One for each program that sends such events (memtap/batch.h); a C file may have more behind
 * these.
 */
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
