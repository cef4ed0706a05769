/* json_walk.h: looks into a JSON text that json_valid() has found to be one. Without memory: everything is a slice of the text.
 *
 * Called with anything else the answers are wrong, and still within the bytes. */
#ifndef SCHED_JSON_WALK_H
#define SCHED_JSON_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_value {
    const uint8_t *at; /* NULL: absent */
    size_t size;       /* without blanks around it */
};

/* The whole text's value. */
struct json_value json_root(const uint8_t *in, size_t bytes);
/* An object's member by its key; of several the last, as other readers have it. Absent too where it is no object. */
struct json_value json_member(struct json_value object, const char *key);
/* The elements of an array, or an object's keys and values in turn; begin with an absent one. Absent: no more. */
struct json_value json_next(struct json_value container, struct json_value before);
bool json_is(struct json_value value, char kind); /* of '{', '[', '"'; '0' for a number */
/* A text, decoded and NUL-terminated: its bytes, or -1: it is no text, has a NUL, or does not fit. */
int json_text(struct json_value value, char *out, size_t room);
/* A whole number of at most `most`; false: it is none. */
bool json_count(struct json_value value, uint64_t most, uint64_t *out);
/* The inside of a JSON text that says the same; NUL-terminated, cut where it does not fit. Bytes. Not ASCII: '?'. */
size_t json_quote(const char *in, char *out, size_t room);

#endif
