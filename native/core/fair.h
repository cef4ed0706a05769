/* fair.h: an intrusive pairing heap by virtual time, over numbered nodes.
 *
 * Fredman, Sedgewick, Sleator, Tarjan: The pairing heap (1986). Insert and look at the least are O(1), removal is amortised
 * O(log n). No allocation: the links are in the caller's array. Ties go to the lower index, so a run is reproducible.
 */
#ifndef SCHED_FAIR_H
#define SCHED_FAIR_H

#include <stdbool.h>
#include <stdint.h>

#define FAIR_NONE UINT32_MAX

struct fair_node {
    uint64_t vtime;  /* CPU ns * FAIR_SCALE / weight */
    uint32_t child;
    uint32_t sibling;
    uint32_t prev;   /* left sibling, or parent of a first child */
    bool in_heap;
};

struct fair_heap {
    uint32_t root;
    uint32_t count;
};

enum { FAIR_SCALE = 100 }; /* a weight of 100 pays real nanoseconds */

void fair_heap_init(struct fair_heap *heap);
void fair_insert(struct fair_heap *heap, struct fair_node *nodes, uint32_t id);
void fair_remove(struct fair_heap *heap, struct fair_node *nodes, uint32_t id);
const char *fair_check(const struct fair_heap *heap, const struct fair_node *nodes, uint32_t nodes_count);

#endif
