/* SPDX-License-Identifier: GPL-2.0-only */
/* The context that programs at perf events and breakpoints get. */
#ifndef MEMTAP_PERF_CONTEXT_H
#define MEMTAP_PERF_CONTEXT_H

#define USER_RING 3 /* in cs: where user space runs */

/* struct bpf_perf_event_data: the registers, sample_period, addr; as words. */
#if defined(__x86_64__)
#define CTX_IP(ctx)         ((ctx)[16])
#define CTX_IS_USER(ctx)    (((ctx)[17] & USER_RING) == USER_RING)
#define CTX_SP(ctx)         ((ctx)[19])
#define CTX_ADDRESS(ctx)    ((ctx)[22])
#define CTX_ARGUMENT_1(ctx) ((ctx)[14])
#define CTX_ARGUMENT_2(ctx) ((ctx)[13])
#define CTX_ARGUMENT_3(ctx) ((ctx)[12])
#define CTX_ARGUMENT_4(ctx) ((ctx)[11])
#else
#define CTX_IP(ctx)         ((ctx)[32])
#define CTX_IS_USER(ctx)    (((ctx)[33] & 0xf) == 0)
#define CTX_SP(ctx)         ((ctx)[31])
#define CTX_ADDRESS(ctx)    ((ctx)[35])
#define CTX_ARGUMENT_1(ctx) ((ctx)[0])
#define CTX_ARGUMENT_2(ctx) ((ctx)[1])
#define CTX_ARGUMENT_3(ctx) ((ctx)[2])
#define CTX_ARGUMENT_4(ctx) ((ctx)[3])
#endif

#endif
