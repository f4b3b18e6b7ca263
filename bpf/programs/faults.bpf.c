/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page faults: each exception as it is raised (memtap/exceptions.h), and what became of some of
 * them (memtap/outcomes.h).
 */
#include <linux/types.h>
#include <uapi/linux/ptrace.h>
#include <memtap/exception.h>

#define LANES EXCEPTION_LANES

struct event {
#include <memtap/exception_members.h>
};

/* Every fault has an event; there are no runs. */
struct run {
	u32 epoch;
};

/* Events that no ring had room for are added up by this key. */
#define SPILLS
struct spill {
	u32 tgid;
	u32 kind;
};

#include <memtap/fields.h>
#include <memtap/exceptions.h>
#include <memtap/outcomes.h>
#include <memtap/spaces.h>
#include <memtap/watched.h>

static inline void miss(struct event *what)
{
	struct spill key = {.tgid = what->tgid, .kind = what->kind};

	if (COUNTS_FAULTS(what->kind) || what->kind == MAJOR)
		spill(&key, COUNTS_FAULTS(what->kind));
}
