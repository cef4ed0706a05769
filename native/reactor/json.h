/* json.h: is it JSON (RFC 8259)? Without input or output.
 *
 * The bytes are a stranger's: nothing is allocated, nothing recursive; depth is bounded.
 */
#ifndef SCHED_JSON_H
#define SCHED_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH_MAX = 512 };

/* true: one JSON value with blanks around it, texts in UTF-8. false: *at is the offset of the first byte that shows it is none
 * (`bytes` where it ends too early). */
bool json_valid(const uint8_t *in, size_t bytes, size_t *at);
/* UTF-8 as RFC 3629 has it. */
bool utf8_valid(const uint8_t *in, size_t bytes);

#endif
