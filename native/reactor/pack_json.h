/* pack_json.h: a MessagePack value as JSON text, for runtimes that speak JSON alone. Without input or output.
 *
 * What JSON has no word for: binary is base64 text, an extension type and a number that is none are null, a key that is no text is
 * its JSON as text. Bytes that are no UTF-8 become U+FFFD. Text beyond ASCII stays as it is.
 */
#ifndef SCHED_PACK_JSON_H
#define SCHED_PACK_JSON_H

#include <stddef.h>
#include <stdint.h>

/* `in` is one well-formed value (pack_check()). Writes at most `room` bytes; returns how many the whole text has. */
size_t pack_json(const uint8_t *in, size_t bytes, uint8_t *out, size_t room);
/* The inside of a JSON text that says what these bytes do; written and counted in the same way. */
size_t json_quoted(const uint8_t *in, size_t bytes, uint8_t *out, size_t room);

#endif
