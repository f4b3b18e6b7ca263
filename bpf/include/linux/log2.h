/* SPDX-License-Identifier: GPL-2.0-only */
/* Empty on purpose: BCC includes this file, memtap uses nothing of it. */
