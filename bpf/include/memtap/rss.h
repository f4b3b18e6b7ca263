/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the counters of pages are in an mm_struct.
 *
 * Right to some dozen pages for each CPU: they leave out what a CPU has not yet added to the
 * sum, as get_mm_counter() does.
 */
#ifndef MEMTAP_RSS_H
#define MEMTAP_RSS_H

/* Of the enum in linux/mm_types_task.h, which has no name. */
#define MM_FILEPAGES  0
#define MM_ANONPAGES  1
#define MM_SWAPENTS   2
#define MM_SHMEMPAGES 3

#if HAVE(mm_rss_stat, count) /* before f1a7941243c1 */
#define RSS_OFFSET(member) (OFFSET(mm_struct, rss_stat) + (member) * sizeof(u64))
#else
#define RSS_OFFSET(member)                                                                     \
	(OFFSET(mm_struct, rss_stat) + (member)*SIZE(percpu_counter) +                         \
	 OFFSET(percpu_counter, count))
#endif

#endif
