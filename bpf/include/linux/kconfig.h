/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC includes this file before everything else and refuses to compile without the option
 * below. */
#define CONFIG_BPF_SYSCALL 1
