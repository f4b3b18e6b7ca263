/* SPDX-License-Identifier: GPL-2.0-only */
/* The registers as kprobes and perf events hand them over; BCC's PT_REGS_* macros name the
 * fields. */
#ifndef MEMTAP_UAPI_LINUX_PTRACE_H
#define MEMTAP_UAPI_LINUX_PTRACE_H

#if defined(__x86_64__)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#elif defined(__aarch64__)
struct pt_regs {
	u64 regs[31];
	u64 sp;
	u64 pc;
	u64 pstate;
};
#else
#error "memtap knows the registers of x86-64 and arm64"
#endif

#endif
