/* trace.h: trace headers as Lambda writes them, without input or output.
 *
 *   Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=1:a87bd80c:0|1:68fd508a:5
 *
 * Lineage has an entry for each function that the chain of calls has been through: a number that is 1, the hash of the function's
 * name, and how often the chain came back to it. It is what tells that a function calls itself, round whatever corners.
 *
 * The bytes are a stranger's. Nothing is allocated; what is found are slices into the caller's buffer.
 */
#ifndef SCHED_TRACE_H
#define SCHED_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TRACE_ENTRIES_MAX = 24,  /* functions of a chain that are remembered: the oldest are forgotten */
    TRACE_VISITS_MAX = 16,   /* of one function, in one chain */
    TRACE_TEXT_MAX = 64 + TRACE_ENTRIES_MAX * 16 + 64, /* of what trace_make() writes */
    TRACE_RANDOM = 20
};

struct trace_ask {
    uint64_t now_s;          /* wall clock: the root's date */
    uint32_t function;       /* hash of its name */
    bool active;             /* the call is a segment of ours: it becomes the Parent */
    bool sample;             /* what to do where nobody has decided */
    uint8_t random[TRACE_RANDOM];
};

struct trace {
    uint32_t size;
    uint32_t visits;         /* of this function, this one included */
    uint64_t parent;         /* that came with it; 0: none */
    bool sampled;
    char text[TRACE_TEXT_MAX];
};

/* `in`: what the caller brought, may be empty; W3C's traceparent is read too. What of it is no trace is made anew. */
void trace_make(const uint8_t *in, size_t bytes, const struct trace_ask *ask, struct trace *out);
/* It has a Lineage: the call is one of a chain. */
bool trace_has_lineage(const uint8_t *in, size_t bytes);
/* Of Root=1-SECONDS-REST and Parent in a header of ours, 32 and 16 digits of hex; false: it has none. */
bool trace_ids(const char *text, size_t bytes, char root[33], char parent[17]);
uint32_t trace_hash(const char *name);

#endif
