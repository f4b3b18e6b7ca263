/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC carries a copy of the kernel's own file that fits its helpers. */
#include </virtual/include/bcc/bpf.h>
