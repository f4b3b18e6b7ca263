/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * BCC compares versions to choose helpers; memtap needs nothing older than 5.10, and asks the
 * kernel for features, never for its version.
 */
#ifndef MEMTAP_LINUX_VERSION_H
#define MEMTAP_LINUX_VERSION_H

#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE      KERNEL_VERSION(5, 10, 0)

#endif
