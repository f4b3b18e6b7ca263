/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What happens too often to be an event is counted here, by a key.
 *
 * The program that includes this file has defined `struct key`, `struct sums`, all u64, and
 * KEYS, how many keys there can be. There are two tables of them. Programs count in the one
 * that is in `totals`. To read the counts, user space puts the other table there
 * (bpf/counters.py), and then empties the first. The kernel does not return from that exchange
 * while a program still counts in the old table (1ae80cf31938). So nothing is counted twice, or
 * not at all, and keys that are no longer used take no room.
 *
 * Sums are per CPU, and nothing is locked. The kernel does not run a program on a CPU where it
 * is running already, but it runs another in an interrupt: so no two programs may count in the
 * same member of the same key.
 */
#ifndef MEMTAP_COUNTERS_H
#define MEMTAP_COUNTERS_H

#include <memtap/losses.h>

BPF_TABLE("percpu_hash", struct key, struct sums, totals_0, KEYS);
BPF_TABLE("percpu_hash", struct key, struct sums, totals_1, KEYS);
BPF_ARRAY_OF_MAPS(totals, "totals_0", 1);

/* Never used: these tell user space, through BCC, how the structs are laid out. */
BPF_ARRAY(layout_key, struct key, 1);
BPF_ARRAY(layout_sums, struct sums, 1);

/* The sums of a key, on this CPU. */
static inline struct sums *sums_of(struct key *key)
{
	struct sums nothing = {}, *sums;
	int first = 0;
	void *table = totals.lookup(&first);

	if (!table)
		return NULL;
	sums = bpf_map_lookup_elem(table, key);
	if (sums)
		return sums;
	bpf_map_update_elem(table, key, &nothing, BPF_NOEXIST);
	sums = bpf_map_lookup_elem(table, key);
	if (!sums)
		count(COUNT_MAP_FULL, 1);
	return sums;
}

#endif
