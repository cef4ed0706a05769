/* jsonpush.h: json_valid() for a text that comes in pieces: each byte is looked at once, when it comes.
 *
 * Says yes to the same texts as json.c, whatever the pieces are; fuzz_http.c holds the one against the other. */
#ifndef SCHED_JSONPUSH_H
#define SCHED_JSONPUSH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "json.h"

enum { JSON_PUSH_BAD = 0 }; /* the state that is left by nothing */

struct json_push {
    uint8_t state;
    uint8_t left;       /* of a character's or an escape's bytes */
    uint8_t low, high;  /* between which the next byte of a character is */
    bool key;           /* the text under way is one */
    uint16_t depth;
    const char *word;   /* what must still come of it */
    uint8_t objects[JSON_DEPTH_MAX / 8]; /* by level: an object, not an array */
};

void json_push_begin(struct json_push *push);
/* false: what has come so far begins no JSON text, and never will. */
bool json_push(struct json_push *push, const uint8_t *in, size_t bytes);
/* What has come is one whole JSON text. */
bool json_push_whole(const struct json_push *push);

#endif
