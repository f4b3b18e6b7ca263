/* SPDX-License-Identifier: GPL-2.0-only */
/* The folios that tracepoints hand over; pages, before there were folios (7b230db3b8d3). */
#ifndef MEMTAP_FOLIOS_H
#define MEMTAP_FOLIOS_H

#include <memtap/fields.h>

#if HAVE(folio, index)
#define folio_mapping(folio) FIELD(folio, folio, mapping)
#define folio_index(folio)   FIELD(folio, folio, index)
#define folio_flags(folio)   FIELD(folio, folio, flags)
#else
#define folio_mapping(folio) FIELD(folio, page, mapping)
#define folio_index(folio)   FIELD(folio, page, index)
#define folio_flags(folio)   FIELD(folio, page, flags)
#endif

static INLINE u32 folio_pages(u64 folio)
{
	if (!(folio_flags(folio) & 1UL << ENUM(pageflags, PG_head)))
		return 1;
#if HAVE(folio, _flags_1) && !HAVE(folio, _folio_order)
	return 1 << (FIELD(folio, folio, _flags_1) & 0xff);
#elif HAVE(folio, _folio_order)
	return 1 << FIELD(folio, folio, _folio_order);
#else
	return 1 << PEEK_AS(u8, folio, SIZE(page) + OFFSET(page, compound_order));
#endif
}

#endif
