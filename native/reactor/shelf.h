/* shelf.h: the memory a sandbox shares with the service, read as channel.md has it. The other side may write at any moment, and
 * anything: it is copied first, and what is copied counts only if nothing was moved meanwhile. No input or output. */
#ifndef SCHED_SHELF_H
#define SCHED_SHELF_H

#include <stdbool.h>
#include <stdint.h>

enum { SHELF_PAGE_BYTES = 32768, SHELF_AT = 64, SHELF_BYTES_MAX = SHELF_PAGE_BYTES - SHELF_AT };

/* Seq of the call that was begun last. */
uint32_t shelf_progress(const volatile uint64_t *page);
/* Copies the frames that lie there to `out` (SHELF_BYTES_MAX); how many bytes. 0 too when the sandbox was just moving them or went
 * on to another call: they are on their way then. *progress: as shelf_progress(), of the same moment. */
uint32_t shelf_read(const volatile uint64_t *page, uint8_t *out, uint32_t *progress);

#endif
